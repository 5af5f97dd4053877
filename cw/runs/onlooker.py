"""Looking after a run from outside: how far it is, and that it has an owner that lives.

    look --> its state is over, or its folder is gone ------------------------> is_over
         '-> silent for CHECK_SECONDS: does its owner live?
               a steward: no --> another one is started (`cw.runs.starting`)
               its script: no --> is_over: what it had not handed over is nobody's

Whoever looks does this: a program that is attached, the script that runs again, `cw runs`. Two that start a steward at
once do no harm: the second ends (`cw.runs.lease`). No two clocks are compared: silence is what this process observes.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable

from cw import processes
from cw.errors import DetachError
from cw.events import EventLogger
from cw.runs import lease
from cw.runs.folder import SCRIPT, RunFolder, RunState

logger = EventLogger("cw.runs")

CHECK_SECONDS = 5.0
"""Silence after which we look whether the owner lives (seconds). Longer: a run that has lost its steward waits longer
for the next. Shorter: more looks at processes and leases."""

START_SECONDS = 30.0
"""Time between two starts of a steward (seconds). Longer: after a failure the run waits longer. Shorter: where none can
start, many try."""


class Onlooker:
    """Looks after one run. For one thread at a time."""

    def __init__(self, folder: RunFolder, start: Callable[[RunFolder], None]) -> None:
        self.folder = folder
        self.state = RunState()
        self.is_over = False
        """True if the run will have no more results."""
        self._start = start
        self._seen = ("", -1)  # phase and beat
        self._changed = 0.0  # when we saw them change
        self._started = -math.inf  # when we started a steward

    def look(self, now: float | None = None) -> RunState:
        """Read the state, and let the run have an owner. Raises DetachError if the folder is damaged."""
        now = time.monotonic() if now is None else now
        if not self.folder.exists():
            self.is_over = True
            return self.state
        self.state = self.folder.state()
        if self.state.is_over:
            self.is_over = True
        elif self._seen != (self.state.phase, self.state.beat):
            self._seen = self.state.phase, self.state.beat
            self._changed = now
        elif now - self._changed >= CHECK_SECONDS:
            self._changed = now
            self._check_owner(now)
        return self.state

    def _check_owner(self, now: float) -> None:
        if is_owned(self.folder):
            return
        state = self.folder.state()
        if state.is_over or state.phase == SCRIPT:
            self.state, self.is_over = state, True
        elif now - self._started >= START_SECONDS:
            self._started = now
            try:
                self._start(self.folder)
            except (DetachError, OSError) as error:
                logger.warning("runs.start_failed", "the run %s has no steward, and none can be started: %s",
                               self.folder.name, error)  # fmt: skip


def is_live(folder: RunFolder, seconds: float = lease.SILENT_SECONDS) -> bool:
    """True if the run in a folder has not ended. Blocks for up to `seconds` where only signs of life can show that."""
    if not folder.exists():
        return False
    state = folder.state()
    return not state.is_over and (state.phase != SCRIPT or is_owned(folder, seconds))


def is_owned(folder: RunFolder, seconds: float = lease.SILENT_SECONDS) -> bool:
    """True if the run's script or steward lives. Blocks for up to `seconds` where only signs of life can show that."""
    state = folder.state()
    if state.phase != SCRIPT:
        return lease.is_held(folder, seconds)
    if state.host == os.uname().nodename:
        return bool(state.start) and processes.identity(state.pid) == state.start
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(lease.BEAT_SECONDS / 4, max(0.0, end - time.monotonic())))
        now = folder.state()
        if now.beat != state.beat or now.phase != SCRIPT:
            return not now.is_over
    return False
