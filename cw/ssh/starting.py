"""Start of a cluster of `cw ssh`: what is missing is started, and each machine gets one line that says how it went.

    who is connected? --> look at the others --> [install] --> master --> [tunnels] --> workers
       (the master)       all at once; those that ask, one by one         here, or there

Machines are noted before something is started there: `stop` finds it whatever happens to this program.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

from cw import advice, credential, program
from cw.launch import launcher, spawning, status_client
from cw.launch.launcher import LaunchError, Lifeline
from cw.launch.status_client import ClusterStatus
from cw.location import Location
from cw.net import address, interfaces
from cw.ssh import connection, hosts, known, probe, sending, serving, tunnels
from cw.ssh.connection import Ssh
from cw.ssh.plan import Plan, order_of_masters
from cw.ssh.sending import Refusal

WAIT_SECONDS = 5.0
"""Time for the workers that are ready to be known to the master (seconds)."""


class Outcome(NamedTuple):
    """How it went on one machine."""

    target: str
    slots: int = 0
    workdir: str = ""
    """The directory in which jobs run there; '': the client's own."""
    problem: str = ""
    """The reason why there is no worker; '' if there is one."""
    is_new: bool = False
    ends_at_logout: bool = False
    """systemd ends the worker when the user has logged out there."""

    def __str__(self) -> str:
        if self.problem:
            return f"{self.target}: not started: {self.problem}"
        where = f"; jobs run in {self.workdir}" if self.workdir else ""
        where += "; it ends at your logout: run `loginctl enable-linger` there once" * self.ends_at_logout
        return f"{self.target}: {program.count(self.slots, 'slot')}{' already' * (not self.is_new)}{where}"


