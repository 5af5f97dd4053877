"""The objects of sessions: what is here of them, and what a peer has been sent of them. One rule for all hops.

    client           ObjectCache ==> SessionObjects  ObjectCache ==> SessionObjects  ObjectCache ==>  runner
    cw.client.objects   Objects, Forget   master        Objects, Forget   worker        Objects, Forget

An *object* is something that jobs share: a function, a value that functions need, the environment in which they run.
It travels once on each hop, when it is first needed, and what it needs goes before it. Its number never stands for
another content. An object keeps those that it needs alive, and jobs keep their function: so a `Forget`, which
takes a number away, never breaks what is here already, and the bytes go with the last job that needs them.

Pure: no socket, no thread, no clock. The payloads are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from cw.errors import ProtocolError
from cw.net import messages as m

CACHE_BYTES = 256 * 1024**2
"""Bytes of objects that a peer is made to keep. (A larger one, with what it needs, is kept alone.) Larger: the peer's
memory. Smaller: objects travel again."""

CACHE_OBJECTS = 16 * 1024
"""Objects that a peer is made to keep."""

NEED_BYTES = 8
"""What a need counts for in an object's size."""

Key = tuple[int, int]
"""Session and number."""


class Estimate:
    """How long jobs take. Functions whose code is the same object share one."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = math.inf  # not known: nothing is sent ahead


class Object:
    """A numbered object of a session."""

    __slots__ = ("key", "number", "kind", "needs", "payload", "size", "environment", "runs_in", "estimate")

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
        self.size = len(payload) + NEED_BYTES * len(self.needs)
        self.environment = next((need for need in self.needs if need.kind == m.ENVIRONMENT), None)
        """Where this function runs; None: it does not say."""
        self.runs_in = 0 if self.environment is None else self.environment.number
        # What a function needs first, besides its environment, is its code: the estimate outlives a new number that
        # it gets because another value that it reads has changed.
        code = next((need for need in self.needs if need.kind != m.ENVIRONMENT), None)
        self.estimate: Estimate = Estimate() if code is None else code.estimate

    def is_same(self, kind: int, needs: Iterable[int], payload: Any) -> bool:
        """Is this what the object is? (A peer that is back sends what it sent before.)"""
        own = (self.kind, [need.number for need in self.needs])
        return own == (kind, list(needs)) and bool(self.payload == payload)


class SessionObjects:
    """The objects of one session that are here, as its owner has sent them."""

    def __init__(self, session: int = 0, former: Mapping[int, Object] | None = None) -> None:
        """`former`: objects that were here before; one that comes again stays the same object, with its estimate."""
        self.by_number: dict[int, Object] = {}
        self.size = 0
        self._session = session
        self._former = {} if former is None else dict(former)

    def add(self, number: int, kind: int, needs: Iterable[int], payload: Any) -> Object:
        """Take an object in. Raises ProtocolError if one that it needs is not here."""
        known = self.by_number.get(number) or self._former.pop(number, None)
        if known is None or not known.is_same(kind, needs, payload):
            try:
                found = [self.by_number[need] for need in needs]
            except KeyError as error:
                raise ProtocolError(
                    f"object {number} needs object {error.args[0]}, which was not sent"
                ) from None
            known = Object(number, payload, kind, found, self._session)
        self.forget([number])
        self.by_number[number] = known
        self.size += known.size
        return known

    def forget(self, numbers: Iterable[int]) -> list[Object]:
        """Take these numbers away. Returns the objects that were here."""
        gone = [self.by_number.pop(number) for number in numbers if number in self.by_number]
        self.size -= sum(item.size for item in gone)
        return gone

    def forget_former(self) -> None:
        """No more of what was here before will come again."""
        self._former.clear()


class ObjectSet:
    """Objects, oldest first, each with all that it needs."""

    def __init__(self) -> None:
        self.size = 0  # bytes
        self._objects: dict[Key, Object] = {}
        self._users: dict[Key, int] = {}  # how often those in the set need it; never 0

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, item: Object) -> bool:
        return item.key in self._objects

    def has_all(self, numbers: Iterable[int], session: int = 0) -> bool:
        """Are all these objects there?"""
        objects = self._objects
        return all((session, number) in objects for number in numbers)

    def add(self, item: Object) -> None:
        """Add an object; what it needs is there."""
        self._objects[item.key] = item
        self.size += item.size
        for need in item.needs:
            self._users[need.key] = self._users.get(need.key, 0) + 1

    def missing(self, wanted: Iterable[Object]) -> list[Object]:
        """What is not there of these and of what they need: the needs first."""
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
        """Remove these, and what needs them. Returns those that were there, each before what it needs."""
        unwanted = {key for key in keys if key in self._objects}
        gone = self._remove_free(unwanted)
        rest = unwanted.difference(item.key for item in gone)
        if rest:  # objects that stay need them: not any more. (Later ones need earlier ones.)
            for key, item in self._objects.items():
                if any(need.key in rest for need in item.needs):
                    rest.add(key)
            gone += self._remove_free(rest)
        return gone

    def evict(self, keep: Iterable[Object], most_bytes: int, most_objects: int) -> list[Object]:
        """Remove the oldest until the set is within these bounds, but nothing of what is kept or needed.

        Environments stay: they are small, and where one goes, runners end.
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
                todo += self._remove(item)  # what only this one needed is as old
        return gone

    def _remove_free(self, keys: set[Key]) -> list[Object]:
        """Remove those of these that nothing needs, or nothing but others of these."""
        gone = []
        todo = [key for key in keys if key not in self._users]
        while todo:
            item = self._objects[todo.pop()]
            gone.append(item)
            todo += [key for key in self._remove(item) if key in keys]
        return gone

    def _remove(self, item: Object) -> list[Key]:
        """Remove one that nothing needs. Returns what nothing needs any more because of that."""
        del self._objects[item.key]
        self.size -= item.size
        free = []
        for need in item.needs:
            self._users[need.key] -= 1
            if not self._users[need.key]:
                del self._users[need.key]
                free.append(need.key)
        return free

    def check_invariants(self) -> None:
        """Raise AssertionError if the books contradict themselves. For tests."""
        assert self.size == sum(item.size for item in self._objects.values())
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
    """What one peer has been sent of objects and not been told to forget: the only book of that."""

    def __init__(self, most_bytes: int = CACHE_BYTES, most_objects: int = CACHE_OBJECTS) -> None:
        super().__init__()
        self.most_bytes = most_bytes
        self.most_objects = most_objects

    def prepare(self, wanted: Iterable[Object]) -> list[m.Forget | m.Objects]:
        """What to send before jobs of these functions: their objects that the peer has not. Of too many the oldest
        give way, but none that is needed now."""
        sent = self._objects
        wanted = list(wanted)
        unknown = [item for item in wanted if item.key not in sent]
        if not unknown:  # as a rule
            return []
        missing = self.missing(unknown)
        size = sum(item.size for item in missing)
        gone: list[Object] = []
        if self.size + size > self.most_bytes or len(self) + len(missing) > self.most_objects:
            # An eighth more, so that it is not looked for the oldest again at once.
            gone = self.evict(
                wanted, self.most_bytes * 7 // 8 - size, self.most_objects * 7 // 8 - len(missing)
            )
        for item in missing:
            self.add(item)
        return [*_forget(gone), objects_message(missing)]

    def forget(self, keys: Iterable[Key]) -> list[m.Forget]:
        """What to send so that the peer forgets those of these that it has, and what needs them."""
        return _forget(self.take_out(keys))

    def forget_session(self, session: int) -> None:
        """The peer does so by itself: the session is over."""
        self.take_out([key for key in self._objects if key[0] == session])


def closure(wanted: Iterable[Object]) -> list[Object]:
    """These objects and all that they need, the needs first."""
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
