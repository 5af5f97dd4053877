"""A worker's way to its master: looks for it, says hello, gives signs of life, notices when it is gone.

    connect --> dial --> Hello --> Welcome: on_welcome --> on_message, ...
       ^          |                   |
       |   later  |                   '--> gone: looked for again, while the jobs here go on
       '----------'                   '--> ended for good, or not back in time: on_forsaken

All in here runs in the loop's thread.
"""

from __future__ import annotations

import logging
import random
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from cw import credential, program
from cw.errors import ProtocolError
from cw.net import address, memory, wire
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.connector import dial
from cw.net.loop import Loop

logger = logging.getLogger("cw.worker")

DIAL_SECONDS = 10.0
"""For one attempt to connect."""

BACKOFF = 0.1, 5.0
"""Seconds between attempts: the first pause, and the longest. Each is stretched by up to a half at random."""

WRONG_SECONDS = 5.0
"""For a new credential to show up on a network file system, before a master with another one is a mistake."""

BACKOFF_LOST = 1.0
"""The longest pause while a master that was there is looked for."""

STEADY_SECONDS = 5.0
"""A connection that lasts for so long is one. Else pauses grow on: the master may not like what it is sent."""

STILL_WAITING = 30.0
"""Seconds between two log lines that say that there is no master yet."""

HEARTBEAT = 5.0
"""Seconds between signs of life, which the master answers; or a quarter of the shorter `--silence`, if less."""

GOODBYE_SECONDS = 1.0
"""For the master to take the goodbye."""


