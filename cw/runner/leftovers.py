"""Leftovers of jobs in their runner: timers, which must not fire in the next job, and threads.

A job's alarm belongs to the job: its handler, or the default one, which ends the process, must not hit another job.
Asking the kernel after each job would cost as much as a short job (three calls), so the functions of `signal` that set
timers note that they were called. Timers set by C code are looked for only after jobs longer than LONG_SECONDS.

A non-daemon thread goes on, as in a program. Its runner waits for it at its end, and the user gets a note.
"""

from __future__ import annotations

import faulthandler
import functools
import signal
import sys
import threading
from _thread import _count as count_threads
from collections.abc import Callable
from typing import Any

from cw.payloads import current

SHORT_SECONDS = 1e-5
"""Running time up to which a job is assumed to start no thread (seconds). Larger: threads go unseen. Smaller: short
jobs pay for the look."""

LONG_SECONDS = 1e-3
"""Running time after which the kernel is asked for timers (seconds). Larger: those of C code may stay. Smaller: short
jobs pay for the look."""

_TIMERS = signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF
_setitimer, _getitimer = signal.setitimer, signal.getitimer

_threads_seen = 0  # number of threads at the last look
_named: set[str] = set()  # functions already reported for leaving a thread


def watch_timers() -> None:
    """Note each call of `signal.alarm` and `signal.setitimer` from now on."""
    for function in (signal.alarm, signal.setitimer):
        setattr(signal, function.__name__, _noting(function))


def _noting(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def set_timer(*args: Any) -> Any:
        current.clear_timers = clear_timers
        current.due.add("timers")
        return function(*args)

    set_timer.__module__ = "signal"  # for pickling by name
    return set_timer


def clear_timers() -> None:
    """Stop all timers that the job has set."""
    for timer in _TIMERS:
        _setitimer(timer, 0)
    current.clear_timers = None


def look(seconds: float, function: Any) -> str:
    """Clear what must not stay after a job of `function` that took n seconds (more than SHORT_SECONDS). Returns a
    sentence for the user if it has left a thread and that was not reported before; otherwise ''."""
    global _threads_seen
    faulthandler.cancel_dump_traceback_later()
    if seconds > LONG_SECONDS and any(_getitimer(timer)[0] for timer in _TIMERS):
        clear_timers()
    count, before = count_threads(), _threads_seen
    _threads_seen = count
    return _name_threads(function) if count > before else ""


def _name_threads(function: Any) -> str:
    name = getattr(function, "__qualname__", type(function).__name__)
    # Threads of a pool end when the interpreter, at its end, asks them to.
    pools = getattr(sys.modules.get("concurrent.futures.thread"), "_threads_queues", ())
    left = [
        thread
        for thread in threading.enumerate()
        if not thread.daemon and thread is not threading.main_thread() and thread not in pools
    ]
    if not left or name in _named:
        return ""
    _named.add(name)
    target = getattr(left[-1], "_target", None)
    what = getattr(target, "__qualname__", type(left[-1]).__name__)
    return (
        f"a job of {name}() has returned while a thread that it started ({what}) goes on: nothing waits for that but "
        "the end of the job's process, for some seconds (--grace); join it in the job"
    )
