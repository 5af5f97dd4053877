"""The key of a call: the same for the same call in another process, on another day; another for any other call.

    function: code, defaults, captured values, ---.
      and those that it refers to, transitively   |--> canonical bytes --> 16 bytes
    arguments -----------------------------------'

What a function is made of is what travels by value (see byvalue.py): its code without file name, line numbers and
comments; its defaults; what its closure and the global names that it reads are bound to; functions and classes among
those in the same way. What is imported from a module counts by its name.

Values are walked as pickle would take them apart, in an order that depends on nothing but the value: the elements of a
set and the items of a dict are sorted, each NaN is the same. An object met again is written as a reference to where it
was first met, as in a pickle: cycles end, and `[a, a]` is not `[a, copy(a)]`.

What has no such form is refused (`UnstableKey`) rather than guessed: a text with an address in it, a number that is
the address of an object. In doubt two keys differ: that costs another run of the call, never a wrong result.
"""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import re
import sys
import weakref
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

from cw.errors import UnstableKey
from cw.payloads import byvalue
from cw.payloads.byvalue import global_names, travels_by_value
from cw.payloads.naming import argument_name, function_name

SCHEME = f"1, Python {sys.version_info[0]}.{sys.version_info[1]}"
"""Keys of different schemes say nothing about each other: another bytecode, or another version of this module."""

SIZE = 16
"""Bytes of a key."""

_PLAIN = frozenset({int, float, complex, bool, str, type(None)})  # `repr` says all about them
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{8,}")
_LEAST_ADDRESS = 1 << 32
_MISSING = object()


class FunctionKey:
    """What the key of a function's calls begins with; its name; and the script's classes that it refers to."""

    __slots__ = ("classes", "digest", "hasher", "name")

    def __init__(self, name: str, data: bytes, classes: dict[bytes, type]) -> None:
        self.name = name
        self.hasher = hashlib.blake2b(f"{SCHEME}\0".encode() + data, digest_size=SIZE)
        self.digest = self.hasher.digest()
        self.classes = classes  # by key


def of_function(function: Any) -> FunctionKey:
    """The key of a function that is called. Raises `UnstableKey`."""
    walk = _Walk()
    name = function_name(function)
    try:
        walk.run(function)
    except _Unstable as unstable:
        raise UnstableKey(_refusal(f"function {name} or what it refers to", unstable)) from unstable.__cause__
    return FunctionKey(name, walk.hasher.digest(), walk.classes)


def of_own(function: Any, key: Any, version: Any) -> tuple[bytes, FunctionKey]:
    """The key of a call to which its user gave one: that and the function's name are all that counts."""
    name = function_name(function)
    module = getattr(function, "__module__", None) or ""
    function_key = FunctionKey(name, f"own\0{module}\0{name}".encode(), {})
    try:
        return _finished(function_key, _digest(key), version), function_key
    except _Unstable as unstable:
        raise UnstableKey(
            f"the key {key!r:.80} has {unstable}: give a str, an int or a tuple of such"
        ) from None


def of_call(
    function: Any, key: FunctionKey, args: tuple[Any, ...], kwargs: dict[str, Any], version: Any
) -> bytes:
    """The key of a call. Adds to `key.classes` what the arguments bring along. Raises `UnstableKey`."""
    if not kwargs and _PLAIN.issuperset(map(type, args)):
        try:
            text = repr(args)
        except ValueError:  # an int of thousands of digits
            text = ""
        if text and " at 0x" not in text:
            return _finished(key, b"=" + text.encode(errors="surrogatepass"), version)
    parts = []
    for place, value in [*enumerate(args), *sorted(kwargs.items())]:
        walk = _Walk()
        try:
            walk.run(value)
        except _Unstable as unstable:
            what = argument_name(function, place) if isinstance(place, int) else f"argument {place!r}"
            text = _refusal(f"{what} of {key.name}()", unstable)
            raise UnstableKey(text) from unstable.__cause__
        name = b"" if isinstance(place, int) else place.encode()
        parts.append(b"%d:%b%b" % (len(name), name, walk.hasher.digest()))
        key.classes.update(walk.classes)
    return _finished(key, b"*".join([b"%d" % len(args), *parts]), version)


def nth(key: bytes, number: int) -> bytes:
    """The key of the call with this key that comes after `number` others."""
    if not number:
        return key
    return hashlib.blake2b(key + number.to_bytes(8, "little"), digest_size=SIZE).digest()


