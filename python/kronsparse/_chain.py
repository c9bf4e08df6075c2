"""The class of chains: weights as NumPy arrays, multiplied by packed operators that are made once."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from . import _kronsparse
from ._kronsparse import Operator, Pattern
from ._types import Array, DTypeLike, Generator, PatternsLike

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

#: Another one whenever chains have to be packed anew, since other ways of multiplying were measured to be faster.
_generation = object()


def pack_anew() -> None:
    """Makes every chain pack its weights anew at its next multiplication."""
    global _generation
    _generation = object()


class Chain:
    """A product ``W = K_1 K_2 … K_L`` of Kronecker-sparse matrices.

    ``weights`` holds one 4-D array ``(a, b, c, d)`` per factor, left to right: float16, float32, float64, complex64,
    complex128, or bfloat16 (package ml_dtypes), all of one dtype. The arrays are copied, unless ``copy`` is False: then
    those in C order are shared and must not be changed any more.

    ``chain @ X`` and ``chain @ v`` multiply columns (batch-last), ``chain.apply(x)`` multiplies the last axis of ``x``
    (batch-first: ``x @ W.T``), ``x @ chain`` is ``x @ W``. Weights are packed at the first multiplication.

    Raises ValueError for wrong numbers of dimensions and sizes that do not match, TypeError for other dtypes.
    """

    # `array @ chain` asks the chain.
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, weights: Iterable[Array], *, copy: bool = True) -> None:
        arrays = []
        for at, array in enumerate(weights):
            array = np.array(array, order="C", copy=True) if copy else np.ascontiguousarray(array)
            if array.ndim != 4:
                raise ValueError(f"weights[{at}]: expected four dimensions (a, b, c, d), found shape {array.shape}")
            array = array.view()
            array.flags.writeable = False
            arrays.append(array)
        for at, array in enumerate(arrays):
            if array.dtype != arrays[0].dtype:
                raise TypeError(f"weights[{at}]: expected {arrays[0].dtype} like weights[0], found {array.dtype}")
        self._weights = tuple(arrays)
        self._patterns = tuple(_kronsparse.check_chain([Pattern(*array.shape) for array in arrays]))
        self._lock = threading.Lock()
        #: Packed weights, and the generation that they are of.
        self._operator: tuple[Operator, object] | None = None
        self._transposed: Chain | None = None
        # A dtype that cannot be multiplied is refused here, not at the first multiplication.
        _kronsparse.check_dtype(arrays[0])

    @classmethod
    def from_application_order(cls, weights: Iterable[Array], *, copy: bool = True) -> Chain:
        """From weights in the order of application (right to left), as the reference implementation lists them."""
        return cls(list(weights)[::-1], copy=copy)

    @classmethod
    def random(
        cls, patterns: PatternsLike, dtype: DTypeLike = np.float32, *, rng: Generator | int | None = None
    ) -> Chain:
        """Normal weights whose product keeps the variance of its input: each factor has variance ``1 / c``."""
        rng = np.random.default_rng(rng)
        dtype = np.dtype(dtype)
        weights = []
        for pattern in _kronsparse.check_chain(list(patterns)):
            shape = tuple(pattern)
            values = rng.standard_normal(shape)
            if dtype.kind == "c":
                values = (values + 1j * rng.standard_normal(shape)) / np.sqrt(2)
            weights.append((values / np.sqrt(pattern.c)).astype(dtype))
        return cls(weights, copy=False)

    @property
    def weights(self) -> tuple[Array, ...]:
        """One read-only array ``(a, b, c, d)`` per factor, left to right; no copies."""
        return self._weights

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns, left to right."""
        return self._patterns

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, cols)``."""
        return self._patterns[0].rows, self._patterns[-1].cols

    @property
    def ndim(self) -> int:
        """2, as of any matrix."""
        return 2

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type of weights, inputs and outputs."""
        return self._weights[0].dtype

    @property
    def parameters(self) -> int:
        """Numbers in all factors."""
        return sum(pattern.nnz for pattern in self._patterns)

    @property
    def density(self) -> float:
        """Parameters over ``rows · cols``."""
        rows, cols = self.shape
        return self.parameters / (rows * cols)

    @property
    def T(self) -> Chain:
        """The transposed chain; made once."""
        if self._transposed is None:
            flipped = Chain([w.swapaxes(1, 2) for w in reversed(self._weights)], copy=False)
            flipped._transposed = self
            self._transposed = flipped
        return self._transposed

    @property
    def H(self) -> Chain:
        """The conjugate transpose."""
        return self.T.conj()

    def conj(self) -> Chain:
        """The complex conjugate; the chain itself if it is real."""
        if self.dtype.kind != "c":
            return self
        return Chain([w.conj() for w in self._weights], copy=False)

    def astype(self, dtype: DTypeLike) -> Chain:
        """The same chain with its weights rounded to another type."""
        return Chain([w.astype(dtype) for w in self._weights], copy=False)

    def fuse(self, start: int, end: int) -> Chain:
        """Replaces factors ``start … end-1`` by their product, one factor; ValueError where they are not chainable."""
        return Chain(_kronsparse.fuse(list(self._weights), start, end), copy=False)

    def operator(self, bias: Array | None = None, *, activation: str = "none", threads: int = 0) -> Operator:
        """Packs the chain with a bias (one number per row) and an activation (``none``, ``relu``, ``gelu``,
        ``gelu-tanh``, ``silu``) that are applied as results are stored; ``threads`` limits the threads."""
        return Operator(list(self._weights), bias, activation=activation, threads=threads)

    def _packed(self) -> Operator:
        packed = self._operator
        if packed is None or packed[1] is not _generation:
            with self._lock:
                packed = self._operator
                # Before it is packed: what another thread learns meanwhile is for the next time.
                generation = _generation
                if packed is None or packed[1] is not generation:
                    packed = self._operator = (self.operator(), generation)
        return packed[0]

    def apply(self, x: Array, out: Array | None = None) -> Array:
        """``x @ W.T``: multiplies each vector along the last axis of ``x``, of shape ``(…, cols)``; returns ``(…,
        rows)``.

        Arrays in C order are read and written where they lie, and the interpreter's lock is released. ``out`` must be
        in C order and share no memory with ``x``. TypeError for another dtype than the chain's, ValueError for another
        shape.
        """
        return self._packed().apply(np.asarray(x), out)

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, Chain):
            if other.dtype != self.dtype:
                raise TypeError(f"product of chains: expected {self.dtype} on both sides, found {other.dtype}")
            return Chain(self._weights + other._weights, copy=False)
        if not isinstance(other, np.ndarray):
            return NotImplemented
        if other.ndim == 2:
            if other.flags.f_contiguous and not other.flags.c_contiguous and other.shape[0] == self.shape[1]:
                # Columns that lie one after the other are rows of the transpose.
                return self._packed().apply(other.T).T
            return self._packed().apply(other, batch_last=True)
        if other.ndim == 1:
            return self.apply(other)
        if other.ndim == 0:
            raise ValueError("chain @ x: expected at least one dimension, found a scalar")
        return self.apply(other.swapaxes(-1, -2)).swapaxes(-1, -2)

    def __rmatmul__(self, other: Any) -> Any:
        if not isinstance(other, np.ndarray):
            return NotImplemented
        if other.ndim == 0:
            raise ValueError("x @ chain: expected at least one dimension, found a scalar")
        return self.T.apply(other)

    def __mul__(self, scalar: Any) -> Chain:
        if not np.isscalar(scalar):
            return NotImplemented
        if np.iscomplexobj(scalar) and self.dtype.kind != "c":
            raise TypeError(f"chain * scalar: expected a real number for a chain of {self.dtype}, found {scalar!r}")
        first = (self._weights[0] * self.dtype.type(scalar)).astype(self.dtype, copy=False)
        return Chain((first, *self._weights[1:]), copy=False)

    __rmul__ = __mul__

    def __neg__(self) -> Chain:
        return self * -1

    def to_dense(self) -> Array:
        """The product as an array ``(rows, cols)``, summed in float64 (complex128) and rounded once."""
        return _kronsparse.to_dense(list(self._weights))

    @overload
    def __array__(self, dtype: None = ..., *, copy: bool | None = ...) -> Array: ...
    @overload
    def __array__(self, dtype: DTypeLike, *, copy: bool | None = ...) -> Array: ...
    def __array__(self, dtype: DTypeLike | None = None, *, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a chain has no dense array to share: np.asarray makes one")
        dense = self.to_dense()
        return dense if dtype is None else dense.astype(dtype, copy=False)

    def aslinearoperator(self) -> LinearOperator:
        """The chain as SciPy's ``LinearOperator``, for its solvers; ImportError without SciPy."""
        from ._interop import aslinearoperator

        return aslinearoperator(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Chain):
            return NotImplemented
        same = self.dtype == other.dtype and self._patterns == other._patterns
        return same and all(np.array_equal(x, y) for x, y in zip(self._weights, other._weights))

    def __len__(self) -> int:
        return len(self._weights)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._weights,)

    def __repr__(self) -> str:
        rows, cols = self.shape
        patterns = "".join(str(pattern) for pattern in self._patterns)
        return f"Chain('{patterns}', {rows}×{cols}, {self.dtype}, {self.parameters} parameters)"


def _restore(weights: Sequence[Array]) -> Chain:
    return Chain(weights, copy=False)
