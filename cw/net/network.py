"""The I/O loop of master, worker and client: all sockets in one epoll behind one bluelet event.

    other threads --- wake() ---.                       .---> Connection.on_message(message)
    signals ----- wakeup fd ----+--> epoll --> serve ---+---> who else watches a descriptor (cw.master.gate)
    sockets --------------------'      ^       tick ----'---> tick callbacks, once a period
                                       |
               Connection.send() --> unsent frames, written once at the end of each wakeup

bluelet walks all its coroutines at each wakeup and its `select` takes no descriptor above 1023, so all
sockets sit in one epoll (whose own descriptor is small: it is made first), and there are few coroutines:
`serve`, and one for each tick. A turn of bluelet costs some 10 us, several times that in a process which had
slept; so `serve` keeps the floor until the next tick is due, waiting in the epoll itself. bluelet switches
only at `yield`: handlers are plain functions and nothing interleaves in them. Time comes from
`time.monotonic()`.

Sockets never block. What a socket does not take is kept in its Connection, in two lanes: control, and data
(payloads, in order). A slow peer delays only itself. Only `Loop.wake` and `Loop.call_soon` may be called
from other threads.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import select
import signal
import socket
import struct
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import bluelet

from cw import credential
from cw.errors import ProtocolError
from cw.net import address, memory, wire
from cw.program import RateLimited

logger = logging.getLogger("cw.network")
_lines = RateLimited(logger, burst=10)

READ = 256 * 1024
"""Bytes asked from a socket at once."""

MOST_FILES = 64
"""Descriptors taken from a socket at once, or held for frames to come; the kernel gives them frame by frame."""

NOBODY = 65534
"""The kernel's overflow uid: what a user of another user namespace looks like."""

TURN = 4 * READ
"""Bytes read from one socket before the others have their turn."""

WRITE = 256 * 1024
"""Bytes of small frames put together into one write."""

SILENCE = 30.0
"""Seconds without an answer from the other host's kernel after which a connection is dead. It is asked after half."""


IN, OUT = select.EPOLLIN, select.EPOLLOUT

MOST_SECONDS = 10.0
"""`serve` leaves the floor to bluelet at least so often."""

MOST_EVENTS = 256
"""Descriptors looked at in one wakeup."""


class _Ready(bluelet.WaitableEvent):
    """bluelet's view of the epoll: readable when any of its descriptors is ready."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._waitables = ((epoll.fileno(),), (), ())

    def waitables(self) -> Any:
        return self._waitables

    def fire(self) -> Any:
        # bluelet ends a coroutine whose event raises OSError, without a word: this must not.
        try:
            return self._epoll.poll(0, MOST_EVENTS)
        except OSError:
            return []


class _Sleep(bluelet.SleepEvent):
    """bluelet's sleep, by the monotonic clock: a step of the wall clock must not stop the ticks."""

    def __init__(self, seconds: float) -> None:
        self._due = time.monotonic() + seconds

    @property
    def wakeup_time(self) -> float:  # which bluelet compares with the wall clock, at once
        return time.time() + self._due - time.monotonic()

    def time_left(self) -> float:
        return max(self._due - time.monotonic(), 0.0)


