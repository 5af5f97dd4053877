"""Starting a worker again that has died, from the process that started it: the launcher of a cluster on one machine.

    worker --- died ---> Restarts.on_death --- seconds to wait ---> start_again() ---> the next worker
       '--- ended by itself (exit status 0) ---> nothing more           '--- None: not any more, said in one line

One thread for each worker, which looks twice a second. It is the user's program in which it runs.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable

from cw.launch.launcher import LaunchError, Process

logger = logging.getLogger("cw.launch")

LOOK_SECONDS = 0.5
"""Between two looks whether the worker is there. Longer: jobs wait longer for the next one. Shorter: it costs more."""

RESTARTS = 8
"""Deaths in a row after which a worker is started again. More: what cannot work is tried for longer. Fewer than the 5
losses after which a job is given up: a job that takes its worker down is never reported to its caller."""

FIRST_WAIT_SECONDS = 0.2
"""Before the worker is started again after its first death; twice as long after each that follows in a row."""

STEADY_SECONDS = 60.0
"""How long a worker lives whose death is counted as a first one again."""


class Restarts:
    """How often a worker has died in a row, and what follows from that. No clock, no process."""

    def __init__(self) -> None:
        self.in_a_row = 0

    def on_death(self, lived: float) -> float | None:
        """A worker that had `lived` this long has died: seconds to wait before the next is started; None: there is
        none."""
        if lived >= STEADY_SECONDS:
            self.in_a_row = 0
        self.in_a_row += 1
        if self.in_a_row > RESTARTS:
            return None
        return float(FIRST_WAIT_SECONDS * 2 ** (self.in_a_row - 1))


class Supervisor:
    """Watches a worker, and has `start_again(process)` start the next one when it has died.

    `start_again` is called in the supervisor's thread, with the process that has died. It returns None if another is
    not wanted any more. `log`: the file in which a user finds why a worker died.
    """

    def __init__(self, process: Process, start_again: Callable[[Process], Process | None], log: str) -> None:
        self._process = process
        self._start_again = start_again
        self._log = log
        self._is_ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cw supervisor", daemon=True)
        self._thread.start()

    def is_active(self) -> bool:
        """Whether a worker is there, or is about to be started again."""
        return self._thread.is_alive()

    def end(self) -> None:
        """Start no worker any more. Returns when that is certain."""
        self._is_ended.set()
        self._thread.join()

    def _run(self) -> None:
        restarts = Restarts()
        began = time.monotonic()
        while not self._is_ended.wait(LOOK_SECONDS):
            if self._process.is_alive():
                continue
            status = self._process.exit_status()
            if status == 0:  # it was told to end, or has reached the end of its lifetime
                return
            wait = restarts.on_death(time.monotonic() - began)
            how = _describe(status)
            if wait is None:
                logger.error(
                    "worker lost: pid %d (%s); it has died %d times in a row and is not started again, so jobs wait "
                    "for ever: see %s, then stop this cluster",
                    self._process.pid, how, restarts.in_a_row, self._log,
                )  # fmt: skip
                return
            if self._is_ended.wait(wait) or not self._replace(how):
                return
            began = time.monotonic()

    def _replace(self, how: str) -> bool:
        """Start the next worker; whether there is one."""
        try:
            following = self._start_again(self._process)
        except (OSError, RuntimeError, LaunchError) as error:  # (RuntimeError: the interpreter is ending)
            logger.error(
                "worker lost: pid %d (%s); another cannot be started: %s", self._process.pid, how, error
            )
            return False
        if following is None:
            return False
        logger.warning(
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
