"""Pairs of sides, interleaved in one process: A B A B ... What is quoted is the median of the ratios of the pairs.

Absolute times depend on the machine and the minute, ratios of neighbours much less. Before anything is timed, both
sides have to give the same answer.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

Side = Callable[[], Any]


@dataclass(frozen=True)
class Ratio:
    """How many times as long our side takes as the other."""

    what: str
    median: float
    low: float
    high: float
    pairs: int
    ours_us: float
    other_us: float
    goal: float | None = None
    met: bool | None = None


@dataclass(frozen=True)
class Count:
    """Something that is counted, not timed."""

    what: str
    value: float
    goal: float | None = None
    met: bool | None = None


@dataclass
class Report:
    """What a benchmark prints."""

    benchmark: str
    machine: dict[str, Any]
    ratios: list[Ratio] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)

    def count(self, what: str, value: float, goal: float | None = None) -> None:
        """Add a count; it meets its goal when it is at most as large."""
        self.counts.append(Count(what, value, goal, None if goal is None else value <= goal))
        note(f"  {what}: {value:g}")

    def compare(
        self,
        what: str,
        ours: Side,
        other: Side,
        *,
        calls: int,
        pairs: int = 7,
        batch: int = 1,
        goal: float | None = None,
        answers: bool = True,
    ) -> None:
        """Time ``ours`` against ``other``.

        Args:
            calls: of each side in each pair.
            batch: how many times a call does what is timed.
            answers: whether both sides have to give equal answers.
        """
        if answers and (mine := ours()) != (theirs := other()):
            raise SystemExit(f"{what}: the answers differ: {mine!r} and {theirs!r}")
        for side in (ours, other):
            _time(side, max(1, calls // 5))
        timed = []
        for pair in range(pairs):
            sides = (ours, other) if pair % 2 else (other, ours)
            seconds = {side: _time(side, calls) for side in sides}
            timed.append((seconds[ours], seconds[other]))
        ratios = sorted(mine / theirs for mine, theirs in timed)
        median = statistics.median(ratios)
        self.ratios.append(
            Ratio(
                what,
                round(median, 3),
                round(ratios[0], 3),
                round(ratios[-1], 3),
                pairs,
                round(statistics.median(mine for mine, _ in timed) / calls / batch * 1e6, 1),
                round(statistics.median(theirs for _, theirs in timed) / calls / batch * 1e6, 1),
                goal,
                None if goal is None else median <= goal,
            )
        )
        note(f"  {what}: {median:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def _time(side: Side, calls: int) -> float:
    gc.collect()
    begin = time.perf_counter()
    for _ in range(calls):
        side()
    return time.perf_counter() - begin


def note(text: str) -> None:
    """Say something to whoever watches."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def report(benchmark: str, server_version: str) -> Iterator[Report]:
    """Collect the results of a benchmark, and print them when the block ends."""
    machine = {"cpus": os.cpu_count(), "postgres": server_version, "python": platform.python_version()}
    made = Report(benchmark, machine)
    note(f"{benchmark}: PostgreSQL {server_version}, Python {machine['python']}, {machine['cpus']} CPUs")
    yield made
    print(json.dumps(asdict(made), indent=1))
