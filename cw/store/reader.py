"""The store: results on disk, appended by any number of writers and never changed.

    segments (see cw.store.listing) --> Scan --> index: key --> place --> read: Stored

Each writer has a segment of its own, so no locks are needed: two programs may write at once, on any file system.
Another program may merge segments and remove them, see cw.store.tidying: then a result is found again by its key, and a
place that was known before leads to it. Nothing in here unpickles anything.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from cw.errors import StoreError
from cw.events import EventLogger
from cw.store import directory
from cw.store import format as form
from cw.store.format import Head, Stored
from cw.store.listing import Listing

logger = EventLogger("cw.store")

T = TypeVar("T")

WRITING_SECONDS = 60.0
"""Time after its last change in which the end of a segment may still be incomplete because it is being written."""

OPEN_SEGMENTS = 64
"""Most files that a store keeps open for reading. Larger: more descriptors. Smaller: files are reopened often."""

READ_ON = 64 * 1024
"""Bytes that are read at once where results are read one after the other. Larger: more memory. Smaller: more calls."""

TRIES = 10
"""Most times that a result is looked for again because its segment is gone. Larger: a program that reads a store tidied
all the time fails later."""


class Segment:
    """A segment as far as it is known. `end` is the position up to which it has been read."""

    __slots__ = ("definitions", "end", "fd", "functions", "header", "hosts", "is_gone", "is_own", "is_reported", "name",
                 "number", "places", "runs", "sample", "start")  # fmt: skip

    def __init__(self, name: str, number: int, is_own: bool = False) -> None:
        self.name = name
        self.number = number  # in this process
        self.fd = -1  # not open
        self.end = 0
        self.start = 0  # results before this position are in a merged segment
        self.is_own = is_own
        self.is_gone = False  # a merged segment has come in its place, or it was removed
        self.is_reported = False  # its incomplete end was logged
        self.header: dict[str, Any] = {}
        self.functions: dict[int, str] = {}
        self.runs: dict[int, int] = {}  # by function: its program's number in this segment
        self.hosts: dict[int, str] = {}
        self.places: list[int] = []  # of definitions that have not been read yet
        self.definitions: dict[bytes, bytes] = {}  # by digest
        self.sample: tuple[int, bytes] | None = None  # position and bytes of the sample that was read last


class _Piece:
    """What was read last. Who reads on behind it gets more at once. For any thread."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._last: tuple[int, int, bytes] = -1, 0, b""  # number of the segment, position, bytes

    def read(self, pread: Callable[[int, int], bytes], number: int, size: int, position: int) -> bytes:
        """Read as `pread` does, which reads the segment with this number."""
        last, start, data = self._last
        at = position - start if last == number else -1
        if at < 0 or at + size > len(data):
            data = pread(max(size, READ_ON) if 0 <= at <= len(data) else size, position)
            self._last = number, position, data
            at = 0
        return data[at : at + size]


