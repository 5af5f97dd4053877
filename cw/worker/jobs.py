"""The jobs that a worker holds: which wait, which are with a runner, and which nobody wants any more.

                    |<-- not wanted: named to the caller, who returns them
      take          |                        popleft, del           finished
     --------> BACKLOG --------------------------------> with a runner ---------> forgotten
                ^   |  stop, spare, give_back, block, drain      |
                |   '------------------------------------> forgotten
                '------------------------------------------------'
                                    put_back

Methods that take jobs out give their dispatches: the caller tells the master. Pure: no socket, no thread, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from cw.net.objects import Object

AVOID_SECONDS = 1.0
"""A job waits so long for another slot than the one where its runner died: the others may never be free."""


Context = tuple[int, int]
"""Session and environment."""


class Job:
    """A dispatch that this worker holds."""

    __slots__ = (
        "dispatch", "session", "number", "function", "context", "avoid", "attempt", "payload", "timeout",
        "stopped", "spared", "told", "expired", "is_cut", "keeps",
    )  # fmt: skip

    def __init__(
        self,
        dispatch: int,
        session: int,
        number: int,
        function: Object,
        avoid: int,
        attempt: int,
        payload: Any,
        timeout: float = 0.0,
    ) -> None:
        self.dispatch = dispatch
        self.session = session
        self.number = number  # within the session
        self.function = function
        self.context = session, function.runs_in
        self.avoid = avoid - 1  # the slot where it died before, or -1
        self.attempt = attempt  # the first, second, ... time that it is tried
        self.payload = payload
        self.stopped = False  # nobody waits for it any more
        self.spared = False  # nor is it to start; but if it has, it goes on
        self.told = False  # reported as started
        self.timeout = timeout  # seconds that it may run, or 0
        self.expired = False  # it has run for longer
        self.is_cut = False  # it ends with this worker, and runs again elsewhere
        self.keeps = False  # what it returns when its time is up is its result

    @property
    def must_end(self) -> bool:
        return self.stopped or self.expired or self.is_cut


class HeldJobs:
    """All jobs of one worker. Those that are not in the backlog are with a runner, which others know of."""

    def __init__(self) -> None:
        self.backlog: deque[Job] = deque()
        self.by_dispatch: dict[int, Job] = {}
        self.blocked: frozenset[int] = frozenset()
        """Sessions for which no slot can be used: what comes of them is not wanted."""
        self.closed: set[int] = set()
        """Sessions whose CloseSession may have overtaken their jobs, or that have runners."""
        self.is_draining = False
        self._forgotten: set[int] = set()  # closed sessions whose jobs have all come
        self._last_dispatch = 0  # they come in order
        self._stopped_early: set[int] = set()  # stops that overtook their dispatch
        self._spared_early: set[int] = set()  # and take-backs
        self._avoiding: deque[tuple[float, Job]] = deque()  # until when

    # --- jobs come ---

    def take(self, jobs: Sequence[Job], now: float) -> list[int]:
        """Add these to the backlog. Returns the dispatches of those that are not wanted."""
        unwanted: list[int] = []
        early = self._stopped_early | self._spared_early
        refused = self.closed | self.blocked if self.blocked else self.closed
        is_choosy = early or refused or self.is_draining
        held, append = self.by_dispatch, self.backlog.append
        for job in jobs:
            if is_choosy and (job.session in refused or job.dispatch in early or self.is_draining):
                unwanted.append(job.dispatch)
                continue
            if job.avoid >= 0:
                self._avoiding.append((now + AVOID_SECONDS, job))
            held[job.dispatch] = job
            append(job)
        if jobs:
            self._last_dispatch = jobs[-1].dispatch
            if early:
                self._forget_early()
        return unwanted

    def put_back(self, jobs: Iterable[Job]) -> list[int]:
        """What was sent ahead, the last one first, waits again. Returns what is not wanted any more."""
        jobs = list(jobs)
        gone = [job.dispatch for job in jobs if job.stopped or job.spared or self.is_draining]
        self.forget(gone)
        self.backlog.extendleft(job for job in jobs if job.dispatch in self.by_dispatch)
        return gone

    def allow_all_slots(self, now: float) -> None:
        """Jobs that have waited long for another slot take any."""
        while self._avoiding and self._avoiding[0][0] <= now:
            self._avoiding.popleft()[1].avoid = -1

    # --- jobs are not wanted any more ---

    def stop(self, dispatches: Iterable[int]) -> list[int]:
        """Nobody waits for these any more. Returns those that waited here; those that have started are marked."""
        for dispatch in dispatches:
            job = self.by_dispatch.get(dispatch)
            if job is not None:
                job.stopped = True
            elif dispatch > self._last_dispatch:  # otherwise it has ended
                self._stopped_early.add(dispatch)
        return self._take_out(lambda job: job.stopped)

    def spare(self, dispatches: Iterable[int]) -> list[int]:
        """These must not start. Returns those that waited here; those with a runner are marked."""
        for dispatch in dispatches:
            job = self.by_dispatch.get(dispatch)
            if job is not None:
                job.spared = True
            elif dispatch > self._last_dispatch:
                self._spared_early.add(dispatch)
        return self._take_out(lambda job: job.spared)

    def give_back(self, count: int) -> list[int]:
        """Take out the last `count` jobs of the backlog."""
        found = [self.backlog.pop().dispatch for _ in range(min(count, len(self.backlog)))]
        self.forget(found)
        return found

    def block(self, sessions: frozenset[int]) -> list[int]:
        """Refuse the jobs of these sessions, and of no others, until the next call. Returns those that waited."""
        self.blocked = sessions
        return self._take_out(lambda job: job.session in sessions) if sessions else []

    def drain(self) -> list[int]:
        """Refuse all jobs from now on. Returns those that waited."""
        self.is_draining = True
        return self._take_out(lambda job: True)

    def forget(self, dispatches: Iterable[int]) -> None:
        """These are not here any more."""
        for dispatch in dispatches:
            self.by_dispatch.pop(dispatch, None)

    def _take_out(self, is_unwanted: Callable[[Job], bool]) -> list[int]:
        gone = [job.dispatch for job in self.backlog if is_unwanted(job)]
        if gone:
            self.backlog = deque(job for job in self.backlog if not is_unwanted(job))
            self.forget(gone)
        return gone

    # --- masters and sessions ---

    def begin_anew(self) -> None:
        """Another master is there: what the one before said has all arrived."""
        self._last_dispatch = 0
        self._stopped_early.clear()
        self._spared_early.clear()
        self.blocked = frozenset()

    def open_session(self, session: int) -> None:
        """Its jobs are welcome (again)."""
        self.closed.discard(session)
        self._forgotten.discard(session)

    def close_session(self, session: int) -> list[int]:
        """Refuse its jobs from now on. Returns the dispatches of those that are here, which the caller stops."""
        self.closed.add(session)
        return [dispatch for dispatch, job in self.by_dispatch.items() if job.session == session]

    def forget_session(self, session: int) -> None:
        """It is closed, and no job of it comes any more."""
        self._forgotten.add(session)

    def forget_sessions_without(self, sessions: Collection[int]) -> set[int]:
        """Forget all that is over of sessions that are not among these, which have runners. Returns what it forgot."""
        gone = self._forgotten.difference(sessions)
        self._forgotten -= gone
        self.closed -= gone
        return gone

    def _forget_early(self) -> None:
        for numbers in (self._stopped_early, self._spared_early):
            numbers.difference_update([number for number in numbers if number <= self._last_dispatch])

    def check_invariants(self, sent: Sequence[Job]) -> None:
        """Raise AssertionError if the books contradict themselves. `sent`: the jobs with runners. For tests."""
        places = [*self.backlog, *sent]
        assert len(places) == len({job.dispatch for job in places})
        assert {job.dispatch for job in places} == set(self.by_dispatch)
        assert not any(job.stopped or job.spared for job in self.backlog)
        assert not (self.is_draining and self.backlog)
        assert all(number > self._last_dispatch for number in self._stopped_early | self._spared_early)
