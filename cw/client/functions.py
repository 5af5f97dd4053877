"""The functions of a session, by number: each is pickled once, and anew when what it uses is bound anew.

    submit(f)                       number_of(f)
                 known, and its watch is current --------------------------------> (number, None)
                 else: pickled anew --- the same bytes as before -----------------> (number, None)
                                    '-- other bytes: the next number -------------> (number, payload)

    f importable by name:  the object itself is all there is to compare
    f travels by value:    what the pickler met: globals read, closure cells, defaults, code, classes
    obj.m, obj, partial:   besides, the attributes of `obj` and the partial's keywords
    without a fingerprint: pickled each time (a callable implemented in C, an object with slots)

A binding is compared by identity; a mutation in place is not noticed.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Container
from types import (
    BuiltinFunctionType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

from cw.payloads import generators
from cw.payloads.byvalue import Watch
from cw.payloads.serialize import Payload, dump_function
from cw.store import callkey
from cw.store.callkey import FunctionKey

# Function objects that are recognised. More keeps more of them alive, and what they refer to; fewer pickles
# a function again that comes round after so many others (a program that makes lambdas in a loop).
KNOWN = 1024

# When to forget functions that no outstanding job uses. More costs memory here; fewer, and a function that is
# used again after a pause travels again.
CONTENTS = 1024
CONTENT_BYTES = 256 * 1024 * 1024


class _Known:
    """A function object whose pickle has a number."""

    __slots__ = ("function", "number", "watch")

    def __init__(self, function: Any, number: int, watch: Watch) -> None:
        self.function = function  # held, so that its id is not used again
        self.number = number
        self.watch = watch


class FunctionTable:
    """The functions of one session. Its owner holds a lock around every call.

    The lock must be reentrant: pickling runs code of the user's, which may submit.
    """

    def __init__(self) -> None:
        self._known: dict[Any, _Known] = {}  # by key, see _key(); oldest first
        self._number_by_digest: dict[bytes, int] = {}
        self._contents: dict[int, tuple[bytes, Payload]] = {}  # digest and payload by number, oldest first
        self._keys: dict[int, FunctionKey] = {}  # of functions whose calls are recorded, by number
        self._told: dict[Any, Any] = {}  # of which random generators its user was warned
        self._last_number = 0
        self._size = 0
        self._most_contents, self._most_bytes = CONTENTS, CONTENT_BYTES

    def number_of(self, function: Callable[..., Any]) -> tuple[int, Payload | None]:
        """The function's number, with its payload if the number is new.

        Raises `NotPicklable`; `TypeError` for what cannot be called.
        """
        known = self._known.get(id(function))
        if known is not None and known.watch.is_current():
            return known.number, None
        return self._number_of_other(function)

    def key_of(self, function: Callable[..., Any], carrier: Callable[..., Any] | None = None) -> FunctionKey:
        """The key with which calls of the function are recorded, as it is pickled now.

        `carrier`: what travels in its place, with it inside. Raises `NotPicklable`.
        """
        travels = function if carrier is None else carrier
        number, payload = self.number_of(travels)
        key = self._keys.get(number)
        if key is None:
            if payload is None:
                # Pickled a while ago: what it captures may have been changed in place since. Key and pickle shall be
                # made from the same.
                self._known.pop(_key(travels), None)
                number, _ = self.number_of(travels)
            key = self._keys[number] = callkey.of_function(function)
        return key

    def payload_of(self, number: int) -> Payload:
        """A function's payload, to send it again. Raises `KeyError` if it has been forgotten."""
        return self._contents[number][1]

    @property
    def is_full(self) -> bool:
        """Whether it is time to call `forget_unused`. It changes only when `number_of` gives a payload."""
        return len(self._contents) > self._most_contents or self._size > self._most_bytes

    def forget_unused(self, in_use: Container[int]) -> list[int]:
        """Forget the older half of what is kept, but for the numbers in use. Returns the numbers forgotten.

        A forgotten number is not given out again.
        """
        forgotten = []
        for number in list(self._contents):
            if len(self._contents) <= CONTENTS // 2 and self._size <= CONTENT_BYTES // 2:
                break
            if number not in in_use:
                digest, payload = self._contents.pop(number)
                del self._number_by_digest[digest]
                self._size -= len(payload)
                self._keys.pop(number, None)
                forgotten.append(number)
        gone = set(forgotten)
        self._known = {key: known for key, known in self._known.items() if known.number not in gone}
        # Where jobs hold on to more than the limits, look again only after as much has come again.
        self._most_contents = max(CONTENTS, 2 * len(self._contents))
        self._most_bytes = max(CONTENT_BYTES, 2 * self._size)
        return forgotten

    def _number_of_other(self, function: Any) -> tuple[int, Payload | None]:
        if not callable(function):
            raise TypeError(f"{type(function).__name__!r} object is not callable")
        key = _key(function)
        known = self._known.get(key)
        if known is not None and known.watch.is_current():
            return known.number, None
        watch = Watch()
        # Before it is pickled: an attribute bound anew between the two must look like a change.
        has_fingerprint = _watch_object(function, watch)
        payload = dump_function(function, watch)
        generators.warn_of(function, payload, self._told)
        digest = hashlib.blake2b(payload, digest_size=16).digest()
        number = self._number_by_digest.get(digest)
        is_new = number is None
        if number is None:
            self._last_number = number = self._last_number + 1
            self._number_by_digest[digest] = number
            self._contents[number] = digest, payload
            self._size += len(payload)
        self._known.pop(key, None)
        if has_fingerprint:
            if len(self._known) >= KNOWN:
                del self._known[next(iter(self._known))]
            self._known[key] = _Known(function, number, watch)
        return number, payload if is_new else None


def _key(function: Any) -> Any:
    """What a function is recognised by. `obj.m` is a new object each time; a `_Known` holds both halves."""
    if type(function) is MethodType:
        return id(function.__func__), id(function.__self__)
    return id(function)


def _watch_object(function: Any, watch: Watch) -> bool:
    """Watch what a callable object holds, besides what the pickler meets. False: there is no telling."""
    kind = type(function)
    if kind is MethodType:
        owner = function.__self__
        is_owner_watched = isinstance(owner, type) or _watch_attributes(owner, watch)
        return is_owner_watched and _watch_object(function.__func__, watch)
    if kind is functools.partial:
        watch.add_namespace(function.keywords)
        return _watch_object(function.func, watch)
    if kind is BuiltinFunctionType:  # len, math.sqrt, dict.fromkeys; but not [].append
        return function.__self__ is None or isinstance(function.__self__, (type, ModuleType))
    if kind in (FunctionType, MethodDescriptorType, WrapperDescriptorType) or issubclass(kind, type):
        return True
    return _watch_attributes(function, watch)


def _watch_attributes(owner: Any, watch: Watch) -> bool:
    """Watch the attributes of an object, if there is nothing else to it: no slots, no part in C."""
    attributes = getattr(owner, "__dict__", None)
    if type(attributes) is not dict:
        return False
    for cls in type(owner).__mro__[:-1]:
        # A class implemented in C that holds data has a constructor implemented in C.
        if isinstance(vars(cls).get("__new__"), BuiltinFunctionType) or vars(cls).get("__slots__"):
            return False
    watch.add_namespace(attributes)
    return True
