"""Canonical bytes of functions, classes and modules: of their parts that travel by value.

    function: code, defaults, annotations, docstring, captured values, and the values of the global names that it
              reads; functions and classes among these in the same way
    class:    its bases and its attributes
    code:     the instructions, with constants and names; not its place: file, lines, comments

Things that are imported from a module count by their names.
"""

from __future__ import annotations

import abc
import contextlib
import dis
import enum
import functools
import sys
import typing
import weakref
from collections.abc import Callable
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

from cw.payloads import annotations as deferred
from cw.payloads import byvalue, constants, shared
from cw.payloads.byvalue import travels_by_value
from cw.payloads.code_names import global_names
from cw.payloads.dispatchers import is_dispatcher, parts_of_dispatcher
from cw.store.arrays import ArrayWalk
from cw.store.walk import digest_of

# Attributes that Python adds to a class by itself, and its place in the source.
_NOT_OF_A_CLASS = frozenset(
    {"__dict__", "__weakref__", "__module__", "__firstlineno__", "__static_attributes__", "__slotnames__",
     "__abstractmethods__", "_abc_impl", "__annotate__", "__annotate_func__", "__annotations_cache__",
     deferred.NAMESPACE}
)  # fmt: skip
# Attributes that Python adds to a member of an enum.
_NOT_OF_A_MEMBER = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_", "_inverted_"})


