"""Dense matrix to chain, with the error of the result and the guarantee it carries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import _kronsparse
from ._chain import Chain
from ._types import Array, PatternsLike


@dataclass(frozen=True)
class Step:
    """One split of the hierarchy: the product of factors ``start … end-1`` was cut before factor ``split``."""

    start: int
    split: int
    end: int
    rank: int
    relative_error: float


@dataclass(frozen=True)
class Factorization:
    """What ``factorize`` returns.

    ``relative_error`` is ``‖A − W‖ / ‖A‖`` (Frobenius) of the rounded factors; ``bound`` is ``C`` in
    ``‖A − W‖ ≤ C · min ‖A − B‖`` over all products ``B`` of the chain, infinite where nothing is guaranteed.
    """

    chain: Chain
    relative_error: float
    steps: tuple[Step, ...]
    bound: float


def factorize(
    matrix: Array,
    patterns: PatternsLike | str,
    *,
    order: str = "l2r",
    orthonormal: bool = True,
    threads: int = 0,
) -> Factorization:
    """Approximates a dense matrix by a chain of chainable patterns (Le, Zheng, Riccietti and Gribonval, *Butterfly
    factorization with error guarantees*, arXiv 2411.04506).

    ``patterns`` is a list, left to right, or text: ``monarch:p,q``, ``square-dyadic``, ``butterfly:r1,r2``,
    ``(a,b,c,d)(…)…``. ``order`` of the splits is ``l2r``, ``r2l`` or ``balanced``; ``orthonormal`` keeps the guarantee.
    The result has the dtype of the matrix. Ctrl-C ends the call at once; what its threads have begun they finish, for
    nobody.

    ValueError for patterns that are not chainable or do not fit, and for NaN or infinity in the matrix.
    """
    matrix = np.asarray(matrix)
    if isinstance(patterns, str):
        if matrix.ndim != 2:
            raise ValueError(f"matrix: expected two dimensions, found shape {matrix.shape}")
        patterns = _kronsparse.parse_chain(patterns, *matrix.shape)
    weights, error, steps, bound = _kronsparse.factorize(
        matrix, list(patterns), order=order, orthonormal=orthonormal, threads=threads
    )
    return Factorization(Chain(weights, copy=False), error, tuple(Step(*step) for step in steps), bound)
