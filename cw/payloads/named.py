"""Pickling for a runner: what has a name in the script travels as that name, everything else by value.

    f, Model (of the script)      -->  their names: the runner's `__main__` has them (cw.runner.script)
    a lambda, a local function    -->  its code, cells, defaults; its global names are those of a *namespace*
    a local class                 -->  its definition, once made in the runner under its identity (byvalue.py)

A namespace is the dict of globals that functions share: the script's, or one for each module whose functions travel by
value. Its values are sent apart (cw.payloads.reach): a pickle says only which namespace it is. The pickler records
which names and which functions it met, so that what they refer to can be sent, too.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import pickle
import reprlib
import threading
from types import CellType, FunctionType
from typing import Any

import cloudpickle

from cw.payloads import byvalue, classes, constants, script, shared
from cw.payloads.annotations import values_and_texts
from cw.payloads.byvalue import BufferCallback
from cw.payloads.dispatchers import is_dispatcher
from cw.payloads.local_classes import LostAttribute, fill_class
from cw.payloads.local_functions import (
    dump_code,
    key_of,
    key_of_cell,
    load_annotations,
    make_cell,
    make_function,
    parts_of_function,
    set_function_state,
)
from cw.payloads.watch import Watch

Code = tuple[dict[str, Any] | None, Any]
"""Globals of a function by value, and its code: which names it reads, and where. Or None, and a class without a name,
whose definition is sent apart."""

MOST_CODES = 1024
"""Most codes of a pickle: beyond these, definitions of classes are inside it. More: a call needs many objects."""

_ANNOTATION = 4096
"""Largest annotation that travels as a value (bytes). A larger one travels as a text."""


class Annotations:
    """Annotations that bring no values along: pickled by name if possible, otherwise as texts."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def __reduce__(self) -> Any:
        return load_annotations, (dump_annotations(self._thing),)


def dump_annotations(thing: Any) -> bytes:
    """Pickle the annotations of a function or class; b"" for none."""
    try:
        found, texts = values_and_texts(thing)
    except Exception:
        return b""
    if not found:
        return b""
    values = {str(name): _dump_annotation(value) for name, value in found.items()}
    if texts is not None:
        values = {name: texts[name] if type(value) is str else value for name, value in values.items()}
    return pickle.dumps((values, texts), 5)


def _dump_annotation(value: Any) -> str | bytes:
    """Return a text as it is; a value pickled if it has a name or is small; otherwise a text for it."""
    if type(value) is str:
        return value
    file = io.BytesIO()
    with contextlib.suppress(byvalue.Unpicklable):
        byvalue.run(NamedPickler(file, is_whole=True), value)
        if file.tell() <= _ANNOTATION:
            return file.getvalue()
    return getattr(value, "__qualname__", None) or reprlib.repr(value)


# --- the pickler ------------------------------------------------------------------------------


_FILES = frozenset({io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.FileIO})


class Local:
    """Definition of a class without a name, as it was pickled last. It contains other such classes by reference."""

    __slots__ = ("cls", "codes", "data", "identity", "is_constant", "names", "version", "watch")

    def __init__(
        self, cls: type, version: bytes, data: bytes, pickler: NamedPickler, is_constant: bool
    ) -> None:
        self.cls = cls  # held (its watch would hold it, too): results may be instances of it
        self.identity = classes.identity_of(cls)
        self.version = version
        self.data = data
        self.names = pickler.names
        self.codes = list(pickler.codes.values())
        assert pickler.watch is not None
        self.watch = pickler.watch
        self.is_constant = is_constant

    def is_current(self, seen: frozenset[bytes] = frozenset()) -> bool:
        """True if neither the class nor what it refers to can have changed."""
        if not self.is_constant or not self.watch.is_current():
            return False
        seen |= {self.identity}
        for names, thing in self.codes:
            if names is None and classes.identity_of(thing) not in seen:
                other = _locals.get(id(thing))
                if other is None or not other.is_current(seen):
                    return False
        return True


_locals: dict[int, Local] = {}
"""Definitions by id of the class."""

_making = threading.local()
"""Ids (`classes`) of the classes whose definitions this thread is pickling."""