class DefinitionWalk(ArrayWalk):
    """A walk that knows all kinds of values. `classes` are the script's classes that it has met, with their digests.

    `is_inline`: classes are walked through (for functions, which may share values with them); otherwise their digests
    stand for them.
    """

    def __init__(self, is_inline: bool = False, is_blind: bool = False) -> None:
        super().__init__(is_blind)
        self.classes: dict[type, bytes] = {}
        self._is_inline = is_inline
        self._root: type | None = None  # the class that the digest is made for

    def walk_other(self, kind: type, value: Any) -> None:
        if issubclass(kind, type):
            self._class(value)
        else:
            super().walk_other(kind, value)

    def _shared(self, handle: shared.Shared[Any]) -> None:
        """Write what would be written of the value itself. That is found out once, unless it depends on classes, which
        may change."""
        content = shared.content_in(handle)
        place = len(self._met), self.is_blind, self._is_inline
        known = content.keys.get(place)
        if known is not None:
            self._out += known[0]
            for _ in range(known[1]):  # objects that are met later are counted on from these
                stand_in = object()
                self._met[id(stand_in)] = stand_in, len(self._met)
            return
        start, met = len(self._out), len(self._met)
        was_shared, classes = self.is_shared, self.classes
        self.is_shared, self.classes = True, {}
        self.walk(handle.value)
        if not self.classes:
            content.keys[place] = bytes(self._out[start:]), len(self._met) - met
        self.is_shared, self.classes = was_shared, classes | self.classes

    def _named(self, thing: Any) -> None:
        self.write_text(b"global", f"{thing.__module__}.{thing.__qualname__}")

    def _function(self, function: FunctionType) -> None:
        if not travels_by_value(function):
            self._named(function)
        elif is_dispatcher(function):
            if not self.is_known(function):
                self.write_text(b"dispatcher", function.__name__)
                registry, attributes = parts_of_dispatcher(function)
                self.pairs(registry.items())
                self.names(attributes.items())
        elif not self.is_known(function):
            for name in (function.__module__, function.__qualname__, function.__name__):
                self.write_text(b"function", str(name))
            self.write(b"code", _digest_of_code(function.__code__))
            self._doc(function.__doc__)
            annotate = deferred.annotate_of(function)
            if annotate is None:
                self.walk(function.__annotations__)
            else:
                self._annotate(annotate)
            self.walk(function.__defaults__)
            self.walk(function.__kwdefaults__)
            for cell in function.__closure__ or ():  # (their number is in the code)
                self._cell(cell)
            names = function.__globals__
            self.names((name, names[name]) for name in global_names(function.__code__) if name in names)
            self.pairs(function.__dict__.items())

    def _annotate(self, function: Any) -> None:
        """Write the code of deferred annotations. The values of the names in it do not travel, and do not count."""
        if type(function) is not FunctionType:
            self.walk(function)
            return
        self.write(b"annotate", _digest_of_code(function.__code__))
        for cell in function.__closure__ or ():  # typing and dataclasses wrap the function made by Python
            with contextlib.suppress(ValueError):
                if type(cell.cell_contents) is FunctionType:
                    self._annotate(cell.cell_contents)

    def _doc(self, text: Any) -> None:
        if type(text) is str:  # an address in a docstring was written by hand, so it is stable
            self.write_text(b"doc", text)
        else:
            self.walk(text)

    def _cell(self, cell: CellType) -> None:
        if not self.is_known(cell):
            try:
                contents = cell.cell_contents
            except ValueError:  # not bound yet
                self.write(b"unbound")
                return
            self.walk(contents)

    def _type_variable(self, variable: Any) -> None:
        if not self.is_known(variable):
            traits = ("__covariant__", "__contravariant__", "__infer_variance__")
            said = [variable.__name__, *(getattr(variable, name, False) for name in traits)]
            self.write_text(b"variable", f"{type(variable).__name__} {said}")
            for name in ("__bound__", "__constraints__", "__default__"):
                self.walk(getattr(variable, name, None))

    def _code(self, code: CodeType) -> None:
        self.write(b"code", _digest_of_code(code))

    def _method(self, method: MethodType) -> None:
        if not self._is_of_module(method):
            self.write(b"method")
            self.walk(method.__func__)
            self.walk(method.__self__)

    def _builtin(self, function: Any) -> None:
        if not self._is_of_module(function):
            owner = function.__self__
            self.write_text(b"builtin", f"{function.__module__}.{function.__qualname__}")
            if owner is not None and not isinstance(owner, ModuleType):
                self.walk(owner)

    def _is_of_module(self, method: Any) -> bool:
        """True for a module's method such as `random.gauss`, whose object is hidden; then its name is written."""
        home = byvalue.home_of_method(method)
        if home is None:
            return False
        self.write_text(b"global", f"{home}.{method.__name__}")
        return True

    def _cached(self, function: Any) -> None:
        if travels_by_value(function):
            self.write_text(b"cached", repr(function.cache_parameters()))
            self.walk(function.__wrapped__)
        else:
            self._named(function)

    def _module(self, module: ModuleType) -> None:
        self.write_text(b"module", module.__name__)
        if byvalue.is_module_by_value(module) and not self.is_known(module):
            self.names((n, v) for n, v in vars(module).items() if not n.startswith("__"))

    # --- classes ---

    def _class(self, cls: type) -> None:
        if not travels_by_value(cls):
            self._named(cls)
            return
        if self._root is None:
            digest = self.note_class(cls)
            if not self._is_inline:
                self.write(b"class", digest)
                return
        else:
            self.classes[cls] = b""
        if not self.is_known(cls):
            self._definition(cls)

    def note_class(self, cls: type) -> bytes:
        """Add a class of the script, with those that it refers to, to `classes`. Returns its digest."""
        version = byvalue.version_of(cls)
        known = _class_keys.get(cls)
        if known is not None and not known[3]:  # its parts may have been changed in place
            version = byvalue.renewed_version_of(cls)
        if known is None or known[0] != version:
            version = byvalue.renewed_version_of(cls)  # the key and what travels must have one state
            walk = DefinitionWalk()
            walk._root = cls
            walk.run(cls)
            others = [weakref.ref(other) for other in walk.classes if other is not cls]
            known = _class_keys[cls] = version, walk.digest(), others, constants.is_constant(cls)
        self.classes[cls] = known[1]
        for reference in known[2]:
            other = reference()
            if other is not None and other not in self.classes:
                self.note_class(other)
        return known[1]

    def _definition(self, cls: type) -> None:
        self.write_text(b"definition", cls.__qualname__)
        self.write_text(b"name", cls.__name__)
        self.walk(type(cls))
        self.walk(cls.__bases__)
        names = {name: value for name, value in vars(cls).items() if name not in _NOT_OF_A_CLASS}
        # typing adds `__init__` when a protocol has its first instance, Python `__annotations__` at the first access.
        if names.get("__init__") is object.__init__:
            del names["__init__"]
        if names.get("__annotations__") == {}:
            del names["__annotations__"]
        annotate = deferred.annotate_of(cls)
        if annotate is not None:
            self._annotate(annotate)
        if issubclass(cls, enum.Enum):
            members = cls.__members__
            self.write(b"members", b"%d" % len(members))
            for name, member in members.items():
                self.write_text(b"name", name)
                self.walk(member.value)
                self.names(item for item in vars(member).items() if item[0] not in _NOT_OF_A_MEMBER)
            names = {
                n: value
                for n, value in names.items()
                if n not in members and n not in byvalue.MADE_FROM_MEMBERS
            }
        if issubclass(type(cls), abc.ABCMeta):  # classes that were registered with it travel, too
            self.walk({known for reference in abc._get_dump(cls)[0] if (known := reference()) is not None})  # type: ignore[attr-defined]
        self.write(b"attributes", b"%d" % len(names))
        for name in sorted(names):
            self.write_text(b"name", name)
            if name == "__doc__":
                if "__dataclass_fields__" in names and str(names[name]).startswith(f"{cls.__name__}("):
                    continue  # made from the fields, with the addresses of functions among their defaults
                self._doc(names[name])
            else:
                self._attribute(names[name])

    def _attribute(self, value: Any) -> None:
        kind = type(value)
        if kind in (staticmethod, classmethod):
            self.write_text(b"a", kind.__name__)
            self.walk(value.__func__)
        elif kind is property:
            self.write(b"property")
            for part in (value.fget, value.fset, value.fdel, value.__doc__):
                self.walk(part)
        elif kind is functools.cached_property:
            self.write(b"cached")
            self.walk(value.func)
        elif kind is functools.singledispatchmethod:
            self.write(b"dispatching")
            self.walk(value.dispatcher)
        elif kind is MemberDescriptorType:
            self.write_text(b"slot", value.__name__)
        else:
            self.walk(value)


