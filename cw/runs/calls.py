"""The calls of a run on disk: all that another process needs to submit them again, and to record their results.

    script: CallsWriter.put_object, put_call, ... --> the file `calls` --> CallsReader.read: the steward, attach

    record:  | magic 4 | checksum 4 | size of the head 4, of the body 8 |  head: JSON  |  body: bytes as they travel |

The file is only appended to. A record counts from its last byte on; the torn end that a killed script leaves is passed
over. An object, the definition of a class, and the group of classes that the values of calls may have are records of
their own, written once, before the calls that need them. Nothing in here opens a payload.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cw.errors import DetachError
from cw.runs.folder import RunFolder
from cw.store.format import ARGUMENTS_KEPT, ClassRecord

FILE = "calls"

WRITTEN_AT_ONCE = 1024 * 1024
"""Bytes that are collected before they are written. Larger: more of the last calls are lost if the script is killed.
Smaller: more system calls."""

MOST_BODY = 1 << 40
"""Most bytes of a record's body."""

_HEAD = struct.Struct("<4sIIQ")
_MAGIC = b"\xc5cwc"

# The kinds of records: the first value of their heads.
_OBJECT, _DEFINITION, _GROUP, _CALL, _END = range(5)


class ObjectRecord(NamedTuple):
    """An object of the session (`cw.net.objects`), with the name of the function that it is, if it is one."""

    number: int
    kind: int
    needs: tuple[int, ...]
    payload: Any
    name: str = ""


class CallEntry(NamedTuple):
    """A call as the store will know it. A job has one; that of a chunk has several."""

    key: bytes
    name: str
    """The function's."""
    args: bytes
    """The arguments' pickle for other programs; b"": they are too large to be stored."""
    classes: tuple[ClassRecord, ...] = ()
    definitions: Mapping[bytes, bytes] = {}
    former: float = 0.0
    """`when` of the result that the store had under this key, an error, as the call was submitted; 0.0: there was none.
    Another result under the key is this run's."""


class Awaited(NamedTuple):
    """What a call waits for: the result that the store will have under a key; or one that came before."""

    key: bytes
    payload: Any = None


class Asked(NamedTuple):
    """What the client itself does about a job, of its options."""

    priority: int = 0
    keeps_output: bool = False
    retries: int = 0
    tries: int = 0
    """Tries that have failed."""
    retry_on: tuple[str, ...] | None = None
    """Names of the classes of errors after which it is tried again; None: all that are an Exception."""


NOTHING_ASKED = Asked()


class CallRecord(NamedTuple):
    """A job of the session that is outstanding."""

    number: int
    function: int
    options: int
    payload: Any
    entries: tuple[CallEntry, ...]
    asked: Asked = NOTHING_ASKED
    is_sent: bool = False
    """It may have been sent to a master."""
    is_chunk: bool = False
    """Its result is that of a chunk."""
    waits_for: tuple[Awaited, ...] = ()


class End(NamedTuple):
    """All calls are there: the script has read its input to the end."""

    calls: int


Record = ObjectRecord | CallRecord | End


