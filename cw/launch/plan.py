"""What a user asked for of a cluster in a batch system: the plan, kept with the cluster, and what its options mean.

ClusterOptions --> Plan --> ScriptRequest (for one job of the cluster) --> BatchSystem.script()
                     '----> split_options: the batch system's | those of cw's programs
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from cw.launch.launcher import LaunchError
from cw.net import address

PROGRAM_OPTIONS = {
    "master": frozenset({"--host", "--port", "--silence", "--client-grace"}),
    "worker": frozenset({"--grace", "--lifetime", "--max-jobs", "--silence", "--reconnect-timeout"}),
}
"""Options of cw's programs, among those that a user gives for a job. All others are the batch system's."""


class Plan(NamedTuple):
    """What a user asked for."""

    name: str
    slots: int
    is_isolated: bool = False
    time: str = ""
    partition: str = ""
    mem_per_cpu: str = ""
    master_options: Sequence[str] = ()
    worker_options: Sequence[str] = ()
    docker_image: str = ""
    docker_args: Sequence[str] = ()
    apptainer_image: str = ""
    apptainer_args: Sequence[str] = ()
    is_renewed: bool = False
    has_local_master: bool = False
    verbose: bool = False
    of_cluster: str = ""
    """Whose master the workers are for, if it is another cluster's."""
    foreign_master: str = ""
    """The address of the workers' master, if it is of no cluster that is known here."""

    @property
    def sought_cluster(self) -> str:
        """The name of the cluster whose master the workers look for."""
        return self.of_cluster or self.name

    def program_options(self, role: str) -> list[str]:
        """The options of cw's own program, 'master' or 'worker'. Raises LaunchError."""
        return split_options(role, self._options(role))[1]

    def system_options(self, role: str) -> list[str]:
        """The batch system's options for the job of 'master' or 'worker'. Raises LaunchError."""
        return split_options(role, self._options(role))[0]

    def port(self) -> int | None:
        """The port that the master's options ask for: 0 is any that is free, None the default. Raises AddressError."""
        found = None
        given = iter(self.program_options("master"))
        for option in given:
            name, is_joined, value = option.partition("=")
            value = value if is_joined else next(given)
            if name == "--port":
                found = 0 if value == "0" else address.check_port(value)
        return found

    def check(self) -> None:
        """Raise ValueError for what makes no sense in any batch system."""
        address.check_cluster_name(self.name)
        self.port()
        if self.docker_image and self.apptainer_image:
            raise ValueError("a Docker image and an Apptainer image: give one of them")
        if (self.docker_args and not self.docker_image) or (self.apptainer_args and not self.apptainer_image):
            raise ValueError("arguments for a container, but no image: give the image too")

    def _options(self, role: str) -> Sequence[str]:
        return self.master_options if role == "master" else self.worker_options


class ScriptRequest(NamedTuple):
    """What one batch script is for."""

    role: str
    """'master' or 'workers'."""
    plan: Plan
    token: str
    """Of this cluster, and of no other of that name before or after it."""
    logs: str
    """The directory of the logs."""
    kill_wait: float = 30.0
    """Seconds from the batch system's SIGTERM to its SIGKILL."""
    follows: int = 0
    """The job at whose end it may begin, or 0."""
    delay: int = 0
    """Seconds after its submission, before which it must not begin."""

    @property
    def job_name(self) -> str:
        """The job's name. With the id, it tells our jobs from all others, also from one that was given the same id by
        a controller that had lost its memory."""
        return job_name(self.plan.name, self.role, self.token)


def job_name(cluster: str, role: str, token: str) -> str:
    """The name of the jobs of one cluster's master or workers."""
    return f"cw-{cluster}-{role}-{token}"


def split_options(role: str, options: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the batch system's, those of cw's program) of the options for the job of 'master' or 'worker'.

    Raises LaunchError if one of the program's lacks its value.
    """
    own: list[str] = []
    others: list[str] = []
    given = iter(options)
    for option in given:
        name, is_joined, value = option.partition("=")
        if name not in PROGRAM_OPTIONS[role]:
            others.append(option)
            continue
        if not is_joined:
            value = next(given, "")
        if not value:
            raise LaunchError(f"the {role}'s option {name} lacks its value: give {name}=VALUE")
        own += [option] if is_joined else [option, value]
    return others, own


def load_plan(noted: dict[str, Any]) -> Plan:
    """A plan from what `_asdict` gave and JSON has kept."""
    return Plan(**noted)
