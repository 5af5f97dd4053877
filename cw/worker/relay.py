"""Relay of what runners and their children write to stderr: to the worker's log, keeping the end of it.

    runner 1, its children ==(fd 2, a pipe)==> forkserver: Relay --> the log (the forkserver's own stderr)
    runner 2, its children ==(fd 2, a pipe)==>    |
                                                  '--> the last words of each, for the note on its death

A job never waits for the log. If the log is stuck (a pipe that nobody reads, a stopped terminal), what is written
meanwhile is kept up to WAITING_BYTES; the rest is left out of the log, with a line that says so.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
from collections import deque

READ = 64 * 1024

TAIL_BYTES = 16 * 1024
"""Bytes kept of each runner: a trace of faulthandler takes 8 KiB, and begins with what matters."""

WORDS = 1000
"""Most characters in a note: the master's limit."""

WAITING_BYTES = 1024 * 1024
"""Most bytes kept for a log that is stuck."""

DRAIN_BYTES = 1024 * 1024
"""Most bytes read of what a runner left behind: as much as a pipe may hold."""

_FATAL = "Fatal Python error"  # first words of a trace of faulthandler
# From this frame on, a trace shows the callers of the job.
_OWN_FRAMES = f'  File "{os.path.join(os.path.dirname(os.path.dirname(__file__)), "runner", "runner.py")}"'


class Relay:
    """Read ends of the pipes, by the runner's pid, and the log. Used from one thread."""

    def __init__(self, log: int) -> None:
        self._log = log
        # A pipe that is ready takes a page without blocking; a file takes anything.
        self._chunk = READ
        with contextlib.suppress(OSError):
            if not stat.S_ISREG(os.fstat(log).st_mode):
                self._chunk = 4096
        self._writable = select.poll()
        self._writable.register(log, select.POLLOUT)
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._left_out = 0
        self._tails: dict[int, bytearray] = {}  # by read end

    @property
    def is_stuck(self) -> bool:
        """True if the log has not taken all that was written."""
        return bool(self._waiting)

    def read_ends(self) -> list[int]:
        """List all read ends."""
        return list(self._tails)

    def __contains__(self, read_end: int) -> bool:
        return read_end in self._tails

    def add(self, read_end: int) -> None:
        """Take over a pipe."""
        os.set_blocking(read_end, False)
        self._tails[read_end] = bytearray()

    def read(self, read_end: int) -> int | None:
        """Pass on what is there. Returns the number of bytes; 0: nobody has the other end; None: try later."""
        try:
            data = os.read(read_end, READ)
        except BlockingIOError:
            return None
        tail = self._tails[read_end]
        tail += data
        if len(tail) > 2 * TAIL_BYTES:
            del tail[:-TAIL_BYTES]
        if data:
            self._pass_on(data)
        return len(data)

    def close(self, read_end: int) -> str:
        """Pass on what an ended runner left, and return its last words."""
        total = 0
        while total < DRAIN_BYTES and (count := self.read(read_end)):
            total += count
        os.close(read_end)
        return last_words(bytes(self._tails.pop(read_end)))

    def drop_after_fork(self) -> None:
        """Drop the pipes, in a forked child: they are the forkserver's."""
        for read_end in self._tails:
            os.close(read_end)

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
        if self._left_out and not self._waiting:
            line = (
                f"[{self._left_out} bytes of the jobs' output left out: this log did not take them in time]\n"
            )
            self._left_out = 0
            self._waiting.append(line.encode())
            self._waiting_bytes += len(line)

    def _is_writable(self) -> bool:
        return any(
            events & select.POLLOUT or events & select.POLLNVAL for _, events in self._writable.poll(0)
        )

    def _pass_on(self, data: bytes) -> None:
        if self._waiting_bytes + len(data) > WAITING_BYTES:
            self._left_out += len(data)
            return
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self.flush()


def last_words(data: bytes) -> str:
    """Return the part of stderr's end that says why: the last trace of faulthandler from its start, or the last
    lines."""
    text = data.decode(errors="replace")
    at = text.rfind(_FATAL)
    if at >= 0:
        return text[at : at + WORDS].partition(_OWN_FRAMES)[0].strip()
    if len(text) > WORDS:
        text = text[-WORDS:]
        text = text.partition("\n")[2] or text  # whole lines only, if there are any
    return text.strip()
