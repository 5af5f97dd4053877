"""Machines on this one, for `machines`: network namespaces, joined by virtual cards. They are gone with this process.

    this process 10.77.1.1 ------ 10.77.1.2 middle 10.77.2.1 ------ 10.77.2.2 far

Needs root. Each machine has its own loopback and abstract socket names: nothing takes a shorter way.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from contextlib import ExitStack
from typing import Any

CLONE_NEWNET = 0x40000000

HERE, MIDDLE, MIDDLE_FROM_FAR, FAR = "10.77.1.1", "10.77.1.2", "10.77.2.1", "10.77.2.2"


def why_not() -> str | None:
    """Return the reason why there can be no such machines, or None."""
    if os.geteuid():
        return "network namespaces need root"
    for program in ("unshare", "nsenter", "ip"):
        if not shutil.which(program):
            return f"there is no {program}"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True)
    return tried.stderr.strip() or "no namespaces" if tried.returncode else None


class Machine:
    """A network namespace, for the duration of a block. `enter` begins the command of a program in it."""

    def __init__(self) -> None:
        # It says when it is there, and ends with its input.
        holder = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo there && exec cat"]
        self._holder = subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdout
        if self._holder.stdout.readline() != b"there\n":
            raise RuntimeError("a network namespace could not be made")
        self.pid = self._holder.pid
        self.enter = ("nsenter", f"--net=/proc/{self.pid}/ns/net")

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._holder.communicate()


def machines(stack: ExitStack) -> tuple[Machine, Machine]:
    """Take this process, and what it starts from now on, to a machine of its own, and return the two others, as in the
    picture, for the duration of the stack. To be called before threads are started that use the network."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET) failed")
    _run("ip", "link", "set", "lo", "up")
    middle, far = (stack.enter_context(Machine()) for _ in range(2))
    _run("ip", "link", "add", "m1", "type", "veth", "peer", "name", "c1", "netns", str(middle.pid))
    _set_up("m1", HERE)
    _set_up("c1", MIDDLE, *middle.enter)
    _run(
        *middle.enter, "ip", "link", "add", "f1", "type", "veth", "peer", "name", "m1", "netns", str(far.pid)
    )
    _set_up("f1", MIDDLE_FROM_FAR, *middle.enter)
    _set_up("m1", FAR, *far.enter)
    return middle, far


def _set_up(card: str, address: str, *enter: str) -> None:
    _run(*enter, "ip", "address", "add", f"{address}/24", "dev", card)
    _run(*enter, "ip", "link", "set", card, "up")


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
