"""A cluster of processes on this machine: one master, and one worker with n slots.

    with cw.mp.allocate(4):          # gone when the block ends, however it ends
        ...

    cw.mp.start(4)                   # lasts until cw.mp.stop(), which any program of the user may call
    python -m cw.mp start -n 4       # the same from the shell

The master listens on the loopback interface only, and accepts only peers with the cluster's credential, which is made
if there is none (cw.credential). Clients in the program that starts the cluster use it by default; for others,
`python -m cw.mp start` prints the variable to set. There is no address file.

`start` notes its processes in `~/.cw/mp-HOST/state.json` (many machines may share a home directory), under a lock for
which other starts and stops wait. The logs are beside it, also those of `allocate`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from cw import credential, guard, program, userdir
from cw.errors import StartRefused
from cw.events import EventLogger
from cw.launch import launcher
from cw.launch.launcher import Child, Cluster, LaunchError, Lifeline, Process
from cw.launch.options import ClusterOptions, takes
from cw.net import address
from cw.net.sockets import listen_locally

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
    with _locked_state() as state:
        if master and state.master:
            address.unbind_process(state.master)
        return state.end(_choose_roles(master, workers))


def status() -> Status | None:
    """Return the status of the cluster that `start` has started on this machine; None if no part of it runs."""
    state = _State.load()
    pids = {role: process.pid for role, process in state.running().items()}
    return Status(state.master, state.slots, pids, state.ended(), state.since, state.logs) if pids else None


@takes(ClusterOptions)
@contextlib.contextmanager
def allocate(options: ClusterOptions) -> Iterator[Cluster]:
    """Start a local cluster with `nworkers` slots for a `with` block; it is ready when the block begins.

    It is gone when the block ends, and soon after the program is killed. Other clusters, including that of `start`, are
    not affected. Arguments and errors are those of `start`.
    """
    guard.check_start("cw.mp.allocate()")
    plan = _make_plan(options)
    logs = launcher.make_logs(os.path.join(_directory(), "allocated"))
    lifeline = Lifeline()
    processes: list[Process] = []

    def note(master: str, child: Child) -> None:
        processes.append(child.process)

    def end() -> None:
        if "master" in plan.roles:
            address.unbind_process(cluster.master)
        launcher.end_processes(processes, before_kill=lifeline.cut)

    cluster = Cluster("", plan.slots, logs, end)
    with cluster:
        cluster.master = _start_parts(plan, logs, note, lifeline=lifeline)
        if "master" in plan.roles:
            _use_in_this_process(cluster.master)
        yield cluster


@contextlib.contextmanager
def hold(options: ClusterOptions) -> Iterator[Cluster]:
    """Start a local cluster that ends with the block or the program; as with `start`, `stop` and `status` know it."""
    guard.check_start("cw local")
    lifeline = Lifeline()
    try:
        with _start_noted(_make_plan(options), lifeline) as cluster:
            yield cluster
    finally:
        lifeline.cut()


# --- one launch -----------------------------------------------------------------------------


class _Plan(NamedTuple):
    """The parts to start."""

    roles: list[str]
    slots: int
    port: int
    master_options: list[str]
    worker_options: list[str]


def _make_plan(options: ClusterOptions) -> _Plan:
    slots = launcher.check_nworkers(options.nworkers)
    if for_slurm := options.for_slurm():
        raise ValueError(
            f"these belong to clusters in Slurm (cw.slurm): {', '.join(for_slurm)}; "
            "a local cluster runs with the Python that starts it"
        )
    options.check_roles()
    verbose = ["-v"] if options.verbose else []
    port, rest = _take_port([*verbose, *options.list_of("master_options")])
    return _Plan(
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


def _start_noted(plan: _Plan, lifeline: Lifeline | None = None) -> Cluster:
    """Start the parts of a plan, and note them for `stop` and `status`. Raises LaunchError."""
    with _locked_state() as state:
        running = state.running()
        if running and ("master" in plan.roles or "worker" in running):
            raise LaunchError(f"{state.describe()}: use it, or stop it first (`python -m cw.mp stop`)")
        if not running:
            state.clear()
            state.logs = launcher.make_logs(os.path.join(_directory(), "started"))
        slots_before, state.slots, state.since = state.slots, plan.slots, time.time()
        try:
            state.master = _start_parts(plan, state.logs, state.note, state.master, lifeline)
        except BaseException:
            state.slots = slots_before
            state.end(plan.roles)
            raise
        state.save()
    roles = "master" in plan.roles, "worker" in plan.roles
    return Cluster(state.master, plan.slots, state.logs, lambda: stop(*roles))


def _start_parts(
    plan: _Plan,
    logs: str,
    note: Callable[[str, Child], object],
    known_master: str = "",
    lifeline: Lifeline | None = None,
) -> str:
    """Start the parts in parallel and return the master's address when all are ready.

    `note(master, child)` is called for each, with the master's address, as soon as its process exists.
    """
    children = []
    master = known_master or address.started_here()
    host: list[str] = []
    if "master" in plan.roles:
        listeners = _listen(plan.port, credential.load_or_make().fingerprint)
        master = address.join(*listeners["--listen-fd"].getsockname())
        host = [master]
        options = [*plan.master_options, "--host", "127.0.0.1", "--no-address-file"]
        children.append(launcher.spawn("master", options, logs, lifeline=lifeline, listeners=listeners))
        note(master, children[-1])
    if "worker" in plan.roles:
        # For a master that runs already: the options or CW_MASTER take precedence over the known address.
        environment = {"CW_MASTER": master, **os.environ} if master and not host else None
        # A local cluster ends at once when it is stopped, unless the options say otherwise.
        options = [*host, "--grace", "0", *plan.worker_options, "-n", str(plan.slots)]
        children.append(launcher.spawn("worker", options, logs, lifeline=lifeline, environment=environment))
        note(master, children[-1])
    launcher.wait_until_ready(children)
    return master or next((address.join(where.host, where.port) for where in address.find_master()), "")


def _listen(port: int, fingerprint: str) -> dict[str, socket.socket]:
    """Return the master's listening sockets, by the option that passes each on. From here on peers may connect."""
    try:
        listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    except OSError as error:
        raise LaunchError(
            f"cannot listen on port {port} of 127.0.0.1 ({error.strerror}): choose another"
        ) from error
    local = listen_locally(listener.getsockname()[1], fingerprint)
    return {"--listen-fd": listener} | ({"--local-fd": local} if local else {})


