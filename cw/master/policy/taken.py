"""Vectors of what jobs with needs of their own take from one worker. Pure.

    start ---> Use: sums over the places of the jobs that run <--- fits: does one more?
    send ahead ---> Lane: jobs of the same needs, which take over the places of those that end

A job that names nothing needs one slot and one CPU. These are not counted here: the worker's number of slots says how
many of them run beside (see `Worker.resize`), so that they cost nothing of this.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from cw.named_tuple import NamedTuple
from cw.needs import UNITS_PER_GPU, Needs, pick_devices
from cw.requirements import WorkerCapacity


class Place(NamedTuple):
    """What a job takes from the worker that holds it."""

    needs: Needs
    choice: int = 0
    """Index of the alternative that it runs as."""
    devices: tuple[int, ...] = ()
    """Indices of the devices of which it has its shares."""
    slots: int = 1
    """0: it runs on a slot that another job lends."""
    seconds: float = -1.0
    """If it was sent ahead: the time that it is expected to take. It takes nothing yet."""
    beside: Use | None = None
    """What runs beside a reservation, if it is part of that."""

    @property
    def is_ahead(self) -> bool:
        return self.seconds >= 0


class Held(Protocol):
    """A job, as far as it is needed here."""

    dispatch: int
    place: Place | None


Job = TypeVar("Job", bound=Held)


class Use:
    """Sums of what places take from a worker of this capacity."""

    __slots__ = ("capacity", "cpus", "memory", "resources", "shares", "slots")

    def __init__(self, capacity: WorkerCapacity) -> None:
        self.capacity = capacity
        self.slots = self.cpus = self.memory = 0
        self.resources = {name: 0 for name, _ in capacity.resources}
        self.shares = [UNITS_PER_GPU] * len(capacity.gpus)  # of each device, free

    def copy(self) -> Use:
        """Return the same sums, to change."""
        other = Use(self.capacity)
        other.slots, other.cpus, other.memory = self.slots, self.cpus, self.memory
        other.resources, other.shares = dict(self.resources), list(self.shares)
        return other

    def place(self, needs: Needs, slots: int, cpus: int) -> tuple[int, ...] | None:
        """The devices for one more job that the worker can run, where this many slots and CPUs are free beside all
        places; None: it does not fit now."""
        if slots < 1 or needs.cpus > cpus:
            return None
        if 0 < self.capacity.memory < self.memory + needs.memory:
            return None
        if needs.resources:
            total = dict(self.capacity.resources)
            if any(self.resources[name] + amount > total[name] for name, amount in needs.resources):
                return None
        return pick_devices(self.shares, needs.gpus) if needs.gpus else ()

    def add(self, place: Place, sign: int = 1) -> None:
        """Count a place; with `sign` -1, no more."""
        needs = place.needs
        self.slots += sign * place.slots
        self.cpus += sign * needs.cpus
        self.memory += sign * needs.memory
        for name, amount in needs.resources:
            if name in self.resources:
                self.resources[name] += sign * amount
        for device in place.devices:
            self.shares[device] -= sign * min(needs.gpus, UNITS_PER_GPU)

    def devices(self, needs: Needs) -> tuple[int, ...]:
        """The devices that a job seems to have which runs there already: free ones, as far as there are any."""
        picked = pick_devices(self.shares, needs.gpus)
        if picked is None:
            freest = sorted(range(len(self.shares)), key=lambda device: -self.shares[device])
            picked = tuple(freest[: max(1, needs.gpus // UNITS_PER_GPU)])
        return picked


class Lane(Generic[Job]):
    """Jobs of the same needs that one worker holds."""

    __slots__ = ("ahead", "backoff", "cost", "ended", "places", "seconds")

    def __init__(self) -> None:
        self.places = 0  # of those that run
        self.ahead: dict[int, Job] = {}  # the others, by dispatch number, oldest first
        self.seconds = 0.0  # that these will take
        self.cost = 0.0  # of the latest job (seconds)
        self.ended = 0  # jobs that ended since the last tick
        self.backoff = 0  # ticks until those ahead are asked for again


class Reservation(NamedTuple):
    """A worker keeps room for the oldest job of a session: what it runs now may end, and no more begins there but what
    leaves this free."""

    session: object
    needs: Needs
    beside: Use
    """What has begun there since, and goes on beside."""
    room_at: float
    """When it is expected to have room; inf: unknown."""

    def leaves_room(self, place: Place, slots: int) -> bool:
        """True if a job may begin at this place and run beside for as long as it likes. `slots`: of the worker."""
        beside = self.beside
        beside.add(place)
        cpus = beside.capacity.cpus - beside.cpus
        fits = beside.place(self.needs, slots - beside.slots, cpus) is not None
        beside.add(place, -1)
        return fits


class ShapedJobs(Generic[Job]):
    """The jobs with needs of their own that one worker holds, and for whom it keeps room."""

    __slots__ = ("ahead", "count", "lanes", "reservation", "use")

    def __init__(self, capacity: WorkerCapacity) -> None:
        self.use = Use(capacity)
        self.lanes: dict[Needs, Lane[Job]] = {}
        self.count = 0  # of these jobs, with those sent ahead
        self.ahead = 0  # of those
        self.reservation: Reservation | None = None

    def take(self, job: Job, place: Place) -> None:
        """Note that the worker holds a job now."""
        job.place = place
        self.count += 1
        lane = self.lanes.get(place.needs)
        if lane is None:
            lane = self.lanes[place.needs] = Lane()
        if place.is_ahead:
            lane.ahead[job.dispatch] = job
            lane.seconds += place.seconds
            self.ahead += 1
        else:
            lane.places += 1
            self.use.add(place)
            if place.beside is not None:
                place.beside.add(place)

    def release(self, job: Job) -> Job | None:
        """Note that the worker no longer holds a job. Returns the one that takes over its place; None: it is free."""
        place, job.place = job.place, None
        assert place is not None
        self.count -= 1
        lane = self.lanes[place.needs]
        lane.ended += 1
        heir = None
        if place.is_ahead:
            self._leave_lane(lane, job.dispatch, place)
        elif lane.ahead and place.slots:
            dispatch, heir = next(iter(lane.ahead.items()))
            assert heir.place is not None
            self._leave_lane(lane, dispatch, heir.place)
            heir.place = place._replace(choice=heir.place.choice)
            lane.backoff = 0
        else:
            lane.places -= 1
            lane.backoff = 0
            self.use.add(place, -1)
            if place.beside is not None:
                place.beside.add(place, -1)
        if not lane.places and not lane.ahead:
            del self.lanes[place.needs]
        return heir

    def check_invariants(self, jobs: list[Job]) -> None:
        """Raise AssertionError if the sums are not those of these jobs. For tests."""
        use = Use(self.use.capacity)
        places = [job.place for job in jobs if job.place is not None]
        for place in places:
            if not place.is_ahead:
                use.add(place)
        assert (use.slots, use.cpus, use.memory) == (self.use.slots, self.use.cpus, self.use.memory)
        assert (use.resources, use.shares) == (self.use.resources, self.use.shares)
        ahead = {job.dispatch: job for lane in self.lanes.values() for job in lane.ahead.values()}
        assert ahead == {job.dispatch: job for job in jobs if job.place is not None and job.place.is_ahead}
        assert self.ahead == len(ahead) and self.count == len(places)
        assert sum(lane.places for lane in self.lanes.values()) == self.count - self.ahead

    def _leave_lane(self, lane: Lane[Job], dispatch: int, place: Place) -> None:
        del lane.ahead[dispatch]
        lane.seconds = lane.seconds - place.seconds if lane.ahead else 0.0
        self.ahead -= 1
