"""The form of a store's files: results to bytes, and bytes to records. No file is opened here.

    Entry --> Encoder --> records, one after the other --> Scan --> heads and bodies

    record:  | magic 4 | checksum 4 | size 4 | kind, status | host | function | size of arguments | number of the job |
             | when 8 | seconds 4 | key 16 |   then `size` bytes: the arguments' pickle, the result's pickle

A record counts from the moment its last byte is there. What a killed program leaves half-written at the end of its
segment is passed over, and so is a damaged place in the middle: the next record is found by its magic and checksum.
Functions, hosts and classes are records too, written once in each segment before they are referred to.

Results of one function are often alike: an instance of a class of the script brings the class's code along, 3 KiB
each time. So a result may be *packed*: what it has in common with an earlier one of the same segment, its sample, is
not written again.

Nothing in here unpickles anything.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

FORMAT = 1
"""Raised by one when an older cw could not read what this one writes. This one reads all earlier ones."""

LARGE = 1024 * 1024
"""Bytes of a result that gets a file of its own. More: scanning a store reads more. Less: more files."""

ARGUMENTS_KEPT = 64 * 1024
"""Bytes of pickled arguments up to which they are stored beside the result. More: large inputs fill the store."""

PACKED = 512, 32 * 1024
"""Bytes of results that are packed. Less: the time (10 us) saves nothing. More: beyond what zlib looks back."""

SAMPLE_USES = 256
"""Results that are packed by one sample. More: as many are lost with it if it is damaged. Less: more samples."""

SAMPLE_MISSES = 3
"""Results in a row that packing does not make half as large, after which it is not tried again for their function."""

READ_AT_ONCE = 4 * 1024**2
"""Bytes that a scan asks for at once. It must hold the largest record."""

MOST_BODY = 2 * LARGE
"""Bytes that follow the head of a record, at most."""

# The kinds of records.
HEADER, RESULT, LARGE_RESULT, FUNCTION, HOST, CLASS, PACKED_RESULT = range(7)
RESULTS = frozenset({RESULT, LARGE_RESULT, PACKED_RESULT})

MAGIC = b"\xc5cw\n"
RECORD = struct.Struct("<4sIIBBHIIQdf16s")
_CHECKED = struct.Struct("<IBBHIIQdf16s")  # the same without magic and checksum
SIZE = RECORD.size
_NO_KEY = bytes(16)

DAMAGE = ValueError, KeyError, struct.error, zlib.error
"""What the functions below raise where a record is damaged."""


ClassRecord = tuple[bytes, bytes, int]
"""Of a class of the script: its digest; the identity under which instances of it are pickled; which of the classes with
this digest it is in its program: the first, the second, ..."""


class Entry(NamedTuple):
    """A result on its way into the store."""

    key: bytes
    number: int
    function: str
    host: str
    status: int
    when: float
    seconds: float
    args: Any  # the arguments' pickle
    payload: Any  # the result's pickle
    is_durable: bool  # written to the disk itself before it counts as stored
    classes: Iterable[ClassRecord]  # that instances in it may be of


class Stored(NamedTuple):
    """A result that was read. `args` is None if the arguments were too large to be stored."""

    key: bytes
    number: int
    function: str
    host: str
    status: int
    when: float
    seconds: float
    args: bytes | None
    payload: Any


class Head(NamedTuple):
    """The first bytes of a record. `function` and `host` are numbers in its segment."""

    magic: bytes
    checksum: int
    size: int
    kind: int
    status: int
    host: int
    function: int
    args_size: int
    number: int
    when: float
    seconds: float
    key: bytes


# --- where a result is ------------------------------------------------------------------------


def place_of(segment: int, position: int, status: int) -> int:
    """One number for the segment, the position in it, and whether the call failed (see `is_error`)."""
    return segment << 41 | position << 1 | (status != 0)


def split_place(place: int) -> tuple[int, int]:
    """The segment, and the position in it."""
    return place >> 41, (place >> 1) & ((1 << 40) - 1)


def is_error(place: int) -> bool:
    """Does an error lie at this place, and no result?"""
    return bool(place & 1)


def enter(index: dict[bytes, int], key: bytes, place: int) -> None:
    """Note where the latest result of a key is. An error does not replace a result."""
    if not place & 1 or index.get(key, 1) & 1:
        index[key] = place


# --- from bytes -------------------------------------------------------------------------------


class Scan:
    """The sound records of a segment from a position on, each as (position, fields of its head, body).

    `read(size, position)` gives the segment's bytes. What lies between two records is damaged. When the scan is over,
    `end` is where the segment's bytes end.
    """

    def __init__(self, read: Callable[[int, int], bytes], start: int) -> None:
        self.end = start
        self._read = read

    def __iter__(self) -> Iterator[tuple[int, tuple[Any, ...], memoryview]]:
        unpack, crc32 = RECORD.unpack_from, zlib.crc32
        base, is_last = self.end, False
        while not is_last:
            data = self._read(READ_AT_ONCE, base)
            view, end, at = memoryview(data), len(data), 0
            is_last = end < READ_AT_ONCE
            while end - at >= SIZE:
                head = unpack(data, at)
                stop = at + SIZE + head[2]
                if head[0] == MAGIC and head[2] <= MOST_BODY:
                    if stop > end and not is_last:
                        break  # the rest of it comes with the next piece
                    if stop <= end and crc32(view[at + 8 : stop]) == head[1]:
                        yield base + at, head, view[at + SIZE : stop]
                        at = stop
                        continue
                # Torn or damaged: look for the next record that is sound.
                at = data.find(MAGIC, at + 1)
                if at < 0:
                    at = end - len(MAGIC) + 1
            self.end = base + end
            base += at


def read_record(read: Callable[[int, int], bytes], position: int) -> tuple[Head, bytes]:
    """The record at a position: its head, and its body. Raises one of DAMAGE."""
    data = read(4096, position)
    head = Head._make(RECORD.unpack_from(data))
    stop = SIZE + head.size
    if stop > len(data) and head.size <= MOST_BODY:
        data += read(stop - len(data), position + len(data))
    if head.magic != MAGIC or len(data) < stop or zlib.crc32(memoryview(data)[8:stop]) != head.checksum:
        raise ValueError("the checksum is wrong")
    return head, data[SIZE:stop]


def first_header(data: bytes) -> dict[str, Any] | None:
    """The header with which a segment begins; None: it is damaged. Raises KeyError, TypeError or ValueError."""
    if len(data) < SIZE:
        return None
    head = Head._make(RECORD.unpack_from(data))
    stop = SIZE + head.size
    if head.magic != MAGIC or head.kind != HEADER or zlib.crc32(data[8:stop]) != head.checksum:
        return None
    header: dict[str, Any] = json.loads(data[SIZE:stop])
    return header


# --- to bytes ---------------------------------------------------------------------------------


def record(
    kind: int, body: bytes, now: float, names: tuple[int, int] = (0, 0), key: bytes = _NO_KEY, number: int = 0
) -> bytes:
    """A record that is no result. `names`: the numbers of host and function."""
    rest = _CHECKED.pack(len(body), kind, 0, *names, 0, number, now, 0.0, key)
    return MAGIC + zlib.crc32(rest + body).to_bytes(4, "little") + rest + body


class Encoder:
    """Results as records of one segment. It knows what has been written there before: names, classes, samples.

    `functions` and `hosts` are the names by number, which it fills.
    """

    def __init__(self, functions: dict[int, str], hosts: dict[int, str]) -> None:
        self._function_names = functions
        self._host_names = hosts
        self._functions: dict[str, int] = {}
        self._hosts: dict[str, int] = {"": 0}
        self._classes: set[ClassRecord] = set()
        self._packer = Packer()

    def names(self, entry: Entry, now: float) -> bytes:
        """The records that must come before the result's own: of what it refers to, and is not there yet."""
        parts = []
        if entry.function not in self._functions:
            function = self._functions[entry.function] = len(self._functions)
            self._function_names[function] = entry.function
            parts.append(record(FUNCTION, entry.function.encode(), now, (0, function)))
        if entry.host not in self._hosts and len(self._hosts) < 1 << 16:
            host = self._hosts[entry.host] = len(self._hosts)
            self._host_names[host] = entry.host
            parts.append(record(HOST, entry.host.encode(), now, (host, 0)))
        for known in entry.classes:
            if known not in self._classes:
                self._classes.add(known)
                digest, identity, place = known
                parts.append(record(CLASS, identity, now, key=digest, number=place))
        return b"".join(parts)

    def result(self, entry: Entry, position: int, large: bytes | None) -> bytes:
        """The record of a result, which will be at this position. `large`: what names its file, if it has one."""
        kind, payload = RESULT, entry.payload
        if large is not None:
            kind, payload = LARGE_RESULT, large
        elif PACKED[0] <= len(payload) <= PACKED[1]:
            packed = self._packer.pack(entry, position)
            if packed is not None:
                kind, payload = PACKED_RESULT, packed
        args = entry.args if len(entry.args) <= ARGUMENTS_KEPT else b""
        rest = _CHECKED.pack(
            len(args) + len(payload), kind, entry.status, self._hosts.get(entry.host, 0),
            self._functions[entry.function], len(args), entry.number, entry.when, entry.seconds, entry.key,
        )  # fmt: skip
        data = b"".join((rest, args, payload))
        return MAGIC + zlib.crc32(data).to_bytes(4, "little") + data


