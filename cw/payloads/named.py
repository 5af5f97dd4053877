"""Pickling for a runner: what has a name in the script travels as that name, all else by value.

    f, Model (of the script)      -->  their names: the runner's `__main__` has them (cw.runner.script)
    a lambda, a local function    -->  its code, cells, defaults; its global names are those of a *namespace*
    a local class                 -->  its definition, once made in the runner under its identity (byvalue.py)

A namespace is the dict of globals that functions share: the script's, or one for each module whose functions travel by
value. Its values are sent apart (cw.payloads.reach): a pickle says only which namespace it is. The pickler notes which
names and which functions it met, so that what they refer to can be sent, too.
"""

from __future__ import annotations

import builtins
import contextlib
import copyreg
import io
import marshal
import pickle
import reprlib
import sys
import weakref
from collections.abc import Callable, Iterable
from types import CellType, CodeType, FunctionType
from typing import Any

import cloudpickle

from cw.payloads import annotations, byvalue, constants, script
from cw.payloads.byvalue import BufferCallback
from cw.payloads.watch import MISSING, Watch, contents_of

Code = tuple[dict[str, Any], CodeType]
"""The globals of a function by value, and its code: which names it reads, and where."""

_LOADED_CODE = 4096
"""Pieces of code that a runner keeps. More: memory. Fewer: code that comes again is made anew (10 us)."""


class Hole:
    """In the place of a value that is sent apart, since it can change."""

    def __reduce__(self) -> Any:
        return _hole, ()


HOLE = Hole()


def _hole() -> Hole:
    return HOLE


# --- namespaces -------------------------------------------------------------------------------

_namespaces: dict[str, dict[str, Any]] = {}
"""In a runner: those that are not the script's, by key."""

_keys: dict[int, tuple[dict[str, Any], str]] = {}
"""In a client: the key of each namespace that was met, by id; it holds the namespace, so that the id stays its own."""


def key_of(names: dict[str, Any]) -> str:
    """Which namespace this is: '__main__', a module's name, or a module's name and a number."""
    if names is script.namespace():
        return "__main__"
    known = _keys.get(id(names))
    if known is None:
        name = names.get("__name__")
        module = sys.modules.get(name) if isinstance(name, str) else None
        key = name if module is not None and vars(module) is names and name not in script.MODULES else None
        known = _keys[id(names)] = names, key or f"{name}#{len(_keys)}"
    return known[1]


def namespace_of(key: str) -> dict[str, Any]:
    """The namespace of this key in this process; empty if it is new."""
    if key == "__main__":
        return script.namespace()
    names = _namespaces.get(key)
    if names is None:
        name = key.partition("#")[0]
        names = _namespaces[key] = {"__name__": name, "__builtins__": builtins}
    return names


# --- code -------------------------------------------------------------------------------------

_bytes_by_code: dict[int, tuple[weakref.ref[CodeType], bytes]] = {}
_code_by_bytes: dict[bytes, CodeType] = {}


def dump_code(code: CodeType) -> bytes:
    """The same bytes each time for the same object (marshal's depend on who else holds the constants)."""
    known = _bytes_by_code.get(id(code))
    if known is not None and known[0]() is code:
        return known[1]
    key = id(code)
    data = marshal.dumps(code)
    _bytes_by_code[key] = weakref.ref(code, lambda _: _bytes_by_code.pop(key, None)), data
    return data


def load_code(data: bytes) -> CodeType:
    """One object for the same bytes, while it is remembered."""
    code = _code_by_bytes.get(data)
    if code is None:
        code = _code_by_bytes[data] = marshal.loads(data)
        if len(_code_by_bytes) > _LOADED_CODE:
            _code_by_bytes.pop(next(iter(_code_by_bytes)), None)
    return code


# --- functions --------------------------------------------------------------------------------


def parts_of_function(function: FunctionType, holes: Iterable[tuple[Any, ...]] = ()) -> tuple[Any, ...]:
    """What `set_function_state` takes: all but code and names. `holes`: places whose values are sent apart."""
    defaults, kwdefaults = function.__defaults__, function.__kwdefaults__
    cells = [contents_of(cell) for cell in function.__closure__ or ()]
    is_bound = [value is not MISSING for value in cells]
    cells = [None if value is MISSING else value for value in cells]
    attributes = dict(function.__dict__)
    for place in holes:
        kind, key = place
        if kind == "default":
            assert defaults is not None
            defaults = (*defaults[:key], HOLE, *defaults[key + 1 :])
        elif kind == "keyword":
            kwdefaults = {**(kwdefaults or {}), key: HOLE}
        elif kind == "cell":
            cells[key] = None
            is_bound[key] = False
        else:
            attributes.pop(key, None)
    state = defaults, kwdefaults, cells, is_bound, attributes, function.__doc__, Annotations(function)
    return (*state, getattr(function, "__type_params__", ()))


