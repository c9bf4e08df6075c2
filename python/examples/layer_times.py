"""``KSLinear`` against ``nn.Linear``, layer by layer: forward, host time of a call, training step.

    python python/examples/layer_times.py --out layers.csv
    python python/examples/layer_times.py --device cpu --tiny

One line per layer, dtype, number of vectors and kind of layer. ``forward_us`` is the median of a forward (on a GPU in a
CUDA graph, with warm caches; for few vectors the graph has ten forwards), ``host_us`` what a forward without gradients
takes of the host's time (only for few vectors, where the GPU's queue never fills), ``step_us`` a training step among
others that follow without a pause: forward, gradients of input and parameters, AdamW, and ``graph_step_us`` such a step
in a CUDA graph, in which none waits for the host. ``error`` is that of the layer's output (of a trained one: or of the
input's gradient) against its dense matrix, relative, by Frobenius norms: the layer is wrong, and the program ends,
where it is too large. Matrix products in f32 are exact ones, not TF32.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence

import torch
from kronsparse.torch import KSLinear, set_cuda_training
from measuring import captured, host_microseconds, machine, meter_of, times
from torch import nn

#: out_features, in_features, chain.
LAYERS = [
    (4096, 4096, "(1,64,64,64)(64,64,64,1)"),
    (1536, 384, "(1,768,192,2)(6,64,64,1)"),
    (384, 1536, "(1,128,128,3)(6,64,256,1)"),
    (384, 384, "(1,192,48,2)(2,48,192,1)"),
    (1024, 1024, "(1,256,64,4)(4,64,256,1)"),
]
TINY = [(96, 64, "(1,8,4,12)(4,12,16,1)")]
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
#: Largest relative errors of a product of two factors.
CLOSE = {"f32": 1e-5, "f16": 4e-3, "bf16": 3e-2}
COLUMNS = "linear out_features in_features chain dtype n forward_us host_us step_us graph_step_us error".split()
#: Up to so many vectors a forward waits for the host, not for the GPU.
FEW = 64


#: Steps, and forwards of few vectors, that are timed together.
STEPS = FORWARDS = 10


def error_of(layer: nn.Module, matrix: torch.Tensor, x: torch.Tensor, trains: bool) -> float:
    """Against float64, on the first and the last 2048 vectors; where it trains, that of the input's gradient too."""
    chosen = torch.arange(len(x))
    chosen = chosen[(chosen < 2048) | (chosen >= len(x) - 2048)].to(x.device)

    def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
        return ((found.double() - expected).norm() / expected.norm()).item()

    with torch.set_grad_enabled(trains):
        x = x.detach().requires_grad_(trains)
        y = layer(x)
        known = nn.functional.linear(x[chosen].detach().double(), matrix.double(), layer.bias.detach().double())
        error = difference(y.detach()[chosen], known)
        if trains:
            gradient = torch.randn_like(y)
            y.backward(gradient)
            error = max(error, difference(x.grad[chosen], gradient[chosen].double() @ matrix.double()))
            layer.zero_grad()
    return error


def steps_of(layer: nn.Module, x: torch.Tensor, in_graph: bool) -> Callable[[], None]:
    """``STEPS`` training steps on fixed numbers; one that is captured, and repeated, ``in_graph``."""
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-4, capturable=in_graph)
    x = x.detach().requires_grad_()
    gradient = torch.randn(len(x), layer.out_features, device=x.device, dtype=x.dtype)

    def step() -> None:
        optimizer.zero_grad()
        x.grad = None
        layer(x).backward(gradient)
        optimizer.step()

    once = captured(step) if in_graph else step

    def steps() -> None:
        for _ in range(STEPS):
            once()

    return steps


def measure(layer: nn.Module, x: torch.Tensor, options: argparse.Namespace, trains: bool) -> list[str]:
    """Forward, host time, training step."""
    few = x.is_cuda and len(x) <= FEW
    several = FORWARDS if few else 1
    with torch.no_grad():
        call = captured(lambda: layer(x), several) if x.is_cuda else lambda: layer(x)
        found = times(call, x.device, options.repeats)
        host = f"{host_microseconds(lambda: layer(x), x.device):.2f}" if few else ""
    steps = []
    for in_graph in (False, True):
        if trains and (x.is_cuda or not in_graph):
            repeated = times(steps_of(layer, x, in_graph), x.device, options.repeats)
            steps.append(f"{1e3 * repeated[len(repeated) // 2] / STEPS:.2f}")
        else:
            steps.append("")
    return [f"{1e3 * found[len(found) // 2] / several:.2f}", host, *steps]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures all layers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", default="f16,f32")
    parser.add_argument("--vectors", default="1,16,1024,25088", help="numbers of vectors of the forwards")
    parser.add_argument("--train-dtypes", default="bf16", help="of the training steps, or none")
    parser.add_argument("--train-vectors", default="8192")
    parser.add_argument("--train-way", default="torch", help="torch or engine: see kronsparse.torch.set_cuda_training")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="a layer that takes microseconds on a CPU")
    parser.add_argument("--commit", help="of kronsparse; otherwise git is asked")
    parser.add_argument("--out", help="a CSV file; otherwise standard output")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    torch.backends.cuda.matmul.allow_tf32 = False
    if device.type != "cuda":
        print(f"no host times: on {device} a call takes as long as its work", file=sys.stderr)
    set_cuda_training(options.train_way)
    where = machine(device, meter_of(device)[0], options.commit)
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    work = [(dtype, numbers(options.vectors), False) for dtype in options.dtypes.split(",")]
    if options.train_dtypes != "none":
        work += [(dtype, numbers(options.train_vectors), True) for dtype in options.train_dtypes.split(",")]
    file = open(options.out, "w", newline="") if options.out else sys.stdout  # noqa: SIM115
    table = csv.writer(file)
    table.writerow([*COLUMNS, *where])
    for rows, cols, chain in TINY if options.tiny else LAYERS:
        for dtype, vectors, trains in work:
            factory = {"device": device, "dtype": DTYPES[dtype]}
            sparse, dense = KSLinear(cols, rows, chain, **factory), nn.Linear(cols, rows, **factory)
            matrix = sparse.to_dense()
            for n in vectors:
                x = torch.randn(n, cols, **factory)
                error = error_of(sparse, matrix, x, trains)
                if not error < CLOSE[dtype]:
                    raise SystemExit(f"{chain} {dtype} n={n}: error {error:.1e}, {CLOSE[dtype]:.0e} allowed")
                for name, layer, column in (("kronsparse", sparse, f"{error:.1e}"), ("dense", dense, "")):
                    measured = measure(layer, x, options, trains)
                    text = chain if layer is sparse else ""
                    table.writerow([name, rows, cols, text, dtype, n, *measured, column, *where.values()])
                    file.flush()
                if trains:
                    # The steps have changed the weights.
                    matrix = sparse.to_dense()
    set_cuda_training("torch")
    if options.out:
        file.close()


if __name__ == "__main__":
    main()
