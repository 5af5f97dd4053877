"""The client's script in a runner: a module `__main__` with its functions and classes, and the values that calls reach.

    FUNCTION object --> template, script, definitions, components, constants --> applied, unless they are what was last
                                                                                 set here --> the call

What a job sets there stays for the next one until the client's value changes. Nothing of the script is
executed.
Names that no call has reached are available where possible: functions and classes are defined, modules are imported
when they are read. A name whose value could not be sent is unbound; reading it raises NameError with the reason.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import os
from collections.abc import Callable
from typing import Any

from cw.net import memory
from cw.payloads import (
    chunks,
    classes,
    dependent,
    futures,
    local_classes,
    local_functions,
    objects,
    serialize,
    settings,
    shared,
    templates,
    warning_filters,
)
from cw.payloads.templates import NAMED, Callee
from cw.runner.absent import AbsentNames
from cw.runner.bindings import Bindings, Places, SharedNames
from cw.runner.definitions import Definitions

_ABSENT = object()


class _Applied:
    """A FUNCTION object, and what was made of it."""

    def __init__(self, function: objects.Function, callee: Callee) -> None:
        self.function = function
        self.callee = callee
        self.named: Any = None  # the function bound to its name when this was applied
        self.rows: list[tuple[str, str, int, Any]] | None = None  # constants, once they are unpickled
        self.early_rows: list[tuple[str, str, int, Any]] | None = None  # constants of other namespaces
        self.fixed_state: Any = _ABSENT


class Script:
    """The script of the runner's session. `payload_of(number)` returns an object's payload."""

    def __init__(self, payload_of: Callable[[int], Any]) -> None:
        self._payload_of = payload_of
        self._absent = AbsentNames(self._loads)
        self._absent.is_ready = lambda: self._definitions.is_reached or self._applied is not None
        self._names = self._absent.names
        self._bindings = Bindings()
        self._definitions = Definitions(payload_of, self._names, self._bindings)
        self._places = Places(payload_of, self._bindings)
        self._shared = SharedNames(self._bindings)
        self._functions: dict[int, _Applied] = {}
        self._applied: _Applied | None = None
        self._script = self._settings = 0
        self._classes: dict[int, type] = {}  # classes without a name in the script, by number
        self._wanted: dict[bytes, int] = {}  # classes of the call that is being prepared, by identity
        self.explain = self._absent.explain
        classes.find = self._find_class
        local_functions.loads = self._loads
        local_functions.builtins_of = self._absent.builtins_of

    def name_of(self, number: int) -> str:
        """Return a function's name; '' while it is being unpickled."""
        applied = self._functions.get(number)
        return "" if applied is None else applied.callee.name

    def forget(self, number: int) -> None:
        """Forget an object that will not be used again."""
        self._functions.pop(number, None)
        self._classes.pop(number, None)
        self._definitions.forget(number)
        self._places.forget(number)
        self._shared.forget(number)

    def prepare(self, number: int, payload: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Return the function and the arguments of a call. Raises whatever making them raises."""
        if payload[0] == dependent.DEPENDENT:
            return self._prepare_dependent(number, payload)
        applied = self._put_in_force(number)
        function, callee = applied.function, applied.callee
        if function.mode != objects.ONE:
            run = chunks.run if function.mode == objects.CHUNK else chunks.run_each
            return run, (self._maker(applied), payload, self._places.shared), {}
        if function.reached.bound:
            self._shared.bind(function.reached.bound)
        if callee.form == NAMED:
            return applied.named, *serialize.load_call(payload)
        if function.is_inline:
            state, call = serialize.load_parts(payload, 2, self._places.shared)
            return callee.fresh(state), *serialize.as_call(call)
        return callee.fresh(self._state(applied)), *serialize.load_call(payload)

    def prepare_first(self, number: int) -> tuple[Any, tuple[Any, ...]] | None:
        """Return the initializer and its arguments, if this function names one. Raises whatever making them raises."""
        # (All values that the function reads come before it, or they would replace what it stores.)
        first = self._put_in_force(number).function.first
        if not first:
            return None
        function, args, _ = self.prepare(first[0], memory.fresh(self._payload_of(first[1])))
        return function, args

    def _put_in_force(self, number: int) -> _Applied:
        applied = self._functions.get(number)
        if applied is None:
            function = objects.load_function(self._payload_of(number))
            callee = Callee(self._payload_of(function.reached.template))
            applied = self._functions[number] = _Applied(function, callee)
        if applied is not self._applied:
            self._apply(applied)
        return applied

    def _prepare_dependent(self, number: int, payload: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Prepare a call with results of other calls."""
        flat = dependent.load_small(payload)
        if flat is not None:
            function, _, kwargs = self.prepare(number, dependent.NO_ARGUMENTS)
            return function, flat, kwargs
        results, call = dependent.opened(payload, lambda number: memory.fresh(self._payload_of(number)))
        is_flat = call[0] == dependent.FLAT
        futures.use(results)
        try:
            function, args, kwargs = self.prepare(number, dependent.NO_ARGUMENTS if is_flat else call)
            if is_flat:
                args = dependent.load_flat(call, results)
        finally:
            futures.use(())
        if self._functions[number].function.mode != objects.ONE:  # its calls are unpickled as they begin
            return dependent.run_with, (results, function, *args), kwargs
        return function, args, kwargs

    def _maker(self, applied: _Applied) -> Callable[[Any], Any]:
        """Return what makes the function for each call of a chunk from the state that is pickled with the call."""
        make = self._maker_of_form(applied)
        bound = applied.function.reached.bound
        if not bound:
            return make

        def bind_and_make(state: Any) -> Any:
            self._shared.bind(bound)
            return make(state)

        return bind_and_make

    def _maker_of_form(self, applied: _Applied) -> Callable[[Any], Any]:
        if applied.callee.form == NAMED:
            return chunks.Same(applied.named)
        if applied.function.is_inline:
            return applied.callee.fresh  # with the state that it is given
        return lambda state: applied.callee.fresh(self._state(applied))

    def _state(self, applied: _Applied) -> Any:
        """Return a fresh copy of a state that is an object; a state that cannot change is shared."""
        if applied.fixed_state is not _ABSENT:
            return applied.fixed_state
        function, state = applied.function, None
        if function.state:
            (state,) = serialize.load_parts(
                memory.fresh(self._payload_of(function.state)), 1, self._places.shared
            )
        if function.is_fixed and (state is None or not templates.holds_functions(state)):
            applied.fixed_state = state
        return state

    # --- applying what a function needs ---

    def _apply(self, applied: _Applied) -> None:
        self._applied = None  # until all is set
        shared.values.clear()
        self._bindings.changed.clear()
        reached = applied.function.reached
        shared.is_in_job = bool(reached.shared)
        for shared_name, shared_number in reached.shared:
            shared.take(shared_name, shared_number, self._payload_of(shared_number))
        if reached.settings != self._settings:
            self._settings = reached.settings
            payload = self._payload_of(reached.settings) if reached.settings else settings.dump_settings({})
            settings.apply_settings(payload)
        if reached.script != self._script:
            self._take_script(reached.script)
        self._absent.lost = {key[2]: reason for key, reason in reached.lost if key[0] == "global"}
        for name in self._absent.lost:
            self._bindings.lose(self._names, name)
        self._define(applied)
        self._shared.unbind(reached.absent)
        for key, name in reached.absent:
            self._bindings.unbind(key, name, name in self._definitions)
        for name in reached.modules:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        if applied.rows is None:
            applied.rows = self._definitions.load_rows(reached.constants[-1])
        self._bindings.bind(applied.rows or [])
        self._places.apply(reached.components)
        self._mark_lost(reached.lost)
        for (name, *path), names in reached.caches:
            if not self._bindings.changed.isdisjoint(names):
                self._clear_cache(name, path)
        if applied.callee.form == NAMED:
            applied.named = applied.callee.function()
        warning_filters.apply_rest()
        self._applied = applied

    def _find_class(self, identity: bytes) -> type | None:
        number = self._wanted.get(identity)
        return None if number is None else self._load_class(identity, number)

    def _load_class(self, identity: bytes, number: int) -> type:
        """Make or renew a class that has no name."""
        cls: type = self._loads(self._payload_of(number))
        self._classes[number] = cls
        classes.at_home.add(identity)
        self._bindings.changed.add(cls.__name__)
        return cls

    def _clear_cache(self, name: str, path: list[str]) -> None:
        """Clear what a cached function computed with other values or other code."""
        found = self._names.get(name)
        for part in path:
            found = vars(found).get(part)
        clear = getattr(found, "cache_clear", None)
        if clear is not None:
            clear()

    def _mark_lost(self, lost: list[tuple[Any, str]]) -> None:
        """Replace attributes that could not be sent by ones that say so."""
        for (kind, token, name), reason in lost:
            holder = local_functions.by_token.get(token) if kind == "attribute" else None
            if isinstance(holder, type):
                text = f"{holder.__name__}.{name} is not here: its value cannot be pickled ({reason})"
                type.__setattr__(holder, name, local_classes.LostAttribute(text))
                self._bindings.fill(token, [name])

    def _take_script(self, number: int) -> None:
        (file, module_name), rows, others, constants = objects.load_script(self._payload_of(number))
        module = self._absent.module
        if file is not None and os.path.exists(file):
            module.__file__ = file
        module.__spec__ = None
        if module_name is not None:
            module.__spec__ = importlib.machinery.ModuleSpec(module_name, None)
        self._bindings.bind_early(objects.load_rows(constants))
        self._absent.others = others
        self._absent.find_loaded()
        self._definitions.take_all(rows)
        self._script = number

    def _define(self, applied: _Applied) -> None:
        """Put in force the functions and classes that the call needs."""
        reached = applied.function.reached
        self._wanted = {identity: number for identity, _, number in reached.classes}
        if self._definitions.take(reached.definitions) or applied.early_rows is None:
            if (
                applied.early_rows is None
            ):  # what functions of other namespaces read may be needed to make these
                applied.early_rows = self._definitions.load_rows(reached.constants[0])
            self._bindings.bind(applied.early_rows or [])
            self._definitions.make()
        for identity, version, number in reached.classes:
            if number not in self._classes or classes.version_in_force(self._classes[number]) != version:
                self._load_class(identity, number)

    def _loads(self, data: Any) -> Any:
        return self._definitions.loads(data)
