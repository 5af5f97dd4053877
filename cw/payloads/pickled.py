"""Values <-> pickles and payloads: `pickle` first, since it is fast. What it refuses, or would name as part of another
process's modules goes through `byvalue`, or, for a runner, through `named`."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pickle import dumps, loads
from typing import Any

# The public list_registry_pickle_by_value() makes a copy each time, for 0.1 us.
from cloudpickle.cloudpickle import _PICKLE_BY_VALUE_MODULES as _registered

from cw.errors import PayloadError
from cw.events import EventLogger
from cw.net.memory import MAPPED, as_bytes
from cw.payloads import byvalue, classes, named, related, script, shared
from cw.payloads.layout import (
    MULTI,
    WITH_TEXT,
    Payload,
    StoreBuffer,
    has_writable,
    join,
    keep,
    keep_all,
    pack,
    split_text,
    unpack,
)

logger = EventLogger("cw.client")

# Values of these types, as the only arguments or the result, have neither buffers nor a module.
PLAIN = frozenset({int, float, bool, str, complex, type(None)})

# How protocol 5 writes the module name of what it finds by name in the script. Values that contain these bytes by
# chance only take the slower way.
BY_NAME_IN_MAIN = b"\x8c\x08__main__"

# Found in pickles of generators that a module shares (`random.gauss`, `numpy.random.rand`): see byvalue.py.
_GENERATORS = (b"\x8c\x06Random", b"__randomstate_ctor")

_warned: set[str] = set()
"""Notes of runners that were logged."""


def load(payload: Payload) -> Any:
    """Return the value of a payload. Arrays use the payload's memory, unless they are writable and it is not.

    Raises `PayloadError`, or whatever unpickling raises.
    """
    try:
        kind = payload[0]
    except IndexError:
        raise PayloadError("an empty payload") from None
    if kind == WITH_TEXT:
        return load(_without_note(payload))
    buffers: list[memoryview] = []
    data: Any = payload
    try:
        if kind != MULTI:
            return loads(payload)
        data, buffers = _unpacked(payload)
        return loads(data, buffers=buffers)
    except AttributeError:
        if not classes.definitions or bytes(data).find(BY_NAME_IN_MAIN) < 0:
            raise
    return _OfScript(io.BytesIO(data), buffers=buffers).load()


def _unpacked(payload: Payload) -> tuple[memoryview, list[Any]]:
    """Split a payload into the pickle and its buffers. Those of large `bytes` (`serialize.apart_if_big`) are such
    already: `bytes(buffer)`, which the pickle calls, then copies nothing."""
    view = memoryview(payload).cast("B")
    data, buffers = unpack(view)
    if len(view) < MAPPED or has_writable(view) or bytes(data[:_LOOK]).find(_BYTES_OF_BUFFER) < 0:
        return data, buffers
    return data, [as_bytes(buffer) if buffer.nbytes >= MAPPED else buffer for buffer in buffers]


_BYTES_OF_BUFFER = b"\x8c\x05bytes\x94\x93\x94\x97\x98"
"""How a pickle calls `bytes` with a buffer that is read-only."""

_LOOK = 4096
"""Bytes of a pickle in which that is looked for."""


class _OfScript(pickle.Unpickler):
    """Unpickles in another program what a script's run has left in a store: with the script's classes."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except AttributeError:
            found = classes.class_of_script(name) if module == "__main__" else None
            if found is None:
                raise
            return found


def _without_note(payload: Payload) -> Payload:
    """Log a runner's note beside its result, once, as several runners send the same one."""
    text, rest = split_text(payload)
    if text not in _warned:
        _warned.add(text)
        logger.warning("client.remark", "%s", text)
    return rest


