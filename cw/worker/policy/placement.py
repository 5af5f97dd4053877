"""Placement: which waiting job starts next, and where, while jobs of many shapes are here.

    first come first served: the first job that fits, on an idle slot, or on a lent one if its session is deep enough.
    One in front of it that does not fit claims what is free of its vector, and a slot: it is the next to get what
    becomes free, so small jobs behind a large one do not starve it. Of several of one shape, the first one claims.

Jobs that wait for nested jobs lend their slot and their vector, to all that are deeper. Deeper jobs do not wait for the
claims of others, which may wait for the job that lends. A job that comes back is before all (cw.worker.policy.lending).

Pure: no socket, no thread, no clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from cw.named_tuple import NamedTuple
from cw.needs import ONE_CPU, Needs
from cw.worker.policy.allocation import CPUS, Allocation, Room, Vector, used_by, vector_of
from cw.worker.policy.devices import claimed, grant
from cw.worker.policy.jobs import Context, HeldJobs, WorkerJob
from cw.worker.policy.lending import Lending
from cw.worker.policy.pool import PooledRunner, RunnerPool, Slot


class Start(NamedTuple):
    """A job of the backlog, the slot where it starts, and its devices."""

    position: int
    slot: Slot
    devices: tuple[str, ...]


class Place(NamedTuple):
    """Where a job may start; or (`slot` is None) why it does not."""

    slot: Slot | None
    devices: tuple[str, ...] = ()
    lacks_room: bool = False
    """It waits for a part of its vector, on these devices."""


class Placement:
    """Finds a place for jobs of a worker."""

    def __init__(self, held: HeldJobs, pool: RunnerPool, lending: Lending, allocation: Allocation) -> None:
        self.ends: list[PooledRunner] = []
        """Idle runners that the caller must end, as they hold memory of devices that a job needs."""
        self._held = held
        self._pool = pool
        self._lending = lending
        self._allocation = allocation

    def find(self, now: float) -> Start | None:
        """Find the next job that can start."""
        pool, lending = self._pool, self._lending
        idle, lent = list(pool.idle.values()), list(lending.lent.values()) if lending.depths else []
        startable = [slot for slot in idle if slot.backoff_until <= now]
        startable += [slot for slot in lent if lending.can_start_runner(slot, now)]
        free_slots = len(idle) - len(lending.coming())
        rooms = _Rooms(self._allocation, lending)
        hopeless: set[tuple[Context, Needs]] = set()  # there is no slot for these now
        waiting: set[tuple[int, Needs]] = set()  # there is no room for these now
        for position, job in enumerate(self._held.backlog):
            if free_slots <= 0 and not lent:
                break
            depth = lending.depth(job.session)
            room = rooms.of(depth)
            if room.free[CPUS] < 1 and not lent:
                break
            if (depth, job.needs) in waiting or (job.context, job.needs) in hopeless:
                continue
            slots = idle if free_slots > 0 else []
            if lent:  # these first: what such a job uses was lent there
                slots = [slot for slot in lent if lending.floor(slot) < depth] + slots
            if not slots or not job.function.is_ready():
                continue
            place = self._place(job, slots, room, startable)
            if place.slot is not None:
                return Start(position, place.slot, place.devices)
            if place.lacks_room:
                waiting.add((depth, job.needs))
                rooms.claim(depth, vector_of(job.needs, place.devices))
                free_slots -= 1
            elif job.excluded_slot is None:
                hopeless.add((job.context, job.needs))
        return None

    def _place(self, job: WorkerJob, slots: Iterable[Slot], room: Room, startable: Collection[Slot]) -> Place:
        """Find the place of a job on one of these slots. `startable`: those where a runner may start."""
        needs = job.needs
        if room.free[CPUS] < needs.cpus or (needs is not ONE_CPU and not room.has(vector_of(needs))):
            devices = claimed(self._allocation, room, needs.gpus) if needs.gpus else ()
            return Place(None, devices, lacks_room=True)
        is_choosy = len(self._pool.slots) > 1
        slots = [slot for slot in slots if slot.index != job.excluded_slot or not is_choosy]
        if not needs.gpus:
            return Place(_slot_for(job.context, slots, startable))
        own = [
            runner
            for slot in slots
            for runner in slot.runners.values()
            if runner.serves == job.context and not runner.sent and not runner.is_dropping
        ]
        found = grant(self._allocation, room, needs.gpus, own)
        if found is None:
            return Place(None, claimed(self._allocation, room, needs.gpus), lacks_room=True)
        slot = _slot_for((*job.context[:3], found.devices), slots, startable)
        if slot is None:
            return Place(None)
        self.ends += [runner for runner in found.ends if runner not in self.ends]
        return Place(slot if found.is_free else None, found.devices, lacks_room=not found.is_free)


class _Rooms:
    """What is free for jobs of each depth, while claims come."""

    def __init__(self, allocation: Allocation, lending: Lending) -> None:
        self._allocation = allocation
        self._lending = lending
        self._rooms: dict[int, Room] = {}
        self._claims: list[tuple[int, Vector]] = []

    def of(self, depth: int) -> Room:
        room = self._rooms.get(depth)
        if room is None:
            lending = self._lending
            is_lent = None if not lending.depths else lambda runner: lending.depth(runner.session) < depth
            room = self._rooms[depth] = self._allocation.room(is_lent)
            for runner in lending.coming():
                if lending.depth(runner.session) < depth:
                    room.claim(used_by(runner))
            for of_job, vector in self._claims:
                if of_job >= depth:
                    room.claim(vector)
        return room

    def claim(self, depth: int, vector: Vector) -> None:
        """Let a job of this depth claim what is free of its vector, before others that are not deeper."""
        self._claims.append((depth, vector))
        for other, room in self._rooms.items():
            if other <= depth:
                room.claim(vector)


def _slot_for(context: Context, slots: Iterable[Slot], startable: Collection[Slot]) -> Slot | None:
    """Find a slot for a job of this context; prefer one with a runner for it."""
    best = None
    for slot in slots:
        runner = slot.runners.get(context)
        if runner is None:
            best = best or (slot if slot in startable else None)
        elif not runner.is_dropping:
            return slot
    return best
