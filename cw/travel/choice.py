"""Choice of the files that travel: the user's own modules, and data files that he names.

    modules=True    packages and modules in directories of `sys.path` at or below the working directory and the
                    script's; and all own modules that are loaded, wherever they lie, with their packages
    modules=[...]   these, each with all of its top-level package
    files=[...]     these files, and all files of these directories, below the working directory

What is installed (site-packages, the standard library) does not travel, and neither do hidden directories, caches and
virtual environments.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from cw.needs import format_bytes, to_bytes
from cw.payloads import modules
from cw.travel.packs import HERE, Entry

LIMIT = 64 * 1024**2
"""Most bytes that travel, unless CW_TRAVEL_LIMIT says more. Larger: a data set that was named by mistake goes to all
machines. Smaller: the user must raise it."""

MOST_FILES = 20_000
"""Most files that travel. Larger: a look for edits takes longer than 0.1 s."""

NAMED = 3
"""Most files that an error names."""

SKIPPED = frozenset({"__pycache__", "node_modules", "venv", "site-packages", "dist-packages"})
"""Directories that do not travel, beside hidden ones and those with a `pyvenv.cfg`."""

_SUFFIXES = (".py", *importlib.machinery.EXTENSION_SUFFIXES)


def limit() -> int:
    """Return the most bytes that may travel. Raises ValueError if CW_TRAVEL_LIMIT is no size."""
    text = os.environ.get("CW_TRAVEL_LIMIT")
    return LIMIT if not text else to_bytes("CW_TRAVEL_LIMIT", text)


# --- what the user names ---


def check_modules(named: Any) -> tuple[str, ...] | bool | None:
    """Return the names of top-level modules that `modules=` asks for; True: all own ones; False: none, ever; None: all
    own ones where they are missing. Raises TypeError, ValueError, ModuleNotFoundError."""
    if named is None or isinstance(named, bool):
        return named
    if isinstance(named, (str, ModuleType)) or not isinstance(named, Iterable):
        raise TypeError(
            f"modules must be a list of names, such as ['mylab'], or True or False, not {named!r}"
        )
    names = [each.__name__ if isinstance(each, ModuleType) else each for each in named]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise TypeError(f"modules must be names of modules, not {wrong[0]!r}")
    tops = tuple(dict.fromkeys(name.partition(".")[0] for name in names))
    for top in tops:
        _check_module(top)
    return tops or False


def _check_module(name: str) -> None:
    spec = _find(name)
    if spec is None:
        raise ModuleNotFoundError(
            f"modules names {name!r}, which cannot be imported here: no module of that name is found on sys.path",
            name=name,
        )
    places = [spec.origin or "", *(spec.submodule_search_locations or ())]
    if any(_is_installed(place) for place in places) or spec.origin in ("built-in", "frozen"):
        raise ValueError(
            f"modules names {name!r}, which is installed here ({places[0] or places[-1]}): only your own modules "
            "travel. Install it on the workers' machines"
        )
    if not any(_places(name)):
        raise ValueError(f"modules names {name!r}, of which there is no file that could travel ({places[0]})")


def check_files(named: Any, workdir: str | None, scratch: str) -> tuple[str, ...]:
    """Return the paths that `files=` asks for, relative to the working directory. `scratch`: the value of `workdir`
    that goes together with files. Raises TypeError, ValueError, FileNotFoundError."""
    if named is None:
        return ()
    if isinstance(named, (str, bytes, os.PathLike)) or not isinstance(named, Iterable):
        raise TypeError(f"files must be a list of paths, such as ['params.toml', 'data/'], not {named!r}")
    here = os.getcwd()
    found = []
    for each in named:
        if not isinstance(each, (str, os.PathLike)) or isinstance(path := os.fspath(each), bytes):
            raise TypeError(f"files must be paths, not {each!r}")
        relative = os.path.relpath(os.path.join(here, path), here)
        if relative.split(os.sep)[0] == os.pardir:
            raise ValueError(
                f"files names {path!r}, which is not below the working directory {here}: jobs find files by their path "
                "from there. Start the program in a directory that has them all"
            )
        if not os.path.exists(os.path.join(here, relative)):
            raise FileNotFoundError(
                f"files names {path!r}, which is not there: {os.path.join(here, relative)}"
            )
        found.append(relative)
    if found and workdir not in (None, scratch):
        raise ValueError(
            f"files are found in a private directory of the jobs, so they cannot go to workdir={workdir!r}: leave out "
            "workdir, or put the files there yourself"
        )
    return tuple(dict.fromkeys(found))


# --- what there is ---


def choose(names: tuple[str, ...], is_all: bool, files: Iterable[str], here: str) -> list[Entry]:
    """List the files of these modules (`is_all`: and of all own ones), and these data files below the directory `here`.

    Raises ValueError."""
    tops = set(names)
    found: dict[tuple[str, str], Entry] = {}
    if is_all:
        tops.update(name.partition(".")[0] for name in modules.own_modules())
        for root in _own_roots(here):
            _add(found, root, _tops_in(root))
    for top in sorted(tops):
        for root, name in _places(top):
            _add(found, root, [name])
    _add(found, HERE, files, here)
    entries = sorted(found.values())
    _check_size(entries)
    return entries


def is_own(name: str) -> bool:
    """True if a module of this name (or its top-level package) is the user's own, and has files that could travel."""
    top = name.partition(".")[0]
    if not top or top in ("cw", "__main__"):
        return False
    return any(True for _ in _places(top))