def make_function(
    code: bytes, name: str, qualname: str, module: Any, key: str, cells: tuple[CellType, ...], token: Any
) -> FunctionType:
    """In a pickle: a function without its state."""
    names = namespace_of(key)
    made_of = load_code(code)
    if builtins_of is not None:  # (a function takes them from its globals when it is made)
        names["__builtins__"] = builtins_of(made_of)
    function = FunctionType(made_of, names, name, None, cells or None)
    if builtins_of is not None:
        names["__builtins__"] = builtins
    function.__qualname__ = qualname
    function.__module__ = module
    if token is not None:
        by_token[token] = function
    return function


def set_function_state(function: FunctionType, state: tuple[Any, ...]) -> None:
    """In a pickle: give a function what it holds."""
    defaults, kwdefaults, cells, is_bound, attributes, doc, hints, type_params = state
    function.__defaults__ = defaults
    function.__kwdefaults__ = kwdefaults
    for cell, value, is_set in zip(function.__closure__ or (), cells, is_bound, strict=True):
        if is_set:
            cell.cell_contents = value
    function.__dict__.update(attributes)
    function.__doc__ = doc
    annotations.give(function, hints)
    if type_params:
        function.__type_params__ = type_params  # type: ignore[attr-defined]


builtins_of: Callable[[CodeType], Any] | None = None
"""In a runner: what a function that is made has for builtins."""

_cell_keys: dict[int, tuple[CellType, int]] = {}
"""In a client: the variables that definitions of the script share, by id; each with its number."""

_cells: dict[int, CellType] = {}
"""In a runner: the same, by number."""


def _key_of_cell(cell: CellType) -> int:
    known = _cell_keys.get(id(cell))
    if known is None:
        known = _cell_keys[id(cell)] = cell, len(_cell_keys)
    return known[1]


def make_cell(key: int | None) -> CellType:
    """In a pickle: a variable that functions have captured. One with a number is the same in all pickles."""
    return CellType() if key is None else _cells.setdefault(key, CellType())


by_token: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()
"""In a runner: functions and classes that hold values which are sent apart."""


_ANNOTATION = 4096
"""Bytes of an annotation that travels as a value. A larger one is a text."""


class LostAttribute:
    """In the place of a class's attribute whose value cannot be pickled."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __get__(self, owner: Any, cls: type) -> Any:
        raise AttributeError(self._text)


class Annotations:
    """Annotations bring no values along: they are pickled by name if they can be, and are texts if not."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def __reduce__(self) -> Any:
        return load_annotations, (dump_annotations(self._thing),)


def dump_annotations(thing: Any) -> bytes:
    """The annotations of a function or class; b"" for none."""
    try:
        found, texts = annotations.values_and_texts(thing)
    except Exception:
        return b""
    if not found:
        return b""
    values = {str(name): _dump_annotation(value) for name, value in found.items()}
    if texts is not None:
        values = {name: texts[name] if type(value) is str else value for name, value in values.items()}
    return pickle.dumps((values, texts), 5)


def _dump_annotation(value: Any) -> str | bytes:
    """A text as it is; what can be named, or is small, pickled; else a text for it."""
    if type(value) is str:
        return value
    file = io.BytesIO()
    with contextlib.suppress(byvalue.Unpicklable):
        byvalue.run(NamedPickler(file), value)
        if file.tell() <= _ANNOTATION:
            return file.getvalue()
    return getattr(value, "__qualname__", None) or reprlib.repr(value)


loads: Callable[[bytes], Any] = pickle.loads
"""How annotations are unpickled: a runner knows a way that finds what is not defined yet."""


def load_annotations(data: bytes) -> Any:
    """In a pickle: what `annotations.give` takes; of a value that cannot be had here, its text or nothing."""
    if not data:
        return None
    found, texts = pickle.loads(data)
    for name, value in list(found.items()):
        try:
            found[name] = loads(value) if type(value) is bytes else value
        except Exception:
            del found[name]
            if texts is not None:
                found[name] = texts[name]
    return found, texts


# --- the pickler ------------------------------------------------------------------------------


_FILES = frozenset({io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.FileIO})


class _Local:
    """The definition of a class that has no name, as it was pickled last."""

    __slots__ = ("codes", "data", "is_constant", "names", "reference", "version", "watch")

    def __init__(self, cls: type) -> None:
        self.reference = weakref.ref(cls)
        self.data = b""
        self.version = b""
        self.names: set[str] = set()
        self.codes: dict[int, Code] = {}


_locals: dict[int, _Local] = {}


