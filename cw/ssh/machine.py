"""What runs on a machine of `cw ssh`: one order on stdin, one answer on stdout. (`ssh HOST PYTHON -c …`)

    serve    start the master here                  stop    end what was started here, and remove its directory
    port     name a free port, for a tunnel         work    start the worker here, if none runs

All of a cluster on one machine is in ~/.cw/machines/NODE/CLUSTER-TOKEN/ (machines may share a home directory):
credential.pem, notes.json with the processes, their logs, and work/, in which jobs run. The machine's own credential is
neither read nor written.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

from cw import program, userdir
from cw.cpus import usable_cpus
from cw.launch import launcher, spawning, status_client, user_scope
from cw.launch.launcher import Process
from cw.location import VARIABLE, Location
from cw.net import address, interfaces
from cw.ssh import serving

REACH_SECONDS = 2.0
"""Time for the master to answer at one of its addresses (seconds). Longer: addresses behind a firewall that drops
everything delay the start. Shorter: too short for a slow way."""

TUNNEL_SECONDS = 20.0
"""Time for a tunnel to begin (seconds)."""


class Place:
    """The directory of one cluster on this machine, with the notes on its processes."""

    def __init__(self, cluster: str, token: str) -> None:
        """Know where it is, and what is noted."""
        self.name = os.path.join(
            "machines", os.uname().nodename, f"{address.check_cluster_name(cluster)}-{token}"
        )
        self.path = os.path.join(userdir.home_directory(), self.name)
        self.load()

    def load(self) -> None:
        """Read the notes."""
        self.processes: dict[str, Process] = {}
        self.noted: dict[str, Any] = {}
        with contextlib.suppress(ValueError, KeyError, TypeError):
            noted = json.loads(userdir.read_private(f"{self.name}/notes.json") or "{}")
            if noted and noted["boot_id"] == launcher.boot_id():
                self.processes = {role: Process(*numbers) for role, numbers in noted["processes"].items()}
                self.noted = noted["more"]

    def make(self, pem: str) -> str:
        """Make the directory with the credential; returns the credential's path."""
        userdir.make_home()
        os.makedirs(self.path, 0o700, exist_ok=True)
        userdir.write_private(f"{self.name}/credential.pem", pem.encode())
        return os.path.join(self.path, "credential.pem")

    def note(self, role: str, process: Process, **more: Any) -> None:
        self.processes[role] = process
        self.noted |= more
        self._save()

    def is_running(self, role: str) -> bool:
        return role in self.processes and self.processes[role].is_alive()

    def end(self, roles: list[str]) -> None:
        """End the processes with these roles; they may be gone already."""
        launcher.end_processes([self.processes[role] for role in roles if self.is_running(role)])
        self.processes = {role: process for role, process in self.processes.items() if role not in roles}
        self._save()

    def remove(self) -> str:
        """Remove the directory; returns the path of what jobs have left in there, or ''."""
        work = os.path.join(self.path, "work")
        left = os.path.isdir(work) and any(os.scandir(work))
        if not left:
            shutil.rmtree(self.path, ignore_errors=True)
            remove_empty(os.path.dirname(self.path))
            return ""
        for entry in os.scandir(self.path):
            if entry.path != work:
                os.unlink(entry.path)
        return work

    def _save(self) -> None:
        if os.path.isdir(self.path):
            noted = {"boot_id": launcher.boot_id(), "processes": self.processes, "more": self.noted}
            userdir.write_private(f"{self.name}/notes.json", json.dumps(noted).encode())


def _serve(order: dict[str, Any], place: Place) -> dict[str, Any]:
    """Start the master, unless it runs."""
    if not place.is_running("master"):
        path = place.make(order["credential"])
        child, port = serving.start_master(path, place.path, order["host"], order["port"], order["options"])
        place.note("master", child.process, port=port)
        launcher.wait_until_ready([child])
    found = [*interfaces.ipv4_addresses(), *interfaces.ipv6_addresses(), os.uname().nodename]
    return {"port": place.noted["port"], "hosts": found}


def _port(order: dict[str, Any], place: Place) -> dict[str, Any]:
    return {"port": serving.free_port()}


def _work(order: dict[str, Any], place: Place) -> dict[str, Any]:
    """Start the worker, unless it runs for the same master."""
    path = place.make(order["credential"])
    with userdir.locked(f"{place.name}/lock"):  # a machine may have two names
        place.load()
        other = place.noted.get("machine", order["machine"])
        if place.is_running("worker") and other != order["machine"]:
            raise program.UserError(f"it is the same machine as {other}: name it once")
        masters = order["masters"]
        remains = place.is_running("worker") and place.noted["master"] in masters and not order["is_anew"]
        if not remains:
            place.end(["worker"])
            os.environ["CW_CREDENTIAL"] = path
            try:
                _start_worker(order, place)
            except BaseException:
                place.end(["worker"])
                raise
        return {"is_new": not remains, **place.noted}


