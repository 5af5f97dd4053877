"""Submission of jobs from any thread to the session's own, which is woken; and their cancellation.

    submit --> plain arguments of a known function? --yes--.
                   '-no--> calls.OneCall --> add ----------+--> room? --> Jobs.add --> wake
                                                           '--> futures among them? --> Dependents.add

A job that is the only outstanding one is sent from the thread that submits it: this saves a wakeup.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, Protocol

from cw.client.functions.calls import Calls, OneCall, Submission
from cw.client.functions.prepared import Prepared
from cw.client.hints import LARGE_ARGUMENT, LargeArguments
from cw.client.recorded_calls import Call, Chunk, UnkeyedCall
from cw.client.session.delivery import Delivery
from cw.client.session.dependents import Dependents
from cw.client.session.exchange import Exchange
from cw.client.session.job import Dependent
from cw.client.session.jobs import Jobs
from cw.client.store_client import StoreClient
from cw.net import memory, wire
from cw.net.loop import Loop
from cw.payloads import dependent, serialize
from cw.requirements import NO_OPTIONS, JobOptions

HELD_SECONDS = 0.0005
"""Longest time for which jobs of a map are kept back, to be sent together (seconds). Longer: slots idle while many or
large items are pickled. Shorter: jobs of a short map travel in more messages."""


class Owner(Protocol):
    """The session, as a submitter needs it."""

    is_closed: bool
    """True if the session accepts no more jobs. Read under its lock."""

    def why_closed(self) -> BaseException:
        """Return the error that `submit` raises then."""

    def is_started(self) -> bool:
        """True if the thread that sends jobs has been started."""

    def is_own_thread(self) -> bool:
        """True if called in that thread (by a callback)."""

    def wait_for_room(self, size: int) -> None:
        """Block until the client may hold `size` more bytes, or is closed. Never blocks in a callback."""

    def on_wake(self) -> None:
        """Take submitted and cancelled jobs."""


class Submitter:
    """Submits and cancels jobs of one session. For any thread."""

    def __init__(
        self, loop: Loop, owner: Owner, jobs: Jobs, calls: Calls, exchange: Exchange, delivery: Delivery
    ) -> None:
        self.is_woken = False
        """True if the session's thread is about to look for jobs. It clears this before it looks, so that a job added
        later wakes it again."""
        self._loop = loop
        self._loop_lock: Any = loop.lock
        self._owner = owner
        self.lock = calls.lock
        self._jobs = jobs
        self._calls = calls
        self._exchange = exchange
        self._delivery = delivery
        self.spill: Callable[[int, int, Any, Any, Call | Chunk, JobOptions], int] | None = None
        """Takes recorded calls in place of `Jobs.add`, under the lock: those of a run that is handed over."""
        self.large_arguments = LargeArguments()
        """Those that calls had lately: the user gets a hint when one recurs."""
        self.dependents = Dependents(owner, jobs, calls, delivery, self._wake_thread)

    def submit(
        self,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tag: Any,
        options: JobOptions = NO_OPTIONS,
        store_client: StoreClient | None = None,
        prepared: Prepared | None = None,
        label: int = 0,
    ) -> int:
        """Queue a job; returns its number, below 0 while it waits for futures. Raises as OneCall, or RuntimeError."""
        calls = self._calls
        payload: Any
        payload = plain = serialize.dump_plain(args, kwargs, label)
        names: Sequence[str] = ()
        met: Any = ()
        if plain is None and store_client is None:
            payload, names = self._dump_if_known(function, args, kwargs, type(tag), label, met := [])
        if payload is not None:
            number = 0
            try:
                if self._jobs.is_full(size := len(payload)) or size > memory.LARGE:
                    if size >= LARGE_ARGUMENT:
                        self.large_arguments.look(function, args, kwargs)
                    self._make_room(payload)
                with self.lock:
                    if not self._owner.is_closed:
                        calls.look_if_due()
                        known = calls.functions.known_number(function, names, prepared)
                        if known and store_client is not None:
                            recorded = store_client, args, kwargs, payload
                            number = self._add_recorded(known, recorded, tag, options)
                        elif known:
                            calls.make_room(known)
                            chosen = 0 if options is NO_OPTIONS else calls.objects.options_number(options)
                            if met:
                                held = Dependent(function, known, chosen, payload, tag, None, options)
                                return self.dependents.add(held, met)
                            number = self._jobs.add(known, chosen, payload, tag, None, options)
                if number:
                    self._wake(number)
                    return number
            except KeyboardInterrupt:
                self._undo(number)
                raise
        call = OneCall(calls, function, args, kwargs, plain, store_client, prepared, label)
        if len(call.payload) >= LARGE_ARGUMENT:
            self.large_arguments.look(function, args, kwargs)
        return self.add(call, tag, options)

    def _add_recorded(
        self,
        known: int,
        recorded: tuple[StoreClient, tuple[Any, ...], dict[str, Any], bytes],
        tag: Any,
        options: JobOptions,
    ) -> int:
        """Add the job of a call with plain arguments that is recorded; returns its number. 0: it takes `OneCall`.

        `known`: the function's number. `recorded`: where to, and the arguments, which are the payload, too. The lock is
        held.
        """
        store_client, args, kwargs, payload = recorded
        calls = self._calls
        key = calls.functions.keys.known(known)
        if key is None or self.spill is not None:
            return 0
        call = store_client.recall(key, args, kwargs, payload)
        if call is None:
            return 0
        calls.make_room(known)
        if hasattr(tag, "stored_key"):
            tag.stored_key = call.result_key
        chosen = 0 if options is NO_OPTIONS else calls.objects.options_number(options)
        number = 0
        try:
            number = self._jobs.add(known, chosen, payload, tag, call, options)
            self._delivery.add(number, call)
        except KeyboardInterrupt:
            self._jobs.withdraw(number)  # the caller, who undoes the rest, does not have the number
            raise
        return number

    def _dump_if_known(
        self,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        future_class: type,
        label: int,
        met: list[Any],
    ) -> tuple[Any, Sequence[str]]:
        """Dump a call as `FunctionTable.dump_if_known` does; faster if it depends on calls and has flat arguments.
        `future_class`: the class of this client's futures, if it has some: an executor's tags are."""
        if future_class in map(type, args) and not kwargs:
            payload = dependent.dump_flat(args, future_class, met, label)
            if payload is not None:
                return payload, ()
        return self._calls.functions.dump_if_known(function, args, kwargs, self._calls.store, label, met)

    def add(self, submission: Submission, tag: Any, options: JobOptions = NO_OPTIONS) -> int:
        """Queue a job; returns its number. Raises NotPicklable, UnstableKey, RuntimeError if the session is closed."""
        if self._jobs.is_full(size := len(submission.payload)) or size > memory.LARGE:
            self._make_room(submission.payload)
        number = 0
        try:
            with self.lock:
                if self._owner.is_closed:
                    raise self._owner.why_closed()
                function = submission.place()
                call = submission.call
                if type(call) is Call and hasattr(tag, "stored_key"):
                    tag.stored_key = call.result_key
                chosen = 0 if options is NO_OPTIONS else self._calls.objects.options_number(options)
                if submission.met:
                    held = Dependent(
                        submission.function, function, chosen, submission.payload, tag, call, options
                    )
                    if type(call) is not Call or not call.is_found:
                        return self.dependents.add(held, submission.met)
                    call.again = partial(self.dependents.add, held, submission.met)
                if self.spill is not None and call is not None and not call.is_found:
                    assert not isinstance(call, UnkeyedCall)
                    return self.spill(function, chosen, submission.payload, tag, call, options)
                number = self._jobs.add(function, chosen, submission.payload, tag, call, options)
                if call is not None:
                    assert not isinstance(call, UnkeyedCall)  # such calls wait for futures
                    self._delivery.add(number, call)
            self._wake(number)
        except KeyboardInterrupt:
            self._undo(number)
            raise
        return number

    def cancel(self, number: int, is_delivered: bool = False, owner: Any = None) -> bool:
        """Cancel a job; if it runs, it is stopped. False: there is no such job, or it has ended.

        `is_delivered`: deliver it as Abandoned; otherwise it is not delivered. `owner`: the tag that it must have, if
        not None.
        """
        if number < 0:
            number = self.dependents.withdraw(number, owner)
        if not self._jobs.cancel(number, is_delivered, owner):
            return False
        if not self._owner.is_started():
            self._exchange.take_cancelled()
        else:
            self._wake_thread()
        return True

    def _make_room(self, payload: Any) -> None:
        """Wait until the client may hold these bytes as well."""
        size = len(payload)
        if size > memory.LARGE:
            wire.check_payload(payload, "the arguments")
        if self._jobs.is_full(size):
            self._loop.wake()  # jobs that `send_together` keeps back need not be sent otherwise
            self._owner.wait_for_room(size)

    def send_together(self, step: Callable[[], bool]) -> bool:
        """Call `step`, which submits a job, while it returns True, up to HELD_SECONDS; the jobs are sent after that.
        Returns its last answer. It must not wait for jobs of this session."""
        deadline = monotonic() + HELD_SECONDS
        self.is_woken = True
        try:
            while has_more := step():
                if monotonic() > deadline:
                    break
        finally:
            if not self._send_now():
                self._loop.wake()
        return has_more

    def _wake_thread(self) -> None:
        """Let the session's thread look for jobs, and for results to deliver."""
        if not self.is_woken:
            self.is_woken = True
            self._loop.wake()

    def _wake(self, number: int) -> None:
        if not self.is_woken:
            self.is_woken = True
            if number - self._jobs.delivered > 1 or not self._send_now():
                self._loop.wake()

    def _send_now(self) -> bool:
        """Send jobs from this thread. False: the loop is busy."""
        if self._delivery.has_some or not self._loop_lock.acquire(blocking=False):
            return False
        try:
            if self._exchange.link.connection is None:
                return False
            self._owner.on_wake()
            self._loop.flush()
            return True
        except KeyboardInterrupt:
            self._loop.call_soon_threadsafe(self._resume)
            raise
        finally:
            self._loop_lock.release()

    def _undo(self, number: int) -> None:
        """Withdraw a job after Ctrl-C in the middle of `submit`: its number reached nobody."""
        if self._owner.is_own_thread():
            return  # a callback raised it: this is no signal
        self._jobs.withdraw(number)
        is_torn = False
        while self._loop_lock._is_owned():  # it came while this thread was sending
            is_torn = True
            self._loop_lock.release()
        self._loop.call_soon_threadsafe(self._resume if is_torn else self._owner.on_wake)

    def _resume(self) -> None:
        """Connect anew: an interrupt may have left half a message on this connection."""
        self._exchange.link.connect_anew("a message was interrupted")
        self._owner.on_wake()
