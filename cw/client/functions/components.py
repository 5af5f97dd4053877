"""Values that calls read and that can change in place: pickled, compared with the sent ones, sent anew if changed.

    places of a call's reach --pickled--> which share an object? --> components, each one VALUE object
                                                                     has_changed(): pickled again; another digest?

Names whose values share an object make one component: they are compared, and set in the runner, together.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from cw.payloads import byvalue, constants, script
from cw.payloads.pickled import Pickled
from cw.payloads.reach import Place
from cw.payloads.references import refer

SHARED = 500_000
"""Number of objects in a value above which it is not searched for objects that it shares with others (takes 0.2 s).
Larger: submits are slower. Smaller: a shared object becomes two in the runner."""

HELD = 64 * 1024
"""Size of a list or dict (bytes) below which it is kept for comparison. Larger: it lives on for a while after it was
dropped. Smaller: another one with equal contents at the same address may be taken for it."""

TRIES = 20
"""Number of tries to pickle a value that other threads change meanwhile, before that is an error."""

MEMO_BYTES = 1024 * 1024
"""Size of a component (bytes) up to which runners remember its objects, so that a call's state may refer to them.
Larger: they live longer in the runner. Smaller: a state has copies of them."""


class Component:
    """Places whose values share objects, as they were pickled last."""

    def __init__(self, places: Sequence[Place], pickled: Pickled) -> None:
        self.number = 0  # of the object that was sent
        self.serial = 0  # counts bindings of a name to another, equal value
        self.take(places, pickled)
        self.looks = 0
        self._costs: list[float] = []  # of the last checks
        self.seconds = 0.0
        """Cost of a check (CPU seconds of this thread): the least of the last ones, to disregard other load."""
        self.looked_at = time.monotonic()
        self.is_fixed = False
        """True if its values cannot change. Then only their binding is checked."""

    def take(self, places: Sequence[Place], pickled: Pickled) -> None:
        """Take over new values and their pickle."""
        self.places = tuple(places)
        self.size = pickled.size
        self.digest = pickled.digest()
        self._values = [_hold(place.get(), self.size) for place in places]
        self.seen: Pickled | None = pickled
        """The last pickle, until the submit that made it has used it."""

    def is_bound_anew(self) -> bool:
        """True if a name is bound to another object, even an equal one. Then it is set anew, too."""
        return any(not is_same(place.get()) for place, is_same in zip(self.places, self._values, strict=True))

    def has_changed(self) -> bool:
        """Pickle the values again and compare."""
        began = time.thread_time()
        try:
            self.seen = pickle_steadily(self.places)
            return self.seen.digest() != self.digest
        except Exception:  # a place is gone, or its value can no longer be pickled
            return True
        finally:
            self._costs = [*self._costs[-2:], time.thread_time() - began]
            self.seconds = min(self._costs)
            self.looks += 1
            self.looked_at = time.monotonic()


def _hold(value: Any, size: int) -> Callable[[Any], bool]:
    """Return a test for whether another value is the same object. It keeps no large value alive."""
    try:
        reference = weakref.ref(value)
    except TypeError:
        identity = id(value)
        held = value if size < HELD else None
        return lambda other: id(other) == identity and (held is None or other is held)
    return lambda other: reference() is other


def pickle_places(places: Sequence[Place]) -> Pickled:
    """Pickle the places' keys, then their values. Raises what getting or pickling a value raises."""
    values = [refer(place.get()) for place in places]
    singletons = {id(value): value for value in values if byvalue.names_itself(value)}
    root = next(iter(singletons.values())) if len(singletons) == 1 else None
    return Pickled(([place.key for place in places], *values), root=root)


def pickle_steadily(places: Sequence[Place]) -> Pickled:
    """Pickle places; try again if another thread changes a value meanwhile."""
    for _ in range(TRIES):
        try:
            return pickle_places(places)
        except byvalue.Unpicklable as failure:
            if not isinstance(failure.__cause__, RuntimeError):
                raise
            time.sleep(0.0001)
    return pickle_places(places)


def group(places: Sequence[Place], pickled: Sequence[Pickled]) -> list[list[int]]:
    """Group places, each pickled by itself, that share an object that can change. Returns groups of indices."""
    if len(places) < 2:
        return [[index] for index in range(len(places))]
    parent = list(range(len(places)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    owner: dict[int, int] = {}
    for index, each in enumerate(pickled):
        memo = each.memo.copy() if len(each.data) < 8 * SHARED else {}
        for identity, (_, thing) in memo.items():
            before = owner.setdefault(identity, index)
            if before != index and is_shared(thing):
                parent[root(before)] = root(index)
    groups: dict[int, list[int]] = {}
    for index in range(len(places)):
        groups.setdefault(root(index), []).append(index)
    return list(groups.values())


def ids_of(pickled: Sequence[Pickled]) -> set[int]:
    """Return the ids of the objects in values (except in very large values)."""
    found: set[int] = set()
    for each in pickled:
        if len(each.data) < 8 * SHARED:
            found.update(each.memo.copy())
    return found


def is_shared(thing: Any) -> bool:
    """True if it matters that two values hold this object, not two equal ones."""
    if script.can_be_named(thing):
        return script.name_of(thing) is None and byvalue.travels_by_value(thing)
    return not constants.is_constant(thing)


def shared_objects(components: Sequence[Component], mine: dict[int, Any]) -> dict[int, tuple[int, int]]:
    """Find objects of a call's state that are also part of components. Returns, by id, the component's number and the
    object's place in the memo of its pickle; or -1, -2, ..., for the value of the first place, the second, ...

    `mine`: the memo of the state's pickle.
    """
    found: dict[int, tuple[int, int]] = {}
    for component in components:
        for index, place in enumerate(component.places):
            value = place.get()
            if id(value) in mine and is_shared(value):
                found[id(value)] = component.number, -1 - index
        if component.seen is not None and component.size < MEMO_BYTES:
            for identity, (place_in_memo, thing) in component.seen.memo.copy().items():
                if identity in mine and identity not in found and is_shared(thing):
                    found[identity] = component.number, place_in_memo
    return found
