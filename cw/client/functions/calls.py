"""Calls as they are submitted: their pickles, the numbers of their functions, and their records for a store.

    OneCall(...), ManyCalls(...): pickled in the caller's thread, without the lock
        '--> place(), under the lock: the function's number; payload and `call` are final then

All that a call sees is taken at its submit (`cw.client.functions.functions`); modules, and settings in them, are
checked here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Protocol

from cw.client.functions.functions import FunctionTable
from cw.client.functions.prepared import Packed, Prepared
from cw.client.recorded_calls import Call, Chunk, UnkeyedCall
from cw.client.session.initializer import Initializer
from cw.client.session.job import ClientJob
from cw.client.session.jobs import Jobs
from cw.client.session.object_sender import ObjectSender
from cw.client.session.objects import ObjectTable
from cw.client.store_client import StoreClient
from cw.errors import UnstableKey
from cw.events import EventLogger
from cw.net.warm_files import WarmFiles
from cw.payloads import chunks, log_settings, modules, serialize, settings
from cw.travel.baggage import Baggage
from cw.travel.moving import moved

logger = EventLogger("cw.client")


class Submission(Protocol):
    """A call, a chunk of calls, or a call whose result is stored."""

    @property
    def payload(self) -> Any:
        """The bytes that are sent."""

    @property
    def call(self) -> Call | Chunk | UnkeyedCall | None:
        """Its record for a store, if any."""

    @property
    def function(self) -> Any:
        """The function that is called."""

    @property
    def met(self) -> Sequence[Any]:
        """The futures among the arguments, by place."""

    def place(self) -> int:
        """Return the number of the function. Called once, under the lock; then `payload` and `call` are final."""


class Calls:
    """The calls of one session. The methods are for any thread; they take the lock unless they say that it is held.

    The lock is reentrant: pickling runs user code, which may submit.
    """

    def __init__(
        self,
        lock: threading.RLock,
        objects: ObjectTable,
        jobs: Jobs,
        object_sender: ObjectSender,
        logs: log_settings.Watch,
        baggage: Baggage,
        warm_files: WarmFiles,
    ) -> None:
        """`logs`: the settings of logging and of warnings that jobs run under. `baggage`: modules and files that travel
        with the session."""
        self.lock = lock
        self.object_sender = object_sender
        self.store: serialize.StoreBuffer | None = None
        """Makes memory files, if the master is on this machine."""
        self.functions = FunctionTable(objects)
        self.objects = objects
        self._jobs = jobs
        self._watch = settings.Watch()
        self._logs = logs
        self._baggage = baggage
        self.warm_files = warm_files
        """For `store`: they make memory files."""

    def set_initializer(self, initializer: Callable[..., Any], initargs: Iterable[Any]) -> None:
        """Run this in each runner before its first job. Raises NotPicklable, TypeError."""
        with self.lock:
            self.functions.first = Initializer(self.functions, self.objects, initializer, initargs)

    def make_room(self, function: int) -> None:
        """Forget objects if there are too many. The caller holds the lock."""
        if self.objects.is_full:
            self.object_sender.forget_unused(function)

    def prepare(self, function: Any) -> Prepared:
        """Return the form in which a function travels."""
        with self.lock:
            return self.functions.prepare(function)

    def freeze(self, function: Any, mode: int) -> Prepared:
        """Prepare a function for `map`, with its state as it is now."""
        with self.lock:
            return self.functions.freeze(function, mode)

    def refresh(self) -> None:
        """Check all that functions reach, at their next submit."""
        with self.lock:
            self.functions.refresh()

    def identify(
        self, store_client: StoreClient, function: Any, args: tuple[Any, ...], prepared: Prepared
    ) -> Call:
        """Identify a call that may be part of a chunk. Raises UnstableKey, NotPicklable."""
        with self.lock:
            key = self.functions.key_of(function, prepared)
            call = store_client.identify(key, function, args, {})
            store_client.look_for(call)
            if type(call) is not UnkeyedCall:
                assert type(call) is Call
                return call
            if not call.is_ready:
                raise UnstableKey(
                    "a future among the arguments is of a call that is not stored: store that one, too, or map with "
                    "chunksize=1"
                )
            return call.complete()

    def renew(self, reason: str) -> None:
        """Run jobs that are submitted from now on in fresh runners. The caller holds the lock."""
        self.functions.renew_environment()
        logger.info("client.runners_renewed", "runners renewed: %s", reason)

    def take_modules_along(self, job: ClientJob, error: BaseException | None) -> bool:
        """Let the user's modules travel, after a job that no worker could enter. True: the job now names a function
        that has them, and can be sent again."""
        with self.lock:
            had_all = not self._baggage.is_automatic
            if not self._baggage.decide(error):
                return False
            if not had_all:
                self.functions.renew_environment()
                for each in self._jobs.all():
                    if not self._jobs.is_sent(each) and each.function:
                        each.function = moved(self.objects, each.function)
            before, job.function = job.function, moved(self.objects, job.function)
            return job.function != before

    def look_if_due(self) -> None:
        """Check the user's modules if they may have changed. The caller holds the lock."""
        watch = self._watch
        if (
            watch.version != modules.version
            or monotonic() > watch.due
            or (watch.is_quick and not self._jobs.outstanding)
        ):
            self.look_at_modules(is_due=False)

    def look_at_modules(self, is_due: bool = True) -> None:
        """Check the user's modules for reloads and changed settings, and files that travel for changes; jobs submitted
        from now on see them. `is_due`: files, too, in any case."""
        with self.lock:
            anew, is_changed = self._watch.look(self._jobs.last_number)
            if self._baggage and self._baggage.look(is_due) and not anew:
                self.functions.renew_environment()
            if anew:
                self.functions.renew_environment()
                names = ", ".join(anew)
                logger.warning(
                    "client.modules_reloaded",
                    "%s %s loaded anew: jobs run in fresh runners from now on",
                    names,
                    "was" if len(anew) == 1 else "were",
                )
            if self._logs.look() or is_changed:
                payload = settings.dump_settings(self._watch.settings, self._logs.taken)
                self.functions.set_settings(payload)