class NamedPickler(byvalue.Pickler):
    """Notes the names, and the code of the functions, that it meets. Not for results: these must stand by themselves.

    `top`: the script's name whose definition is made; what belongs to it travels by value. `holes`: by id of a function
    or class, its token and the places in it whose values are sent apart.
    """

    def __init__(
        self,
        file: Any,
        buffer_callback: BufferCallback = None,
        watch: Watch | None = None,
        top: str | None = None,
        root: Any = None,
        holes: dict[int, tuple[Any, list[tuple[Any, ...]]]] | None = None,
        version: bytes = b"",
    ) -> None:
        super().__init__(file, buffer_callback, watch)
        self.names: set[str] = set()
        self.codes: dict[int, Code] = {}
        self._top = top
        self._root = root
        self._holes = holes or {}
        self._version = version
        self._unpicklable: dict[int, list[str]] = {}  # by id of a class: attributes to be left out

    def reducer_override(self, thing: Any) -> Any:
        self.last = thing
        if type(thing) in _FILES:  # cloudpickle would send what can be read from it
            raise TypeError(f"cannot pickle {type(thing).__name__!r} object: an open file")
        if type(thing) is CellType:  # without its contents, which come with the functions that have it
            return make_cell, (None if self._top is None else _key_of_cell(thing),)
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
        """How the root of a definition is reduced."""
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
        if byvalue.is_dispatcher(function):
            return super()._reduce_function(function)
        token, holes = self._holes.get(id(function), (None, ()))
        make = (
            dump_code(function.__code__), function.__name__, function.__qualname__, function.__module__,
            key_of(function.__globals__), function.__closure__ or (), token,
        )  # fmt: skip
        state = parts_of_function(function, holes)
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
        """The reduction of a class by value."""
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
            byvalue.make_class,
            (byvalue.identity_of(cls), make, arguments),
            filling,
            None,
            None,
            fill_class,
        )

    def _reduce_local(self, cls: type) -> Any:
        known = _local_definition(cls)
        self.names |= known.names
        self.codes |= known.codes
        if self.watch is not None:
            self.watch.absorb(known.watch)
        return byvalue.known_class, (byvalue.identity_of(cls), known.version, known.data)


_filled: weakref.WeakKeyDictionary[type, tuple[frozenset[str], dict[str, Any]]] = weakref.WeakKeyDictionary()
"""In a runner: the names that a class's last definition has, and the values that came with it."""

_COMPARED = frozenset({int, float, complex, bool, str, bytes, type(None)})


def _is_unchanged(value: Any, before: Any) -> bool:
    kind = type(value)
    return kind in _COMPARED and type(before) is kind and repr(value) == repr(before)


def fill_class(cls: type, filling: tuple[Any, ...]) -> None:
    """In a pickle: give a class its attributes, unless it is ours or has this version already."""
    set_state, state, hints, token, version, qualname, own = filling
    if byvalue.is_foreign(cls):
        cls.__qualname__ = qualname
        before, attributes = _filled.get(cls, (frozenset(), {})), state[0]
        for name in before[0] - own:  # deleted since, over there
            with contextlib.suppress(AttributeError, TypeError):
                type.__delattr__(cls, name)
        _filled[cls] = own, attributes
        # What has not changed over there stays as jobs have left it.
        same = {name for name, value in attributes.items() if _is_unchanged(value, before[1].get(name, HOLE))}
        state = {name: value for name, value in attributes.items() if name not in same}, *state[1:]
    byvalue.set_class_state(cls, (set_state, state, version))
    for name, value in state[0].items():
        if type(value) is property and hasattr(property, "__set_name__"):
            property.__set_name__(value, cls, name)
    if token is not None:
        by_token[token] = cls
    if byvalue.is_foreign(cls):
        with contextlib.suppress(AttributeError, TypeError):
            annotations.give(cls, load_annotations(hints))


def _local_definition(cls: type) -> _Local:
    known = _locals.get(id(cls))
    if known is not None and known.reference() is cls:
        if known.is_constant and known.watch.is_current():
            return known
    else:
        key = id(cls)
        known = _Local(cls)
        known.reference = weakref.ref(cls, lambda _: _locals.pop(key, None))
    version = known.version or byvalue.new_version()
    data, pickler = _pickled_definition(cls, version)
    if known.data and data != known.data:
        version = byvalue.new_version()
        data, pickler = _pickled_definition(cls, version)
    known.data, known.version = data, version
    known.names, known.codes = pickler.names, pickler.codes
    assert pickler.watch is not None
    known.watch = pickler.watch
    known.is_constant = constants.is_constant(cls)
    _locals[id(cls)] = known
    return known


class _LocalPickler(NamedPickler):
    """For the definition of a class that has no name."""

    def __init__(self, file: Any, cls: type, version: bytes) -> None:
        super().__init__(file, None, Watch(), version=version)
        self._cls = cls

    def _reduce_class(self, cls: type) -> Any:
        return self.definition_of(cls, self._version) if cls is self._cls else super()._reduce_class(cls)


def _pickled_definition(cls: type, version: bytes) -> tuple[bytes, NamedPickler]:
    """Raises `byvalue.Unpicklable`; an attribute that cannot be pickled is left out."""
    byvalue.complete(cls)
    left_out: list[str] = []
    while True:
        file = io.BytesIO()
        pickler = _LocalPickler(file, cls, version)
        pickler._unpicklable[id(cls)] = left_out
        try:
            byvalue.run(pickler, cls)
            return file.getvalue(), pickler
        except byvalue.Unpicklable:
            found = [name for name in _unpicklable_attributes(cls) if name not in left_out]
            if not found:
                raise
            left_out += found


def _unpicklable_attributes(cls: type) -> list[str]:
    found = []
    for name, value in list(vars(cls).items()):
        if name not in constants.MADE_BY_PYTHON and not script.can_be_named(value):
            try:
                byvalue.run(NamedPickler(io.BytesIO()), value)
            except byvalue.Unpicklable:
                found.append(name)
    return found
