"""Status of a cluster in a batch system, from its master and from that system; and the place of that master.

ask()            asks the master, by its address file       (cw.launch.status_client)
look_at()        asks the batch system about one job        (which is asked once in 15 seconds)
master_host()    the master's address; clients without a host find it in the same way
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cw import advice
from cw.events import EventLogger
from cw.launch import launcher, status_client
from cw.launch.launcher import LaunchError
from cw.location import Location
from cw.net import address
from cw.net import messages as m
from cw.slurm import job_logs
from cw.slurm.submitted import BatchJob, State

logger = EventLogger("cw.slurm")


def ask(state: State, *messages: m.Drain | m.End) -> status_client.ClusterStatus | None:
    """Return the status that the cluster's master reports, if it answers; then send it the messages."""
    return status_client.ask(address.find_cluster(state.sought()), *messages)


def workers_of(status: status_client.ClusterStatus, jobs: Sequence[BatchJob]) -> list[dict[str, Any]]:
    """Return the master's workers that are in these jobs of the batch system."""
    return [worker for worker in status.workers if is_in(Location.parse(worker["location"]), jobs)]


def draining_by_job(status: status_client.ClusterStatus) -> dict[int, list[bool]]:
    """Return which workers drain, by the batch system's job in which they are."""
    found: dict[int, list[bool]] = {}
    for worker in status.workers:
        location = Location.parse(worker["location"])
        if location.system == State.system.name and location.job.isdigit():
            found.setdefault(int(location.job), []).append(worker["draining"])
    return found


def is_in(location: Location, jobs: Sequence[BatchJob]) -> bool:
    """True if this location is in one of these jobs of the batch system."""
    return location.system == State.system.name and any(
        location.job == str(job.ident)
        # (If Slurm serves one cluster only, it does not name it at submission.)
        and (job.cluster == location.cluster or not job.cluster or not location.cluster)
        for job in jobs
    )


def look_at(state: State, job: BatchJob) -> tuple[str, bool]:
    """Return (the batch system's words on this job, whether it has ended)."""
    found = State.system.list_jobs(job.cluster)
    if found.failure:
        return found.failure, False
    row = state.ours(found).get(job.ident)
    if found.asked_at < job.at:
        return f"{job} ({job.role}) was submitted", False
    if row is None:
        is_new = found.asked_at - job.at < State.system.list_seconds
        words, has_ended = "was submitted" if is_new else "is not in the queue any more", not is_new
    else:
        words, has_ended = row.describe(), not row.is_active
    return f"{job} ({job.role}) {job_logs.with_failure(state, job, words, has_ended)}", has_ended


def check_may_start(state: State) -> None:
    """Raise LaunchError, with the batch system's reason, if one of the cluster's jobs can never start."""
    rows = {
        cluster: state.ours(State.system.list_jobs(cluster))
        for cluster in {job.cluster for job in state.jobs}
    }
    for job in state.jobs:
        row = rows[job.cluster].get(job.ident)
        if row is not None and row.can_never_start:
            raise LaunchError(f"{job} ({job.role}) can never start: it {row.describe()}")


def is_local_elsewhere(state: State) -> bool:
    """True if its master is a process on another login node, and answers."""
    if not state.local or state.local.get("boot_id") == launcher.boot_id():
        return False
    status = ask(state)
    return status is not None and Location.parse(status.location) == local_place(state)


def local_place(state: State) -> Location:
    """Return the location that a master on a login node reports, which identifies its cluster."""
    return Location("local", state.token)


# --- where the master is -----------------------------------------------------------------------


def master_host(name: str | None = None) -> str:
    """Return the address of the master of the user's Slurm cluster, 'HOST:PORT'. Raises LaunchError if there is none.

    It is the address that the master has reported, if it answers there; otherwise that of its node.
    """
    name = name or address.cluster_name()
    status = status_client.ask(address.find_cluster(name))
    if status is not None:
        return status.where
    state = State.load(name)
    jobs = state.of_role("master")
    if not jobs:
        raise LaunchError(
            f"there is no master of the cluster {name!r} in Slurm: start one with "
            f"`{advice.command('slurm', 'start', name=name)}`"
            + ("" if name == address.DEFAULT_CLUSTER else ", or check the name in CW_CLUSTER")
        )
    rows = state.rows()
    for job in jobs:
        row = rows.get(job.ident)
        if row is not None and row.is_running:
            return address.join(State.system.first_host(row), _port_of(state, job))
    raise LaunchError(f"the master of the cluster {name!r} does not answer: {look_at(state, jobs[-1])[0]}")


slurm_master_host = master_host
"""`cw.slurm_master_host`, the name in the original library."""


def _port_of(state: State, job: BatchJob) -> int:
    """Return the port of the master in this job. Raises LaunchError if only its address file can give it."""
    port = state.plans["master"].port() if "master" in state.plans else None
    if port == 0:
        raise LaunchError(
            f"{job} (master) runs, but it listens on any port that is free (--port 0), and its address file does not "
            "say yet on which; if this goes on, start it with a port: --Xmaster=--port=5494"
        )
    return address.PORT if port is None else port


_logged_pending = ""


def _find() -> list[address.Candidate]:
    """Find the node of the master's job for clients, if there is no address file (yet). Raises NotThere while it is on
    no node."""
    global _logged_pending
    name = address.cluster_name()
    if address.read_address(name) is not None:
        return []
    state = State.load(name)
    jobs = state.of_role("master")
    if not jobs:
        return []
    try:
        rows = state.rows()
        for job in jobs:
            row = rows.get(job.ident)
            if row is not None and row.is_running:
                where = State.system.first_host(row), _port_of(state, job)
                return [address.Candidate(*where, f"the node of {job}")]
        text, has_ended = look_at(state, jobs[-1])
        if has_ended:
            text += f"; `{advice.command('slurm', 'start', '-W', name=name)}` starts another master"
    except LaunchError as error:
        text = str(error)
    if text != _logged_pending:
        _logged_pending = text
        logger.warning("slurm.master_pending", "%s", text)
    raise address.NotThere(f"the master of the cluster {name!r} does not answer: {text}")


address.FINDERS.insert(-1, _find)
