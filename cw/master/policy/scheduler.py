"""Part of the master's policy that hands out jobs: whose turn it is, and which worker gets what.

    queues of the sessions ----.                         .---> idle workers: a job for each slot
                                >--- rotation: turns ---<
    requeued jobs, first ------'                         '---> workers with capacity: sent ahead

Within a session, jobs are dispatched by priority, and within one in the order of submission, requeued ones first;
sessions take turns. `fit` decides which jobs a worker can take at all.

A worker gets a job for each idle slot, and ahead of that what its slots will need for AHEAD_SECONDS, judged by
the measured durations of the jobs' functions. Jobs that were sent ahead and wait while another worker idles are
recalled (`on_tick`), and dispatched again only when the worker has named them as returned.

A job that waits for jobs of its own lends its slot, and only sessions deeper than its own may use it (`assign_lent`;
see cw.nested). The number of lent slots is what the worker reports. It does not follow from the jobs that the worker
holds, since many of those may be unable to use the slot.

Queues and workers of one Python and one number of nodes have nothing to do with others: they are a pool.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from cw.master.policy.actions import Action, Assign, SendToWorker
from cw.master.policy.fit import NEVER, NOW, fit, goes_ahead, takes_some
from cw.master.policy.jobs import AHEAD_BYTES, Job, Pool, Queue, Session, Worker
from cw.master.policy.placement import Placement
from cw.master.policy.placing import lent_place
from cw.master.policy.room import (
    QUANTUM_JOBS,
    QUANTUM_SECONDS,
    TURN_JOBS,
    TURN_SECONDS,
    Room,
    cost_of,
)
from cw.master.policy.state import LOOK_PAST, State
from cw.net import messages as m

EXCLUDED_TICKS = 50
"""Ticks that a job waits for a worker other than the one where its runner died, while that one idles."""


class Turn(Enum):
    """Reason why a worker got no more jobs of one kind."""

    GOES_ON = "the next job is of another kind"
    IS_OVER = "it is another session's turn"
    IS_FULL = "the worker has no room"


GOES_ON, IS_OVER, IS_FULL = Turn


class Scheduler:
    """Hands out waiting jobs to workers with capacity."""

    def __init__(self, state: State, first_dispatch: int) -> None:
        self._state = state
        # Each master counts from a different number: a worker may hold dispatches of the previous master.
        self._dispatched = self._ticked = first_dispatch  # the latest one, and that of the last tick
        self._placement = Placement(state, self._take_turn, self._next_dispatch)

    # --- jobs that wait at one worker while another has a free slot ---

    def wants_tick(self) -> bool:
        """True if there is something for `on_tick` to do."""
        for pool in self._state.pools.values():  # (no generator: this is on the way of each job)
            if pool.patient or (pool.reserved and self._placement.has_void(pool)):
                return True
            if pool.ahead and (pool.idle or pool.lending) and _has_surplus(pool):
                return True
            if pool.rotation and (
                (pool.idle and any(map(_may_tick, pool.rotation)))
                or (pool.lending and any(queue.session.depth for queue in pool.rotation))
            ):
                return True
        return False

    def on_tick(self) -> list[Action]:
        """Recall jobs that wait at one worker while another idles. Called every 20 ms or so while `wants_tick`."""
        actions: list[Action] = []
        for pool in self._state.pools.values():
            is_due = bool(pool.patient) and self._placement.on_patient(pool)
            if is_due or (pool.reserved and self._placement.has_void(pool)):
                actions += self.assign_all(pool)
            if not pool.idle and not pool.lending:
                continue
            if pool.has_shapes:
                actions += self._placement.on_tick(pool)
            # If only lent slots idle, only workers with jobs that are deep enough for these are asked.
            floor = None if pool.idle else min(worker.floors[0] for worker in pool.lending)
            if pool.rotation:
                actions += self._on_excluded(pool)
            else:
                pool.waited = 0
            for worker in list(pool.ahead):
                actions += self._recall(worker, floor)
        self._ticked = self._dispatched
        return actions

    def _recall(self, worker: Worker, floor: int | None) -> list[Action]:
        """Recall the worker's waiting jobs if they would wait long. `floor`: only jobs deeper than this are of use."""
        surplus = len(worker.held) - worker.slots
        ended, worker.ended = worker.ended, 0
        if surplus <= 0:
            if not worker.shaped or not worker.shaped.ahead:
                del worker.pool.ahead[worker]
            return []
        if worker.recall_backoff:
            worker.recall_backoff -= 1
            return []
        if floor is not None and not any(job.session.depth > floor for job in worker.held.values()):
            return []
        if surplus <= 2 * ended or worker.recalling or worker.is_away:
            return []
        if next(iter(worker.held)) > self._ticked:  # all that it holds was sent since the last tick
            return []
        # The surplus would take more than two ticks. Recall half of it if the worker makes progress with the rest
        # meanwhile; it is asked again if that was too little.
        worker.recalling = True
        worker.is_stuck = not ended
        self._state.note_room(worker)
        return [SendToWorker(worker.key, m.Recall((surplus + 1) // 2 if ended else surplus))]

    def _on_excluded(self, pool: Pool) -> list[Action]:
        """Count a tick in which jobs wait while a worker idles, and let jobs go back to where their runner died after
        EXCLUDED_TICKS: the other workers may be in jobs that never end."""
        pool.waited += 1
        if pool.waited < EXCLUDED_TICKS:
            return []
        pool.waited = 0
        for queue in pool.rotation:
            for job in queue.dispatched():
                died_at = job.excluded_worker
                if died_at in pool.idle or (queue.session.depth and died_at in pool.lending):
                    job.excluded_worker = None
        return self.assign_all(pool)

    # --- jobs to workers ---

    def assign_all(self, pool: Pool) -> list[Action]:
        """Give waiting jobs to workers with capacity: first a job for each idle slot of all workers, then ahead."""
        if pool.has_shapes:
            return self._assign_shapes(pool, pool.has_capacity)
        assigned: dict[Worker, list[Job]] = {}
        for ahead, candidates in ((False, pool.idle), (True, pool.has_capacity)):
            if ahead and pool.lending:
                self._assign_to_lent(pool, assigned)
            if not pool.rotation:
                break
            waiting = len(pool.rotation[0].backlog)
            for worker in sorted(candidates, key=_fullness) if pool.ending else list(candidates):
                self._assign(worker, assigned.setdefault(worker, []), ahead, waiting)
                if not pool.rotation:
                    break
        return [Assign(worker.key, jobs) for worker, jobs in assigned.items() if jobs]

    def assign_to(self, worker: Worker) -> list[Action]:
        jobs: list[Job] = []
        if worker.is_draining or worker.is_away or (worker.is_stuck and not worker.is_idle):
            self._state.note_room(worker)
            return []
        if worker.pool.has_shapes:
            self._state.note_room(worker)
            return self._assign_shapes(worker.pool, [worker])
        if not worker.pool.rotation:  # nothing waits
            self._state.note_room(worker)
            return []
        self._assign(worker, jobs, not worker.is_stuck)
        return [Assign(worker.key, jobs)] if jobs else []

    def _assign_shapes(self, pool: Pool, for_more: Iterable[Worker]) -> list[Action]:
        """Give waiting jobs, some of which have needs of their own, to workers with room. `for_more`: workers that may
        get jobs of one CPU ahead, if they have capacity."""
        assigned: dict[Worker, list[Job]] = {}
        orders = self._placement.start(pool, assigned)
        if pool.lending:
            self._assign_to_lent(pool, assigned)
        if any(queue.is_plain for queue in pool.rotation):
            for worker in list(for_more):
                if worker in pool.has_capacity and worker.reservation is None:
                    self._assign(worker, assigned.setdefault(worker, []), True)
        self._placement.send_ahead(pool, assigned)
        return [*(Assign(worker.key, jobs) for worker, jobs in assigned.items() if jobs), *orders]

    def _take_turn(self, worker: Worker, queue: Queue, out: list[Job]) -> None:
        """Perform a turn of jobs of one CPU at a worker with a slot for one."""
        room = Room(worker, False)
        room.begin_turn(False)
        self._take(worker, queue, out, room)

    def assign_lent(self, pool: Pool) -> list[Action]:
        """Give waiting jobs of deep sessions to the slots that are lent."""
        assigned: dict[Worker, list[Job]] = {}
        if pool.lending and pool.rotation:
            self._assign_to_lent(pool, assigned)
        return [Assign(worker.key, jobs) for worker, jobs in assigned.items() if jobs]

    def on_unusable(self, worker: Worker) -> list[Action]:
        """Nothing can start at the worker now: what it keeps room for looks for another."""
        return [] if worker.reservation is None else self.assign_all(worker.pool)

    def assign_for(self, session: Session) -> list[Action]:
        """Give waiting jobs to workers of the session's shapes."""
        return [action for queue in session.queues.values() for action in self.assign_all(queue.pool)]

    def assign_trial(self, session: Session, worker: Worker) -> list[Assign]:
        """Give a free slot of this worker the session's next job, though it is set aside."""
        heads = {queue: queue.head() for queue in session.queues.values() if queue.is_waiting}
        fitting = (
            (queue, job)
            for queue, job in heads.items()
            if job and fit(job, worker, despite_setbacks=True) is NOW
        )
        queue, job = next(fitting, (None, None))
        if queue is None or job is None:
            return []
        queue.pop()
        if not queue:
            self._state.stop_waiting(queue)
        self._state.hold(job, worker, self._next_dispatch())
        self._state.note_room(worker)
        return [Assign(worker.key, [job])]

    # --- slots that are lent ---

    def lend(self, worker: Worker, extra: int, floors: Iterable[int]) -> None:
        """Note a worker's lent slots. `extra`: running jobs beyond one for each taken slot; `floors`: for each slot
        that is lent and free, the depth that a session must exceed."""
        worker.extra = extra
        worker.resize()
        worker.floors = sorted(floors)
        if worker.floors:
            worker.pool.lending[worker] = None
        else:
            worker.pool.lending.pop(worker, None)
        if len(worker.held) > worker.slots:
            worker.pool.ahead[worker] = None
        self._state.note_room(worker)

    def _assign_to_lent(self, pool: Pool, assigned: dict[Worker, list[Job]]) -> None:
        for queue in [queue for queue in pool.rotation if queue.session.depth]:
            depth = queue.session.depth
            has_given = False
            for worker in [worker for worker in pool.lending if worker.floors[0] < depth]:
                out = assigned.setdefault(worker, [])
                while worker.floors and worker.floors[0] < depth and self._lend(worker, queue, out):
                    # Take the deepest slot that it can use: less deep sessions may need the others.
                    worker.floors.remove(max(floor for floor in worker.floors if floor < depth))
                    has_given = True
                if not worker.floors:
                    del pool.lending[worker]
                self._state.note_room(worker)
            if has_given:
                self._state.stop_waiting(queue)
                self._state.wait(queue)  # behind the others, if it has more jobs

    def _lend(self, worker: Worker, queue: Queue, out: list[Job]) -> bool:
        """Give one lent slot the queue's next job that fits, and short ones after it. False: there is none."""
        before = len(out)
        seconds = 0.0
        passed: list[Job] = []
        while len(passed) < LOOK_PAST and (job := queue.head()) is not None:
            place = None if queue.is_plain else lent_place(job, worker)
            if fit(job, worker) is NEVER or (place is None and not queue.is_plain):
                passed.append(queue.pop())
                continue
            seconds += job.function.estimate.seconds
            if len(out) > before and (seconds > QUANTUM_SECONDS or len(out) - before >= QUANTUM_JOBS):
                break
            self._state.hold(queue.pop(), worker, self._next_dispatch(), place)
            out.append(job)
        queue.put_back(passed)
        return len(out) > before

    # --- turns ---

    def _assign(self, worker: Worker, out: list[Job], ahead: bool, waiting: int = 0) -> None:
        """Move jobs from the queues to the worker, up to its room, sessions in turn."""
        rotation = worker.pool.rotation
        room = Room(worker, ahead, waiting)
        fruitless = 0  # sessions in a row that had nothing for this worker
        is_full = False
        while fruitless < len(rotation) and not is_full:
            queue = rotation[0]
            before = len(out)
            room.begin_turn(len(rotation) == 1)
            is_full = self._take(worker, queue, out, room)
            if len(out) > before:
                fruitless = 0
            elif is_full:
                break  # its turn is still to come: others with shorter jobs must not take all room before it
            if queue:
                rotation.rotate(-1)
                fruitless += len(out) == before
            else:
                self._state.stop_waiting(queue)
        self._state.note_room(worker)

    def _take(self, worker: Worker, queue: Queue, out: list[Job], room: Room) -> bool:
        """Perform one turn of a session at a worker. True: the worker has no room for the session's next job."""
        if not queue.is_plain or not takes_some(worker, queue):
            return False
        turn = GOES_ON
        passed: list[Job] = []
        while turn is GOES_ON and len(passed) < LOOK_PAST and (job := queue.head()) is not None:
            is_plain = job.options is None and job.excluded_worker is None
            if is_plain or not self._has_room(worker, job, room) or fit(job, worker) is not NEVER:
                turn = self._take_alike(worker, queue, out, room)
            else:
                passed.append(queue.pop())
        if passed:
            queue.put_back(passed)
        return turn is IS_FULL

    def _has_room(self, worker: Worker, job: Job, room: Room) -> bool:
        """True if the worker takes one more job like this."""
        count = len(worker.held)
        return count < worker.slots or (
            goes_ahead(job)
            and worker.load + cost_of(job) <= room.seconds
            and count < room.jobs
            and worker.size <= AHEAD_BYTES
        )

    def _take_alike(self, worker: Worker, queue: Queue, out: list[Job], room: Room) -> Turn:
        """Give the worker the queue's next job, which it fits, and those behind it that need the same, while it is the
        session's turn and there is room. Short jobs pass here by the million, hence the tight loop."""
        jobs = queue.front()
        job = jobs[0]
        function, options, cost = job.function, job.options, cost_of(job)
        held, slots, load, size = worker.held, worker.slots, worker.load, worker.size
        most_jobs = room.jobs if options is None or goes_ahead(job) else slots
        most_seconds, dispatched = room.seconds, self._dispatched
        has_turns, turn_jobs, turn_seconds = room.has_turns, room.turn_jobs, room.turn_seconds
        while True:
            count = len(held)
            if count >= slots and (load + cost > most_seconds or count >= most_jobs or size > AHEAD_BYTES):
                turn = IS_FULL
                break
            if has_turns:
                turn_jobs += 1
                turn_seconds += cost
                if turn_jobs > 1 and (turn_jobs > TURN_JOBS or turn_seconds > TURN_SECONDS):
                    turn = IS_OVER
                    break
            jobs.popleft()
            dispatched += 1
            job.dispatch = dispatched
            job.worker = worker
            job.cost = cost
            held[dispatched] = job
            load += cost
            size += len(job.payload)
            out.append(job)
            if not jobs:
                turn = GOES_ON
                break
            job = jobs[0]
            if (
                job.function is not function
                or job.options is not options
                or job.excluded_worker is not None
                or job.cancelled
            ):
                turn = GOES_ON
                break
        if dispatched != self._dispatched:
            self._dispatched = dispatched
            queue.session.load += load - worker.load
            worker.load, worker.size, worker.recall_backoff = load, size, 0
            room.turn_jobs, room.turn_seconds = turn_jobs, turn_seconds
            if len(held) > slots:
                worker.pool.ahead[worker] = None
        return turn

    def _next_dispatch(self) -> int:
        self._dispatched += 1
        return self._dispatched


def _has_surplus(pool: Pool) -> bool:
    """True if a worker holds more jobs than it has slots."""
    while pool.ahead:
        worker, _ = pool.ahead.popitem()
        if len(worker.held) > worker.slots or (worker.shaped is not None and worker.shaped.ahead):
            pool.ahead[worker] = None
            return True
    return False


def _may_tick(queue: Queue) -> bool:
    """True if time may help the queue's jobs, though a slot is free: they may go back to where a runner died."""
    return bool(queue.requeued or queue.ranked or (queue.is_plain and not queue.pool.reserved))


def _fullness(worker: Worker) -> tuple[bool, float]:
    """Order of workers of which some end when they idle: these last, and of these the fullest first."""
    ends = worker.capacity.ends_idle
    return ends, -len(worker.held) / worker.capacity.slots if ends else 0.0
