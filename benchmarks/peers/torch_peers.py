"""Peers that use PyTorch on the CPU (permute + bmm, einsum, strided bmm, dense), and lazylinop on either library."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from cells import Pattern
from inputs import Inputs
from numpy_peers import Buffers, Step, viewable

with warnings.catch_warnings(record=True):  # it names the optional packages that it does without, whatever the filters
    from lazylinop.butterfly import ksm


def bmm(inputs: Inputs, at: int, buffers: Buffers | None) -> Step:
    """Permute X into a·d contiguous blocks, one batched product, permute back."""
    p, n = inputs.cell.chain[at], inputs.cell.n
    blocks = inputs.blocks[at].view(p.a * p.d, p.b, p.c)
    if inputs.cell.layout == "bsf":
        blocks_t = blocks.transpose(1, 2)
        if buffers is None:
            return lambda x: (
                torch.bmm(_lanes(x, p).reshape(p.a * p.d, n, p.c), blocks_t)
                .view(p.a, p.d, n, p.b)
                .permute(2, 0, 3, 1)
                .reshape(n, p.rows)
            )
        shapes = (p.a, p.d, n, p.c), (p.a * p.d, n, p.b), (n, p.a, p.b, p.d)
    else:
        if buffers is None:
            return lambda x: (
                torch.bmm(blocks, _rows(x, p).reshape(p.a * p.d, p.c, n))
                .view(p.a, p.d, p.b, n)
                .transpose(1, 2)
                .reshape(p.rows, n)
            )
        shapes = (p.a, p.d, p.c, n), (p.a * p.d, p.b, n), (p.a, p.b, p.d, n)
    gathered, product, y = (torch.empty(shape, dtype=blocks.dtype) for shape in shapes)
    buffers += [gathered, product, y]

    def first(x: torch.Tensor) -> torch.Tensor:
        gathered.copy_(_lanes(x, p))
        torch.bmm(gathered.view(p.a * p.d, n, p.c), blocks_t, out=product)
        y.copy_(product.view(p.a, p.d, n, p.b).permute(2, 0, 3, 1))
        return y.view(n, p.rows)

    def last(x: torch.Tensor) -> torch.Tensor:
        gathered.copy_(_rows(x, p))
        torch.bmm(blocks, gathered.view(p.a * p.d, p.c, n), out=product)
        y.copy_(product.view(p.a, p.d, p.b, n).transpose(1, 2))
        return y.view(p.rows, n)

    return first if inputs.cell.layout == "bsf" else last


def einsum(inputs: Inputs, at: int) -> Step:
    """The index expression; PyTorch turns it into permutations and bmm. It has no `out`."""
    p, n, w = inputs.cell.chain[at], inputs.cell.n, inputs.weights[at]
    if inputs.cell.layout == "bsf":
        return lambda x: torch.einsum("nacd,abcd->nabd", x.view(n, p.a, p.c, p.d), w).reshape(n, p.rows)
    return lambda x: torch.einsum("acdn,abcd->abdn", x.view(p.a, p.c, p.d, n), w).reshape(p.rows, n)


def strided(inputs: Inputs, at: int, buffers: Buffers | None) -> Step:
    """bmm on views into the output: leading dimensions do the permutation. Batch-last, or d = 1.

    bmm has one batch dimension, so batch-last with a > 1 and d > 1 is a loop over the super-blocks. A factor of a chain
    for which there are no such views is multiplied by `bmm` with copies.
    """
    if not viewable(inputs.cell, at):
        return bmm(inputs, at, buffers)
    p, n = inputs.cell.chain[at], inputs.cell.n
    blocks = inputs.blocks[at]
    kept = None if buffers is None else torch.empty(n * p.rows, dtype=blocks.dtype)
    if buffers is not None:
        buffers.append(kept)

    def out() -> torch.Tensor:
        return torch.empty(n * p.rows, dtype=blocks.dtype) if kept is None else kept

    def first(x: torch.Tensor) -> torch.Tensor:
        y = out().view(n, p.a, p.b)
        weights = blocks.view(p.a, p.b, p.c).transpose(1, 2)
        torch.bmm(x.view(n, p.a, p.c).transpose(0, 1), weights, out=y.transpose(0, 1))
        return y.view(n, p.rows)

    def last(x: torch.Tensor) -> torch.Tensor:
        y = out()
        if p.d == 1:
            torch.bmm(blocks.view(p.a, p.b, p.c), x.view(p.a, p.c, n), out=y.view(p.a, p.b, n))
        else:
            lanes, outputs = x.view(p.a, p.c, p.d, n).transpose(1, 2), y.view(p.a, p.b, p.d, n).transpose(1, 2)
            for i in range(p.a):
                torch.bmm(blocks[i], lanes[i], out=outputs[i])
        return y.view(p.rows, n)

    return first if inputs.cell.layout == "bsf" else last


def dense(inputs: Inputs, buffers: Buffers | None) -> Step:
    """One product by the whole matrix, zeros included."""
    matrix, cell = inputs.dense, inputs.cell
    if buffers is None:
        if cell.layout == "bsf":
            return lambda x: torch.nn.functional.linear(x, matrix)
        return lambda x: torch.mm(matrix, x)
    y = torch.empty((cell.n, cell.rows) if cell.layout == "bsf" else (cell.rows, cell.n), dtype=matrix.dtype)
    buffers.append(y)
    if cell.layout == "bsf":
        return lambda x: torch.mm(x, matrix.T, out=y)
    return lambda x: torch.mm(matrix, x, out=y)


def lazylinop(inputs: Inputs, library: str) -> Step:
    """lazylinop's `ksm` of the whole chain, backend `xp`. It is batch-last only; batch-first is two transpositions."""
    first = inputs.cell.layout == "bsf"
    if library == "numpy":
        operator: Any = ksm([w.numpy() for w in inputs.weights], ksm_args={"backend": "xp", "params": None})
        return (lambda x: np.ascontiguousarray((operator @ x.T).T)) if first else (lambda x: operator @ x)
    operator = ksm(list(inputs.weights), ksm_args={"backend": "xp", "params": None})
    return (lambda x: (operator @ x.T).T.contiguous()) if first else (lambda x: operator @ x)


def _lanes(x: torch.Tensor, p: Pattern) -> torch.Tensor:
    """Batch-first X (n, a·c·d) seen as (a, d, n, c)."""
    return x.view(-1, p.a, p.c, p.d).permute(1, 3, 0, 2)


def _rows(x: torch.Tensor, p: Pattern) -> torch.Tensor:
    """Batch-last X (a·c·d, n) seen as (a, d, c, n)."""
    return x.view(p.a, p.c, p.d, -1).transpose(1, 2)
