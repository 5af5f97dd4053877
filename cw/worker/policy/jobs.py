"""Jobs that a worker holds: which wait, which are with a runner, and which are not wanted any more.

                    |<-- not wanted: named to the caller, which returns them
      take          |                        popleft, del           finished
     --------> BACKLOG --------------------------------> with a runner ---------> forgotten
                ^   |  stop, withdraw, give_back, block, drain   |
                |   '------------------------------------> forgotten
                '------------------------------------------------'
                                    put_back

Methods that take jobs out return their dispatches: the caller reports them to the master.

Pure: no socket, no thread, no clock.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import Any

from cw.errors import ProtocolError
from cw.needs import ONE_CPU, Needs
from cw.net.objects import Object
from cw.requirements import NO_OPTIONS, JobOptions

EXCLUDED_SECONDS = 1.0
"""Time that a job waits for a slot other than the one where its runner died (seconds): the others may never be free."""


Context = tuple[int, int, int, tuple[str, ...]]
"""Session, number of the environment, CPUs that the job names (0: none), and the devices: () for a job that waits."""


class WorkerJob:
    """One dispatch that this worker holds."""

    __slots__ = (
        "dispatch", "session", "number", "function", "context", "options_object", "options", "choice", "needs",
        "excluded_slot", "attempt", "payload", "stopped", "withdrawn", "reported", "expired", "peak", "is_cut",
    )  # fmt: skip

    def __init__(
        self,
        dispatch: int,
        session: int,
        number: int,
        function: Object,
        options: Object | None,
        attempt: int,
        payload: Any,
    ) -> None:
        self.dispatch = dispatch
        self.session = session
        self.number = number  # within the session
        self.function = function
        self.options_object = options  # what travels
        self.options = NO_OPTIONS if options is None or options.options is None else options.options
        self.choice = 0  # the alternative that it runs as
        self.needs = ONE_CPU if self.options is NO_OPTIONS else _of_a_worker(self.options.needs)
        self.context: Context = (
            (session, function.runs_in, 0, ())
            if self.options is NO_OPTIONS
            else _context(session, function, self.options, self.needs)
        )
        self.excluded_slot: int | None = None  # where its runner died before
        self.attempt = attempt  # attempt number, from 1
        self.payload = payload
        self.stopped = False  # its result is not wanted any more
        self.withdrawn = False  # must not start; if it has started, it goes on
        self.reported = False  # reported as started
        self.expired = False  # it has reached a limit of its own
        self.peak = 0  # its memory (bytes), if it had grown beyond its limit of that
        self.is_cut = False  # it is stopped as the worker ends, and runs again elsewhere

    def run_as(self, choice: int) -> None:
        """Run as another alternative than the first. Raises ProtocolError if there is none."""
        choices = self.options.choices
        if choice >= len(choices):
            raise ProtocolError(f"a job as alternative {choice} of {len(choices)}")
        self.choice = choice
        self.needs = _of_a_worker(choices[choice])
        self.context = _context(self.session, self.function, self.options, self.needs)

    @property
    def must_end(self) -> bool:
        return self.stopped or self.expired or self.is_cut


def _context(session: int, function: Object, options: JobOptions, needs: Needs) -> Context:
    is_named = needs.cpus > 1 or options.cpus is not None
    return session, function.runs_in, needs.cpus if is_named else 0, ()


@functools.lru_cache(maxsize=1000)
def _of_a_worker(needs: Needs) -> Needs:
    """Return what counts here: the worker has the tags, or it would not have been sent the job. `ONE_CPU` itself, if
    that is all."""
    needs = needs._replace(tags=())
    return ONE_CPU if needs == ONE_CPU else needs


class HeldJobs:
    """All jobs of one worker: those in the backlog, and those with a runner, which the pool knows."""

    def __init__(self) -> None:
        self.backlog: deque[WorkerJob] = deque()
        self.by_dispatch: dict[int, WorkerJob] = {}
        self.blocked: frozenset[int] = frozenset()
        """Sessions for which no slot can be used: their jobs are refused."""
        self.closed: set[int] = set()
        """Closed sessions that have runners."""
        self.is_draining = False
        self.is_shaped = False
        """Some job here needs more than one CPU, or was here in the last second."""
        self._excluded_early: dict[int, int] = {}  # slots excluded for jobs that come soon, by dispatch
        self._excluding: deque[tuple[float, WorkerJob]] = deque()  # with the time until which each waits

    # --- jobs come ---

    def exclude_slots(self, dispatches: Iterable[int], slots: Iterable[int]) -> None:
        """Note the slots on which runners of jobs died that come next."""
        self._excluded_early.update(zip(dispatches, slots, strict=True))

    def take(self, jobs: Sequence[WorkerJob], now: float) -> list[int]:
        """Add jobs to the backlog. Returns the dispatches of those that are not wanted."""
        unwanted: list[int] = []
        is_choosy = self.blocked or self.is_draining
        held, append = self.by_dispatch, self.backlog.append
        if self._excluded_early:
            for job in jobs:
                job.excluded_slot = self._excluded_early.get(job.dispatch)
            # Jobs come in the order of their dispatch numbers: one that has been skipped was withdrawn.
            last = max((job.dispatch for job in jobs), default=0)
            self._excluded_early = {
                dispatch: slot for dispatch, slot in self._excluded_early.items() if dispatch > last
            }
        for job in jobs:
            if is_choosy and (job.session in self.blocked or self.is_draining):
                unwanted.append(job.dispatch)
                continue
            if job.excluded_slot is not None:
                self._excluding.append((now + EXCLUDED_SECONDS, job))
            if job.needs is not ONE_CPU:
                self.is_shaped = True
            held[job.dispatch] = job
            append(job)
        return unwanted

    def forget_shapes(self, busy: Iterable[Needs]) -> None:
        """Note if all jobs are of one CPU now, which makes assignment cheaper. `busy`: what is used on the slots, also
        by runners whose job has ended."""
        if self.is_shaped:
            needs = chain(busy, (job.needs for job in self.by_dispatch.values()))
            self.is_shaped = any(each is not ONE_CPU for each in needs)

    def put_back(self, jobs: Iterable[WorkerJob]) -> list[int]:
        """Put jobs that were sent ahead back in the backlog, the last one first. Returns those not wanted any more."""
        jobs = list(jobs)
        gone = [job.dispatch for job in jobs if job.stopped or job.withdrawn or self.is_draining]
        self.forget(gone)
        self.backlog.extendleft(job for job in jobs if job.dispatch in self.by_dispatch)
        return gone

    def allow_all_slots(self, now: float) -> None:
        """Allow any slot for jobs that have waited long for another one."""
        while self._excluding and self._excluding[0][0] <= now:
            self._excluding.popleft()[1].excluded_slot = None

    def all_slots_allowed_at(self) -> float:
        """Time at which `allow_all_slots` has something to do next; infinity: never."""
        return self._excluding[0][0] if self._excluding else math.inf

    # --- jobs are not wanted any more ---

    def stop(self, dispatches: Iterable[int]) -> list[int]:
        """Mark jobs as not wanted any more. Returns those that waited here; those that have started are marked."""
        for dispatch in dispatches:
            job = self.by_dispatch.get(dispatch)
            if job is not None:  # otherwise it has ended
                job.stopped = True
        return self._take_out(lambda job: job.stopped)

    def withdraw(self, dispatches: Iterable[int]) -> list[int]:
        """Mark jobs that must not start. Returns those that waited here; those with a runner are marked."""
        for dispatch in dispatches:
            job = self.by_dispatch.get(dispatch)
            if job is not None:
                job.withdrawn = True
        return self._take_out(lambda job: job.withdrawn)

    def drop_awaiting(self) -> list[int]:
        """Take out the jobs that wait for shared values, which the master that has promised them cannot send."""
        return self._take_out(lambda job: not job.function.is_ready())

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
        """Forget jobs that are not here any more."""
        for dispatch in dispatches:
            self.by_dispatch.pop(dispatch, None)

    def _take_out(self, is_unwanted: Callable[[WorkerJob], bool]) -> list[int]:
        gone = [job.dispatch for job in self.backlog if is_unwanted(job)]
        if gone:
            self.backlog = deque(job for job in self.backlog if not is_unwanted(job))
            self.forget(gone)
        return gone

    # --- masters and sessions ---

    def begin_anew(self) -> None:
        """Start over with another master: all messages of the one before have arrived."""
        self._excluded_early.clear()
        self.blocked = frozenset()

    def open_session(self, session: int) -> None:
        """Accept the jobs of this session (again)."""
        self.closed.discard(session)

    def close_session(self, session: int) -> list[int]:
        """Note that a session gets no more jobs. Returns the dispatches of those here, which the caller must stop."""
        self.closed.add(session)
        return [dispatch for dispatch, job in self.by_dispatch.items() if job.session == session]

    def forget_sessions_without(self, sessions: Collection[int]) -> set[int]:
        """Forget closed sessions, except `sessions`, which have runners. Returns what it forgot."""
        gone = self.closed.difference(sessions)
        self.closed -= gone
        return gone

    def check_invariants(self, sent: Sequence[WorkerJob]) -> None:
        """Raise AssertionError if the state contradicts itself. `sent`: the jobs with runners. For tests."""
        places = [*self.backlog, *sent]
        assert len(places) == len({job.dispatch for job in places})
        assert {job.dispatch for job in places} == set(self.by_dispatch)
        assert not any(job.stopped or job.withdrawn for job in self.backlog)
        assert not (self.is_draining and self.backlog)
        assert self.is_shaped or all(job.needs is ONE_CPU for job in self.by_dispatch.values())
