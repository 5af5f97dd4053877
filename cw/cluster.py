"""`cw.start`, `cw.stop`, `cw.allocate`: a cluster in Slurm if Slurm is present, otherwise on this machine.

Slurm is present in an allocation, or with `sbatch` on the PATH and a controller that answers within 2 seconds.
"""

from __future__ import annotations

from typing import Any

from cw import guard, mp, slurm
from cw.events import EventLogger
from cw.launch.launcher import Cluster
from cw.launch.options import FOR_SLURM, ClusterOptions, takes
from cw.launch.plan import split_options
from cw.slurm.submitted import State

logger = EventLogger("cw.start")

_OF_JOBS = tuple(field for field in FOR_SLURM if not field.startswith(("docker", "apptainer", "nodes")))
"""Options for Slurm's jobs that are ignored without Slurm. (Those of containers are refused then: what runs in an image
may not run without it.)"""

_VERBOSE = ("-v", "--verbose")
"""Options of both sbatch and cw's own programs."""


def is_slurm_available() -> bool:
    """Return True if `start` and `allocate` use Slurm here."""
    return State.system.is_present()


@takes(ClusterOptions)
def start(options: ClusterOptions) -> Cluster:
    """Start a cluster with `nworkers` slots that lasts until `stop`: in Slurm if present, otherwise on this machine.

    This is `cw.slurm.start` or `cw.mp.start`, which describe arguments and errors. On this machine, options for sbatch
    are ignored.
    """
    guard.check_start("cw.start()")  # before Slurm is asked
    if State.system.is_present():
        return slurm.start(**options._asdict())
    return mp.start(**_local(options)._asdict())


def stop(master: bool = True, workers: bool = True) -> bool:
    """End the clusters of `start`, in Slurm and on this machine, or a part of them. False: there was nothing to end."""
    try:
        was_in_slurm = bool(State.system.is_installed() and slurm.stop(master, workers))
    finally:
        was_here = mp.stop(master, workers)
    return was_in_slurm or was_here


@takes(ClusterOptions)
def allocate(options: ClusterOptions) -> Cluster:
    """Start a cluster with `nworkers` slots for a `with` block: in Slurm if present, otherwise on this machine.

    Without `with`, it lasts until its `close()` or the end of the program. This is `cw.slurm.allocate` or
    `cw.mp.allocate`, which describe arguments and errors. On this machine, options for sbatch are ignored.
    """
    guard.check_start("cw.allocate()")
    if State.system.is_present():
        return slurm.allocate(**options._asdict())
    return mp.allocate(**_local(options)._asdict())


def _local(options: ClusterOptions) -> ClusterOptions:
    """Return the options without those for Slurm's jobs."""
    left_out = [field for field in options.for_slurm() if field in _OF_JOBS]
    own: dict[str, Any] = {}
    for role, field in (("master", "master_options"), ("worker", "worker_options")):
        for_sbatch, own[field] = split_options(role, options.list_of(field))
        own[field] += [option for option in for_sbatch if option in _VERBOSE]
        left_out += [option for option in for_sbatch if option not in _VERBOSE]
    if left_out:
        logger.info(
            "start.options_left_out",
            "Slurm is not there: the cluster is on this machine, without %s",
            " ".join(left_out),
        )
    if options.nworkers is None:  # of an elastic cluster, all slots are here at once
        own["nworkers"] = options.max
    return options._replace(**{field: ClusterOptions._field_defaults[field] for field in _OF_JOBS}, **own)
