"""A store's results from the oldest to the latest, read without an index: memory does not grow with their number.

segments, by their start --> one iterator each, begun when its time has come --> Stream: (place, head), by time
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, NamedTuple

from cw.store import format as form
from cw.store.format import Stored
from cw.store.reader import Segment, Store


class Found(NamedTuple):
    """A result: where it is, which program it is of (any number), and its fields."""

    place: int
    run: int
    stored: Stored


class Stream(Store):
    """A store that is iterated once, over all results that it has. `read(place)` loads one. Raises StoreError; FileGone
    if another program has tidied the store since: then all must be read once more, with another Stream."""

    def refresh(self) -> None:
        """Note the segments. Their results are read when it is iterated."""
        for name, start in self._listing.current():
            self._add_segment(name).start = start

    def __iter__(self) -> Iterator[Found]:
        """Yield each result, without arguments and payload, in the order in which they were stored: exact within a
        segment, and between segments as far as their clocks agree."""
        waiting = sorted(self._segments, key=_start, reverse=True)
        begun: list[tuple[float, int, Found, Iterator[Found]]] = []
        while waiting or begun:
            # (One that is not begun costs no memory. Most begin when those before have ended.)
            while waiting and (not begun or _start(waiting[-1]) <= begun[0][0]):
                segment = waiting.pop()
                _push(begun, segment.number, self._heads(segment))
            if begun:
                _, number, found, rest = heapq.heappop(begun)
                yield found
                _push(begun, number, rest)

    def _moved_to(self, place: int) -> int | None:
        return None  # it has no index in which the result could be found

    def _heads(self, segment: Segment) -> Iterator[Found]:
        for position, head in self._new_results(segment):
            _, _, _, _, status, host, function, _, number, when, seconds, key = head
            if position < segment.start:
                continue
            place = form.place_of(segment.number, position, status)
            run = segment.number << 32 | segment.runs.get(function, 0)
            name, where = segment.functions.get(function, "?"), segment.hosts.get(host, "")
            yield Found(place, run, Stored(key, number, name, where, status, when, seconds, None, b""))


def _push(begun: list[Any], number: int, rest: Iterator[Found]) -> None:
    found = next(rest, None)
    if found is not None:
        heapq.heappush(begun, (found.stored.when, number, found, rest))


def _start(segment: Segment) -> float:
    """The time at which a segment was begun, as its name says it (see `directory.new_segment_name`)."""
    try:
        return int(segment.name.partition("-")[0], 16) / 1000
    except ValueError:
        return 0.0
