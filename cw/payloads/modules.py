"""The user's own modules: which are reloaded in the client, and which runners import from an edited file.

    client                                                     runner
      loaded_anew(): importlib.reload, %autoreload ----------->  new runners, which import them afresh
      files_of_modules() ------ {module: path, size, ...} ---->  has a module's file changed? A note for the client

A finder in `sys.meta_path` that finds nothing notices reloads: the import system asks it, with the module, when
it will be loaded again; the module's new `__spec__` shows that it was. The file system is not asked.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import zlib
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

MOST_SOURCE = 1024 * 1024
"""Largest source file that is analysed (bytes). Larger: the first look takes longer than 0.1 s."""

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep


def is_own(name: str, module: Any) -> bool:
    """True if a module is the user's own: not installed, not of the standard library, not of cw, not the script."""
    if name in ("__main__", "__mp_main__") or type(module) is not ModuleType:
        return False
    return is_own_file(getattr(module, "__file__", None))


def is_own_file(path: Any) -> bool:
    """True if a module's file is the user's own."""
    if not isinstance(path, str) or not path.endswith(".py"):
        return False
    if "site-packages" + os.sep in path or "dist-packages" + os.sep in path:
        return False
    return not path.startswith((PACKAGE, STANDARD_LIBRARY))


def own_modules() -> dict[str, ModuleType]:
    """Return the user's own modules that are loaded now, by name."""
    own = {name: module for name, module in list(sys.modules.items()) if is_own(name, module)}
    if _watcher is not None:
        _watcher.names.update(own)
    return own


def is_initializing(module: ModuleType) -> bool:
    """True if a module is being imported now."""
    return bool(getattr(module.__spec__, "_initializing", False))


def text_of(name: str, spec: Any) -> str:
    """Return the module's source, or ''."""
    try:
        text = spec.loader.get_source(name) or ""
    except (AttributeError, ImportError, OSError, SyntaxError, ValueError):
        return ""
    return text if len(text) <= MOST_SOURCE else ""


# --- the client: which modules were loaded anew ---

version = 0
"""Counter of the import system's lookups; while it is unchanged, no module has been loaded."""


class _Watcher:
    """Finder that stands first in `sys.meta_path`, and finds nothing."""

    def __init__(self) -> None:
        self.names: set[str] = set()  # those of the user's own modules that were loaded
        # Previous `__spec__` of modules that may have been loaded again, by name.
        self.again: dict[str, Any] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        global version
        if target is not None:  # importlib.reload
            self.again.setdefault(name, getattr(target, "__spec__", None))
        elif name in self.names:  # it was removed from sys.modules
            self.again.setdefault(name, None)
        version += 1


_watcher: _Watcher | None = None
_loaded_anew: list[str] = []
"""Names of modules, in the order in which their reloads were noticed."""


def start_watching() -> None:
    """Notice, in a client, what is reloaded from here on."""
    global _watcher, version
    if _watcher is None:
        _watcher = _Watcher()
    if _watcher not in sys.meta_path:
        version += 1  # modules loaded so far were not counted
        sys.meta_path.insert(0, _watcher)


def is_watching() -> bool:
    return _watcher in sys.meta_path


def count_anew() -> int:
    """Return the current `since` for `loaded_anew`."""
    return len(_loaded_anew)


def loaded_anew(since: int) -> tuple[list[str], int]:
    """Return the names of the modules that were reloaded since, and `since` for the next time."""
    if _watcher is not None and _watcher.again:
        _take_notice(_watcher)
    return list(dict.fromkeys(_loaded_anew[since:])), len(_loaded_anew)


def _take_notice(watcher: _Watcher) -> None:
    global version
    for name, before in list(watcher.again.items()):
        module = sys.modules.get(name)
        if module is None:  # it cannot be found
            watcher.again.pop(name, None)
        elif getattr(module, "__spec__", None) is not before:
            watcher.again.pop(name, None)
            _loaded_anew.append(name)
        else:
            version += 1  # another thread is about to load it: look again


# --- the runner ---

_followers: list[Callable[[str, ModuleType], None]] = []
_imports = (
    threading.local()
)  # `depth`: how many of the user's own modules this thread is executing, one in another


def after_import(do: Callable[[str, ModuleType], None]) -> None:
    """Have `do(name, module)` called, in a runner, after the import of each of the user's own modules."""
    if do not in _followers:
        _followers.append(do)
    _follow_imports()


