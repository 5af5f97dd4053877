"""Many workers of other machines in one process: `python -m benchmarks.joiners HOST PORT COUNT`, for `joining`.

All connect at once, over TLS, and speak cw's wire protocol; there are no runners. (A process has at most UNDER_WAY
attempts to connect under way, since its workers share the time of one core.) A job's only argument is a number: it runs
until `finish` comes on stdin, and returns that number. When the master is gone, each worker looks for the next one at
the same address, after a pause as long as a real worker's, and names there the job that it holds.

    stdin      count          finish                                   end of file: the process ends
    stdout     numbers of all jobs that have begun, as JSON            joined: a master has welcomed the last worker

This follows cw/net/master_link.py, without its thread for each connection, and cw/worker/worker.py; changes between
worker and master there must be made here, too.
"""

from __future__ import annotations

import errno
import json
import os
import random
import secrets
import socket
import ssl
import sys
from collections import deque
from typing import Any, NamedTuple

from cw import credential, program
from cw.net import messages as m
from cw.net import tls
from cw.net.connection import Connection
from cw.net.loop import IN, OUT, Loop
from cw.net.master_link import BACKOFF_LOST, HEARTBEAT
from cw.net.sockets import tune
from cw.payloads import serialize
from cw.requirements import WorkerCapacity
from cw.version import VERSION
from cw.worker.policy.patience import TERMS

DIAL_SECONDS = 10.0
BEATS = 50  # parts into which the workers are divided for their heartbeats

UNDER_WAY = 400
"""Most attempts to connect of one process at a time. Those of four processes are more than a master holds."""

INSTANT = 1e-6  # reported time of each job (seconds)


class Held(NamedTuple):
    """A job that runs or has ended at a worker."""

    session: int
    number: int
    value: int


class Crew:
    """What the workers have in common."""

    def __init__(self, loop: Loop, address: tuple[str, int], count: int) -> None:
        self.loop, self.address = loop, address
        self.contexts = tls.Contexts(credential.load())
        self.began: list[int] = []  # for each job that a worker was given, its argument
        self.is_finishing = False
        self._commands = b""
        self._joined = 0
        self._under_way = 0
        self._queue: deque[Joiner] = deque()  # those that will connect
        self.workers = [Joiner(self) for _ in range(count)]

    def start(self) -> None:
        self.loop.watch(0, IN, self._on_commands)
        beats = 0

        def beat(now: float) -> bool:
            nonlocal beats
            for worker in self.workers[beats % BEATS :: BEATS]:
                worker.beat()
            beats += 1
            return True

        self.loop.call_every(HEARTBEAT / BEATS, beat)
        for worker in self.workers:
            worker.wait()

    def connect(self, worker: Joiner) -> None:
        """Let a worker connect as soon as it may."""
        self._queue.append(worker)
        self._connect_next(0)

    def on_connected(self) -> None:
        """An attempt to connect is over."""
        self._connect_next(-1)

    def _connect_next(self, change: int) -> None:
        self._under_way += change
        while self._queue and self._under_way < UNDER_WAY:
            self._under_way += 1
            self._queue.popleft().dial()

    def on_joined(self, change: int) -> None:
        self._joined += change
        if self._joined == len(self.workers) and change > 0:
            print("joined", flush=True)

    def _on_commands(self, events: int) -> None:
        data = os.read(0, 4096)
        if not data:
            sys.exit()
        *commands, self._commands = (self._commands + data).split(b"\n")
        for command in commands:
            if command == b"count":
                print(json.dumps(self.began), flush=True)
            elif command == b"finish":
                self.is_finishing = True
                for worker in self.workers:
                    worker.finish()


