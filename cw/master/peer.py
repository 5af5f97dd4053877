"""Base of the master's peers: a name, a connection, a handler for each message, and the log.

Connection ---> rules.check(message) ---> the peer's handler ---> Dispatcher.on_*() ---> master.perform(actions)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from cw.events import EventLogger, RateLimited
from cw.master import checks
from cw.net import messages as m
from cw.net.connection import Connection

logger = EventLogger("cw.master")

lines = RateLimited("cw.master")
"""Log of what a broken peer may repeat."""

events = RateLimited("cw.master", burst=10)
"""Log of what happens to each peer: thousands may come or go at once."""


class Peer:
    """One peer of the master. `connection` is None while it is away."""

    handlers: ClassVar[Mapping[type, Callable[[Any, Any], None]]] = {}
    """The method for each message that such a peer may send; no other message is accepted."""

    connection: Connection | None = None

    def __init__(self, role: str, hello: m.Hello) -> None:
        self.name = f"{role} {hello.host}:{hello.pid}"
        self.host = hello.host
        self._rules: checks.Rules  # for its present connection

    def attach(self, connection: Connection, rules: checks.Rules) -> None:
        """Use this connection to the peer from now on."""
        self.connection = connection
        self._rules = rules
        connection.decoder.accepts = frozenset(self.handlers)
        connection.on_message = self.on_message
        connection.on_close = self.on_close

    def send(self, message: tuple[Any, ...]) -> None:
        """Send a message, unless the peer is away."""
        if self.connection is not None:
            self.connection.send(message)

    def send_goodbye(self, message: m.Goodbye) -> None:
        """Send a goodbye and close the connection, since the master ends."""
        if self.connection is not None:
            self.connection.send(message)
            self.connection.flush()
            self.connection.close()

    def on_message(self, message: Any) -> None:
        self._rules.check(message)
        self.handlers[type(message)](self, message)

    def on_close(self, reason: str) -> None:
        """The connection has ended or broken; `reason` may be empty."""

    def note_left(self, message: m.Goodbye) -> None:
        """Log that the peer said goodbye, and close its connection."""
        assert self.connection is not None
        events.info("master.peer_left", "%s left: %s", self.name, message.reason)
        self.connection.close()
