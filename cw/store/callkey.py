"""The key of a call: the same for the same call in another process, on another day; different for any other call.

    function: code, defaults, captured values, ---.
      and those that it refers to, transitively   |--> canonical bytes --> 16 bytes
    arguments -----------------------------------'

A function consists of the parts that travel by value: definitions.py. Values: walk.py, arrays.py. A call that cannot be
recognised in another process is refused (`UnstableKey`).
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from types import CodeType
from typing import Any

from cw.errors import UnstableKey
from cw.payloads import current
from cw.payloads.pickling_errors import argument_name, find_path, function_name
from cw.store.definitions import DefinitionWalk
from cw.store.walk import PLAIN, SIZE, Unstable, digest_of

SCHEME = f"2, Python {sys.version_info[0]}.{sys.version_info[1]}"
"""The way in which keys are made. Keys of different schemes cannot be compared: the bytecode, or the version of these
modules, differs."""

Classes = tuple[tuple[type, bytes], ...]
"""Classes of the script that instances in a result may have, with their digests."""


class FunctionKey:
    """The common beginning of the keys of a function's calls; its name; the script's classes that it refers to.

    `refusal`: the reason why its calls have no key; None if they have one.
    """

    __slots__ = ("classes", "digest", "hasher", "name", "order_counts", "refusal")

    def __init__(self, function: Any, data: bytes, classes: Classes, refusal: str | None) -> None:
        self.name = function_name(function)
        self.hasher = hashlib.blake2b(f"{SCHEME}\0".encode() + data, digest_size=SIZE)
        self.digest = self.hasher.digest()
        self.classes = classes
        self.refusal = refusal
        self.order_counts = _sees_order_of_keywords(function)


def of_function(function: Any) -> FunctionKey:
    """Make the key of a function that is called."""
    walk, refusal = DefinitionWalk(is_inline=True), None
    try:
        walk.run(function)
    except Unstable as unstable:
        name = function_name(function)
        refusal = _refusal(f"function {name} or what it refers to", unstable, (name, function))
    return FunctionKey(function, walk.digest(), tuple(walk.classes.items()), refusal)


def of_call(
    function: Any,
    key: FunctionKey,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    version: bytes = b"",
    unkeyed: list[Any] | None = None,
) -> tuple[bytes, Classes]:
    """Make the key of a call, and list the script's classes in its arguments. Raises `UnstableKey`.

    `version`: the bytes that `of_version` made from the user's version. `unkeyed` receives futures among the arguments
    that only their values identify: `with_values` adds these.
    """
    if key.refusal is not None:
        raise UnstableKey(key.refusal)
    hasher = key.hasher.copy()
    classes: Classes = ()
    named = kwargs if key.order_counts or not kwargs else dict(sorted(kwargs.items()))
    text = _plain_text(args, named)
    if text:
        hasher.update(text)
    else:
        walk = DefinitionWalk()
        walk.unkeyed = unkeyed
        walk.write(b"*", b"%d" % len(args))
        given: list[tuple[int | str, Any]] = [*enumerate(args), *named.items()]
        for place, value in given:
            if isinstance(place, str):
                walk.write_text(b"keyword", place)
            try:
                walk.run(value)
            except Unstable as unstable:
                what = f"argument {place!r}" if isinstance(place, str) else argument_name(function, place)
                root = (place if isinstance(place, str) else f"args[{place}]", value)
                raise UnstableKey(_refusal(f"{what} of {key.name}()", unstable, root)) from unstable.__cause__
        hasher.update(walk.digest())
        classes = tuple(walk.classes.items())
    if version:
        hasher.update(version)
    return hasher.digest(), classes


def of_plain_call(
    key: FunctionKey, args: tuple[Any, ...], kwargs: dict[str, Any], version: bytes = b""
) -> bytes | None:
    """Make the key that `of_call` makes, of arguments that all are plain. None: `of_call` must make it, or refuse."""
    if kwargs and not key.order_counts:
        kwargs = dict(sorted(kwargs.items()))
    text = _text_of(args, kwargs)
    if not text or key.refusal is not None:
        return None
    hasher = key.hasher.copy()
    hasher.update(text + version)
    return hasher.digest()


def with_values(key: bytes, values: list[Any]) -> tuple[bytes, Classes]:
    """Add the values of futures to the key of a call; see `of_call`. Raises `UnstableKey`."""
    walk = DefinitionWalk()
    try:
        walk.run(values)
    except Unstable as unstable:
        raise UnstableKey(
            f"the result of a call among the arguments: {unstable}. Store that call, too, or give this one a key of "
            "your own: options(key=...)"
        ) from unstable.__cause__
    return digest_of(key + walk.digest()), tuple(walk.classes.items())


def of_own(function: Any, key: Any, version: bytes = b"") -> bytes:
    """Make the key of a call from its user's key: only that and the function's name count. Raises `UnstableKey`."""
    module = getattr(function, "__module__", None) or ""
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    try:
        return digest_of(f"{SCHEME}\0own\0{module}\0{name}\0".encode() + _digest(key) + version)
    except Unstable as unstable:
        raise UnstableKey(
            f"the key {key!r:.80} has {unstable}: give a str, an int or a tuple of such"
        ) from None


def classes_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Classes:
    """List the script's classes in the arguments of a call with a key from its user."""
    if PLAIN.issuperset(map(type, args)) and PLAIN.issuperset(map(type, kwargs.values())):
        return ()
    walk = DefinitionWalk(is_blind=True)
    try:
        walk.run([args, kwargs])
    except Unstable:
        pass  # its key does not depend on it
    return tuple(walk.classes.items())


def of_version(version: Any) -> bytes:
    """Encode the user's version for `of_call` and `of_own`. Raises `UnstableKey`."""
    try:
        return b"" if version is None else b"\0version" + _digest(version)
    except Unstable as unstable:
        raise UnstableKey(f"the version {version!r:.80} has {unstable}: give a str or an int") from None


def of_seed(seed: int | None) -> bytes:
    """Encode a client's own seed, which is added to the version. Raises `TypeError`."""
    return b"" if seed is None else b"\0seed" + current.explicit(seed) + b"\0"


def nth(key: bytes, number: int) -> bytes:
    """Make the key of a repeated call: `number` calls with the same key came before it."""
    if not number:
        return key
    return digest_of(key + number.to_bytes(8, "little"))


def _plain_text(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Describe arguments completely if all are plain, or tuples of plain values. Empty: they are not."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        kind = type(value)
        if kind not in PLAIN and (kind is not tuple or not PLAIN.issuperset(map(type, value))):
            return b""
    return _text_of(args, kwargs)


def _text_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Return the text of plain arguments; empty: it could be that of others, too."""
    try:
        text = f"{args!r}{kwargs!r}" if kwargs else repr(args)
    except ValueError:  # an int of thousands of digits
        return b""
    if " at 0x" in text:
        return b""
    return text.encode() if text.isascii() else text.encode(errors="surrogatepass")


def _sees_order_of_keywords(function: Any) -> bool:
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return not isinstance(code, CodeType) or bool(code.co_flags & inspect.CO_VARKEYWORDS)


def _refusal(what: str, unstable: Unstable, root: tuple[str, Any]) -> str:
    where = None if unstable.offender is None else find_path(unstable.offender, [root])
    found = f", found at {where}" if where not in (None, root[0]) else ""
    return f"{what}: {unstable}{found}. Give the call a key of your own: options(key=...), or key= of cw.map"


def _digest(value: Any) -> bytes:
    walk = DefinitionWalk()
    walk.run(value)
    return walk.digest()
