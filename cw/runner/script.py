"""The client's script in a runner: a module `__main__` with its functions and classes, and the values that calls reach.

    FUNCTION object --> template, script, definitions, components, constants --> applied, if they are not what was last
                                                                                 set here --> the call

What a job sets in there stays for the next one, until the client's value has changed. Nothing of the script is executed.
Names that no call has reached are there as far as they can be had: functions and classes defined, modules imported when
somebody asks. A name whose value could not be sent is unbound; who reads it learns why.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import importlib.machinery
import io
import os
import pickle
import sys
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

from cw.errors import PayloadError
from cw.payloads import byvalue, chunks, named, script, serialize
from cw.payloads.templates import NAMED, Callee

_ABSENT = object()

MEMO_BYTES = 64 * 1024  # as in cw.client.components


class ScriptModule(ModuleType):
    """`__main__`. Attributes that are not there are looked for, as in a function that reads them."""

    def __init__(self, find: Callable[[str], Any]) -> None:
        super().__init__("__main__")
        object.__setattr__(self, "_cw_find", find)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module '__main__' has no attribute {name!r}")
        try:
            return object.__getattribute__(self, "_cw_find")(name)
        except (KeyError, NameError) as error:
            text = str(error) if isinstance(error, NameError) else f"module '__main__' has no attribute {name!r}"
            raise AttributeError(text) from None


class _Builtins(dict[str, Any]):
    """What functions look at after the globals: finds names of the script that are not there yet, or says why not.

    Only functions that may need it have it: looking up a name takes longer.
    """

    def __init__(self, find: Callable[[str], Any]) -> None:
        super().__init__(vars(builtins))
        self._find = find

    def __missing__(self, name: str) -> Any:
        return self._find(name)


class _Unpickler(pickle.Unpickler):
    """Finds definitions of the script that are being made."""

    def __init__(self, data: bytes, require: Callable[[str], None]) -> None:
        super().__init__(io.BytesIO(data))
        self._require = require

    def find_class(self, module_name: str, name: str) -> Any:
        if module_name in script.MODULES:
            self._require(name)
        return super().find_class(module_name, name)


class Function:
    """A FUNCTION object, unpacked."""

    def __init__(self, payload: Any) -> None:
        try:
            (
                self.mode, self.is_inline, self.state, self.is_fixed, self.constants, self.lost, self.modules,
                self.template, self.script, self.definitions, self.components,
            ) = pickle.loads(payload)  # fmt: skip
        except Exception as error:
            raise PayloadError(f"the payload is not that of a function: {error}") from None
        self.callee: Callee
        self.function: Any = None  # a NAMED one, as its name was bound when this was applied
        self.rows: list[tuple[str, str, int, Any]] | None = None  # the constants, once they are unpickled
        self.fixed_state: Any = _ABSENT


class Script:
    """The script of the runner's session. `payload_of(number)` gives an object's payload."""

    def __init__(self, payload_of: Callable[[int], Any]) -> None:
        self._payload_of = payload_of
        self.module = ScriptModule(self._find)
        for name in script.MODULES:
            sys.modules[name] = self.module
        self._names = vars(self.module)
        self._names["__builtins__"] = builtins
        self._builtins = _Builtins(self._find)
        self._functions: dict[int, Function] = {}
        self._applied: Function | None = None
        self._script = 0
        self._others: dict[str, tuple[Any, ...]] = {}  # names that are not defined, and how to have them
        self._rows: dict[str, tuple[Any, ...]] = {}  # all definitions, as the script object has them
        self._small: dict[str, list[Any]] = {}
        self._definitions: dict[int, tuple[Any, ...]] = {}  # by number
        self._versions: dict[str, bytes] = {}  # that are in force
        self._unreached: set[str] = set()  # definitions made though no call has reached them
        self._to_make: dict[str, tuple[Any, ...]] = {}
        self._to_fill: dict[str, tuple[Any, ...]] = {}
        self._lost: dict[str, str] = {}  # global names, and why they are not here
        self._bound: dict[tuple[str, str], int] = {}  # versions of constants that were set
        self._placed: dict[Any, int] = {}  # the component that set a place last
        self._places: dict[int, list[Any]] = {}  # of a component
        self._memos: dict[int, dict[int, Any]] = {}  # the objects in small components
        self._is_reached = False
        named.loads = self._loads
        named.builtins_of = self._builtins_of

    def forget(self, number: int) -> None:
        """This object will not be used again."""
        self._functions.pop(number, None)
        self._definitions.pop(number, None)
        self._places.pop(number, None)
        self._memos.pop(number, None)

    def prepare(self, number: int, payload: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """The function and the arguments of a call. Raises whatever making them raises."""
        function = self._functions.get(number)
        if function is None:
            function = self._functions[number] = Function(self._payload_of(number))
        if function is not self._applied:
            self._apply(function)
        if function.mode:
            run = chunks.run if function.mode == 1 else chunks.run_each
            return run, (self._maker(function), payload), {}
        if function.callee.form == NAMED:
            return function.function, *serialize.load_call(payload)
        if function.is_inline:
            state, call = serialize.load_parts(payload, 2, self._shared)
            return function.callee.fresh(state), *serialize.as_call(call)
        return function.callee.fresh(self._state(function)), *serialize.load_call(payload)

    def explain(self, error: BaseException) -> None:
        """Say in a NameError why the name is not here, if it is known."""
        name = getattr(error, "name", None)
        if isinstance(error, NameError) and error.args == (f"name {name!r} is not defined",):
            with contextlib.suppress(KeyError):
                error.args = (self._why_absent(name),)

    def _maker(self, function: Function) -> Callable[[Any], Any]:
        """What gives the function for each call of a chunk; it is given the state that is pickled with the call."""
        if function.callee.form == NAMED:
            return lambda state: function.function
        if function.is_inline:
            return function.callee.fresh
        return lambda state: function.callee.fresh(self._state(function))

    def _shared(self, reference: tuple[int, int]) -> Any:
        """In the pickle of a call's state: an object that a component has."""
        number, place = reference
        return self._memos[number][place]

    def _state(self, function: Function) -> Any:
        """A fresh copy of a state that is an object; one that cannot change is shared."""
        if function.fixed_state is not _ABSENT:
            return function.fixed_state
        state = None
        if function.state:
            payload = self._payload_of(function.state)
            (state,) = serialize.load_parts(payload, 1)
        if function.is_fixed and (state is None or not any(map(script.can_be_named, state[2]))):
            function.fixed_state = state
        return state

    # --- applying what a function needs ---

    def _apply(self, function: Function) -> None:
        self._applied = None
        function.callee = Callee(self._payload_of(function.template))
        if function.script != self._script:
            self._take_script(function.script)
        self._lost = {key[2]: reason for key, reason in function.lost if key[0] == "global"}
        for name in self._lost:
            self._names.pop(name, None)
            self._bound.pop(("__main__", name), None)
        reached = {}
        for number in function.definitions:
            row = self._definitions.get(number)
            if row is None:
                row = self._definitions[number] = pickle.loads(self._payload_of(number))
            reached[row[0]] = row
        self._define(reached)
        for name in function.modules:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        if function.rows is None:
            function.rows = self._loads(function.constants)
        for key, name, version, value in function.rows:
            if self._bound.get((key, name)) != version:
                named.namespace_of(key)[name] = value
                self._bound[key, name] = version
                self._placed.pop(("global", key, name), None)
        for number in function.components:
            places = self._places.get(number)
            if places is None or any(self._placed.get(place) != number for place in places):
                self._place(number)
        for (kind, token, name), reason in function.lost:
            holder = named.by_token.get(token) if kind == "attribute" else None
            if isinstance(holder, type):
                text = f"{holder.__name__}.{name} is not here: its value cannot be pickled ({reason})"
                type.__setattr__(holder, name, named.LostAttribute(text))
        if function.callee.form == NAMED:
            function.function = function.callee.function()
        self._applied = function

    def _take_script(self, number: int) -> None:
        (file, module_name), rows, others = pickle.loads(self._payload_of(number))
        if file is not None and os.path.exists(file):
            self.module.__file__ = file
        self.module.__spec__ = None
        if module_name is not None:
            self.module.__spec__ = importlib.machinery.ModuleSpec(module_name, None)
        self._others = others
        for name, how in others.items():
            # What is loaded already costs nothing. (Annotations, say, may refer to it.)
            if name not in self._names and (how[0] == "pickle" or how[1] in sys.modules):
                with contextlib.suppress(Exception):
                    self._find(name)
        loaded = [(pickle.loads(data), small) for data, small in rows]
        self._rows = {row[0]: row for row, _ in loaded}
        self._small = {row[0]: small for row, small in loaded}
        self._script = number

    def _define(self, reached: dict[str, tuple[Any, ...]]) -> None:
        """Have the definitions in force: these, and of all others the newest."""
        versions = self._versions
        self._to_make = {
            name: row for name, row in reached.items() if versions.get(name) != row[1] or name in self._unreached
        }
        for name in self._to_make:
            self._unreached.discard(name)
        rest = {
            name: row
            for name, row in self._rows.items()
            if name not in reached and versions.get(name, b"") < row[1]
        }
        if not self._to_make and not rest:
            return
        self._unreached.update(rest)
        self._to_make |= rest
        self._to_fill = dict(self._to_make)
        for name in list(self._to_make):
            self._make(name)
        for name in list(self._to_fill):
            self._fill(name)
        for name in rest:
            for key, data in self._small[name]:
                with contextlib.suppress(Exception):
                    _, value = serialize.load_parts(data, 2)
                    self._set_place(key, value)

    def _make(self, name: str) -> None:
        row = self._to_make.pop(name, None)
        if row is None:
            return
        _, version, token, skeleton, _ = row
        try:
            with self._reaching(name not in self._unreached):
                make, arguments = self._loads(skeleton)
                thing = make(*arguments)
        except Exception:
            if name in self._unreached:  # nobody has asked for it
                self._to_fill.pop(name, None)
                self._versions[name] = version
                return
            raise
        if isinstance(thing, type):
            byvalue.forget_version(thing)
        self._names[name] = thing
        self._bound.pop(("__main__", name), None)
        self._versions[name] = version
        with contextlib.suppress(TypeError):
            named.by_token[token] = thing

    def _fill(self, name: str) -> None:
        row = self._to_fill.pop(name, None)
        if row is None or not row[4]:
            return
        try:
            with self._reaching(name not in self._unreached):
                set_state, state = self._loads(row[4])
                set_state(self._names[name], state)
        except Exception:
            if name not in self._unreached:
                self._versions.pop(name, None)
                raise

    def _require(self, name: str) -> None:
        """A pickle refers to this name of the script: it must be there now."""
        top, dot, _ = name.partition(".")
        if top in self._to_make:
            self._make(top)
        if dot and top in self._to_fill:
            self._fill(top)

    def _loads(self, data: Any) -> Any:
        return _Unpickler(data, self._require).load()

    def _place(self, number: int) -> None:
        payload = self._payload_of(number)
        (keys,) = serialize.load_parts(payload, 1)
        memos: list[Any] = []
        _, *values = serialize.load_parts(payload, 1 + len(keys), None, memos if len(payload) < MEMO_BYTES else None)
        if memos:
            self._memos[number] = memos[0]
        for key, value in zip(keys, values, strict=True):
            self._set_place(key, value)
            self._placed[key] = number
        self._places[number] = keys

    def _set_place(self, key: Any, value: Any) -> None:
        kind, holder, name = key
        if kind == "global":
            named.namespace_of(holder)[name] = value
            self._bound.pop((holder, name), None)
            return
        holder = named.by_token.get(holder)
        if holder is None:
            return
        if kind == "default":
            holder.__defaults__ = (*holder.__defaults__[:name], value, *holder.__defaults__[name + 1 :])
        elif kind == "keyword":
            holder.__kwdefaults__[name] = value
        elif kind == "cell":
            holder.__closure__[name].cell_contents = value
        elif isinstance(holder, type):
            type.__setattr__(holder, name, value)
        else:
            holder.__dict__[name] = value

    # --- names that are not there ---

    @contextlib.contextmanager
    def _reaching(self, is_reached: bool) -> Any:
        before, self._is_reached = self._is_reached, is_reached
        try:
            yield
        finally:
            self._is_reached = before

    def _builtins_of(self, code: CodeType) -> Any:
        """What a function of the script that is made now has for builtins."""
        if self._is_reached or self._applied is not None:
            if not self._lost or self._lost.keys().isdisjoint(_names_in_code(code)):
                return builtins
        return self._builtins

    def _find(self, name: str) -> Any:
        """A name that is not bound. Raises NameError with the reason; KeyError if there is nothing to say."""
        how = self._others.get(name)
        if how is not None and name not in self._lost:
            if how[0] in ("value", "pickle"):
                self._names[name] = value = how[1] if how[0] == "value" else self._loads(how[1])
                return value
            if how[0] in ("module", "attribute"):
                return self._import(name, how)
        raise NameError(self._why_absent(name), name=name)

    def _why_absent(self, name: str) -> str:
        how = self._others.get(name, ("",))
        reason = self._lost.get(name) or (how[1] if how[0] == "lost" else None)
        if reason is not None:
            return (
                f"name {name!r} is not defined in this job: its value cannot be pickled ({reason}). Make it in the job, or "
                "pass what is needed of it as an argument"
            )
        if how[0] != "unsent":
            raise KeyError(name)
        return (
            f"name {name!r} is not defined in this job: the {how[1]} was not sent, since the submitted function does not "
            "refer to it by name. Pass it as an argument, or have the submitted function read it"
        )

    def _import(self, name: str, how: tuple[Any, ...]) -> Any:
        value: Any = importlib.import_module(how[1])
        for part in how[2].split(".") if how[0] == "attribute" else ():
            value = getattr(value, part)
        self._names[name] = value
        return value


def _names_in_code(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names_in_code(constant)
    return names
