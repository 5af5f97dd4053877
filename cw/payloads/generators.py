"""Random generators that travel with a function, so that all its jobs, or all runners, would draw the same numbers.

    a function is pickled anew --> marks of a generator in the bytes? --yes--> search what it holds --> a warning each

A bound method's object, a partial, a callable object, closures, defaults and the script's globals may hold one.
Excluded are arguments, since each call has its own, and generators that modules share (`random.gauss`,
`numpy.random.rand`), which travel by name: each runner has its own.
"""

from __future__ import annotations

import collections
import functools
import itertools
import os
import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import FunctionType, MethodType, ModuleType
from typing import Any

from cw.errors import SharedRandomState
from cw.payloads.byvalue import travels_by_value
from cw.payloads.code_names import global_names
from cw.payloads.pickling_errors import function_name, parts_of

_OBJECTS = 200_000
"""Most objects searched, for 2 us each. More: larger values are searched. Fewer: a submit is faster."""

_KINDS = (
    ("random", "Random"), ("numpy.random", "Generator"), ("numpy.random", "RandomState"),
    ("numpy.random", "BitGenerator"), ("torch", "Generator"),
)  # fmt: skip
_SHARED = ("random", "_inst"), ("numpy.random.mtrand", "_rand"), ("torch", "default_generator")

_MARKS = b"numpy.random", b"torch"

_LEAVES = frozenset({int, float, complex, str, bytes, bytearray, bool, type(None)})
_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep  # all of cw


def warn_of(function: Any, reported: dict[Any, Any]) -> None:
    """Warn of each generator that a function holds, which was just pickled. `reported`: those already reported."""
    name = function_name(function)
    if name in reported:  # a lambda in a loop is many functions
        return
    for variable, generator in find(function).items():
        reported[name] = None
        if id(generator) not in reported:
            reported[id(generator)] = generator  # held, so that its id is not used again
            warnings.warn(
                f"{name} holds the random generator {variable!r}: copies of it travel, so that jobs draw the same "
                "numbers as others. Make a generator in the job, from the job's own seed: "
                "numpy.random.default_rng(cw.current_job().seed) or random.Random(cw.current_job().seed)",
                SharedRandomState,
                stacklevel=frames_of_cw(),
            )


def find(function: Any) -> dict[str, Any]:
    """Find the random generators that travel with a function, by name: 'rng', 'self.rng', "options['rng']"."""
    kinds, shared = _loaded(_KINDS), _loaded(_SHARED)
    found: dict[str, Any] = {}
    waiting: collections.deque[tuple[str, Any]] = collections.deque([("self", function)])
    seen: dict[int, Any] = {}  # keeps the objects, so that no id is reused
    while waiting and len(seen) < _OBJECTS:
        path, thing = waiting.popleft()
        kind = type(thing)  # not isinstance(), which asks the object, and proxies lie
        if kind in _LEAVES or id(thing) in seen or any(thing is one for one in shared):
            continue
        seen[id(thing)] = thing
        if issubclass(kind, kinds):
            if not issubclass(kind, random.SystemRandom):  # it has no state
                found[(path == "self" and _name_in_script(thing)) or path] = thing
            continue
        try:
            waiting.extend(itertools.islice(_parts(path, thing), _OBJECTS))
        except Exception:  # the object answers in its own way: skip it
            continue
    return found


def _parts(path: str, thing: Any) -> Iterator[tuple[str, Any]]:
    """List what travels with a value, under the names that its author knows."""
    if isinstance(thing, FunctionType):
        if travels_by_value(thing):
            yield from _parts_of_function(thing)
    elif isinstance(thing, MethodType):
        yield "self", thing.__self__
        yield path, thing.__func__
    elif isinstance(thing, functools.partial):
        yield path, thing.func
        for index, value in enumerate(thing.args):
            yield _parameter(thing.func, index), value
        yield from thing.keywords.items()
    elif isinstance(thing, _BuiltinMethod):  # such as `rng.random`
        if not isinstance(thing.__self__, (ModuleType, type)):
            yield "self", thing.__self__
    elif isinstance(thing, type):
        yield from parts_of(thing.__name__, thing)
    elif isinstance(thing, ModuleType):
        return
    else:
        yield from parts_of(path, thing)


_BuiltinMethod: type[Any] = type([].append)


def _parts_of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not bound yet
            continue
    for name in global_names(code):
        if name in function.__globals__:
            yield name, function.__globals__[name]
    defaults = function.__defaults__ or ()
    yield from zip(
        code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=True
    )
    yield from (function.__kwdefaults__ or {}).items()
    for name, value in vars(function).items():
        yield f"{function.__name__}.{name}", value


def _parameter(function: Any, position: int) -> str:
    """Return the name of the parameter for an argument that a partial holds."""
    code = getattr(function, "__code__", None)
    if code is None or position >= code.co_argcount:
        return f"args[{position}]"
    name: str = code.co_varnames[position]
    return name


def _name_in_script(thing: Any) -> str | None:
    names = list(vars(sys.modules["__main__"]).items()) if "__main__" in sys.modules else []
    return next((name for name, value in names if value is thing), None)


def _loaded(names: tuple[tuple[str, str], ...]) -> tuple[Any, ...]:
    """Return those of these that exist, without importing anything."""
    found = (getattr(sys.modules.get(module), name, None) for module, name in names)
    return tuple(one for one in found if one is not None)


def may_hold_one(pickled: bytes) -> bool:
    """True if a pickle names a class of generators. (It need not hold a generator.)"""
    return any(pickled.find(mark) >= 0 for mark in (*_MARKS, *(c.__name__.encode() for c in _own_classes())))


def _own_classes() -> Sequence[type]:
    """Return all direct and indirect subclasses of random.Random."""
    classes = [random.Random]
    for cls in classes:
        classes += cls.__subclasses__()
    return classes


def frames_of_cw() -> int:
    """Return the `stacklevel` of the code that called cw."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    return level
