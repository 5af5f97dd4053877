"""Jobs that wait for jobs of their own: the client's side, and the lending of the job's CPUs meanwhile.

    job's main thread                          worker
      result(), wait, map ...: it would block
      Waits(job, serial, master) ------------>   the slot is lent, to jobs of deeper sessions only
      ... blocks, until its results are there
      WaitOver(serial, is_patient) ---------->   the slot's next is this job
      ... waits for its turn       <---------- Resume(serial)

A session of a client outside of jobs has depth 0; one of a client in a job is one deeper than the session of that job.
A job lends to deeper sessions only, so a slot has at most one waiting job, and one process, for each depth, however
many jobs wait. This is enough: among waiting jobs, the deepest one's own jobs find its slot lent to them.

On return, a `timeout` takes precedence over the turn: when it is over, the job goes on, and the slot is shared for a
while.

A child process of a job lends the job's slot in the same way if the job waits for it and offers that (cw.nested_link).

Only the main thread of a runner lends, since the job goes on while another of its threads blocks; and only for a client
that is connected to the master of the job's own worker: jobs for another cluster need no slot here. (The worker decides
that, by the master's start id in Waits.)
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from cw import nested_link

T = TypeVar("T")

SHORT_SECONDS = 0.001
"""Timeout of a wait below which it does not lend (seconds). Larger: a loop of short waits holds its slot. Smaller: each
check of a result costs messages and a process switch."""

depth = 0
"""Depth of the sessions of this process's clients; set in a runner (and so in its jobs' forks)."""


class Session(Protocol):
    """A client's session, as it is needed here."""

    lends: bool

    @property
    def master(self) -> str:
        """Start id of the master that it is connected to."""


class Lender:
    """Lends the slot of a runner's main thread. `report_wait(serial, master)` and `report_wait_over(serial,
    is_patient)` notify the worker, `wait_for_turn(serial, seconds)` blocks until it resumes the job (False: the
    time is over)."""

    def __init__(
        self,
        job: Callable[[], int],
        report_wait: Callable[[int, str], None],
        report_wait_over: Callable[[int, bool], None],
        wait_for_turn: Callable[[int, float | None], bool],
    ) -> None:
        self.job = job
        """Return the dispatch number of the job that runs."""
        self._thread = threading.get_ident()
        self._report_wait = report_wait
        self._report_wait_over = report_wait_over
        self._wait_for_turn = wait_for_turn
        self._serial = 0
        # The session it waits for; written by the main thread, read by that session's own when it has another master.
        self._session: Session | None = None
        self._lock = threading.RLock()  # reentrant: a signal's handler may wait, too

    def can_lend(self, session: Session, timeout: float | None) -> bool:
        """True if the calling thread is the main thread, and may lend while it blocks."""
        return (
            session.lends
            and threading.get_ident() == self._thread
            and self._session is None  # (a signal's handler may wait while the thread does)
            and (timeout is None or timeout >= SHORT_SECONDS)
        )

    def wait(self, session: Session, block: Callable[[float | None], T], timeout: float | None) -> T:
        """Return `block(timeout)`, with the slot lent meanwhile."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self._serial += 1
        try:
            with self._lock:
                self._session = session
                self._report_wait(self._serial, session.master)
            value = block(timeout)
        except BaseException:  # Ctrl-C, or a timeout: the job goes on at once
            self._end(False)
            raise
        left = None if deadline is None else deadline - time.monotonic()
        is_patient = left is None or left > 0
        self._end(is_patient)
        if is_patient:
            has_turn = False
            try:
                has_turn = self._wait_for_turn(self._serial, left)
            finally:
                if not has_turn:
                    self._report_wait_over(self._serial, False)
        return value

    def report_again(self, session: Session) -> None:
        """Notify the worker again, in the session's thread, after a change of its master."""
        with self._lock:
            if self._session is session:
                self._report_wait(self._serial, session.master)

    def _end(self, is_patient: bool) -> None:
        with self._lock:
            self._session = None
            self._report_wait_over(self._serial, is_patient)


lender: Lender | None = None
"""The lender of this process, if it is a runner, or the child that a job waits for."""


def wait(session: Session, block: Callable[[float | None], T], timeout: float | None) -> T:
    """Return `block(timeout)`, which waits for jobs of this session. A job's main thread lends its slot meanwhile."""
    if lender is None or not lender.can_lend(session, timeout):
        return block(timeout)
    return lender.wait(session, block, timeout)


def job() -> int:
    """Return the dispatch number of the job that this process runs; 0: it is no runner."""
    return 0 if lender is None else lender.job()


class _Event(threading.Event):
    """Event of concurrent.futures.wait and as_completed that lends, for futures of one session (or some more)."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set() or wait(self._session, super().wait, timeout)


class Waiters(list[Any]):
    """A future's `_waiters` in a runner: replaces the event on which concurrent.futures.wait and as_completed block by
    one that lends."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def append(self, waiter: Any) -> None:
        if type(waiter.event) is threading.Event:
            waiter.event = _Event(self._session)
        super().append(waiter)


def _lend_for_parent() -> None:
    """Lend the slot of the job that waits for this process, if it is such a child."""
    global lender, depth
    link = nested_link.of_process()
    if link is not None:
        depth = link.depth
        lender = Lender(lambda: link.job, link.report_wait, link.report_wait_over, link.wait_for_turn)


def _after_fork_in_child() -> None:
    global lender
    lender = None  # a fork of a job is not the job


os.register_at_fork(after_in_child=_after_fork_in_child)

if nested_link.VARIABLE in os.environ:
    _lend_for_parent()
