"""Chunks of `map(chunksize=...)`: calls that travel and run together. A small module, as runners import it.

    client   Chunk.add(args), ... --> payload     runner   run, run_each: for each call a fresh function and arguments

Arguments that share nothing are pickled together; in columns, if they were read ahead: all first arguments, all second
ones; those of a range as its ends. Others are pickled call by call, when they are read. A large one that many calls
have is pickled once.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from cw.errors import JobTimeout
from cw.net.messages import DONE, ERROR
from cw.payloads import current, job_usage, serialize, shared
from cw.payloads.layout import Payload, StoreBuffer
from cw.payloads.pickled import PLAIN, Pickled

SHARED = 8 * 1024
"""Size (bytes) from which an argument is pickled once for all calls of the chunk that have it."""


class Shared:
    """Placeholder in a call's arguments for one that other calls have, too, with its index in the list. Equal arguments
    that are not one object have different numbers."""

    __slots__ = ("number", "place")

    def __init__(self, place: int, number: int) -> None:
        self.place = place
        self.number = number

    def __reduce__(self) -> Any:
        return Shared, (self.place, self.number)


class Chunk:
    """Calls, each pickled when it is added. `names`, `codes`: as in `Pickled`. `met`: futures among the arguments of
    all calls. `state`: pickled before the arguments of each call. `seconds`: time after which `run` begins no further
    call; None: it runs all."""

    def __init__(
        self, function: Any = None, state: Pickled | None = None, seconds: float | None = None
    ) -> None:
        self.names: Sequence[str] = ()
        self.codes: Sequence[Any] = ()
        self.large: tuple[Any, ...] = ()
        """The arguments of the last call that has a megabyte of them."""
        self.met: list[Any] = []
        self._function = function
        self._state = state
        self._seconds = seconds
        self._calls: list[Any] = []  # plain arguments, or a payload
        self._columns: tuple[Sequence[Any], ...] = ()  # in place of calls: arguments that are all plain
        self._is_plain = state is None
        self._contents: list[shared.Content] = []  # held until the chunk is sent
        self._shared: dict[bytes, tuple[int, Any]] = {}  # large arguments, by digest: index and payload
        if state is not None:
            self._note(state)

    def __len__(self) -> int:
        return len(self._columns[0]) if self._columns else len(self._calls)

    def add_columns(self, columns: Sequence[Sequence[Any]]) -> None:
        """Add the calls of an empty chunk: the first arguments of all, the second ones, ... which `are_plain`. Raises
        NotPicklable."""
        if self._is_plain:
            self._columns = tuple(columns)
        else:
            self.add_all(zip(*columns, strict=True))

    def add_all(self, calls: Iterable[tuple[Any, ...]]) -> None:
        """Add calls, each before the next one is read. Raises NotPicklable, and what reading them raises."""
        for args in calls:
            self.add(args)

    def add(self, args: tuple[Any, ...]) -> None:
        """Add a call. Raises NotPicklable."""
        if self._is_plain and serialize.is_plain(args, {}):
            self._calls.append(args)
            return
        if self._is_plain:
            self._is_plain = False
            self._calls = [self._pickle(each) for each in self._calls]
        self._calls.append(self._pickle(args))

    def payload(
        self, store: StoreBuffer | None = None, label: int = 0, items: Sequence[int] | None = None
    ) -> Payload:
        """Return the payload for `run` and `run_each`. `items`: which item of the chunk each call is, if some are
        missing."""
        if self._is_plain:
            fields: Any = items, self._seconds, tuple(map(_folded, self._columns)) or self._calls
            return pickle.dumps(fields, 5) + label.to_bytes(serialize.LABEL, "little")
        common = [payload for _, payload in self._shared.values()]
        fields = items, self._seconds, self._state is not None, common, self._calls
        return serialize.dump(fields, store, label)

    def _pickle(self, args: tuple[Any, ...]) -> Payload:
        state = self._state
        found = serialize.dump_call_by_name(args, {}, self.met) if state is None else None
        if found is not None and len(found[0]) <= SHARED and not found[1]:
            self._note_names(found[2])
            return found[0]
        memo = None if state is None else state.memo
        is_by_value = state is None and found is None
        pickled = serialize.pickle_call(args, {}, self._function, memo, is_by_value, self.met)
        if pickled.size >= serialize.BIG_BYTES:
            self.large = args
        if pickled.size > SHARED:
            pickled = self._take_apart(args, pickled, memo)
        self._note(pickled)
        data, buffers = (b"", []) if state is None else (state.data, state.buffers)
        return serialize.join(data + pickled.data, [*buffers, *pickled.buffers])

    def _take_apart(self, args: tuple[Any, ...], whole: Pickled, memo: Any) -> Pickled:
        """Pickle the same call with its large arguments apart, unless they share something with others."""
        apart: dict[int, Pickled] = {}
        for value in args:
            if type(value) not in PLAIN and id(value) not in apart:
                pickled = serialize.pickle_call((value,), {}, self._function, met=self.met)
                if pickled.size > SHARED:
                    apart[id(value)] = pickled
        common = dict(self._shared)
        for pickled in apart.values():
            common.setdefault(pickled.digest(), (len(common), pickled))
        places = {
            identity: Shared(common[pickled.digest()][0], number)
            for number, (identity, pickled) in enumerate(apart.items())
        }
        rest = serialize.pickle_call(
            tuple(places.get(id(value), value) for value in args), {}, self._function, memo, met=self.met
        )
        if rest.size + sum(pickled.size for pickled in apart.values()) > whole.size + SHARED // 2:
            return whole
        for digest, (place, pickled) in list(common.items())[
            len(self._shared) :
        ]:  # in the order of their indices
            self._shared[digest] = place, pickled.payload()
            self._note(pickled)
        return rest

    def _note_names(self, names: Sequence[str]) -> None:
        if names:
            self.names = sorted({*self.names, *names})
            if shared.is_used:
                self._contents += shared.contents_of(names)

    def _note(self, pickled: Pickled) -> None:
        self._note_names(pickled.names)
        if pickled.codes:
            self.codes = list({id(code[1]): code for code in (*self.codes, *pickled.codes)}.values())


def are_plain(columns: Iterable[Sequence[Any]]) -> bool:
    """True if the arguments in columns neither share nor refer to anything."""
    for column in columns:
        if type(column) is not range and not PLAIN.issuperset(map(type, column)):
            return False
    return True


def _folded(column: Sequence[Any]) -> Sequence[Any]:
    """Return a column as it travels: a list, or a tuple with what a range is made of."""
    if type(column) is range:
        return column.start, column.stop, column.step
    return column if type(column) is list else list(column)


def _unfolded(columns: Iterable[Sequence[Any]]) -> list[Sequence[Any]]:
    return [range(*column) if type(column) is tuple else column for column in columns]


class Same:
    """Makes the function of each call: one that all calls share."""

    __slots__ = ("function",)

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, state: Any) -> Any:
        return self.function


class _Plain:
    """Plain arguments of calls, one by one or in columns; as an iterable, for each call a function that returns its
    function and arguments."""

    __slots__ = ("_make", "calls")

    def __init__(self, calls: Any, make: Callable[[Any], Any]) -> None:
        self.calls = calls
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        make, calls = self._make, self.calls
        if type(calls) is tuple:
            calls = zip(*_unfolded(calls), strict=True)
        return (lambda args=args: (make(None), args) for args in calls)


def _load(
    payload: Any, make: Callable[[Any], Any], persistent_load: Any
) -> tuple[Sequence[int] | None, float | None, Iterable[Any]]:
    """Return which items the calls are, the time for them, and for each call a function that returns its function and
    arguments."""
    items, seconds, *fields = serialize.load(payload)
    if len(fields) == 1:
        return items, seconds, _Plain(fields[0], make)
    has_state, common, parts = fields

    def load(part: Any) -> tuple[Any, tuple[Any, ...]]:
        state = None
        if has_state:
            state, call = serialize.load_parts(part, 2, persistent_load)
        else:
            call = serialize.load(part)
        args = serialize.as_call(call)[0]
        if common:
            own: dict[int, Any] = {}
            args = tuple(_unshared(value, common, own) for value in args)
        return make(state), args

    return items, seconds, (lambda part=part: load(part) for part in parts)


def _unshared(value: Any, common: Sequence[Any], own: dict[int, Any]) -> Any:
    if type(value) is not Shared:
        return value
    if value.number not in own:
        own[value.number] = serialize.load_call(common[value.place])[0][0]
    return own[value.number]


def run(make: Callable[[Any], Any], payload: Any, persistent_load: Any = None) -> tuple[list[Any], Any]:
    """Return the results of the calls up to the first that fails, and its pickled exception, or None. If the chunk's
    time is over, the results of the calls begun by then."""
    results: list[Any] = []
    items, seconds, calls = _load(payload, make, persistent_load)
    current.chunk = results, items
    try:
        if type(calls) is _Plain and type(make) is Same:
            _run_plain(make.function, calls.calls, results, seconds)
            return results, None
        for load in calls if seconds is None else _until_over(calls, seconds):
            _make_ready()
            function, args = load()
            results.append(function(*args))
        return results, None
    except KeyboardInterrupt:  # probably a request to stop, not the call's outcome
        raise
    except BaseException as error:
        answer = serialize.dump_error(error, {"host": os.uname().nodename, "pid": os.getpid()})
        serialize.forget_tracebacks(error)
        return results, answer
    finally:
        current.chunk = None
        del results  # a traceback of an exception among them leads to this frame


def _until_over(calls: Iterable[Any], seconds: float) -> Iterator[Any]:
    """Yield calls until the time is over: the first in any case."""
    end = time.monotonic() + seconds
    for count, call in enumerate(calls):
        if count and time.monotonic() > end:
            return
        yield call


def _make_ready() -> None:
    """Do what is due before a call of a chunk begins. Raises JobTimeout if none may begin any more."""
    current.due.clear()
    if current.is_interrupted:
        raise JobTimeout(_NOT_BEGUN)
    shared.values.clear()
    if current.clear_timers is not None:  # they would fire in this call
        current.clear_timers()


def _run_plain(function: Any, calls: Any, results: list[Any], seconds: float | None) -> None:
    """Run the calls of a chunk as `run` does, where nothing need be made for a call: 0.05 us for each."""
    due, note = current.due, results.append
    columns = _unfolded(calls) if type(calls) is tuple else []
    is_single = len(columns) == 1
    if columns:
        calls = columns[0] if is_single else zip(*columns, strict=True)
    if seconds is not None:
        calls = _until_over(calls, seconds)
    due.add("begin")
    try:
        if is_single:
            for value in calls:
                if due:
                    _make_ready()
                note(function(value))
        else:
            for args in calls:
                if due:
                    _make_ready()
                note(function(*args))
    finally:
        del results, note  # as in `run`


def run_each(
    make: Callable[[Any], Any], payload: Any, persistent_load: Any = None
) -> list[tuple[int, float, Any]]:
    """Return status, seconds and payload of each call. One that fails does not keep later ones from running."""
    outcomes: list[tuple[int, float, Any]] = []
    items, _, calls = _load(payload, make, persistent_load)
    current.chunk = outcomes, items
    try:
        for load in calls:
            outcomes.append(_run(load if not current.is_interrupted else _refuse))
            if current.clear_timers is not None:
                current.clear_timers()
    finally:
        current.chunk = None
    return outcomes


_NOT_BEGUN = "the job of its chunk was asked to end before this call began"


def _refuse() -> Any:
    raise JobTimeout(_NOT_BEGUN)


def _run(load: Callable[[], Any]) -> tuple[int, float, Any]:
    start, pid = time.monotonic(), os.getpid()
    try:
        shared.values.clear()
        function, args = load()
        status, result = DONE, serialize.dump_result(function(*args))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or os.getpid() != pid:  # a request to stop; a forked child
            raise
        status, result = ERROR, serialize.dump_error(error, {"host": os.uname().nodename, "pid": pid})
        serialize.forget_tracebacks(error)
    lasted = time.monotonic() - start
    return (
        status,
        lasted,
        job_usage.attach(result, is_apart=False) if lasted > job_usage.MEASURED_SECONDS else result,
    )


def load_error(payload: Any, job: int, call: int) -> BaseException:
    """Return the exception of a call in a chunk, which is one job."""
    return serialize.load_error(payload, f"job {job}, call {call} of its chunk")
