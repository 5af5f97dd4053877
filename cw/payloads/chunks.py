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
from cw.payloads import serialize
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
    """Calls, pickled. `names`, `codes`: as of `Pickled`. `state`: pickled before the arguments of each call."""

    def __init__(
        self, calls: Sequence[tuple[Any, ...]], function: Any = None, state: Pickled | None = None
    ) -> None:
        """Raises NotPicklable."""
        self.names: Sequence[str] = ()
        self.codes: Sequence[Any] = ()
        self._calls: Any = calls
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

    def payload(self, store: Store | None = None) -> Payload:
        if self._is_plain:
            return pickle.dumps(list(self._calls), 5)
        shared, state, pickled = self._calls
        prefix = (b"", []) if state is None else (state.data, state.buffers)
        parts = [serialize.join(prefix[0] + each.data, [*prefix[1], *each.buffers]) for each in pickled]
        return serialize.dump((state is not None, [each.payload() for each in shared], parts), store)

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


def _calls(payload: Any, make: Callable[[Any], Any]) -> Iterator[Callable[[], tuple[Any, tuple[Any, ...]]]]:
    """For each call, what gives its function and its arguments."""
    found = serialize.load(payload)
    if type(found) is list:
        for args in found:
            yield lambda args=args: (make(None), args)  # type: ignore[misc]
        return
    has_state, shared, parts = found

    def load(part: Any) -> tuple[Any, tuple[Any, ...]]:
        state = None
        if has_state:
            state, args = serialize.load_parts(part, 2)
        else:
            args = serialize.load(part)
        args = serialize.as_call(args)[0]
        if shared:
            own: dict[int, Any] = {}
            args = tuple(_unshared(value, shared, own) for value in args)
        return make(state), args

    for part in parts:
        yield lambda part=part: load(part)  # type: ignore[misc]


def _unshared(value: Any, shared: Sequence[Any], own: dict[int, Any]) -> Any:
    if type(value) is not Shared:
        return value
    if value.place not in own:
        own[value.place] = serialize.load_call(shared[value.place])[0][0]
    return own[value.place]


def run(make: Callable[[Any], Any], payload: Any) -> tuple[list[Any], Any]:
    """The results of the calls, up to the first that fails; and its pickled exception, or None."""
    results: list[Any] = []
    try:
        for load in _calls(payload, make):
            function, args = load()
            results.append(function(*args))
    except BaseException as error:
        return results, serialize.dump_error(error, {"host": os.uname().nodename, "pid": os.getpid()})
    return results, None


def run_each(make: Callable[[Any], Any], payload: Any) -> list[tuple[int, float, Any]]:
    """What became of each of the calls: status, seconds, payload. One that fails does not hold up those after it."""
    outcomes: list[tuple[int, float, Any]] = []
    pid = os.getpid()
    for load in _calls(payload, make):
        start = time.monotonic()
        try:
            function, args = load()
            status, result = DONE, serialize.dump_result(function(*args))
        except BaseException as error:
            if (
                isinstance(error, KeyboardInterrupt) or os.getpid() != pid
            ):  # told to stop; a child that it forked
                raise
            status, result = ERROR, serialize.dump_error(error, {"host": os.uname().nodename, "pid": pid})
        outcomes.append((status, time.monotonic() - start, result))
    return outcomes


def load_error(payload: Any, job: int, call: int) -> BaseException:
    """The exception of a call in a chunk, which is one job."""
    return serialize.load_error(payload, f"job {job}, call {call} of its chunk")
