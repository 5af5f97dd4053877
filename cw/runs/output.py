"""What the jobs of a run print, in its folder: line by line with their labels, within a bound.

    the steward --Piece--> OutputWriter --> output (output.1: what was before) --> OutputReader --> attach, `cw runs`

    1<tab>[simulate #17 node7] <tab>temperature out of range        a line: the stream, the label, the text

A file that has reached its bound becomes output.1, in place of the one before, and a new one begins.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO, NamedTuple

from cw.events import EventLogger
from cw.net import messages as m
from cw.output.printer import Piece
from cw.program import count
from cw.runs.folder import RunFolder

logger = EventLogger("cw.runs")

FILE_BYTES = 16 * 1024**2
"""Size at which a file ends. Larger: more disk. Smaller: less of what was printed first can be read."""

READ_BYTES = 1024 * 1024
"""Bytes that are read at a time, about."""


class Printed(NamedTuple):
    """Lines that one job has printed together. `stream`: m.STDOUT, m.STDERR, or m.RECORDS."""

    stream: int
    label: str
    data: bytes


class OutputWriter:
    """Appends to the output of a run; stands in the place of a `Printer`. A full disk costs output, not the run."""

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.output
        self._file: IO[bytes] | None = None
        self._is_failed = False

    def put(self, piece: Piece) -> None:
        """Append the lines of one job."""
        data = piece.data
        if piece.left_out:
            lines, size = piece.left_out
            data = f"[… {count(lines, 'line')} ({count(size, 'byte')}) left out]\n".encode()
        label = piece.label.replace("\t", " ").replace("\n", " ").encode()
        start = b"%d\t%s\t" % (piece.stream, label)
        text = data.removesuffix(b"\n").replace(b"\n", b"\n" + start)
        try:
            file = self._open()
            file.write(start + text + b"\n")
            if file.tell() > FILE_BYTES:
                self.close()
                os.replace(self._path, self._path + ".1")
        except OSError as error:
            self._file = None
            if not self._is_failed:
                logger.warning("runs.output_lost", "what jobs print is not kept in %s: %s", self._path, error)
            self._is_failed = True

    def settle(self) -> bool:
        """Return True: all is written."""
        return True

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _open(self) -> IO[bytes]:
        if self._file is None:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._file = open(fd, "ab", buffering=0)
        return self._file


class OutputReader:
    """Reads the output of a run, from its beginning or, with `is_new_only`, what comes from now on."""

    def __init__(self, folder: RunFolder, is_new_only: bool = False) -> None:
        self._path = folder.output
        self._file: IO[bytes] | None = None
        self._begun = b""
        if is_new_only and self._next_file(self._path):
            assert self._file is not None
            self._file.seek(0, os.SEEK_END)
        elif not is_new_only:
            self._next_file(self._path + ".1")

    def read(self) -> Iterator[Printed]:
        """Yield what has been printed since."""
        while True:
            if self._file is None and not self._next_file(self._path):
                return
            assert self._file is not None
            while data := self._file.read(READ_BYTES):
                data = self._begun + data
                end = data.rfind(b"\n") + 1
                self._begun = data[end:]
                yield from _pieces(data[:end])
            if self._is_current():
                return
            self.close()  # it was full: the next one goes on

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _next_file(self, path: str) -> bool:
        with contextlib.suppress(OSError):
            self._file = open(path, "rb", buffering=0)
        return self._file is not None

    def _is_current(self) -> bool:
        """True if the file that is open is the one to which the run appends."""
        assert self._file is not None
        try:
            now, here = os.stat(self._path), os.fstat(self._file.fileno())
        except OSError:
            return True  # the next one has not begun
        return (now.st_dev, now.st_ino) == (here.st_dev, here.st_ino)


def _pieces(data: bytes) -> Iterator[Printed]:
    """Yield whole lines, those of one job and stream together. A damaged line is passed over."""
    before, lines = b"", list[bytes]()
    for line in data.splitlines(keepends=True):
        stream, _, rest = line.partition(b"\t")
        label, tab, text = rest.partition(b"\t")
        start = stream + b"\t" + label
        if not tab or stream not in _STREAMS:
            continue
        if start != before and lines:
            yield _piece(before, lines)
            lines = []
        before = start
        lines.append(text)
    if lines:
        yield _piece(before, lines)


def _piece(start: bytes, lines: list[bytes]) -> Printed:
    stream, _, label = start.partition(b"\t")
    return Printed(int(stream), label.decode(errors="replace"), b"".join(lines))


_STREAMS = {b"%d" % stream for stream in (m.STDOUT, m.STDERR, m.RECORDS)}
