"""What is measured: patterns, chains and cells. Standard library only: it is imported before NumPy may be."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ITEM_SIZE = {"f16": 2, "bf16": 2, "f32": 4, "f64": 8}
UNIT_ROUNDOFF = {"f16": 2.0**-11, "bf16": 2.0**-8, "f32": 2.0**-24, "f64": 2.0**-53}
LAYOUTS = ("bsf", "bsl")

# Without --patterns: block-diagonal and strided, square and oblong, narrow and wide.
DEFAULT_PATTERNS = (
    "6,64,64,1 1,768,192,2 1,192,48,2 2,48,192,1 1,128,128,16 4,256,256,4 16,64,64,16 1,1024,1024,4 1,64,64,64"
)
# Without a list after --chain: the Monarch chain of size 4096.
DEFAULT_CHAIN = "(1,64,64,64)(64,64,64,1)"


@dataclass(frozen=True, order=True)
class Pattern:
    """A Kronecker-sparse pattern (a, b, c, d): support I_a ⊗ 1_{b×c} ⊗ I_d."""

    a: int
    b: int
    c: int
    d: int

    @property
    def rows(self) -> int:
        return self.a * self.b * self.d

    @property
    def cols(self) -> int:
        return self.a * self.c * self.d

    @property
    def nnz(self) -> int:
        return self.a * self.b * self.c * self.d

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (self.a, self.b, self.c, self.d)

    def __str__(self) -> str:
        return f"({self.a},{self.b},{self.c},{self.d})"


@dataclass(frozen=True)
class Cell:
    """One multiplication: a chain (left to right, often of one factor), a layout, a dtype and a batch size."""

    chain: tuple[Pattern, ...]
    layout: str
    dtype: str
    n: int

    @property
    def rows(self) -> int:
        return self.chain[0].rows

    @property
    def cols(self) -> int:
        return self.chain[-1].cols

    @property
    def name(self) -> str:
        return "".join(str(p) for p in self.chain)

    @property
    def flops(self) -> float:
        """Multiplications and additions, factor by factor: 2·n·Σ a·b·c·d."""
        return 2.0 * self.n * sum(p.nnz for p in self.chain)

    @property
    def dense_flops(self) -> float:
        """The same for the product as a dense matrix."""
        return 2.0 * self.n * self.rows * self.cols

    @property
    def dense_bytes(self) -> int:
        return ITEM_SIZE[self.dtype] * self.rows * self.cols

    @property
    def bytes(self) -> int:
        """Bytes of X, Y and the weights together."""
        return ITEM_SIZE[self.dtype] * (self.n * (self.rows + self.cols) + sum(p.nnz for p in self.chain))

    def peer_tolerance(self) -> float:
        """Relative error above which a peer's result is called wrong: ten times what sums of c products may show.

        It catches wrong results, it does not rank peers. kronsparse is held to its own, tighter tolerance.
        """
        accumulator = min(UNIT_ROUNDOFF[self.dtype], UNIT_ROUNDOFF["f32"])
        terms = max(p.c for p in self.chain)
        return 10.0 * len(self.chain) * (UNIT_ROUNDOFF[self.dtype] + accumulator * math.sqrt(terms))


def parse_pattern(text: str) -> Pattern:
    """Reads `a,b,c,d` or `(a,b,c,d)`: four positive integers."""
    match = re.fullmatch(r"\s*(\()?\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*(\))?\s*", text)
    if match is None or (match[1] is None) != (match[6] is None):
        raise ValueError(f"cannot read a pattern from `{text}`: expected a,b,c,d or (a,b,c,d)")
    a, b, c, d = (int(match[i]) for i in range(2, 6))
    if min(a, b, c, d) < 1:
        raise ValueError(f"pattern `{text}`: every number must be at least 1")
    return Pattern(a, b, c, d)


def parse_patterns(text: str) -> list[Pattern]:
    """Reads patterns separated by white space or semicolons; `#` starts a comment that ends with its line."""
    bare = re.sub(r"#.*", "", text)
    # Spaces inside parentheses or after a comma belong to one pattern.
    bare = re.sub(r"\s*,\s*", ",", bare)
    return [parse_pattern(word) for word in re.split(r"[\s;]+", bare) if word]


def read_patterns(source: str | None) -> list[Pattern]:
    """Patterns of a file, or of a list given in place of its name; the default list for None."""
    if source is None:
        return parse_patterns(DEFAULT_PATTERNS)
    path = Path(source)
    is_list = re.fullmatch(r"[\d\s,;()]+", source) is not None
    if not is_list and not path.is_file():
        raise ValueError(f"`{source}` is neither a file nor a list of patterns such as 6,64,64,1;1,128,128,16")
    patterns = parse_patterns(source if is_list else path.read_text(encoding="utf-8"))
    if not patterns:
        raise ValueError(f"`{source}` holds no pattern")
    return patterns


def parse_chain(text: str) -> tuple[Pattern, ...]:
    """Reads `(a,b,c,d)(a,b,c,d)…`, left to right as in mathematics, and checks that neighbouring sizes match."""
    parts = re.findall(r"\([^()]*\)", text)
    if not parts or re.sub(r"\s", "", "".join(parts)) != re.sub(r"\s", "", text):
        raise ValueError(f"cannot read a chain from `{text}`: expected (a,b,c,d)(a,b,c,d)…")
    chain = tuple(parse_pattern(part) for part in parts)
    for left, right in pairwise(chain):
        if left.cols != right.rows:
            raise ValueError(f"{left}{right} do not multiply: {left.cols} columns against {right.rows} rows")
    return chain


def parse_shard(text: str) -> tuple[int, int]:
    """Reads `k/n` with 1 ≤ k ≤ n."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"`{text}`: expected k/n with 1 <= k <= n")
    return int(match[1]), int(match[2])


def shard(patterns: Sequence[Pattern], k: int, n: int) -> list[Pattern]:
    """Every n-th pattern from the k-th on (counted from 1): shards are spread alike over the list."""
    return list(patterns[k - 1 :: n])


def parse_choices(text: str, allowed: Sequence[str]) -> list[str]:
    """Reads a comma-separated list of the allowed words."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in allowed:
            raise ValueError(f"`{word}`: expected one of {', '.join(allowed)}")
    if not words:
        raise ValueError(f"empty list: expected one or more of {', '.join(allowed)}")
    return words
