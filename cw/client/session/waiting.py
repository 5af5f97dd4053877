"""Waiting of threads for a condition on a session's jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Waiting:
    """A condition for any thread. Call `notify` after each change; it is cheap while no thread waits."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0  # threads that wait

    def until(self, is_true: Callable[[], bool], timeout: float | None) -> bool:
        """Block until `is_true()`, checked after each `notify`. False: `timeout` (seconds) is over."""
        with self._condition:
            self._count += 1
            try:
                return self._condition.wait_for(is_true, timeout)
            finally:
                self._count -= 1

    def notify(self) -> None:
        """Let waiting threads check again."""
        if self._count:
            with self._condition:
                self._condition.notify_all()

    def expose(self) -> threading.Condition:
        """Return the condition, for threads that wait on it themselves: `notify` counts them from now on."""
        with self._condition:
            self._count += 1
        return self._condition

    def drop_after_fork(self) -> None:
        """Replace the lock in a forked child: a thread that does not exist here may have held it."""
        self._condition = threading.Condition()
