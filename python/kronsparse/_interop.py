"""Chains for and from other libraries: SciPy's linear operators, lazylinop's ``ksm``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ._chain import Chain
from ._types import Array

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


def aslinearoperator(chain: Chain) -> LinearOperator:
    """A chain as SciPy's ``LinearOperator``. Vectors of another dtype are rounded to the chain's; complex ones are
    multiplied by a real chain part by part."""
    try:
        from scipy.sparse.linalg import LinearOperator
    except ImportError as error:
        raise ImportError("aslinearoperator needs SciPy: pip install 'kronsparse[scipy]'") from error

    def times(matrix: Chain, x: Array) -> Array:
        x = np.asarray(x)
        if x.dtype.kind == "c" and matrix.dtype.kind != "c":
            return times(matrix, x.real) + 1j * times(matrix, x.imag)
        return matrix @ np.ascontiguousarray(x, dtype=matrix.dtype)

    return LinearOperator(
        shape=chain.shape,
        dtype=chain.dtype,
        matvec=lambda x: times(chain, x),
        matmat=lambda x: times(chain, x),
        rmatvec=lambda x: times(chain.H, x),
        rmatmat=lambda x: times(chain.H, x),
    )


def from_ksm(values: Any) -> Chain:
    """The chain of lazylinop's ``ksm`` values: 4-D arrays ``(a, b, c, d)``, left to right, or an operator made by
    ``ksm``.

    lazylinop lists factors in the same order and stores them in the same layout, so nothing is rearranged.
    """
    found: Iterable[Array] = getattr(values, "ks_values", values)
    if isinstance(found, np.ndarray) and found.ndim == 4:
        found = [found]
    return Chain([np.asarray(value) for value in found])


def to_ksm(chain: Chain) -> list[Array]:
    """The 4-D arrays that lazylinop's ``ksm`` takes, left to right; copies, which may be changed."""
    return [weights.copy() for weights in chain.weights]


def to_lazylinop(chain: Chain, **options: Any) -> Any:
    """The chain as lazylinop's ``ksm`` operator, with its options; ImportError without lazylinop."""
    try:
        from lazylinop.butterfly import ksm
    except (ImportError, AttributeError) as error:  # the latter without pandas
        raise ImportError(
            f"to_lazylinop needs lazylinop with its requirements (pip install 'lazylinop[full]'): {error}"
        ) from error
    return ksm(to_ksm(chain), **options)