class Store:
    """A store in a directory; may be used in any thread.

    With `is_writing` the directory is made if it does not exist. Raises StoreError.
    """

    def __init__(self, path: str | os.PathLike[str], is_writing: bool, scheme: str = "") -> None:
        self._files = threading.Lock()
        self._open: deque[Segment] = deque()
        self.path = os.path.abspath(os.fspath(path))
        self.scheme = scheme
        self.lock = threading.Lock()
        self.ident = directory.identify(self.path, is_writing)
        self.index: dict[bytes, int] = {}  # by key: place of its latest result, see `format.place_of`
        self.classes: dict[bytes, dict[bytes, int]] = {}  # by digest: identities and numbers, see ClassRecord
        self.damaged = 0  # bytes skipped in the middle of segments
        self.own_results = 0  # number of results with keys of this scheme, in the segments that were read
        self.others: dict[str, int] = {}  # number of results with keys of other schemes, by scheme
        self.done_by_function: dict[str, int] = {}  # results of this scheme, in the segments that were read
        self._segments: list[Segment] = []
        self._names: set[str] = set()
        self._piece = _Piece()
        self._listing = Listing(self.path)
        self._scanning = threading.Lock()
        self._moved: dict[int, bytes] | None = (
            None  # keys of results that were at other places before; see `_moved_to`
        )
        self.refresh()

    # --- finding ---

    def refresh(self) -> None:
        """Read results that other programs have added since."""
        with self._scanning:
            gone: set[str] = set()
            self._piece.clear()  # what has come since may be in it, half written
            while True:
                self._follow_listing(gone)
                before = len(gone)
                for segment in self._segments:
                    if not (segment.is_own or segment.is_gone):
                        try:
                            self._scan(segment)
                        except directory.FileGone:
                            segment.is_gone = True
                            gone.add(segment.name)
                if len(gone) == before:
                    break
            if self._moved is None:
                self._moved = {}

    def _follow_listing(self, gone: set[str]) -> None:
        """Note which segments have come, and which are gone. `gone`: those that were listed, but were not there."""
        starts = dict(self._listing.current(gone))
        is_any_gone = False
        for segment in self._segments:
            segment.start = starts.get(segment.name, 0)
            is_gone = segment.name not in starts and not (
                segment.is_own and os.path.exists(os.path.join(self.path, segment.name))
            )
            is_any_gone |= is_gone and not segment.is_gone
            segment.is_gone = is_gone
        for name, start in starts.items():
            if name not in self._names:
                self._add_segment(name).start = start
        if is_any_gone:
            for segment in self._segments:
                if directory.MERGED in segment.name:
                    segment.end = 0  # it may have the results of those that are gone

    def add_own_segment(self, name: str) -> Segment:
        """Note a segment that this process writes: it need not be scanned."""
        with self._scanning:
            return self._add_segment(name, is_own=True)

    def places(self) -> Iterator[int]:
        """Places of the latest results of all keys, in order of segment and position."""
        return iter(sorted(self.index.values()))

    def _add_segment(self, name: str, is_own: bool = False) -> Segment:
        segment = Segment(name, len(self._segments), is_own)
        self._names.add(name)
        self._segments.append(segment)
        return segment

    def _scan(self, segment: Segment) -> None:
        for position, (_, _, _, _, status, _, function, _, _, _, _, key) in self._new_results(segment):
            if position >= segment.start:
                self._note_result(segment, position, status, function, key)

    def _new_results(self, segment: Segment) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yield the position, and the fields of the head, of each result that has not been read. What lies in between
        is noted."""
        scan = form.Scan(partial(self._pread, segment), segment.end)
        for position, head, body in scan:
            if position > segment.end:
                self._log_damage(segment, position)
            segment.end = position + form.SIZE + head[2]
            _, _, _, kind, _, host, function, _, number, _, _, key = head
            if kind in form.RESULTS:
                yield position, head
            elif kind == form.FUNCTION:
                segment.functions[function] = bytes(body).decode(errors="replace")
                segment.runs[function] = number
            elif kind == form.HOST:
                segment.hosts[host] = bytes(body).decode(errors="replace")
            elif kind == form.CLASS:
                self.classes.setdefault(key, {}).setdefault(bytes(body), number)
            elif kind == form.DEFINITION:
                segment.places.append(position)
            elif kind == form.HEADER:
                segment.header = self._checked_header(segment, bytes(body))
        if scan.end > segment.end and not segment.is_reported:
            self._log_torn_end(segment, scan.end - segment.end)

    def _note_result(self, segment: Segment, position: int, status: int, function: int, key: bytes) -> None:
        scheme = segment.header.get("keys")
        # (None: its header is damaged. Keys of another scheme match none of ours, since the scheme is in the key.)
        if self.scheme and scheme is not None and scheme != self.scheme:
            self.others[str(scheme)] = self.others.get(str(scheme), 0) + 1
            return
        before, place = len(self.index), form.place_of(segment.number, position, status)
        known = self.index.setdefault(key, place)
        if len(self.index) == before and not self._note_again(segment, key, known, place):
            return
        self.own_results += 1
        if not status:
            name = segment.functions.get(function, "?")
            self.done_by_function[name] = self.done_by_function.get(name, 0) + 1

    def _note_again(self, segment: Segment, key: bytes, known: int, place: int) -> bool:
        """Note a result of a key that has one. Returns True if it is another result."""
        former = self._segments[form.split_place(known)[0]]
        if former.is_gone:  # this is the same result, or one that has superseded it
            self._move(key, known, place)
            return False
        if directory.MERGED in segment.name and former.name >= segment.name:
            return False  # that one is later than all that a merged segment has; or it was found in it before
        if not place & 1 or known & 1:  # (as `form.enter`)
            self._move(key, known, place)
        return True

    def _move(self, key: bytes, former: int, place: int) -> None:
        """Note another place for a key. Somebody may have its former place, if the store was read before."""
        if self._moved is not None:
            self._moved[former] = key
        self.index[key] = place

    def _checked_header(self, segment: Segment, body: bytes) -> dict[str, Any]:
        header: dict[str, Any] = json.loads(body)
        if header.get("format", 0) > form.FORMAT:
            raise directory.newer_error(os.path.join(self.path, segment.name), header)
        return header

    def _log_torn_end(self, segment: Segment, size: int) -> None:
        """Log an incomplete end, unless its writer may still be writing: the writer was killed, or it is damaged."""
        with contextlib.suppress(OSError):
            is_old = time.time() - os.stat(os.path.join(self.path, segment.name)).st_mtime > WRITING_SECONDS
            if is_old or not segment.header:
                segment.is_reported = True
                logger.warning(
                    "store.end_torn",
                    "the store %s: the last %d bytes of %s are no whole results, and are passed over",
                    self.path,
                    size,
                    segment.name,
                )

    def _log_damage(self, segment: Segment, position: int) -> None:
        size = position - segment.end
        self.damaged += size
        logger.warning(
            "store.damaged",
            "the store %s: %d bytes of %s are damaged, and are passed over",
            self.path,
            size,
            segment.name,
        )

    # --- reading ---

    def read(self, place: int) -> Stored:
        """Read the result at a place of the index. Raises StoreError if it is not there (any more), or damaged."""
        return self._followed(place, self._read)

    def head(self, place: int) -> Stored:
        """Read the result's other fields, without its arguments and payload."""
        return self._followed(place, self._read_head)

    def _followed(self, place: int, load: Callable[[int], T]) -> T:
        """Load from a place; if its segment is gone, from the place where the result is now."""
        for _ in range(TRIES):
            try:
                return load(place)
            except directory.FileGone:
                moved = self._moved_to(place)
                if moved is None:
                    raise
                place = moved
        return load(place)

    def _moved_to(self, place: int) -> int | None:
        """Return where a result is now that is not there any more; None: it was removed."""
        if not self._locate(place)[0].is_gone:
            self.refresh()
        key = (self._moved or {}).get(place)
        found = None if key is None else self.index.get(key)
        return None if found == place else found

    def _read(self, place: int) -> Stored:
        segment, position = self._locate(place)
        try:
            read = partial(self._piece.read, partial(self._pread, segment), segment.number)
            head, body = form.read_record(read, position)
            payload: Any = body[head.args_size :]
            if head.kind == form.LARGE_RESULT:
                payload = directory.read_large(self.path, payload)
            elif head.kind == form.PACKED_RESULT:
                payload = self._unpack(segment, payload)
            self._read_definitions(segment)
            after = position + form.SIZE + head.size
            output = form.read_output(read, after, head.key)
        except form.DAMAGE as error:
            raise StoreError(
                f"the store {self.path}: a record of {segment.name} is damaged ({error})"
            ) from error
        args = body[: head.args_size] if head.args_size else None
        stored = _stored(segment, head, args, payload)
        return stored if output is None else stored._replace(output=output)

    def _read_head(self, place: int) -> Stored:
        segment, position = self._locate(place)
        head = Head._make(form.RECORD.unpack_from(self._pread(segment, form.SIZE, position)))
        return _stored(segment, head, None, b"")

    def close(self) -> None:
        """Close the files; they are opened again when needed."""
        with self._files:
            while self._open:
                _close(self._open.popleft())

    __del__ = close

    def _locate(self, place: int) -> tuple[Segment, int]:
        number, position = form.split_place(place)
        return self._segments[number], position

    def _unpack(self, segment: Segment, packed: bytes) -> bytes:
        position = form.sample_position(packed)
        sample = segment.sample
        if sample is None or sample[0] != position:
            head, body = form.read_record(partial(self._pread, segment), position)
            sample = segment.sample = position, body[head.args_size :]
        return form.unpack(packed, sample[1])

    def _read_definitions(self, segment: Segment) -> None:
        """Read those that have not been read. A damaged one costs only what refers to it."""
        for position in list(segment.places):
            with contextlib.suppress(*form.DAMAGE):
                head, definition = form.read_record(partial(self._pread, segment), position)
                segment.definitions[head.key] = definition
            with contextlib.suppress(ValueError):  # another thread has read it, too
                segment.places.remove(position)

    def _pread(self, segment: Segment, size: int, position: int) -> bytes:
        with self._files:
            try:
                if segment.fd < 0:
                    while len(self._open) >= OPEN_SEGMENTS:
                        _close(self._open.popleft())
                    segment.fd = os.open(os.path.join(self.path, segment.name), os.O_RDONLY | os.O_CLOEXEC)
                    self._open.append(segment)
                return os.pread(segment.fd, size, position)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ESTALE):
                    if segment.fd >= 0:
                        self._open.remove(segment)
                        _close(segment)
                    raise directory.FileGone(
                        f"the store {self.path}: {segment.name} has been removed"
                    ) from None
                raise directory.io_error(f"cannot be read: {segment.name}", self.path, error) from error


def _stored(segment: Segment, head: Head, args: bytes | None, payload: Any) -> Stored:
    function = segment.functions.get(head.function, "?")
    host = segment.hosts.get(head.host, "")
    return Stored(
        head.key, head.number, function, host, head.status, head.when, head.seconds, args, payload,
        segment.definitions,
    )  # fmt: skip


def _close(segment: Segment) -> None:
    fd, segment.fd = segment.fd, -1
    os.close(fd)
