"""Time for which a worker has had nothing to do, after which it ends, if its user wants that; no I/O, no clock.

A job counts from its arrival to its result, also while it waits for nested ones. Threads and child processes that jobs
have left behind do not count. Time without a master does: jobs may wait there, or it is yet to come.
"""

from __future__ import annotations


class Idleness:
    """`limit`: seconds with nothing to do after which the worker should end; 0: never. `now`: time of its start."""

    def __init__(self, limit: float, now: float) -> None:
        self.limit = limit
        self._since = now
        self._has_worked = False

    def on_work(self) -> None:
        """Note that the master has sent something to do, or that there is no master."""
        self._has_worked = True

    def is_over(self, now: float, is_empty: bool) -> bool:
        """True if the worker has had nothing to do for long enough. Called about every second; `is_empty`: no job is
        here."""
        if self._has_worked or not is_empty:
            self._has_worked, self._since = False, now
        return 0 < self.limit <= now - self._since
