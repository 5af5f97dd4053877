"""All that the script defines, as one object: the names exist in a runner, whether a call reaches them or not.

def f, class Model     definitions, each with the small values that it holds
import numpy, T = ...  how the runner gets them when they are used
table = {...}          not sent: its use raises an error that says why
"""

from __future__ import annotations

import contextlib
import operator
import types
import typing
from collections.abc import Callable
from types import ModuleType
from typing import Any

from cw.client.functions.components import pickle_places
from cw.net import messages as m
from cw.payloads import byvalue, code_names, constants, local_functions, objects, script
from cw.payloads.reach import Definition

SMALL = 64 * 1024
"""Size of a value (bytes) up to which it travels with its definition although no call reaches it. Larger: more bytes
travel. Smaller: more names are missing in the runner."""


class ScriptTable:
    """The object of the script. `definition_of(name, thing)`, `object_of(kind, needs, payload)`: the owner's."""

    def __init__(
        self, definition_of: Callable[[str, Any], Definition], object_of: Callable[[int, Any, Any], int]
    ) -> None:
        self._definition_of = definition_of
        self._object_of = object_of
        self._number = 0
        self._seen: dict[str, Any] = {}  # functions, classes and modules by name; the types of other values

    def on_forgotten(self, numbers: set[int]) -> None:
        if self._number in numbers:
            self._number = 0

    def number(self) -> int:
        """Return the number of the object, as the script is now."""
        names = script.namespace()
        seen = {  # each map asks: without a Python call for a name
            name: value if (kind := type(value)) in _COUNTED or issubclass(kind, type) else kind
            for name, value in list(names.items())
            if not name.startswith("__")
        }
        before = self._seen
        if self._number and list(seen) == list(before):
            if all(map(operator.is_, seen.values(), before.values())):
                return self._number
        rows: list[Any] = []
        others: dict[str, tuple[Any, ...]] = {}
        defined: list[str] = []
        for name, thing in seen.items():
            if not script.can_be_named(names.get(name)) or script.name_of(thing) != name:
                others[name] = _how_to_import(names.get(name))
                continue
            try:
                definition = self._definition_of(name, thing)
            except byvalue.Unpicklable as failure:
                others[name] = "lost", reason(failure)
            else:
                defined.append(name)
                rows.append((objects.dump_definition(definition.parts), _small_values(definition)))
        self._seen = seen
        of_others = _constants_of_others([self._definition_of(row, names[row]) for row in defined])
        self._number = self._object_of(m.VALUE, (), objects.dump_script(rows, others, of_others))
        return self._number


_TYPES = frozenset(
    {types.GenericAlias, types.UnionType, typing.TypeVar, typing.ParamSpec, type(typing.Optional[int])}  # noqa: UP045 (its type is wanted)
)

_COUNTED = _TYPES | {types.FunctionType, script.CACHED_FUNCTION, ModuleType}
"""Types of values, beside classes, of which a change, not only of their type, changes the script's object."""


def _small_values(definition: Definition) -> list[Any]:
    """Return small values of a definition that can change, as they are now, if pickle finds them by name."""
    found = []
    for place in definition.places:
        with contextlib.suppress(Exception):
            pickled = pickle_places([place])
            if pickled.size <= SMALL and not pickled.buffers:
                found.append((place.key, pickled.data))
    return found


def _constants_of_others(definitions: list[Definition]) -> bytes:
    """Return rows of constants that functions read from namespaces other than the script's, such as a namedtuple's."""
    rows = {}
    for definition in definitions:
        for names, code in definition.codes.values():
            assert names is not None  # its classes are inside
            key = local_functions.key_of(names)
            for name in code_names.global_names(code) if key != "__main__" else ():
                if name in names and constants.is_constant(names[name]):
                    rows[key, name] = names[name]
    with contextlib.suppress(byvalue.Unpicklable):
        return byvalue.dumps([(*key, value) for key, value in rows.items()])
    return b""


def _how_to_import(value: Any) -> tuple[Any, ...]:
    """Return how a runner gets a name of the script that the call does not reach."""
    if type(value) is ModuleType:
        return "module", value.__name__
    if script.can_be_named(value) and not byvalue.travels_by_value(value):
        return "attribute", value.__module__, value.__qualname__
    name = getattr(value, "_name", None)
    if type(value).__module__ == "typing" and type(name) is str and getattr(typing, name, None) is value:
        return "attribute", "typing", name
    if type(value) in _TYPES and constants.is_constant(value):
        with contextlib.suppress(byvalue.Unpicklable):
            return "pickle", byvalue.dumps(value)
    return "unsent", type(value).__qualname__


def reason(failure: byvalue.Unpicklable) -> str:
    """Say why a value cannot be pickled."""
    return f"{type(failure.__cause__).__name__}: {failure.__cause__}"
