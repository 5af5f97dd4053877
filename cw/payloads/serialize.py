"""Calls, results and errors <-> payloads: the bytes that travel. Only this module and those it uses pickle.

    client                                                 runner
    state, arguments --- pickled, pack --- load_parts -->  function(*args, **kwargs)
    result           <-- load_result --- dump_result ----  its value
    exception        <-- load_error ----- dump_error ----  what it raised, with the traceback as text

A payload is one contiguous piece of memory, of one of three kinds, told apart by the first byte:

    0x80 ...  a pickle as it is: `bytes`
    0x01 ...  a pickle and its large buffers (arrays): bytes, or a memoryview of mapped memory
    0x02 ...  a text beside it (u32 size, text, spaces up to a multiple of 64 bytes), and one of the two others:
              a note to the client with a result; with a function, what is so in the user's modules

      +------+---------+----------+---------+-------------------+--------+-----+----------+-----+----------+
      | 0x01 | writable| buffers n| size of | sizes of buffers  | pickle | pad | buffer 1 | pad | buffer 2 |
      | u8   | u8      | u16 0,u32| pickle  | n times u64       |        |     |          |     |  ...     |
      +------+---------+----------+---------+-------------------+--------+-----+----------+-----+----------+
                                    u64                                       each at a multiple of 64 bytes

`pickle` first, since it is fast. What it refuses or would name as part of `__main__` goes through `byvalue`.
Behind a call, of either kind, is its label: u64 (pickle does not look there).
A payload comes from a peer that may be faulty: sizes are checked before anything is sliced.
All functions may be called from any thread.
"""

from __future__ import annotations

import contextlib
import io
import logging
import mmap
import os
import pickle
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from pickle import dumps, loads
from types import MethodDescriptorType, WrapperDescriptorType
from typing import Any

# (Its public function list_registry_pickle_by_value() makes a copy each time, for 0.1 us.)
from cloudpickle.cloudpickle import _PICKLE_BY_VALUE_MODULES as _registered

from cw.errors import NotPicklable, PayloadError, RemoteException, RemoteTraceback
from cw.net.memory import LARGE
from cw.payloads import byvalue, deferred, named, naming, related, script
from cw.payloads.current import LABEL

logger = logging.getLogger("cw.client")

Payload = bytes | bytearray | memoryview
Store = Callable[[Sequence[Any], int], memoryview | bytes]

# A buffer below this stays in the pickle: it is copied once more, which costs less than a second look at
# sizes. Above, the copy begins to cost more than the 2 us which a multi-buffer payload takes.
OUT_OF_BAND = 16 * 1024

# `bytes` as an argument or a result go out of band from this size. pickle too copies them once each way,
# but into memory that malloc maps anew: 100 MB take 47 ms, and 15 ms into huge pages or a memory file.
BIG_BYTES = 1024 * 1024

# From here on memory is mapped, with huge pages: 100 MB are filled in 15 ms instead of 50. Below, malloc
# hands out memory that it has kept (its own limit is 32 MiB), and 1 MB takes 0.02 ms instead of 0.45 for a
# fresh mapping.
MAPPED = 32 * 1024 * 1024

# Of a longer traceback the middle is left out: an exception may carry its data in its text.
TRACEBACK_CHARACTERS = 256 * 1024

_MULTI = 1
_WITH_TEXT = 2
_HEADER = struct.Struct("<BBxxIQ")
_ALIGNMENT = 64  # a cache line, and what numpy and the vector units like best

# How protocol 5 writes the module name of what it finds by name in the script. Values that happen to
# contain it merely go the slower way.
_BY_NAME_IN_MAIN = b"\x8c\x08__main__"

# And what it refers to without its definition.
_BY_REFERENCE = b"\x8c\x08class_of\x94\x93"

# What a generator that a module shares (`random.gauss`, `numpy.random.rand`) would bring along: see byvalue.py.
_GENERATORS = (b"\x8c\x06Random", b"__randomstate_ctor")

# Values of these types, as the only arguments or the result, have neither buffers nor a module.
PLAIN = frozenset({int, float, bool, str, complex, type(None)})


def allocate_buffer(nbytes: int) -> memoryview:
    """Fresh writable memory, in huge pages where the system has them: for what is `MAPPED` or larger."""
    memory = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)[:nbytes]


