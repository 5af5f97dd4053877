"""What the kernel says of a process: Linux's /proc."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable


def look_at(pid: int) -> tuple[str, int] | None:
    """Return (state, start time) of a process, or None. The states 'Z' and 'X' are those of one that has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # Its name may contain anything, even ')'.
    except OSError:
        return None
    return fields[0].decode(), int(fields[19])


def identity(pid: int) -> str:
    """Return 'PID START', which no other process of this boot ever has; '' if it has ended."""
    found = look_at(pid)
    return "" if found is None or found[0] in "ZX" else f"{pid} {found[1]}"


def show_as(command: Iterable[str]) -> None:
    """Show this command line in lists of processes (`ps`), as far as the one that this process was started with gives
    room. (A forked process has its parent's.)"""
    with contextlib.suppress(OSError):
        with open("/proc/self/stat", "rb") as file:
            start, end = map(int, file.read().rpartition(b")")[2].split()[45:47])
        text = b"\0".join(map(os.fsencode, command))[: max(0, end - start - 1)]
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(text.ljust(end - start, b"\0"))


def memory(pid: int) -> int:
    """Return the resident memory of a process (bytes); 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def pin(pid: int, cpus: Iterable[int]) -> None:
    """Let all threads of a process run on these CPUs from now on; none: on those of this process."""
    cpus = list(cpus) or os.sched_getaffinity(0)
    with contextlib.suppress(OSError):  # it has ended, or CPUs were taken away
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), cpus)
