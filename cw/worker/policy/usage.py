"""How much of a worker's time its jobs used, and how much less smaller workers would have taken. No I/O, no clock.

    results --> on_results()             each slot: seconds of its jobs, when the last one ended
    the end --> measure() --> Used --> a line in the log (cw.slot_seconds)

The time of a job is that between its start and its result, as its runner measures it. Jobs that were cut short do not
count; one that waits for nested jobs does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cw.slot_seconds import IDLE_SECONDS, Used


class Usage:
    """Use of the slots of one worker, from `now` on."""

    def __init__(self, count: int, now: float) -> None:
        self._since = now
        self._used = 0.0
        self._worked_at = [now] * count

    def on_results(self, slot: int, seconds: Sequence[float], now: float) -> None:
        """Count jobs that have ended on a slot, with their durations."""
        self._used += sum(seconds)
        self._worked_at[slot] = now

    def on_drain(self, slots: Iterable[int], now: float) -> None:
        """Note the slots that still run jobs, which may be cut short."""
        for slot in slots:
            self._worked_at[slot] = now

    def measure(self, now: float) -> Used:
        held = len(self._worked_at) * (now - self._since)
        saved = sum(max(0.0, now - at - IDLE_SECONDS) for at in self._worked_at)
        return Used(min(self._used, held), held, saved)
