"""Writing to a store: a program has a segment of its own, written by a thread of its own.

put(entries, done) --> waiting --> the thread: Encoder --> SegmentFile --> the store's index --> done(None)

The segment ends with an end mark if the writer is closed. One without an end mark that was not changed for a week is
taken for that of a program that was killed, and may be merged with others (see cw.store.tidying). So a writer touches
its segment once a day; and one that was asleep for a week, on a laptop that was closed, begins another segment.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from cw.errors import StoreError
from cw.events import EventLogger
from cw.store import directory
from cw.store import format as form
from cw.store.checksums import Checksums
from cw.store.direct import Ways
from cw.store.format import EntryFields
from cw.store.listing import Listing
from cw.store.reader import Segment, Store
from cw.version import VERSION

logger = EventLogger("cw.store")

BACKLOG = 64 * 1024**2
"""Bytes waiting to be written, above which `put` blocks. Larger: more memory. Smaller: a slow disk blocks earlier."""

TOUCH_SECONDS = 86_400.0
"""How often a segment is touched to which nothing is written. It must be well below `tidying.ASLEEP_SECONDS`."""


class SegmentFile:
    """A segment that is being written: bytes are appended, and removed again if not all of them could be written."""

    def __init__(self, store_path: str) -> None:
        """Make the file. Raises StoreError."""
        self.name = directory.new_segment_name()
        self.end = 0
        self._store_path = store_path
        self._path = os.path.join(store_path, self.name)
        self._is_synced = False  # the directory is on disk, with this segment's name in it
        self._looked = (
            time.time()
        )  # when it was known to be there (a clock that goes on while the machine sleeps)
        try:
            self._fd = os.open(
                self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise directory.io_error("cannot be written", store_path, error) from error

    def append(self, parts: Sequence[bytes]) -> None:
        """Append these bytes, all or none. Raises StoreError; FileGone if the file has been removed."""
        data = memoryview(b"".join(parts))
        if time.time() - self._looked > TOUCH_SECONDS / 2:
            self._look()
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.end)
            if error.errno == errno.ESTALE:
                raise self._gone() from error
            raise directory.io_error("cannot be written", self._store_path, error) from error
        self.end += written
        if not os.fstat(self._fd).st_nlink:
            raise self._gone()

    def touch(self) -> None:
        """Show that the file is in use."""
        with contextlib.suppress(OSError):
            os.utime(self._fd)

    def _look(self) -> None:
        """Raise FileGone if the file is not there any more. By its name: what is known of an open file may be old."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            raise self._gone() from None
        except OSError as error:
            raise directory.io_error("cannot be written", self._store_path, error) from error
        if not os.path.samestat(found, os.fstat(self._fd)):
            raise self._gone()
        self._looked = time.time()

    def _gone(self) -> directory.FileGone:
        return directory.FileGone(
            f"the store {self._store_path} cannot be written: {self.name} has been removed"
        )

    def sync(self) -> None:
        """Force what was written to the disk itself. Raises StoreError."""
        try:
            os.fdatasync(self._fd)
            if not self._is_synced:
                directory.sync(self._store_path)
                directory.sync(os.path.dirname(self._store_path))
                self._is_synced = True
        except OSError as error:
            raise directory.io_error("cannot be written", self._store_path, error) from error

    def close(self, is_kept: bool) -> None:
        """Close the file, and remove it unless `is_kept`."""
        os.close(self._fd)
        if not is_kept:
            with contextlib.suppress(OSError):
                os.unlink(self._path)


