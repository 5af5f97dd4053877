"""A client's way to its master: finds it, says hello; loses it, and looks for it or for another in its place.

    connect --> dial --> Hello --> Welcome: on_welcome --> on_message, ...
       ^          |                   |
       |   later  |                   '--> gone: on_gone, and it is looked for again
       '----------'--> not found, or not back in time: on_failure

All in here runs in the session's thread, but for what says otherwise.
"""

from __future__ import annotations

import logging
import random
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from cw import credential
from cw.errors import ConnectionError, ProtocolError
from cw.net import address, wire
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.connector import dial
from cw.net.loop import Loop

logger = logging.getLogger("cw.client")

CONNECT_SECONDS = 5.0
"""Default of `connect_timeout`: how long `start` tries to reach a master."""

RECONNECT_SECONDS = 300.0
"""Default of `reconnect_timeout`: how long a lost master is looked for, while jobs are outstanding."""

BACKOFF = 0.05, 1.0
"""Seconds between attempts to connect: the first pause, and the longest."""

STEADY_SECONDS = 5.0
"""A connection that lasts for so long is one. Else pauses grow on: the master may not like what it is sent."""

DIAL_SECONDS = 5.0
"""For one attempt to connect while a lost master is looked for: it may be somewhere else by then."""

GOODBYE_SECONDS = 0.7
"""For the master to take the goodbye."""


