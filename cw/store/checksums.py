"""Checksums of large data, made in a thread of their own while the data is on its way to the disk.

The checksum of 10 MB takes 1 to 3 ms, without the interpreter's lock; so long the disk would wait for the next file.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from queue import SimpleQueue


class Checksums:
    """Makes checksums for one thread. Its own thread begins with the first of them."""

    def __init__(self) -> None:
        self._given: SimpleQueue[tuple[memoryview, SimpleQueue[int]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, data: memoryview) -> Callable[[], int]:
        """Begin to compute the CRC-32 of bytes, which must not change meanwhile. Returns what waits for it."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="cw-store-sums", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # at the end of the interpreter, or there are too many threads
                return lambda: zlib.crc32(data)
            self._thread = thread
        answer: SimpleQueue[int] = SimpleQueue()
        self._given.put((data, answer))
        return answer.get

    def close(self) -> None:
        """End the thread. May be called again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._given.put(None)
            thread.join()

    def _run(self) -> None:
        while (given := self._given.get()) is not None:
            data, answer = given
            answer.put(zlib.crc32(data))
            del given, data, answer  # so that the memory can be released
