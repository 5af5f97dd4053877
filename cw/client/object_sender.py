"""What the master has been sent of a session besides its jobs: the objects that they name, and what these need.

The master keeps what it is sent until a Forget, so it is the session that bounds what the master holds:
of too many objects the oldest give way, and are sent again if a job needs them again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from cw.client.objects import ObjectTable
from cw.net.connection import Connection
from cw.net.loop import Loop
from cw.net.objects import Key, Object, ObjectCache

BYTES_AT_ONCE = 64 * 1024**2
OBJECTS_AT_ONCE = 4096
"""Objects sent before a batch of jobs; of more, the batch is sent in parts."""

FORGET_BYTES = 8 * 1024**2
"""What the caller has dropped is forgotten at once if it is as much, here and at all hops."""

FORGET_SECONDS = 0.1
"""And of less after so long, with what is dropped meanwhile."""

FORGET_SHARE = 20
"""Looking for what is in use takes time for each outstanding job: at most one part in so many of the thread's time."""


class ObjectSender:
    """Of one session to the master that it is connected to. In the session's thread, unless it says otherwise.

    `in_use()` are the numbers of the objects that all outstanding jobs name; `lock` is held around the objects.
    """

    def __init__(
        self,
        objects: ObjectTable,
        lock: threading.RLock,
        loop: Loop,
        in_use: Callable[[], set[int]],
    ) -> None:
        self._objects = objects
        self._lock = lock
        self._loop = loop
        self._in_use = in_use
        self._connection: Connection | None = None
        self._forgotten: deque[Key] = deque()  # here, and not yet at the master; appended to by any thread
        self._is_waiting = False  # to forget what was dropped
        self._not_before = 0.0
        objects.on_dropped = lambda: loop.call_soon_threadsafe(self._on_dropped)
        self.start_anew(None)

    def start_anew(self, connection: Connection | None) -> None:
        """The next master, if there is one, knows nothing."""
        self._connection = connection
        self._cache = ObjectCache()

    def forget_unused(self, latest: int) -> None:
        """Under the lock, any thread: there are too many objects. `latest` is a function that will be used, too."""
        gone = self._objects.forget_unused(self._in_use() | {latest})
        self._forgotten.extend(item.key for item in gone)

    def send_objects(self, connection: Connection, functions: set[int], options: set[int]) -> bool:
        """Send what jobs of these functions and options need and the master has not. False: that is too much for one
        go, or one of them is not there any more."""
        if self._forgotten:
            self._send_forgotten()
        named = functions | options if options else functions
        if self._cache.has_all(named):
            return True
        wanted = self._find(named)
        if wanted is None:
            return False
        missing = self._cache.missing(wanted)
        size = sum(item.size for item in missing)
        is_much = size > BYTES_AT_ONCE or len(missing) > OBJECTS_AT_ONCE
        if is_much and (len(functions) > 1 or len(options) > 1):
            return False
        for message in self._cache.prepare(wanted):
            connection.send(message)
        return True

    def _find(self, numbers: set[int]) -> list[Object] | None:
        with self._lock:
            try:
                return [self._objects.get(number) for number in sorted(numbers)]
            except KeyError:
                return None

    def _send_forgotten(self) -> None:
        keys = [self._forgotten.popleft() for _ in range(len(self._forgotten))]
        for message in self._cache.forget(keys):
            if self._connection is not None:
                self._connection.send(message)

    def _on_dropped(self) -> None:
        """The caller needs some objects no more."""
        with self._lock:
            is_much = self._objects.dropped_size() >= FORGET_BYTES
        if is_much and time.monotonic() >= self._not_before:
            self._forget_dropped()
        elif not self._is_waiting:
            self._wait()

    def _wait(self) -> None:
        self._is_waiting = True
        self._loop.call_later(max(FORGET_SECONDS, self._not_before - time.monotonic()), self._on_time)

    def _on_time(self) -> None:
        self._is_waiting = False
        self._forget_dropped()

    def _forget_dropped(self) -> None:
        began = time.monotonic()
        with self._lock:
            gone = self._objects.forget_dropped(self._in_use())
            is_left = self._objects.dropped_size()
        self._forgotten.extend(item.key for item in gone)
        self._send_forgotten()
        self._not_before = began + FORGET_SHARE * (time.monotonic() - began)
        if is_left and not self._is_waiting:
            self._wait()
