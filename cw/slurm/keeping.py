"""The keeper beside a cluster's master: runs that have left their script find a steward there (`cw.runs.keeper`).

It is a process of its own, as it is a matter of clients, and starts when the user has had a run. It ends with the
sidecar that has started it: its standard input does then.
"""

from __future__ import annotations

import os
import subprocess
import time

from cw import program, userdir
from cw.events import EventLogger

logger = EventLogger("cw.slurm.sidecar")

AGAIN_SECONDS = 60.0
"""Least time between two starts (seconds). Longer: after its death runs wait longer. Shorter: one that cannot work is
started in vain more often."""


class RunKeeper:
    """Starts the keeper of a cluster's runs, and starts it again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None
        self._started = -AGAIN_SECONDS

    def look(self) -> None:
        """Start it if there are runs, and it does not run."""
        if self._process is not None and self._process.poll() is None:
            return
        now = time.monotonic()
        if now - self._started < AGAIN_SECONDS:
            return
        if not os.path.isdir(os.path.join(userdir.home_directory(), "runs")):
            return
        self._started = now
        try:
            self._process = subprocess.Popen(
                program.command("cw.runs.keeper", "cluster", self._name), stdin=subprocess.PIPE
            )
        except OSError as error:
            logger.warning("sidecar.keeper_failed", "the keeper of runs cannot be started: %s", error)
