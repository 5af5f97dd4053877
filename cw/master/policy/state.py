"""State of the master's policy: every move of a job from one place to another, and the questions that others ask.

Job ---> queue ---> held by a worker ---> forgotten
           ^            |
           '-- requeue -'-- release: in no place, until the caller puts it in one
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from cw.master.policy import placing, stalls
from cw.master.policy.actions import Action, GiveUp, SendToWorker
from cw.master.policy.fit import NEVER, NOW, could_run, fit
from cw.master.policy.jobs import (
    AHEAD_SECONDS,
    Job,
    Pool,
    Python,
    Queue,
    Session,
    SessionKey,
    Shape,
    Worker,
    WorkerKey,
)
from cw.master.policy.taken import Place
from cw.master.policy.tallies import Tallies
from cw.net import messages as m
from cw.requirements import JobOptions

LOOK_PAST = 100
"""Most jobs in a row that are skipped in search of one that can start at a worker. Larger: with many that cannot,
each turn at such a worker takes longer. Smaller: jobs that would fit wait behind them."""


def shape_of(session: Session, options: JobOptions | None) -> Shape:
    """Shape of the session's jobs with these options."""
    return Shape(session.python) if options is None else Shape(session.python, options.choices)


class State:
    """Sessions, workers, and the pools in which they meet."""

    def __init__(self) -> None:
        self.sessions: dict[SessionKey, Session] = {}
        self.workers: dict[WorkerKey, Worker] = {}
        self.pools: dict[tuple[Python, int], Pool] = {}  # by Python and number of nodes
        self.tallies = Tallies()
        self.on_given_back: Callable[[Iterable[int]], None] | None = None
        """Called with the dispatches of jobs that a worker does not hold any more and that have no result."""

    def pool(self, python: Python, nodes: int = 1) -> Pool:
        pool = self.pools.get((python, nodes))
        if pool is None:
            pool = self.pools[python, nodes] = Pool(python)
        return pool

    def queue(self, session: Session, options: JobOptions | None) -> Queue:
        """The session's queue of jobs with these options."""
        shape = shape_of(session, options)
        queue = session.queues.get(shape)
        if queue is None:
            queue = session.queues[shape] = Queue(
                session, self.pool(shape.python, shape.choices[0].nodes), shape
            )
        return queue

    # --- moves ---

    def add(self, session: Session, jobs: Iterable[Job]) -> None:
        """Note new open jobs of a session; they are in no place until the caller puts them in one."""
        known = session.jobs
        options, queue = None, self.queue(session, None)
        for job in jobs:
            if job.options is not options:
                options = job.options
                queue = self.queue(session, options)
            job.session, job.queue = session, queue
            known[job.number] = job

    def hold(self, job: Job, worker: Worker, dispatch: int, place: Place | None = None) -> None:
        """Give the worker this job, under this dispatch number. `place`: what it takes there; None: what it seems to
        take, as the worker holds it already."""
        job.dispatch, job.worker, job.cost = dispatch, worker, AHEAD_SECONDS
        worker.held[dispatch] = job
        worker.load += job.cost
        worker.size += len(job.payload)
        if place is None and job.queue is not None and not job.queue.is_plain:
            place = placing.place_of_held(job, worker)
        if place is None:
            job.session.load += job.cost
        else:
            placing.occupy(job, worker, place)
        if len(worker.held) > worker.slots:
            worker.pool.ahead[worker] = None

    def release(self, worker: Worker, dispatches: Iterable[int]) -> list[Job]:
        """Take jobs from the worker; they are in no place until the caller puts them in one."""
        jobs = []
        for dispatch in dispatches:
            job = worker.held.pop(dispatch, None)
            if job is not None:
                worker.load -= job.cost
                worker.size -= len(job.payload)
                if job.place is None:
                    job.session.load -= job.cost
                else:
                    placing.vacate(job, worker)
                job.worker = None
                job.started = False
                jobs.append(job)
        if not worker.held:
            worker.load, worker.size = 0.0, 0
        if self.on_given_back is not None:
            self.on_given_back([job.dispatch for job in jobs])
        return jobs

    def requeue(self, jobs: Iterable[Job]) -> None:
        """Put jobs back in their queues, before those that were never dispatched."""
        by_queue: dict[Queue, list[Job]] = {}
        for job in jobs:
            by_queue.setdefault(job.queue, []).append(job)
        for queue, again in by_queue.items():
            queue.requeue(again)
            self.wait(queue)

    def wait(self, *queues: Queue) -> None:
        """Put those of these queues that have jobs in the rotation."""
        for queue in queues:
            if queue and not (queue.is_waiting or queue.session.is_blocked or queue.session.is_absent):
                queue.is_waiting = True
                queue.pool.rotation.append(queue)
                queue.pool.waiting.setdefault(queue.session, []).append(queue)
                if not queue.is_plain:
                    queue.pool.shaped += 1
                    placing.open_for(queue.pool, queue.shape.choices, self.workers.values())

    def stop_waiting(self, *queues: Queue) -> None:
        """Take these queues out of the rotation."""
        for queue in queues:
            if queue.is_waiting:
                queue.is_waiting = False
                queue.pool.rotation.remove(queue)
                own = queue.pool.waiting[queue.session]
                own.remove(queue)
                if not own:
                    del queue.pool.waiting[queue.session]
                queue.pool.shaped -= not queue.is_plain

    def cancel(self, jobs: Iterable[Job]) -> list[Action]:
        """Cancel jobs. One that a worker holds takes its slot until the worker reports that it is gone."""
        by_worker: dict[Worker, list[int]] = {}
        for job in jobs:
            job.cancelled = True
            if job.worker is not None:
                by_worker.setdefault(job.worker, []).append(job.dispatch)
        return [SendToWorker(worker.key, m.Stop(dispatches)) for worker, dispatches in by_worker.items()]

    def give_up(self, job: Job, reason: str) -> GiveUp:
        """Forget a job that was lost too often."""
        del job.session.jobs[job.number]
        failure = self.tallies.on_given_up(job.session.key, job.number, job.function.estimate, "", reason)
        failure.host = str(job.notes[-1].get("host", "")) if job.notes else ""
        return GiveUp(job.session.key, job.number, reason, job.notes)

    def note_started(self, job: Job, worker: Worker) -> None:
        """Note that a job runs at the worker that holds it."""
        job.started = True
        self.tallies.on_started(worker.key, job.dispatch, self.workers)

    def note_room(self, worker: Worker) -> None:
        """Update the pool's sets after a change in what the worker holds, or in whether it can take jobs."""
        pool = worker.pool
        if pool.openings:
            pool.changed[worker] = None
        if worker.floors and (worker.is_draining or worker.is_away):
            worker.floors = []
            pool.lending.pop(worker, None)
        if worker.is_idle:
            pool.has_capacity[worker] = None
            if worker not in pool.idle:
                pool.idle[worker] = None
                if worker.done:
                    pool.idle.move_to_end(worker, last=False)
            return
        pool.idle.pop(worker, None)
        if worker.has_capacity and not worker.is_stuck:
            pool.has_capacity[worker] = None
        else:
            pool.has_capacity.pop(worker, None)

    # --- questions ---

    def slots(self, python: Python | None = None) -> int:
        """Number of connected slots (of that Python version), including those that cannot be used now."""
        return sum(pool.slots for pool in self.pools.values() if python is None or pool.python == python)

    def can_run(self, key: SessionKey) -> bool:
        """True if there are slots that can be used for this session's jobs."""
        session = self.sessions.get(key)
        return session is not None and all(
            stalls.can_run(queue, self.workers.values()) for queue in stalls.queues_in_use(session)
        )

    def depth(self, key: SessionKey) -> int:
        """Depth of this session."""
        return self.sessions[key].depth

    def has_lost_parent(self, key: SessionKey) -> bool:
        """True if the session's client is in a job that no worker holds any more."""
        parent = self.sessions[key].parent
        workers = self.workers.values()
        return bool(parent and workers) and not any(parent in worker.held for worker in workers)

    def has_waiting(self, besides: SessionKey) -> bool:
        """True if jobs of other sessions wait."""
        return any(queue.session.key != besides for pool in self.pools.values() for queue in pool.rotation)

    def has_setbacks(self, key: SessionKey) -> bool:
        """True if there are workers on which calls of this session could not be entered."""
        session = self.sessions.get(key)
        return session is not None and session.setbacks is not None

    def status_report(self) -> tuple[int, int]:
        """Number of jobs that wait, and that run (an estimate)."""
        running = sum(worker.running for worker in self.workers.values())
        return max(0, sum(len(session.jobs) for session in self.sessions.values()) - running), running

    def open_jobs(self, key: SessionKey) -> Mapping[int, Job]:
        """This session's open jobs, by number."""
        return self.sessions[key].jobs

    def charged_jobs(self, key: SessionKey) -> list[Job]:
        """The open jobs of this session to which something has been charged."""
        return [job for job in self.sessions[key].jobs.values() if job.notes]

    def owner_of(self, key: WorkerKey, dispatch: int) -> tuple[SessionKey, int] | None:
        """Session and number of an open job that this worker holds under this dispatch; None: it holds no such job."""
        job = self.workers[key].held.get(dispatch) if key in self.workers else None
        return None if job is None or job.cancelled else (job.session.key, job.number)

    def held(self, key: WorkerKey) -> int:
        """Number of jobs that this worker holds."""
        return len(self.workers[key].held)

    # --- for tests ---

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        for worker in self.workers.values():
            _check_worker(worker)
        for pool in self.pools.values():
            own = [worker for worker in self.workers.values() if worker.pool is pool]
            assert (pool.workers, pool.slots) == (len(own), sum(worker.capacity.slots for worker in own))
            assert pool.idle.keys() <= pool.has_capacity.keys()
            assert all(worker.floors for worker in pool.lending)
            _check_shapes(pool)
            for worker in (*pool.has_capacity, *pool.ahead, *pool.lending):
                assert self.workers.get(worker.key) is worker and worker.pool is pool
            assert len(pool.rotation) == len(set(pool.rotation))
            for queue in pool.rotation:
                assert self.sessions.get(queue.session.key) is queue.session
                assert queue.session.queues[queue.shape] is queue and queue.pool is pool
        for session in self.sessions.values():
            held = [j for w in self.workers.values() for j in w.held.values() if j.session is session]
            _check_session(session, held)
        self.tallies.check_invariants()


