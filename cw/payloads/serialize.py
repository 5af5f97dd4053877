"""Calls, results and errors <-> payloads, the bytes that travel. Only this module and those it uses pickle.

    client                                                 runner
    state, arguments --- pickled, pack --- load_parts -->  function(*args, **kwargs)
    result           <-- load_result --- dump_result ----  its value
    exception        <-- load_error ----- dump_error ----  what it raised, with the traceback as text

layout.py describes a payload, pickled.py makes values into one. All functions may be called from any thread.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pickle import dumps, loads
from typing import Any

from cw.errors import NotPicklable, PayloadError
from cw.payloads import byvalue, classes, deferred, futures, pickling_errors
from cw.payloads.current import LABEL as LABEL
from cw.payloads.failures import dump_error as dump_error
from cw.payloads.failures import forget_tracebacks as forget_tracebacks
from cw.payloads.failures import load_error as load_error
from cw.payloads.failures import load_what_errors_take as load_what_errors_take
from cw.payloads.failures import unreadable as unreadable
from cw.payloads.job_usage import copy_usage
from cw.payloads.layout import Payload as Payload
from cw.payloads.layout import StoreBuffer as StoreBuffer
from cw.payloads.layout import join as join
from cw.payloads.layout import label_bytes as label_bytes
from cw.payloads.layout import pickle_of as pickle_of
from cw.payloads.layout import split_text as split_text
from cw.payloads.layout import with_text as with_text
from cw.payloads.pickled import BY_NAME_IN_MAIN, PLAIN, Pickled, dump_by_name, dump_value
from cw.payloads.pickled import load as load
from cw.payloads.pickled import load_parts as load_parts
from cw.payloads.refusals import refusal_of as refusal_of
from cw.payloads.refusals import refusal_of_call
from cw.payloads.refusals import refusal_of_function as refusal_of_function

# `bytes` from this size go out of band as an argument or a result. Pickle also copies them once each way, but into
# memory that malloc maps anew: 100 MB take 47 ms, and 15 ms into huge pages or a memory file.
BIG_BYTES = 1024 * 1024

LARGEST_APART = 1024 * 1024
"""Bytes of a definition up to which a store has it once. Larger: no record holds it."""


def dump(value: Any, store: StoreBuffer | None = None, label: int | None = None) -> Payload:
    """Pickle a value into a payload, which shares no memory with it. `label`: that of a call.

    `store(parts, size)`, if given, makes payloads above `memory.LARGE` with large buffers (`memory.store`: a memory
    file). Raises `NotPicklable`.
    """
    try:
        return dump_value(value, store, behind=b"" if label is None else label_bytes(label))
    except byvalue.Unpicklable as failure:
        raise NotPicklable(refusal_of("value", failure, [("value", value)])) from failure.__cause__


def pickle_with_state(
    state: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    function: Any,
    met: list[Any] | None = None,
) -> Pickled:
    """Pickle a function's state, then the arguments. `met` receives the futures in these. Raises `NotPicklable`."""
    before = futures.collect(None)
    try:
        return Pickled(_StateThenCall(state, call_of(args, kwargs), met))
    except byvalue.Unpicklable as failure:
        if pickling_errors.find_path(failure.offender, [("", (args, kwargs))]) is not None:
            raise NotPicklable(refusal_of_call(failure, args, kwargs, function)) from failure.__cause__
        raise refusal_of_function(function, failure) from failure.__cause__
    finally:
        futures.collect(before)


class _StateThenCall(Iterable[Any]):
    """A state, in which futures are refused, and a call, in which they are noted."""

    def __init__(self, state: Any, call: Any, met: list[Any] | None) -> None:
        self._values = state, call
        self._met = met

    def __iter__(self) -> Iterator[Any]:
        state, call = self._values
        futures.collect(None)
        yield state
        futures.collect(self._met)
        yield call


def call_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what is pickled of a call's arguments."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        if type(value) is bytes and len(value) >= BIG_BYTES:
            named_values = {name: apart_if_big(value) for name, value in kwargs.items()}
            return [tuple(map(apart_if_big, args)), named_values]
    return [args, kwargs] if kwargs else args


def dump_call_by_name(
    args: tuple[Any, ...], kwargs: dict[str, Any], met: list[Any] | None = None
) -> tuple[bytes, list[memoryview], Sequence[str]] | None:
    """Pickle as `pickle_call` does, for `join`, with the script's names that the arguments refer to. None if some are
    by value."""
    collecting = futures.collecting
    before, collecting.met = collecting.met, met
    try:
        return dump_by_name(call_of(args, kwargs))
    finally:
        collecting.met = before


def pickle_call(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    function: Any = None,
    memo: Any = None,
    is_by_value: bool = False,
    met: list[Any] | None = None,
) -> Pickled:
    """Pickle the arguments of a call. `function` is for the message of `NotPicklable`, which names the argument.
    `memo`: of the state that precedes them. `is_by_value`: `dump_call_by_name` has refused them. `met` receives the
    futures without a value in them (`futures.py`); without it, futures are refused."""
    before = futures.collect(met)
    try:
        return Pickled((call_of(args, kwargs),), memo, is_by_value=is_by_value)
    except byvalue.Unpicklable as failure:
        raise NotPicklable(refusal_of_call(failure, args, kwargs, function)) from failure.__cause__
    finally:
        futures.collect(before)


