"""What programs and keepers agree on, in files: which keepers there are, and which runs need a steward.

    program: request "steward" in the run's folder ---> keeper: starts one, and withdraws the request
    keeper of a cluster: a lease in ~/.cw/keepers/CLUSTER ---> programs know that somebody looks
    keeper of a run's own cluster: a lease in the run's folder

A keeper (`cw.runs.keeper`) is a process beside a cluster that lasts as long as the cluster does.
"""

from __future__ import annotations

import os

from cw import userdir
from cw.runs import lease
from cw.runs.folder import STEWARD, RunFolder, RunState

WORD = "steward"
"""The request for a steward."""

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 2.0, 300.0
"""Delay after a steward was started, until the next one of the same run is; doubled each time, up to the longest
(seconds). Longer: a run waits after its steward has died. Shorter: one that cannot work is started again and again."""

SILENT_SECONDS = 30.0
"""Time without news of a steward on another machine after which it is looked for (seconds)."""


def ask_for_steward(folder: RunFolder) -> None:
    """Ask the keeper, if there is one, to start a steward of this run. Raises DetachError."""
    folder.request(WORD)


def withdraw(folder: RunFolder) -> None:
    """Ask no longer."""
    folder.withdraw(WORD)


def folder_of_cluster(name: str) -> RunFolder:
    """Return the folder with the lease of the keeper beside the master of this cluster."""
    return RunFolder(os.path.join(userdir.home_directory(), "keepers", name or "default"))


def folder_of_run(folder: RunFolder) -> RunFolder:
    """Return the folder with the lease of the keeper beside a run's own cluster."""
    return RunFolder(folder.place("keeper"))


def has_keeper(place: RunFolder) -> bool:
    """True if a keeper has the lease in this folder. One on another machine may have died without a word."""
    return bool(lease.holder(place)) and lease.is_held(place, lease.BEAT_SECONDS * 2)


def is_held(folder: RunFolder, is_silent: bool) -> bool:
    """True if a living steward has the run, as far as that can be said at once. `is_silent`: its state is old, which
    says something about a steward on another machine only."""
    holder = lease.holder(folder)
    is_elsewhere = bool(holder) and not holder.endswith(f" on {os.uname().nodename}")
    return lease.is_held(folder, 0.0) or (is_elsewhere and not is_silent)


class Watch:
    """What a keeper knows of one run. Time is an argument (seconds of a monotonic clock)."""

    def __init__(self) -> None:
        self._beat = -1
        self._seen = 0.0
        self._next = 0.0
        self._wait = FIRST_WAIT_SECONDS

    def is_silent(self, state: RunState, now: float) -> bool:
        """Note the run's state. True if its owner has not written it for a while."""
        if state.beat != self._beat:
            self._beat, self._seen = state.beat, now
        return now - self._seen >= SILENT_SECONDS

    def needs_steward(self, state: RunState, is_asked: bool, is_held: bool, now: float) -> bool:
        """True if a steward must be started now. `is_asked`: there is a request; `is_held`: a living one is there."""
        if is_held:
            self._wait = FIRST_WAIT_SECONDS
        if state.is_over or is_held or not (is_asked or state.phase == STEWARD) or now < self._next:
            return False
        self._next = now + self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT_SECONDS)
        return True
