"""Part of the master's policy about jobs that cannot go on: is there a slot for them at all, and is each one held by a
job that waits for jobs of its own?

The latter (`stalled_by`) does not happen if jobs lend their slots, but some do not: with `lend=False`, or if they wait
in a way that cw does not see, such as an event that a callback sets. The master sees that each slot is held by a job
whose own session has jobs, none of which runs, and that nothing else runs. Why a job waits in general: `why`.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from cw.master.policy.fit import is_open, suits
from cw.master.policy.jobs import Pool, Queue, Session, Worker


def queues_in_use(session: Session) -> Iterable[Queue]:
    """Queues of the session's open jobs, wherever these are now; of a session without jobs, all."""
    queues = session.queues.values()
    return (
        queues if len(queues) == 1 or not session.jobs else {job.queue: None for job in session.jobs.values()}
    )


def can_run(queue: Queue, workers: Iterable[Worker]) -> bool:
    """True if there is a slot that can be used for this queue's jobs."""
    return any(worker.available and is_open(worker, queue) and suits(worker, queue) for worker in workers)


def stalled_by(pool: Pool, sessions: Iterable[Session], workers: Iterable[Worker]) -> Set[int]:
    """Dispatch numbers of the jobs that hold all slots of the pool and have jobs of their own, which wait, while
    nothing else runs. Empty: the pool is not stalled."""
    if pool.idle:
        return frozenset()
    parents = {
        session.parent
        for session in sessions
        if session.parent and session.jobs and not any(job.started for job in session.jobs.values())
    }
    if not parents:
        return parents
    holding: set[int] = set()
    for worker in workers:
        if worker.pool is not pool:
            continue
        running = {dispatch for dispatch, job in worker.held.items() if job.started}
        if worker.is_away or not running <= parents or len(running) < worker.available:
            return frozenset()
        holding |= running
    return holding