class Starting:
    """One start, under the lock of the cluster's notes."""

    def __init__(
        self,
        state: known.State,
        plan: Plan,
        ssh: Ssh,
        say: Callable[[str], object],
        lifeline: Lifeline | None = None,
    ) -> None:
        """`say` gets a line for each machine, in their order. `lifeline`: our processes end with this one."""
        self.outcomes: dict[str, Outcome] = {}
        self._state = state
        self._plan = plan
        self._ssh = ssh
        self._say = say
        self._lifeline = lifeline
        self._looks: dict[str, probe.Look] = {}
        self._can_install = False
        self._unsaid = plan.targets

    def run(self, anew: Sequence[str] = (), is_installing: bool = False) -> None:
        """Start what is missing, and the workers of the machines `anew` in place of those that run there.

        Raises LaunchError if there is no master. What fails on one machine is in its outcome.
        """
        connected = connected_slots(self._state)
        missing = [
            host.target
            for host in self._plan.hosts
            if host.target in anew
            or host.target not in connected
            or host.slots not in (0, connected[host.target])
        ]
        self._can_install = is_installing
        self._note(missing)
        for target in self._plan.targets:
            if target not in missing:
                self._report(Outcome(target, connected[target]))
        self._prepare([target for target in missing if target not in self.outcomes])
        self._start_master()
        self._start_tunnels(anew)
        ready = [target for target in self._plan.targets if target in missing and target not in self.outcomes]
        self._each(ready, partial(self._start_worker, anew=anew))
        self._state.save()

    # --- notes and reports ---

    def _note(self, missing: Sequence[str]) -> None:
        state = self._state
        state.plan = self._plan._asdict()
        for host in self._plan.hosts:
            state.machines.setdefault(host.target, known.Machine()).slots = host.slots
        if missing or not state.token:
            state.token = state.token or os.urandom(4).hex()
            credential.load_or_make(state.credential)
            with open(self._nonce, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(state.token)
        state.save()

    @property
    def _nonce(self) -> str:
        return os.path.join(self._state.directory, "nonce")

    def _report(self, outcome: Outcome) -> None:
        """Note an outcome, and say those that have all machines before them done."""
        self.outcomes[outcome.target] = outcome
        self._state.machines[outcome.target].problem = outcome.problem
        while self._unsaid and self._unsaid[0] in self.outcomes:
            self._say(str(self.outcomes[self._unsaid.pop(0)]))

    def _each(self, targets: Sequence[str], function: Callable[[str], Outcome | None]) -> None:
        """Call a function for each machine, all at once, and report in their order."""
        with ThreadPoolExecutor(connection.AT_ONCE, "cw-ssh") as pool:
            for outcome in pool.map(partial(_refused_is_outcome, function), targets):
                if outcome is not None:
                    self._report(outcome)

    # --- the steps ---

    def _prepare(self, targets: Sequence[str]) -> None:
        """Find the Python of each of these machines; install where that is wanted."""
        answers = self._ssh.run_first(targets, "sh", probe.script(self._plan.python).encode())
        self._each(targets, lambda target: self._choose(target, answers[target]))
        self._state.save()

    def _choose(self, target: str, answer: connection.Answer) -> Outcome | None:
        look = self._looks[target] = probe.parse(answer.out)
        if not look.node:
            hint = f": see that `{self._ssh.by_hand(target)}` lets you in" if answer.may_ask else ""
            raise Refusal(f"{answer.reason.rstrip('.')}{hint}")
        choice = probe.choose(look)
        if choice.problem and not (choice.can_install and self._can_install):
            mend = (
                advice.command("ssh", "start", "--install", name=self._state.name)
                if choice.can_install
                else ""
            )
            raise Refusal(choice.problem + f" (`{mend}` makes an environment for it there)" * bool(mend))
        python = choice.python
        if choice.problem:
            python = sending.install(self._ssh, target, python, sys.version_info[1])
        self._state.machines[target].python = python
        return None

    def _order(self, target: str, verb: str, **order: Any) -> dict[str, Any]:
        """Give the machine an order that may need the credential. Raises Refusal."""
        state = self._state
        return sending.order(
            self._ssh, target, state.machines[target].python, verb,
            cluster=state.name, token=state.token, machine=target,
            credential=credential.load(state.credential).pem.decode(), **order,
        )  # fmt: skip

    def _start_master(self) -> None:
        """Start the master unless it answers. Raises LaunchError."""
        state, plan = self._state, self._plan
        if state.hosts and status_client.ask(state.candidates()) is not None:
            return
        port = plan.port or state.master_port  # the same as before, where workers look for it
        if plan.master:
            problem = self.outcomes[plan.master].problem if plan.master in self.outcomes else ""
            if not problem:
                try:
                    found = self._order(
                        plan.master,
                        "serve",
                        host=plan.listening_host,
                        port=port,
                        options=list(plan.master_options),
                    )
                except Refusal as error:
                    problem = str(error)
            if problem:
                raise LaunchError(f"there is no master: {plan.master}: {problem}")
            state.master_port, state.master_hosts = found["port"], found["hosts"]
            state.master_hosts.append(self._ssh.host_name(plan.master))
            state.port, state.hosts = state.master_port, state.master_hosts
        else:
            self._start_master_here(port)
        if plan.tunnel:
            state.master_hosts = state.hosts = ["127.0.0.1"]
            if plan.master:  # this end of the way there
                state.port = serving.free_port()
        state.node, state.boot_id = os.uname().nodename, launcher.boot_id()
        state.save()
        if plan.master and not plan.tunnel:
            self._check_reach()

    def _start_master_here(self, port: int) -> None:
        state = self._state
        child, state.master_port = serving.start_master(
            state.credential,
            logs_of(state),
            self._plan.listening_host,
            port,
            self._plan.master_options,
            self._lifeline,
        )
        state.processes["master"] = list(child.process)
        state.hosts, state.port = ["127.0.0.1"], state.master_port
        found = [*interfaces.ipv4_addresses(), *interfaces.ipv6_addresses(), os.uname().nodename]
        state.master_hosts = found
        state.hosts += found
        state.node, state.boot_id = os.uname().nodename, launcher.boot_id()
        state.save()
        launcher.wait_until_ready([child])

    def _check_reach(self) -> None:
        """Put the address at which the master answers here before the others. Raises LaunchError."""
        state, failures = self._state, list[status_client.Failure]()
        found = status_client.ask(state.candidates(), on_failures=failures.extend)
        if found is None:
            tried = "; ".join(
                f"{address.join(*where)}: {error.strerror or error}" for where, error in failures
            )
            raise LaunchError(
                f"the master on {self._plan.master} cannot be reached from here ({tried}): open its port in the "
                "firewall (--port chooses it), or go by ssh alone (--tunnel)"
            )
        best = address.parse(found.where)[0]
        state.hosts = [best, *(host for host in state.hosts if host != best)]

    def _start_tunnels(self, anew: Sequence[str]) -> None:
        """Start the process that keeps the tunnels up, unless it runs with all of them."""
        state, plan = self._state, self._plan
        if not plan.tunnel:
            return
        new = [t for t in plan.tunnelled() if state.machines[t].python and not state.machines[t].tunnel]
        for target in new:
            try:
                state.machines[target].tunnel = self._order(target, "port")["port"]
            except Refusal as error:
                self._report(Outcome(target, problem=str(error)))
        wanted = [
            tunnels.Tunnel(target, ["-R", f"127.0.0.1:{machine.tunnel}:127.0.0.1:{state.port}"])
            for target, machine in state.machines.items()
            if machine.tunnel
        ]
        if plan.master:
            wanted.append(
                tunnels.Tunnel(plan.master, ["-L", f"127.0.0.1:{state.port}:127.0.0.1:{state.master_port}"])
            )
        file = os.path.join(state.directory, "tunnels.json")
        running = state.process("tunnels")
        if running and not new and tunnels.read(file)[0] == wanted:
            return
        if running:
            launcher.end_processes([running])
        tunnels.write(file, wanted, list(plan.ssh_options))
        child = spawning.spawn("ssh.tunnels", [file], logs_of(state), lifeline=self._lifeline)
        state.processes["tunnels"] = list(child.process)
        state.save()
        launcher.wait_until_ready([child])
        if plan.master:
            self._wait_for_master()

    def _wait_for_master(self) -> None:
        """Wait until the master answers through its tunnel. Raises LaunchError."""
        deadline = time.monotonic() + connection.CONNECT_SECONDS * 2
        while status_client.ask(self._state.candidates()) is None:
            if time.monotonic() > deadline:
                log = launcher.log_file("ssh.tunnels", logs_of(self._state))
                raise LaunchError(
                    f"the tunnel to the master on {self._plan.master} does not begin: see {log}"
                )
            time.sleep(0.1)

    def _start_worker(self, target: str, anew: Sequence[str]) -> Outcome:
        state, plan = self._state, self._plan
        machine = state.machines[target]
        is_tunnel = bool(machine.tunnel)
        if is_tunnel:
            masters = [address.join("127.0.0.1", machine.tunnel)]
        else:
            seen = self._looks[target].client
            masters = order_of_masters(plan, target, seen, state.master_hosts, state.master_port)
        found = self._order(
            target, "work", slots=machine.slots, masters=masters, is_tunnel=is_tunnel, is_anew=target in anew,
            workdir=plan.workdir, nonce=[self._nonce, state.token], without_master=plan.without_master,
            options=list(plan.worker_options),
        )  # fmt: skip
        return Outcome(target, found["slots"], found["workdir"], "", found["is_new"], found["ends_at_logout"])


def _refused_is_outcome(function: Callable[[str], Outcome | None], target: str) -> Outcome | None:
    try:
        return function(target)
    except Refusal as error:
        return Outcome(target, problem=str(error))


def logs_of(state: known.State) -> str:
    """Make and return the directory of the logs here."""
    path = os.path.join(state.directory, "logs")
    os.makedirs(path, 0o700, exist_ok=True)
    return path


def ask(state: known.State) -> ClusterStatus | None:
    """Return the status of the cluster, if its master answers."""
    return status_client.ask(state.candidates()) if state.hosts else None


def target_of(worker: dict[str, Any], name: str) -> str:
    """Return the machine of a worker, as the user named it; '' if it is none of the cluster `name`."""
    location = Location.parse(worker["location"])
    return location.node if (location.system, location.cluster) == ("ssh", name) else ""


def connected_slots(state: known.State) -> dict[str, int]:
    """Return the number of connected slots of each machine that has a worker."""
    found = ask(state)
    workers = found.workers if found else []
    return {target: w["slots"] for w in workers if (target := target_of(w, state.name)) and not w["draining"]}


def wait_until_connected(state: known.State, outcomes: Sequence[Outcome]) -> None:
    """Return when the master knows all workers that have started, or after some seconds."""
    deadline = time.monotonic() + WAIT_SECONDS
    wanted = {outcome.target for outcome in outcomes if not outcome.problem}
    while not wanted <= set(connected_slots(state)) and time.monotonic() < deadline:
        time.sleep(0.05)


def given_hosts(names: Sequence[str]) -> list[str]:
    """Return the machines' names as ssh takes them. Raises ValueError."""
    return [host.target for host in hosts.parse_all(names)]
