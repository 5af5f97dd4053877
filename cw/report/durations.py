"""Durations of the calls of a function, counted in classes that grow by 3.7 %. Pure."""

from __future__ import annotations

import math

CLASSES = 64
"""Number of classes from one second to ten. Larger: quantiles are more exact. Smaller: less memory."""

SHORTEST = 1e-7
"""Durations below this count as this one (seconds): less is nothing that can be measured."""

BARS = 24
"""Most bars of a histogram. Larger: it is ragged when there are few calls. Smaller: two humps look like one."""


class Durations:
    """Counts durations: some hundred numbers, whatever the number of calls."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.longest = 0.0
        self._counts: dict[int, int] = {}  # by class

    def add(self, seconds: float, place: int | None = None) -> None:
        """Count a call. `place`: its class, if that is known."""
        self.count += 1
        self.total += seconds
        if seconds > self.longest:
            self.longest = seconds
        if place is None:
            place = class_of(seconds)
        self._counts[place] = self._counts.get(place, 0) + 1

    def merge(self, other: Durations) -> None:
        """Count the calls of others, too."""
        self.count += other.count
        self.total += other.total
        self.longest = max(self.longest, other.longest)
        for place, count in other._counts.items():
            self._counts[place] = self._counts.get(place, 0) + count

    def quantile(self, share: float) -> float:
        """Return the duration (seconds) that this share of the calls does not exceed, within 2 %; 0 if there are
        none."""
        wanted, seen = share * self.count, 0
        for place in sorted(self._counts):
            seen += self._counts[place]
            if seen >= wanted:
                return min(self.longest, _lower(place + 0.5))
        return 0.0

    def histogram(self) -> list[tuple[float, float, int]]:
        """Return the bars, without gaps: the shortest and the longest duration (seconds), and the number of calls."""
        if not self._counts:
            return []
        first, last = min(self._counts), max(self._counts)
        step = -(-(last - first + 1) // BARS)
        bars = [0] * (-(-(last - first + 1) // step))
        for place, count in self._counts.items():
            bars[(place - first) // step] += count
        return [
            (_lower(first + number * step), _lower(first + (number + 1) * step), count)
            for number, count in enumerate(bars)
        ]


def class_of(seconds: float) -> int:
    """Return the class of a duration."""
    return math.floor(math.log10(max(seconds, SHORTEST)) * CLASSES)


def _lower(place: float) -> float:
    """The shortest duration of a class (seconds)."""
    return float(10 ** (place / CLASSES))
