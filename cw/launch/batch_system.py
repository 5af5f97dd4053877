"""What cw asks of a batch system: the only way to one. Slurm stands behind it (cw.slurm.system); others may.

    ScriptRequest --> script() --> Script --> submit() --> (id, cluster) --> list_jobs(): waiting, running, ended
                                                                '----------> notify(), cancel()

Another batch system is one file, with a class that has these methods, and a line in `cw.slurm.systems`.

A job is known by its id and its name together: another user's job may have the same name, and a controller that has
lost its memory gives the same ids again.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from cw.launch.plan import ScriptRequest


class Script(NamedTuple):
    """A batch script."""

    program: str
    """What submits it."""
    arguments: list[str]
    """For that program."""
    text: str

    def as_shell(self) -> str:
        """The command that submits it, to be typed or pasted."""
        return f"{shlex.join([self.program, *self.arguments])} <<'END_OF_SCRIPT'\n{self.text}END_OF_SCRIPT\n"


class SubmittedJob(Protocol):
    """A job that was submitted."""

    @property
    def ident(self) -> int: ...
    @property
    def cluster(self) -> str: ...
    @property
    def name(self) -> str: ...


class ListedJob(Protocol):
    """One of the user's jobs, as the batch system has it."""

    @property
    def ident(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def start(self) -> float:
        """When it started (seconds since 1970), or 0."""

    @property
    def nodes(self) -> str:
        """Where it runs, in the batch system's own words."""

    @property
    def is_waiting(self) -> bool: ...
    @property
    def is_running(self) -> bool: ...
    @property
    def is_active(self) -> bool:
        """It has not ended."""

    @property
    def has_lost_allocation(self) -> bool:
        """What ran in it has ended with its allocation, and not by its own fault: its time was over, it was cancelled,
        preempted or suspended, a node failed, or it waits anew."""

    def describe(self) -> str:
        """Its state in words, with the reason where there is one."""

    def time_left(self, now: float) -> float | None:
        """Seconds until the end of its allocation, if it runs and has one that is known."""


class Listing(Protocol):
    """What the batch system said about the user's jobs."""

    @property
    def asked_at(self) -> float: ...
    @property
    def rows(self) -> Mapping[int, ListedJob]:
        """By id."""

    @property
    def failure(self) -> str:
        """Why there was no answer; then `rows` is what was known before."""


class BatchSystem(Protocol):
    """Writes scripts; submits, lists, signals and cancels jobs. All that asks its programs raises LaunchError."""

    name: str
    """In file names, and the system of a Location: 'slurm'."""
    title: str
    """In messages: 'Slurm'."""
    submit_program: str
    """What submits a script; it has the cluster's token among its arguments."""
    cancel_program: str
    """What a user types to end a job."""
    list_seconds: float
    """Between two listings that are asked for: a job submitted since may not be in the last one."""
    call_seconds: float
    """How long one of its programs may take."""

    def is_installed(self) -> bool:
        """Are its programs on this machine? Takes no time, and raises nothing."""

    def is_present(self) -> bool:
        """Is this a machine of a cluster that it serves? Raises nothing."""

    def check_present(self) -> None:
        """Raise LaunchError, which says what to do, unless it is."""

    def check_answers(self) -> None:
        """The same, asked now: what is remembered does not count."""

    def check_options(self, options: Sequence[str]) -> None:
        """Raise ValueError if one of the options that a user gives for a job is not the user's to give."""

    def kill_wait(self) -> float:
        """Seconds from its SIGTERM to its SIGKILL. Raises nothing."""

    def current_job(self) -> int:
        """The id of the job in which this process runs, or 0."""

    def script(self, request: ScriptRequest) -> Script:
        """The script of a master's or of workers' job, which sets CW_LOCATION for them. Takes no program of it."""

    def submit(self, script: Script) -> tuple[int, str]:
        """Submit a script. Returns the job's id, and the cluster where there are several."""

    def list_jobs(self, cluster: str = "") -> Listing:
        """The user's jobs with names like ours, in one command, which is not given more often than it bears."""

    def node_names(self, row: ListedJob) -> Sequence[str]:
        """The nodes of a job that runs, as Locations name them."""

    def first_host(self, row: ListedJob) -> str:
        """The address of the first node of a job that runs."""

    def notify(self, jobs: Sequence[SubmittedJob]) -> None:
        """Send the workers of these jobs the signal at which they drain; jobs that wait are cancelled."""

    def cancel(self, jobs: Sequence[SubmittedJob]) -> None:
        """End these at once. One that has ended is no error."""

    def cancel_named(self, name: str, cluster: str) -> None:
        """End the user's jobs of this name at once, known or not."""
