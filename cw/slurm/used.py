"""How much of a cluster's time its jobs used, as its workers say in their logs when they end; and what would save some.

    logs of the workers --> of_logs() --> Total --> in_words(): "used 394 of 633 slot-seconds (62 %); ..."

Each worker measures itself (`cw.worker.policy.usage`), so this survives the master. One that was killed says nothing:
then the words say of how many workers they are.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from typing import NamedTuple

from cw.slot_seconds import IDLE_SECONDS, Used, parse

TAIL = 256 * 1024
"""Number of bytes at the end of a log in which the lines are sought. More: `stop` takes longer if jobs print much."""

ADVICE = "would have saved up to"
"""Words of the advice, if there is one."""

_STARTED = re.compile(r"^\S+ \S+ a worker in .*; slots: \d+$", re.MULTILINE)
"""Line that a batch script writes before each worker."""


class Total(NamedTuple):
    """Use of a cluster's slots."""

    sum: Used
    measured: int
    """Number of workers that it is of."""
    workers: int
    """Number of workers that there were."""


def of_logs(directory: str) -> Total:
    """Add up what the workers with logs in this directory have said."""
    found: list[Used] = []
    workers = 0
    for path in glob.glob(os.path.join(glob.escape(directory), "workers-*-*.log")):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            text = file.read().decode(errors="replace")
            uses = parse(text)
            found += uses
            workers += max(1, len(uses), len(_STARTED.findall(text)))
    added = Used(
        sum(one.used for one in found), sum(one.held for one in found), sum(one.saved for one in found)
    )
    return Total(added, len(found), workers)


def in_words(total: Total) -> str:
    """Describe the use of a cluster; '' if nothing is known of it."""
    used, held, saved = total.sum
    if held < 1:
        return ""
    text = f"used {used:.0f} of {held:.0f} slot-seconds ({100 * used / held:.0f} %)"
    if total.measured < total.workers:
        text += f" in {total.measured} of {total.workers} workers"
    if saved >= 1:
        text += f"; pieces of 1 and --idle {IDLE_SECONDS:g} {ADVICE} {saved:.0f}"
    return text
