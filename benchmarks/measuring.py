"""Code that workloads share: figures, warm-up, rates, slots held busy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.functions import noop, wait_for_file, whoami
from benchmarks.systems import System

WARM_UP_LIMIT = 120.0  # seconds; 32 heavy workers take half a minute to start on two CPUs


@dataclass(frozen=True)
class Figure:
    """One number that a workload measures, and which way is better."""

    name: str
    higher_is_better: bool = True


def warm_up(system: System, slots: int) -> None:
    """Return when every slot has run a job."""
    deadline = time.monotonic() + WARM_UP_LIMIT
    seen: set[int] = set()
    while len(seen) < slots:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(seen)} of {slots} slots had answered after {WARM_UP_LIMIT:.0f} s")
        seen.update(system.run(whoami, [0.05] * slots))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the time of a call (seconds) and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def rate(system: System, njobs: int, function: Callable[[int], int] = noop, offset: int = 0) -> float:
    """Return jobs per second for `njobs` single jobs, each of which must return its argument plus `offset`."""
    seconds, results = timed(lambda: system.run(function, range(njobs)))
    check_sum(results, njobs, offset)
    return njobs / seconds


def check_sum(results: Sequence[int], njobs: int, offset: int = 0) -> None:
    expected = njobs * (njobs - 1) // 2 + njobs * offset
    if len(results) != njobs or sum(results) != expected:
        raise ValueError(f"wrong results: {len(results)} of {njobs}, sum {sum(results)}, not {expected}")


def affordable(system: System, wanted: int, quick: bool, function: Callable[[int], int] = noop) -> int:
    """Return `wanted`, or the number of jobs that a slow system does in some seconds; the same rule for all."""
    probe, seconds = 10, 0.0
    while probe < 640 and seconds < 0.25:  # the first few say little: all systems are slow at first
        probe *= 2
        start = time.perf_counter()
        system.run(function, range(probe))
        seconds = time.perf_counter() - start
    budget = 1.0 if quick else 5.0
    return min(2000 if quick else wanted, max(20, round(budget * probe / seconds)))


def steady(once: Callable[[], float]) -> float:
    """Return the median of up to five values; a measurement that takes long is not repeated."""
    deadline = time.monotonic() + 3.0
    values = [once()]
    while len(values) < 5 and time.monotonic() < deadline:
        values.append(once())
    return statistics.median(values)


def steady_rate(system: System, njobs: int) -> float:
    return steady(lambda: rate(system, njobs))


@contextmanager
def slots_blocked(system: System, slots: int, directory: str = ".") -> Iterator[None]:
    """Keep every slot busy within this block, so that all submitted jobs stay outstanding."""
    gate = Path(directory).absolute() / f"gate-{time.monotonic_ns()}"
    blockers = [system.submit(wait_for_file, str(gate)) for _ in range(slots)]
    time.sleep(0.5)  # until they have started; none of them can end before the file exists
    try:
        yield
    finally:
        gate.touch()
    for blocker in blockers:
        blocker.result()
