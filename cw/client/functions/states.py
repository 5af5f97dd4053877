"""Large states of functions (`obj.m`, a closure over an array), as objects that calls share while they are equal.

a state, pickled --digest--> its object      its holder is gone --> it lingers, among the last few --> forgotten
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from cw.client.session.objects import ObjectTable
from cw.payloads.pickled import Pickled

LINGERING_STATES, LINGERING_BYTES = 4, 32 * 1024**2
"""Number and total size (bytes) of states that are kept although their holder is gone: another may hold the same
(`submit(partial(f, table), x)` in a loop). Larger: memory in all processes. Smaller: they travel again."""


class StateTable:
    """Large states of one session, under its lock. `add(payload, digest)` makes an object."""

    def __init__(self, objects: ObjectTable, add: Callable[[Any, bytes], int]) -> None:
        self._objects = objects
        self._add = add
        self._states: dict[bytes, tuple[int, int]] = {}  # number and size, by digest
        self._gone: deque[bytes] = deque()  # states whose holders are gone; appended to by any thread
        self._lingering: deque[bytes] = deque()

    def number_of(self, function: Any, state: Pickled) -> int:
        """Return the number of the object of this function's state."""
        if self._gone:
            self._forget()
        digest = state.digest()
        known = self._states.get(digest)
        if known is None:
            known = self._states[digest] = self._add(state.payload(), digest), state.size
            holder = getattr(function, "__self__", function)
            try:
                weakref.finalize(holder, self._gone.append, digest).atexit = False
            except TypeError:  # not weakly referable: nothing reports when it is gone
                self._gone.append(digest)
        return known[0]

    def on_forgotten(self, numbers: set[int]) -> None:
        self._states = {digest: known for digest, known in self._states.items() if known[0] not in numbers}

    def _forget(self) -> None:
        """Drop states whose holders are gone, except the last ones."""
        lingering = self._lingering
        while self._gone:
            digest = self._gone.popleft()
            if digest in lingering:
                lingering.remove(digest)
            if digest in self._states:
                lingering.append(digest)
        while len(lingering) > 1 and (
            len(lingering) > LINGERING_STATES
            or sum(self._states[digest][1] for digest in lingering if digest in self._states)
            > LINGERING_BYTES
        ):
            known = self._states.pop(lingering.popleft(), None)
            if known is not None:
                self._objects.forget([known[0]])
