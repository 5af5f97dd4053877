"""Restart of a worker that has died, by the process that started it: the launcher of a cluster on one machine.

    worker --- died ---> Restarts.on_death --- seconds to wait ---> start_again() ---> the next worker
       '--- ended by itself (exit status 0) ---> no more                '--- None: no other; the log has the reason

Each worker has one thread, which checks it twice a second. It runs in the user's program.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable

from cw.events import EventLogger
from cw.launch.launcher import LaunchError, Process

logger = EventLogger("cw.launch")

LOOK_SECONDS = 0.5
"""Time between checks of the worker (seconds). Longer: jobs wait longer for the next one. Shorter: it costs more."""

RESTARTS = 8
"""Number of deaths in a row after which a worker is started again. More: one that cannot work is tried for longer.
Fewer than the 5 losses after which a job is given up: a job that kills its worker is never reported to its caller."""

FIRST_WAIT_SECONDS = 0.2
"""Delay of the restart after a worker's first death (seconds); twice as long after each further one in a row."""

MASTER_SECONDS = 2.0
"""Longest delay if the worker is the master, too (seconds). Longer: a new client, which looks for it for 5 s, gives up.
Shorter: a cluster that cannot work is given up sooner."""

STEADY_SECONDS = 60.0
"""Life of a worker after which its death counts as a first one again (seconds)."""


class Restarts:
    """Policy of restarts: counts a worker's deaths in a row. No clock, no process."""

    def __init__(self, longest: float = math.inf) -> None:
        """`longest`: bound of the delays (seconds)."""
        self.in_a_row = 0
        self._longest = longest

    def on_death(self, lived: float) -> float | None:
        """Count the death of a worker that had `lived` this long (seconds). Returns the delay before the start of the
        next one, or None if there is none."""
        if lived >= STEADY_SECONDS:
            self.in_a_row = 0
        self.in_a_row += 1
        if self.in_a_row > RESTARTS:
            return None
        return min(FIRST_WAIT_SECONDS * 2.0 ** (self.in_a_row - 1), self._longest)


class Supervisor:
    """Watches a worker, and calls `start_again(process)` to start the next one when it has died.

    `start_again` is called in the supervisor's thread, with the process that has died. It returns None if no other is
    wanted. `log`: the file in which a user finds the cause of a death. `is_master`: it is its own master.
    """

    def __init__(
        self,
        process: Process,
        start_again: Callable[[Process], Process | None],
        log: str,
        is_master: bool = False,
    ) -> None:
        self._is_master = is_master
        self._process = process
        self._start_again = start_again
        self._log = log
        self._is_ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cw supervisor", daemon=True)
        self._thread.start()

    def is_active(self) -> bool:
        """True if a worker runs, or will be started again."""
        return self._thread.is_alive()

    def end(self) -> None:
        """Start no more workers. Returns when that is certain."""
        self._is_ended.set()
        self._thread.join()

    def _run(self) -> None:
        restarts = Restarts(MASTER_SECONDS if self._is_master else math.inf)
        began = time.monotonic()
        while not self._is_ended.wait(LOOK_SECONDS):
            if self._process.is_alive():
                continue
            status = self._process.exit_status()
            if status == 0:  # it was asked to end, or its lifetime is over
                return
            wait = restarts.on_death(time.monotonic() - began)
            how = _describe(status)
            if wait is None:
                logger.error(
                    "launch.worker_given_up",
                    "worker lost: pid %d (%s); it has died %d times in a row and is not started again, so jobs %s: "
                    "see %s, then stop this cluster",
                    self._process.pid, how, restarts.in_a_row,
                    "fail when their clients give up" if self._is_master else "wait for ever", self._log,
                )  # fmt: skip
                return
            if self._is_ended.wait(wait) or not self._replace(how):
                return
            began = time.monotonic()

    def _replace(self, how: str) -> bool:
        """Start the next worker. Returns False if there is none."""
        try:
            following = self._start_again(self._process)
        except (OSError, RuntimeError, LaunchError) as error:  # (RuntimeError: the interpreter is ending)
            logger.error(
                "launch.restart_failed",
                "worker lost: pid %d (%s); another cannot be started: %s",
                self._process.pid, how, error,
            )  # fmt: skip
            return False
        if following is None:
            return False
        logger.warning(
            "launch.worker_restarted",
            "worker lost: pid %d (%s); started again as pid %d; log: %s",
            self._process.pid, how, following.pid, self._log,
        )  # fmt: skip
        self._process = following
        return True


def _describe(status: int | None) -> str:
    if status is None:
        return "it ended"
    if status > 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
