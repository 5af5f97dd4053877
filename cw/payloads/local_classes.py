"""Classes by value, in a runner: their attributes, as the client sent them last and as jobs have changed them here."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable
from typing import Any

from cw.payloads import classes
from cw.payloads.annotations import give
from cw.payloads.local_functions import HOLE, by_token, load_annotations


class LostAttribute:
    """Replaces a class's attribute whose value cannot be pickled."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __get__(self, owner: Any, cls: type) -> Any:
        raise AttributeError(self._text)


_filled: weakref.WeakKeyDictionary[type, tuple[frozenset[str], dict[str, Any]]] = weakref.WeakKeyDictionary()
"""Names in a class's last definition, and the values that came with it; filled in a runner."""

_COMPARED = frozenset({int, float, complex, bool, str, bytes, type(None)})


def _is_unchanged(value: Any, before: Any) -> bool:
    kind = type(value)
    return kind in _COMPARED and type(before) is kind and repr(value) == repr(before)


def constants_of(thing: Any) -> Iterable[str]:
    """Return the names of the attributes that came with a class's definition, whose values are not sent apart."""
    return _filled[thing][1] if isinstance(thing, type) and thing in _filled else ()


def fill_class(cls: type, filling: tuple[Any, ...]) -> None:
    """Set a class's attributes, in a pickle, unless it is ours or has this version already."""
    set_state, state, hints, token, version, qualname, own = filling
    if classes.is_foreign(cls):
        cls.__qualname__ = qualname
        before, attributes = _filled.get(cls, (frozenset(), {})), state[0]
        for name in before[0] - own:  # the client has deleted it since
            with contextlib.suppress(AttributeError, TypeError):
                type.__delattr__(cls, name)
        _filled[cls] = own, attributes
        # Attributes that the client has not changed stay as jobs have left them.
        same = {name for name, value in attributes.items() if _is_unchanged(value, before[1].get(name, HOLE))}
        state = {name: value for name, value in attributes.items() if name not in same}, *state[1:]
    classes.set_class_state(cls, (set_state, state, version))
    for name, value in state[0].items():
        if type(value) is property and hasattr(property, "__set_name__"):
            property.__set_name__(value, cls, name)
    if token is not None:
        by_token[token] = cls
    if classes.is_foreign(cls):
        with contextlib.suppress(AttributeError, TypeError):
            give(cls, load_annotations(hints))
