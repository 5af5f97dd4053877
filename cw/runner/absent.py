"""The runner's `__main__`: a name of the client's script that is not bound there is found when it is read, or the
error says why not.

    import numpy, T = ...   the script object says how to get them     LOCK = Lock()   why it could not be sent
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import sys
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

from cw.payloads import script


class ScriptModule(ModuleType):
    """Module `__main__`. Missing attributes are looked up as functions look up names."""

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
    """Builtins of the script's functions, consulted after the globals: finds names that are not bound yet, or says why
    not.

    Only functions that may need it get it, as looking up a name takes longer.
    """

    def __init__(self, find: Callable[[str], Any]) -> None:
        super().__init__(vars(builtins))
        self._find = find

    def __missing__(self, name: str) -> Any:
        return self._find(name)


class AbsentNames:
    """The module, and what is known of names that are not bound in it."""

    def __init__(self, loads: Callable[[Any], Any]) -> None:
        self.module = ScriptModule(self.find)
        for name in script.MODULES:
            sys.modules[name] = self.module
        self.names = vars(self.module)
        self.names["__builtins__"] = builtins
        self.others: dict[str, tuple[Any, ...]] = {}  # unbound names, and how to get each
        self.lost: dict[str, str] = {}  # names whose values cannot be pickled, and why
        self.is_ready: Callable[[], bool] = lambda: False
        """True if what is being made has all the names that it needs, except lost ones."""
        self._builtins = _Builtins(self.find)
        self._loads = loads

    def find_loaded(self) -> None:
        """Bind names that need no import, as this costs nothing. (Annotations may refer to them.)"""
        for name, how in self.others.items():
            if name not in self.names and (how[0] == "pickle" or how[1] in sys.modules):
                with contextlib.suppress(Exception):
                    self.find(name)

    def explain(self, error: BaseException) -> None:
        """Add to a NameError the reason why the name is not here, if it is known."""
        name = getattr(error, "name", None)
        if isinstance(error, NameError) and name and error.args == (f"name {name!r} is not defined",):
            with contextlib.suppress(KeyError):
                error.args = (self._why_absent(name),)

    def builtins_of(self, code: CodeType) -> Any:
        """Return the builtins for a function of the script that is being made."""
        if self.is_ready() and (not self.lost or self.lost.keys().isdisjoint(_names_in_code(code))):
            return builtins
        return self._builtins

    def find(self, name: str) -> Any:
        """Find an unbound name. Raises NameError with the reason; KeyError if there is nothing to say."""
        how = self.others.get(name)
        if how is not None and name not in self.lost:
            if how[0] == "pickle":
                self.names[name] = value = self._loads(how[1])
                return value
            if how[0] in ("module", "attribute"):
                return self._import(name, how)
        raise NameError(self._why_absent(name), name=name)

    def _why_absent(self, name: str) -> str:
        how = self.others.get(name, ("",))
        reason = self.lost.get(name) or (how[1] if how[0] == "lost" else None)
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
        self.names[name] = value
        return value


def _names_in_code(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names_in_code(constant)
    return names
