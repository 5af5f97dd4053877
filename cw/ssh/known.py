"""Notes on a cluster of `cw ssh`, in the user's own directory, and how clients find its master by them.

    ~/.cw/ssh-NAME/state.json        the plan, the machines, the master's address, our processes; under a lock
    ~/.cw/ssh-NAME/credential.pem    the credential of this cluster alone
    ~/.cw/ssh-NAME/logs/             of the master and the tunnels, where they run on this machine

A cluster that is stopped leaves no such directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from cw import credential, userdir
from cw.launch import launcher
from cw.launch.launcher import LaunchError, Process
from cw.net import address


@dataclass
class Machine:
    """What is known of one machine."""

    slots: int = 0
    """As the user gave it; 0: one for each usable CPU."""
    python: str = ""
    """The Python with cw there; '' until it has been found."""
    problem: str = ""
    """Why the last start did not succeed there."""
    tunnel: int = 0
    """The port there from which the tunnel leads to the master; 0: no tunnel."""


@dataclass
class State:
    """Notes on one cluster. Changed only under the lock."""

    name: str
    token: str = ""
    """Distinguishes this cluster from others of the name, before and after it; '': there is none."""
    node: str = ""
    """The machine on which our own processes run."""
    boot_id: str = ""
    plan: dict[str, Any] = field(default_factory=dict)
    machines: dict[str, Machine] = field(default_factory=dict)
    """By target, in the order of the user."""
    hosts: list[str] = field(default_factory=list)
    """Addresses at which clients here reach the master, the best first."""
    port: int = 0
    """The master's port, as clients here see it."""
    master_port: int = 0
    """The master's port on its own machine."""
    master_hosts: list[str] = field(default_factory=list)
    """Its addresses for the other machines."""
    processes: dict[str, list[int]] = field(default_factory=dict)
    """Our own on this machine: 'master', 'tunnels'."""

    @classmethod
    def load(cls, name: str) -> State:
        """Load the notes; empty if there are none. Raises LaunchError, HomeError."""
        text = userdir.read_private(f"{directory_name(name)}/state.json", 1 << 20)
        if text is None:
            return cls(name)
        try:
            noted = json.loads(text)
            machines = {target: Machine(**fields) for target, fields in noted.pop("machines").items()}
            return cls(**noted, machines=machines)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            path = os.path.join(userdir.home_directory(), directory_name(name), "state.json")
            raise LaunchError(f"{path} is not of this version of cw ({error!r}): move it away") from None

    def save(self) -> None:
        """Write the notes."""
        userdir.write_private(
            f"{directory_name(self.name)}/state.json", json.dumps(asdict(self), indent=1).encode()
        )

    def forget(self) -> None:
        """Remove all that is kept here of this cluster."""
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def directory(self) -> str:
        return os.path.join(userdir.home_directory(), directory_name(self.name))

    @property
    def credential(self) -> str:
        """Path of the cluster's credential."""
        return os.path.join(self.directory, "credential.pem")

    def process(self, role: str) -> Process | None:
        """Return our running process on this machine, 'master' or 'tunnels'."""
        noted = self.processes.get(role)
        process = Process(*noted) if noted and self.boot_id == launcher.boot_id() else None
        return process if process and process.is_alive() else None

    def candidates(self) -> list[address.Candidate]:
        """Return where the master is. From now on connections to it use its own credential. Raises NotThere."""
        is_near = self.node == os.uname().nodename
        hosts = [host for host in self.hosts if is_near or not address.is_loopback(host)]
        if self.hosts and not hosts:
            raise address.NotThere(
                f"the master of the cluster {self.name!r} of cw ssh can be reached from {self.node} only: run your "
                "program there"
            )
        for host in hosts:
            credential.OF_MASTERS[host, self.port] = self.credential
        return [address.Candidate(host, self.port, f"cw ssh, cluster {self.name!r}") for host in hosts]


def directory_name(name: str) -> str:
    """Return the name of a cluster's directory in the user's own."""
    return f"ssh-{name}"


@contextlib.contextmanager
def locked(name: str) -> Iterator[State]:
    """Hold the lock of the cluster `name`."""
    address.check_cluster_name(name)  # it becomes part of a path
    userdir.make_home()
    with userdir.locked(f"{directory_name(name)}.lock"):
        yield State.load(name)


def find() -> list[address.Candidate]:
    """Find the noted cluster for clients, by their cluster's name."""
    return State.load(address.cluster_name()).candidates()


address.FINDERS.insert(-1, find)
