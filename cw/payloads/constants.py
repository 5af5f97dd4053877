"""Constants: values that cannot change after they are pickled, and so need no further checks.

Exact types only: an instance of a subclass has attributes, which can change.
"""

from __future__ import annotations

import enum
import functools
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from types import FunctionType, ModuleType
from typing import Any

from cw.payloads import byvalue, script
from cw.payloads.dispatchers import is_dispatcher, parts_of_dispatcher
from cw.payloads.watch import MISSING, contents_of

PLAIN = frozenset(
    {
        int, float, complex, bool, str, bytes, type(None), type(...), type(NotImplemented), range, re.Pattern,
        types.GenericAlias, types.UnionType, typing.TypeVar, typing.ParamSpec, types.BuiltinFunctionType,
        types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType,
        types.MethodDescriptorType, types.ClassMethodDescriptorType, types.CodeType,
    }
)  # fmt: skip
"""Types whose values neither change nor hold anything that changes."""

PLAIN_BY_NAME = frozenset(
    {
        "datetime.date", "datetime.time", "datetime.datetime", "datetime.timedelta", "datetime.timezone",
        "decimal.Decimal", "fractions.Fraction", "uuid.UUID", "pathlib.PosixPath", "pathlib.PurePosixPath",
        "pathlib._local.PosixPath", "pathlib._local.PurePosixPath", "dataclasses.Field",
    }
)  # fmt: skip
"""Names of such types in modules that are not imported here: a runner imports this module, and the user may have others
of those names."""

MADE_BY_PYTHON = frozenset(
    {
        "__dict__", "__weakref__", "__module__", "__qualname__", "__doc__", "__firstlineno__", "__slots__",
        "__static_attributes__", "__slotnames__", "__abstractmethods__", "_abc_impl", "__annotations__",
        "__annotate__", "__annotate_func__", "__annotations_cache__", "__dataclass_fields__",
        "__dataclass_params__", "__match_args__", "__orig_bases__", "__parameters__", "__type_params__",
        "__classcell__", "__hash__", "__non_callable_proto_members__", "__protocol_attrs__", "_is_protocol",
        "_fields", "_field_defaults",
    }
)  # fmt: skip
"""Attributes of classes that Python makes from the definition. They are not changed in place."""

MADE_OF_A_MEMBER = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_", "_inverted_"})
"""Attributes of an enum's members that Python makes."""

_DEPTH = 20


def is_constant(value: Any) -> bool:
    """True if a value, with all that it holds, cannot change. False is always safe: the value is then checked."""
    return _is_constant(value, _DEPTH, set())


def is_fixed(value: Any) -> bool:
    """True if the value of a global name, which is compared by identity, cannot change otherwise.

    Functions and classes by value can change; calls also ask whether another value holds the same one.
    """
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return all(map(is_fixed, value))
    if kind is functools.partial:
        return is_constant(value) and all(map(is_fixed, (value.func, *value.args, *value.keywords.values())))
    if script.can_be_named(value) and byvalue.travels_by_value(value) and script.name_of(value) is None:
        return False
    return is_constant(value)


def _is_constant(value: Any, depth: int, seen: set[int]) -> bool:
    kind = type(value)
    if kind in PLAIN:
        return kind is not types.BuiltinFunctionType or _is_free(value)
    if depth <= 0:
        return False
    if kind is ModuleType or issubclass(kind, ModuleType):
        return not byvalue.is_module_by_value(value)
    if id(value) in seen:
        return True
    if script.can_be_named(value):
        if not byvalue.travels_by_value(value):
            return True
        seen.add(id(value))
        return all(_is_constant(part, depth - 1, seen) for _, part in parts_of(value))
    parts = _parts_of_immutable(value)
    if parts is not None:
        return all(_is_constant(part, depth - 1, seen) for part in parts)
    return _is_of_immutable_type(value)


def _parts_of_immutable(value: Any) -> Iterable[Any] | None:
    """Return the parts that decide whether a value can change; None: unknown."""
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return value  # type: ignore[no-any-return]
    if kind is slice:
        return value.start, value.stop, value.step
    if isinstance(value, enum.Enum):
        is_of_script = script.name_of(kind) is not None
        return () if is_of_script else [part for part in vars(value).values() if part is not kind]
    if kind is functools.partial:
        return None if value.__dict__ else (value.func, *value.args, *value.keywords.values())
    if kind in (staticmethod, classmethod):
        return (value.__func__,)
    if kind is property:
        return value.fget, value.fset, value.fdel
    return (value.func,) if kind is functools.cached_property else None


def _is_of_immutable_type(value: Any) -> bool:
    kind = type(value)
    module_name = kind.__module__
    if f"{module_name}.{kind.__qualname__}" in PLAIN_BY_NAME or module_name == "typing":
        return True
    if module_name == "logging" and hasattr(value, "manager"):
        return True  # a logger is pickled as its name
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        if isinstance(value, (numpy.generic, numpy.dtype, numpy.ufunc)):
            return not isinstance(value, numpy.void)  # a record can change
        if kind is numpy.ndarray:
            return _rests_on_bytes(value)
    return False


def _is_free(function: Any) -> bool:
    """True for functions without state: len, math.sqrt, dict.fromkeys; but not [].append."""
    owner = function.__self__
    return owner is None or isinstance(owner, (type, ModuleType))


def _rests_on_bytes(array: Any) -> bool:
    base = array.base
    while base is not None and type(base) is not bytes:
        base = getattr(base, "base", getattr(base, "obj", None))
    return base is not None and not array.dtype.hasobject


def parts_of(thing: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """List what a function or class that travels by value holds, and where: ('default', 0), ('attribute', 'rates'), ...

    Its global names are not included: `reach` follows them.
    """
    if type(thing) is FunctionType:
        return _parts_of_function(thing)
    if type(thing) is script.CACHED_FUNCTION:
        return (
            (("attribute", name), value) for name, value in vars(thing).items() if name not in MADE_BY_PYTHON
        )
    return _parts_of_class(thing)


def _parts_of_function(function: FunctionType) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if is_dispatcher(function):
        registry, attributes = parts_of_dispatcher(function)
        yield from ((("registered", cls), implementation) for cls, implementation in registry.items())
        yield from ((("attribute", name), value) for name, value in attributes.items())
        return
    for place, value in enumerate(function.__defaults__ or ()):
        yield ("default", place), value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield ("keyword", name), value
    for place, cell in enumerate(function.__closure__ or ()):
        value = contents_of(cell)
        if function.__code__.co_freevars[place] == "repr_running" and function.__name__ == "__repr__":
            continue  # a dataclass's: empty except while it is at work
        if value is not MISSING:
            yield ("cell", place), value
    for name, value in function.__dict__.items():
        yield ("attribute", name), value


def _parts_of_class(cls: type) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for base in cls.__bases__:
        yield ("base",), base
    if type(cls) is not type:
        yield ("metaclass",), type(cls)
    made: AbstractSet[str] = frozenset()
    if issubclass(cls, enum.Enum):
        for name, member in cls.__members__.items():
            yield ("member", name), member._value_
            for key, value in vars(member).items():
                if key not in MADE_OF_A_MEMBER:
                    yield ("member", (name, key)), value
        made = byvalue.MADE_FROM_MEMBERS | cls.__members__.keys()
    for name, value in list(vars(cls).items()):
        if name not in MADE_BY_PYTHON and name not in made and not name.startswith("__pydantic_"):
            yield ("attribute", name), value