def dump(value: Any, store: Store | None = None, label: int | None = None) -> Payload:
    """Pickle a value into a payload, which shares no memory with it. With a label, if it is a call's.

    What `store(parts, size)` makes of its parts, if given, is a payload above `memory.LARGE` with large buffers
    (`memory.store`: a memory file). Raises `NotPicklable`.
    """
    try:
        return _dump(value, store, behind=b"" if label is None else label_bytes(label))
    except byvalue.Unpicklable as failure:
        raise NotPicklable(_refusal("value", failure, [("value", value)])) from failure.__cause__


def load(payload: Payload) -> Any:
    """The value of a payload. Arrays lie in the payload's memory, unless they are writable and that is not.

    Raises `PayloadError`, or whatever unpickling raises.
    """
    try:
        kind = payload[0]
    except IndexError:
        raise PayloadError("an empty payload") from None
    if kind != _MULTI:
        return load(_without_note(payload)) if kind == _WITH_TEXT else loads(payload)
    data, buffers = _unpack(memoryview(payload).cast("B"))
    return loads(data, buffers=buffers)


class Pickled:
    """Values pickled one after the other, for a runner: what later ones share with earlier ones is one object there.

    `names`, `codes`: the script's names, and the functions by value, that the pickles refer to. `ends`: bytes and
    buffers up to the end of each value. `memo`: the pickler's, after the last.
    """

    __slots__ = ("buffers", "codes", "data", "ends", "memo", "names")

    def __init__(
        self, values: Sequence[Any], memo: Any = None, persistent_id: Any = None, root: Any = None
    ) -> None:
        """`persistent_id`: as of pickle's picklers. `root`: an object that is not to be written as a name, though its
        `__reduce__` gives one. Raises `byvalue.Unpicklable`."""
        file = io.BytesIO()
        self.buffers: list[memoryview] = []
        self.ends: list[tuple[int, int]] = []
        self.codes: Sequence[named.Code] = ()
        try:
            pickler = pickle.Pickler(file, 5, buffer_callback=_keeper(self.buffers))
            if memo is not None:
                pickler.memo = memo
            if persistent_id is not None:
                pickler.persistent_id = persistent_id  # type: ignore[method-assign]
            for value in values:
                pickler.dump(value)
                self.ends.append((file.tell(), len(self.buffers)))
            self.data = file.getvalue()
            is_by_name = root is None and not _needs_by_value(self.data)
            self.names: Sequence[str] = script.names_in(self.data)
        except MemoryError as error:
            raise byvalue.Unpicklable(values) from error
        except Exception:  # whatever it is, the other pickler manages, or meets it again and says where
            is_by_name = False
        if not is_by_name:
            file = io.BytesIO()
            self.buffers.clear()
            self.ends.clear()
            pickler = named.NamedPickler(file, _keeper(self.buffers), root=root)
            if memo is not None:
                pickler.memo = memo
            if persistent_id is not None:
                pickler.persistent_id = persistent_id  # type: ignore[method-assign]
            for value in values:
                byvalue.run(pickler, value)
                self.ends.append((file.tell(), len(self.buffers)))
            self.data = file.getvalue()
            self.names = tuple(sorted(pickler.names.union(script.names_in(self.data))))
            self.codes = tuple(pickler.codes.values())
        self.memo = pickler.memo

    @property
    def size(self) -> int:
        return len(self.data) + sum(buffer.nbytes for buffer in self.buffers)

    def payload(self, store: Store | None = None, label: int | None = None) -> Payload:
        """All of it, for `load_parts`; for a call, with its label."""
        return join(self.data, self.buffers, store, label)

    def digest(self) -> bytes:
        """Of the bytes and the buffers."""
        import xxhash  # (only clients compare: the start of a worker and its runners is spared it)

        if not self.buffers:
            return xxhash.xxh3_128_digest(self.data)
        hasher = xxhash.xxh3_128(self.data)
        for buffer in self.buffers:
            hasher.update(b"%d" % buffer.nbytes)
            hasher.update(buffer)
        return hasher.digest()