class NamedPickler(byvalue.Pickler):
    """Pickler that records names and the code of functions that it meets. Not for results, which must be
    self-contained.

    `root`: an object that must not be written as a name. `is_whole`: classes without a name are inside; otherwise they
    may be objects, too, and are recorded among the functions, with None in place of the globals.
    """

    def __init__(
        self,
        file: Any,
        buffer_callback: BufferCallback = None,
        watch: Watch | None = None,
        root: Any = None,
        is_whole: bool = False,
    ) -> None:
        super().__init__(file, buffer_callback, watch)
        self.names: set[str] = set()
        self.codes: dict[int, Code] = {}
        self._root = root
        self._is_whole = is_whole
        self._top: str | None = None  # name in the script whose definition is made
        # Token by id of a function or class, and the places in it whose values are sent apart.
        self._holes: dict[int, tuple[Any, list[tuple[Any, ...]]]] = {}
        self._version = b""
        self._unpicklable: dict[int, list[str]] = {}  # attributes to leave out, by id of a class

    def reducer_override(self, thing: Any) -> Any:
        self.last = thing
        if type(thing) in _FILES:  # cloudpickle would send the file's contents
            raise TypeError(f"cannot pickle {type(thing).__name__!r} object: an open file")
        if type(thing) is CellType:  # without its contents, which travel with the functions that hold it
            return make_cell, (None if self._top is None else key_of_cell(thing),)
        if type(thing) is shared.Shared:
            self.names.add(shared.name_of(thing))
            return shared.reference_of(thing)
        if script.can_be_named(thing):
            name = script.name_of(thing)
            if name is not None and (name != self._top or thing is self._root):
                if name != self._top:
                    self.names.add(name)
                return NotImplemented
        elif thing is self._root:
            return byvalue.take_singleton_apart(thing)
        return super().reducer_override(thing)

    def take_apart(self, thing: Any) -> Any:
        """Reduce the root of a definition."""
        self.last = thing
        self._root, root = None, self._root
        try:
            return byvalue.Pickler.reducer_override(self, thing)
        finally:
            self._root = root

    def _reduce_function(self, function: FunctionType) -> Any:
        if not byvalue.travels_by_value(function):
            return NotImplemented
        self.codes[id(function.__code__)] = function.__globals__, function.__code__
        if self.watch is not None:
            self.watch.add_function(function, has_names=False)
        if is_dispatcher(function):
            return super()._reduce_function(function)
        token, holes = self._holes.get(id(function), (None, ()))
        called = function.__name__, function.__qualname__, function.__module__
        namespace, cells = key_of(function.__globals__), function.__closure__ or ()
        make = dump_code(function.__code__), called, namespace, cells, token
        state = parts_of_function(function, Annotations(function), holes)
        return make_function, make, state, None, None, set_function_state

    def _reduce_class(self, cls: type) -> Any:
        if not byvalue.travels_by_value(cls):
            return cloudpickle.Pickler.reducer_override(self, cls)
        if self._top is None or not self._is_part(cls):
            return self._reduce_local(cls)
        return self.definition_of(cls, self._version)

    def _is_part(self, cls: type) -> bool:
        return cls is self._root or script.name_of(cls) == self._top

    def definition_of(self, cls: type, version: bytes) -> Any:
        """Reduce a class by value."""
        if self.watch is not None:
            # Pickling a first instance adds an attribute to the class, which must not look like a change.
            copyreg._slotnames(cls)  # type: ignore[attr-defined]
            self.watch.add_namespace(vars(cls))
        reduced = self.take_class_apart(cls)
        if reduced is NotImplemented or len(reduced) < 6:
            return reduced
        make, arguments, state, _, _, set_state = reduced
        attributes = dict(state[0])
        for name in ("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"):
            attributes.pop(name, None)
        hints = dump_annotations(cls)
        token, holes = self._holes.get(id(cls), (None, ()))
        for kind, name in holes:
            if kind != "member":
                attributes.pop(name, None)
        for name in self._unpicklable.get(id(cls), ()):
            attributes[name] = LostAttribute(
                f"{cls.__qualname__}.{name} is not here: its value cannot be pickled"
            )
        own = frozenset(attributes).union(name for kind, name in holes if kind != "member")
        filling = set_state, (attributes, *state[1:]), hints, token, version, cls.__qualname__, own
        return (
            classes.make_class,
            (classes.identity_of(cls), make, arguments),
            filling,
            None,
            None,
            fill_class,
        )

    def _reduce_local(self, cls: type) -> Any:
        identity = classes.identity_of(cls)
        if id(cls) in _being_made():
            if not self._is_whole:
                self.codes[id(cls)] = None, cls
            return classes.class_of, (identity,)
        known = local_definition(cls)
        if self.watch is not None:
            self.watch.absorb(known.watch)
        if known.is_constant and not self._is_whole and len(self.codes) < MOST_CODES:
            self.codes[id(cls)] = None, cls
            return classes.class_of, (identity,)
        data, codes = known.data, known.codes
        if self._is_whole and any(names is None for names, _ in codes):
            data, pickler = _pickled_definition(cls, known.version, is_whole=True)
            codes = list(pickler.codes.values())
        self.codes.update((id(code[1]), code) for code in codes)
        self.names |= known.names
        return classes.known_class, (identity, known.version, data)


