"""Many workers in one process: `python -m benchmarks.crowd PORT COUNT`, for `thousand_workers`.

Each has its own connection to the master and one slot, and speaks cw's wire protocol; there are no runners. It "runs" a
job by sending its only argument back, as a no-op returns it, so that the job is done as soon as it arrives. Prints
`ready` on stdout once the master has welcomed all. This follows cw/worker/worker.py, from cw's inner modules; changes
between worker and master there must be made here, too.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable
from typing import Any

from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.connector import dial
from cw.net.loop import Loop
from cw.payloads import serialize
from cw.requirements import WorkerCapacity
from cw.version import VERSION

HEARTBEAT = 5.0
PATIENCE = 20.0  # time for the master to start (seconds)
INSTANT = 1e-6  # reported time of each job (seconds)


class Puppet:
    """One worker of the crowd."""

    def __init__(self, loop: Loop, sock: Any, on_joined: Callable[[], None]) -> None:
        self.connection = Connection(loop, sock)
        self.connection.on_message = self._on_message
        self.connection.on_close = self._on_close
        self._on_joined = on_joined
        self.connection.send(
            m.Hello(
                role="worker",
                ident=secrets.token_hex(16),
                secret="",
                protocol=m.PROTOCOL,
                python=list(sys.version_info[:2]),
                version=VERSION,
                host=os.uname().nodename,
                pid=os.getpid(),
                capacity=WorkerCapacity(1).to_wire(),
            )
        )

    def _on_message(self, message: Any) -> None:
        kind = type(message)
        if kind is m.Dispatch:
            payloads = [echo(payload) for payload in message.payloads]
            count = len(payloads)
            self.connection.send(m.Results(message.dispatches, [m.DONE] * count, [INSTANT] * count, payloads))
        elif kind is m.Recall:
            self.connection.send(m.Recalled([]))  # no job waits here
        elif kind is m.Welcome:
            self.connection.send(m.InventoryEnd([]))
            self._on_joined()
        elif kind is m.Refused:
            sys.exit(f"the master refused a worker: {message.reason}")

    def _on_close(self, reason: str) -> None:
        sys.exit(f"the master is gone: {reason}")


def echo(payload: Any) -> Any:
    (argument,), _ = serialize.load_call(payload)
    return serialize.dump_result(argument)


def main(port: int, count: int) -> None:
    loop = Loop()
    puppets: list[Puppet] = []
    deadline = time.monotonic() + PATIENCE

    def dial_next() -> None:
        if len(puppets) < count:
            dial(loop, [("127.0.0.1", port)], 10.0, on_connected, on_failed)
        else:
            print("ready", flush=True)

    def on_connected(sock: Any, where: Any) -> None:
        puppets.append(Puppet(loop, sock, dial_next))

    def on_failed(failures: Any) -> None:
        if puppets or time.monotonic() > deadline:
            sys.exit(f"no connection: {failures}")
        loop.call_later(0.1, dial_next)  # the master does not listen yet

    def beat(now: float) -> bool:
        for puppet in puppets:
            puppet.connection.send(m.Heartbeat())
        return True

    loop.call_every(HEARTBEAT, beat)
    dial_next()
    loop.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
