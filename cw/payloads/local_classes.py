"""Classes by value, in a runner: their attributes, as they were over there last, and as jobs have changed them here."""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

from cw.payloads import classes
from cw.payloads.annotations import give
from cw.payloads.local_functions import HOLE, by_token, load_annotations


class LostAttribute:
    """In the place of a class's attribute whose value cannot be pickled."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __get__(self, owner: Any, cls: type) -> Any:
        raise AttributeError(self._text)


_filled: weakref.WeakKeyDictionary[type, tuple[frozenset[str], dict[str, Any]]] = weakref.WeakKeyDictionary()
"""In a runner: the names that a class's last definition has, and the values that came with it."""

_COMPARED = frozenset({int, float, complex, bool, str, bytes, type(None)})


def _is_unchanged(value: Any, before: Any) -> bool:
    kind = type(value)
    return kind in _COMPARED and type(before) is kind and repr(value) == repr(before)


def fill_class(cls: type, filling: tuple[Any, ...]) -> None:
    """In a pickle: give a class its attributes, unless it is ours or has this version already."""
    set_state, state, hints, token, version, qualname, own = filling
    if classes.is_foreign(cls):
        cls.__qualname__ = qualname
        before, attributes = _filled.get(cls, (frozenset(), {})), state[0]
        for name in before[0] - own:  # deleted since, over there
            with contextlib.suppress(AttributeError, TypeError):
                type.__delattr__(cls, name)
        _filled[cls] = own, attributes
        # What has not changed over there stays as jobs have left it.
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
