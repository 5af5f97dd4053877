"""Channel between a worker and one of its runners, on one machine.

    worker                                                         runner
      Objects, Forget, Run, Drop         == socket, frames ==>       reads when it has no job left,
      Depth, Resume                                                  or waits for its turn (cw.nested)
      one token a job                    == eventfd ==========>      takes one before each job
      large payloads                     == socket, memory files ==> maps them
      large results                     <== the same socket ==       makes them
      Results, BigResult, NotEntered,   <== pipe, frames ======      one write a job, at once
      Remark, Loading, Dropped
      Waits, WaitOver, Printed
                                    <== pipes, as they are ==    what jobs print (cw.runner.output_channel)

A result is written before the next job starts: that job cannot hold it back. A pipe costs a third
of what a socket does. A payload above `memory.LARGE` is not copied through it, but put into a memory file
(memfd_create(2)) that both sides map.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from cw.events import RateLimited
from cw.net import memory, wire
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.loop import IN, Loop
from cw.net.memory import from_file
from cw.net.objects import ObjectCache
from cw.net.sockets import receive_with_files
from cw.runner.output_channel import PRINTED, OutputReader

PIPE = 256 * 1024
"""Bytes that the pipe should hold: how far a runner of short jobs may run ahead of the worker."""

WAIT_SECONDS = 0.5
"""Time to wait for descriptors (seconds) when none were left for a large result."""

FDS = 4
"""Number of the runner's descriptors of the channel; those for output follow (cw.runner.output_channel)."""

HIGH = 100
"""Lowest number of the runner's descriptors, out of the way of programs that assume small ones."""

# The columns of a Run, by functions of C: this is on the way of each job.
_dispatch, _function, _attempt = attrgetter("dispatch"), attrgetter("function.number"), attrgetter("attempt")
_number, _payload = attrgetter("number"), attrgetter("payload")

lines = RateLimited("cw.worker")


