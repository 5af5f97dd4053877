"""A connected socket that sends and receives messages.

    send(message) --> SendQueue: control | data --> flush: the socket takes what it can
    on_message(message) <-- wire.Decoder <-- the socket is readable

Bytes that a socket does not take are kept, in two lanes: control, and data (payloads, in order). A slow peer delays
only itself.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Set
from typing import Any

from cw.errors import ProtocolError
from cw.events import EventLogger, RateLimited
from cw.net import wire
from cw.net.loop import IN, OUT, READ, Loop
from cw.net.send_queue import SendQueue
from cw.net.sockets import MOST_FILES, name_of_peer, receive_with_files, tune

logger = EventLogger("cw.network")
_lines = RateLimited("cw.network", burst=10)

TURN = 4 * READ
"""Bytes read from one socket before the others have their turn."""

_TCP_INFO = struct.Struct("2x B B 4x 48x I".replace(" ", ""))
"""Fields of tcp_info(7): unanswered retransmissions and probes; milliseconds since the other host's last answer."""


class Connection:
    """A connected socket that sends and receives messages. Belongs to its loop's thread.

    `on_message(message)` may raise ProtocolError: then the connection is closed, with one log line.
    `on_close(reason)` is called once, unless `close()` was called on this side; `on_drained()` each
    time that the socket has taken all unsent bytes.
    """

    def __init__(self, loop: Loop, sock: Any, *, decoder: wire.Decoder | None = None) -> None:
        """`sock` is a socket or a `tls.Socket`, which behaves like one."""
        self._set_up(loop, name_of_peer(sock), decoder)
        self._socket = sock
        self.passes_files = self.is_local
        """True if large payloads go to the peer as memory files, uncopied."""
        self._receive = self._receive_with_files if self.is_local else sock.recv_into
        # Bytes that a secured socket holds in itself; the selector does not report these.
        self._pending: Callable[[], int] = getattr(sock, "pending", int)
        self._queue = SendQueue()
        self._events = IN
        self._failure: OSError | None = None  # of a write in the middle of a wakeup
        sock.setblocking(False)
        loop.watch(sock.fileno(), self._events, self._on_ready)
        loop.connections.add(self)

    def _set_up(self, loop: Loop, peer: str, decoder: wire.Decoder | None = None) -> None:
        """Set what a connection has, whatever carries its messages."""
        self.decoder = decoder or wire.Decoder()
        self.on_message: Callable[[Any], None] = lambda message: None
        self.on_close: Callable[[str], None] = lambda reason: None
        self.on_drained: Callable[[], None] | None = None
        self.heard_at = self._counted_at = time.monotonic()
        self.closed = False
        self.peer = peer
        self._silence = 0
        self._loop = loop
        self._closing = False  # it closes when all is sent

    @property
    def is_local(self) -> bool:
        """True if the peer is on this machine, and the socket not secured."""
        return getattr(self._socket, "family", None) == socket.AF_UNIX

    @property
    def unsent(self) -> int:
        """Bytes that the socket has not taken yet."""
        return self._queue.size

    def send(self, message: tuple[Any, ...], is_ordered: bool = False) -> None:
        """Queue a message; at the end of this wakeup the socket gets as much of it as it takes.

        `is_ordered`: it must not overtake payloads, as other messages of its kind may.
        """
        if self.closed or self._closing:
            return
        self._queue.put(message, self.passes_files, is_ordered)
        self._loop.unflushed.add(self)

    def hurry(self) -> None:
        """Write now what is queued, if there is nothing else to do in this wakeup: the other end begins while this one
        does the rest. (Otherwise what is queued meanwhile goes in the same write.)"""
        if self._loop.is_lone and self._events == IN and self._failure is None and not self.closed:
            try:
                self._queue.write_to(self._socket)
            except BlockingIOError:
                pass  # the flush at the end of the wakeup waits for room
            except OSError as error:
                self._failure = error  # nobody is told in the middle of a message

    def send_along(self, message: tuple[Any, ...]) -> None:
        """Queue a message that can wait: it goes with the next one, or at the next `flush`."""
        if not (self.closed or self._closing):
            self._queue.put(message, self.passes_files)

    def withdraw(self, kind: type, numbers: Set[int]) -> list[int]:
        """Take back the entries of such messages that have one of these numbers in the first column, where the socket
        has not taken them. Returns the numbers of those that the peer never gets. The others have gone ahead of all
        that is sent from now on."""
        return self._queue.withdraw(kind, numbers, self.passes_files)

    def send_last(self, message: tuple[Any, ...]) -> None:
        """Send this message instead of the payloads that wait; a frame that has begun goes first."""
        self._queue.drop_data()
        self.send(message)

    def set_patience(self, seconds: float) -> None:
        """Set how long the kernel waits for another host before the connection counts as dead (seconds)."""
        if not self.is_local:
            tune(self._socket, seconds)

    def allow_slow_reader(self) -> None:
        """Let the other end stop reading without limit, as a client does when its callback blocks.

        With TCP_USER_TIMEOUT the kernel would close such a connection, although its host answers. Use `is_unanswered`
        instead.
        """
        if not self.is_local:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)

    def is_unanswered(self, seconds: float) -> bool:
        """True if the other host has not answered for this long although bytes were sent to it."""
        if self.is_local or self.closed:
            return False
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        retransmits, probes, last_answer = _TCP_INFO.unpack(info)
        return bool(last_answer > 1000 * seconds and (retransmits > 0 or probes > 1))

    def fail(self, reason: str) -> None:
        """Close the connection as if the kernel had reported that it is dead: `on_close` is called."""
        self._fail(reason)

    def close(self) -> None:
        """Close at once; what is unsent is lost."""
        if not self.closed:
            self.closed = True
            self._loop.watch(self._socket.fileno(), 0, self._on_ready)
            self._socket.close()
            self.decoder.close()
            self._queue.clear()
            self._loop.connections.discard(self)

    def count_silence(self) -> int:
        """Count the calls since something was received. Must be called regularly.

        The clock is not used: a process that was itself stopped for a while must not take its peers for dead.
        """
        self._silence = self._silence + 1 if self._counted_at == self.heard_at else 0
        self._counted_at = self.heard_at
        return self._silence

    def drop_after_fork(self) -> None:
        """Close our descriptor of the socket in a forked child; the parent's is untouched."""
        self.closed = True
        self._socket.close()

    def close_when_sent(self) -> None:
        """Close as soon as the socket has taken everything that is queued."""
        self._closing = True
        self._loop.unflushed.add(self)

    def flush(self) -> None:
        """Write what the socket takes; the loop calls this again when it takes more."""
        if self.closed:
            return
        try:
            if self._failure is not None:
                raise self._failure
            self._queue.write_to(self._socket)
        except BlockingIOError:
            self._want(IN | OUT)
            return
        except OSError as error:
            self._fail(error.strerror or str(error))
            return
        if self._closing:
            self.close()
            return
        if self._events != IN:
            self._want(IN)
        if self.on_drained is not None:
            self.on_drained()

    def _want(self, events: int) -> None:
        if events != self._events:
            self._events = events
            self._loop.watch(self._socket.fileno(), events, self._on_ready)

    def _on_ready(self, events: int) -> None:
        if self.closed:
            return  # by a callback of the same wakeup; another socket may have the descriptor by now
        if events & OUT:
            self.flush()
        if events & ~OUT:  # readable, or hung up
            self._read()

    def _read(self) -> None:
        budget = TURN
        scratch, decoder, receive = self._loop.scratch, self.decoder, self._receive
        while (budget > 0 or self._pending()) and not self.closed:
            target = decoder.direct()
            into = scratch if target is None else target
            if budget <= 0:
                into = into[: self._pending()]
            try:
                count = receive(into)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail(error.strerror or str(error))
                return
            if not count:
                self._fail("")
                return
            self.heard_at = time.monotonic()
            try:
                messages = decoder.feed(into[:count]) if target is None else decoder.received(count)
            except ProtocolError as error:
                self._break_off(error)
                return
            except Exception as error:
                # A bug of ours. The decoder has nothing to do with other connections, so only this one ends.
                logger.error(
                    "network.decoding_failed", "the decoding of data from %s failed", self.peer, exc_info=True
                )
                self._break_off(ProtocolError(f"it cannot be read: {error!r}"))
                return
            try:
                if len(messages) != 1:
                    self._loop.is_lone = False
                for message in messages:
                    if self.closed or self._closing:
                        return
                    # Check again: it was decoded before the previous message changed what is accepted.
                    if (accepts := decoder.accepts) is not None and type(message) not in accepts:
                        raise ProtocolError(f"{type(message).__name__} is not expected here")
                    self.on_message(message)
            except ProtocolError as error:
                self._break_off(error)
            if count < len(into):
                return
            budget -= count

    def _break_off(self, error: ProtocolError) -> None:
        """Close the connection, as the other end has broken the protocol."""
        _lines.error(
            "network.protocol_broken", "%s broke the protocol and is disconnected: %s", self.peer, error
        )
        self._fail(f"broke the protocol: {error}")

    def _receive_with_files(self, into: memoryview) -> int:
        count, fds = receive_with_files(self._socket, into)
        if fds:
            self.decoder.files.extend(fds)
            if len(self.decoder.files) > MOST_FILES:
                raise OSError(0, "it sends more descriptors than frames that need one")
        return count

    def _fail(self, reason: str) -> None:
        if not self.closed:
            self.close()
            self.on_close(reason)