def _follow_imports() -> None:
    if _follower not in sys.meta_path:
        sys.meta_path.insert(0, _follower)


def is_nested() -> bool:
    """True if this thread executes one of the user's own modules."""
    return getattr(_imports, "depth", 0) > 0


class _Follower:
    """Finder that stands first in a runner's `sys.meta_path`: loaders of the user's own modules report when they are
    done."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = None if find is None else find(name, path, target)
            if spec is not None:
                if is_own_file(spec.origin):
                    _follow(name, spec.loader)
                return spec
        return None


def _follow(name: str, loader: Any) -> None:
    try:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module  # restore the loader
            _check_file(name, module)  # before the import: edited files often fail
            _imports.depth = getattr(_imports, "depth", 0) + 1
            try:
                execute(module)
            finally:
                _imports.depth -= 1
            for do in _followers:
                do(name, module)

        loader.exec_module = exec_module
    except AttributeError:  # another kind of loader, which does not load a user's source
        pass


_follower = _Follower()


# --- files that were edited ---

_files: dict[str, list[Any]] = {}
notes: list[str] = []
"""Notes for the client, sent with a runner's next result."""


def files_of_modules() -> dict[str, list[Any]]:
    """List, in a client, the files that the user's own modules were imported from: [path, size, time, checksum].

    A checksum of -1: the file has been edited since, so its former contents are unknown.
    """
    found = {}
    for name, module in own_modules().items():
        path: Any = getattr(module.__spec__, "origin", None)
        try:
            status = os.stat(path)
            if status.st_size <= MOST_SOURCE:
                checksum = -1 if _is_edited(module.__spec__, status) else _checksum(path)
                found[name] = [path, status.st_size, status.st_mtime_ns, checksum]
        except (OSError, TypeError):
            continue
    return found


def expect_files(files: dict[str, list[Any]]) -> None:
    """Note, in a runner, which of these files differ when they are imported."""
    global _files
    _files = files
    if files:
        _follow_imports()


def places_of(files: dict[str, list[Any]]) -> dict[str, int]:
    """Return the numbers by which the file system knows the directories of these files: in a directory that machines
    share they are the same."""
    found = {}
    for directory in {os.path.dirname(path) for path, *_ in files.values()}:
        try:
            found[directory] = os.stat(directory).st_ino
        except OSError:
            continue
    return found


def other_text(files: dict[str, list[Any]], places: dict[str, int]) -> str:
    """Return the path of one of these files that has another text in this machine's own directory of that name; ''
    if there is none."""
    others = set()
    for directory, number in places.items():
        try:
            if os.stat(directory).st_ino != number:
                others.add(directory)
        except OSError:
            continue
    for path, size, modified, checksum in files.values() if others else ():
        if os.path.dirname(path) in others and checksum != -1:
            try:
                status = os.stat(path)
                if (status.st_size, status.st_mtime_ns) != (size, modified) and checksum != _checksum(path):
                    return str(path)
            except OSError:
                continue
    return ""


def _check_file(name: str, module: ModuleType) -> None:
    path, size, modified, checksum = _files.get(name, ("", 0, 0, 0))
    if path and module.__file__ == path:
        try:
            status = os.stat(path)
            is_same = checksum != -1 and (status.st_size, status.st_mtime_ns) == (size, modified)
            if not is_same and checksum != _checksum(path):
                notes.append(
                    f"{path} was edited after this program imported it: jobs run the new text of {name}"
                )
        except OSError:
            pass


def _checksum(path: str) -> int:
    with open(path, "rb") as file:
        return zlib.crc32(file.read())


def _is_edited(spec: Any, status: os.stat_result) -> bool:
    """True if a file has changed since it was imported: Python stores its state with the compiled code."""
    compiled = getattr(spec, "cached", None)
    if (
        type(getattr(spec, "loader", None)) is not SourceFileLoader
    ):  # such as pytest's, which keeps other compiled code
        return False
    if sys.dont_write_bytecode or not compiled or not os.access(os.path.dirname(compiled), os.W_OK):
        return False
    try:
        with open(compiled, "rb") as file:
            head = file.read(16)
    except OSError:
        return False
    noted = int.from_bytes(head[8:12], "little"), int.from_bytes(head[12:16], "little")
    by_time = head[4:8] == bytes(4) and head[:4] == importlib.util.MAGIC_NUMBER
    return by_time and noted != (int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF)
