"""`python -m cw.slurm.sidecar`: small programs beside a cluster's jobs in a batch system. Users do not start them.

renew   in a job's batch script, when it begins: submits the job that will follow it
tend    beside the master: finds out why workers were lost, and excuses those whose allocation is gone
guard   beside a program with a cluster for the length of a block: ends it when the program is gone
"""

from __future__ import annotations

import logging
import os
import select
import time
from typing import Any

from cw import program
from cw.launch import status_client
from cw.launch.batch_system import Listing
from cw.launch.launcher import LaunchError
from cw.location import Location
from cw.net import address
from cw.net import messages as m
from cw.slurm import submitted
from cw.slurm.submitted import State

logger = logging.getLogger("cw.slurm.sidecar")

JUDGED_SECONDS = 900.0
"""How long after the loss of a worker its cause is looked for. Slurm takes minutes to notice that a node is gone."""

SHORT_SECONDS = 60
"""A job that follows one that has begun less than so long after its own predecessor waits for so long: what fails at
once shall not do it again and again."""

GUARD_SECONDS = 12 * 3600.0
"""How long a guard tries to end a cluster while the batch system does not answer."""


def renew(name: str, token: str, role: str) -> None:
    """Submit the job that follows the one in which this runs. Once, however often that is requeued."""
    ident = State.system.current_job()
    with submitted.locked(name) as state:
        own = next((job for job in state.jobs if job.ident == ident), None)
        if state.token != token or state.is_stopping or own is None:
            return  # stopped meanwhile
        if any(job.follows == ident for job in state.jobs):
            return
        # Those before it have ended: this one has waited for that.
        state.jobs = [job for job in state.jobs if job.ident != own.follows]
        is_short = own.follows and time.time() - own.at < SHORT_SECONDS
        delay = SHORT_SECONDS if is_short else 0
        following = state.submit(role, follows=ident, delay=delay, slots=own.slots)
        logger.info("%s will follow this one", following)


def tend(name: str, master: int) -> None:
    """Until that process is gone."""
    poller = select.poll()
    try:
        poller.register(os.pidfd_open(master), select.POLLIN)
    except ProcessLookupError:
        return
    while not poller.poll(State.system.list_seconds * 1000):
        try:
            _judge(name)
        except program.UserError as mistake:
            logger.warning("%s", mistake)


def _judge(name: str) -> None:
    standing = status_client.ask(address.find_cluster(name))
    if standing is None:
        return
    lost = [entry for entry in standing.lost if time.time() - entry["at"] < JUDGED_SECONDS]
    if not any(Location.parse(entry["place"]).system == State.system.name for entry in lost):
        return
    found = State.system.list_jobs()
    if found.failure:
        logger.warning("%s", found.failure)
        return
    excused = [entry["ident"] for entry in lost if is_excused(entry, found)]
    if excused:
        logger.info(
            "%s lost with the allocation: nothing is charged to the jobs there",
            program.count(len(excused), "worker was", "workers were"),
        )
        status_client.ask(address.find_cluster(name), m.Excuse(excused))


def is_excused(lost: dict[str, Any], found: Listing) -> bool:
    """Does the batch system say that this worker was lost with its node or its allocation?"""
    location = Location.parse(lost["place"])
    if location.system != State.system.name or not location.node or not location.job.isdigit():
        return False
    row = found.rows.get(int(location.job))
    if row is None or found.asked_at < lost["at"]:
        return False
    if row.has_lost_allocation or row.start > lost["at"]:  # (begun anew since)
        return True
    return row.is_running and location.node not in State.system.node_names(row)


def guard(name: str, token: str, lifeline: int) -> None:
    """Wait until the program at the other end of the lifeline is gone; then end what is left of its cluster."""
    os.read(lifeline, 1)
    given_up_at = time.monotonic() + GUARD_SECONDS
    while True:
        try:
            _end_all(name, token)
            return
        except LaunchError as error:
            if time.monotonic() > given_up_at:
                raise
            logger.warning("%s (it is tried again)", error)
        status_client.ask(
            address.find_cluster(name), m.End("its program is gone")
        )  # that takes no batch system
        time.sleep(State.system.list_seconds)


def _end_all(name: str, token: str) -> None:
    with submitted.locked(name) as state:
        if state.token != token:
            return
        for process in state.local_processes():
            process.send_signal(15)
        state.cancel(state.jobs)
        deadline = time.monotonic() + State.system.call_seconds
        while state.is_being_submitted() and time.monotonic() < deadline:  # by the program that is gone
            time.sleep(0.05)
        state.cancel_all()
        state.forget()


def main() -> int:
    """The program. Returns its exit status."""
    parser = program.argument_parser(
        "cw.slurm.sidecar", "Tends a cluster's jobs in Slurm. Started by cw.slurm."
    )
    parser.add_argument("verb", choices=["renew", "tend", "guard"])
    parser.add_argument("name")
    parser.add_argument("token")
    parser.add_argument("role", nargs="?", choices=["master", "workers"])
    program.add_launcher_options(parser, "--lifeline-fd", "--ready-fd", "--parent")
    options = parser.parse_args()
    program.set_up_logging(options.verbose)
    if options.verb == "renew":
        try:
            renew(options.name, options.token, options.role)
        except LaunchError as error:
            # The job goes on: that is what it is for. It is told where somebody looks for the reason.
            logger.error("no job will follow this one: %s", error)
    elif options.verb == "tend":
        tend(options.name, options.parent)
    else:
        guard(options.name, options.token, options.lifeline_fd)
    return 0


if __name__ == "__main__":
    program.run("cw.slurm.sidecar", main)
