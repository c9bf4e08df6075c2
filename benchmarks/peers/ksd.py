"""Dense matrix to chain: lazylinop's `ksd` on NumPy and on PyTorch against kronsparse's `factorize`, time and accuracy.

    python3 ksd.py 4096 monarch:64,64 [--dtype f32] [--order l2r] [--threads 1]

lazylinop factorizes one fresh random matrix (uniform in [-1, 1)), kronsparse another one of the same kind that its own
example `factorize_speed` makes: matrices without structure have errors that agree to about four digits. Best of three
runs for all, as the example prints its best. Errors are relative Frobenius errors, lazylinop's computed in f64 from its
factors.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import machine
from cells import Pattern, parse_chain


def named_chain(text: str, size: int) -> tuple[Pattern, ...]:
    """`monarch:p,q`, `square-dyadic` or an explicit chain, for a size × size matrix; left to right."""
    if text == "square-dyadic":
        stages = size.bit_length() - 1
        if size < 2 or size != 1 << stages:
            raise ValueError(f"square-dyadic: size {size} is no power of two")
        return tuple(Pattern(1 << at, 2, 2, size >> (at + 1)) for at in range(stages))
    monarch = re.fullmatch(r"monarch:(\d+),(\d+)", text)
    if monarch is None:
        chain = parse_chain(text)
    else:
        p, q = int(monarch[1]), int(monarch[2])
        if p < 1 or q < 1 or size % p or size % q:
            raise ValueError(f"{text}: {p} and {q} must divide {size}")
        chain = (Pattern(1, p, q, size // p), Pattern(q, size // p, size // q, 1))
    if (chain[0].rows, chain[-1].cols) != (size, size):
        raise ValueError(f"{text} is a chain for {chain[0].rows} x {chain[-1].cols}, expected {size} x {size}")
    for left, right in pairwise(chain):
        if left.cols != right.rows:
            raise ValueError(f"{left}{right} do not multiply: {left.cols} columns against {right.rows} rows")
    return chain


def read_example(output: str) -> tuple[float, float]:
    """Seconds and relative error from what `factorize_speed` prints: `…: 1.234 s, relative error 0.97…`."""
    match = re.search(r": ([0-9.eE+-]+) s, relative error ([0-9.eE+-]+)", output)
    if match is None:
        raise ValueError(f"factorize_speed printed neither seconds nor a relative error: {output.strip()[:200]}")
    return float(match[1]), float(match[2])


def lazylinop_ksd(library: str, dtype: str, order: str, chain: tuple[Pattern, ...], runs: int) -> tuple[float, float]:
    """Best seconds of lazylinop's `ksd` and the relative error of its last result."""
    import numpy as np
    import torch
    from lazylinop.butterfly import Chain, ksd

    from inputs import apply_f64

    size = chain[0].rows
    numbers = (
        np.random.default_rng().uniform(-1.0, 1.0, (size, size)).astype(np.float32 if dtype == "f32" else np.float64)
    )
    matrix = numbers if library == "numpy" else torch.from_numpy(numbers)
    patterns = Chain([p.shape for p in chain])
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        result = ksd(matrix, patterns, order=order)
        best = min(best, time.perf_counter() - start)
    weights = [torch.as_tensor(w).contiguous() for w in result.ks_values]
    product = apply_f64(chain, weights, torch.eye(size, dtype=torch.float64)).T
    exact = torch.from_numpy(numbers).double()
    return best, float((product - exact).norm() / exact.norm())


def kronsparse_factorize(
    program: Path, size: int, chain: str, dtype: str, order: str, threads: int
) -> tuple[float, float]:
    """Seconds and error of the library's example, in a process of its own."""
    command = [str(program), str(size), chain, dtype, order, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()[:500]}")
    return read_example(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", type=int, nargs="?", default=4096)
    parser.add_argument("chain", nargs="?", default="monarch:64,64")
    parser.add_argument("--dtype", choices=("f32", "f64"), default="f32")
    parser.add_argument("--order", choices=("l2r", "balanced"), default="l2r")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3, help="runs of lazylinop, the best counts (default 3)")
    parser.add_argument(
        "--kronsparse", metavar="PATH|none", help="the factorize_speed program (default: built with cargo)"
    )
    args = parser.parse_args()
    try:
        chain = named_chain(args.chain, args.size)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    machine.settle(args.threads, "huge", None)
    import torch_peers  # noqa: F401  (before lazylinop: silences the notes of its import)
    from server import build_example

    machine.limit_torch(args.threads)
    print(f"{args.size} x {args.size} {args.dtype} into {args.chain}, {args.order}, threads: {args.threads}")
    print(f"{machine.cpu_name()}, load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    found: dict[str, tuple[float, float]] = {}
    for library in ("numpy", "torch"):
        found[f"lazylinop {library}"] = lazylinop_ksd(library, args.dtype, args.order, chain, args.runs)
    if args.kronsparse != "none":
        program = Path(args.kronsparse) if args.kronsparse else build_example("factorize_speed")
        found["kronsparse"] = kronsparse_factorize(program, args.size, args.chain, args.dtype, args.order, args.threads)
    for name, (seconds, distance) in found.items():
        print(f"{name:16} {seconds:9.3f} s   relative error {distance:.9g}")
    if "kronsparse" in found:
        best = min(found["lazylinop numpy"][0], found["lazylinop torch"][0])
        print(f"kronsparse is {best / found['kronsparse'][0]:.2f} times as fast as the better lazylinop")
    return 0


if __name__ == "__main__":
    sys.exit(main())
