"""Jobs of a client that wait and have a priority of their own. Pure."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """A job, as far as its order is concerned."""

    number: int
    priority: int


Job = TypeVar("Job", bound=Waiting)


class Ranked(Generic[Job]):
    """Jobs with a priority of their own, the largest first; within one priority in the order of their numbers.

    Any thread may `add`: a step of the heap is one call, in which no other thread runs.
    """

    __slots__ = ("heap", "lost")

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, Job]] = []
        """The jobs that wait; who only asks whether there are some asks this."""
        self.lost: deque[Job] = deque()
        """Jobs that were sent to an earlier master, and must be resubmitted."""

    def __len__(self) -> int:
        return len(self.heap)

    def add(self, job: Job) -> None:
        """Add a job that waits."""
        heappush(self.heap, (-job.priority, job.number, job))

    def pop(self, least: float) -> Job | None:
        """Take out the first job, if its priority is `least` or more."""
        if not self.heap or -self.heap[0][0] < least:
            return None
        return heappop(self.heap)[2]

    def pop_lost(self) -> Job | None:
        """Take out the first job that must be resubmitted."""
        return self.lost.popleft() if self.lost else None

    def jobs(self) -> list[Job]:
        """Return all jobs, for checks."""
        return [*self.lost, *(job for _, _, job in sorted(self.heap))]
