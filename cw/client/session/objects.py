"""The numbered objects of one session, kept here so that they can be sent again: `cw.net.objects` says what they are.

    add(kind, needs, payload)  ---> number       the same content has the same number
    options_number(options)    ---> number       of the object that holds a job's options
    environment                ---> number       where the next functions run
    renew_environment()                          the next functions run in fresh runners
    forget(numbers)            ---> forget_dropped(in_use)   no longer needed by the caller: gone when no job needs them
    is_full                    ---> forget_unused(in_use)    too many: forgets the oldest that no job needs

A forgotten number is never used again. An object is forgotten only together with all that need it, so the needs of
every object here are here, too.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from cw.net import messages as m
from cw.net.objects import Object, ObjectSet, closure
from cw.net.wire import MOST_NEEDS
from cw.payloads.environment import dump_environment
from cw.requirements import NO_OPTIONS, JobOptions

KEPT_OBJECTS = 2048
KEPT_BYTES = 256 * 1024**2
"""Number and total size (bytes) of objects above which those that no outstanding job uses are forgotten. Larger: memory
here. Smaller: a function that is used again after a pause travels again."""


class ObjectTable:
    """Objects by number. The owner holds a lock around every call except `forget`, which any thread may call.

    `on_dropped()` is called in that thread when `forget_dropped` has something to do. Functions in `on_forgotten` are
    called under the lock, with forgotten numbers, which must no longer be used.
    """

    def __init__(
        self,
        take_environment: Callable[[], bytes] = dump_environment,
        pack_files: Callable[[Callable[[bytes], int]], list[int]] = lambda add: [],
    ) -> None:
        """`take_environment()` returns the payload of an environment. Before that `pack_files(add)` makes, by calls of
        `add`, the objects that it needs, and returns their numbers."""
        self.on_dropped: Callable[[], None] = lambda: None
        self.on_forgotten: list[Callable[[set[int]], None]] = []
        self.is_full = False
        """True if it is time to call `forget_unused`. Becomes true only in `add`."""
        self.names: dict[int, str] = {}
        """Names of functions, by the number of their FUNCTION object, for a reader of what their jobs print."""
        self._take_environment, self._pack_files = take_environment, pack_files
        self._environment = 0
        self._objects = ObjectSet()
        self._by_number: dict[int, Object] = {}
        self._number_by_digest: dict[Hashable, int] = {}
        self._digests: dict[int, Hashable] = {}
        self._last_number = 0
        self._dropped: deque[int] = deque()  # by `forget`; appended to by any thread
        self._dropping: set[int] = set()  # taken from `_dropped`
        self._is_notified = False
        self._most_objects, self._most_bytes = KEPT_OBJECTS, KEPT_BYTES

    def __len__(self) -> int:
        return len(self._objects)

    @property
    def size(self) -> int:
        """Total size of all objects (bytes)."""
        return self._objects.size

    @property
    def environment(self) -> int:
        """Number of the environment for the next functions, as it was when it was first used.

        Raises `Error` if the working directory has been deleted.
        """
        if not self._environment:
            self._environment = self._new_environment()
        return self._environment

    def renew_environment(self) -> None:
        """Take the environment anew, as it is now, so that the next functions run in fresh runners."""
        former = self._environment
        if former:  # otherwise all runners will be fresh
            self._environment = self._new_environment()
            kept = {need.number for need in self._by_number[self._environment].needs}
            packs = [need.number for need in self._by_number[former].needs if need.number not in kept]
            self.forget([former, *packs])

    def add(self, kind: int, needs: Sequence[int], payload: Any, digest: Hashable = None) -> int:
        """Return the number of an object; the same for the same content while it is kept.

        `needs`: numbers of objects in this table that a peer must have before it; a FUNCTION needs an environment.
        `digest`: digest of kind, needs and payload, if the caller knows it; b"": the content will not recur.
        """
        if digest is None:
            digest = hashlib.blake2b(payload, digest_size=16).digest() + repr((kind, *needs)).encode()
        number = self._number_by_digest.get(digest) if digest else None
        if number is None:
            number = self._add(kind, needs, payload)
            if digest:
                self._number_by_digest[digest] = number
                self._digests[number] = digest
        self._see_dropped()
        if self._dropping:  # these are needed again
            self._dropping.difference_update((number, *needs))
        return number

    def restore(self, number: int, kind: int, needs: Sequence[int], payload: Any) -> None:
        """Add an object that an earlier process of this session has numbered."""
        highest, self._last_number = self._last_number, number - 1
        self._add(kind, needs, payload)
        self._last_number = max(highest, number)

    @property
    def last_number(self) -> int:
        """The highest number so far. It may be set to a higher one."""
        return self._last_number

    @last_number.setter
    def last_number(self, number: int) -> None:
        self._last_number = max(self._last_number, number)

    def options_number(self, options: JobOptions) -> int:
        """Return the number of the object that holds these options; 0 for none. It is kept while a job needs it."""
        if options is NO_OPTIONS:
            return 0
        number = self._number_by_digest.get(options)  # (which is as good as a digest)
        return number or self.add(m.OPTIONS, (), options.to_wire(), options)

    def get(self, number: int) -> Object:
        """Return the object of this number. Raises `KeyError` if it has been forgotten."""
        return self._by_number[number]

    def has(self, numbers: Iterable[int]) -> bool:
        """True if none of these objects has been forgotten."""
        return self._by_number.keys() >= set(numbers)

    def forget(self, numbers: Iterable[int]) -> None:
        """Forget these objects, and all that need them, as soon as no outstanding job needs them.

        May be called from any thread, with or without the lock, even during garbage collection. Adding an object again
        keeps it.
        """
        self._dropped.extend(numbers)
        if not self._is_notified:
            self._is_notified = True
            self.on_dropped()

    def dropped_size(self) -> int:
        """Return the size (bytes) of objects that `forget_dropped` would forget if no job needed them."""
        self._see_dropped()
        dropping = [self._by_number[number] for number in self._dropping]
        return sum(item.size + item.shared_size for item in dropping)

    def forget_dropped(self, in_use: Iterable[int]) -> list[Object]:
        """Forget dropped objects, except what jobs need that name these. Returns the forgotten ones."""
        self._see_dropped()
        if not self._dropping:
            return []
        kept = {item.number for item in self._closure(in_use)}
        return self._forget(
            self._objects.take_out([(0, number) for number in self._dropping if number not in kept])
        )

    def forget_unused(self, in_use: Iterable[int]) -> list[Object]:
        """Forget the older half of all objects, except what jobs need that name these. Returns the forgotten ones."""
        kept = self._closure(in_use)
        gone = self._forget(self._objects.evict(kept, KEPT_BYTES // 2, KEPT_OBJECTS // 2))
        # If jobs need more than the limits allow, look again only after as much has been added again.
        self._most_objects = max(KEPT_OBJECTS, 2 * len(self._objects))
        self._most_bytes = max(KEPT_BYTES, 2 * self._objects.size)
        self.is_full = False
        return gone

    def _new_environment(self) -> int:
        packs = self._pack_files(lambda payload: self.add(m.VALUE, (), payload))
        return self._add(m.ENVIRONMENT, packs, self._take_environment())

    def _add(self, kind: int, needs: Sequence[int], payload: Any) -> int:
        if len(needs) > MOST_NEEDS:
            raise ValueError(f"an object with {len(needs)} needs: {MOST_NEEDS} are allowed")
        self._last_number = number = self._last_number + 1
        item = Object(number, payload, kind, [self._by_number[need] for need in needs])
        self._by_number[number] = item
        self._objects.add(item)
        self.is_full = len(self._objects) > self._most_objects or self._objects.size > self._most_bytes
        return number

    def _closure(self, functions: Iterable[int]) -> list[Object]:
        return closure([self._by_number[number] for number in functions if number in self._by_number])

    def _see_dropped(self) -> None:
        self._is_notified = False  # cleared before the look: numbers added after it are reported again
        while self._dropped:
            number = self._dropped.popleft()
            if number in self._by_number:
                self._dropping.add(number)

    def _forget(self, gone: list[Object]) -> list[Object]:
        numbers = {item.number for item in gone}
        for number in numbers:
            del self._by_number[number]
            self.names.pop(number, None)
            digest = self._digests.pop(number, None)
            if digest is not None:
                del self._number_by_digest[digest]
        self._dropping -= numbers
        if numbers:
            for function in self.on_forgotten:
                function(numbers)
        return gone
