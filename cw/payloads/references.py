"""Sentinels of modules, such as `dataclasses.MISSING`: programs compare them with `is`, so they travel by reference.

    from lib import UNSET           a runner's UNSET is its own lib.UNSET, as in the process of a pool

Pickle would make another instance. That is right for an argument, and wrong for a name that the script has imported.
"""

from __future__ import annotations

import copyreg
import importlib
import sys
from typing import Any

from cw.payloads import script

_KNOWN = 1000
"""Number of objects whose module is remembered. Larger: more small objects are kept. Smaller: searched again."""

_OBJECT_STATE = getattr(object, "__getstate__", None)  # (from Python 3.11 on)

_homes: dict[int, tuple[Any, str, str]] = {}  # by id: the object, its module and its name there, or '' twice


class Reference:
    """Stands for an attribute of a module in a pickle."""

    def __init__(self, module: str, name: str, cls: type) -> None:
        self._parts = module, name, cls

    def __reduce__(self) -> tuple[Any, ...]:
        return _attribute_of, self._parts


def refer(value: Any) -> Any:
    """Return a Reference if the value is a sentinel of a module, otherwise the value itself."""
    if not _has_only_an_identity(value):
        return value
    known, module, name = _homes.get(id(value), (None, "", ""))
    if known is not value or (module and vars(sys.modules.get(module, sys)).get(name) is not value):
        module, name = _find(value)
        if len(_homes) >= _KNOWN:
            _homes.clear()
        _homes[id(value)] = value, module, name
    return Reference(module, name, type(value)) if module else value


def _has_only_an_identity(value: Any) -> bool:
    """True if a pickle of the value would say nothing but its class, and only `is` tells it from another one."""
    cls: Any = type(value)
    if cls.__eq__ is not object.__eq__ or getattr(value, "__dict__", None):
        return False
    has_own_pickle = (
        cls.__reduce_ex__ is not object.__reduce_ex__
        or cls.__reduce__ is not object.__reduce__
        or getattr(cls, "__getstate__", None) is not _OBJECT_STATE
        or cls in copyreg.dispatch_table
    )
    if has_own_pickle or isinstance(value, type):
        return False
    try:
        make, arguments, state, *_ = value.__reduce_ex__(4)
    except Exception:  # it cannot be pickled
        return False
    return make is copyreg.__newobj__ and arguments == (cls,) and not state  # type: ignore[attr-defined]


def _find(value: Any) -> tuple[str, str]:
    """Return the name of a module that holds this very object, and its name there; '' twice if none does."""
    cls = type(value)
    names = list(sys.modules) if cls is object else [cls.__module__]
    for name in names:
        module = sys.modules.get(name)
        if module is None or name in script.MODULES or getattr(module, "__name__", None) != name:
            continue
        for attribute, found in list(vars(module).items()):
            if found is value:
                return name, attribute
    return "", ""


def _attribute_of(module: str, name: str, cls: type) -> Any:
    """Return, while unpickling, the object of the module here; another instance where the module has none."""
    try:
        return getattr(importlib.import_module(module), name)
    except Exception:  # whatever importing it raises here
        return copyreg.__newobj__(cls)  # type: ignore[attr-defined]
