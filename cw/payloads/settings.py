"""Settings in the user's own modules: `params.dt = 0.5` in the script applies in the runners, too.

    client:  settings_of_modules() --- {module: {name: value}} --->  runner:  apply_settings()
                                                                     in modules that are loaded at once,
                                                                     in others after the import that loads them

A *setting* is a top-level int, float, bool, str or None whose value now differs from the one that the module's
source gives it. What the source gives a name:

    X = 0.1; Y = X / 2; Z = -1      once, at the top level, from constants      the value
    X = f(); if ...: X = 1; X += 1  anything else                               what it was when first looked at
    not in the source at all        set from outside                            nothing: it always travels

What the module's own functions bind (`global ready`) travels only if it is a number or a string with a public name:
a flag such as `_ready` is true together with other state, which does not travel.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from cw.events import EventLogger
from cw.payloads import log_settings, modules

logger = EventLogger("cw.client")

SETTINGS = frozenset({int, float, bool, str, type(None)})

MOST_BITS = 4096
"""Largest int that is a setting (bits). Python refuses to read much longer ones."""

SHARE = 0.01
"""Share of time for checking settings between submits. More: a changed setting is seen sooner. Less: more jobs/s."""

QUICK_SECONDS = 5e-6
"""Longest check that is made at each submit while nothing is outstanding (seconds). More: a round trip takes longer."""

EAGER = 100
"""Number of submits before each of which settings are checked. More: loops that change them later are noticed, too."""

_MISSING = object()


# --- the client ---


class _Own:
    """One of the user's own modules, with its settings."""

    def __init__(self, name: str, module: ModuleType) -> None:
        self.name = name
        self.spec = module.__spec__
        self.namespace = vars(module)
        self.changed: dict[str, Any] = {}  # settings, by name
        self._seen: dict[str, Any] = {}
        self._source: _Source | None = None  # read when there is something to compare
        has_some = any(is_setting(key, value) for key, value in list(self.namespace.items()))
        self._size = -1 if has_some else len(self.namespace)

    def look(self) -> bool:
        """Check settings; returns whether any has changed since the last check."""
        namespace = self.namespace
        is_changed = False
        if len(namespace) != self._size:
            is_changed = self._meet_new_names()
        for name, seen in self._seen.items():
            value = namespace.get(name, _MISSING)
            if value is not seen:
                is_changed = self._note(name, value) or is_changed
        return is_changed

    def taken_over(self) -> Iterator[tuple[str, str, str]]:
        """List names bound by `from other import name`: (name, module, its name there)."""
        if self._source is None:
            return
        for level, owner, original, name in self._source.imports:
            try:
                package = self.namespace.get("__package__")
                owner = importlib.util.resolve_name("." * level + owner, package)
            except (ImportError, ValueError):
                continue
            if original == "*":
                own = _own.get(owner)
                names = (
                    () if own is None else own.namespace.keys() & self.namespace.keys() - self._source.names
                )
                yield from ((each, owner, each) for each in names)
            else:
                yield name, owner, original

    def _meet_new_names(self) -> bool:
        is_first = self._size < 0
        self._size = len(self.namespace)
        if self._source is None:
            self._source = _Source(modules.text_of(self.name, self.spec))
        is_changed = False
        for name, value in list(self.namespace.items()):
            if name not in self._seen and is_setting(name, value):
                self._seen[name] = value
                if name in self._source.values:
                    is_changed = self._note(name, value) or is_changed
                elif name not in self._source.names and (self._source.is_all or not is_first):
                    is_changed = self._note(name, value) or is_changed
                else:
                    self._source.values[name] = value  # its value when first checked
        return is_changed

    def _note(self, name: str, value: Any) -> bool:
        assert self._source is not None
        self._seen[name] = value
        before = self.changed.pop(name, _MISSING)
        given = self._source.values.get(name, _MISSING)
        if (
            is_setting(name, value)
            and not _is_same(value, given)
            and not self._source.is_internal(name, value)
        ):
            self.changed[name] = value
        return not _is_same(before, self.changed.get(name, _MISSING))


