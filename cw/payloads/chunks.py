"""What runs on the workers for `map(chunksize=...)`: calls that travel together. Small: runners import it.

    client   dump_chunk(calls) --> payload      runner   run, run_each: for each call a fresh function, fresh arguments

Arguments that share nothing are pickled together. Others are pickled call by call; of a large one that many calls have,
there is one pickle in the chunk.
"""

from __future__ import annotations

import os
import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

from cw.net.messages import DONE, ERROR
from cw.payloads import current, serialize
from cw.payloads.serialize import Payload, Pickled, Store

SHARED = 8 * 1024
"""Bytes of an argument from which on it is pickled once for all calls of the chunk that have it."""


class Shared:
    """In the arguments of a call: one that other calls have, too; in its place of the list."""

    __slots__ = ("place",)

    def __init__(self, place: int) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Shared, (self.place,)


class Chunk:
    """Calls, pickled. `names`, `codes`: as of `Pickled`. `state`: pickled before the arguments of each call. `items`:
    which item of the chunk each call is, where some are missing."""

    def __init__(
        self,
        calls: Sequence[tuple[Any, ...]],
        function: Any = None,
        state: Pickled | None = None,
        items: Sequence[int] | None = None,
    ) -> None:
        """Raises NotPicklable."""
        self.names: Sequence[str] = ()
        self.codes: Sequence[Any] = ()
        self._calls: Any = calls
        self._items = items
        if state is None and serialize.is_plain(tuple(chain.from_iterable(calls)), {}):
            self._is_plain = True
            return
        self._is_plain = False
        shared, places = self._share(calls, function)
        pickled = []
        for args in calls:
            if places:
                args = tuple(Shared(places[id(value)]) if id(value) in places else value for value in args)
            pickled.append(self._note(serialize.pickle_call(args, {}, function, state and state.memo)))
        if state is not None:
            self._note(state)
        self._calls = shared, state, pickled

    def payload(self, store: Store | None = None, label: int = 0) -> Payload:
        """What `run` and `run_each` take."""
        if self._is_plain:
            return pickle.dumps((self._items, list(self._calls)), 5) + serialize.label_bytes(label)
        shared, state, pickled = self._calls
        data, buffers = (b"", []) if state is None else (state.data, state.buffers)
        parts = [serialize.join(data + each.data, [*buffers, *each.buffers]) for each in pickled]
        fields = self._items, state is not None, [each.payload() for each in shared], parts
        return serialize.dump(fields, store, label)

    def _note(self, pickled: Pickled) -> Pickled:
        if pickled.names:
            self.names = sorted({*self.names, *pickled.names})
        if pickled.codes:
            self.codes = list({id(code[1]): code for code in (*self.codes, *pickled.codes)}.values())
        return pickled

    def _share(self, calls: Sequence[tuple[Any, ...]], function: Any) -> tuple[list[Pickled], dict[int, int]]:
        """Large arguments of several calls, pickled; and the place of each, by its id."""
        values = {id(value): value for value in chain.from_iterable(calls)}
        counts = Counter(map(id, chain.from_iterable(calls)))
        shared: list[Pickled] = []
        places: dict[int, int] = {}
        for identity, count in counts.items():
            value = values[identity]
            if count > 1 and type(value) not in serialize.PLAIN:
                pickled = serialize.pickle_call((value,), {}, function)
                if pickled.size > SHARED:
                    places[identity] = len(shared)
                    shared.append(self._note(pickled))
        return shared, places


def _load(payload: Any, make: Callable[[Any], Any]) -> tuple[Sequence[int] | None, Iterator[Any]]:
    """Which items the calls are; and for each call, what gives its function and its arguments."""
    items, *fields = serialize.load(payload)
    if len(fields) == 1:
        return items, (lambda args=args: (make(None), args) for args in fields[0])  # type: ignore[misc]
    has_state, shared, parts = fields

    def load(part: Any) -> tuple[Any, tuple[Any, ...]]:
        state = None
        if has_state:
            state, call = serialize.load_parts(part, 2)
        else:
            call = serialize.load(part)
        args = serialize.as_call(call)[0]
        if shared:
            own: dict[int, Any] = {}
            args = tuple(_unshared(value, shared, own) for value in args)
        return make(state), args

    return items, (lambda part=part: load(part) for part in parts)  # type: ignore[misc]


def _unshared(value: Any, shared: Sequence[Any], own: dict[int, Any]) -> Any:
    if type(value) is not Shared:
        return value
    if value.place not in own:
        own[value.place] = serialize.load_call(shared[value.place])[0][0]
    return own[value.place]


def run(make: Callable[[Any], Any], payload: Any) -> tuple[list[Any], Any]:
    """The results of the calls, up to the first that fails; and its pickled exception, or None."""
    results: list[Any] = []
    items, calls = _load(payload, make)
    current.chunk = results, items
    try:
        for load in calls:
            function, args = load()
            results.append(function(*args))
        return results, None
    except KeyboardInterrupt:  # told to stop, likely: not what the call came to
        raise
    except BaseException as error:
        answer = serialize.dump_error(error, {"host": os.uname().nodename, "pid": os.getpid()})
        serialize.forget_tracebacks(error)
        return results, answer
    finally:
        current.chunk = None
        del results  # the traceback of an exception among them leads to this frame


def run_each(make: Callable[[Any], Any], payload: Any) -> list[tuple[int, float, Any]]:
    """What became of each of the calls: status, seconds, payload. One that fails does not hold up those after it."""
    outcomes: list[tuple[int, float, Any]] = []
    items, calls = _load(payload, make)
    current.chunk = outcomes, items
    try:
        for load in calls:
            outcomes.append(_run(load))
    finally:
        current.chunk = None
    return outcomes


def _run(load: Callable[[], Any]) -> tuple[int, float, Any]:
    start, pid = time.monotonic(), os.getpid()
    try:
        function, args = load()
        status, result = DONE, serialize.dump_result(function(*args))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or os.getpid() != pid:  # told to stop; a child that it forked
            raise
        status, result = ERROR, serialize.dump_error(error, {"host": os.uname().nodename, "pid": pid})
        serialize.forget_tracebacks(error)
    return status, time.monotonic() - start, result


def load_error(payload: Any, job: int, call: int) -> BaseException:
    """The exception of a call in a chunk, which is one job."""
    return serialize.load_error(payload, f"job {job}, call {call} of its chunk")
