"""The master's job where nodes are given whole: it has workers, too, so that no node is for the master alone.

    start: the first piece is the master's job, with slots -----> State.with_workers() has it among the others
    a follower has taken over, or `stop -W` --> hand_over() ----> it is a job of workers alone: its sidecar sees
                                                leave()           that, and its master ends: workers take the next one

Such a piece does not end when it is idle, and `scale` does not choose it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping

from cw.events import EventLogger
from cw.launch import shell_lines
from cw.launch.batch_system import ListedJob
from cw.launch.plan import Plan, job_name, split_options
from cw.launch.status_client import ClusterStatus
from cw.location import Location
from cw.slurm import finding, kinds
from cw.slurm.pieces import Found
from cw.slurm.submitted import BatchJob, State

logger = EventLogger("cw.slurm.sidecar")


def slots_of_master(plan: Plan, master: bool, workers: bool) -> int:
    """Return the number of slots that the master's job of this start has; 0: it is a job of its own, also if the user
    has given options for it alone."""
    if not (plan.is_whole_for_all and master and workers) or plan.has_local_master:
        return 0
    if split_options("master", plan.master_options)[0]:
        return 0
    size = next(iter(kinds.first_sizes(plan)), kinds.size_of(plan))
    return size if plan.most is None or size <= plan.most else 0


def sizes_beside(plan: Plan, slots: int) -> list[int]:
    """Return the sizes of the pieces that are submitted at a start whose master's job has that many slots."""
    return kinds.first_sizes(plan)[1 if slots else 0 :]


def hosts(state: State) -> list[BatchJob]:
    """Return the master's jobs with workers."""
    return [job for job in state.of_role("master") if job.slots]


def begun_as_masters(state: State) -> list[BatchJob]:
    """Return the jobs with workers that were submitted as the master's: their workers do not end when they are idle."""
    name = job_name(state.name, "master", state.token)
    return [job for job in state.with_workers() if job.name == name]


def slots(state: State, found: Found) -> int:
    """Return the number of slots of the master's job: of the one that runs, or that will be the first."""
    there = [job for job in hosts(state) if job not in found.ended]
    began = [job for job in there if job in found.running] or there[:1]
    return sum(job.slots for job in began)


def answers_in(status: ClusterStatus | None, job: BatchJob) -> bool:
    """True if the master that has answered is in this job. (The batch system's answer may be older.)"""
    return status is not None and finding.is_in(Location.parse(status.location), [job])


def hand_over(
    state: State, ident: int, rows: Mapping[int, ListedJob], status: ClusterStatus | None = None
) -> None:
    """End the master's job `ident`, for which another one is there, or will be; if it has workers, only its master.
    `status`: what that master has just answered, if it has."""
    kept = [
        job
        for job in hosts(state)
        if job.ident == ident and (answers_in(status, job) or (ident in rows and rows[ident].is_running))
    ]
    state.cancel([job for job in state.of_role("master") if job.ident == ident and job not in kept])
    ended = [
        job
        for job in begun_as_masters(state)
        if job.role == "workers" and not (job.ident in rows and rows[job.ident].is_active)
    ]
    state.jobs = [
        job._replace(role="workers", follows=0) if job in kept else job
        for job in state.jobs
        if job not in ended
    ]
    state.save()


def end_workers(state: State) -> None:
    """End the workers of the master's job, which goes on without; and what would follow it with workers. (Another one
    follows in time.)"""
    there = hosts(state)
    if not there:
        return
    idents = {job.ident for job in there}
    state.cancel([job for job in there if job.follows in idents])
    State.system.end_workers(hosts(state))
    state.jobs = [job._replace(slots=0, stays=False) if job in there else job for job in state.jobs]
    state.save()


def leave(name: str, token: str, master: int) -> None:
    """End this job's master, the process `master`, if the job was handed over. Its workers look for the next one."""
    ident, state = State.system.current_job(), State.load(name)
    if state.token != token or not any(job.ident == ident for job in state.of_role("workers")):
        return
    logger.info(
        "sidecar.master_leaves", "another master is for this cluster: this one ends, its workers go on"
    )
    with contextlib.suppress(OSError):
        open(os.path.join(state.logs, f"{shell_lines.HANDED_OVER}{ident}"), "w").close()
    with contextlib.suppress(ProcessLookupError):
        os.kill(master, signal.SIGTERM)
