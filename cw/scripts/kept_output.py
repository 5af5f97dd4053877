"""The output of a script on disk, within a bound, and the reading of it while it grows.

host: OutputFile.write ---> output ------------------> follow(): all that is there, then what comes
                              '-- full --> output.1 ('the one before that is gone)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO

FILE_BYTES = 32 * 1024**2
"""Size at which the output goes on in a new file. The one before stays, as `output.1`. Larger: a script that prints
without end takes more disk. Smaller: less of what was before is there."""

READ_BYTES = 64 * 1024


class OutputFile:
    """The file `path`, which grows by what the script prints. A full disk costs output, never the script."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._left_out = 0
        self._file = self._open()
        self._size = self._file.tell()

    def write(self, data: bytes) -> None:
        """Append the data."""
        try:
            if self._size > FILE_BYTES:
                self._begin_another()
            if self._left_out:
                note = b"\n[%d bytes left out: the disk did not take them]\n" % self._left_out
                self._file.write(note)
                self._size, self._left_out = self._size + len(note), 0
            self._file.write(data)
            self._size += len(data)
        except OSError:  # no room on the disk
            self._left_out += len(data)

    def close(self) -> None:
        """Write it to the disk, and close it."""
        with contextlib.suppress(OSError):
            os.fsync(self._file.fileno())
        with contextlib.suppress(OSError):
            self._file.close()

    def _begin_another(self) -> None:
        os.replace(self._path, self._path + ".1")
        self._file.close()
        self._file, self._size = self._open(), 0

    def _open(self) -> BinaryIO:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return open(descriptor, "ab", buffering=0)


class Reader:
    """Reads the output from its beginning, and what has come since at each further `read`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        with contextlib.suppress(OSError):
            self._file = open(path + ".1", "rb")

    def read(self) -> Iterator[bytes]:
        """Yield what is there and was not read before."""
        while True:
            if self._file is not None:
                while data := self._file.read(READ_BYTES):
                    yield data
            following = self._following()
            if following is None:
                return
            if self._file is not None:
                yield from iter(lambda: self._file.read(READ_BYTES) if self._file else b"", b"")
                self._file.close()
            self._file = following

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _following(self) -> BinaryIO | None:
        """Return the file in which the output goes on, if that is another one."""
        try:
            found = open(self._path, "rb")
        except OSError:
            return None
        if self._file is not None and os.path.samestat(
            os.fstat(found.fileno()), os.fstat(self._file.fileno())
        ):
            found.close()
            return None
        return found
