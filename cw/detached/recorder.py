"""The store of a detached run, as the steward uses it: it knows what is there, and records what comes, unopened."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cw.errors import StoreError
from cw.runs.calls import CallEntry
from cw.store.format import EntryFields
from cw.store.reader import Store
from cw.store.writer import Writer


class Recorder:
    """A store that is read once and again, and written by one writer. Takes the place of a `StoreClient`."""

    def __init__(self, path: str, keys: str) -> None:
        """Open the store. `keys`: the scheme of the keys. Raises StoreError."""
        self._store = Store(path, is_writing=True, scheme=keys)
        self._writer: Writer | None = Writer(self._store)

    def refresh(self) -> None:
        """Read what others have stored since: the script, or a steward before."""
        self._store.refresh()

    def has(self, calls: Iterable[CallEntry]) -> bool:
        """True if the store has the results of these calls."""
        return all(map(self._has, calls))

    def failed(self, calls: Iterable[CallEntry]) -> int:
        """Return the number of these calls that have failed."""
        return sum(self._store.index.get(call.key, 0) & 1 for call in calls)

    def _has(self, entry: CallEntry) -> bool:
        place = self._store.index.get(entry.key, -1)
        if place < 0:
            return False
        # An error that was there before the run is tried again.
        return not place & 1 or self._store.head(place).when != entry.former

    def is_done(self, key: bytes) -> bool:
        """True if there is a result under a key that is no error."""
        return not self._store.index.get(key, 1) & 1

    def payload(self, key: bytes) -> bytes | None:
        """Return the result under a key; None: there is none, or it is an error."""
        place = self._store.index.get(key, -1)
        return None if place < 0 or place & 1 else bytes(self._store.read(place).payload)

    def put(
        self,
        entries: Iterable[EntryFields],
        done: Callable[[StoreError | None], None],
        size: int | None = None,
    ) -> None:
        """Store entries; see Writer."""
        if self._writer is None:
            done(StoreError(f"the store {self._store.path} is closed"))
        else:
            self._writer.put(entries, done, size)

    def flush(self) -> None:
        """Return when all that was put before is stored."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """End the writer. May be called again."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
