"""kronsparse against what its users would pick instead, on the CPU, in the same run.

For every pattern, layout and dtype: NumPy (permute + matmul, einsum, matmul on views, dense), SciPy CSR, PyTorch
(permute + bmm, einsum, bmm on views, dense) and lazylinop on both libraries, with and without preallocated output, and
kronsparse in a process of its own. Every output is checked against f64 arithmetic on the rounded inputs, on some
vectors of the batch, before anything is timed. Then all contenders are sampled in turn (see timing.py): warm cache,
medians of at least five samples, peers that are far behind dropped early (status `dropped`).

The script restarts itself with the environment that a fair run needs: the thread limits of every library, no forced
OpenBLAS kernel, and huge pages for the arrays of all contenders (NumPy has them by default; `--pages plain` takes them
from all).

    python3 cpu.py --patterns 6,64,64,1;1,128,128,16
    python3 cpu.py --patterns grid.txt --shard 1/37 --out part1.csv       every 37th pattern
    python3 cpu.py --chain "(1,64,64,64)(64,64,64,1)" --batch 256         fused against factor by factor
    python3 summary.py part*.csv
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import machine
from cells import DEFAULT_CHAIN, ITEM_SIZE, LAYOUTS, Cell, parse_chain, parse_choices, parse_shard, read_patterns, shard


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--patterns", metavar="FILE|LIST", help="a,b,c,d one a line, or separated by semicolons")
    what.add_argument(
        "--chain",
        nargs="*",
        metavar="CHAIN",
        help=f"chains, left to right, instead of patterns (default {DEFAULT_CHAIN})",
    )
    parser.add_argument("--batch", type=int, help="vectors (default 2048; 256 with --chain)")
    parser.add_argument("--dtype", default="f32", help="comma-separated: f32, bf16, f64, f16 (default f32)")
    parser.add_argument("--layout", default="bsf,bsl", help="comma-separated: bsf, bsl (default both)")
    parser.add_argument("--threads", type=int, default=1, help="threads of every contender (default 1)")
    parser.add_argument("--cpus", help="pin all processes to these cores, comma-separated")
    parser.add_argument(
        "--pages", choices=("huge", "plain"), default="huge", help="memory of the arrays (default huge)"
    )
    parser.add_argument("--budget-seconds", type=float, default=2.0, help="sampling time of a cell (default 2)")
    parser.add_argument("--min-samples", type=int, default=5, help="samples at least, whatever they take (default 5)")
    parser.add_argument("--max-bytes", type=float, default=2**31, help="skip cells with more bytes in X, Y and weights")
    parser.add_argument("--shard", default="1/1", help="k/n: every n-th pattern from the k-th on")
    parser.add_argument("--contenders", help="comma-separated peers to keep (default all)")
    parser.add_argument("--algorithms", default="auto", help="comma-separated algorithms of kronsparse (default auto)")
    parser.add_argument("--kronsparse", metavar="PATH|none", help="the peer_server program (default: built with cargo)")
    parser.add_argument("--out", type=Path, help="CSV to append to; cells that it already has are not run again")
    parser.add_argument("--seed", type=int, help="seed of all random numbers (default: fresh)")
    return parser.parse_args()


def cells_of(args: argparse.Namespace) -> list[Cell]:
    """The cells that the arguments ask for, those that are too large left out with a word."""
    if args.chain is not None:
        chains = [parse_chain(text) for text in args.chain or [DEFAULT_CHAIN]]
    else:
        chains = [(pattern,) for pattern in shard(read_patterns(args.patterns), *parse_shard(args.shard))]
    n = args.batch if args.batch is not None else 2048 if args.chain is None else 256
    if n < 1 or args.threads < 1 or args.min_samples < 1:
        raise ValueError("--batch, --threads and --min-samples must be at least 1")
    cells = []
    for chain in chains:
        for dtype in parse_choices(args.dtype, tuple(ITEM_SIZE)):
            for layout in parse_choices(args.layout, LAYOUTS):
                cell = Cell(chain, layout, dtype, n)
                if cell.bytes <= args.max_bytes:
                    cells.append(cell)
                else:
                    print(f"# {cell.name} {dtype} {layout}: {cell.bytes / 2**30:.2f} GiB, left out", file=sys.stderr)
    return cells


def main() -> int:
    args = arguments()
    try:
        cells = cells_of(args)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    machine.settle(args.threads, args.pages, args.cpus)
    # Only now: libraries read the environment when they are loaded.
    import run

    machine.limit_torch(args.threads)
    return run.run(args, cells, random.Random(args.seed))


if __name__ == "__main__":
    sys.exit(main())
