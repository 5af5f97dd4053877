"""What workers have, which of their jobs run, and what these take, for observers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from cw.master.policy.jobs import Job, Worker
from cw.needs import UNITS_PER_GPU
from cw.observer.bounds import clean

if TYPE_CHECKING:
    from cw.observer.model import CapacityStatus

LOOKED_AT = 2000
"""Most jobs of one worker that are looked at to find those that run. Fewer: some are not found where many jobs of one
CPU were sent ahead before one that needs more."""


def count_running(worker: Worker) -> int:
    """Return the number of jobs that run there."""
    return worker.running


def running_jobs(worker: Worker) -> Iterator[Job]:
    """Yield the jobs that run there: of those that need one CPU, the first ones."""
    shaped = worker.shaped
    if shaped is None:
        yield from islice(worker.held.values(), worker.slots)
        return
    plain = min(len(worker.held), worker.slots) - shaped.count
    for job in islice(worker.held.values(), LOOKED_AT):
        if job.place is not None:
            if not job.place.is_ahead:
                yield job
        elif plain > 0:
            plain -= 1
            yield job


class Sums:
    """Sums over workers."""

    def __init__(self) -> None:
        self.cpus = self.cpus_used = self.gpus = self.shares_used = self.memory = self.memory_used = 0
        self.is_memory_known = True
        self.resources: Counter[str] = Counter()
        self.resources_used: Counter[str] = Counter()

    def add(self, worker: Worker) -> None:
        """Add one worker. (Very many of them are added each second while somebody looks.)"""
        capacity, shaped = worker.capacity, worker.shaped
        self.cpus += capacity.cpus
        self.cpus_used += max(0, capacity.cpus - worker.free()[1])
        self.memory += capacity.memory
        self.is_memory_known = self.is_memory_known and capacity.memory > 0
        if capacity.gpus:
            self.gpus += len(capacity.gpus)
        if capacity.resources:
            self.resources.update(dict(capacity.resources))
        if shaped is not None:
            use = shaped.use
            self.memory_used += use.memory
            self.shares_used += sum(UNITS_PER_GPU - free for free in use.shares)
            self.resources_used.update(use.resources)

    def status(self, tags: Iterable[str] = ()) -> CapacityStatus:
        """Return them as observers see them."""
        from cw.observer import model  # loaded when somebody looks
        from cw.observer.model import AmountStatus, CapacityStatus

        names = sorted(self.resources)[: model.RESOURCES]
        return CapacityStatus(
            cpus=self.cpus,
            cpus_used=self.cpus_used,
            gpus=self.gpus,
            gpus_used=self.shares_used / UNITS_PER_GPU,
            memory=self.memory if self.is_memory_known and self.memory else None,
            memory_used=self.memory_used,
            resources=tuple(
                AmountStatus(name, self.resources[name], self.resources_used[name]) for name in names
            ),
            tags=clean(" ".join(tags)),
        )


def capacity_of(workers: Iterable[Worker], tags: Iterable[str] = ()) -> CapacityStatus:
    """Return what these workers have, and what is taken of it."""
    sums = Sums()
    for worker in workers:
        sums.add(worker)
    return sums.status(tags)
