"""The worker's log, as what jobs print goes there: whole lines with a label, within a bound.

    output="log", and what runners print outside of jobs --> add --> lines --> bound --> the log (stderr)

A job never waits for the log. If the log is stuck (a pipe that nobody reads, a stopped terminal), what comes meanwhile
is kept up to WAITING_BYTES; the rest is left out of the log, with a line that says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import stat
from collections import deque

WAITING_BYTES = 1024 * 1024
"""Most bytes kept for a log that is stuck."""

LOG_BYTES = 16 * 1024**2
"""Most bytes of jobs' output in the log at first, and then on each day. Larger: a job that prints without end fills the
disk. Smaller: more is left out."""

DAY = 86400.0

FILE_BYTES = 32 * 1024**2
"""Size at which a log file that cw has made goes on in a new one. The one before stays, as `worker.log.1`. Larger: more
disk. Smaller: less of what was before is there."""

LINE_BYTES = 16 * 1024
"""Longest line; a longer one is cut into several."""

_PIPE_BYTES = 4096  # A pipe that is ready takes a page without blocking; a file takes anything.


class JobLog:
    """What jobs print, on its way to the log `fd`. `directory`: what lies below it, cw has made. Used from one
    thread."""

    def __init__(self, fd: int, now: float, directory: str = "") -> None:
        self._log = fd
        self._path = _path_of(fd, directory) if directory else ""
        self._chunk = LINE_BYTES
        with contextlib.suppress(OSError):
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                self._chunk = _PIPE_BYTES
        self._writable = select.poll()
        self._writable.register(fd, select.POLLOUT)
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._open: dict[
            tuple[int, int], tuple[bytes, bytes]
        ] = {}  # label and begun line, by source and stream
        self._room, self._filled = float(LOG_BYTES), now
        self._unchecked = 0  # bytes written since the size of the file was looked at
        self._missing = self._late = 0  # bytes left out: beyond the bound; as the log was stuck

    @property
    def is_stuck(self) -> bool:
        """True if the log has not taken all that was written."""
        return bool(self._waiting)

    def add(self, source: int, stream: int, label: bytes, data: bytes, now: float) -> None:
        """Write what has come from this source (a job, or a runner outside of jobs), each line with the label."""
        _, begun = self._open.pop((source, stream), (b"", b""))
        data = begun + data
        end = data.rfind(b"\n") + 1
        if len(data) - end > LINE_BYTES:
            data += b"\n"
            end = len(data)
        if end < len(data):
            self._open[source, stream] = label, data[end:]
        if end:
            self._put(label + data[: end - 1].replace(b"\n", b"\n" + label) + b"\n", now)

    def end(self, source: int, now: float) -> None:
        """Write the lines that a source has begun which has ended."""
        for key in [key for key in self._open if key[0] == source]:
            label, begun = self._open.pop(key)
            self._put(label + begun + b"\n", now)

    def flush(self) -> None:
        """Write what the log takes now."""
        while self._waiting and self._is_writable():
            data = self._waiting[0]
            try:
                written = os.write(self._log, data[: self._chunk])
            except OSError:  # a full disk, a closed pipe: no log for now
                written = len(data)
            self._waiting_bytes -= written
            if written == len(data):
                self._waiting.popleft()
            else:
                self._waiting[0] = data[written:]
        if self._late and not self._waiting:
            late, self._late = self._late, 0
            self._append(b"[%d bytes of jobs' output left out: this log did not take them in time]\n" % late)

    def _put(self, lines: bytes, now: float) -> None:
        self._room = min(self._room + (now - self._filled) * LOG_BYTES / DAY, LOG_BYTES)
        self._filled = now
        if len(lines) > self._room:
            if not self._missing:
                self._append(
                    b"[jobs have printed more than %d MiB here: what they print is left out for now]\n"
                    % (LOG_BYTES // 1024**2)
                )
            self._room = min(self._room, 0.0)  # until there is room for some more, and not only for a line
            self._missing += len(lines)
        elif self._missing and self._room < LOG_BYTES / 100:
            self._missing += len(lines)
        else:
            if self._missing:
                self._append(b"[%d bytes of jobs' output left out here]\n" % self._missing)
                self._missing = 0
            self._room -= len(lines)
            if self._waiting_bytes + len(lines) > WAITING_BYTES:
                self._late += len(lines)
            else:
                self._append(lines)
                self._unchecked += len(lines)
        self.flush()
        if self._path and self._unchecked > FILE_BYTES // 32:
            self._unchecked = 0
            self._begin_file()

    def _append(self, line: bytes) -> None:
        self._waiting.append(line)
        self._waiting_bytes += len(line)

    def _begin_file(self) -> None:
        """Begin a new file, if the present one is large. Others write to it, too: so it is copied, and then emptied."""
        with contextlib.suppress(OSError):  # no room on the disk: it goes on as it is
            if os.fstat(self._log).st_size > FILE_BYTES:
                shutil.copyfile(self._path, self._path + ".1")
                os.ftruncate(self._log, 0)

    def _is_writable(self) -> bool:
        return any(
            events & select.POLLOUT or events & select.POLLNVAL for _, events in self._writable.poll(0)
        )


def _path_of(fd: int, directory: str) -> str:
    """Path of the log, if it is a file below the directory to which all append; otherwise ''."""
    with contextlib.suppress(OSError):
        path = os.readlink(f"/proc/self/fd/{fd}")
        appends = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
        if (
            appends
            and path.startswith(os.path.join(os.path.realpath(directory), ""))
            and os.path.isfile(path)
        ):
            return path
    return ""
