"""The port at which a worker gives shared values to other workers, open only while the master says so.

    open() ---> Acceptor: the same handshake and limits as the master's ---> Want ---> Objects, closed

Who holds the cluster's credential may ask for any value that is here: all of these are the cluster's owner. All in here
runs in the loop's thread.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

from cw import credential
from cw.events import RateLimited
from cw.net import interfaces
from cw.net import messages as m
from cw.net.acceptor import Acceptor
from cw.net.connection import Connection
from cw.net.loop import Loop
from cw.net.objects import Object, objects_message
from cw.net.schema import HOSTS
from cw.net.sockets import listen_locally

_lines = RateLimited("cw.worker")

CONNECTIONS = 64
"""Most connections at a time; at the limit the oldest is closed. The master lets few come at a time."""

WANT_SECONDS = 10.0
"""Time limit for a connection's Want (seconds); then the connection is closed."""

WANT_BYTES = 4096
"""Most bytes in a Want. Nothing else is read."""


class SharePort:
    """The port. `find` returns a value that is here, by session and number, or None."""

    def __init__(self, loop: Loop, find: Callable[[int, int], Object | None], silence: float) -> None:
        self._loop = loop
        self._find = find
        self._silence = silence
        self._acceptor: Acceptor | None = None
        self._port = 0
        self._connections: dict[Connection, float] = {}  # the oldest first, with the deadline for its Want

    @property
    def is_open(self) -> bool:
        return self._acceptor is not None

    def open(self) -> int:
        """Open the port, if it is not. Returns its number; 0: it cannot be opened."""
        if self._acceptor is not None:
            return self._port
        try:
            mine = credential.load()
            is_dual = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if is_dual else socket.AF_INET
            listener = socket.create_server(
                ("", 0), family=family, backlog=CONNECTIONS, dualstack_ipv6=is_dual
            )
        except (OSError, credential.CredentialError) as error:
            _lines.warning("worker.port_failed", "no port for other workers can be opened: %s", error)
            return 0
        self._port = int(listener.getsockname()[1])
        self._acceptor = Acceptor(self._loop, mine, self._on_admitted)
        self._acceptor.listen(listener)
        local = listen_locally(self._port, mine.fingerprint)
        if local is not None:
            self._acceptor.listen(local)
        self._loop.call_every(1.0, self._on_second)
        return self._port

    def close(self) -> None:
        """Close the port, and all connections."""
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        for connection in list(self._connections):
            connection.close()
        self._connections.clear()

    def addresses(self) -> list[str]:
        """List this machine's addresses for other machines."""
        return [*interfaces.ipv4_addresses(), *interfaces.ipv6_addresses()][:HOSTS]

    def _on_admitted(self, sock: Any) -> None:
        if len(self._connections) >= CONNECTIONS:
            self._end(next(iter(self._connections)))
        connection = Connection(self._loop, sock)
        connection.set_patience(self._silence)
        connection.decoder.accepts = frozenset({m.Want})
        connection.decoder.max_body = WANT_BYTES
        connection.on_message = lambda want: self._on_want(connection, want)
        connection.on_close = lambda reason: self._end(connection)
        self._connections[connection] = time.monotonic() + WANT_SECONDS

    def _on_want(self, connection: Connection, want: m.Want) -> None:
        found = self._find(want.session, want.number) if want.protocol == m.PROTOCOL else None
        if found is None:
            self._end(connection)
            return
        self._connections[connection] = float("inf")
        connection.decoder.accepts = frozenset()
        connection.send(objects_message([found]))
        connection.close_when_sent()

    def _end(self, connection: Connection) -> None:
        connection.close()
        self._connections.pop(connection, None)

    def _on_second(self, now: float) -> bool:
        for connection, deadline in list(self._connections.items()):
            if connection.closed or deadline < now:
                self._end(connection)
        return self.is_open
