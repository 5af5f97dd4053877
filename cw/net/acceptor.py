"""The acceptor of a listening port: a peer must show that it has the cluster's credential before a byte of its
messages is read.

    listeners ---> pending peer ---> first byte ---> handshake (cw.net.tls) ---> on_admitted(socket, address)
      own epoll     |  no message is read         |  '-> turned away: one line, with the address
                    '-----------------------------'--> too slow, or the oldest of too many: dropped

A peer on this machine comes through a local socket and is admitted at once: the kernel reports which user it runs as.

Pending peers must not slow down the work, even in large numbers. Their cost is bounded: sockets (PENDING_PEERS), time
for a handshake (SECONDS), and the master's time (SHARE, of which BURST may be saved up, so that a thousand workers
that start at once get in at full speed; up to IDLE_SHARE while there is little else to do, so that many thousands get
in). For this they have an epoll of their own, which the loop does not watch while they have used up their share. If not
all can be served, peers that have answered once come first, then the newest: a legitimate peer is through in a few
milliseconds, and one that has been pending for longer is probably hostile.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Callable, Iterator, Set
from typing import TYPE_CHECKING, Any

from cw.credential import Credential
from cw.events import EventLogger, RateLimited
from cw.net.loop import IN, OUT, Loop
from cw.net.sockets import is_own_peer, name_of_peer, tune

if TYPE_CHECKING:
    from cw.net import tls

logger = EventLogger("cw.acceptor")

SECONDS = 10.0
"""Time limit of a handshake (seconds). Longer: more pending peers at a time. Shorter: slow networks and busy machines
are kept out."""

PENDING_PEERS = 1024
"""Most unfinished handshakes at one time. At the limit the oldest is dropped that keeps us waiting. If there is none,
since we keep all waiting, no more are accepted: dropped ones would come again and again. (A quota for each address
would keep out the owner, too, whose peers may have the same address as a hostile one.)"""

YOUNG = 1.0
"""Age up to which a peer that was answered is not dropped for another, since most of its work is done (seconds)."""

ACCEPTS = 64
"""Most connections accepted in one round. Larger: a flood holds up one wakeup for longer. Smaller: the kernel's queue
fills."""

ROUND = 0.005
"""Time for handshakes in one round (seconds): the longest that the work waits for pending peers."""

SHARE = 0.15
"""Share of the master's time for pending peers. Larger: a flood slows the work. Smaller: a flood delays newcomers."""

IDLE_SHARE = 0.75
"""The same for a master that does nothing else; between both, it grows with the share of its time that is idle."""

BURST = 1.0
"""Most unused time of that share that may be saved up (seconds)."""

RETRY_ACCEPT = 0.5
"""Time until accepting is tried again when no descriptor is left and no pending peer can be dropped (seconds)."""

TLS_RECORD = b"\x16"
"""First byte of a TLS handshake."""


class _Pending:
    """A peer that has not shown the credential yet."""

    __slots__ = ("socket", "fd", "address", "deadline", "handshake", "has_answered", "number")

    def __init__(self, sock: socket.socket, deadline: float, number: int) -> None:
        self.socket = sock
        self.fd = sock.fileno()
        self.address = name_of_peer(sock)
        self.deadline = deadline
        self.handshake: tls.Handshake | None = None  # begun with the first byte
        self.has_answered = False  # our answer was sent: its next message is cheap to check
        self.number = number

    def rank(self) -> tuple[bool, int]:
        """Sort key: the highest is served first."""
        return self.has_answered, self.number

    def close(self) -> None:
        if self.handshake is not None:
            self.handshake.close()
        self.socket.close()


