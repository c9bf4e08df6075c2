"""Tuning: what is the fastest on this machine, measured once and remembered in a file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import _arguments, _chain, _kronsparse
from ._chain import Chain
from ._cuda import find_libraries
from ._kronsparse import Pattern, Tuner, TuningRecord
from ._types import DTypeLike, PatternsLike

#: Called with how many problems are done, how many there are, and the next one in words.
Progress = Callable[[int, int, str], None]
#: Called when what was measured has changed, so that packed weights are packed anew.
changed: list[Callable[[], None]] = []


@dataclass(frozen=True)
class Problem:
    """What is measured: a chain without its weights, and what it multiplies."""

    patterns: tuple[Pattern, ...]
    dtype: str
    batch: int
    batch_last: bool = False
    bias: bool = False
    activation: str = "none"
    join: str = "none"

    def __str__(self) -> str:
        chain = "".join(str(pattern) for pattern in self.patterns)
        return f"{chain} {self.dtype} n = {self.batch}"


@dataclass(frozen=True)
class Tuning:
    """What ``tune`` returns: a sequence of ``TuningRecord``, one for each problem, and the file that has them. Printed
    as a table."""

    records: tuple[TuningRecord, ...]
    #: How many of them were measured now. The others were in the file.
    new: int
    #: The file.
    store: Path

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, at: int) -> TuningRecord:
        return self.records[at]

    def __iter__(self) -> Iterator[TuningRecord]:
        return iter(self.records)

    def __str__(self) -> str:
        lines = [("chain", "dtype", "vectors", "untuned", "µs", "chosen", "µs", "gain")]
        for record in self.records:
            chain = "".join(str(pattern) for pattern in record.patterns)
            what = "" if record.join == "none" else f", {record.join}"
            same = record.untuned.steps == record.chosen.steps
            times = [f"{1e6 * way.seconds:.2f}" for way in (record.untuned, record.chosen)]
            chosen = "the same" if same else record.chosen.name
            names = (chain + what, record.dtype, str(record.batch), record.untuned.name)
            lines.append((*names, times[0], chosen, times[1], f"{record.gain:.2f}×"))
        widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
        text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        text.append(f"{self.new} measured now, {len(self.records) - self.new} known before; kept in {self.store}")
        return "\n".join(text)


def tune(
    chain: Chain | PatternsLike,
    batch: int | Sequence[int] = (1, 32, 2048),
    *,
    dtype: DTypeLike | Sequence[DTypeLike] | None = None,
    bias: bool = False,
    activation: str = "none",
    join: str = "none",
    batch_last: bool = False,
    device: str = "cpu",
    threads: int = 0,
    caches: str = "cold",
    seconds: float = 0.1,
    store: str | os.PathLike[str] | None = None,
    again: bool = False,
    progress: Progress | None = None,
) -> Tuning:
    """Measures which way of multiplying by a chain is the fastest for these numbers of vectors, and keeps the results:
    later calls, in this process and others on this machine, take it.

    ``chain`` is a ``Chain``, whose weights do not matter, or its patterns, left to right; these need a ``dtype``, or
    several. A record holds for exactly one ``batch``, dtype, ``bias``, ``activation`` and ``join`` (``none``,
    ``residual`` or ``gate``), and for numbers of vectors close by; ``batch_last`` says that vectors are columns, as in
    ``chain @ X``. ``device`` is ``cpu``, with all ``threads`` (0) or so many, or ``cuda:N``; what PyTorch multiplies is
    tuned by ``kronsparse.torch.tune``. Each sample begins with ``cold`` or ``warm`` ``caches``; on a CPU each way
    that is not much slower than the fastest takes about so many ``seconds``.

    The file is that of the user (see ``tuning_path``), or ``store``. Each record is in it as soon as it is measured,
    and what is in it is not measured again unless ``again``. Ctrl-C ends the measurement at hand, keeps it, and raises
    KeyboardInterrupt; pressed twice, the call ends at once, and what was begun ends behind it. ``progress(done, total,
    problem)`` is called before each problem. Other threads run meanwhile, which makes what is measured slower than it
    is.

    From then on this process looks in that file (``use_tuning``): chains and layers are packed anew at their next
    multiplication. Operators that you made by ``Chain.operator`` stay as they are.

    ValueError for a file that is damaged or none of this kind, and for arguments that do not fit, TypeError for those
    of another kind, OSError for a file that cannot be written, RuntimeError for a GPU that is not there. A warning says
    if a file's last line was left out, since whoever wrote it was stopped.
    """
    if isinstance(chain, str):
        raise TypeError(f"chain: expected a Chain or patterns, such as parse_chain makes of a text, found {chain!r}")
    if isinstance(chain, Chain):
        patterns, own = chain.patterns, chain.dtype.name
    else:
        patterns, own = tuple(_kronsparse.check_chain(list(chain))), None
    if dtype is None and own is None:
        raise ValueError("dtype: expected the element type of a chain that is given by its patterns, found None")
    several = isinstance(dtype, Sequence) and not isinstance(dtype, str)
    asked = list(dtype) if several else [own if dtype is None else dtype]  # type: ignore[arg-type]
    if not asked:
        raise ValueError("dtype: expected at least one element type, found none")
    dtypes, batches = [_arguments.dtype_name(each) for each in asked], _arguments.batches(batch)
    problems = [Problem(patterns, each, n, batch_last, bias, activation, join) for each in dtypes for n in batches]
    return measure(lambda: problems, device, threads, caches, seconds, store, again, progress)


def measure(
    problems: Callable[[], Iterable[Problem]],
    device: str,
    threads: int,
    caches: str,
    seconds: float,
    store: str | os.PathLike[str] | None,
    again: bool,
    progress: Progress | None,
) -> Tuning:
    """``tune`` for any problems, each of them once. They are asked for when the file is there: whoever runs a model to
    find them needs one that KRONSPARSE_TUNING names."""
    device, threads = _arguments.text("device", device), _arguments.whole("threads", threads)
    progress = _arguments.callback("progress", progress)
    if device != "cpu":
        find_libraries()
    tuner = Tuner(_arguments.path("store", store))
    if tuner.note is not None:
        warnings.warn(f"kronsparse: {tuner.note}", stacklevel=3)
    asked = list(dict.fromkeys(problems()))
    records: list[TuningRecord] = []
    new = 0
    try:
        for done, problem in enumerate(asked):
            if progress is not None:
                progress(done, len(asked), str(problem))
            record, is_new = tuner.tune(
                problem.patterns,
                problem.dtype,
                problem.batch,
                batch_last=problem.batch_last,
                bias=problem.bias,
                activation=problem.activation,
                join=problem.join,
                device=device,
                threads=threads,
                caches=caches,
                seconds=seconds,
                again=again,
            )
            records.append(record)
            new += is_new
    finally:
        # What was measured before an interruption counts as well, and so does what was measured while it came.
        if records or tuner.added:
            use_tuning(tuner.path)
    return Tuning(tuple(records), new, tuner.path)


def use_tuning(path: str | os.PathLike[str]) -> None:
    """Makes this process look in a file of tuning records, such as one that came with a model, and pack chains and
    layers anew. Records of other machines are ignored.

    Other processes look in the user's file, or in the one that the environment variable KRONSPARSE_TUNING names
    (``off``: in none). ValueError for a file that is damaged or none of this kind, FileNotFoundError where there is
    none.
    """
    _kronsparse.look_in(os.fspath(path))
    _chain.pack_anew()
    for tell in changed:
        tell()


def tuning_path() -> Path | None:
    """The user's file of tuning records, whether it is there or not: the one that KRONSPARSE_TUNING names, or else
    ``tuning.txt`` in the cache folder. None where the variable is ``off`` or empty, or where there is no cache
    folder."""
    return _kronsparse.tuning_path()


def read_tuning(path: str | os.PathLike[str]) -> list[TuningRecord]:
    """The records of a file, the oldest first, whatever machine they are of. Errors as for ``use_tuning``."""
    return _kronsparse.read_tuning(os.fspath(path))
