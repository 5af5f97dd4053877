"""The process from which a worker's runners are forked, and which ends them.

    worker ==(socket, one small JSON text a packet)==> keeper --fork--> runner (its own process group)
       fork, with the runner's descriptors                 |    '-----> runner --> whatever jobs start
       kill                                                |
    worker <==  forked, exited  ===========================' waitpid

It has loaded what runners need and holds neither keys nor connections, and it has one thread: a fork of it
is cheap and safe. Each runner adopts the orphans of its own descendants (a subreaper); when it ends, the keeper
inherits them and ends them too, those in a session of their own included. When the worker is gone, by whatever
means, its end of the socket closes, and the keeper ends everything and itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
import types
from typing import Any

from cw import runner

PACKET = 4096
FDS = 4

_PR_SET_PDEATHSIG = 1  # prctl(2)
_PR_SET_CHILD_SUBREAPER = 36

LAST_SECONDS = 5.0
"""How long the keeper, at its end, waits for killed processes to disappear (one may hang in the kernel)."""


def set_subreaper() -> None:
    """Let orphaned descendants become this process's children."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> list[int]:
    """This process's children, adopted ones included."""
    pid = os.getpid()
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]
    except FileNotFoundError:  # a kernel without that file
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{name}/stat") as file:
                if int(file.read().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(name))
        return found


def kill(pid: int, is_group: bool) -> None:
    """SIGKILL to a child (or a whole group), if it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        (os.killpg if is_group else os.kill)(pid, signal.SIGKILL)


def kill_children() -> None:
    """End all children and whatever they leave behind, and wait until they are gone."""
    deadline = time.monotonic() + LAST_SECONDS
    while time.monotonic() < deadline:
        for pid in children():
            kill(pid, False)
        try:
            # Those that a killed one leaves behind are ours the moment it is reaped.
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        select.select([], [], [], 0.002)


class Keeper:
    """Forks runners on order, reaps them, and reports."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._pid_by_key: dict[int, int] = {}
        self._key_by_pid: dict[int, int] = {}

    def run(self) -> None:
        wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([self._orders, wake], [], [])
            if wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
                self._reap()
            if self._orders in ready:
                packet, fds, _, _ = socket.recv_fds(self._orders, PACKET, FDS)
                if not packet:
                    return
                order = json.loads(packet)
                if order["do"] == "fork":
                    self._fork(order["key"], fds)
                elif order["do"] == "kill" and order["key"] in self._pid_by_key:
                    kill(self._pid_by_key[order["key"]], True)
                    kill(self._pid_by_key[order["key"]], False)  # should its job have put it into another group

    def _fork(self, key: int, fds: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(what="exited", key=key, pid=0, status=0, how=f"it could not be forked: {error.strerror}")
        else:
            if not pid:
                self._become_runner(fds)
            with contextlib.suppress(PermissionError, ProcessLookupError):
                os.setpgid(pid, pid)  # both sides do: a kill may come before the child has run a line
            self._pid_by_key[key] = pid
            self._key_by_pid[pid] = key
            self._tell(what="forked", key=key, pid=pid)
        finally:
            for fd in fds:
                os.close(fd)

    def _become_runner(self, fds: list[int]) -> None:
        """In the child: never returns."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, runner.on_sigterm)
            os.setpgid(0, 0)
            set_subreaper()
            # Should the keeper be killed. It has one thread, so the signal means its end.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            self._orders.close()
            sys.modules["__main__"] = types.ModuleType("__main__")
            sys.argv[:] = [""]
            runner.main(fds)
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        finally:
            _leave(status)

    def _reap(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                break
            pid = found.si_pid
            key = self._key_by_pid.pop(pid, None)
            if key is not None:
                kill(pid, True)  # what is left of its group, as long as the number is certainly still its own
            _, status = os.waitpid(pid, 0)
            if key is not None:
                del self._pid_by_key[key]
                self._tell(what="exited", key=key, pid=pid, status=status, how=how_it_ended(status))
        # What had left the group is ours, with its runner gone; so is what such a one leaves behind, when it is reaped.
        for stray in children():
            if stray not in self._key_by_pid:
                kill(stray, False)

    def _tell(self, **report: Any) -> None:
        self._orders.send(json.dumps(report).encode())


def how_it_ended(status: int) -> str:
    """A wait status in words: 'killed by SIGSEGV', 'exited with status 3'."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _leave(status: int) -> None:
    import atexit
    import threading

    # What the interpreter does at its end, without the keeper's own frames below being left.
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def main(fd: int) -> None:
    """Serve the worker at the other end of this descriptor until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the worker's to answer
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    set_subreaper()
    orders = socket.socket(fileno=fd)
    orders.set_inheritable(False)
    try:
        Keeper(orders).run()
    except (BrokenPipeError, ConnectionResetError):
        pass
    finally:
        kill_children()
