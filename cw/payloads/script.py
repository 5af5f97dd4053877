"""The user's script: module `__main__`, whose functions and classes jobs find by name in the runner's `__main__`.

    client                                   runner
    __main__  f, Model, RATE, executor  -->  __main__  f, Model (all definitions), RATE (what the call reaches)
    pickle writes f, Model as names          and finds them there

`name_of(thing)` returns the name that pickle writes for it; `names_in(data)` the names in a pickle.
"""

from __future__ import annotations

import functools
import re
import sys
from types import FunctionType
from typing import Any

MODULES = ("__main__", "__mp_main__")
"""Names of the script's module: the second is multiprocessing's, in the processes that it spawns."""

CACHED_FUNCTION = type(functools.lru_cache(len))


def namespace() -> dict[str, Any]:
    """Return the script's global names."""
    return vars(sys.modules["__main__"])


def origin() -> tuple[str | None, str | None]:
    """Return the script's file and, if it was run as a module, the module's name, for children of multiprocessing."""
    module = sys.modules["__main__"]
    spec = getattr(module, "__spec__", None)
    return getattr(module, "__file__", None), getattr(spec, "name", None)


def can_be_named(thing: Any) -> bool:
    """True if pickle writes such a thing as a name where it finds it."""
    kind = type(thing)
    return kind is FunctionType or kind is CACHED_FUNCTION or issubclass(kind, type)


def name_of(thing: Any) -> str | None:
    """Return the script's global name through which pickle finds a function or class ('Model' for Model.Part), or
    None."""
    module_name = getattr(thing, "__module__", None)
    if module_name not in MODULES:
        return None
    qualname = getattr(thing, "__qualname__", None)
    if type(qualname) is not str:
        return None
    found: Any = sys.modules.get(module_name)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return qualname.partition(".")[0] if found is thing else None


# Protocol 5 writes what it finds by name as the text (after its length), put into the memo, then STACK_GLOBAL.
_NAMED = re.compile(rb"\x94\x93")
# A text that was in the pickle before is taken from the memo.
_NAMED_BY_MEMO = re.compile(rb"(?:h.|j....)\x93", re.DOTALL)


def _text_before(data: bytes, end: int) -> bytes:
    """Return the short text that ends there."""
    start = end
    while (start := data.rfind(b"\x8c", max(0, end - 257), start)) >= 0:
        if data[start + 1] == end - start - 2:
            return data[start + 2 : end]
    return b""


_names: dict[tuple[bytes, ...], tuple[str, ...]] = {}
"""Results of `names_in`, by what it found."""


def names_in(data: Any) -> tuple[str, ...]:
    """Return the script's global names that a pickle refers to. It may return more, never fewer."""
    if data.find(b"\x8c\x08__main__") < 0 and data.find(b"\x8c\x0b__mp_main__") < 0:
        return ()
    found = tuple([_text_before(data, match.start()) for match in _NAMED.finditer(data)])
    names = _names.get(found)
    if names is None:
        if len(_names) > 4096:
            _names.clear()
        names = _names[found] = tuple(
            sorted({name.partition(b".")[0].decode(errors="replace") for name in found})
        )
    if _NAMED_BY_MEMO.search(data):
        more = set(names)
        for name, value in list(namespace().items()):
            text = name.encode(errors="replace")
            if data.find(b"\x8c%c%b" % (len(text) & 0xFF, text)) >= 0 and can_be_named(value):
                more.add(name)
        names = tuple(sorted(more))
    return names


def is_one_name(data: bytes) -> bool:
    """True if this is how pickle writes one thing by name: module, name, STACK_GLOBAL."""
    name = data.rfind(b"\x8c")
    size = data[1] if data[:1] == b"\x8c" else 0
    return name == size + 3 and data[name + 1] == len(data) - name - 4 and data[-2:] == b"\x94\x93"
