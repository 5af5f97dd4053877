"""Figures of a run: all that a report says, summed while calls are read. Pure: no file, no drawing, no clock.

    add(call), in order of their ends --> totals, functions, hosts    Totals, Durations
                                      --> rate and busy slots         Bins
                                      --> what each slot did          Timeline
                                      --> the slowest, those that failed

Memory does not grow with the number of calls: each of these is bounded.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Any, NamedTuple

from cw.report.bins import Bins
from cw.report.durations import Durations, class_of
from cw.report.timeline import Timeline

MOST_FUNCTIONS = 40
"""Most functions with figures of their own. Larger: a longer page. Smaller: more are summed as `OTHERS`."""

MOST_HOSTS = 5000
"""Most hosts with figures of their own. Larger: more memory. Smaller: more are summed as `OTHERS`."""

MOST_FAILURES = 10_000
"""Most calls of which it is known that they failed, so that a later success is recognised. Larger: more memory."""

SHOWN = 20
"""Number of slowest calls, and of calls that failed last, that are shown. Larger: a longer page."""

OTHERS = "(others)"

TOGETHER = 0.1
"""Longest time (seconds) between results of one chunk, which are stored together. Larger: two jobs that have the same
number by chance are taken for one. Smaller: a chunk is drawn as calls that overlap."""


class Call(NamedTuple):
    """A call that has ended."""

    function: str
    host: str
    end: float
    """When its result arrived: seconds since 1970."""
    seconds: float
    is_failed: bool
    job: tuple[int, int]
    """Its run (any number), and its job's number in the run: calls of one chunk have the same."""
    key: Any
    """What identifies it, also when it is tried again."""
    source: Any = None
    """Where its arguments and its error are."""


class Totals:
    """What all calls of a function, or on a host, took together."""

    def __init__(self) -> None:
        self.durations = Durations()
        self.failed = 0

    def add(self, seconds: float, place: int, is_failed: bool) -> None:
        self.durations.add(seconds, place)
        self.failed += is_failed


class _Job:
    """The calls of a job that were read so far: they ran one after the other, and the last ended at `end`."""

    def __init__(self, call: Call) -> None:
        self.first = self.last = call
        self.calls = 0
        self.failed = 0
        self.seconds = 0.0

    def add(self, call: Call, seconds: float) -> None:
        self.last = call
        self.calls += 1
        self.failed += call.is_failed
        self.seconds += seconds


class Figures:
    """The figures of a run. After the last call, `finish` must be called."""

    def __init__(self) -> None:
        self.totals = Totals()
        """Those of all functions; known after `finish`."""
        self.functions: dict[str, Totals] = {}
        self.hosts: dict[str, Totals] = {}
        self.bins = Bins()
        self.timeline = Timeline()
        self.begin = float("inf")
        self.end = float("-inf")
        self.done_after_failure = 0
        """Number of calls that failed, and were done when they were tried again."""
        self._failures: dict[Any, Call] = {}  # by key, the latest last
        self._forgotten = 0  # failures that are not among these any more
        self._slowest: list[tuple[float, int, Call]] = []  # a heap
        self._counter = itertools.count()
        self._job: _Job | None = None

    def add(self, call: Call) -> None:
        """Add a call that has ended."""
        job = self._job
        if job is None or call.job != job.last.job or call.end - job.last.end > TOGETHER:
            self._end_job()
            job = self._job = _Job(call)
        # A chunk whose process died is stored as that many failed calls, each with the seconds of all.
        is_repeated = (
            job.calls > 0 and call.is_failed and job.last.is_failed and call.seconds == job.last.seconds
        )
        seconds = 0.0 if is_repeated else max(0.0, call.seconds)
        job.add(call, seconds)
        place = class_of(seconds)
        _entry(self.functions, call.function, MOST_FUNCTIONS).add(seconds, place, call.is_failed)
        _entry(self.hosts, call.host, MOST_HOSTS).add(seconds, place, call.is_failed)
        self.begin = min(self.begin, call.end - seconds)
        self.end = max(self.end, call.end)
        if call.is_failed or self._failures:
            self._note_failure(call)
        if len(self._slowest) < SHOWN:
            heapq.heappush(self._slowest, (seconds, -next(self._counter), call))
        elif seconds > self._slowest[0][0]:
            heapq.heapreplace(self._slowest, (seconds, -next(self._counter), call))

    def finish(self) -> None:
        """Take in what the last call has left open, and sum up."""
        self._end_job()
        self.totals = Totals()
        for totals in self.functions.values():
            self.totals.durations.merge(totals.durations)
            self.totals.failed += totals.failed

    @property
    def failed(self) -> int:
        """Number of calls that failed, and were not done later."""
        return len(self._failures) + self._forgotten

    def slowest(self) -> list[Call]:
        """Return the calls that took longest, the longest first."""
        return [call for _, _, call in sorted(self._slowest, reverse=True)]

    def failures(self) -> list[Call]:
        """Return the calls that failed last, the latest first."""
        return list(itertools.islice(reversed(self._failures.values()), SHOWN))

    def _note_failure(self, call: Call) -> None:
        if self._failures.pop(call.key, None) is not None and not call.is_failed:
            self.done_after_failure += 1
        if call.is_failed:
            self._failures[call.key] = call
            if len(self._failures) > MOST_FAILURES:
                del self._failures[next(iter(self._failures))]
                self._forgotten += 1

    def _end_job(self) -> None:
        job, self._job = self._job, None
        if job is None:
            return
        first, end = job.first, job.last.end
        start, end = self.timeline.add(
            first.host, end - job.seconds, end, first.function, job.calls, job.failed
        )
        self.bins.add_interval(start, end)
        for is_failed, number in ((False, job.calls - job.failed), (True, job.failed)):
            if number:
                self.bins.add_ends(end, is_failed, number)


def _entry(table: dict[str, Totals], name: str, most: int) -> Totals:
    found = table.get(name)
    if found is None:
        if len(table) >= most:
            name = OTHERS
        found = table.setdefault(name, Totals())
    return found
