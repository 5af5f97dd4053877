"""One shared value on its way from another worker: connected, received, checked against the client's digest.

    dial ---> Want ---> Objects ---> digest (in a thread) ---> on_done(payload, "")
      '---------'----------'-----------'---------------------> on_done(None, reason)

All in here runs in the loop's thread, except the connecting and the digest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from cw.net import address, memory, wire
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.connector import dial
from cw.net.loop import Loop
from cw.net.objects import digest_of

DIAL_SECONDS = 3.0
"""Time limit of an attempt to connect to another worker (seconds). Larger: more time is lost where workers do not
reach each other. Smaller: busy machines are passed over."""

SILENT_SECONDS = 10
"""Time without a byte after which the value is had from elsewhere (seconds)."""


class Fetching:
    """A value that is being fetched. `on_done` is called once, with the payload, or None and the reason."""

    def __init__(self, loop: Loop, order: m.Fetch, size: int, on_done: Callable[[Any, str], None]) -> None:
        self._loop = loop
        self._order = order
        self._size = size
        self._on_done: Callable[[Any, str], None] | None = on_done
        self._connection: Connection | None = None
        where = [(host, order.port) for host in order.hosts]
        dial(loop, where, DIAL_SECONDS, self._on_connected, self._on_not_reached)

    def cancel(self) -> None:
        """End it, without a call of `on_done`."""
        self._on_done = None
        if self._connection is not None:
            self._connection.close()

    def _finish(self, payload: Any, reason: str) -> None:
        on_done = self._on_done
        self.cancel()
        if on_done is not None:
            on_done(payload, reason)

    def _on_not_reached(self, failures: list[tuple[tuple[str, int], OSError]]) -> None:
        texts = [f"{address.join(*where)}: {error.strerror or error}" for where, error in failures]
        self._finish(None, "; ".join(texts) or "it has no address")

    def _on_connected(self, sock: Any, where: tuple[str, int]) -> None:
        if self._on_done is None:
            sock.close()
            return
        connection = Connection(self._loop, sock, decoder=wire.Decoder(memory.allocate))
        self._connection = connection
        connection.set_patience(SILENT_SECONDS)
        connection.decoder.accepts = frozenset({m.Objects})
        connection.on_message = self._on_objects
        connection.on_close = lambda reason: self._finish(None, reason or "it closed the connection")
        connection.send(m.Want(m.PROTOCOL, self._order.session, self._order.number))

        def look(now: float) -> bool:
            if connection.closed:
                return False
            if connection.count_silence() > SILENT_SECONDS:
                self._finish(None, f"silent for {SILENT_SECONDS} s")
            return not connection.closed

        self._loop.call_every(1.0, look)

    def _on_objects(self, message: m.Objects) -> None:
        assert self._connection is not None
        self._connection.close()
        payload = message.payloads[0] if len(message.payloads) == 1 else b""
        if list(message.kinds) != [m.SHARED] or len(payload) != self._size:
            self._finish(None, "it sent something else")
            return
        threading.Thread(target=self._check, args=(payload,), name="cw-digest", daemon=True).start()

    def _check(self, payload: Any) -> None:
        is_same = digest_of(payload) == self._order.digest
        reason = "" if is_same else "its value has another digest than the client's"
        self._loop.call_soon_threadsafe(lambda: self._finish(payload if is_same else None, reason))
