"""Chains and references for the tests, written straight from the definition."""

from __future__ import annotations

import kronsparse as ks
import numpy as np

#: Chains of one to five factors: with lanes, without, not chainable, one by one, odd sizes, a butterfly.
CHAINS = {
    "lanes": [(2, 3, 5, 4)],
    "monarch": [(1, 8, 4, 12), (4, 12, 16, 1)],
    "not chainable": [(1, 4, 4, 3), (6, 2, 5, 1)],
    "three": [(1, 2, 2, 4), (2, 2, 2, 2), (4, 2, 6, 1)],
    "one number": [(1, 1, 1, 1)],
    "low rank": [(1, 17, 3, 1), (1, 3, 29, 1)],
    "butterfly": [(1, 2, 2, 16), (2, 2, 2, 8), (4, 2, 2, 4), (8, 2, 2, 2), (16, 2, 2, 1)],
}
DTYPES = ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]


def dtype_of(name: str) -> np.dtype:
    """NumPy's dtype of a name, bfloat16 included."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Normal numbers of any dtype."""
    values = rng.standard_normal(shape)
    if dtype.kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return np.asarray(values).astype(dtype)


def wide(array: np.ndarray) -> np.ndarray:
    """float64 or complex128, exactly."""
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def dense_factor(weights: np.ndarray) -> np.ndarray:
    """``K[i·b·d + o·d + j, i·c·d + l·d + j] = w[i, o, l, j]``, number by number."""
    a, b, c, d = weights.shape
    matrix = np.zeros((a * b * d, a * c * d), dtype=weights.dtype)
    for i in range(a):
        for o in range(b):
            for l in range(c):
                for j in range(d):
                    matrix[(i * b + o) * d + j, (i * c + l) * d + j] = weights[i, o, l, j]
    return matrix


def dense(weights: list[np.ndarray]) -> np.ndarray:
    """The product of the factors in float64."""
    product = dense_factor(wide(weights[0]))
    for factor in weights[1:]:
        product = product @ dense_factor(wide(factor))
    return product


def assert_close(found: np.ndarray, expected: np.ndarray, chain: ks.Chain) -> None:
    """The project's error measure against the library's own tolerance for the dtype and the length of the sums."""
    assert found.dtype == chain.dtype
    assert found.shape == expected.shape
    if expected.size == 0:
        return
    difference = np.linalg.norm((wide(found) - expected).ravel())
    norm = np.linalg.norm(expected.ravel())
    assert difference <= ks.tolerance(chain.dtype.name, chain.patterns) * norm
