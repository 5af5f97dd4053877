"""The link of a client or worker to its master: finds it, says hello, gives signs of life; loses it, finds it again.

    connect --> find --> dial --> Hello --> Welcome: owner.on_welcome --> owner.on_message, ...
       ^                   |                   |
       |      patience.on_not_found            '--> lost: owner.on_lost, patience.on_lost
       |                   |                                     |
       '---- a pause ------+-------------------------------------+--> given up: owner.on_failure

`Terms` holds the differences between client and worker. `Patience`, which is pure, decides when they give up, and what
they log until then. All in here runs in the loop's thread, unless it says otherwise.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from cw.errors import ConnectionError, ProtocolError
from cw.named_tuple import NamedTuple
from cw.net import address, memory, wire
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.connector import dial
from cw.net.loop import Loop

BACKOFF_LOST = 1.0
"""Longest pause in the search for a lost master (seconds). Larger: a master that restarts has settled without the jobs
that wait for it here. Smaller: many attempts while there is none."""

STEADY_SECONDS = 5.0
"""Time after which a connection counts as stable (seconds). Until then pauses keep growing: the master may close it
again because of what it is sent."""

HEARTBEAT = 7.5
"""Seconds between signs of life, which the master answers: a quarter of the usual `--silence`, or of the shorter one if
that is less. Larger: a worker counts as lost when few of them are late. Smaller: thousands of workers cost the master
more of its time."""

SAYS_NOTHING = "it accepts the connection but says nothing"
"""Reason of a `Loss` if the master has not answered a Hello in time."""

Failures = Sequence[tuple[tuple[str, int], OSError]]
"""Each address that was tried, with its error."""


class Loss(NamedTuple):
    """The end of a connection."""

    where: str  # the master's address
    reason: str  # may be empty
    goodbye: m.Goodbye | None = None  # if the master left with it


class Owner(Protocol):
    """The part of its client or worker that a link uses."""

    def hello(self) -> m.Hello:
        """The first message to a master."""

    def on_welcome(self) -> None:
        """A master is connected; it may be a different one than before."""

    def on_message(self, message: Any) -> None:
        """A message has come after the Welcome. A Goodbye must be passed on to `MasterLink.on_goodbye`."""

    def on_lost(self) -> None:
        """The connection to the master is lost, perhaps before its Welcome."""

    def on_failure(self, error: BaseException) -> None:
        """There is no master, and the search for one has ended."""


class Patience(Protocol):
    """Limits of the wait for a master. `now` is the time, `pause` the seconds until the next attempt.

    `on_lost` and `on_not_found` return the reason why the search ends; None: it goes on.
    """

    @property
    def is_lost(self) -> bool:
        """True if there was a master, and the search for it is on."""

    def dial_seconds(self, now: float) -> float:
        """Limit of one attempt to connect (seconds)."""

    def answer_seconds(self, now: float) -> float:
        """Limit for the answer to a Hello (seconds)."""

    def on_welcome(self) -> None:
        """The master is found. The owner was notified before."""

    def on_lost(self, loss: Loss, now: float, pause: float) -> BaseException | None:
        """The connection has ended. The owner was notified before."""

    def on_not_found(
        self, failures: Failures, candidates: Sequence[address.Candidate], now: float, pause: float
    ) -> BaseException | None:
        """No candidate could be reached."""


class Terms(NamedTuple):
    """Settings common to a role's links."""

    role: str
    accepts: frozenset[type]
    """Messages that a master may send after its Welcome."""
    backoff: tuple[float, float]
    """Seconds between attempts to connect: the first pause, and the longest. Each is stretched by up to a half at
    random."""
    soonest: float
    """Share of the first pause after which the first attempt after a loss may come."""
    goodbye: str
    """Reason of its Goodbye."""
    goodbye_seconds: float
    """Time for the master to read the Goodbye."""
    allocate: Callable[[int], memoryview] = memory.private
    """Makes the memory for large payloads."""


