"""The tunnels of a cluster whose machines only ssh reaches: one `ssh -N` each, started again when it ends.

    machine's loopback:PORT <--- ssh -R ---> this machine ---> the master (here, or by ssh -L on its machine)

`python -m cw.ssh.tunnels FILE`: the file has a list of [target, options of the forwarded port], and the options of ssh.
It ends at SIGTERM, and with its launcher's lifeline.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from typing import NamedTuple

from cw import program
from cw.events import EventLogger
from cw.net.loop import Loop
from cw.ssh import connection

logger = EventLogger("cw.ssh")

LOOK_SECONDS = 0.2
"""Time between checks of the tunnels (seconds)."""

FIRST_WAIT_SECONDS = 0.5
"""Delay of the first restart (seconds); twice as long after each further failure in a row."""

LONGEST_WAIT_SECONDS = 10.0
"""Longest delay of a restart (seconds). Longer: a machine that is back is not used. Shorter: more attempts in vain."""

STEADY_SECONDS = 30.0
"""Life of a tunnel after which its end counts as a first one again (seconds)."""


class Retries:
    """Policy of restarts of one tunnel: no clock, no process."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def on_end(self, lived: float) -> float:
        """Count the end of a tunnel that had `lived` this long; returns the delay before the next (seconds)."""
        if lived >= STEADY_SECONDS:
            self._in_a_row = 0
        self._in_a_row += 1
        return float(min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(self._in_a_row - 1, 10)))


class Tunnel(NamedTuple):
    """One tunnel, as the file has it."""

    target: str
    forward: list[str]
    """Options of ssh: ['-R', '127.0.0.1:4000:127.0.0.1:5494']."""


class Kept:
    """A tunnel that is kept up."""

    def __init__(self, tunnel: Tunnel, options: list[str]) -> None:
        self._tunnel = tunnel
        self._command = connection.tunnel_command(options, *tunnel)
        self._process: subprocess.Popen[bytes] | None = None
        self._retries = Retries()
        self._next = 0.0
        """When it is to begin, or has begun."""

    def look(self, now: float) -> None:
        """Start it if it is time."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            wait = self._retries.on_end(now - self._next)
            logger.warning(
                "ssh.tunnel_ended", "the tunnel to %s has ended (ssh's exit status %d); the next attempt in %.1f s",
                self._tunnel.target, self._process.returncode, wait,
            )  # fmt: skip
            self._process, self._next = None, now + wait
        elif now >= self._next:
            self._next = now
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent
            )  # fmt: skip

    def end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)


def _end_with_parent() -> None:
    """Let the kernel end an `ssh` whose supervisor was killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def write(path: str, tunnels: list[Tunnel], options: list[str]) -> None:
    """Write the program's file."""
    with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        json.dump({"tunnels": tunnels, "options": options}, file)


def read(path: str) -> tuple[list[Tunnel], list[str]]:
    """Read it: the tunnels, and the options of ssh."""
    with open(path) as file:
        noted = json.load(file)
    return [Tunnel(*tunnel) for tunnel in noted["tunnels"]], noted["options"]


def main() -> int:
    """Keep the tunnels up. Returns the exit status."""
    parser = program.argument_parser("cw.ssh.tunnels", "Keeps up the tunnels of a cluster of cw ssh.")
    parser.add_argument("file", metavar="FILE")
    program.add_launcher_options(parser, "--lifeline-fd", "--ready-fd")
    options = parser.parse_args()
    program.set_up_logging(options.verbose)
    wanted, ssh_options = read(options.file)
    kept = [Kept(tunnel, ssh_options) for tunnel in wanted]
    loop = Loop()
    program.end_with(loop, options.lifeline_fd, loop.stop)

    def look(now: float) -> bool:
        for tunnel in kept:
            tunnel.look(now)
        return True

    look(time.monotonic())
    loop.call_every(LOOK_SECONDS, look)
    if options.ready_fd is not None:
        program.report_ready(options.ready_fd)
    try:
        loop.run()
    finally:
        for tunnel in kept:
            tunnel.end()
    return 0


if __name__ == "__main__":
    sys.exit(program.run("cw.ssh.tunnels", main))
