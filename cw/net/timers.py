"""Timers: callbacks that are due at a time. No clock and no thread: the time is an argument.

    call_later, call_every --> heap by due time --> run_due(now) --> callback
                                 |      ^                 |
              cancel() marks it -'      '-----------------' one that repeats: due again a period later

A cancelled timer stays in the heap until its time comes, or until more than half of the heap is cancelled: then the
heap is rebuilt. So a cancel costs no search, and thousands of waiting timers cost nothing at a wakeup.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count

FEWEST_SWEPT = 64
"""Cancelled timers up to which the heap is not rebuilt. Larger: they keep the objects of their callbacks alive for
longer. Smaller: small heaps are rebuilt again and again."""


class Timer:
    """The handle of a timer."""

    __slots__ = ("_callback", "_is_queued", "_timers", "period")

    def __init__(self, timers: Timers, callback: Callable[[float], bool], period: float) -> None:
        self._timers = timers
        self._callback: Callable[[float], bool] | None = callback
        self._is_queued = False  # in the heap
        self.period = period

    @property
    def is_pending(self) -> bool:
        """True if it will be called (again)."""
        return self._callback is not None

    def cancel(self) -> None:
        """Cancel the timer. Does nothing the second time, or after its last call."""
        if self._callback is not None:
            self._callback = None
            if self._is_queued:
                self._timers.on_cancelled()


class Timers:
    """The timers of one loop."""

    def __init__(self) -> None:
        # By due time; timers with the same time in the order in which they were added.
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._cancelled = 0  # number of cancelled timers in the heap

    def __len__(self) -> int:
        """Number of pending timers."""
        return len(self._heap) - self._cancelled

    def call_later(self, due: float, callback: Callable[[], object]) -> Timer:
        """Call `callback()` once, at this time."""

        def call(now: float) -> bool:
            callback()
            return False

        return self._push(due, Timer(self, call, 0.0))

    def call_every(self, due: float, period: float, callback: Callable[[float], bool]) -> Timer:
        """Call `callback(now)` at this time and a period after each call, while it returns true."""
        return self._push(due, Timer(self, callback, period))

    def next_due(self) -> float:
        """Time at which the next timer is due, perhaps a cancelled one; infinity if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def run_due(self, now: float) -> None:
        """Call the timers that are due. Timers that these add are not called yet, even if they are due."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            timer = heapq.heappop(self._heap)[2]
            timer._is_queued = False
            if timer.is_pending:
                due.append(timer)
            else:
                self._cancelled -= 1
        for timer in due:
            callback = timer._callback
            if callback is None:  # cancelled by a timer before it
                continue
            if not callback(now):
                timer._callback = None
            elif timer.is_pending:
                self._push(now + timer.period, timer)

    def on_cancelled(self) -> None:
        """Note that a timer in the heap was cancelled."""
        self._cancelled += 1
        if self._cancelled > FEWEST_SWEPT and 2 * self._cancelled > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].is_pending]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def check_invariants(self) -> None:
        """Raise AssertionError if the heap contradicts itself. For tests, between two calls."""
        heap = self._heap
        assert all(heap[(n - 1) // 2] <= heap[n] for n in range(1, len(heap)))
        assert sum(not timer.is_pending for _, _, timer in heap) == self._cancelled
        assert all(timer._is_queued for _, _, timer in heap)
        assert len({id(timer) for _, _, timer in heap}) == len(heap)

    def _push(self, due: float, timer: Timer) -> Timer:
        heapq.heappush(self._heap, (due, next(self._numbers), timer))
        timer._is_queued = True
        return timer
