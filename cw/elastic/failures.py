"""Failures of a kind's pieces: they slow its growth down, and stop it after three that died at once. Pure.

submit refused, died at once ----> in_a_row + 1 ----> wait DELAYS[in_a_row - 1], then try one piece
                                      |
            died at once, MOST_DEATHS times in a row ----> paused, until resume
a piece that has worked -------------> in_a_row = 0
"""

from __future__ import annotations

from typing import NamedTuple

QUICK_SECONDS = 60.0
"""A piece that dies sooner than this after its start (seconds) has died at once. Longer: crashes of single machines
count, too. Shorter: a worker whose preparation takes long and fails is started for ever."""

MOST_DEATHS = 3
"""Deaths at once, in a row, after which a kind is paused. More: allocations are wasted. Fewer: a bad node is enough."""

DELAYS = (0.0, 60.0, 15 * 60.0, 30 * 60.0, 60 * 60.0)
"""Waits after the first failure in a row, the second, ... (seconds). The last one holds for all later ones."""


class Failures(NamedTuple):
    """The failures in a row of one kind."""

    in_a_row: int = 0
    """Failures of any sort."""
    deaths: int = 0
    """Pieces among them that died at once."""
    until: float = 0.0
    """Time before which nothing is submitted (seconds since 1970)."""
    why: str = ""
    """The last failure, in words."""
    is_paused: bool = False

    def on_refused(self, why: str, now: float) -> Failures:
        """Note that the batch system refused a piece."""
        return self._again(why, now)

    def on_died(self, why: str, now: float) -> Failures:
        """Note that a piece died at once."""
        failed = self._again(why, now)._replace(deaths=self.deaths + 1)
        return failed._replace(is_paused=self.is_paused or failed.deaths >= MOST_DEATHS)

    def on_worked(self) -> Failures:
        """Note that a piece has worked. A pause stays: its user ends it."""
        return Failures(why=self.why, is_paused=True) if self.is_paused else Failures()

    def _again(self, why: str, now: float) -> Failures:
        delay = DELAYS[min(self.in_a_row, len(DELAYS) - 1)]
        return self._replace(in_a_row=self.in_a_row + 1, until=max(self.until, now + delay), why=why)

    def most_pieces(self, now: float) -> float:
        """Return the number of pieces that may be submitted now: after a failure one at a time."""
        if self.is_paused or now < self.until:
            return 0
        return 1 if self.in_a_row else float("inf")
