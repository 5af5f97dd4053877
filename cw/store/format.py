"""The format of a store's files: results to bytes, and bytes to records. No file is opened here.

    Entry --> Encoder --> records, one after the other --> Scan --> heads and bodies

    record:  | magic 4 | checksum 4 | size 4 | kind, status | host | function | size of arguments | number of the job |
             | when 8 | seconds 4 | key 16 |   then `size` bytes: the arguments' pickle, the result's pickle

A record counts from the moment its last byte is written. A half-written record that a killed program leaves at the end
of its segment is skipped, and so is a damaged part in the middle: the next record is found by its magic and checksum.
Functions, hosts and classes are records too, written once in each segment before they are referred to. What a call has
printed, if it is kept, is the record just after its result. The last record is an *end mark*: nothing will be appended.
(A cw that does not know such records passes over them.)

A segment that was made of others by `cw results --tidy` begins with a record for each of them, REPLACED. The calls of
one program's job are recognised in it by their functions' numbers: these are of one program each, `number` in FUNCTION.

The definition of a class of the script, some KiB, is a record too. The pickles of arguments and results refer to it by
its digest. (A result that version 1 wrote contains the definitions, and may be *packed*: the parts that it shares with
an earlier one of the same segment, its sample, are not there again.)

Nothing in here unpickles anything.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from cw.named_tuple import NamedTuple

FORMAT = 2
"""Version of the format: incremented when an older cw could not read the files of this one. This cw reads all earlier
versions."""

LARGE = 1024 * 1024
"""Bytes above which a result gets a file of its own. Larger: scanning a store reads more. Smaller: more files."""

ARGUMENTS_KEPT = 64 * 1024
"""Bytes of pickled arguments up to which they are stored beside the result. Larger: large inputs fill the store."""

READ_AT_ONCE = 4 * 1024**2
"""Bytes that a scan reads at once. They must hold the largest record."""

MOST_BODY = 2 * LARGE
"""Most bytes after the head of a record."""

# The kinds of records.
HEADER, RESULT, LARGE_RESULT, FUNCTION, HOST, CLASS, PACKED_RESULT, DEFINITION, OUTPUT = range(9)
END, REPLACED = 9, 10
RESULTS = frozenset({RESULT, LARGE_RESULT, PACKED_RESULT})

MAGIC = b"\xc5cw\n"
RECORD = struct.Struct("<4sIIBBHIIQdf16s")
_CHECKED = struct.Struct("<IBBHIIQdf16s")  # a head without magic and checksum
_BEGIN = struct.Struct("<4sI")  # magic, checksum
SIZE = RECORD.size
_NO_KEY = bytes(16)
_KIND = 12  # where the kind is in a head
_OUTPUT_BYTE = bytes([OUTPUT])
_RESULT_BYTES = {bytes([kind]) for kind in RESULTS}

DAMAGE = ValueError, KeyError, struct.error, zlib.error
"""Errors that the functions below raise if a record is damaged."""


ClassRecord = tuple[bytes, bytes, int]
"""A class of the script: its digest; the identity under which its instances are pickled; its position among the classes
with this digest in its program."""


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
    is_durable: bool  # it must be on the disk itself before it counts as stored
    classes: Iterable[ClassRecord]  # the classes that its instances may have
    definitions: Mapping[bytes, bytes] = {}  # the definitions that the two pickles refer to, by digest
    output: tuple[bytes, bytes] | None = None  # what the call printed on stdout and stderr, if it is kept


EntryFields = tuple[
    bytes, int, str, str, int, float, float, Any, Any, bool, Iterable[ClassRecord], Mapping[bytes, bytes],
    tuple[bytes, bytes] | None,
]  # fmt: skip
"""An `Entry`, or a plain tuple of its fields, which is made in a tenth of the time."""


class Stored(NamedTuple):
    """A result that was read. `args` is None if the arguments were too large to store."""

    key: bytes
    number: int
    function: str
    host: str
    status: int
    when: float
    seconds: float
    args: bytes | None
    payload: Any
    definitions: Mapping[bytes, bytes] = {}  # all those of its segment, by digest
    output: tuple[bytes, bytes] | None = None  # what the call printed on stdout and stderr, if it was kept


class Replaced(NamedTuple):
    """A segment whose results up to a position are in a merged segment."""

    name: str
    size: int  # the position
    is_ended: bool  # False: a program may come back, and write to it


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


# --- places of results ------------------------------------------------------------------------


def place_of(segment: int, position: int, status: int) -> int:
    """Combine the segment, the position in it, and whether the call failed (bit 0) to one number."""
    return segment << 41 | position << 1 | (status != 0)


def split_place(place: int) -> tuple[int, int]:
    """Split a place into the segment, and the position in it."""
    return place >> 41, (place >> 1) & ((1 << 40) - 1)


def enter(index: dict[bytes, int], key: bytes, place: int) -> None:
    """Note the place of the latest result of a key. An error does not replace a result."""
    if not place & 1 or index.get(key, 1) & 1:
        index[key] = place


# --- from bytes -------------------------------------------------------------------------------


class Scan:
    """Iterates over a segment's intact records from a position on, each as (position, fields of its head, body).

    `read(size, position)` gives the segment's bytes. Bytes between two records are damaged. When the scan is over,
    `end` is the end of the segment's bytes.
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
                # Cut short or damaged: search for the next intact record.
                at = data.find(MAGIC, at + 1)
                if at < 0:
                    at = end - len(MAGIC) + 1
            self.end = base + end
            base += at


