"""The acceptor of a listening port: a peer must show that it has the cluster's credential before a byte of its
messages is read.

    listeners ---> pending peer ---> first byte ---> handshake (cw.net.tls) ---> on_admitted(socket, address)
      own epoll     |  no message is read         |  '-> turned away: one line, with the address
                    '-----------------------------'--> too slow, or the oldest of too many: dropped

A peer on this machine comes through a local socket and is admitted at once: the kernel reports which user it runs as.

Pending peers must not slow down the work, even in large numbers. Their cost is bounded: sockets (PENDING_PEERS), time
for a handshake (SECONDS), and the master's time (SHARE, of which BURST may be saved up, so that a thousand workers
that start at once get in at full speed; up to IDLE_SHARE while there is little else to do, so that many thousands get
in). For this they have an epoll of their own, which the loop does not watch while they have used up their share.

That epoll reports a peer once, when it has something for us; then the peer waits in a queue for its next step. Those
that have been answered once come first, since most of their work is done; then it is first come, first served. (If the
newest came first, thousands that come at once would let the early ones wait until their patience ends, and these would
come again.) One that has left meanwhile costs no handshake, and one that has waited for too long, in the kernel's queue
or here, is closed: it would leave in the middle. So an overloaded master works for those that it can serve in time.

What rounds take is CPU time of the loop's thread: on a busy machine, 5 ms of the clock may be one step or none.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cw.credential import Credential
from cw.events import EventLogger, RateLimited
from cw.net.loop import IN, OUT, Loop
from cw.net.sockets import is_own_peer, name_of_peer, silence_of_peer, tune

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

NEW_PEERS = 256
"""Most of them that wait for the beginning of their handshake; beyond that no more are accepted. Larger: in a flood,
newcomers wait longer. Smaller: some that are ready wait in the kernel's queue while there is time for them."""

MOST_WAIT = 5.0
"""Longest wait for the beginning of a handshake (seconds). Larger: peers of an overloaded master have less of SECONDS
left for the handshake itself. Smaller: more of them come again."""

YOUNG = 1.0
"""Age up to which a peer that was answered is not dropped for another, since most of its work is done (seconds)."""

ACCEPTS = 64
"""Most connections accepted in one round. Larger: a flood holds up one wakeup for longer. Smaller: the kernel's queue
fills."""

ROUND = 0.005
"""Time for handshakes in one round (CPU seconds): the longest that the work waits for pending peers."""

SHARE = 0.15
"""Share of the master's time for pending peers. Larger: a flood slows the work. Smaller: a flood delays newcomers."""

IDLE_SHARE = 0.75
"""The same for a master that does nothing else; between both, it grows with the share of its time that is idle."""

BURST = 1.0
"""Most unused time of that share that may be saved up (seconds)."""

RETRY_ACCEPT = 0.5
"""Time until accepting is tried again when no descriptor is left and no pending peer can be dropped (seconds)."""

ONCE = select.EPOLLONESHOT

TLS_RECORD = b"\x16"
"""First byte of a TLS handshake."""


