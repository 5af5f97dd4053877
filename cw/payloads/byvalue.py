"""Pickling by value: what the user's script defines travels as code, and returns as itself.

cloudpickle does the work of taking functions and classes apart. Some things differ here:

- *A class belongs to the process that defined it* (classes.py). cloudpickle, loading an instance that returns, sets
  the class's attributes to their values in the runner, and so undoes changes that the client has made since.
- *A definition is pickled once.* In results a class is named by id and version, next to the bytes of its definition,
  which are kept; without them where the client has it.
- *What a pickle was made from is watched* (watch.py), so that it can be reused until a name is rebound. What was
  changed in place is noticed when a function is pickled: then all classes are pickled anew, as other versions.
- *Code keeps its file's name*, which cloudpickle 3.1.3 and later removes: a traceback shows lines of the script.
- *The generators that a module shares travel by name.* `from random import random` binds a method of a hidden object:
  with its state in the pickle, all workers would draw the same numbers.

A pickle with a watch (a class's definition) holds other definitions inline: functions and methods that share global
names in the client share them in the runner, too.
"""

from __future__ import annotations

import contextlib
import copyreg
import enum
import functools
import hashlib
import io
import pickle
import sys
import typing
from collections.abc import Callable
from concurrent.futures import Future
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import cloudpickle
from cloudpickle.cloudpickle import _dynamic_class_reduce as _take_class_apart

from cw.payloads import dispatchers, enums, futures, related, script
from cw.payloads.annotations import (
    annotate_of,
    is_forward_reference,
    put_in_place,
    reduce_forward_reference,
    without_annotations,
)
from cw.payloads.classes import identity_of, known_class, make_class, new_version, set_class_state
from cw.payloads.code_names import global_names
from cw.payloads.dispatchers import is_dispatcher, make_dispatching_method, reduce_dispatcher
from cw.payloads.watch import MISSING, Watch

BufferCallback = Callable[[pickle.PickleBuffer], Any] | None  # as for pickle.dumps
Refer = Callable[[type], Any] | None
"""Function that reduces a class without its definition, or returns None."""
_CACHED_FUNCTION = type(functools.lru_cache(len))

# Most definitions of classes that are kept pickled. More: more of them (and what they refer to) stay alive after the
# user has dropped them. Fewer: programs with more classes in use pickle definitions again.
_DEFINITIONS = 256


class Unpicklable(Exception):
    """Pickling failed at the object `offender`; `__cause__` is what pickle said."""

    def __init__(self, offender: Any) -> None:
        super().__init__()
        self.offender = offender


def take_singleton_apart(thing: Any) -> Any:
    """Reduce an object by its state, though its `__reduce__` gives a global name."""
    reduced = reduction(thing)
    if not isinstance(reduced, str):
        return reduced
    if pickle.whichmodule(thing, reduced) not in script.MODULES:  # type: ignore[attr-defined]
        return NotImplemented  # a library's, such as numpy's functions, and typing.NoExtraItems
    if isinstance(thing, typing.NewType):
        return typing.NewType, (thing.__name__, thing.__supertype__)
    return copyreg.__newobj__, (type(thing),), getattr(thing, "__dict__", None)  # type: ignore[attr-defined]


def names_itself(thing: Any) -> bool:
    """True if pickle writes an object as a global name because its `__reduce__` says so: a singleton."""
    try:
        return isinstance(reduction(thing), str)
    except Exception:
        return False