def _finished(key: FunctionKey, data: bytes, version: Any) -> bytes:
    hasher = key.hasher.copy()
    hasher.update(data)
    if version is not None:
        try:
            hasher.update(b"\0version" + _digest(version))
        except _Unstable as unstable:
            raise UnstableKey(f"the version {version!r:.80} has {unstable}: give a str or an int") from None
    return hasher.digest()


def _refusal(what: str, unstable: _Unstable) -> str:
    return f"{what}: {unstable}. Give the call a key of your own: options(key=...)"


class _Unstable(Exception):
    """The text says what there is, and in what."""


def _digest(value: Any) -> bytes:
    walk = _Walk()
    walk.run(value)
    return walk.hasher.digest()


class _Walk:
    """One walk through a value; what it has met goes into `hasher`, and classes of the script into `classes`."""

    def __init__(self, root_class: type | None = None) -> None:
        self.hasher = hashlib.blake2b(digest_size=SIZE)
        self.classes: dict[bytes, type] = {}
        self._root_class = root_class
        # By id: the object, so that the id is not used again meanwhile, and how many came before it.
        self._met: dict[int, tuple[Any, int]] = {}
        self._numbers: set[int] = set()  # that could be addresses

    def run(self, value: Any) -> None:
        try:
            self._walk(value)
        except _Unstable:
            raise
        except RecursionError:
            raise _Unstable("it is nested too deeply to be told from others") from None
        except Exception as error:
            raise _Unstable(f"it cannot be taken apart ({type(error).__name__}: {error})") from error
        if self._numbers.intersection(self._met):
            raise _Unstable("there is an object's address (its id) in it, which is another one each time")

    def _emit(self, tag: bytes, data: bytes = b"") -> None:
        self.hasher.update(b"%b%d:%b" % (tag, len(data), data))

    def _emit_text(self, tag: bytes, text: str) -> None:
        self._emit(tag, text.encode(errors="surrogatepass"))

    def _walk(self, value: Any) -> None:
        kind = type(value)
        handler = _HANDLERS.get(kind)
        if handler is not None:
            handler(self, value)
        elif issubclass(kind, type):
            self._class(value)
        elif issubclass(kind, enum.Enum):
            self._emit(b"enum")
            self._class(kind)
            self._emit_text(b"name", value.name or repr(value.value))  # (flags' combinations have no name)
        elif kind.__module__ == "numpy" and self._numpy(value):
            pass
        elif (
            str(kind.__module__).partition(".")[0] == "pathlib"
        ):  # pickle takes the parts that it was made of
            self._emit_text(b"path", f"{kind.__qualname__} {value}")
        else:
            self._object(value)

    def _is_known(self, thing: Any) -> bool:
        """Whether it was met before; then a reference to it is written."""
        known = self._met.get(id(thing))
        if known is not None:
            self._emit(b"again", b"%d" % known[1])
            return True
        self._met[id(thing)] = thing, len(self._met)
        return False

    # --- values ---

    def _plain(self, value: Any) -> None:
        if type(value) is int:
            if value >= _LEAST_ADDRESS:
                self._numbers.add(value)
            self._emit_text(b"i", f"{value:x}")
            return
        text = repr(value)
        if type(value) is str and " at 0x" in text and _ADDRESS.search(text):
            raise _Unstable(f"there is an address in it, which is another one each time: {text:.80}")
        self._emit_text(type(value).__name__[:1].encode(), text)

    def _bytes(self, value: bytes) -> None:
        self._emit(b"bytes", value)

    def _bytearray(self, value: bytearray) -> None:
        if not self._is_known(value):
            self._emit(b"bytearray", bytes(value))

    def _tuple(self, value: tuple[Any, ...]) -> None:
        self._emit(b"(", b"%d" % len(value))
        self._items(value)

    def _list(self, value: list[Any]) -> None:
        if not self._is_known(value):
            self._emit(b"[", b"%d" % len(value))
            self._items(value)

    def _items(self, values: Any) -> None:
        if (
            len(values) > 8
            and len(kinds := set(map(type, values))) == 1
            and _is_short_of(kinds.pop(), values)
        ):
            self._emit_text(b"same", repr(list(values)))
            return
        for value in values:
            self._walk(value)

    def _set(self, value: Any) -> None:
        self._emit(b"set" if type(value) is set else b"frozenset")
        for digest in sorted(map(self._apart, value)):
            self._emit(b"-", digest)

    def _apart(self, value: Any) -> bytes:
        """The digest of an element of a set, or a key of a dict: of itself alone."""
        walk = _Walk(self._root_class)
        walk._walk(value)
        self.classes.update(walk.classes)
        return walk.hasher.digest()

    def _dict(self, value: dict[Any, Any]) -> None:
        if not self._is_known(value):
            self._pairs(value.items(), is_ordered=False)

    def _pairs(self, items: Any, is_ordered: bool) -> None:
        pairs = [(self._apart(key), item) for key, item in items]
        if not is_ordered:
            pairs.sort(key=lambda pair: pair[0])
        self._emit(b"{", b"%d" % len(pairs))
        for digest, item in pairs:
            self._emit(b"key", digest)
            self._walk(item)

    def _namespace(self, names: Any) -> None:
        for name, value in sorted(names):
            self._emit_text(b"name", name)
            self._walk(value)

    def _numpy(self, value: Any) -> bool:
        numpy: Any = sys.modules.get("numpy")
        if isinstance(value, numpy.generic) and not value.dtype.hasobject and value.dtype.names is None:
            self._emit_text(b"scalar", value.dtype.str + str(value.dtype.metadata or ""))
            self._emit(b"=", b"nan" if value != value and value.dtype.kind in "fc" else value.tobytes())
            return True
        if type(value) is not numpy.ndarray:
            return False
        if self._is_known(value):
            return True
        # In the other order of memory the same function may add up another way.
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        self._emit_text(b"array", f"{order} {value.shape} {value.dtype.str}")
        if value.dtype.names is not None:  # between the fields there may be anything
            for name in value.dtype.names:
                self._emit_text(b"name", name)
                self._walk(numpy.asarray(value[name]))
        elif value.dtype.hasobject:
            self._items(value.ravel().tolist())
        elif value.dtype.kind in "fc" and value.size < 1 << 20 and numpy.isnan(value).any():
            self._emit(b"=", numpy.where(numpy.isnan(value), numpy.nan, value).tobytes())
        else:
            flat = numpy.ascontiguousarray(value.T if order == "F" else value).reshape(-1)
            self.hasher.update(flat.view("u1").data if flat.size and flat.dtype.itemsize else b"")
        return True

    def _object(self, value: Any) -> None:
        """Anything else: as pickle takes it apart."""
        if self._is_known(value):
            return
        reduced = byvalue.reduction(value)
        if type(reduced) is str:
            self._emit_text(b"global", f"{getattr(value, '__module__', '')}.{reduced}")
            return
        make, args, *more = reduced
        state, items, pairs = [*more, None, None, None][:3]
        self._emit(b"object")
        self._walk(make)
        self._walk(args)
        self._walk(state)
        if items is not None:
            self._emit(b"items")
            self._items(list(items))
        if pairs is not None:
            self._pairs(pairs, is_ordered=hasattr(value, "move_to_end"))  # an OrderedDict

    # --- functions ---

    def _function(self, function: FunctionType) -> None:
        if not travels_by_value(function):
            self._emit_text(b"global", f"{function.__module__}.{function.__qualname__}")
            return
        if self._is_known(function):
            return
        self._emit_text(b"function", function.__qualname__)
        self._code(function.__code__)
        self._walk(function.__defaults__)
        self._walk(function.__kwdefaults__)
        for cell in function.__closure__ or ():
            self._cell(cell)
        names = function.__globals__
        self._namespace((name, names[name]) for name in global_names(function.__code__) if name in names)
        self._namespace(function.__dict__.items())

    def _cell(self, cell: CellType) -> None:
        if self._is_known(cell):
            return
        try:
            contents = cell.cell_contents
        except ValueError:  # not bound yet
            self._emit(b"unbound")
            return
        self._walk(contents)

    def _code(self, code: CodeType) -> None:
        """Code, but for where it stands: file, lines."""
        sizes = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
        self._emit_text(
            b"code", repr((*sizes, code.co_name, code.co_varnames, code.co_freevars, code.co_cellvars))
        )
        self._emit(b"table", getattr(code, "co_exceptiontable", b""))
        instructions = list(dis.get_instructions(code))
        for instruction, following in zip(instructions, [*instructions[1:], None], strict=True):
            if instruction.opcode in dis.hasconst:
                if following is not None and following.argval == "__firstlineno__":
                    continue  # Python 3.13: where a class begins
                self._emit_text(b"constant", instruction.opname)
                self._constant(instruction.argval)
            else:
                self._emit_text(b"do", f"{instruction.opname} {instruction.argval!r}")

    def _constant(self, value: Any) -> None:
        kind = type(value)
        if kind is CodeType:
            self._code(value)
        elif kind is tuple:
            self._emit(b"(", b"%d" % len(value))
            for item in value:
                self._constant(item)
        elif kind is str:  # written down in the source: no address
            self._emit_text(b"s", value)
        else:
            self._walk(value)

    def _method(self, method: MethodType) -> None:
        self._emit(b"method")
        self._walk(method.__func__)
        self._walk(method.__self__)

    def _builtin(self, function: Any) -> None:
        owner = function.__self__
        self._emit_text(b"builtin", f"{function.__module__}.{function.__qualname__}")
        if owner is not None and not isinstance(owner, ModuleType):
            self._walk(owner)

    def _cached(self, function: Any) -> None:
        if travels_by_value(function):
            self._emit(b"cached")
            self._walk(function.__wrapped__)
        else:
            self._emit_text(b"global", f"{function.__module__}.{function.__qualname__}")

    def _module(self, module: ModuleType) -> None:
        self._emit_text(b"module", module.__name__)
        if byvalue.is_module_by_value(module) and not self._is_known(module):
            self._namespace((n, v) for n, v in vars(module).items() if not n.startswith("__"))

    # --- classes ---

    def _class(self, cls: type) -> None:
        if not travels_by_value(cls):
            self._emit_text(b"global", f"{cls.__module__}.{cls.__qualname__}")
        elif self._root_class is None:
            self._emit(b"class", self._key_of_class(cls))
        elif not self._is_known(cls):
            self._definition(cls)

    def _key_of_class(self, cls: type) -> bytes:
        """Of a class of the script; the same wherever the class is met."""
        version = byvalue.version_of(cls)
        known = _class_keys.get(cls)
        if known is None or known[0] != version:
            walk = _Walk(cls)
            walk.run(cls)
            known = _class_keys[cls] = version, walk.hasher.digest()
        self.classes[known[1]] = cls
        return known[1]

    def _definition(self, cls: type) -> None:
        self._emit_text(b"class", cls.__qualname__)
        self._walk(type(cls))
        self._walk(cls.__bases__)
        names = dict(vars(cls))
        members = names.get("_member_map_") if issubclass(cls, enum.Enum) else None
        if members:
            for name, member in members.items():
                self._emit_text(b"member", name)
                self._walk(member.value)
        for name in sorted(names):
            if name in _NOT_OF_A_CLASS or (
                members is not None and (name in members or _ENUM.fullmatch(name))
            ):
                continue
            self._emit_text(b"name", name)
            self._attribute(names[name])

    def _attribute(self, value: Any) -> None:
        kind = type(value)
        if kind in (staticmethod, classmethod):
            self._emit_text(b"a", kind.__name__)
            self._walk(value.__func__)
        elif kind is property:
            self._emit(b"property")
            for part in (value.fget, value.fset, value.fdel):
                self._walk(part)
        elif kind is functools.cached_property:
            self._emit(b"cached")
            self._walk(value.func)
        elif kind is MemberDescriptorType:
            self._emit_text(b"slot", value.__name__)
        else:
            self._walk(value)

    def _proxy(self, value: Any) -> None:
        self._emit(b"proxy")
        self._pairs(value.items(), is_ordered=False)


