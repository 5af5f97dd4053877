"""Calls and busy slots over time, summed in bins; and the axis of time, without long pauses. Pure.

add(start, end, ...) --> bins that are not empty; too many? two become one --> pieces() --> columns()
"""

from __future__ import annotations

from typing import NamedTuple

MOST = 1024
"""Most bins. Larger: a finer picture, and more memory. Smaller: a run of many pauses is drawn coarsely."""

PAUSE = 0.1
"""Pauses above this share of the time in which something ran are left out of the axis. Larger: a run that was resumed
the next day is a thin line at each end. Smaller: what waits in the middle of a run is not seen."""


class Piece(NamedTuple):
    """A part of the axis without a long pause: bins `first` to `last`, of which the first is drawn at `offset`."""

    first: int
    last: int
    offset: int


class Column(NamedTuple):
    """A column of a figure: its width, how many calls ended there, and how many slots were busy, on average."""

    seconds: float
    done: int
    failed: int
    busy: float


class Bins:
    """Sums by time. `width` is that of a bin (seconds), a power of two."""

    def __init__(self) -> None:
        self.width = 1 / 1024
        self._bins: dict[int, list[float]] = {}  # by time // width: done, failed, busy seconds

    def add_interval(self, start: float, end: float) -> None:
        """Add a time in which one slot was busy."""
        while (end - start) / self.width > MOST // 2:
            self._widen()
        width = self.width
        first, last = int(start // width), int(end // width)
        if first == last:
            self._bin(first)[2] += end - start
        else:
            self._bin(first)[2] += (first + 1) * width - start
            bins = self._bins
            for place in range(first + 1, last):
                if (found := bins.get(place)) is None:
                    found = self._bin(place)
                found[2] += width
            self._bin(last)[2] += end - last * width
        while len(self._bins) > MOST:
            self._widen()

    def add_ends(self, end: float, is_failed: bool, number: int = 1) -> None:
        """Add calls that ended together, after their intervals."""
        self._bin(int(end // self.width))[is_failed] += number

    def pieces(self) -> list[Piece]:
        """Return the parts of the axis, in order of time."""
        found: list[Piece] = []
        longest = max(2, int(len(self._bins) * PAUSE))
        for place in sorted(self._bins):
            if found and place - found[-1].last - 1 <= longest:
                found[-1] = found[-1]._replace(last=place)
            else:
                offset = found[-1].offset + found[-1].last - found[-1].first + 1 if found else 0
                found.append(Piece(place, place, offset))
        return found

    def columns(self, most: int) -> list[Column]:
        """Return the columns along the axis, at most so many."""
        pieces = self.pieces()
        if not pieces:
            return []
        size = pieces[-1].offset + pieces[-1].last - pieces[-1].first + 1
        step = -(-size // most)
        last = max(
            0, round(size / step) - 1
        )  # it takes in a short rest: in a column of its own that would be a peak
        sums = [[0.0, 0.0, 0.0] for _ in range(last + 1)]
        for piece in pieces:
            for place in range(piece.first, piece.last + 1):
                column = sums[min(last, (piece.offset + place - piece.first) // step)]
                for kind, value in enumerate(self._bins.get(place, ())):
                    column[kind] += value
        widths = [step * self.width] * last + [(size - step * last) * self.width]
        return [
            Column(width, int(done), int(failed), busy / width)
            for width, (done, failed, busy) in zip(widths, sums, strict=True)
        ]

    def _bin(self, place: int) -> list[float]:
        found = self._bins.get(place)
        if found is None:
            found = self._bins[place] = [0.0, 0.0, 0.0]
        return found

    def _widen(self) -> None:
        self.width *= 2
        before, self._bins = self._bins, {}
        for place, values in before.items():
            found = self._bin(place // 2)
            for kind, value in enumerate(values):
                found[kind] += value


class Axis:
    """Where a moment is drawn: seconds from the left, without the pauses."""

    def __init__(self, bins: Bins) -> None:
        self._width = bins.width
        self.pieces = bins.pieces()
        last = self.pieces[-1] if self.pieces else Piece(0, -1, 0)
        self.seconds = (last.offset + last.last - last.first + 1) * self._width
        """Length of the axis."""

    def x(self, when: float) -> float:
        """Return the place of a moment; a moment in a pause is drawn at its end."""
        for piece in self.pieces:
            if when < (piece.last + 1) * self._width:
                return piece.offset * self._width + max(0.0, when - piece.first * self._width)
        return self.seconds

    def pauses(self) -> list[tuple[float, float]]:
        """Return the pauses that are left out: where they are drawn, and how long they were (seconds)."""
        return [
            (after.offset * self._width, (after.first - before.last - 1) * self._width)
            for before, after in zip(self.pieces, self.pieces[1:], strict=False)
        ]