class OneCall:
    """A call. Raises the error that makes its function or arguments unpicklable.

    With a store client, its result is recorded, or taken from the store if it is there. `prepared`: the function as it
    was frozen for a `map`. `label`: see `cw.payloads.current`. `plain`: the payload of arguments that are plain.
    """

    __slots__ = ("_args", "_calls", "_kwargs", "_label", "_packed", "_prepared", "_store_client", "call", "function",
                 "payload")  # fmt: skip

    def __init__(
        self,
        calls: Calls,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        plain: Any,
        store_client: StoreClient | None = None,
        prepared: Prepared | None = None,
        label: int = 0,
    ) -> None:
        if prepared is None:
            prepared = calls.prepare(function)
        self._calls = calls
        self.function, self._args, self._kwargs = function, args, kwargs
        self._store_client = store_client
        self._prepared = prepared
        self._label = label
        self.call: Call | UnkeyedCall | None = None
        self._packed: Packed | None = None
        if plain is not None and prepared.is_bare:
            self.payload = plain
        else:
            self._packed = self._pickle()
            self.payload = self._packed.payload(calls.store, label)

    @property
    def met(self) -> Sequence[Any]:
        return () if self._packed is None else self._packed.met

    def place(self) -> int:
        calls, functions, args = (
            self._calls,
            self._calls.functions,
            (self.function, self._args, self._kwargs),
        )
        calls.look_if_due()
        if self._store_client is not None:
            self._identify(self._store_client)
            if type(self.call) is UnkeyedCall and (self.call.is_ready or not self.met):
                self.call = self.call.complete()
        packed = self._packed
        if packed is None:
            number = functions.number_of(self.function, self._prepared)
        else:
            number, placed = functions.place(*args, self._prepared, packed)
            if placed is not packed:
                self._packed = placed
                self.payload = placed.payload(calls.store, self._label)
        calls.make_room(number)
        return number

    def _pickle(self) -> Packed:
        met: list[Any] = []
        packed = self._calls.functions.pickle(self.function, self._args, self._kwargs, self._prepared, met)
        return packed._replace(met=met)

    def _identify(self, store_client: StoreClient) -> None:
        functions, args = self._calls.functions, (self.function, self._args, self._kwargs)
        call = store_client.identify(functions.key_of(self.function, self._prepared), *args)
        if self._packed is not None:
            again = self._pickle()
            if not again.is_same(self._packed):
                # The key must be of the same values as travel.
                self._packed, self.payload = again, again.payload(self._calls.store, self._label)
                call = store_client.identify(functions.key_of(self.function, self._prepared), *args)
        store_client.look_for(call)
        self.call = call


class ManyCalls:
    """Calls that travel together. `prepared` says how they run; `label` is the first one's. `items`: their indices in
    the chunk, if some are missing."""

    __slots__ = ("_calls", "_chunk", "_prepared", "call", "function", "met", "payload")

    def __init__(
        self,
        calls: Calls,
        function: Any,
        chunk: chunks.Chunk,
        prepared: Prepared,
        label: int = 0,
        items: Sequence[int] | None = None,
        call: Chunk | None = None,
    ) -> None:
        self._calls = calls
        self.function = function
        self.met = chunk.met
        self._chunk = chunk
        self._prepared = prepared
        self.call = call
        self.payload = chunk.payload(calls.store, label, items)

    def place(self) -> int:
        chunk, calls = self._chunk, self._calls
        number = calls.functions.number_of(self.function, self._prepared, chunk.names, chunk.codes)
        calls.make_room(number)
        return number


class StoredCall:
    """A call whose result is in the store: it is delivered as if the call had been submitted."""

    __slots__ = ("call", "function", "met", "payload")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.function = None
        self.met = ()
        self.payload = b""

    def place(self) -> int:
        return 0
