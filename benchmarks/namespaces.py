"""Machines on this one: network namespaces, joined by virtual cards. They are gone with this process.

    machines()   this process 10.77.1.1 ------ 10.77.1.2 middle 10.77.2.1 ------ 10.77.2.2 far
    beside(3)    this process 10.77.3.1 ------ 10.77.3.2 machine, for as many numbers as are needed

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


def go_apart() -> None:
    """Take this process, and what it starts from now on, to a machine of its own. To be called before threads are
    started that use the network."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET) failed")
    _run("ip", "link", "set", "lo", "up")


def beside(stack: ExitStack, number: int) -> tuple[Machine, str]:
    """Return a machine beside this one for the duration of the stack, and the address at which it finds this one."""
    machine, here = stack.enter_context(Machine()), f"10.77.{number}.1"
    _join(f"m{number}", here, (), machine, "eth0", f"10.77.{number}.2")
    return machine, here


def machines(stack: ExitStack) -> tuple[Machine, Machine]:
    """Do as `go_apart`, and return the two others, as in the picture, for the duration of the stack."""
    go_apart()
    middle, far = (stack.enter_context(Machine()) for _ in range(2))
    _join("m1", HERE, (), middle, "c1", MIDDLE)
    _join("f1", MIDDLE_FROM_FAR, middle.enter, far, "m1", FAR)
    return middle, far


def _join(
    card: str, address: str, enter: tuple[str, ...], other: Machine, its_card: str, its_address: str
) -> None:
    """Join two machines by a pair of cards. `enter`: of the first."""
    pair = ("type", "veth", "peer", "name", its_card, "netns", str(other.pid))
    _run(*enter, "ip", "link", "add", card, *pair)
    _set_up(card, address, *enter)
    _set_up(its_card, its_address, *other.enter)


def _set_up(card: str, address: str, *enter: str) -> None:
    _run(*enter, "ip", "address", "add", f"{address}/24", "dev", card)
    _run(*enter, "ip", "link", "set", card, "up")


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
