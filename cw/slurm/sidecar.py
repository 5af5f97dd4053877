"""`python -m cw.slurm.sidecar`: small programs beside a cluster's jobs in a batch system. Users do not start them.

renew   in a job's batch script, when it begins: submits the job that will follow it
retire  there, when its workers have ended as they had nothing to do: takes that job back
watch   beside the master: finds out why workers were lost, and forgives the loss of those whose allocation is gone;
        ends the cluster if nobody uses it (cw.slurm.unused)
guard   beside a program with a cluster for the duration of a block: ends it when the program is gone
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import Any

from cw import program
from cw.events import EventLogger
from cw.launch import status_client
from cw.launch.batch_system import Listing
from cw.launch.launcher import LaunchError
from cw.location import Location
from cw.net import address
from cw.net import messages as m
from cw.slurm import submitted, unused
from cw.slurm.submitted import State

logger = EventLogger("cw.slurm.sidecar")

CLASSIFY_SECONDS = 900.0
"""Time for which the cause of a worker's loss is sought (seconds). Shorter: too short for Slurm, which takes some
minutes to notice that a node is gone."""

SHORT_SECONDS = 60
"""Delay between jobs that fail at once (seconds): if a job begins less than this after its predecessor began, the next
one begins this much later. Shorter: a failing program is restarted more often."""

GUARD_SECONDS = 12 * 3600.0
"""Time that a guard tries to end a cluster while the batch system does not answer (seconds)."""


def renew(name: str, token: str, role: str) -> None:
    """Submit the successor of the job in which this runs; only once, however often that job is requeued."""
    ident = State.system.current_job()
    with submitted.locked(name) as state:
        own = next((job for job in state.jobs if job.ident == ident), None)
        if state.token != token or state.is_stopping or own is None:
            return  # stopped meanwhile
        if any(job.follows == ident for job in state.jobs):
            return
        # Its predecessor has ended: this job has waited for that.
        state.jobs = [job for job in state.jobs if job.ident != own.follows]
        is_short = own.follows and time.time() - own.at < SHORT_SECONDS
        delay = SHORT_SECONDS if is_short else 0
        following = state.submit(
            role, follows=ident, delay=delay, slots=own.slots, kind=own.kind, stays=own.stays
        )
        logger.info("sidecar.follower_submitted", "%s is submitted and follows this job", following)


def retire(name: str, token: str) -> None:
    """Take back the successor of the job in which this runs: its workers had nothing to do."""
    ident = State.system.current_job()
    with submitted.locked(name) as state:
        if state.token == token:
            state.cancel([job for job in state.jobs if job.follows == ident])


def watch(name: str, token: str, master: int) -> None:
    """Classify lost workers, and end the cluster if nobody uses it, until the process `master` is gone."""
    poller = select.poll()
    try:
        poller.register(os.pidfd_open(master), select.POLLIN)
    except ProcessLookupError:
        return
    unused_watch = unused.Watch(name, token)
    classified_at = time.monotonic()
    while not poller.poll(unused.LOOK_SECONDS * 1000):
        with contextlib.suppress(LaunchError):  # the batch system does not answer; it is asked again
            unused_watch.look(time.time())
        if time.monotonic() - classified_at < State.system.list_seconds:
            continue
        classified_at = time.monotonic()
        try:
            _classify_losses(name)
        except program.UserError as mistake:
            logger.warning("sidecar.classifying_failed", "lost workers cannot be classified now: %s", mistake)


def _classify_losses(name: str) -> None:
    status = status_client.ask(address.find_cluster(name))
    if status is None:
        return
    lost = [entry for entry in status.lost if time.time() - entry["at"] < CLASSIFY_SECONDS]
    if not any(Location.parse(entry["location"]).system == State.system.name for entry in lost):
        return
    found = State.system.list_jobs()
    if found.failure:
        raise program.UserError(found.failure)
    forgiven = [entry["ident"] for entry in lost if is_forgivable(entry, found)]
    if forgiven:
        logger.info(
            "sidecar.losses_forgiven",
            "%s lost with the allocation: no job is charged for that",
            program.count(len(forgiven), "worker was", "workers were"),
        )
        status_client.ask(address.find_cluster(name), m.Forgive(forgiven))


def is_forgivable(lost: dict[str, Any], found: Listing) -> bool:
    """True if the batch system says that this worker was lost with its node or its allocation."""
    location = Location.parse(lost["location"])
    if location.system != State.system.name or not location.node:
        return False
    row = next((row for row in found.rows.values() if row.is_called(location.job)), None)
    if row is None or found.asked_at < lost["at"]:
        return False
    if row.has_lost_allocation or row.start > lost["at"]:  # (restarted since)
        return True
    return row.is_running and location.node not in State.system.node_names(row)


def guard(name: str, token: str, lifeline: int) -> None:
    """Wait until the program at the other end of the lifeline is gone; then end the rest of its cluster."""
    os.read(lifeline, 1)
    given_up_at = time.monotonic() + GUARD_SECONDS
    while True:
        try:
            _end_all(name, token)
            return
        except LaunchError as error:
            if time.monotonic() > given_up_at:
                raise
            logger.warning(
                "sidecar.ending_failed",
                "the cluster cannot be ended now, and the sidecar tries again: %s",
                error,
            )
        # This works without the batch system.
        status_client.ask(address.find_cluster(name), m.End("its program is gone"))
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
    """Run the program. Returns its exit status."""
    parser = program.argument_parser(
        "cw.slurm.sidecar", "Looks after a cluster's jobs in Slurm. cw.slurm starts it."
    )
    parser.add_argument("verb", choices=["renew", "retire", "watch", "tend", "guard"])
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
            # The job itself goes on. Its log is where a user looks for the reason.
            logger.error("sidecar.follower_failed", "no job follows this one: %s", error)
    elif options.verb == "retire":
        retire(options.name, options.token)
    elif options.verb in ("watch", "tend"):  # (tend: in scripts that an earlier version of cw submitted)
        watch(options.name, options.token, options.parent)
    else:
        guard(options.name, options.token, options.lifeline_fd)
    return 0


if __name__ == "__main__":
    program.run("cw.slurm.sidecar", main)
