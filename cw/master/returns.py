"""The master's policy, its part about what comes back: what workers hold of jobs whose client or master was away.

A worker that joins or is back names the dispatches that it holds (*holdings*): running, unstarted, or finished with the
outcome kept. A holding whose job is open here is *adopted*. One whose job has not been handed in (yet) is an *orphan*:
it takes its slot, and is adopted when the client hands its job in, or refused when nobody comes for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence

from cw.master.jobs import (
    Action,
    Claim,
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
from cw.master.turns import Turns
from cw.net.messages import FINISHED, RUNNING
from cw.net.objects import Object


class Returns:
    """Orphans, and how holdings and jobs find each other."""

    def __init__(
        self, sessions: Mapping[Hashable, Session], workers: Mapping[Hashable, Worker], turns: Turns
    ) -> None:
        self._sessions = sessions
        self._workers = workers
        self._turns = turns
        # By session and number: who holds it, under which dispatch, in which state.
        self.orphans: dict[Hashable, dict[int, tuple[Worker, int, int]]] = {}

    def take_in(self, worker: Worker, holdings: Sequence[Holding]) -> list[Action]:
        """A worker that joined or is back has named what it holds."""
        actions: list[Action] = []
        adopted: set[Session] = set()
        delivered: dict[Session, set[int]] = {}
        for dispatch, key, number, state in holdings:
            session = self._sessions.get(key)
            held = worker.held.get(dispatch)
            job = session.jobs.get(number) if session is not None else None
            if held is not None:
                actions += self._hear_again(held, worker, state)
            elif job is not None:
                actions += self.adopt(job, worker, dispatch, state)
                adopted.add(job.session)
            elif session is None or session.is_absent or session.settling is not None:
                self._place(worker, dispatch, state, key, number)
                actions += self._add_orphan(key, number, (worker, dispatch, state))
            else:
                if session not in delivered:
                    delivered[session] = {d for entry in session.unacknowledged for d in entry[2]}
                if dispatch not in delivered[session]:  # else the client is about to say that it has it
                    self._place(worker, dispatch, state, key, number)
                    actions += self.refuse(worker, dispatch, state)
        for session in adopted:
            session.backlog = deque(job for job in session.backlog if job.worker is None)
            session.requeued = deque(job for job in session.requeued if job.worker is None)
            if not session.backlog and not session.requeued:
                self._turns.stop_waiting(session)
        self._turns.note_room(worker)
        return merged(actions)

    def _hear_again(self, job: Job, worker: Worker, state: int) -> list[Action]:
        """A worker that was away a moment still holds this. What was said about it meanwhile is said again."""
        dispatch = job.dispatch
        if job.cancelled:
            orphans = self.orphans.get(job.session.key, {})
            if orphans.get(job.number, (None, 0))[:2] == (worker, dispatch):
                orphans[job.number] = worker, dispatch, state
                if state == FINISHED:
                    self._turns.release(worker, [dispatch])
                return []
            if state == FINISHED:
                self._turns.release(worker, [dispatch])
            return self.refuse(worker, dispatch, state)
        if state == FINISHED:
            if not job.session.is_absent:
                return [Claim(worker.key, [dispatch])]
            self._turns.release(worker, [dispatch])
            del job.session.jobs[job.number]
            return self.keep(worker, job.session, [dispatch], [job.number])
        if state == RUNNING:
            return self.note_started(job)
        return [TakeBack(worker.key, [dispatch])] if job.session.is_absent else []

    def note_started(self, job: Job) -> list[Action]:
        if job.started:
            return []
        job.started = True
        return [TellStarted(job.session.key, [job.number])]

    def adopt(self, job: Job, worker: Worker, dispatch: int, state: int) -> list[Action]:
        """This worker holds that open job. The caller takes it out of the queues."""
        actions = self.uncharge(job, worker.key)
        elsewhere = job.worker
        if elsewhere is not None:  # it was dispatched again meanwhile
            # A result is better than a second run, and what has run longer than what began later.
            if state != FINISHED and (state != RUNNING or dispatch > job.dispatch):
                self._place(worker, dispatch, state, job.session.key, job.number)
                return actions + self.refuse(worker, dispatch, state)
            old = job.dispatch
            self._turns.release(elsewhere, [old])
            self._place(elsewhere, old, RUNNING, job.session.key, job.number)
            self._turns.note_room(elsewhere)
            actions.append(StopJobs(elsewhere.key, [old]))
        if job.session.settling:
            job.session.settling.pop(job.number, None)
        self._turns.release(worker, [dispatch])  # the place that was kept for it
        job.started = False
        job.avoid = None
        self._turns.hold(job, worker, dispatch)
        if state == FINISHED:
            actions.append(Claim(worker.key, [dispatch]))
        elif state == RUNNING:
            actions += self.note_started(job)
        elif job.session.is_absent:
            actions.append(TakeBack(worker.key, [dispatch]))
        self._turns.note_room(worker)
        return actions

    def uncharge(self, job: Job, key: Hashable) -> list[Action]:
        """It was charged when this worker was lost, or seemed to be."""
        own = [note for note in job.notes if note.get("worker_ident") == key]
        if not own or not job.losses:
            return []
        job.losses = max(0, job.losses - len(own))
        job.notes = tuple(note for note in job.notes if note not in own)
        return [TellCharges(job.session.key, job)]

    def _place(self, worker: Worker, dispatch: int, state: int, key: Hashable, number: int) -> None:
        """What runs there takes a slot, whosesoever it is."""
        if state != FINISHED:
            stranger = Job(number, Object(0), None, b"")
            stranger.cancelled = True
            stranger.session = Session(key, worker.pool)
            self._turns.hold(stranger, worker, dispatch)

    def refuse(self, worker: Worker, dispatch: int, state: int) -> list[Action]:
        return [Release(worker.key, [dispatch]) if state == FINISHED else StopJobs(worker.key, [dispatch])]

    def _add_orphan(self, key: Hashable, number: int, holding: tuple[Worker, int, int]) -> list[Action]:
        """Remember who holds a job that is not handed in. Of two, the better: finished, or begun earlier."""
        orphans = self.orphans.setdefault(key, {})
        other = orphans.get(number)
        if other is None or other[:2] == holding[:2]:
            orphans[number] = holding
            return []
        better, worse = sorted((holding, other), key=lambda h: (-h[2], h[1]))
        orphans[number] = better
        return self.refuse(*worse)

    def keep(
        self, worker: Worker, session: Session, dispatches: list[int], numbers: list[int]
    ) -> list[Action]:
        """These have ended, and the client is not there: the worker keeps what they came to."""
        actions: list[Action] = []
        for dispatch, number in zip(dispatches, numbers, strict=True):
            actions += self._add_orphan(session.key, number, (worker, dispatch, FINISHED))
        return actions

    def keep_unacknowledged(self, session: Session) -> list[Action]:
        """The client may not have these results. Those that it has, it will not ask for."""
        actions: list[Action] = []
        for _, key, dispatches, numbers in session.unacknowledged:
            worker = self._workers.get(key)
            if worker is not None:
                actions += self.keep(worker, session, dispatches, numbers)
        session.unacknowledged.clear()
        session.delivered = 0
        return merged(actions)

    def drop_orphan(self, job: Job, worker: Worker) -> None:
        """The worker does not hold this any more, and has nothing of it."""
        orphans = self.orphans.get(job.session.key, {})
        if orphans.get(job.number, (None, 0))[:2] == (worker, job.dispatch):
            del orphans[job.number]

    def is_kept_orphan(self, job: Job, worker: Worker) -> bool:
        """Has an orphan ended by this, so that the worker keeps what it came to?"""
        orphans = self.orphans.get(job.session.key, {})
        if orphans.get(job.number, (None, 0))[:2] != (worker, job.dispatch):
            return False
        orphans[job.number] = worker, job.dispatch, FINISHED
        return True