class Loop:
    """Runs the callbacks of one process's (or client thread's) sockets, ticks and signals."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}  # by descriptor
        self._receiver, self._waker = socket.socketpair()
        self._receiver.setblocking(False)
        self._waker.setblocking(False)
        self.watch(self._receiver.fileno(), IN, self._on_wake)
        self._soon: deque[Callable[[], None]] = deque()  # appended by any thread
        self._spawns: deque[Any] = deque()
        self._due: dict[Any, float] = {}  # when each tick is due, by its coroutine
        self.unflushed: set[Connection] = set()  # with something to be written at the end of the wakeup
        self._stopped = False
        self._signals: dict[int, Callable[[], None]] = {}
        self._caught: deque[int] = deque()
        self.scratch = memoryview(bytearray(READ))  # every socket reads through this
        self.on_wake: Callable[[], None] = lambda: None
        """Called in the loop's thread after `wake()`."""
        self.lock: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        """Held while callbacks run. Another thread that holds it instead may use the connections."""

    # --- from any thread ---

    def wake(self) -> None:
        """Have `on_wake` called soon. Any thread; also a signal handler."""
        # Full: a wakeup is on its way anyway. Closed: nobody is left to be woken.
        with contextlib.suppress(BlockingIOError, OSError):
            self._waker.send(b"\0")

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call `function` in the loop's thread. Any thread."""
        self._soon.append(function)
        self.wake()

    # --- the loop's thread ---

    def run(self) -> None:
        """Serve until `stop()`. An exception in a callback is ours: it ends the loop and is raised here."""
        try:
            bluelet.run(self._serve())
        finally:
            self._close()

    def stop(self) -> None:
        self._stopped = True
        self.wake()

    def tick(self, seconds: float, callback: Callable[[float], bool]) -> None:
        """Call `callback(now)` every so many seconds, for as long as it returns true."""
        ticking = self._ticking(seconds, callback, lambda: ticking)
        self._spawns.append(ticking)
        self.wake()

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback()` once, in so many seconds."""
        self.tick(seconds, lambda now: bool(callback()) and False)

    def on_signal(self, number: int, callback: Callable[[], None]) -> None:
        """Call `callback()` in the loop when the signal comes. Only for the process's main thread."""
        self._signals[number] = callback
        # An append is all that the handler does: it must survive another signal in the same millisecond.
        signal.signal(number, lambda caught, frame: self._caught.append(caught))
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(events)` when the descriptor is ready; a second call changes the events; 0 ends it."""
        known = fd in self._callbacks
        if not events:
            if known:
                del self._callbacks[fd]
                self._epoll.unregister(fd)
            return
        self._callbacks[fd] = callback
        if known:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)

    def drop_after_fork(self) -> None:
        """In a forked child: close our descriptors. The epoll is shared with the parent: unregister nothing."""
        self._epoll.close()
        self._receiver.close()
        self._waker.close()

    def _serve(self) -> Iterator[Any]:
        ready = _Ready(self._epoll)
        while not self._stopped:
            while self._spawns:
                ticking = self._spawns.popleft()
                self._due[ticking] = 0.0
                yield bluelet.spawn(ticking)
            self._handle((yield ready))
            while not self._stopped and not self._spawns:
                left = min(self._due.values(), default=math.inf) - time.monotonic()
                if left <= 0 or not self._handle(self._epoll.poll(min(left, MOST_SECONDS), MOST_EVENTS)):
                    break  # it is bluelet's turn
        self.flush()
        while self._due:  # or bluelet would wait until the last of them has slept
            yield bluelet.kill(self._due.popitem()[0])

    def _handle(self, ready: list[tuple[int, int]]) -> bool:
        callbacks = self._callbacks
        with self.lock:
            for fd, events in ready:
                callback = callbacks.get(fd)
                if callback is not None:  # else closed by a callback before this one
                    callback(events)
            while self.unflushed:
                self.unflushed.pop().flush()
        return bool(ready)

    def _ticking(
        self, seconds: float, callback: Callable[[float], bool], me: Callable[[], Any]
    ) -> Iterator[Any]:
        going_on = True
        while going_on and not self._stopped:
            self._due[me()] = time.monotonic() + seconds
            yield _Sleep(seconds)
            if not self._stopped:
                with self.lock:
                    going_on = callback(time.monotonic())
                    self.flush()
        if not self._stopped:
            del self._due[me()]
            return
        while True:  # `_serve` ends it: bluelet cannot kill a coroutine that has ended by itself
            yield _Sleep(MOST_SECONDS)

    def flush(self) -> None:
        """Write what was queued in this wakeup."""
        while self.unflushed:
            self.unflushed.pop().flush()

    def _on_wake(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._receiver.recv(4096)
        while self._caught:
            self._signals[self._caught.popleft()]()
        while self._soon:
            self._soon.popleft()()
        self.on_wake()

    def _close(self) -> None:
        if self._signals:
            signal.set_wakeup_fd(-1)
        for callback in list(self._callbacks.values()):
            owner = getattr(callback, "__self__", None)
            if isinstance(owner, Connection):
                owner.close()
        self._callbacks.clear()
        self._epoll.close()
        self._receiver.close()
        self._waker.close()


_TCP_INFO = struct.Struct("2x B B 4x 48x I".replace(" ", ""))
"""Of tcp_info(7): unanswered retransmissions and probes; milliseconds since the other host's last answer."""


