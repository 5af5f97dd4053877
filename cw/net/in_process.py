"""A connection between two parts of one process: messages are handed over, and no socket is written or read.

    send(message) --> waiting --> flush, hurry: the other end's on_message(message)

A message arrives as it would over a socket: what has payloads as it is, all else through the wire format. Neither part
is entered while it handles a message of the other one: what it is sent meanwhile waits until the end of the wakeup.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from cw.errors import ProtocolError
from cw.net import wire
from cw.net.connection import Connection
from cw.net.loop import Loop
from cw.net.memory import LARGE
from cw.net.schema import LISTS, SPECS

PEER = "this process"

masters: dict[tuple[str, int], Callable[[Connection], None]] = {}
"""The masters of this process, by the address at which others find them: what admits a peer."""


class End(Connection):
    """One end, which behaves like a connection on one machine. Both are used in the thread of their loop."""

    def __init__(self, loop: Loop) -> None:
        """Make one end; `connect` makes both."""
        self._set_up(loop, PEER)
        self.passes_files = True
        self._other: End = self
        self._waiting: list[tuple[Any, ...]] = []
        self._is_handing_over = False
        loop.connections.add(self)

    @property
    def is_local(self) -> bool:
        return True

    @property
    def unsent(self) -> int:
        """Messages that the other end does not have yet."""
        return len(self._waiting)

    def send(self, message: tuple[Any, ...], is_ordered: bool = False) -> None:
        if not (self.closed or self._closing):
            self._waiting.append(message)
            self._loop.unflushed.add(self)

    def send_along(self, message: tuple[Any, ...]) -> None:
        if not (self.closed or self._closing):
            self._waiting.append(message)

    def send_last(self, message: tuple[Any, ...]) -> None:
        self.send(message)

    def withdraw(self, kind: type, numbers: Any) -> list[int]:
        """Take back nothing: the other end has all messages by the end of the wakeup, in their order."""
        return []

    def hurry(self) -> None:
        if self._loop.is_lone:
            self.flush()

    def flush(self) -> None:
        """Hand over what waits, unless one of the two ends is handling a message."""
        other = self._other
        if self.closed:
            return
        if self._is_handing_over or other._is_handing_over:
            self._loop.unflushed.add(self)
            return
        self._is_handing_over = True
        try:
            while self._waiting and not other.closed:
                waiting, self._waiting = self._waiting, []
                other._take(waiting)
        finally:
            self._is_handing_over = False
        if self._closing:
            self.close()
        elif self.on_drained is not None:
            self.on_drained()

    def close(self) -> None:
        """Close this end at once, and the other one in the next wakeup."""
        if not self.closed:
            self.closed = True
            self._waiting.clear()
            self._loop.connections.discard(self)
            self._loop.call_later(0.0, lambda: self._other.fail(""))

    def drop_after_fork(self) -> None:
        self.closed = True

    def _take(self, messages: list[tuple[Any, ...]]) -> None:
        """Handle the messages that the other end has sent."""
        self.heard_at = time.monotonic()
        try:
            for message in messages:
                for received in self._as_received(message):
                    if self.closed or self._closing:
                        return
                    if (accepts := self.decoder.accepts) is not None and type(received) not in accepts:
                        raise ProtocolError(f"{type(received).__name__} is not expected here")
                    self.on_message(received)
        except ProtocolError as error:
            self._break_off(error)

    def _as_received(self, message: tuple[Any, ...]) -> list[Any]:
        """Return the message as a socket would have brought it."""
        spec = SPECS[type(message)]
        if spec.has_payloads:
            *columns, payloads = map(list, message)
            if LISTS in spec.codes:
                columns[-1] = list(map(tuple, columns[-1]))
            return [_made(message, [*columns, list(map(_as_payload, payloads))])]
        if spec.is_batch and LISTS not in spec.codes:
            return [_made(message, map(list, message))]
        return self.decoder.feed(b"".join(part for frame in wire.encode(message) for part in frame))


def connect(loop: Loop) -> tuple[End, End]:
    """Return two ends that are connected."""
    one, other = End(loop), End(loop)
    one._other, other._other = other, one
    return one, other


def join(loop: Loop, admit: Callable[[Connection], None]) -> End:
    """Return an end whose other end a master of this process has admitted. `loop`: that of both."""
    ours, theirs = connect(loop)
    admit(theirs)
    return ours


def _made(message: tuple[Any, ...], columns: Iterable[list[Any]]) -> Any:
    """Return a message of the same kind with these columns."""
    return tuple.__new__(type(message), columns)


def _as_payload(payload: Any) -> Any:
    """Return a small payload as bytes, as a decoder does."""
    return payload if type(payload) is bytes or len(payload) > LARGE else bytes(payload)
