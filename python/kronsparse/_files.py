"""Chain files: one safetensors file with tensors ``factors.0 …``, an optional ``bias``, and a checksum."""

from __future__ import annotations

import os

from . import _kronsparse
from ._chain import Chain
from ._types import Array


def save(path: str | os.PathLike[str], chain: Chain, bias: Array | None = None, *, batch_last: bool = False) -> None:
    """Writes a chain, and a bias of one number per row, to a safetensors file, whole or not at all.

    ``batch_last`` is written down as the order of batches that the chain is meant for; the weights are the same.
    OSError for a file that cannot be written.
    """
    _kronsparse.save(os.fspath(path), list(chain.weights), bias, batch_last=batch_last)


def load(path: str | os.PathLike[str]) -> Chain:
    """Reads the chain of a file, which may have no bias: that would be lost (see ``load_layer``).

    Shapes, dtypes, sizes and the checksum are checked first. ValueError says what is wrong with a file.
    """
    chain, bias = load_layer(path)
    if bias is not None:
        raise ValueError(f"{os.fspath(path)}: has a bias of {len(bias)} numbers; load_layer returns both")
    return chain


def load_layer(path: str | os.PathLike[str]) -> tuple[Chain, Array | None]:
    """Reads chain and bias (or None) of a file."""
    weights, bias, _ = _kronsparse.load(os.fspath(path))
    return Chain(weights, copy=False), bias