def _check_worker(worker: Worker) -> None:
    for dispatch, job in worker.held.items():
        assert job.worker is worker and job.dispatch == dispatch
        assert job.cancelled or job.session.jobs[job.number] is job
    assert math.isclose(worker.load, sum(j.cost for j in worker.held.values()), abs_tol=1e-6)
    assert worker.size == sum(len(j.payload) for j in worker.held.values())
    assert (worker in worker.pool.idle) == worker.is_idle
    assert (worker in worker.pool.ahead) or len(worker.held) <= worker.slots
    shaped = [job for job in worker.held.values() if job.place is not None]
    if worker.shaped is None:
        assert not shaped
    else:
        assert worker.pool.has_shapes
        worker.shaped.check_invariants(shaped)
        assert worker.shaped.reservation is None or any(
            kept.worker is worker for kept in worker.pool.reserved.values()
        )


def _check_shapes(pool: Pool) -> None:
    queues = sum(not queue.is_plain for queue in pool.rotation)
    assert pool.shaped >= queues
    assert pool.waiting.keys() == {queue.session for queue in pool.rotation}
    assert all(
        {*queues} == {q for q in pool.rotation if q.session is s} for s, queues in pool.waiting.items()
    )
    for session, (worker, job) in pool.reserved.items():
        assert job.session is session
        assert (
            worker.reservation is not None and worker.reservation.session is session and worker.pool is pool
        )
    for opening in pool.openings.values():
        assert opening.free.keys() <= opening.able.keys() and opening.toppable.keys() <= opening.able.keys()
        assert all(could_run(worker, opening.needs) for worker in opening.able)