def _use_in_this_process(master: str) -> None:
    address.bind_process(master)
    if os.environ.get("CW_MASTER"):
        logger.warning(
            "mp.other_master_set",
            "CW_MASTER is set: clients without a host use %s, not the cluster that starts here at %s",
            os.environ["CW_MASTER"],
            master,
        )


# --- what `start` has started -----------------------------------------------------------------


def _directory() -> str:
    """Make and return this machine's part of the user's own directory."""
    path = os.path.join(userdir.make_home(), f"mp-{os.uname().nodename}")
    os.makedirs(path, 0o700, exist_ok=True)
    return path


class _State:
    """Notes of `start` for `stop`. Changed only under the lock."""

    def __init__(self) -> None:
        self.master = ""
        self.slots = 0
        self.since = 0.0
        self.logs = ""
        self.processes: dict[str, Process] = {}

    @classmethod
    def load(cls) -> _State:
        """Load the notes; empty if there are none, or if the machine has been booted since."""
        import json

        state = cls()
        try:
            noted = json.loads(userdir.read_private(cls._file()) or "{}")
            if noted and noted["boot_id"] == launcher.boot_id():
                state.processes = {role: Process(*numbers) for role, numbers in noted["processes"].items()}
                state.master, state.slots = noted["master"], noted["slots"]
                state.since, state.logs = noted["since"], noted["logs"]
        except (ValueError, KeyError, TypeError) as error:
            logger.warning(
                "mp.state_invalid",
                "%s is passed over: it is not of this version of cw (%r)",
                cls._file(),
                error,
            )
            return cls()
        return state

    def save(self) -> None:
        import json

        if self.processes:
            noted = {"boot_id": launcher.boot_id(), **vars(self)}
            userdir.write_private(self._file(), json.dumps(noted, indent=1).encode())
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(userdir.home_directory(), self._file()))

    @staticmethod
    def _file() -> str:
        return f"mp-{os.uname().nodename}/state.json"

    def running(self) -> dict[str, Process]:
        return {role: process for role, process in self.processes.items() if process.is_alive()}

    def ended(self) -> list[str]:
        return [role for role, process in self.processes.items() if not process.is_alive()]

    def clear(self) -> None:
        vars(self).update(vars(_State()))

    def note(self, master: str, child: Child) -> None:
        """Note a process as soon as it exists, so that it can be stopped whatever happens to this one."""
        self.master = master
        self.processes[child.role] = child.process
        self.save()

    def end(self, roles: Sequence[str]) -> bool:
        """End the parts with these roles and forget them; returns whether any of them was running."""
        running = [process for role, process in self.running().items() if role in roles]
        launcher.end_processes(running)
        self.processes = {role: p for role, p in self.processes.items() if role not in roles}
        self.save()
        return bool(running)

    def describe(self) -> str:
        slots = program.count(self.slots, "slot")
        text = f"a local cluster of {slots} runs already, its master at {self.master}"
        ended = " and ".join(self.ended())
        return f"{text} (but its {ended} has ended)" if ended else text


@contextlib.contextmanager
def _locked_state() -> Iterator[_State]:
    _directory()
    with userdir.locked(f"mp-{os.uname().nodename}/lock"):
        yield _State.load()


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
        f"{program.count(cluster.slots, 'slot')} on this machine, until `python -m cw.mp stop`; "
        f"logs in {cluster.logs}",
        file=sys.stderr,
    )
    if sys.stdout.isatty():
        print("for other programs to find the cluster, set:", file=sys.stderr)
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
        default=len(os.sched_getaffinity(0)),
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
