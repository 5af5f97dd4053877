"""Interface to a batch system, the only way to one. Slurm implements it (cw.slurm.system); others may.

    ScriptRequest --> script() --> Script --> submit() --> (id, cluster) --> list_jobs(): waiting, running, ended
                                                                '----------> notify(), cancel()

Another batch system is one file, with a class that has these methods, and a line in `cw.slurm.systems`.

A job is identified by its id and its name together: another user's job may have the same name, and a controller that
has lost its memory assigns the same ids again.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from cw.launch.piece_sizes import NodeSlots
from cw.launch.plan import Plan, ProgramRequest, ScriptRequest


class Script(NamedTuple):
    """A batch script."""

    program: str
    """Program that submits it."""
    arguments: list[str]
    """Arguments for that program."""
    text: str
    what: str = ""
    """What a refusal names: 'the job of the workers, with --ntasks=4 --qos=long'."""

    def as_shell(self) -> str:
        """Return the shell command that submits it, to be typed or pasted."""
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
    """One of the user's jobs, as the batch system lists it."""

    @property
    def ident(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def start(self) -> float:
        """Time of its start (seconds since 1970), or 0."""

    @property
    def end(self) -> float:
        """Time of its end, or at which it is expected (seconds since 1970), or 0."""

    @property
    def nodes(self) -> str:
        """Nodes on which it runs, in the batch system's own notation."""

    @property
    def is_waiting(self) -> bool: ...
    @property
    def is_running(self) -> bool: ...
    @property
    def is_active(self) -> bool:
        """True if it has not ended."""

    @property
    def has_failed(self) -> bool:
        """True if it ended because its program did, and not with success."""

    @property
    def has_lost_allocation(self) -> bool:
        """True if its processes ended with its allocation and through no fault of theirs: its time was over, it was
        cancelled, preempted or suspended, a node failed, or it waits again."""

    @property
    def can_never_start(self) -> bool:
        """True if it waits, and no end of other jobs can help it: it asks for what is never given."""

    def is_called(self, ident: str) -> bool:
        """True if this is the job with that id, in the batch system's own notation, as a Location has it."""

    def describe(self) -> str:
        """Describe its state, with the reason if there is one."""

    def time_left(self, now: float) -> float | None:
        """Return the seconds until the end of its allocation, if it runs and its end is known."""


class Listing(Protocol):
    """The batch system's answer about the user's jobs."""

    @property
    def asked_at(self) -> float: ...
    @property
    def rows(self) -> Mapping[int, ListedJob]:
        """Jobs by id."""

    @property
    def failure(self) -> str:
        """Reason why there was no answer; then `rows` is an earlier answer."""


class Asked(NamedTuple):
    """What a plan's workers ask of the batch system, as far as the user's options say."""

    cpus: int
    """CPUs of a slot."""
    memory: int
    """Bytes of a slot; 0: not named."""
    memory_of_piece: int
    """Bytes of a piece, whatever its slots; 0: not named."""
    gpus: int
    """Devices of a piece."""
    seconds: float | None
    """Time limit; None: not named."""


class BatchSystem(Protocol):
    """Writes scripts; submits, lists, signals and cancels jobs. Methods that ask its programs raise LaunchError."""

    name: str
    """Its name in file names, and the system of a Location: 'slurm'."""
    title: str
    """Its name in messages: 'Slurm'."""
    submit_program: str
    """Program that submits a script; its arguments contain the cluster's token."""
    cancel_program: str
    """Program with which a user ends a job."""
    list_seconds: float
    """Least time between listings (seconds): a job submitted since may not be in the last one."""
    call_seconds: float
    """Most time that one of its programs may take (seconds)."""

    def is_installed(self) -> bool:
        """True if its programs are on this machine. Takes no time, and raises nothing."""

    def is_present(self) -> bool:
        """True on a machine of a cluster that it serves. Raises nothing."""

    def check_present(self) -> None:
        """Raise LaunchError, which says what to do, unless it is present."""

    def check_answers(self) -> None:
        """Check the same with a new request; remembered answers do not count."""

    def check_options(self, options: Sequence[str]) -> None:
        """Raise ValueError if one of a user's options for a job is one that cw sets itself."""

    def look_at_nodes(self, plan: Plan) -> NodeSlots | None:
        """Return the number of the plan's slots for which a node has room. None: unknown, or the user's options place
        the slots. Raises nothing."""

    def asked(self, plan: Plan) -> Asked:
        """Return what the workers of this plan ask for. Asks no program; raises LaunchError for unfit options."""

    def kill_wait(self) -> float:
        """Return the seconds from its SIGTERM to its SIGKILL. Raises nothing."""

    def current_job(self) -> int:
        """Return the id of the job in which this process runs, or 0."""

    def script(self, request: ScriptRequest) -> Script:
        """Return the script of a master's or of workers' job, which sets CW_LOCATION for them. Runs no program."""

    def program_script(self, request: ProgramRequest) -> Script:
        """Return the script of a job of one program, which takes the place of the script's shell and gets its signals.
        It is never started twice; CW_UNTIL is the end of its allocation. Raises LaunchError, ValueError."""

    def submit(self, script: Script) -> tuple[int, str]:
        """Submit a script. Returns the job's id, and the cluster if there are several."""

    def list_jobs(self, cluster: str = "") -> Listing:
        """List the user's jobs with names like ours, in one command, not more often than the batch system tolerates."""

    def node_names(self, row: ListedJob) -> Sequence[str]:
        """Return the nodes of a running job, as Locations name them."""

    def first_host(self, row: ListedJob) -> str:
        """Return the address of the first node of a running job."""

    def notify(self, jobs: Sequence[SubmittedJob]) -> None:
        """Send the workers of these jobs the signal at which they drain; waiting jobs are cancelled."""

    def end_workers(self, jobs: Sequence[SubmittedJob]) -> None:
        """Send the workers of these jobs SIGTERM; the jobs go on without them."""

    def release(self, jobs: Sequence[SubmittedJob]) -> None:
        """Let these jobs begin before those that they follow have ended."""

    def cancel(self, jobs: Sequence[SubmittedJob]) -> None:
        """End these jobs at once. A job that has ended is no error."""

    def cancel_named(self, name: str, cluster: str) -> None:
        """End the user's jobs of this name at once, known or not."""

    def signal_program(self, jobs: Sequence[SubmittedJob], number: int) -> None:
        """Send this signal to the programs of such jobs, and not to what these have started."""
