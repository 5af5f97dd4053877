"""Memory that this process may use: the machine's, and no more than its control groups and Slurm allow.

/proc/meminfo, memory.max along the groups, the batch job's  --least-->  Amount(size, source)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cw.machine import batch_job
from cw.machine import groups as control_groups

_FILES = {1: "memory.limit_in_bytes", 2: "memory.max"}


class Amount(NamedTuple):
    """An amount of memory (bytes; 0: unknown), and what sets it: 'the machine', 'its control group' or 'Slurm'."""

    size: int
    source: str


def usable_memory(
    environ: Mapping[str, str],
    groups: str = control_groups.GROUPS,
    root: str = control_groups.ROOT,
    meminfo: str = "/proc/meminfo",
) -> Amount:
    """Return the least of all limits."""
    found = [*_machine(meminfo), *_groups(groups, root)]
    if of_job := batch_job.memory(environ):
        found.append(Amount(of_job, "Slurm"))
    return min(found, key=lambda amount: amount.size, default=Amount(0, ""))


def _machine(meminfo: str) -> Iterator[Amount]:
    try:
        with open(meminfo) as file:
            lines = [line.split() for line in file]
    except OSError:
        return
    for words in lines:
        if words[:1] == ["MemTotal:"] and len(words) == 3:
            yield Amount(int(words[1]) * 1024, "the machine")


def _groups(groups: str, root: str) -> Iterator[Amount]:
    for version, directory in control_groups.directories("memory", groups, root):
        for word in control_groups.words(directory, _FILES[version])[:1]:
            if word.isdecimal() and int(word):  # no limit: "max", or more than any machine has
                yield Amount(int(word), "its control group")