def travels_by_value(thing: Any) -> bool:
    """True if another process cannot get a function or class by importing its module."""
    module_name = getattr(thing, "__module__", None)
    if module_name == "builtins":  # some have no name there, such as the type of code objects
        return False
    if not isinstance(module_name, str) or module_name in script.MODULES:
        return True
    found: Any = sys.modules.get(module_name)
    if found is None:
        return True
    for part in getattr(thing, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is not thing or _is_registered(module_name)


def is_module_by_value(module: ModuleType) -> bool:
    """True if the contents of a module travel as code: the user has registered it, or it cannot be imported."""
    return _is_registered(module.__name__) or sys.modules.get(module.__name__) is not module


_SHARED_GENERATORS = (("random", "random", "_inst"), ("numpy.random", "numpy.random.mtrand", "_rand"))


def home_of_method(method: Any) -> str | None:
    """Return the module in which a method of its shared generator is a function: 'random' has `random.gauss`."""
    for home, module_name, name in _SHARED_GENERATORS:
        module = sys.modules.get(module_name)
        if module is not None and method.__self__ is getattr(module, name, MISSING):
            found = getattr(sys.modules.get(home), method.__name__, None)
            return home if found == method else None
    return None


def reduction(thing: Any) -> Any:
    """Reduce an object as pickle does, by `object.__reduce_ex__`. Raises what that raises."""
    if is_forward_reference(type(thing)):
        return reduce_forward_reference(thing)
    reduce = cloudpickle.Pickler.dispatch_table.get(type(thing))
    return thing.__reduce_ex__(4) if reduce is None else reduce(thing)


def _is_registered(module_name: str) -> bool:
    registry = cloudpickle.list_registry_pickle_by_value()
    return any(module_name == name or module_name.startswith(name + ".") for name in registry)


MADE_FROM_MEMBERS = frozenset(
    {"_member_map_", "_member_names_", "_member_type_", "_value2member_map_", "_unhashable_values_",
     "_unhashable_values_map_", "_hashable_values_", "_use_args_", "_value_repr_", "_all_bits_", "_singles_mask_",
     "_flag_mask_", "_inverted_"}
)  # fmt: skip
"""Attributes that Python adds to an enum, made from its members."""


# --- the definitions of classes, as they were pickled last ---


class _Definition:
    """A version of a class pickled here, with its own pickle (made when a call or result needs it)."""

    __slots__ = ("cls", "content", "data", "digest", "version", "watch")

    def __init__(self, cls: type, watch: Watch, content: bytes) -> None:
        self.cls = cls  # held, so that its id is not used again
        self.version = new_version()
        self.watch = watch
        self.content = content  # a digest, see _content_of()
        self.data: bytes | None = None
        self.digest = b""  # of `data`


# Oldest first. Each operation is one step for the interpreter, so that threads need no lock; a lost race
# costs one more pickling.
_definition_by_class_id: dict[int, _Definition] = {}


def definition_of(cls: type) -> _Definition | None:
    """Return the definition with its pickle; None: the class can be imported."""
    definition = _definition_by_class_id.get(id(cls))
    if definition is None or definition.data is None or not definition.watch.is_current():
        if not travels_by_value(cls):
            return None
        data, found = _run(cls, None, Watch())
        definition = found.get(id(cls))
        if definition is not None:
            definition.digest = hashlib.blake2b(data, digest_size=16).digest()
            definition.data = data
    return definition


def version_of(cls: type) -> bytes:
    """Return the version of a class, which changes when a class that travels by value does."""
    definition = definition_of(cls)
    return b"" if definition is None else definition.version


def renewed_version_of(cls: type) -> bytes:
    """Return the version of a class after a check for changes in place since it was pickled: if there are, it is
    pickled anew."""
    definition = _definition_by_class_id.get(id(cls))
    if definition is not None and definition.content != _content_of(cls):
        _definition_by_class_id.clear()  # other definitions may contain that class
    return version_of(cls)


def complete(cls: Any) -> None:
    """Complete a class before it is taken apart: pydantic postpones annotations that name later classes, and its
    placeholders cannot be unpickled."""
    if getattr(cls, "__pydantic_complete__", True) is False:
        with contextlib.suppress(Exception):
            cls.model_rebuild(raise_errors=False)


# Pickles in older stores refer to these names.
_make_class, _set_class_state, _known_class = make_class, set_class_state, known_class
_make_dispatcher, _fill_dispatcher = dispatchers.make_dispatcher, dispatchers.fill_dispatcher
_make_dispatching_method = dispatchers.make_dispatching_method


def _makes_its_own_slots(cls: type) -> bool:
    return issubclass(cls, enum.Enum) or typing.NamedTuple in vars(cls).get("__orig_bases__", ())


def _make_cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Callable[..., Any]:
    return functools.lru_cache(maxsize, typed)(function)


def _reduce_code(code: CodeType) -> Any:
    make, arguments = cloudpickle.Pickler.dispatch_table[CodeType](code)
    # Index of the file's name among the arguments of CodeType, at least in Python 3.8 to 3.13. It must be a new string
    # each time: which equal strings are one object depends on the interpreter's memory, and pickles are compared.
    return make, (*arguments[:10], "".join(code.co_filename), *arguments[11:])


def _reduce_cached_function(function: Any) -> Any:
    """Reduce a cached function of the script, which would pickle by a name that the runner does not have."""
    if not travels_by_value(function):
        return None
    parameters = function.cache_parameters()
    return _make_cached, (function.__wrapped__, parameters["maxsize"], parameters["typed"])


def _reduce_method(method: Any) -> Any:
    home = home_of_method(method)
    return None if home is None else (getattr, (sys.modules[home], method.__name__))


_REDUCERS: dict[type, Callable[[Any], Any]] = {
    _CACHED_FUNCTION: _reduce_cached_function,
    CodeType: _reduce_code,
    # Before Python 3.12 it holds a lock.
    functools.cached_property: lambda thing: (
        functools.cached_property,
        (thing.func,),
        {"attrname": thing.attrname, "__doc__": thing.__doc__},
    ),
    # From Python 3.13 on, it holds weak references.
    functools.singledispatchmethod: lambda thing: (make_dispatching_method, (thing.dispatcher,)),
    BuiltinFunctionType: _reduce_method,
    MethodType: _reduce_method,
}
"""Reductions of some types; None: as usual."""


class _ChangedInPlace(Exception):
    """Raised for a class that was changed in place, though its names are bound to the same values."""


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Cloudpickle's pickler, with the differences named in the module's docstring; it remembers where it was."""

    def __init__(
        self, file: Any, buffer_callback: BufferCallback, watch: Watch | None, refer: Refer = None
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self.refer = refer
        self.watch = watch
        self.refused = related.kinds()
        self.last: Any = MISSING
        self.definitions: dict[int, _Definition] = {}

    def reducer_override(self, thing: Any) -> Any:
        self.last = thing
        kind = type(thing)  # not isinstance(), which asks the object, and proxies lie
        if issubclass(kind, type):
            return self._reduce_class(thing)
        if kind is FunctionType:
            return self._reduce_function(thing)
        reduce = _REDUCERS.get(kind)
        reduced = None if reduce is None else reduce(thing)
        if reduced is not None:
            return reduced
        if self.refused and issubclass(kind, self.refused):
            reduced = related.reduce_proxy(thing)
            if reduced is not None:
                return reduced
            raise pickle.PicklingError(related.refusal(kind))
        if issubclass(kind, Future):
            return futures.reduce(thing, is_refused=self.watch is not None)  # (in a definition)
        if kind is ModuleType and self.watch is not None and _is_registered(thing.__name__):
            self.watch.add_namespace(vars(thing))
        elif kind.__module__ == "dataclasses" and not hasattr(thing, "default_factory"):
            for name, value in vars(sys.modules["dataclasses"]).items():
                if value is thing:  # a marker, such as MISSING, is recognised by its identity
                    return getattr, (sys.modules["dataclasses"], name)
        elif enums.is_enum(kind) and travels_by_value(kind):
            return enums.reduce_member(thing)
        elif is_forward_reference(kind):
            return reduce_forward_reference(thing)
        return super().reducer_override(thing)

    def _reduce_function(self, function: FunctionType) -> Any:
        if not travels_by_value(function):
            return NotImplemented
        if self.watch is not None:
            # Before its state is taken: a name rebound between the two must look like a change.
            self.watch.add_function(function)
        if is_dispatcher(function):  # it holds weak references
            if self.watch is not None:
                self.watch.add_namespace(function.registry)  # type: ignore[attr-defined]
            return reduce_dispatcher(function)
        is_deferred = annotate_of(function) is not None
        reduced = super().reducer_override(without_annotations(function) if is_deferred else function)
        if reduced is not NotImplemented:
            put_in_place(function, reduced[2][1], global_names)
            # cloudpickle overlooks names that the body of a class inside a function reads.
            names = function.__globals__
            used = reduced[2][1]["__globals__"]
            used.update((name, names[name]) for name in global_names(function.__code__) if name in names)
        return reduced

    def _reduce_class(self, cls: type) -> Any:
        if self.watch is None:
            referred = None if self.refer is None else self.refer(cls)
            if referred is not None:
                return referred
            definition = definition_of(cls)
            if definition is None:
                return super().reducer_override(cls)
            return known_class, (identity_of(cls), definition.version, definition.data)
        if travels_by_value(cls):
            # Pickling a first instance adds an attribute to the class, which must not look like a change.
            copyreg._slotnames(cls)  # type: ignore[attr-defined]
            self.watch.add_namespace(vars(cls))
        reduced = self.take_class_apart(cls)
        if reduced is NotImplemented or len(reduced) < 6:  # by name, or a built-in type that has no name
            return reduced
        make, arguments, state, _, _, set_state = reduced
        definition = _definition_by_class_id.get(id(cls))
        content = _content_of(cls)
        if definition is None or not definition.watch.is_current():
            definition = _Definition(cls, self.watch, content)
        elif definition.content != content:
            raise _ChangedInPlace
        self.definitions[id(cls)] = definition
        filling = (set_state, state, definition.version)
        return make_class, (identity_of(cls), make, arguments), filling, None, None, set_class_state

    def take_class_apart(self, cls: type) -> Any:
        """Reduce a class completely, with what cloudpickle leaves out."""
        if enums.is_enum(cls) and travels_by_value(cls):
            reduced = enums.reduce_class(cls)
        else:
            reduced = cloudpickle.Pickler.reducer_override(self, cls)
            if (
                reduced is NotImplemented
                and getattr(cls, "__module__", "") in script.MODULES
                and travels_by_value(cls)
            ):
                reduced = _take_class_apart(cls)  # of the script, in a process that multiprocessing spawned
            if typing.is_typeddict(cls) and reduced is not NotImplemented:
                # Its own type makes only a TypedDict.
                arguments = type(cls), cls.__name__, cls.__bases__, {"__module__": cls.__module__}
                reduced = (enums.make_quietly, arguments, *reduced[2:])
            elif reduced is not NotImplemented and len(reduced) >= 6:
                if "__slots__" in vars(cls) and not _makes_its_own_slots(cls):
                    # cloudpickle (3.1) forgets them: instances would have a dict in the runner, and not fit in here.
                    _, _, _, first_attributes, *_ = reduced[1]
                    first_attributes["__slots__"] = vars(cls)["__slots__"]
        if reduced is not NotImplemented and len(reduced) == 6:
            put_in_place(cls, reduced[2][0], global_names)
        return reduced


class _ContentPickler(Pickler):
    """Pickler for the digest of a class's contents. The classes that it refers to have their own digests."""

    def __init__(self, file: Any, cls: type) -> None:
        super().__init__(file, None, None)
        self._cls = cls

    def _reduce_class(self, cls: type) -> Any:
        if cls is not self._cls and travels_by_value(cls):
            return identity_of, (identity_of(cls),)
        return self.take_class_apart(cls)


class _Hasher:
    """File that only computes a digest."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.write = self._hash.update
        self.digest = self._hash.digest


def _content_of(cls: type) -> bytes:
    """Return a digest of a class's contents, which differs after a change in place. Raises as `dumps`."""
    hasher = _Hasher()
    run(_ContentPickler(hasher, cls), cls)
    return hasher.digest()


def dumps(
    value: Any,
    buffer_callback: BufferCallback = None,
    watch: Watch | None = None,
    restart: Callable[[], Any] = lambda: None,
    refer: Refer = None,
) -> bytes:
    """Pickle by value. With a watch, note in it what the pickle is made from, and put definitions inline.

    `restart()`: discard what the callback was given so far. Raises `Unpicklable`. May be
    called from several threads.
    """
    return _run(value, buffer_callback, watch, restart, refer)[0]


def run(pickler: Pickler, value: Any) -> None:
    try:
        pickler.dump(value)
    except (Unpicklable, _ChangedInPlace):  # raised while pickling the definition of a class inside this one
        raise
    except Exception as error:
        raise Unpicklable(pickler.last) from error


def _run(
    value: Any,
    buffer_callback: BufferCallback,
    watch: Watch | None,
    restart: Callable[[], Any] = lambda: None,
    refer: Refer = None,
) -> tuple[bytes, dict[int, _Definition]]:
    while True:
        file = io.BytesIO()
        pickler = Pickler(file, buffer_callback, watch, refer)
        try:
            run(pickler, value)
            break
        except _ChangedInPlace:
            _definition_by_class_id.clear()  # other definitions may contain that class
            restart()
    # Only now, with the watch complete, may others rely on the definitions.
    for key, definition in pickler.definitions.items():
        _definition_by_class_id.pop(key, None)
        _definition_by_class_id[key] = definition
    for key in list(_definition_by_class_id)[:-_DEFINITIONS]:
        _definition_by_class_id.pop(key, None)
    return file.getvalue(), pickler.definitions
