"""The child process in which jobs run, one after the other, in its main thread.

It is forked from the keeper, with all that cw needs imported, and serves one session: it works in the client's
directory with the client's `sys.path`, and ends when the worker closes the channel. User code runs here and
may do anything: die, print, change directory, start threads and children.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections import deque
from time import perf_counter
from typing import Any

from cw import guard
from cw.net import memory, wire
from cw.net import messages as m
from cw.net.network import receive_with_files
from cw.payloads import environment, modules, serialize
from cw.payloads.environment import apply_environment, load_environment
from cw.runner import channel
from cw.runner.script import Script

READ = 256 * 1024


class Runner:
    """One runner's end of the channel, and its loop."""

    def __init__(self, stream: int, files: int, pipe: int, tokens: int) -> None:
        self._stream = socket.socket(fileno=stream)
        self._files = socket.socket(fileno=files)
        self._stream.setblocking(True)
        self._files.setblocking(True)
        self._pipe = pipe
        self._tokens = tokens
        self._decoder = wire.Decoder()
        self._queue: deque[Any] = (
            deque()
        )  # jobs as tuples; and what must keep its place between them: messages
        self._objects: dict[int, tuple[int, tuple[int, ...], Any]] = {}  # kind, needs, payload
        self._script = Script(lambda number: self._objects[number][2])
        self._where: dict[str, Any] = {"host": os.uname().nodename, "pid": os.getpid()}
        self._failure: BaseException | None = None  # the session's environment does not work here
        self._buffer = memoryview(bytearray(READ))

    def run(self) -> None:
        """Run jobs until the worker closes the channel."""
        queue, tokens = self._queue, self._tokens
        take = os.eventfd_read
        while True:
            while queue:
                job = queue.popleft()
                if type(job) is not tuple:
                    self._take(job)
                    continue
                try:
                    take(tokens)
                except BlockingIOError:
                    # What is left in front of the Drop, which comes if it is not here yet, is not ours any more.
                    if not self._skip_to_drop():
                        return
                    continue
                self._run(*job)
            if not self._receive():
                return

    def _run(self, number: int, function_number: int, attempt: int, payload: Any) -> None:
        environment.jobs_begun += 1
        began = perf_counter()
        try:
            if self._failure is not None:
                raise self._failure.with_traceback(None)  # or each raise would lengthen it
            function, args, kwargs = self._script.prepare(function_number, payload)
            value = function(*args, **kwargs)
            answer = serialize.dump_result(value, memory.store)
            if len(answer) > memory.LARGE:
                wire.check_payload(answer, "the job's result")
            elif modules.notes:
                answer = serialize.with_text(answer, modules.notes.pop())
            status = m.DONE
        except BaseException as error:  # SystemExit and KeyboardInterrupt included: they are its result
            if _forked_pid:
                _end_forked(error)
            self._script.explain(error)
            answer = serialize.dump_error(
                error, {**self._where, "attempt": attempt, **dict.fromkeys(modules.notes, "")}
            )
            status = m.ERROR if _sigterm_at < began else m.INTERRUPTED
        seconds = perf_counter() - began
        if _forked_pid:
            _end_forked(None)
        if type(answer) is bytes and len(answer) <= memory.LARGE:
            self._write(wire.encode_result(number, status, seconds, answer))
        else:
            self._write_large(number, status, seconds, answer)

    def _write(self, data: bytes) -> None:
        written = os.write(self._pipe, data)
        while written < len(data):
            written += os.write(self._pipe, data[written:])

    def _write_large(self, number: int, status: int, seconds: float, payload: Any) -> None:
        try:
            file = memory.as_file(payload)  # (held until it is sent: its descriptor is closed with it)
        except OSError:  # no descriptor left for a file: all through the pipe
            self._write(wire.encode_result(number, status, seconds, bytes(payload)))
            return
        # The file first: the worker looks for it as soon as it reads the record.
        socket.send_fds(self._files, [b"\0"], [file.fd])
        self._write(b"".join(next(wire.encode(m.BigResult(number, status, seconds, len(payload))))))

    def _skip_to_drop(self) -> bool:
        while True:
            while self._queue:
                job = self._queue.popleft()
                if type(job) is not tuple:
                    self._take(job)
                    if type(job) is m.Drop:
                        return True
            if not self._receive():
                return False

    def _receive(self) -> bool:
        """Wait for messages and take them in. False: the worker closed the channel."""
        target = self._decoder.direct()
        into = self._buffer if target is None else target
        count, fds = receive_with_files(self._stream, into)
        self._decoder.files.extend(fds)
        if not count:
            return False
        found = self._decoder.feed(self._buffer[:count]) if target is None else self._decoder.received(count)
        for message in found:
            if type(message) is m.Run:
                self._queue.extend(zip(*message, strict=True))
            else:
                self._queue.append(message)
        return True

    def _take(self, message: Any) -> None:
        """Take in what is no job, in its place between them: those before it may still need what it forgets."""
        if type(message) is m.Drop:
            self._write(b"".join(next(wire.encode(m.Dropped()))))
        elif type(message) is m.Objects:
            for _, number, kind, needs, payload in zip(*message, strict=True):
                self._objects[number] = kind, needs, payload
                if kind == m.ENVIRONMENT:
                    self._apply(payload)
        elif type(message) is m.Forget:
            for number in message.numbers:
                self._objects.pop(number, None)
                self._script.forget(number)

    def _apply(self, payload: Any) -> None:
        try:
            apply_environment(load_environment(payload))
        except Exception as error:
            self._failure = error


_sigterm_at = 0.0
"""When SIGTERM came last (by perf_counter)."""


def on_sigterm(number: int, frame: Any) -> None:
    """A SIGTERM does not end a runner, but is noted: should its job fail after it, the worker may know why.

    A handler and not SIG_IGN, which what jobs start would inherit.
    """
    global _sigterm_at
    _sigterm_at = perf_counter()


_forked_pid = 0
"""Set in a child that a job forked, to the runner's own pid."""


def _end_forked(error: BaseException | None) -> None:
    """A child that the job forked came back from it: it ends as a program of its own would."""
    status = 0 if error is None else 1
    if isinstance(error, SystemExit):
        if isinstance(error.code, int):
            status = error.code
        elif error.code is None:
            status = 0
        else:
            print(error.code, file=sys.stderr)
    elif error is not None:
        sys.excepthook(type(error), error, error.__traceback__)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status & 0xFF)


def main(fds: list[int]) -> None:
    """Be a runner, with these ends of the channel (see `channel.WorkerEnd.runner_fds`)."""
    global _forked_pid
    import fcntl

    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, channel.HIGH) for fd in fds]
    for fd in fds:
        os.close(fd)
    guard.note_runner()
    runner = Runner(*moved)
    own = os.getpid()

    # A child that a job forks inherits our handler, and must not: multiprocessing ends its processes by SIGTERM.
    # It is held back until the child has done so, since one that comes earlier would go to the handler.
    masks: list[Any] = []

    def before_fork() -> None:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}))

    def after_fork() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop())

    def after_fork_in_child() -> None:
        global _forked_pid
        _forked_pid = own
        if signal.getsignal(signal.SIGTERM) is on_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        after_fork()

    os.register_at_fork(before=before_fork, after_in_parent=after_fork, after_in_child=after_fork_in_child)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the worker is gone
        runner.run()
    sys.stdout.flush()
    sys.stderr.flush()