def read_record(read: Callable[[int, int], bytes], position: int) -> tuple[Head, bytes]:
    """Read the record at a position: its head, and its body. Raises one of DAMAGE."""
    data = read(4096, position)
    head = Head._make(RECORD.unpack_from(data))
    stop = SIZE + head.size
    if stop > len(data) and head.size <= MOST_BODY:
        data += read(stop - len(data), position + len(data))
    if head.magic != MAGIC or len(data) < stop or zlib.crc32(memoryview(data)[8:stop]) != head.checksum:
        raise ValueError("the checksum is wrong")
    return head, data[SIZE:stop]


def read_output(read: Callable[[int, int], bytes], position: int, key: bytes) -> tuple[bytes, bytes] | None:
    """Read what the call with this key has printed, if the record at a position is that; None otherwise."""
    data = read(SIZE, position)
    if data[_KIND : _KIND + 1] != _OUTPUT_BYTE:  # as mostly
        return None
    try:
        if Head._make(RECORD.unpack(data)).key != key:
            return None
        head, body = read_record(read, position)
    except DAMAGE:
        return None
    return body[: head.args_size], body[head.args_size :]


def read_replaced(read: Callable[[int, int], bytes]) -> list[Replaced]:
    """Read which segments a merged one replaces: its first records say so."""
    found = []
    for _, head, body in Scan(read, 0):
        if head[3] == REPLACED:
            found.append(Replaced(*json.loads(bytes(body))))
        elif head[3] != HEADER:
            break
    return found


def lost_results(damaged: bytes) -> int:
    """Estimate how many results were in damaged bytes: by their heads that can still be recognised, and one more if the
    bytes do not begin with a head."""
    count, at = int(not damaged.startswith(MAGIC)), damaged.find(MAGIC)
    while at >= 0:
        count += damaged[at + _KIND : at + _KIND + 1] in _RESULT_BYTES
        at = damaged.find(MAGIC, at + 1)
    return count


def is_unfinished(end: bytes) -> bool:
    """True if the last bytes of a segment are the beginning of a record: its writer was killed while it wrote."""
    head = end[: len(MAGIC)]
    if head != MAGIC[: len(head)]:
        return False
    if len(end) < SIZE:
        return True
    size = int(RECORD.unpack_from(end)[2])
    return size <= MOST_BODY and len(end) < SIZE + size


def first_header(data: bytes) -> dict[str, Any] | None:
    """Decode the header at the start of a segment; None: it is damaged. Raises KeyError, TypeError or ValueError."""
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
    kind: int,
    body: bytes,
    now: float,
    names: tuple[int, int] = (0, 0),
    key: bytes = _NO_KEY,
    number: int = 0,
    *,
    split: int = 0,
) -> bytes:
    """Encode a record that is not a result. `names`: the numbers of host and function. `split`: where the second part
    of the body begins."""
    rest = _CHECKED.pack(len(body), kind, 0, *names, split, number, now, 0.0, key)
    return MAGIC + zlib.crc32(rest + body).to_bytes(4, "little") + rest + body


def replaced_record(replaced: Replaced, now: float) -> bytes:
    """Encode that a merged segment replaces this one."""
    return record(REPLACED, json.dumps(replaced).encode(), now)


