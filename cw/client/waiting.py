"""Threads that wait until something is true of a session's jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Waiting:
    """Any thread. Who changes what is waited for calls `notify`, which costs little while nobody waits."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0  # threads that wait

    def until(self, is_true: Callable[[], bool], timeout: float | None) -> bool:
        """Block until that is true, which is looked at after each `notify`. False: time is up."""
        with self._condition:
            self._count += 1
            try:
                return self._condition.wait_for(is_true, timeout)
            finally:
                self._count -= 1

    def notify(self) -> None:
        """Have those that wait look again."""
        if self._count:
            with self._condition:
                self._condition.notify_all()

    def drop_after_fork(self) -> None:
        """In a forked child: another thread, which is not here, may have held the lock."""
        self._condition = threading.Condition()
