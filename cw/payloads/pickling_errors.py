"""Descriptions, for error messages, of a function, an argument, or an object deep inside one.

    NotPicklable: argument 'model' of fit(): cannot pickle '_thread.lock' object, found at args[0].parts[3]
                  `--------------------'                                                   `--------------'
                  argument_name, function_name                                             find_path

Used only after an error; no public function here raises.
"""

from __future__ import annotations

import collections
import functools
import inspect
import itertools
import os
from collections.abc import Iterable, Iterator
from types import CellType, FunctionType, MethodType
from typing import Any

from cw.payloads.annotations import annotate_of
from cw.payloads.byvalue import travels_by_value
from cw.payloads.code_names import global_names

# Most objects searched, and the greatest depth. More: finds objects in larger values. Fewer: a faster message (2 us
# each).
_OBJECTS = 20_000
_DEPTH = 30
_NAME_CHARACTERS = 80

_LEAVES = (int, float, complex, str, bytes, bytearray, bool, type(None))


def function_name(function: Any) -> str:
    """Return a short readable name: 'fit', 'Model.fit', 'partial(fit)', '<lambda> (script.py:12)'."""
    try:
        if isinstance(function, functools.partial):
            return f"partial({function_name(function.func)})"
        name = getattr(function, "__qualname__", None)
        if not isinstance(name, str):
            name = type(function).__qualname__
        name = name.rpartition("<locals>.")[2]
        if name == "<lambda>":
            code = function.__code__
            name = f"<lambda> ({os.path.basename(code.co_filename)}:{code.co_firstlineno})"
        return name[:_NAME_CHARACTERS]
    except Exception:
        return type(function).__name__


def argument_name(function: Any, position: int) -> str:
    """Name an argument: "argument 'model'", or "argument 1" if the signature does not say."""
    try:
        parameter = list(inspect.signature(function).parameters.values())[position]
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            return f"argument {parameter.name!r}"
    except Exception:  # many built-in functions have no signature
        pass
    return f"argument {position + 1}"


def find_path(target: Any, roots: Iterable[tuple[str, Any]]) -> str | None:
    """Find an object: return the shortest expression from one of the roots, such as 'args[0].model._lock'.

    It follows what pickle follows: containers, attributes, and what functions that travel by value refer to. None: not
    found within the limits.
    """
    waiting = collections.deque((path, thing, 0) for path, thing in roots)
    # Keeps the objects, so that no id is reused.
    seen: dict[int, Any] = {}
    while waiting and len(seen) < _OBJECTS:
        path, thing, depth = waiting.popleft()
        if thing is target:
            return path
        if type(thing) in _LEAVES or id(thing) in seen:
            continue
        seen[id(thing)] = thing
        if depth < _DEPTH:
            try:
                children = list(itertools.islice(parts_of(path, thing), max(0, _OBJECTS - len(waiting))))
            except Exception:  # the object answers in its own way: skip it
                continue
            waiting.extend((child_path, child, depth + 1) for child_path, child in children)
    return None


def parts_of(path: str, thing: Any) -> Iterator[tuple[str, Any]]:
    """List the parts of a value, each with the expression that leads to it from `path`. Raises what the value
    raises."""
    if isinstance(thing, _CONTAINERS):
        yield from _items(path, thing)
    elif isinstance(thing, FunctionType):
        if travels_by_value(thing):
            yield from _function_children(path, thing)
        return
    elif isinstance(thing, type):
        if not travels_by_value(thing):
            return
        for index, base in enumerate(thing.__bases__):
            yield f"{path}.__bases__[{index}]", base
    elif isinstance(thing, (staticmethod, classmethod)):
        yield path, thing.__func__
    else:
        for kind, names in _ATTRIBUTES.items():
            if isinstance(thing, kind):
                for name in names:
                    yield f"{path}.{name}", getattr(thing, name)
                if kind is MethodType:
                    return
    yield from _attributes(path, thing)


_CONTAINERS = (dict, list, tuple, collections.deque, set, frozenset)


def _items(path: str, thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, dict):
        for key, value in thing.items():
            yield f"{path}[{_short(key)}]", value
            if type(key) not in _LEAVES:
                yield f"(key {_short(key)} of {path})", key
    elif isinstance(thing, (list, tuple, collections.deque)):
        for index, value in enumerate(thing):
            yield f"{path}[{index}]", value
    elif isinstance(thing, (set, frozenset)):
        for value in thing:
            yield f"(element {_short(value)} of {path})", value


_ATTRIBUTES: dict[type, tuple[str, ...]] = {
    MethodType: ("__self__", "__func__"),
    functools.partial: ("func", "args", "keywords"),
    CellType: ("cell_contents",),
    BaseException: ("args",),
    property: ("fget", "fset", "fdel"),
}
"""Attributes that hold the parts of some types."""


def _attributes(path: str, thing: Any) -> Iterator[tuple[str, Any]]:
    for name, value in dict(getattr(thing, "__dict__", ())).items():
        yield f"{path}.{name}", value
    for cls in type(thing).__mro__:
        names = vars(cls).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if hasattr(thing, name):
                yield f"{path}.{name}", getattr(thing, name)
    yield f"{path}.__class__", type(thing)


def _function_children(path: str, function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"{path}.__closure__[{name!r}]", cell.cell_contents
        except ValueError:  # not bound yet
            continue
    for name in global_names(function.__code__):
        if name in function.__globals__:
            yield f"{path}.__globals__[{name!r}]", function.__globals__[name]
    yield f"{path}.__defaults__", function.__defaults__
    yield f"{path}.__kwdefaults__", function.__kwdefaults__
    if annotate_of(function) is None:  # otherwise annotations do not travel
        yield f"{path}.__annotations__", function.__annotations__
    for name, value in function.__dict__.items():
        yield f"{path}.{name}", value


def _short(value: Any) -> str:
    """Shorten a key for a path."""
    text = repr(value)
    return text if len(text) <= _NAME_CHARACTERS else text[:_NAME_CHARACTERS] + "..."
