"""Records of a run (CSV rows) and what they say: speed-up over the best peer, where we lose, share of the peak.

python3 summary.py FILE.csv [FILE.csv ...]      prints the summary of all rows of these files together
"""

from __future__ import annotations

import csv
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TextIO

from cells import parse_chain

OURS = "kronsparse"
FACTORS = "kronsparse_factors"
TIMED = ("ok", "dropped")
LOSS = 0.9
PEAK_SHARE = 0.7
LISTED = 30


@dataclass(frozen=True)
class Row:
    """One contender in one cell. Times in seconds; not-a-number where there is none."""

    pattern: str
    layout: str
    dtype: str
    n: int
    threads: int
    contender: str
    status: str
    median_s: float
    iqr_s: float
    min_s: float
    samples: int
    gflops: float
    rel_error: float
    peak_gflops: float
    busy_elsewhere: float
    note: str

    @property
    def cell(self) -> tuple[str, str, str, int, int]:
        return (self.pattern, self.layout, self.dtype, self.n, self.threads)


COLUMNS = [f.name for f in fields(Row)]


def write_rows(file: TextIO, rows: Iterable[Row], header: bool) -> None:
    """Appends rows as CSV."""
    out = csv.writer(file, lineterminator="\n")
    if header:
        out.writerow(COLUMNS)
    for row in rows:
        out.writerow([_text(getattr(row, name)) for name in COLUMNS])
    file.flush()


def read_rows(path: Path) -> list[Row]:
    """Reads what `write_rows` wrote; raises ValueError on other columns."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames is None or list(reader.fieldnames) != COLUMNS:
            raise ValueError(f"{path}: expected the columns {','.join(COLUMNS)}, found {reader.fieldnames}")
        return [_row(record) for record in reader]


def _row(record: dict[str, str]) -> Row:
    whole = {"n", "threads", "samples"}
    words = {"pattern", "layout", "dtype", "contender", "status", "note"}
    read = {k: v if k in words else int(v) if k in whole else float(v or "nan") for k, v in record.items()}
    return Row(**read)  # type: ignore[arg-type]


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)


def quantile(values: Sequence[float], q: float) -> float:
    """Linear interpolation between order statistics; not-a-number for no values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def median(values: Sequence[float]) -> float:
    return quantile(values, 0.5)


def iqr(values: Sequence[float]) -> float:
    return quantile(values, 0.75) - quantile(values, 0.25)


@dataclass(frozen=True)
class Duel:
    """One cell: kronsparse against the best peer. `ratio` is the peer's time over ours: above 1 we are faster."""

    first: Row
    ours_s: float
    peer: str
    peer_s: float
    factors_s: float
    gflops: float

    @property
    def ratio(self) -> float:
        return self.peer_s / self.ours_s


def duels(rows: Iterable[Row]) -> list[Duel]:
    """Cells in which kronsparse and at least one peer have times."""
    cells: dict[tuple[str, str, str, int, int], list[Row]] = defaultdict(list)
    for row in rows:
        cells[row.cell].append(row)
    found = []
    for members in cells.values():
        timed = [r for r in members if r.status in TIMED and not math.isnan(r.median_s)]
        us = [r for r in timed if r.contender == OURS]
        peers = [r for r in timed if not r.contender.startswith(OURS)]
        if not us or not peers:
            continue
        best = min(peers, key=lambda r: r.median_s)
        factors = [r.median_s for r in timed if r.contender == FACTORS]
        ours = us[-1]
        found.append(
            Duel(ours, ours.median_s, best.contender, best.median_s, factors[-1] if factors else math.nan, ours.gflops)
        )
    return found


