"""The objects of sessions: those that this process holds, and those that a peer was sent. One rule for all hops.

    client           ObjectCache ==> SessionObjects  ObjectCache ==> SessionObjects  ObjectCache ==>  runner
    cw.client.session.objects   Objects, Forget   master        Objects, Forget   worker        Objects, Forget

An *object* is something that jobs share: a function, a value that functions need, the environment in which they run,
what the user asks for them (their options), or a shared value (`cw.share`), which may be large: so these have a bound
of their own, and of too many the one goes that was not used for longest.
It travels once on each hop, when it is first needed, after the objects that it needs. Its number never stands for
a different content. An object keeps those that it needs alive, and jobs keep their function alive: so a `Forget`, which
removes a number, never breaks jobs that are here already, and the bytes are freed with the last job that needs them.

Pure: no socket, no thread, no clock. No payload is opened but that of options, which is JSON: once at each hop, when it
comes, so that all jobs with these options share one value.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from typing import Any, Protocol

from cw.errors import ProtocolError
from cw.net import messages as m
from cw.requirements import JobOptions

CACHE_BYTES = 256 * 1024**2
"""Most bytes of objects that a peer must keep. (A larger object, with those that it needs, is kept alone.) Larger: more
of the peer's memory. Smaller: objects travel again."""

CACHE_OBJECTS = 16 * 1024
"""Most objects that a peer must keep."""

SHARED_BYTES = 256 * 1024**2
"""Most bytes of shared values that a peer must keep until it has said for how many it has memory. (A larger value is
kept alone.)"""

NEED_BYTES = 8
"""Bytes that each need adds to an object's size."""

Key = tuple[int, int]
"""Session and number of an object."""


def digest_of(payload: Any) -> str:
    """Return a cryptographic digest of a payload, in hexadecimal digits. Takes some seconds for a gigabyte, in which
    other threads run."""
    return hashlib.blake2b(payload, digest_size=32).hexdigest()


class Estimate:
    """Estimated duration of jobs. Functions share one if their code is the same object."""

    __slots__ = ("seconds", "tally")

    def __init__(self) -> None:
        self.seconds = math.inf  # unknown: nothing is sent ahead
        self.tally: Any = (
            None  # at the master: the tally of these jobs (`cw.master.policy.tallies`), once there is one
        )


class Object:
    """A numbered object of a session."""

    __slots__ = (
        "key", "number", "kind", "needs", "payload", "size", "environment", "runs_in", "estimate", "options",
        "shared", "shared_size", "is_awaited", "digest",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        payload: Any = b"",
        kind: int = m.FUNCTION,
        needs: Iterable[Object] = (),
        session: int = 0,
    ) -> None:
        self.key = session, number
        self.number = number
        self.kind = kind
        self.needs = tuple(needs)
        self.payload = payload
        is_shared = kind == m.SHARED
        self.shared_size = len(payload) if is_shared else 0
        """Bytes of a shared value, which have a bound of their own; `size`: all others."""
        self.size = NEED_BYTES * len(self.needs) + (0 if is_shared else len(payload))
        shared = [(need,) if need.kind == m.SHARED else need.shared for need in self.needs]
        self.shared: tuple[Object, ...] = tuple(dict.fromkeys(chain(*shared))) if any(shared) else ()
        self.environment = next((need for need in self.needs if need.kind == m.ENVIRONMENT), None)
        """The environment in which this function runs; None: it has none."""
        self.runs_in = 0 if self.environment is None else self.environment.number
        # The first need of a function, besides its environment, is its code. So its estimate survives when it gets a
        # new number because another value that it reads has changed.
        code = next((need for need in self.needs if need.kind != m.ENVIRONMENT), None)
        self.estimate: Estimate = Estimate() if code is None else code.estimate
        self.options = JobOptions.from_wire(payload) if kind == m.OPTIONS else None
        """Its content, if it is of that kind. (From a peer, that may raise ProtocolError.)"""
        self.is_awaited = False
        """True for a shared value that is promised and not here yet."""
        self.digest = ""
        """Digest of the payload, when the client has computed it."""

    def is_ready(self) -> bool:
        """True if no shared value that it needs is awaited."""
        return not self.shared or not any(need.is_awaited for need in self.shared)

    def fill(self, payload: Any) -> None:
        """Note that an awaited value is here."""
        self.payload, self.is_awaited = payload, False

    def is_same(self, kind: int, needs: Iterable[int], payload: Any) -> bool:
        """True if the object has this content. (A peer that is back sends again what it sent before.)"""
        own = (self.kind, [need.number for need in self.needs])
        if own != (kind, list(needs)):
            return False
        if (
            kind == m.SHARED
        ):  # (to compare gigabytes would hold up the process, and numbers do not stand for others)
            return self.shared_size == len(payload)
        return bool(self.payload == payload)


class Needy(Protocol):
    """A job, as far as its objects are concerned."""

    @property
    def function(self) -> Object: ...
    @property
    def options_object(self) -> Object | None: ...


