"""Notes on the cluster that was started on this machine until it is stopped: any program of the user can end it.

    ~/.cw/mp-HOST/state.json     the processes, under a lock for which other starts and stops wait
    ~/.cw/mp-HOST/started/       the logs

Many machines may share a home directory: each has a part of its own. Clients without a host find the noted cluster, as
long as its master runs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from cw import program, userdir
from cw.events import EventLogger
from cw.launch import launcher
from cw.launch.launcher import Child, Process
from cw.net import address

logger = EventLogger("cw.mp")


def directory() -> str:
    """Make and return this machine's part of the user's own directory."""
    path = os.path.join(userdir.make_home(), f"mp-{os.uname().nodename}")
    os.makedirs(path, 0o700, exist_ok=True)
    return path


class LocalState:
    """Notes of `start` for `stop`. Changed only under the lock."""

    def __init__(self) -> None:
        self.master = ""
        self.slots = 0
        self.since = 0.0
        self.logs = ""
        self.processes: dict[str, Process] = {}

    @classmethod
    def load(cls) -> LocalState:
        """Load the notes; empty if there are none, or if the machine has been booted since."""
        import json

        state = cls()
        try:
            noted = json.loads(userdir.read_private(cls.file()) or "{}")
            if noted and noted["boot_id"] == launcher.boot_id():
                state.processes = {role: Process(*numbers) for role, numbers in noted["processes"].items()}
                state.master, state.slots = noted["master"], noted["slots"]
                state.since, state.logs = noted["since"], noted["logs"]
        except (ValueError, KeyError, TypeError) as error:
            logger.warning(
                "mp.state_invalid",
                "%s is passed over: it is not of this version of cw (%r)",
                cls.file(),
                error,
            )
            return cls()
        return state

    def save(self) -> None:
        import json

        if self.processes:
            noted = {"boot_id": launcher.boot_id(), **vars(self)}
            userdir.write_private(self.file(), json.dumps(noted, indent=1).encode())
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(userdir.home_directory(), self.file()))

    @staticmethod
    def file() -> str:
        return f"mp-{os.uname().nodename}/state.json"

    def running(self) -> dict[str, Process]:
        # The master comes first: others end before it.
        return {role: process for role, process in sorted(self.processes.items()) if process.is_alive()}

    def ended(self) -> list[str]:
        return [role for role, process in self.processes.items() if not process.is_alive()]

    def clear(self) -> None:
        vars(self).update(vars(LocalState()))

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
def locked() -> Iterator[LocalState]:
    """Hold the lock of the notes."""
    directory()
    with userdir.locked(f"mp-{os.uname().nodename}/lock"):
        yield LocalState.load()


def noted_master() -> str:
    """Return the address of the noted master, 'HOST:PORT', if it runs; otherwise ''."""
    state = LocalState.load()
    return state.master if "master" in state.running() else ""


def is_noted() -> bool:
    """True if there are notes, perhaps of a cluster that has ended."""
    return os.path.exists(os.path.join(userdir.home_directory(), LocalState.file()))


def _find() -> list[address.Candidate]:
    """Find the noted cluster for clients, unless they name a cluster."""
    if address.cluster_name() != address.DEFAULT_CLUSTER or not (master := noted_master()):
        return []
    host, port = address.parse(master)
    return [address.Candidate(host, port or address.PORT, "started on this machine")]


address.FINDERS.insert(-1, _find)
