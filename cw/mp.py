"""A cluster of processes on this machine: one master, and one worker with n slots.

    with cw.mp.allocate(4):          # gone when the block ends, however it ends
        ...
    cluster = cw.mp.allocate(4)      # gone at cluster.close(), or with the program

    cw.mp.start(4)                   # lasts until cw.mp.stop(), which any program of the user may call
    python -m cw.mp start -n 4       # the same from the shell

The master listens on the loopback interface only, and accepts only peers with the cluster's credential, which is made
if there is none (cw.credential). Clients in the program that starts the cluster use it by default. All clients of the
user on this machine find the cluster of `start` (cw.launch.local_state). There is no address file.

A worker that dies is started again as long as the program that the cluster lasts for runs: `allocate`, `cw local`.
(`start` leaves no program behind. `status` reports that the worker has ended; `start` with `master=False` starts
another.)

`start` notes its processes in `~/.cw/mp-HOST/state.json` (many machines may share a home directory), under a lock for
which other starts and stops wait. The logs are beside it, also those of `allocate`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import weakref
from collections.abc import Iterator
from typing import Any

from cw import advice, guard, program
from cw.cpus import usable_cpus
from cw.errors import StartRefused
from cw.events import EventLogger
from cw.launch import launcher, local_parts, local_state
from cw.launch.launcher import Child, Cluster, LaunchError, Lifeline, Process
from cw.launch.local_parts import Plan
from cw.launch.local_state import LocalState
from cw.launch.options import ClusterOptions, takes
from cw.launch.supervisor import Supervisor
from cw.named_tuple import NamedTuple
from cw.net import address

logger = EventLogger("cw.mp")


class Status(NamedTuple):
    """Status of the cluster that `start` has started on this machine."""

    master: str
    """The master's address, 'HOST:PORT'."""
    slots: int
    running: dict[str, int]
    """The pid of each running part: 'master', 'worker'."""
    ended: list[str]
    """Parts that have ended without `stop`."""
    since: float
    """Time of the start (seconds since 1970)."""
    logs: str
    """Directory of the logs."""


@takes(ClusterOptions)
def start(options: ClusterOptions) -> Cluster:
    """Start a local cluster with `nworkers` slots that lasts until `stop`; returns when it is ready.

    With `workers=False`, starts only the master; with `master=False`, only a worker: for the master that was started
    that way, or otherwise for the one that a client would find. `master_options` and `worker_options` are those of
    cw.master (`--port`, `-v`) and cw.worker. Raises ValueError or TypeError for invalid arguments, and LaunchError (a
    RuntimeError) if a local cluster runs already or cannot be started.
    """
    guard.check_start("cw.mp.start()")
    cluster = _start_noted(_make_plan(options))
    if options.master:
        _use_in_this_process(cluster.master)
    return cluster


def stop(master: bool = True, workers: bool = True) -> bool:
    """End the cluster that `start` has started on this machine, from any program; returns when it is gone.

    Returns False if there was nothing to end. Unfinished jobs are lost with it. Raises LaunchError.
    """
    with local_state.locked() as state:
        if master and state.master:
            address.unbind_process(state.master)
        return state.end(_choose_roles(master, workers))


def status() -> Status | None:
    """Return the status of the cluster that `start` has started on this machine; None if no part of it runs."""
    state = LocalState.load()
    pids = {role: process.pid for role, process in state.running().items()}
    return Status(state.master, state.slots, pids, state.ended(), state.since, state.logs) if pids else None


@takes(ClusterOptions)
def allocate(options: ClusterOptions) -> LocalCluster:
    """Start a local cluster with `nworkers` slots for a `with` block, or until its `close()` or the end of the program.

    It is ready when this returns, and gone when the block or the program ends, also soon after the program is killed.
    Other clusters, including that of `start`, are not affected. Arguments and errors are those of `start`. Master and
    worker are one process, unless options are given for one of them.
    """
    guard.check_start("cw.mp.allocate()")
    plan = _make_plan(options)
    has_options = options.list_of("master_options") or options.list_of("worker_options")
    return LocalCluster(plan._replace(is_one=len(plan.roles) == 2 and not has_options))


@contextlib.contextmanager
def hold(options: ClusterOptions) -> Iterator[Cluster]:
    """Start a local cluster that ends with the block or the program; as with `start`, `stop` and `status` know it."""
    guard.check_start("cw local")
    plan = _make_plan(options)
    lifeline = Lifeline()

    def start_again(died: Process) -> Process | None:
        with local_state.locked() as state:
            if state.processes.get("worker") != died or "master" not in state.running():
                return None  # stopped meanwhile
            child = local_parts.start_worker(plan, cluster.logs, cluster.master, lifeline)
            state.note(cluster.master, child)
            os.close(child.ready)
            return child.process

    try:
        with _start_noted(plan, lifeline) as cluster:
            worker = LocalState.load().processes["worker"]
            supervisor = Supervisor(worker, start_again, launcher.log_file("worker", cluster.logs))
            cluster.is_kept_up = supervisor.is_active
            try:
                yield cluster
            finally:
                supervisor.end()
    finally:
        lifeline.cut()


