"""A forkserver that is forked from its worker's process, before that has imported more than runners need.

The modules that both need are imported here. The forkserver imports the rest of its own while the worker does the same.

fork() --> waiting --take()--> ForkserverProcess, in place of one for which Python starts
                   '--end()--> the worker ends before it needs one
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterable
from typing import NoReturn

from cw import processes
from cw.payloads import environment, hash_seed  # noqa: F401
from cw.runner import channel, output_channel  # noqa: F401
from cw.travel import placing  # noqa: F401
from cw.worker.runners import binding, reaping  # noqa: F401


class EarlyForkserver:
    """One that was forked, with the part of subprocess.Popen that its owner uses."""

    def __init__(self, pid: int, orders: socket.socket) -> None:
        self.pid = pid
        self.orders = orders
        """The worker's end of its socket."""
        self.hash_seed = hash_seed.of_this_process()
        """PYTHONHASHSEED of its runners; '': random."""
        self.environ = dict(os.environ)
        """Its variables."""

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it has ended. Raises subprocess.TimeoutExpired."""
        from subprocess import TimeoutExpired

        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._is_reaped(0 if deadline is None else os.WNOHANG):
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutExpired("the forkserver", timeout or 0.0)
            time.sleep(0.001)

    def kill(self) -> None:
        reaping.kill(self.pid, False)

    def _is_reaped(self, flags: int) -> bool:
        try:
            return bool(os.waitpid(self.pid, flags)[0])
        except ChildProcessError:
            return True


waiting: list[EarlyForkserver] = []
"""At most one."""


def fork(descriptors: Iterable[int]) -> None:
    """Fork it. `descriptors`: those of this process, which it must not hold."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not (pid := os.fork()):
        ours.close()
        for descriptor in descriptors:
            os.close(descriptor)
        _serve(theirs.detach())
    theirs.close()
    waiting.append(EarlyForkserver(pid, ours))


def take(seed: str) -> EarlyForkserver | None:
    """Return the one that waits, if its runners have this PYTHONHASHSEED."""
    return waiting.pop() if waiting and waiting[0].hash_seed == seed else None


def end() -> None:
    """End the one that waits, if nobody has taken it, and wait until it is gone."""
    from subprocess import TimeoutExpired

    for one in waiting:
        one.orders.close()
        with contextlib.suppress(TimeoutExpired):
            one.wait(reaping.LAST_SECONDS)


def _serve(fd: int) -> NoReturn:
    os.setsid()
    processes.show_as([sys.executable, "-m", "cw.worker.runners.forkserver"])
    sys.argv[:] = sys.argv[:1]
    from cw.worker.runners import forkserver

    forkserver.main(fd)
    sys.exit()
