"""A client's session: its jobs from submission to delivery, and the thread that talks to the master.

    user's threads                     session's thread                          master
      submit --> payload, queue --wake--> window open? --> Submit --------------->
      wait   <-- counts       <---------- deliver(tag, value) <-- Results <-------

The client owns its jobs: a payload is kept until its result has been delivered. `ClientThread` and
`ClusterExecutor` stand on this and differ in what they hang on a job (its *tag*) and in how they deliver.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from time import monotonic
from typing import Any

from cw import guard, home, nested
from cw.client import ending, patience
from cw.client.functions import FunctionTable
from cw.client.introductions import Introductions
from cw.client.objects import ObjectTable
from cw.client.options import OptionTable, check_outstanding, check_patience
from cw.client.prepared import Packed, Prepared
from cw.client.recorder import Call, Chunk, Recorder
from cw.client.recording import Outcome, Recording
from cw.errors import ConnectionError, JobTimeout, StoreError, WorkerLost
from cw.net import address, memory, wire
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.loop import Loop
from cw.net.master_link import MasterLink
from cw.payloads import current, deferred, modules, serialize, settings
from cw.payloads.chunks import Chunk as CallChunk
from cw.payloads.environment import check_workdir, dump_environment
from cw.program import count
from cw.version import VERSION

logger = logging.getLogger("cw.client")

BATCH = 1024
"""Jobs in one Submit: how finely the first jobs of a burst overlap with the rest."""

ACKNOWLEDGED_JOBS = 256
"""Results after which the master is told that they are here; of fewer, after ACKNOWLEDGED_SECONDS. Until then their
workers keep them."""

ACKNOWLEDGED_SECONDS = 0.1

UNENTERED = (
    ", whose call no worker could enter: what it needs when it is unpickled must be on the workers' machines"
)

Job = tuple[int, int, Any, Any]
"""Function, options, payload, tag. A tuple of numbers and bytes is invisible to the garbage collector."""


class Abandoned(CancelledError):
    """The client was stopped before the job had ended. (A plain CancelledError may be what a job raised.)"""


class Session:
    """One client's life. The methods are for any thread, unless they say otherwise.

    `deliver(number, tag, error, value)` and `on_started(numbers_and_tags)` are called in the session's thread;
    they must not raise.
    """

    def __init__(
        self,
        host: str | None,
        port: int | None,
        deliver: Callable[[int, Any, BaseException | None, Any], None],
        on_started: Callable[[int, Any], None],
        connect_timeout: float | None = None,
        max_outstanding: tuple[int | None, int | None] | None = None,
        reconnect_timeout: float | None = None,
        recorder: Recorder | None = None,
        seed: int | None = None,
        workdir: str | os.PathLike[str] | None = None,
        lend: bool = True,
    ) -> None:
        _look_in_slurm()
        address.find_master(host, port)  # a mistake in them is told here
        jobs_limit, bytes_limit = check_outstanding(max_outstanding)
        self.ident = secrets.token_hex(16)
        self._secret = secrets.token_hex(16)
        self._deliver = deliver
        self._on_started = on_started
        self._jobs_limit = jobs_limit
        self._bytes_limit = bytes_limit if bytes_limit is not None else _half_the_memory()
        directory = check_workdir(workdir)
        self._parent = nested.job()
        self.recorder = recorder
        self.lends = lend
        """In a job: does that lend its slot while it waits here?"""
        self._loop = Loop()
        self._recording = Recording(
            recorder, self._finish, _name, lambda: self._loop.call_soon_threadsafe(self._on_wake)
        )
        self._patience = patience.Patience(
            check_patience("connect_timeout", connect_timeout, patience.CONNECT_SECONDS),
            check_patience("reconnect_timeout", reconnect_timeout, patience.RECONNECT_SECONDS),
            lambda: not self._leaves_when_done or bool(self.outstanding()),
        )
        self._uplink = MasterLink(
            self._loop, lambda: address.find_master(host, port), self, self._patience, patience.TERMS
        )
        self._loop.lock = self._loop_lock = threading.RLock()  # callbacks submit, too
        self._thread = threading.Thread(target=self._main, name="cw-client", daemon=True)
        # Instead of the thread's own: up to Python 3.12 a join() that Ctrl-C interrupts takes the thread for ended.
        self._ended = threading.Event()
        self._pid = os.getpid()
        # Under the lock: what users' threads change together. The session's thread takes it rarely.
        self._lock = threading.RLock()  # pickling a function may run code of the user's that submits
        self._store: serialize.Store | None = None  # for memory files, if the master is on this machine
        seed_of_session = current.seed_of_session(seed)
        self._objects = ObjectTable(lambda: dump_environment(seed_of_session, directory))
        self._functions = FunctionTable(self._objects)
        self._watch = settings.Watch()
        self._options = OptionTable()
        self._last_number = 0
        self._bytes_in = 0
        self._is_closed = False  # takes no more jobs
        # Set by users' threads, taken by the session's: a dict's and a deque's single operations are atomic.
        self._jobs: dict[int, Job] = {}
        self._queue: deque[int] = deque()  # numbers of jobs not sent yet; some may have been cancelled
        self._cancelled: deque[tuple[int, Job, bool]] = deque()  # and whether it is delivered as Abandoned
        self._is_woken = False
        # The session's thread only.
        self._window_jobs = self._window_bytes = 0
        self._sent: dict[int, int] = {}  # number: bytes
        self._sent_bytes = 0
        self._handed = 0  # the highest number ever sent to a master
        self._origin: str | None = None  # the host of the results that come; None: the master was not asked
        self._is_handing_in = False  # again, what was sent to the master before
        self._roster: set[str] = set()  # the workers that are at the master, or were when it was lost
        self._introductions = Introductions(
            self._objects, self._options, self._lock, self._loop, self._functions_in_use
        )
        self._charges: dict[int, m.Charged] = {}  # what jobs have been through
        self._received = self._acknowledged = 0  # results, over this connection
        self._is_acknowledging = False
        self._leaves_when_done = False
        # Written by the session's thread, read by others.
        self._started: set[int] = set()
        self._finished = 0  # jobs delivered
        self.failed = 0  # of those, with an error
        self._bytes_out = 0
        self._failure: BaseException | None = None
        self._connected = threading.Event()
        self._progress = threading.Condition()
        self._waiters = 0
        self.on_exit: Callable[[], None] = lambda: None
        """Called at the end of the interpreter, when all is delivered."""
        self._loop.on_wake = self._on_wake

    # --- any thread ---

    def start(self) -> None:
        """Connect. Raises cw.ConnectionError if no master answers within the connect timeout; StartRefused."""
        guard.check_import("a client")
        ending.register(self)
        self._patience.start_clock(monotonic())
        self._thread.start()
        self._connected.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def submit(
        self,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tag: Any,
        options: int = 0,
        recorder: Recorder | None = None,
        prepared: Prepared | None = None,
        label: int = 0,
    ) -> int:
        """Queue a job; returns its number. Raises what makes its function or arguments unpicklable.

        With a recorder, its result is recorded, and taken from the store if it is there. `prepared`: the function as
        it was frozen for a `map`. `label`: see `cw.payloads.current`.
        """
        functions = self._functions
        plain = serialize.dump_plain(args, kwargs, label)
        payload: Any = plain
        names: Sequence[str] = ()
        number = 0
        try:
            if plain is None and recorder is None:
                payload, names = functions.dump_if_known(function, args, kwargs, self._store, label)
            if payload is not None and recorder is None:
                self._make_room(payload)
                with self._lock:
                    if not self._is_closed:
                        self._look_if_due()
                        known = functions.known_number(function, names, prepared)
                        if known:
                            number = self._queue_job(known, options, payload, tag, None)
                if number:
                    self._wake(number)
                    return number
            if prepared is None:
                with self._lock:
                    prepared = functions.prepare(function)
            packed: Packed | None
            if plain is not None and prepared.is_bare:
                packed, payload = None, plain
            else:
                packed = functions.pickle(function, args, kwargs, prepared)
                payload = packed.payload(self._store, label)
            self._make_room(payload)
            with self._lock:
                if self._is_closed:
                    raise self._why_closed()
                self._look_if_due()
                call = None
                if recorder is not None:
                    call = recorder.identify(functions, function, args, kwargs, prepared)
                    again = None if packed is None else functions.pickle(function, args, kwargs, prepared)
                    if packed is not None and again is not None and not again.is_same(packed):
                        # What travels is what the key is of.
                        packed, payload = again, again.payload(self._store, label)
                        call = recorder.identify(functions, function, args, kwargs, prepared)
                if packed is None:
                    number_of_function = functions.number_of(function, prepared)
                else:
                    number_of_function, placed = functions.place(function, args, kwargs, prepared, packed)
                    if placed is not packed:
                        payload = placed.payload(self._store, label)
                number = self._queue_job(number_of_function, options, payload, tag, call)
            self._wake(number)
        except KeyboardInterrupt:
            self._undo(number)
            raise
        return number

    def submit_chunk(
        self,
        function: Any,
        chunk: CallChunk,
        prepared: Prepared,
        tag: Any,
        options: int = 0,
        call: Chunk | None = None,
        label: int = 0,
        items: Sequence[int] | None = None,
    ) -> int:
        """The same for calls that travel together; `prepared` says how they run, `label` is the first one's. `items`:
        which of the chunk's they are, where some are missing."""
        payload = chunk.payload(self._store, label, items)
        self._make_room(payload)
        number = 0
        try:
            with self._lock:
                if self._is_closed:
                    raise self._why_closed()
                number_of_function = self._functions.number_of(function, prepared, chunk.names, chunk.codes)
                number = self._queue_job(number_of_function, options, payload, tag, call)
            self._wake(number)
        except KeyboardInterrupt:
            self._undo(number)
            raise
        return number

    def submit_stored(self, call: Call, tag: Any, options: int = 0) -> int:
        """Have a stored result delivered, as if its call had been submitted."""
        with self._lock:
            if self._is_closed:
                raise self._why_closed()
            number = self._queue_job(0, options, b"", tag, call)
        self._wake(number)
        return number

    def freeze(self, function: Any, mode: int) -> Prepared:
        """A function for `map`: what it holds is taken now."""
        with self._lock:
            return self._functions.freeze(function, mode)

    def refresh(self) -> None:
        """Look at all that functions reach, at their next submit."""
        with self._lock:
            self._functions.refresh()

    def identify(
        self,
        recorder: Recorder,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        prepared: Prepared,
    ) -> Call:
        """A call that may be part of a larger job. Raises UnstableKey, NotPicklable."""
        with self._lock:
            return recorder.identify(self._functions, function, args, kwargs, prepared)

    def _make_room(self, payload: Any) -> None:
        """Wait until the client may hold these bytes, too."""
        size = len(payload)
        if size > memory.LARGE:
            wire.check_payload(payload, "the arguments")
        if (self._jobs_limit is not None or self._bytes_in - self._bytes_out + size > self._bytes_limit) and (
            self._is_full(size) and threading.current_thread() is not self._thread
        ):
            self._wait_for_room(size)

    def _queue_job(
        self, function: int, options: int, payload: Any, tag: Any, call: Call | Chunk | None
    ) -> int:
        """Under the lock: a new job."""
        if self._objects.is_full:
            self._introductions.forget_unused(function)
        number = self._last_number + 1
        self._jobs[number] = (function, options, payload, tag)
        self._last_number = number
        self._bytes_in += len(payload)
        if call is None or self._recording.must_run(number, call):
            self._queue.append(number)
        return number

    def _wake(self, number: int) -> None:
        if not self._is_woken:
            self._is_woken = True
            if number - self._finished > 1 or not self._send_now():
                self._loop.wake()

    def close_with(self, recorder: Recorder) -> None:
        """Have a recorder of some of its jobs closed at the end, too."""
        self._recording.close_with(recorder)

    def _undo(self, number: int) -> None:
        """Ctrl-C in the middle of `submit`: nobody has got this job's number, so there is no job."""
        if self.is_own_thread():
            return  # a callback raised it: that is no signal
        job = self._jobs.pop(number, None)
        if job is not None and number <= self._last_number:  # else it had not been counted
            self._cancelled.append((number, job, False))
        is_torn = False
        while self._loop_lock._is_owned():  # type: ignore[attr-defined]  # it came while this thread was sending
            is_torn = True
            self._loop_lock.release()
        self._loop.call_soon_threadsafe(self._resume if is_torn else self._on_wake)

    def _send_now(self) -> bool:
        """Send the only outstanding job from this thread: one wakeup less on its way. False: the loop is busy."""
        if self._recording.has_some or not self._loop_lock.acquire(blocking=False):
            return False
        try:
            if self._uplink.connection is None:
                return False
            self._on_wake()
            self._loop.flush()
            return True
        finally:
            self._loop_lock.release()

    def cancel(self, number: int, is_told: bool = False, owner: Any = None) -> bool:
        """Take a job back; if it runs, it is stopped. False: there is no such job, or it has ended.

        `is_told`: it is delivered, as Abandoned; else not at all. `owner`: the tag that it must have, if not None.
        """
        job = self._jobs.get(number)
        if job is None or (owner is not None and job[3] is not owner) or self._jobs.pop(number, None) is None:
            return False
        self._cancelled.append((number, job, is_told))
        if not self.is_started():
            self._take_cancelled()
        elif not self._is_woken:
            self._is_woken = True
            self._loop.wake()
        return True

    def tag(self, number: int) -> Any:
        """The tag of an outstanding job. Raises KeyError."""
        return self._jobs[number][3]

    def tags(self) -> list[Any]:
        """The tags of all outstanding jobs."""
        return [job[3] for job in list(self._jobs.values())]

    def outstanding(self) -> int:
        """Jobs submitted and not delivered yet."""
        return self._last_number - self._finished

    def counts(self) -> tuple[int, int, int, int]:
        """Jobs submitted, delivered, of those with an error, known to run."""
        return self._last_number, self._finished, self.failed, len(self._started)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until all jobs submitted so far, and by callbacks meanwhile, are delivered. False: time is up."""
        return not self.outstanding() or nested.wait(self, self._wait, timeout)

    def _wait(self, timeout: float | None) -> bool:
        with self._progress:
            self._waiters += 1
            try:
                return self._progress.wait_for(lambda: not self.outstanding(), timeout)
            finally:
                self._waiters -= 1

    def close(self, is_waiting: bool) -> None:
        """Take no more jobs. Say goodbye: when all are delivered (`is_waiting`), or now."""
        with self._lock:
            self._is_closed = True
        if not self.is_started():
            self._abandon()
            self._recording.close()
        elif self.is_alive():
            self._loop.call_soon_threadsafe(self._leave_when_done if is_waiting else self._leave)

    def leave_when_done(self) -> None:
        """For the end of the program: say goodbye when all is delivered. Callbacks may submit until then."""
        self._loop.call_soon_threadsafe(self._leave_when_done)

    def leave_now(self, seconds: float = ending.LEAVE_SECONDS) -> None:
        """For the end of the program: cancel all, leave, and do not wait for a callback that does not return."""
        self.close(is_waiting=False)
        self.join(seconds)
        if self.is_alive():  # it sits in a callback, and not in the middle of a message
            self._uplink.break_off("it was interrupted")

    def join(self, timeout: float | None = None) -> None:
        """Wait until the session's thread has ended. In that thread itself: nothing."""
        if self._thread.ident is None or self.is_own_thread():
            return
        has_ended = (
            nested.wait(self, self._ended.wait, timeout) if self.outstanding() else self._ended.wait(timeout)
        )
        if has_ended:
            self._thread.join()

    def __reduce__(self) -> Any:
        raise TypeError("a client cannot travel: a job that gives out jobs makes a client of its own")

    def is_own_thread(self) -> bool:
        """Is this called in the session's thread (a callback)?"""
        return threading.current_thread() is self._thread

    def is_started(self) -> bool:
        return self._thread.ident is not None

    def is_alive(self) -> bool:
        return self.is_started() and not self._ended.is_set()

    def is_closed(self) -> bool:
        """Does it take no more jobs?"""
        return self._is_closed

    @property
    def master(self) -> str:
        """The start id of the master that it is connected to."""
        return self._uplink.master

    def option_number(self, options: dict[str, Any]) -> int:
        """The number under which the master knows these options of jobs; 0 for none. Raises ValueError: too many."""
        return self._options.number_of(options)

    def restart(self, reason: str) -> None:
        """What is submitted from now on runs in fresh runners."""
        with self._lock:
            if self._is_closed:
                raise self._why_closed()
            self._functions.renew_environment()
            logger.info("runners renewed: %s", reason)

    def _look_if_due(self) -> None:
        watch = self._watch
        if (
            watch.version != modules.version
            or monotonic() > watch.due
            or (watch.is_quick and self._last_number == self._finished)
        ):
            self.look_at_modules()

    def look_at_modules(self) -> None:
        """Notice which of the user's modules were loaded anew, and settings in them: jobs from here on see that."""
        with self._lock:
            anew, is_changed = self._watch.look(self._last_number)
            if anew:
                self._functions.renew_environment()
                names = ", ".join(anew)
                logger.warning(
                    "runners renewed: %s %s loaded anew", names, "was" if len(anew) == 1 else "were"
                )
            if is_changed:
                self._functions.set_settings(settings.dump_settings(self._watch.settings))

    def _functions_in_use(self) -> set[int]:
        """Under the lock: the functions of outstanding jobs."""
        return {job[0] for job in list(self._jobs.values())}

    def _is_full(self, size: int) -> bool:
        held = self._bytes_in - self._bytes_out
        if held and held + size > self._bytes_limit:
            return True
        return self._jobs_limit is not None and self.outstanding() >= self._jobs_limit

    def _wait_for_room(self, size: int) -> None:
        if not self.is_started():
            return  # nothing would ever make room

        def wait(timeout: float | None) -> None:
            with self._progress:
                self._waiters += 1
                try:
                    self._progress.wait_for(lambda: self._is_closed or not self._is_full(size))
                finally:
                    self._waiters -= 1

        nested.wait(self, wait, None)

    def _why_closed(self) -> BaseException:
        if os.getpid() != self._pid:
            return RuntimeError(
                "this process was forked from the one that is connected: open a connection of its own"
            )
        if isinstance(self._failure, StoreError):
            return _copy_of(self._failure)
        if self._failure is not None:
            return ConnectionError(f"{self._failure}; no more jobs can be submitted here")
        return RuntimeError("cannot submit: this client has been stopped")

    # --- the session's thread: the master ---

    def _main(self) -> None:
        self._uplink.connect()
        try:
            self._loop.run()
        except BaseException as error:
            logger.critical("the client's thread failed", exc_info=True)
            self._failure = error
        finally:
            with self._lock:
                self._is_closed = True
            try:
                self._recording.flush()  # what has come is stored, and delivered
                self._take_recorded()
                self._abandon()
                self._recording.close()
            finally:
                self._connected.set()
                self._ended.set()

    def hello(self) -> m.Hello:
        return m.Hello("client", self.ident, self._secret, m.PROTOCOL, list(sys.version_info[:2]), VERSION,
                       os.uname().nodename, os.getpid(), 0, self._handed, memory.takes_files(),
                       nested.depth, self._parent)  # fmt: skip

    def on_message(self, message: Any) -> None:
        _HANDLERS[type(message)](self, message)

    def on_welcome(self) -> None:
        """A master is there; it may be another than before."""
        uplink = self._uplink
        connection = uplink.connection
        assert connection is not None
        self._store = memory.store if connection.passes_files else None
        self._introductions.start_anew(connection)
        if uplink.is_lost:
            left = count(self.outstanding(), "job is", "jobs are")
            logger.warning("connected to the master at %s again; %s outstanding", uplink.where, left)
        if self._handed:
            connection.send(m.Roster(sorted(self._roster), []))
            for charges in self._charges.values():
                connection.send(charges)
        self._is_handing_in = True
        self._connected.set()
        if nested.lender is not None:
            nested.lender.say_again(self)

    def on_lost(self) -> None:
        """What was outstanding there will be handed in again."""
        self._window_jobs = 0
        # One call, since other threads append to it. What was sent is older than what waits.
        self._queue.extendleft(sorted(self._sent, reverse=True))
        self._sent.clear()
        self._sent_bytes = 0
        self._started.clear()
        self._introductions.start_anew(None)
        self._received = self._acknowledged = 0
        self._origin = None

    def on_failure(self, error: BaseException) -> None:
        """The session cannot go on: all that is outstanding ends with this error."""
        self._failure = error
        with self._lock:
            self._is_closed = True
        self._loop.stop()

    def _leave_when_done(self) -> None:
        self._leaves_when_done = True
        if not self.outstanding():
            self._leave()

    def _leave(self) -> None:
        """Say goodbye, and end when the master has read it or had its time."""
        self._window_jobs = 0
        self._uplink.leave(self._loop.stop, waits_for_lost=True)

    def _resume(self) -> None:
        """This connection may have lost its place in the middle of a message: go on with another."""
        self._uplink.connect_anew("a message was interrupted")
        self._on_wake()

    def _abandon(self) -> None:
        """Settle what is outstanding when the thread ends: nothing stays pending for ever."""
        if self._uplink.connection is not None:
            self._uplink.connection.close()
        self._take_cancelled()
        for number in list(self._jobs):  # in the order of their submission
            job = self._jobs.pop(number, None)
            if job is None:
                continue  # cancelled in this very moment
            error = self._failure
            self._finish(number, job, Abandoned() if error is None else _copy_of(error), None)
        self._notify()

    # --- the session's thread: jobs ---

    def _on_wake(self) -> None:
        self._is_woken = False  # before the queue is looked at: who adds after that wakes us again
        if self._cancelled:
            self._take_cancelled()
        if self._recording.has_some:
            if self.is_own_thread():
                self._take_recorded()
                self._take_stored()
            else:  # it was sending a job of its own, and callbacks are not its business
                self._loop.wake()
        self._pump()

    def _pump(self) -> None:
        """Send what the master's window has room for."""
        connection, queue, jobs, sent = self._uplink.connection, self._queue, self._jobs, self._sent
        if connection is None or not self._window_jobs:
            return
        if self._is_handing_in:
            self._hand_in(connection)
        while queue and len(sent) < self._window_jobs:
            numbers: list[int] = []
            batch: list[Job] = []
            room = min(BATCH, self._window_jobs - len(sent))
            while queue and len(numbers) < room:
                number = queue[0]
                job = jobs.get(number)
                if job is not None:
                    size = len(job[2])
                    if sent and self._sent_bytes + size > self._window_bytes:
                        break
                    sent[number] = size
                    self._sent_bytes += size
                    numbers.append(number)
                    batch.append(job)
                queue.popleft()
            if not numbers:
                return
            self._handed = max(self._handed, numbers[-1])
            self._submit_batch(connection, numbers, batch)

    def _hand_in(self, connection: Connection) -> None:
        """Send again what was at the master before. It went through a window then: that is not asked for again."""
        queue, jobs = self._queue, self._jobs
        while queue and queue[0] <= self._handed:
            numbers: list[int] = []
            batch: list[Job] = []
            while queue and queue[0] <= self._handed and len(numbers) < BATCH:
                number = queue.popleft()
                job = jobs.get(number)
                if job is not None:
                    self._sent[number] = len(job[2])
                    self._sent_bytes += len(job[2])
                    numbers.append(number)
                    batch.append(job)
            if numbers:
                self._submit_batch(connection, numbers, batch)
        self._is_handing_in = False
        connection.send(m.HandedIn())

    def _submit_batch(self, connection: Connection, numbers: list[int], batch: list[Job]) -> None:
        """Send jobs, after the objects and options which they need and the master has not."""
        if self._recording.calls and self._origin is None:
            self._origin = ""
            connection.send(m.WantsOrigin())
        introductions = self._introductions
        introductions.send_options(connection)
        if not introductions.send_objects(connection, {job[0] for job in batch}):
            if len(batch) > 1:  # too many objects for one go
                middle = len(batch) // 2
                self._submit_batch(connection, numbers[:middle], batch[:middle])
                self._submit_batch(connection, numbers[middle:], batch[middle:])
            return  # else: cancelled meanwhile, and its function is forgotten
        connection.send(
            m.Submit(numbers, [job[0] for job in batch], [job[1] for job in batch], [job[2] for job in batch])
        )

    def _acknowledge(self, count: int) -> None:
        """Tell the master, now and then, that results are here."""
        self._received += count
        if self._received - self._acknowledged >= ACKNOWLEDGED_JOBS:
            self._send_acknowledgement()
        elif not self._is_acknowledging:
            self._is_acknowledging = True
            self._loop.call_later(ACKNOWLEDGED_SECONDS, self._send_acknowledgement)

    def _send_acknowledgement(self) -> None:
        self._is_acknowledging = False
        connection = self._uplink.connection
        if connection is not None and self._acknowledged < self._received:
            self._acknowledged = self._received
            connection.send(m.Received([self._received]))

    def _on_roster(self, message: m.Roster) -> None:
        self._roster.update(message.joined)
        self._roster.difference_update(message.gone)

    def _on_origin(self, message: m.Origin) -> None:
        self._origin = message.host

    def _on_charged(self, message: m.Charged) -> None:
        if message.number in self._jobs:
            self._charges[message.number] = message

    def _on_results(self, message: m.JobResults) -> None:
        jobs, sent, started, calls = self._jobs, self._sent, self._started, self._recording.calls
        imports = deferred.module_locks
        load = serialize.load_result
        outcomes: list[Outcome] = []
        for number, status, seconds, payload in zip(*message, strict=True):
            self._sent_bytes -= sent.pop(number, 0)
            if started:
                started.discard(number)
            job = jobs.pop(number, None)
            if job is None:
                continue  # cancelled meanwhile
            if status == m.DONE:
                try:
                    if imports:
                        value = serialize.load_result_soon(payload, _name(number, job))
                    else:
                        value = load(payload)
                    error = None
                except BaseException as failure:
                    value, error = None, serialize.unreadable(_name(number, job), failure)
            elif status == m.TIMEOUT:
                value, error = None, _timeout(_name(number, job), payload)
            elif status == m.NOT_ENTERED:
                value, error = None, serialize.load_error(payload, _name(number, job) + UNENTERED)
                calls.pop(number, None)  # it has not run: there is nothing to store
            else:
                value, error = None, serialize.load_error(payload, _name(number, job))
            if calls and number in calls:
                if status == m.TIMEOUT:
                    assert error is not None
                    status, payload = m.ERROR, serialize.dump_error(error, {})
                outcomes.append(
                    Outcome(number, job, calls.pop(number), status, seconds, payload, error, value)
                )
            else:
                self._finish(number, job, error, value)
        if outcomes:
            self._recording.record(outcomes, self._origin or "")
        self._acknowledge(len(message.numbers))
        self._notify()
        self._pump()

    def _on_lost(self, message: m.Lost) -> None:
        self._sent_bytes -= self._sent.pop(message.number, 0)
        self._started.discard(message.number)
        job = self._jobs.pop(message.number, None)
        if job is not None:
            error = WorkerLost(f"{_name(message.number, job)} was given up: {message.reason}", message.notes)
            call = self._recording.calls.pop(message.number, None)
            if call is None:
                self._finish(message.number, job, error, None)
            else:
                payload = serialize.dump_error(error, {})
                outcome = Outcome(message.number, job, call, m.ERROR, 0.0, payload, error, None)
                self._recording.record([outcome], "")
        self._notify()
        self._pump()

    def _on_started_jobs(self, message: m.JobsStarted) -> None:
        for number in message.numbers:
            job = self._jobs.get(number)
            if job is not None:
                self._started.add(number)
                self._on_started(number, job[3])

    def _take_cancelled(self) -> None:
        """Let go of what was cancelled, here and at the master."""
        sent = self._sent
        at_master: list[int] = []
        for _ in range(len(self._cancelled)):
            number, job, is_told = self._cancelled.popleft()
            if number in sent:
                self._sent_bytes -= sent.pop(number)
                at_master.append(number)
            self._started.discard(number)
            self._recording.calls.pop(number, None)
            if is_told:
                self._finish(number, job, Abandoned(), None)
            else:
                self._bytes_out += len(job[2])
                self._charges.pop(number, None)
                self._finished += 1
        connection = self._uplink.connection
        if at_master and connection is not None:
            connection.send(m.Cancel(at_master))
        self._notify()

    # --- the session's thread: the store ---

    def _take_recorded(self) -> None:
        """Deliver what has been stored."""
        failure = self._recording.deliver_recorded()
        if failure is not None and not self._is_closed:
            self.on_failure(failure)
        self._notify()

    def _take_stored(self) -> None:
        """Deliver what earlier runs have stored."""
        self._queue.extend(self._recording.deliver_stored(self._jobs))
        self._notify()
        if self._recording.has_some:
            self._loop.call_soon_threadsafe(self._on_wake)

    # --- the session's thread: the end of each job ---

    def _finish(self, number: int, job: Job, error: BaseException | None, value: Any) -> None:
        self._bytes_out += len(job[2])
        if self._charges:
            self._charges.pop(number, None)
        if error is not None:
            self.failed += 1
        self._deliver(number, job[3], error, value)
        self._finished += 1

    def _notify(self) -> None:
        if self._waiters:
            with self._progress:
                self._progress.notify_all()
        if self._leaves_when_done and not self.outstanding():
            self._leave()

    def _on_window(self, message: m.Window) -> None:
        self._window_jobs, self._window_bytes = message.jobs, message.size
        self._pump()

    # --- fork ---

    def drop_after_fork(self) -> None:
        """In a forked child: let go of the connection without a word."""
        self._is_closed = True
        self._jobs = {}
        self._finished = self._last_number
        # Other threads, which are not here, may have held these. The event makes join() return.
        self._lock, self._progress, self._ended = threading.RLock(), threading.Condition(), threading.Event()
        self._ended.set()
        self._loop.drop_after_fork()
        if self._uplink.connection is not None:
            self._uplink.connection.drop_after_fork()