class Acceptor:
    """Admits peers to one process. All in here runs in the loop's thread."""

    def __init__(self, loop: Loop, credential: Credential, on_admitted: Callable[[Any], None]) -> None:
        self.turned_away = 0
        self._loop = loop
        self._credential = credential
        self._on_admitted = on_admitted
        self._epoll = select.epoll()
        self._listeners: dict[int, socket.socket] = {}
        self._pending: dict[int, _Pending] = {}  # by descriptor, the oldest first
        self._count = 0
        self._contexts: tls.Contexts | None = None
        self._share = SHARE
        self._credit = BURST  # seconds
        self._at = time.monotonic()
        # Time when the share was found, and CPU time then; time of rounds since.
        self._found_at, self._found_cpu, self._rounds = self._at, time.thread_time(), 0.0
        self._lines = RateLimited("cw.acceptor")
        loop.watch(self._epoll.fileno(), IN, self._on_ready)
        loop.call_every(1.0, self._on_second)

    def prepare(self) -> None:
        """Load what handshakes need before the first one comes. Raises CredentialError."""
        from cw.net import tls  # takes 15 ms, and peers on this machine do not need it

        if self._contexts is None:
            self._contexts = tls.Contexts(self._credential)

    def listen(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listeners[listener.fileno()] = listener
        self._epoll.register(listener.fileno(), IN)

    def close(self) -> None:
        """Drop the pending peers, and accept no more."""
        for peer in self._pending.values():
            peer.close()
        self._pending.clear()
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        self._loop.watch(self._epoll.fileno(), 0, self._on_ready)
        self._epoll.close()

    # --- a round ---

    def _on_ready(self, events: int) -> None:
        begin = time.monotonic()
        self._credit = min(BURST, self._credit + (begin - self._at) * self._share)
        ready = {fd for fd, _ in self._epoll.poll(0, PENDING_PEERS + len(self._listeners))}
        waiting = [self._pending[fd] for fd in ready if fd in self._pending]
        silent = self._silent(ready, self._count)
        for fd in ready & self._listeners.keys():
            self._accept(self._listeners[fd], silent)
        waiting.sort(key=_Pending.rank, reverse=True)
        end = time.monotonic() + ROUND
        for peer in waiting:
            if self._pending.get(peer.fd) is peer:  # otherwise it was dropped for another
                self._step(peer)
            if time.monotonic() > end:
                break
        self._at = time.monotonic()
        self._credit -= self._at - begin
        self._rounds += self._at - begin
        if self._credit < 0:
            self._find_share()
            self._loop.watch(self._epoll.fileno(), 0, self._on_ready)
            self._loop.call_later(-self._credit / self._share, self._go_on)

    def _find_share(self) -> None:
        """Find the share of pending peers from what else the loop's thread did since the last time."""
        cpu = time.thread_time()
        left = self._at - self._found_at - self._rounds
        work = min(max(cpu - self._found_cpu - self._rounds, 0.0), left)
        self._share = SHARE + (IDLE_SHARE - SHARE) * (1.0 - work / left if left > 0 else 0.0)
        self._found_at, self._found_cpu, self._rounds = self._at, cpu, 0.0

    def _go_on(self) -> None:
        if not self._epoll.closed:
            self._loop.watch(self._epoll.fileno(), IN, self._on_ready)

    def _on_second(self, now: float) -> bool:
        while self._pending:
            oldest = next(iter(self._pending.values()))
            if oldest.deadline > now:
                break
            self._turn_away(oldest, "it did not finish the handshake in time")
        return not self._epoll.closed

    # --- pending peers ---

    def _silent(self, ready: Set[int], newest: int) -> Iterator[_Pending]:
        """The pending peers that may be dropped for others, the oldest first. Those above the number `newest` have come
        since it was found who is ready."""
        latest = time.monotonic() + SECONDS - YOUNG
        for peer in list(self._pending.values()):
            is_silent = peer.fd not in ready and (peer.handshake is None or peer.deadline < latest)
            if is_silent and peer.number <= newest and self._pending.get(peer.fd) is peer:
                yield peer

    def _accept(self, listener: socket.socket, silent: Iterator[_Pending]) -> None:
        for count in range(ACCEPTS):
            is_full = len(self._pending) >= PENDING_PEERS and listener.family != socket.AF_UNIX
            oldest = next(silent, None) if is_full else None
            if is_full and oldest is None:
                return
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                # The kernel reports this even if no connection waits. After the first, wait for the next round: it
                # shows whether one does.
                if not count and self._pending:
                    self._drop_oldest()
                elif not count:
                    self._lines.warning(
                        "acceptor.accept_failed", "no connection can be accepted now: %s", error.strerror
                    )
                    self._credit = min(self._credit, 0.0) - RETRY_ACCEPT * SHARE
                return
            if sock.family == socket.AF_UNIX:
                self._admit_local(sock)
                continue
            if oldest is not None:
                self._turn_away(oldest, "too many handshakes were unfinished, and this one was the oldest")
            sock.setblocking(False)
            tune(sock)
            self._count += 1
            self._pending[sock.fileno()] = _Pending(sock, time.monotonic() + SECONDS, self._count)
            self._epoll.register(sock.fileno(), IN)

    def _admit_local(self, sock: socket.socket) -> None:
        if is_own_peer(sock):
            self._on_admitted(sock)
            return
        self.turned_away += 1
        self._lines.warning(
            "acceptor.other_user", "a process of another user on this machine was turned away"
        )
        sock.close()

    def _step(self, peer: _Pending) -> None:
        try:
            if peer.handshake is None and not self._begin(peer):
                return
            assert peer.handshake is not None
            admitted = peer.handshake.step()
        except OSError as error:
            self._turn_away(peer, error.strerror or str(error))
            return
        if admitted is None:
            peer.has_answered = peer.handshake.has_answered()
            self._epoll.modify(peer.fd, OUT if peer.handshake.wants_to_write else IN)
        else:
            self._forget(peer)
            self._on_admitted(admitted)

    def _begin(self, peer: _Pending) -> bool:
        """Begin the handshake if the first byte looks like one: until then a pending peer costs only a socket."""
        try:
            first = peer.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        if not first:
            logger.debug("acceptor.left_early", "%s left before a handshake", peer.address)
            self._forget(peer)
            peer.close()
            return False
        if first != TLS_RECORD:
            raise OSError(0, "it does not speak TLS")
        self.prepare()
        from cw.net import tls

        assert self._contexts is not None
        peer.handshake = tls.Handshake(peer.socket, self._contexts)
        return True

    def _turn_away(self, peer: _Pending, reason: str) -> None:
        self._lines.warning("acceptor.turned_away", "%s was turned away: %s", peer.address, reason)
        self.turned_away += 1
        self._forget(peer)
        peer.close()

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._pending.values()))
        self._turn_away(
            oldest, "too many connections were open, and this one was the oldest without a handshake"
        )

    def _forget(self, peer: _Pending) -> None:
        del self._pending[peer.fd]
        self._epoll.unregister(peer.fd)
