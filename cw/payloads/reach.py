"""Reach of a call: the script's definitions, and the values of the global names that these read.

    function --reads--> RATE = 3              a constant: travels with the function, compared by identity
                    --> TABLE = {...}         a *place*: can change, so its value travels apart and is checked
                    --> DATA = cw.share(...)  a shared value: its object is needed, and bound for each call
                    --> Model, of the script  a *definition*: its code travels apart; what it holds and can change are
                                              places, too (Model.seen = []); its methods are followed
                    --> numpy, math.sqrt      a constant: pickled by its name
                    --> LOCK = Lock()         cannot be pickled: left unbound in the runner, with the reason

A definition travels as a skeleton and what it is filled with, so that those that refer to each other can be made.
"""

from __future__ import annotations

import abc
import enum
import functools
import io
import itertools
import weakref
from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any

from cw.named_tuple import NamedTuple
from cw.payloads import byvalue, classes, code_names, constants, named, objects, script, shared
from cw.payloads.local_functions import key_of
from cw.payloads.watch import MISSING, Watch

PlaceKey = tuple[Any, ...]

_versions = itertools.count(1)


def _next_version() -> bytes:
    """Return a new version, greater than all earlier ones."""
    return next(_versions).to_bytes(8, "big")


class Place(NamedTuple):
    """Place of a value that can change: ('global', namespace, name), ('attribute', token of its holder, name), ..."""

    key: PlaceKey
    label: str
    get: Callable[[], Any]


class Definition:
    """Function or class of the script, by its name there, as it was pickled last."""

    def __init__(self, name: str, thing: Any) -> None:
        self.name = name
        self.thing = thing
        self.version = _next_version()
        self.skeleton = self.filling = b""
        self.names: set[str] = set()
        self.codes: dict[int, named.Code] = {}
        self.places: list[Place] = []
        self._make()

    def is_current(self, thing: Any) -> bool:
        return thing is self.thing and self.watch.is_current()

    def renew(self) -> None:
        """Pickle the definition again, under another version if it has changed."""
        before, places = (self.skeleton, self.filling), {place.key for place in self.places}
        self._make()
        # A pickle does not say what was in a place, so neither that it is gone.
        if (self.skeleton, self.filling) != before or not places <= {place.key for place in self.places}:
            self.version = _next_version()
            self._make()

    def _make(self) -> None:
        """Pickle the definition. Raises `byvalue.Unpicklable`."""
        byvalue.complete(self.thing)
        self.names, self.codes, self.places = set(), {}, []
        self.watch = Watch()
        if isinstance(self.thing, abc.ABCMeta):
            self.watch.add_registrations()
        holes = self._find_places()
        pickler = self._pickler(holes)
        make, arguments, *rest = pickler.take_apart(self.thing)
        self.codes |= pickler.codes
        state, set_state = (rest[0], rest[3]) if len(rest) > 3 else (None, None)
        if isinstance(self.thing, enum.EnumMeta):
            members: Iterable[Any] = self.thing.__members__.values()
            for member in members:
                self.watch.add_namespace(vars(member))
        self.skeleton = self._dump((make, arguments), holes)
        self.filling = self._dump((set_state, state), holes) if set_state is not None else b""

    @property
    def token(self) -> Any:
        """Token by which the runner's copy is known. A class changed in place keeps it."""
        if isinstance(self.thing, type):
            return self.name, classes.identity_of(self.thing)
        return self.name, self.version

    @property
    def parts(self) -> objects.Definition:
        """Return the definition in the form that travels."""
        return objects.Definition(self.name, self.version, self.token, self.skeleton, self.filling)

    def _pickler(self, holes: Any, file: Any = None) -> named.DefinitionPickler:
        return named.DefinitionPickler(
            file or io.BytesIO(), self.watch, self.thing, self.name, self.version, holes
        )

    def _dump(self, value: Any, holes: Any) -> bytes:
        file = io.BytesIO()
        pickler = self._pickler(holes, file)
        byvalue.run(pickler, value)
        self.names |= pickler.names
        self.codes |= pickler.codes
        return file.getvalue()

    def _find_places(self) -> dict[int, tuple[Any, list[tuple[Any, ...]]]]:
        """Find the values in it that can change: places by id of the holder, in the pickler's form."""
        found: dict[int, tuple[Any, list[tuple[Any, ...]]]] = {}
        waiting, seen = [self.thing], {id(self.thing)}
        while waiting:
            holder = waiting.pop()
            for place, value in constants.parts_of(holder):
                inner = _inside(value)
                if inner is not None:
                    for thing in inner:
                        is_ours = byvalue.travels_by_value(thing) and script.name_of(thing) in (
                            None,
                            self.name,
                        )
                        if is_ours and id(thing) not in seen:
                            seen.add(id(thing))
                            waiting.append(thing)
                elif len(place) == 2 and _is_place(place) and not constants.is_constant(value):
                    token = self.token if holder is self.thing else (self.name, self.version, len(found))
                    token, holes = found.setdefault(id(holder), (token, []))
                    holes.append(place)
                    self.places.append(_place_in(holder, token, place))
        return found


def _is_place(place: tuple[Any, ...]) -> bool:
    """True if a value there can be set in the runner. (An enum's members cannot, but their attributes can.)"""
    return place[0] != "registered" and (place[0] != "member" or type(place[1]) is tuple)


