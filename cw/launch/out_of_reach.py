"""Start of a process that outlives the program, its terminal, and where it can be its login session."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from cw.events import EventLogger
from cw.launch import user_scope
from cw.launch.launcher import Process
from cw.processes import look_at

logger = EventLogger("cw.launch")


def start(
    command: Sequence[str], log: str, *, cwd: str | None = None, pass_fds: Sequence[int] = ()
) -> Process:
    """Start a command that outlives this program, its terminal and its login session; returns at once.

    It runs in a session of its own, reads nothing, and writes to the file `log`. Raises OSError.
    """
    prefix, advice = user_scope.decide(user_scope.collect())
    if advice:
        logger.warning("launch.ends_at_logout", "%s", advice)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        popen = subprocess.Popen(
            [*prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    finally:
        os.close(output)
    popen.returncode = 0  # it may outlive the program: Popen must not warn of that
    found = look_at(popen.pid)
    return Process(popen.pid, found[1] if found else 0)
