"""Part of the master's policy about jobs with needs of their own at one worker: what they take, where there is room,
and when there will be. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import islice
from operator import itemgetter

from cw.master.policy.fit import could_run, devices_for
from cw.master.policy.jobs import AHEAD_SECONDS, Job, Openings, Pool, Worker
from cw.master.policy.room import cost_of
from cw.master.policy.taken import Lane, Place, ShapedJobs, Use
from cw.needs import ONE_CPU, Needs

AHEAD_SHARE = 0.25
"""Share of the work ahead below which a lane takes more. Larger: more and shorter frames. Smaller: places wait."""


OPENINGS = 16
"""Most needs for which the workers with room are known while no job has them. Larger: each change at a worker takes
longer. Smaller: they are looked for among all workers more often."""


# --- what jobs take ---------------------------------------------------------------------------


def occupy(job: Job, worker: Worker, place: Place) -> None:
    """Count what a job takes from its worker."""
    if worker.shaped is None:
        worker.shaped = ShapedJobs(worker.capacity)
    worker.shaped.take(job, place)
    worker.shaped.lanes[place.needs].cost = cost_of(job)
    worker.pool.shaped += 1
    worker.resize()
    if place.is_ahead:
        worker.pool.ahead[worker] = None
    else:
        job.session.load += AHEAD_SECONDS * place.needs.cpus


def vacate(job: Job, worker: Worker) -> None:
    """Count no more what such a job took. One that was sent ahead takes over its place."""
    shaped, place = worker.shaped, job.place
    assert shaped is not None and place is not None
    heir = shaped.release(job)
    if not place.is_ahead:
        job.session.load -= AHEAD_SECONDS * place.needs.cpus
    if heir is not None:
        heir.session.load += AHEAD_SECONDS * place.needs.cpus
    worker.pool.shaped -= 1
    if not shaped.count and shaped.reservation is None:
        worker.shaped = None
    worker.resize()


def place_of_held(job: Job, worker: Worker) -> Place:
    """Return what a job seems to take that the worker already holds: the master does not know how it began."""
    choices = job.queue.shape.choices
    able = [choice for choice, needs in enumerate(choices) if could_run(worker, needs)] or [0]
    choice = next((choice for choice in able if devices_for(worker, choices[choice]) is not None), able[0])
    use = Use(worker.capacity) if worker.shaped is None else worker.shaped.use
    return Place(choices[choice], choice, use.devices(choices[choice]))


def lent_place(job: Job, worker: Worker) -> Place | None:
    """Return what a job takes of the worker beyond what its parent lends it with its slot. None: it does not fit."""
    parent = worker.held.get(job.session.parent)
    lent = ONE_CPU if parent is None or parent.place is None else parent.place.needs
    amounts = dict(lent.resources)
    _, cpus = worker.free()
    use = Use(worker.capacity) if worker.shaped is None else worker.shaped.use
    for choice, needs in enumerate(job.queue.shape.choices):
        more = Needs(
            max(0, needs.cpus - lent.cpus),
            max(0, needs.gpus - lent.gpus),
            max(0, needs.memory - lent.memory),
            tuple(
                (name, left)
                for name, amount in needs.resources
                if (left := amount - amounts.get(name, 0)) > 0
            ),
        )
        if could_run(worker, needs):
            devices = use.place(more, 1, max(0, cpus))
            if devices is not None:
                return Place(more, choice, devices, slots=0)
    return None


# --- where there is room ----------------------------------------------------------------------


def join(worker: Worker) -> None:
    """Add a worker to its pool."""
    pool = worker.pool
    pool.workers += 1
    pool.slots += worker.capacity.slots
    pool.ending += worker.capacity.ends_idle
    for needs, opening in pool.openings.items():
        opening.add(worker, could_run(worker, needs))


def open_for(pool: Pool, choices: Iterable[Needs], workers: Iterable[Worker]) -> None:
    """See to it that the pool knows where jobs can start that need one of these."""
    openings = pool.openings
    for needs in choices:
        if needs in openings:
            continue
        if len(openings) >= OPENINGS:
            waiting = {ONE_CPU, *(each for queue in pool.rotation for each in queue.shape.choices)}
            for unused in [each for each in openings if each not in waiting]:
                del openings[unused]
        opening = openings[needs] = Openings(needs)
        for worker in workers:
            if worker.pool is pool:
                opening.add(worker, could_run(worker, needs))
                pool.changed[worker] = None


def update(openings: Mapping[Needs, Openings], worker: Worker) -> None:
    """Update what is known of the room on this worker."""
    slots, cpus = worker.free()
    shaped, reservation = worker.shaped, worker.reservation
    is_there = not (worker.is_draining or worker.is_away)
    for needs, opening in openings.items():
        if worker not in opening.able:
            continue
        has_room = is_kept = False
        if is_there and slots > 0 and needs.cpus <= cpus:
            devices = () if shaped is None else shaped.use.place(needs, slots, cpus)
            has_room = devices is not None
            if devices is not None and reservation is not None:
                is_kept = not reservation.leaves_room(Place(needs, devices=devices), worker.available)
        _keep(opening.free, worker, has_room and not is_kept)
        _keep(opening.kept, worker, is_kept)
        lane = None if shaped is None or reservation is not None else shaped.lanes.get(needs)
        _keep(opening.toppable, worker, lane is not None and is_there and _takes_more(lane))


def _keep(workers: dict[Worker, None], worker: Worker, is_in: bool) -> None:
    if is_in:
        workers[worker] = None
    else:
        workers.pop(worker, None)


def _takes_more(lane: Lane[Job]) -> bool:
    """True if more short jobs should be sent ahead."""
    return (
        not lane.backoff
        and lane.cost <= AHEAD_SECONDS / 2
        and lane.seconds < lane.places * AHEAD_SECONDS * AHEAD_SHARE
    )


def room_at(worker: Worker, needs: Needs, started: Mapping[int, tuple[str, float]], now: float) -> float:
    """Estimate when the worker, which could run a job with these needs, will have room for it, if nothing else begins
    there; inf: unknown. `started`: workers and times of starts that were reported, by dispatch number."""
    slots, cpus = worker.free()
    use = Use(worker.capacity) if worker.shaped is None else worker.shaped.use.copy()
    ends: list[tuple[float, int, Place | None]] = []
    for dispatch, job in islice(worker.held.items(), worker.slots):  # (those that run come first)
        if job.place is None or not job.place.is_ahead:
            _, begun = started.get(dispatch, ("", now))
            ends.append((max(0.0, _longest(job) - (now - begun)), dispatch, job.place))
    for left, _, place in sorted(ends, key=itemgetter(0)):
        if place is not None:
            use.add(place, -1)
        slots += 1 if place is None else place.slots
        cpus += 1 if place is None else place.needs.cpus
        if use.place(needs, slots, cpus) is not None:
            return now + left
    return math.inf


def _longest(job: Job) -> float:
    """Expected duration of a job (seconds)."""
    limit = math.inf if job.options is None or job.options.timeout is None else job.options.timeout
    return min(job.function.estimate.seconds, limit)
