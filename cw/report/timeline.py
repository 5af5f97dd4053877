"""A timeline of slots: the calls of each host in rows, so that none overlaps another of its row. Pure.

    add(host, start, end, ...), in order of end --> the row whose last call ended latest before --> bars
                                                    too many bars? neighbours become one

A store does not say in which slot a call ran. Sorted by their ends, and put into the row that fits most closely, the
calls need as few rows as there were slots that were busy at the same time.
"""

from __future__ import annotations

import bisect

MOST_BARS = 4000
"""Most bars. Larger: the file is larger. Smaller: more calls are drawn as one bar."""

MOST_ROWS = 2000
"""Most rows. Larger: more memory. Smaller: calls of large clusters are left out earlier."""

SLACK = 0.1
"""How much later than it did a call may be drawn to begin (seconds). Calls whose results arrive together seem to
overlap, since only the time of the arrival is known. Larger: the picture is less exact. Smaller: there are more rows
than slots."""

SEVERAL = ""
"""Function of a bar of calls of several functions."""


class Bar:
    """A call, or several that were too short to be drawn by themselves."""

    __slots__ = ("calls", "end", "function", "start")

    def __init__(self, start: float, end: float, function: str, calls: int) -> None:
        self.start = start
        self.end = end
        self.function = function
        self.calls = calls


class Row:
    """What one slot did, or so it seems. `number` counts the rows of its host."""

    __slots__ = ("bars", "end", "failed", "host", "number")

    def __init__(self, host: str, number: int) -> None:
        self.host = host
        self.number = number
        self.end = float("-inf")
        self.bars: list[Bar] = []
        self.failed: list[float] = []  # when calls failed


class Timeline:
    """Rows of bars. `width`: calls that are shorter than this, with less than this between them, are drawn as one bar
    (seconds); 0: none are."""

    def __init__(self) -> None:
        self.width = 0.0
        self.rows: list[Row] = []
        self.left_out = 0
        """Number of calls without a row: there were too many rows."""
        self._bars = 0
        self._failed = 0
        self._begin = float("inf")
        # By host: its rows with their ends, sorted by these. (The row's place in `rows` makes each entry differ.)
        self._ends: dict[str, list[tuple[float, int]]] = {}

    def add(
        self, host: str, start: float, end: float, function: str, calls: int = 1, failed: int = 0
    ) -> None:
        """Add calls that ran one after the other in one slot."""
        place = self._take_row(host, start)
        if place < 0:
            self.left_out += calls
            return
        row = self.rows[place]
        start, end = max(start, row.end), max(end, row.end + end - start)
        row.end = end
        bisect.insort(self._ends[host], (end, place))
        self._begin = min(self._begin, start)
        self._bars += _append(row.bars, Bar(start, end, function, calls), self.width)
        if failed and self._failed < MOST_BARS:
            self._failed += 1
            row.failed.append(end)
        while self._bars > MOST_BARS:
            self._merge(end)

    def shown(self, most: int) -> list[Row]:
        """Return at most so many rows, those of a host together: the first of each host before the second of any."""
        chosen = sorted(self.rows, key=lambda row: (row.number, -len(row.bars), row.host))[:most]
        return sorted(chosen, key=lambda row: (row.host, row.number))

    @property
    def has_mixed_bars(self) -> bool:
        """True if a bar is calls of several functions."""
        return any(bar.function == SEVERAL for row in self.rows for bar in row.bars)

    def check_invariants(self) -> None:
        """Assert what is always true. For tests."""
        assert sum(map(len, self._ends.values())) == len(self.rows) <= MOST_ROWS
        assert self._bars == sum(len(row.bars) for row in self.rows) <= MOST_BARS
        for row in self.rows:
            assert row.bars and row.end == row.bars[-1].end
            for bar, following in zip(row.bars, row.bars[1:], strict=False):
                assert bar.start <= bar.end <= following.start

    def _take_row(self, host: str, start: float) -> int:
        """Take the place of the best row for a call out of the host's ends; -1: there are too many rows."""
        ends = self._ends.setdefault(host, [])
        fitting = bisect.bisect_right(ends, (start, len(self.rows))) - 1
        if fitting >= 0:
            return ends.pop(fitting)[1]
        if ends and ends[0][0] <= start + SLACK:
            return ends.pop(0)[1]
        if len(self.rows) == MOST_ROWS:
            return -1
        self.rows.append(Row(host, len(ends)))
        return len(self.rows) - 1

    def _merge(self, now: float) -> None:
        self.width = max(self.width * 2, (now - self._begin) / (4 * MOST_BARS), 1e-6)
        self._bars = 0
        for row in self.rows:
            bars: list[Bar] = []
            self._bars += sum(_append(bars, bar, self.width) for bar in row.bars)
            row.bars = bars


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
    last.calls += bar.calls
    if not is_same:
        last.function = SEVERAL
    return False