def _keeper(buffers: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    """A buffer callback that keeps the large ones there. (No method of who holds the pickler: that were a circle.)"""

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND:
            return True
        buffers.append(raw)
        return False

    return keep_in_band


def pickle_with_state(state: Any, args: tuple[Any, ...], kwargs: dict[str, Any], function: Any) -> Pickled:
    """A function's state, then the arguments. Raises `NotPicklable`."""
    try:
        return Pickled((state, call_of(args, kwargs)))
    except byvalue.Unpicklable as failure:
        if naming.find_path(failure.offender, [("", (args, kwargs))]) is not None:
            raise NotPicklable(_call_refusal(failure, args, kwargs, function)) from failure.__cause__
        raise refusal_of_function(function, failure) from failure.__cause__


def join(
    data: bytes, buffers: list[memoryview], store: Store | None = None, label: int | None = None
) -> Payload:
    """The payload of pickles that go one after the other, and of their buffers; for a call, with its label."""
    behind = b"" if label is None else label_bytes(label)
    return _pack(data, buffers, store, behind) if buffers else data + behind


class _Unpickler(pickle.Unpickler):
    """With a `persistent_load` of its own (which is no attribute that can be set, in Python 3.13.0)."""

    def __init__(self, file: io.BytesIO, buffers: Any, load: Callable[[Any], Any]) -> None:
        super().__init__(file, buffers=buffers)
        self._load = load

    def persistent_load(self, reference: Any) -> Any:
        return self._load(reference)


def load_parts(payload: Payload, count: int, persistent_load: Any = None, memos: Any = None) -> list[Any]:
    """The first `count` of the values that were pickled one after the other. `memos`: a list, which gets the memo."""
    data, buffers = payload, None
    if payload[:1] == b"\x01":
        data, buffers = _unpack(memoryview(payload).cast("B"))
    if persistent_load is None:
        unpickler = pickle.Unpickler(io.BytesIO(data), buffers=buffers)
    else:
        unpickler = _Unpickler(io.BytesIO(data), buffers, persistent_load)
    values = [unpickler.load() for _ in range(count)]
    if memos is not None:
        memos.append(unpickler.memo.copy())  # type: ignore[attr-defined]
    return values


def call_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What is pickled of a call's arguments."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        if type(value) is bytes and len(value) >= BIG_BYTES:
            named_values = {name: _apart_if_big(value) for name, value in kwargs.items()}
            return [tuple(map(_apart_if_big, args)), named_values]
    return [args, kwargs] if kwargs else args


def dump_call_by_name(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[bytes, list[memoryview], Sequence[str]] | None:
    """As `dump_call`, for arguments of which nothing travels by value, for `join`: the pickle, its buffers, and the
    script's names that it refers to. None for others."""
    buffers: list[memoryview] = []
    try:
        data = dumps(call_of(args, kwargs), 5, buffer_callback=_keeper(buffers))
    except Exception:  # whatever it is, it is met again
        return None
    # Up to the last thing that is there by name.
    head = data[_FRAMED : data.rfind(b"\x93") + 1]
    names = _names_by_head.get(head)
    if names is None or _registered:
        if _needs_by_value(data):
            return None
        names = script.names_in(data)
        if script.is_one_name(head) and head.find(related.MARK) < 0:
            if len(_names_by_head) > 4096:
                _names_by_head.clear()
            _names_by_head[head] = names
    return data, buffers, names


_FRAMED = 11
"""Where a pickle's first value begins: behind the version and the size of the first frame."""

_names_by_head: dict[bytes, Sequence[str]] = {b"": ()}
"""The script's names in pickles that begin with one thing by name, and have no other: so are calls with an instance."""


def dump_call(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    function: Any = None,
    store: Store | None = None,
    label: int = 0,
) -> Payload:
    """The arguments of a call. `function` serves the message of `NotPicklable`, which names the argument. `label` is
    behind the pickle, see `cw.payloads.current`."""
    plain = dump_plain(args, kwargs, label)
    return pickle_call(args, kwargs, function).payload(store, label) if plain is None else plain


def pickle_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], function: Any = None, memo: Any = None
) -> Pickled:
    """The same, before it is packed. `memo`: of the state that goes before it."""
    try:
        return Pickled((call_of(args, kwargs),), memo)
    except byvalue.Unpicklable as failure:
        raise NotPicklable(_call_refusal(failure, args, kwargs, function)) from failure.__cause__


