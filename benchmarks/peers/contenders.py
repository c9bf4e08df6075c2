"""The table of contenders: which ways of multiplying take part in a cell, and why one does not.

Every peer that has an `out` argument takes part twice: allocating its result as most code does, and (`_out`) with
output and work arrays made beforehand. What depends on the weights alone (blocks, dense matrix, CSR) is made before the
clock starts, as kronsparse packs its weights. torch.compile does not take part: its compilation takes seconds to
minutes a shape, and on a CPU it lowers the expression to the same bmm with the same copies.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np
import torch

import numpy_peers
import torch_peers
from inputs import Inputs
from numpy_peers import Buffers, Step
from server import Kronsparse, Server
from timing import Candidate, Contender

DENSE_LIMIT_BYTES = 256 << 20
CSR_LIMIT_FLOPS = 1e9


class Peer:
    """A peer ready to run: its steps in the order of application, and its input in the library's own array type."""

    def __init__(self, inputs: Inputs, x: Any, steps: list[Step], buffers: Buffers) -> None:
        self.inputs, self.x, self.steps, self.buffers = inputs, x, steps, buffers
        self.tolerance = inputs.cell.peer_tolerance()

    def check(self) -> float:
        for buffer in self.buffers:
            buffer.fill(np.nan) if isinstance(buffer, np.ndarray) else buffer.fill_(torch.nan)
        with torch.inference_mode():
            return self.inputs.error(reduce(lambda x, step: step(x), self.steps, self.x))

    def sample(self, calls: int) -> float:
        x, steps = self.x, self.steps
        with torch.inference_mode():
            start = time.perf_counter()
            for _ in range(calls):
                y = x
                for step in steps:
                    y = step(y)
            return time.perf_counter() - start

    def close(self) -> None:
        self.steps.clear()
        self.buffers.clear()


def candidates(
    inputs: Inputs, server: Server | None, algorithms: list[str], peak_flops: float, wanted: list[str] | None
) -> list[Candidate]:
    """The candidates of a cell, likely fast ones first; `wanted` names those to keep (None: all)."""
    cell = inputs.cell
    numpy_cannot = "" if cell.dtype in ("f32", "f64") else f"NumPy has no {cell.dtype} BLAS"
    some_viewable = any(numpy_peers.viewable(cell, at) for at in range(len(cell.chain)))
    not_strided = "" if some_viewable else "batch-first views with d > 1 are not contiguous"
    not_dense = "" if cell.dense_bytes <= DENSE_LIMIT_BYTES else f"the dense matrix has {cell.dense_bytes >> 20} MiB"
    not_csr = "" if cell.flops <= CSR_LIMIT_FLOPS else f"{cell.flops:.2g} FLOP are too many"
    factors = range(len(cell.chain) - 1, -1, -1)
    found: list[Candidate] = []

    def add(name: str, build: Callable[[Buffers], list[Step]], excluded: str, floor_s: float = 0.0) -> None:
        def open_peer() -> Contender:
            buffers: Buffers = []
            x = inputs.x if name.startswith(("t_", "lz_torch")) else inputs.x_numpy
            return Peer(inputs, x, build(buffers), buffers)

        found.append(Candidate(name, open_peer, floor_s=floor_s, excluded=excluded))

    def both(name: str, step: Callable[..., Step], excluded: str) -> None:
        add(f"{name}_out", lambda buffers: [step(inputs, at, buffers) for at in factors], excluded)
        add(name, lambda buffers: [step(inputs, at, None) for at in factors], excluded)

    both("t_strided", torch_peers.strided, not_strided)
    both("np_strided", numpy_peers.strided, not_strided or numpy_cannot)
    both("t_bmm", torch_peers.bmm, "")
    both("np_bmm", numpy_peers.bmm, numpy_cannot)
    add("t_einsum", lambda buffers: [torch_peers.einsum(inputs, at) for at in factors], "")
    both("np_einsum", numpy_peers.einsum, numpy_cannot)
    add("lz_torch", lambda buffers: [torch_peers.lazylinop(inputs, "torch")], "")
    add("lz_numpy", lambda buffers: [torch_peers.lazylinop(inputs, "numpy")], numpy_cannot)
    # The peak may have been measured beside busy neighbours: half as much again is surely out of reach.
    floor_s = cell.dense_flops / (1.5 * peak_flops)
    add("t_dense_out", lambda buffers: [torch_peers.dense(inputs, buffers)], not_dense, floor_s)
    add("t_dense", lambda buffers: [torch_peers.dense(inputs, None)], not_dense, floor_s)
    add("np_dense_out", lambda buffers: [numpy_peers.dense(inputs, buffers)], not_dense or numpy_cannot, floor_s)
    add("np_dense", lambda buffers: [numpy_peers.dense(inputs, None)], not_dense or numpy_cannot, floor_s)
    add("sp_csr", lambda buffers: [numpy_peers.csr(inputs, at) for at in factors], not_csr or numpy_cannot)
    if wanted is not None:
        found = [c for c in found if c.name in wanted]
    return found + ([] if server is None else ours(inputs, server, algorithms))


def ours(inputs: Inputs, server: Server, algorithms: list[str]) -> list[Candidate]:
    """kronsparse: the planner's choice is called `kronsparse`, a forced algorithm is named after it."""
    modes = ["whole"] if len(inputs.cell.chain) == 1 else ["whole", "factors"]
    found = []
    for mode in modes:
        for algorithm in algorithms:
            suffixes = (
                ["kronsparse"] + ([mode] if mode != "whole" else []) + ([algorithm] if algorithm != "auto" else [])
            )
            name = "_".join(suffixes)
            opener = partial(Kronsparse, server, inputs, name, mode, algorithm)
            found.append(Candidate(name, opener, ours=True))
    return found
