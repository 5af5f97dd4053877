"""A whole script's run as its user sees it: state, output, exit status; and its end on request.

folder: script.json, place.json, outcome.json ---.
is its host still there? (cw.scripts.places) --|--> look() --> ScriptStatus --> wait(), follow(), cancel()
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from cw.observer.text import seconds
from cw.runs.names import RunError
from cw.scripts import places
from cw.scripts.folder import ScriptFolder
from cw.scripts.kept_output import Reader
from cw.scripts.script import CANCELLED, ENDED, KILLED, LOST, RUNS, WAITS, Outcome
from cw.slurm.submitted import State

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Time between two readings of the state while somebody waits (seconds): it grows. Longer: ends are noticed later.
Shorter: more load on a file server."""

LOOK_SECONDS = 5.0
"""Time between two looks whether the host is still there while somebody waits (seconds)."""


class ScriptStatus(NamedTuple):
    """A run of a whole script."""

    name: str
    phase: str
    """'waits', 'runs', 'ended', 'cancelled', or 'lost'."""
    exit_status: int | None
    """Exit status as a shell gives it; of a lost run, that of a program that was killed. None: it has not ended."""
    how: str
    """What is to be said of its state beyond phase and exit status."""
    place: str
    """Where it runs, in words."""
    command: str
    """The script and its arguments, as a shell would read them."""
    directory: str
    """Working directory."""
    created: float
    """Time at which it was handed in (seconds since 1970, as the others)."""
    started: float
    """Time of its start, or 0."""
    ended: float
    """Time of its end, or 0 if that is not known."""
    output: str
    """Path of what it has printed."""

    @property
    def is_over(self) -> bool:
        """True if nothing of it runs any more."""
        return self.phase not in (WAITS, RUNS)

    def sentence(self) -> str:
        """Describe its state in one line."""
        place = f" ({self.place})" if self.place else ""
        if self.phase == WAITS:
            return f"{self.name} waits{place}" + (f": {self.how}" if self.how else "")
        if self.phase == RUNS:
            text = f"{self.name} has run for {seconds(max(0.0, time.time() - self.started))}{place}"
            return f"{text}; {self.how}" if self.how else text
        if self.phase == LOST:
            return f"{self.name} was lost{place}: {self.how}"
        took = f" after {seconds(max(0.0, self.ended - self.started))}" if self.started and self.ended else ""
        text = f"{self.name} was cancelled" if self.phase == CANCELLED else f"{self.name} has ended"
        how = f": {self.how}" if self.how and self.phase == ENDED else ""
        return f"{text}{took} with exit status {self.exit_status}{how}"

    def to_json(self) -> dict[str, Any]:
        """Return it as values of JSON."""
        return self._asdict()


def is_script(path: str) -> bool:
    """True if the run in this folder is that of a whole script."""
    return os.path.exists(os.path.join(path, "script.json"))


def look(path: str) -> ScriptStatus:
    """Look at the run in this folder. A run whose end nobody could note is noted as lost. Raises RunError."""
    folder = _folder(path)
    outcome = folder.outcome()
    how = outcome.how
    if not outcome.is_over:
        place = folder.place()
        why, is_certain = places.lost_because(folder, place)
        outcome = folder.outcome()  # (it may have ended in that moment)
        if why and not outcome.is_over:
            outcome = outcome._replace(phase=LOST, exit_status=KILLED, how=why, ended=time.time())
            if is_certain:
                folder.write(outcome)
        how = outcome.how
        if outcome.phase == WAITS and place.job:
            how = places.job_state(folder, place) or "was submitted"
    return _status(folder, outcome, how)


def _status(folder: ScriptFolder, outcome: Outcome, how: str) -> ScriptStatus:
    script = folder.script()
    place = folder.place().describe(State.system.title)
    return ScriptStatus(
        script.name, outcome.phase, outcome.exit_status, how, place, script.as_typed(), script.directory,
        script.created, outcome.started, outcome.ended, folder.file("output"),
    )  # fmt: skip


def wait(path: str, timeout: float | None = None) -> ScriptStatus:
    """Wait until the run has ended; returns its state then, or when the time is over. Raises RunError."""
    return _watch(path, lambda: None, None if timeout is None else time.monotonic() + timeout)


def follow(path: str, write: Callable[[bytes], object]) -> ScriptStatus:
    """Call `write` with all that the script prints, as it comes, until the run has ended; returns its state then."""
    reader = Reader(_folder(path).file("output"))

    def copy() -> None:
        for data in reader.read():
            write(data)

    try:
        found = _watch(path, copy)
        copy()
    finally:
        reader.close()
    return found


def _watch(path: str, meanwhile: Callable[[], object], deadline: float | None = None) -> ScriptStatus:
    """Return the state of the run as soon as it has ended, or at the deadline."""
    folder, pause, looked = _folder(path), FIRST_PAUSE, time.monotonic()
    found = look(path)
    while not found.is_over:
        meanwhile()
        left = LONGEST_PAUSE if deadline is None else deadline - time.monotonic()
        if left <= 0:
            break
        time.sleep(min(pause, left))
        pause = min(pause * 1.2, LONGEST_PAUSE)
        if folder.outcome().phase != found.phase or time.monotonic() - looked > LOOK_SECONDS:
            found, looked = look(path), time.monotonic()
    return found


def cancel(path: str) -> None:
    """Ask the run to end: it gets SIGTERM, and SIGKILL some seconds later. One that waits is taken out of the queue.
    Does nothing if it has ended. Raises RunError, LaunchError."""
    _send(path, signal.SIGUSR1)


def interrupt(path: str) -> None:
    """Send the script SIGINT, as Ctrl-C does in a terminal; one that waits is cancelled."""
    _send(path, signal.SIGINT)


def _send(path: str, number: signal.Signals) -> None:
    folder = _folder(path)
    if not folder.outcome().is_over:
        places.send(folder, folder.place(), number)


def _folder(path: str) -> ScriptFolder:
    """Return the folder of a run. Raises RunError if it is damaged."""
    folder = ScriptFolder(os.path.basename(path))
    try:
        folder.script()
    except ValueError as error:
        raise RunError(f"the run {folder.name!r}: {error}") from None
    return folder
