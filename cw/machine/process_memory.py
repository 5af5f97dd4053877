"""Memory that processes hold: what would be free if they ended. Files that they have mapped do not count.

descendants(runner)  -->  upper_bound (some counters)  -->  held (a walk through the pages: only near a limit)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

PROC = "/proc"


def descendants(pid: int, proc: str = PROC) -> list[int]:
    """Return a process and all that descend from it."""
    found = [pid]
    for one in found:  # which grows
        tasks = os.path.join(proc, str(one), "task")
        with contextlib.suppress(OSError):  # it has ended
            for task in os.listdir(tasks):
                with open(os.path.join(tasks, task, "children")) as file:
                    found += map(int, file.read().split())
    return found


def upper_bound(pids: Iterable[int], proc: str = PROC) -> int:
    """Return the memory of these processes (bytes), with what several of them share counted for each."""
    return sum(_sum(pid, "status", ("RssAnon:", "RssShmem:"), proc) or 0 for pid in pids)


def held(pids: Iterable[int], proc: str = PROC) -> int:
    """Return the memory of these processes (bytes), with what n processes share, such as the forkserver's, counted in
    n parts. Takes some 10 ms for each GiB."""
    total = 0
    for pid in pids:
        found = _sum(pid, "smaps_rollup", ("Pss_Anon:", "Pss_Shmem:"), proc)
        total += upper_bound([pid], proc) if found is None else found
    return total


def _sum(pid: int, name: str, fields: tuple[str, ...], proc: str) -> int | None:
    """Return the sum of these fields, or None if there is none of them."""
    found = None
    with contextlib.suppress(OSError), open(os.path.join(proc, str(pid), name)) as file:
        for line in file:
            if line.startswith(fields):
                found = (found or 0) + int(line.split()[1]) * 1024
    return found