@shared.pickles_values
def dump_value(
    value: Any,
    store: StoreBuffer | None = None,
    is_alone: bool = False,
    behind: bytes = b"",
    refer: byvalue.Refer = None,
) -> Payload:
    """Pickle as `dump` does, but raise `byvalue.Unpicklable`. `is_alone`: without names of the script. `behind`: bytes
    at the payload's end. `refer`: as in byvalue.py."""
    buffers: list[memoryview] = []
    keep_in_band = partial(keep, buffers)
    try:
        data = dumps(value, 5, buffer_callback=keep_in_band)
        end = data.rfind(b"\x93") + 1
        if end <= _HEAD and data[_FRAMED:end] in _names_by_head and not is_alone and not _registered:
            return pack(data, buffers, store, behind) if buffers else data + behind
        is_by_name = not needs_by_value(data) and not (is_alone and data.find(BY_NAME_IN_MAIN) >= 0)
        if is_by_name:
            _note_head(data[_FRAMED:end])
    except MemoryError as error:
        raise byvalue.Unpicklable(value) from error
    except Exception:  # byvalue.dumps either succeeds, or meets the error again and says where
        is_by_name = False
    if not is_by_name:
        buffers.clear()
        data = byvalue.dumps(value, keep_in_band, None, buffers.clear, refer)
    return pack(data, buffers, store, behind) if buffers else data + behind


def needs_by_value(data: bytes) -> bool:
    """True if a pickle contains names that another process would not find."""
    # `find`, since `in` takes twice as long for small pickles.
    return (
        data.find(_GENERATORS[0]) >= 0
        or data.find(_GENERATORS[1]) >= 0
        or (related.is_loaded() and data.find(related.MARK) >= 0)
        or bool(_registered and _names_registered(data))
    )


def _names_registered(data: bytes) -> bool:
    """True if a pickle may refer by name to a module that the user wants to travel by value."""
    return any(data.find(name.encode()) >= 0 for name in tuple(_registered))


@shared.pickles_for_runners
def dump_by_name(value: Any) -> tuple[bytes, list[memoryview], Sequence[str]] | None:
    """Return the pickle of a value without parts by value, its buffers, and the names that it refers to: the script's,
    and those of shared values. None for other values."""
    buffers: list[memoryview] = []
    try:
        data = dumps(value, 5, buffer_callback=partial(keep, buffers))
    except Exception:  # the error is met again
        return None
    # Up to the last object by name.
    end = data.rfind(b"\x93") + 1
    names = _names_by_head.get(data[_FRAMED:end]) if end <= _HEAD and not _registered else None
    if names is None:
        if needs_by_value(data):
            return None
        _note_head(data[_FRAMED:end])
        names = script.names_in(data)
    return data, buffers, shared.with_shared(names, data) if shared.is_used else names


_FRAMED = 11
"""Index of a pickle's first value: behind the version and the size of the first frame."""

_HEAD = 600
"""Index up to which a pickle may have one object by name, and no other, that is looked up in `_names_by_head`."""

_names_by_head: dict[bytes, Sequence[str]] = {b"": ()}
"""The script's names in pickles that begin with one object by name and have no other, as calls with an instance do."""


def _note_head(head: bytes) -> None:
    """Remember the head of a pickle without parts by value, if it is one object by name."""
    if len(head) < _HEAD and script.is_one_name(head) and head.find(related.MARK) < 0:
        if len(_names_by_head) > 4096:
            _names_by_head.clear()
            _names_by_head[b""] = ()
        _names_by_head[head] = script.names_in(head)