def _find(name: str) -> Any:
    module = sys.modules.get(name)
    if module is not None and getattr(module, "__spec__", None) is not None:
        return module.__spec__
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None


def _is_installed(place: str) -> bool:
    """True for files of the standard library, of cw, and of what was installed."""
    parts = place.split(os.sep)
    if "site-packages" in parts or "dist-packages" in parts:
        return True
    return (place + os.sep).startswith((modules.PACKAGE, modules.STANDARD_LIBRARY))


def _places(top: str) -> Iterator[tuple[str, str]]:
    """Find where a top-level module or package of the user's own lies: directory of `sys.path`, and its name there."""
    spec = _find(top)
    if spec is None:
        return
    locations = list(spec.submodule_search_locations or ())
    for place in locations or [spec.origin]:
        if not isinstance(place, str) or _is_installed(place) or not os.path.exists(place):
            continue
        if locations or place.endswith(_SUFFIXES):
            yield os.path.split(os.path.abspath(place))


def _own_roots(here: str) -> list[str]:
    """List the directories of `sys.path` at or below the working directory and the script's."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    above = [here] + ([os.path.dirname(os.path.abspath(script))] if script else [])
    entries = [os.path.abspath(os.path.join(here, entry)) for entry in sys.path if isinstance(entry, str)]
    return [
        entry
        for entry in dict.fromkeys(entries)
        if os.path.isdir(entry)
        and not _is_installed(entry)
        and any(entry == each or entry.startswith(each.rstrip(os.sep) + os.sep) for each in above)
    ]


def _tops_in(root: str) -> list[str]:
    """List the modules and packages that lie in a directory."""
    found = []
    with os.scandir(root) as entries:
        for entry in entries:
            is_package = entry.is_dir() and os.path.exists(os.path.join(entry.path, "__init__.py"))
            if (is_package and not _is_skipped(entry.path)) or (
                entry.is_file() and entry.name.endswith(_SUFFIXES)
            ):
                found.append(entry.name)
    return sorted(found)


def _add(
    found: dict[tuple[str, str], Entry], root: str, names: Iterable[str], directory: str | None = None
) -> None:
    """Add files and directories of a root to those found. `directory`: where the root is, if it is HERE."""
    base = root if directory is None else directory
    for name in names:
        path = os.path.join(base, name)
        for each in _walk(path) if os.path.isdir(path) else [path]:
            try:
                status = os.stat(each)
            except OSError:  # it has just gone, or is a link to nothing
                continue
            if stat.S_ISREG(status.st_mode) and not each.endswith((".pyc", ".pyo")):
                relative = os.path.relpath(each, base)
                found[root, relative] = Entry(
                    root, relative, status.st_size, status.st_mtime_ns, bool(status.st_mode & 0o100)
                )
        _check_count(len(found), path)


def _walk(top: str) -> Iterator[str]:
    """List the files below a directory, but not what does not travel. A link to a directory is followed once."""
    seen = set()
    count = 0
    for directory, names, files in os.walk(top, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names[:] = sorted(name for name in names if not _is_skipped(os.path.join(directory, name)))
        count += len(files)
        _check_count(count, top)
        yield from (os.path.join(directory, name) for name in sorted(files))


def _is_skipped(directory: str) -> bool:
    name = os.path.basename(directory)
    if name in SKIPPED or name.startswith(".") or os.path.exists(os.path.join(directory, "pyvenv.cfg")):
        return True
    return directory + os.sep == modules.PACKAGE


def _check_count(count: int, place: str) -> None:
    if count > MOST_FILES:
        raise ValueError(
            f"more than {MOST_FILES} files would travel to the workers, many of them of {place}: name modules and "
            "files one by one, or put them where all machines see them"
        )


def _check_size(entries: list[Entry]) -> None:
    size, most = sum(entry.size for entry in entries), limit()
    if size > most:
        largest = sorted(entries, key=lambda entry: -entry.size)[:NAMED]
        names = ", ".join(
            f"{os.path.join(entry.root, entry.path)} ({format_bytes(entry.size)})" for entry in largest
        )
        raise ValueError(
            f"the modules and files that travel to the workers have {format_bytes(size)}, more than "
            f"{format_bytes(most)}; the largest: {names}. Leave them out, put them where all machines see them, or set "
            f"CW_TRAVEL_LIMIT={-(-size // 1_000_000)}MB in this program's environment"
        )