def _is_short_of(kind: type, values: Any) -> bool:
    """Whether `repr` may do for all of these at once: numbers, none of which could be an address."""
    return kind is float or kind is bool or (kind is int and max(values) < _LEAST_ADDRESS)


_HANDLERS: dict[type, Any] = {
    **dict.fromkeys(_PLAIN, _Walk._plain),
    bytes: _Walk._bytes,
    bytearray: _Walk._bytearray,
    tuple: _Walk._tuple,
    list: _Walk._list,
    dict: _Walk._dict,
    set: _Walk._set,
    frozenset: _Walk._set,
    FunctionType: _Walk._function,
    MethodType: _Walk._method,
    BuiltinFunctionType: _Walk._builtin,
    type(functools.lru_cache(len)): _Walk._cached,
    ModuleType: _Walk._module,
    CellType: _Walk._cell,
    CodeType: _Walk._code,
    MappingProxyType: _Walk._proxy,
}

# What Python adds to a class by itself, and where it stands.
_NOT_OF_A_CLASS = frozenset(
    {"__dict__", "__weakref__", "__module__", "__firstlineno__", "__static_attributes__", "__slotnames__",
     "__abstractmethods__", "_abc_impl", "__annotate__", "__annotate_func__", "__annotations_cache__"}
)  # fmt: skip
_ENUM = re.compile(r"_[a-z0-9]\w*_")

_class_keys: weakref.WeakKeyDictionary[type, tuple[bytes, bytes]] = weakref.WeakKeyDictionary()
