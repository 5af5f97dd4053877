"""Part of the master's policy that counts for observers: jobs that ended, by session and function; failures; starts.

    on_results  ---> Run: results in a row of one function ---> Tally: done, failed, recent, durations
    on_started  ---> Tallies.started
    errors      ---> Tallies.failures   <--- the client, which alone can read them, tells their first and last lines

Counting costs a few additions for each batch of results, not for each job. What waits and runs is not counted at all:
`cw.master.observers.snapshot` looks at the jobs when an observer looks. Time is an attribute, `now`, that the master
sets every second: so rates are not finer than that.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Protocol

from cw.named_tuple import NamedTuple
from cw.net.objects import Estimate

NAMES = 1000
"""Most functions of one session that are counted by name. Of more, the others are counted as one."""

UNNAMED, OTHERS = "?", "(others)"

MINUTE, MINUTES = 60.0, 300.0

RUNS = 200
"""Number of the latest runs from which durations are estimated. Larger: more memory for each function, and old ones
count longer. Smaller: rougher."""

FAILURES = 20
"""Number of the latest failures that are kept."""

STARTED = 1000
"""Number of noted starts from which those that are over are searched and dropped."""


class Recent:
    """Number of events within the last `seconds`, about: of those before the present span of this length as many are
    counted as if they had been spread evenly over theirs."""

    __slots__ = ("before", "began", "count", "first", "seconds", "total")

    def __init__(self, seconds: float, now: float) -> None:
        self.seconds = seconds
        self.first = now
        self.began = now
        self.count = self.before = 0
        self.total = 0  # of all time

    def add(self, count: int, now: float) -> None:
        if now - self.began >= self.seconds:
            self._turn(now)
        self.count += count
        self.total += count

    def number(self, now: float) -> float:
        """Number of events within the last `seconds`."""
        if now - self.began >= self.seconds:
            self._turn(now)
        return self.count + self.before * (1 - (now - self.began) / self.seconds)

    def rate(self, now: float) -> float:
        """Events per second; since the first moment, if that is less than `seconds` ago (but a second at least)."""
        return self.number(now) / min(self.seconds, max(now - self.first, 1.0))

    def _turn(self, now: float) -> None:
        spans = math.floor((now - self.began) / self.seconds)
        self.before = self.count if spans == 1 else 0
        self.count = 0
        self.began += spans * self.seconds


class Tally:
    """The ended jobs of one function of one session."""

    __slots__ = ("ended", "failed", "minute", "minutes", "name", "runs")

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.ended = 0
        self.failed = 0  # of these
        self.minute, self.minutes = Recent(MINUTE, now), Recent(MINUTES, now)
        # The duration of one job of each run, and the number of jobs that it stands for.
        self.runs: deque[tuple[float, int]] = deque(maxlen=RUNS)

    def add(self, count: int, seconds: float, now: float) -> None:
        """Count a run of jobs that have ended. `seconds`: the duration of one of them."""
        self.ended += count
        self.minute.add(count, now)
        self.minutes.add(count, now)
        self.runs.append((seconds, count))

    def quantiles(self, *shares: float) -> list[float] | None:
        """Durations that these shares of the latest jobs did not exceed, smaller shares first; None: none has ended."""
        if not self.runs:
            return None
        runs = sorted(self.runs)
        total = sum(count for _, count in runs)
        found: list[float] = []
        passed = 0
        for seconds, count in runs:
            passed += count
            while len(found) < len(shares) and passed >= shares[len(found)] * total:
                found.append(seconds)
        return found

    def mean(self) -> float:
        """Mean duration of the latest jobs; 0 if none has ended."""
        total = sum(count for _, count in self.runs)
        return sum(seconds * count for seconds, count in self.runs) / total if total else 0.0


class Failure:
    """A job that failed."""

    __slots__ = ("at", "client", "first", "function", "host", "last", "number", "session", "worker")

    def __init__(self, session: int, number: int, function: str, worker: str, at: float) -> None:
        self.session = session
        self.number = number
        self.function = function
        self.worker = worker  # key of its worker; ''
        self.host = self.client = ""  # host of its worker and label of its client, if these are gone
        self.at = at
        self.first = self.last = ""  # as its client tells


class Holder(Protocol):
    """A worker, which holds jobs."""

    @property
    def held(self) -> Mapping[int, object]:
        """By dispatch number."""


class Sums(NamedTuple):
    """Ended and failed jobs."""

    ended: int
    failed: int


class Tallies:
    """All that is counted for observers."""

    def __init__(self) -> None:
        self.now = 0.0
        """The present time (by the master's clock). Set by the master, every second."""
        self.by_session: dict[int, dict[str, Tally]] = {}
        self.minute = Recent(MINUTE, 0.0)
        self.failures: deque[Failure] = deque(maxlen=FAILURES)
        self.started: dict[int, tuple[str, float]] = {}
        """By dispatch number of the jobs whose start was reported, oldest first: their worker, and when. Some are
        over."""
        self._closed = Sums(0, 0)  # of sessions that are closed
        self._tidy_at = STARTED

    # --- facts ---

    def on_second(self, now: float) -> None:
        """The present time."""
        if not self.now:
            self.minute = Recent(MINUTE, now)
        self.now = now

    def name(self, session: int, estimate: Estimate, name: str) -> None:
        """The session's client calls the functions of this estimate so."""
        estimate.tally = self._tally(session, name)

    def tally_of(self, session: int, estimate: Estimate) -> Tally:
        """The tally of a session's functions of this estimate."""
        if estimate.tally is None:
            estimate.tally = self._tally(session, UNNAMED)
        tally: Tally = estimate.tally
        return tally

    def on_ended(self, session: int, estimate: Estimate, count: int, seconds: float) -> None:
        """A run of jobs has ended; one of them took `seconds`."""
        self.tally_of(session, estimate).add(count, seconds, self.now)
        self.minute.add(count, self.now)

    def on_failed(self, session: int, number: int, estimate: Estimate, worker: str) -> None:
        """A job failed. It is one of those that have ended, or will be."""
        tally = self.tally_of(session, estimate)
        tally.failed += 1
        self.failures.append(Failure(session, number, tally.name, worker, self.now))

    def on_given_up(self, session: int, number: int, estimate: Estimate, worker: str, reason: str) -> Failure:
        """A job was given up: it ended without a result."""
        self.on_failed(session, number, estimate, worker)
        self.tally_of(session, estimate).ended += 1
        self.failures[-1].first = reason
        return self.failures[-1]

    def on_tried_again(self, session: int, estimate: Estimate) -> None:
        """A job that had failed is tried again: it has not ended."""
        tally = self.tally_of(session, estimate)
        if tally.failed:  # (at another master, before)
            tally.failed -= 1
            tally.ended -= 1

    def on_error_lines(self, session: int, number: int, first: str, last: str) -> None:
        """The client tells the lines of a job's error."""
        for failure in reversed(self.failures):
            if (failure.session, failure.number) == (session, number):
                failure.first, failure.last = first, last
                return

    def on_started(self, worker: str, dispatch: int, workers: Mapping[str, Holder]) -> None:
        """A job runs at one of these workers."""
        self.started[dispatch] = worker, self.now
        if len(self.started) > self._tidy_at:
            self.started = {
                started: (at, since)
                for started, (at, since) in self.started.items()
                if at in workers and started in workers[at].held
            }
            self._tidy_at = max(STARTED, 2 * len(self.started))

    def on_worker_gone(self, worker: str, host: str) -> None:
        """A worker of this host is gone for good."""
        for failure in self.failures:
            if failure.worker == worker:
                failure.host = host

    def on_client_gone(self, session: int, label: str) -> None:
        """The client with this label is gone for good."""
        for failure in self.failures:
            if failure.session == session:
                failure.client = label

    def on_session_closed(self, session: int) -> None:
        """The session is over: only its sums and failures are kept."""
        for tally in self.by_session.pop(session, {}).values():
            self._closed = Sums(self._closed.ended + tally.ended, self._closed.failed + tally.failed)

    # --- questions ---

    def sums(self) -> Sums:
        """Ended and failed jobs of all sessions."""
        tallies = [tally for tallies in self.by_session.values() for tally in tallies.values()]
        return Sums(
            self._closed.ended + sum(tally.ended for tally in tallies),
            self._closed.failed + sum(tally.failed for tally in tallies),
        )

    def _tally(self, session: int, name: str) -> Tally:
        tallies = self.by_session.setdefault(session, {})
        name = name if name in tallies or len(tallies) < NAMES else OTHERS
        if name not in tallies:
            tallies[name] = Tally(name, self.now)
        return tallies[name]

    def check_invariants(self) -> None:
        """Raise AssertionError if the counts contradict each other. For tests."""
        for tallies in self.by_session.values():
            assert len(tallies) <= NAMES + 1
            for name, tally in tallies.items():
                assert tally.name == name and 0 <= tally.failed <= tally.ended
                assert tally.minute.count >= 0 and len(tally.runs) <= RUNS
        assert len(self.started) <= self._tidy_at and len(self.failures) <= FAILURES
