"""The modules and files that travel with one session, at the client: which they are now, and whether they have changed.

    submit, map --look()--> have they changed? --> the environment is taken anew, with their packs
    a job that could be entered nowhere --decide()--> do modules travel from now on?

While nothing travels, this costs a comparison at each check of the user's modules.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from cw.errors import EnvironmentMismatch
from cw.events import EventLogger
from cw.needs import format_bytes
from cw.payloads.environment import SCRATCH, Travelling
from cw.travel import choice, packs
from cw.travel.packs import Entry

logger = EventLogger("cw.client")

SHARE = 0.01
"""Share of time for looks at files that travel, between submits. More: an edit is seen sooner. Less: more jobs/s."""

NAMED = 3
"""Most files that a line of the log names."""


class Baggage:
    """What travels with one session. Its owner holds a lock around every call."""

    def __init__(self, modules: Any = None, files: Any = None, workdir: str | None = None) -> None:
        """Arguments as the user gave them; `workdir` is checked. Raises TypeError, ValueError, ModuleNotFoundError,
        FileNotFoundError."""
        asked = choice.check_modules(modules)
        self.travelling: Travelling | None = None
        """What the present environment says about them; None: nothing travels."""
        self._names = asked if isinstance(asked, tuple) else ()
        self._files = choice.check_files(files, workdir, SCRATCH)
        self._is_all = asked is True
        self._may_decide = asked is not False
        self._workdir = workdir
        self._here = ""
        self._entries: list[Entry] = []
        self._due = 0.0
        self._has_failed = False
        if self:
            self._list()

    def __bool__(self) -> bool:
        """True if something travels."""
        return bool(self._names or self._files or self._is_all)

    @property
    def is_automatic(self) -> bool:
        """True if the user's modules do not travel yet, and will where they are missing."""
        return self._may_decide and not self._is_all

    def for_environment(self) -> tuple[str | None, Travelling | None, bool]:
        """Return what `dump_environment` takes after the seed."""
        return self._workdir, self.travelling, self.is_automatic

    def pack(self, add: Callable[[bytes], int]) -> list[int]:
        """Read the files, as they are now, for a new environment. Returns the numbers of their packs' objects: `add`
        makes one. Raises ValueError if they are too large, OSError."""
        self.travelling = None
        if not self:
            return []
        self._list()
        numbers = []
        for entries in packs.group(self._entries):
            contents = [_read(os.path.join(each.root or self._here, each.path)) for each in entries]
            there = [(each, data) for each, data in zip(entries, contents, strict=True) if data is not None]
            numbers.append(add(packs.dump([each for each, _ in there], [data for _, data in there])))
        self.travelling = Travelling(self._here, numbers)
        return numbers

    def look(self, is_due: bool = False) -> bool:
        """True if files that travel have changed since they were packed. `is_due`: look, however short ago the last
        look was."""
        now = time.monotonic()
        if self.travelling is None or (now < self._due and not is_due):
            return False
        before = self._entries
        try:
            self._list()
        except (ValueError, OSError) as error:
            self._fail(error)
            return False
        if before == self._entries:
            return False
        changed = sorted({os.path.join(root, path) for root, path, *_ in {*before} ^ {*self._entries}})
        others = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        logger.info(
            "client.files_changed",
            "files that travel have changed (%s): jobs see them from now on, in fresh runners",
            ", ".join(changed[:NAMED]) + others,
        )
        return True

    def decide(self, error: BaseException | None) -> bool:
        """Decide whether the user's modules travel from now on, after this error of a job that no worker could enter.
        Returns whether something that it lacks travels now."""
        if self._is_all or not self._may_decide:
            return self._is_all
        if isinstance(error, EnvironmentMismatch):
            is_cured = self._workdir is None
        else:
            is_cured = isinstance(error, ImportError) and choice.is_own(error.name or "")
        if not is_cured or self._has_failed or not (self._workdir or _here()):
            return False  # (a directory that is gone here, too, is the user's to mend)
        self._is_all = True
        try:
            self._list()
        except (ValueError, OSError) as failure:
            self._is_all = False
            self._fail(failure)
            return False
        size = sum(entry.size for entry in self._entries)
        logger.warning(
            "client.files_travel",
            "no worker has this program's directory or modules: %d files of its modules (%s) travel to the workers "
            "from now on; where %s is missing, jobs run in another directory. Data files travel with files=[...]",
            len(self._entries),
            format_bytes(size),
            self._here,
        )
        return True

    def _list(self) -> None:
        began = time.monotonic()
        self._here = here = _here() or self._here
        self._entries = choice.choose(self._names, self._is_all, self._files, here)
        now = time.monotonic()
        self._due = now + (now - began) / SHARE

    def _fail(self, error: BaseException) -> None:
        if not self._has_failed:
            self._has_failed = True
            logger.warning("client.files_stay", "modules and files cannot travel to the workers: %s", error)


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:  # it has just gone
        return None
