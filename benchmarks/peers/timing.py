"""Timing of contenders against each other: checked first, then sampled in turn, the hopeless ones left behind early.

Neighbours, clock rates and temperature change over seconds, so a round takes one sample of each contender in a random
order and medians are compared. A sample is the mean of as many calls as fill `sample_s`; where a call is shorter than
`warm_below_s` an untimed call goes before it, so that caches, page tables and thread pools are warm. Longer calls
stream more than any cache holds.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class Contender(Protocol):
    """One way to multiply, ready to run. An error above its `tolerance` is a wrong result."""

    tolerance: float

    def check(self) -> float:
        """Multiplies once into poisoned outputs; the relative error."""

    def sample(self, calls: int) -> float:
        """Seconds that so many calls take together."""

    def close(self) -> None:
        """Frees its memory."""


@dataclass(frozen=True)
class Candidate:
    """A contender that may be opened."""

    name: str
    open: Callable[[], Contender]
    ours: bool = False
    # The shortest time that the work could take: it is not even opened if a peer was already twice as fast.
    floor_s: float = 0.0
    # Why it cannot run here; empty if it can.
    excluded: str = ""


@dataclass(frozen=True)
class Policy:
    """How long and how often; the defaults are what `cpu.py` documents."""

    budget_s: float = 2.0
    min_samples: int = 5
    max_samples: int = 25
    sample_s: float = 0.005
    warm_below_s: float = 0.1
    # A peer is left behind if it is so many times slower than the fastest peer, best sample against best sample: after
    # its check, after two rounds, after three or more. One contended sample must not throw out the best.
    far: float = 6.0
    middle: float = 3.0
    near: float = 1.5
    # Pause before each sample: libraries' idle threads spin for a while and would take another contender's cores.
    rest_s: float = 0.0


@dataclass
class Outcome:
    """What became of a candidate. `status` is ok, dropped, skipped, wrong or failed; only ok and dropped have times."""

    name: str
    ours: bool
    status: str = "ok"
    seconds: list[float] = field(default_factory=list)
    error: float = float("nan")
    note: str = ""


def measure(candidates: Sequence[Candidate], policy: Policy, rng: random.Random) -> list[Outcome]:
    """Checks every candidate, samples those that are right and not far behind; one outcome each, in the same order.

    At least `min_samples` rounds are made, whatever the budget; kronsparse is never dropped. A contender that
    raises fails alone.
    """
    outcomes = [Outcome(c.name, c.ours) for c in candidates]
    running: list[tuple[Outcome, Contender]] = []
    fastest = float("inf")
    for candidate, outcome in zip(candidates, outcomes, strict=True):
        contender = _enter(candidate, outcome, policy, fastest)
        if outcome.seconds and not outcome.ours:
            fastest = min(fastest, outcome.seconds[0])
        if contender is not None:
            running.append((outcome, contender))
    # Some were opened before a much faster one was known.
    for outcome, contender in list(running):
        if not outcome.ours and outcome.seconds[0] > policy.far * fastest:
            _leave(outcome, contender, running, "dropped", _behind(outcome.seconds[0], fastest, "check"))
    first = {outcome.name: outcome.seconds.pop() for outcome, _ in running}
    start = time.perf_counter()
    for number in range(1, policy.max_samples + 1):
        if number > policy.min_samples and time.perf_counter() - start > policy.budget_s:
            break
        turn = list(running)
        rng.shuffle(turn)
        for outcome, contender in turn:
            try:
                expected = min([first[outcome.name], *outcome.seconds])
                outcome.seconds.append(_sample(contender, expected, policy))
            except Exception as error:  # reported in its row; the others go on
                _leave(outcome, contender, running, "failed", _words(error))
        if number >= 2:
            _drop_slow(running, first, policy.middle if number == 2 else policy.near)
    for _, contender in running:
        contender.close()
    running.clear()
    gc.collect()
    return outcomes


def _enter(candidate: Candidate, outcome: Outcome, policy: Policy, fastest: float) -> Contender | None:
    """Opens and checks a candidate; its time after the check becomes its first, provisional sample."""
    if candidate.excluded:
        outcome.status, outcome.note = "skipped", candidate.excluded
        return None
    if candidate.floor_s > 2.0 * fastest:
        outcome.status = "skipped"
        outcome.note = f"needs at least {candidate.floor_s:.3g} s at the peak rate, another took {fastest:.3g} s"
        return None
    contender: Contender | None = None
    try:
        contender = candidate.open()
        start = time.perf_counter()
        outcome.error = contender.check()
        if not outcome.error <= contender.tolerance:
            outcome.status = "wrong"
            outcome.note = f"error {outcome.error:.3g} above {contender.tolerance:.3g}"
        elif time.perf_counter() - start > 2.0 * policy.far * fastest and not outcome.ours:
            # The check reads its output too, so it is only good for telling that a peer is far behind.
            outcome.status, outcome.seconds = "dropped", [_first_sample(contender, policy)]
            outcome.note = _behind(outcome.seconds[0], fastest, "check")
        else:
            outcome.seconds = [_first_sample(contender, policy)]
            return contender
    except Exception as error:  # reported in its row; the others go on
        outcome.status, outcome.note = "failed", _words(error)
    if contender is not None:
        contender.close()
    return None


def _first_sample(contender: Contender, policy: Policy) -> float:
    """One call; the best of three where calls are short: the first meets cold caches, any may meet a neighbour."""
    seconds = contender.sample(1)
    return min(seconds, contender.sample(1), contender.sample(1)) if seconds < policy.warm_below_s else seconds


def _sample(contender: Contender, expected_s: float, policy: Policy) -> float:
    """One sample, seconds a call."""
    if policy.rest_s > 0.0:
        time.sleep(policy.rest_s)
    calls = max(1, min(1000, round(policy.sample_s / max(expected_s, 1e-7))))
    if expected_s < policy.warm_below_s:
        contender.sample(1)
    return contender.sample(calls) / calls


def _drop_slow(running: list[tuple[Outcome, Contender]], first: dict[str, float], factor: float) -> None:
    least = {o.name: min([first[o.name], *o.seconds]) for o, _ in running if not o.ours}
    best = min(least.values(), default=float("inf"))
    for outcome, contender in list(running):
        if not outcome.ours and least[outcome.name] > factor * best:
            _leave(outcome, contender, running, "dropped", _behind(least[outcome.name], best, "round"))


def _leave(
    outcome: Outcome, contender: Contender, running: list[tuple[Outcome, Contender]], status: str, note: str
) -> None:
    outcome.status, outcome.note = status, note
    contender.close()
    running[:] = [pair for pair in running if pair[0] is not outcome]


def _behind(seconds: float, fastest: float, when: str) -> str:
    return f"{seconds / fastest:.2g} times the fastest peer in its last {when}"


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
