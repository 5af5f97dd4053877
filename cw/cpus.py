"""Number of CPUs that this process may use: those of its affinity, and no more than its control groups allow."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def usable_cpus() -> int:
    """Return the number, 1 or more. A part of a CPU, as groups may allow, does not count."""
    return max(1, min([len(os.sched_getaffinity(0)), *map(int, _limits())]))


def _limits(groups: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> Iterator[float]:
    """Yield the limits of the groups that this process is in, in CPUs. (In a container, the root is its own group.)"""
    try:
        with open(groups) as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return
    for _, controllers, path in lines:
        if not controllers:
            yield from _along(root, path, "cpu.max")
        elif "cpu" in controllers.split(","):
            for name in (controllers, "cpu"):
                yield from _along(os.path.join(root, name), path, "cpu.cfs_quota_us", "cpu.cfs_period_us")


def _along(root: str, path: str, *names: str) -> Iterator[float]:
    """Yield the limit of this group and of all above it: quota and period are in one file, or in two."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for count in range(len(parts), -1, -1):
        words: list[str] = []
        for name in names:
            with contextlib.suppress(OSError), open(os.path.join(root, *parts[:count], name)) as file:
                words += file.read().split()
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
            yield int(words[0]) / int(words[1])
