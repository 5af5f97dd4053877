"""Whether systemd would end a process when its user logs out, and the command that keeps it from that.

    cgroup of this process, KillUserProcesses, Linger ---> Facts --decide--> [] | systemd-run --user --scope ...

Where administrators set KillUserProcesses=yes, logind ends all processes of a login session with it, also those in a
session (`setsid`) of their own. A scope of the user's own manager lies outside; that manager itself lasts for as long
as the user has a login session, or for good if the user *lingers*.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import NamedTuple

ANSWER_SECONDS = 3.0
"""Time for an answer of logind (seconds). Longer: a program ends late where it does not answer. Shorter: on a busy
machine a run ends with the login session."""

SCOPE = ("systemd-run", "--user", "--scope", "--quiet", "--collect")


class Facts(NamedTuple):
    """What is known of this machine; the defaults are those of one without systemd."""

    is_of_login: bool = False
    """This process belongs to a login session."""
    kills: bool = False
    """logind ends the processes of a login session when it ends."""
    lingers: bool = False
    """The user's own manager goes on without a login session."""


def decide(facts: Facts) -> tuple[list[str], str]:
    """Return (the command that runs another one out of reach of logind, or none; what the user should know, or '')."""
    if not (facts.is_of_login and facts.kills):
        return [], ""
    if facts.lingers:
        return [*SCOPE], ""
    return [*SCOPE], (
        "systemd ends all that you run here when you log out for the last time, this run, too: "
        "`loginctl enable-linger` once, on this machine, prevents that"
    )


def collect() -> Facts:
    """Collect the facts. logind is asked only where there is one, and a login session."""
    if not _is_of_login(_read("/proc/self/cgroup")) or not shutil.which(SCOPE[0]):
        return Facts()
    if _ask("show-session", "KillUserProcesses") != "yes":
        return Facts(is_of_login=True)
    return Facts(True, True, _ask("show-user", "Linger", str(os.geteuid())) == "yes")


def _is_of_login(cgroup: str) -> bool:
    """True if these lines of a /proc/PID/cgroup name the scope of a login session."""
    return re.search(r"/session-[^/]+\.scope(/|$)", cgroup, re.MULTILINE) is not None


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _ask(verb: str, what: str, *words: str) -> str:
    """Return what logind says; '' if it does not answer. (`show-session` without a session is about logind itself.)"""
    command = ["loginctl", verb, *words, f"--property={what}"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().partition("=")[2]
