"""Children of a process that adopts orphans: worker and forkserver end all that jobs have started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from collections.abc import Container

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)

LAST_SECONDS = 5.0
"""Time that the forkserver, at its end, waits for killed processes to disappear (seconds): one may hang in the
kernel."""


def set_subreaper() -> None:
    """Make orphaned descendants children of this process."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> list[int]:
    """List this process's children, adopted ones included."""
    pid = os.getpid()
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]
    except FileNotFoundError:  # a kernel without that file
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{name}/stat") as file:
                if int(file.read().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(name))
        return found


def kill(pid: int, is_group: bool, number: int = signal.SIGKILL) -> None:
    """Signal a child, or a whole group, if it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        (os.killpg if is_group else os.kill)(pid, number)


def kill_children(except_for: Container[int] = ()) -> None:
    """Kill all children except `except_for`, and what they leave behind, and wait until they are gone."""
    deadline = time.monotonic() + LAST_SECONDS
    while time.monotonic() < deadline:
        strays = [pid for pid in children() if pid not in except_for]
        if not strays:
            return
        for pid in strays:
            kill(pid, False)
            # The children of a killed process become ours as soon as it is reaped.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        select.select([], [], [], 0.002)