def named_by(jobs: Collection[Needy]) -> dict[Object, None]:
    """The objects that these jobs name, each once: functions and options."""
    found: dict[Object, None] = {}
    for job in jobs:
        found[job.function] = None
        if job.options_object is not None:
            found[job.options_object] = None
    return found


class SessionObjects:
    """The objects of one session that this process holds, as their owner has sent them."""

    def __init__(self, session: int = 0, former: Mapping[int, Object] | None = None) -> None:
        """Begin empty. `former`: objects that were here before; one that comes again stays the same object, with its
        estimate."""
        self.by_number: dict[int, Object] = {}
        self.size = 0
        self.shared_size = 0  # bytes of shared values
        self._session = session
        self._former = {} if former is None else dict(former)

    def add(self, number: int, kind: int, needs: Iterable[int], payload: Any) -> Object:
        """Add an object. Raises ProtocolError if one that it needs is not here, or for faulty options."""
        known = self.by_number.get(number) or self._former.pop(number, None)
        if known is None or not known.is_same(kind, needs, payload):
            try:
                found = [self.by_number[need] for need in needs]
            except KeyError as error:
                raise ProtocolError(
                    f"object {number} needs object {error.args[0]}, which was not sent"
                ) from None
            known = Object(number, payload, kind, found, self._session)
        self.put(known)
        return known

    def promise(self, number: int, size: int, awaited: Object | None) -> Object:
        """Add a shared value of this size that comes later. `awaited`: it is awaited, under a number that was
        forgotten."""
        known = self.by_number.get(number) or awaited
        if known is None:
            known = Object(number, b"", m.SHARED, (), self._session)
            known.shared_size, known.is_awaited = size, True
        if known.kind != m.SHARED or known.shared_size != size:
            raise ProtocolError(f"object {number} is promised as another one")
        self.put(known)
        return known

    def put(self, item: Object) -> None:
        """Add an object (again) under its number."""
        self.forget([item.number])
        self.by_number[item.number] = item
        self.size += item.size
        self.shared_size += item.shared_size

    def forget(self, numbers: Iterable[int]) -> list[Object]:
        """Remove these numbers. Returns the objects that were here."""
        gone = [self.by_number.pop(number) for number in numbers if number in self.by_number]
        self.size -= sum(item.size for item in gone)
        self.shared_size -= sum(item.shared_size for item in gone)
        return gone

    def forget_former(self) -> None:
        """Drop the former objects: no more of them will come again."""
        self._former.clear()


class ObjectSet:
    """Objects, oldest first, each with all that it needs."""

    def __init__(self) -> None:
        self.size = 0  # bytes, without shared values
        self.shared_size = 0  # bytes of shared values
        self._objects: dict[Key, Object] = {}
        self._shared: dict[
            Key, Object
        ] = {}  # shared values: the one that was not used for longest is the first
        self._users: dict[Key, int] = {}  # number of times that objects in the set need it; never 0

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, item: Object) -> bool:
        return item.key in self._objects

    def has_all(self, numbers: Iterable[int], session: int = 0) -> bool:
        """True if the set has all these objects."""
        objects = self._objects
        for number in numbers:  # (no generator: each submit asks)
            if (session, number) not in objects:
                return False
        return True

    def add(self, item: Object) -> None:
        """Add an object; the set must have those that it needs."""
        self._objects[item.key] = item
        self.size += item.size
        if item.kind == m.SHARED:
            self._shared[item.key] = item
            self.shared_size += item.shared_size
        for need in item.needs:
            self._users[need.key] = self._users.get(need.key, 0) + 1

    def missing(self, wanted: Iterable[Object]) -> list[Object]:
        """The objects that the set lacks of these and of those that they need, the needs first."""
        found: dict[Key, Object] = {}
        todo = [(item, False) for item in reversed(list(wanted))]
        while todo:
            item, is_ready = todo.pop()
            if item.key in self._objects or item.key in found:
                continue
            if is_ready or not item.needs:
                found[item.key] = item
            else:
                todo.append((item, True))
                todo += [(need, False) for need in reversed(item.needs)]
        return list(found.values())

    def take_out(self, keys: Iterable[Key]) -> list[Object]:
        """Remove these objects, and those that need them. Returns the removed ones, each before those that it needs."""
        unwanted = {key for key in keys if key in self._objects}
        gone = self._remove_free(unwanted)
        rest = unwanted.difference(item.key for item in gone)
        if rest:  # other objects need them, and go too. (Later ones need earlier ones.)
            for key, item in self._objects.items():
                if any(need.key in rest for need in item.needs):
                    rest.add(key)
            gone += self._remove_free(rest)
        return gone

    def evict(self, keep: Iterable[Object], most_bytes: int, most_objects: int) -> list[Object]:
        """Remove the oldest objects until the set is within these bounds, but none that are kept or needed.

        Environments stay: they are small, and removing one ends runners.
        """
        if self.size <= most_bytes and len(self._objects) <= most_objects:
            return []
        kept = {item.key for item in closure(keep)}
        gone: list[Object] = []
        for key in list(self._objects):
            todo = [key]
            while todo and (self.size > most_bytes or len(self._objects) > most_objects):
                item = self._objects.get(todo.pop())
                if item is None or item.key in kept or item.key in self._users or item.kind == m.ENVIRONMENT:
                    continue
                gone.append(item)
                todo += self._remove(item)  # objects that only this one needed are as old
        return gone

    def touch(self, items: Iterable[Object]) -> None:
        """Note that the shared values that these objects need are used now."""
        for item in items:
            for need in item.shared:
                if self._shared.pop(need.key, None) is not None:
                    self._shared[need.key] = need

    def evict_shared(self, keep: Iterable[Object], most_bytes: int) -> list[Object]:
        """Remove the shared values that were not used for longest, with what needs them, until the set is within this
        bound, but none that are kept."""
        kept = {item.key for item in closure(keep)}
        gone: list[Object] = []
        for key in list(self._shared):
            if self.shared_size <= most_bytes:
                break
            if key not in kept:
                gone += self.take_out([key])
        return gone

    def _remove_free(self, keys: set[Key]) -> list[Object]:
        """Remove those of these objects that nothing needs except others of these."""
        gone = []
        todo = [key for key in keys if key not in self._users]
        while todo:
            item = self._objects[todo.pop()]
            gone.append(item)
            todo += [key for key in self._remove(item) if key in keys]
        return gone

    def _remove(self, item: Object) -> list[Key]:
        """Remove an object that nothing needs. Returns the keys that nothing needs any more after that."""
        del self._objects[item.key]
        self.size -= item.size
        if item.kind == m.SHARED:
            del self._shared[item.key]
            self.shared_size -= item.shared_size
        free = []
        for need in item.needs:
            self._users[need.key] -= 1
            if not self._users[need.key]:
                del self._users[need.key]
                free.append(need.key)
        return free

    def check_invariants(self) -> None:
        """Raise AssertionError if the set contradicts itself. For tests."""
        assert self.size == sum(item.size for item in self._objects.values())
        shared = {key: item for key, item in self._objects.items() if item.kind == m.SHARED}
        assert self._shared == shared
        assert self.shared_size == sum(item.shared_size for item in shared.values())
        users: dict[Key, int] = {}
        seen: set[Key] = set()
        for key, item in self._objects.items():
            assert item.key == key
            seen.add(key)
            for need in item.needs:
                assert need.key in seen, "what an object needs is there, and older"
                users[need.key] = users.get(need.key, 0) + 1
        assert users == self._users


