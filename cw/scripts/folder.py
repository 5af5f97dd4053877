"""Folder of a whole script's run: `~/.cw/runs/NAME/`, which all of the user's machines with this home can read.

    script.json     Script: what runs                               written once, by `cw run`
    place.json      Place: where                                    by `cw run`, or by the host where only it knows
    outcome.json    Outcome: its phase, its exit status             by the host; by who finds it lost
    alive           touched by the host while it lives
    cancel, interrupt    requests to the host
    output          what the script prints; output.1: what was before, when that is much
    run.json, ...   what a steward has there (cw.runs.folder)       where it runs in a slot, detached
    slot.cw/        store of the client whose job the script is     where it runs in a slot
    host.log        what the host itself has to say; nothing, mostly

Files are written whole, as all in the user's own directory (cw.userdir).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TypeVar

from cw import userdir
from cw.runs.folder import RunFolder
from cw.scripts.script import Outcome, Place, Script, from_json, to_json

T = TypeVar("T", Script, Place, Outcome)

RUNS = "runs"

FILE_BYTES = 4 * 1024**2
"""Most bytes read of one of its files: more than the kernel lets a command line have."""


class ScriptFolder:
    """The folder of the run `name`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = os.path.join(userdir.home_directory(), RUNS, name)

    def exists(self) -> bool:
        """True if there is a run of a script of this name."""
        return os.path.exists(os.path.join(self.path, "script.json"))

    def script(self) -> Script:
        """Return what runs. Raises ValueError if the file is missing or damaged."""
        script = self._read("script.json", Script)
        return script._replace(words=list(script.words))

    def place(self) -> Place:
        """Return where it runs; an empty Place while that is not known."""
        return self._read("place.json", Place, Place())

    def outcome(self) -> Outcome:
        """Return its state as the host has noted it."""
        return self._read("outcome.json", Outcome, Outcome())

    def write(self, value: Script | Place | Outcome) -> None:
        """Write one of these."""
        name = {Script: "script.json", Place: "place.json", Outcome: "outcome.json"}[type(value)]
        userdir.write_private(os.path.join(RUNS, self.name, name), to_json(value))

    def request(self, word: str) -> None:
        """Ask the host to 'cancel' or to 'interrupt' the script."""
        userdir.write_private(os.path.join(RUNS, self.name, word), b"")

    def take_request(self, word: str) -> bool:
        """True if the host was asked for this since it looked last."""
        with contextlib.suppress(OSError):
            os.unlink(self.file(word))
            return True
        return False

    def touch(self) -> None:
        """Note that the host lives."""
        with contextlib.suppress(OSError):  # a full disk, a file server that restarts: again next time
            if not os.path.exists(self.file("alive")):
                userdir.write_private(os.path.join(RUNS, self.name, "alive"), b"")
            os.utime(self.file("alive"))

    def silence(self) -> float | None:
        """Return the time since the host noted that it lives, by the clock of the disk; None: it never did.

        Two machines' clocks are never compared: the file server gives both times.
        """
        try:
            touched = os.stat(self.file("alive")).st_mtime
            userdir.write_private(os.path.join(RUNS, self.name, "looked"), b"")
            return os.stat(self.file("looked")).st_mtime - touched
        except OSError:
            return None

    @property
    def store(self) -> str:
        """Path of the store for a job in a slot, which is the script."""
        return self.file("slot.cw")

    def run(self) -> RunFolder:
        """Return the folder of the run that a steward holds for a script in a slot: this one, where keepers find it."""
        return RunFolder(self.path)

    def file(self, name: str) -> str:
        """Return the path of a file in the folder."""
        return os.path.join(self.path, name)

    def last_log_line(self) -> str:
        """Return the last line that the host has logged, or ''."""
        with contextlib.suppress(OSError), open(self.file("host.log"), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ""

    def remove(self) -> None:
        """Remove it with all that it holds."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _read(self, name: str, kind: type[T], default: T | None = None) -> T:
        data = userdir.read_private(os.path.join(RUNS, self.name, name), FILE_BYTES)
        if data is None:
            if default is None:
                raise ValueError(f"{self.file(name)} is missing: the run cannot be understood without it")
            return default
        try:
            return from_json(kind, data)
        except ValueError as error:
            raise ValueError(f"{self.file(name)} is damaged ({error})") from None
