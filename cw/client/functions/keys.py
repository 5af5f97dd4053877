"""Keys of functions whose calls are recorded, made from the same state as travels."""

from __future__ import annotations

from typing import Any, Protocol

from cw.client.functions.prepared import Prepared
from cw.errors import UnstableKey
from cw.payloads import pickling_errors, serialize, templates
from cw.payloads.pickled import Pickled
from cw.store import callkey
from cw.store.callkey import FunctionKey

KNOWN_KEYS = 1024
"""Number of keys that are remembered. More: memory. Fewer: functions are examined again (some ms)."""

KEY_ATTEMPTS = 5
"""Number of tries to make a key of a function that changes meanwhile, before an error is raised."""


class Functions(Protocol):
    """The table that keys are made from: `cw.client.functions.functions.FunctionTable`."""

    def refresh(self) -> None: ...

    def number_of(self, function: Any, prepared: Prepared, names: Any = ..., codes: Any = ...) -> int: ...

    def pickle_state(self, function: Any, form: int, shared: Any = ...) -> Pickled: ...


class KeyTable:
    """The keys of one session, under its lock."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._keys: dict[tuple[int, bytes], FunctionKey] = {}  # by `_identify`

    def known(self, number: int) -> FunctionKey | None:
        """Return the key of the function with this number, if it was made, and only arguments travel with its calls."""
        return self._keys.get((number, b""))

    def key_of(self, function: Any, prepared: Prepared) -> FunctionKey:
        """Return the key under which calls are recorded, made from the same state as travels.

        Raises NotPicklable; UnstableKey if the state changes all the time.
        """
        for _ in range(KEY_ATTEMPTS):
            state = self._identify(function, prepared)
            key = self._keys.get(state)
            if key is not None:
                return key
            self._functions.refresh()
            state = self._identify(function, prepared)
            key = callkey.of_function(self._thaw(function, prepared))
            self._functions.refresh()
            if self._identify(function, prepared) == state:
                if len(self._keys) >= KNOWN_KEYS:
                    del self._keys[next(iter(self._keys))]
                self._keys[state] = key
                return key
        raise UnstableKey(
            f"{pickling_errors.function_name(function)} or what it refers to changes while it is looked at"
        )

    def _identify(self, function: Any, prepared: Prepared) -> tuple[int, bytes]:
        """Return an identity of the function and all that it reaches, as it is now: the number of its object, and the
        digest of a state that travels with each call."""
        state = prepared.state
        if prepared.takes_state:
            state = self._functions.pickle_state(function, prepared.template.form)
        if state is None:
            return self._functions.number_of(function, prepared), b""
        number = self._functions.number_of(function, prepared, state.names, state.codes)
        return number, b"" if prepared.is_bare else state.digest()

    def _thaw(self, function: Any, prepared: Prepared) -> Any:
        """Return the function with the state that was taken for `map`."""
        if prepared.state is None or prepared.watch is not None:
            return function
        (state,) = serialize.load_parts(prepared.state.payload(), 1, prepared.references.get)
        return templates.Callee(prepared.template.payload).fresh(state)
