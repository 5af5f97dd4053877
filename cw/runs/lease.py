"""The lease of a run: one steward at a time, also if several machines with one file system look after it.

    lease-00000001   {"holder": ..., "machine": ..., "process": "4711 83123", "beat": 17, "is_released": false}
    lease-00000002   ...                                                 the highest number is in force

Who finds no lease, or one that was released, or one whose holder is dead, makes the next number by `link`, which only
one can do. No lease in force is ever removed or renamed, so a judgement that comes late does no harm: its number is
taken.
A holder that was superseded, as it was frozen, sees the higher number at its next beat, and ends.

A holder on this machine is dead if its process is. Of one on another machine we see only whether its beat goes on; we
measure that by our own clock, and compare no clocks.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from typing import Any

from cw import processes
from cw.runs.folder import RunFolder

BEAT_SECONDS = 2.0
"""Time between two beats (seconds). Longer: a steward that died is replaced later. Shorter: more writes."""

SILENT_SECONDS = 30.0
"""Time without a beat after which a holder on another machine counts as dead (seconds). Longer: a run that lost its
steward waits. Shorter: a network file system that pauses lets a second steward in (the first then ends)."""

_NAME = re.compile(r"lease-(\d{8})")


class Lease:
    """One process's view of the lease of a run."""

    def __init__(self, folder: RunFolder) -> None:
        self.number = 0
        """Number of the lease that this process holds; 0: none."""
        self._folder = folder
        self._holder = os.urandom(8).hex()
        self._beat = 0

    def acquire(self, seconds: float = SILENT_SECONDS) -> bool:
        """Take the lease. False: another process has it, and lives. Blocks for up to `seconds` where only its beat can
        show that."""
        number, found = _in_force(self._folder)
        if found is not None and not _is_free(self._folder, number, found, seconds):
            return False
        if not self._folder.make(_name(number + 1), self._text()):
            return False
        self.number = number + 1
        if not self.is_in_force():  # this comes late: others were here meanwhile
            self.number = 0
            return False
        for old in _numbers(self._folder):
            if old < number:  # that before stays: somebody may be about to look at it
                self._folder.remove(_name(old))
        return True

    def beat(self) -> bool:
        """Show that the holder lives. False: another process has the lease now, and this one must end."""
        assert self.number
        if not self.is_in_force():
            return False
        self._beat += 1
        self._folder.write(_name(self.number), self._text())
        return self.is_in_force()

    def is_in_force(self) -> bool:
        """True if this process still has the lease."""
        return bool(self.number) and max(_numbers(self._folder), default=0) == self.number

    def release(self) -> None:
        """Give the lease back: the next one need not wait."""
        if self.is_in_force():
            self._folder.write(_name(self.number), self._text(is_released=True))
        self.number = 0

    def _text(self, is_released: bool = False) -> bytes:
        return json.dumps(
            {
                "holder": self._holder,
                "host": os.uname().nodename,
                "machine": _machine(),
                "process": processes.identity(os.getpid()),
                "beat": self._beat,
                "is_released": is_released,
            }
        ).encode()


def is_held(folder: RunFolder, seconds: float = SILENT_SECONDS) -> bool:
    """True if a living steward has the lease. Blocks for up to `seconds` where only its beat can show that."""
    number, found = _in_force(folder)
    return found is not None and not _is_free(folder, number, found, seconds)


def has_died(folder: RunFolder) -> bool:
    """True if the holder is known to have died without giving the lease back: it was on this machine."""
    number, found = _in_force(folder)
    is_here = found is not None and not found.get("is_released") and found.get("machine") == _machine()
    return is_here and found is not None and _is_free(folder, number, found, 0.0)


def holder(folder: RunFolder) -> str:
    """Describe who has the lease, living or not: 'pid 4711 on node7'; '' if nobody has."""
    _, found = _in_force(folder)
    if found is None or found.get("is_released"):
        return ""
    return f"pid {str(found.get('process', '')).partition(' ')[0]} on {found.get('host', '?')}"


def _is_free(folder: RunFolder, number: int, found: dict[str, Any], seconds: float) -> bool:
    """True if the lease was released, or its holder is dead."""
    if found.get("is_released"):
        return True
    if found.get("machine") == _machine():
        process = str(found.get("process", ""))
        return not process or processes.identity(int(process.split()[0])) != process
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(BEAT_SECONDS / 4, max(0.0, end - time.monotonic())))
        now, again = _in_force(folder)
        if now != number or again is None or again.get("beat") != found.get("beat"):
            return bool(again is not None and now == number and again.get("is_released"))
        if again.get("is_released"):
            return True
    return True


def _in_force(folder: RunFolder) -> tuple[int, dict[str, Any] | None]:
    """Return the number and the content of the lease in force; (0, None): there is none."""
    number = max(_numbers(folder), default=0)
    if not number:
        return 0, None
    with contextlib.suppress(ValueError):
        found = json.loads(folder.read(_name(number)) or b"")
        if isinstance(found, dict):
            return number, found
    return number, {"is_released": True}  # (it is written whole: somebody has damaged it)


def _numbers(folder: RunFolder) -> list[int]:
    try:
        names = os.listdir(folder.path)
    except OSError:
        return []
    return [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]


def _name(number: int) -> str:
    return f"lease-{number:08d}"


def _machine() -> str:
    """Identify where a pid means the same process: this boot, and its namespace (a container has its own)."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return f"{file.read().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"
