"""A timeline of slots: the calls of each host in rows, so that none overlaps another of its row. Pure.

    add(host, start, end, ...), in order of end --> the row whose last call ended latest before --> bars
                                                    too many bars? neighbours become one

A store does not say in which slot a call ran. Sorted by their ends, and put into the row that fits most closely, the
calls need as few rows as there were slots that were busy at the same time. Of many rows, only some are drawn.
"""

from __future__ import annotations

import bisect
import re

MOST_DRAWN = 48
"""Most rows with bars. Larger: the picture is higher, and each row is drawn more coarsely. Smaller: it shows less of a
large cluster."""

MOST_BARS = 4000
"""Most bars. Larger: the file is larger. Smaller: more calls are drawn as one bar."""

MOST_ROWS = 100_000
"""Most rows. Larger: more memory. Smaller: calls of the largest clusters are left out earlier."""

SLACK = 0.1
"""How much calls of one row may overlap (seconds). The time of a result's arrival is known, not that of the call's end:
calls that ran one after the other may seem to overlap. Larger: the picture is less exact. Smaller: there are more rows
than slots."""

SLACK_SHARE = 0.002
"""The same, as a share of the time since the first call. Larger: it is seen in the picture. Smaller: as above."""

CUT = 0.25
"""Most of a call that is not drawn because it overlaps (a share of it). A call that overlaps more is drawn later."""

SEVERAL = ""
"""Function of a bar of calls of several functions."""


class Bar:
    """A call, or several that were too short to be drawn by themselves."""

    __slots__ = ("end", "function", "start")

    def __init__(self, start: float, end: float, function: str) -> None:
        self.start = start
        self.end = end
        self.function = function


class Row:
    """What one slot did, or so it seems. `number` counts the rows of its host."""

    __slots__ = ("bars", "failed", "host", "number")

    def __init__(self, host: str, number: int) -> None:
        self.host = host
        self.number = number
        self.bars: list[Bar] = []
        self.failed: list[float] = []  # when calls failed


class Timeline:
    """Rows of bars. `width`: calls that are shorter than this, with less than this between them, are drawn as one bar
    (seconds); 0: none are."""

    def __init__(self) -> None:
        self.width = 0.0
        self.count = 0
        """Number of rows, drawn or not."""
        self.left_out = 0
        """Number of calls without a row: there were too many rows."""
        self._drawn: dict[tuple[int, str], Row] = {}  # by number and host
        self._bars = 0
        self._failed = 0
        self._begin = float("inf")
        self._ends: dict[str, list[tuple[float, int]]] = {}  # by host: ends and numbers of its rows, sorted

    def add(
        self, host: str, start: float, end: float, function: str, calls: int = 1, failed: int = 0
    ) -> tuple[float, float]:
        """Add calls that ran one after the other in one slot. Returns when they began and ended, or seem to have."""
        row_end, number = self._take_row(host, start, end)
        if number < 0:
            self.left_out += calls
            return start, end
        drawn = max(start, row_end)
        if drawn - start > (end - start) * CUT:
            start, end = drawn, end + drawn - start
        bisect.insort(self._ends[host], (end, number))
        self._begin = min(self._begin, start)
        row = self._drawn.get((number, host))
        if row is None:
            return start, end
        self._bars += _append(row.bars, Bar(drawn, end, function), self.width)
        if failed and self._failed < MOST_BARS:
            self._failed += 1
            row.failed.append(end)
        while self._bars > MOST_BARS:
            self._merge(end)
        return start, end

    def rows(self, most: int) -> list[Row]:
        """Return at most so many rows, those of a host together: the first of each host before the second of any."""
        chosen = sorted(self._drawn)[:most]
        return [self._drawn[place] for place in sorted(chosen, key=_by_host)]

    def rows_of(self, host: str) -> int:
        """Return the number of a host's rows, drawn or not."""
        return len(self._ends.get(host, ()))

    @property
    def has_mixed_bars(self) -> bool:
        """True if a bar is calls of several functions."""
        return any(bar.function == SEVERAL for row in self._drawn.values() for bar in row.bars)

    def check_invariants(self) -> None:
        """Assert what is always true. For tests."""
        assert sum(map(len, self._ends.values())) == self.count <= MOST_ROWS
        assert len(self._drawn) == min(self.count, MOST_DRAWN)
        assert self._bars == sum(len(row.bars) for row in self._drawn.values()) <= MOST_BARS
        for row in self._drawn.values():
            for bar, following in zip(row.bars, row.bars[1:], strict=False):
                assert bar.start <= bar.end <= following.start

    def _take_row(self, host: str, start: float, end: float) -> tuple[float, int]:
        """Take the best row for a call out of the host's: its end and number. Number -1: there are too many rows."""
        ends = self._ends.get(host)
        if ends is None:
            ends = self._ends[host] = []
        slack = max(SLACK, (start - self._begin) * SLACK_SHARE)
        fitting = bisect.bisect_right(ends, (start + min(slack, (end - start) * CUT), MOST_ROWS)) - 1
        if fitting >= 0:
            return ends.pop(fitting)
        if ends and ends[0][0] <= start + slack:
            return ends.pop(0)
        if self.count == MOST_ROWS:
            return 0.0, -1
        self.count += 1
        self._draw(host, len(ends))
        return float("-inf"), len(ends)

    def _draw(self, host: str, number: int) -> None:
        """Draw a new row from now on, if it is among the first. The last one is not drawn any more then."""
        self._drawn[number, host] = Row(host, number)
        if len(self._drawn) > MOST_DRAWN:
            self._bars -= len(self._drawn.pop(max(self._drawn)).bars)

    def _merge(self, now: float) -> None:
        self.width = max(self.width * 2, (now - self._begin) / (4 * MOST_BARS), 1e-6)
        self._bars = 0
        for row in self._drawn.values():
            bars: list[Bar] = []
            self._bars += sum(_append(bars, bar, self.width) for bar in row.bars)
            row.bars = bars


def _by_host(place: tuple[int, str]) -> tuple[list[tuple[int, str]], str, int]:
    """Sort key of a row: node9 comes before node10."""
    number, host = place
    parts = re.findall(r"[0-9]+|[^0-9]+", host)
    return [(int(part) if part.isdecimal() else -1, part) for part in parts], host, number


def _append(bars: list[Bar], bar: Bar, width: float) -> bool:
    """Append a bar, or let the last one take it in: then False."""
    last = bars[-1] if bars else None
    if last is None or bar.start - last.end >= width:
        bars.append(bar)
        return True
    lengths = last.end - last.start, bar.end - bar.start
    is_same = last.function == bar.function
    # (Two long calls stay two bars. So does a long one beside a short one of another function.)
    if (min(lengths) if is_same else max(lengths)) >= width:
        bars.append(bar)
        return True
    last.end = bar.end
    if not is_same:
        last.function = SEVERAL
    return False
