"""Many workers of other machines in one process: `python -m benchmarks.joiners PORT COUNT`, for `joining`.

All connect at once, over TLS, and speak cw's wire protocol; there are no runners. When the master is gone, each looks
for the next one at the same port, after a pause as long as a worker's. Prints `joined` on stdout each time that a
master has welcomed the last of them. This follows cw/net/master_link.py, without its thread for each
connection.
"""

from __future__ import annotations

import errno
import os
import random
import secrets
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any

from cw import credential, program
from cw.net import messages as m
from cw.net import tls
from cw.net.connection import Connection
from cw.net.loop import IN, OUT, Loop
from cw.net.sockets import tune
from cw.requirements import WorkerCapacity
from cw.version import VERSION
from cw.worker.policy.patience import TERMS

DIAL_SECONDS = 10.0
HEARTBEAT = 5.0


class Joiner:
    """One worker, which joins a master again and again."""

    def __init__(
        self, loop: Loop, contexts: tls.Contexts, port: int, on_joined: Callable[[int], None]
    ) -> None:
        self._loop, self._contexts, self._port = loop, contexts, port
        self._on_joined = on_joined
        self._hello = m.Hello(
            role="worker", ident=secrets.token_hex(16), secret="", protocol=m.PROTOCOL,
            python=list(sys.version_info[:2]), version=VERSION, host=os.uname().nodename, pid=os.getpid(),
            capacity=WorkerCapacity(1).to_wire(),
        )  # fmt: skip
        self._pause = TERMS.backoff[0]
        self._socket: Any = None
        self.connection: Connection | None = None
        self.is_joined = False

    def dial(self) -> None:
        """Begin to connect."""
        sock = self._socket = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", self._port))
        self._deadline = self._loop.call_later(DIAL_SECONDS, lambda: self._try_again(sock))
        self._loop.watch(sock.fileno(), OUT, self._shake_hands)

    def _shake_hands(self, events: int) -> None:
        sock = self._socket
        try:
            if not isinstance(sock, ssl.SSLSocket):
                if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(error, errno.errorcode[error])
                tune(sock)
                self._loop.watch(sock.fileno(), 0, self._shake_hands)
                sock = self._socket = self._contexts.client.wrap_socket(sock, do_handshake_on_connect=False)
            sock.do_handshake()
        except ssl.SSLWantReadError:
            self._loop.watch(sock.fileno(), IN, self._shake_hands)
        except ssl.SSLWantWriteError:
            self._loop.watch(sock.fileno(), OUT, self._shake_hands)
        except OSError:
            self._try_again(sock)
        else:
            self._loop.watch(sock.fileno(), 0, self._shake_hands)
            self._deadline.cancel()
            self.connection = Connection(self._loop, tls.Socket(sock))
            self.connection.on_message = self._on_message
            self.connection.on_close = self._on_close
            self.connection.send(self._hello)

    def _try_again(self, sock: Any) -> None:
        if sock is self._socket or self.connection is not None:
            self._deadline.cancel()
            self._loop.watch(self._socket.fileno(), 0, self._shake_hands)
            self._socket.close()
            self._wait()

    def _wait(self) -> None:
        self._loop.call_later(self._pause * random.uniform(1.0, 1.5), self.dial)
        self._pause = min(2 * self._pause, TERMS.backoff[1])

    def _on_message(self, message: Any) -> None:
        if type(message) is m.Welcome:
            assert self.connection is not None
            self.connection.send(m.InventoryEnd([]))
            self.is_joined, self._pause = True, TERMS.backoff[0]
            self._on_joined(1)
        elif type(message) is m.Refused:
            sys.exit(f"the master refused a worker: {message.reason}")

    def _on_close(self, reason: str) -> None:
        self.connection = None
        if self.is_joined:
            self.is_joined = False
            self._on_joined(-1)
        self._wait()


def main(port: int, count: int) -> None:
    program.allow_many_descriptors()
    loop = Loop()
    contexts = tls.Contexts(credential.load())
    joined = 0

    def on_joined(change: int) -> None:
        nonlocal joined
        joined += change
        if joined == count and change > 0:
            print("joined", flush=True)

    joiners = [Joiner(loop, contexts, port, on_joined) for _ in range(count)]

    def beat(now: float) -> bool:
        for joiner in joiners:
            if joiner.is_joined and joiner.connection is not None:
                joiner.connection.send(m.Heartbeat())
        return True

    loop.call_every(HEARTBEAT, beat)
    for joiner in joiners:
        loop.call_later(random.random() * TERMS.backoff[0], joiner.dial)
    loop.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
