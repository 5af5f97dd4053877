"""Calls that are recorded in a store: one call, one whose key is not known yet, and those of a chunk.

Call, Chunk: a job's payload as it came --> entries --> the store
             a stored result -------------> load ----> (error, value, output)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from cw.net import messages as m
from cw.payloads import classes, serialize
from cw.payloads.futures import has_value
from cw.store.format import ClassRecord, Entry


class Call:
    """A call that is recorded: its key, and the place of its stored result, if any."""

    __slots__ = (
        "again", "args", "classes", "definitions", "is_under_way", "key", "name", "place", "result_key", "store_client"
    )  # fmt: skip

    def __init__(
        self,
        store_client: Any,
        key: bytes,
        name: str,
        met: tuple[tuple[ClassRecord, ...], dict[bytes, bytes]],
        args: Any,
        place: int = -1,
    ) -> None:
        """`store_client`: finds and records it. `met`: the classes that its values may have, and the definitions, by
        digest, that its arguments refer to."""
        self.store_client = store_client
        self.key = key
        self.name = name  # the function's
        self.classes, self.definitions = met
        self.args = args  # pickled
        self.place = place
        self.is_under_way = False  # a run that goes on has it: its result comes into the store
        self.result_key: bytes | None = None
        """Key by which calls that depend on it are recognised; None: by its value."""
        self.again: Callable[[], Any] | None = None
        """Lets the call wait for the futures among its arguments, if its stored result cannot be read."""

    @property
    def is_stored(self) -> bool:
        return self.place >= 0

    @property
    def calls(self) -> list[Call]:
        """The calls that are recorded: itself."""
        return [self]

    @property
    def is_found(self) -> bool:
        """True if it need not run here: its result is stored, or under way in a run that goes on."""
        return self.place >= 0 or self.is_under_way

    def load(self, describe: str) -> tuple[BaseException | None, Any, tuple[bytes, bytes] | None]:
        """Return the stored (error, value, output). Raises whatever reading or unpickling it raises."""
        stored = self.store_client.read(self.place)
        classes.definitions.update(stored.definitions)
        if stored.status == m.DONE:
            return None, serialize.load_result_soon(stored.payload, describe), stored.output
        return serialize.load_error(stored.payload, f"{describe} (in an earlier run)"), None, stored.output

    def entries(self, number: int, status: int, seconds: float, host: str, payload: Any) -> Iterable[Entry]:
        """Return the entries to store."""
        return (self.store_client.entry(self, number, status, seconds, host, payload),)


class UnkeyedCall:
    """A call whose key will depend on the values of these futures, which are not known by a key of their own.

    `counts`: as in `StoreClient.find`.
    """

    __slots__ = ("_call", "_counts", "_futures", "store_client")

    is_stored = is_found = is_under_way = False

    def __init__(self, call: Call, futures: list[Future[Any]], counts: dict[bytes, int]) -> None:
        self._call = call
        self._futures = futures
        self._counts = counts
        self.store_client = call.store_client

    @property
    def is_ready(self) -> bool:
        """True if all the futures have their values."""
        return all(map(has_value, self._futures))

    def complete(self) -> Call:
        """Return the call, stored or not, when the futures have their values. Raises UnstableKey."""
        self.store_client.add_values(self._call, [future.result() for future in self._futures])
        self.store_client.find(self._call, self._counts)
        return self._call

    def entries(self, number: int, status: int, seconds: float, host: str, payload: Any) -> Iterator[Entry]:
        raise AssertionError("a call that has run was completed before")


class Chunk:
    """Calls that are one job: `chunks.run_each`. Each is recorded by itself."""

    __slots__ = ("calls", "store_client")

    is_stored = is_found = is_under_way = False
    again = None

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls
        self.store_client = calls[0].store_client

    def entries(self, number: int, status: int, seconds: float, host: str, payload: Any) -> Iterator[Entry]:
        if status == m.DONE:
            outcomes = serialize.load_result(payload)
            for call, (status_of_call, lasted, result) in zip(self.calls, outcomes, strict=True):
                yield self.store_client.entry(call, number, status_of_call, lasted, host, result)
        else:  # its runner died, or was too slow; the call that did it is not known
            for call in self.calls:
                yield self.store_client.entry(call, number, status, seconds, host, payload)
