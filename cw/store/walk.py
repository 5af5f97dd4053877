"""Canonical bytes of values: the same for the same value in another process, different for any other value.

A value is walked as pickle would take it apart, in an order that depends only on the value: the elements of a set are
sorted, all NaNs are the same. An object that was met before is written as a reference to its first place, as in a
pickle: cycles end, and `[a, a]` is not `[a, copy(a)]`. The items of a dict keep their order, since a program sees it.

Values without such a form are refused (`Unstable`), not guessed: a text with an address in it, a number that is the
address of an object. In doubt two values differ: that costs another run of a call, never a wrong result.
"""

from __future__ import annotations

import enum
import hashlib
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from types import MappingProxyType
from typing import Any

from cw.errors import SharedValueReleased
from cw.payloads import byvalue, futures

SIZE = 16
"""Bytes of a digest."""

PLAIN: frozenset[type] = frozenset({int, float, complex, bool, str, type(None)})
"""Types with a complete `repr`. They hold no other objects, and a program cannot see whether one is shared."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{8,}")
_LEAST_ADDRESS = 1 << 32
_LETTERS = {int: b"i", float: b"f", complex: b"c", bool: b"b", str: b"s", type(None): b"N"}
_BULK = 1024  # bytes from which on data is replaced by its digest


def digest_of(data: Any) -> bytes:
    return hashlib.blake2b(data, digest_size=SIZE).digest()


class Unstable(Exception):
    """A value has no canonical bytes; the text gives the reason. `offender`: the object at fault; None: unknown."""

    def __init__(self, text: str, offender: Any = None) -> None:
        super().__init__(text)
        self.offender = offender


class Walk:
    """One walk, through one value or several that may share parts. Subclasses know more kinds of values.

    `is_blind`: only the objects that are met matter, not their bytes, so large data is skipped.
    """

    handlers: dict[type, Callable[[Any, Any], None]] = {}
    """Methods by exact type of the value."""

    unkeyed: list[Any] | None = None
    """Receives the futures that only their values identify; None: they are refused."""

    def __init__(self, is_blind: bool = False) -> None:
        self.is_blind = is_blind
        self.is_shared = False
        """True inside of a shared value (`cw.share`), whose arrays were writable before."""
        self._out = bytearray()
        # By id: the object, so that its id is not used again meanwhile, and the number of objects met before it.
        self._met: dict[int, tuple[Any, int]] = {}
        self._numbers: set[int] = set()  # ints that could be addresses
        self._last_object: Any = None  # the object that was taken apart last
        self._digests: dict[int, tuple[Any, bytes]] = {}  # of tuples, by id

    def run(self, value: Any) -> None:
        """Walk through a value. Raises `Unstable`."""
        try:
            self.walk(value)
        except (Unstable, SharedValueReleased):
            raise
        except RecursionError:
            raise Unstable("it is nested too deeply to be told from others") from None
        except Exception as error:
            raise Unstable(
                f"it cannot be taken apart ({type(error).__name__}: {error})", self._last_object
            ) from error
        if self._numbers and self._numbers.intersection(self._met):
            raise Unstable("there is an object's address (its id) in it, which is another one each time")

    def digest(self) -> bytes:
        """Digest of all that was walked through."""
        return digest_of(self._out)

    def write(self, tag: bytes, data: bytes = b"") -> None:
        self._out += b"%b%d:%b" % (tag, len(data), data)

    def write_text(self, tag: bytes, text: str) -> None:
        self.write(tag, text.encode(errors="surrogatepass"))

    def write_bulk(self, tag: bytes, data: Any) -> None:
        """Write any buffer, a long one as its digest. Does nothing in a blind walk."""
        if not self.is_blind:
            self.write(tag, bytes(data) if len(data) < _BULK else b"%d:%b" % (len(data), digest_of(data)))

    def walk(self, value: Any) -> None:
        kind = type(value)
        handler = self.handlers.get(kind)
        if handler is not None:
            handler(self, value)
        else:
            self.walk_other(kind, value)

    def walk_other(self, kind: type, value: Any) -> None:
        """Walk through a value that has no handler of its own."""
        if issubclass(kind, enum.Enum):
            self.write(b"enum")
            self.walk(kind)
            self.write_text(b"name", value.name or repr(value.value))  # (combinations of flags have no name)
        elif (
            str(kind.__module__).partition(".")[0] == "pathlib"
        ):  # pickle would take the parts that it was made of
            self.write_text(b"path", f"{kind.__qualname__} {value}")
        elif issubclass(kind, Future):
            _write_future(self, value)
        else:
            self._object(value)

    def essence_of(self, value: Any, state: Any) -> Any:
        """Reduce an object's state to the part that distinguishes it. Subclasses drop caches."""
        return state

    def is_known(self, thing: Any) -> bool:
        """True if the object was met before; then a reference to it is written."""
        known = self._met.get(id(thing))
        if known is not None:
            self.write(b"again", b"%d" % known[1])
            return True
        self._met[id(thing)] = thing, len(self._met)
        return False

    def _plain(self, value: Any) -> None:
        kind = type(value)
        if kind is str:
            if " at 0x" in value and _ADDRESS.search(value):
                raise Unstable(
                    f"there is an address in it, which is another one each time: {value!r:.80}", value
                )
            text = value
        elif kind is int:
            if value >= _LEAST_ADDRESS:
                self._numbers.add(value)
            text = f"{value:x}"
        else:
            text = repr(value)
        self.write_text(_LETTERS[kind], text)

    def _bytes(self, value: bytes) -> None:
        self.write_bulk(b"bytes", value)

    def _bytearray(self, value: bytearray) -> None:
        if not self.is_known(value):
            self.write_bulk(b"bytearray", value)

    def _list(self, value: list[Any]) -> None:
        if not self.is_known(value):
            self.items(value)

    def _tuple(self, value: tuple[Any, ...]) -> None:
        """Write a tuple's digest, so that tuples of tuples that share tuples are walked through once."""
        if PLAIN.issuperset(map(type, value)):
            self.write(b"(")
            self.items(value)
            return
        known = self._digests.get(id(value))
        if known is None:
            start, met = len(self._out), len(self._met)
            self.items(value)
            digest = digest_of(self._out[start:])
            del self._out[start:]
            if len(self._met) == met:  # it would be written in the same way again
                self._digests[id(value)] = value, digest
        else:
            digest = known[1]
        self.write(b"tuple", digest)

    def items(self, values: Any) -> None:
        """Write the number of a sequence's elements, and the elements."""
        self.write(b"[", b"%d" % len(values))
        if (
            len(values) > 8
            and len(kinds := set(map(type, values))) == 1
            and _is_short_of(kinds.pop(), values)
        ):
            self.write_bulk(b"same", repr(list(values)).encode())
            return
        walk = self.walk
        for value in values:
            walk(value)

    def _set(self, value: Any) -> None:
        if type(value) is frozenset:
            self.write(b"frozen")
        elif self.is_known(value):
            return
        found = sorted(map(self._apart, value), key=lambda element: element[0])
        self.write(b"set", b"%d" % len(found))
        for data, _, _ in found:
            self.write(b"-", data)
        # Elements that may be referred to from elsewhere are walked through again, in this order.
        for _, is_alone, element in found:
            if not is_alone:
                self.walk(element)

    def _apart(self, value: Any) -> tuple[bytes, bool, Any]:
        """Walk through a value without a trace. Returns what would be written, True if no object was met, the value."""
        start, met = len(self._out), len(self._met)
        self.walk(value)
        data = bytes(self._out[start:])
        del self._out[start:]
        is_alone = len(self._met) == met
        if not is_alone:
            self._digests.clear()  # (there are references in them)
            while len(self._met) > met:
                self._met.popitem()
        return data if len(data) < 64 else digest_of(data), is_alone, value

    def _set_iterator(self, value: Any) -> None:
        raise Unstable("an iterator through a set goes another way each time", value)

    def _environ(self, value: Any) -> None:
        if value is os.environ or value is os.environb:
            self.write(b"environ")  # by name: its content belongs to this machine
        else:
            self._object(value)

    def _dict(self, value: dict[Any, Any]) -> None:
        if not self.is_known(value):
            self.pairs(value.items())

    def _proxy(self, value: Any) -> None:
        self.write(b"proxy")
        self.pairs(value.items())

    def pairs(self, items: Iterable[tuple[Any, Any]]) -> None:
        """Write the items of a mapping, in their order."""
        found = list(items)
        self.write(b"{", b"%d" % len(found))
        for key, value in found:
            self.walk(key)
            self.walk(value)

    def names(self, items: Iterable[tuple[str, Any]]) -> None:
        """Write names with their values, sorted by name."""
        found = sorted(items, key=lambda item: item[0])
        self.write(b"names", b"%d" % len(found))
        for name, value in found:
            self.write_text(b"name", name)
            self.walk(value)

    def _object(self, value: Any) -> None:
        """Walk through any other object as pickle takes it apart."""
        if self.is_known(value):
            return
        self._last_object = value
        reduced = byvalue.reduction(value)
        if type(reduced) is str:
            self.write_text(b"global", f"{getattr(value, '__module__', '')}.{reduced}")
            if byvalue.travels_by_value(value):
                self.names(getattr(value, "__dict__", {}).items())
            return
        make, args, *rest = reduced
        state, items, pairs, *setter = [*rest, None, None, None][: max(3, len(rest))]
        if issubclass(type(value), (set, frozenset)) and len(args) == 1 and type(args[0]) is list:
            args = (frozenset(args[0]),)  # pickle's list has an arbitrary order
        state = self.essence_of(value, state)
        self.write(b"object", b"%d%d%d" % (items is not None, pairs is not None, len(setter)))
        for part in (make, args, state, *setter):
            self.walk(part)
        if items is not None:
            self.items(list(items))
        if pairs is not None:
            self.pairs(pairs)


def _write_future(walk: Walk, future: Future[Any]) -> None:
    """Write the key of the call whose result this is; without one, only its place in `unkeyed`."""
    if walk.is_blind or walk.is_known(future):
        return
    key = futures.key_of(future)
    if key is not None:
        walk.write(b"result", key)
    elif walk.unkeyed is None:
        raise Unstable("a future whose call is not stored", future)
    else:
        walk.write(b"value", b"%d" % len(walk.unkeyed))
        walk.unkeyed.append(future)


def _is_short_of(kind: type, values: Any) -> bool:
    """True if one `repr` may stand for all of these: numbers, none of which could be an address."""
    if kind is int:
        return bool(-_LEAST_ADDRESS < min(values) and max(values) < _LEAST_ADDRESS)
    return kind is float or kind is bool


Walk.handlers = {
    **dict.fromkeys(PLAIN, Walk._plain),
    bytes: Walk._bytes,
    bytearray: Walk._bytearray,
    tuple: Walk._tuple,
    list: Walk._list,
    dict: Walk._dict,
    set: Walk._set,
    frozenset: Walk._set,
    type(iter(set())): Walk._set_iterator,
    type(os.environ): Walk._environ,
    MappingProxyType: Walk._proxy,
}
