"""Part of the master's policy about jobs that cannot go on: the obstacle that keeps a session's jobs, in words.

Perhaps there is no worker of their Python version, or none that can use its slots for them, or none that stays for as
long as the next job needs. Or all slots are held by jobs that wait for jobs of their own (`stalled_by`). That does not
happen if jobs lend their slots, but some do not: with `lend=False`, or if they wait in a way that cw does not see, such
as an event that a callback sets. The master sees that each slot is held by a job whose own session has jobs, none of
which runs, and that nothing else runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Set
from typing import NamedTuple

from cw.master.fit import NEVER, fit, is_open
from cw.master.jobs import Pool, Python, Queue, Session, Worker

NOTICE_SECONDS = 3.0
"""Time after which a client is notified that its jobs find no worker (seconds)."""

STALLED = (
    "all slots are held by jobs that wait for jobs of their own, and these wait for a slot: nothing goes on. A job "
    "lends its slot while its main thread waits in result(), wait(), map or at the end of the block of its client, "
    "unless that has lend=False; else there must be more slots than such jobs: start more workers "
    "(python -m cw.worker HOST)"
)


class Obstacle(NamedTuple):
    """The reasons that keep the open jobs of a session."""

    pythons: frozenset[Python]
    """Python versions of the connected workers."""
    seconds: float
    """Seconds that the next job needs, if no worker of its Python version has that much time left; otherwise 0."""
    stalled_by: Set[int]
    """Jobs that hold all slots and wait for jobs of their own; empty: this is not the reason."""


def obstacle(session: Session, sessions: Iterable[Session], workers: Collection[Worker]) -> Obstacle | None:
    """Find the obstacle that keeps the session's open jobs; None: there is none, or it has no open jobs."""
    if not session.jobs:
        return None
    for queue in queues_in_use(session):
        is_served = can_run(queue, workers)
        seconds = time_wanting(queue, workers) if is_served else 0.0
        stalled = stalled_by(queue.pool, sessions, workers)
        if not is_served or seconds or stalled:
            return Obstacle(frozenset(worker.pool.shape.python for worker in workers), seconds, stalled)
    return None


def queues_in_use(session: Session) -> Iterable[Queue]:
    """Queues of the session's open jobs, wherever these are now; of a session without jobs, all."""
    queues = session.queues.values()
    return (
        queues if len(queues) == 1 or not session.jobs else {job.queue: None for job in session.jobs.values()}
    )


def can_run(queue: Queue, workers: Iterable[Worker]) -> bool:
    """True if there is a slot that can be used for this queue's jobs."""
    return any(worker.slots and is_open(worker, queue) for worker in workers)


def time_wanting(queue: Queue, workers: Iterable[Worker]) -> float:
    """Seconds that the queue's next job needs, if no worker that serves it has that much time left; otherwise 0."""
    job = queue.head()
    if job is None or not job.min_time():
        return 0.0
    is_never = all(fit(job, worker, despite_setbacks=True) is NEVER for worker in workers)
    return job.min_time() if is_never else 0.0


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


class Wait:
    """Decides when a client must be notified that its jobs cannot go on: once for each such time."""

    def __init__(self) -> None:
        self._since = 0.0  # when the jobs were first seen not to go on; 0: they do
        self._stalled_by: Set[int] = frozenset()
        self._is_reported = False

    def on_second(self, now: float, obstacle: Obstacle | None) -> bool:
        """True if the client must be notified now of the obstacle."""
        if obstacle is None:
            self._since, self._is_reported = 0.0, False
        elif not self._since or obstacle.stalled_by != self._stalled_by:
            self._since, self._is_reported = now, False
            self._stalled_by = obstacle.stalled_by
        elif not self._is_reported and now - self._since >= NOTICE_SECONDS:
            self._is_reported = True
            return True
        return False


def why_it_waits(obstacle: Obstacle, python: Python, why_unusable: str) -> str:
    """Text for a client of this Python version; `why_unusable`: a worker's reason why it cannot use its slots."""
    if python in obstacle.pythons:
        if obstacle.seconds:
            return (
                f"the next job needs {obstacle.seconds:g} s (min_time), and no worker is there that long: it waits "
                "for one that is (such as one in a Slurm job with a longer --time)"
            )
        if obstacle.stalled_by:
            return STALLED
        return f"no worker can start a process for this program's jobs ({why_unusable}); they wait"
    if not obstacle.pythons:
        return "no worker is connected to the master; the jobs wait for one (python -m cw.worker HOST)"
    own = "{}.{}".format(*python)
    names = ", ".join("{}.{}".format(*other) for other in sorted(obstacle.pythons))
    return (
        f"this program runs Python {own}, but the connected workers run Python {names}: its jobs wait for "
        f"workers with Python {own}"
    )
