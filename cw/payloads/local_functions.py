"""Functions by value, in a pickle for a runner: code, names of a namespace, captured variables.

    lambda x: x + n + RATE   -->  its code, once made of the same bytes; a variable for n; RATE of a *namespace*

A namespace is the dict of globals that functions share: the script's, or one for each module whose functions travel by
value. Its values are sent apart (cw.payloads.reach): a pickle says only which namespace it is.
"""

from __future__ import annotations

import builtins
import marshal
import pickle
import sys
import weakref
from collections.abc import Callable, Iterable
from types import CellType, CodeType, FunctionType
from typing import Any

from cw.payloads import script
from cw.payloads.annotations import give
from cw.payloads.watch import MISSING, contents_of

_LOADED_CODE = 4096
"""Pieces of code that a runner keeps. More: memory. Fewer: code that comes again is made anew (10 us)."""


class Hole:
    """Replaces a value that is sent apart, since it can change."""

    def __reduce__(self) -> Any:
        return _hole, ()


HOLE = Hole()


def _hole() -> Hole:
    return HOLE


# --- namespaces -------------------------------------------------------------------------------

_namespaces: dict[str, dict[str, Any]] = {}
"""Namespaces other than the script's, by key; used in a runner."""

_keys: dict[int, tuple[dict[str, Any], str]] = {}
"""Key of each namespace met, by id, with the namespace, so that its id is not reused; used in a client."""


def key_of(names: dict[str, Any]) -> str:
    """Return the key of a namespace: '__main__', a module's name, or a module's name and a number."""
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
    """Return the namespace of this key in this process; empty if it is new."""
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
    """Dump code to bytes that are always the same for one object (marshal's depend on other owners of the
    constants)."""
    known = _bytes_by_code.get(id(code))
    if known is not None and known[0]() is code:
        return known[1]
    key = id(code)
    data = marshal.dumps(code)
    _bytes_by_code[key] = weakref.ref(code, lambda _: _bytes_by_code.pop(key, None)), data
    return data


def load_code(data: bytes) -> CodeType:
    """Load code: one object for the same bytes, while it is remembered."""
    code = _code_by_bytes.get(data)
    if code is None:
        code = _code_by_bytes[data] = marshal.loads(data)
        if len(_code_by_bytes) > _LOADED_CODE:
            _code_by_bytes.pop(next(iter(_code_by_bytes)), None)
    return code


# --- functions --------------------------------------------------------------------------------


def parts_of_function(
    function: FunctionType, hints: Any, holes: Iterable[tuple[Any, ...]] = ()
) -> tuple[Any, ...]:
    """Return what `set_function_state` takes: all but code and names. `holes`: places whose values are sent apart."""
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
    state = defaults, kwdefaults, cells, is_bound, attributes, function.__doc__, hints
    return (*state, getattr(function, "__type_params__", ()))


def make_function(
    code: bytes, called: tuple[str, str, Any], key: str, cells: tuple[CellType, ...], token: Any
) -> FunctionType:
    """Make, in a pickle, a function without its state. `called`: its `__name__`, `__qualname__` and `__module__`."""
    name, qualname, module = called
    names = namespace_of(key)
    made_of = load_code(code)
    if builtins_of is not None:  # a function takes its builtins from its globals when it is made
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
    """Give a function, in a pickle, what it holds."""
    defaults, kwdefaults, cells, is_bound, attributes, doc, hints, type_params = state
    function.__defaults__ = defaults
    function.__kwdefaults__ = kwdefaults
    for cell, value, is_set in zip(function.__closure__ or (), cells, is_bound, strict=True):
        if is_set:
            cell.cell_contents = value
    function.__dict__.update(attributes)
    function.__doc__ = doc
    give(function, hints)
    if type_params:
        function.__type_params__ = type_params  # type: ignore[attr-defined]


builtins_of: Callable[[CodeType], Any] | None = None
"""Function that returns the builtins for a function that is made; set in a runner."""

_cell_keys: dict[int, tuple[CellType, int]] = {}
"""Variables that definitions of the script share, by id, each with its number; used in a client."""

_cells: dict[int, CellType] = {}
"""Such variables by number; used in a runner."""


def key_of_cell(cell: CellType) -> int:
    known = _cell_keys.get(id(cell))
    if known is None:
        known = _cell_keys[id(cell)] = cell, len(_cell_keys)
    return known[1]


def make_cell(key: int | None) -> CellType:
    """Make, in a pickle, a variable that functions have captured. One with a number is the same in all pickles."""
    return CellType() if key is None else _cells.setdefault(key, CellType())


by_token: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()
"""Functions and classes that hold values which are sent apart; filled in a runner."""


# --- annotations ---


loads: Callable[[bytes], Any] = pickle.loads
"""Function that unpickles annotations: a runner sets one that finds what is not defined yet."""


def load_annotations(data: bytes) -> Any:
    """Return, in a pickle, what `annotations.give` takes; for a value that is not available here, its text or
    nothing."""
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