class _Source:
    """Facts from a module's source about its top-level names."""

    def __init__(self, text: str) -> None:
        self.values: dict[str, Any] = {}
        """Values of names that are bound once, from constants."""
        self.names: set[str] = set()
        """All names that the source binds."""
        self._inside: set[str] = set()
        self.imports: list[tuple[int, str, str, str]] = []
        """Imports, for `from ..owner import original as name`: (level, owner, original, name)."""
        self.is_all = True
        """True if there are no other names, as far as the source shows."""
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            self.is_all = False
            return
        bound: dict[str, int] = {}
        for name in _bindings(tree.body):
            bound[name] = bound.get(name, 0) + 1
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                owner = node.level, node.module or ""
                self.imports += [(*owner, alias.name, alias.asname or alias.name) for alias in node.names]
            elif isinstance(node, ast.Global):
                self._inside.update(node.names)
            elif isinstance(node, ast.Name) and node.id in ("globals", "exec", "vars", "setattr"):
                self.is_all = False
        self.is_all = self.is_all and "*" not in bound and bool(text)
        self.names = set(bound) | self._inside
        for statement in tree.body:
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            if isinstance(statement, ast.AnnAssign) and statement.value is not None:
                targets = [statement.target]
            names = [t.id for t in targets if isinstance(t, ast.Name) and bound[t.id] == 1]
            if len(names) == len(targets) > 0:
                value = _constant(statement.value, self.values)  # type: ignore[attr-defined]
                if value is not _MISSING:
                    self.values.update(dict.fromkeys(names, value))

    def is_internal(self, name: str, value: Any) -> bool:
        """True if a value goes with other state of the module."""
        return name in self._inside and (name.startswith("_") or type(value) in (bool, type(None)))


def _bindings(body: list[ast.stmt]) -> Iterator[str]:
    """List the names that statements bind in their own scope, once for each binding."""
    nodes: list[ast.AST] = list(body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
            continue
        if isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0]
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            yield node.target.id  # twice: it is read, too
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name
        nodes.extend(ast.iter_child_nodes(node))


