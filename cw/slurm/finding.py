"""How a cluster in a batch system stands: its master is asked, and the system; and where that master is.

ask()            the master, by its address file            (cw.launch.status_client)
look_at()        the batch system, about one job, in words  (it is asked once in 15 seconds)
master_host()    where the master is; clients that are told no host find it in the same way
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from cw.launch import launcher, status_client
from cw.launch.launcher import LaunchError
from cw.location import Location
from cw.net import address
from cw.net import messages as m
from cw.slurm.submitted import Job, State

logger = logging.getLogger("cw.slurm")


def ask(state: State, *messages: m.Drain | m.End) -> status_client.ClusterStatus | None:
    """What the cluster's master says, if it answers; then it is told these messages."""
    return status_client.ask(address.find_cluster(state.sought()), *messages)


def workers_of(standing: status_client.ClusterStatus, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Those of the master's workers that are in these jobs of the batch system."""
    return [worker for worker in standing.workers if is_in(Location.parse(worker["place"]), jobs)]


def is_in(location: Location, jobs: Sequence[Job]) -> bool:
    """Is this in one of these jobs of the batch system?"""
    return location.system == State.system.name and any(
        location.job == str(job.ident)
        # (Where Slurm serves one cluster, it does not name it at submission.)
        and (job.cluster == location.cluster or not job.cluster or not location.cluster)
        for job in jobs
    )


def look_at(state: State, job: Job) -> tuple[str, bool]:
    """(what the batch system says of this job, whether it has ended)."""
    found = State.system.list_jobs(job.cluster)
    if found.failure:
        return found.failure, False
    row = state.ours(found).get(job.ident)
    if found.asked_at < job.at:
        return f"{job} ({job.role}) was submitted", False
    if row is None:
        is_new = found.asked_at - job.at < State.system.list_seconds
        return (
            f"{job} ({job.role}) {'was submitted' if is_new else 'is not in the queue any more'}",
            not is_new,
        )
    return f"{job} ({job.role}) {row.describe()}", not row.is_active


def is_local_elsewhere(state: State) -> bool:
    """Is its master a process on another login node, and answers?"""
    if not state.local or state.local.get("boot_id") == launcher.boot_id():
        return False
    standing = ask(state)
    return standing is not None and standing.location == local_place(state)


def local_place(state: State) -> Location:
    """What a master on a login node says of where it is: which cluster's it is."""
    return Location("local", state.token)


# --- where the master is -----------------------------------------------------------------------


def master_host(name: str | None = None) -> str:
    """Where the master of the user's Slurm cluster is: 'HOST:PORT'. Raises LaunchError, which says why there is none.

    It is the address that the master has reported, if it answers there; else that of its node.
    """
    name = name or address.cluster_name()
    standing = status_client.ask(address.find_cluster(name))
    if standing is not None:
        return standing.where
    state = State.load(name)
    jobs = state.of_role("master")
    if not jobs:
        raise LaunchError(
            f"there is no master of the cluster {name!r} in Slurm: start one with `slurm.py start`"
            + ("" if name == address.DEFAULT_CLUSTER else ", or check the name in CW_CLUSTER")
        )
    rows = state.rows()
    for job in jobs:
        row = rows.get(job.ident)
        if row is not None and row.is_running:
            return address.join(State.system.first_host(row), _port_of(state, job))
    raise LaunchError(f"the master of the cluster {name!r} does not answer: {look_at(state, jobs[-1])[0]}")


slurm_master_host = master_host
"""`cw.slurm_master_host`, as the original library has it."""


def _port_of(state: State, job: Job) -> int:
    """The port of the master in this job. Raises LaunchError where only its address file can say it."""
    port = state.plans["master"].port() if "master" in state.plans else None
    if port == 0:
        raise LaunchError(
            f"{job} (master) runs, but it listens on any port that is free (--port 0), and its address file does not "
            "say yet on which; if this goes on, start it with a port: --Xmaster=--port=5494"
        )
    return address.PORT if port is None else port


_told_pending = ""


def _find() -> list[address.Candidate]:
    """For clients: the node of the master's job, where there is no address file (yet). Raises NotThere while it is on
    no node."""
    global _told_pending
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
        text += "; `slurm.py start -W` starts another master" if has_ended else ""
    except LaunchError as error:
        text = str(error)
    if text != _told_pending:
        _told_pending = text
        logger.warning("%s", text)
    raise address.NotThere(f"the master of the cluster {name!r} does not answer: {text}")


address.FINDERS.insert(-1, _find)
