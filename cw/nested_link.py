"""Link between a job and its child process that waits for jobs of its own: by it, the job lends its slot (cw.nested).

    child's main thread                        the job's main thread, which waits for the child
      it would block: wait 7 MASTER -------->    lends its slot
      its results are there: over 7 -------->    asks for its turn
      goes on                  <-------- turn 7

The job offers a socket in a private directory and names it in the child's environment. Only that child takes it; what
it starts itself does not.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time

VARIABLE = "CW_SLOT_OF_JOB"
"""Variable that the job sets for its child: PATH DEPTH JOB, and the child's parent adds its own PID."""

_MESSAGE_BYTES = 4096


class Link:
    """The child's end. Its methods are those of a runner that a `nested.Lender` needs."""

    def __init__(self, path: str, depth: int, job: int) -> None:
        self.depth, self.job = depth, job
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(path)

    def report_wait(self, serial: int, master: str) -> None:
        """Report that the child waits for jobs at this master."""
        self._send(f"wait {serial} {master}")

    def report_wait_over(self, serial: int, is_patient: bool) -> None:
        """Report that the wait is over."""
        self._send(f"over {serial}")

    def wait_for_turn(self, serial: int, seconds: float | None) -> bool:
        """Wait until the job has its slot again. False: the time is over."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._socket], [], [], left)[0]:
                return False
            try:
                message = self._socket.recv(_MESSAGE_BYTES)
            except OSError:
                message = b""
            if message in (b"", f"turn {serial}".encode()):  # (without the job, there is nothing to wait for)
                return True

    def _send(self, text: str) -> None:
        try:
            self._socket.send(text.encode())
        except OSError:  # the job is gone, and the worker ends this process too
            pass


def of_process() -> Link | None:
    """Return the link to the job whose child this process is; None: it is none, or no such child."""
    path, _, rest = os.environ.pop(VARIABLE, "").partition(" ")
    numbers = rest.split()
    if len(numbers) != 3 or not all(map(str.isdecimal, numbers)):
        return None
    depth, job, parent = map(int, numbers)
    if parent != os.getppid() or threading.current_thread() is not threading.main_thread():
        return None
    try:
        return Link(path, depth, job)
    except OSError:
        return None


class Listener:
    """The job's end."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(path)
        self._listener.listen(1)
        self._child: socket.socket | None = None

    def receive(self, seconds: float) -> list[str]:
        """Return the child's next message, in words; [] if there is none within this time, or the child has ended."""
        if self._child is None:
            if select.select([self._listener], [], [], seconds)[0]:
                self._child = self._listener.accept()[0]
            return []
        if not select.select([self._child], [], [], seconds)[0]:
            return []
        try:
            message = self._child.recv(_MESSAGE_BYTES)
        except OSError:
            message = b""
        if not message:
            self._child.close()
            self._child = None
        return message.decode().split()

    def has_child(self) -> bool:
        """True while a child is connected."""
        return self._child is not None

    def send_turn(self, serial: str) -> None:
        """Let the child go on."""
        if self._child is not None:
            try:
                self._child.send(f"turn {serial}".encode())
            except OSError:  # it has ended
                pass

    def close(self) -> None:
        """Close both sockets."""
        self._listener.close()
        if self._child is not None:
            self._child.close()