_ARITHMETIC = (
    ast.Constant, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Name, ast.Load, ast.operator,
    ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip


def _constant(expression: ast.expr, known: dict[str, Any]) -> Any:
    """Evaluate an expression of constants and names with known values; _MISSING if it is not one."""
    for node in ast.walk(expression):
        if not isinstance(node, _ARITHMETIC) or (isinstance(node, ast.Name) and node.id not in known):
            return _MISSING
    try:
        value = eval(  # noqa: S307  (arithmetic with constants, as checked above)
            compile(ast.Expression(expression), "", "eval"), {"__builtins__": {}}, dict(known)
        )
    except Exception:  # the module would have raised it: this source is not the one that was imported
        return _MISSING
    return value if type(value) in SETTINGS else _MISSING


def is_setting(name: str, value: Any) -> bool:
    if type(value) not in SETTINGS or (name.startswith("__") and name.endswith("__")):
        return False
    return type(value) is not int or value.bit_length() <= MOST_BITS


def _is_same(one: Any, other: Any) -> bool:
    if one is other or type(one) is not type(other):
        return one is other
    return bool(one == other) if one == one else other != other  # two NaNs are the same


_own: dict[str, _Own] = {}
_modules_seen = -1
_sent: set[tuple[str, str]] = set()
"""Settings that have travelled once, by module and name. They still travel, since runners may have had them."""
_changes = 0
"""Number of checks that found a changed setting."""


def _look() -> int:
    """Check all settings; returns `_changes`."""
    global _modules_seen, _changes
    if _modules_seen != modules.version or not modules.is_watching():
        _modules_seen = modules.version
        loaded = modules.own_modules()
        for name in [name for name, module in loaded.items() if modules.is_initializing(module)]:
            del loaded[name]
            _modules_seen = -1  # it is checked when it is loaded
        for name, module in loaded.items():
            known = _own.get(name)
            if known is None or known.namespace is not vars(module) or known.spec is not module.__spec__:
                _own[name] = _Own(name, module)
                _changes += known is not None and bool(known.changed)
        for name in _own.keys() - loaded.keys():
            _changes += bool(_own.pop(name).changed)
    for each in _own.values():
        if each.look():
            _changes += 1
    return _changes


def settings_of_modules() -> dict[str, dict[str, Any]]:
    """Return settings of the user's own modules whose values differ from their source's, or once did."""
    _look()
    for each in _own.values():
        _sent.update((each.name, name) for name in each.changed)
        for name, owner, original in each.taken_over():
            # The name may have got the value before or after it was set, which depends on the order of events in the
            # runner.
            if (owner, original) in _sent:
                _sent.add((each.name, name))
    found: dict[str, dict[str, Any]] = {}
    for owner, name in _sent:
        if owner in _own and is_setting(name, value := _own[owner].namespace.get(name, _MISSING)):
            found.setdefault(owner, {})[name] = value
    return found


class Watch:
    """State of the user's own modules when a session last checked. Its owner holds a lock around every call."""

    def __init__(self) -> None:
        modules.start_watching()
        self.due = 0.0
        """Time at which settings must be checked again (time.monotonic())."""
        self.is_quick = True
        """True if a check is short enough to be made whenever nothing is outstanding."""
        self.version = -1
        """Value of `modules.version` at the last check."""
        self.settings: dict[str, dict[str, Any]] = {}
        self._anew = modules.count_anew()
        self._changes = -1
        self._eager: float = EAGER
        self._seconds = 1.0  # duration of a check while nothing else uses the processor
        self._submitted = 0
        self._is_late = False

    def look(self, submitted: int) -> tuple[list[str], bool]:
        """Check for changes: (modules reloaded since the last check, whether settings have changed). `submitted`: jobs
        so far."""
        began = time.monotonic()
        if self.version != modules.version:
            self.version, self._seconds = modules.version, 1.0
        anew, self._anew = modules.loaded_anew(self._anew)
        is_changed = False
        changes = _look()
        if changes != self._changes:
            is_first, self._changes = self._changes < 0, changes
            before, self.settings = self.settings, settings_of_modules()
            is_changed = before != self.settings
            if is_changed and not is_first:
                if submitted > self._submitted + 1 and not self._is_late:
                    self._warn(before, submitted - self._submitted - 1)
                self._eager = float("inf")  # this program changes them as it goes
        self._submitted = submitted
        self._eager -= 1
        now = time.monotonic()
        self._seconds = min(self._seconds, now - began)
        self.is_quick = self._seconds < QUICK_SECONDS
        self.due = 0.0 if self._eager > 0 else now + self._seconds / SHARE
        return anew, is_changed

    def _warn(self, before: dict[str, dict[str, Any]], count: int) -> None:
        self._is_late = True
        now = self.settings
        names = [
            f"{module}.{name}"
            for module, values in now.items()
            for name, value in values.items()
            if not _is_same(value, before.get(module, {}).get(name, _MISSING))
        ]
        logger.warning(
            "client.setting_changed",
            "%s has changed while jobs were submitted: the last %d of them, at most, may have the old value. From now "
            "on cw compares it before each job",
            ", ".join(names) or "a setting of a module", count,
        )  # fmt: skip


def dump_settings(settings: dict[str, dict[str, Any]], logs: dict[str, Any] | None = None) -> bytes:
    """Encode settings as bytes, the same for the same settings. Any process may read them. `logs`: those of
    `log_settings`, in the place of a module without a name."""
    return json.dumps({**settings, "": logs} if logs else settings, sort_keys=True).encode()


# --- the runner ---

_settings: dict[str, dict[str, Any]] = {}
_originals: dict[tuple[str, str], tuple[Any, Any]] = {}
"""Former values of settings: (the module, the value), by module's and setting's name."""


_waiting: list[tuple[str, Any]] = []
"""Modules whose import has ended during the import of another one."""


def apply_settings(payload: bytes | bytearray | memoryview) -> None:
    """Apply these settings, and no others, to modules that are loaded and to those that will be; and to logging."""
    global _settings
    before, _settings = _settings, json.loads(bytes(payload))
    log_settings.apply(_settings.pop("", {}))
    for name in before.keys() | _settings.keys():
        module = sys.modules.get(name)
        if module is not None:
            for key in before.get(name, {}).keys() - _settings.get(name, {}).keys():
                owner, value = _originals.pop((name, key), (None, _MISSING))
                if owner is module and value is not _MISSING:
                    setattr(module, key, value)
                elif owner is module and hasattr(module, key):
                    delattr(module, key)
            _set(name, module)
    modules.after_import(_set_after_import)


def _set_after_import(name: str, module: Any) -> None:
    """Set settings after the outermost import, as in a client's script: values that modules compute from them come
    first."""
    if modules.is_nested():
        _waiting.append((name, module))
        return
    for each in (*_waiting, (name, module)):
        _set(*each)
    _waiting.clear()


def _set(name: str, module: Any) -> None:
    for key, value in _settings.get(name, {}).items():
        if _originals.get((name, key), (None, None))[0] is not module:
            _originals[name, key] = module, vars(module).get(key, _MISSING)
        setattr(module, key, value)
