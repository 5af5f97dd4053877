"""A cluster on machines that only ssh reaches, without a batch system and without a common home directory.

    cw ssh start lab1 lab2:8         cw.ssh.start(["lab1", "lab2:8"])
    cw ssh status                    cw.ssh.status()
    cw ssh stop                      cw.ssh.stop()

    with cw.ssh.allocate(["lab1", "lab2:8"]):      for the duration of a block

The master runs here or on one of the machines; each has one worker, which outlives its connection. A credential is made
for each cluster and brought to its machines; it opens no other cluster. Clients of the user on this machine find the
cluster by its notes (`cw.ssh.known`).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from cw import advice, guard
from cw.events import EventLogger
from cw.launch.launcher import Cluster, LaunchError, Lifeline
from cw.launch.options import takes
from cw.net import address
from cw.ssh import ending, known, starting
from cw.ssh.connection import Ssh
from cw.ssh.plan import BLOCK_WITHOUT_MASTER, Options, Plan, change_of_master, resolve
from cw.ssh.starting import Outcome, Starting

logger = EventLogger("cw.ssh")

_BLOCK = "block-"
"""Beginning of the names of the clusters of `allocate`."""


class MachineStatus(NamedTuple):
    """One machine of a cluster."""

    target: str
    """Its name as ssh takes it."""
    slots: int
    """Number of connected slots; 0: its worker is not there."""
    jobs: int
    """Number of jobs that the worker holds."""
    problem: str
    """Why it is not there, as far as that is known; '' if it is."""


class Status(NamedTuple):
    """Status of a cluster of `cw ssh`."""

    name: str
    master: str
    """The master's address, 'HOST:PORT', or '' if it does not answer."""
    machines: list[MachineStatus]
    waiting: int
    running: int
    logs: str
    """Directory of the logs here."""

    @property
    def slots(self) -> int:
        """Number of connected slots."""
        return sum(machine.slots for machine in self.machines)


class SshCluster(Cluster):
    """A running cluster of `cw ssh`."""

    outcomes: Sequence[Outcome] = ()
    """How it went on each machine."""


@takes(Options)
def start(options: Options) -> SshCluster:
    """Start a cluster on these machines that lasts until `stop`, or what is missing of it; returns when it is ready.

    Machines on which something fails are left out, and logged; `outcomes` has the reasons. Raises ValueError or
    TypeError for invalid arguments, and LaunchError if there is no master, or no machine at all could be used.
    """
    return start_saying(options, logger_says)


def start_saying(options: Options, say: Callable[[str], object]) -> SshCluster:
    """Start it, with a line for each machine to `say`."""
    guard.check_start("cw.ssh.start()")
    name = address.check_cluster_name(options.name or address.cluster_name())
    with _locked_notes(name) as state:
        outcomes = _start(state, _plan(state, options), options.install, say)
        return _cluster(state, outcomes, lambda: stop(name))


def restart(options: Options, hosts: Sequence[str], grace: float, say: Callable[[str], object]) -> SshCluster:
    """Replace the workers on these `hosts` (none given: on all), and start what is missing; for the rest as `start`."""
    name = address.check_cluster_name(options.name or address.cluster_name())
    with _locked_notes(name) as state:
        if not state.token:
            raise LaunchError(there_is_none(name))
        targets = _among(state, hosts)
        if grace:
            ending.drain(state, targets, grace)
        outcomes = _start(state, _plan(state, options), options.install, say, targets)
        return _cluster(state, outcomes, lambda: stop(name))


def there_is_none(name: str) -> str:
    """Return the sentence for a cluster that is not there."""
    start = advice.command("ssh", "start", "lab1", "lab2:8", name=name)
    return f"there is no cluster {name!r} of cw ssh: start one, such as `{start}`"


def _among(state: known.State, hosts: Sequence[str]) -> list[str]:
    """Return the machines that a user names, or all. Raises ValueError if one is not of this cluster."""
    targets = starting.given_hosts(hosts) or list(state.machines)
    if unknown := [target for target in targets if target not in state.machines]:
        raise ValueError(
            f"{unknown[0]} is no machine of the cluster {state.name!r}: {', '.join(state.machines)} are"
        )
    return targets


def stop(
    name: str | None = None, hosts: Sequence[str] = (), grace: float = 0.0, uninstall: bool = False
) -> list[str]:
    """End a cluster of `start`, or its workers on some `hosts`; returns a line for each machine, none if there is none.

    `grace`: time for running jobs to finish (seconds). `uninstall`: remove the environments that `install` has made,
    too. Raises LaunchError if something is left on a machine, with these lines.
    """
    name = address.check_cluster_name(name or address.cluster_name())
    with _locked_notes(name) as state:
        if not state.token:
            return []
        targets = _among(state, hosts)
        with Ssh(Plan.load(state.plan).ssh_options) as ssh:
            report = ending.stop(state, ssh, targets, grace, uninstall)
    if not report.is_complete:
        again = advice.command("ssh", "stop", name=name)
        raise LaunchError("\n".join([*report.lines, f"not all is stopped: `{again}` again ends the rest"]))
    return report.lines


