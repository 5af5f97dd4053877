"""Number of the cluster's slots: an observer's question to the client's master; the answer is kept for a moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from cw.launch import status_client
from cw.net import address

ANSWER_SECONDS = 1.0
"""Time for a master to answer (seconds). Longer: a program hangs if the master does. Shorter: the number of a busy
cluster is an old one."""

KEPT_SECONDS = 2.0
"""Time for which an answer is kept (seconds). Longer: new workers are seen late. Shorter: a program that looks before
each of its jobs keeps the master busy."""


class SlotCount:
    """Number of slots at the master whose address `where()` returns ('HOST:PORT'). For any thread.

    `at_first`: what is known before it has answered.
    """

    def __init__(self, where: Callable[[], str], at_first: int = 0) -> None:
        self._where = where
        self._count = at_first
        self._is_empty = False  # the master has answered that there are none
        self._kept_until = 0.0

    def get(self) -> int:
        """Return the number, or the last known if no answer comes in time; 0 if none is."""
        if monotonic() > self._kept_until:
            # In a thread of its own: the search for a host may block, and callbacks run in another loop.
            asking = threading.Thread(target=self._ask, name="cw-slots", daemon=True)
            asking.start()
            asking.join(ANSWER_SECONDS)
            if not self._is_empty:  # the first worker is seen at once
                self._kept_until = monotonic() + KEPT_SECONDS
        return self._count

    def _ask(self) -> None:
        where = self._where()
        host, port = address.parse(where)
        candidate = address.Candidate(host, port or address.PORT, "connected")
        found = status_client.ask([candidate], seconds=ANSWER_SECONDS)
        if found is not None:
            self._count = found.slots
            self._is_empty = not found.slots
