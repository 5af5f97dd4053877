"""A runner: the child process in which jobs run, one after the other, in its main thread.

It is forked from the forkserver, with all that cw needs imported, and serves one session. It works in the client's
directory with the client's `sys.path`, and ends when the worker closes the channel. User code runs here and
may do anything: die, print, change directory, start threads and children.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from collections import deque
from time import monotonic, perf_counter
from typing import Any

from cw import guard, nested
from cw.errors import EnvironmentMismatch, StartRefused
from cw.net import memory, wire
from cw.net import messages as m
from cw.net.sockets import receive_with_files
from cw.payloads import current, environment, job_usage, modules, serialize, shared
from cw.payloads.environment import apply_environment, load_environment
from cw.payloads.initializer import Once
from cw.requirements import JobOptions
from cw.runner import channel, leftovers, logs
from cw.runner.output import Output, write_record
from cw.runner.script import Script
from cw.travel import placing

READ = 256 * 1024

NAMES = 5
NAME_CHARACTERS = 60
"""Most files named in a remark about files that jobs left, and most characters of each name."""

REASON_BYTES = 500
"""Most bytes of the reason why a call was not entered."""

MACHINES_FAULT = ImportError, OSError, EnvironmentMismatch
"""Errors that may be this machine's fault if they come before the call is entered: a module, library or file that is
not here, the working directory. All others are the job's own."""


def _may_be_machines_fault(error: Exception) -> bool:
    """True if an error may be this machine's fault. That includes any error of an import: a library may lack its other
    half, a driver, an instruction."""
    if isinstance(error, StartRefused):
        return False
    if isinstance(error, MACHINES_FAULT):
        return True
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_name != "<module>":
        traceback = traceback.tb_next  # go to a module that is being imported
    return traceback is not None


