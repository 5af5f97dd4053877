"""The store: results on disk, appended by any number of writers and never changed.

    sweep.db/
      cw-store.json                    says what the directory is: format, id
      0192f3a1c0de-node7-4711-9c4e.seg one segment for each program that has written: records, one after the other
      large/...                        results above a MiB, a file each

    record:  | magic 4 | checksum 4 | size 4 | kind, status | host | function | size of arguments | number of the job |
             | when 8 | seconds 4 | key 16 |   then `size` bytes: the arguments' pickle, the result's pickle

A writer has a segment of its own, so that there is nothing to lock: two programs may write at once, on any file
system. A record counts from the moment its last byte is there. What a killed program leaves half-written at the end of
its segment is passed over, and so is a damaged place in the middle: the next record is found by its magic and
checksum. Functions, hosts and classes are records too, written once in each segment before they are referred to.

Results of one function are often alike: an instance of a class of the script brings the class's code along, 3 KiB
each time. So a result may be *packed*: what it has in common with an earlier one of the same segment, its sample, is
not written again.

Nothing in here unpickles anything.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import struct
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from cw.errors import StoreError
from cw.version import VERSION

logger = logging.getLogger("cw.store")

FORMAT = 1
"""Raised by one when an older cw could not read what this one writes. This one reads all earlier ones."""

MARKER = "cw-store.json"
LARGE_DIRECTORY = "large"

LARGE = 1024 * 1024
"""Bytes of a result that gets a file of its own. More: scanning a store reads more. Less: more files."""

ARGUMENTS_KEPT = 64 * 1024
"""Bytes of pickled arguments up to which they are stored beside the result. More: large inputs fill the store."""

BACKLOG = 64 * 1024**2
"""Bytes that wait to be written, at which those who bring more have to wait. Less: a slow disk is felt earlier."""

PACKED = 512, 32 * 1024
"""Bytes of results that are packed. Less: the time (10 us) saves nothing. More: beyond what zlib looks back."""

SAMPLE_USES = 256
"""Results that are packed by one sample. More: as many are lost with it if it is damaged. Less: more samples."""

SAMPLE_MISSES = 3
"""Results in a row that packing does not make half as large, after which it is not tried again for their function."""

READ_AT_ONCE = 4 * 1024**2

WRITING_SECONDS = 60.0
"""After its last change, the end of a segment may be about to be written."""

OPEN_SEGMENTS = 64
"""Files that a store keeps open for reading. More: descriptors. Less: they are opened again and again."""

# The kinds of records.
HEADER, RESULT, LARGE_RESULT, FUNCTION, HOST, CLASS, PACKED_RESULT = range(7)

_MAGIC = b"\xc5cw\n"
_RECORD = struct.Struct("<4sIIBBHIIQdf16s")
_CHECKED = struct.Struct("<IBBHIIQdf16s")  # the same without magic and checksum
_SIZE = _RECORD.size
_NO_KEY = bytes(16)
_MOST_BODY = 2 * LARGE


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


class _Segment:
    """What is known of a segment. `end` is how far it has been read."""

    __slots__ = ("end", "fd", "functions", "header", "hosts", "is_own", "is_told", "name", "sample")

    def __init__(self, name: str, is_own: bool = False) -> None:
        self.name = name
        self.fd = -1  # not open
        self.end = 0
        self.is_own = is_own
        self.is_told = False  # that its end is not whole
        self.header: dict[str, Any] = {}
        self.functions: dict[int, str] = {}
        self.hosts: dict[int, str] = {}
        self.sample: tuple[int, bytes] | None = None  # the last that was read, and its position


class _Sample:
    """A result by which others are packed, and where it is."""

    __slots__ = ("misses", "payload", "position", "uses")

    def __init__(self, payload: bytes, position: int) -> None:
        self.payload = payload
        self.position = position
        self.uses = self.misses = 0


class Store:
    """A store in a directory; for any thread.

    With `is_writing` the directory is made where there is none, and a segment in it. Raises StoreError.
    """

    def __init__(self, path: str | os.PathLike[str], is_writing: bool, scheme: str = "") -> None:
        self._files = threading.Lock()
        self._open: deque[_Segment] = deque()
        self.path = os.path.abspath(os.fspath(path))
        self.scheme = scheme
        self.lock = threading.Lock()
        self.ident = identify(self.path, is_writing)
        self.index: dict[bytes, int] = {}  # by key: where its latest result is, see `_place`
        self.classes: dict[bytes, dict[bytes, int]] = {}  # by digest: identities and places, see ClassRecord
        self.damaged = 0  # bytes passed over in the middle of segments
        self.own_results = 0  # with keys of this scheme, in the segments that were read
        self.others: dict[str, int] = {}  # how many results there are with keys of other schemes
        self.done_by_function: dict[str, int] = {}  # results of this scheme, in the segments that were read
        self._segments: list[_Segment] = []
        self._names: set[str] = set()
        self._scanning = threading.Lock()
        self.refresh()

    # --- reading ---

    def refresh(self) -> None:
        """Read what has been added since, by others."""
        with self._scanning:
            try:
                names = sorted(name for name in os.listdir(self.path) if name.endswith(".seg"))
            except OSError as error:
                raise _error("cannot be read", self.path, error) from error
            for name in names:
                if name not in self._names:
                    self._names.add(name)
                    self._segments.append(_Segment(name))
            for number, segment in enumerate(self._segments):
                if not segment.is_own:
                    self._scan(number, segment)

    def _scan(self, number: int, segment: _Segment) -> None:
        index = self.index
        for position, head, body in self._records(segment):
            kind, status, key = head[3], head[4], head[11]
            if kind == RESULT or kind == PACKED_RESULT or kind == LARGE_RESULT:
                scheme = segment.header.get("keys")
                # (None: its header is damaged. A key of another scheme is no match, since it is in the key.)
                if scheme in (self.scheme, None) or not self.scheme:
                    self.own_results += 1
                    if not status:
                        name = segment.functions.get(head[6], "?")
                        self.done_by_function[name] = self.done_by_function.get(name, 0) + 1
                    place = number << 41 | position << 1 | (status != 0)
                    if not status or index.get(key, 1) & 1:  # an error is no match for a result
                        index[key] = place
                else:
                    self.others[str(scheme)] = self.others.get(str(scheme), 0) + 1
            elif kind == FUNCTION:
                segment.functions[head[6]] = bytes(body).decode(errors="replace")
            elif kind == HOST:
                segment.hosts[head[5]] = bytes(body).decode(errors="replace")
            elif kind == CLASS:
                self.classes.setdefault(key, {}).setdefault(bytes(body), head[8])
            elif kind == HEADER:
                segment.header = self._checked_header(segment, bytes(body))

    def _checked_header(self, segment: _Segment, body: bytes) -> dict[str, Any]:
        header: dict[str, Any] = json.loads(body)
        if header.get("format", 0) > FORMAT:
            raise _newer(os.path.join(self.path, segment.name), header)
        return header

    def _records(self, segment: _Segment) -> Iterator[tuple[int, Any, memoryview]]:
        """The whole records after `segment.end`, each with its position; `end` moves on past them."""
        unpack, crc32 = _RECORD.unpack_from, zlib.crc32
        base = segment.end
        while True:
            data = self._pread(segment, READ_AT_ONCE, base)
            view, end, at = memoryview(data), len(data), 0
            is_last = end < READ_AT_ONCE
            while end - at >= _SIZE:
                head = unpack(data, at)
                stop = at + _SIZE + head[2]
                if head[0] == _MAGIC and head[2] <= _MOST_BODY:
                    if stop > end and not is_last:
                        break  # the rest of it comes with the next piece
                    if stop <= end and crc32(view[at + 8 : stop]) == head[1]:
                        if base + at > segment.end:
                            self._tell_damage(segment, base + at)
                        segment.end = base + stop
                        yield base + at, head, view[at + _SIZE : stop]
                        at = stop
                        continue
                # Torn or damaged: look for the next record that is sound.
                at = data.find(_MAGIC, at + 1)
                if at < 0:
                    at = end - len(_MAGIC) + 1
            if is_last:
                if base + end > segment.end and not segment.is_told:
                    self._tell_torn(segment, base + end - segment.end)
                return
            base += at

    def _tell_torn(self, segment: _Segment, size: int) -> None:
        """What is left is of a writer that was killed, or still writes; or it is damaged."""
        with contextlib.suppress(OSError):
            is_old = time.time() - os.stat(os.path.join(self.path, segment.name)).st_mtime > WRITING_SECONDS
            if is_old or not segment.header:
                segment.is_told = True
                logger.warning(
                    "%s: the last %d bytes of %s are no whole results; passed over",
                    self.path,
                    size,
                    segment.name,
                )

    def _tell_damage(self, segment: _Segment, position: int) -> None:
        size = position - segment.end
        self.damaged += size
        logger.warning("%s: %d bytes of %s are damaged; passed over", self.path, size, segment.name)

    def _pread(self, segment: _Segment, size: int, position: int) -> bytes:
        with self._files:
            try:
                if segment.fd < 0:
                    while len(self._open) >= OPEN_SEGMENTS:
                        self._close_segment(self._open.popleft())
                    segment.fd = os.open(os.path.join(self.path, segment.name), os.O_RDONLY | os.O_CLOEXEC)
                    self._open.append(segment)
                return os.pread(segment.fd, size, position)
            except FileNotFoundError:
                if segment.end:
                    raise StoreError(f"the store {self.path}: {segment.name} has been removed") from None
                return b""  # its writer had nothing to write
            except OSError as error:
                raise _error(f"cannot be read: {segment.name}", self.path, error) from error

    def _close_segment(self, segment: _Segment) -> None:
        fd, segment.fd = segment.fd, -1
        os.close(fd)

    def places(self) -> Iterator[int]:
        """Where the latest result of each key is, in the order in which they were written."""
        return iter(sorted(self.index.values()))

    def read(self, place: int) -> Stored:
        """The result at a place of the index. Raises StoreError if it is not there (any more), or damaged."""
        number, position = place >> 41, (place >> 1) & ((1 << 40) - 1)
        segment = self._segments[number]
        try:
            head, data = self._read_record(segment, position)
            payload: Any = data[_SIZE + head[7] :]
            if head[3] == LARGE_RESULT:
                payload = self._read_large(json.loads(payload))
            elif head[3] == PACKED_RESULT:
                payload = self._unpacked(segment, payload)
        except (ValueError, KeyError, struct.error, zlib.error) as error:
            raise StoreError(
                f"the store {self.path}: a record of {segment.name} is damaged ({error})"
            ) from error
        args = data[_SIZE : _SIZE + head[7]] if head[7] else None
        function = segment.functions.get(head[6], "?")
        host = segment.hosts.get(head[5], "")
        return Stored(head[11], head[8], function, host, head[4], head[9], head[10], args, payload)

    def _read_record(self, segment: _Segment, position: int) -> tuple[Any, bytes]:
        data = self._pread(segment, 4096, position)
        head = _RECORD.unpack_from(data)
        stop = _SIZE + head[2]
        if stop > len(data) and head[2] <= _MOST_BODY:
            data += self._pread(segment, stop - len(data), position + len(data))
        if head[0] != _MAGIC or len(data) < stop or zlib.crc32(memoryview(data)[8:stop]) != head[1]:
            raise ValueError("the checksum is wrong")
        return head, data[:stop]

    def _unpacked(self, segment: _Segment, data: bytes) -> bytes:
        position = int.from_bytes(data[:8], "little")
        sample = segment.sample
        if sample is None or sample[0] != position:
            head, record = self._read_record(segment, position)
            sample = segment.sample = position, record[_SIZE + head[7] :]
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS, sample[1])
        return unpacker.decompress(data[8:]) + unpacker.flush()

    def head(self, place: int) -> Stored:
        """As `read`, without arguments and result."""
        number, position = place >> 41, (place >> 1) & ((1 << 40) - 1)
        segment = self._segments[number]
        head = _RECORD.unpack_from(self._pread(segment, _SIZE, position))
        function = segment.functions.get(head[6], "?")
        return Stored(
            head[11], head[8], function, segment.hosts.get(head[5], ""), head[4], head[9], head[10], None, b""
        )

    def _read_large(self, where: dict[str, Any]) -> bytearray:
        path = os.path.join(self.path, LARGE_DIRECTORY, os.path.basename(where["file"]))
        data = bytearray(where["size"])
        try:
            with open(path, "rb", buffering=0) as file:
                filled = 0
                while filled < len(data) and (count := file.readinto(memoryview(data)[filled:])):
                    filled += count
        except OSError as error:
            raise _error("cannot be read", path, error) from error
        if filled < len(data) or zlib.crc32(data) != where["crc"]:
            raise ValueError(f"{path} is damaged")
        return data

    def close(self) -> None:
        """Let go of the files; they are opened again where need be."""
        with self._files:
            while self._open:
                self._close_segment(self._open.popleft())

    __del__ = close

    # --- for the writer ---

    def add_own_segment(self, name: str) -> tuple[int, _Segment]:
        """A segment that this process writes: it need not be scanned. Returns its number, too."""
        with self._scanning:
            self._names.add(name)
            self._segments.append(_Segment(name, is_own=True))
            return len(self._segments) - 1, self._segments[-1]


class Writer:
    """Appends to a segment of its own, in a thread of its own. What waits is written together.

    `put(entries, done)`: `done(error)` is called in that thread when they are stored (None), or not (StoreError).
    After an error nothing more is written.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._pid = os.getpid()
        self._name = _segment_name()
        self._path = os.path.join(store.path, self._name)
        try:
            self._fd = os.open(
                self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise _error("cannot be written", store.path, error) from error
        self._end = 0
        self._functions: dict[str, int] = {}
        self._hosts: dict[str, int] = {"": 0}
        self._classes: set[ClassRecord] = set()
        self._samples: dict[tuple[str, int], _Sample] = {}  # by function and status
        self._is_synced = False  # the directory, with this segment's name in it
        self._results = 0
        self._failure: StoreError | None = None
        self._waiting: deque[tuple[Sequence[Entry], Callable[[StoreError | None], None]]] = deque()
        self._waiting_size = 0
        self._changed = threading.Condition()
        self._is_busy = self._is_closing = False
        try:
            self._write([_record(HEADER, json.dumps(_header(store)).encode())])
        except StoreError:
            os.close(self._fd)
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            raise
        self._number, self._segment = store.add_own_segment(self._name)
        self._thread = threading.Thread(target=self._run, name="cw-store", daemon=True)
        self._thread.start()

    def put(self, entries: Sequence[Entry], done: Callable[[StoreError | None], None]) -> None:
        """Have these stored. Blocks while a lot is waiting. Any thread of the process that made the writer."""
        size = sum(len(entry.payload) for entry in entries)
        with self._changed:
            if self._waiting_size > BACKLOG:
                self._changed.wait_for(lambda: self._waiting_size <= BACKLOG)
            self._waiting.append((entries, done))
            self._waiting_size += size
            if not self._is_busy:
                self._changed.notify_all()

    def flush(self) -> None:
        """Return when all that was put before has been stored, or not, and said so."""
        if os.getpid() != self._pid:
            return  # a forked child: the thread is not here
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._is_busy)

    def close(self) -> None:
        """Write what waits, and end. A segment without results is removed. In a forked child: nothing."""
        if os.getpid() != self._pid:
            return
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()
        os.close(self._fd)
        if not self._results:
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._is_closing)
                if not self._waiting:
                    return
                self._is_busy = True
                batches, size = list(self._waiting), self._waiting_size
                self._waiting.clear()
            try:
                self._store([entry for entries, _ in batches for entry in entries])
            except StoreError as error:
                self._failure = error
            except Exception as error:
                logger.critical("the store's thread failed", exc_info=True)
                self._failure = StoreError(f"the store {self.store.path} cannot be written: {error!r}")
            with self._changed:
                self._waiting_size -= size
            for _, done in batches:
                done(self._failure)

    def _store(self, entries: list[Entry]) -> None:
        if self._failure is not None:
            raise self._failure
        parts: list[bytes] = []
        places: list[tuple[bytes, int]] = []
        position, is_durable = self._end, False
        for entry in entries:
            known = len(parts)
            function = self._functions.get(entry.function)
            if function is None:
                function = self._functions[entry.function] = len(self._functions)
                self._segment.functions[function] = entry.function
                parts.append(_record(FUNCTION, entry.function.encode(), function=function))
            host = self._hosts.get(entry.host)
            if host is None and len(self._hosts) < 1 << 16:
                host = self._hosts[entry.host] = len(self._hosts)
                self._segment.hosts[host] = entry.host
                parts.append(_record(HOST, entry.host.encode(), host=host))
            for record in entry.classes:
                if record not in self._classes:
                    self._classes.add(record)
                    digest, identity, place = record
                    parts.append(_record(CLASS, identity, key=digest, number=place))
            position += sum(map(len, parts[known:]))
            args = entry.args if len(entry.args) <= ARGUMENTS_KEPT else b""
            kind, payload = RESULT, entry.payload
            if len(payload) > LARGE:
                kind, payload = LARGE_RESULT, self._store_large(entry)
            elif PACKED[0] <= len(payload) <= PACKED[1]:
                kind, payload = self._packed(entry, position)
            rest = _CHECKED.pack(
                len(args) + len(payload), kind, entry.status, host or 0, function, len(args), entry.number,
                entry.when, entry.seconds, entry.key,
            )  # fmt: skip
            data = b"".join((rest, args, payload))
            parts.append(_MAGIC + zlib.crc32(data).to_bytes(4, "little") + data)
            places.append((entry.key, self._number << 41 | position << 1 | (entry.status != 0)))
            position += len(data) + 8
            is_durable = is_durable or entry.is_durable
        self._write(parts)
        if is_durable:
            self._sync()
        self._results += len(entries)
        index = self.store.index
        for key, place in places:
            if not place & 1 or index.get(key, 1) & 1:
                index[key] = place

    def _write(self, parts: list[bytes]) -> None:
        data = memoryview(b"".join(parts))
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end)
            raise _error("cannot be written", self.store.path, error) from error
        self._end += written
        if not os.fstat(self._fd).st_nlink:
            raise StoreError(f"the store {self.store.path} cannot be written: {self._name} has been removed")

    def _packed(self, entry: Entry, position: int) -> tuple[int, Any]:
        """The kind of its record, which will be at that position, and what is written there of the result."""
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
                return PACKED_RESULT, sample.position.to_bytes(8, "little") + data
            sample.misses += 1
        return RESULT, payload

    def _store_large(self, entry: Entry) -> bytes:
        """In a file of its own, whole before a record refers to it; returns what the record says."""
        directory = os.path.join(self.store.path, LARGE_DIRECTORY)
        name = f"{entry.key.hex()}-{os.urandom(6).hex()}"
        path = os.path.join(directory, name)
        data = memoryview(entry.payload).cast("B")
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700)
                if entry.is_durable:
                    _sync_directory(self.store.path)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                written = 0
                while written < len(data):
                    written += os.write(fd, data[written : written + 64 * 1024**2])
                if entry.is_durable:
                    os.fsync(fd)
            except OSError:
                os.unlink(path)
                raise
            finally:
                os.close(fd)
            if entry.is_durable:
                _sync_directory(directory)
        except OSError as error:
            raise _error("cannot be written", self.store.path, error) from error
        return json.dumps({"file": name, "size": len(data), "crc": zlib.crc32(data)}).encode()

    def _sync(self) -> None:
        try:
            os.fdatasync(self._fd)
            if not self._is_synced:
                _sync_directory(self.store.path)
                _sync_directory(os.path.dirname(self.store.path))
                self._is_synced = True
        except OSError as error:
            raise _error("cannot be written", self.store.path, error) from error


