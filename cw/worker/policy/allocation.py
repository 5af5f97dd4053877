"""What is free of what a worker has, while jobs of many shapes run: CPUs, memory, shares of devices, resources.

    room = total - what is used on each slot: by its running job, or by one that waits there for nested jobs and has not
                   lent to the asker; the larger, in each dimension

Nothing is kept from call to call: the jobs on the slots say it all.

Pure: no socket, no thread, no clock.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping

from cw.needs import MOST_BYTES, ONE_CPU, UNITS_PER_GPU, Needs
from cw.requirements import WorkerCapacity
from cw.worker.policy.actions import Action, PinRunner
from cw.worker.policy.pins import Pins
from cw.worker.policy.pool import PooledRunner, RunnerPool

Vector = Mapping[str, int]
"""Amounts by dimension. Devices have one each, in shares."""

CPUS, MEMORY = "cpus", "memory"

UNKNOWN_MEMORY = 2 * 65535 * MOST_BYTES
"""Memory of a worker that does not know it: enough for whatever its slots run."""


def of_device(name: str) -> str:
    """The dimension of a device."""
    return f"gpu {name}"


def of_resource(name: str) -> str:
    """The dimension of a resource."""
    return f"resource {name}"


def count_and_share(gpus: int) -> tuple[int, int]:
    """Number of devices that a job gets, and its share of each."""
    return (gpus // UNITS_PER_GPU, UNITS_PER_GPU) if gpus >= UNITS_PER_GPU else (1, gpus)


@functools.lru_cache(maxsize=1000)
def vector_of(needs: Needs, devices: tuple[str, ...] = ()) -> Vector:
    """What a job takes, on these devices."""
    found = {CPUS: needs.cpus}
    if needs.memory:
        found[MEMORY] = needs.memory
    found.update((of_resource(name), amount) for name, amount in needs.resources)
    share = count_and_share(needs.gpus)[1]
    found.update((of_device(name), share) for name in devices)
    return found


class Room:
    """Amounts that are free. Below 0: what waiting jobs have lent is in use."""

    def __init__(self, free: dict[str, int]) -> None:
        self.free = free

    def has(self, vector: Vector) -> bool:
        free = self.free
        return all(amount <= free.get(name, 0) for name, amount in vector.items())

    def take(self, vector: Vector) -> None:
        """Remove what a job uses."""
        for name, amount in vector.items():
            self.free[name] = self.free.get(name, 0) - amount

    def claim(self, vector: Vector) -> None:
        """Remove what is free of it: nobody else gets that, nor what becomes free."""
        for name, amount in vector.items():
            free = self.free.get(name, 0)
            self.free[name] = free - min(amount, max(free, 0))


class Allocation:
    """What the jobs of one worker use. `pool` has its slots."""

    def __init__(self, capacity: WorkerCapacity, pool: RunnerPool) -> None:
        self.devices = capacity.gpus
        self.lenders: dict[int, list[PooledRunner]] = {}
        """Runners whose job waits for nested jobs or comes back, by slot, where there are any. `Lending` writes it."""
        self.pins: Pins | None = None
        """What gives runners CPUs by number; None: they run on any."""
        self._pool = pool
        self._total = {
            CPUS: capacity.cpus,
            MEMORY: capacity.memory or UNKNOWN_MEMORY,
            **{of_resource(name): amount for name, amount in capacity.resources},
            **{of_device(name): UNITS_PER_GPU for name in capacity.gpus},
        }

    def room(self, is_lent: Callable[[PooledRunner], bool] | None = None) -> Room:
        """What is free beside what runs and what waits. `is_lent`: whether a waiting job has lent to the asker; None:
        none has."""
        room = Room(dict(self._total))
        plain = 0
        for slot in self._pool.slots:
            users = [] if slot.busy is None else [slot.busy]
            lenders = self.lenders.get(slot.index)
            if lenders:
                users += lenders if is_lent is None else [each for each in lenders if not is_lent(each)]
            if len(users) == 1 and users[0].needs is ONE_CPU:
                plain += 1
            elif users:
                room.take(_largest(users))
        room.free[CPUS] -= plain
        return room

    def room_for_all(self) -> Room:
        """What is free beside what runs: all that waiting jobs have lent, too."""
        return self.room(lambda runner: True)

    def pin(self, runner: PooledRunner) -> list[Action]:
        """Give a runner that is about to run jobs its CPUs, if runners are pinned."""
        return [PinRunner(runner)] if self.pins is not None and self.pins.pin(runner) else []

    def holders(self, device: str) -> list[PooledRunner]:
        """List the runners whose process may hold memory of a device, and that run no job: the least recently used
        first."""
        found = [
            runner
            for runner in self._pool.runners.values()
            if device in runner.context[3] and not runner.sent and runner.slot.busy is not runner
        ]
        return sorted(found, key=lambda runner: runner.idle_since)

    def check_invariants(self) -> None:
        """Raise AssertionError if more is used than there is. For tests."""
        if self.pins is not None:
            self.pins.check_invariants()
        room = self.room_for_all()
        assert all(amount >= 0 for amount in room.free.values()), f"more is used than there is: {room.free}"


def used_by(runner: PooledRunner) -> Vector:
    """What the jobs of a runner use, which runs them one after the other."""
    return vector_of(runner.needs, runner.context[3])


def _largest(runners: Iterable[PooledRunner]) -> Vector:
    found: dict[str, int] = {}
    for runner in runners:
        for name, amount in used_by(runner).items():
            found[name] = max(amount, found.get(name, 0))
    return found
