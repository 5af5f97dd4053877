"""The master's policy, its part that hands out: whose turn it is, and which worker gets what.

    backlogs of the sessions ----.                         .---> idle workers: a job for each slot
                                  >--- rotation: turns ---<
    what was requeued, first ----'                         '---> those with room: sent ahead

Within a session jobs go first come first served (what was requeued goes first); sessions take turns.
A worker gets a job for each idle slot, and ahead of that what its slots will need for AHEAD_SECONDS, judged by
the measured durations of the jobs' functions. What was sent ahead and waits while another worker idles is
recalled (`on_tick`), and dispatched again only when the worker has named it as returned.

A job that waits for jobs of its own has lent its slot: only sessions deeper than its own get that (`fill_lent`; see
cw.nested). It goes by what the worker says of its slots, not by what it holds: that may be many jobs which cannot use
the slot.

Sessions and workers of one Python version have nothing to do with those of another: each version is a pool.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from cw.master.jobs import (
    AHEAD_BYTES,
    AHEAD_JOBS,
    AHEAD_SECONDS,
    Action,
    Assign,
    Job,
    Pool,
    Recall,
    Session,
    Worker,
)

QUANTUM_SECONDS = 0.0005
"""Work given to an idle slot before the next idle one has its turn. Larger: short batches run in fewer places.
Smaller: with many workers, the shortest jobs travel in frames of one, which costs the master most of its time."""

QUANTUM_JOBS = 64
"""The same in jobs."""

TURN_JOBS = 32
"""Jobs of one session dispatched before the next has its turn. Larger: longer frames, coarser turns."""

TURN_SECONDS = 0.001
"""The same in estimated seconds: jobs that take longer go one at a time."""

BARREN_TICKS = 5
"""Ticks until a worker that had nothing to give back is asked again: its runners may be in long jobs by then."""

AVOID_TICKS = 50
"""Ticks that a job waits for another worker than the one where its runner died, while that one idles."""

LOOK_PAST = 100
"""Jobs in a row that need more time than a worker has left, past which others are looked for. Larger: with many of
them, each turn at such a worker takes longer. Smaller: what would fit waits behind them."""


class Turns:
    """Backlogs and room."""

    def __init__(self, first_dispatch: int) -> None:
        self.pools: dict[Any, Pool] = {}  # by Python version
        # Each master counts from another number: a worker may hold dispatches of the one before.
        self._dispatched = first_dispatch

    def wants_tick(self) -> bool:
        """Is there something for `on_tick` to do: work in one place, and a free slot in another?"""
        return any(
            (pool.idle and (pool.rotation or _has_surplus(pool)))
            or (pool.lending and (_has_surplus(pool) or any(session.depth for session in pool.rotation)))
            for pool in self.pools.values()
        )

    def on_tick(self) -> list[Action]:
        """Called every some 10 ms while `wants_tick`: recall what waits at one worker while another idles."""
        actions: list[Action] = []
        for pool in self.pools.values():
            if not pool.idle and not pool.lending:
                continue
            # If nothing idles but what is lent: who has jobs that are deep enough for it?
            floor = None if pool.idle else min(worker.floors[0] for worker in pool.lending)
            if pool.rotation:
                actions += self._on_avoided(pool)
            else:
                pool.waited = 0
            for worker in list(pool.ahead):
                surplus = len(worker.held) - worker.slots
                ended, worker.ended = worker.ended, 0
                if surplus <= 0:
                    del pool.ahead[worker]
                elif worker.barren:
                    worker.barren -= 1
                elif floor is not None and not any(j.session.depth > floor for j in worker.held.values()):
                    continue
                elif surplus > 2 * ended and not worker.recalling and not worker.is_away:
                    # It would take more than two ticks. Half of it, if it goes on with the rest meanwhile;
                    # it is asked again if that was too little.
                    worker.recalling = True
                    worker.is_stuck = not ended
                    self.note_room(worker)
                    actions.append(Recall(worker.key, (surplus + 1) // 2 if ended else surplus))
        return actions

    def pool(self, python: Any) -> Pool:
        pool = self.pools.get(python)
        if pool is None:
            pool = self.pools[python] = Pool(python)
        return pool

    def fill_all(self, pool: Pool) -> list[Action]:
        """Give what waits to who has room: first a job for each idle slot anywhere, then ahead."""
        assigned: dict[Worker, list[Job]] = {}
        for ahead, candidates in ((False, pool.idle), (True, pool.roomy)):
            if ahead and pool.lending:
                self._fill_lent(pool, assigned)
            if not pool.rotation:
                break
            for worker in list(candidates):
                self._fill(worker, assigned.setdefault(worker, []), ahead)
                if not pool.rotation:
                    break
        return [Assign(worker.key, jobs) for worker, jobs in assigned.items() if jobs]

    def fill_one(self, worker: Worker) -> list[Action]:
        jobs: list[Job] = []
        if worker.is_draining or worker.is_away or (worker.is_stuck and not worker.is_idle):
            self.note_room(worker)
            return []
        self._fill(worker, jobs, not worker.is_stuck)
        return [Assign(worker.key, jobs)] if jobs else []

    def lend(self, worker: Worker, extra: int, floors: Iterable[int]) -> None:
        """It holds so many jobs beyond one for each slot that is taken; these slots are lent and free."""
        worker.extra, worker.slots = extra, worker.usable + extra
        worker.floors = sorted(floors)
        if worker.floors:
            worker.pool.lending[worker] = None
        else:
            worker.pool.lending.pop(worker, None)
        if len(worker.held) > worker.slots:
            worker.pool.ahead[worker] = None
        self.note_room(worker)

    def fill_lent(self, pool: Pool) -> list[Action]:
        """Give what waits of deep sessions to the slots that are lent."""
        assigned: dict[Worker, list[Job]] = {}
        if pool.lending and pool.rotation:
            self._fill_lent(pool, assigned)
        return [Assign(worker.key, jobs) for worker, jobs in assigned.items() if jobs]

    def _fill_lent(self, pool: Pool, assigned: dict[Worker, list[Job]]) -> None:
        for session in [session for session in pool.rotation if session.depth]:
            has_given = False
            for worker in [worker for worker in pool.lending if worker.floors[0] < session.depth]:
                out = assigned.setdefault(worker, [])
                while worker.floors and worker.floors[0] < session.depth and self._lend(worker, session, out):
                    # The deepest that it can use; others may need the rest.
                    worker.floors.remove(max(floor for floor in worker.floors if floor < session.depth))
                    has_given = True
                if not worker.floors:
                    del pool.lending[worker]
                self.note_room(worker)
            if has_given:
                self.stop_waiting(session)
                self.wait(session)  # behind the others, if more of it waits

    def _lend(self, worker: Worker, session: Session, out: list[Job]) -> bool:
        """Give one slot that is lent the session's next job, and short ones after it. Is there one for it?"""
        before = len(out)
        cost = 0.0
        unfit: list[Job] = []
        if session.key in worker.not_for:
            return False
        while queue := session.requeued or session.backlog:
            job = queue[0]
            if job.cancelled:
                queue.popleft()
                continue
            if job.min_time() > worker.left or (job.avoid is not None and must_avoid(job, worker)):
                unfit.append(queue.popleft())
                if len(unfit) >= LOOK_PAST:
                    break
                continue
            cost += job.function.estimate.seconds
            if len(out) > before and (cost > QUANTUM_SECONDS or len(out) - before >= QUANTUM_JOBS):
                break
            queue.popleft()
            self._dispatched += 1
            self.hold(job, worker, self._dispatched)
            out.append(job)
        session.requeued.extendleft(reversed(unfit))
        return len(out) > before

    def _fill(self, worker: Worker, out: list[Job], ahead: bool) -> None:
        """Move jobs from the backlogs to the worker, as far as it has room, sessions in turn."""
        rotation = worker.pool.rotation
        fruitless = 0  # sessions in a row that had nothing for this worker
        is_full = False
        while fruitless < len(rotation) and not is_full:
            session = rotation[0]
            before = len(out)
            is_full = self._take(worker, session, out, ahead, len(rotation) == 1)
            if len(out) > before:
                fruitless = 0
            elif is_full:
                break  # its turn is still to come: others with shorter jobs must not fill all room before it
            if session.requeued or session.backlog:
                rotation.rotate(-1)
                fruitless += len(out) == before
            else:
                rotation.popleft()
                session.is_waiting = False
        self.note_room(worker)

    def _take(self, worker: Worker, session: Session, out: list[Job], ahead: bool, alone: bool) -> bool:
        """One turn of a session at a worker. True: the worker has no room for the session's next job."""
        held, slots = worker.held, worker.slots
        if session.key in worker.not_for:
            return False
        if session.setbacks is not None and worker in session.setbacks.aside:
            return False
        load_limit = slots * (AHEAD_SECONDS if ahead else QUANTUM_SECONDS)
        jobs_limit = slots * (AHEAD_JOBS if ahead else QUANTUM_JOBS)
        load, size, dispatched = worker.load, worker.size, self._dispatched
        turn_jobs, turn_cost = 0, 0.0
        is_full = False
        avoiding: list[Job] = []
        queue = session.requeued or session.backlog
        while queue:
            job = queue[0]
            if job.cancelled:
                queue.popleft()
                queue = session.requeued or session.backlog
                continue
            seconds = job.function.estimate.seconds
            cost = seconds if seconds < AHEAD_SECONDS else AHEAD_SECONDS
            count = len(held)
            if count >= slots and (load + cost > load_limit or count >= jobs_limit or size > AHEAD_BYTES):
                is_full = True
                break
            if job.options is not None and (needed := job.min_time()):
                if count >= slots:  # it would start later, when less is left
                    is_full = True
                    break
                if needed > worker.left:
                    avoiding.append(queue.popleft())
                    if len(avoiding) >= LOOK_PAST:
                        break
                    queue = queue or session.backlog
                    continue
            if job.avoid is not None and must_avoid(job, worker):
                avoiding.append(queue.popleft())
                if not queue:
                    queue = session.backlog
                continue
            if not alone:
                turn_jobs += 1
                turn_cost += cost
                if turn_jobs > 1 and (turn_jobs > TURN_JOBS or turn_cost > TURN_SECONDS):
                    break
            queue.popleft()
            dispatched += 1
            job.dispatch = dispatched
            job.worker = worker
            job.cost = cost
            held[dispatched] = job
            load += cost
            size += len(job.payload)
            out.append(job)
            if not queue:
                queue = session.requeued or session.backlog
        if avoiding:
            session.requeued.extendleft(reversed(avoiding))
        if dispatched != self._dispatched:
            worker.load, worker.size, self._dispatched = load, size, dispatched
            worker.barren = 0
            if len(held) > slots:
                worker.pool.ahead[worker] = None
        return is_full

    def give_one(self, session: Session, worker: Worker) -> list[Assign]:
        """Give the session's next job to this worker, whatever keeps others from it."""
        queue = session.requeued or session.backlog
        while queue and queue[0].cancelled:
            queue.popleft()
            queue = session.requeued or session.backlog
        if not queue or not session.is_waiting or queue[0].min_time() > worker.left:
            return []
        job = queue.popleft()
        if not session.requeued and not session.backlog:
            self.stop_waiting(session)
        self._dispatched += 1
        self.hold(job, worker, self._dispatched)
        self.note_room(worker)
        return [Assign(worker.key, [job])]

    def _on_avoided(self, pool: Pool) -> list[Action]:
        """A tick, and a job waits while a slot idles, since its runner died there. Not for ever: the others
        may be in jobs that never end."""
        pool.waited += 1
        if pool.waited < AVOID_TICKS:
            return []
        pool.waited = 0
        for session in pool.rotation:
            for job in session.requeued:
                if job.avoid is not None and (
                    job.avoid[0] in pool.idle or (session.depth and job.avoid[0] in pool.lending)
                ):
                    job.avoid = None
        return self.fill_all(pool)

    def note_room(self, worker: Worker) -> None:
        pool = worker.pool
        if worker.floors and (worker.is_draining or worker.is_away):
            worker.floors = []
            pool.lending.pop(worker, None)
        if worker.is_idle:
            pool.idle[worker] = pool.roomy[worker] = None
            return
        pool.idle.pop(worker, None)
        if worker.is_roomy and not worker.is_stuck:
            pool.roomy[worker] = None
        else:
            pool.roomy.pop(worker, None)

    def wait(self, session: Session) -> None:
        """Put a session with waiting jobs in the rotation."""
        if session.is_blocked or session.is_absent:
            return
        if not session.is_waiting and (session.requeued or session.backlog):
            session.is_waiting = True
            session.pool.rotation.append(session)

    def stop_waiting(self, session: Session) -> None:
        if session.is_waiting:
            session.is_waiting = False
            session.pool.rotation.remove(session)

    def release(self, worker: Worker, dispatches: Iterable[int]) -> list[Job]:
        """Take jobs from the worker; they are in no place until the caller puts them in one."""
        jobs = []
        for dispatch in dispatches:
            job = worker.held.pop(dispatch, None)
            if job is not None:
                worker.load -= job.cost
                worker.size -= len(job.payload)
                job.worker = None
                job.started = False
                jobs.append(job)
        if not worker.held:
            worker.load, worker.size = 0.0, 0
        return jobs

    def hold(self, job: Job, worker: Worker, dispatch: int) -> None:
        job.dispatch, job.worker, job.cost = dispatch, worker, AHEAD_SECONDS
        worker.held[dispatch] = job
        worker.load += job.cost
        worker.size += len(job.payload)
        if len(worker.held) > worker.slots:
            worker.pool.ahead[worker] = None

    def requeue(self, jobs: Iterable[Job]) -> None:
        by_session: dict[Session, list[Job]] = {}
        for job in jobs:
            by_session.setdefault(job.session, []).append(job)
        for session, again in by_session.items():
            merged = sorted([*session.requeued, *again], key=lambda job: job.number)
            session.requeued = deque(merged)
            self.wait(session)


def must_avoid(job: Job, worker: Worker) -> bool:
    """Its runner died on this worker's only slot, and there is another worker to try."""
    assert job.avoid is not None
    return job.avoid[0] is worker and worker.offered == 1 and worker.pool.workers > 1


def _has_surplus(pool: Pool) -> bool:
    """Does a worker hold more than it has slots?"""
    while pool.ahead:
        worker, _ = pool.ahead.popitem()
        if len(worker.held) > worker.slots:
            pool.ahead[worker] = None
            return True
    return False
