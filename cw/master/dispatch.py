"""The master's scheduling policy: facts in, actions out; no socket, no thread, no clock.

      on_submitted        Assign                on_started           on_results
     -------------> BACKLOG ------> SENT AHEAD -----------> RUNNING ------------> Deliver, forgotten
                     ^  ^               |                      |
                     |  '---------------'                      |
                     |   on_returned, on_worker_departed,      |
                     |   on_not_entered: uncharged             |
                     '-----------------------------------------'
                       on_runner_died: deaths + 1; on_worker_lost: losses + 1; at the limit: GiveUp

The master reports facts to the on_*() methods and carries out the actions that they return, in order.
A job is in exactly one of these places; sent ahead or running, one worker holds it, under a dispatch
number of its own, by which late results are recognised. What is cancelled while a worker holds it keeps its
place there, since it still takes a slot, until the worker says that it is gone.

What each fact means is said here. Which worker gets what is for `turns`; what comes back after somebody was away, for
`returns`; which machine is set aside for whom, for `asides`.

A client that is gone keeps its session for a while (`on_session_absent`): nothing of it is dispatched, what runs
goes on. A worker keeps what its jobs came to until it is told that the client has it (`on_received`: Release). When
the client is back, perhaps at another master, it hands in its open jobs again. Those that nobody is known to hold are
*settling*: not dispatched before the workers have been heard (`on_settled`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Sequence, Set
from typing import Any

from cw.master.asides import Asides
from cw.master.jobs import (
    Action,
    Deliver,
    GiveUp,
    Holding,
    Job,
    Release,
    Session,
    StopJobs,
    TakeBack,
    TellCharges,
    TellStarted,
    Worker,
    merged,
)
from cw.master.returns import Returns
from cw.master.stalls import stalled_by
from cw.master.turns import BARREN_TICKS, LOOK_PAST, Turns, must_avoid

SMOOTHING = 0.2
"""Share of a new duration in a function's estimate."""

LOSSES = 5
"""Workers that may vanish with a job running before it is given up: it may be what takes them down."""


