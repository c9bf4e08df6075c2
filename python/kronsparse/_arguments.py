"""Arguments of ``tune``, ``advise`` and ``explain``, checked before anything is done: each error names the argument,
what was expected and what was found."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

#: The extension counts in 64 bits.
_MOST = 2**63 - 1


def whole(name: str, value: Any, least: int = 0) -> int:
    """A whole number, NumPy's included, from ``least`` on: TypeError for another kind, ValueError for another size."""
    try:
        # `True` would be 1.
        found = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        found = None
    if found is None:
        raise TypeError(f"{name}: expected a whole number, found {_shown(value)}")
    if not least <= found <= _MOST:
        raise ValueError(f"{name}: expected a whole number from {least} on, found {found}")
    return found


def batches(value: Any, name: str = "batch") -> list[int]:
    """A number of vectors, or several, as a list."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__") or getattr(value, "ndim", 1) == 0:
        return [whole(name, value)]
    found = [whole(name, each) for each in value]
    if not found:
        raise ValueError(f"{name}: expected at least one number of vectors, found none")
    return found


def dtype_name(value: Any) -> str:
    """What the extension calls an element type; names are looked at there."""
    if isinstance(value, str):
        return value
    try:
        # NumPy takes None for float64.
        if value is not None:
            return np.dtype(value).name
    except TypeError:
        pass
    raise TypeError(f"dtype: expected a NumPy element type or its name, found {_shown(value)}")


def text(name: str, value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a text, found {_shown(value)}")
    return value


def path(name: str, value: Any) -> str | None:
    """A path as text; None stays None."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    raise TypeError(f"{name}: expected a path, found {_shown(value)}")


def callback(name: str, value: Any) -> Callable[..., Any] | None:
    """What can be called, or None."""
    if value is not None and not callable(value):
        raise TypeError(f"{name}: expected a function or None, found {_shown(value)}")
    return value


def share(value: Any) -> str:
    """A share of parameters, or two as the least and the largest, in the words of the extension."""
    both = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    numbers = [float(each) for each in both if isinstance(each, (int, float, np.integer, np.floating))]
    if len(numbers) != len(both) or len(both) not in (1, 2) or isinstance(value, bool):
        raise TypeError(f"budget: expected a share of the parameters, or the least and the largest, found {value!r}")
    return "..".join(map(str, numbers))


def _shown(value: Any) -> str:
    found = repr(value)
    return f"{found if len(found) <= 60 else found[:60] + '…'} of type {type(value).__name__}"
