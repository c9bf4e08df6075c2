"""Fast transforms as exact chains: Walsh–Hadamard, Fourier, cosine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import _kronsparse
from ._chain import Chain
from ._types import Array, DTypeLike


@dataclass(frozen=True)
class Transform:
    """A matrix ``W = C P``: a permutation of the input (``(P x)[i] = x[source[i]]``), then a chain."""

    chain: Chain
    source: Array

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, cols)``."""
        return self.chain.shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The element type."""
        return self.chain.dtype

    def apply(self, x: Array) -> Array:
        """Transforms each vector along the last axis of ``x``."""
        x = np.asarray(x)
        if x.ndim == 0 or x.shape[-1] != len(self.source):
            raise ValueError(f"x: expected a shape (…, {len(self.source)}), found {x.shape}")
        return self.chain.apply(x[..., self.source])

    def __matmul__(self, x: Array) -> Array:
        if not isinstance(x, np.ndarray):
            return NotImplemented
        axis = 0 if x.ndim <= 1 else x.ndim - 2
        if x.ndim == 0 or x.shape[axis] != len(self.source):
            raise ValueError(f"x: expected {len(self.source)} along axis {axis}, found shape {x.shape}")
        return self.chain @ np.take(x, self.source, axis=axis)

    def __array__(self, dtype: DTypeLike | None = None, *, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a transform has no dense array to share: np.asarray makes one")
        dense = np.empty_like(chain := self.chain.to_dense())
        dense[:, self.source] = chain
        return dense if dtype is None else dense.astype(dtype, copy=False)


def hadamard(n: int, dtype: DTypeLike = np.float32, *, orthonormal: bool = False) -> Chain:
    """The Walsh–Hadamard matrix ``H[i, k] = (−1)^popcount(i & k)``, ``n`` a power of two; or over ``√n``."""
    weights, _ = _kronsparse.fast_transform("hadamard", n, _name(dtype), orthonormal=orthonormal)
    return Chain(weights, copy=False)


def dft(n: int, dtype: DTypeLike = np.complex64, *, orthonormal: bool = False) -> Transform:
    """The Fourier matrix ``F[k, t] = exp(−2πi·k·t/n)``, ``n`` a power of two, complex dtypes; or over ``√n``."""
    return _transform("dft", n, dtype, orthonormal)


def dct2(n: int, dtype: DTypeLike = np.float32, *, orthonormal: bool = False) -> Transform:
    """The cosine transform of type II, ``C[k, t] = cos(π·k·(2t + 1) / 2n)``, ``n`` a power of two; or orthonormal."""
    return _transform("dct2", n, dtype, orthonormal)


def _transform(name: str, n: int, dtype: DTypeLike, orthonormal: bool) -> Transform:
    weights, source = _kronsparse.fast_transform(name, n, _name(dtype), orthonormal=orthonormal)
    return Transform(Chain(weights, copy=False), np.array(source, dtype=np.intp))


def _name(dtype: DTypeLike) -> str:
    return np.dtype(dtype).name
