"""A store made smaller: segments are merged, and results that others have superseded are dropped.

    read all segments --> which results are superseded, which segments are settled --> groups of segments
    of each group:  write a file, force it to the disk --> give it its name --> remove the segments that it replaces

At any moment, also if this program is killed or the power fails, a reader finds each result: in the segments as they
were, or in the merged one, which says what it replaces. What an earlier tidying has left undone is done first.

A segment is settled if it has an end mark, or was not changed for a week: nobody writes to it any more. (If somebody
does, because a laptop was closed for a week: see `_remove`, and `Writer`.)
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from cw import program
from cw.errors import StoreError
from cw.needs import format_bytes
from cw.store import directory, merge_plan
from cw.store import format as form
from cw.store.claim import Claim
from cw.store.inventory import Found, Inventory
from cw.store.listing import Listing
from cw.store.merge_plan import Candidate
from cw.store.merging import Merging

ASLEEP_SECONDS = 7 * 86_400.0
"""Time without a change after which a segment without an end mark is taken for that of a program that was killed.
Larger: such segments are merged later. Smaller: a program that sleeps must begin another segment when it wakes up."""

OPEN_FILES = 64
"""Most segments that are open at once. Larger: more descriptors. Smaller: files are opened more often."""

WRITTEN_AT_ONCE = 1024**2
"""Bytes that are gathered before they are written. Larger: more memory. Smaller: more system calls."""

SYNCED_AT_ONCE = 64 * 1024**2
"""Bytes after which what was written is forced to the disk. Larger: the last wait is longer, and the sign of life is
missing meanwhile. Smaller: more waits."""


class Tidied(NamedTuple):
    """What a tidying has done. As a text, a few lines for people."""

    path: str
    merged: int
    """Number of files of results that were merged or written again."""
    into: int
    """Number of files that came in their place."""
    kept: int
    """Number of results in these."""
    dropped: int
    """Number of results that were dropped, since others have superseded them."""
    unused: int
    """Number of files of large results that nothing refers to any more, and that were removed."""
    unsettled: int
    """Number of files left alone because a program may still write to them."""
    damaged: int
    """Number of files left alone because they are damaged."""
    bytes_before: int
    bytes_after: int

    def __str__(self) -> str:
        lines = []
        if self.merged:
            files = program.count(self.merged, "file of results", "files of results")
            kept = program.count(self.kept, "result")
            lines.append(f"merged {files} into {self.into:,}: {kept}; dropped {self.dropped:,} superseded")
        else:
            lines.append("nothing to merge")
        if self.unused:
            lines.append(f"removed {program.count(self.unused, 'large result')} that nothing refers to")
        if self.unsettled:
            files = program.count(self.unsettled, "file")
            lines.append(
                f"left {files} to which a program may still write: without an end mark, and changed within 7 days"
            )
        if self.damaged:
            lines.append(f"left {program.count(self.damaged, 'damaged file')}: --verify says what is damaged")
        lines.append(f"{format_bytes(self.bytes_before)} before, {format_bytes(self.bytes_after)} now")
        return "\n".join(lines)


def tidy(path: str | os.PathLike[str]) -> Tidied:
    """Merge the segments of a store, and drop what was superseded. Raises StoreError."""
    tidying = Tidying(os.path.abspath(os.fspath(path)))
    try:
        for _ in tidying.steps():
            pass
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        what = f"the store {tidying.path} cannot be tidied: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what += f". Nothing is lost. Make room for {format_bytes(tidying.needed)}, and try again"
        raise StoreError(what) from error
    finally:
        tidying.claim.release()
    return tidying.result()


class Tidying:
    """One tidying of a store. `steps` does it; a test may stop after any step, as a kill would."""

    def __init__(self, path: str) -> None:
        """Raises StoreError if there is no store."""
        self.path = path
        self.claim = Claim(path)
        self.needed = 0  # bytes for the group in hand
        self._ident = directory.identify(path, is_writing=False)
        self._listing = Listing(path)
        self._files: OrderedDict[str, int] = OrderedDict()
        self._all: list[Inventory] = []
        self._settled: dict[str, Inventory] = {}
        self._numbers: dict[str, int] = {}  # of the settled segments, as in the places of the index
        self._referred: set[str] = set()  # files of large results
        self._index: dict[bytes, int] = {}  # by key: place of the latest result in the settled segments
        self._before = 0
        self._into = self._merged = self._kept = self._dropped = self._unused = 0

    def result(self) -> Tidied:
        damaged = sum(bool(each.damages) for each in self._all)
        unsettled = len(self._all) - len(self._settled) - damaged
        after = sum(size for _, size, _ in self._segment_files() + self._large_files())
        return Tidied(
            self.path, self._merged, self._into, self._kept, self._dropped, self._unused, unsettled, damaged,
            self._before, after,
        )  # fmt: skip

    def steps(self) -> Iterator[str]:
        """Tidy the store, and yield after each step that changed something on the disk. Raises StoreError, OSError."""
        try:
            self.claim.take()
            yield "claimed"
            directory.sync(self.path)
            large = self._large_files()  # before the segments are read: what is in none of them is unused
            self._before = sum(size for _, size, _ in self._segment_files() + large)
            yield from self._remove_replaced()
            self._read_all()
            for group in merge_plan.groups([self._candidate(each) for each in self._all]):
                yield from self._merge([self._settled[name] for name in group])
            yield from self._remove_unused(large)
        finally:
            while self._files:
                os.close(self._files.popitem()[1])

    # --- reading ---

    def _segment_files(self) -> list[tuple[str, int, float]]:
        return _files_in(self.path, ".seg")

    def _large_files(self) -> list[tuple[str, int, float]]:
        """List the files of large results: name, size, time of the last change."""
        with contextlib.suppress(FileNotFoundError):
            return _files_in(os.path.join(self.path, directory.LARGE_DIRECTORY), "")
        return []

    def _read_all(self) -> None:
        """Read all segments: which are settled, and which results of theirs are the latest."""
        for name, start in self._listing.current():
            inventory = Inventory(name, start)
            try:
                fd = self._fd(name)
                before = os.fstat(fd)
                inventory.read(partial(self._pread, name))
                after = os.fstat(fd)
            except FileNotFoundError:  # its writer has removed it, having had no results
                continue
            self.claim.beat()
            if inventory.header.get("format", 0) > form.FORMAT:
                raise directory.newer_error(os.path.join(self.path, name), inventory.header)
            is_still = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
            is_old = self.claim.time - after.st_mtime > ASLEEP_SECONDS
            self._all.append(inventory)
            self._referred |= {directory.large_name(said) for said in inventory.large.values()}
            if (
                inventory.header.get("store") == self._ident
                and not inventory.damages
                and is_still
                and inventory.size == after.st_size
                and (inventory.is_ended or is_old)
            ):
                os.fsync(fd)  # what supersedes another must not be lost after that
                for found in inventory.results:
                    place = form.place_of(len(self._settled), found.position, found.status)
                    form.enter(self._index, found.key, place)
                self._numbers[name] = len(self._settled)
                self._settled[name] = inventory

    def _is_kept(self, name: str, found: Found) -> bool:
        place = form.place_of(self._numbers[name], found.position, found.status)
        return self._index[found.key] == place

    def _candidate(self, inventory: Inventory) -> Candidate:
        name = inventory.name
        is_settled = name in self._settled
        kept = sum(self._is_kept(name, found) for found in inventory.results) if is_settled else 0
        results = len(inventory.results)
        return Candidate(name, inventory.size, inventory.scheme, is_settled, results, results - kept)

    def _fd(self, name: str) -> int:
        fd = self._files.pop(name, -1)
        if fd < 0:
            fd = os.open(os.path.join(self.path, name), os.O_RDONLY | os.O_CLOEXEC)
            if len(self._files) >= OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        self._files[name] = fd
        return fd

    def _pread(self, name: str, size: int, position: int) -> bytes:
        return os.pread(self._fd(name), size, position)

    # --- merging ---

    def _merge(self, group: list[Inventory]) -> Iterator[str]:
        kept = [[found for found in each.results if self._is_kept(each.name, found)] for each in group]
        self.needed = sum(each.size for each in group)
        names = set(directory.segment_names(self.path))
        merging = Merging(self.path, group, kept, names, self._pread)
        fd = self.claim.open_file()
        try:
            yield "made"
            self._write(fd, merging)
            yield "written"
        except form.DAMAGE as error:
            raise StoreError(f"the store {self.path} has changed while it was tidied: {error}") from error
        finally:
            os.close(fd)
        name = directory.merged_name(group[0].name)
        self.claim.publish(name)
        yield "published"
        directory.sync(self.path)
        yield "synced"
        for each in group:
            self._remove(each.name, each.size)
            yield "removed"
        directory.sync(self.path)
        self._into += 1
        self._merged += len(group)
        self._kept += sum(map(len, kept))
        self._dropped += sum(len(each.results) for each in group) - sum(map(len, kept))
        for each in group:
            for position in [found.position for found in each.results if not self._is_kept(each.name, found)]:
                each.large.pop(position, None)

    def _write(self, fd: int, merging: Merging) -> None:
        waiting: list[bytes] = []
        size = unsynced = 0
        for part in merging.parts():
            waiting.append(part)
            size += len(part)
            if size > WRITTEN_AT_ONCE:
                _write_all(fd, b"".join(waiting))
                unsynced += size
                waiting, size = [], 0
                if unsynced > SYNCED_AT_ONCE:
                    os.fdatasync(fd)
                    unsynced = 0
                self.claim.beat()
        _write_all(fd, b"".join(waiting))
        os.fsync(fd)

    def _remove_replaced(self) -> Iterator[str]:
        """Remove what an earlier tidying has merged, but could not remove."""
        counting = {part.name for part in self._listing.current()}
        replaced = self._listing.replaced()
        for name in directory.segment_names(self.path):
            if name in replaced and name not in counting:
                self._remove(name, replaced[name].size)
                yield "removed"
        directory.sync(self.path)

    def _remove(self, name: str, size: int) -> None:
        """Remove a merged segment that has this size. One that has grown stays: it counts from there on."""
        path = os.path.join(self.path, name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            if os.fstat(fd).st_size != size:
                return
            os.unlink(path)
            if os.fstat(fd).st_size != size:  # its writer wrote in this moment, and saw it there: put it back
                copy = f"{path}.tmp"
                with open(fd, "rb", closefd=False) as source, open(copy, "xb") as target:
                    shutil.copyfileobj(source, target)
                    target.flush()
                    os.fsync(target.fileno())
                os.rename(copy, path)
        finally:
            os.close(fd)

    # --- large results ---

    def _remove_unused(self, large: list[tuple[str, int, float]]) -> Iterator[str]:
        """Remove files of results that were dropped, and of programs that were killed before they referred to them."""
        if any(each.damages for each in self._all):
            return  # one of these may refer to them
        used = {directory.large_name(said) for each in self._all for said in each.large.values()}
        dropped = self._referred - used
        for name, _, changed in large:
            if name in dropped or (name not in used and self.claim.time - changed > ASLEEP_SECONDS):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.path, directory.LARGE_DIRECTORY, name))
                    self._unused += 1
                yield "unused"


def _files_in(path: str, end: str) -> list[tuple[str, int, float]]:
    found = []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.endswith(end):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    found.append((entry.name, status.st_size, status.st_mtime))
    return found


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
