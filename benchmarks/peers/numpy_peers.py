"""Peers without PyTorch: NumPy (permute + matmul, einsum, strided matmul, dense) and SciPy's CSR."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse

from cells import Cell, Pattern
from inputs import Inputs, NumpyArray

# One factor's product: an array in the cell's layout to an array in the cell's layout.
Step = Callable[[Any], Any]
# Output and work arrays that a step reuses from call to call; they are poisoned before the check.
Buffers = list[Any]


def bmm(inputs: Inputs, at: int, buffers: Buffers | None) -> Step:
    """Permute X into a·d contiguous blocks, one batched product, permute back."""
    p, n = inputs.cell.chain[at], inputs.cell.n
    blocks = inputs.blocks[at].numpy()
    if inputs.cell.layout == "bsf":
        blocks_t = blocks.transpose(0, 1, 3, 2)
        if buffers is None:
            return lambda x: np.ascontiguousarray(
                np.matmul(np.ascontiguousarray(_lanes(x, p)), blocks_t).transpose(2, 0, 3, 1)
            ).reshape(n, p.rows)
        shapes = (p.a, p.d, n, p.c), (p.a, p.d, n, p.b), (n, p.a, p.b, p.d)
    else:
        if buffers is None:
            return lambda x: (
                np.matmul(blocks, np.ascontiguousarray(_rows(x, p))).transpose(0, 2, 1, 3).reshape(p.rows, n)
            )
        shapes = (p.a, p.d, p.c, n), (p.a, p.d, p.b, n), (p.a, p.b, p.d, n)
    gathered, product, y = (np.empty(shape, blocks.dtype) for shape in shapes)
    buffers += [gathered, product, y]

    def first(x: NumpyArray) -> NumpyArray:
        np.copyto(gathered, _lanes(x, p))
        np.matmul(gathered, blocks_t, out=product)
        np.copyto(y, product.transpose(2, 0, 3, 1))
        return y.reshape(n, p.rows)

    def last(x: NumpyArray) -> NumpyArray:
        np.copyto(gathered, _rows(x, p))
        np.matmul(blocks, gathered, out=product)
        np.copyto(y, product.transpose(0, 2, 1, 3))
        return y.reshape(p.rows, n)

    return first if inputs.cell.layout == "bsf" else last


def einsum(inputs: Inputs, at: int, buffers: Buffers | None) -> Step:
    """The index expression; `optimize` lets NumPy turn it into batched products."""
    p, n, w = inputs.cell.chain[at], inputs.cell.n, inputs.weights[at].numpy()
    if inputs.cell.layout == "bsf":
        expression, into, out, flat = "nacd,abcd->nabd", (n, p.a, p.c, p.d), (n, p.a, p.b, p.d), (n, p.rows)
    else:
        expression, into, out, flat = "acdn,abcd->abdn", (p.a, p.c, p.d, n), (p.a, p.b, p.d, n), (p.rows, n)
    if buffers is None:
        return lambda x: np.ascontiguousarray(np.einsum(expression, x.reshape(into), w, optimize=True)).reshape(flat)
    y = np.empty(out, w.dtype)
    buffers.append(y)
    return lambda x: np.einsum(expression, x.reshape(into), w, optimize=True, out=y).reshape(flat)


def strided(inputs: Inputs, at: int, buffers: Buffers | None) -> Step:
    """Batched product on views: leading dimensions do the permutation, nothing is copied. Batch-last, or d = 1.

    A factor of a chain for which that is not possible is multiplied by `bmm`.
    """
    if not viewable(inputs.cell, at):
        return bmm(inputs, at, buffers)
    p, n = inputs.cell.chain[at], inputs.cell.n
    blocks = inputs.blocks[at].numpy()
    kept = None if buffers is None else np.empty(n * p.rows, blocks.dtype)
    if buffers is not None:
        buffers.append(kept)

    def out() -> NumpyArray:
        return np.empty(n * p.rows, blocks.dtype) if kept is None else kept

    def first(x: NumpyArray) -> NumpyArray:
        y = out().reshape(n, p.rows)
        np.matmul(_lanes(x, p), blocks.transpose(0, 1, 3, 2), out=y.reshape(n, p.a, p.b, p.d).transpose(1, 3, 0, 2))
        return y

    def last(x: NumpyArray) -> NumpyArray:
        y = out().reshape(p.rows, n)
        np.matmul(blocks, _rows(x, p), out=y.reshape(p.a, p.b, p.d, n).transpose(0, 2, 1, 3))
        return y

    return first if inputs.cell.layout == "bsf" else last


def viewable(cell: Cell, at: int) -> bool:
    """Whether the innermost dimension of a factor's views is contiguous, as BLAS asks."""
    return cell.layout == "bsl" or cell.chain[at].d == 1


def dense(inputs: Inputs, buffers: Buffers | None) -> Step:
    """One product by the whole matrix, zeros included."""
    matrix, cell = inputs.dense.numpy(), inputs.cell
    if buffers is None:
        return (lambda x: np.matmul(x, matrix.T)) if cell.layout == "bsf" else (lambda x: np.matmul(matrix, x))
    y = np.empty((cell.n, cell.rows) if cell.layout == "bsf" else (cell.rows, cell.n), matrix.dtype)
    buffers.append(y)
    if cell.layout == "bsf":
        return lambda x: np.matmul(x, matrix.T, out=y)
    return lambda x: np.matmul(matrix, x, out=y)


def csr(inputs: Inputs, at: int) -> Step:
    """SciPy's compressed sparse rows times a dense matrix."""
    p, w = inputs.cell.chain[at], inputs.weights[at].numpy()
    i, o, k, j = np.indices(p.shape, dtype=np.int32).reshape(4, -1)
    row, col = (i * p.b + o) * p.d + j, (i * p.c + k) * p.d + j
    matrix = scipy.sparse.csr_array((w.ravel(), (row, col)), shape=(p.rows, p.cols))
    if inputs.cell.layout == "bsf":
        return lambda x: np.ascontiguousarray((matrix @ x.T).T)
    return lambda x: matrix @ x


def _lanes(x: NumpyArray, p: Pattern) -> NumpyArray:
    """Batch-first X (n, a·c·d) seen as (a, d, n, c)."""
    return x.reshape(-1, p.a, p.c, p.d).transpose(1, 3, 0, 2)


def _rows(x: NumpyArray, p: Pattern) -> NumpyArray:
    """Batch-last X (a·c·d, n) seen as (a, d, c, n)."""
    return x.reshape(p.a, p.c, p.d, -1).transpose(0, 2, 1, 3)
