"""Facts about processes from /proc: their descendants, memory and CPU time."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Return all descendants of `pid`, without zombies."""
    children: dict[int, list[int]] = {}
    zombies = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            child = int(stat.parent.name)
            children.setdefault(int(parent), []).append(child)
            if state in "ZX":
                zombies.add(child)
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        todo += below
        found += [child for child in below if child not in zombies]
    return found


def harness_pid() -> int:
    """Return the process that runs the trials, this process's parent."""
    return os.getppid()


def siblings_named(*words: str) -> list[int]:
    """Find processes of this trial whose command line has one of the words.

    The search is below the harness, our parent, because it adopts detached processes.
    """
    candidates = set(descendants(harness_pid())) - {os.getpid()}
    return [pid for pid in candidates if any(word in command_line(pid) for word in words)]


def command_line(pid: int) -> str:
    """Return the command line, with spaces between the arguments; empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def resident_kib(pid: int) -> int:
    return _status_kib(pid, "VmRSS")


def peak_resident_kib(pid: int) -> int:
    return _status_kib(pid, "VmHWM")


def _status_kib(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise ValueError(f"/proc/{pid}/status has no {field}")


def settled_kib(pids: Sequence[int], patience: float = 30.0) -> int:
    """Return the processes' resident memory together (KiB), once it has stopped growing."""
    deadline = time.monotonic() + patience
    before = -1
    while True:
        now = sum(resident_kib(pid) for pid in pids)
        if abs(now - before) <= now // 1000 or time.monotonic() > deadline:
            return now
        before = now
        time.sleep(1.0)


def cpu_seconds(pid: int) -> float:
    """Return user and system time of the process, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
