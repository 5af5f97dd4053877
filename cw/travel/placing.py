"""Files that have come with a session, in a runner: used where the client has them, or written to a new directory.

    are the client's directories here, with the same files? -- yes --> they are used, as if nothing had travelled
      '-- no --> SCRATCH/files-DIGEST/0, 1, ...   one for each directory of sys.path, in its place on the runner's
                                     /here        data files; the runner's own directory gets links to them

All runners of a worker use one copy. Each holds a lock on the file beside it, which ends with its process, so that the
worker knows when it may remove the copy. The files are read-only; the directories are not, for compiled code.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.machinery
import importlib.util
import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cw.errors import EnvironmentMismatch
from cw.named_tuple import NamedTuple
from cw.payloads.environment import SCRATCH, Environment, directory_of
from cw.travel import packs
from cw.travel.packs import HERE, Entry

PREFIX = "files-"
KEPT_SECONDS = 60.0
"""Time for which a copy stays that no runner uses (seconds). Longer: room on the disk. Shorter: the same program, run
again or with an edited file, writes and compiles all of them once more."""

_LOCK, _MAKING = ".lock", ".making"
"""Names of files beside a copy: locked by those who use it, and by the one who makes it."""
_NAME_OF_HERE = "here"

READ_ONLY, PROGRAM = 0o444, 0o555

File = tuple[Entry, memoryview]


class Placed(NamedTuple):
    """Where the files of an environment are in this runner."""

    environment: Environment
    """The client's environment, with the places that hold here."""
    links: list[tuple[str, str]]
    """Links that the working directory gets: names in it, and what they lead to."""
    compiled: list[str]
    """Paths of compiled modules that have come."""

    def link(self) -> None:
        """Make the links in the working directory."""
        for name, place in self.links:
            if parent := os.path.dirname(name):
                os.makedirs(parent, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # the environment is applied again
                os.symlink(place, name)

    def linked(self) -> set[str]:
        """Return the names that `link` makes in the working directory itself."""
        return {name.partition("/")[0] for name, _ in self.links}


def place(environment: Environment, payload_of: Callable[[int], Any], scratch: str) -> Placed:
    """Find or make the files of an environment, as `_place` says; and remember where they are, for `explain`."""
    global _placed
    _placed = None
    _placed = _place(environment, payload_of, scratch)
    return _placed


def _place(environment: Environment, payload_of: Callable[[int], Any], scratch: str) -> Placed:
    """Find or make the files of an environment. `payload_of(number)`: that of a pack. `scratch`: the runner's own
    directory.

    Raises EnvironmentMismatch if they cannot be written.
    """
    travelling = environment.travelling
    if travelling is None:
        return Placed(environment, [], [])
    payloads = [payload_of(number) for number in travelling.packs]
    files = [file for payload in payloads for file in packs.load(payload)]
    compiled = [entry.path for entry, _ in files if _is_compiled(entry)]
    has_data = any(entry.root == HERE for entry, _ in files)
    directory = directory_of(environment)
    is_entered = directory == SCRATCH or os.path.isdir(directory)
    is_alike = is_entered and (not has_data or directory == travelling.here)
    if is_alike and all(_is_here(file, travelling.here) for file in files):
        return Placed(environment, [], compiled)
    digest = hashlib.blake2b(digest_size=16)
    for payload in payloads:
        digest.update(hashlib.blake2b(payload, digest_size=16).digest())
    roots = _roots(files)
    try:
        copy = _copy_of(os.path.join(os.path.dirname(scratch), PREFIX + digest.hexdigest()), files, roots)
    except OSError as error:
        raise EnvironmentMismatch(
            f"the modules and files of the client's program cannot be written on {os.uname().nodename}: {error}"
        ) from error
    path_of = {root: os.path.join(copy, name) for root, name in roots.items()}
    path = [entry and path_of.get(os.path.normpath(entry), entry) for entry in environment.path]
    path += [place for root, place in path_of.items() if root != HERE and place not in path]
    moved = replace(environment, path=tuple(path), files=_moved(environment.files, path_of))
    if has_data or not is_entered:
        moved = replace(moved, directory=SCRATCH, is_chosen=True)
    links = [
        (entry.path, os.path.join(path_of[HERE], entry.path)) for entry, _ in files if entry.root == HERE
    ]
    return Placed(moved, links, compiled)


_placed: Placed | None = None
"""What `place` has returned last in this process."""


def without_links(names: list[str]) -> list[str]:
    """Return those of these names in the working directory that do not come from `Placed.link`."""
    return names if _placed is None else [name for name in names if name not in _placed.linked()]


def explain(error: BaseException) -> None:
    """Say in the error of an import what to do, where it is known."""
    placed = _placed
    if placed is None or placed.environment.travelling is None:
        return
    if not isinstance(error, ImportError) or not error.name:
        return
    path = error.name.replace(".", "/")
    built = [each for each in placed.compiled if each.startswith(path + ".")]
    if built:
        own = importlib.machinery.EXTENSION_SUFFIXES[0]
        why = f"{built[0]} was compiled for another platform or Python than this one, {own}: build it there"
    elif isinstance(error, ModuleNotFoundError):
        why = (
            "it does not travel, as it is installed at the client or not one of its own modules: install it there, "
            f"or name it with modules=[{error.name.partition('.')[0]!r}]"
        )
    else:
        return
    error.msg = f"{error.msg} ({why})"
    error.args = (error.msg, *error.args[1:])


def sweep(scratch: str) -> None:
    """Remove the copies that no process uses, in the directory of all runners of a worker."""
    with contextlib.suppress(OSError):
        for name in os.listdir(scratch):
            if _is_copy(name):
                _remove_unused(os.path.join(scratch, name))


def _is_copy(name: str) -> bool:
    return name.startswith(PREFIX) and "." not in name


def _remove_unused(copy: str) -> None:
    gone = f"{copy}.{secrets.token_hex(4)}"
    lock = _open_lock(copy + _LOCK)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(copy, gone)
    except BlockingIOError:
        return
    finally:
        os.close(lock)
    _remove(gone)


def _remove(directory: str) -> None:
    import shutil  # imported late: runners would inherit it and all that it imports

    shutil.rmtree(directory, ignore_errors=True)


# --- the copy ---

_held: dict[str, int] = {}
"""Locks that this process holds, by the copy that it uses: descriptors, which close with the process."""


def _copy_of(copy: str, files: list[File], roots: dict[str, str]) -> str:
    """Return the directory with these files, which no one removes while this process lives. Makes it if need be."""
    if copy in _held:
        return copy
    with contextlib.suppress(FileExistsError):
        os.mkdir(os.path.dirname(copy), 0o700)
    lock = _open_lock(copy + _LOCK)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)  # from here on nobody removes the copy
        making = _open_lock(copy + _MAKING)
        try:
            fcntl.flock(making, fcntl.LOCK_EX)
            if not os.path.isdir(copy):
                _write(copy, files, roots)
        finally:
            os.close(making)
    except BaseException:
        os.close(lock)
        raise
    _held[copy] = lock
    return copy