def _record(
    kind: int, body: bytes, function: int = 0, host: int = 0, key: bytes = _NO_KEY, number: int = 0
) -> bytes:
    rest = _CHECKED.pack(len(body), kind, 0, host, function, 0, number, time.time(), 0.0, key)
    return _MAGIC + zlib.crc32(rest + body).to_bytes(4, "little") + rest + body


def _segment_name() -> str:
    host = "".join(c if c.isalnum() else "_" for c in os.uname().nodename)[:40]
    return f"{time.time_ns() // 1_000_000:012x}-{host}-{os.getpid()}-{os.urandom(4).hex()}.seg"


def _header(store: Store) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "store": store.ident,
        "keys": store.scheme,
        "cw": VERSION,
        "python": sys.version.split()[0],
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "start": time.time(),
        "script": getattr(sys.modules.get("__main__"), "__file__", None) or "",
    }


def _sync_directory(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # one that is the user's only to pass through, as the parent of a home
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that does not know it
            raise
    finally:
        os.close(fd)


# --- the directory ----------------------------------------------------------------------------


def identify(path: str, is_writing: bool) -> str:
    """The id of the store at the path; with `is_writing` it is made where nothing is. Raises StoreError."""
    marker = os.path.join(path, MARKER)
    try:
        if is_writing:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        if not os.path.isdir(path):
            if os.path.exists(path):
                raise StoreError(f"{path} is a file and no store: a store is a directory; give another name")
            raise StoreError(f"there is no store {path}")
        if not os.path.exists(marker):
            names = [name for name in os.listdir(path) if not name.startswith(MARKER)]
            if any(name.endswith(".seg") for name in names):
                return _repair_marker(path, marker, "is missing", is_writing)
            if names or not is_writing:
                raise StoreError(f"{path} is a directory, but no store: give another name")
            _write_marker(marker, os.urandom(8).hex())
        with open(marker, "rb") as file:
            text = file.read(4096)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise _error("cannot be opened", path, error) from error
    try:
        found = json.loads(text)
        ident, version = str(found["id"]), int(found["format"])
    except (ValueError, KeyError, TypeError):
        return _repair_marker(path, marker, "is damaged", is_writing)
    if version > FORMAT:
        raise _newer(path, found)
    return ident


def _repair_marker(path: str, marker: str, what: str, is_writing: bool) -> str:
    """The id of a store whose marker is missing or damaged: the segments' headers say it, too. Raises StoreError."""
    try:
        for name in sorted(name for name in os.listdir(path) if name.endswith(".seg")):
            with open(os.path.join(path, name), "rb") as file:
                data = file.read(_SIZE + 4096)
            with contextlib.suppress(struct.error, ValueError, KeyError, TypeError):
                head = _RECORD.unpack_from(data)
                body = data[_SIZE : _SIZE + head[2]]
                if (
                    head[0] == _MAGIC
                    and head[3] == HEADER
                    and zlib.crc32(data[8 : _SIZE + len(body)]) == head[1]
                ):
                    header = json.loads(body)
                    if header["format"] > FORMAT:
                        raise _newer(path, header)
                    ident = str(header["store"])
                    logger.warning("the store %s: its file %s %s%s", path, MARKER, what,
                                   ", and is written anew" if is_writing else "")  # fmt: skip
                    if is_writing:
                        with contextlib.suppress(OSError):
                            os.link(marker, f"{marker}.damaged")
                        _write_marker(marker, ident, is_repair=True)
                    return ident
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise _error("cannot be opened", path, error) from error
    raise StoreError(f"the store {path}: its file {MARKER} {what}, and no file of results says what it was")


def _write_marker(marker: str, ident: str, is_repair: bool = False) -> None:
    """Whole or not at all, and the first one who does it wins; with `is_repair`, in the place of what is there."""
    temporary = f"{marker}.{os.urandom(4).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(json.dumps({"format": FORMAT, "id": ident, "cw": VERSION}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if is_repair:
            os.replace(temporary, marker)
            return
        try:
            os.link(temporary, marker)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            os.rename(temporary, marker)
            return
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _newer(path: str, found: dict[str, Any]) -> StoreError:
    return StoreError(
        f"{path} was written by a newer cw ({found.get('cw', '?')}) than this one ({VERSION}): update cw"
    )


def _error(what: str, path: str, error: OSError) -> StoreError:
    return StoreError(f"the store {path} {what}: {error.strerror or error}")
