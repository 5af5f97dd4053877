"""Releases to one worker: it need not keep results any longer that their clients have.

A Release can wait for the next message to the worker, so that it does not wake the worker for its own sake. It waits
for a second at most, and not at all while the worker keeps much, or wants to end.
"""

from __future__ import annotations

from cw.net import messages as m
from cw.net.connection import Connection

WAITING_BYTES = 1024**2
"""Results of a second for which Releases wait (bytes). Larger: workers keep more. Smaller: more messages."""


class Releases:
    """The Releases over one connection to a worker."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._size = 0  # bytes of results since the last call of `flush`
        self._may_wait = True

    def noted(self, message: m.Results) -> m.Results:
        """Note that the worker has sent these results, and keeps them. Returns them."""
        self._size += sum(map(len, message.payloads))
        return message

    def send(self, message: m.Release) -> None:
        """Send a Release, now or later."""
        if self._may_wait and self._size < WAITING_BYTES:
            self._connection.send_along(message)
        else:
            self._connection.send(message)

    def flush(self) -> None:
        """Send what waits. Called every second."""
        self._size = 0
        if self._connection.unsent:
            self._connection.flush()

    def on_draining(self) -> None:
        """The worker ends as soon as it keeps nothing: from now on nothing waits."""
        self._may_wait = False
        self.flush()
