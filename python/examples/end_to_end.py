"""ViT-S/16, GPT-2 medium, a Llama-shaped gated MLP: a forward's time and energy with ``nn.Linear`` and ``KSLinear``.

    python python/examples/end_to_end.py --dtypes f32,f16 --modes eager,graph --out times.csv
    python python/examples/end_to_end.py --models llama_mlp --dtypes f16 --modes graph --tune tuning.txt
    python python/examples/end_to_end.py --tiny --device cpu --dtypes f32 --modes eager --check

Random weights. The models are plain PyTorch (``models.py``); nothing of them changes but the linear layers of their
blocks; ``ks_gated`` is the gated MLP as ``KSGatedMLP``, its gate and up layers in one multiplication. With ``--tune``
layers multiply in the way that is measured to be the fastest, which is kept in that file. One line per model, input,
dtype, kind of layer and mode: milliseconds are the median, least and most of single forwards (by CUDA events), joules
those of forwards repeated without pause, idle power included. ``graph`` is a CUDA graph of the forward; ``compile`` is
``torch.compile``. Matrix products in f32 are exact ones, not TF32.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence

import torch
from kronsparse.torch import KSGatedMLP, tune
from measuring import captured, joules, machine, meter_of, times
from models import Case, cases, dense_twin, sparsify
from torch import Tensor, nn

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
COLUMNS = "model case dtype linear mode milliseconds parameters minimum_ms maximum_ms joules".split()
#: Relative Frobenius errors of a whole model against the same one with dense matrices in the same dtype.
CLOSE = {"f32": 1e-4, "f16": 2e-2, "bf16": 1e-1}


def way(model: nn.Module, x: Tensor, mode: str) -> Callable[[], object]:
    """A forward in a mode."""
    if mode == "graph":
        return captured(lambda: model(x))
    if mode == "compile":
        compiled = torch.compile(model)
        return lambda: compiled(x)
    return lambda: model(x)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """By Frobenius norms, in float64."""
    found, expected = found.double(), expected.double()
    return ((found - expected).norm() / expected.norm()).item()


def check(model: nn.Module, x: Tensor, dtype: str) -> float:
    """The error of a sparse model against its dense twin; SystemExit if it is too large."""
    error = relative_error(model(x), dense_twin(model)(x))
    if not error < CLOSE[dtype]:
        raise SystemExit(
            f"the model with KSLinear differs from its dense twin by {error:.1e}, {CLOSE[dtype]:.0e} allowed"
        )
    return error


def run(case: Case, dtype: str, modes: Sequence[str], options: argparse.Namespace, write: Callable) -> None:
    """Times one case with both kinds of layers."""
    for linear in options.linear.split(","):
        if linear == "ks_gated" and case.model != "llama_mlp":
            continue
        with torch.device(options.device):
            model = case.make().to(DTYPES[dtype]).eval()
            x = case.data(DTYPES[dtype])
        if linear != "dense":
            sparsify(model)
            if linear == "ks_gated":
                model = KSGatedMLP.from_layers(model.gate, model.up, model.down).eval()
            if options.tune:
                tune(model, x, caches="warm", store=options.tune)
            if options.check:
                print(f"{case.model}, {case.name}, {dtype}: error {check(model, x, dtype):.1e}", file=sys.stderr)
        parameters = sum(p.numel() for p in model.parameters())
        for mode in modes:
            call = way(model, x, mode)
            found = times(call, x.device, options.repeats)
            median = found[len(found) // 2]
            energy = None
            if options.meter is not None and mode in options.joules.split(","):
                energy = joules(call, options.meter, median)
            row = [case.model, case.name, dtype, linear, mode, f"{median:.4f}", parameters]
            write([*row, f"{found[0]:.4f}", f"{found[-1]:.4f}", "" if energy is None else f"{energy:.6g}"])
            del call
        del model
        if x.is_cuda:
            torch.cuda.empty_cache()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="vit_s16,gpt2_medium,llama_mlp")
    parser.add_argument("--dtypes", default="f32,f16", help="of f32, f16, bf16")
    parser.add_argument("--linear", default="dense,kronsparse,ks_gated", help="of dense, kronsparse, ks_gated")
    parser.add_argument("--tune", help="a file of tuning records, made where it is missing")
    parser.add_argument("--modes", default="eager,graph", help="of eager, graph, compile")
    parser.add_argument("--joules", default="graph", help="modes whose energy is counted, a second each; or none")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="models that take milliseconds on a CPU")
    parser.add_argument(
        "--check", action="store_true", help="compare with dense layers of the same matrices, which is slow"
    )
    parser.add_argument("--commit", help="of kronsparse; otherwise git is asked")
    parser.add_argument("--out", help="a CSV file; otherwise standard output")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    options.meter, why = meter_of(device)
    if options.meter is None and options.joules != "none":
        print(f"no energy: {why}", file=sys.stderr)
    modes = options.modes.split(",")
    if device.type != "cuda" and "graph" in modes:
        print(f"mode graph is left out: {device} has no CUDA graphs", file=sys.stderr)
        modes.remove("graph")
    torch.backends.cuda.matmul.allow_tf32 = False
    where = machine(device, options.meter, options.commit)
    chosen = [case for case in cases(options.tiny) if case.model in options.models.split(",")]
    if not chosen:
        parser.error(f"--models: expected some of vit_s16, gpt2_medium, llama_mlp, found {options.models!r}")
    file = open(options.out, "w", newline="") if options.out else sys.stdout  # noqa: SIM115
    table = csv.writer(file)
    table.writerow([*COLUMNS, *where])

    def write(row: list[object]) -> None:
        table.writerow([*row, *where.values()])
        file.flush()

    with torch.no_grad():
        for dtype in options.dtypes.split(","):
            for case in chosen:
                run(case, dtype, modes, options, write)
    if options.out:
        file.close()


if __name__ == "__main__":
    main()