class _Pending:
    """A peer that has not shown the credential yet."""

    __slots__ = ("socket", "fd", "address", "deadline", "handshake", "has_answered", "is_waiting", "number")

    def __init__(self, sock: socket.socket, deadline: float, number: int) -> None:
        self.socket = sock
        self.fd = sock.fileno()
        self.address = name_of_peer(sock)
        self.deadline = deadline
        self.handshake: tls.Handshake | None = None  # begun with the first byte
        self.has_answered = False  # our answer was sent: its next message is cheap to check
        self.is_waiting = False  # it is in a queue, for us
        self.number = number

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
        # Those that wait for us, in the order in which they are served; perhaps some that were dropped since.
        self._answered: deque[_Pending] = deque()
        self._new: deque[_Pending] = deque()
        self._is_watched = True  # the loop watches the epoll; otherwise a timer is set
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
        self._watch(False)
        self._epoll.close()

    # --- a round ---

    def _on_ready(self, events: int) -> None:
        self._serve()

    def _go_on(self) -> None:
        if not self._epoll.closed:
            self._serve()

    def _serve(self) -> None:
        """Serve one round, and see to it that the next one comes."""
        now, begin = time.monotonic(), time.thread_time()
        self._credit = min(BURST, self._credit + (now - self._at) * self._share)
        self._at = now
        self._round()
        spent = time.thread_time() - begin
        self._credit -= spent
        self._rounds += spent
        if self._credit < 0:
            self._find_share()
            self._watch(False)
            self._loop.call_later(-self._credit / self._share, self._go_on)
        elif self._answered or self._new:
            self._watch(False)
            self._loop.call_later(0.0, self._go_on)  # when the loop has looked at the other sockets
        else:
            self._watch(True)

    def _round(self) -> None:
        newest = self._count
        listeners = []
        for fd, _ in self._epoll.poll(0, PENDING_PEERS + len(self._listeners)):
            if fd in self._listeners:
                listeners.append(self._listeners[fd])
            elif (peer := self._pending.get(fd)) is not None:
                peer.is_waiting = True
                (self._answered if peer.has_answered else self._new).append(peer)
        silent = self._silent(newest)
        for listener in listeners:
            self._accept(listener, silent)
        end = time.thread_time() + ROUND
        while self._answered or self._new:
            peer = (self._answered or self._new).popleft()
            if peer.is_waiting:  # otherwise it was dropped
                peer.is_waiting = False
                self._step(peer)
            if time.thread_time() > end:
                break

    def _watch(self, is_watched: bool) -> None:
        """Have the loop watch for pending peers, or not."""
        if is_watched != self._is_watched:
            self._is_watched = is_watched
            self._loop.watch(self._epoll.fileno(), IN if is_watched else 0, self._on_ready)

    def _find_share(self) -> None:
        """Find the share of pending peers from what else the loop's thread did since the last time."""
        cpu = time.thread_time()
        left = self._at - self._found_at - self._rounds
        work = min(max(cpu - self._found_cpu - self._rounds, 0.0), left)
        self._share = SHARE + (IDLE_SHARE - SHARE) * (1.0 - work / left if left > 0 else 0.0)
        self._found_at, self._found_cpu, self._rounds = self._at, cpu, 0.0

    def _on_second(self, now: float) -> bool:
        while self._pending:
            oldest = next(iter(self._pending.values()))
            if oldest.deadline > now:
                break
            self._turn_away(oldest, "it did not finish the handshake in time")
        return not self._epoll.closed

    # --- pending peers ---

    def _silent(self, newest: int) -> Iterator[_Pending]:
        """The pending peers that may be dropped for others, the oldest first. Those above the number `newest` have come
        since it was found who waits for us."""
        latest = time.monotonic() + SECONDS - YOUNG
        for peer in list(self._pending.values()):
            is_silent = not peer.is_waiting and (peer.handshake is None or peer.deadline < latest)
            if is_silent and peer.number <= newest and self._pending.get(peer.fd) is peer:
                yield peer

    def _accept(self, listener: socket.socket, silent: Iterator[_Pending]) -> None:
        is_local = listener.family == socket.AF_UNIX
        if len(self._new) >= NEW_PEERS and not is_local:
            return
        for count in range(ACCEPTS):
            is_full = len(self._pending) >= PENDING_PEERS and not is_local
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
                # shows whether one does. And those that we keep waiting will soon have joined or left.
                if count or self._answered or self._new:
                    return
                if (oldest := next(silent, None)) is not None:
                    self._turn_away(
                        oldest,
                        "too many connections were open, and this one was the oldest without a handshake",
                    )
                else:
                    self._lines.warning(
                        "acceptor.accept_failed", "no connection can be accepted now: %s", error.strerror
                    )
                    self._credit = min(self._credit, 0.0) - RETRY_ACCEPT * SHARE
                return
            if sock.family == socket.AF_UNIX:
                self._admit_local(sock)
                continue
            if (reason := _why_not_begun(sock)) is not None:
                self._log_turned_away(name_of_peer(sock), reason)
                sock.close()
                continue
            if oldest is not None:
                self._turn_away(oldest, "too many handshakes were unfinished, and this one was the oldest")
            sock.setblocking(False)
            tune(sock)
            self._count += 1
            self._pending[sock.fileno()] = _Pending(sock, time.monotonic() + SECONDS, self._count)
            self._epoll.register(sock.fileno(), IN | ONCE)

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
            self._listen_to(peer, OUT if peer.handshake.wants_to_write else IN)
        else:
            self._forget(peer)
            self._on_admitted(admitted)

    def _begin(self, peer: _Pending) -> bool:
        """Begin the handshake if the first byte looks like one: until then a pending peer costs only a socket."""
        try:
            first = peer.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            self._listen_to(peer, IN)
            return False
        if first not in (b"", TLS_RECORD):
            raise OSError(0, "it does not speak TLS")
        reason = _why_not_begun(peer.socket) if first else ""
        if reason is not None:
            self._turn_away(peer, reason)
            return False
        self.prepare()
        from cw.net import tls

        assert self._contexts is not None
        peer.handshake = tls.Handshake(peer.socket, self._contexts)
        return True

    def _turn_away(self, peer: _Pending, reason: str) -> None:
        self._log_turned_away(peer.address, reason)
        self._forget(peer)
        peer.close()

    def _log_turned_away(self, address: str, reason: str) -> None:
        """Log that a peer is turned away. An empty reason: it has left without a word to log."""
        if not reason:
            logger.debug("acceptor.left_early", "%s left before a handshake", address)
            return
        self.turned_away += 1
        self._lines.warning("acceptor.turned_away", "%s was turned away: %s", address, reason)

    def _listen_to(self, peer: _Pending, events: int) -> None:
        self._epoll.modify(peer.fd, events | ONCE)

    def _forget(self, peer: _Pending) -> None:
        peer.is_waiting = False
        del self._pending[peer.fd]
        self._epoll.unregister(peer.fd)


def _why_not_begun(sock: socket.socket) -> str | None:
    """Reason not to begin a handshake with this peer; '' if it has left, None if there is none."""
    silence = silence_of_peer(sock)
    if silence is None:
        return ""
    return "it had to wait for too long, since the master is busy" if silence > MOST_WAIT else None
