"""Annotations by value, where they are deferred (Python 3.14 or later): sent as code, never evaluated to be sent.

    def f(x: np.ndarray): ...       f.__annotate__     code, and of the names in it those that are imported
    class Node:                                        there: a function again, that looks the names up when it is
        next: Node | None           Node.__annotate__  asked: among the values sent, then in its owner's module

Values do not travel only for an annotation, which may name what cannot be pickled, is large, or is not defined.
A forward reference, such as a dataclass keeps for a name that was not there yet, travels as its text and its owner.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

ARE_DEFERRED = sys.version_info >= (3, 14)

LOOKED_AT = frozenset({"__annotations_cache__", "__annotate_func__"})
"""Attributes that a class gets when its annotations are read."""
NAMESPACE = "__classdictcell__"
"""Attribute left over in a NamedTuple: what the names of its body stood for."""

_LARGE = 1024  # size in bytes from which values named in an annotation do not travel
_TYPES = ("types", "typing")  # modules of the types of `list[int]`, `int | str`, `Any`


def annotate_of(owner: Any) -> Any:
    """Return the function that evaluates the annotations of a function or class, if they are deferred, or None."""
    if not ARE_DEFERRED:
        return None
    return vars(owner).get("__annotate_func__") if isinstance(owner, type) else owner.__annotate__


def without_annotations(function: FunctionType) -> FunctionType:
    """Make a twin of a function whose annotations nothing evaluates."""
    twin = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__qualname__, twin.__module__ = function.__qualname__, function.__module__
    twin.__doc__ = function.__doc__
    vars(twin).update(vars(function))
    return twin


def put_in_place(owner: Any, attributes: dict[str, Any], names_of: Callable[[CodeType], Any]) -> None:
    """Put the code of annotations, instead of their values, into the attributes of a function or class that travel."""
    annotate = annotate_of(owner)
    attributes.pop("__annotate_func__", None)
    attributes.pop(NAMESPACE, None)
    if annotate is not None:
        attributes.pop("__annotations__", None)
        attributes.pop("__annotations_cache__", None)
        is_function = type(annotate) is FunctionType
        attributes["__annotate__"] = _Annotate(annotate, owner, names_of) if is_function else annotate
    elif not attributes.get("__annotations_cache__", True):
        del attributes["__annotations_cache__"]  # they were read; there are none


def values_and_texts(thing: Any) -> tuple[dict[str, Any], dict[str, str] | None]:
    """Return the annotations of a function or class; if they are deferred, also their texts.

    What is not defined is a forward reference. Raises whatever evaluating them raises.
    """
    if annotate_of(thing) is None:
        found = vars(thing).get("__annotations__") if isinstance(thing, type) else thing.__annotations__
        if found is None and ARE_DEFERRED:  # set on a class
            found = vars(thing).get("__annotations_cache__")
        return found or {}, None
    from annotationlib import Format, get_annotations  # type: ignore[import-not-found,unused-ignore]

    texts: dict[str, str] = get_annotations(thing, format=Format.STRING)
    try:
        return get_annotations(thing, format=Format.FORWARDREF), texts
    except Exception:
        return dict(texts), texts


def give(owner: Any, hints: tuple[dict[str, Any], dict[str, str] | None] | None) -> None:
    """Give a function or class that came here its annotations, if there are any."""
    if hints is None:
        return
    values, texts = hints
    if texts is None:
        if values:
            owner.__annotations__ = values
        return
    owner.__annotate__ = _Given(values, texts)


class _Given:
    """Function that returns the annotations of what came here."""

    def __init__(self, values: dict[str, Any], texts: dict[str, str]) -> None:
        self._values = values
        self._texts = texts

    def __call__(self, format: int, /) -> dict[str, Any]:
        from annotationlib import Format, ForwardRef

        if format == Format.STRING:
            return dict(self._texts)
        if format == Format.FORWARDREF:
            return dict(self._values)
        if format != Format.VALUE:
            raise NotImplementedError(format)
        return {
            name: value.evaluate() if isinstance(value, ForwardRef) else value
            for name, value in self._values.items()
        }


class _Annotate:
    """Pickles as the function that evaluates the annotations of an owner."""

    def __init__(self, function: FunctionType, owner: Any, names_of: Callable[[CodeType], Any]) -> None:
        self._function = function
        self._owner = owner
        self._names_of = names_of

    def __reduce__(self) -> tuple[Any, ...]:
        function = self._function
        names = function.__globals__
        home = names.get("__name__")
        is_of_library = home in sys.stdlib_module_names and vars(sys.modules.get(home, sys)) is names
        carried: dict[str, Any] = {}
        if not is_of_library:
            for name in self._names_of(function.__code__):
                if name in names:
                    value = names[name]
                    carried[name] = (self._owner,) if value is self._owner else _packed(value)
        cells = {
            name: self._cell(name, cell, is_of_library)
            for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        }
        parts = (function.__name__, function.__qualname__, function.__module__, vars(function))
        return _make, (function.__code__, home, self._owner, carried, cells, parts)

    def _cell(self, name: str, cell: CellType, is_of_library: bool) -> tuple[Any, ...]:
        """Return what a cell holds, in a tuple; an empty cell stays empty."""
        try:
            value = cell.cell_contents
        except ValueError:
            return ()
        if name == "__classdict__":  # the names of the class's body
            return ()
        if type(value) is FunctionType:  # typing and dataclasses wrap the function that Python made
            return (_Annotate(value, self._owner, self._names_of),)
        is_harmless = (
            is_of_library or value is self._owner or name in ("__class__", "__conditional_annotations__")
        )
        return (value,) if is_harmless or type(value).__module__ == "typing" else ()


def _packed(value: Any) -> Any:
    """Pickle what an annotation names, to be opened when it is read; None: it does not travel."""
    if type(value) is ModuleType:
        return value.__name__ if sys.modules.get(value.__name__) is value else None
    if not isinstance(value, type) and type(value).__module__ not in _TYPES and type(value) not in (int, str):
        return None
    try:
        data = pickle.dumps(value, 5)
    except Exception:  # it cannot be pickled by name
        return None
    return data if len(data) < _LARGE and b"__main__" not in data else None


class _Names(dict[str, Any]):
    """Global names of an annotation."""

    def __init__(self, home: Any, owner: Any, carried: dict[str, Any]) -> None:
        super().__init__()
        self._home = home
        self._owner = owner
        self._carried = carried

    def __missing__(self, name: str) -> Any:
        packed = self._carried.get(name)
        if type(packed) is tuple:
            return packed[0]
        if type(packed) is bytes:
            return pickle.loads(packed)
        if packed is not None:
            __import__(packed)
            return sys.modules[packed]
        for names in getattr(self._owner, "__globals__", {}), vars(sys.modules.get(self._home, object)):
            if name in names:
                return names[name]
        raise KeyError(name)


def _make(
    code: CodeType,
    home: Any,
    owner: Any,
    carried: dict[str, Any],
    cells: dict[str, Any],
    parts: tuple[Any, ...],
) -> FunctionType:
    """Make, in a pickle, the function that evaluates the annotations of an owner."""
    names: Any = _Names(home, owner, carried)
    closure = []
    for name, contents in cells.items():
        if name == "__classdict__":
            contents = (vars(owner) if isinstance(owner, type) else {},)
        closure.append(CellType(*contents))
    function = FunctionType(code, names, parts[0], None, tuple(closure))
    function.__qualname__, function.__module__ = parts[1:3]
    vars(function).update(parts[3])
    return function


# --- forward references ---


def is_forward_reference(kind: type) -> bool:
    return ARE_DEFERRED and kind.__module__ == "annotationlib" and kind.__name__ == "ForwardRef"


def text_of(reference: Any) -> str:
    """Return the text of a forward reference."""
    text: str = getattr(reference, "__resolved_str__", None) or reference.__forward_arg__
    return text


def reduce_forward_reference(reference: Any) -> tuple[Any, ...]:
    """Reduce a forward reference for pickle, without the names that were there when it was made."""
    owner = reference.__owner__ if isinstance(reference.__owner__, type) else None
    module = reference.__forward_module__
    if module is None and owner is None and reference.__globals__ is not None:
        module = reference.__globals__.get("__name__")
    cells = reference.__cell__ if isinstance(reference.__cell__, dict) else {}
    own_names = [name for name, cell in cells.items() if owner is not None and _holds(cell, owner)]
    return _make_reference, (
        type(reference),
        text_of(reference),
        module,
        owner,
        reference.__forward_is_class__,
        own_names,
    )


def _holds(cell: CellType, value: Any) -> bool:
    try:
        return cell.cell_contents is value
    except ValueError:
        return False


def _make_reference(
    kind: Any, text: str, module: Any, owner: Any, is_class: bool, own_names: list[str]
) -> Any:
    """Make, in a pickle, the forward reference."""
    reference = kind(text, module=module, owner=owner, is_class=is_class)
    if own_names:
        reference.__cell__ = {name: CellType(owner) for name in own_names}
    return reference
