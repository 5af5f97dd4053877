"""Part of the master's policy that hands out jobs where some have needs of their own, of several shapes.

    sessions, by the CPUs that they hold ---> the oldest job of each first ---> a worker with room for it now
           ^                                      |                                '---> more of the same, ahead
           '------------ one turn ----------------'
                                                  '---> none has: it reserves the one that will have room first

A session's jobs start in the order of submission (and priority), but a job that finds no room is passed by others of
other shapes. So that it does not wait for ever, the oldest of these *reserves* a worker: what was sent ahead there is
taken back, nothing more is, and other jobs begin there only beside it (they leave its room free), or if they have a
time limit that ends before. So it waits no longer than the jobs that ran there when it reserved.

Jobs that need one CPU reserve nothing: where any other job finds room, they do. All loops are over queues and workers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from itertools import islice

from cw.master.policy import placing
from cw.master.policy.actions import Action, SendToWorker
from cw.master.policy.fit import devices_for, goes_ahead, is_ruled_out, takes_some
from cw.master.policy.jobs import AHEAD_JOBS, AHEAD_SECONDS, Job, Pool, Queue, Reserved, Session, Worker
from cw.master.policy.room import RECALL_BACKOFF_TICKS, TURN_JOBS, TURN_SECONDS, cost_of
from cw.master.policy.state import LOOK_PAST, State
from cw.master.policy.taken import Place, Reservation, ShapedJobs, Use
from cw.needs import ONE_CPU, Needs
from cw.net import messages as m

COMPARED = 8
"""Most workers with room that are compared for a job. Larger: more time for each. Smaller: less even."""

CONSIDERED = 64
"""Most workers that are compared for a reservation. Larger: more time for each. Smaller: in a large cluster, a job may
reserve one that has room later."""

PATIENT_TICKS = 5
"""Ticks that a short job waits before it reserves. Longer: it may be passed for longer. Shorter: where short jobs of
many shapes follow each other, hardly any is sent ahead."""

EXAMINED = 4
"""Most of these of which all running jobs are looked at."""

Assigned = dict[Worker, list[Job]]


class Placement:
    """Hands out jobs of all shapes. `take_plain(worker, queue, out)`: performs a turn of jobs that need one CPU;
    `next_dispatch()`: the next dispatch number."""

    def __init__(
        self,
        state: State,
        take_plain: Callable[[Worker, Queue, list[Job]], object],
        next_dispatch: Callable[[], int],
    ) -> None:
        self._state = state
        self._take_plain = take_plain
        self._next_dispatch = next_dispatch
        self._patient: dict[Session, tuple[Job, int]] = {}  # as it was before this look at all sessions
        self._has_released = False  # a worker that kept room, so that others may use it

    # --- turns ---

    def start(self, pool: Pool, assigned: Assigned) -> list[Action]:
        """Start what finds room, session by session, and reserve."""
        actions: list[Action] = []
        self._drop_void(pool)
        while True:
            self._has_released = False
            waits = self._start_all(pool, assigned, actions)
            for session in [session for session in pool.reserved if session not in waits]:
                self._release(pool, session)
            if not self._has_released:
                return actions

    def _start_all(self, pool: Pool, assigned: Assigned, actions: list[Action]) -> set[Session]:
        """Returns the sessions of which a job waits that keeps a reservation."""
        self._update(pool)
        self._patient, pool.patient = pool.patient, {}
        turns = [(_cpus_held(session), turn, session) for turn, session in enumerate(pool.waiting)]
        heapify(turns)
        count = len(turns)
        waits: set[Session] = set()
        while turns:
            _, _, session = heappop(turns)
            queues = pool.waiting.get(session, [])
            startable = [queue for queue in queues if _may_start(queue)]
            kept = pool.reserved.get(session)
            if not startable and kept is not None and not kept.is_void:
                waits.add(session)
                continue
            given, keeps = self._turn(queues, startable, assigned, actions)
            if keeps:
                waits.add(session)
            if given:
                count += 1
                heappush(turns, (_cpus_held(session), count, session))
        return waits

    def _turn(
        self, queues: list[Queue], startable: list[Queue], assigned: Assigned, actions: list[Action]
    ) -> tuple[bool, bool]:
        """Perform one turn of a session: its oldest job that finds room starts, with short ones after it. Returns
        whether something was given, and whether a job waits that keeps a reservation."""
        is_behind = False
        for queue in sorted(queues, key=age) if len(queues) > 1 else list(queues):
            given = queue in startable and self._give(queue, assigned, is_behind)
            if queue.head() is None:
                self._state.stop_waiting(queue)
            elif not (queue.is_plain or is_behind or given):
                is_behind = (
                    _has_rivals(queue) and not self._is_patient(queue) and self._reserve(queue, actions)
                )
            if given:
                return True, is_behind
        return False, is_behind

    def _is_patient(self, queue: Queue) -> bool:
        """True if the queue's next job, which finds no room, is short and has not waited for long: it may pass soon."""
        pool, session, job = queue.pool, queue.session, queue.head()
        assert job is not None
        if session in pool.patient:
            return pool.patient[session][0] is job  # an older one has decided for this session
        kept = pool.reserved.get(session)
        if cost_of(job) > AHEAD_SECONDS / 2 or (kept is not None and not kept.is_void):
            return False
        known, ticks = self._patient.get(session, (job, 0))
        if known is job and ticks >= PATIENT_TICKS:
            return False
        pool.patient[session] = job, ticks if known is job else 0
        return True

    def on_patient(self, pool: Pool) -> bool:
        """Count a tick for short jobs that wait. True: one has waited for long enough."""
        pool.patient = {session: (job, ticks + 1) for session, (job, ticks) in pool.patient.items()}
        return any(ticks >= PATIENT_TICKS for _, ticks in pool.patient.values())

    def _give(self, queue: Queue, assigned: Assigned, is_behind: bool) -> bool:
        """Start the queue's next job where there is room, as its first alternative for which there is any.
        `is_behind`: an older job of the session keeps a reservation."""
        for choice, needs in enumerate(queue.shape.choices):
            found = self._choose(queue, needs, is_behind)
            if found is not None:
                worker, job = found
                out = assigned.setdefault(worker, [])
                before = len(out)
                if queue.is_plain and worker.reservation is None:
                    self._take_plain(worker, queue, out)
                else:
                    self._take(worker, queue, job, Place(needs, choice), out)
                self._state.note_room(worker)
                self._update(queue.pool)
                return len(out) > before
        return False

    def _take(self, worker: Worker, queue: Queue, job: Job, place: Place, out: list[Job]) -> None:
        """Start this job at the worker, and short ones after it for which there is room."""
        seconds, most = 0.0, len(out) + TURN_JOBS
        reservation = worker.reservation
        beside = None if reservation is None else reservation.beside
        devices = devices_for(worker, place.needs)
        while devices is not None:
            queue.take_out(job)
            self._state.hold(
                job, worker, self._next_dispatch(), place._replace(devices=devices, beside=beside)
            )
            out.append(job)
            seconds += cost_of(job)
            head = queue.head()
            if reservation is not None or head is None or is_ruled_out(head, worker):
                return
            if len(out) >= most or seconds + cost_of(head) > TURN_SECONDS:
                return
            job, devices = head, devices_for(worker, place.needs)

    # --- the worker for a job ---

    def _choose(self, queue: Queue, needs: Needs, is_behind: bool) -> tuple[Worker, Job] | None:
        """Return the worker with room that suits best, and the job of the queue that starts there."""
        opening = queue.pool.openings[needs]
        found: list[tuple[Worker, Job]] = []
        for worker in opening.free:
            job = _job_for(queue, worker) if takes_some(worker, queue) else None
            if job is not None:
                found.append((worker, job))
                if len(found) == COMPARED:
                    break
        if len(found) > 1:
            return min(found, key=lambda pair: _rank(pair[0], needs))
        for worker in () if found else opening.kept:
            job = _job_for(queue, worker) if takes_some(worker, queue) else None
            if job is not None and self._may_begin(job, worker, is_behind):
                return worker, job
        return found[0] if found else None

    def _may_begin(self, job: Job, worker: Worker, is_behind: bool) -> bool:
        """True if the job may begin at this worker although it keeps room for another, and they do not fit together."""
        reservation = worker.reservation
        assert reservation is not None
        if reservation.session is job.session and not is_behind:
            return True
        limit = None if job.options is None else job.options.timeout
        return limit is not None and self._state.tallies.now + limit <= reservation.room_at < math.inf

    # --- reservations ---

    def _reserve(self, queue: Queue, actions: list[Action]) -> bool:
        """Let the queue's next job, which finds no room, keep its session's reservation, or make one. False: no worker
        can be reserved."""
        session, pool, job = queue.session, queue.pool, queue.head()
        assert job is not None
        kept = pool.reserved.get(session)
        if kept is not None and kept.job.queue is queue and kept.job.worker is not kept.worker:
            pool.reserved[session] = kept._replace(job=job)
            return True
        found = self._soonest(queue)
        if found is None:
            return False
        if kept is not None:
            self._release(pool, session)
        room_at, worker, needs = found
        if worker.shaped is None:
            worker.shaped = ShapedJobs(worker.capacity)
        worker.shaped.reservation = Reservation(session, needs, Use(worker.capacity), room_at)
        pool.reserved[session] = Reserved(worker, job)
        actions += take_back_ahead(worker)
        self._state.note_room(worker)
        self._update(pool)
        return True

    def _soonest(self, queue: Queue) -> tuple[float, Worker, Needs] | None:
        """Return the worker that will have room first for the queue's next job, when, and as which alternative."""
        job = queue.head()
        if job is None:
            return None
        tallies = self._state.tallies
        found: list[tuple[int, int, Worker, Needs]] = []
        for needs in queue.shape.choices:
            able = queue.pool.openings[needs].able
            for worker in list(islice(able, CONSIDERED)):
                if len(able) > CONSIDERED:  # others the next time
                    del able[worker]
                    able[worker] = None
                kept = worker.reservation
                if (kept is None or kept.session is queue.session) and takes_some(worker, queue):
                    if worker.available and not worker.is_away and not is_ruled_out(job, worker):
                        found.append((needs.cpus - worker.free()[1], len(found), worker, needs))
        found.sort()
        best = None
        for missing, index, worker, needs in found[:EXAMINED]:
            room = placing.room_at(worker, needs, tallies.started, tallies.now), missing, index
            if best is None or room < best[0]:
                best = room, worker, needs
        return None if best is None else (best[0][0], best[1], best[2])

    def has_void(self, pool: Pool) -> bool:
        """True if a worker keeps room for a job that does not wait any more, so that others may use it."""
        return any(kept.is_void for kept in pool.reserved.values())

    def _drop_void(self, pool: Pool) -> None:
        """Drop reservations of jobs that do not wait any more, and those at workers that cannot keep them."""
        for session, (worker, job) in list(pool.reserved.items()):
            is_usable = worker.available and not worker.is_away and takes_some(worker, job.queue)
            if not is_usable or pool.reserved[session].is_void:
                self._release(pool, session)

    def _release(self, pool: Pool, session: Session) -> None:
        worker, _ = pool.reserved.pop(session)
        self._has_released = True
        assert worker.shaped is not None
        worker.shaped.reservation = None
        if not worker.shaped.count:
            worker.shaped = None
        self._state.note_room(worker)

    # --- work ahead ---

    def send_ahead(self, pool: Pool, assigned: Assigned) -> None:
        """Send short jobs ahead to workers where jobs of the same needs run."""
        self._update(pool)
        if not any(opening.toppable for opening in pool.openings.values()):
            return
        for queue in [queue for queue in pool.rotation if not queue.is_plain]:
            for choice, needs in enumerate(queue.shape.choices):
                head = queue.head()
                opening = pool.openings.get(needs)
                if head is not None and opening is not None and cost_of(head) <= AHEAD_SECONDS / 2:
                    for worker in list(opening.toppable):
                        self._top_up(worker, queue, Place(needs, choice), assigned.setdefault(worker, []))
            if queue.head() is None:
                self._state.stop_waiting(queue)

    def _top_up(self, worker: Worker, queue: Queue, place: Place, out: list[Job]) -> None:
        assert worker.shaped is not None
        lane = worker.shaped.lanes[place.needs]
        if not takes_some(worker, queue):
            return
        while (job := queue.head()) is not None and goes_ahead(job) and not is_ruled_out(job, worker):
            cost = cost_of(job)
            if lane.seconds + cost > lane.places * (AHEAD_SECONDS - cost) or (
                len(lane.ahead) >= lane.places * AHEAD_JOBS
            ):
                break
            queue.pop()
            self._state.hold(job, worker, self._next_dispatch(), place._replace(seconds=cost))
            out.append(job)
        self._state.note_room(worker)

    def on_tick(self, pool: Pool) -> list[Action]:
        """Take back jobs that were sent ahead and wait while another worker has room for them."""
        actions: list[Action] = []
        self._update(pool)
        for worker in list(pool.ahead):
            for needs, lane in [] if worker.shaped is None else worker.shaped.lanes.items():
                ended, lane.ended = lane.ended, 0
                lane.backoff = max(0, lane.backoff - 1)
                if not lane.ahead or lane.backoff or len(lane.ahead) <= 2 * ended or worker.is_away:
                    continue
                placing.open_for(pool, [needs], self._state.workers.values())
                if needs in pool.openings and any(
                    other is not worker and other.reservation is None for other in pool.openings[needs].free
                ):
                    count = (len(lane.ahead) + 1) // 2 if ended else len(lane.ahead)
                    lane.backoff = RECALL_BACKOFF_TICKS
                    actions.append(SendToWorker(worker.key, m.TakeBack(list(lane.ahead)[-count:])))
        return actions

    # --- inside ---

    def _update(self, pool: Pool) -> None:
        """Look at the workers that have changed."""
        placing.open_for(pool, (ONE_CPU,), self._state.workers.values())
        for worker in pool.changed:
            placing.update(pool.openings, worker)
        pool.changed.clear()


