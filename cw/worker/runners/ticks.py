"""Looks at what is due: at the time that the last look named, and soon after anything has happened.

    something happens -- resume --> PERIOD later --.
                                                   +--> look(now) --> when the next one is due: far, or never: it rests
                  what is due: at its time --------'

A policy whose facts come one by one cannot say after each of them what is due: that costs too much. So it is asked at
the looks only, which are PERIOD apart at least; and while nothing happens and nothing is due, there are none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from cw.net.loop import Loop
from cw.net.timers import Timer

PERIOD = 0.02
"""Least time between two looks (seconds). Longer: what is due is late. Shorter: more of the process's time."""


class Ticks:
    """Looks one after the other. Each of them, `look(now)`, does what is due and returns when it is next; infinity:
    only after `resume`."""

    def __init__(self, loop: Loop, *looks: Callable[[float], float]) -> None:
        self.looks = [*looks]
        self.is_resting = True
        """The next look is farther away than PERIOD, or there is none."""
        self._loop = loop
        self._timer: Timer | None = None

    def resume(self) -> None:
        """Look soon, as something has happened."""
        if self.is_resting:
            if self._timer is not None:
                self._timer.cancel()
            self._look_in(PERIOD)

    def _look_in(self, seconds: float) -> None:
        self.is_resting = seconds > PERIOD
        self._timer = self._loop.call_later(seconds, self._on_time) if seconds < math.inf else None

    def _on_time(self) -> None:
        self.is_resting = False
        now = time.monotonic()
        due = min([look(now) for look in self.looks])
        self._look_in(max(due - now, PERIOD))