def result_again(head: Head, body: bytes, host: int, function: int) -> bytes:
    """Encode a result that was read, for a segment in which its host and function have these numbers."""
    rest = _CHECKED.pack(
        len(body), head.kind, head.status, host, function, head.args_size, head.number, head.when, head.seconds,
        head.key,
    )  # fmt: skip
    data = rest + body
    return MAGIC + zlib.crc32(data).to_bytes(4, "little") + data


class Encoded(NamedTuple):
    """Results as records."""

    parts: list[bytes]  # to be appended
    keys: list[bytes]
    places: list[int]  # of the results with these keys
    has_errors: bool = False
    is_durable: bool = False  # the records must be on the disk itself


class Encoder:
    """Encodes results as records of one segment. It knows the names, classes and definitions written there before.

    `functions` and `hosts` are the names by number, `definitions` those of classes by digest: it fills them.
    """

    def __init__(
        self, functions: dict[int, str], hosts: dict[int, str], definitions: dict[bytes, bytes]
    ) -> None:
        self._function_names = functions
        self._host_names = hosts
        self._functions: dict[str, int] = {}
        self._hosts: dict[str, int] = {"": 0}
        self._classes: set[ClassRecord] = set()
        self._definitions = definitions

    def _names(
        self,
        name: str,
        host_name: str,
        classes: Iterable[ClassRecord],
        definitions: Mapping[bytes, bytes],
        now: float,
    ) -> bytes:
        """Encode what a result refers to and the segment lacks: it must come before it."""
        parts = []
        if name not in self._functions:
            function = self._functions[name] = len(self._functions)
            self._function_names[function] = name
            parts.append(record(FUNCTION, name.encode(), now, (0, function)))
        if host_name not in self._hosts and len(self._hosts) < 1 << 16:
            host = self._hosts[host_name] = len(self._hosts)
            self._host_names[host] = host_name
            parts.append(record(HOST, host_name.encode(), now, (host, 0)))
        for known in classes:
            if known not in self._classes:
                self._classes.add(known)
                digest, identity, place = known
                parts.append(record(CLASS, identity, now, key=digest, number=place))
        for digest, definition in definitions.items():
            if digest not in self._definitions:
                self._definitions[digest] = definition
                parts.append(record(DEFINITION, definition, now, key=digest))
        return b"".join(parts)

    def encode(
        self,
        entries: Iterable[EntryFields],
        write_large: Callable[[bytes, Any, bool], bytes],
        segment: int,
        end: int,
    ) -> Encoded:
        """Encode results. `write_large(key, payload, is_durable)` writes one to a file of its own, and returns the
        record's reference to it. `segment`: the segment's number; `end`: where it ends so far."""
        encoded = Encoded([], [], [])
        parts, keys, places = encoded.parts, encoded.keys, encoded.places
        has_errors = is_durable = False
        functions, hosts = self._functions, self._hosts
        begin, pack, crc32 = _BEGIN.pack, _CHECKED.pack, zlib.crc32
        for (
            key, number, function, host, status, when, seconds, args, payload, durable, known, definitions, output
        ) in entries:  # fmt: skip
            if known or definitions or function not in functions or host not in hosts:
                names = self._names(function, host, known, definitions, when)
                parts.append(names)
                end += len(names)
            kind = RESULT
            if len(payload) > LARGE:
                kind, payload = LARGE_RESULT, write_large(key, payload, durable)
            args_size = len(args)
            if args_size > ARGUMENTS_KEPT:
                args, args_size = b"", 0
            head = pack(
                args_size + len(payload), kind, status, hosts.get(host, 0), functions[function], args_size, number,
                when, seconds, key,
            )  # fmt: skip
            data = b"".join((head, args, payload))
            parts.append(begin(MAGIC, crc32(data)))
            parts.append(data)
            keys.append(key)
            places.append(segment << 41 | end << 1 | (status != 0))  # (as `place_of`)
            end += _BEGIN.size + len(data)
            if status:
                has_errors = True
            if durable:
                is_durable = True
            if output is not None:
                out, err = output
                data = record(OUTPUT, out + err, when, key=key, number=number, split=len(out))
                parts.append(data)
                end += len(data)
        return encoded._replace(has_errors=has_errors, is_durable=is_durable)


# --- packed results, of version 1 ---------------------------------------------------------------


def sample_position(packed: bytes) -> int:
    """Position of the sample's record."""
    return int.from_bytes(packed[:8], "little")


def unpack(packed: bytes, sample: bytes) -> bytes:
    """Unpack a result that was packed by this sample. Raises one of DAMAGE."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS, sample)
    return unpacker.decompress(packed[8:]) + unpacker.flush()
