"""Part of the master's policy that knows all demands of a job on a worker: one question, `fit`.

A new demand is a line in `fit`, and the values that it compares are in the job and in the worker. How much is sent
ahead to a worker that a job fits is decided in `scheduler`.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from cw.master.policy.jobs import Job, Queue, Session, Shape, Worker
from cw.master.policy.taken import Use
from cw.needs import Needs


class Fit(Enum):
    """Answer to when a job can start at a worker, as things stand."""

    NOW = "now"
    LATER = "later"
    """Possible when other jobs there have ended, or the worker is back."""
    NEVER = "never"


NOW, LATER, NEVER = Fit


def fit(job: Job, worker: Worker, despite_setbacks: bool = False) -> Fit:
    """Decide when this job can start at this worker. `despite_setbacks`: even if the worker is set aside for the job's
    session, or if the job's runner died there."""
    if not (serves(worker, job.queue) if despite_setbacks else takes_some(worker, job.queue)):
        return NEVER
    if is_ruled_out(job, worker, despite_setbacks):
        return NEVER
    if job.queue.is_plain:
        return NOW if worker.is_idle else LATER
    able = [needs for needs in job.queue.shape.choices if could_run(worker, needs)]
    if not able:
        return NEVER
    return NOW if not worker.is_away and any(has_room(worker, needs) for needs in able) else LATER


def is_ruled_out(job: Job, worker: Worker, despite_setbacks: bool = False) -> bool:
    """True if the worker is not for this job, though it is for others of its queue."""
    if job.options is not None and job.min_time() > worker.left:
        return True
    return not despite_setbacks and is_excluded(job, worker)


def could_run(worker: Worker, needs: Needs) -> bool:
    """True if a job with these needs could run on this worker if nothing else ran there."""
    return not worker.capacity.lacks(needs)


def could_run_any(shape: Shape, workers: Iterable[Worker]) -> bool:
    """True if one of these workers could run jobs of this shape, as one of their alternatives."""
    return any(
        worker.pool.python == shape.python and any(could_run(worker, needs) for needs in shape.choices)
        for worker in workers
    )


def suits(worker: Worker, queue: Queue) -> bool:
    """True if the worker could run jobs of this queue, as one of their alternatives, if nothing else ran there."""
    return queue.is_plain or any(could_run(worker, needs) for needs in queue.shape.choices)


def has_room(worker: Worker, needs: Needs) -> bool:
    """True if the worker, which could run jobs with these needs, has room for one now. (Reservations do not count.)"""
    return devices_for(worker, needs) is not None


def devices_for(worker: Worker, needs: Needs) -> tuple[int, ...] | None:
    """The devices that a job with these needs would get on this worker, which could run it. None: it has no room."""
    slots, cpus = worker.free()
    if slots < 1 or needs.cpus > cpus:
        return None
    use = Use(worker.capacity) if worker.shaped is None else worker.shaped.use
    return use.place(needs, slots, cpus)


def goes_ahead(job: Job) -> bool:
    """True if the job may be sent before a slot is free. One with a `min_time` may not: it would start later, when less
    time is left."""
    return job.options is None or not job.min_time()


def is_open(worker: Worker, queue: Queue) -> bool:
    """True if the worker takes jobs of this queue's session, as long as it does not drain."""
    return worker.pool is queue.pool and queue.session.key not in worker.blocked_sessions


def serves(worker: Worker, queue: Queue) -> bool:
    """True if the worker takes jobs of this queue."""
    if worker.is_draining or worker.pool is not queue.pool:
        return False
    return not worker.blocked_sessions or is_open(worker, queue)


def takes_some(worker: Worker, queue: Queue) -> bool:
    """True if some jobs of this queue fit the worker: those without demands of their own. False: none does."""
    return serves(worker, queue) and (queue.session.setbacks is None or not is_aside(worker, queue.session))


def is_aside(worker: Worker, session: Session) -> bool:
    """True if the worker is set aside for this session."""
    return session.setbacks is not None and worker in session.setbacks.aside


def is_excluded(job: Job, worker: Worker) -> bool:
    """True if the job's runner died on this worker's only slot, or the job raised on one of its slots, and there is
    another worker to try."""
    return (
        job.excluded_worker is worker
        and (worker.capacity.slots == 1 or bool(job.tries))
        and worker.pool.workers > 1
    )
