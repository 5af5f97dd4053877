"""Enum classes by value: copied as they are, so that no line of user code runs again.

       class Perm(IntFlag)                    skeleton, then filled
    name, bases, plain attributes    --->   a class of the same name, and in it
    members: name, number or text    --->   the members, still without attributes
    all attributes, of members too   --->   set when all that they refer to is there

An enum's members are made when its class is, by the user's `__new__` and `__init__`, from values that may be
counted, drawn or read from elsewhere. So they are not made a second time but copied. They exist from the beginning,
since what a method of the class reads may be one of them: a member is named by its class and its name.
"""

from __future__ import annotations

import abc
import copyreg
import enum
from types import BuiltinFunctionType, GetSetDescriptorType, MemberDescriptorType
from typing import Any, cast

_PLAIN = (int, str, bool, type(None))
# What `_make` or Python adds. Combinations of flags that were looked up so far are left behind.
_MADE = frozenset({"__dict__", "__weakref__", "_abc_impl", "_member_map_", "_value2member_map_"})
_MADE_OF_A_MEMBER = frozenset({"__objclass__", "_inverted_"})


def is_enum(cls: type) -> bool:
    return isinstance(cls, enum.EnumMeta)


def reduce_class(cls: Any) -> tuple[Any, ...]:
    """Reduce an enum class for pickle."""
    attributes = {
        name: value for name, value in vars(cls).items() if name not in _MADE and not _is_slot(value, cls)
    }
    attributes["__qualname__"] = cls.__qualname__
    names: dict[int, str] = {}
    for name, member in cls._member_map_.items():
        names.setdefault(id(member), name)
    members = {name: cls._member_map_[name] for name in names.values()}
    parts = {name: _take_apart(member) for name, member in members.items()}
    skeleton = {name: value for name, value in attributes.items() if _is_plain(value)}
    if "__slots__" in attributes:
        skeleton["__slots__"] = attributes["__slots__"]
    arguments = (
        type(cls),
        cls.__name__,
        cls.__bases__,
        skeleton,
        [(name, names[id(member)]) for name, member in cls._member_map_.items()],
        {name: (made, member._value_ if _is_plain(member._value_) else None)
         for (name, member), (made, _) in zip(members.items(), parts.values(), strict=True)},
    )  # fmt: skip
    values = [(value, names[id(m)]) for value, m in cls._value2member_map_.items() if id(m) in names]
    subclasses = [s for r in abc._get_dump(cls)[0] if (s := r())] if isinstance(cls, abc.ABCMeta) else []  # type: ignore[attr-defined]
    state = (attributes, {name: state for name, (_, state) in parts.items()}, values, subclasses)
    return _make, arguments, state, None, None, _fill


def reduce_member(member: Any) -> Any:
    """Reduce a member of an enum by value for pickle; NotImplemented: as its class says."""
    cls = type(member)
    if getattr(cls.__reduce_ex__, "__module__", None) != "enum":  # the user's own
        return NotImplemented
    if cls._member_map_.get(member._name_) is member:
        return _member, (cls, member._name_)
    return cls, (member._value_,)  # a combination of flags


def _member(cls: Any, name: str) -> Any:
    return cls._member_map_[name]


def _is_plain(value: Any) -> bool:
    return type(value) in _PLAIN or type(type(value)) is enum.EnumMeta and type(value).__module__ == "enum"


def _is_slot(value: Any, cls: type) -> bool:
    return isinstance(value, (MemberDescriptorType, GetSetDescriptorType)) and value.__objclass__ is cls


def _take_apart(member: Any) -> tuple[Any, Any]:
    """Return what a member without attributes is made with, and what it is filled with."""
    cls = type(member)
    # The type that holds its data, as int does, comes below the classes written in Python.
    kind = next(c for c in cls.__mro__ if isinstance(vars(c).get("__new__"), BuiltinFunctionType))
    arguments: Any = ()
    items: tuple[Any, ...] = ()
    if hasattr(kind, "__getnewargs__"):
        arguments = kind.__getnewargs__(member)
    elif kind is not object:  # a date, a Decimal, a list, ...
        reduced: Any = cast(Any, kind).__reduce_ex__(member, 4)
        make, arguments, *others = reduced
        if make is copyreg.__newobj__:  # type: ignore[attr-defined]
            arguments = arguments[1:]
        items = tuple(None if part is None else list(part) for part in others[1:3])
    attributes = {name: value for name, value in vars(member).items() if name not in _MADE_OF_A_MEMBER}
    names = copyreg._slotnames(cls)  # type: ignore[attr-defined]
    slots = {name: getattr(member, name) for name in names if hasattr(member, name)}
    return (kind, arguments), (attributes, slots, items)


def _make(
    metaclass: Any,
    name: str,
    bases: tuple[type, ...],
    skeleton: dict[str, Any],
    names: list[tuple[str, str]],
    parts: dict[str, tuple[tuple[Any, tuple[Any, ...]], Any]],
) -> Any:
    """Make, in a pickle, the class with its members, without anything that may refer to them."""
    cls = make_quietly(metaclass, name, bases, {**skeleton, "_member_map_": {}, "_value2member_map_": {}})
    members = {}
    for first_name, ((kind, arguments), value) in parts.items():
        members[first_name] = member = kind.__new__(cls, *arguments)
        vars(member).update(_name_=first_name, __objclass__=cls)
        if value is not None:
            vars(member)["_value_"] = value
            cls._value2member_map_[value] = member
    cls._member_map_.update((name, members[first_name]) for name, first_name in names)
    return cls


def make_quietly(metaclass: Any, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
    """Make a class without calling `__init_subclass__` of its bases: the client did, and what it did is copied."""

    class Silence:
        def __init_subclass__(cls, **_: Any) -> None: ...

    def mro(cls: Any) -> list[type]:
        return [cls, Silence, *type.mro(cls)[1:]]

    quiet = type.__new__(type(metaclass), metaclass.__name__, (metaclass,), {"mro": mro})
    cls: Any = type.__new__(quiet, name, bases, namespace)
    type.__setattr__(cls, "__class__", metaclass)
    type.__setattr__(cls, "__bases__", bases)  # compute the method resolution order anew
    if issubclass(metaclass, abc.ABCMeta):
        abc._abc_init(cls)  # type: ignore[attr-defined]
        cls.__abstractmethods__ = frozenset()  # it has no methods yet, and must get members
    return cls


def _fill(cls: Any, state: tuple[dict[str, Any], dict[str, Any], list[tuple[Any, str]], list[type]]) -> None:
    """Add, in a pickle, what `_make` left out; or all that the class holds now, if it was changed."""
    attributes, members, values, subclasses = state
    for name, value in attributes.items():
        if name != "__slots__":
            type.__setattr__(cls, name, value)
    if "__firstlineno__" in attributes:  # Python 3.13 removes it together with `__module__`
        type.__setattr__(cls, "__firstlineno__", attributes["__firstlineno__"])
    for name, (others, slots, items) in members.items():
        member = cls._member_map_[name]
        vars(member).update(others)
        for slot, value in slots.items():
            object.__setattr__(member, slot, value)
        _put_in(member, *items)
    for value, name in values:
        cls._value2member_map_[value] = cls._member_map_[name]
    for subclass in subclasses:
        cls.register(subclass)


def _put_in(member: Any, elements: Any = None, pairs: Any = None) -> None:
    """Add the elements of a member that is a list, or the items of one that is a dict, as pickle would."""
    if elements is not None:
        list.__init__(member, elements)
    if pairs is not None:
        dict.clear(member)
        dict.update(member, pairs)