DefinitionWalk.handlers = {
    **ArrayWalk.handlers,
    shared.Shared: DefinitionWalk._shared,
    FunctionType: DefinitionWalk._function,
    MethodType: DefinitionWalk._method,
    BuiltinFunctionType: DefinitionWalk._builtin,
    type(functools.lru_cache(len)): DefinitionWalk._cached,
    ModuleType: DefinitionWalk._module,
    CellType: DefinitionWalk._cell,
    CodeType: DefinitionWalk._code,
    typing.TypeVar: DefinitionWalk._type_variable,
    typing.ParamSpec: DefinitionWalk._type_variable,
}
if sys.version_info >= (3, 11):
    DefinitionWalk.handlers[typing.TypeVarTuple] = DefinitionWalk._type_variable

# By class: its version, its digest, the script's classes that it refers to, and whether it cannot change in place.
_class_keys: weakref.WeakKeyDictionary[type, tuple[bytes, bytes, list[weakref.ref[type]], bool]]
_class_keys = weakref.WeakKeyDictionary()


# --- code ---


def _digest_of_code(code: CodeType) -> bytes:
    """Digest of code without its place: file, lines."""
    sizes = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    names = code.co_name, code.co_varnames, code.co_freevars, code.co_cellvars
    out = bytearray()

    def write(tag: bytes, data: bytes) -> None:
        out.extend(b"%b%d:%b" % (tag, len(data), data))

    write(b"code", repr((*sizes, *names)).encode(errors="surrogatepass"))
    write(b"table", getattr(code, "co_exceptiontable", b""))
    if code.co_consts and type(code.co_consts[0]) is str:  # a docstring: no instruction loads it
        write(b"doc", code.co_consts[0].encode(errors="surrogatepass"))
    instructions = list(dis.get_instructions(code))
    for instruction, following in zip(instructions, [*instructions[1:], None], strict=True):
        if following is not None and following.argval == "__firstlineno__":
            continue  # from Python 3.13 on: the line where a class begins
        if instruction.opcode in dis.hasconst:
            # (argval is of no use here: in Python 3.11 it lacks the names of keywords.)
            write(b"constant", instruction.opname.encode())
            assert instruction.arg is not None
            _write_constant(write, code.co_consts[instruction.arg])
        else:
            write(b"do", f"{instruction.opname} {instruction.argval!r}".encode(errors="surrogatepass"))
    return digest_of(out)


def _write_constant(write: Callable[[bytes, bytes], None], value: Any) -> None:
    """Write a constant as the source has it: there are no addresses in it."""
    kind = type(value)
    if kind is CodeType:
        write(b"code", _digest_of_code(value))
    elif kind is tuple:
        write(b"(", b"%d" % len(value))
        for item in value:
            _write_constant(write, item)
    elif kind is frozenset:
        elements: list[bytes] = []
        for item in value:
            _write_constant(lambda tag, data: elements.append(tag + b":" + data), item)
        write(b"set", b"%d" % len(elements))
        for element in sorted(elements):
            write(b"-", element)
    elif kind is int:
        write(b"int", b"%x" % value)
    elif kind is bytes:
        write(b"bytes", value)
    else:  # a str, float, complex, None, ...
        text = value if kind is str else repr(value)
        write(kind.__name__.encode(), text.encode(errors="surrogatepass"))