def start_own(slots: int, port: int = 0) -> LocalCluster:
    """Start a cluster that ends with this program, for those of its clients that are told of it. `port`: its master's;
    0: any. Raises LaunchError."""
    return LocalCluster(_make_plan(ClusterOptions(slots))._replace(port=port, is_one=True), is_default=False)


def find_local(master: str) -> LocalCluster | None:
    """Return the cluster that ends with this program and has its master at this address; None: there is none."""
    return next((cluster for cluster in list(_local) if cluster.master == master), None)


def take_over(handed: HandedOn) -> LocalCluster:
    """Take over a cluster that another process has handed on: it ends with this program."""
    plan = _make_plan(ClusterOptions(handed.slots))._replace(is_one=handed.is_one)
    return LocalCluster(plan, is_default=False, handed=handed)


_local: weakref.WeakSet[LocalCluster] = weakref.WeakSet()
"""Those of this process. Changed in the users' threads."""


class HandedOn(NamedTuple):
    """What another process needs to have a cluster of `allocate` from now on."""

    master: str
    """Its address."""
    slots: int
    logs: str
    processes: list[Process]
    """Its master and its worker, as far as it has them; or one that is both."""
    lifeline: int
    """Descriptor that keeps the cluster alive, for the other process to inherit."""
    is_one: bool
    """Master and worker are one process."""


class LocalCluster(Cluster):
    """A cluster of `allocate`. It ends with its block, at `close()`, or with the program."""

    def __init__(self, plan: Plan, is_default: bool = True, handed: HandedOn | None = None) -> None:
        """Start it, or take over one that another process has `handed` on. `is_default`: clients of this process use it
        by default. Raises LaunchError."""
        logs = (
            handed.logs if handed else launcher.make_logs(os.path.join(local_state.directory(), "allocated"))
        )
        super().__init__("", plan.slots, logs, self._end)
        self._plan = plan
        self._lifeline = Lifeline(handed and handed.lifeline)
        # At most one of each; the supervisor's thread replaces the worker's. Only a worker: it is the master, too.
        handed_on = handed.processes if handed else []
        self._master: list[Process] = [] if plan.is_one else handed_on[:1]
        self._workers: list[Process] = handed_on if plan.is_one else handed_on[1:]
        self._supervisors: list[Supervisor] = []
        try:
            if handed:
                self.master = handed.master
            else:
                self.master = local_parts.start(
                    plan, logs, self._note, lifeline=self._lifeline, meanwhile=program.load_ahead
                )
            if is_default and "master" in plan.roles:
                _use_in_this_process(self.master)
            self._supervise()
        except BaseException:
            self.stop()
            raise
        self.end_with_program(self._end)
        _local.add(self)

    def renew_master(self) -> None:
        """Start a master in place of one that has ended, where the worker looks for it. Raises LaunchError."""
        if self._plan.is_one:
            self._start_worker()
            self._supervise()
            return
        plan = self._plan._replace(roles=["master"], port=address.parse(self.master)[1] or 0)
        self._master.clear()
        local_parts.start(plan, self.logs, self._note, lifeline=self._lifeline)

    def hand_on(self) -> HandedOn:
        """Let another process have the cluster, which then ends when both have ended, or the other one ends it."""
        for supervisor in self._supervisors:
            supervisor.end()
        self.forget()
        processes, lifeline = [*self._master, *self._workers], self._lifeline.handed_on()
        return HandedOn(self.master, self.slots, self.logs, processes, lifeline, self._plan.is_one)

    def is_alive(self) -> bool:
        """True if its master runs, or is started again."""
        if self._plan.is_one:
            if any(process.is_alive() for process in self._workers):
                return True
            has_left = any(process.exit_status() == 0 for process in self._workers)  # none is started again
            return not has_left and any(supervisor.is_active() for supervisor in self._supervisors)
        return any(process.is_alive() for process in self._master)

    def _note(self, master: str, child: Child) -> None:
        (self._master if child.role == "master" else self._workers).append(child.process)

    def _start_again(self, died: Process) -> Process | None:
        if self._master and not self.is_alive():
            return None
        return self._start_worker()

    def _start_worker(self) -> Process:
        start = local_parts.start_one_again if self._plan.is_one else local_parts.start_worker
        child = start(self._plan, self.logs, self.master, self._lifeline)
        self._workers = [child.process]
        os.close(child.ready)
        return child.process

    def _supervise(self) -> None:
        log = launcher.log_file("worker", self.logs)
        is_one = self._plan.is_one
        self._supervisors = [Supervisor(worker, self._start_again, log, is_one) for worker in self._workers]

    def _end(self) -> None:
        if "master" in self._plan.roles:
            address.unbind_process(self.master)
        for supervisor in self._supervisors:
            supervisor.end()
        launcher.end_processes([*self._master, *self._workers], before_kill=self._lifeline.cut)


# --- one launch -----------------------------------------------------------------------------


