"""A whole script in a slot of the user's cluster: a job of cw that waits for the script's host, its child process.

    cw run --slot: submit(run) ---> runner: run() ---> host ---> script, a client of the same cluster
                                      '<-- wait, over, turn (cw.nested_link) --'

While the script waits for jobs of its own, the job lends them its slot, as any job does that is a client itself.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping

from cw import nested, nested_link, program
from cw.launch import batch_signs
from cw.launch.launcher import LaunchError
from cw.scripts.host import KILL_SECONDS
from cw.scripts.script import Script, from_json

LOOK_SECONDS = 0.1
"""Time between two looks whether the host has ended (seconds)."""

_OF_MACHINE = (
    "CW_",
    "SSH_",
    "XDG_",
    "CUDA_VISIBLE_",
    "ROCR_VISIBLE_",
    "HIP_VISIBLE_",
    "PMI",
    *batch_signs.PREFIXES,
)
_OF_MACHINE_TOO = frozenset({"HOSTNAME", "TMPDIR", "DISPLAY", "WAYLAND_DISPLAY", "DBUS_SESSION_BUS_ADDRESS"})
"""Variables that say where a process is: those of the slot count, not those of the user's shell."""


def environment() -> dict[str, str]:
    """Return the variables of this shell that a script in a slot should have."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OF_MACHINE) and name not in _OF_MACHINE_TOO
    }


def run(home: str, script: Script, variables: Mapping[str, str]) -> int:
    """Run the script in this job; returns its exit status. Its host keeps the rest in the run's folder, which must be
    on a disk that this machine shares with the one where it was handed in."""
    _check_home(home, script)
    with tempfile.TemporaryDirectory(prefix="cw-") as directory:
        path = os.path.join(directory, "link")
        link = _Lending(path)
        given = {
            "CW_HOME": home,
            nested_link.VARIABLE: f"{path} {nested.depth} {nested.job()}",
        }
        log = os.open(
            os.path.join(home, "runs", script.name, "host.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )
        with open(log, "ab") as file:
            host = subprocess.Popen(
                program.command("cw.scripts.host", script.name),
                env={**os.environ, **variables, **given},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        try:
            link.serve(lambda: host.poll() is not None)
        finally:
            if host.poll() is None:  # the job is cancelled, or its time is over
                host.terminate()
                host.wait(KILL_SECONDS + 2)
            link.close()
        return host.returncode


def _check_home(home: str, script: Script) -> None:
    """Raise LaunchError unless this machine sees the run's folder."""
    try:
        with open(os.path.join(home, "runs", script.name, "script.json"), "rb") as file:
            is_seen = from_json(Script, file.read()).created == script.created
    except (OSError, ValueError):
        is_seen = False
    if not is_seen:
        raise LaunchError(
            f"the worker on {os.uname().nodename} does not see {home}, where the run's output belongs: a script runs "
            "in a slot only where its machine shares the home directory; --here runs it on this one"
        )


class _Lending:
    """Lends the job's slot while the child waits. To the lender, it is the session for whose jobs it waits."""

    lends = True

    def __init__(self, path: str) -> None:
        self.master = ""
        self._link = nested_link.Listener(path)
        self._is_over: Callable[[], bool] = bool

    def serve(self, is_over: Callable[[], bool]) -> None:
        """Do what the child asks for, until `is_over()`."""
        self._is_over = is_over
        while not is_over():
            words = self._link.receive(LOOK_SECONDS)
            if words[:1] == ["wait"]:
                self.master = " ".join(words[2:])  # '': it is connected to none now
                if nested.lender is not None:
                    nested.lender.wait(self, self._until_over, None)
                self._link.send_turn(words[1])

    def _until_over(self, timeout: float | None) -> None:
        """Wait until the child does not wait any more."""
        words: list[str] = []
        while words[:1] != ["over"] and self._link.has_child() and not self._is_over():
            words = self._link.receive(LOOK_SECONDS)
            if words[:1] == ["wait"] and nested.lender is not None:  # another master has taken over
                self.master = " ".join(words[2:])
                nested.lender.report_again(self)

    def close(self) -> None:
        self._link.close()