class Writer:
    """Appends to a segment of its own, in a thread of its own. Waiting entries are written together.

    `put(entries, done)`: `done(error)` is called in that thread when they are stored (None), or not (StoreError).
    After an error nothing more is written.
    """

    def __init__(self, store: Store) -> None:
        """Begin a segment. Raises StoreError."""
        self.store = store
        self._pid = os.getpid()
        self._results = 0
        self._ways, self._checksums = Ways(), Checksums()
        self._failure: StoreError | None = None
        self._waiting: deque[tuple[Iterable[EntryFields], Callable[[StoreError | None], None]]] = deque()
        self._waiting_size = 0
        self._changed = threading.Condition()
        self._is_busy = self._is_closing = False
        self._file, self._segment, self._encoder = self._begin()
        self._thread = threading.Thread(target=self._run, name="cw-store", daemon=True)
        self._thread.start()

    def _begin(self) -> tuple[SegmentFile, Segment, form.Encoder]:
        """Begin a segment. Raises StoreError."""
        store, file = self.store, SegmentFile(self.store.path)
        try:
            file.append([form.record(form.HEADER, json.dumps(_header(store)).encode(), time.time())])
        except StoreError:
            file.close(is_kept=False)
            raise
        segment = store.add_own_segment(file.name)
        return file, segment, form.Encoder(segment.functions, segment.hosts, segment.definitions)

    def put(
        self,
        entries: Iterable[EntryFields],
        done: Callable[[StoreError | None], None],
        size: int | None = None,
    ) -> None:
        """Queue entries to be stored, which may be iterated over more than once. Blocks while more than BACKLOG bytes
        wait. `size`: their bytes, if entries are made only when they are written. Any thread of the process that made
        the writer."""
        if size is None:
            size = sum(len(payload) for *_, payload, _, _, _, _ in entries)
        with self._changed:
            if self._waiting_size > BACKLOG:
                self._changed.wait_for(lambda: self._waiting_size <= BACKLOG)
            self._waiting.append((entries, done))
            self._waiting_size += size
            if not self._is_busy:
                self._changed.notify_all()

    def flush(self) -> None:
        """Block until the `done` of everything that was put before has been called."""
        if os.getpid() != self._pid:
            return  # a forked child: it does not have the thread
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._is_busy)

    def close(self) -> None:
        """Write what waits, and end. A segment without results is removed. Does nothing in a forked child."""
        if os.getpid() != self._pid:
            return
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()
        self._checksums.close()
        if self._results:
            with contextlib.suppress(StoreError):
                self._file.append([form.record(form.END, b"", time.time())])
        self._file.close(is_kept=bool(self._results))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                while not self._changed.wait_for(lambda: self._waiting or self._is_closing, TOUCH_SECONDS):
                    self._file.touch()
                if not self._waiting:
                    return
                self._is_busy = True
                batches, size = list(self._waiting), self._waiting_size
                self._waiting.clear()
            try:
                self._store([entries for entries, _ in batches])
            except StoreError as error:
                self._failure = error
            except Exception as error:
                logger.critical("store.thread_failed", "the store's thread failed", exc_info=True)
                self._failure = StoreError(f"the store {self.store.path} cannot be written: {error!r}")
            with self._changed:
                self._waiting_size -= size
            for _, done in batches:
                done(self._failure)
            del batches, _, done  # the last results must not stay in memory until there are others

    def _store(self, batches: Sequence[Iterable[EntryFields]]) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            self._append(chain.from_iterable(batches))
        except directory.FileGone:
            if not self._was_tidied():
                raise
            self._file.close(is_kept=True)  # its results are in a merged segment
            self._file, self._segment, self._encoder = self._begin()
            self._append(chain.from_iterable(batches))

    def _was_tidied(self) -> bool:
        try:
            return self._file.name in Listing(self.store.path).replaced()
        except StoreError:  # the whole store was removed
            return False

    def _append(self, entries: Iterable[EntryFields]) -> None:
        path, index = self.store.path, self.store.index

        def write_large(key: bytes, payload: Any, is_durable: bool) -> bytes:
            return directory.write_large(path, key, payload, is_durable, self._ways, self._checksums)

        encoded = self._encoder.encode(entries, write_large, self._segment.number, self._file.end)
        self._file.append(encoded.parts)
        if encoded.is_durable:
            self._file.sync()
        self._results += len(encoded.keys)
        found = zip(encoded.keys, encoded.places, strict=True)
        if encoded.has_errors:
            for key, place in found:
                form.enter(index, key, place)
        else:
            index.update(found)


def _header(store: Store) -> dict[str, Any]:
    return {
        "format": form.FORMAT,
        "store": store.ident,
        "keys": store.scheme,
        "cw": VERSION,
        "python": sys.version.split()[0],
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "start": time.time(),
        "script": getattr(sys.modules.get("__main__"), "__file__", None) or "",
    }