class Runner:
    """The runner's end of the channel, and the loop over jobs."""

    def __init__(
        self, stream: int, files: int, pipe: int, tokens: int, output: Output, scratch: str = ""
    ) -> None:
        """`scratch`: path for a directory of its own, if the session wants one."""
        self._output = output
        self._stream = socket.socket(fileno=stream)
        self._files = socket.socket(fileno=files)
        self._stream.setblocking(True)
        self._files.setblocking(True)
        self._pipe = pipe
        self._tokens = tokens
        self._decoder = wire.Decoder()
        # Jobs are tuples; messages that must keep their place between them are here, too.
        self._queue: deque[Any] = deque()
        self._objects: dict[int, tuple[int, tuple[int, ...], Any]] = {}  # kind, needs, payload
        self._script = Script(lambda number: self._objects[number][2])
        self._where: dict[str, Any] = {"host": os.uname().nodename, "pid": os.getpid()}
        self._scratch = scratch
        self._environment: Any = b""
        self._has_loaded = False  # a function has been loaded
        self._failure: BaseException | None = None  # why the session's environment does not work here
        self._initializer = Once()
        self._buffer = memoryview(bytearray(READ))
        current.begin_runner(self._script.name_of)
        self._job = 0  # number of the job that runs, or ran last
        self._resumed = 0  # serial of the last Resume
        self._is_torn = False  # it lost its place in the worker's stream
        nested.depth = 1  # unless a Depth says more
        nested.lender = nested.Lender(
            lambda: self._job, self._report_wait, self._report_wait_over, self._wait_for_turn
        )

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
                    # Skip the retracted jobs in front of the Drop, which may not have come yet.
                    if not self._skip_to_drop():
                        return
                    continue
                self._run(job)
            current.running = job = None  # an idle runner holds no payload
            if not self._receive():
                return
            job_usage.begin()
            self._output.begin()

    def _run(self, job: tuple[Any, ...]) -> None:
        number, function_number, _, attempt, _, payload = current.running = job
        function = None
        environment.jobs_begun += 1
        self._job = number
        current.is_interrupted = False
        began = current.began = perf_counter()
        try:
            try:
                function, args, kwargs = self._prepare(function_number, payload)
            except Exception as error:
                placing.explain(error)
                is_reported = _may_be_machines_fault(error) and not _forked_pid
                if is_reported and self._hand_back(number, attempt, error):
                    return
                raise
            value = function(*args, **kwargs)
            if current.clear_timers is not None:
                leftovers.clear_timers()
            answer = serialize.dump_result(value, job_usage.store)
            if isinstance(value, BaseException):
                serialize.forget_tracebacks(value)
            value = None  # or a traceback in the value, which leads to this frame, would hold itself
            if len(answer) > memory.LARGE:
                wire.check_payload(answer, "the job's result")
            elif modules.notes:
                answer = serialize.with_text(answer, modules.notes.pop())
            status = m.STOPPED_VALUE if current.is_interrupted else m.DONE
        except BaseException as error:  # SystemExit and KeyboardInterrupt are results, too
            if _forked_pid:
                _end_forked(error)
            if current.clear_timers is not None:
                leftovers.clear_timers()
            self._script.explain(error)
            answer = self._answer_of(error, attempt)
            if error is not self._failure:  # other jobs will meet it, and need its traceback
                serialize.forget_tracebacks(error)
            if _sigterm_at >= began:
                status = m.INTERRUPTED
            else:
                status = m.STOPPED_ERROR if current.is_interrupted else m.ERROR
        seconds = perf_counter() - began
        if _forked_pid:
            _end_forked(None)
        shared.values.clear()
        if seconds > leftovers.SHORT_SECONDS and (remark := leftovers.look(seconds, function)):
            self._report(m.Remark(0, remark, remark))
        self._write_result(number, status, seconds, answer)

    def _answer_of(self, error: BaseException, attempt: int) -> bytes:
        return serialize.dump_error(
            error, {**self._where, "attempt": attempt, **dict.fromkeys(modules.notes, "")}
        )

    def _hand_back(self, number: int, attempt: int, error: BaseException) -> bool:
        """Report that the call cannot be entered here. Returns False if the report is too large: the error is then the
        job's result."""
        answer = self._answer_of(error, attempt)
        if len(answer) > memory.LARGE:
            return False
        is_general = error is self._failure
        why = f"working directory: {error.__cause__}" if is_general else f"{type(error).__name__}: {error}"
        text = " ".join(why.split()).encode(errors="replace")[:REASON_BYTES]
        if printed := self._output.end(number, 0.0):
            self._write(printed)
        self._report(m.NotEntered([number], [is_general], [len(text)], [text + answer]))
        sys.path_importer_cache.clear()  # look again next time for modules that were missing
        return True

    def _report(self, message: tuple[Any, ...]) -> None:
        self._write(b"".join(next(wire.encode(message))))

    def _look_and_write(self, data: bytes) -> None:
        """Report once that jobs left something in the scratch directory; then write as `_write`, in whose place it
        stands."""
        try:
            names = os.listdir(self._scratch)
        except OSError:
            names = []  # a job removed the directory
        names = placing.without_links(names)
        if names:
            del self._write
            named = ", ".join(repr(name[:NAME_CHARACTERS]) for name in sorted(names)[:NAMES])
            others = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
            self._report(
                m.Remark(0, "scratch", f"jobs leave files in their scratch directory ({named}{others}, on "
                         f"{self._where['host']}), which is removed when the process that runs them ends: have jobs "
                         "return what is needed, or write it to a directory that the client sees")
            )  # fmt: skip
        Runner._write(self, data)

    def _write(self, data: bytes) -> None:
        written = os.write(self._pipe, data)
        while written < len(data):
            written += os.write(self._pipe, data[written:])

    def _write_result(self, number: int, status: int, seconds: float, payload: Any) -> None:
        """Write a job's result, after all that it has printed."""
        if seconds > job_usage.MEASURED_SECONDS:
            payload = job_usage.attach(payload)
        printed = self._output.end(number, seconds)
        if type(payload) is bytes and len(payload) <= memory.LARGE:
            self._write(printed + wire.encode_result(number, status, seconds, payload))
            return
        if printed:
            self._write(printed)
        try:
            file = memory.as_file(payload)  # held until it is sent: its descriptor is closed with it
        except OSError:  # no descriptor left for a file: all through the pipe
            self._write(wire.encode_result(number, status, seconds, bytes(payload)))
            return
        # The file first: the worker looks for it as soon as it reads the record.
        socket.send_fds(self._files, [b"\0"], [file.fd])
        self._report(m.BigResult(number, status, seconds, len(payload)))

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
        """Wait for messages and process them. Returns False if the worker closed the channel."""
        return not self._is_torn and self._receive_more()

    def _receive_more(self) -> bool:
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
            elif type(message) is m.Slot:
                current.slot = message
            elif type(message) is m.Depth:
                nested.depth = message.depth + 1
            elif type(message) is m.Resume:
                self._resumed = message.serial
            else:
                self._queue.append(message)
        return True

    def _report_wait(self, serial: int, master: str) -> None:
        self._write(b"".join(next(wire.encode(m.Waits(self._job, serial, master)))))

    def _report_wait_over(self, serial: int, is_patient: bool) -> None:
        self._write(b"".join(next(wire.encode(m.WaitOver(serial, is_patient)))))

    def _wait_for_turn(self, serial: int, seconds: float | None) -> bool:
        """Wait, in the middle of a job, until the worker resumes it. False: time is up."""
        deadline = None if seconds is None else monotonic() + seconds
        poll = select.poll()
        poll.register(self._stream, select.POLLIN)
        while self._resumed < serial:
            left = None if deadline is None else max(0.0, deadline - monotonic())
            if not poll.poll(None if left is None else left * 1000) and left is not None:
                return False
            # A signal's handler may raise after bytes were taken and before they are processed.
            self._is_torn = True
            is_open = self._receive_more()
            self._is_torn = False
            if not is_open:
                break
        return True

    def _take(self, message: Any) -> None:
        """Process a message in its place between jobs: those before it may still need what it forgets."""
        if type(message) is m.Drop:
            self._report(m.Dropped())
        elif type(message) is m.Objects:
            for _, number, kind, needs, payload in zip(*message, strict=True):
                self._objects[number] = kind, tuple(needs), payload
                if kind == m.ENVIRONMENT:
                    self._environment = payload
                    self._apply()
                elif kind == m.OPTIONS:
                    current.options[number] = JobOptions.from_wire(payload)
        elif type(message) is m.Alternatives:
            current.choices = dict(zip(*message, strict=True))
        elif type(message) is m.Forget:
            for number in message.numbers:
                self._objects.pop(number, None)
                self._script.forget(number)
                current.options.pop(number, None)

    def _apply(self) -> None:
        self._failure = None
        try:
            surroundings = load_environment(self._environment)
            current.session_seed = bytes.fromhex(surroundings.seed)
            placed = placing.place(surroundings, lambda number: self._objects[number][2], self._scratch)
            apply_environment(placed.environment, self._scratch)
            if placed.environment.directory == environment.SCRATCH:
                placed.link()
                self._write = self._look_and_write  # type: ignore[method-assign]
            if surroundings.travelling is not None:
                for number in surroundings.travelling.packs:  # they are not needed again
                    self._objects[number] = m.VALUE, (), b""
        except Exception as error:
            self._failure = error

    def _prepare(self, function_number: int, payload: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Return the function and the arguments of a call. Raises whatever making them raises."""
        if self._failure is not None:
            self._apply()  # the environment may work now
        if self._failure is not None:
            raise self._failure
        if not self._has_loaded:
            self._initialize(function_number)
        call = self._script.prepare(function_number, payload)
        if not self._has_loaded:
            self._report(m.Loading(0))
            self._has_loaded = True
        return call

    def _initialize(self, function_number: int) -> None:
        """Begin to load the first function; before that, run the initializer, if there is one. Imports may end this
        process on this machine; an initializer that does so is the job's own fault."""
        self._report(m.Loading(1))
        if not self._initializer.has_run:
            first = self._script.prepare_first(function_number)
            if first is None:
                return
            self._report(m.Loading(0))
            self._initializer.run(*first)
            self._report(m.Loading(1))
        self._initializer.check()


_sigterm_at = 0.0
"""Time of the last SIGTERM (perf_counter)."""


def on_sigterm(number: int, frame: Any) -> None:
    """Note a SIGTERM, which does not end a runner: if its job fails after it, the worker may know why.

    A handler and not SIG_IGN, which the processes that jobs start would inherit.
    """
    global _sigterm_at
    _sigterm_at = perf_counter()


def on_sigint(number: int, frame: Any) -> None:
    """Raise KeyboardInterrupt in the job on SIGINT, and let a chunk begin no further call."""
    current.is_interrupted = True
    current.due.add("interrupt")
    signal.default_int_handler(number, frame)


_forked_pid = 0
"""The runner's own pid, set in a child that a job forked."""


def _end_forked(error: BaseException | None) -> None:
    """End a child that the job forked and that came back from the job, as a program of its own would end."""
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


def main(fds: list[int], scratch: str = "") -> None:
    """Run as a runner, with these ends of the channel (see `channel.WorkerEnd.runner_fds`). Descriptors 1 and 2 are the
    pipes for output among them."""
    global _forked_pid
    import fcntl

    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, channel.HIGH) for fd in fds]
    for fd in fds:
        os.close(fd)
    guard.note_runner()
    stream, files, pipe, tokens, *pipes = moved
    runner = Runner(stream, files, pipe, tokens, Output(pipes), scratch)
    leftovers.watch_timers()
    logs.Forwarder(write_record).install()
    own = os.getpid()

    # A forked child of a job inherits our handler but must not use it: multiprocessing ends processes by SIGTERM. The
    # signal is blocked until the child has restored the default, as an earlier one would go to the handler.
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
    nested.lender = None
    sys.stdout.flush()
    sys.stderr.flush()
