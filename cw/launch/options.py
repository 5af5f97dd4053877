"""Options of a cluster that is started: one frozen value, whose fields are the arguments of `cw.start`.

cw.start(4, time="1:00:00")  --->  ClusterOptions(4, ..., time="1:00:00")  --->  cw.mp, cw.slurm
`@takes(ClusterOptions)`           the only place that lists the arguments
"""

# (No `from __future__ import annotations`: help() shows these types, and would show strings in their place.)

import functools
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from cw.named_tuple import NamedTuple

P = ParamSpec("P")
Options = TypeVar("Options")
Result = TypeVar("Result")

POSITIONAL = 7
"""Number of arguments that may be given without their names; the others are newer, and their order may change."""


class ClusterOptions(NamedTuple):
    """The cluster to start. Fields after `docker_args` are given by name, and are for Slurm."""

    nworkers: int | None = None
    """Number of slots. (Only with `nodes` or `max` there is no need to give it.)"""
    master: bool = True
    workers: bool = True
    master_options: Sequence[str] = ()
    worker_options: Sequence[str] = ()
    docker_image: str | None = None
    docker_args: str | Sequence[str] | None = ()
    """Arguments of `docker run`: a list, or one text as a shell would read it."""
    isolated: bool | None = None
    time: str | None = None
    partition: str | None = None
    mem_per_cpu: str | None = None
    name: str | None = None
    local_master: bool | None = None
    renew: bool | None = None
    apptainer_image: str | None = None
    apptainer_args: str | Sequence[str] | None = ()
    verbose: bool = False
    piece: int | None = None
    """Number of slots of each of the workers' jobs."""
    nodes: int | None = None
    """Number of nodes of which all CPUs are slots, in place of `nworkers`."""
    idle: float | None = None
    """Time after which a worker with nothing to do ends (seconds); 0: never."""
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    exclude: str | None = None
    batch_options: Sequence[str] = ()
    """Options of sbatch for both jobs, the master's and the workers'."""
    setup: str | Sequence[str] | None = ()
    """Lines of shell that run in both jobs before the program: 'module load gcc'; a list, or one text."""
    profile: str | None = None
    """Name of a profile in ~/.cw/slurm.toml."""
    max: int | None = None
    """Most slots of an elastic cluster, in place of `nworkers`: they come when jobs wait, and end when idle."""
    min: int | None = None
    """Least slots of an elastic cluster."""
    backlog: int | None = None
    """Most jobs of an elastic cluster's workers that wait in the queue at a time."""
    gpus: int | None = None
    """GPUs of each of the workers' jobs."""
    kind: str | None = None
    """Name of a kind of pieces that `cw.slurm.add` adds to an elastic cluster."""

    def check_roles(self) -> None:
        """Raise ValueError if there is nothing to start."""
        if not self.master and not self.workers:
            raise ValueError("master=False and workers=False leave nothing to start")

    def list_of(self, field: str) -> list[str]:
        """Return this field's arguments for another program, as strings. Raises TypeError, ValueError."""
        arguments = getattr(self, field) or ()
        if isinstance(arguments, str) and field in _LINES:
            return split_line(arguments)
        if field == "setup":  # each line by itself: one that fails in the middle is noticed
            texts = [arguments] if isinstance(arguments, str) else arguments
            return [line for text in texts for line in str(text).splitlines() if line.strip()]
        if isinstance(arguments, str):  # Also a sequence, of letters.
            raise TypeError(f"{field} is a list of arguments: [{arguments!r}], not {arguments!r}")
        return [str(argument) for argument in arguments]

    def for_slurm(self) -> list[str]:
        """Return the names of fields that the user has set and that only a cluster in Slurm can follow."""
        return [field for field in FOR_SLURM if getattr(self, field)]


FOR_SLURM = (
    "docker_image", "docker_args", "isolated", "time", "partition", "mem_per_cpu", "name", "local_master", "renew",
    "apptainer_image", "apptainer_args", "piece", "nodes", "idle", "account", "qos", "constraint", "reservation",
    "exclude", "batch_options", "setup", "profile", "max", "min", "backlog", "gpus", "kind",
)  # fmt: skip
"""Fields that describe Slurm's jobs."""

_LINES = ("docker_args", "apptainer_args")
"""Fields that may be one text."""


def split_line(text: str) -> list[str]:
    """Split a text into arguments, as a shell does. Raises ValueError."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no line of arguments: {str(error).lower()}") from None


def takes(
    options: Callable[P, Options],
) -> Callable[[Callable[[Options], Result]], Callable[P, Result]]:
    """Give a function of such options, as of `ClusterOptions`, the arguments of their constructor."""

    def decorate(function: Callable[[Options], Result]) -> Callable[P, Result]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            if len(args) > POSITIONAL:
                raise TypeError(
                    f"{function.__name__}() takes up to {POSITIONAL} arguments without their names, not {len(args)}"
                )
            try:
                made = options(*args, **kwargs)
            except TypeError as error:
                raise TypeError(re.sub(r"^\S+\(\)", f"{function.__name__}()", str(error))) from None
            if (
                isinstance(made, ClusterOptions)
                and made.nworkers is made.nodes is made.max is None
                and made.kind is None
            ):
                raise TypeError(f"{function.__name__}() missing 1 required positional argument: 'nworkers'")
            return function(made)

        call_: Any = call
        call_.__wrapped__ = options  # whose signature help() shows
        return call

    return decorate
