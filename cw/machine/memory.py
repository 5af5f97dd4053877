"""Memory that this process may use: the machine's, and no more than its control groups and Slurm allow.

all memory, memory.max along the groups, the batch job's  --least-->  Amount(size, source)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from cw.machine import batch_job
from cw.machine import groups as control_groups
from cw.named_tuple import NamedTuple

_FILES = {1: "memory.limit_in_bytes", 2: "memory.max"}


class Amount(NamedTuple):
    """An amount of memory (bytes), and what sets it: 'the machine', 'its control group' or 'Slurm'."""

    size: int
    source: str


def usable_memory(
    environ: Mapping[str, str],
    groups: str = control_groups.GROUPS,
    root: str = control_groups.ROOT,
    of_machine: int = 0,
) -> Amount:
    """Return the least of all limits. `of_machine`: the machine's memory; 0: as the kernel says."""
    total = of_machine or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = [Amount(total, "the machine"), *_groups(groups, root)]
    if of_job := batch_job.memory(environ):
        found.append(Amount(of_job, "Slurm"))
    return min(found, key=lambda amount: amount.size)


def _groups(groups: str, root: str) -> Iterator[Amount]:
    for version, directory in control_groups.directories("memory", groups, root):
        for word in control_groups.words(directory, _FILES[version])[:1]:
            if word.isdecimal() and int(word):  # no limit: "max", or more than any machine has
                yield Amount(int(word), "its control group")
