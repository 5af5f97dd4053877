"""`python -m cw.slurm.sidecar`: small programs beside a cluster's jobs in a batch system. Users do not start them.

renew   in a job's batch script, when it begins: submits the job that will follow it    (cw.slurm.succession)
retire  there, when its workers have ended as they had nothing to do: takes that job back
watch   beside the master: finds out why workers were lost, and forgives the loss of those whose allocation is gone;
        sees to it that the master does not end before the workers                      (cw.slurm.succession)
        submits and cancels the pieces of an elastic cluster                            (cw.slurm.tender)
        ends the cluster if nobody uses it                                              (cw.slurm.unused)
        starts what looks after runs that have left their script                        (cw.slurm.keeping)
orphan  beside workers, from time to time: ends their job if they have no master        (cw.slurm.succession)
guard   beside a program with a cluster for the duration of a block: ends it when the program is gone
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import Any

from cw import program
from cw.errors import Error
from cw.events import EventLogger
from cw.launch import shell_lines, status_client
from cw.launch.batch_system import Listing
from cw.launch.launcher import LaunchError
from cw.location import Location
from cw.net import address
from cw.net import messages as m
from cw.slurm import hosting, submitted, succession, unused
from cw.slurm.keeping import RunKeeper
from cw.slurm.submitted import State
from cw.slurm.tender import Tender

logger = EventLogger("cw.slurm.sidecar")

CLASSIFY_SECONDS = 900.0
"""Time for which the cause of a worker's loss is sought (seconds). Shorter: too short for Slurm, which takes some
minutes to notice that a node is gone."""

GUARD_SECONDS = 12 * 3600.0
"""Time that a guard tries to end a cluster while the batch system does not answer (seconds)."""


def renew(name: str, token: str, role: str, is_again: bool = False) -> int:
    """Submit the job that follows the one in which this runs. Returns the exit status, for the batch script."""
    if is_again:
        succession.renew_again(name, token, role)
        return 0
    try:
        succession.renew(name, token, role)
    except LaunchError as error:
        succession.log_failure(error)
        return shell_lines.IS_IMPOSSIBLE if succession.is_impossible() else 1
    return 0


def retire(name: str, token: str) -> None:
    """Take back the successor of the job in which this runs: its workers had nothing to do."""
    ident = State.system.current_job()
    with submitted.locked(name) as state:
        if state.token == token:
            state.cancel([job for job in state.jobs if job.follows == ident])


def watch(name: str, token: str, master: int) -> None:
    """Classify lost workers, care for the succession, tend an elastic cluster, and end one that nobody uses, until the
    process `master` is gone."""
    poller = select.poll()
    try:
        poller.register(os.pidfd_open(master), select.POLLIN)
    except ProcessLookupError:
        return
    unused_watch, followers = unused.Watch(name, token), succession.Succession(name, token)
    tender, keeper = Tender(name, token), RunKeeper(name)
    classified_at = time.monotonic()
    while not poller.poll(min(unused.LOOK_SECONDS, followers.wait_seconds(time.time())) * 1000):
        hosting.leave(name, token, master)
        with contextlib.suppress(LaunchError):  # the batch system does not answer; it is asked again
            unused_watch.look(time.time())
        try:
            followers.look(time.time())
        except LaunchError as error:
            succession.log_failure(error)
        _tend(tender)
        keeper.look()
        if time.monotonic() - classified_at < State.system.list_seconds:
            continue
        classified_at = time.monotonic()
        try:
            _classify_losses(name)
        except program.UserError as mistake:
            logger.warning("sidecar.classifying_failed", "lost workers cannot be classified now: %s", mistake)


def _tend(tender: Tender) -> None:
    """Let the tender look. What hinders it is logged once."""
    try:
        tender.look()
        tender.hindrance = ""
    except (program.UserError, Error, OSError) as mistake:
        if str(mistake) != tender.hindrance:
            tender.hindrance = str(mistake)
            logger.warning("sidecar.tending_failed", "the cluster cannot be tended now: %s", mistake)


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
    parser.add_argument("verb", choices=["renew", "retire", "watch", "tend", "guard", "orphan"])
    parser.add_argument("name")
    parser.add_argument("token")
    parser.add_argument("role", nargs="?", choices=["master", "workers"])
    parser.add_argument("--again", action="store_true", help="try until it works")
    parser.add_argument(
        "--seconds", type=float, default=succession.ORPHAN_SECONDS, help="patience of workers"
    )
    program.add_launcher_options(parser, "--lifeline-fd", "--ready-fd", "--parent")
    options = parser.parse_args()
    program.set_up_logging(options.verbose)
    if options.verb == "renew":
        return renew(options.name, options.token, options.role, options.again)
    if options.verb == "retire":
        retire(options.name, options.token)
    elif options.verb in ("watch", "tend"):  # (tend: in scripts that an earlier version of cw submitted)
        watch(options.name, options.token, options.parent)
    elif options.verb == "orphan":
        succession.end_orphan(options.name, options.token, options.seconds)
    else:
        guard(options.name, options.token, options.lifeline_fd)
    return 0


if __name__ == "__main__":
    program.run("cw.slurm.sidecar", main)
