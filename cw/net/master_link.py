"""The link of a client or worker to its master: finds it, says hello, gives signs of life; loses it, finds it again.

    connect --> find --> dial --> Hello --> Welcome: owner.on_welcome --> owner.on_message, ...
       ^                   |                   |
       |      patience.on_not_found            '--> lost: owner.on_lost, patience.on_lost
       |                   |                                     |
       '---- a pause ------+-------------------------------------+--> given up: owner.on_failure

In what client and worker differ stands in their `Terms`; when they give up, and what they log until then, in their
`Patience`, which is pure. All in here runs in the loop's thread, unless it says otherwise.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from cw.errors import ConnectionError, ProtocolError
from cw.net import address, wire
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.connector import dial
from cw.net.loop import Loop

BACKOFF_LOST = 1.0
"""The longest pause while a master that was there is looked for. Larger: a master that restarts has settled without the
jobs that wait for it here. Smaller: many attempts while there is none."""

STEADY_SECONDS = 5.0
"""A connection that lasts this long is one. Until then pauses grow on: the master may not like what it is sent."""

HEARTBEAT = 5.0
"""Seconds between signs of life, which the master answers; or a quarter of the shorter `--silence`, if less."""

SAYS_NOTHING = "it accepts the connection but says nothing"
"""The reason of a `Loss` if the master has not answered a Hello in time."""

Failures = Sequence[tuple[tuple[str, int], OSError]]
"""Each address that was tried, and why it did not work."""


class Loss(NamedTuple):
    """How a connection ended."""

    where: str  # the master's address
    reason: str  # may be empty
    goodbye: m.Goodbye | None = None  # if the master left with it


class Owner(Protocol):
    """What a link asks of the client or worker that it belongs to."""

    def hello(self) -> m.Hello:
        """The first message to a master."""

    def on_welcome(self) -> None:
        """A master is there; it may be another than before."""

    def on_message(self, message: Any) -> None:
        """What the master says after its Welcome. A Goodbye must be passed on to `MasterLink.on_goodbye`."""

    def on_lost(self) -> None:
        """The master is not there any more, or not yet, after all."""

    def on_failure(self, error: BaseException) -> None:
        """There is no master, and none is looked for any more."""


class Patience(Protocol):
    """How long a master is waited for. `now` is the time, `pause` the seconds until the next attempt.

    What `on_lost` and `on_not_found` return is why the search ends; None: it goes on.
    """

    @property
    def is_lost(self) -> bool:
        """Was there a master that is looked for now?"""

    def dial_seconds(self, now: float) -> float:
        """Limit of one attempt to connect."""

    def answer_seconds(self, now: float) -> float:
        """Limit for the answer to a Hello."""

    def on_welcome(self) -> None:
        """The master is found; the owner knows."""

    def on_lost(self, loss: Loss, now: float, pause: float) -> BaseException | None:
        """The connection has ended. The owner knows."""

    def on_not_found(
        self, failures: Failures, candidates: Sequence[address.Candidate], now: float, pause: float
    ) -> BaseException | None:
        """No candidate could be reached."""


class Terms(NamedTuple):
    """What a role's links have in common."""

    role: str
    accepts: frozenset[type]
    """What a master may send after its Welcome."""
    backoff: tuple[float, float]
    """Seconds between attempts to connect: the first pause, and the longest. Each is stretched by up to a half at
    random."""
    soonest: float
    """After a loss, the share of the first pause after which the first try may come."""
    goodbye: str
    """The reason of its Goodbye."""
    goodbye_seconds: float
    """How long the master may take to read it."""
    allocate: Callable[[int], memoryview] = wire.allocate
    """Makes the memory for large payloads."""


