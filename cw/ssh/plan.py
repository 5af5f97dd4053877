"""Options of a cluster of `cw ssh`, and what they mean beside those of an earlier start. No I/O.

Options (as a user gives them) + Plan (as noted) ---> Plan (resolved, kept with the cluster)
"""

# (No `from __future__ import annotations`: help() shows these types, and would show strings in their place.)

from collections.abc import Sequence
from typing import Any, NamedTuple

from cw.net import address
from cw.ssh.hosts import Host, merge, parse, parse_all

START_WITHOUT_MASTER = 7 * 24 * 3600
"""Time without a master after which a worker of `start` ends (seconds). Longer: one that no `stop` could reach stays.
Shorter: the master's machine cannot be switched off for a weekend."""

BLOCK_WITHOUT_MASTER = 300
"""The same for a worker of `allocate` (seconds), whose program may have been killed."""


class Options(NamedTuple):
    """The cluster to start. None: as at the last start of that cluster."""

    hosts: Sequence[str] = ()
    """The machines: 'lab1', 'lab2:8' with 8 slots, 'user@lab3'. None given: those of the last start."""
    name: str | None = None
    """Name of the cluster (default: CW_CLUSTER, or 'default')."""
    master: str | None = None
    """The machine of the master, one of these; '': this one."""
    tunnel: bool | None = None
    """Workers reach the master by ssh alone."""
    install: bool = False
    """Make a private environment with cw where there is none."""
    python: str | None = None
    """Path of the Python there."""
    port: int | None = None
    """The master's port (default: a free one)."""
    workdir: str | None = None
    """Directory there in which jobs run."""
    ssh_options: Sequence[str] | None = None
    """Options of each `ssh`, such as ['-J', 'gate']."""
    worker_options: Sequence[str] | None = None
    """Options of `cw worker`."""
    master_options: Sequence[str] | None = None
    """Options of `cw master`."""


class Plan(NamedTuple):
    """The cluster that a user asked for."""

    hosts: tuple[Host, ...] = ()
    master: str = ""
    tunnel: bool = False
    python: str = ""
    port: int = 0
    workdir: str = ""
    ssh_options: tuple[str, ...] = ()
    worker_options: tuple[str, ...] = ()
    master_options: tuple[str, ...] = ()
    without_master: int = START_WITHOUT_MASTER

    @classmethod
    def load(cls, noted: dict[str, Any]) -> "Plan":
        """Make a plan from its `_asdict`, as read from JSON."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in noted.items()
        }
        plan = cls(**fields)
        return plan._replace(hosts=tuple(Host(*host) for host in plan.hosts))

    @property
    def targets(self) -> list[str]:
        """The machines' names, as ssh takes them."""
        return [host.target for host in self.hosts]

    @property
    def listening_host(self) -> str:
        """The address on which the master listens; '': on all."""
        return "127.0.0.1" if self.tunnel else ""

    def tunnelled(self) -> list[str]:
        """Return the machines that get a tunnel from the master's port: all but the master's own."""
        return [target for target in self.targets if target != self.master] if self.tunnel else []


OF_MASTER = ("master", "tunnel", "port", "master_options")
"""Fields that cannot change while the master runs."""


def resolve(options: Options, noted: Plan) -> Plan:
    """Return the plan that these options mean, where `noted` is that of the last start. Raises ValueError,
    TypeError."""
    given = {
        name: value
        for name, value in options._asdict().items()
        if name in Plan._fields and name != "hosts" and value is not None
    }
    for name in ("ssh_options", "worker_options", "master_options"):
        if isinstance(given.get(name), str):  # also a sequence, of letters
            raise TypeError(f"{name} is a list of arguments: [{given[name]!r}], not {given[name]!r}")
        if name in given:
            given[name] = tuple(map(str, given[name]))
    plan = noted._replace(hosts=tuple(merge(noted.hosts, parse_all(options.hosts))), **given)
    if not plan.hosts:
        raise ValueError("no machine is named: give some, such as lab1 lab2:8 ann@lab3")
    if plan.port:
        address.check_port(plan.port)
    if plan.master:
        master = parse(plan.master)
        if master.slots or master.target not in plan.targets:
            raise ValueError(
                f"the master's machine {plan.master!r} is not among the machines: name one of them, "
                f"{' or '.join(plan.targets)}"
            )
    return plan


def change_of_master(noted: Plan, plan: Plan) -> str:
    """Return the name of an option that another master would need; '': the running one serves this plan."""
    return next((name for name in OF_MASTER if getattr(noted, name) != getattr(plan, name)), "")


def order_of_masters(plan: Plan, target: str, seen: str, found: Sequence[str], port: int) -> list[str]:
    """Return the addresses at which a machine looks for the master, the likeliest first.

    `seen`: the address of this machine, as the machine's ssh server sees it; `found`: those of the master's interfaces.
    """
    if plan.master:
        ours = ["127.0.0.1"] if target == plan.master else []
    else:  # behind a jump host, what the server sees is that host's
        ours = [seen] if seen in found else []
    return [address.join(host, port) for host in dict.fromkeys([*ours, *found])]