def _open_lock(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _write(copy: str, files: list[File], roots: dict[str, str]) -> None:
    """Write the copy whole: a process that dies here leaves none. What an earlier copy has is taken over, with its
    compiled code."""
    above = os.path.dirname(copy)
    formers = [os.path.join(above, name) for name in os.listdir(above) if _is_copy(name)]
    temporary = f"{copy}.{secrets.token_hex(4)}"
    try:
        os.mkdir(temporary, 0o700)
        for name in roots.values():
            os.mkdir(os.path.join(temporary, name), 0o700)
        for entry, data in files:
            name = os.path.join(roots[entry.root], entry.path)
            path = os.path.join(temporary, name)
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            if any(_take_over(os.path.join(former, name), path, entry, data) for former in formers):
                continue
            with open(path, "wb") as file:
                file.write(data)
                os.fchmod(file.fileno(), PROGRAM if entry.is_program else READ_ONLY)
            os.utime(path, ns=(entry.modified, entry.modified))  # code that is compiled once stays valid
        os.rename(temporary, copy)
    except BaseException:
        _remove(temporary)
        raise


def _take_over(former: str, path: str, entry: Entry, data: memoryview) -> bool:
    """Link a file of an earlier copy, and its compiled code, if it is the same. False: it is not."""
    try:
        status = os.stat(former)
        if (status.st_size, status.st_mtime_ns) != (entry.size, entry.modified):
            return False
        if bool(status.st_mode & 0o100) != entry.is_program:
            return False
        with open(former, "rb") as file:
            if file.read() != data:
                return False
        os.link(former, path)
    except OSError:  # it is not there, or has just gone
        return False
    if path.endswith(".py"):
        compiled = importlib.util.cache_from_source(path)
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(compiled), 0o700, exist_ok=True)
            os.link(importlib.util.cache_from_source(former), compiled)
    return True


def _roots(files: list[File]) -> dict[str, str]:
    """Name the directories of the copy, by the client's that they stand for."""
    roots = sorted({entry.root for entry, _ in files} - {HERE})
    return {root: str(number) for number, root in enumerate(roots)} | {HERE: _NAME_OF_HERE}


def _is_here(file: File, here: str) -> bool:
    """True if this file is at the client's place on this machine, too."""
    entry, data = file
    path = os.path.join(entry.root or here, entry.path)
    try:
        status = os.stat(path)
        if status.st_size != entry.size:
            return False
        if status.st_mtime_ns == entry.modified:
            return True
        with open(path, "rb") as opened:
            return opened.read() == data
    except OSError:
        return False


def _is_compiled(entry: Entry) -> bool:
    return entry.root != HERE and entry.path.endswith((".so", ".pyd"))


def _moved(files: dict[str, list[Any]], path_of: dict[str, str]) -> dict[str, list[Any]]:
    """Return what is known of the files of modules, with the places that these have here."""
    found = {}
    for name, (path, *rest) in files.items():
        above = [root for root in path_of if root != HERE and path.startswith(root.rstrip("/") + "/")]
        if above:
            root = max(above, key=len)
            path = path_of[root] + path[len(root.rstrip("/")) :]
        found[name] = [path, *rest]
    return found