class Connection:
    """A connected socket that speaks messages. Belongs to its loop's thread.

    `on_message(message)` may raise ProtocolError: the connection is closed then, with one log line.
    `on_close(reason)` is called once, unless `close()` was called here; `on_drained()` each time that
    all which was unsent has been taken by the socket.
    """

    def __init__(self, loop: Loop, sock: Any, *, decoder: wire.Decoder | None = None) -> None:
        """`sock` is a socket or a `tls.Socket`, which behaves like one."""
        self.decoder = decoder or wire.Decoder()
        self.on_message: Callable[[Any], None] = lambda message: None
        self.on_close: Callable[[str], None] = lambda reason: None
        self.on_drained: Callable[[], None] = lambda: None
        self.unsent = 0  # bytes
        self.heard_at = self._counted_at = time.monotonic()
        self._silence = 0
        self.closed = False
        self.peer = name_of_peer(sock)
        self._loop = loop
        self.is_local = self.passes_files = getattr(sock, "family", None) == socket.AF_UNIX
        """The peer is on this machine, and large payloads go to it as memory files, uncopied."""
        self._socket = sock
        self._receive = self._receive_with_files if self.passes_files else sock.recv_into
        # Bytes that a secured socket holds in itself; the selector does not tell of them.
        self._pending: Callable[[], int] = getattr(sock, "pending", int)
        self._control: deque[wire.Frame] = deque()
        self._data: deque[wire.Frame] = deque()
        self._writing: deque[Any] = deque()  # begun: must be finished before a lane has its turn
        self._events = IN
        self._closing = False  # close when all is sent
        sock.setblocking(False)
        loop.watch(sock.fileno(), self._events, self._on_ready)

    def send(self, message: tuple[Any, ...]) -> None:
        """Queue a message; it is written at the end of this wakeup, as far as the socket takes it."""
        if self.closed or self._closing:
            return
        lane = self._control if wire.is_control(message) else self._data
        for frame in wire.encode(message, self.passes_files):
            lane.append(frame)
            self.unsent += _size(frame)
        self._loop.unflushed.add(self)

    def send_last(self, message: tuple[Any, ...]) -> None:
        """Send this instead of the payloads that wait; what has begun goes first."""
        self.unsent -= sum(map(_size, self._data))
        self._data.clear()
        self.send(message)

    def set_patience(self, seconds: float) -> None:
        """How long the kernel waits for another host before the connection is dead."""
        if not self.is_local:
            tune(self._socket, seconds)

    def bear_with_reader(self) -> None:
        """The other end may stop reading for as long as it likes, as a client does whose callback blocks.

        With TCP_USER_TIMEOUT the kernel would take that for death, although its host answers. `is_unanswered` is to
        be asked instead.
        """
        if not self.is_local:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)

    def is_unanswered(self, seconds: float) -> bool:
        """Has the other host not answered for so long what it was sent?"""
        if self.is_local or self.closed:
            return False
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        retransmits, probes, last_answer = _TCP_INFO.unpack(info)
        return last_answer > 1000 * seconds and (retransmits > 0 or probes > 1)

    def fail(self, reason: str) -> None:
        """Close it, as if the kernel had said that it is dead."""
        self._fail(reason)

    def close(self) -> None:
        """Close at once; what is unsent is lost."""
        if not self.closed:
            self.closed = True
            self._loop.watch(self._socket.fileno(), 0, self._on_ready)
            self._socket.close()
            self.decoder.close()
            for queue in (self._control, self._data, self._writing):
                queue.clear()
            self.unsent = 0

    def count_silence(self) -> int:
        """To be called regularly: the number of calls since something was heard.

        Not by the clock: a process that was itself stopped for a while must not take its peers for dead.
        """
        self._silence = self._silence + 1 if self._counted_at == self.heard_at else 0
        self._counted_at = self.heard_at
        return self._silence

    def drop_after_fork(self) -> None:
        """In a forked child: close our descriptor of the socket; the parent's is untouched."""
        self.closed = True
        self._socket.close()

    def close_when_sent(self) -> None:
        """Close as soon as all that is queued has been taken by the socket."""
        self._closing = True
        self._loop.unflushed.add(self)

    def flush(self) -> None:
        """Write what the socket takes; be called again when it takes more."""
        try:
            while not self.closed:
                if not self._writing and not self._gather():
                    break
                buffer = self._writing[0]
                if type(buffer) is tuple:
                    # The descriptor goes with the first byte; should not all be taken, the rest is plain bytes.
                    buffer, attachment = buffer
                    sent = socket.send_fds(self._socket, [buffer], [attachment.memory.fd])
                    self.unsent -= len(attachment.memory)
                else:
                    sent = self._socket.send(buffer)
                self.unsent -= sent
                if sent == len(buffer):
                    self._writing.popleft()
                else:
                    self._writing[0] = memoryview(buffer)[sent:]
        except BlockingIOError:
            self._want(IN | OUT)
            return
        except OSError as error:
            self._fail(error.strerror or str(error))
            return
        if self.closed:
            return
        if self._closing:
            self.close()
        else:
            self._want(IN)
            self.on_drained()

    def _gather(self) -> bool:
        """Move the next frames to `_writing`: all control, then some data. Small ones are put together."""
        small: list[Any] = []
        size = 0
        while size < WRITE and (self._control or self._data):
            frame = self._control.popleft() if self._control else self._data.popleft()
            if type(frame[-1]) is wire.Attachment:
                if small:
                    self._writing.append(b"".join(small))
                    small = []
                self._writing.append(tuple(frame))
                continue
            for buffer in frame:
                if len(buffer) > wire.LARGE:
                    if small:
                        self._writing.append(b"".join(small))
                        small = []
                    self._writing.append(buffer)
                else:
                    small.append(buffer)
                size += len(buffer)
        if small:
            self._writing.append(b"".join(small))
        return bool(self._writing)

    def _want(self, events: int) -> None:
        if events != self._events:
            self._events = events
            self._loop.watch(self._socket.fileno(), events, self._on_ready)

    def _on_ready(self, events: int) -> None:
        if self.closed:
            return  # by a callback of the same wakeup; the descriptor may be another's by now
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
                for message in self._decode(into[:count], target is not None):
                    if self.closed or self._closing:
                        return
                    # Again: it was decoded before the message in front of it changed what may come.
                    if decoder.accepts is not None and type(message) not in decoder.accepts:
                        raise ProtocolError(f"{type(message).__name__} is not expected here")
                    self.on_message(message)
            except ProtocolError as error:
                _lines.error("%s breaks the protocol, closing: %s", self.peer, error)
                self._fail(f"broke the protocol: {error}")
            if count < len(into):
                return
            budget -= count

    def _decode(self, data: memoryview, is_direct: bool) -> list[Any]:
        try:
            return self.decoder.received(len(data)) if is_direct else self.decoder.feed(data)
        except ProtocolError:
            raise
        except Exception as error:
            # An oversight of ours. The decoder has nothing to do with other connections: only this one ends.
            logger.exception("what %s sent cannot be read", self.peer)
            raise ProtocolError(f"it cannot be read: {error!r}") from error

    def _receive_with_files(self, into: memoryview) -> int:
        count, fds = receive_with_files(self._socket, into)
        self.decoder.files.extend(fds)
        if len(self.decoder.files) > MOST_FILES:
            raise OSError(0, "it sends more descriptors than frames that need one")
        return count

    def _fail(self, reason: str) -> None:
        if not self.closed:
            self.close()
            self.on_close(reason)