class _Sample:
    """A result by which others are packed, and where it is."""

    __slots__ = ("misses", "payload", "position", "uses")

    def __init__(self, payload: bytes, position: int) -> None:
        self.payload = payload
        self.position = position
        self.uses = self.misses = 0


class Packer:
    """Writes of a result what it has not in common with its sample, an earlier one of its function and status."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, int], _Sample] = {}

    def pack(self, entry: Entry, position: int) -> bytes | None:
        """What stands for the result, whose record will be at this position; None: the result itself."""
        payload = entry.payload
        sample = self._samples.get((entry.function, entry.status))
        if sample is None or (sample.uses >= SAMPLE_USES and not sample.misses):
            self._samples[entry.function, entry.status] = _Sample(bytes(payload), position)
        elif sample.misses < SAMPLE_MISSES:
            packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=sample.payload)
            data = packer.compress(payload) + packer.flush()
            if len(data) < len(payload) // 2:
                sample.uses += 1
                sample.misses = 0
                return sample.position.to_bytes(8, "little") + data
            sample.misses += 1
        return None


def sample_position(packed: bytes) -> int:
    """Where the sample's record is."""
    return int.from_bytes(packed[:8], "little")


def unpack(packed: bytes, sample: bytes) -> bytes:
    """The result that was packed by this sample. Raises one of DAMAGE."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS, sample)
    return unpacker.decompress(packed[8:]) + unpacker.flush()
