"""Packs: the form in which files travel, several in each. Pure.

    files, in the order of their names --group--> packs: small files together, each large one by itself
    [size of the JSON][JSON: (root, path, size, time, is_program) of each file][contents, one after another]

A file's *root* is the directory of the client's `sys.path` in which it is found, or HERE: the working directory. Where
a pack of small files ends depends on names alone, so an edit changes one pack and no other.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence

from cw.errors import PayloadError
from cw.named_tuple import NamedTuple

HERE = ""
"""Root of files that are looked up in the working directory."""

LARGE = 64 * 1024
"""Size of a file (bytes) from which on it has a pack of its own. Larger: an edit sends more. Smaller: more objects."""

TOGETHER = 16
"""Small files in a pack, on average. More: an edit sends more. Fewer: more objects."""


class Entry(NamedTuple):
    """One file, as it is at the client."""

    root: str
    path: str  # relative to the root
    size: int
    modified: int  # ns since 1970
    is_program: bool

    @property
    def top(self) -> str:
        """The name of the module or package that the file belongs to, if its root is on `sys.path`."""
        return self.path.partition("/")[0].partition(".")[0]


def group(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Group files into packs."""
    packs: list[list[Entry]] = []
    small: list[Entry] = []
    for entry in sorted(entries):
        if entry.size >= LARGE:
            packs.append([entry])
            continue
        if small and (small[-1].root != entry.root or _ends_pack(small[-1])):
            packs.append(small)
            small = []
        small.append(entry)
    return [*packs, small] if small else packs


def _ends_pack(entry: Entry) -> bool:
    return zlib.crc32(entry.path.encode(errors="surrogateescape")) % TOGETHER == 0


def dump(entries: Sequence[Entry], contents: Sequence[bytes]) -> bytes:
    """Encode files, with their contents, as a pack."""
    rows = [entry._replace(size=len(data)) for entry, data in zip(entries, contents, strict=True)]
    head = json.dumps(rows).encode()
    return b"".join([len(head).to_bytes(4, "little"), head, *contents])


def load(payload: bytes | bytearray | memoryview) -> Iterator[tuple[Entry, memoryview]]:
    """Decode a pack: each file, and its content, which is a view of the payload. Raises PayloadError."""
    view = memoryview(payload)
    end = 4 + int.from_bytes(view[:4], "little")
    try:
        entries = [Entry(*row) for row in json.loads(bytes(view[4:end]))]
    except (ValueError, TypeError) as error:
        raise PayloadError(f"the payload is not that of a pack of files: {error}") from None
    for entry in entries:
        yield entry, view[end : end + entry.size]
        end += entry.size
