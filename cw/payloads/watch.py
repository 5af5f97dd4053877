"""Watch of what a pickle was made from, recorded while it is made: the pickle is reused until something is rebound.

    add_function, add_name, add_namespace, ... --> is_current()?  asked at each submit

Only bindings are compared, and by identity: a list that has grown in place is not noticed. What is compared is held, so
that no id is used again: weakly where possible, so that nothing is kept alive that its owner has dropped.
"""

from __future__ import annotations

import abc
import weakref
from collections.abc import Mapping
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any

from cw.payloads.annotations import LOOKED_AT
from cw.payloads.code_names import global_names

MISSING = object()
"""Stands for the value of a name that is not bound."""

_HELD = frozenset({ModuleType, int, str, float, bool, type(None), BuiltinFunctionType})
"""Types whose values are held strongly: they cost little, and are seldom dropped."""


def contents_of(cell: CellType) -> Any:
    """Return what a captured variable is bound to."""
    try:
        return cell.cell_contents
    except ValueError:  # the variable is not bound yet
        return MISSING


class Watch:
    """The bindings that a pickle was made from."""

    __slots__ = (
        "__weakref__",
        "_cells",
        "_functions",
        "_is_over",
        "_names",
        "_registrations",
        "_sizes",
        "_unbound",
        "_weak",
    )

    def __init__(self) -> None:
        self._functions: list[tuple[weakref.ref[FunctionType], CodeType, Any, Any]] = []
        self._is_over = False  # something that it watched is gone
        self._registrations: Any = None  # registrations with abstract base classes, if they matter
        self._cells: list[tuple[Any, Any]] = []
        self._names: dict[tuple[int, str], tuple[Mapping[str, Any], str, Any]] = {}
        self._weak: dict[tuple[int, str], tuple[Mapping[str, Any], str, weakref.ref[Any]]] = {}
        self._unbound: dict[tuple[int, str], tuple[Mapping[str, Any], str]] = {}
        self._sizes: list[tuple[Mapping[str, Any], int]] = []

    def add_function(self, function: FunctionType, has_names: bool = True) -> None:
        """Watch a function that travels by value: code, defaults, closure, and the globals that it reads."""
        reference = weakref.ref(function, self._let_go)
        self._functions.append((reference, function.__code__, function.__defaults__, function.__kwdefaults__))
        if function.__kwdefaults__:
            self.add_namespace(function.__kwdefaults__)
        self.add_namespace(function.__dict__)
        for cell in function.__closure__ or ():
            self._cells.append((cell, contents_of(cell)))
        if has_names:
            for name in global_names(function.__code__):
                self.add_name(function.__globals__, name)

    def add_name(self, namespace: Mapping[str, Any], name: str) -> None:
        """Watch one name, bound or not."""
        value = namespace.get(name, MISSING)
        key = id(namespace), name
        if value is MISSING:
            self._unbound[key] = namespace, name
            return
        if type(value) not in _HELD:
            try:
                self._weak[key] = namespace, name, weakref.ref(value)
                return
            except TypeError:
                pass
        self._names[key] = namespace, name, value

    def add_namespace(self, namespace: Mapping[str, Any]) -> None:
        """Watch all names of a namespace, such as the `vars()` of an object, and their number."""
        names = [name for name in list(namespace) if name not in LOOKED_AT]
        for name in names:
            self.add_name(namespace, name)
        self._sizes.append((namespace, len(names)))

    def add_registrations(self) -> None:
        """Watch which classes are registered with abstract base classes."""
        self._registrations = abc.get_cache_token()

    def _let_go(self, _: Any) -> None:
        """Release everything, as a function is gone: nothing that it held is kept alive here."""
        self._is_over = True
        for held in (self._functions, self._cells, self._names, self._weak, self._unbound, self._sizes):
            held.clear()

    def absorb(self, other: Watch) -> None:
        """Watch also what the other one watches."""
        self._functions += other._functions
        if other._registrations is not None:
            self._registrations = other._registrations
        self._cells += other._cells
        self._names |= other._names
        self._weak |= other._weak
        self._unbound |= other._unbound
        self._sizes += other._sizes

    def is_current(self) -> bool:
        """True if all is still bound to what it was. Each submit asks: 0.1 us, and 0.04 for each name."""
        if self._is_over or (
            self._registrations is not None and self._registrations != abc.get_cache_token()
        ):
            return False
        for reference, code, defaults, kwdefaults in self._functions:
            function = reference()
            if (
                function is None
                or function.__code__ is not code
                or function.__defaults__ is not defaults
                or function.__kwdefaults__ is not kwdefaults
            ):
                return False
        try:  # (a subscript costs less than `get`)
            for namespace, name, value in self._names.values():
                if namespace[name] is not value:
                    return False
            for namespace, name, reference in self._weak.values():
                value = reference()
                if value is None or namespace[name] is not value:
                    return False
        except KeyError:
            return False
        for namespace, name in self._unbound.values():
            if name in namespace:
                return False
        for cell, value in self._cells:
            if contents_of(cell) is not value:
                return False
        for namespace, size in self._sizes:  # not all(): a generator costs more than the rest
            if len(namespace) != size and len(namespace.keys() - LOOKED_AT) != size:
                return False
        return True
