"""Use of slots over some time, and the line of a worker's log that says it, which is read where a cluster ends."""

from __future__ import annotations

import re

from cw.named_tuple import NamedTuple

IDLE_SECONDS = 60.0
"""Time without a job after which a slot counts as not needed any more (seconds), in the advice on smaller pieces."""


class Used(NamedTuple):
    """Use of some slots."""

    used: float
    """Slot-seconds that jobs took."""
    held: float
    """Slot-seconds that there were."""
    saved: float
    """Slot-seconds after a slot's last job, beyond IDLE_SECONDS: pieces of one slot would have ended before."""


def as_line(used: Used) -> str:
    """Return the line of a worker's log about its use, which `parse` reads."""
    return (
        f"jobs used {used.used:.1f} of {used.held:.1f} slot-seconds here; "
        f"slots were without a job for {used.saved:.1f} of them, not counting {IDLE_SECONDS:g} s each"
    )


_LINE = re.compile(
    r"jobs used ([\d.]+) of ([\d.]+) slot-seconds here; slots were without a job for ([\d.]+) of them"
)


def parse(log: str) -> list[Used]:
    """Return the uses that a log tells, one for each worker that has written into it."""
    return [Used(*map(float, match.groups())) for match in _LINE.finditer(log)]
