"""Calls that the client holds back: each waits for futures among its arguments. No I/O, no thread, no clock.

    submit --> add --> HELD --> remove --> a job: to be sent; or it has failed, or is cancelled

Their numbers count downwards from -1, so that none is that of a job: a job gets its number when it can be sent, since
the master takes jobs in the order of their numbers.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar


class Held(Protocol):
    """A held call, as it is needed here."""

    number: int
    payload: Any


T = TypeVar("T", bound=Held)


class HeldCalls(Generic[T]):
    """The held calls of one session. Its owner holds a lock around every call that changes them.

    `limits`: jobs and bytes of payload above which the session is full, held calls included; None: no limit.
    """

    def __init__(self, limits: tuple[int | None, int | None]) -> None:
        self.limits = limits
        self.size = 0
        """Total size of their payloads (bytes)."""
        self._last_number = 0
        self._by_number: dict[int, T] = {}

    def __len__(self) -> int:
        return len(self._by_number)

    def add(self, call: T) -> None:
        """Hold a call, which gets its number."""
        self._last_number = call.number = number = self._last_number - 1
        self._by_number[number] = call
        self.size += len(call.payload)

    def get(self, number: int) -> T | None:
        """Return the call of this number; None: it is not held any more."""
        return self._by_number.get(number)

    def all(self) -> list[T]:
        """Return all, in the order of their submission."""
        return list(self._by_number.values())

    def remove(self, call: T) -> None:
        """Hold a call no longer."""
        del self._by_number[call.number]
        self.size -= len(call.payload)

    def drop_after_fork(self) -> None:
        """Forget all calls in a forked child."""
        self._by_number = {}
        self.size = 0

    def check_invariants(self) -> None:
        """Check the state in tests, while no other thread is at work."""
        assert all(number == each.number < 0 for number, each in self._by_number.items())
        assert list(self._by_number) == sorted(self._by_number, reverse=True)
        assert self.size == sum(len(each.payload) for each in self.all())