class MasterLink:
    """One connection to the master, over its losses and returns.

    `find()` gives where to look for it. `silence`: seconds without a sign of life after which the master is taken for
    gone; None: the other host's kernel alone says so, and the owner gives no signs of life.
    """

    def __init__(
        self,
        loop: Loop,
        find: Callable[[], list[address.Candidate]],
        owner: Owner,
        patience: Patience,
        terms: Terms,
        silence: float | None = None,
    ) -> None:
        self.connection: Connection | None = None
        """None while there is none. Before the master's Welcome nothing must be sent."""
        self.where = ""
        """The master's address, as it was found."""
        self.master = ""
        """The start id of the master that was joined last."""
        self.is_joined = False
        """Did the master of this connection say Welcome, and has nobody said Goodbye?"""
        self._loop = loop
        self._find = find
        self._owner = owner
        self._patience = patience
        self._terms = terms
        self._silence = silence
        self._candidates: list[address.Candidate] = []
        self._pause = terms.backoff[0]
        self._on_left: Callable[[], None] | None = None  # if it is leaving
        self._has_left = False  # looks for no master any more

    @property
    def peer(self) -> str:
        """The master's address as the socket knows it, for messages."""
        assert self.connection is not None
        return self.connection.peer

    @property
    def is_lost(self) -> bool:
        """Was there a master that is looked for now?"""
        return self._patience.is_lost

    def is_all_sent(self) -> bool:
        """Has the socket taken everything?"""
        return self.connection is None or not self.connection.unsent

    def send(self, message: tuple[Any, ...]) -> None:
        """Send it to the master, if it is there. The next one learns from `Owner.on_welcome` how things stand."""
        if self.is_joined:
            assert self.connection is not None
            self.connection.send(message)

    def connect(self) -> None:
        """Look for a master until it is found, or patience ends."""
        if self.connection is not None or self._has_left:
            return
        try:
            self._candidates = self._find()
        except Exception as error:
            self._owner.on_failure(error)
            return
        where = [(candidate.host, candidate.port) for candidate in self._candidates]
        seconds = self._patience.dial_seconds(time.monotonic())
        dial(self._loop, where, seconds, self._on_connected, self._on_not_found)

    def leave(self, on_left: Callable[[], None], waits_for_lost: bool = False) -> None:
        """Say goodbye. `on_left` is called when the master has read it, or has had its time; perhaps twice.

        `waits_for_lost`: a lost master may be back within that time.
        """
        if self._on_left is not None:
            return
        self._on_left = on_left
        if self.is_joined:
            self._say_goodbye()
        elif not (waits_for_lost and self.is_lost):
            self._has_left = True
            if self.connection is not None:
                self.connection.close()
            on_left()
            return
        self._loop.call_later(self._terms.goodbye_seconds, on_left)

    def break_off(self, reason: str) -> None:
        """Say goodbye from another thread, while the loop's is held up by the user's code."""
        connection = self.connection
        if self._on_left is None and connection is not None and self.is_joined:
            connection.send_last(m.Goodbye(reason))
            connection.flush()

    def connect_anew(self, reason: str) -> None:
        """Go on with another connection: this one may have lost its place."""
        if self.connection is not None:
            self._lose(Loss(self.where, reason))

    # --- finding the master ---

    def _on_connected(self, sock: socket.socket, where: tuple[str, int]) -> None:
        if self._has_left:
            sock.close()
            return
        self.where = address.join(*where)
        connection = self.connection = Connection(
            self._loop, sock, decoder=wire.Decoder(self._terms.allocate)
        )
        if self._silence is not None:
            connection.set_patience(self._silence)
        if connection.is_local:  # a local socket does not know the address
            connection.peer = self.where
        connection.decoder.accepts = self._terms.accepts | {m.Welcome, m.Refused}  # they may come in one read
        connection.on_message = self._on_answer
        connection.on_close = lambda reason: self._lose(Loss(self.where, reason))
        connection.send(self._owner.hello())

        def expect_answer() -> None:
            if connection is self.connection and not connection.closed and not self.is_joined:
                self._lose(Loss(self.where, SAYS_NOTHING))

        self._loop.call_later(self._patience.answer_seconds(time.monotonic()), expect_answer)

    def _on_not_found(self, failures: Failures) -> None:
        if self._has_left:
            return
        failure = self._patience.on_not_found(failures, self._candidates, time.monotonic(), self._pause)
        self._go_on(failure, 1.0)

    def _go_on(self, failure: BaseException | None, soonest: float) -> None:
        """Try again after a pause, if the search goes on."""
        if failure is not None:
            self._owner.on_failure(failure)
            return
        longest = self._terms.backoff[1]
        pause = min(self._pause, BACKOFF_LOST) if self.is_lost else self._pause
        self._loop.call_later(pause * random.uniform(soonest, 1.5), self.connect)
        self._pause = min(2 * self._pause, longest)

    def _on_answer(self, answer: Any) -> None:
        connection = self.connection
        assert connection is not None
        if type(answer) is m.Refused:
            self._owner.on_failure(
                ConnectionError(
                    f"the master at {self.where} refused this {self._terms.role}: {answer.reason}"
                )
            )
        elif type(answer) is m.Goodbye:
            self.on_goodbye(answer)
        elif type(answer) is m.Welcome:
            self._join(connection, answer)
        else:
            raise ProtocolError(f"{type(answer).__name__} before a Welcome")

    def _join(self, connection: Connection, welcome: m.Welcome) -> None:
        self.is_joined = True
        self.master = welcome.ident
        connection.passes_files = connection.passes_files and welcome.takes_files
        if self._on_left is not None:
            self._say_goodbye()
            return
        connection.decoder.accepts = self._terms.accepts
        connection.on_message = self._owner.on_message
        self._loop.call_later(STEADY_SECONDS, lambda: self._calm_down(connection))
        if self._silence is not None:
            period = min(HEARTBEAT, self._silence / 4, welcome.silence / 4)
            self._loop.call_every(period, lambda now: self._beat(connection, period))
        self._owner.on_welcome()
        self._patience.on_welcome()

    def _calm_down(self, connection: Connection) -> None:
        if connection is self.connection:
            self._pause = self._terms.backoff[0]

    # --- losing it ---

    def on_goodbye(self, message: m.Goodbye) -> None:
        """The master ends."""
        self._lose(Loss(self.where, message.reason, message))

    def _lose(self, loss: Loss) -> None:
        if self.connection is None or self._has_left:
            return
        self.connection.close()
        self.connection = None
        self.is_joined = False
        self._owner.on_lost()
        failure = self._patience.on_lost(loss, time.monotonic(), self._pause)
        self._go_on(failure, self._terms.soonest)

    def _beat(self, connection: Connection, period: float) -> bool:
        """Give a sign of life, and miss the master's. False: this is not the connection any more."""
        assert self._silence is not None
        if connection is not self.connection or not self.is_joined:
            return False
        if connection.count_silence() * period > self._silence:
            self._lose(Loss(self.where, f"silent for {self._silence:.0f} s"))
            return False
        connection.send(m.Heartbeat())
        return True

    def _say_goodbye(self) -> None:
        # The master closes when it has read it. Were we first, what it sends meanwhile would reset the connection.
        connection, on_left = self.connection, self._on_left
        assert connection is not None and on_left is not None
        self.is_joined, self._has_left = False, True
        connection.on_message = lambda message: None
        connection.on_close = lambda reason: on_left()
        connection.send_last(m.Goodbye(self._terms.goodbye))