_HANDLERS: dict[type, Callable[[Session, Any], None]] = {
    m.Window: Session._on_window,
    m.Notice: lambda session, message: logger.warning("%s", message.text),
    m.Roster: Session._on_roster,
    m.Origin: Session._on_origin,
    m.JobsStarted: Session._on_started_jobs,
    m.JobResults: Session._on_results,
    m.Lost: Session._on_lost,
    m.Charged: Session._on_charged,
    m.Goodbye: lambda session, message: session._uplink.on_goodbye(message),
    m.Heartbeat: lambda session, message: None,
}


def _name(number: int, job: Job) -> str:
    """For messages: by the caller's own id, where the job has one (then its tag is a tuple that begins with it)."""
    tag = job[3]
    return f"job {tag[0] if type(tag) is tuple else number}"


def _timeout(name: str, payload: Any) -> BaseException:
    try:
        note = json.loads(bytes(payload))
        where = f"host {note['host']}, pid {note['pid']}, attempt {note['attempt']}"
        return JobTimeout(
            f"{name} ran longer than its limit of {note['limit']:g} s and was stopped ({where})"
        )
    except (ValueError, TypeError, KeyError):
        return JobTimeout(f"{name} ran longer than its limit and was stopped")


def _copy_of(error: BaseException) -> BaseException:
    """Each job gets an exception of its own: one instance raised in many threads would mix their tracebacks."""
    return type(error)(*error.args)


def _look_in_slurm() -> None:
    """Where the user has a cluster in Slurm, its jobs are one of the places to look for the master."""
    if os.path.exists(os.path.join(home.home_directory(), f"slurm-{address.cluster_name()}", "state.json")):
        import cw.slurm  # noqa: F401


def _half_the_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
