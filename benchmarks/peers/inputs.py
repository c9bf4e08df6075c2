"""The inputs of one cell: fresh random numbers, shared by every contender, and the f64 reference for outputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cells import Cell, Pattern

TORCH_DTYPE = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64}
NUMPY_DTYPE: dict[str, Any] = {"f16": np.float16, "f32": np.float32, "f64": np.float64}
NumpyArray = npt.NDArray[Any]


def random_tensor(rng: np.random.Generator, shape: Sequence[int], scale: float, dtype: str) -> torch.Tensor:
    """Normal numbers in memory that NumPy allocated, rounded to the dtype; PyTorch and NumPy can share it."""
    numbers = rng.standard_normal(tuple(shape), dtype=np.float64 if dtype == "f64" else np.float32)
    numbers *= scale
    if dtype in NUMPY_DTYPE:
        return torch.from_numpy(numbers.astype(NUMPY_DTYPE[dtype], copy=False))
    return torch.from_numpy(numbers).to(TORCH_DTYPE[dtype])


def raw(tensor: torch.Tensor) -> NumpyArray:
    """The bytes of a contiguous tensor as a NumPy array that shares them."""
    return tensor.detach().contiguous().view(torch.uint8).numpy()


class Inputs:
    """X in the cell's layout and the weights (a, b, c, d) of each factor, as tensors and as NumPy views of them.

    What every contender may prepare once and reuse (weights as blocks, the dense matrix) is made on first use.
    """

    def __init__(self, cell: Cell, seed: int | None = None) -> None:
        self.cell = cell
        self.seed = np.random.SeedSequence(seed).entropy
        rng = np.random.default_rng(self.seed)
        shape = (cell.n, cell.cols) if cell.layout == "bsf" else (cell.cols, cell.n)
        self.x = random_tensor(rng, shape, 1.0, cell.dtype)
        self.weights = [random_tensor(rng, p.shape, p.c**-0.5, cell.dtype) for p in cell.chain]
        # The vectors that are checked: some of the batch, both ends included.
        inner = rng.integers(0, max(cell.n, 1), size=12)
        self.checked = torch.from_numpy(np.unique(np.clip([0, *inner, cell.n - 1], 0, None)))

    @property
    def x_numpy(self) -> NumpyArray:
        return self.x.numpy()

    @cached_property
    def blocks(self) -> list[torch.Tensor]:
        """The weights as a·d dense blocks b × c: shape (a, d, b, c), contiguous."""
        return [w.permute(0, 3, 1, 2).contiguous() for w in self.weights]

    @cached_property
    def dense(self) -> torch.Tensor:
        """The product as a dense matrix (rows, columns); of several factors summed in f64 and rounded once."""
        if len(self.cell.chain) == 1:
            return dense_factor(self.weights[0], self.cell.chain[0])
        product = torch.eye(self.cell.cols, dtype=torch.float64)
        return apply_f64(self.cell.chain, self.weights, product).T.contiguous().to(TORCH_DTYPE[self.cell.dtype])

    @cached_property
    def reference(self) -> torch.Tensor:
        """The checked vectors' outputs in f64, shape (checked, rows)."""
        x = self.x[self.checked] if self.cell.layout == "bsf" else self.x[:, self.checked].T
        return apply_f64(self.cell.chain, self.weights, x.double())

    def error(self, y: torch.Tensor | NumpyArray) -> float:
        """Relative Frobenius error of an output in the cell's layout on the checked vectors.

        Infinite where the shape or dtype is another than expected, where an element is left unwritten (NaN), or where
        the output is not contiguous in its layout.
        """
        cell = self.cell
        tensor = torch.from_numpy(y) if isinstance(y, np.ndarray) else y
        shape = (cell.n, cell.rows) if cell.layout == "bsf" else (cell.rows, cell.n)
        if tuple(tensor.shape) != shape or tensor.dtype != TORCH_DTYPE[cell.dtype] or not tensor.is_contiguous():
            return float("inf")
        if not bool(torch.isfinite(tensor.sum(dtype=torch.float64))):
            return float("inf")
        part = tensor[self.checked] if cell.layout == "bsf" else tensor[:, self.checked].T
        return float((part.double() - self.reference).norm() / self.reference.norm())

    def write(self, folder: Path) -> None:
        """Writes x.bin and w0.bin … in chain order, raw, for the kronsparse server."""
        raw(self.x).tofile(folder / "x.bin")
        for at, w in enumerate(self.weights):
            raw(w).tofile(folder / f"w{at}.bin")

    def read_output(self, path: Path) -> torch.Tensor:
        """An output that the server wrote, in the cell's layout."""
        cell = self.cell
        numbers = torch.from_numpy(np.fromfile(path, dtype=np.uint8)).view(TORCH_DTYPE[cell.dtype])
        return numbers.view((cell.n, cell.rows) if cell.layout == "bsf" else (cell.rows, cell.n))


def apply_f64(chain: Sequence[Pattern], weights: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """X Wᵀ in f64 for x of shape (vectors, columns)."""
    for p, w in zip(reversed(chain), reversed(weights), strict=True):
        x = torch.einsum("nacd,abcd->nabd", x.view(-1, p.a, p.c, p.d), w.double()).reshape(-1, p.rows)
    return x


def dense_factor(weights: torch.Tensor, p: Pattern) -> torch.Tensor:
    """The matrix of one factor, entry by entry of its definition."""
    dense = torch.zeros((p.a, p.b, p.d, p.a, p.c, p.d), dtype=weights.dtype)
    i = torch.arange(p.a).view(-1, 1, 1, 1)
    o = torch.arange(p.b).view(1, -1, 1, 1)
    k = torch.arange(p.c).view(1, 1, -1, 1)
    j = torch.arange(p.d).view(1, 1, 1, -1)
    dense[i, o, j, i, k, j] = weights
    return dense.view(p.rows, p.cols)
