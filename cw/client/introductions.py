"""What the master has been sent of a session besides its jobs: the functions that they call, and their options.

The master keeps what it is sent until it is told to forget it, so it is the session that bounds what the master holds:
of too many functions the oldest give way, and are sent again if a job calls them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cw.client.options import OptionTable
from cw.net import messages as m
from cw.net.network import Connection
from cw.payloads.serialize import Payload

FUNCTIONS_AT_MASTER = 256 * 1024**2
MOST_FUNCTIONS = 16 * 1024
"""Bytes and number of functions that the master is made to keep. (A single larger one is kept alone.) More: the
master's memory. Less: functions travel again."""

FUNCTIONS_AT_ONCE = 64 * 1024**2
"""Bytes of functions sent before a batch of jobs; of more, the batch is sent in parts."""


class Introductions:
    """Of one session to the master that it is connected to. In the session's thread.

    `payloads_of(numbers)` are the functions' payloads; None if one of them is not there any more.
    """

    def __init__(
        self, payloads_of: Callable[[Iterable[int]], dict[int, Payload] | None], options: OptionTable
    ) -> None:
        self._payloads_of = payloads_of
        self._options = options
        self.start_anew()

    def start_anew(self) -> None:
        """The next master knows nothing."""
        self._functions: dict[int, int] = {}  # bytes by number, oldest first
        self._size = 0
        self._last_options = 0

    def send_options(self, connection: Connection) -> None:
        """Send those that the master has not."""
        while self._last_options < len(self._options):
            self._last_options += 1
            connection.send(m.OptionSets(0, self._last_options, self._options[self._last_options]))

    def send_functions(self, connection: Connection, in_use: set[int]) -> bool:
        """Send those that the master has not. False: they are too many bytes for one go, or one of them is not there
        any more."""
        unknown = in_use - self._functions.keys()
        if not unknown:
            return True
        payloads = self._payloads_of(unknown)
        if payloads is None:
            return False
        size = sum(map(len, payloads.values()))
        if size > FUNCTIONS_AT_ONCE and len(in_use) > 1:
            return False
        too_large = self._size + size - FUNCTIONS_AT_MASTER
        too_many = len(self._functions) + len(unknown) - MOST_FUNCTIONS
        oldest = []
        for number, held in self._functions.items() if too_large > 0 or too_many > 0 else ():
            if too_large <= 0 and too_many <= 0:
                break
            if number not in in_use:
                oldest.append(number)
                too_large -= held
                too_many -= 1
        self.forget(connection, oldest)
        for number, payload in payloads.items():
            connection.send(m.Functions([0], [number], [payload]))
            self._functions[number] = len(payload)
        self._size += size
        return True

    def forget(self, connection: Connection, numbers: list[int]) -> None:
        """Have the master forget these functions, if it has them."""
        known = [number for number in numbers if number in self._functions]
        for number in known:
            self._size -= self._functions.pop(number)
        if known:
            connection.send(m.Forget([0] * len(known), known))
