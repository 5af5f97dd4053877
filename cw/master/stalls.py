"""The master's policy, its part that sees that nothing can go on: all slots are held by jobs that wait for jobs.

Where jobs lend their slots that does not happen, but some do not: with `lend=False`, or where they wait in a way that
cw does not see, such as an event that a callback sets. The master sees that each slot is held by a job whose own
session has jobs, none of which runs, and that nothing else runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from cw.master.jobs import Pool, Session, Worker


def stalled_by(pool: Pool, sessions: Iterable[Session], workers: Iterable[Worker]) -> Set[int]:
    """The jobs (their dispatch numbers) that hold all slots of the pool and have jobs of their own, which wait, while
    nothing else runs. None: it is not so."""
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
        if worker.is_away or not running <= parents or len(running) < worker.usable:
            return frozenset()
        holding |= running
    return holding