def _check_session(session: Session, held: list[Job]) -> None:
    load = sum(job.cost if job.place is None else AHEAD_SECONDS * job.place.needs.cpus for job in held
               if job.place is None or not job.place.is_ahead)  # fmt: skip
    assert math.isclose(session.load, load, abs_tol=1e-6)
    settling = list((session.settling or {}).values())
    assert all(not job.cancelled and job.worker is None for job in settling)
    waiting = {queue: _check_queue(queue) for queue in session.queues.values()}
    queued = settling + [job for jobs in waiting.values() for job in jobs]
    assert len(queued) == len({job.number for job in queued})
    assert all(job.worker is None for job in queued)
    assert {j.number for j in queued} | {j.number for j in held if not j.cancelled} == set(session.jobs)
    assert all(job.queue is session.queues[job.queue.shape] for job in session.jobs.values())
    for queue, jobs in waiting.items():
        if jobs and not session.is_blocked and not session.is_absent:
            assert queue.is_waiting
            # No job waits while a slot that fits it idles (or is lent to sessions of its depth), unless it is behind
            # LOOK_PAST jobs that do not fit.
            if not queue.is_plain:
                _check_shaped(queue, jobs)
                continue
            lent = [worker for worker in queue.pool.lending if worker.floors[0] < session.depth]
            for worker in (*queue.pool.idle, *lent):
                unfit = [fit(job, worker) is NEVER for job in jobs]
                assert all(unfit) or sum(unfit) >= LOOK_PAST or worker.reservation is not None


def _check_shaped(queue: Queue, jobs: list[Job]) -> None:
    """No job waits while a worker has room for it that it keeps for no other."""
    for worker in queue.pool.idle:
        unfit = [fit(job, worker) is not NOW for job in jobs]
        assert all(unfit) or sum(unfit) >= LOOK_PAST or worker.reservation is not None


def _check_queue(queue: Queue) -> list[Job]:
    """Returns the jobs that wait in it."""
    waiting = [job for job in (*queue.requeued, *queue.backlog, *queue.ranked.jobs()) if not job.cancelled]
    assert all(job.priority() for job in queue.ranked.jobs())
    assert all(job.queue is queue for job in waiting)
    assert queue.is_waiting == (queue in queue.pool.rotation)
    return waiting
