"""Objects of a session that the master has: those that its jobs name, and those that these need.

The master keeps an object until a Forget, so the session limits how many the master holds: above the limit the oldest
are forgotten, and sent again if a job needs them again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from cw.client.session.objects import ObjectTable
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.loop import Loop
from cw.net.objects import Key, Object, ObjectCache, digest_of

BYTES_AT_ONCE = 64 * 1024**2
OBJECTS_AT_ONCE = 4096
"""Most objects, and their bytes, sent before a batch of jobs. A batch that needs more is sent in parts."""

FORGET_BYTES = 8 * 1024**2
"""Bytes of dropped objects from which they are forgotten at once, here and at all hops. Larger: they take
memory longer. Smaller: more searches for what is in use."""

FORGET_SECONDS = 0.1
"""Time after which fewer bytes are forgotten, with what is dropped meanwhile (seconds)."""

FORGET_SHARE = 20
"""The search for what is in use takes at most one part in this many of the thread's time. It grows with the number of
outstanding jobs."""


class ObjectSender:
    """Sends the objects of one session to its master. The methods are for the session's thread, unless they say
    otherwise.

    `in_use()` returns the numbers of the objects that outstanding jobs name; `lock` guards the objects.
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
        self.in_use = in_use
        """Returns the numbers of the objects that outstanding jobs name."""
        self.on_sent: Callable[[list[Object]], None] = lambda sent: None
        """Called after objects were sent."""
        self._connection: Connection | None = None
        self._forgotten: deque[Key] = deque()  # forgotten here, not yet at the master; any thread appends
        self._is_waiting = False  # True if `_on_time` will be called
        self._not_before = 0.0
        objects.on_dropped = lambda: loop.call_soon_threadsafe(self._on_dropped)
        self.start_anew(None)

    def start_anew(self, connection: Connection | None) -> None:
        """Start over with the next master, which knows nothing; None: there is none yet."""
        self._connection = connection
        self._cache = ObjectCache()

    def on_shared_room(self, size: int) -> None:
        """The master has memory for this many bytes of shared values."""
        self._cache.most_shared = size

    def forget_unused(self, latest: int) -> None:
        """Forget objects that no job needs, when there are too many. The caller holds the lock; any thread. `latest`: a
        function that is about to be used."""
        gone = self._objects.forget_unused(self.in_use() | {latest})
        self._forgotten.extend(item.key for item in gone)

    def send_objects(self, connection: Connection, functions: set[int], options: set[int]) -> bool:
        """Send the objects that jobs of these functions and options need, and the master lacks. False: there are too
        many for one batch, or one of them is forgotten."""
        if self._forgotten:
            self._send_forgotten()
        named = functions | options if options else functions
        if self._cache.has_all(named) and not self._cache.shared_size:
            return True
        wanted = self._find(named)
        if wanted is None:
            return False
        missing = self._cache.missing(wanted)
        size = sum(item.size for item in missing)
        shared_size = sum(item.shared_size for item in missing)
        is_much = (
            size > BYTES_AT_ONCE or len(missing) > OBJECTS_AT_ONCE or shared_size > self._cache.most_shared
        )
        if is_much and (len(functions) > 1 or len(options) > 1):
            return False
        for message in self._cache.prepare(wanted):
            connection.send(message)
        self.on_sent(missing)
        return True

    def on_want_digest(self, message: m.WantDigest) -> None:
        """Answer with the digest of a shared value, if it is here. Another thread computes it."""
        connection = self._connection
        found = self._find({message.number})
        if connection is None or found is None or found[0].kind != m.SHARED:
            return
        (item,) = found

        def send() -> None:
            connection.send(m.Digest(item.number, item.digest))

        def compute() -> None:
            item.digest = digest_of(item.payload)
            self._loop.call_soon_threadsafe(send)

        if item.digest:
            send()
        else:
            threading.Thread(target=compute, name="cw-digest", daemon=True).start()

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
        """Forget objects that the caller does not need any more, now or soon."""
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
            gone = self._objects.forget_dropped(self.in_use())
            is_left = self._objects.dropped_size()
        self._forgotten.extend(item.key for item in gone)
        self._send_forgotten()
        self._not_before = began + FORGET_SHARE * (time.monotonic() - began)
        if is_left and not self._is_waiting:
            self._wait()
