"""What a job has used: CPU seconds, and memory at its peak. Measured in its runner, it travels behind the result.

    runner: begin -- job -- attach(payload), store(parts)        client, store: usage_of(payload) --> Usage
                                 payload | 7 bytes: CPU time in ms (34 bits), memory in MiB (22 bits) | b"u"

Behind a pickle there is room: pickle does not look there, and ends with a dot. Only jobs that lasted MEASURED_SECONDS
are measured, so that short ones cost nothing. A runner's processes count that have ended, and been waited for.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Sequence
from typing import Any

from cw.named_tuple import NamedTuple
from cw.net import memory
from cw.payloads import current
from cw.payloads.layout import Payload, behind_of

MEASURED_SECONDS = 0.01
"""Running time from which a job is measured (seconds). Shorter: a look at the counters, some 20 us, is seen."""

_MARK = b"u"
_MIB = 2**20
_MEMORY_BITS = 22
_MOST_MIB = 2**_MEMORY_BITS - 1
_MOST_MS = 2**34 - 1


class Usage(NamedTuple):
    """What a job has used."""

    cpu_seconds: float
    """CPU time of its process and of the processes that it has started and waited for."""
    peak_memory: int
    """Most resident memory (bytes) that its process had, or one of those that it has started. What earlier jobs have
    left in the process counts."""


# --- in the runner ----------------------------------------------------------------------------

# CPU time of this process when the last measured job ended, or just before it got its latest jobs; and when that was.
_cpu_before = _noted = 0.0
_children_before = 0.0
_children_peak = 0


def begin() -> None:
    """Note that the process begins with jobs that it has got. (It is not asked each time: that is a system call.)"""
    global _cpu_before, _noted
    now = time.perf_counter()
    if now - _noted > MEASURED_SECONDS:
        _noted = now
        _cpu_before = time.process_time()


def attach(payload: Payload, is_apart: bool = True) -> Payload:
    """Return the payload of a job that has just ended with its usage behind it. (`store` has done that for those that
    are no bytes.) `is_apart`: a large one may be in a memory file."""
    if type(payload) is not bytes:
        return payload
    if len(payload) <= memory.LARGE or not is_apart:
        return payload + _pack(_measure())
    with contextlib.suppress(OSError):
        return store([payload], len(payload))
    return payload


def store(parts: Sequence[Any], size: int) -> memoryview | bytes:
    """Store the parts of a payload as `memory.store` does, with the usage of its job behind them. Raises OSError."""
    if time.perf_counter() - current.began < MEASURED_SECONDS:
        return memory.store(parts, size)
    behind = _pack(_measure())
    return memory.store([*parts, behind], size + len(behind))


def _measure() -> Usage:
    """Return what was used since `begin`, or since the last call."""
    global _cpu_before, _children_before, _children_peak
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, of_children = time.process_time(), children.ru_utime + children.ru_stime
    used = cpu - _cpu_before + of_children - _children_before
    peak = own.ru_maxrss
    if children.ru_maxrss > _children_peak:  # the largest one of all that have ended
        peak = max(peak, children.ru_maxrss)
        _children_peak = children.ru_maxrss
    _cpu_before, _children_before = cpu, of_children
    # Without the right to do that, the peak is that of all jobs of this process.
    with contextlib.suppress(OSError):
        file = os.open("/proc/self/clear_refs", os.O_WRONLY)
        try:
            os.write(file, b"5")  # the peak begins anew
        finally:
            os.close(file)
    return Usage(max(used, 0.0), peak * 1024)


def _pack(used: Usage) -> bytes:
    ms = min(round(used.cpu_seconds * 1000), _MOST_MS)
    mib = min(-(-used.peak_memory // _MIB), _MOST_MIB)
    number: int = ms << _MEMORY_BITS | mib
    return number.to_bytes(7, "little") + _MARK


# --- at home ----------------------------------------------------------------------------------


def usage_of(payload: Payload) -> Usage | None:
    """Return the usage behind a result's or an error's payload; None if it has none."""
    behind = behind_of(payload)
    if behind is None or behind[7:] != _MARK:
        return None
    number = int.from_bytes(behind[:7], "little")
    return Usage((number >> _MEMORY_BITS) / 1000, (number & _MOST_MIB) * _MIB)


def copy_usage(source: Payload, target: Payload) -> Payload:
    """Return a payload that was made of another one with that one's usage behind it."""
    used = usage_of(source)
    return target if used is None or type(target) is not bytes else target + _pack(used)
