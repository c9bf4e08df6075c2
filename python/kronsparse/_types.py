"""The types that the package's signatures name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from ._kronsparse import Pattern

Array = npt.NDArray[Any]
#: One pattern: itself, four numbers, or text such as ``"(1,64,64,64)"``.
PatternLike = Union[Pattern, "tuple[int, int, int, int]", str]
#: A chain of patterns, left to right.
PatternsLike = Sequence[PatternLike]
DTypeLike = npt.DTypeLike
Generator = np.random.Generator
