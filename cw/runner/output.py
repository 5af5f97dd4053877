"""Output of jobs in their runner: it is written, and its end marked, before a job's result is.

    Python's streams, C's, gfortran's --flush--> pipes (cw.runner.output_channel) --> the worker
                                          '--> mark, if the job has printed

Python's stdout and C's are line-buffered here, so that lines go out as they come; what is left in the buffers at a
job's end is flushed. To call C's `fflush` after each job would cost as much as a part of a short job, so it is called
only if C's buffer has something: two pointers of its FILE say so (as glibc has it; where a test finds them elsewhere,
`fflush` is called each time).
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import Any

from cw.runner.output_channel import OutputWriter

LOOK_SECONDS = 1e-4
"""Least time of a job (seconds) after which we look for a library of gfortran that it has loaded, and undo O_NONBLOCK,
which we also do for a shorter job that has printed. Shorter: that takes a larger part of short jobs. Longer: a job that
loads it and prints sooner prints late, and prints of the job after a silent one that sets O_NONBLOCK may fail."""

_BASE, _NEXT = 4, 5  # words of a FILE of glibc: where its buffered bytes begin, and end
_IOLBF = 1


class CStdout:
    """The stdout of C code in this process."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._file = ctypes.c_void_p.in_dll(self._libc, "stdout")
        self._words = _words_of(self._file.value)
        self._can_look = _knows_layout(self._libc)

    def buffer_lines(self) -> None:
        """Write each line when it is complete. Must be called before anything is printed."""
        self._libc.setvbuf(self._file, None, _IOLBF, 0)

    def is_empty(self) -> bool:
        """True if nothing is known to be buffered."""
        return self._can_look and self._words[_BASE] == self._words[_NEXT]

    def flush(self) -> None:
        self._libc.fflush(self._file)


def _words_of(address: Any) -> memoryview:
    return memoryview((ctypes.c_uint64 * 6).from_address(address)).cast("B").cast("Q")


def _knows_layout(libc: Any) -> bool:
    """True if the words of a FILE are where we look for them."""
    libc.fopen.restype = ctypes.c_void_p
    file = libc.fopen(b"/dev/null", b"w")
    if not file:
        return False
    words = _words_of(file)
    libc.fputs(b"abc", ctypes.c_void_p(file))
    is_right = words[_NEXT] - words[_BASE] == 3
    libc.fflush(ctypes.c_void_p(file))
    is_right = is_right and words[_NEXT] == words[_BASE]
    libc.fclose(ctypes.c_void_p(file))
    return is_right


c_stdout = CStdout()
"""Made once, in the forkserver: the runners that it forks inherit it."""


class _Library(ctypes.Structure):
    """The `struct dl_phdr_info` of dl_iterate_phdr(3)."""

    _fields_ = (
        ("address", ctypes.c_void_p), ("name", ctypes.c_char_p), ("headers", ctypes.c_void_p),
        ("count", ctypes.c_uint16), ("loaded", ctypes.c_ulonglong), ("unloaded", ctypes.c_ulonglong),
    )  # fmt: skip


_CHANGED, _UNCHANGED = 1, 2  # what ends an iteration

_Look = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Library), ctypes.c_size_t, ctypes.c_void_p)


class Gfortran:
    """The library of gfortran, once a job has loaded it. (Its units have buffers of their own.)"""

    def __init__(self) -> None:
        self._loaded = -1  # number of libraries loaded so far, at the last look
        self._name = b""
        self._iterate = ctypes.CDLL(None).dl_iterate_phdr
        self._count = _Look(self._on_first)
        self._find = _Look(self._on_each)
        self.flush: Callable[[], object] | None = None

    def look(self) -> None:
        """Look for the library, if others were loaded since the last look."""
        if self._iterate(self._count, None) == _CHANGED:
            self._iterate(self._find, None)
            if self._name:
                flush = ctypes.CDLL(self._name.decode())._gfortran_flush_i4
                self.flush = lambda: flush(None)  # all units

    def _on_first(self, library: Any, size: int, data: Any) -> int:
        before, self._loaded = self._loaded, library.contents.loaded
        return _UNCHANGED if before == self._loaded else _CHANGED

    def _on_each(self, library: Any, size: int, data: Any) -> int:
        name = library.contents.name or b""
        if b"libgfortran" in name.rpartition(b"/")[2]:
            self._name = name
            return _CHANGED
        return 0


def write_record(line: bytes) -> None:
    """Send the client this line (without its end), which stands for a record of logging or warnings. For any thread of
    the runner, and for the processes that jobs fork."""
    if _own is not None:
        _own.write_record(line + b"\n")


_own: Output | None = None  # this process's


class Output:
    """What the jobs of this runner print."""

    def __init__(self, fds: Sequence[int]) -> None:
        """`fds`: see `OutputWriter`."""
        global _own
        _own = self
        self._writer = OutputWriter(fds)
        self._has_nothing = self._writer.has_nothing
        self.write_record = self._writer.write_record
        self._gfortran = Gfortran()
        c_stdout.buffer_lines()
        self._stdout, self._stderr = sys.stdout, sys.stderr
        for stream in self._stdout, self._stderr:
            if stream is not None:
                stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    def begin(self) -> None:
        """Note that a job begins after a pause: what came in between belongs to no job."""
        if not self._has_nothing():
            self._writer.mark(0)

    def end(self, number: int, seconds: float) -> bytes:
        """Write what the job has printed, and mark its end. Returns the frame that must precede its result."""
        if seconds > LOOK_SECONDS:
            self._writer.block()  # ssh, node and others set O_NONBLOCK on the stdout that they inherit
        try:
            self._stdout.flush()
            self._stderr.flush()
        except Exception:  # the job has closed it, or changed it in less time
            self._writer.block()
            self._flush_others()
        if sys.stdout is not self._stdout or sys.stderr is not self._stderr:
            self._flush_others()
        if not c_stdout.is_empty():
            c_stdout.flush()
        gfortran = self._gfortran
        if gfortran.flush is not None:
            gfortran.flush()
        elif seconds > LOOK_SECONDS:
            gfortran.look()
            if gfortran.flush is not None:
                gfortran.flush()
        if self._has_nothing():
            return b""
        if seconds <= LOOK_SECONDS:
            self._writer.block()  # for the next job: this one may have set it itself
        return self._writer.mark(number)

    def _flush_others(self) -> None:
        """Flush each stream that there is: a job may have put others in place, or closed some."""
        for stream in self._stdout, self._stderr, sys.stdout, sys.stderr:
            with contextlib.suppress(Exception):
                stream.flush()
