"""Cells of a notebook, and of IPython's prompt: an interrupted one takes along the jobs that it has submitted.

    cell begins  -->  the last job so far, of each session
    cell ends    -->  interrupted? --yes--> its sessions' later jobs are cancelled, and stopped if they run

A session that the cell has not made stays usable. Jobs of earlier cells go on; what they print appears under the cell
that has submitted them.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from bisect import bisect_left
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

from cw.client.maps import progress
from cw.client.session.jobs import Jobs
from cw.output import streams
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

_cells: weakref.WeakKeyDictionary[Any, list[tuple[int, Any]]] = weakref.WeakKeyDictionary()
"""The last job before a cell, and the cell as `streams.cell_of` gives it, in their order, by session. Written by the
main thread, read by the sessions'."""

MOST_CELLS = 1000
"""Number of cells of a session that are remembered. Fewer: what jobs of older ones print appears under later ones."""

_shell: Any = None
"""The shell that reports its cells."""


def register(session: Session) -> None:
    """Let an interrupted cell cancel the jobs that it has submitted to this session. (Without IPython, no cells.)"""
    global _shell
    shell = ipython_shell()
    if not hasattr(shell, "events"):
        return
    _last_numbers[session] = 0
    _cells[session] = [(0, streams.cell_of(sys.stdout))]
    if shell is not _shell:
        _shell = shell
        shell.events.register("pre_run_cell", _on_begin)
        shell.events.register("post_run_cell", _on_end)


_waking: TimerHandle | None = None
"""The next wakeup of the kernel's loop while a cell runs."""


def _on_begin(info: Any) -> None:
    import asyncio  # IPython has loaded it

    for session in list(_last_numbers):
        _last_numbers[session] = last = session.jobs.last_number
        _cells[session] = [*_cells[session][-MOST_CELLS:], (last, streams.cell_of(sys.stdout))]
    _sleep()  # (cells may be nested)
    with contextlib.suppress(RuntimeError):  # no loop runs: not in a kernel
        _wake(asyncio.get_running_loop())


def _wake(loop: AbstractEventLoop) -> None:
    global _waking
    _waking = loop.call_later(WAKE_SECONDS, _wake, loop)


def _sleep() -> None:
    if _waking is not None:
        _waking.cancel()


def cell_of(session: Session, number: int) -> Any:
    """Return the cell that has submitted a job; None if there are no cells. Any thread."""
    found = _cells.get(session)
    if found is None:
        return None
    return found[max(0, bisect_left(found, number, key=itemgetter(0)) - 1)][1]


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