class ObjectCache(ObjectSet):
    """The objects that one peer was sent and must keep: the only record of these."""

    def __init__(self, most_bytes: int = CACHE_BYTES, most_objects: int = CACHE_OBJECTS) -> None:
        super().__init__()
        self.most_bytes = most_bytes
        self.most_objects = most_objects
        self.most_shared = SHARED_BYTES
        """Most bytes of shared values."""

    def prepare(self, wanted: Iterable[Object]) -> list[m.Forget | m.Objects]:
        """Messages to send before jobs that name these objects, with what the peer lacks of them. If there are too
        many objects, the oldest are forgotten, but none that is needed now."""
        sent = self._objects
        wanted = list(wanted)
        if self._shared:
            self.touch(wanted)
        unknown = [item for item in wanted if item.key not in sent]
        if not unknown:  # the common case
            return []
        missing = self.missing(unknown)
        size = sum(item.size for item in missing)
        gone: list[Object] = []
        if self.size + size > self.most_bytes or len(self) + len(missing) > self.most_objects:
            # Evict an eighth more than needed, so that the next call need not search again.
            gone = self.evict(
                wanted, self.most_bytes * 7 // 8 - size, self.most_objects * 7 // 8 - len(missing)
            )
        shared_size = sum(item.shared_size for item in missing)
        if shared_size and self.shared_size + shared_size > self.most_shared:
            gone += self.evict_shared(wanted, self.most_shared - shared_size)
        for item in missing:
            self.add(item)
        return [*_forget(gone), objects_message(missing)]

    def forget(self, keys: Iterable[Key]) -> list[m.Forget]:
        """Messages to send so that the peer forgets those of these objects that it has, and those that need them."""
        return _forget(self.take_out(keys))

    def forget_session(self, session: int) -> None:
        """Remove a session's objects. The peer forgets them by itself, since the session is over."""
        self.take_out([key for key in self._objects if key[0] == session])


def closure(wanted: Iterable[Object]) -> list[Object]:
    """List these objects and all that they need, the needs first."""
    return ObjectSet().missing(wanted)


def objects_message(items: list[Object]) -> m.Objects:
    return m.Objects(
        [item.key[0] for item in items],
        [item.number for item in items],
        [item.kind for item in items],
        [[need.number for need in item.needs] for item in items],
        [item.payload for item in items],
    )


def _forget(items: list[Object]) -> list[m.Forget]:
    if not items:
        return []
    return [m.Forget([item.key[0] for item in items], [item.number for item in items])]
