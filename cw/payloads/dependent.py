"""Payloads of calls with results of other calls, which nobody has opened on the way.

    client   a call with futures (`futures.py`), its futures are done --> pack(results, call)
    runner   opened(payload) --> `futures.result_at(place)` unpickles a result, anew for each call of a chunk

      +------+-----+----------+-----------------------+-----+----------+-----+---------------------+
      | 0x03 | pad | places n | for each result, then | pad | result 1 | ... | the call's payload, |
      | u8   | u24 | u32      | for the call:         |     |          |     | with its label      |
      |      |     |          | u64 begin, u64 size   |     |          |     |                     |
      +------+-----+----------+-----------------------+-----+----------+-----+---------------------+

Begins count from the end of the table. A result with the highest bit set in `begin` is an object of the session, whose
number are the other bits: large ones travel so, once for all calls that need them.

A call's payload with the first byte 0x04 is a pickle of *flat* arguments: plain values, and for a result the tuple of
its place. Nothing else is looked for in it: most calls that depend on calls are so.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pickle import dumps, loads
from typing import Any

from cw.errors import PayloadError
from cw.net.memory import LARGE
from cw.payloads import futures
from cw.payloads.current import LABEL
from cw.payloads.layout import MULTI, Payload, StoreBuffer
from cw.payloads.pickled import PLAIN, load

DEPENDENT = 3
"""First byte of the payload of a call with results of others; see `layout` for other kinds."""

FLAT = 4
"""First byte of a call's payload with flat arguments."""

MOST_FLAT = 16
"""Number of arguments up to which they are looked at one by one. More: those with many futures take long."""

NO_ARGUMENTS = dumps((), 5)

_HEADER = struct.Struct("<BxxxI")
_ONE = struct.Struct(
    "<BBxxIQQQQ24x"
)  # the head of a payload with one small result: it is marked if the call is flat
_SMALL = 4096  # bytes up to which a result needs no place of its own in the table
_OBJECT = 1 << 63
_ALIGNMENT = 64


def pack(results: Sequence[Payload | int], call: Payload, store: StoreBuffer | None = None) -> Payload:
    """Return the payload of a call with these results, each one's payload or the number of its object."""
    if len(results) == 1 and type(only := results[0]) is bytes and len(only) < _SMALL and call[0] != MULTI:
        size = len(only)
        return b"".join((_ONE.pack(DEPENDENT, call[0] == FLAT, 1, 0, size, size, len(call)), only, call))
    table: list[int] = []
    parts: list[Any] = [b""]
    begin_by_id: dict[int, int] = {}
    end = 0
    for part in (*results, call):
        if isinstance(part, int):
            table += (part | _OBJECT, 0)
            continue
        begin = begin_by_id.get(id(part))
        if begin is None:
            if part[0] == MULTI and end % _ALIGNMENT:  # for its large buffers
                parts.append(bytes(-end % _ALIGNMENT))
                end += -end % _ALIGNMENT
            begin = begin_by_id[id(part)] = end
            parts.append(part)
            end += len(part)
        table += (begin, len(part))
    count = len(results)
    head = _HEADER.pack(DEPENDENT, count) + struct.pack(f"<{len(table)}Q", *table)
    parts[0] = head + bytes(-len(head) % _ALIGNMENT)
    if store is not None and end > LARGE:
        return store(parts, len(parts[0]) + end)
    return b"".join(parts)


def dump_flat(args: tuple[Any, ...], future_class: type, met: list[Any], label: int) -> bytes | None:
    """Pickle a call's arguments, if each is plain, a future of this class with a plain result, or one that is pending:
    these are noted in `met`. None: they are others. `future_class`: `cw.Future`, or another class."""
    flat: list[Any] = []
    if len(args) > MOST_FLAT:
        return None
    for value in args:
        kind = type(value)
        if kind in PLAIN:
            flat.append(value)
        elif kind is not future_class or not hasattr(value, "stored_key"):
            met.clear()
            return None
        elif value.done():
            if value.cancelled() or value._exception is not None or type(value._result) not in PLAIN:
                met.clear()
                return None
            flat.append(value._result)
        else:
            if value in met:
                flat.append((met.index(value),))
            else:
                flat.append((len(met),))
                met.append(value)
    if not met:
        return dumps(tuple(flat), 5) + label.to_bytes(LABEL, "little")
    return b"".join((_FLAT, dumps(flat, 5), label.to_bytes(LABEL, "little")))


_FLAT = bytes([FLAT])


def load_flat(payload: Payload, results: Sequence[Callable[[], Any]]) -> tuple[Any, ...]:
    """Return the arguments that `dump_flat` was given, with the results in place of futures."""
    values = [result() for result in results]
    flat = loads(memoryview(payload)[1:])
    return tuple([values[value[0]] if type(value) is tuple else value for value in flat])


def load_small(payload: Payload) -> tuple[Any, ...] | None:
    """Return the arguments of a flat call with one small result; None: the payload is another one."""
    if not payload[1]:
        return None
    size = _ONE.unpack_from(payload)[4]
    end = _ONE.size + size
    value = load(payload[_ONE.size : end])
    return tuple([value if type(each) is tuple else each for each in loads(payload[end + 1 :])])


def opened(payload: Payload, payload_of: Callable[[int], Any]) -> tuple[Sequence[Callable[[], Any]], Payload]:
    """Return functions that unpickle the results, and the call's own payload. `payload_of(number)`: that of an object,
    which may be written into. Raises PayloadError."""
    view = memoryview(payload).cast("B")
    try:
        _, count = _HEADER.unpack_from(view)
        table = struct.unpack_from(f"<{2 * count + 2}Q", view, _HEADER.size)
    except struct.error as error:
        raise PayloadError(f"a payload with results is cut short: {error}") from None
    start = _HEADER.size + 8 * len(table)
    start += -start % _ALIGNMENT
    results: list[Callable[[], Any]] = []
    for begin, size in zip(table[:-2:2], table[1:-2:2], strict=True):
        if begin & _OBJECT:
            results.append(_Object(payload_of, begin ^ _OBJECT))
        else:
            # Read-only: each call gets a copy of its own of what it may write into.
            results.append(_Part(view[start + begin : start + begin + size].toreadonly()))
    begin, size = table[-2:]
    if start + begin + size != len(view):
        raise PayloadError(f"a payload of {len(view)} bytes says that it has {start + begin + size}")
    return results, view[start + begin :]


class _Part:
    """Unpickles a result that is inside the payload."""

    __slots__ = ("part",)

    def __init__(self, part: memoryview) -> None:
        self.part = part

    def __call__(self) -> Any:
        return load(self.part)


class _Object:
    """Unpickles a result that is an object."""

    __slots__ = ("number", "payload_of")

    def __init__(self, payload_of: Callable[[int], Any], number: int) -> None:
        self.payload_of, self.number = payload_of, number

    def __call__(self) -> Any:
        return load(self.payload_of(self.number))


def run_with(results: Sequence[Callable[[], Any]], run: Callable[..., Any], *args: Any) -> Any:
    """Run a chunk whose calls unpickle these results as they begin."""
    futures.use(results)
    try:
        return run(*args)
    finally:
        futures.use(())
