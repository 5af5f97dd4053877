"""Commands on other machines by the user's own `ssh`: his configuration, agent and jump hosts decide how.

The first command makes the connection, and all later ones share it (a control socket of ours, in a private directory):
so nothing is asked twice. A connection that the user shares himself is used where there is one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from cw.launch.launcher import LaunchError

CONNECT_SECONDS = 10
"""Time for a machine to answer (seconds). Longer: one that is off delays the others' start. Shorter: a slow jump host
is given up."""

AGENT_SECONDS = 3.0
"""Time for an agent to begin (seconds)."""

AT_ONCE = 32
"""Machines that are worked on at the same time. More: faster, with more processes here. Fewer: slower."""

COMMAND_SECONDS = 100.0
"""Time for one command (seconds). Longer: a machine whose disk hangs is reported later."""

PERSIST_SECONDS = 60
"""Time for which a shared connection stays without use (seconds), should this program be killed."""

MOST_LETTERS = 60
"""Length of a path below which sockets may lie: the kernel takes 107 letters, and ssh adds some 20 for a moment."""

_NOISE = re.compile(
    r"Warning: Permanently added|\*\*|Connection closed|kex_exchange|mux_client|Killed by signal"
)

REFUSALS = (
    "Permission denied",
    "Host key verification failed",
    "Too many authentication failures",
    "passphrase",
)
"""Parts of ssh's message where a person at the terminal may help."""


