"""Advice: whether chains pay for a linear layer, which, and by how much."""

from __future__ import annotations

from collections.abc import Sequence

from . import _arguments, _kronsparse
from ._cuda import find_libraries
from ._kronsparse import Advice
from ._types import DTypeLike


def advise(
    rows: int,
    cols: int,
    batch: int | Sequence[int] = (1, 32, 2048),
    *,
    dtype: DTypeLike = "float16",
    budget: float | tuple[float, float] = (0.1, 0.5),
    device: str = "h100",
    objective: str = "time",
    batch_last: bool = False,
    max_factors: int = 4,
    low_rank: bool = True,
    partial: bool = False,
) -> Advice:
    """Says whether chains pay for a linear layer of ``rows`` outputs and ``cols`` inputs, or whether to stay dense, as
    ``kronsparse advise`` does: by estimates, for each number of vectors and for all together.

    ``budget`` is a share of the dense parameters, of which 90 to 100 % are used, or the least and the largest share.
    ``device`` is ``h100``, which need not be there, a GPU of this machine as ``cuda:N``, or ``cpu``, whose ceilings are
    measured the first time, which takes some seconds. ``dtype`` is a real one, or ``tf32`` on a GPU; ``objective`` is
    ``time``, ``energy`` or ``memory``; ``batch_last`` says that vectors are columns. Chains have at most
    ``max_factors`` factors, 1 to 4; plain ``low_rank`` is one of them, and single sparse factors, whose outputs see a
    part of the inputs, are with ``partial``.

    A chain of fewer parameters is another matrix: see ``factorize`` for its error. Ctrl-C ends the call at once.

    ValueError for sizes and budgets without a chain, TypeError for arguments of another kind, RuntimeError for a GPU
    that is not there.
    """
    rows, cols = _arguments.whole("rows", rows, 1), _arguments.whole("cols", cols, 1)
    max_factors, batches = _arguments.whole("max_factors", max_factors), _arguments.batches(batch)
    name, share = _arguments.dtype_name(dtype), _arguments.share(budget)
    device, objective = _arguments.text("device", device), _arguments.text("objective", objective)
    if device.startswith("cuda"):
        find_libraries()
    return _kronsparse.advise(
        rows, cols, batches, name, share, device, objective, batch_last, max_factors, low_rank, partial
    )
