"""The I/O loop of master, worker and client: all sockets in one epoll, all timers in one heap.

    other threads --- wake() ---.                       .---> Connection: messages   (cw.net.connection)
    signals ----- wakeup fd ----+--> epoll --> serve ---+---> other watched descriptors (cw.net.acceptor)
    sockets --------------------'              |        '---> timers that are due    (cw.net.timers)
                                               |
         unsent frames of all connections, written once at the end of each wakeup
         (what a lone message brings: before that, by Connection.hurry)

bluelet walks all its coroutines at each wakeup and its `select` takes no descriptor above 1023, so `serve` is the only
coroutine, and waits in the epoll itself until a socket is ready or a timer is due. A turn of bluelet costs about 10 us,
and several times that in a process that has slept, so `serve` yields to it only now and then. Handlers are plain
functions and nothing interleaves in them. Time comes from `time.monotonic()`.

Sockets never block. Only `Loop.wake` and `Loop.call_soon_threadsafe` may be called from other threads; a thread that
holds the loop's lock may also add and cancel timers.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import bluelet  # type: ignore[import-untyped,unused-ignore]

from cw.net.timers import Timer, Timers

READ = 256 * 1024
"""Most bytes read from a socket at once."""

IN, OUT = select.EPOLLIN, select.EPOLLOUT

MOST_SECONDS = 3600.0
"""Longest time until `serve` yields to bluelet (seconds). Longer: more than the kernel takes as a timeout, from 24 days
on. Shorter: a process at rest wakes up for it."""

MOST_EVENTS = 256
"""Most descriptors handled in one wakeup."""


class Writer(Protocol):
    """The part of a connection that a loop uses: it is flushed after each wakeup, and closed with the loop."""

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Loop:
    """Runs the callbacks of one process's (or client thread's) sockets, timers and signals."""

    def __init__(self) -> None:
        self._epoll = select.epoll()  # made before any socket: its descriptor is small
        self._callbacks: dict[int, Callable[[int], None]] = {}  # by descriptor
        self._receiver, self._waker = socket.socketpair()
        self._receiver.setblocking(False)
        self._waker.setblocking(False)
        self.watch(self._receiver.fileno(), IN, self._on_wake)
        self._soon: deque[Callable[[], None]] = deque()  # appended by any thread
        self._timers = Timers()  # changed under the lock
        self._thread: int | None = None  # the thread of `run`
        self.connections: set[Writer] = set()
        """The open connections."""
        self.unflushed: set[Writer] = set()
        """Connections with something to write at the end of the wakeup."""
        self.is_lone = False
        """True if the message that is being handled is the only thing to do in this wakeup, as far as is known."""
        self._stopped = False
        self._signals: dict[int, Callable[[], None]] = {}
        self._caught: deque[int] = deque()
        self.scratch = memoryview(bytearray(READ))  # every socket reads through this
        self.on_wake: Callable[[], None] = lambda: None
        """Called in the loop's thread after `wake()`."""
        # (A lock, and no empty context, also where nobody shares it: it is C code, and this is on each job's way.)
        self.lock: Any = threading.RLock()
        """Held while callbacks run. Another thread may use the connections while it holds this."""

    # --- from any thread ---

    def wake(self) -> None:
        """Have `on_wake` called soon. Any thread; also a signal handler."""
        # If it is full, a wakeup is on its way anyway. If it is closed, the loop has ended.
        with contextlib.suppress(BlockingIOError, OSError):
            self._waker.send(b"\0")

    def call_soon_threadsafe(self, function: Callable[[], None]) -> None:
        """Call `function` in the loop's thread. Any thread."""
        self._soon.append(function)
        self.wake()

    # --- the loop's thread ---

    def run(self) -> None:
        """Serve until `stop()`. An exception in a callback is our bug: it ends the loop and is raised here."""
        self._thread = threading.get_ident()
        try:
            bluelet.run(self._serve())
        finally:
            self._close()

    def stop(self) -> None:
        self._stopped = True
        self.wake()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call `callback()` once, in this many seconds, unless the timer is cancelled before."""
        return self._added(self._timers.call_later(time.monotonic() + seconds, callback))

    def call_every(self, seconds: float, callback: Callable[[float], bool]) -> Timer:
        """Call `callback(now)` every this many seconds, for as long as it returns true and is not cancelled."""
        return self._added(self._timers.call_every(time.monotonic() + seconds, seconds, callback))

    def on_signal(self, number: int, callback: Callable[[], None]) -> None:
        """Call `callback()` in the loop when the signal comes. Must be called in the process's main thread."""
        self._signals[number] = callback
        # The handler only appends: it must survive another signal in the same millisecond.
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

    def flush(self) -> None:
        """Write what was queued in this wakeup."""
        while self.unflushed:
            self.unflushed.pop().flush()

    def drop_after_fork(self) -> None:
        """Close our descriptors in a forked child. The epoll is shared with the parent: unregister nothing."""
        self._epoll.close()
        self._receiver.close()
        self._waker.close()

    def _added(self, timer: Timer) -> Timer:
        if threading.get_ident() != self._thread:  # the loop may wait in the epoll until a later time
            self.wake()
        return timer

    def _serve(self) -> Iterator[Any]:
        while not self._stopped:
            yield bluelet.null()
            until = time.monotonic() + MOST_SECONDS
            while not self._stopped and (now := time.monotonic()) < until:
                due = self._timers.next_due()
                if due <= now:
                    self._run_timers(now)
                    if self._stopped:
                        break
                    due = now  # look at the sockets, and then at the timers again
                self._handle(self._epoll.poll(min(due, until) - now, MOST_EVENTS))
        self.flush()

    def _handle(self, ready: list[tuple[int, int]]) -> None:
        callbacks = self._callbacks
        with self.lock:
            self.is_lone = len(ready) == 1
            for fd, events in ready:
                callback = callbacks.get(fd)
                if callback is not None:  # otherwise a callback before this one has closed it
                    callback(events)
            self.is_lone = False
            while self.unflushed:
                self.unflushed.pop().flush()

    def _run_timers(self, now: float) -> None:
        with self.lock:
            self._timers.run_due(now)
            self.flush()

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
        for connection in list(self.connections):
            connection.close()
        self._callbacks.clear()
        self._epoll.close()
        self._receiver.close()
        self._waker.close()