def _being_made() -> set[int]:
    found: set[int] | None = getattr(_making, "classes", None)
    if found is None:
        found = _making.classes = set()
    return found


def local_definition(cls: type) -> Local:
    """Return the definition of a class without a name, as it is now. Raises `byvalue.Unpicklable`."""
    before = _locals.get(id(cls))
    if before is not None and before.is_current():
        return before
    is_constant = constants.is_constant(cls)
    version = classes.new_version() if before is None else before.version
    data, pickler = _pickled_definition(cls, version)
    if before is not None and data != before.data:
        version = classes.new_version()
        data, pickler = _pickled_definition(cls, version)
    known = _locals[id(cls)] = Local(cls, version, data, pickler, is_constant)
    return known


class _LocalPickler(NamedPickler):
    """Pickler for the definition of a class without a name."""

    def __init__(self, file: Any, cls: type, version: bytes, is_whole: bool) -> None:
        super().__init__(file, None, Watch(), is_whole=is_whole)
        self._version = version
        self._cls = cls

    def _reduce_class(self, cls: type) -> Any:
        return self.definition_of(cls, self._version) if cls is self._cls else super()._reduce_class(cls)


def _pickled_definition(cls: type, version: bytes, is_whole: bool = False) -> tuple[bytes, NamedPickler]:
    """Pickle a class's definition without attributes that cannot be pickled. Raises `byvalue.Unpicklable`."""
    byvalue.complete(cls)
    left_out: list[str] = []
    making = _being_made()
    making.add(id(cls))
    try:
        while True:
            file = io.BytesIO()
            pickler = _LocalPickler(file, cls, version, is_whole)
            pickler._unpicklable[id(cls)] = left_out
            try:
                byvalue.run(pickler, cls)
                return file.getvalue(), pickler
            except byvalue.Unpicklable:
                found = [name for name in _unpicklable_attributes(cls) if name not in left_out]
                if not found:
                    raise
                left_out += found
    finally:
        making.discard(id(cls))


def _unpicklable_attributes(cls: type) -> list[str]:
    found = []
    for name, value in list(vars(cls).items()):
        if name not in constants.MADE_BY_PYTHON and not script.can_be_named(value):
            try:
                byvalue.run(NamedPickler(io.BytesIO()), value)
            except byvalue.Unpicklable:
                found.append(name)
    return found


class DefinitionPickler(NamedPickler):
    """Pickler for the definition of a function or class of the script: what belongs to it travels by value."""

    def __init__(
        self,
        file: Any,
        watch: Watch,
        thing: Any,
        name: str,
        version: bytes,
        holes: dict[int, tuple[Any, list[tuple[Any, ...]]]],
    ) -> None:
        """`holes`: token by id of a function or class, and the places in it whose values are sent apart."""
        super().__init__(file, None, watch, thing, is_whole=True)
        self._top = name
        self._version = version
        self._holes = holes