def _size(frame: wire.Frame) -> int:
    size = sum(map(len, frame))
    return size + len(frame[-1].memory) if type(frame[-1]) is wire.Attachment else size


_ANCILLARY = socket.CMSG_SPACE(MOST_FILES * array("i").itemsize)


def receive_with_files(sock: socket.socket, into: memoryview, flags: int = 0) -> tuple[int, list[int]]:
    """As `recv_into`, on a socket of this machine; also the descriptors that came with the bytes."""
    count, ancillary, flags, _ = sock.recvmsg_into([into], _ANCILLARY, flags | socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += array("i", data[: len(data) - len(data) % 4])
    if flags & socket.MSG_CTRUNC:  # one was lost: its sender must send again, and no file
        for fd in fds:
            os.close(fd)
        error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        memory.is_short(error)
        raise error
    return count, fds


def is_own_peer(sock: socket.socket) -> bool:
    """Does the process at the other end, on this machine, belong to this user? The kernel says so.

    It tells who called connect(), or listen(). A user whom this user namespace does not know looks like
    NOBODY: who is NOBODY himself can tell nobody apart, and has to do with TLS.
    """
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[1] == os.geteuid() != NOBODY


def local_name(port: int, fingerprint: str) -> str:
    """Beside the TCP port, a master listens here for peers on its own machine (an abstract name: no file).

    Anybody can take a name like that, or connect to it: both sides ask `is_own_peer`. The fingerprint of the
    credential keeps apart clusters of the same user: peers with another credential do not meet here, and are
    turned away at the TCP port.
    """
    return f"\0cw/{port}/{fingerprint[:32]}"


def listen_locally(port: int, fingerprint: str) -> socket.socket | None:
    """A socket for peers on this machine, beside the one that listens on the TCP port. None: the name is taken."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(local_name(port, fingerprint))
        listener.listen(1024)
    except OSError:
        listener.close()
        return None
    return listener


def connect_locally(port: int, fingerprint: str) -> socket.socket | None:
    """Connect to this user's master on this machine. None: there is none at that port with that credential."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(local_name(port, fingerprint))
        if is_own_peer(sock):
            return sock
    except OSError:
        pass
    sock.close()
    return None


def name_of_peer(sock: socket.socket) -> str:
    """'HOST:PORT' of the other end, for log lines."""
    try:
        name = sock.getpeername()
    except OSError:
        return "(gone)"
    if not isinstance(name, tuple):
        return "this machine"
    # (A listener that takes IPv4, too, shows it with that prefix.)
    return address.join(name[0].removeprefix("::ffff:"), name[1])


def tune(sock: Any, patience: float = SILENCE) -> None:
    """Small frames go at once; a dead host is found by the kernel, however busy this process is."""
    patience = min(max(patience, 1.0), 3600.0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(patience / 2)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int(patience / 6)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(patience * 1000))


def dial(
    loop: Loop,
    addresses: Iterable[tuple[str, int]],
    timeout: float,
    on_connected: Callable[[socket.socket, tuple[str, int]], None],
    on_failed: Callable[[list[tuple[tuple[str, int], OSError]]], None],
) -> None:
    """Connect to the first master that has our credential, in a thread of its own: names may take long to
    resolve, and a handshake may take long.

    One of the callbacks is called, in the loop's thread; `on_failed` gets each address with its error.
    """

    def work() -> None:
        failures: list[tuple[tuple[str, int], OSError]] = []
        for where in addresses:
            try:
                sock = _connect(where, timeout)
            except UnicodeError:  # what getaddrinfo says to 'a..b'
                failures.append((where, socket.gaierror(socket.EAI_NONAME, "Name or service not known")))
                continue
            except OSError as error:
                failures.append((where, error))
                continue
            loop.call_soon(partial(on_connected, sock, where))
            return
        loop.call_soon(lambda: on_failed(failures))

    threading.Thread(target=work, name="cw-dial", daemon=True).start()


def _connect(where: tuple[str, int], timeout: float) -> Any:
    """A socket through which the master at that address has proved that it has our credential."""
    host, port = where
    try:
        # Read each time: it may have come, or been changed, since the last time.
        mine = credential.load()
    except credential.CredentialMissing as error:
        # If nobody listens there, that is the sooner thing to mend.
        socket.create_connection(where, timeout).close()
        raise error
    if address.is_loopback(host):
        local = connect_locally(port, mine.fingerprint)
        if local is not None:
            return local
    failure: OSError | None = None
    for family, kind, protocol, _, name in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(timeout)
            sock.connect(name)
            if sock.getsockname()[0] == name[0]:  # this machine, by a name of its own
                local = connect_locally(port, mine.fingerprint)
                if local is not None:
                    sock.close()
                    return local
            tune(sock)
            from cw.net import tls  # takes 15 ms, and peers on the master's machine do not need it

            return tls.connect(sock, tls.Contexts(mine), address.join(host, port), timeout)
        except OSError as error:
            sock.close()
            if not isinstance(failure, credential.WrongCredential):  # that is the one to be told of
                failure = error
    assert failure is not None  # getaddrinfo gives one address, or raises
    raise failure