def summarise(rows: Sequence[Row]) -> str:
    """The whole summary as text, one section for each dtype, batch size and number of threads."""
    groups: dict[tuple[str, int, int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[(row.dtype, row.n, row.threads)].append(row)
    parts = []
    for (dtype, n, threads), members in sorted(groups.items()):
        lines = [f"== {dtype}, n = {n}, {threads} thread{'s' if threads > 1 else ''}"]
        found = duels(members)
        single = [d for d in found if len(parse_chain(d.first.pattern)) == 1]
        chains = [d for d in found if len(parse_chain(d.first.pattern)) > 1]
        lines += _broken(members)
        if single:
            lines += _speedups(single)
            lines += _peak(
                single, max((r.peak_gflops for r in members if not math.isnan(r.peak_gflops)), default=math.nan)
            )
        if chains:
            lines += _chains(chains)
        if not found:
            lines.append("no cell has times of both kronsparse and a peer")
        busy = [r.busy_elsewhere for r in members if not math.isnan(r.busy_elsewhere)]
        lines.append(
            f"cores kept busy by other processes: median {median(busy):.2f}, worst cell {max(busy, default=0):.2f}"
        )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _speedups(found: list[Duel]) -> list[str]:
    lines = []
    for name, part in (
        ("bsf, d > 1", [d for d in found if d.first.layout == "bsf" and parse_chain(d.first.pattern)[0].d > 1]),
        ("bsf, d = 1", [d for d in found if d.first.layout == "bsf" and parse_chain(d.first.pattern)[0].d == 1]),
        ("bsl", [d for d in found if d.first.layout == "bsl"]),
    ):
        if part:
            ratios = [d.ratio for d in part]
            winners = ", ".join(f"{peer} {count}" for peer, count in Counter(d.peer for d in part).most_common(5))
            lines.append(
                f"{name}: {len(part)} cells, speed-up over the best peer: median {median(ratios):.2f}, quartiles "
                f"{quantile(ratios, 0.25):.2f} to {quantile(ratios, 0.75):.2f}, min {min(ratios):.2f}, "
                f"max {max(ratios):.2f}; best peer: {winners}"
            )
    losses = sorted((d for d in found if d.ratio < LOSS), key=lambda d: d.ratio)
    worst = min(found, key=lambda d: d.ratio)
    lines.append(
        f"everywhere: min best_peer_time / kronsparse_time {worst.ratio:.3f} at {worst.first.pattern} "
        f"{worst.first.layout}; {len(losses)} of {len(found)} cells below {LOSS}"
    )
    for d in losses[:LISTED]:
        lines.append(
            f"  {d.ratio:.3f}  {d.first.pattern} {d.first.layout}: kronsparse {d.ours_s * 1e3:.3f} ms, "
            f"{d.peer} {d.peer_s * 1e3:.3f} ms"
        )
    if len(losses) > LISTED:
        lines.append(f"  and {len(losses) - LISTED} more")
    return lines


def _peak(found: list[Duel], peak_gflops: float) -> list[str]:
    wide = [d for d in found if min(parse_chain(d.first.pattern)[0].shape[1:3]) >= 64]
    if not wide or math.isnan(peak_gflops):
        return []
    shares = sorted(((d.gflops / peak_gflops, d) for d in wide), key=lambda pair: pair[0])
    below = [pair for pair in shares if pair[0] < PEAK_SHARE]
    lines = [
        f"b, c >= 64: share of the measured peak {peak_gflops:.1f} GFLOP/s: min {shares[0][0]:.2f}, "
        f"median {median([s for s, _ in shares]):.2f}; {len(below)} of {len(wide)} cells below {PEAK_SHARE}"
    ]
    lines += [f"  {s:.2f}  {d.first.pattern} {d.first.layout}: {d.gflops:.1f} GFLOP/s" for s, d in below[:LISTED]]
    if len(below) > LISTED:
        lines.append(f"  and {len(below) - LISTED} more")
    return lines


def _chains(found: list[Duel]) -> list[str]:
    return [
        f"chain {d.first.pattern} {d.first.layout}: fused {d.ours_s * 1e3:.4f} ms, factor by factor "
        f"{d.factors_s * 1e3:.4f} ms ({d.factors_s / d.ours_s:.2f}x), best peer {d.peer} {d.peer_s * 1e3:.4f} ms "
        f"({d.ratio:.2f}x)"
        for d in found
    ]


def _broken(rows: Iterable[Row]) -> list[str]:
    return [
        f"{r.status.upper()}: {r.pattern} {r.layout} {r.contender}: {r.note}"
        for r in rows
        if r.status in ("wrong", "failed")
    ]


def main(paths: Sequence[str]) -> int:
    """Prints the summary of the files."""
    if not paths or paths[0].startswith("-"):
        print(__doc__)
        return 0 if paths and paths[0] in ("-h", "--help") else 2
    try:
        print(summarise([row for path in paths for row in read_rows(Path(path))]))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