class Uplink:
    """One worker's connection to the master, over its losses and returns.

    `on_welcome()` is to report what the worker holds; `on_message(message)` gets the rest. `on_forsaken()`: there is
    no master any more that knows of the jobs here (another one is looked for). `on_failure(text)`: it cannot go on.
    """

    def __init__(
        self,
        loop: Loop,
        hello: m.Hello,
        find: Callable[[], list[address.Candidate]],
        silence: float,
        reconnect_timeout: float,
    ) -> None:
        self.is_joined = False
        self.master = ""
        """The start id of the master that was joined last."""
        self.is_lost = False
        """Was there a master that is looked for now?"""
        self.on_welcome: Callable[[], None]
        self.on_message: Callable[[Any], None]
        self.on_forsaken: Callable[[], None]
        self.on_failure: Callable[[str], None]
        self._loop = loop
        self._hello = hello
        self._find = find
        self._silence = silence
        self._reconnect_timeout = reconnect_timeout
        self._candidates: list[address.Candidate] = []
        self._connection: Connection | None = None
        self._lost_at = 0.0
        self._pause = BACKOFF[0]
        self._told_at = 0.0  # when somebody was last told that there is no master
        self._is_leaving = False
        self._was_joined = False
        self._wrong_since = 0.0  # when the only masters found began to have another credential

    @property
    def peer(self) -> str:
        """The master's address, for messages."""
        assert self._connection is not None
        return self._connection.peer

    def is_all_sent(self) -> bool:
        """Has the socket taken everything?"""
        return self._connection is None or not self._connection.unsent

    def send(self, message: tuple[Any, ...]) -> None:
        """To the master, if it is there. Else the next one is told by the report of what the worker holds."""
        if self.is_joined:
            assert self._connection is not None
            self._connection.send(message)

    def connect(self) -> None:
        """Look for the master until it is found."""
        if self._is_leaving:
            return
        try:
            self._candidates = self._find()
        except program.Mistake as mistake:
            self.on_failure(str(mistake))
            return
        where = [(candidate.host, candidate.port) for candidate in self._candidates]
        dial(self._loop, where, DIAL_SECONDS, self._on_connected, self._on_no_master)

    def leave(self, on_gone: Callable[[], None]) -> None:
        """Say goodbye. `on_gone` is called when the master has read it, or had its time."""
        self._is_leaving = True
        connection, self._connection = self._connection, None
        if connection is None:
            on_gone()
            return
        # The master closes when it has read it. Were we first, what it sends meanwhile would reset the connection.
        connection.on_message = lambda message: None
        connection.on_close = lambda reason: on_gone()
        if self.is_joined:
            connection.send(m.Goodbye("it was told to end"))
        else:
            connection.close_when_sent()
            on_gone()
        self.is_joined = False
        self._loop.call_later(GOODBYE_SECONDS, on_gone)

    # --- finding the master ---

    def _on_connected(self, sock: socket.socket, where: tuple[str, int]) -> None:
        if self._is_leaving:
            sock.close()
            return
        connection = self._connection = Connection(self._loop, sock, decoder=wire.Decoder(memory.allocate))
        connection.set_patience(self._silence)
        if connection.is_local:  # a local socket does not know the address
            connection.peer = address.join(*where)
        connection.decoder.accepts = _FIRST
        connection.on_message = self._on_answer
        connection.on_close = self._on_gone
        connection.send(self._hello._replace(takes_files=memory.takes_files()))

        def expect_answer() -> None:
            if connection is self._connection and not self.is_joined:
                self._on_gone("it accepts the connection but says nothing")

        self._loop.call_later(self._silence, expect_answer)

    def _on_no_master(self, failures: Sequence[tuple[tuple[str, int], OSError]]) -> None:
        if self._is_leaving:
            return
        now = time.monotonic()
        if self.is_lost and now - self._lost_at > self._reconnect_timeout:
            logger.warning(
                "the master has not come back within %.0f s: the jobs here are given up",
                self._reconnect_timeout,
            )
            self.is_lost = False
            self.on_forsaken()
        unknown = [
            f for f in failures if isinstance(f[1], socket.gaierror) and f[1].errno == socket.EAI_NONAME
        ]
        if failures and len(unknown) == len(failures) and not self._told_at:
            self.on_failure(f"the host {failures[0][0][0]!r} is unknown: check its name")
            return
        if self._is_hopeless(failures, now):
            return
        if not self._told_at or now - self._told_at > STILL_WAITING:
            self._told_at = now
            tried = "; ".join(
                f"{c} {e.strerror or e}" for c, (_, e) in zip(self._candidates, failures, strict=False)
            )
            logger.warning("no master yet, trying on: %s", tried or address.why_not_found())
        self._connect_later()

    def _is_hopeless(self, failures: Sequence[tuple[tuple[str, int], OSError]], now: float) -> bool:
        """Is there a mistake with the credential that waiting does not mend? Then the worker ends, with a sentence.

        After it has once worked, it waits: what is in the way now may go again.
        """
        fault = credential.fault_among(error for _, error in failures)
        if not isinstance(fault, credential.WrongCredential):
            self._wrong_since = now
        # Else somebody else's master may be there.
        is_named = bool(self._candidates) and self._candidates[0].source != address.NOTHING_KNOWN
        if fault is None or self._was_joined:
            return False
        if fault.may_pass and not (is_named and now - self._wrong_since >= WRONG_SECONDS):
            return False
        self.on_failure(str(fault))
        return True

    def _connect_later(self) -> None:
        # While jobs wait here for a master that restarts, it must be found before that has settled.
        longest = BACKOFF_LOST if self.is_lost else BACKOFF[1]
        self._loop.call_later(min(self._pause, longest) * random.uniform(1.0, 1.5), self.connect)
        self._pause = min(2 * self._pause, BACKOFF[1])

    def _on_answer(self, answer: Any) -> None:
        connection = self._connection
        assert connection is not None
        if type(answer) is m.Refused:
            self.on_failure(f"the master at {connection.peer} refused this worker: {answer.reason}")
            return
        if type(answer) is m.Goodbye:
            self.on_goodbye(answer)
            return
        if type(answer) is not m.Welcome:
            raise ProtocolError(f"{type(answer).__name__} before a Welcome")
        connection.decoder.accepts = FROM_MASTER
        connection.on_message = self.on_message
        connection.passes_files = connection.passes_files and answer.takes_files
        self._told_at = 0.0
        self._loop.call_later(STEADY_SECONDS, lambda: self._calm_down(connection))
        self.is_joined, self.is_lost, self._was_joined = True, False, True
        self.master = answer.ident
        period = min(HEARTBEAT, self._silence / 4, answer.silence / 4)
        self._loop.call_every(period, self._beats(connection, period))
        self.on_welcome()

    def _calm_down(self, connection: Connection) -> None:
        if connection is self._connection:
            self._pause = BACKOFF[0]

    # --- losing it ---

    def on_goodbye(self, message: m.Goodbye) -> None:
        """The master ends. If for good, so do the jobs here."""
        connection = self._connection
        if not message.is_final or connection is None:
            self._on_gone(message.reason)
            return
        connection.close()
        self._connection = None
        self.is_joined = False
        logger.info("the master has ended: %s", message.reason)
        self.on_forsaken()
        self._connect_later()

    def _on_gone(self, reason: str) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._told_at = time.monotonic()  # the line below is enough for a while
            if not self.is_lost:
                self.is_lost, self._lost_at = True, self._told_at
            self.is_joined = False
            logger.warning("the master is gone%s; looking for it again, for %.0f s, while the jobs here go on",
                           f" ({reason})" if reason else "", self._reconnect_timeout)  # fmt: skip
        self._connect_later()

    def _beats(self, connection: Connection, period: float) -> Callable[[float], bool]:
        """A tick for this connection: gives a sign of life, and misses the master's."""

        def beat(now: float) -> bool:
            if connection is not self._connection:
                return False
            if connection.count_silence() * period > self._silence:
                self._on_gone(f"silent for {self._silence:.0f} s")
                return False
            connection.send(m.Heartbeat())
            return True

        return beat


FROM_MASTER = m.sent_on(m.Leg.MASTER_WORKER)
_FIRST = FROM_MASTER | {m.Welcome, m.Refused}  # what comes in one read with the Welcome is decoded with it
