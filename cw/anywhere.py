"""`cw.start`, `cw.stop`, `cw.allocate`: a cluster in Slurm where Slurm is there, else on this machine.

Slurm is there: in an allocation, or with `sbatch` on the PATH and a controller that answers within 2 seconds.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

from cw import guard, mp, slurm
from cw.launch.launcher import Cluster
from cw.slurm import batch, squeue

logger = logging.getLogger("cw.start")


def start(
    nworkers: int,
    master: bool = True,
    workers: bool = True,
    master_options: Sequence[str] = (),
    worker_options: Sequence[str] = (),
    docker_image: str | None = None,
    docker_args: Sequence[str] = (),
) -> Cluster:
    """Start a cluster with `nworkers` slots that lasts until `stop`: in Slurm where it is there, else on this machine.

    This is `cw.slurm.start` or `cw.mp.start`, where arguments and errors are described. On this machine, options for
    sbatch are left out.
    """
    guard.check_start("cw.start()")  # before Slurm is asked
    if squeue.is_there():
        return slurm.start(
            nworkers, master, workers, master_options, worker_options, docker_image, docker_args
        )
    options = _local("master", master_options), _local("worker", worker_options)
    return mp.start(nworkers, master, workers, *options, docker_image, docker_args)


def stop(master: bool = True, workers: bool = True) -> bool:
    """End what `start` has started, in Slurm and on this machine. False if there was nothing to end.

    In Slurm, master and workers end together.
    """
    try:
        was_in_slurm = bool(squeue.is_installed() and slurm.stop())
    finally:
        was_here = mp.stop(master, workers)
    return was_in_slurm or was_here


@contextlib.contextmanager
def allocate(
    nworkers: int,
    master: bool = True,
    workers: bool = True,
    master_options: Sequence[str] = (),
    worker_options: Sequence[str] = (),
    docker_image: str | None = None,
    docker_args: Sequence[str] = (),
) -> Iterator[Cluster]:
    """A cluster with `nworkers` slots for a `with` block: in Slurm where it is there, else on this machine.

    This is `cw.slurm.allocate` or `cw.mp.allocate`, where arguments and errors are described. On this machine, options
    for sbatch are left out.
    """
    guard.check_start("cw.allocate()")
    if squeue.is_there():
        with slurm.allocate(
            nworkers, master, workers, master_options, worker_options, docker_image, docker_args
        ) as in_slurm:
            yield in_slurm
        return
    options = _local("master", master_options), _local("worker", worker_options)
    with mp.allocate(nworkers, master, workers, *options, docker_image, docker_args) as here:
        yield here


def _local(role: str, options: Sequence[str]) -> list[str]:
    if isinstance(options, str):
        return options  # type: ignore[return-value]  # mp says what is wrong with it
    for_sbatch, own = batch.split_options(role, options)
    rest = [option for option in for_sbatch if option in ("-v", "--verbose")]
    if len(rest) < len(for_sbatch):
        logger.info("Slurm is not there: the cluster is on this machine, without %s", " ".join(for_sbatch))
    return rest + own
