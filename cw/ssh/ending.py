"""End of a cluster of `cw ssh`, or of some of its machines: workers, master, tunnels, directories; nothing is left.

A machine that cannot be reached stays noted: `stop` again ends what is there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from cw import program
from cw.launch import launcher, status_client
from cw.net import messages as m
from cw.ssh import known, sending, starting
from cw.ssh.connection import AT_ONCE, Ssh
from cw.ssh.plan import Plan
from cw.ssh.sending import Refusal


class Report(NamedTuple):
    """What `stop` has done."""

    lines: list[str]
    """One for each machine."""
    is_complete: bool
    """True if nothing is left on any of them."""


def stop(state: known.State, ssh: Ssh, targets: Sequence[str], grace: float, is_uninstalling: bool) -> Report:
    """End the workers of these machines; of all of them: the cluster. Under the lock.

    `grace`: time for running jobs to finish (seconds). `is_uninstalling`: remove environments of `--install`, too.
    """
    plan = Plan.load(state.plan)
    is_all = set(targets) >= set(state.machines)
    if grace:
        drain(state, targets, grace)
    last = [plan.master] if plan.master in targets and is_all else []  # where the master is
    lines: dict[str, str] = {}
    problems: set[str] = set()

    def end(target: str) -> None:
        machine = state.machines[target]
        roles = ["master", "worker"] if is_all else ["worker"]
        try:
            lines[target] = f"{target}: " + _end_there(state, ssh, target, machine, roles, is_uninstalling)
        except Refusal as error:
            problems.add(target)
            lines[target] = f"{target}: what runs there was not ended: {error}"

    ssh.run_first([target for target in targets if state.machines[target].python], "true")
    for group in ([target for target in targets if target not in last], last):
        with ThreadPoolExecutor(AT_ONCE, "cw-ssh") as pool:
            list(pool.map(end, group))
    if not is_all:
        rest = [list(host) for host in plan.hosts if host.target not in targets or host.target in problems]
        state.plan = {**state.plan, "hosts": rest}
    state.machines = {
        t: machine for t, machine in state.machines.items() if t not in targets or t in problems
    }
    if is_all:
        here = [process for role in ("tunnels", "master") if (process := state.process(role))]
        launcher.end_processes(
            here
        )  # the master first: its goodbye reaches workers that were cut off from ssh
        state.processes = {}
    if state.machines:
        state.save()
    else:
        state.forget()
    return Report([lines[target] for target in targets], not problems)


def _end_there(
    state: known.State, ssh: Ssh, target: str, machine: known.Machine, roles: list[str], is_uninstalling: bool
) -> str:
    if not machine.python:
        return "nothing was started there"
    order: dict[str, Any] = {"cluster": state.name, "token": state.token, "roles": roles}
    found = sending.order(ssh, target, machine.python, "stop", **order, is_uninstalling=is_uninstalling)
    said = ["stopped" if found["ended"] else "nothing ran there"]
    if found["left"]:
        said.append(f"what jobs have written stays in {found['left']}")
    if found["environment"]:
        said.append(f"its environment stays in {found['environment']} (--uninstall removes it)")
    return "; ".join(said)


def drain(state: known.State, targets: Sequence[str], grace: float) -> None:
    """Let the workers there finish what runs, for up to `grace` seconds."""

    def there() -> list[str]:
        found = starting.ask(state)
        return (
            [w["ident"] for w in found.workers if starting.target_of(w, state.name) in targets]
            if found
            else []
        )

    idents = there()
    if not idents or status_client.ask(state.candidates(), m.Drain(idents)) is None:
        return
    deadline = time.monotonic() + grace
    while there() and time.monotonic() < deadline:
        time.sleep(0.2)


def describe(count: int, name: str) -> str:
    """Return the last line of a complete stop."""
    return f"the cluster {name!r} is stopped: nothing of it is left on {program.count(count, 'machine')}"
