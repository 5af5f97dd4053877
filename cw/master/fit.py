"""Part of the master's policy that knows all demands of a job on a worker: one question, `fit`.

A new demand is a line in `fit`, and the values that it compares are in the job and in the worker. How much is sent
ahead to a worker that a job fits is decided in `scheduler`.
"""

from __future__ import annotations

from enum import Enum

from cw.master.jobs import Job, Session, Worker


class Fit(Enum):
    """Answer to when a job can start at a worker, as things stand."""

    NOW = "now"
    LATER = "later"
    """Possible when a slot is free, or the worker is back."""
    NEVER = "never"


NOW, LATER, NEVER = Fit


def fit(job: Job, worker: Worker) -> Fit:
    """Decide when this job can start at this worker."""
    if not serves(worker, job.session) or is_aside(worker, job.session):
        return NEVER
    if (job.options is not None and job.min_time() > worker.left) or must_avoid(job, worker):
        return NEVER
    return NOW if worker.is_idle else LATER


def serves(worker: Worker, session: Session) -> bool:
    """True if the worker takes jobs of this session."""
    return (
        worker.pool is session.queue.pool
        and not worker.is_draining
        and session.key not in worker.blocked_sessions
    )


def is_aside(worker: Worker, session: Session) -> bool:
    """True if the worker is set aside for this session."""
    return session.setbacks is not None and worker in session.setbacks.aside


def must_avoid(job: Job, worker: Worker) -> bool:
    """True if the job's runner died on this worker's only slot, and there is another worker to try."""
    return (
        job.avoid is not None
        and job.avoid[0] is worker
        and worker.capacity.slots == 1
        and worker.pool.workers > 1
    )