class Joiner:
    """One worker, which joins a master again and again."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._loop = crew.loop
        self._hello = m.Hello(
            role="worker", ident=secrets.token_hex(16), secret="", protocol=m.PROTOCOL,
            python=list(sys.version_info[:2]), version=VERSION, host=os.uname().nodename, pid=os.getpid(),
            capacity=WorkerCapacity(1).to_wire(),
        )  # fmt: skip
        self._pause = TERMS.backoff[0]
        self._socket: Any = None
        self._connection: Connection | None = None
        self._is_joined = self._was_joined = False
        self._held: dict[int, Held] = {}  # by dispatch, until their results are released

    def dial(self) -> None:
        """Begin to connect."""
        sock = self._socket = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(self._crew.address)
        self._deadline = self._loop.call_later(DIAL_SECONDS, self._try_again)
        self._loop.watch(sock.fileno(), OUT, self._shake_hands)

    def _shake_hands(self, events: int) -> None:
        sock = self._socket
        try:
            if not isinstance(sock, ssl.SSLSocket):
                if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(error, errno.errorcode[error])
                tune(sock)
                self._loop.watch(sock.fileno(), 0, self._shake_hands)
                sock = self._socket = self._crew.contexts.client.wrap_socket(
                    sock, do_handshake_on_connect=False
                )
            sock.do_handshake()
        except ssl.SSLWantReadError:
            self._loop.watch(sock.fileno(), IN, self._shake_hands)
        except ssl.SSLWantWriteError:
            self._loop.watch(sock.fileno(), OUT, self._shake_hands)
        except OSError:
            self._try_again()
        else:
            self._loop.watch(sock.fileno(), 0, self._shake_hands)
            self._deadline.cancel()
            self._crew.on_connected()
            self._connection = Connection(self._loop, tls.Socket(sock))
            self._connection.on_message = self._on_message
            self._connection.on_close = self._on_close
            self._connection.send(self._hello)

    def _try_again(self) -> None:
        self._deadline.cancel()
        self._loop.watch(self._socket.fileno(), 0, self._shake_hands)
        self._socket.close()
        self.wait()
        self._crew.on_connected()

    def wait(self) -> None:
        """Connect after a pause."""
        pause = min(self._pause, BACKOFF_LOST) if self._was_joined else self._pause
        self._loop.call_later(pause * random.uniform(1.0, 1.5), lambda: self._crew.connect(self))
        self._pause = min(2 * self._pause, TERMS.backoff[1])

    def beat(self) -> None:
        """Give a sign of life."""
        if self._is_joined:
            self._send(m.Heartbeat())

    def finish(self) -> None:
        """Let the jobs end that run here."""
        if self._is_joined and self._held:
            self._send_results(list(self._held))

    def _send(self, message: tuple[Any, ...]) -> None:
        assert self._connection is not None
        self._connection.send(message)

    def _on_message(self, message: Any) -> None:
        kind = type(message)
        if kind is m.Welcome:
            self._on_welcome()
        elif kind is m.Dispatch:
            for dispatch, session, number, *_, payload in zip(*message, strict=True):
                (value,), _ = serialize.load_call(payload)
                self._crew.began.append(value)
                self._held[dispatch] = Held(session, number, value)
            self._send(m.Started(message.dispatches))
            if self._crew.is_finishing:
                self._send_results(message.dispatches)
        elif kind is m.Claim:
            self._send_results(message.dispatches)
        elif kind is m.Release or kind is m.Stop:
            for dispatch in message.dispatches:
                self._held.pop(dispatch, None)
        elif kind is m.Recall:
            self._send(m.Recalled([]))  # no job waits here
        elif kind is m.Refused:
            sys.exit(f"the master refused a worker: {message.reason}")

    def _on_welcome(self) -> None:
        if self._held:
            state = m.FINISHED if self._crew.is_finishing else m.RUNNING
            sessions, numbers, _ = map(list, zip(*self._held.values(), strict=True))
            self._send(m.Inventory(list(self._held), sessions, numbers, [state] * len(numbers)))
        self._send(m.WorkerInfo(-1, ""))
        self._send(m.SharedRoom(0))
        self._send(m.InventoryEnd([]))
        self._is_joined = self._was_joined = True
        self._pause = TERMS.backoff[0]
        self._crew.on_joined(1)

    def _send_results(self, dispatches: list[int]) -> None:
        payloads = [serialize.dump_result(self._held[dispatch].value) for dispatch in dispatches]
        count = len(payloads)
        self._send(m.Results(dispatches, [m.DONE] * count, [INSTANT] * count, payloads))

    def _on_close(self, reason: str) -> None:
        self._connection = None
        if self._is_joined:
            self._is_joined = False
            self._crew.on_joined(-1)
        self.wait()


def main(host: str, port: int, count: int) -> None:
    program.allow_many_descriptors()
    loop = Loop()
    Crew(loop, (host, port), count).start()
    loop.run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
