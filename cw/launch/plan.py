"""Plan of a cluster in a batch system, as a user asked for it: kept with the cluster; and the meaning of its options.

ClusterOptions --> Plan --> ScriptRequest (for one job of the cluster) --> BatchSystem.script()
                     '----> split_options: the batch system's | those of cw's programs
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from cw.launch import piece_sizes
from cw.launch.launcher import LaunchError
from cw.net import address

PROGRAM_OPTIONS = {
    "master": frozenset({"--host", "--port", "--silence", "--client-grace"}),
    "worker": frozenset(
        {
            "--grace",
            "--idle",
            "--lifetime",
            "--max-jobs",
            "--silence",
            "--reconnect-timeout",
            "--without-master",
            "--cpus",
            "--memory",
            "--resources",
            "--tags",
        }  # fmt: skip
    ),
}
"""Options of cw's programs among those that a user gives for a job. All others are the batch system's:
`--gpus`, too, since Slurm says to each worker which devices are its own."""

PROGRAM_FLAGS = {
    "master": frozenset[str](),
    "worker": frozenset({"--enforce-memory", "--pin", "--share-gpus"}),
}
"""Those without a value."""


class Plan(NamedTuple):
    """The cluster that a user asked for."""

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
    """Name of the cluster whose master the workers are for, if it is another one."""
    foreign_master: str = ""
    """Address of the workers' master, if it belongs to no cluster that is known here."""
    piece: int = 0
    """Number of slots of a piece, a job of its own, as the user gave it; 0: the default size."""
    node_slots: int = 0
    """Number of slots for which a node has room; 0: unknown. A piece of up to this many is on one node."""
    nodes: int = 0
    """Number of nodes of which all CPUs are slots; 0: the user gave the number of slots."""
    idle: float = 0.0
    """Time after which a worker with nothing to do ends (seconds); 0: never."""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    reservation: str = ""
    exclude: str = ""
    """Nodes that no job may get."""
    batch_options: Sequence[str] = ()
    """The batch system's options for the jobs of both roles; those of one role follow, and count."""
    setup: Sequence[str] = ()
    """Lines of shell that run in each job before cw's program."""
    profile: str = ""
    """Name of the profile of the user's settings that was chosen."""
    most: int | None = None
    """Most slots of these workers, which come and go with the jobs (`--max`); None: their number does not change."""
    least: int = 0
    backlog: int = 4
    """Most pieces that wait in the queue at a time."""
    gpus: int = 0
    """Devices of a piece; of each of its nodes, if there are several."""
    is_whole: bool = False
    """The batch system gives whole nodes, whatever a job asks for."""
    is_whole_for_all: bool = False
    """The same is true of the master's job."""
    job_nodes: int = 1
    """Nodes of a piece. With several, it has one slot: they are all for one job at a time."""

    @property
    def sought_cluster(self) -> str:
        """Name of the cluster whose master the workers look for."""
        return self.of_cluster or self.name

    def program_options(self, role: str) -> list[str]:
        """Return the options of cw's own program, 'master' or 'worker'. Raises LaunchError."""
        return split_options(role, self._options(role))[1]

    def system_options(self, role: str) -> list[str]:
        """Return the batch system's options for the job of 'master' or 'worker'. Raises LaunchError."""
        return split_options(role, self._options(role))[0]

    def pieces(self, slots: int) -> list[int]:
        """Return the sizes of the pieces that together have this number of slots."""
        return piece_sizes.divide(slots, self.piece, self.node_slots)

    @property
    def is_elastic(self) -> bool:
        """True if its workers come and go with the jobs."""
        return self.most is not None

    def on_nodes(self, found: piece_sizes.NodeSlots | None) -> Plan:
        """Return this plan for nodes with room for that many slots; None: unknown. Raises LaunchError."""
        node_slots = found.slots if found else 0
        if self.nodes and not node_slots:
            raise LaunchError(
                "the size of a node is not known here, or your options for the batch system place the slots: give the "
                "number of slots (-n) in place of --nodes"
            )
        piece = self.piece or node_slots if self.nodes else self.piece
        return self._replace(
            slots=self.nodes * node_slots or self.slots,
            piece=piece,
            node_slots=node_slots,
            is_whole=found is not None and found.is_whole,
            is_whole_for_all=found is not None and found.is_whole_for_all,
        )

    def port(self) -> int | None:
        """Return the port in the master's options: 0 for any free one, None for the default. Raises AddressError."""
        found = None
        given = iter(self.program_options("master"))
        for option in given:
            name, is_joined, value = option.partition("=")
            value = value if is_joined else next(given)
            if name == "--port":
                found = 0 if value == "0" else address.check_port(value)
        return found

    def check(self) -> None:
        """Raise ValueError for options that are invalid in every batch system."""
        address.check_cluster_name(self.name)
        self.port()
        if self.docker_image and self.apptainer_image:
            raise ValueError("a Docker image and an Apptainer image: give one of them")
        if (self.docker_args and not self.docker_image) or (self.apptainer_args and not self.apptainer_image):
            raise ValueError("arguments for a container, but no image: give the image too")
        for option in self.batch_options:
            if option.partition("=")[0] in PROGRAM_OPTIONS["master"] | PROGRAM_OPTIONS["worker"]:
                raise ValueError(
                    f"{option} is an option of cw's own programs, and not for both jobs: "
                    "give it by --Xmaster or --Xworkers (master_options=, worker_options=)"
                )

    def _options(self, role: str) -> Sequence[str]:
        return [*self.batch_options, *(self.master_options if role == "master" else self.worker_options)]


class ScriptRequest(NamedTuple):
    """Contents of one batch script."""

    role: str
    """'master' or 'workers'."""
    plan: Plan
    token: str
    """Token of this cluster, different from those of others of that name before and after it."""
    logs: str
    """Directory of the logs."""
    kill_wait: float = 30.0
    """Seconds from the batch system's SIGTERM to its SIGKILL."""
    follows: int = 0
    """Id of the job after whose end it may begin, or 0."""
    delay: int = 0
    """Least time from its submission to its start (seconds)."""
    has_workers: bool = False
    """The master's job has workers, too: the batch system gives whole nodes."""

    @property
    def job_name(self) -> str:
        """Name of the job. Name and id together distinguish our jobs from all others, even from one with the same id
        from a controller that has lost its memory."""
        return job_name(self.plan.name, self.role, self.token)


class ProgramRequest(NamedTuple):
    """Contents of the batch script of one program beside the clusters: a user's script that runs as a whole."""

    plan: Plan
    """Its options for the batch system; the cluster that the program finds."""
    job_name: str
    what: str
    """Describes the job, for a reader of the batch script."""
    directory: str
    """Directory of its log, `host.log`."""
    command: Sequence[str]


def job_name(cluster: str, role: str, token: str) -> str:
    """Return the name of the jobs of a cluster's master or workers."""
    return f"cw-{cluster}-{role}-{token}"


def split_options(role: str, options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the options for the job of 'master' or 'worker' into (the batch system's, those of cw's program).

    Raises LaunchError if one of the program's lacks its value.
    """
    own: list[str] = []
    others: list[str] = []
    given = iter(options)
    for option in given:
        name, is_joined, value = option.partition("=")
        if option in PROGRAM_FLAGS[role]:
            own.append(option)
            continue
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
    """Make a plan from its `_asdict`, as read from JSON."""
    return Plan(**noted)
