"""Acknowledgement of results to the master, several at a time; if they are recorded, perhaps only when they are stored.

    results that arrive --> note --> Receipts --> Received: now, or a moment later
                             '-> kept back until they are stored: on_stored --'

What is not acknowledged is kept by its worker, and delivered again to the session's next process if this one dies.
"""

from __future__ import annotations

from collections import deque

from cw.client.session.jobs import Jobs
from cw.net import messages as m
from cw.net.loop import Loop
from cw.net.master_link import MasterLink

ACKNOWLEDGED_SECONDS = 0.1
"""Longest delay of the acknowledgement of results (seconds). Larger: workers keep them. Smaller: more messages."""


class Acknowledger:
    """Acknowledges the results of one session. For the session's thread."""

    def __init__(self, loop: Loop, link: MasterLink, jobs: Jobs) -> None:
        self.waits_for_store = False
        """True if recorded results are acknowledged only when they are stored, in one store."""
        self.is_frozen = False
        """True if nothing is acknowledged any more: what comes is for the session's next process."""
        self._loop, self._link, self._jobs = loop, link, jobs
        self._is_waiting = False  # `send` will be called
        self._unstored: deque[int] = (
            deque()
        )  # numbers of results that came with each part that is being stored

    def note(self, count: int, is_recorded: bool) -> None:
        """Note that this many results have come. `is_recorded`: some of them are on their way to the store."""
        if not self.waits_for_store:
            self._acknowledge(count)
        elif is_recorded:
            self._unstored.append(count)
        elif self._unstored:
            self._unstored[-1] += count
        else:
            self._acknowledge(count)

    def on_stored(self) -> None:
        """Note that the oldest part of what was recorded is stored."""
        if self._unstored:
            self._acknowledge(self._unstored.popleft())

    def on_lost(self) -> None:
        """Forget what came over the connection that is lost."""
        self._unstored = deque(0 for _ in self._unstored)

    def send(self) -> None:
        """Acknowledge what has come."""
        self._is_waiting = False
        if self._link.is_joined and not self.is_frozen and (count := self._jobs.receipts.acknowledge()):
            self._link.send(m.Received([count]))

    def _acknowledge(self, count: int) -> None:
        if count and self._jobs.receipts.note(count):
            self.send()
        elif count and not self._is_waiting:
            self._is_waiting = True
            self._loop.call_later(ACKNOWLEDGED_SECONDS, self.send)
