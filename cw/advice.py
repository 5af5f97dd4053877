"""Commands that messages advise, the only place that renders them: each works when it is typed.

    command("slurm", "stop", name="second")      cw slurm stop --name second
                                                 /opt/venv/bin/python -m cw slurm stop --name second
    elsewhere("worker", "node7:5494")            python -m cw.worker node7:5494

The second form stands where the command `cw` on the PATH is not that of this Python: another one, or none. On another
machine this Python may not be there, so nothing but the module is named.
"""

from __future__ import annotations

import os
import shlex
import sys

DEFAULT_CLUSTER = "default"
"""Name of a cluster for which none is given."""


def command(*words: str, name: str = "") -> str:
    """Return a command of `cw` for this machine. `name`: the cluster that it is for, of those that have a name."""
    if name and {name, os.environ.get("CW_CLUSTER") or DEFAULT_CLUSTER} != {DEFAULT_CLUSTER}:
        words += ("--name", name)
    return shlex.join([*_program(), *words])


def module(*words: str) -> str:
    """Return a command for this machine that is the name of a module of cw and its arguments: 'mp', 'stop'."""
    return shlex.join([sys.executable or "python", "-m", f"cw.{words[0]}", *words[1:]])


def elsewhere(*words: str) -> str:
    """Return such a command for any machine, whose Python is not known."""
    return shlex.join(["python", "-m", f"cw.{words[0]}", *words[1:]])


def _program() -> list[str]:
    """Return the words that start `cw` with this Python."""
    import shutil  # takes 2 ms to load; advice is rare

    found = shutil.which("cw")
    if found and os.path.dirname(os.path.abspath(found)) == os.path.dirname(os.path.abspath(sys.executable)):
        return ["cw"]
    return [sys.executable or "python", "-m", "cw"]
