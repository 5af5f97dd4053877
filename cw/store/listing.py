"""Which segments a store consists of: those that are listed, without those that a merged segment replaces.

    names in the directory --> without what merged segments replace --> Part, Part, ...

A merged segment is complete before it has its name, and those that it replaces are removed after that. So a program
that looks in between sees both, and takes the merged one. A replaced segment that has grown since counts from there on:
its writer was only asleep.
"""

from __future__ import annotations

import os
import time
from collections.abc import Set
from functools import partial

from cw.events import EventLogger
from cw.named_tuple import NamedTuple
from cw.store import directory
from cw.store import format as form
from cw.store.format import Replaced

logger = EventLogger("cw.store")

LATE_SECONDS = 90.0
"""Time in which a network file system may go on to list what another machine has removed. Larger: a program waits
longer for it in vain. Smaller: it may miss what was put in its place."""


class Part(NamedTuple):
    """A segment that counts, from a position on."""

    name: str
    start: int = 0


class Listing:
    """The segments of a store. Each merged one is asked once for what it replaces."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._replaced_by: dict[str, list[Replaced]] = {}

    def current(self, gone: Set[str] = frozenset()) -> list[Part]:
        """List the segments that count, the oldest first. `gone`: those that were listed before, but were not there;
        a list with one of these is late, and is made again. Raises StoreError."""
        try:
            names = self._without_late(gone)
            replaced = self._replaced(names)
            starts = [(name, self._start(name, replaced)) for name in names]
            return [Part(name, start) for name, start in starts if start is not None]
        except OSError as error:
            raise directory.io_error("cannot be read", self._path, error) from error

    def replaced(self) -> dict[str, Replaced]:
        """Return by name the segments that merged ones replace, whether they are there or not. Raises StoreError."""
        try:
            return self._replaced(directory.segment_names(self._path))
        except OSError as error:
            raise directory.io_error("cannot be read", self._path, error) from error

    def _replaced(self, names: list[str]) -> dict[str, Replaced]:
        found: dict[str, Replaced] = {}
        for name in names:
            if directory.MERGED not in name:
                continue
            if name not in self._replaced_by:
                self._replaced_by[name] = _read_replaced(os.path.join(self._path, name))
            for each in self._replaced_by[name]:
                if each.name not in found or found[each.name].size < each.size:
                    found[each.name] = each
        return found

    def _start(self, name: str, replaced: dict[str, Replaced]) -> int | None:
        """Return the position from which on a segment counts; None: it does not count."""
        if name not in replaced:
            return 0
        size = replaced[name].size
        try:
            return size if os.stat(os.path.join(self._path, name)).st_size > size else None
        except FileNotFoundError:
            return None

    def _without_late(self, gone: Set[str]) -> list[str]:
        begin, is_reported = time.monotonic(), False
        while not gone.isdisjoint(names := directory.segment_names(self._path)):
            waited = time.monotonic() - begin
            if waited > LATE_SECONDS:
                break
            if waited > 1 and not is_reported:
                is_reported = True
                logger.info(
                    "store.listing_late",
                    "the store %s: %s is listed, but is not there: waiting until the file system shows what has come "
                    "in its place",
                    self._path, ", ".join(gone & set(names)),
                )  # fmt: skip
            time.sleep(0.05)
        return names


def _read_replaced(path: str) -> list[Replaced]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # another merged one has come in its place, and says what it replaces
        return []
    try:
        return form.read_replaced(partial(os.pread, fd))
    finally:
        os.close(fd)
