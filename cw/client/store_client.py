"""The link between a client and a store: finds calls that are stored already, and records the others.

    submit --> identify --> the n-th call with this key: stored? --yes--> its result is read, and delivered
                                                           '-no---> a job; its result is recorded, then delivered

A *run* is the life of the program: in it, the n-th identical call differs from the n+1-th, whichever client submits it.
If the same lines run again in the same process, it is shorter: the execution of a notebook's cell, or the job, that
calls `submit` or `map`; at Python's own prompt, the life of the client, or one `map`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from cw import program
from cw.client.recorded_calls import Call, UnkeyedCall
from cw.errors import StoreError
from cw.events import EventLogger
from cw.net import messages as m
from cw.payloads import classes, environment, serialize
from cw.store import callkey
from cw.store.callkey import FunctionKey
from cw.store.directory import identify
from cw.store.format import ClassRecord, Entry, EntryFields, Stored
from cw.store.reader import Store
from cw.store.writer import Writer

if TYPE_CHECKING:
    from cw.runs.under_way import UnderWay

logger = EventLogger("cw.store")

MISSED = 20
"""Number of calls of a function not found in a store that has results of it, after which a warning is logged."""


# What a call refers to: classes and definitions. One object for all such calls, and never changed.
_REFERS_TO_NOTHING: tuple[tuple[ClassRecord, ...], dict[bytes, bytes]] = (), {}


class _Open:
    """A store that this process uses: read once, written by one writer while clients have it open."""

    def __init__(self, path: str) -> None:
        self.store = Store(path, is_writing=True, scheme=callkey.SCHEME)
        if self.store.others and not self.store.own_results:
            logger.warning(
                "store.other_keys",
                "the store %s has only results with keys of another kind (%s), and this is %s: none of them is found "
                "again, and all calls run anew",
                path, "; ".join(sorted(self.store.others)), callkey.SCHEME,
            )  # fmt: skip
        self.counts: dict[bytes, int] = {}  # calls of this run, by key
        self.part: int | None = None  # part of the program that this run is
        # Numbers of calls, by function, of which none has been found so far, although the function has results.
        self.missed = dict.fromkeys(self.store.done_by_function, 0)
        self.users = 0
        self.writer: Writer | None = None
        self.under_way: UnderWay | None = None  # calls of runs of this store that go on without this program
        # The script's classes that were seen in this run, and their records: digest, identity, place.
        self.classes: weakref.WeakKeyDictionary[type, ClassRecord] = weakref.WeakKeyDictionary()
        self._classes_by_digest: dict[bytes, int] = {}  # number of classes so far

    def look_for_runs(self) -> None:
        """Look for runs of this store that go on without this program."""
        if os.path.isdir(os.path.join(self.store.path, "runs")):
            from cw.runs import under_way

            self.under_way = under_way.look_for_runs(self.under_way, self.store, self.refresh)

    def counts_of_run(self) -> dict[bytes, int]:
        """Return the number of calls so far, by key, in the run that begins now, or goes on."""
        part = _part_of_program()
        if part is None and _is_interactive():
            return {}
        if part != self.part:  # (clients that have begun in the one before keep its counts)
            self.part, self.counts = part, {}
        return self.counts

    def note_found(self, name: str, is_found: bool) -> None:
        """Note whether a call was found, of a function that has results."""
        missed = self.missed.pop(name, 0) + (not is_found)
        if is_found:
            return
        if missed < MISSED:
            self.missed[name] = missed
            return
        logger.warning(
            "store.nothing_found",
            "the store %s has %s of %s(), but none for the first %d calls of this run: the calls are new, or the "
            "function has changed, or something that it refers to",
            self.store.path, program.count(self.store.done_by_function[name], "result"), name, missed,
        )  # fmt: skip

    def record_of(self, cls: type, digest: bytes) -> ClassRecord:
        """Return the record of a class of the program, by which later runs find out what it was."""
        known = self.classes.get(cls)
        return known if known is not None and known[0] == digest else self._adopt(cls, digest)

    def _adopt(self, cls: type, digest: bytes) -> ClassRecord:
        """Let instances of a class that earlier runs have stored come back as instances of the program's own.

        A program may have several classes of one definition: the second corresponds to the earlier run's second. But a
        notebook's cell that runs again defines the same class as before.
        """
        with self.store.lock:
            known = self.classes.get(cls)
            if known is not None and known[0] == digest:  # by another thread, meanwhile
                return known
            place = self._classes_by_digest.get(digest, 0)
            record = self.classes[cls] = digest, classes.identity_of(cls), place
            self._take_over(cls, record)
            if _is_interactive():
                self.store.classes.setdefault(digest, {})[record[1]] = place
            else:
                self._classes_by_digest[digest] = place + 1
            return record

    def _take_over(self, cls: type, record: ClassRecord) -> None:
        digest, _, place = record
        for identity, its_place in list(self.store.classes.get(digest, {}).items()):
            if its_place == place:
                classes.adopt(identity, cls)

    def refresh(self) -> None:
        """Read results that other programs have stored since."""
        self.store.refresh()
        for cls, record in list(self.classes.items()):
            self._take_over(cls, record)


# By directory and id. They stay, so that a program that maps many times does not read a large store each time.
_open: dict[tuple[str, str], _Open] = {}
_lock = threading.Lock()


def _forget_after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _open.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


class StoreClient:
    """Records the calls of a client, or of some of its jobs. For any thread. Raises StoreError."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        durability: str = "process",
        retry_errors: bool = True,
        seed: int | None = None,
    ) -> None:
        if durability not in ("process", "disk"):
            raise ValueError(f"durability must be 'process' or 'disk', not {durability!r}")
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise TypeError(f"store must be the path of a directory, not {path!r}")
        self.is_durable = durability == "disk"
        """True if results must be on the disk itself."""
        self._retries_errors = retry_errors
        self._key: Any = None
        self._version = self._seed = callkey.of_seed(seed)
        self._open = _acquire(os.path.realpath(path))
        self._counts = self._open.counts_of_run()
        self._part = self._open.part  # part of the program that the counts belong to
        self._is_of_map = False
        self._is_closed = False

    def with_key(self, key: Any, version: Any) -> StoreClient:
        """Return a store client for calls with the user's own key or version. A callable key is called for each call.

        Raises UnstableKey.
        """
        other = object.__new__(StoreClient)
        other.__dict__.update(self.__dict__, _key=key, _version=self._seed + callkey.of_version(version))
        return other

    def of_map(self) -> StoreClient:
        """Return a store client for a map that starts now: all its calls count in this run, whenever its input is
        read."""
        other = object.__new__(StoreClient)
        other.__dict__.update(self.__dict__)
        other._count_here()
        other._is_of_map = True
        return other

    def _count_here(self) -> None:
        """Count in the run of the cell, or job, that calls now."""
        if not self._is_of_map and _part_of_program() != self._part:
            with self._open.store.lock:
                self._counts = self._open.counts_of_run()
                self._part = self._open.part

    def identify(
        self,
        function_key: FunctionKey,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Call | UnkeyedCall:
        """Return the call, for which `look_for` must be called. The caller holds the functions' lock. Raises
        UnstableKey, NotPicklable."""
        unkeyed: list[Any] = []
        if self._key is None:
            key, met = callkey.of_call(function, function_key, args, kwargs, self._version, unkeyed)
        else:
            own = self._key(*args, **kwargs) if callable(self._key) else self._key
            key = callkey.of_own(function, own, self._version)
            met = callkey.classes_in(args, kwargs)
        opened = self._open
        records: tuple[ClassRecord, ...] = ()
        if met or function_key.classes:
            records = tuple(opened.record_of(*each) for each in (*function_key.classes, *met))
        self._count_here()
        keeper = serialize.DefinitionKeeper({})
        pickled = serialize.dump_call_alone(args, kwargs, function, keeper)
        call = Call(self, key, function_key.name, (records, keeper.definitions), pickled)
        if unkeyed:
            return UnkeyedCall(call, unkeyed, self._counts)
        return call

    def look_for(self, call: Call | UnkeyedCall) -> None:
        """Count an identified call, and look for its result in the store. Once for each call; an UnkeyedCall does so
        when it is completed."""
        if type(call) is Call:
            self.find(call, self._counts)
            call.result_key = call.key

    def recall(
        self, function_key: FunctionKey, args: tuple[Any, ...], kwargs: dict[str, Any], plain: bytes
    ) -> Call | None:
        """Identify a call with plain arguments, and look for it, at once. `plain`: its payload, which is stored as it
        is. None: `identify` must. Otherwise as that one."""
        if self._key is not None or function_key.classes:
            return None
        key = callkey.of_plain_call(function_key, args, kwargs, self._version)
        if key is None:
            return None
        self._count_here()
        call = Call(self, key, function_key.name, _REFERS_TO_NOTHING, plain)
        self.find(call, self._counts)
        call.result_key = call.key
        return call

    def find(self, call: Call, counts: dict[bytes, int]) -> None:
        """Make the key of a call the key of the n-th such call in its run, and look for its result in the store."""
        opened, key = self._open, call.key
        store = opened.store
        with store.lock:
            number = counts.get(key, 0)
            counts[key] = number + 1
        if number:
            key = call.key = callkey.nth(key, number)
        place = store.index.get(key, -1)
        if place >= 0 and not (place & 1 and self._retries_errors):
            call.place = place
        elif opened.under_way is not None:
            call.is_under_way = opened.under_way.has(key)
        if opened.missed and call.name in opened.missed:
            opened.note_found(call.name, place >= 0 or call.is_under_way)

    def follow(self, call: Call, done: Callable[[], None]) -> None:
        """Call `done()`, in another thread, when a call that is under way elsewhere is stored, or must run here."""
        assert self._open.under_way is not None

        def on_end(place: int) -> None:
            call.place, call.is_under_way = place, place >= 0
            done()

        self._open.under_way.follow(call.key, on_end)

    def add_values(self, call: Call, values: list[Any]) -> None:
        """Add the values of futures among a call's arguments to its key. Raises UnstableKey."""
        call.key, met = callkey.with_values(call.key, values)
        call.classes += tuple(self._open.record_of(*each) for each in met)

    def read(self, place: int) -> Stored:
        return self._open.store.read(place)

    def entry(self, call: Call, number: int, status: int, seconds: float, host: str, payload: Any) -> Entry:
        """Return what is stored of a call. Raises whatever pickling raises."""
        payload = serialize.split_text(payload)[1]  # a note belongs to this run only
        definitions = call.definitions
        if not serialize.stands_alone(payload):
            keeper = serialize.DefinitionKeeper(definitions)
            payload = (serialize.alone if status == m.DONE else serialize.alone_error)(payload, keeper)
            definitions = keeper.definitions
        return Entry(
            call.key, number, call.name, host, status, time.time(), seconds, call.args, payload,
            self.is_durable, call.classes, definitions,
        )  # fmt: skip

    def put(
        self,
        entries: Iterable[EntryFields],
        done: Callable[[StoreError | None], None],
        size: int | None = None,
    ) -> None:
        """Store entries; see Writer."""
        writer = self._open.writer
        if writer is None:
            done(StoreError(f"the store {self._open.store.path} is closed"))
        else:
            writer.put(entries, done, size)

    def former(self, key: bytes) -> float:
        """Return when the store got the result that it has under this key; 0.0: it has none."""
        place = self._open.store.index.get(key, -1)
        return self._open.store.head(place).when if place >= 0 else 0.0

    def flush(self) -> None:
        """Return when all entries put before are stored, or have failed, and their `done` has been called."""
        writer = self._open.writer
        if writer is not None:
            writer.flush()

    def close(self) -> None:
        """Release the store; the last client in this process ends its writer. May be called again."""
        with _lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._open.users -= 1
            if self._open.users or self._open.writer is None:
                return
            writer, self._open.writer = self._open.writer, None
            under_way, self._open.under_way = self._open.under_way, None
        if under_way is not None:
            under_way.close()
        writer.close()


def _acquire(path: str) -> _Open:
    with _lock:
        known = (path, identify(path, is_writing=True))
        opened = _open.get(known)
        if opened is None:
            opened = _open[known] = _Open(path)
        elif opened.writer is None:
            opened.refresh()
        if opened.writer is None:
            opened.writer = Writer(opened.store)
        opened.look_for_runs()
        opened.users += 1
        return opened


def _is_interactive() -> bool:
    """True at a prompt, or in a notebook, where the same lines may run again."""
    return hasattr(sys, "ps1")  # (IPython sets it, too)


def _part_of_program() -> int | None:
    """Return the number of this job, or of the notebook's cell; None if the program has no such parts."""
    if environment.jobs_begun:
        return environment.jobs_begun
    if "IPython" not in sys.modules:  # (each submit of a call that is stored asks)
        return None
    shell = environment.ipython_shell()
    return None if shell is None else int(shell.execution_count)