def _make_plan(options: ClusterOptions) -> Plan:
    slots = launcher.check_nworkers(options.nworkers)
    if for_slurm := options.for_slurm():
        raise ValueError(
            f"these belong to clusters in Slurm (cw.slurm): {', '.join(for_slurm)}; "
            "a local cluster runs with the Python that starts it"
        )
    options.check_roles()
    verbose = ["-v"] if options.verbose else []
    port, rest = _take_port([*verbose, *options.list_of("master_options")])
    return Plan(
        _choose_roles(options.master, options.workers),
        slots if options.workers else 0,
        port,
        rest,
        [*verbose, *options.list_of("worker_options")],
    )


def _choose_roles(master: bool, workers: bool) -> list[str]:
    return [role for role, is_chosen in (("master", master), ("worker", workers)) if is_chosen]


def _take_port(options: list[str]) -> tuple[int, list[str]]:
    """Return (port or 0, the other options). The launcher itself listens, so that it knows the port at once."""
    port, rest, given = 0, [], iter(options)
    for option in given:
        name, has_value, value = option.partition("=")
        if name == "--host":
            raise ValueError(
                "a local cluster listens on the loopback interface only: to reach it from other machines, start "
                "cw.master by hand"
            )
        if name == "--port":
            text = value if has_value else next(given, "")
            port = 0 if text == "0" else address.check_port(text)
        else:
            rest.append(option)
    return port, rest


def _start_noted(plan: Plan, lifeline: Lifeline | None = None) -> Cluster:
    """Start the parts of a plan, and note them for `stop` and `status`. Raises LaunchError."""
    with local_state.locked() as state:
        running = state.running()
        if running and ("master" in plan.roles or "worker" in running):
            raise LaunchError(
                f"{state.describe()}: use it, or stop it first (`{advice.module('mp', 'stop')}`)"
            )
        if not running:
            state.clear()
            state.logs = launcher.make_logs(os.path.join(local_state.directory(), "started"))
        slots_before, state.slots, state.since = state.slots, plan.slots, time.time()
        try:
            state.master = local_parts.start(plan, state.logs, state.note, state.master, lifeline)
        except BaseException:
            state.slots = slots_before
            state.end(plan.roles)
            raise
        state.save()
    roles = "master" in plan.roles, "worker" in plan.roles
    return Cluster(state.master, plan.slots, state.logs, lambda: stop(*roles))


def _use_in_this_process(master: str) -> None:
    address.bind_process(master)
    if os.environ.get("CW_MASTER"):
        logger.warning(
            "mp.other_master_set",
            "CW_MASTER is set: clients without a host use %s, not the cluster that starts here at %s",
            os.environ["CW_MASTER"],
            master,
        )


# --- the program ------------------------------------------------------------------------------


def main() -> int:
    """Run `python -m cw.mp start|stop|status`; returns the exit status."""
    options = _parse_arguments()
    program.set_up_logging(options.verbose)
    master, workers = not options.without_master, not options.without_workers
    if options.verb == "stop":
        if not stop(master, workers):
            print("no local cluster was running")
        return 0
    if options.verb == "status":
        return _print_status()
    try:
        cluster = start(
            options.nworkers, master, workers, options.Xmaster, options.Xworkers, verbose=options.verbose
        )
    except ValueError as error:
        raise program.UsageError(str(error)) from None
    except StartRefused as error:
        raise program.UserError(str(error)) from None
    print(
        f"{program.count(cluster.slots, 'slot')} on this machine, until `{advice.module('mp', 'stop')}`; "
        f"logs in {cluster.logs}",
        file=sys.stderr,
    )
    if sys.stdout.isatty():
        print(
            "your programs on this machine find it; for them to use no other cluster, set:", file=sys.stderr
        )
    print(f"export CW_MASTER={cluster.master}")  # The only line on stdout, for eval "$(...)".
    return 0


def _parse_arguments() -> Any:
    parser = program.argument_parser("cw.mp", "Starts and stops a cluster of processes on this machine.")
    parser.add_argument("verb", choices=["start", "stop", "status"])
    parser.add_argument(
        "-n",
        "--nworkers",
        type=int,
        metavar="N",
        default=usable_cpus(),
        help="number of slots (default: one for each usable CPU, here %(default)s)",
    )
    parser.add_argument("-M", "--without-master", action="store_true", help="only a worker")
    parser.add_argument("-W", "--without-workers", action="store_true", help="only a master")
    for name in ("master", "workers"):
        help_text = f"argument for the {name}, such as --X{name}=-v; may be repeated"
        parser.add_argument(f"--X{name}", action="append", default=[], metavar="ARG", help=help_text)
    return parser.parse_args()


def _print_status() -> int:
    found = status()
    if not found:
        print("no local cluster is running")
        return 1
    print(f"master: {found.master}")
    print(f"slots: {found.slots}")
    print("processes: " + ", ".join(f"{role} (pid {pid})" for role, pid in found.running.items()))
    for role in found.ended:
        print(f"the {role} has ended: see its log")
    print(f"since: {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(found.since))}")
    print(f"logs: {found.logs}")
    return 1 if found.ended else 0


if __name__ == "__main__":
    program.run("cw.mp", main)