class Dispatcher:
    """The policy. Keys of sessions and workers are the master's own; methods raise KeyError for unknown ones."""

    def __init__(self, first_dispatch: int = 0) -> None:
        self._sessions: dict[Hashable, Session] = {}
        self._workers: dict[Hashable, Worker] = {}
        self._turns = Turns(first_dispatch)
        self._returns = Returns(self._sessions, self._workers, self._turns)
        self._asides = Asides(self._sessions, self._workers, self._turns)

    # --- workers ---

    def on_worker_joined(
        self, key: Hashable, slots: int, python: Any, holdings: Sequence[Holding] = (), left: float = math.inf
    ) -> list[Action]:
        """A worker is there, for `left` seconds. It may hold dispatches of a master before, or of this one that took
        it for lost."""
        worker = self._workers[key] = Worker(key, slots, self._turns.pool(python))
        worker.left = left
        worker.pool.workers += 1
        return self._returns.take_in(worker, holdings) + self._turns.fill_one(worker)

    def on_worker_away(self, key: Hashable) -> list[Action]:
        """Its connection broke: it may be back in a moment, and is sent nothing meanwhile."""
        worker = self._workers[key]
        worker.is_away = True
        self._turns.note_room(worker)
        return []

    def on_worker_back(self, key: Hashable, holdings: Sequence[Holding]) -> list[Action]:
        """It is back, and names all that it holds. What was on its way to or from it was lost with the connection."""
        worker = self._workers[key]
        worker.is_away = worker.recalling = worker.is_stuck = False
        worker.barren = 0
        worker.usable, worker.not_for = worker.offered, frozenset()
        self._turns.lend(worker, 0, ())
        named = {holding[0] for holding in holdings}
        actions: list[Action] = []
        again = []
        for job in self._turns.release(
            worker, [dispatch for dispatch in worker.held if dispatch not in named]
        ):
            if job.cancelled:
                self._returns.drop_orphan(job, worker)
            elif job.started and job.limit() == 1:  # (its result was more than the worker could keep)
                actions.append(self._give_up(job, "its result was lost with a connection"))
            else:
                again.append(job)
        self._turns.requeue(again)
        actions += self._returns.take_in(worker, holdings)
        return actions + self._turns.fill_all(worker.pool) + self._turns.fill_one(worker)

    def on_worker_draining(self, key: Hashable) -> list[Action]:
        """It takes nothing more. What it has not started comes back by on_returned."""
        worker = self._workers[key]
        worker.is_draining = True
        self._turns.note_room(worker)
        return self._asides.look_again()

    def on_worker_usable(self, key: Hashable, slots: int, not_for: Iterable[Hashable]) -> list[Action]:
        """It can use so many of its slots now, and none for these sessions. What it cannot start, it returns."""
        worker = self._workers[key]
        worker.usable, worker.not_for = slots, frozenset(not_for)
        self._turns.lend(worker, worker.extra, worker.floors)
        return self._asides.look_again() + self._turns.fill_one(worker)

    def on_lent(self, key: Hashable, extra: int, floors: Sequence[int]) -> list[Action]:
        """It holds so many jobs beyond one for each slot that is taken; and these slots are lent, and free."""
        worker = self._workers[key]
        self._turns.lend(worker, extra, floors)
        return self._turns.fill_lent(worker.pool) + self._turns.fill_one(worker)

    def on_time_left(self, key: Hashable, left: float) -> None:
        """What runs there will be stopped after so many seconds: jobs that need more do not start there."""
        self._workers[key].left = left

    def on_worker_departed(self, key: Hashable) -> list[Action]:
        """It said goodbye: what it still held is requeued, uncharged."""
        return self._remove_worker(key, None)

    def on_worker_lost(self, key: Hashable, note: dict[str, Any]) -> list[Action]:
        """It is gone without a word: what may have been running there is charged with a loss. But not if it was about
        to leave: then somebody wanted it gone."""
        return self._remove_worker(key, None if self._workers[key].is_draining else note)

    def on_excused(self, key: Hashable) -> list[Action]:
        """This worker was lost, and it is known by now that no job was the reason: what was charged is taken back."""
        jobs = [job for session in self._sessions.values() for job in session.jobs.values() if job.losses]
        return [action for job in jobs for action in self._returns.uncharge(job, key)]

    def on_returned(self, key: Hashable, dispatches: Iterable[int]) -> list[Action]:
        """The worker does not hold these any more: unstarted, or stopped as it was told."""
        worker = self._workers[key]
        again = []
        for job in self._turns.release(worker, dispatches):
            if job.cancelled:
                self._returns.drop_orphan(job, worker)
            else:
                job.avoid = None  # who was to take it instead gave it back
                again.append(job)
        self._turns.requeue(again)
        # Others first: this one was asked to give them up.
        return self._turns.fill_all(worker.pool) + self._turns.fill_one(worker)

    def on_recalled(self, key: Hashable, dispatches: Sequence[int]) -> list[Action]:
        """The answer to a Recall."""
        worker = self._workers[key]
        worker.recalling = False
        worker.barren = 0 if dispatches else BARREN_TICKS
        return self.on_returned(key, dispatches)

    def on_cut_short(self, key: Hashable, dispatches: Iterable[int]) -> list[Action]:
        """These had started, and ended as their worker was told to end: run again, uncharged."""
        worker = self._workers[key]
        actions: list[Action] = []
        again = []
        for job in self._turns.release(worker, dispatches):
            if job.cancelled:
                self._returns.drop_orphan(job, worker)
            elif job.limit() == 1:
                actions.append(self._give_up(job, "its worker was told to end while it ran"))
            else:
                again.append(job)
        self._turns.requeue(again)
        return actions + self._turns.fill_all(worker.pool)

    def on_not_entered(
        self, key: Hashable, dispatch: int, is_general: bool, reason: str, payload: Any
    ) -> list[Action]:
        """The call was not entered, for a reason that may be this machine's; `payload`: its error, if it is not.

        `is_general`: it holds for all calls of the session.
        """
        worker = self._workers[key]
        actions: list[Action] = []
        for job in self._turns.release(worker, [dispatch]):
            if job.cancelled:
                self._returns.drop_orphan(job, worker)
            else:
                actions += self._asides.on_not_entered(worker, job, dispatch, is_general, reason, payload)
        return actions + self._turns.fill_all(worker.pool) + self._turns.fill_one(worker)

    def on_aside_told(self, key: Hashable) -> list[Action]:
        """Some seconds after SetAside."""
        return self._asides.on_told(key)

    def on_aside_retry(self, key: Hashable) -> list[Action]:
        """Minutes after it."""
        return self._asides.on_retry(key)

    def on_aside_second(self, key: Hashable) -> list[Action]:
        """Every second meanwhile."""
        return self._asides.on_second(key)

    def has_setbacks(self, key: Hashable) -> bool:
        """Are `on_aside_retry` and `on_aside_second` to be called again for this session?"""
        session = self._sessions.get(key)
        return session is not None and session.setbacks is not None

    def on_started(self, key: Hashable, dispatches: Iterable[int]) -> list[Action]:
        held = self._workers[key].held
        by_session: dict[Hashable, list[int]] = {}
        for dispatch in dispatches:
            job = held.get(dispatch)
            if job is not None and not job.started and not job.cancelled:
                job.started = True
                by_session.setdefault(job.session.key, []).append(job.number)
        return [TellStarted(session, numbers) for session, numbers in by_session.items()]

    def on_results(
        self,
        key: Hashable,
        dispatches: Sequence[int],
        statuses: Sequence[int],
        seconds: Sequence[float],
        payloads: Sequence[Any],
    ) -> list[Action]:
        """Jobs have ended. Those that this worker does not hold (late results) are dropped quietly."""
        worker = self._workers[key]
        worker.ended += len(dispatches)
        worker.is_stuck = False
        pop = worker.held.pop
        load, size = worker.load, worker.size
        outs: dict[Session, Deliver] = {}
        dropped: list[int] = []
        session = None
        for dispatch, status, lasted, payload in zip(dispatches, statuses, seconds, payloads, strict=True):
            job = pop(dispatch, None)
            if job is None:
                dropped.append(dispatch)
                continue
            load -= job.cost
            size -= len(job.payload)
            estimate = job.function.estimate
            known = estimate.seconds
            estimate.seconds = lasted if known == math.inf else known + (lasted - known) * SMOOTHING
            if job.cancelled:
                if not self._returns.is_kept_orphan(job, worker):
                    dropped.append(dispatch)
                continue
            if job.session is not session:
                session = job.session
                if session not in outs:
                    outs[session] = Deliver(session.key, key, [], [], [], [], [])
                out, jobs = outs[session], session.jobs
            del jobs[job.number]
            out.dispatches.append(dispatch)
            out.numbers.append(job.number)
            out.statuses.append(status)
            out.seconds.append(lasted)
            out.payloads.append(payload)
        worker.load, worker.size = (load, size) if worker.held else (0.0, 0)
        actions: list[Action] = []
        for session, out in outs.items():
            if session.is_absent:
                actions += self._returns.keep(worker, session, out.dispatches, out.numbers)
            else:
                session.delivered += len(out.numbers)
                session.unacknowledged.append((session.delivered, key, out.dispatches, out.numbers))
                actions.append(out)
            session.has_run = True
            if session.setbacks is not None:
                actions += self._asides.on_entered(worker, session, out.dispatches)
        if dropped:
            actions.append(Release(key, dropped))
        if worker.is_roomy:
            actions += self._turns.fill_one(worker)
        return actions

    def on_runner_died(self, key: Hashable, dispatch: int, note: dict[str, Any]) -> list[Action]:
        """The runner of this job died in the middle of it: charged, and retried on another slot."""
        worker = self._workers[key]
        actions: list[Action] = []
        jobs = self._turns.release(worker, [dispatch])
        if not any(job.cancelled and self._returns.is_kept_orphan(job, worker) for job in jobs):
            actions.append(Release(key, [dispatch]))
        for job in jobs:
            if (
                job.session.is_absent and not job.cancelled
            ):  # the worker keeps the note: it is charged when the client is back
                del job.session.jobs[job.number]
                actions = self._returns.keep(worker, job.session, [dispatch], [job.number])
            elif not job.cancelled:
                if note.get("loading"):
                    more, goes_elsewhere = self._asides.on_died_loading(worker, job, note.get("how", "died"))
                    actions += more
                    if goes_elsewhere:
                        continue
                job.deaths += 1
                job.notes += (note,)
                slot = note.get("slot")
                job.avoid = worker, slot if isinstance(slot, int) and 0 <= slot < worker.slots else -1
                if job.deaths >= job.limit():
                    actions.append(self._give_up(job, "its runner died"))
                else:
                    actions.append(TellCharges(job.session.key, job))
                    self._turns.requeue([job])
        return actions + self._turns.fill_all(worker.pool) + self._turns.fill_one(worker)

    # --- sessions ---

    def on_session_opened(self, key: Hashable, python: Any, depth: int = 0, parent: int = 0) -> None:
        """`depth`, `parent`: of a client in a job; how deep, and the dispatch number of that job."""
        self._sessions[key] = Session(key, self._turns.pool(python), depth, parent)

    def on_submitted(self, key: Hashable, jobs: Sequence[Job]) -> list[Action]:
        session = self._sessions[key]
        session.backlog.extend(jobs)
        known = session.jobs
        for job in jobs:
            job.session = session
            known[job.number] = job
        self._turns.wait(session)
        return self._turns.fill_all(session.pool)

    def on_session_absent(self, key: Hashable) -> list[Action]:
        """The client is gone without goodbye: nothing more of it is dispatched, what is unstarted comes back."""
        session = self._sessions[key]
        session.is_absent = True
        self._turns.stop_waiting(session)
        actions = self._returns.keep_unacknowledged(session)
        by_worker: dict[Worker, list[int]] = {}
        for job in session.jobs.values():
            if job.worker is not None and not job.started and not job.worker.is_away:
                by_worker.setdefault(job.worker, []).append(job.dispatch)
        return actions + [TakeBack(worker.key, dispatches) for worker, dispatches in by_worker.items()]

    def on_session_resumed(self, key: Hashable) -> list[Action]:
        """The client is back, here or from another master: it hands in its open jobs again."""
        session = self._sessions[key]
        actions = self._returns.keep_unacknowledged(session)
        session.is_absent = session.is_blocked = False
        session.unconfirmed = set(session.jobs)
        if session.settling is None:
            session.settling = {}
        running = [job.number for job in session.jobs.values() if job.started]
        if running:
            actions.append(TellStarted(key, running))
        self._turns.wait(session)  # what has been waiting here all the time need not settle
        return actions + self._turns.fill_all(session.pool)

    def on_handed_in(self, key: Hashable, jobs: Iterable[Job], were_here: bool) -> list[Action]:
        """Jobs that the client has handed in before, to this master (`were_here`) or another."""
        session = self._sessions[key]
        if session.settling is None:
            session.settling = {}
        orphans = self._returns.orphans.get(key, {})
        actions: list[Action] = []
        for job in jobs:
            if job.number in session.unconfirmed:
                session.unconfirmed.discard(job.number)  # it is here, or has been answered since
            elif job.number not in session.jobs:
                job.session = session
                session.jobs[job.number] = job
                holding = orphans.pop(job.number, None)
                if holding is None:
                    job.started = were_here  # then it is not here because there was a result
                    session.settling[job.number] = job
                else:
                    actions += self._returns.adopt(job, *holding)
        return merged(actions)

    def on_settled(self, key: Hashable, is_complete: bool = False) -> list[Action]:
        """All is handed in, and the workers had their time: what nobody holds is queued.

        `is_complete`: no worker is missing of those that were at the master before.
        """
        session = self._sessions[key]
        settling, session.settling = session.settling or {}, None
        # What the client has not handed in again, it has cancelled.
        actions = self.on_cancelled(key, sorted(session.unconfirmed))
        session.unconfirmed = set()
        again = []
        for job in settling.values():
            if job.limit() == 1 and (job.started or not is_complete):
                actions.append(self._give_up(job, "it may have started, and nobody has its result"))
            else:
                again.append(job)
            job.started = False
        for worker, dispatch, state in self._returns.orphans.pop(key, {}).values():
            actions += self._returns.refuse(worker, dispatch, state)
        self._turns.requeue(again)
        self._turns.wait(session)
        return merged(actions) + self._turns.fill_all(session.pool)

    def on_received(self, key: Hashable, count: int) -> list[Action]:
        """The client has so many of the results that were delivered since it is there."""
        waiting = self._sessions[key].unacknowledged
        released: dict[Hashable, list[int]] = {}
        while waiting and waiting[0][0] <= count:
            _, worker, dispatches, _ = waiting.popleft()
            if worker in self._workers:
                released.setdefault(worker, []).extend(dispatches)
        return [Release(worker, dispatches) for worker, dispatches in released.items()]

    def on_orphans_expired(self) -> list[Action]:
        """The clients of holdings that nobody has asked for had their time to come back."""
        actions: list[Action] = []
        for key in [key for key in self._returns.orphans if key not in self._sessions]:
            for worker, dispatch, state in self._returns.orphans.pop(key).values():
                actions += self._returns.refuse(worker, dispatch, state)
        return actions

    def on_cancelled(self, key: Hashable, numbers: Iterable[int]) -> list[Action]:
        """The client does not want these any more: they are neither dispatched nor delivered from now on."""
        session = self._sessions[key]
        jobs = [session.jobs.pop(number) for number in numbers if number in session.jobs]
        if session.settling:
            for job in jobs:
                session.settling.pop(job.number, None)
        actions = self._cancel(jobs)
        if len(session.backlog) > 2 * len(session.jobs):  # most of it was cancelled: let go of the payloads
            session.backlog = deque(job for job in session.backlog if not job.cancelled)
            if not session.backlog and not session.requeued:
                self._turns.stop_waiting(session)
        return actions

    def on_session_closed(self, key: Hashable) -> list[Action]:
        """The session is over. Its jobs keep their slots until the workers have returned them."""
        session = self._sessions.pop(key)
        self._turns.stop_waiting(session)
        jobs = list(session.jobs.values())
        session.jobs.clear()
        session.backlog.clear()
        session.requeued.clear()
        session.settling = None
        self._returns.orphans.pop(key, None)  # the workers are told that the session is closed
        return self._cancel(jobs)

    def on_blocked(self, key: Hashable, is_blocked: bool) -> list[Action]:
        """The client does not take its results (or takes them again): nothing of it is dispatched meanwhile."""
        session = self._sessions[key]
        session.is_blocked = is_blocked
        if is_blocked:
            self._turns.stop_waiting(session)
            return []
        self._turns.wait(session)
        return self._turns.fill_all(session.pool)

    # --- time ---

    def wants_tick(self) -> bool:
        """Is there something for `on_tick` to do?"""
        return self._turns.wants_tick()

    def on_tick(self) -> list[Action]:
        """Called every some 10 ms while `wants_tick`."""
        return self._turns.on_tick()

    # --- questions ---

    def pythons(self) -> set[Any]:
        """The Python versions of the connected workers."""
        return {worker.pool.python for worker in self._workers.values()}

    def slots(self, python: Any = None) -> int:
        """Slots connected (of that Python version), whether they can be used now or not."""
        return sum(w.offered for w in self._workers.values() if python is None or w.pool.python == python)

    def can_run(self, key: Hashable) -> bool:
        """Is there a slot that can be used for this session's jobs?"""
        pool = self._sessions[key].pool
        return any(w.slots and key not in w.not_for for w in self._workers.values() if w.pool is pool)

    def time_wanting(self, key: Hashable) -> float:
        """The seconds that this session's next job needs, if no worker of its Python has so many left; else 0."""
        session = self._sessions[key]
        job = next((job for job in session.requeued or session.backlog if not job.cancelled), None)
        needed = job.min_time() if job is not None else 0.0
        workers = [w for w in self._workers.values() if w.pool is session.pool and not w.is_draining]
        return needed if needed and all(worker.left < needed for worker in workers) else 0.0

    def stalled_by(self, key: Hashable) -> Set[int]:
        """The jobs for which this session waits, as all do, since they wait for jobs and hold all slots."""
        return stalled_by(self._sessions[key].pool, self._sessions.values(), self._workers.values())

    def depth(self, key: Hashable) -> int:
        """How deep this session is."""
        return self._sessions[key].depth

    def has_lost_parent(self, key: Hashable) -> bool:
        """Is this a session of a job that no worker holds any more?"""
        parent = self._sessions[key].parent
        workers = self._workers.values()
        return bool(parent and workers) and not any(parent in worker.held for worker in workers)

    def has_waiting(self, besides: Hashable) -> bool:
        """Do jobs of other sessions wait?"""
        return any(session.key != besides for pool in self._turns.pools.values() for session in pool.rotation)

    def census(self) -> tuple[int, int]:
        """Jobs that wait, and that run (as far as is known)."""
        running = sum(min(len(worker.held), worker.slots) for worker in self._workers.values())
        return max(0, sum(len(session.jobs) for session in self._sessions.values()) - running), running

    def jobs_of(self, key: Hashable) -> int:
        """Open jobs of this session here."""
        return len(self._sessions[key].jobs)

    def charged(self, key: Hashable) -> list[Job]:
        """The open jobs of this session to which something has been charged."""
        return [job for job in self._sessions[key].jobs.values() if job.notes]

    def open_jobs(self, key: Hashable) -> dict[int, Job]:
        """This session's open jobs, by number. To be looked at only."""
        return self._sessions[key].jobs

    def held(self, key: Hashable) -> int:
        """Jobs that this worker holds."""
        return len(self._workers[key].held)

    def job(self, session: Hashable, number: int) -> Job:
        return self._sessions[session].jobs[number]

    # --- inside: everything that moves a job ---

    def _cancel(self, jobs: Iterable[Job]) -> list[Action]:
        by_worker: dict[Worker, list[int]] = {}
        for job in jobs:
            job.cancelled = True
            if job.worker is not None:
                by_worker.setdefault(job.worker, []).append(job.dispatch)
        return [StopJobs(worker.key, dispatches) for worker, dispatches in by_worker.items()]

    def _remove_worker(self, key: Hashable, note: dict[str, Any] | None) -> list[Action]:
        worker = self._workers.pop(key)
        pool = worker.pool
        pool.workers -= 1
        for places in (pool.idle, pool.roomy, pool.ahead, pool.lending):
            places.pop(worker, None)
        self._asides.on_worker_gone(worker)
        actions: list[Action] = []
        again = []
        for job in self._turns.release(worker, list(worker.held)):
            if job.cancelled:
                continue  # (its orphan goes below)
            # Goodbye comes after what was unstarted has been returned: what is left may have started.
            if note is not None:
                job.losses += 1
                job.notes += (note,)
            if job.losses >= LOSSES or job.limit() == 1:
                actions.append(self._give_up(job, "its worker was lost" if note else "its worker left"))
            else:
                if note is not None:
                    actions.append(TellCharges(job.session.key, job))
                again.append(job)
        self._turns.requeue(again)
        for orphans in self._returns.orphans.values():
            for number in [number for number, holding in orphans.items() if holding[0] is worker]:
                del orphans[number]
        return actions + self._asides.look_again() + self._turns.fill_all(pool)

    def _give_up(self, job: Job, reason: str) -> GiveUp:
        del job.session.jobs[job.number]
        return GiveUp(job.session.key, job.number, reason, job.notes)

    # --- for tests ---

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        for worker in self._workers.values():
            for dispatch, job in worker.held.items():
                assert job.worker is worker and job.dispatch == dispatch
                assert job.cancelled or job.session.jobs[job.number] is job
            assert math.isclose(worker.load, sum(j.cost for j in worker.held.values()), abs_tol=1e-6)
            assert worker.size == sum(len(j.payload) for j in worker.held.values())
            assert (worker in worker.pool.idle) == worker.is_idle
            assert (worker in worker.pool.ahead) or len(worker.held) <= worker.slots
        for pool in self._turns.pools.values():
            assert pool.workers == sum(worker.pool is pool for worker in self._workers.values())
            assert pool.idle.keys() <= pool.roomy.keys()
            assert all(worker.floors for worker in pool.lending)
            for worker in (*pool.roomy, *pool.ahead, *pool.lending):
                assert self._workers.get(worker.key) is worker and worker.pool is pool
            assert len(pool.rotation) == len(set(pool.rotation))
            assert all(self._sessions.get(session.key) is session for session in pool.rotation)
        for session in self._sessions.values():
            settling = list((session.settling or {}).values())
            assert all(not job.cancelled and job.worker is None for job in settling)
            waiting = [job for job in (*session.requeued, *session.backlog) if not job.cancelled]
            queued = waiting + settling
            assert len(queued) == len({job.number for job in queued})
            assert all(job.worker is None for job in queued)
            held = [j for w in self._workers.values() for j in w.held.values() if j.session is session]
            assert {j.number for j in queued} | {j.number for j in held if not j.cancelled} == set(
                session.jobs
            )
            assert session.is_waiting == (session in session.pool.rotation)
            if waiting and not session.is_blocked and not session.is_absent:
                assert session.is_waiting
                # Nobody waits while a slot idles (or is lent to those as deep), but for a slot that it is to avoid,
                # that is not for it, or that has not enough time left (which may be somebody far behind those).
                for worker in (
                    *session.pool.idle,
                    *(w for w in session.pool.lending if w.floors[0] < session.depth),
                ):
                    if session.key in worker.not_for:
                        continue
                    if session.setbacks is not None and worker in session.setbacks.aside:
                        continue
                    unfit = [job.min_time() > worker.left for job in waiting]
                    assert sum(unfit) >= LOOK_PAST or all(
                        is_unfit or (job.avoid and must_avoid(job, worker))
                        for job, is_unfit in zip(waiting, unfit, strict=True)
                    )