class Answer(NamedTuple):
    """What a command on a machine gave."""

    status: int
    """Exit status; 255: ssh itself failed."""
    out: str
    err: str

    @property
    def reason(self) -> str:
        """ssh's message, or the last line that the command wrote."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        told = [line for line in lines if not _NOISE.match(line)] or lines
        return told[-1].removeprefix("ssh: ") if told else f"exit status {self.status}"

    @property
    def may_ask(self) -> bool:
        """True if ssh was not let in, and could ask for what it lacked."""
        return self.status == 255 and any(text in self.err for text in REFUSALS)


class Ssh:
    """Connections to machines. As a context manager, it closes them at the end."""

    def __init__(self, options: Sequence[str] = ()) -> None:
        """`options`: for each `ssh`, before its destination. Raises LaunchError if there is no `ssh` here."""
        if not shutil.which("ssh"):
            raise LaunchError("there is no program `ssh` on the PATH: install one (Debian: openssh-client)")
        self.options = list(options)
        self._environment: dict[str, str] = {}
        self._agent: subprocess.Popen[bytes] | None = None
        base = tempfile.gettempdir()
        base = base if len(base) <= MOST_LETTERS else "/tmp"  # noqa: S108  (mkdtemp makes a private directory there)
        self._directory = tempfile.mkdtemp(prefix="cw-ssh-", dir=base)
        self._sharing: dict[str, list[str]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Ssh:
        return self

    def __exit__(self, *_: object) -> None:
        for target, sharing in self._sharing.items():
            if sharing:
                self._control(target, "exit", sharing)
        if self._agent is not None:
            self._agent.terminate()
            self._agent.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def run_first(self, targets: Sequence[str], command: str, data: bytes = b"") -> dict[str, Answer]:
        """Run a first command on each machine: on all at once; then one after the other where ssh has to ask.

        It asks only at a terminal, and for a key once: it goes into an agent of ours, unless the user has one.
        """
        with ThreadPoolExecutor(AT_ONCE, "cw-ssh") as pool:
            answers = dict(zip(targets, pool.map(lambda t: self.run(t, command, data), targets), strict=True))
        refused = [target for target, answer in answers.items() if answer.may_ask]
        for target in refused if os.isatty(0) and os.isatty(2) else []:
            if target != refused[0]:
                answers[target] = self.run(target, command, data)
            if answers[target].may_ask:
                self._start_agent()
                answers[target] = self.run(target, command, data, is_asking=True)
        return answers

    def _start_agent(self) -> None:
        if os.environ.get("SSH_AUTH_SOCK") or self._agent or not shutil.which("ssh-agent"):
            return
        path = f"{self._directory}/agent"
        self._agent = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)  # noqa: S607
        deadline = time.monotonic() + AGENT_SECONDS
        while not os.path.exists(path) and time.monotonic() < deadline:
            time.sleep(0.01)
        self._environment["SSH_AUTH_SOCK"] = path

    def run(
        self,
        target: str,
        command: str,
        data: bytes = b"",
        seconds: float = COMMAND_SECONDS,
        is_asking: bool = False,
    ) -> Answer:
        """Run a command there, with `data` as its input. `is_asking`: ssh may ask the user at the terminal."""
        arguments = [*self._command(target, is_asking), "--", target, command]
        # Files, no pipes: a shared connection in the background may keep them open.
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            given.write(data)
            given.seek(0)
            try:
                status = subprocess.run(
                    arguments,
                    env={**os.environ, **self._environment},
                    stdin=given,
                    stdout=out,
                    stderr=err,
                    timeout=None if is_asking else seconds,
                ).returncode
            except subprocess.TimeoutExpired:
                return Answer(255, "", f"no answer within {seconds:.0f} s")
            out.seek(0)
            err.seek(0)
            return Answer(status, out.read().decode(errors="replace"), err.read().decode(errors="replace"))

    def by_hand(self, target: str) -> str:
        """Return the command with which a user looks at the same connection."""
        return shlex.join(["ssh", *self.options, target])

    def host_name(self, target: str) -> str:
        """Return the name or address that the user's configuration gives for a machine."""
        found = subprocess.run(
            ["ssh", *self.options, "-G", "--", target],  # noqa: S607  (the user's own, as anywhere here)
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        name = re.search(r"^hostname (.+)$", found.stdout, re.MULTILINE)
        return name[1] if name else target.rpartition("@")[2]

    def _command(self, target: str, is_asking: bool) -> list[str]:
        with self._lock:
            number = len(self._sharing)
            is_new = self._sharing.setdefault(target, []) == []
        if is_new and not self._is_shared_by_user(target):
            self._sharing[target] = [
                "-o", "ControlMaster=auto", "-o", f"ControlPath={self._directory}/{number}",
                "-o", f"ControlPersist={PERSIST_SECONDS}",
            ]  # fmt: skip
        ours = [*settings(is_asking), "-o", "ClearAllForwardings=yes"]
        if self._agent:
            ours += ["-o", "AddKeysToAgent=yes"]
        return ["ssh", *self._sharing[target], *self.options, *ours]

    def _is_shared_by_user(self, target: str) -> bool:
        return self._control(target, "check", [])

    def _control(self, target: str, order: str, sharing: Sequence[str]) -> bool:
        command = ["ssh", *sharing, *self.options, "-O", order, "--", target]
        with contextlib.suppress(subprocess.TimeoutExpired):
            return not subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10
            ).returncode
        return False


def settings(is_asking: bool = False) -> list[str]:
    """Return our options of ssh. The user's stand before them, and count."""
    chosen = {
        "BatchMode": "no" if is_asking else "yes",
        "ConnectTimeout": CONNECT_SECONDS,
        "ServerAliveInterval": 5,  # a machine that is cut off is noticed within 15 s
        "ServerAliveCountMax": 3,
        "RequestTTY": "no",
        "RemoteCommand": "none",
        "ForwardX11": "no",
        "ForwardAgent": "no",
        "PermitLocalCommand": "no",
        "LogLevel": "ERROR",
    }
    return [word for name, value in chosen.items() for word in ("-o", f"{name}={value}")]


def tunnel_command(options: Sequence[str], target: str, forward: Sequence[str]) -> list[str]:
    """Return the `ssh` that keeps up forwarded ports to a machine until it is cut off."""
    return [
        "ssh", *options, *settings(), "-o", "ExitOnForwardFailure=yes", "-o", "ControlMaster=no",
        "-o", "ControlPath=none", "-N", *forward, "--", target,
    ]  # fmt: skip
