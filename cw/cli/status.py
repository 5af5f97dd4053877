"""`cw status`: the state of the cluster that a program of the user would find; also the sentence that `cw` prints.

HOST, CW_MASTER, address file, Slurm, this machine  -->  candidates      (cw.net.address)
the first master that answers                       -->  ClusterStatus   (cw.launch.status_client)
no master answers                                   -->  why, and the next command to type
"""

from __future__ import annotations

import os
from typing import NamedTuple

from cw import mp, program
from cw.launch import status_client
from cw.net import address
from cw.slurm import cli as slurm_cli
from cw.slurm.submitted import State


class Found(NamedTuple):
    """Result of a search for the user's cluster."""

    status: status_client.ClusterStatus | None
    """None: no master answers."""
    where: str
    """Its address, and the source of that: for messages."""
    reasons: list[str]
    """Reasons why no master answers, a line for each place where one might be."""
    is_known: bool = True
    """True if a cluster was named, or there was one; otherwise the search was on this machine only."""


def look(host: str | None = None) -> Found:
    """Find the master as a client does, and ask it. Raises UserError for an invalid address."""
    candidates = address.find_master(host)
    if not candidates:
        return Found(None, "", [address.why_not_found()])
    is_known = any(candidate.source != address.NOTHING_KNOWN for candidate in candidates)
    failures: list[status_client.Failure] = []
    status = status_client.ask(candidates, on_failures=failures.extend)
    by_address = {address.join(candidate.host, candidate.port): candidate for candidate in candidates}
    if status is not None:
        source = by_address[status.where].source
        return Found(status, status.where + (f" ({source})" if source != address.NOTHING_KNOWN else ""), [])
    if not failures:
        return Found(None, "", [f"{candidates[0]}: connected, but no answer"], is_known)
    errors = {address.join(*where): error.strerror or str(error) for where, error in failures}
    return Found(None, "", [f"{by_address[where]}: {why}" for where, why in errors.items()], is_known)


def sentence() -> str:
    """Describe the user's cluster in one sentence; if there is none, name the next command to type."""
    try:
        found = look()
    except program.UserError as mistake:
        return f"Your cluster cannot be found: {mistake}"
    if found.status is not None:
        workers = program.count(len(found.status.workers), "worker")
        return (
            f"Your cluster: its master answers at {found.where}; {workers} with "
            f"{program.count(found.status.slots, 'slot')}; {_jobs(found.status)}. `cw status` says more."
        )
    local = mp.status()
    if local is not None and "master" in local.running:
        return (
            f"Your cluster: {program.count(local.slots, 'slot')} on this machine. Programs find it with: "
            f"export CW_MASTER={local.master}"
        )
    if found.is_known:
        return (
            f"Your cluster does not answer: {found.reasons[0]}. (`cw local` starts another on this machine.)"
        )
    in_slurm = "; `cw slurm start -n 32`, one in Slurm" if State.system.is_installed() else ""
    return f"No cluster of yours was found. `cw local` starts one on this machine{in_slurm}."


def main() -> int:
    """Run `cw status`; returns the exit status: 1 if no master answers."""
    parser = program.argument_parser(
        "cw status", "Shows the state of the cluster that your programs find by default."
    )
    parser.add_argument(
        "host",
        nargs="?",
        metavar="HOST",
        help="HOST or HOST:PORT of the master (default: as programs find it)",
    )
    options = parser.parse_args()
    program.set_up_logging(options.verbose)
    if not options.host and not os.environ.get("CW_MASTER") and State.load(address.cluster_name()).token:
        return slurm_cli.print_status()
    found = look(options.host)
    if found.status is not None:
        _print(found.status, found.where)
        return 0
    print("no master answers")
    for reason in found.reasons:
        print(f"  {reason}")
    if not options.host:
        print(sentence())
    return 1


def _print(status: status_client.ClusterStatus, where: str) -> None:
    print(f"master: {where}")
    print(f"slots connected: {status.slots}")
    print(f"clients: {status.clients}")
    print(f"jobs: {_jobs(status)}")
    for worker in status.workers:
        held = program.count(worker["held"], "job")
        drains = ", drains" if worker["draining"] else ""
        left = "" if worker["left"] is None else f", {slurm_cli.format_seconds(worker['left'])} left"
        print(f"{worker['name']}: {program.count(worker['slots'], 'slot')}, {held}{drains}{left}")


def _jobs(status: status_client.ClusterStatus) -> str:
    running = program.count(status.running, "job runs", "jobs run")
    return f"{running}, {status.waiting} {'waits' if status.waiting == 1 else 'wait'}"