def dump_plain(args: tuple[Any, ...], kwargs: dict[str, Any], label: int = 0) -> bytes | None:
    """As `dump_call`, for arguments that neither share nor refer to anything; None for others."""
    if kwargs:
        return dumps([args, kwargs], 5) + label.to_bytes(LABEL, "little") if is_plain(args, kwargs) else None
    for value in args:
        if type(value) not in PLAIN:
            return None
    return dumps(args, 5) + label.to_bytes(LABEL, "little")


def label_bytes(label: int) -> bytes:
    """What is behind a call's pickle."""
    return label.to_bytes(LABEL, "little")


def is_plain(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether arguments neither share, nor refer to, anything."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        if type(value) not in PLAIN:
            return False
    return True


def load_call(payload: Payload) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The `(args, kwargs)` of a call. Raises `PayloadError`, or whatever unpickling the arguments raises."""
    return as_call(load(payload))


def as_call(call: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The `(args, kwargs)` of what `call_of` gave. Raises `PayloadError`."""
    if type(call) is tuple:
        return call, {}
    if type(call) is not list or len(call) != 2:
        raise PayloadError("the payload is not that of a call")
    return call[0], call[1]


def dump_result(value: Any, store: Store | None = None) -> Payload:
    """A job's result; as `dump`."""
    if type(value) in PLAIN:
        return dumps(value, 5)
    try:
        return _dump(_apart_if_big(value), store, refers=True)
    except byvalue.Unpicklable as failure:
        raise NotPicklable(_refusal("the job's result", failure, [("result", value)])) from failure.__cause__


load_result = load


def load_result_soon(payload: Payload, describe: str) -> Any:
    """As `load_result`, in a client's thread: a `Deferred` while a module is being imported for which it might wait."""
    if deferred.module_locks and deferred.may_wait(payload):
        return deferred.Deferred(payload, load, describe)
    return load(payload)


def dump_alone(value: Any, store: Store | None = None) -> Payload:
    """As `dump`, for another program: what the script defines is inside. Raises `NotPicklable`."""
    try:
        return _dump(value, store, is_alone=True)
    except byvalue.Unpicklable as failure:
        raise NotPicklable(_refusal("value", failure, [("value", value)])) from failure.__cause__


def dump_call_alone(args: tuple[Any, ...], kwargs: dict[str, Any], function: Any = None) -> Payload:
    """As `dump_call`, for another program: what the script defines is inside."""
    plain = dump_plain(args, kwargs)
    if plain is not None:
        return plain
    try:
        return _dump(call_of(args, kwargs), is_alone=True)
    except byvalue.Unpicklable as failure:
        raise NotPicklable(_call_refusal(failure, args, kwargs, function)) from failure.__cause__


def alone(payload: Payload) -> Payload:
    """A result's payload, for another program: what it has by name of the script is inside."""
    if _stands_alone(pickle_of(payload)):
        return payload
    return dump_alone(load(payload))


def alone_error(payload: Payload) -> Payload:
    """The same for an error's."""
    if _stands_alone(bytes(payload)):
        return payload
    *fields, pickled, reason = loads(payload)
    return dumps((*fields, pickled and bytes(dump_alone(load(pickled))), reason), 5)


def _stands_alone(data: bytes) -> bool:
    return data.find(_BY_NAME_IN_MAIN) < 0 and data.find(_BY_REFERENCE) < 0


def pickle_of(payload: Payload) -> bytes:
    """The pickle, without its large buffers."""
    if payload[0] != _MULTI:
        return bytes(payload)
    view = memoryview(payload).cast("B")
    _, _, count, size = _HEADER.unpack_from(view)
    start = _HEADER.size + 8 * count
    return bytes(view[start : start + size])


def refusal_of_function(function: Any, failure: byvalue.Unpicklable) -> NotPicklable:
    """What the caller of submit is told of a function that cannot be pickled."""
    name = naming.function_name(function)
    text = _refusal(f"function {name}", failure, [(name, function)])
    refusal = NotPicklable(f"{text}. Make it in the job, or give what is needed of it as an argument")
    refusal.__cause__ = failure.__cause__
    return refusal


# --- a text beside a payload ---

_told: set[str] = set()
"""Notes of runners that were logged."""


def with_text(payload: Payload, text: str) -> bytes:
    """The payload with a text beside it."""
    encoded = text.encode(errors="surrogatepass")
    head = bytes([_WITH_TEXT]) + struct.pack("<I", len(encoded)) + encoded
    return b"".join((head, b" " * (-len(head) % _ALIGNMENT), payload))


def split_text(payload: Payload) -> tuple[str, Payload]:
    """The text beside a payload, or '', and the payload without it."""
    if payload[:1] != bytes([_WITH_TEXT]):
        return "", payload
    end = 5 + int.from_bytes(payload[1:5], "little")
    text = bytes(payload[5:end]).decode(errors="surrogatepass")
    return text, payload[end + -end % _ALIGNMENT :]


def _without_note(payload: Payload) -> Payload:
    """Log what a runner says beside its result; several of them say the same."""
    text, rest = split_text(payload)
    if text not in _told:
        _told.add(text)
        logger.warning("%s", text)
    return rest


# --- pickling: by name or by value, in band or out of band ---


class _BigBytes:
    """In a call or a result: `bytes` that travel out of band. They come out as plain `bytes`."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return bytes, (pickle.PickleBuffer(self.data),)


def _apart_if_big(value: Any) -> Any:
    return _BigBytes(value) if type(value) is bytes and len(value) >= BIG_BYTES else value


def _dump(
    value: Any, store: Store | None = None, is_alone: bool = False, behind: bytes = b"", refers: bool = False
) -> Payload:
    """As `dump`, but raises `byvalue.Unpicklable`. `is_alone`: without names of the script. `behind`: bytes at the
    payload's end. `refers`: without the definitions of classes that the client has."""
    buffers: list[memoryview] = []

    keep_in_band = _keeper(buffers)
    try:
        data = dumps(value, 5, buffer_callback=keep_in_band)
        is_by_name = not _needs_by_value(data) and not (is_alone and data.find(_BY_NAME_IN_MAIN) >= 0)
    except MemoryError as error:
        raise byvalue.Unpicklable(value) from error
    except Exception:  # whatever it is, byvalue.dumps manages, or meets it again and says where
        is_by_name = False
    if not is_by_name:
        buffers.clear()
        data = byvalue.dumps(value, keep_in_band, None, buffers.clear, refers)
    return _pack(data, buffers, store, behind) if buffers else data + behind


def _needs_by_value(data: bytes) -> bool:
    """Whether a pickle has by name what another process would not find."""
    # (`find`, since `in` takes twice as long for small ones.)
    return (
        data.find(_GENERATORS[0]) >= 0
        or data.find(_GENERATORS[1]) >= 0
        or (related.is_loaded() and data.find(related.MARK) >= 0)
        or bool(_registered and _names_registered(data))
    )


def _names_registered(data: bytes) -> bool:
    """Whether a pickle may refer by name to a module that the user wants to travel by value."""
    return any(data.find(name.encode()) >= 0 for name in tuple(_registered))


def _pack(data: bytes, buffers: list[memoryview], store: Store | None, behind: bytes) -> Payload:
    writable = not all(buffer.readonly for buffer in buffers)
    header = _HEADER.pack(_MULTI, writable, len(buffers), len(data))
    header += struct.pack(f"<{len(buffers)}Q", *[buffer.nbytes for buffer in buffers])
    parts: list[Any] = [header, data]
    size = len(header) + len(data)
    for buffer in buffers:
        parts.append(bytes(-size % _ALIGNMENT))
        parts.append(buffer)
        size += -size % _ALIGNMENT + buffer.nbytes
    if behind:
        parts.append(behind)
        size += len(behind)
    if store is not None and size > LARGE:
        return store(parts, size)
    if size < MAPPED:
        return b"".join(parts)
    target = allocate_buffer(size)
    position = 0
    for part in parts:
        end = position + len(part)
        target[position:end] = part
        position = end
    return target


def _unpack(payload: memoryview) -> tuple[memoryview, list[memoryview]]:
    """The pickle and its buffers."""
    if len(payload) < _HEADER.size:
        raise PayloadError(f"a payload of {len(payload)} bytes is cut short in its header")
    _, writable, count, data_size = _HEADER.unpack_from(payload)
    end = _HEADER.size + 8 * count
    if len(payload) < end:
        raise PayloadError(f"a payload of {len(payload)} bytes is cut short in the sizes of {count} buffers")
    spans = [(end, end + data_size)]
    for size in struct.unpack_from(f"<{count}Q", payload, _HEADER.size):
        end = spans[-1][1]
        start = end + -end % _ALIGNMENT
        spans.append((start, start + size))
    if len(payload) - spans[-1][1] not in (0, LABEL):
        raise PayloadError(f"a payload of {len(payload)} bytes says that it has {spans[-1][1]}")
    if writable and payload.readonly:
        payload = _writable_copy(payload)
    data, *buffers = [payload[start:end] for start, end in spans]
    return data, buffers


def _writable_copy(payload: memoryview) -> memoryview:
    if len(payload) < MAPPED:
        return memoryview(bytearray(payload))
    copy = allocate_buffer(len(payload))
    copy[:] = payload
    return copy


# --- what cannot be pickled: the text for the caller of submit ---


def _refusal(what: str, failure: byvalue.Unpicklable, roots: list[tuple[str, Any]]) -> str:
    return _refusal_text(what, failure, roots, naming.find_path(failure.offender, roots))


def _refusal_text(
    what: str, failure: byvalue.Unpicklable, roots: list[tuple[str, Any]], path: str | None
) -> str:
    cause = failure.__cause__
    text = str(cause)
    if isinstance(cause, MemoryError):
        return f"{what}: not enough memory to pickle it"
    if isinstance(cause.__cause__ if cause else None, RecursionError):
        return f"{what}: nested too deeply to be pickled"
    if not isinstance(cause, (TypeError, pickle.PicklingError)) or not text:
        text = f"{type(cause).__name__}: {text}"
    if path is None or path in [name for name, _ in roots]:
        return f"{what}: {text}"
    return f"{what}: {text}, found at {path}"


def _call_refusal(
    failure: byvalue.Unpicklable, args: tuple[Any, ...], kwargs: dict[str, Any], function: Any
) -> str:
    roots = [(f"args[{i}]", value) for i, value in enumerate(args)]
    roots += [(f"kwargs[{name!r}]", value) for name, value in kwargs.items()]
    path = naming.find_path(failure.offender, roots)
    what = "an argument"
    for i, (root, _) in enumerate(roots):
        if path is not None and root in path:
            is_positional = i < len(args)
            what = naming.argument_name(function, i) if is_positional else f"argument {root[7:-1]}"
            break
    if function is not None:
        what += f" of {naming.function_name(function)}()"
    return _refusal_text(what, failure, roots, path)


# --- errors ---

_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep  # all of cw


def dump_error(exception: BaseException, where: dict[str, Any]) -> bytes:
    """What a job raised, for `load_error`: with its traceback, but for the frames of cw that called the job.

    `where` says where it was ('host', 'pid', ...). Never raises, and keeps nothing of the exception alive.
    """
    type_name = _type_name(type(exception))
    try:
        text = _traceback_text(exception)
    except Exception as error:
        text = f"{type_name}: {_text(exception)}\n(its traceback cannot be shown: {_text(error)})\n"
    if isinstance(exception, ModuleNotFoundError):
        text += (
            f"({os.uname().nodename} has no such module for {sys.executable}: install it there, or have it in a "
            "directory of your program's sys.path that both machines see)\n"
        )
    pickled, reason = _dump_exception(exception)
    places = {str(key): value if type(value) in PLAIN else _text(value) for key, value in where.items()}
    return dumps((type_name, _text(exception), text, places, pickled, reason), 5)


def unreadable(describe: str, failure: BaseException) -> BaseException:
    """The error of a job whose result does not unpickle here."""
    error = RemoteException(
        f"the result of {describe} cannot be unpickled here: {type(failure).__name__}: {failure}"
    )
    error.__cause__ = failure
    return error


def forget_tracebacks(exception: BaseException) -> None:
    """Take the traceback off an exception that has been pickled, and off those behind it.

    Frames hold what their functions had bound, the exception too, often: such a circle, with all the data in it, would
    stay until the garbage collector runs.
    """
    waiting, seen = [exception], set()
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            BaseException.with_traceback(one, None)
            waiting += [other for other in (one.__cause__, one.__context__) if other is not None]
            with contextlib.suppress(Exception):  # a group's; or something of the user's by that name
                waiting += [other for other in one.exceptions if isinstance(other, BaseException)]  # type: ignore[attr-defined]


def load_error(payload: Payload, describe: str) -> BaseException:
    """The exception, of its own type. The text of its `__cause__` is `describe` and the remote traceback.

    One that does not unpickle here becomes a `RemoteException`. Never raises.
    """
    try:
        type_name, message, text, where, pickled, reason = loads(payload)
        places = ", ".join(f"{key} {value}" for key, value in where.items())
        text = f"{describe} ({places})\n{text}" if places else f"{describe}\n{text}"
    except Exception as error:
        return RemoteException(f"{describe}: its error cannot be read: {_text(error)}")
    exception = None
    if pickled:
        try:
            exception = deferred.apart(_load_exception, pickled)
        except BaseException as error:  # it is the user's code, which may raise SystemExit as well
            reason = f"{_type_name(type(error))}: {_text(error)}"
    if exception is None:
        name_and_text = f"{type_name}: {message}" if message else type_name
        message = f"{name_and_text}  (the exception itself is not here: {reason})"
        exception = RemoteException(message, type_name, text)
    # Not by plain assignment, which an exception class may forbid (a frozen dataclass does).
    BaseException.__setattr__(exception, "__cause__", RemoteTraceback(text, where))
    return exception


def load_what_errors_take() -> None:
    """Have all imported by which `traceback` shows errors: later, `sys.path` is the user's, and may hold a `codeop.py`.

    What that is differs between versions of Python, and between errors: so one of each kind is shown here.
    """
    for text in "1 +", "whlie True:", "import no_such_module", "from os import pathh", "os.pathh", "oss":
        try:
            exec(text, {"os": os})  # noqa: S102
        except Exception as error:
            dump_error(error, {})


def _dump_exception(exception: BaseException) -> tuple[bytes, str]:
    """The exception's pickle, in the form that gives it back with the same text; or b"" and the reason.

    Pickle makes an exception by calling its class with `args`. Many classes have a constructor that takes
    something else: the call fails, or makes up another text. So it is tried here, and where it goes wrong
    the parts are sent.
    """
    usable, reason = b"", ""
    for form in (lambda: exception, lambda: _built_in(type(exception), "__reduce__")(exception)):
        try:
            pickled = bytes(_dump(form(), refers=True))
            again = _load_exception(pickled)
            if type(again) is type(exception) and str(again) == str(exception):
                return pickled, ""
            usable = usable or pickled
        except byvalue.Unpicklable as failure:
            reason = reason or _refusal("the exception", failure, [("exception", exception)])
        except BaseException as error:  # it is the user's code, which may raise SystemExit as well
            reason = reason or f"{_type_name(type(error))}: {_text(error)}"
    return usable, reason


def _load_exception(pickled: bytes) -> BaseException:
    found = load(pickled)
    exception = _from_parts(*found) if type(found) is tuple else found
    if not isinstance(exception, BaseException):
        raise TypeError(f"it unpickles as a {type(exception).__name__}")
    return exception


def _from_parts(cls: type[BaseException], args: tuple[Any, ...], attributes: Any = None) -> BaseException:
    """An exception as if only the built-in part of its constructor had run. Then its attributes are set."""
    exception = cls.__new__(cls, *args)
    _built_in(cls, "__init__")(exception, *args)
    for name, value in (attributes or {}).items():
        BaseException.__setattr__(exception, name, value)
    return exception


def _built_in(cls: type, name: str) -> Callable[..., Any]:
    """The method that is left when those written in Python are taken away."""
    kinds = WrapperDescriptorType, MethodDescriptorType
    return next(method for c in cls.__mro__ if isinstance(method := vars(c).get(name), kinds))


def _traceback_text(exception: BaseException) -> str:
    frames = exception.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(exception), exception, frames))
    if len(text) > TRACEBACK_CHARACTERS:
        half = TRACEBACK_CHARACTERS // 2
        text = f"{text[:half]}\n  [{len(text) - 2 * half} characters left out]\n{text[-half:]}"
    return text


def _type_name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _text(thing: Any) -> str:
    """`str(thing)`, also where that raises or is very long."""
    try:
        return str(thing)[:TRACEBACK_CHARACTERS]
    except Exception:
        return f"<{type(thing).__name__} whose str() fails>"