def status(name: str | None = None) -> Status | None:
    """Return the status of a cluster of `start`, or None if there is none of that name."""
    name = address.check_cluster_name(name or address.cluster_name())
    state = known.State.load(name)
    if not state.token:
        return None
    logs = os.path.join(state.directory, "logs")
    found = starting.ask(state)
    if found is None:
        there = [
            MachineStatus(target, 0, 0, "not known: the master does not answer") for target in state.machines
        ]
        return Status(name, "", there, 0, 0, logs)
    workers = {starting.target_of(worker, name): worker for worker in found.workers}
    lost = {starting.target_of(loss, name): loss for loss in sorted(found.lost, key=lambda loss: loss["at"])}
    there = []
    for target, machine in state.machines.items():
        if worker := workers.get(target):
            there.append(MachineStatus(target, worker["slots"], worker["held"], ""))
        elif loss := lost.get(target):
            at = time.strftime("%H:%M:%S", time.localtime(loss["at"]))
            there.append(MachineStatus(target, 0, 0, f"lost at {at} ({loss['how']})"))
        else:
            problem = f"not started: {machine.problem}" if machine.problem else "its worker is not connected"
            there.append(MachineStatus(target, 0, 0, problem))
    return Status(name, found.where, there, found.waiting, found.running, logs)


@takes(Options)
def allocate(options: Options) -> SshCluster:
    """Start a cluster on these machines for a `with` block, or until its `close()` or the end of the program.

    It is gone when the block or the program ends; if the program is killed, its workers end some minutes later.
    Arguments and errors are those of `start`. Clients in this program use it by default.
    """
    guard.check_start("cw.ssh.allocate()")
    name = f"{_BLOCK}{os.uname().nodename.partition('.')[0][:30]}-{os.getpid()}-{os.urandom(2).hex()}"
    lifeline = Lifeline()

    def end() -> None:
        address.unbind_process(cluster_address)
        try:
            stop(name)
        finally:
            lifeline.cut()

    cluster_address = ""
    try:
        with _locked_notes(name) as state:
            plan = _plan(state, options)._replace(without_master=BLOCK_WITHOUT_MASTER)
            outcomes = _start(state, plan, options.install, logger_says, [], lifeline)
            cluster = _cluster(state, outcomes, end)
            cluster_address = cluster.master
    except BaseException:
        end()
        raise
    address.bind_process(cluster_address)
    cluster.end_with_program(end)
    return cluster


def logger_says(line: str) -> None:
    """Log a line about a machine: a warning if there is no worker."""
    if ": not started: " in line:
        logger.warning("ssh.machine_failed", "%s", line)
    else:
        logger.info("ssh.machine_up", "%s", line)


@contextlib.contextmanager
def _locked_notes(name: str) -> Iterator[known.State]:
    with known.locked(name) as state:
        os.makedirs(state.directory, 0o700, exist_ok=True)
        try:
            yield state
        finally:
            if not known.State.load(name).token:
                state.forget()
                if name.startswith(_BLOCK):  # no other program waits for its lock
                    os.unlink(state.directory + ".lock")


def _plan(state: known.State, options: Options) -> Plan:
    """Return the plan. Raises LaunchError if it needs another master than the one that runs, ValueError, TypeError."""
    noted = Plan.load(state.plan)
    plan = resolve(options, noted)
    changed = change_of_master(noted, plan) if state.token else ""
    if changed and starting.ask(state) is not None:
        stop = advice.command("ssh", "stop", name=state.name)
        raise LaunchError(
            f"the cluster {state.name!r} runs with another --{changed.replace('_', '-')}: stop it first (`{stop}`)"
        )
    return plan


def _start(
    state: known.State, plan: Plan, is_installing: bool, say: Callable[[str], object], anew: Sequence[str] = (),
    lifeline: Lifeline | None = None,
) -> list[Outcome]:  # fmt: skip
    """Start what is missing. If nothing comes of a new cluster, nothing stays. Raises LaunchError."""
    is_new = not state.token
    with Ssh(plan.ssh_options) as ssh:
        run = Starting(state, plan, ssh, say, lifeline)
        try:
            run.run(anew, is_installing)
            if all(outcome.problem for outcome in run.outcomes.values()):
                raise LaunchError("no machine could be used")
        except (LaunchError, OSError):
            if is_new:
                ending.stop(state, ssh, list(state.machines), 0.0, False)
            raise
        outcomes = [run.outcomes[target] for target in plan.targets]
        starting.wait_until_connected(state, outcomes)
        return outcomes


def _cluster(state: known.State, outcomes: list[Outcome], end: Callable[[], object]) -> SshCluster:
    slots = sum(outcome.slots for outcome in outcomes)
    where = state.candidates()[0]  # from here on its credential is known
    cluster = SshCluster(
        address.join(where.host, where.port), slots, os.path.join(state.directory, "logs"), end
    )
    cluster.outcomes = outcomes
    return cluster