class CallsWriter:
    """Appends to the calls of a run. Raises DetachError if they cannot be written."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._path = folder.place(FILE)
        self._parts: list[bytes] = []
        self._size = 0
        self._objects: set[int] = set()
        self._definitions: set[bytes] = set()
        self._groups: dict[tuple[Any, ...], int] = {}
        self.calls = 0
        """Number of calls so far."""
        self.size = 0
        """Bytes so far."""
        try:
            self._fd = os.open(
                self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise self._failure(error) from error

    def has_object(self, number: int) -> bool:
        return number in self._objects

    def put_object(self, record: ObjectRecord) -> None:
        """Add an object. The objects that it needs come before it."""
        self._objects.add(record.number)
        self._put([_OBJECT, record.number, record.kind, record.needs, record.name], [record.payload])

    def put_call(self, record: CallRecord) -> None:
        """Add a call. Its function and options come before it."""
        entries, parts = [], [record.payload]
        for entry in record.entries:
            args = entry.args if len(entry.args) <= ARGUMENTS_KEPT else b""
            entries.append((entry.key.hex(), entry.name, self._group_of(entry), entry.former, len(args)))
            parts.append(args)
        waits_for = []
        for awaited in record.waits_for:
            is_there = awaited.payload is not None
            waits_for.append((awaited.key.hex(), len(awaited.payload) if is_there else -1))
            if is_there:
                parts.append(awaited.payload)
        asked = () if record.asked is NOTHING_ASKED else record.asked
        self._put(
            [_CALL, record.number, record.function, record.options, len(record.payload), entries, asked,
             record.is_sent, record.is_chunk, waits_for],
            parts,
        )  # fmt: skip
        self.calls += len(record.entries)

    def finish(self) -> None:
        """Note that all calls are there, and force them to the disk."""
        self._put([_END, self.calls], [])
        self.flush()
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._failure(error) from error

    def flush(self) -> None:
        """Write what was collected."""
        data = memoryview(self.unwritten)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise self._failure(error) from error
        finally:
            self._parts, self._size = [bytes(data)], len(data)

    @property
    def unwritten(self) -> bytes:
        """What follows in the file, and could not be written yet."""
        return b"".join(self._parts)

    def close(self) -> None:
        os.close(self._fd)

    def _group_of(self, entry: CallEntry) -> int:
        """Return the number of the group of classes and definitions; 0: there are none."""
        if not entry.classes and not entry.definitions:
            return 0
        group = entry.classes, tuple(entry.definitions)
        number = self._groups.get(group)
        if number is None:
            for digest, definition in entry.definitions.items():
                if digest not in self._definitions:
                    self._definitions.add(digest)
                    self._put([_DEFINITION, digest.hex()], [definition])
            number = self._groups[group] = len(self._groups) + 1
            classes = [(digest.hex(), identity.hex(), place) for digest, identity, place in entry.classes]
            self._put([_GROUP, number, classes, [digest.hex() for digest in entry.definitions]], [])
        return number

    def _put(self, head: list[Any], parts: Sequence[Any]) -> None:
        text = json.dumps(head, separators=(",", ":")).encode()
        body = [bytes(part) if type(part) is not bytes else part for part in parts]
        size = sum(map(len, body))
        checksum = zlib.crc32(text)
        for part in body:
            checksum = zlib.crc32(part, checksum)
        self._parts += [_HEAD.pack(_MAGIC, checksum, len(text), size), text, *body]
        self._size += _HEAD.size + len(text) + size
        self.size += _HEAD.size + len(text) + size
        if self._size > WRITTEN_AT_ONCE:
            self.flush()

    def _failure(self, error: OSError) -> DetachError:
        return DetachError(
            f"the calls of the run cannot be written to {self._path}: {error.strerror or error}"
        )


class CallsReader:
    """Reads the calls of a run, also while they are being written: `read` goes on where it ended."""

    def __init__(self, folder: RunFolder) -> None:
        self.is_complete = False
        """True if the end was read: no more calls will come."""
        self._folder = folder
        self._position = 0
        self._definitions: dict[bytes, bytes] = {}
        self._groups: dict[int, tuple[tuple[ClassRecord, ...], dict[bytes, bytes]]] = {0: ((), {})}

    def read(self) -> Iterator[Record]:
        """Yield the records that have been added since."""
        try:
            with open(self._folder.place(FILE), "rb") as file:
                file.seek(self._position)
                yield from self._read(file, self._position)
        except FileNotFoundError:
            return
        except OSError as error:
            raise DetachError(f"{self._folder.place(FILE)} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise DetachError(
                f"{self._folder.place(FILE)} is damaged ({error}): run the script again; what was computed is in the "
                "store"
            ) from error

    def read_unwritten(self, data: bytes) -> Iterator[Record]:
        """Yield the records of which the last part is this (`CallsWriter.unwritten`), when `read` has read the rest."""
        with open(self._folder.place(FILE), "rb") as file:
            file.seek(self._position)
            yield from self._read(io.BytesIO(file.read() + data), self._position)

    def _read(self, file: Any, start: int) -> Iterator[Record]:
        begin = file.tell()
        while (found := _next_record(file)) is not None:
            self._position = start + file.tell() - begin
            record = self._record(*found)
            if record is not None:
                yield record

    def keys(self) -> set[bytes]:
        """Return the keys of the calls that `read` has not passed yet."""
        return {entry.key for record in self.read() if type(record) is CallRecord for entry in record.entries}

    def _record(self, head: list[Any], body: bytes) -> Record | None:
        kind, fields = head[0], head[1:]
        if kind == _CALL:
            return self._call(fields, body)
        if kind == _OBJECT:
            number, kind_of_object, needs, name = fields
            return ObjectRecord(number, kind_of_object, tuple(needs), body, name)
        if kind == _DEFINITION:
            self._definitions[bytes.fromhex(fields[0])] = body
        elif kind == _GROUP:
            number, classes, digests = fields
            known = {digest: self._definitions[digest] for digest in map(bytes.fromhex, digests)}
            self._groups[number] = (
                tuple((bytes.fromhex(d), bytes.fromhex(i), p) for d, i, p in classes),
                known,
            )
        elif kind == _END:
            self.is_complete = True
            return End(fields[0])
        return None

    def _call(self, fields: list[Any], body: bytes) -> CallRecord:
        number, function, options, size, entries, asked, is_sent, is_chunk, waits_for = fields
        payload, at = body[:size], size
        made = []
        for key, name, group, former, args_size in entries:
            made.append(
                CallEntry(bytes.fromhex(key), name, body[at : at + args_size], *self._groups[group], former)
            )
            at += args_size
        awaited = []
        for key, part_size in waits_for:
            awaited.append(Awaited(bytes.fromhex(key), None if part_size < 0 else body[at : at + part_size]))
            at += max(0, part_size)
        what = NOTHING_ASKED
        if asked:
            priority, keeps_output, retries, tries, names = asked
            what = Asked(priority, keeps_output, retries, tries, None if names is None else tuple(names))
        return CallRecord(
            number, function, options, payload, tuple(made), what, is_sent, is_chunk, tuple(awaited)
        )


def _next_record(file: Any) -> tuple[list[Any], bytes] | None:
    """Read the next whole record: its head and its body. None: it is not all there (yet). Raises ValueError."""
    start = file.read(_HEAD.size)
    if len(start) < _HEAD.size:
        return None
    magic, checksum, head_size, size = _HEAD.unpack(start)
    if magic != _MAGIC:
        raise ValueError("a record does not begin where it should")
    if size > MOST_BODY:
        raise ValueError("a record has no such size")
    data = file.read(head_size + size)
    if len(data) < head_size + size:
        return None
    if zlib.crc32(data) != checksum:
        raise ValueError("a checksum is wrong")
    head = json.loads(data[:head_size])
    return head, data[head_size:]