def take_back_ahead(worker: Worker) -> Iterable[Action]:
    """Order back what was sent ahead to a worker and has not started."""
    shaped = worker.shaped
    dispatches = (
        [] if shaped is None else [dispatch for lane in shaped.lanes.values() for dispatch in lane.ahead]
    )
    if dispatches:
        yield SendToWorker(worker.key, m.TakeBack(sorted(dispatches)))
    surplus = len(worker.held) - worker.slots
    if surplus > 0 and not worker.recalling:
        worker.recalling = True
        yield SendToWorker(worker.key, m.Recall(surplus))


def _has_rivals(queue: Queue) -> bool:
    """True if jobs of other needs could take the room of one that waits."""
    pool = queue.pool
    return any(other.shape != queue.shape for other in pool.rotation) or any(
        len(worker.held) > worker.slots
        or (
            worker.shaped is not None
            and any(
                lane.ahead and needs not in queue.shape.choices for needs, lane in worker.shaped.lanes.items()
            )
        )
        for worker in islice(pool.ahead, CONSIDERED)
    )


def _may_start(queue: Queue) -> bool:
    """False if no worker has room for jobs of this queue."""
    openings = queue.pool.openings
    for needs in queue.shape.choices:
        opening = openings[needs]
        if opening.free:
            return True
        if opening.kept:
            kept, head = queue.pool.reserved.get(queue.session), queue.head()
            if kept is not None and kept.worker in opening.kept:
                return True
            if head is not None and head.options is not None and head.options.timeout is not None:
                return True
    return False


def _cpus_held(session: Session) -> float:
    """CPUs that its jobs hold now. (Without the noise of sums.)"""
    return round(session.load / AHEAD_SECONDS, 3)


def age(queue: Queue) -> tuple[int, int]:
    """The place of the queue's next job among those of its session."""
    job = queue.head()
    return (0, 0) if job is None else (-job.priority(), job.number)


def _job_for(queue: Queue, worker: Worker) -> Job | None:
    """The first job of the queue that the worker is for."""
    head = queue.head()
    if head is None or not is_ruled_out(head, worker):
        return head
    return queue.first(lambda job: not is_ruled_out(job, worker), LOOK_PAST)


def _rank(worker: Worker, needs: Needs) -> tuple[bool, bool, float]:
    """Workers of a lower rank get a job first: those without devices that it does not use, then those that do not end
    when they idle; of these the emptiest, of the others the fullest."""
    capacity = worker.capacity
    share = worker.free()[1] / capacity.cpus
    return bool(capacity.gpus) > bool(needs.gpus), capacity.ends_idle, share if capacity.ends_idle else -share