class Pickled:
    """Values pickled one after the other, for a runner: what later ones share with earlier ones is one object there.

    `names`, `codes`: the names (the script's, and those of shared values) and the functions by value that the pickles
    refer to. `ends`: bytes and
    buffers up to the end of each value. `memo`: the pickler's, after the last.
    """

    __slots__ = ("buffers", "codes", "data", "ends", "memo", "names")

    _keep = staticmethod(keep)

    def __init__(
        self,
        values: Iterable[Any],
        memo: Any = None,
        persistent_id: Any = None,
        root: Any = None,
        is_by_value: bool = False,
    ) -> None:
        """`persistent_id`: as in pickle's picklers. `root`: an object that must not be written as a name, though its
        `__reduce__` gives one. `is_by_value`: `dump_by_name` has refused it. Raises `byvalue.Unpicklable`."""
        self.buffers: list[memoryview] = []
        self.ends: list[tuple[int, int]] = []
        self.codes: Sequence[named.Code] = ()
        try:
            pickler: Any = None
            if root is None and not is_by_value:
                file = io.BytesIO()
                pickler = pickle.Pickler(file, 5, buffer_callback=partial(self._keep, self.buffers))
                self._dump(pickler, file, values, memo, persistent_id)
                self.names: Sequence[str] = script.names_in(self.data)
                if shared.is_used:
                    self.names = shared.with_shared(self.names, self.data)
            is_by_name = pickler is not None and not needs_by_value(self.data)
        except MemoryError as error:
            raise byvalue.Unpicklable(values) from error
        except Exception:  # the other pickler either succeeds, or meets the error again and says where
            is_by_name = False
        if not is_by_name:
            self.buffers.clear()
            self.ends.clear()
            file = io.BytesIO()
            pickler = named.NamedPickler(file, partial(self._keep, self.buffers), root=root)
            self._dump(pickler, file, values, memo, persistent_id)
            self.names = tuple(sorted(pickler.names.union(script.names_in(self.data))))
            self.codes = tuple(pickler.codes.values())
        self.memo = pickler.memo

    @shared.pickles_for_runners
    def _dump(
        self, pickler: Any, file: io.BytesIO, values: Iterable[Any], memo: Any, persistent_id: Any
    ) -> None:
        if memo is not None:
            pickler.memo = memo
        if persistent_id is not None:
            pickler.persistent_id = persistent_id
        is_named = type(pickler) is named.NamedPickler
        for value in values:
            if is_named:
                byvalue.run(pickler, value)
            else:
                pickler.dump(value)
            self.ends.append((file.tell(), len(self.buffers)))
        self.data = file.getvalue()

    @property
    def size(self) -> int:
        return len(self.data) + sum(buffer.nbytes for buffer in self.buffers)

    def payload(self, store: StoreBuffer | None = None, label: int | None = None) -> Payload:
        """Return all values as a payload for `load_parts`; for a call, with its label."""
        return join(self.data, self.buffers, store, label)

    def digest(self) -> bytes:
        """Return a digest of the bytes and the buffers."""
        import xxhash  # only clients compare: workers and runners start faster without it

        if not self.buffers:
            return xxhash.xxh3_128_digest(self.data)
        hasher = xxhash.xxh3_128(self.data)
        for buffer in self.buffers:
            hasher.update(b"%d" % buffer.nbytes)
            hasher.update(buffer)
        return hasher.digest()


class _Unpickler(pickle.Unpickler):
    """Unpickler with its own `persistent_load`, an attribute that cannot be set in Python 3.13.0."""

    def __init__(self, file: io.BytesIO, buffers: Any, load: Callable[[Any], Any]) -> None:
        super().__init__(file, buffers=buffers)
        self._load = load

    def persistent_load(self, reference: Any) -> Any:
        return self._load(reference)


class PickledApart(Pickled):
    """Values as `Pickled`, with all buffers apart from the pickle, small ones too."""

    __slots__ = ()

    _keep = staticmethod(keep_all)


def load_parts(payload: Payload, count: int, persistent_load: Any = None, memos: Any = None) -> list[Any]:
    """Load the first `count` of the values that were pickled in sequence. `memos`: a list that receives the memo."""
    data, buffers = payload, None
    if payload[:1] == b"\x01":
        data, buffers = _unpacked(payload)
    if persistent_load is None:
        unpickler = pickle.Unpickler(io.BytesIO(data), buffers=buffers)
    else:
        unpickler = _Unpickler(io.BytesIO(data), buffers, persistent_load)
    values = [unpickler.load() for _ in range(count)]
    if memos is not None:
        memos.append(unpickler.memo.copy())
    return values
