"""The client's script in a runner: a module `__main__` with its functions and classes, and the values that calls reach.

    FUNCTION object --> template, script, definitions, components, constants --> applied, if they are not what was last
                                                                                 set here --> the call

What a job sets in there stays for the next one, until the client's value has changed. Nothing of the script is
executed.
Names that no call has reached are there as far as they can be had: functions and classes defined, modules imported when
somebody asks. A name whose value could not be sent is unbound; who reads it learns why.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import importlib.machinery
import os
import sys
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

from cw.net import memory
from cw.payloads import (
    chunks,
    classes,
    local_classes,
    local_functions,
    objects,
    script,
    serialize,
    settings,
    templates,
)
from cw.payloads.templates import NAMED, Callee

_ABSENT = object()

MEMO_BYTES = 1024 * 1024  # as in cw.client.components


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
            text = (
                str(error) if isinstance(error, NameError) else f"module '__main__' has no attribute {name!r}"
            )
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


class _Applied:
    """A FUNCTION object, and what was made of it."""

    def __init__(self, function: objects.Function, callee: Callee) -> None:
        self.function = function
        self.callee = callee
        self.named: Any = None  # the function, as its name was bound when this was applied
        self.rows: list[tuple[str, str, int, Any]] | None = None  # the constants, once they are unpickled
        self.early_rows: list[tuple[str, str, int, Any]] | None = None  # those of other namespaces
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
        self._functions: dict[int, _Applied] = {}
        self._applied: _Applied | None = None
        self._script = self._settings = 0
        self._others: dict[str, tuple[Any, ...]] = {}  # names that are not defined, and how to have them
        self._rows: dict[str, objects.Definition] = {}  # all definitions, as the script object has them
        self._small: dict[str, list[Any]] = {}
        self._definitions: dict[int, objects.Definition] = {}  # by number
        self._versions: dict[str, bytes] = {}  # that are in force
        self._unreached: set[str] = set()  # definitions made though no call has reached them
        self._to_make: dict[str, objects.Definition] = {}
        self._to_fill: dict[str, objects.Definition] = {}
        self._is_filling = False  # all are made
        self._lost: dict[str, str] = {}  # global names, and why they are not here
        self._bound: dict[tuple[str, str], int] = {}  # versions of constants that were set
        self._placed: dict[Any, int] = {}  # the component that set a place last
        self._places: dict[int, list[Any]] = {}  # of a component
        self._memos: dict[int, dict[int, Any]] = {}  # the objects in small components
        self._homeless: dict[tuple[int, int], Any] = {}  # values of components whose places are not here
        # Names that were given another value for the call that is about to run.
        self._changed: set[str] = set()
        self._is_reached = False
        self._classes: dict[int, type] = {}  # without a name in the script, by number
        self._wanted: dict[bytes, int] = {}  # those of the call that is being made ready, by identity
        classes.find = self._find_class
        local_functions.loads = self._loads
        local_functions.builtins_of = self._builtins_of

    def name_of(self, number: int) -> str:
        """What a function is called; '' while it is being unpickled."""
        applied = self._functions.get(number)
        return "" if applied is None else applied.callee.name

    def forget(self, number: int) -> None:
        """This object will not be used again."""
        self._functions.pop(number, None)
        self._definitions.pop(number, None)
        self._places.pop(number, None)
        self._classes.pop(number, None)
        self._memos.pop(number, None)
        for key in [key for key in self._homeless if key[0] == number]:
            del self._homeless[key]

    def prepare(self, number: int, payload: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """The function and the arguments of a call. Raises whatever making them raises."""
        applied = self._functions.get(number)
        if applied is None:
            function = objects.load_function(self._payload_of(number))
            callee = Callee(self._payload_of(function.reached.template))
            applied = self._functions[number] = _Applied(function, callee)
        if applied is not self._applied:
            self._apply(applied)
        function, callee = applied.function, applied.callee
        if function.mode != objects.ONE:
            run = chunks.run if function.mode == objects.CHUNK else chunks.run_each
            return run, (self._maker(applied), payload, self._shared), {}
        if callee.form == NAMED:
            return applied.named, *serialize.load_call(payload)
        if function.is_inline:
            state, call = serialize.load_parts(payload, 2, self._shared)
            return callee.fresh(state), *serialize.as_call(call)
        return callee.fresh(self._state(applied)), *serialize.load_call(payload)

    def explain(self, error: BaseException) -> None:
        """Say in a NameError why the name is not here, if it is known."""
        name = getattr(error, "name", None)
        if isinstance(error, NameError) and error.args == (f"name {name!r} is not defined",):
            with contextlib.suppress(KeyError):
                error.args = (self._why_absent(name),)

    def _maker(self, applied: _Applied) -> Callable[[Any], Any]:
        """What gives the function for each call of a chunk; it is given the state that is pickled with the call."""
        if applied.callee.form == NAMED:
            return lambda state: applied.named
        if applied.function.is_inline:
            return applied.callee.fresh  # with the state that it is given
        return lambda state: applied.callee.fresh(self._state(applied))

    def _shared(self, reference: tuple[int, int]) -> Any:
        """In the pickle of a call's state: an object that a component has."""
        number, place = reference
        if place < 0:
            index = -1 - place
            keys = self._places.get(number) or self._load_component(number)[0]
            try:
                return self._value_at(keys[index])
            except KeyError:  # a function has another definition by now, which does not hold it
                if (number, index) not in self._homeless:
                    self._homeless[number, index] = self._load_component(number)[1][index]
                return self._homeless[number, index]
        if number not in self._memos:  # its names have other values by now
            self._load_component(number)
        return self._memos[number][place]

    def _state(self, applied: _Applied) -> Any:
        """A fresh copy of a state that is an object; one that cannot change is shared."""
        if applied.fixed_state is not _ABSENT:
            return applied.fixed_state
        function, state = applied.function, None
        if function.state:
            (state,) = serialize.load_parts(memory.fresh(self._payload_of(function.state)), 1, self._shared)
        if function.is_fixed and (state is None or not templates.holds_functions(state)):
            applied.fixed_state = state
        return state

    # --- applying what a function needs ---

    def _apply(self, applied: _Applied) -> None:
        self._applied = None  # until all is there
        self._changed.clear()
        reached = applied.function.reached
        if reached.settings != self._settings:
            self._settings = reached.settings
            payload = self._payload_of(reached.settings) if reached.settings else settings.dump_settings({})
            settings.apply_settings(payload)
        if reached.script != self._script:
            self._take_script(reached.script)
        self._lost = {key[2]: reason for key, reason in reached.lost if key[0] == "global"}
        for name in self._lost:
            self._names.pop(name, None)
            self._versions.pop(name, None)
            self._placed.pop(("global", "__main__", name), None)
            self._bound.pop(("__main__", name), None)
        self._wanted = {identity: number for identity, _, number in reached.classes}
        self._define([self._definition(number) for number in reached.definitions], applied)
        for identity, version, number in reached.classes:
            if number not in self._classes or classes.version_in_force(self._classes[number]) != version:
                self._load_class(identity, number)
        for key, name in reached.absent:
            self._unbind(key, name)
        for name in reached.modules:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        if applied.rows is None:
            applied.rows = self._loads(reached.constants[-1])
        self._bind(applied.rows or [])
        for number in reached.components:
            places = self._places.get(number)
            if places is None or any(self._placed.get(place) != number for place in places):
                self._place(number)
        self._mark_lost(reached.lost)
        for (name, *path), names in reached.caches:
            if not self._changed.isdisjoint(names):
                self._clear_cache(name, path)
        if applied.callee.form == NAMED:
            applied.named = applied.callee.function()
        self._applied = applied

    def _bind(self, rows: list[tuple[str, str, int, Any]]) -> None:
        """Give constants the values of the call."""
        for key, name, version, value in rows:
            if self._bound.get((key, name)) != version:
                local_functions.namespace_of(key)[name] = value
                self._bound[key, name] = version
                self._changed.add(name)
                self._placed.pop(("global", key, name), None)
                if key == "__main__":
                    self._versions.pop(name, None)

    def _unbind(self, key: str, name: str) -> None:
        """The client has deleted a name. (One that a job has set stays.)"""
        was_bound = self._bound.pop((key, name), None) is not None
        was_bound |= self._placed.pop(("global", key, name), None) is not None
        if key == "__main__" and name not in self._rows:
            was_bound |= self._versions.pop(name, None) is not None
        if was_bound:
            local_functions.namespace_of(key).pop(name, None)

    def _find_class(self, identity: bytes) -> type | None:
        number = self._wanted.get(identity)
        return None if number is None else self._load_class(identity, number)

    def _load_class(self, identity: bytes, number: int) -> type:
        """Make a class that has no name, or renew it."""
        cls: type = self._loads(self._payload_of(number))
        self._classes[number] = cls
        classes.at_home.add(identity)
        self._changed.add(cls.__name__)
        return cls

    def _clear_cache(self, name: str, path: list[str]) -> None:
        """What a function has cached was made with other values, or other code."""
        found = self._names.get(name)
        for part in path:
            found = vars(found).get(part)
        clear = getattr(found, "cache_clear", None)
        if clear is not None:
            clear()

    def _definition(self, number: int) -> objects.Definition:
        row = self._definitions.get(number)
        if row is None:
            row = self._definitions[number] = objects.load_definition(self._payload_of(number))
        return row

    def _mark_lost(self, lost: list[tuple[Any, str]]) -> None:
        """Have attributes that could not be sent say so."""
        for (kind, token, name), reason in lost:
            holder = local_functions.by_token.get(token) if kind == "attribute" else None
            if isinstance(holder, type):
                text = f"{holder.__name__}.{name} is not here: its value cannot be pickled ({reason})"
                type.__setattr__(holder, name, local_classes.LostAttribute(text))

    def _take_script(self, number: int) -> None:
        (file, module_name), rows, others, constants = objects.load_script(self._payload_of(number))
        if file is not None and os.path.exists(file):
            self.module.__file__ = file
        self.module.__spec__ = None
        if module_name is not None:
            self.module.__spec__ = importlib.machinery.ModuleSpec(module_name, None)
        self._others = others
        for key, name, value in objects.load_rows(constants):
            if (key, name) not in self._bound:
                local_functions.namespace_of(key).setdefault(name, value)
        for name, how in others.items():
            # What is loaded already costs nothing. (Annotations, say, may refer to it.)
            if name not in self._names and (how[0] == "pickle" or how[1] in sys.modules):
                with contextlib.suppress(Exception):
                    self._find(name)
        loaded = [(objects.load_definition(data), small) for data, small in rows]
        self._rows = {row.name: row for row, _ in loaded}
        self._small = {row.name: small for row, small in loaded}
        self._script = number

    def _define(self, rows: list[objects.Definition], applied: _Applied) -> None:
        """Have the definitions in force: these, and of all others the newest."""
        versions, reached = self._versions, {row.name for row in rows}
        self._to_make = {
            row.name: row
            for row in rows
            if versions.get(row.name) != row.version or row.name in self._unreached
        }
        self._unreached.difference_update(self._to_make)
        rest = {
            name: row
            for name, row in self._rows.items()
            if name not in reached and versions.get(name, b"") < row.version
        }
        if not self._to_make and not rest and applied.early_rows is not None:
            return
        self._unreached.update(rest)
        self._to_make |= rest
        self._to_fill = dict(self._to_make)
        if applied.early_rows is None:  # what functions of other namespaces read may be needed to make these
            applied.early_rows = self._loads(applied.function.reached.constants[0])
        self._bind(applied.early_rows or [])
        for name in list(self._to_make):
            self._make(name)
        self._is_filling = True
        try:
            for name in list(self._to_fill):
                self._fill(name)
        finally:
            self._is_filling = False
        for name in rest:
            for key, data in self._small[name]:
                with contextlib.suppress(Exception):
                    _, value = serialize.load_parts(data, 2)
                    self._set_place(key, value)

    def _make(self, name: str) -> None:
        row = self._to_make.pop(name, None)
        if row is None:
            return
        try:
            with self._reaching(name not in self._unreached):
                make, arguments = self._loads(row.skeleton)
                thing = make(*arguments)
        except Exception:
            if name in self._unreached:  # nobody has asked for it
                self._to_fill.pop(name, None)
                self._versions[name] = row.version
                return
            raise
        if isinstance(thing, type):
            classes.forget_version(thing)
        self._names[name] = thing
        self._changed.add(name)
        self._bound.pop(("__main__", name), None)
        self._versions[name] = row.version
        with contextlib.suppress(TypeError):
            local_functions.by_token[row.token] = thing

    def _fill(self, name: str) -> None:
        row = self._to_fill.pop(name, None)
        if row is None or not row.filling:
            return
        try:
            with self._reaching(name not in self._unreached):
                set_state, state = self._loads(row.filling)
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
        if (dot or self._is_filling) and top in self._to_fill:
            self._fill(top)  # an instance may be made of it now, which takes its methods

    def _loads(self, data: Any) -> Any:
        return objects.Unpickler(data, self._require).load()

    def _load_component(self, number: int) -> tuple[Any, list[Any]]:
        payload = memory.fresh(self._payload_of(number))
        (keys,) = serialize.load_parts(payload, 1)
        memos: list[Any] = []
        _, *values = serialize.load_parts(
            payload, 1 + len(keys), None, memos if len(payload) < MEMO_BYTES else None
        )
        if memos:
            self._memos[number] = memos[0]
        return keys, values

    def _place(self, number: int) -> None:
        keys, values = self._load_component(number)
        for key, value in zip(keys, values, strict=True):
            self._changed.add(key[2] if key[0] == "global" else key[1][0])
            self._set_place(key, value)
            self._placed[key] = number
        for index, (key, value) in enumerate(zip(keys, values, strict=True)):
            if key[0] != "global" and key[1] not in local_functions.by_token:
                self._homeless[number, index] = value
        self._places[number] = keys

    def _value_at(self, key: Any) -> Any:
        kind, holder, name = key
        if kind == "global":
            return local_functions.namespace_of(holder)[name]
        holder = local_functions.by_token[holder]
        if kind == "default":
            return holder.__defaults__[name]
        if kind == "keyword":
            return holder.__kwdefaults__[name]
        if kind == "cell":
            return holder.__closure__[name].cell_contents
        return vars(holder[name[0]])[name[1]] if kind == "member" else vars(holder)[name]

    def _set_place(self, key: Any, value: Any) -> None:
        kind, holder, name = key
        if kind == "global":
            local_functions.namespace_of(holder)[name] = value
            self._bound.pop((holder, name), None)
            if holder == "__main__":
                self._versions.pop(name, None)
            return
        holder = local_functions.by_token.get(holder)
        if holder is None:
            return
        if kind == "default":
            holder.__defaults__ = (*holder.__defaults__[:name], value, *holder.__defaults__[name + 1 :])
        elif kind == "keyword":
            holder.__kwdefaults__[name] = value
        elif kind == "member":
            member, attribute = name
            vars(holder[member])[attribute] = value
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
            if how[0] == "pickle":
                self._names[name] = value = self._loads(how[1])
                return value
            if how[0] in ("module", "attribute"):
                return self._import(name, how)
        raise NameError(self._why_absent(name), name=name)

    def _why_absent(self, name: str) -> str:
        how = self._others.get(name, ("",))
        reason = self._lost.get(name) or (how[1] if how[0] == "lost" else None)
        if reason is not None:
            return (
                f"name {name!r} is not defined in this job: its value cannot be pickled ({reason}). Make it in the "
                "job, or pass what is needed of it as an argument"
            )
        if how[0] != "unsent":
            raise KeyError(name)
        return (
            f"name {name!r} is not defined in this job: the {how[1]} was not sent, since the submitted function does "
            "not refer to it by name. Pass it as an argument, or have the submitted function read it"
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
