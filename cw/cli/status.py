"""`cw status`: the state of the cluster that a program of the user would find; also the sentence that `cw` prints.

HOST, CW_MASTER, address file, Slurm, this machine  -->  candidates      (cw.net.address)
the first master that answers                       -->  ClusterStatus   (cw.launch.status_client)
it shows its jobs and workers                       -->  Snapshot        (cw.overview, cw.observer)
no master answers                                   -->  why, and the next command to type
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import Any, NamedTuple

from cw import advice, mp, overview, program
from cw.errors import ConnectionError
from cw.launch import status_client
from cw.net import address
from cw.observer import json_lines, prometheus, text
from cw.observer.model import Snapshot
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
            f"{program.count(found.status.slots, 'slot')}; {_jobs(found.status)}. "
            f"`{advice.command('status')}` says more."
        )
    local = mp.status()
    if local is not None and "master" in local.running:
        return (
            f"Your cluster: {program.count(local.slots, 'slot')} on this machine. Programs find it with: "
            f"export CW_MASTER={local.master}"
        )
    if found.is_known:
        return (
            f"Your cluster does not answer: {found.reasons[0]}. (`{advice.command('local')}` starts another on this "
            "machine.)"
        )
    start = advice.command("slurm", "start", "-n", "32")
    in_slurm = f"; `{start}`, one in Slurm" if State.system.is_installed() else ""
    return f"No cluster of yours was found. `{advice.command('local')}` starts one on this machine{in_slurm}."


def main() -> int:
    """Run `cw status`; returns the exit status: 1 if no master answers."""
    options = _parse_arguments()
    program.set_up_logging(options.verbose)
    while True:
        status = _show(options)
        if options.every is None:
            return status
        if not (options.json or options.prometheus):
            print()
        sys.stdout.flush()
        time.sleep(options.every)


def _parse_arguments() -> Any:
    parser = program.argument_parser(
        "cw status",
        "Shows the state of the cluster that your programs find by default: jobs, workers, failures.",
    )
    parser.add_argument(
        "host",
        nargs="?",
        metavar="HOST",
        help="HOST or HOST:PORT of the master (default: as programs find it)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json", action="store_true", help="print JSON lines: an object for each thing, with its kind"
    )
    form.add_argument(
        "--prometheus",
        type=program.converted_by(_check_file),
        metavar="FILE",
        help="write this file, NAME.prom, for the textfile collector of Prometheus' node_exporter",
    )
    parser.add_argument(
        "--every",
        type=program.converted_by(program.parse_positive_seconds),
        metavar="SECONDS",
        help="again and again, with this pause, until Ctrl-C",
    )
    return parser.parse_args()


def _check_file(path: str) -> str:
    if not path.endswith(".prom"):
        raise ValueError(f"{path!r} does not end with .prom: node_exporter reads no other files")
    return path


def _show(options: Any) -> int:
    """Show the state once; returns the exit status."""
    if options.json or options.prometheus:
        return _show_to_programs(options)
    if not options.host and not os.environ.get("CW_MASTER") and State.load(address.cluster_name()).token:
        exit_status = slurm_cli.print_status()
        if exit_status == 0 and (snapshot := _snapshot_of(None)) is not None:
            _print_tables(snapshot)
        return exit_status
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


def _show_to_programs(options: Any) -> int:
    """Show the state in a form for programs; returns the exit status."""
    snapshot, reason = None, ""
    try:
        snapshot = overview.status(options.host)
    except ConnectionError as error:
        reason = str(error)
    if options.prometheus:
        try:
            prometheus.write(options.prometheus, prometheus.text(snapshot))
        except OSError as error:
            raise program.UserError(f"{options.prometheus} cannot be written: {error.strerror}") from None
    elif snapshot is not None:
        print("\n".join(json_lines.lines(snapshot)))
    if snapshot is None:
        print(reason, file=sys.stderr)
    return 0 if snapshot is not None else 1


def _snapshot_of(host: str | None) -> Snapshot | None:
    """Return the state of this master; None if it has just ended."""
    try:
        return overview.status(host)
    except ConnectionError:
        return None


def _print_tables(snapshot: Snapshot) -> None:
    for line in text.lines(snapshot, shutil.get_terminal_size().columns):
        print(line)


def _print(status: status_client.ClusterStatus, where: str) -> None:
    snapshot = _snapshot_of(status.where)
    print(f"master: {where}")
    print(f"slots connected: {status.slots}")
    print(f"clients: {status.clients}")
    if snapshot is None:
        print(f"jobs: {_jobs(status)}")
        return
    totals = snapshot.totals
    print(f"jobs: {totals.running:,} running, {totals.waiting:,} waiting, {totals.done:,} done, "
          f"{totals.failed:,} failed, {totals.rate:.3g}/s")  # fmt: skip
    _print_tables(snapshot)


def _jobs(status: status_client.ClusterStatus) -> str:
    running = program.count(status.running, "job runs", "jobs run")
    return f"{running}, {status.waiting} {'waits' if status.waiting == 1 else 'wait'}"
