"""Number of CPUs that this process may use: those of its affinity, and no more than its control groups allow."""

from __future__ import annotations

import os
from collections.abc import Iterator

from cw.machine import groups as control_groups

_FILES = {1: ("cpu.cfs_quota_us", "cpu.cfs_period_us"), 2: ("cpu.max",)}
"""Files with quota and period, by the version of control groups."""


def usable_cpus() -> int:
    """Return the number, 1 or more. A part of a CPU, as groups may allow, does not count."""
    return max(1, min([len(os.sched_getaffinity(0)), *map(int, _limits())]))


def _limits(groups: str = control_groups.GROUPS, root: str = control_groups.ROOT) -> Iterator[float]:
    """Yield the limits of the groups that this process is in, in CPUs."""
    for version, directory in control_groups.directories("cpu", groups, root):
        words = control_groups.words(directory, *_FILES[version])
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
            yield int(words[0]) / int(words[1])
