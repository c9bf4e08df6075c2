"""The run itself: cell after cell, rows to a CSV, a line a cell on the terminal, the summary at the end."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import random
import sys
import time
from pathlib import Path

import machine
from cells import Cell
from contenders import candidates
from inputs import Inputs
from server import Server, build_example
from summary import TIMED, Row, duels, iqr, median, read_rows, summarise, write_rows
from timing import Outcome, Policy, measure


def run(args: argparse.Namespace, cells: list[Cell], rng: random.Random) -> int:
    """Measures the cells; 0 if kronsparse was right wherever it ran, 1 if not."""
    rows = read_rows(args.out) if args.out is not None and args.out.exists() else []
    done = {row.cell for row in rows}
    todo = [c for c in cells if (c.name, c.layout, c.dtype, c.n, args.threads) not in done]
    if len(todo) < len(cells):
        print(f"# {len(cells) - len(todo)} cells are in {args.out} already", file=sys.stderr)
    peak = machine.Peak()
    for dtype in dict.fromkeys(c.dtype for c in todo):
        print(f"# peak {dtype}: {peak.measure(dtype) / 1e9:.1f} GFLOP/s, square matrices", file=sys.stderr, flush=True)
    if args.out is not None:
        write_description(args.out.with_suffix(".json"), args, peak.best)
    policy = Policy(
        budget_s=args.budget_seconds,
        min_samples=args.min_samples,
        max_samples=max(25, args.min_samples),
        rest_s=0.0 if args.threads == 1 else 0.03,
    )
    with contextlib.ExitStack() as stack:
        server = None
        if args.kronsparse != "none":
            program = Path(args.kronsparse) if args.kronsparse else build_example("peer_server")
            server = stack.enter_context(Server(program, args.threads, args.pages))
        file = sys.stdout
        if args.out is not None:
            file = stack.enter_context(args.out.open("a", newline="", encoding="utf-8"))
        header = not rows
        for number, cell in enumerate(todo, 1):
            found = measure_cell(cell, args, server, peak, policy, rng)
            write_rows(file, found, header)
            header = False
            rows += found
            print(f"# {number}/{len(todo)} {progress(found)}", file=sys.stderr, flush=True)
            gc.collect()
    print(("" if args.out else "\n") + summarise(rows))
    broken = [r for r in rows if r.contender.startswith("kronsparse") and r.status in ("wrong", "failed")]
    return 1 if broken else 0


def measure_cell(
    cell: Cell, args: argparse.Namespace, server: Server | None, peak: machine.Peak, policy: Policy, rng: random.Random
) -> list[Row]:
    """All rows of one cell."""
    start = time.perf_counter()
    # The peak is looked at again and again: the best of a run is the ceiling, however contended its beginning was.
    peak.measure(cell.dtype, sizes=(2048,), seconds=0.0)
    inputs = Inputs(cell, rng.getrandbits(63))
    wanted = args.contenders.split(",") if args.contenders else None
    listed = candidates(inputs, server, args.algorithms.split(","), peak.best[cell.dtype], wanted)
    neighbours = machine.Neighbours(server.pid if server else None)
    outcomes = measure(listed, policy, rng)
    busy = neighbours.busy()
    took = time.perf_counter() - start
    print(f"# {cell.name} {cell.layout} {cell.dtype}: {took:.1f} s, {busy:.2f} cores busy elsewhere", file=sys.stderr)
    return [row_of(cell, args.threads, outcome, peak.best[cell.dtype], busy) for outcome in outcomes]


def row_of(cell: Cell, threads: int, outcome: Outcome, peak_flops: float, busy: float) -> Row:
    """One outcome with its statistics."""
    middle = median(outcome.seconds) if outcome.status in TIMED else math.nan
    return Row(
        pattern=cell.name,
        layout=cell.layout,
        dtype=cell.dtype,
        n=cell.n,
        threads=threads,
        contender=outcome.name,
        status=outcome.status,
        median_s=middle,
        iqr_s=iqr(outcome.seconds) if outcome.status in TIMED else math.nan,
        min_s=min(outcome.seconds) if outcome.status in TIMED else math.nan,
        samples=len(outcome.seconds),
        gflops=cell.flops / middle / 1e9,
        rel_error=outcome.error,
        peak_gflops=peak_flops / 1e9,
        busy_elsewhere=busy,
        note=outcome.note,
    )


def progress(rows: list[Row]) -> str:
    """One cell in one line."""
    found = duels(rows)
    name = f"{rows[0].pattern} {rows[0].layout} {rows[0].dtype}"
    if found:
        duel = found[0]
        return (
            f"{name}: kronsparse {duel.ours_s * 1e3:.3f} ms ({duel.gflops:.1f} GFLOP/s), "
            f"{duel.peer} {duel.peer_s * 1e3:.3f} ms, {duel.ratio:.2f}x"
        )
    timed = [r for r in rows if r.status in TIMED]
    best = min(timed, key=lambda r: r.median_s, default=None)
    return f"{name}: " + (f"best {best.contender} {best.median_s * 1e3:.3f} ms" if best else "nothing could be timed")


def write_description(path: Path, args: argparse.Namespace, peak: dict[str, float]) -> None:
    """The machine and the arguments, beside the CSV."""
    described = machine.describe(args.threads, args.pages) | {
        "arguments": {k: str(v) for k, v in vars(args).items() if v is not None},
        "peak_flops": peak,
    }
    path.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