def pickle_value(value: Any) -> Pickled:
    """Pickle a value for runners, as an argument is. Raises `NotPicklable`."""
    try:
        return Pickled((apart_if_big(value),))
    except byvalue.Unpicklable as failure:
        raise NotPicklable(refusal_of("the result", failure, [("result", value)])) from failure.__cause__


def dump_plain(args: tuple[Any, ...], kwargs: dict[str, Any], label: int = 0) -> bytes | None:
    """Pickle arguments that neither share nor refer to anything into a payload; None for others. `label` follows the
    pickle, see `cw.payloads.current`."""
    if kwargs:
        return dumps([args, kwargs], 5) + label.to_bytes(LABEL, "little") if is_plain(args, kwargs) else None
    for value in args:
        if type(value) not in PLAIN:
            return None
    return dumps(args, 5) + label.to_bytes(LABEL, "little")


def is_plain(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """True if arguments neither share nor refer to anything."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        if type(value) not in PLAIN:
            return False
    return True


def load_call(payload: Payload) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the `(args, kwargs)` of a call. Raises `PayloadError`, or whatever unpickling the arguments raises."""
    return as_call(load(payload))


def as_call(call: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the `(args, kwargs)` of what `call_of` returned. Raises `PayloadError`."""
    if type(call) is tuple:
        return call, {}
    if type(call) is not list or len(call) != 2:
        raise PayloadError("the payload is not that of a call")
    return call[0], call[1]


def dump_result(value: Any, store: StoreBuffer | None = None) -> Payload:
    """Pickle a job's result as `dump` does."""
    if type(value) in PLAIN:
        return dumps(value, 5)
    try:
        return dump_value(
            apart_if_big(value) if type(value) is bytes else value, store, refer=classes.refer_home
        )
    except byvalue.Unpicklable as failure:
        raise NotPicklable(
            refusal_of("the job's result", failure, [("result", value)])
        ) from failure.__cause__


load_result = load


def load_result_soon(payload: Payload, describe: str) -> Any:
    """Load as `load_result` does, in a client's thread: a `Deferred` while it might wait for a module's import."""
    if deferred.module_locks and deferred.may_wait(payload):
        return deferred.Deferred(payload, load, describe)
    return load(payload)


def dump_alone(value: Any, refer: byvalue.Refer = None) -> Payload:
    """Pickle as `dump` does, for another program: the script's definitions are inside, or `refer` keeps them.
    Raises `NotPicklable`."""
    try:
        return dump_value(value, is_alone=True, refer=refer)
    except byvalue.Unpicklable as failure:
        raise NotPicklable(refusal_of("value", failure, [("value", value)])) from failure.__cause__


def dump_call_alone(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    function: Any = None,
    refer: byvalue.Refer = None,
) -> Payload:
    """Pickle a call's arguments into a payload for another program, as `dump_alone` does."""
    plain = dump_plain(args, kwargs)
    if plain is not None:
        return plain
    before = futures.collect(futures.Unread())
    try:
        return dump_value(call_of(args, kwargs), is_alone=True, refer=refer)
    except byvalue.Unpicklable as failure:
        raise NotPicklable(refusal_of_call(failure, args, kwargs, function)) from failure.__cause__
    finally:
        futures.collect(before)


def alone(payload: Payload, refer: byvalue.Refer = None) -> Payload:
    """Convert a result's payload for another program: what it names of the script is put inside, or `refer`
    keeps it."""
    if stands_alone(payload):
        return payload
    return copy_usage(payload, dump_alone(load(payload), refer))


def alone_error(payload: Payload, refer: byvalue.Refer = None) -> Payload:
    """Convert an error's payload as `alone` does a result's."""
    if stands_alone(payload):
        return payload
    *fields, pickled, reason = loads(payload)
    alone = dumps((*fields, pickled and bytes(dump_alone(load(pickled), refer)), reason), 5)
    return copy_usage(payload, alone)


class DefinitionKeeper:
    """Keeps the definitions to which pickles of a store refer; a `byvalue.Refer`."""

    __slots__ = ("definitions",)

    def __init__(self, definitions: Mapping[bytes, bytes]) -> None:
        self.definitions = dict(definitions)  # by digest

    def __call__(self, cls: type) -> Any:
        definition = byvalue.definition_of(cls)
        if definition is None or definition.data is None or len(definition.data) > LARGEST_APART:
            return None
        self.definitions[definition.digest] = definition.data
        return classes.stored_class, (classes.identity_of(cls), definition.version, definition.digest)


def stands_alone(payload: Payload) -> bool:
    """True if a result's or an error's payload names nothing of the script: another program can load it as it is."""
    data = payload if type(payload) is bytes and payload[:1] == b"\x80" else pickle_of(payload)
    return data.find(BY_NAME_IN_MAIN) < 0 and data.find(b"class_of") < 0


def is_pickle_alone(payload: bytes) -> bool:
    """True if a payload is a pickle as it is, and `stands_alone`."""
    return payload[:1] == b"\x80" and stands_alone(payload)


class _BigBytes:
    """Wrapper, in a call or a result, of `bytes` that travel out of band. They come out as plain `bytes`."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return bytes, (pickle.PickleBuffer(self.data),)


def apart_if_big(value: Any) -> Any:
    return _BigBytes(value) if type(value) is bytes and len(value) >= BIG_BYTES else value
