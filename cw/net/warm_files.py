"""Memory files that are written again: a file whose pages are there already takes 100 MB in 20 ms, a new one in 50.

    join(parts, size) --> written through a descriptor that never leaves this process --> kept for a short time
                                  | opened once more, with a shared lock
                                  '--> a Memory: mapped here, sent, mapped by who receives it

The lock (flock(2)) belongs to the second opening, and to all that comes of it: descriptors in any process or on the
way to one, mappings, those that a forked child inherits. When the last of them is gone, so is the lock, and the file
can be written again. Nobody else has to know of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Sequence
from typing import Any

from cw.net import memory
from cw.net.loop import Loop

LEAST = 4 * 1024**2
"""Bytes in the smallest file that is kept. Below, what is saved is little."""

MOST = 256 * 1024**2
"""Most bytes in all files that are kept: two of 100 MB, since the former one is often still in use. A sixteenth of the
memory, if that is less."""

SECONDS = 2.0
"""Time for which files are kept after the last one was written (seconds)."""


class WarmFiles:
    """Joins buffers in memory files, as `memory.store` does. Any thread. `loop` drops the files in time."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        # Descriptors and sizes, the oldest first. Who has removed one owns it; each step is atomic.
        self._files: list[tuple[int, int]] = []
        self._used_at = 0.0
        self._is_watched = False

    def join(self, parts: Sequence[Any], size: int) -> memoryview | bytes:
        """Join these buffers, `size` bytes in all, in a memory file. Raises OSError."""
        if LEAST <= size <= _most():
            try:
                return self._join(parts, size)
            except OSError:  # no descriptor is left, or there is no /proc
                self.drop()
        return memory.store(parts, size)

    def _join(self, parts: Sequence[Any], size: int) -> memoryview:
        own = self._take(size)
        own = memory.new_file(parts) if own is None else memory.write(own, parts)
        try:
            lent = os.open(f"/proc/self/fd/{own}", os.O_RDWR)
            stored = memory.mapped(lent, size)
            fcntl.flock(lent, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BaseException:
            os.close(own)
            raise
        self._keep(own, size)
        return stored

    def _take(self, size: int) -> int | None:
        """Take a file of this size that nobody has any more. The oldest is looked at: it is the first to be free."""
        for entry in tuple(self._files):
            if entry[1] == size:
                break
        else:
            return None
        try:
            self._files.remove(entry)
        except ValueError:  # another thread has it
            return None
        own = entry[0]
        try:
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # it is in use
            self._files.insert(0, entry)
            return None
        fcntl.flock(own, fcntl.LOCK_UN)
        return own

    def _keep(self, own: int, size: int) -> None:
        self._files.append((own, size))
        while sum(size for _, size in tuple(self._files)) > _most():
            self._drop_oldest()
        self._used_at = time.monotonic()
        if not self._is_watched:
            self._is_watched = True
            self._loop.call_soon_threadsafe(self._watch)

    def _watch(self) -> None:
        self._loop.call_every(SECONDS / 2, self._look)

    def _look(self, now: float) -> bool:
        """Drop the files if none was written for some time. False: there are none left."""
        if now - self._used_at < SECONDS:
            return True
        self._is_watched = False  # first: a file that comes now is watched again
        self.drop()
        return False

    def drop(self) -> None:
        """Keep no file; those in use end with their use. In a forked child, this leaves the parent's alone."""
        while self._files:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        with contextlib.suppress(IndexError):  # another thread was faster
            os.close(self._files.pop(0)[0])


def _most() -> int:
    return min(MOST, memory.half_of_all() // 8)
