"""The worker's side of its forkserver: starts it, sends orders, receives reports (see
`cw.worker.runners.forkserver`)."""

from __future__ import annotations

import errno
import json
import os
import resource
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Container, Mapping
from typing import Any

from cw import program
from cw.net.loop import IN, OUT, Loop
from cw.travel import placing
from cw.worker.runners import early, reaping
from cw.worker.runners.binding import PACKET, Binder, Binding
from cw.worker.runners.early import EarlyForkserver


class ForkserverProcess:
    """The worker's view of a forkserver."""

    def __init__(
        self,
        loop: Loop,
        binder: Binder,
        descriptors: tuple[int, int] | None,
        on_report: Callable[[dict[str, Any] | None], None],
        hash_seed: str = "",
    ) -> None:
        """`binder` has the variables of all runners. `descriptors`: limits of the jobs; None: the worker's own.
        `hash_seed`: PYTHONHASHSEED of the runners; '': the worker's own. Raises OSError if the forkserver cannot be
        started."""
        self.hash_seed = hash_seed
        self._loop = loop
        environment = {**binder.of_worker, **os.environ}
        if hash_seed:
            environment["PYTHONHASHSEED"] = hash_seed
        forked = early.take(hash_seed)
        self._process: subprocess.Popen[bytes] | EarlyForkserver
        if forked is None:
            self._process, self._socket = _start(environment)
        else:
            self._process, self._socket = forked, forked.orders
        if descriptors is not None:
            resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, descriptors)
        self._socket.setblocking(False)
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._on_report = on_report
        if forked is not None:
            changed = dict(environment.items() - forked.environ.items())
            removed = dict.fromkeys(forked.environ.keys() - environment.keys())
            self._order({"do": "environ", "variables": changed | removed}, [])
        # A name that nobody can guess and take first. A runner makes the directory, the forkserver removes it.
        self._scratch = os.path.join(tempfile.gettempdir(), f"cw-scratch-{secrets.token_hex(8)}")
        self._order({"do": "scratch", "path": self._scratch}, [])
        self._will_sweep = False
        loop.watch(self._socket.fileno(), IN, self._on_ready)

    def fork(self, key: int, binding: Binding, fds: list[int]) -> None:
        """Start a runner with these descriptors, which the caller may close. Reported as forked, then as exited."""
        self._order({"do": "fork", "key": key, "binding": binding}, fds)

    def signal(self, key: int, number: int) -> None:
        """Signal a runner's process group, if it is still there."""
        self._order({"do": "signal", "key": key, "number": number}, [])

    @property
    def pid(self) -> int:
        return self._process.pid

    def clear_scratch(self, pid: int) -> None:
        """Remove the scratch directory of a runner that has ended, if it had one; and later the files that had come for
        it, unless others use them by then. In a thread, as it may take long."""
        if os.path.isdir(self._scratch):
            path = os.path.join(self._scratch, str(pid))
            threading.Thread(target=shutil.rmtree, args=(path, True), daemon=True).start()
            if not self._will_sweep:
                self._will_sweep = True
                self._loop.call_later(placing.KEPT_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._will_sweep = False
        threading.Thread(target=placing.sweep, args=(self._scratch,), daemon=True).start()

    def close(self, except_for: Container[int] = ()) -> None:
        """End all runners and wait until they are gone. Nothing is reported any more.

        `except_for`: pids of this worker's other forkservers, whose runners go on.
        """
        if self._socket.fileno() < 0:
            return
        self._loop.watch(self._socket.fileno(), 0, self._on_ready)
        self._socket.close()
        while self._unsent:
            for fd in self._unsent.popleft()[1]:
                os.close(fd)
        try:
            self._process.wait(reaping.LAST_SECONDS + 1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        reaping.kill_children(except_for)  # what the forkserver left behind, if it was killed

    def _order(self, order: dict[str, Any], fds: list[int]) -> None:
        packet = json.dumps(order).encode()
        if not self._unsent and self._send(packet, fds):
            return
        self._unsent.append((packet, [os.dup(fd) for fd in fds]))
        self._loop.watch(self._socket.fileno(), IN | OUT, self._on_ready)

    def _send(self, packet: bytes, fds: list[int]) -> bool:
        """Return False if the socket is full, or too many descriptors are in flight."""
        try:
            socket.send_fds(self._socket, [packet], fds)
        except OSError as error:
            # Other errors mean that the forkserver is gone, which the socket's end reports.
            return error.errno not in (errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS)
        return True

    def _on_ready(self, events: int) -> None:
        while self._unsent and self._send(*self._unsent[0]):
            for fd in self._unsent.popleft()[1]:
                os.close(fd)
        if not self._unsent and events & OUT:
            self._loop.watch(self._socket.fileno(), IN, self._on_ready)
        if events & ~OUT:
            self._read()

    def _read(self) -> None:
        try:
            packet = self._socket.recv(PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if packet:
            self._on_report(json.loads(packet))
        else:
            self._loop.watch(self._socket.fileno(), 0, self._on_ready)
            self._on_report(None)


def _start(environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start one. Returns its process and our end of its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            process = subprocess.Popen(
                program.python_command(
                    "from cw.worker.runners.forkserver import main; main(int(sys.argv[1]))", theirs.fileno()
                ),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=environment,
            )
        except OSError:
            ours.close()
            raise
    return process, ours
