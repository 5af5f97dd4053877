"""Cells of a notebook, and of IPython's prompt: an interrupted one takes along the jobs that it has submitted.

    cell begins  -->  the last job so far, of each session
    cell ends    -->  interrupted? --yes--> its sessions' later jobs are cancelled, and stopped if they run

A session that the cell has not made stays usable. Jobs of earlier cells go on.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from cw.client import progress
from cw.client.jobs import Jobs
from cw.payloads.environment import ipython_shell

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, TimerHandle

WAKE_SECONDS = 0.5
"""Time between two wakeups of the kernel's event loop while a cell awaits (seconds). Longer: an interrupt is noticed
late (the kernel's handler does not wake the loop itself). Shorter: more wakeups."""


class Submitter(Protocol):
    """What cancels a session's jobs."""

    def cancel(self, number: int, is_delivered: bool = False) -> bool:
        """Cancel a job; if it runs, it is stopped."""


class Session(Protocol):
    """A client's session, as it is needed here."""

    jobs: Jobs

    @property
    def submitter(self) -> Submitter:
        """What cancels its jobs."""


_last_numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
"""Number of the last job before the cell that runs, by session. Used by the main thread."""

_shell: Any = None
"""The shell that reports its cells."""


def register(session: Session) -> None:
    """Let an interrupted cell cancel the jobs that it has submitted to this session. (Without IPython, no cells.)"""
    global _shell
    shell = ipython_shell()
    if not hasattr(shell, "events"):
        return
    _last_numbers[session] = 0
    if shell is not _shell:
        _shell = shell
        shell.events.register("pre_run_cell", _on_begin)
        shell.events.register("post_run_cell", _on_end)


_waking: TimerHandle | None = None
"""The next wakeup of the kernel's loop while a cell runs."""


def _on_begin(info: Any) -> None:
    import asyncio  # IPython has loaded it

    for session in list(_last_numbers):
        _last_numbers[session] = session.jobs.last_number
    _sleep()  # (cells may be nested)
    with contextlib.suppress(RuntimeError):  # no loop runs: not in a kernel
        _wake(asyncio.get_running_loop())


def _wake(loop: AbstractEventLoop) -> None:
    global _waking
    _waking = loop.call_later(WAKE_SECONDS, _wake, loop)


def _sleep() -> None:
    if _waking is not None:
        _waking.cancel()


def _on_end(result: Any) -> None:
    import asyncio

    _sleep()
    # (The kernel cancels a cell that awaits; where that comes to pass differs, and so does what is left of the cell.)
    error = asyncio.CancelledError() if result is None else result.error_in_exec
    if not isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
        return
    for bar in list(progress.shown):  # of a loop that was interrupted in its body, and is not closed yet
        bar.close()
    found = False
    for session, last in list(_last_numbers.items()):
        for job in session.jobs.all():
            if job.number > last:
                found |= session.submitter.cancel(job.number, True)
    if found:
        print("cw: the jobs of the interrupted cell are cancelled", file=sys.stderr)
