"""The master's scheduling policy: facts in, actions out; no socket, no thread, no clock.

      on_submitted        Assign                on_started           on_results
     -------------> BACKLOG ------> SENT AHEAD -----------> RUNNING ------------> Deliver, forgotten
                     ^  ^               |                      |
                     |  '---------------'                      |
                     |   on_returned, on_worker_departed,      |
                     |   on_not_entered: uncharged             |
                     '-----------------------------------------'
                       on_runner_died: crashes + 1; on_worker_lost: worker_losses + 1; at the limit: GiveUp

The master reports facts to the on_*() methods and carries out the actions that they return, in order.
A job is in exactly one of these places; sent ahead or running, one worker holds it, under a dispatch
number of its own, by which late results are recognised. A job that is cancelled while a worker holds it keeps its
place there, since it still takes a slot, until the worker reports that it is gone.

This module defines what each fact means. `state` knows where each job is, and makes every move; `scheduler` decides
which worker gets which job; `outcomes` takes results in; `reconcile` handles what comes back after a client or a worker
was away; `asides` sets workers aside for sessions; `tallies` counts for observers.

A client that is gone keeps its session for a while (`on_session_absent`): its jobs are not dispatched, running ones
continue. A worker keeps the results of its jobs until a Release reports that the client has them (`on_received`). When
the client is back, perhaps at another master, it resubmits its open jobs. Those that no worker is known to hold are
*settling*: they are not dispatched before the workers have reported (`on_settled`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from cw.master.policy import cuts, outcomes, placing, tries
from cw.master.policy.actions import (
    Action,
    Deliver,
    GiveUp,
    Inventory,
    SendToClient,
    SendToWorker,
    attempt_counts,
    merged,
)
from cw.master.policy.asides import Asides
from cw.master.policy.jobs import WORKER_LOSSES, Job, Python, Session, SessionKey, Worker, WorkerKey
from cw.master.policy.reconcile import Reconciler
from cw.master.policy.room import RECALL_BACKOFF_TICKS
from cw.master.policy.scheduler import Scheduler
from cw.master.policy.state import State
from cw.master.policy.tallies import MINUTE, Recent
from cw.net import messages as m
from cw.requirements import WorkerCapacity


class Dispatcher:
    """The policy. The master chooses the keys of sessions and workers; methods raise KeyError for unknown ones."""

    def __init__(self, first_dispatch: int = 0) -> None:
        self.state = State()
        """May be read by the master and its peers; only the policy changes it."""
        self._scheduler = Scheduler(self.state, first_dispatch)
        self._reconciler = Reconciler(self.state)
        self._asides = Asides(self.state, self._scheduler)

    # --- workers ---

    def on_worker_joined(
        self,
        key: WorkerKey,
        capacity: WorkerCapacity,
        python: Python,
        inventories: Sequence[Inventory] = (),
        left: float = math.inf,
    ) -> list[Action]:
        """A worker has joined, for `left` seconds. It may hold dispatches of a previous master, or of this one, which
        took it for lost."""
        worker = Worker(key, capacity, self.state.pool(python, capacity.nodes))
        worker.left, worker.recent = left, Recent(MINUTE, self.state.tallies.now)
        self.state.workers[key] = worker
        placing.join(worker)
        return self._reconciler.on_inventory(worker, inventories) + self._scheduler.assign_to(worker)

    def on_worker_away(self, key: WorkerKey) -> list[Action]:
        """The worker's connection broke. It may be back in a moment; nothing is sent to it meanwhile."""
        worker = self.state.workers[key]
        worker.is_away = True
        self.state.note_room(worker)
        return self._scheduler.on_unusable(worker)

    def on_worker_back(self, key: WorkerKey, inventories: Sequence[Inventory]) -> list[Action]:
        """The worker is back, and names all that it holds. Messages that were on their way were lost with the
        connection."""
        worker = self.state.workers[key]
        worker.is_away = worker.recalling = worker.is_stuck = False
        worker.recall_backoff = 0
        worker.available, worker.blocked_sessions = worker.capacity.slots, frozenset()
        self._scheduler.lend(worker, 0, ())
        actions = self._reconciler.on_worker_back(worker, inventories)
        return actions + self._scheduler.assign_all(worker.pool) + self._scheduler.assign_to(worker)

    def on_worker_draining(self, key: WorkerKey) -> list[Action]:
        """The worker accepts no more jobs. Its unstarted jobs come back by on_returned."""
        worker = self.state.workers[key]
        worker.is_draining = True
        self.state.note_room(worker)
        return self._asides.look_again() + self._scheduler.on_unusable(worker)

    def on_worker_capacity(
        self, key: WorkerKey, slots: int, blocked_sessions: Iterable[SessionKey]
    ) -> list[Action]:
        """The worker can use `slots` of its slots now, and none for `blocked_sessions`. It returns what it cannot
        start."""
        worker = self.state.workers[key]
        worker.available, worker.blocked_sessions = slots, frozenset(blocked_sessions)
        self._scheduler.lend(worker, worker.extra, worker.floors)
        return self._asides.look_again() + self._scheduler.assign_to(worker)

    def on_lent(self, key: WorkerKey, extra: int, floors: Sequence[int]) -> list[Action]:
        """The worker runs `extra` jobs beyond one for each taken slot. `floors`: for each slot that is lent and free,
        the depth that a session must exceed."""
        worker = self.state.workers[key]
        self._scheduler.lend(worker, extra, floors)
        return self._scheduler.assign_lent(worker.pool) + self._scheduler.assign_to(worker)

    def on_time_left(self, key: WorkerKey, left: float) -> None:
        """The worker's jobs will be stopped after `left` seconds: jobs that need more do not start there."""
        self.state.workers[key].left = left

    def on_worker_departed(self, key: WorkerKey) -> list[Action]:
        """The worker said goodbye: the jobs that it still held are requeued, uncharged."""
        return self._remove_worker(key, None)

    def on_worker_lost(self, key: WorkerKey, note: dict[str, Any]) -> list[Action]:
        """The worker is gone without goodbye: jobs that may have been running there are charged with a loss, unless the
        worker was draining, since then its end was intended."""
        return self._remove_worker(key, None if self.state.workers[key].is_draining else note)

    def on_forgiven(self, key: WorkerKey) -> list[Action]:
        """The worker was lost, and by now it is known that no job was the reason: its charges are taken back."""
        return self._reconciler.forgive(key)

    def on_returned(self, key: WorkerKey, dispatches: Iterable[int]) -> list[Action]:
        """The worker no longer holds these jobs: they had not started, or were stopped as ordered."""
        worker = self.state.workers[key]
        again = []
        for job in self.state.release(worker, dispatches):
            if job.cancelled:
                self._reconciler.drop_orphan(job, worker)
            else:
                job.excluded_worker = None  # the worker that should take it instead gave it back
                again.append(job)
        self.state.requeue(again)
        # Other workers first: this one was asked to give the jobs up.
        return self._scheduler.assign_all(worker.pool) + self._scheduler.assign_to(worker)

    def on_recalled(self, key: WorkerKey, dispatches: Sequence[int]) -> list[Action]:
        """The worker answered a Recall with these jobs."""
        worker = self.state.workers[key]
        worker.recalling = False
        worker.recall_backoff = 0 if dispatches else RECALL_BACKOFF_TICKS
        return self.on_returned(key, dispatches)

    def on_cut_short(self, key: WorkerKey, dispatches: Iterable[int]) -> list[Action]:
        """These jobs had started, and were ended because their worker had to end: run again, uncharged."""
        worker = self.state.workers[key]
        actions: list[Action] = []
        again = []
        for job in self.state.release(worker, dispatches):
            if job.cancelled:
                self._reconciler.drop_orphan(job, worker)
            else:
                more, is_given_up = cuts.on_cut_short(self.state, worker, job)
                actions += more
                again += [] if is_given_up else [job]
        self.state.requeue(again)
        return actions + self._scheduler.assign_all(worker.pool)

    def on_not_entered(
        self, key: WorkerKey, dispatch: int, is_general: bool, reason: str, payload: Any
    ) -> list[Action]:
        """The call was not entered, for a reason that may lie in the worker's machine.

        `is_general`: the reason holds for all calls of the session; `payload`: the job's error if the machine is not
        at fault.
        """
        worker = self.state.workers[key]
        actions: list[Action] = []
        for job in self.state.release(worker, [dispatch]):
            if job.cancelled:
                self._reconciler.drop_orphan(job, worker)
            else:
                actions += self._asides.on_not_entered(worker, job, dispatch, is_general, reason, payload)
        return actions + self._scheduler.assign_all(worker.pool) + self._scheduler.assign_to(worker)

    def on_aside_reported(self, key: SessionKey) -> list[Action]:
        """Notify the client of workers that are set aside: called some seconds after SetAside."""
        return self._asides.on_reported(key)

    def on_aside_retry(self, key: SessionKey) -> list[Action]:
        """Let workers that are set aside try again: called every few minutes."""
        return self._asides.on_retry(key)

    def on_aside_second(self, key: SessionKey) -> list[Action]:
        """Give workers that may try again a job, if one waits: called every second."""
        return self._asides.on_second(key)

    def on_started(self, key: WorkerKey, dispatches: Iterable[int]) -> list[Action]:
        worker = self.state.workers[key]
        by_session: dict[SessionKey, list[int]] = {}
        for dispatch in dispatches:
            job = worker.held.get(dispatch)
            if job is not None and not job.started and not job.cancelled:
                self.state.note_started(job, worker)
                by_session.setdefault(job.session.key, []).append(job.number)
        return [SendToClient(session, m.JobsStarted(numbers)) for session, numbers in by_session.items()]

    def on_results(
        self,
        key: WorkerKey,
        dispatches: Sequence[int],
        statuses: Sequence[int],
        seconds: Sequence[float],
        payloads: Sequence[Any],
    ) -> list[Action]:
        """Jobs have ended. Results of jobs that this worker does not hold (late results) are dropped silently."""
        worker = self.state.workers[key]
        worker.ended += len(dispatches)
        worker.recent.add(len(dispatches), self.state.tallies.now)
        worker.is_stuck = False
        rows = zip(dispatches, statuses, seconds, payloads, strict=True)
        outs, dropped = outcomes.take(self.state, self._reconciler, worker, rows)
        actions = [action for session, out in outs.items() for action in self._deliver(worker, session, out)]
        if dropped:
            actions.append(SendToWorker(key, m.Release(dropped)))
        if worker.has_capacity or worker.pool.has_shapes:
            actions += self._scheduler.assign_to(worker)
        return actions

    def _deliver(self, worker: Worker, session: Session, out: Deliver) -> list[Action]:
        """Send results to the session's client. The worker keeps them until the client has them."""
        session.has_run = True
        actions: list[Action]
        if session.is_absent:
            actions = self._reconciler.keep(worker, session, out.dispatches, out.numbers)
        else:
            session.delivered += len(out.numbers)
            session.unacknowledged.append((session.delivered, worker.key, out.dispatches, out.numbers))
            actions = [out]
        if session.setbacks is not None:
            actions += self._asides.on_entered(worker, session, out.dispatches)
        return actions

    def on_runner_died(self, key: WorkerKey, dispatch: int, note: dict[str, Any]) -> list[Action]:
        """The job's runner died while it ran: the job is charged, and retried on another slot."""
        worker = self.state.workers[key]
        actions: list[Action] = []
        jobs = self.state.release(worker, [dispatch])
        if not any(job.cancelled and self._reconciler.is_kept_orphan(job, worker) for job in jobs):
            actions.append(SendToWorker(key, m.Release([dispatch])))
        for job in jobs:
            if (
                job.session.is_absent and not job.cancelled
            ):  # the worker keeps the note, and the job is charged when the client is back
                del job.session.jobs[job.number]
                actions = self._reconciler.keep(worker, job.session, [dispatch], [job.number])
            elif not job.cancelled:
                if note.get("loading"):
                    more, goes_elsewhere = self._asides.on_died_loading(worker, job, note.get("how", "died"))
                    actions += more
                    if goes_elsewhere:
                        continue
                job.crashes += 1
                job.notes += (note,)
                slot = note.get("slot")
                is_slot = isinstance(slot, int) and 0 <= slot < worker.slots
                job.excluded_worker, job.excluded_slot = worker, slot if is_slot else None
                if job.crashes >= job.attempts():
                    actions.append(self.state.give_up(job, "its runner died"))
                else:
                    actions.append(SendToClient(job.session.key, attempt_counts(job)))
                    self.state.requeue([job])
        return actions + self._scheduler.assign_all(worker.pool) + self._scheduler.assign_to(worker)

    # --- sessions ---

    def on_session_opened(self, key: SessionKey, python: Python, depth: int = 0, parent: int = 0) -> None:
        """A client has come. If it is in a job: `depth` says how deep, `parent` is that job's dispatch number."""
        session = self.state.sessions[key] = Session(key, python, depth, parent)
        self.state.queue(session, None)

    def on_submitted(self, key: SessionKey, jobs: Sequence[Job]) -> list[Action]:
        self.on_queued(key, jobs)
        return self.on_all_queued(key)

    def on_queued(self, key: SessionKey, jobs: Sequence[Job]) -> None:
        """Jobs have come, and more may come at once: `on_all_queued` follows."""
        session = self.state.sessions[key]
        self.state.add(session, jobs)
        for queue, alike in groupby(jobs, attrgetter("queue")):
            queue.backlog.extend(alike)
            self.state.wait(queue)

    def on_all_queued(self, key: SessionKey) -> list[Action]:
        """All has come that came at once. Nothing happens if the session has ended."""
        session = self.state.sessions.get(key)
        return [] if session is None else self._scheduler.assign_for(session)

    def on_submitted_apart(self, key: SessionKey, jobs: Sequence[Job]) -> list[Action]:
        """Jobs with a priority of their own have come, and jobs that raised and are tried again."""
        session = self.state.sessions[key]
        tries.on_submitted(self.state, session, jobs)
        return self._scheduler.assign_for(session)

    def on_session_absent(self, key: SessionKey) -> list[Action]:
        """The client is gone without goodbye: its jobs are not dispatched, and unstarted ones are taken back."""
        return self._reconciler.on_session_absent(self.state.sessions[key])

    def on_session_resumed(self, key: SessionKey) -> list[Action]:
        """The client is back, at this master or from another: it resubmits its open jobs."""
        session = self.state.sessions[key]
        return self._reconciler.on_session_resumed(session) + self._scheduler.assign_for(session)

    def on_resubmitted(self, key: SessionKey, jobs: Iterable[Job], were_here: bool) -> list[Action]:
        """The client resubmits jobs that it submitted before, to this master (`were_here`) or another."""
        return self._reconciler.on_resubmitted(self.state.sessions[key], jobs, were_here)

    def on_settled(self, key: SessionKey, is_complete: bool = False) -> list[Action]:
        """All is resubmitted, and the workers had their time: jobs that no worker holds are queued.

        `is_complete`: all workers that were at the previous master are here.
        """
        session = self.state.sessions[key]
        # The client has cancelled what it has not resubmitted.
        actions = self.on_cancelled(key, sorted(session.unconfirmed))
        actions += self._reconciler.on_settled(session, is_complete)
        return merged(actions) + self._scheduler.assign_for(session)

    def on_lost_before(
        self, key: SessionKey, find: Callable[[Iterable[int]], Collection[int]], note: dict[str, Any]
    ) -> list[Action]:
        """All is resubmitted, and a worker had died together with the master before: the jobs that `find` names among
        these numbers may have started there, if no other worker holds them. Called before `on_settled`."""
        return self._reconciler.on_lost_before(self.state.sessions[key], find, note)

    def on_received(self, key: SessionKey, count: int) -> list[Action]:
        """The client has the first `count` of the results that were delivered since it connected."""
        return self._reconciler.on_received(self.state.sessions[key], count)

    def on_orphans_expired(self) -> list[Action]:
        """The time is over in which clients of unclaimed orphans could come back."""
        return self._reconciler.on_orphans_expired()

    def on_cancelled(self, key: SessionKey, numbers: Iterable[int]) -> list[Action]:
        """The client has cancelled these jobs: they are neither dispatched nor delivered from now on."""
        session = self.state.sessions[key]
        jobs = [session.jobs.pop(number) for number in numbers if number in session.jobs]
        if session.settling:
            for job in jobs:
                session.settling.pop(job.number, None)
        actions = self.state.cancel(jobs)
        queues = session.queues.values()
        if sum(map(len, queues)) > 2 * len(session.jobs):  # at least half is cancelled
            for queue in queues:
                queue.drop_cancelled()
            self.state.stop_waiting(*(queue for queue in queues if not queue))
        return actions

    def on_stopped(self, key: SessionKey, number: int, reason: str) -> list[Action]:
        """An observer wants this job to end: it fails at its client. Nothing happens if it has ended."""
        session = self.state.sessions.get(key)
        job = session.jobs.get(number) if session is not None else None
        if job is None:
            return []
        worker = "" if job.worker is None else job.worker.key
        actions = self.on_cancelled(key, [number])
        self.state.tallies.on_given_up(key, number, job.function.estimate, worker, f"stopped by {reason}")
        return [*actions, GiveUp(key, number, reason, job.notes, is_stopped=True)]

    def on_session_closed(self, key: SessionKey) -> list[Action]:
        """The session is over. Its jobs keep their slots until the workers have returned them."""
        session = self.state.sessions.pop(key)
        self.state.stop_waiting(*session.queues.values())
        jobs = list(session.jobs.values())
        session.jobs.clear()
        for queue in session.queues.values():
            queue.clear()
        session.settling = None
        self._reconciler.on_session_closed(key)
        self.state.tallies.on_session_closed(key)
        return self.state.cancel(jobs)

    def on_blocked(self, key: SessionKey, is_blocked: bool) -> list[Action]:
        """The client does not take its results (or takes them again): its jobs are not dispatched meanwhile."""
        session = self.state.sessions[key]
        session.is_blocked = is_blocked
        if is_blocked:
            self.state.stop_waiting(*session.queues.values())
            return []
        self.state.wait(*session.queues.values())
        return self._scheduler.assign_for(session)

    # --- time ---

    def wants_tick(self) -> bool:
        """True if there is something for `on_tick` to do."""
        return self._scheduler.wants_tick()

    def on_tick(self) -> list[Action]:
        """Recall jobs that wait while another worker idles. Called every 20 ms or so while `wants_tick`."""
        return self._scheduler.on_tick()

    # --- inside ---

    def _remove_worker(self, key: WorkerKey, note: dict[str, Any] | None) -> list[Action]:
        worker = self.state.workers.pop(key)
        pool = worker.pool
        pool.remove(worker)
        self._asides.on_worker_gone(worker)
        actions: list[Action] = []
        again = []
        for job in self.state.release(worker, list(worker.held)):
            if job.cancelled:
                continue  # (its orphan is removed below)
            # A worker says goodbye after it has returned its unstarted jobs: those that are left may have started.
            if note is not None:
                job.worker_losses += 1
                job.notes += (note,)
            if job.worker_losses >= WORKER_LOSSES or job.attempts() == 1:
                actions.append(self.state.give_up(job, "its worker was lost" if note else "its worker left"))
            else:
                if note is not None:
                    actions.append(SendToClient(job.session.key, attempt_counts(job)))
                again.append(job)
        self.state.requeue(again)
        self._reconciler.on_worker_gone(worker)
        tries.on_worker_gone(self.state, worker)
        return actions + self._asides.look_again() + self._scheduler.assign_all(pool)

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself. For tests."""
        self.state.check_invariants()
        self._reconciler.check_invariants()
