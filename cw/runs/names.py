"""Names of runs: by its name, a run is found from any directory, and from any machine with the same home.

    claim(name, store) --> ~/.cw/runs/NAME.json --> its folder: STORE/runs/NAME, or ~/.cw/runs/NAME without a store

A name is taken while its run lives. What has ended stays until its name is claimed again, or forgotten.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator

from cw import advice, userdir
from cw.errors import Error
from cw.program import UserError
from cw.store.directory import identify

MOST_CHARACTERS = 64
"""Characters of a name. More: lines of `cw runs list` break. Fewer: users must think of abbreviations."""

_ALLOWED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


class RunError(UserError, Error):
    """A run cannot be found, named or read; the text says why, and what to do."""


def check_name(name: str) -> str:
    """Return the name of a run. Raises ValueError if it cannot be one."""
    if not _ALLOWED.fullmatch(name) or len(name) > MOST_CHARACTERS:
        raise ValueError(
            f"{name!r} cannot be the name of a run: give letters, digits, '_', '.', '+' and '-', at most "
            f"{MOST_CHARACTERS}, the first one a letter, a digit or '_'"
        )
    return name


def default_name(path: str) -> str:
    """Return the name that a run gets from the path of its store, or of its script: 'sweep' from '.../sweep.cw'."""
    stem = os.path.splitext(os.path.basename(os.path.realpath(path)))[0]
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", stem).lstrip(".+-")[:MOST_CHARACTERS] or "run"


def claim(
    name: str | None, path: str, is_live: Callable[[str], bool], is_script: bool = False
) -> tuple[str, str]:
    """Take a name for a new run; returns the name and the run's folder, which is made anew.

    `path`: of its store, or, with `is_script`, of the script that runs as a whole. `is_live`: whether the run in a
    folder has not ended. Without a name, or where a live run of the same store has it, the run gets the next free
    number: 'sweep-2'. What an ended run of the name has left there is removed. Raises RunError,
    ValueError, StoreError, OSError.
    """
    wanted = default_name(path) if name is None else check_name(name)
    if not is_script:
        identify(path, is_writing=True)  # a directory that has something else in it could not become a store
    userdir.make_home()
    os.makedirs(directory(), 0o700, exist_ok=True)
    with userdir.locked("runs.lock"):
        for candidate in _numbered(wanted):
            place = directory() if is_script else os.path.join(os.path.realpath(path), "runs")
            folder = os.path.join(place, candidate)
            places = {_noted(candidate) or folder, folder}
            taken = [each for each in places if os.path.isdir(each) and is_live(each)]
            if not taken:
                break
            if name is not None and (is_script or taken != [folder]):
                raise RunError(
                    f"the run {candidate!r} has not ended, and is another one ({taken[0]}): give this one another name"
                )
        for each in places:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(each)
        os.makedirs(place, 0o700, exist_ok=True)
        os.mkdir(folder, 0o700)
        note = json.dumps({"folder": folder})
        userdir.write_private(_file(candidate), note.encode() + b"\n")
    return candidate, folder


def folders() -> dict[str, str]:
    """Return the folders of the user's runs, by name. One of them may be gone, with its store."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for file in sorted(os.listdir(directory())):
            name, extension = os.path.splitext(file)
            if extension == ".json" and (folder := _noted(name)) is not None:
                found[name] = folder
    return found


def find(name: str) -> str:
    """Return the folder of the run of this name. Raises RunError."""
    known = folders()
    if name in known:
        return known[name]
    others = f"there are {', '.join(known)}" if known else "there is none"
    raise RunError(f"there is no run {name!r} in {directory()}: {others}")


def in_store(store: str) -> list[str]:
    """Return the folders of the runs of a store, the earliest first. They need no name in this home."""
    place = os.path.join(os.path.realpath(store), "runs")
    found = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(place):
            with contextlib.suppress(OSError):  # it is being forgotten, or another user's
                if entry.is_dir() and _ALLOWED.fullmatch(entry.name):
                    found.append((os.stat(os.path.join(entry.path, "run.json")).st_mtime, entry.path))
    return [path for _, path in sorted(found)]


def forget(name: str) -> None:
    """Remove the name and the folder of a run that has ended. Its results stay in the store. Raises RunError."""
    folder = find(name)
    with userdir.locked("runs.lock"):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(userdir.home_directory(), _file(name)))


def directory() -> str:
    """Return the directory with the names: `~/.cw/runs`. It need not exist."""
    return os.path.join(userdir.home_directory(), "runs")


def command(verb: str, name: str) -> str:
    """Return a command for the run of this name, as the user types it."""
    return {
        "status": advice.command("runs", "status", name),
        "wait": advice.command("runs", "wait", name),
        "output": advice.command("runs", "output", name),
        "cancel": advice.command("runs", "cancel", name),
        "forget": advice.command("runs", "forget", name),
    }[verb]


def _file(name: str) -> str:
    return os.path.join("runs", f"{name}.json")


def _noted(name: str) -> str | None:
    """Return the folder that is noted for a name; None: the name is free, or what is noted is damaged."""
    try:
        folder = json.loads(userdir.read_private(_file(name)) or b"{}").get("folder")
    except (ValueError, AttributeError):
        return None
    return folder if isinstance(folder, str) else None


def _numbered(name: str) -> Iterator[str]:
    """Yield the name, and the same with numbers from 2 on."""
    yield name
    number = 2
    while True:
        end = f"-{number}"
        yield name[: MOST_CHARACTERS - len(end)] + end
        number += 1
