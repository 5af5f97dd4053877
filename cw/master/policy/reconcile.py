"""Part of the master's policy about what comes back: jobs that workers hold although their client or master was away.

A worker that joins or is back names the dispatches that it holds, its *inventory*: running, unstarted, or finished with
the outcome kept. One whose job is open here is *adopted*. One whose job has not been submitted here (yet) is an
*orphan*: it takes its slot, and is adopted when the client submits its job, or refused if no client does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from cw.master.policy.actions import Action, Inventory, SendToClient, SendToWorker, attempt_counts, merged
from cw.master.policy.jobs import WORKER_LOSSES, Job, Queue, Session, SessionKey, Worker, WorkerKey
from cw.master.policy.state import State
from cw.net import messages as m
from cw.net.messages import FINISHED, RUNNING
from cw.net.objects import Object


class Reconciler:
    """Keeps orphans, and matches inventories with jobs."""

    def __init__(self, state: State) -> None:
        self._state = state
        # By session and job number: the worker that holds it, its dispatch number, its state.
        self.orphans: dict[SessionKey, dict[int, tuple[Worker, int, int]]] = {}

    # --- a worker was away ---

    def on_inventory(self, worker: Worker, inventories: Sequence[Inventory]) -> list[Action]:
        """Adopt, remember or refuse what a worker holds that has joined or is back."""
        actions: list[Action] = []
        adopted: dict[Queue, None] = {}
        delivered: dict[Session, set[int]] = {}
        for dispatch, key, number, state in inventories:
            session = self._state.sessions.get(key)
            held = worker.held.get(dispatch)
            job = session.jobs.get(number) if session is not None else None
            if held is not None:
                actions += self._hear_again(held, worker, state)
            elif job is not None:
                actions += self.adopt(job, worker, dispatch, state)
                adopted[job.queue] = None
            elif session is None or session.is_absent or session.settling is not None:
                self._place(worker, dispatch, state, key, number)
                actions += self._add_orphan(key, number, (worker, dispatch, state))
            else:
                if session not in delivered:
                    delivered[session] = {d for entry in session.unacknowledged for d in entry[2]}
                if dispatch not in delivered[session]:  # otherwise the client is about to acknowledge it
                    self._place(worker, dispatch, state, key, number)
                    actions += self._refuse(worker, dispatch, state)
        for queue in adopted:
            queue.drop_held()
            if not queue:
                self._state.stop_waiting(queue)
        self._state.note_room(worker)
        return merged(actions)

    def on_worker_back(self, worker: Worker, inventories: Sequence[Inventory]) -> list[Action]:
        """A worker is back: it no longer has what it does not name."""
        named = {held_job[0] for held_job in inventories}
        actions: list[Action] = []
        again = []
        for job in self._state.release(
            worker, [dispatch for dispatch in worker.held if dispatch not in named]
        ):
            if job.cancelled:
                self.drop_orphan(job, worker)
            elif job.started and job.attempts() == 1:  # (its result was more than the worker could keep)
                actions.append(self._state.give_up(job, "its result was lost with a connection"))
            else:
                again.append(job)
        self._state.requeue(again)
        return actions + self.on_inventory(worker, inventories)

    def on_worker_gone(self, worker: Worker) -> None:
        """A worker is gone for good: remove its orphans."""
        for orphans in self.orphans.values():
            for number in [number for number, held_job in orphans.items() if held_job[0] is worker]:
                del orphans[number]

    def _hear_again(self, job: Job, worker: Worker, state: int) -> list[Action]:
        """A worker that was away a moment still holds this job. Send again what may have been lost meanwhile."""
        dispatch = job.dispatch
        if job.cancelled:
            orphans = self.orphans.get(job.session.key, {})
            if orphans.get(job.number, (None, 0))[:2] == (worker, dispatch):
                orphans[job.number] = worker, dispatch, state
                if state == FINISHED:
                    self._state.release(worker, [dispatch])
                return []
            if state == FINISHED:
                self._state.release(worker, [dispatch])
            return self._refuse(worker, dispatch, state)
        if state == FINISHED:
            if not job.session.is_absent:
                return [SendToWorker(worker.key, m.Claim([dispatch]))]
            self._state.release(worker, [dispatch])
            del job.session.jobs[job.number]
            return self.keep(worker, job.session, [dispatch], [job.number])
        if state == RUNNING:
            return self._note_started(job, worker)
        return [SendToWorker(worker.key, m.TakeBack([dispatch]))] if job.session.is_absent else []

    def _note_started(self, job: Job, worker: Worker) -> list[Action]:
        if job.started:
            return []
        self._state.note_started(job, worker)
        return [SendToClient(job.session.key, m.JobsStarted([job.number]))]

    def adopt(self, job: Job, worker: Worker, dispatch: int, state: int) -> list[Action]:
        """Assign an open job to the worker that holds it. The caller takes it out of the queues."""
        actions = self.uncharge(job, worker.key)
        elsewhere = job.worker
        if elsewhere is not None:  # it was dispatched again meanwhile
            # A result is better than a second run, and an earlier run is better than a later one.
            if state != FINISHED and (state != RUNNING or dispatch > job.dispatch):
                self._place(worker, dispatch, state, job.session.key, job.number)
                return actions + self._refuse(worker, dispatch, state)
            old = job.dispatch
            self._state.release(elsewhere, [old])
            self._place(elsewhere, old, RUNNING, job.session.key, job.number)
            self._state.note_room(elsewhere)
            actions.append(SendToWorker(elsewhere.key, m.Stop([old])))
        if job.session.settling:
            job.session.settling.pop(job.number, None)
        self._state.release(worker, [dispatch])  # its placeholder (see `_place`)
        job.started = False
        job.excluded_worker = None
        self._state.hold(job, worker, dispatch)
        if state == FINISHED:
            actions.append(SendToWorker(worker.key, m.Claim([dispatch])))
        elif state == RUNNING:
            actions += self._note_started(job, worker)
        elif job.session.is_absent:
            actions.append(SendToWorker(worker.key, m.TakeBack([dispatch])))
        self._state.note_room(worker)
        return actions

    def forgive(self, key: WorkerKey) -> list[Action]:
        """Take back what was charged to jobs when this worker was lost."""
        jobs = [job for session in self._state.sessions.values() for job in session.jobs.values()]
        return [action for job in jobs if job.worker_losses for action in self.uncharge(job, key)]

    def uncharge(self, job: Job, key: WorkerKey) -> list[Action]:
        """Take back what was charged to the job when this worker was lost, or seemed to be."""
        own = [note for note in job.notes if note.get("worker_ident") == key]
        if not own or not job.worker_losses:
            return []
        job.worker_losses = max(0, job.worker_losses - len(own))
        job.notes = tuple(note for note in job.notes if note not in own)
        return [SendToClient(job.session.key, attempt_counts(job))]

    def _place(self, worker: Worker, dispatch: int, state: int, key: SessionKey, number: int) -> None:
        """Put a placeholder for an unknown job at the worker, since it takes a slot there."""
        if state != FINISHED:
            placeholder = Job(number, Object(0), None, b"")
            placeholder.cancelled = True
            placeholder.session = Session(key, worker.pool.python)
            self._state.hold(placeholder, worker, dispatch)

    def _refuse(self, worker: Worker, dispatch: int, state: int) -> list[Action]:
        message = m.Release([dispatch]) if state == FINISHED else m.Stop([dispatch])
        return [SendToWorker(worker.key, message)]

    def _add_orphan(self, key: SessionKey, number: int, held_job: tuple[Worker, int, int]) -> list[Action]:
        """Remember who holds a job that is not submitted. Of two, keep the better: finished, or begun earlier."""
        orphans = self.orphans.setdefault(key, {})
        other = orphans.get(number)
        if other is None or other[:2] == held_job[:2]:
            orphans[number] = held_job
            return []
        better, worse = sorted((held_job, other), key=lambda h: (-h[2], h[1]))
        orphans[number] = better
        return self._refuse(*worse)

    # --- a client was away ---

    def on_session_absent(self, session: Session) -> list[Action]:
        session.is_absent = True
        self._state.stop_waiting(*session.queues.values())
        actions = self._keep_unacknowledged(session)
        by_worker: dict[Worker, list[int]] = {}
        for job in session.jobs.values():
            if job.worker is not None and not job.started and not job.worker.is_away:
                by_worker.setdefault(job.worker, []).append(job.dispatch)
        return actions + [
            SendToWorker(worker.key, m.TakeBack(dispatches)) for worker, dispatches in by_worker.items()
        ]

    def on_session_resumed(self, session: Session) -> list[Action]:
        actions = self._keep_unacknowledged(session)
        session.is_absent = session.is_blocked = False
        session.unconfirmed = set(session.jobs)
        if session.settling is None:
            session.settling = {}
        running = [job.number for job in session.jobs.values() if job.started]
        if running:
            actions.append(SendToClient(session.key, m.JobsStarted(running)))
        # Jobs that have been waiting here all the time need not settle.
        self._state.wait(*session.queues.values())
        return actions

    def on_resubmitted(self, session: Session, jobs: Iterable[Job], were_here: bool) -> list[Action]:
        if session.settling is None:
            session.settling = {}
        orphans = self.orphans.get(session.key, {})
        actions: list[Action] = []
        for job in jobs:
            if job.number in session.unconfirmed:
                session.unconfirmed.discard(job.number)  # it is here, or has been answered since
            elif job.number not in session.jobs:
                self._state.add(session, [job])
                held_job = orphans.pop(job.number, None)
                if held_job is None:
                    job.started = were_here  # if it was here and is no longer, it has ended
                    session.settling[job.number] = job
                else:
                    actions += self.adopt(job, *held_job)
        return merged(actions)

    def on_lost_before(
        self, session: Session, find: Callable[[Iterable[int]], Collection[int]], note: dict[str, Any]
    ) -> list[Action]:
        """Charge a loss to those resubmitted jobs that `find` names, and that no worker holds."""
        settling, actions = session.settling or {}, list[Action]()
        for number in sorted(find(settling)):
            job = settling[number]
            job.worker_losses += 1
            job.notes += (note,)
            if job.worker_losses >= WORKER_LOSSES or job.attempts() == 1:
                actions.append(self._state.give_up(job, "its worker was lost"))
                if session.settling is not None:
                    session.settling.pop(job.number, None)
            else:
                actions.append(SendToClient(session.key, attempt_counts(job)))
        return actions

    def on_settled(self, session: Session, is_complete: bool) -> list[Action]:
        settling, session.settling = session.settling or {}, None
        session.unconfirmed = set()
        actions: list[Action] = []
        again = []
        for job in settling.values():
            if job.attempts() == 1 and (job.started or not is_complete):
                actions.append(self._state.give_up(job, "it may have started, and nobody has its result"))
            else:
                again.append(job)
            job.started = False
        for held_job in self.orphans.pop(session.key, {}).values():
            actions += self._refuse(*held_job)
        self._state.requeue(again)
        self._state.wait(*session.queues.values())
        return actions

    def on_received(self, session: Session, count: int) -> list[Action]:
        waiting = session.unacknowledged
        released: dict[WorkerKey, list[int]] = {}
        while waiting and waiting[0][0] <= count:
            _, worker, dispatches, _ = waiting.popleft()
            if worker in self._state.workers:
                released.setdefault(worker, []).extend(dispatches)
        return [SendToWorker(worker, m.Release(dispatches)) for worker, dispatches in released.items()]

    def on_session_closed(self, key: SessionKey) -> None:
        """Remove the session's orphans. (The workers learn by CloseSession that it is closed.)"""
        self.orphans.pop(key, None)

    def on_orphans_expired(self) -> list[Action]:
        actions: list[Action] = []
        for key in [key for key in self.orphans if key not in self._state.sessions]:
            for held_job in self.orphans.pop(key).values():
                actions += self._refuse(*held_job)
        return actions

    # --- jobs that ended meanwhile ---

    def keep(
        self, worker: Worker, session: Session, dispatches: list[int], numbers: list[int]
    ) -> list[Action]:
        """Remember jobs that ended while their client was away: the worker keeps their outcome."""
        actions: list[Action] = []
        for dispatch, number in zip(dispatches, numbers, strict=True):
            actions += self._add_orphan(session.key, number, (worker, dispatch, FINISHED))
        return actions

    def _keep_unacknowledged(self, session: Session) -> list[Action]:
        """Keep results that the client may not have. It will not ask for those that it has; it has those of jobs that
        it submitted once more."""
        actions: list[Action] = []
        latest = {n: d for _, _, dispatches, numbers in session.unacknowledged
                  for d, n in zip(dispatches, numbers, strict=True)}  # fmt: skip
        for _, key, dispatches, numbers in session.unacknowledged:
            worker = self._state.workers.get(key)
            if worker is None:
                continue
            for dispatch, number in zip(dispatches, numbers, strict=True):
                if number in session.jobs or latest[number] != dispatch:
                    actions += self._refuse(worker, dispatch, FINISHED)
                else:
                    actions += self.keep(worker, session, [dispatch], [number])
        session.unacknowledged.clear()
        session.delivered = 0
        return merged(actions)

    def drop_orphan(self, job: Job, worker: Worker) -> None:
        """Forget an orphan that the worker does not hold any more, and of which it has no result."""
        orphans = self.orphans.get(job.session.key, {})
        if orphans.get(job.number, (None, 0))[:2] == (worker, job.dispatch):
            del orphans[job.number]

    def is_kept_orphan(self, job: Job, worker: Worker) -> bool:
        """True if the job that has ended is an orphan, so that the worker must keep its outcome."""
        orphans = self.orphans.get(job.session.key, {})
        if orphans.get(job.number, (None, 0))[:2] != (worker, job.dispatch):
            return False
        orphans[job.number] = worker, job.dispatch, FINISHED
        return True

    def check_invariants(self) -> None:
        """Raise AssertionError if the orphans contradict the rest of the state. For tests."""
        for key, orphans in self.orphans.items():
            session = self._state.sessions.get(key)
            for number, (worker, dispatch, state) in orphans.items():
                assert self._state.workers.get(worker.key) is worker
                assert session is None or number not in session.jobs
                held = worker.held.get(dispatch)
                assert held is None or (held.cancelled and state != FINISHED)
