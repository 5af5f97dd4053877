"""Waiting jobs of one queue that have a priority of their own. Pure."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """A job, as far as its order is concerned."""

    number: int

    def priority(self) -> int: ...


Job = TypeVar("Job", bound=Waiting)


class Ranked(Generic[Job]):
    """Jobs, the largest priority first; within one priority requeued ones, then in the order of their numbers.

    It has what the scheduler uses of a deque. A step costs O(log n), whatever the number of priorities.
    """

    __slots__ = ("heap",)

    def __init__(self) -> None:
        self.heap: list[tuple[int, bool, int, int, Job]] = []

    def __len__(self) -> int:
        return len(self.heap)

    def __getitem__(self, index: int) -> Job:
        assert index == 0
        return self.heap[0][-1]

    def popleft(self) -> Job:
        """Take the first job out."""
        return heappop(self.heap)[-1]

    def add(self, job: Job, is_again: bool) -> None:
        """Add a job. `is_again`: it was dispatched, or next, before."""
        heappush(self.heap, (-job.priority(), not is_again, job.number, id(job), job))

    def jobs(self) -> list[Job]:
        """Return all jobs, in their order."""
        return [entry[-1] for entry in sorted(self.heap)]

    def some(self, step: int) -> list[Job]:
        """Return one of each `step` jobs, in no order."""
        return [entry[-1] for entry in self.heap[::step]]

    def keep(self, is_wanted: Callable[[Job], bool]) -> None:
        """Remove all other jobs."""
        self.heap = [entry for entry in self.heap if is_wanted(entry[-1])]
        heapify(self.heap)
