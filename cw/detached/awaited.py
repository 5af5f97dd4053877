"""Calls of a detached run that wait for results of others. Pure.

    add --> WAITING, by the keys of what it waits for --> on_ended(key): those that wait for nothing more

Nothing is kept but their records: a result that one needs is in the store by then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar


class Record(Protocol):
    """A call on disk, as it is needed here."""

    @property
    def number(self) -> int: ...
    @property
    def waits_for(self) -> Sequence[Any]:
        """What it waits for, each with its `key`, and a `payload` if that came before."""


T = TypeVar("T", bound=Record)


class Waiting(Generic[T]):
    """The calls that wait. `is_over(key)`: the call with this key has ended in this run, well or not."""

    def __init__(self, is_over: Callable[[bytes], bool]) -> None:
        self._is_over = is_over
        self._by_key: dict[bytes, list[T]] = {}
        self._missing: dict[int, set[bytes]] = {}  # by number

    def __len__(self) -> int:
        return len(self._missing)

    def add(self, record: T) -> bool:
        """Let a call wait. False: all that it needs is there."""
        keys = {awaited.key for awaited in record.waits_for if awaited.payload is None}
        missing = {key for key in keys if not self._is_over(key)}
        if not missing:
            return False
        self._missing[record.number] = missing
        for key in missing:
            self._by_key.setdefault(key, []).append(record)
        return True

    def on_ended(self, key: bytes) -> list[T]:
        """Return the calls that wait for nothing more, now that one has ended."""
        ready = []
        for record in self._by_key.pop(key, ()):
            missing = self._missing[record.number]
            missing.discard(key)
            if not missing:
                del self._missing[record.number]
                ready.append(record)
        return ready
