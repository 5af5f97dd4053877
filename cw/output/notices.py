"""Notices about lines that were left out: one at once, and what comes soon after it together in the next. Pure.

    [simulate #17 node7] [… 555 lines (55,500 bytes) left out: more than a client is sent]
    [… 1,204 lines (12,040 bytes) of 1,204 jobs left out: more than a client is sent]

Otherwise thousands of short jobs that print one line each would have a notice each, for which there is no bound.
"""

from __future__ import annotations

from typing import Any

NOTICE_SECONDS = 1.0
"""Least time between two notices (seconds). Longer: they are late. Shorter: a flood has more of them."""


class Notices:
    """What was left out of one stream. Time is an argument (seconds of a monotonic clock)."""

    def __init__(self) -> None:
        self.due: float | None = None
        """Time from which `take` returns a notice; None: there is nothing to report."""
        self.cell: Any = None
        """Cell of a notebook under which the notice appears."""
        self._lines = self._size = 0  # since the last notice
        self._labels: set[str] = set()  # of the jobs
        self._next = 0.0  # earliest time of the next notice

    def add(self, lines: int, size: int, label: str, cell: Any, now: float) -> None:
        """Count lines, and their bytes, that were left out of the job with this label."""
        self._lines += lines
        self._size += size
        self._labels.add(label)
        self.cell = cell
        if self.due is None:
            self.due = max(now, self._next)

    def take(self, now: float) -> str:
        """Return the notice, a whole line, and begin to count anew; '' if there is nothing to report."""
        if self.due is None:
            return ""
        label, whose = "", f" of {len(self._labels):,} jobs"
        if len(self._labels) == 1:
            label, whose = next(iter(self._labels)), ""
        noun = "line" if self._lines == 1 else "lines"
        text = f"{label}[… {self._lines:,} {noun} ({self._size:,} bytes){whose} left out: more than a client is sent]\n"
        self.due, self._next = None, now + NOTICE_SECONDS
        self._lines = self._size = 0
        self._labels.clear()
        return text
