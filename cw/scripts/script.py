"""What a whole script's run is: which program, with which arguments, in which directory, and what became of it.

    words of `cw run` ---> Script ----> script.json ----> host: command(), in `directory`
                                                            '---> Outcome ---> outcome.json

Pure: files are read and written in cw.scripts.folder.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

WAITS, RUNS, ENDED, CANCELLED, LOST = "waits", "runs", "ended", "cancelled", "lost"
"""Phases of a run. A lost one has ended, too: nobody was left who could say how."""

KILLED = 137
"""Exit status of a run that was lost: what a shell says of a program that was killed."""


class Script(NamedTuple):
    """A script that runs somewhere else."""

    name: str
    """Name of the run."""
    words: Sequence[str]
    """Arguments of Python: the script's path or `-m` and the module, then the script's own."""
    python: str
    """Path of the Python that runs it."""
    directory: str
    """Working directory."""
    created: float
    """Time at which it was handed in (seconds since 1970)."""
    host: str
    """Name of the machine on which it was handed in."""
    is_kept: bool = True
    """False: another run may take its name as soon as it has ended, as nobody asked to keep its output."""

    def command(self) -> list[str]:
        """Return the command line. What the script prints is not held back: somebody may read along."""
        return [self.python, "-u", *self.words]

    def as_typed(self) -> str:
        """Return the script and its arguments as a shell would read them."""
        return shlex.join(self.words)


class Place(NamedTuple):
    """Where a run is: a process of its own, or a job of the batch system. The process's parts are '' for a job."""

    host: str = ""
    """Name of the machine."""
    boot: str = ""
    """Id of the machine's boot."""
    process: str = ""
    """The script's host there, 'PID START'."""
    job: int = 0
    """Id of its job in the batch system, or 0."""
    job_name: str = ""
    cluster: str = ""
    """One of several clusters that the batch system serves, or ''."""
    slot: str = ""
    """The cluster of whose slots one is for the run, or ''."""
    owner: str = ""
    """The program that holds the job in the slot, 'HOST BOOT PID START'; '': a steward."""

    def describe(self, system: str = "Slurm") -> str:
        """Describe it in words; `system`: title of the batch system."""
        pid = self.process.partition(" ")[0]
        if self.slot and not pid:
            return f"for a slot of {self.slot}"
        process = f"{system} job {self.job}" if self.job else f"process {pid}" if pid else ""
        found = " on ".join(filter(None, [process, self.host]))
        return f"{found}, in a slot of {self.slot}" if self.slot else found


class Outcome(NamedTuple):
    """State of a run, as its host has noted it last."""

    phase: str = WAITS
    exit_status: int | None = None
    """Exit status as a shell gives it: 128 + n for signal n."""
    how: str = ""
    """What is to be said of its end beyond the exit status, in words."""
    started: float = 0.0
    """Time of its start, or 0 (seconds since 1970, as `ended`)."""
    ended: float = 0.0

    @property
    def is_over(self) -> bool:
        """True if nothing of it runs any more, and nothing will."""
        return self.phase not in (WAITS, RUNS)


T = TypeVar("T", Script, Place, Outcome)


def named_after(words: Sequence[str]) -> str:
    """Return the path or name after which a run is named: the script's, or the module's last word."""
    return words[1].rpartition(".")[2] if words[0] == "-m" else words[0]


def shell_status(returncode: int) -> int:
    """Return the exit status that a shell shows for a `returncode` of subprocess."""
    return 128 - returncode if returncode < 0 else returncode


def to_json(value: Script | Place | Outcome) -> bytes:
    """Return a value of this module as the text of a file."""
    return json.dumps(value._asdict(), indent=1).encode()


def from_json(kind: type[T], text: bytes) -> T:
    """Return the value of this kind in the text of a file. Raises ValueError if it is damaged."""
    try:
        return kind(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"no {kind.__name__} of this version of cw: {error}") from None
