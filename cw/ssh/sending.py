"""What is sent to a machine by ssh's standard input: an order for `cw.ssh.machine`, or cw itself.

Nothing secret is in a command line, which other users of a machine can read.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import shlex
import tarfile
from typing import Any

import cw
from cw.ssh import installing, probe
from cw.ssh.connection import Ssh

REQUIREMENTS = ("bluelet", "cloudpickle", "cryptography", "xxhash")
"""What cw needs beside Python, as in setup.py."""

INSTALL_SECONDS = 600.0
"""Time for an installation (seconds)."""

_MACHINE = 'import sys, runpy; sys.path.pop(0); runpy.run_module("cw.ssh.machine", None, "__main__", True)'


class Refusal(Exception):
    """A machine could not do it; the text says why."""


def order(ssh: Ssh, target: str, python: str, verb: str, **order: Any) -> dict[str, Any]:
    """Give an order to `cw.ssh.machine` there; returns its answer. Raises Refusal."""
    answer = ssh.run(
        target, shlex.join([python, "-c", _MACHINE]), json.dumps({"verb": verb, **order}).encode()
    )
    for line in answer.out.splitlines():
        if line.startswith(f"{probe.MARK} answer "):
            found: dict[str, Any] = json.loads(line.split(" ", 2)[2])
            if "problem" in found:
                raise Refusal(found["problem"])
            return found
    raise Refusal(answer.reason)


def install(ssh: Ssh, target: str, python: str, minor: int) -> str:
    """Make an environment with cw there; returns the path of its Python. Raises Refusal."""
    with open(installing.__file__, "rb") as file:
        code = file.read()
    order = {"directory": probe.directory_of_venv(minor), "requirements": _requirements()}
    data = b"%d\n%b%b\n%b" % (len(code), code, json.dumps(order).encode(), _package())
    answer = ssh.run(target, shlex.join([python, "-c", installing.START]), data, INSTALL_SECONDS)
    for line in answer.out.splitlines():
        if line.startswith(f"{probe.MARK} installed "):
            return line.split(" ", 2)[2]
    raise Refusal(answer.reason)


def _requirements() -> list[str]:
    return [f"{name}=={importlib.metadata.version(name)}" for name in REQUIREMENTS]


def _package() -> bytes:
    """Return this very cw, as a compressed tar."""
    made = io.BytesIO()

    def chosen(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if os.path.basename(entry.name) == "__pycache__" else entry

    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        archive.add(os.path.dirname(cw.__file__), "cw", filter=chosen)
    return made.getvalue()