class WorkerEnd:
    """The worker's end of a channel. Belongs to the loop's thread.

    `on_results(numbers, statuses, seconds, payloads)`, `on_dropped()` and `on_remark(remark)` report what the runner
    sends. (The payload of NOT_ENTERED is the runner's message.) The pipes for what jobs print are in `output`.
    `runner_fds` are for the runner's process;
    `handed_over()` closes them here.
    """

    def __init__(self, loop: Loop) -> None:
        """Open the channel. Raises OSError."""
        with contextlib.ExitStack() as stack:
            ours, theirs = map(stack.enter_context, socket.socketpair())
            our_files, their_files = map(stack.enter_context, socket.socketpair())
            self._pipe, pipe_in = os.pipe2(os.O_CLOEXEC)
            stack.callback(os.close, self._pipe)
            stack.callback(os.close, pipe_in)
            self._tokens = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            stack.callback(os.close, self._tokens)
            self.output = OutputReader()
            stack.pop_all()  # all are open
        with contextlib.suppress(OSError):  # the user's share of pipe memory may be used up
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE)
        os.set_blocking(self._pipe, False)
        self._stream = Connection(loop, ours)
        self._files = our_files
        self._files.setblocking(False)
        self._loop = loop
        self._rest = b""
        self._is_waiting = False  # a large result waits for a descriptor
        self.is_closed = False
        """True after `close`: nothing can be read any more."""
        self._theirs = theirs, their_files, pipe_in
        self.runner_fds = [
            theirs.fileno(), their_files.fileno(), pipe_in, self._tokens, *self.output.runner_fds,
        ]  # fmt: skip
        self.objects = ObjectCache()  # what the runner has been sent; the worker maintains it
        self.objects.most_shared = memory.half_of_all()
        self.on_results: Callable[[list[int], list[int], list[float], list[Any]], None]
        self.is_loading = False  # it loads its first function: no call was entered yet
        self.on_dropped: Callable[[], None]
        self.on_remark: Callable[[m.Remark], None] = lambda remark: None
        self.on_waits: Callable[[m.Waits | m.WaitOver], None]
        loop.watch(self._pipe, IN, self._on_readable)
        for index in range(len(self.output.fds)):
            self.watch_output(index, True)

    def handed_over(self) -> None:
        """Close our copies of the descriptors, which the runner's process now has."""
        stream, files, pipe_in = self._theirs
        stream.close()
        files.close()
        os.close(pipe_in)
        self.output.handed_over()

    def send(self, message: tuple[Any, ...]) -> None:
        self._stream.send(message)

    def send_jobs(self, jobs: Sequence[Any]) -> None:
        """Send jobs (of the form of `cw.worker.policy.jobs.WorkerJob`), with a token for each."""
        # The tokens come first: a runner that finds none takes the job for a retracted one.
        os.eventfd_write(self._tokens, len(jobs))
        self._stream.send(
            m.Run(
                list(map(_dispatch, jobs)),
                list(map(_function, jobs)),
                [0 if job.options_object is None else job.options_object.number for job in jobs],
                list(map(_attempt, jobs)),
                list(map(_number, jobs)),
                list(map(_payload, jobs)),
            )
        )
        self._stream.hurry()

    def take_tokens(self, count: int) -> int:
        """Take up to `count` tokens, and with them the jobs sent last. Returns how many."""
        taken = 0
        with contextlib.suppress(BlockingIOError):
            while taken < count:
                os.eventfd_read(self._tokens)
                taken += 1
        return taken

    def tokens_left(self) -> int:
        """Return how many of the jobs sent have not started."""
        with open(f"/proc/self/fdinfo/{self._tokens}") as file:
            for line in file:
                if line.startswith("eventfd-count:"):
                    return int(line.split()[1], 16)
        raise AssertionError("the kernel reports an eventfd's count")

    def _on_readable(self, events: int) -> None:
        self.read()
        self.output.on_reported()

    def read_all(self) -> bool:
        """Report all that the runner has written so far. False: not all could be taken."""
        while not self._is_waiting and self._read() > 0:
            pass
        return not self._is_waiting

    def read(self) -> bool:
        """Report what the runner has written so far. False: nothing more can come."""
        return self._read() != 0

    def _read(self) -> int:
        """Read once. Returns the number of bytes; -1: there are none now; 0: nothing more can come."""
        scratch = self._loop.scratch  # (os.read() would ask for so much memory each time)
        try:
            count = os.readv(self._pipe, [scratch])
        except BlockingIOError:
            return -1
        if count:
            self._digest(bytes(scratch[:count]))
        else:
            self._loop.watch(self._pipe, 0, lambda events: None)
        return count

    def _digest(self, data: bytes) -> None:
        numbers: list[int] = []
        statuses: list[int] = []
        seconds: list[float] = []
        payloads: list[Any] = []

        def take(number: int, status: int, lasted: float, payload: Any) -> None:
            numbers.append(number)
            statuses.append(status)
            seconds.append(lasted)
            payloads.append(payload)

        dropped = self._is_waiting = False

        def take_other(frame: bytes) -> bool:
            nonlocal dropped, numbers, statuses, seconds, payloads
            if (streams := PRINTED.get(frame)) is not None:
                self.output.on_printed(streams)
                return True
            (message,) = wire.Decoder().feed(frame)
            if type(message) is m.BigResult:
                try:
                    payload = self._receive(message.size)
                except OSError as error:
                    lines.warning("worker.result_delayed", "a large result must wait: %s", error.strerror)
                    self._is_waiting = True
                    return False
                take(message.number, message.status, message.seconds, payload)
            elif type(message) is m.NotEntered:
                take(message.dispatches[0], m.NOT_ENTERED, 0.0, message)
            elif type(message) is m.Loading:
                self.is_loading = bool(message.is_loading)
            elif type(message) is m.Remark:
                self.on_remark(message)
            elif type(message) in (m.Waits, m.WaitOver):  # deliver earlier messages first
                if numbers:
                    self.on_results(numbers, statuses, seconds, payloads)
                    numbers, statuses, seconds, payloads = [], [], [], []
                self.on_waits(message)
            dropped = dropped or type(message) is m.Dropped
            return True

        self._rest = wire.split_results(self._rest + data if self._rest else data, take, take_other)
        if numbers:
            self.on_results(numbers, statuses, seconds, payloads)
        if dropped:
            self.on_dropped()
        if self._is_waiting:
            self._loop.watch(self._pipe, 0, lambda events: None)
            self._loop.call_later(WAIT_SECONDS, self._go_on)

    def _go_on(self) -> None:
        if not self.is_closed:
            self._loop.watch(self._pipe, IN, self._on_readable)
            self._digest(b"")

    def watch_output(self, index: int, is_watched: bool) -> None:
        """Have `output.on_ready` called when this pipe has something, or not."""
        if (fd := self.output.fds[index]) >= 0:
            self._loop.watch(fd, IN if is_watched else 0, lambda events: self.output.on_ready(index))

    def read_output(self, index: int) -> bytes:
        """Read what the pipe for output at this place has; b'': nothing."""
        fd = self.output.fds[index]
        data = self.output.read(index) if fd >= 0 else None
        if data == b"":  # nobody has the other end
            self.watch_output(index, False)
            self.output.close_pipe(index)
        return data or b""

    def drain(self) -> None:
        """Report all that a runner wrote before it ended."""
        while self.read():
            if not select.select([self._pipe], [], [], 0)[0]:
                return  # a child that a job left behind may still hold the other end

    def end(self) -> None:
        """Let the runner end: it reads the end of its stream."""
        self._stream.close()

    def close(self) -> None:
        self.is_closed = True
        self._stream.close()
        self._loop.watch(self._pipe, 0, lambda events: None)
        self._files.close()
        os.close(self._pipe)
        os.close(self._tokens)
        for index in range(len(self.output.fds)):
            self.watch_output(index, False)
        self.output.close()

    def _receive(self, size: int) -> memoryview:
        # Peek first: without a free descriptor, receiving the file would lose it.
        _, fds = receive_with_files(self._files, memoryview(bytearray(1)), socket.MSG_PEEK)
        payload = from_file(fds[0], size)
        self._files.recv(1)
        return payload
