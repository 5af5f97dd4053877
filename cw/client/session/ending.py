"""Sessions of this process at the end of the interpreter, and after forks.

The interpreter waits for outstanding jobs, as with concurrent.futures; Ctrl-C ends that wait. A forked child has no
session.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

from cw.output.printer import printer
from cw.program import count

LEAVE_SECONDS = 1.2
"""Time for all sessions to end after the program was interrupted (seconds). Longer: Ctrl-C is slow. Shorter: a goodbye
may not be sent."""

INTERRUPT_SECONDS = 1.0
"""Longest delay of a Ctrl-C in the wait for outstanding jobs (seconds). Shorter: more wakeups."""


class Session(Protocol):
    """A client's session, as it is needed here. The methods are for any thread."""

    @property
    def on_exit(self) -> Callable[[], None]:
        """Callback for when all results are delivered."""

    def outstanding(self) -> int:
        """Return the number of jobs submitted and not delivered yet."""

    def is_alive(self) -> bool:
        """True if its thread is running."""

    def leave_when_done(self) -> None:
        """Say goodbye when all results are delivered."""

    def close(self, is_waiting: bool) -> None:
        """Accept no more jobs, and say goodbye: when all results are delivered (`is_waiting`), or now."""

    def leave_now(self, seconds: float) -> None:
        """Cancel all jobs and leave within `seconds`, even if a callback does not return."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until its thread has ended."""

    def drop_after_fork(self) -> None:
        """Drop the connection in a forked child, without a goodbye."""


class Leaver(Protocol):
    """A client that hands its calls over at the end of the program. The methods may block."""

    def leave(self) -> bool:
        """Hand over what is outstanding. False: there is nothing, or it is not possible."""

    def end(self) -> None:
        """Note that the client has ended without leaving anything over."""

    def drop_after_fork(self) -> None:
        """Hand nothing over in a forked child."""


class JobSource(Protocol):
    """Submits jobs to a session from a thread of its own."""

    def stop(self) -> None:
        """Submit no more."""


_live: weakref.WeakSet[Any] = weakref.WeakSet()
_sources: weakref.WeakSet[Any] = weakref.WeakSet()
_leavers: weakref.WeakKeyDictionary[Any, Leaver] = weakref.WeakKeyDictionary()  # by session
_is_registered = False
_is_over = False  # `_at_exit` has done its work


def register(session: Session) -> None:
    """Register a session, which is then ended with the interpreter."""
    global _is_registered
    _live.add(session)
    if not _is_registered:
        _is_registered = True
        # Runs before daemon threads are stopped; concurrent.futures.thread uses it, too.
        threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
        atexit.register(_after_at_exit)


def register_source(source: JobSource) -> None:
    """Register what submits jobs to a session: it is stopped at the interpreter's end, before sessions wait."""
    _sources.add(source)


def register_leaver(session: Session, leaver: Leaver) -> None:
    """Register what hands a session's calls over, at the end of the interpreter before sessions wait. It is kept alive
    until `unregister_leaver`."""
    _leavers[session] = leaver


def unregister_leaver(session: Session) -> None:
    """Note that the session needs no more handing over."""
    _leavers.pop(session, None)


def _at_exit() -> None:
    global _is_over
    sessions: list[Session] = []
    try:
        for source in list(_sources):
            source.stop()
        sessions = list(_live)
        # An uncaught Ctrl-C: its traceback has just been printed. (In an interactive interpreter, it may be old.)
        kind = getattr(sys, "last_type", None)
        is_interrupted = isinstance(kind, type) and issubclass(kind, KeyboardInterrupt)
        leavers = dict(_leavers)
        if is_interrupted and not hasattr(sys, "ps1"):
            _drop([session for session in sessions if session not in leavers])
            sessions = list(leavers)
        for leaver in leavers.values():
            _leave(leaver)
        for session in sessions:
            session.leave_when_done()
        for session in sessions:
            while session.is_alive():
                # A signal that comes just before a wait for a lock is handled only when the wait is over.
                session.join(INTERRUPT_SECONDS)
            session.join()
            session.on_exit()
        for leaver in leavers.values():
            leaver.end()
        while not printer.drain(INTERRUPT_SECONDS):
            pass  # a reader of the output pauses, and other programs would wait for it, too
    except KeyboardInterrupt:
        _end_by_interrupt(sessions or list(_live))
    _is_over = True


def _after_at_exit() -> None:
    """Act on a Ctrl-C between the program's last line and `_at_exit`, which Python then does not call."""
    if not _is_over and _live:
        _end_by_interrupt(list(_live))


def _end_by_interrupt(sessions: Collection[Session]) -> None:
    """Cancel what the program would have waited for, and let it end by SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the next one is immediate
    left = sum(session.outstanding() for session in sessions)
    print(f"KeyboardInterrupt: cancelled {count(left, 'job')} that this program waited for", file=sys.stderr)
    _drop(sessions)
    sys._cw_last_act = _DieOfInterrupt()  # type: ignore[attr-defined]


def _leave(leaver: Leaver) -> None:
    """Let a client hand over; an error of its input is shown, and hinders no other."""
    try:
        leaver.leave()
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)


def _drop(sessions: Iterable[Session]) -> None:
    deadline = time.monotonic() + LEAVE_SECONDS
    for session in sessions:
        session.close(is_waiting=False)
    for session in sessions:
        session.leave_now(max(0.1, deadline - time.monotonic()))
    printer.drain(max(0.1, deadline - time.monotonic()))


class _DieOfInterrupt:
    """Ends the program by SIGINT when it is deleted; otherwise the loop of a shell that runs it would go on.

    Python does this itself for a Ctrl-C in the main program, but not for one in this last wait. Attributes of `sys` are
    deleted last, when the program's open files have been written.
    """

    def __del__(self, kill: Any = os.kill, pid: Any = os.getpid, number: int = signal.SIGINT) -> None:
        kill(pid(), number)


def _after_fork_in_child() -> None:
    for session in list(_live):
        session.drop_after_fork()
    for leaver in list(_leavers.values()):
        leaver.drop_after_fork()
    _live.clear()
    _leavers.clear()
    _sources.clear()  # a lock of theirs may be held by a thread that is not here


os.register_at_fork(after_in_child=_after_fork_in_child)
