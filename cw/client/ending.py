"""The end of the interpreter, and forks: what becomes of the sessions of this process.

Outstanding jobs are waited for, as concurrent.futures does; Ctrl-C breaks that wait. A forked child has no session.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from cw.program import count

LEAVE_SECONDS = 1.2
"""For sessions to end when the program was interrupted."""

INTERRUPT_SECONDS = 1.0
"""After which a Ctrl-C in the wait for outstanding jobs is seen at the latest."""


class Session(Protocol):
    """What is asked of a client's session. The methods are for any thread."""

    @property
    def on_exit(self) -> Callable[[], None]:
        """Called when all is delivered."""

    def outstanding(self) -> int:
        """Jobs submitted and not delivered yet."""

    def is_alive(self) -> bool:
        """Is its thread running?"""

    def leave_when_done(self) -> None:
        """Say goodbye when all is delivered."""

    def close(self, is_waiting: bool) -> None:
        """Take no more jobs, and say goodbye: when all are delivered, or now."""

    def leave_now(self, seconds: float) -> None:
        """Cancel all, and leave, even from a callback that does not return."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until its thread has ended."""

    def drop_after_fork(self) -> None:
        """In a forked child: let go of the connection without a word."""


_live: weakref.WeakSet[Any] = weakref.WeakSet()
_is_registered = False


def register(session: Session) -> None:
    """The session is there at the end."""
    global _is_registered
    _live.add(session)
    if not _is_registered:
        _is_registered = True
        # Runs before daemon threads are stopped; what concurrent.futures.thread uses.
        threading._register_atexit(_at_exit)  # type: ignore[attr-defined]


def _at_exit() -> None:
    sessions = list(_live)
    # Ctrl-C that nobody caught: its traceback has been printed just now. (Where one types, it may be from long ago.)
    kind = getattr(sys, "last_type", None)
    if isinstance(kind, type) and issubclass(kind, KeyboardInterrupt) and not hasattr(sys, "ps1"):
        _drop(sessions)
        return
    try:
        for session in sessions:
            session.leave_when_done()
        for session in sessions:
            while session.is_alive():
                # A signal that comes just before a lock is waited for is looked at when the wait is over.
                session.join(INTERRUPT_SECONDS)
            session.join()
            session.on_exit()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the next one is immediate
        left = sum(session.outstanding() for session in sessions)
        print(
            f"KeyboardInterrupt: cancelled {count(left, 'job')} that this program waited for", file=sys.stderr
        )
        _drop(sessions)
        sys._cw_last_act = _DieOfInterrupt()  # type: ignore[attr-defined]


def _drop(sessions: Iterable[Session]) -> None:
    deadline = time.monotonic() + LEAVE_SECONDS
    for session in sessions:
        session.close(is_waiting=False)
    for session in sessions:
        session.leave_now(max(0.1, deadline - time.monotonic()))


class _DieOfInterrupt:
    """A program that Ctrl-C ends dies of SIGINT, or the loop of the shell that runs it would go on.

    Python does that itself for a Ctrl-C in the main program, but not for one in this last wait. What lies in `sys` is
    deleted last of all, when the program's open files have been written.
    """

    def __del__(self, kill: Any = os.kill, pid: Any = os.getpid, number: int = signal.SIGINT) -> None:
        kill(pid(), number)


def _after_fork_in_child() -> None:
    for session in list(_live):
        session.drop_after_fork()
    _live.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
