"""A store read whole, to find what is damaged. Nothing is changed, and nothing is unpickled.

segments --> Inventory: checksums of all records
files of large results, and packed results --> read --> checksums
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import zlib
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from cw import program
from cw.errors import StoreError
from cw.needs import format_bytes
from cw.store import directory
from cw.store import format as form
from cw.store.inventory import Damage, Inventory, Read
from cw.store.listing import Listing
from cw.store.reader import WRITING_SECONDS

READ_AT_ONCE = 16 * 1024**2
"""Bytes of a large result that are read at once. Larger: more memory. Smaller: more system calls."""


class Verified(NamedTuple):
    """What a store has, and what of it is damaged. As a text, a few lines for people."""

    path: str
    results: int
    """Number of results that can be read, also those that others have superseded."""
    files: int
    """Number of files of results."""
    large: int
    """Number of results with a file of their own that can be read."""
    bytes: int
    damages: list[Damage]
    unfinished: list[tuple[str, int]]
    """Files that end in a result that was not written to its end, since its program was killed; and its bytes. It never
    counted as stored."""

    @property
    def lost(self) -> int:
        """Number of results that are lost, as far as can be seen."""
        return sum(damage.lost for damage in self.damages)

    @property
    def is_intact(self) -> bool:
        """True if nothing is damaged."""
        return not self.damages

    def __str__(self) -> str:
        lines = []
        for name, size in self.unfinished:
            lines.append(f"{name}: its program was killed; its last {size:,} bytes are no result that counts")
        for damage in self.damages:
            what = (
                f"{damage.size:,} bytes at {damage.position:,} are damaged"
                if damage.size
                else "cannot be read"
            )
            lost = program.count(damage.lost, "result") + (" is" if damage.lost == 1 else " are")
            lines.append(f"{damage.file}: {what}: {lost} lost")
        counted = (
            f"{program.count(self.results, 'result')} in {program.count(self.files, 'file')}, "
            f"{self.large:,} of them large: {format_bytes(self.bytes)}"
        )
        if self.is_intact:
            lines.append(f"{counted}; nothing is damaged")
        else:
            lines.append(
                f"{counted}; {self.lost:,} lost: run the script again, and it computes what is missing"
            )
        return "\n".join(lines)


def verify(path: str | os.PathLike[str]) -> Verified:
    """Read a store whole. Raises StoreError if that is not possible at all."""
    path = os.path.abspath(os.fspath(path))
    directory.identify(path, is_writing=False)
    for _ in range(directory.LISTINGS):
        with contextlib.suppress(
            directory.FileGone
        ):  # another program tidies it: what was read may come again
            return _verify(path)
    return _verify(path)


def _verify(path: str) -> Verified:
    results = large = size = 0
    damages: list[Damage] = []
    unfinished: list[tuple[str, int]] = []
    parts = Listing(path).current()
    for name, start in parts:
        inventory = Inventory(name, start)
        with _opened(path, name) as (read, status):
            inventory.read(read)
            found = list(_unreadable(path, inventory, read))
            is_busy = time.time() - status.st_mtime < WRITING_SECONDS
        if inventory.header.get("format", 0) > form.FORMAT:
            raise directory.newer_error(os.path.join(path, name), inventory.header)
        results += len(inventory.results) - len(found)
        large += len(inventory.large) - sum(damage.file != name for damage in found)
        size += inventory.size + sum(json.loads(said)["size"] for said in inventory.large.values())
        damages += inventory.damages + found
        if inventory.unfinished and not is_busy:
            unfinished.append((name, inventory.unfinished))
    return Verified(path, results, len(parts), large, size, damages, unfinished)


@contextlib.contextmanager
def _opened(path: str, name: str) -> Iterator[tuple[Read, os.stat_result]]:
    """Open a segment, which gives what reads it, and its status. Raises FileGone, StoreError."""
    try:
        fd = os.open(os.path.join(path, name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield partial(os.pread, fd), os.fstat(fd)
        finally:
            os.close(fd)
    except FileNotFoundError as error:
        raise directory.FileGone(f"the store {path}: {name} has been removed") from error
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise directory.io_error(f"cannot be read: {name}", path, error) from error


def _unreadable(path: str, inventory: Inventory, read: Read) -> Iterator[Damage]:
    """Yield what cannot be read though its record is intact."""
    for said in inventory.large.values():
        name = os.path.join(directory.LARGE_DIRECTORY, directory.large_name(said))
        if not _is_whole(os.path.join(path, name), said):
            yield Damage(name, 0, 0, 1)
    for position, sample_position in inventory.packed.items():
        try:
            head, body = form.read_record(read, position)
            sample_head, sample = form.read_record(read, sample_position)
            form.unpack(body[head.args_size :], sample[sample_head.args_size :])
        except form.DAMAGE:
            yield Damage(inventory.name, position, form.SIZE, 1)


def _is_whole(file_name: str, said: bytes) -> bool:
    """True if the file of a large result is what its record says."""
    where = json.loads(said)
    size = crc = 0
    try:
        with open(file_name, "rb", buffering=0) as file:
            while data := file.read(READ_AT_ONCE):
                size += len(data)
                crc = zlib.crc32(data, crc)
    except OSError:
        return False
    return (size, crc) == (where["size"], where["crc"])