class MasterLink:
    """One connection to the master, over its losses and returns.

    `silence`: seconds without a sign of life after which the master counts as
    gone; None: only the other host's kernel decides that, and the owner gives no signs of life.
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
        """The connection, or None. Before the master's Welcome nothing must be sent."""
        self.where = ""
        """The master's address, as it was found."""
        self.master = ""
        """The start id of the master that was joined last."""
        self.is_joined = False
        """True from the master's Welcome until either side says Goodbye, or the connection ends."""
        self.find = find
        """Lists the addresses to try."""
        self.is_held = False
        """True if no other connection is made when this one is lost, until `resume`: another process may be taking the
        session over."""
        self.gets_back = False
        """True if a process that takes the session over gives it back: it comes too late."""
        self.beat: Callable[[], m.Heartbeat] = m.Heartbeat
        """Makes a sign of life."""
        self._loop = loop
        self._owner = owner
        self._patience = patience
        self._terms = terms
        self._silence = silence
        self._candidates: list[address.Candidate] = []
        self._pause = terms.backoff[0]
        self._on_left: Callable[[], None] | None = None  # if it is leaving
        self._has_left = False  # its search has ended for good

    @property
    def peer(self) -> str:
        """The master's address as the socket knows it, for messages."""
        assert self.connection is not None
        return self.connection.peer

    @property
    def is_lost(self) -> bool:
        """True if there was a master, and the search for it is on."""
        return self._patience.is_lost

    def is_all_sent(self) -> bool:
        """True if the socket has taken everything."""
        return self.connection is None or not self.connection.unsent

    def send(self, message: tuple[Any, ...], is_ordered: bool = False) -> None:
        """Send a message to the master, if it is there. `Owner.on_welcome` brings the next master up to date.

        `is_ordered`: it must not overtake payloads, as other messages of its kind may.
        """
        if self.is_joined:
            assert self.connection is not None
            self.connection.send(message, is_ordered)

    def hurry(self) -> None:
        """Write now what is queued, if there is nothing else to do in this wakeup."""
        if self.connection is not None:
            self.connection.hurry()

    def connect(self) -> None:
        """Look for a master until one is found, or the patience ends."""
        if self.connection is not None or self._has_left or self.is_held:
            return
        try:
            self._candidates = self.find()
        except Exception as error:
            self._owner.on_failure(error)
            return
        where = [(candidate.host, candidate.port) for candidate in self._candidates]
        seconds = self._patience.dial_seconds(time.monotonic())
        dial(self._loop, where, seconds, self._on_connected, self._on_not_found)

    def leave(self, on_left: Callable[[], None], waits_for_lost: bool = False) -> None:
        """Say goodbye. `on_left` is called when the master has read it, or its time is over; perhaps twice.

        `waits_for_lost`: wait for a lost master to come back within that time.
        """
        if self._on_left is not None:
            return
        self._on_left = on_left
        if self.is_joined:
            self._send_goodbye()
        elif not (waits_for_lost and self.is_lost):
            self._has_left = True
            if self.connection is not None:
                self.connection.close()
            on_left()
            return
        self._loop.call_later(self._terms.goodbye_seconds, on_left)

    def break_off(self, reason: str) -> None:
        """Say goodbye from another thread, while the user's code blocks the loop's thread."""
        connection = self.connection
        if self._on_left is None and connection is not None and self.is_joined:
            connection.send_last(m.Goodbye(reason))
            connection.flush()

    def connect_anew(self, reason: str) -> None:
        """Replace the connection by a new one: messages on it may be incomplete or out of order."""
        if self.connection is not None:
            self._lose(Loss(self.where, reason))

    def resume(self, reason: str) -> None:
        """Connect anew, whatever has become of the connection that was held."""
        self.is_held = False
        if self.connection is not None:
            self.connect_anew(reason)
        else:
            self.connect()

    def leave_silently(self) -> None:
        """Close the connection for good, without a goodbye: another process has the session."""
        self._has_left = True
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        self.is_joined = False

    # --- finding the master ---

    def _on_connected(self, sock: socket.socket | Connection, where: tuple[str, int]) -> None:
        if self._has_left or self.is_held or self.connection is not None:
            sock.close()
            return
        self.where = address.join(*where)
        if isinstance(sock, Connection):
            connection = sock
        else:
            connection = Connection(self._loop, sock, decoder=wire.Decoder(self._terms.allocate))
        self.connection = connection
        if self._silence is not None:
            connection.set_patience(self._silence)
        if connection.is_local:  # a local socket does not know the address
            connection.peer = self.where
        connection.decoder.accepts = self._terms.accepts | {m.Welcome, m.Refused}  # all may come in one read
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
            self._send_goodbye()
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

    def on_taken_over(self, message: m.TakenOver) -> None:
        """Another process has the session. If nobody here has expected that, it is over."""
        if self.is_held or self.gets_back:
            self._lose(Loss(self.where, f"the process {message.by} has the session"))
            return
        self.leave_silently()
        self._owner.on_failure(ConnectionError(f"the session was taken over by the process {message.by}"))

    def _lose(self, loss: Loss) -> None:
        if self.connection is None or self._has_left:
            return
        self.connection.close()
        self.connection = None
        self.is_joined = False
        self._owner.on_lost()
        if self.is_held:
            return
        failure = self._patience.on_lost(loss, time.monotonic(), self._pause)
        self._go_on(failure, self._terms.soonest)

    def _beat(self, connection: Connection, period: float) -> bool:
        """Send a sign of life, and check the master's. False: this connection is no longer in use."""
        assert self._silence is not None
        if connection is not self.connection or not self.is_joined:
            return False
        if connection.count_silence() * period > self._silence:
            self._lose(Loss(self.where, f"silent for {self._silence:.0f} s"))
            return False
        connection.send(self.beat())
        return True

    def _send_goodbye(self) -> None:
        # The master closes the connection when it has read the goodbye. If we closed first, data that it sends
        # meanwhile would reset the connection, and the goodbye would be lost.
        connection, on_left = self.connection, self._on_left
        assert connection is not None and on_left is not None
        self.is_joined, self._has_left = False, True
        connection.on_message = lambda message: None
        connection.on_close = lambda reason: on_left()
        connection.send_last(m.Goodbye(self._terms.goodbye))