def _inside(value: Any) -> list[Any] | None:
    """Return the functions and classes that an attribute consists of; None: it is another value."""
    if script.can_be_named(value):
        return [value]
    kind = type(value)
    if kind in (staticmethod, classmethod):
        return [value.__func__] if script.can_be_named(value.__func__) else None
    if kind is property:
        parts = [part for part in (value.fget, value.fset, value.fdel) if part is not None]
        return parts if all(map(script.can_be_named, parts)) else None
    if kind is functools.cached_property:
        return [value.func]
    if kind is functools.singledispatchmethod:
        return list(value.dispatcher.registry.values())
    return None


def _place_in(holder: Any, token: Any, place: tuple[Any, ...]) -> Place:
    kind, key = place
    name = getattr(holder, "__qualname__", "?")
    held: Callable[[], Any] = weakref.ref(holder)  # keeps nothing alive that the script has dropped
    if kind == "member":
        member, attribute = key
        return Place(
            (kind, token, key), f"{name}.{member}.{attribute}", lambda: vars(held()[member])[attribute]
        )
    if kind == "default":
        return Place((kind, token, key), f"a default of {name}()", lambda: held().__defaults__[key])
    if kind == "keyword":
        return Place(
            (kind, token, key), f"the default {key!r} of {name}()", lambda: held().__kwdefaults__[key]
        )
    if kind == "cell":
        label = f"{holder.__code__.co_freevars[key]!r}, captured by {name}()"
        return Place((kind, token, key), label, lambda: held().__closure__[key].cell_contents)
    return Place((kind, token, key), f"{name}.{key}", lambda: vars(held())[key])


class Reach:
    """Everything that some functions and names reach. `definition_of(name, thing)` returns the script's definitions.

    Pickling it may reach more: `add` that, too, until nothing new comes.
    """

    def __init__(self, definition_of: Callable[[str, Any], Definition]) -> None:
        self._definition_of = definition_of
        self.definitions: dict[str, Definition] = {}
        self.constants: dict[tuple[str, str], Any] = {}  # by namespace and name
        self.places: dict[PlaceKey, Place] = {}
        self.absent: set[tuple[str, str]] = set()
        self.lost: dict[PlaceKey, str] = {}  # places whose values cannot be pickled, and why
        self.modules: set[str] = set()  # those used as parts of others, as `os.path` is
        self.watch = Watch()
        self.classes: dict[bytes, named.Local] = {}  # those without a name, by identity
        self.shared: dict[str, shared.Content] = {}  # shared values, by name
        self.bound: dict[
            tuple[str, str], str
        ] = {}  # global names that are bound to some, by namespace and name
        self._codes: set[int] = set()

    def add(self, names: Iterable[str], codes: Iterable[named.Code]) -> None:
        """Add names, the script's and those of shared values, and functions by value. Raises `SharedValueReleased`."""
        defined = script.namespace()
        for name in names:
            if shared.is_name(name):
                self._add_shared(shared.content_of(name))
                continue
            self.watch.add_name(defined, name)
            self._add_global(defined, name)
        for namespace, thing in codes:
            if namespace is None:
                self._add_class(thing)
            else:
                self._add_code(namespace, thing)

    def _add_shared(self, content: shared.Content) -> None:
        if content.name not in self.shared:
            self.shared[content.name] = content
            self.watch.add_name(content.state, "is_released")
            self.add(content.names, content.codes)

    def _add_definition(self, name: str) -> None:
        if name in self.definitions:
            return
        names = script.namespace()
        thing = names.get(name, MISSING)
        if thing is MISSING:
            return
        definition = self._definition_of(name, thing)
        self.definitions[name] = definition
        self.watch.add_name(names, name)
        self.watch.absorb(definition.watch)
        for place in definition.places:
            self.places[place.key] = place
        self.add(definition.names, definition.codes.values())

    def _add_class(self, cls: type) -> None:
        identity = classes.identity_of(cls)
        if identity not in self.classes:
            local = self.classes[identity] = named.local_definition(cls)
            self.watch.absorb(local.watch)
            self.add(local.names, local.codes)

    def _add_code(self, names: dict[str, Any], code: CodeType) -> None:
        if id(code) in self._codes:
            return
        self._codes.add(id(code))
        values = []
        for name in code_names.global_names(code):
            self.watch.add_name(names, name)
            values.append(self._add_global(names, name))
        self.modules.update(code_names.submodules(code, values))
        defined = script.namespace()
        for name in code_names.mentioned_names(code):
            self.watch.add_name(defined, name)
            if name in defined:
                self._add_global(defined, name)

    def _add_global(self, names: dict[str, Any], name: str) -> Any:
        value = names.get(name, MISSING)
        key = key_of(names), name
        if value is MISSING:
            self.absent.add(key)
            return value
        if key in self.constants or name == "__builtins__":
            return value
        if script.can_be_named(value):
            found = script.name_of(value)
            if found is not None:
                self._add_definition(found)
                if found != name or names is not script.namespace() or names.get(found) is not value:
                    self.constants[key] = value
                return value
        if type(value) is shared.Shared:
            content = shared.content_in(value)
            self.bound[key] = content.name
            self._add_shared(content)
        elif constants.is_fixed(value):
            self.constants[key] = value
        else:
            place = "global", *key
            self.places.setdefault(place, Place(place, name, lambda: names[name]))
        return value


def caches_in(thing: Any) -> list[tuple[str, ...]]:
    """Return the paths of cached functions in a function or class of the script: () is the thing itself."""
    if type(thing) is script.CACHED_FUNCTION:
        return [()]
    if not isinstance(thing, type):
        return []
    return [(name,) for name, value in vars(thing).items() if type(value) is script.CACHED_FUNCTION]