class Uplink:
    """One session's connection to the master, over its losses and returns.

    `hello()` is what the client says of itself. `on_welcome()`: a master is there; `on_message(message)` gets the rest.
    `on_gone()`: it is not there any more; `is_needed()`: shall one be looked for? `on_failure(error)`: it cannot go on.
    """

    def __init__(
        self,
        loop: Loop,
        find: Callable[[], list[address.Candidate]],
        hello: Callable[[], m.Hello],
        connect_timeout: float,
        reconnect_timeout: float,
    ) -> None:
        self.on_welcome: Callable[[], None]
        self.on_message: Callable[[Any], None]
        self.on_gone: Callable[[], None]
        self.is_needed: Callable[[], bool]
        self.on_failure: Callable[[BaseException], None]
        self.connection: Connection | None = None
        """None while there is none. Before the master's Welcome nothing is to be sent."""
        self.where = ""
        """The master's address, for messages (a connection on this machine does not know it)."""
        self.master = ""
        """The start id of the master that it was connected to last."""
        self.is_lost = False
        """Was there a master that is looked for now?"""
        self._loop = loop
        self._find = find
        self._hello = hello
        self._connect_timeout = connect_timeout
        self._reconnect_timeout = reconnect_timeout
        self._is_welcome = False  # by the master of this connection
        self._was_welcome = False  # by any
        self._is_leaving = False
        self._is_told = False  # the user was, that the credential is missing or another
        self._pause = BACKOFF[0]
        self._deadline = 0.0

    def start_clock(self) -> None:
        """The first master is to be found within the connect timeout from now. Any thread, before `connect`."""
        self._deadline = time.monotonic() + self._connect_timeout

    def connect(self) -> None:
        """Look for a master until it is found, or the time is up."""
        if self.connection is not None:
            return
        try:
            candidates = self._find()
        except Exception as error:
            self.on_failure(error)
            return
        left = max(0.1, self._deadline - time.monotonic())
        if self.is_lost:
            left = min(left, DIAL_SECONDS)
        dial(self._loop, [(c.host, c.port) for c in candidates], left, self._on_connected, self._on_no_master)

    def leave(self, on_gone: Callable[[], None]) -> None:
        """Say goodbye. `on_gone` is called when the master has read it, or had its time."""
        if self._is_leaving:
            return
        self._is_leaving = True
        self._on_left = on_gone
        if self._is_welcome:
            self._say_goodbye()
        elif not self.is_lost:
            on_gone()
            return
        self._loop.call_later(GOODBYE_SECONDS, on_gone)  # (a lost master may be back by then)

    def break_off(self, reason: str) -> None:
        """Say goodbye from another thread, while the session's is held up by the user's code."""
        connection = self.connection
        if not self._is_leaving and connection is not None and self._is_welcome:
            connection.send_last(m.Goodbye(reason))
            connection.flush()

    def connect_anew(self, reason: str) -> None:
        """Go on with another connection: this one may have lost its place."""
        if self.connection is not None:
            self.connection.close()
            self._on_gone(reason)

    # --- finding the master ---

    def _on_connected(self, sock: socket.socket, where: tuple[str, int]) -> None:
        self.where = address.join(*where)
        connection = self.connection = Connection(self._loop, sock, decoder=wire.Decoder())
        connection.decoder.accepts = _FIRST
        connection.on_message = self._on_answer
        connection.on_close = self._on_gone
        connection.send(self._hello())
        left = DIAL_SECONDS
        if not self.is_lost:
            left = min(left, self._deadline - time.monotonic())
        self._loop.call_later(max(0.1, left), lambda: self._on_silent(connection))

    def _on_silent(self, connection: Connection) -> None:
        if connection.on_message != self._on_answer or connection.closed:
            return
        if time.monotonic() < self._deadline:
            self.connect_anew("it accepts the connection but says nothing")
        else:
            self.on_failure(
                ConnectionError(f"the master at {self.where} accepts the connection but says nothing")
            )

    def _on_no_master(self, failures: Sequence[tuple[tuple[str, int], OSError]]) -> None:
        fault = credential.fault_among(error for _, error in failures)
        if fault is not None and fault.may_pass and not self._is_told:
            self._is_told = True
            logger.warning("%s (waiting: a network file system may show a file late)", fault)
        is_unknown = (
            bool(failures)
            and not self.is_lost
            and all(isinstance(e, socket.gaierror) and e.errno == socket.EAI_NONAME for _, e in failures)
        )
        is_hopeless = is_unknown or (fault is not None and not fault.may_pass)
        if is_hopeless or time.monotonic() + self._pause > self._deadline:
            self.on_failure(_no_master(failures))
            return
        self._connect_later(1.0)

    def _connect_later(self, shortest: float) -> None:
        self._loop.call_later(self._pause * random.uniform(shortest, 1.5), self.connect)
        self._pause = min(2 * self._pause, BACKOFF[1])

    def _on_answer(self, answer: Any) -> None:
        connection = self.connection
        assert connection is not None
        if type(answer) not in (m.Welcome, m.Refused, m.Goodbye):
            raise ProtocolError(f"{type(answer).__name__} before a Welcome")
        if type(answer) is m.Goodbye and self.is_lost:
            self.on_goodbye(answer)
            return
        if type(answer) is not m.Welcome:
            self.on_failure(
                ConnectionError(f"the master at {self.where} refused this client: {answer.reason}")
            )
            return
        self._is_welcome = self._was_welcome = True
        self.master = answer.ident
        connection.passes_files = connection.passes_files and answer.takes_files
        if self._is_leaving:
            self._say_goodbye()
            return
        connection.decoder.accepts = FROM_MASTER
        connection.on_message = self.on_message
        self._loop.call_later(STEADY_SECONDS, lambda: self._calm_down(connection))
        self.on_welcome()
        self.is_lost = False

    def _calm_down(self, connection: Connection) -> None:
        if connection is self.connection:
            self._pause = BACKOFF[0]

    # --- losing it ---

    def on_goodbye(self, message: m.Goodbye) -> None:
        """The master ends."""
        if message.is_final:
            self._reconnect_timeout = 0.0
        if self.connection is not None:
            self.connection.close()
        self._on_gone(message.reason)

    def _on_gone(self, reason: str) -> None:
        self.connection = None
        self._is_welcome = False
        self.on_gone()
        lost = f"the connection to the master at {self.where} was lost{': ' * bool(reason)}{reason}"
        is_new = not self._was_welcome  # it was lost before it was one: `start` tries on
        if (
            (is_new and time.monotonic() + self._pause > self._deadline)
            or (not is_new and self._reconnect_timeout <= 0)
            or not self.is_needed()
        ):
            self.on_failure(ConnectionError(lost))
            return
        if not self.is_lost and not is_new:
            self.is_lost = True
            self._deadline = time.monotonic() + self._reconnect_timeout
            logger.warning("%s; looking for it for %.0f s", lost, self._reconnect_timeout)
        self._connect_later(0.5)

    def _say_goodbye(self) -> None:
        # The master closes when it has read it. Were we first, what it sends meanwhile would reset the connection.
        connection = self.connection
        assert connection is not None
        connection.on_message = lambda message: None
        connection.on_close = lambda reason: self._on_left()
        connection.send_last(m.Goodbye("it has finished"))


FROM_MASTER = m.sent_on(m.Leg.MASTER_CLIENT)
_FIRST = FROM_MASTER | {m.Welcome, m.Refused}  # what comes in one read with the Welcome is decoded with it


def _no_master(failures: Sequence[tuple[tuple[str, int], OSError]]) -> ConnectionError:
    fault = credential.fault_among(error for _, error in failures)
    if fault is not None:
        return ConnectionError(str(fault))
    if not failures:
        return ConnectionError(address.why_not_found())
    tried = "; ".join(
        f"{address.join(*where)}: {error.strerror or 'no answer in time'}" for where, error in failures
    )
    return ConnectionError(
        f"no cw master answers ({tried}); start one with `python -m cw.master` (or a whole cluster: "
        "`with cw.allocate(4):`), or name its host"
    )
