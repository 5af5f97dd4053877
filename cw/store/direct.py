"""Writing a large file: through the page cache, or directly to the disk, whichever is faster here.

A copy into the page cache takes CPU time, and much more of it while the system must find fresh memory for it: 10 MB
take 2 to 20 ms. A fast disk takes the bytes from where they are in less. A slow one does not; so both are measured.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import time

SHARE = 0.05
"""Share of the time for trying the other way again. More: a change is noticed sooner. Less: it costs less."""

BLOCK = 4096
"""What is written directly is a multiple of this (bytes), in memory and in the file. Less: some disks refuse it."""

AT_ONCE = 64 * 1024**2
"""Bytes written by one system call. More: a signal waits longer."""


class Ways:
    """Which of both ways to take, by their measured times. Pure; for one thread."""

    def __init__(self) -> None:
        self._pace = [0.0, 0.0]  # seconds for a byte: through the cache, directly; 0.0: not known
        self._spent = 0.0  # seconds since both were compared

    def is_direct(self, size: int) -> bool:
        """True if the next `size` bytes are to be written directly."""
        best = self._pace[True] < self._pace[False]
        return best != (self._pace[not best] * size <= self._spent * SHARE)

    def note(self, is_direct: bool, size: int, seconds: float) -> None:
        """Note how long it took; infinite: that way is not possible."""
        best = self._pace[True] < self._pace[False]
        self._spent = self._spent + seconds if is_direct == best else 0.0
        before, now = self._pace[is_direct], seconds / size
        self._pace[is_direct] = (before + now) / 2 if before else now


def write(fd: int, data: memoryview, is_durable: bool, ways: Ways) -> None:
    """Write a file, which is open and empty; `is_durable`: to the disk itself. Raises OSError."""
    start, written = time.perf_counter(), 0
    if is_direct := ways.is_direct(len(data)):
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
            written = _write_directly(fd, data)
            fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            ways.note(True, len(data), math.inf)  # a file system that cannot do that
        is_direct = written > 0
    while written < len(data):
        written += os.write(fd, data[written : written + AT_ONCE])
    if is_durable:
        os.fsync(fd)
    ways.note(is_direct, len(data), time.perf_counter() - start)


def _write_directly(fd: int, data: memoryview) -> int:
    """Write whole blocks; returns the number of bytes. 0: the data is not where a disk can take it from."""
    written, end = 0, len(data) - len(data) % BLOCK
    while written < end:
        try:
            written += os.write(fd, data[written : min(end, written + AT_ONCE)])
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            break
    return written