def _start_worker(order: dict[str, Any], place: Place) -> None:
    master = _reach(order["masters"], order["is_tunnel"])
    workdir = _working_directory(order, place)
    slots = order["slots"] or usable_cpus()
    # (Not CW_HOME: what is in the user's own directory there is as it was.)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("CW_MASTER", "CW_CLUSTER")
    }
    environment[VARIABLE] = Location("ssh", order["cluster"], node=order["machine"]).as_text()
    if workdir:
        environment["CW_WORKDIR"] = workdir
    options = [
        "--grace",
        "0",
        "--without-master",
        str(order["without_master"]),
        *order["options"],
        "-n",
        str(slots),
    ]
    child = spawning.spawn("worker", [master, *options], place.path, environment=environment)
    place.note("worker", child.process, machine=order["machine"], master=master, slots=slots, workdir=workdir)
    launcher.wait_until_ready([child])


def _reach(masters: list[str], is_tunnel: bool) -> str:
    """Return the first address at which this cluster's master answers. Raises UserError."""
    deadline = time.monotonic() + (TUNNEL_SECONDS if is_tunnel else 0.0)
    while True:
        failures: list[status_client.Failure] = []
        candidates = [
            address.Candidate(host, port or address.PORT, "") for host, port in map(address.parse, masters)
        ]
        found = status_client.ask(candidates, seconds=REACH_SECONDS, on_failures=failures.extend)
        if found is not None:
            return found.where
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    tried = "; ".join(f"{address.join(*where)}: {error.strerror or error}" for where, error in failures)
    if is_tunnel:
        raise program.UserError(f"its tunnel does not lead to the master ({tried})")
    raise program.UserError(
        f"the master cannot be reached from there ({tried or 'it does not answer'}): open its port in the firewall "
        "(--port chooses it), or go by ssh alone (--tunnel)"
    )


def _working_directory(order: dict[str, Any], place: Place) -> str:
    """Return the directory in which jobs run; '': the client's, which this machine sees."""
    if order["workdir"]:
        path = os.path.join(os.path.expanduser("~"), os.path.expanduser(order["workdir"]))
    else:
        nonce, text = order["nonce"]
        with contextlib.suppress(OSError), open(nonce) as file:
            if file.read() == text:
                return ""
        path = os.path.join(place.path, "work")
    try:
        os.makedirs(path, 0o700, exist_ok=True)
    except OSError as error:
        raise program.UserError(f"cannot make the directory {path} for jobs: {error.strerror}") from None
    return path


def _stop(order: dict[str, Any], place: Place) -> dict[str, Any]:
    """End what runs here, the worker first; with all of it the directory goes."""
    ended, left = [], ""
    if os.path.isdir(place.path):
        with userdir.locked(f"{place.name}/lock"):  # a start that was broken off may go on here
            place.load()
            ended = [role for role in order["roles"] if place.is_running(role)]
            place.end(order["roles"])
            left = "" if place.processes else place.remove()
    environment = os.path.dirname(os.path.dirname(os.path.abspath(sys.executable)))
    if os.path.dirname(environment) != os.path.dirname(place.path):  # not one of `--install`
        environment = ""
    if environment and order["is_uninstalling"]:
        shutil.rmtree(environment, ignore_errors=True)
        environment = ""
        remove_empty(os.path.dirname(place.path))
    return {"ended": ended, "left": left, "environment": environment}


def remove_empty(directory: str) -> None:
    """Remove a directory, and those above it, as far as nothing is in them."""
    with contextlib.suppress(OSError):
        os.removedirs(directory)


def _leave_login_session() -> None:
    """Run in a scope of the user's own manager from here on, where systemd ends a login session's processes with it."""
    prefix, advice = user_scope.decide(user_scope.collect())
    if prefix:
        os.execvp(prefix[0], [*prefix, *sys.orig_argv, *[ENDS_AT_LOGOUT] * bool(advice)])  # noqa: S606


_VERBS: dict[str, Callable[[dict[str, Any], Place], dict[str, Any]]] = {
    "serve": _serve,
    "port": _port,
    "work": _work,
    "stop": _stop,
}


ENDS_AT_LOGOUT = "ends at logout"
"""The last argument of this program where what it starts ends at the user's last logout."""


def main() -> int:
    """Carry out the order on stdin. Returns the exit status."""
    _leave_login_session()
    order = json.load(sys.stdin)
    try:
        answer = _VERBS[order["verb"]](order, Place(order["cluster"], order["token"]))
        answer["ends_at_logout"] = sys.argv[-1] == ENDS_AT_LOGOUT
    except (program.UserError, OSError) as error:
        answer = {"problem": str(error)}
    print("\ncw: answer " + json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    program.run("cw.ssh.machine", main)
