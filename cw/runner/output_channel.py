"""Pipes in which a runner's output goes to its worker, and the end marks in them.

    runner                                                      worker
      what a job prints (fd 1, fd 2, records) == 3 pipes ==>      OutputReader: reads always, so no job waits for it
      an end mark, after a job that printed   == same pipes =>    cuts the bytes into those of each job
      Printed, before that job's result       == result pipe =>   reads up to the marks, before it looks at the result
                            <== shared page: how much was read ==

A mark is a secret of this pair of processes and the job's dispatch number; it is written at once, so it lies in one
piece among the bytes. A job that prints nothing has no mark. To see that costs the runner one system call: the pipes
are empty, and the page says that the worker has not read since the last look. (The worker changes the page *before* it
reads: a runner that finds a pipe empty because the worker has just emptied it sees the change.) If there is something,
the runner compares the bytes that have gone through each pipe, read or not, with those up to its last mark.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import select
import struct
import termios
from collections.abc import Callable, Sequence

from cw.net import messages as m
from cw.net import wire

STREAMS = m.STDOUT, m.STDERR, m.RECORDS
"""The pipes, in the order of their descriptors."""

FDS = len(STREAMS) + 2
"""Number of descriptors that a runner gets for its output."""

TOKEN_BYTES = 16
_NUMBER = struct.Struct("<Q")
MARK_BYTES = TOKEN_BYTES + _NUMBER.size

READ = 64 * 1024
"""Most bytes read at once: what a pipe holds."""

# The page: a counter that is odd while the worker reads, the bytes read from each pipe, the token.
_SERIAL, _COUNTS, _TOKEN = 0, 1, 4
_WORDS = 6

PRINTED = {b"".join(next(wire.encode(m.Printed(streams)))): streams for streams in range(1, 8)}
"""The frames that say in which pipes there is a mark, with what they say."""

_PRINTED = [b"", *PRINTED]


class OutputReader:
    """The worker's end. `runner_fds` are for the runner's process; `handed_over()` closes them here.

    The channel calls `on_ready(index)` when the pipe at this place of STREAMS can be read, `on_printed(streams)`, which
    must read up to the marks, and `on_reported()` when it has reported what the runner had sent.
    """

    def __init__(self) -> None:
        """Open the pipes. Raises OSError."""
        with contextlib.ExitStack() as stack:
            pipes = []
            for _ in STREAMS:
                pipes.append(os.pipe2(os.O_CLOEXEC))
                stack.callback(os.close, pipes[-1][0])
                stack.callback(os.close, pipes[-1][1])
            poll = select.epoll()
            stack.callback(poll.close)
            page = os.memfd_create("cw-output", os.MFD_CLOEXEC)
            stack.callback(os.close, page)
            os.ftruncate(page, mmap.PAGESIZE)
            self._page = mmap.mmap(page, mmap.PAGESIZE)
            stack.pop_all()  # all are open
        self.on_ready: Callable[[int], None] = lambda index: None
        self.on_printed: Callable[[int], None] = lambda streams: None
        self.on_reported: Callable[[], None] = lambda: None
        self.token = secrets.token_bytes(TOKEN_BYTES)
        self._words = memoryview(self._page).cast("Q")
        self._page[8 * _TOKEN : 8 * _TOKEN + TOKEN_BYTES] = self.token
        for read_end, _ in pipes:
            os.set_blocking(read_end, False)
            poll.register(read_end, select.EPOLLIN)
        self.fds = [read_end for read_end, _ in pipes]
        """The read ends, in the order of STREAMS. One that has ended is -1."""
        self._theirs = [write_end for _, write_end in pipes]
        self._poll, self._page_fd = poll, page
        self.runner_fds = [*self._theirs, poll.fileno(), page]

    def handed_over(self) -> None:
        """Close our copies of the descriptors, which the runner's process now has."""
        for fd in self._theirs:
            os.close(fd)
        self._poll.close()
        os.close(self._page_fd)

    def read(self, index: int) -> bytes | None:
        """Read what the pipe at this place of STREAMS has. None: nothing now; b'': nobody has the other end."""
        words = self._words
        words[_SERIAL] += 1
        try:
            data = os.read(self.fds[index], READ)
            words[_COUNTS + index] += len(data)
        except BlockingIOError:
            return None
        finally:
            words[_SERIAL] += 1
        return data

    def close_pipe(self, index: int) -> None:
        """Close one pipe, to which nobody writes any more."""
        os.close(self.fds[index])
        self.fds[index] = -1

    def close(self) -> None:
        for fd in self.fds:
            if fd >= 0:
                os.close(fd)
        self.fds = []
        self._words.release()
        self._page.close()


class OutputWriter:
    """The runner's end: it marks where a job's output ends. `fds` are the OutputReader's `runner_fds`."""

    def __init__(self, fds: Sequence[int]) -> None:
        *self._pipes, poll, page = fds
        self._poll: Callable[[float, int], list[tuple[int, int]]] = select.epoll.fromfd(poll).poll
        self._page = mmap.mmap(page, mmap.PAGESIZE)
        os.close(page)
        self._words = memoryview(self._page).cast("Q")
        self._token = self._page[8 * _TOKEN : 8 * _TOKEN + TOKEN_BYTES]
        self._clean = -1  # serial at which nothing had come since the last mark
        # Bytes that have gone through each pipe, up to the last mark; -1: unknown.
        self._marked = [0] * len(STREAMS)

    def has_nothing(self) -> bool:
        """True if surely nothing was written since the last mark. The order matters: see above."""
        return not self._poll(0, 1) and self._words[_SERIAL] == self._clean

    def mark(self, number: int) -> bytes:
        """Write a mark into each pipe that has had something since its last one: that belongs to this job (0: to none).
        Returns the frame that says which; b"": none."""
        words = self._words
        serial = words[_SERIAL]
        waiting = [self._waiting(pipe) for pipe in self._pipes]
        written = [words[_COUNTS + index] + count for index, count in enumerate(waiting)]
        is_known = serial % 2 == 0 and words[_SERIAL] == serial  # otherwise the worker reads in this moment
        streams = 0
        for index, pipe in enumerate(self._pipes):
            if not is_known or written[index] != self._marked[index]:
                self._write(pipe, self._token + _NUMBER.pack(number))
                self._marked[index] = written[index] + MARK_BYTES if is_known else -1
                streams |= 1 << index
        self._clean = -1 if streams or any(waiting) else serial
        return _PRINTED[streams]

    def write_record(self, line: bytes) -> None:
        """Send the client a line that stands for a record. Any thread."""
        records = self._pipes[STREAMS.index(m.RECORDS)]
        while line:
            line = line[self._write(records, line) :]

    def block(self) -> None:
        """Let writes to stdout and stderr wait for room again, if a job or a child of it has changed that."""
        for pipe in self._pipes[:2]:
            os.set_blocking(pipe, True)

    def _write(self, pipe: int, data: bytes) -> int:
        while True:
            try:
                return os.write(pipe, data)
            except BlockingIOError:  # a process of the job's has changed it since
                os.set_blocking(pipe, True)

    def _waiting(self, pipe: int) -> int:
        (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0"))
        return int(count)
