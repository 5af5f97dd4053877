"""Part of the master's policy about machines on which a session's calls cannot be entered.

                        another worker may be able to enter it
      on_not_entered ------> requeued, uncharged; this worker is SET ASIDE ----> on_retry, after minutes: one job
              |                                          |                         | it ran: welcome again
              |                                          '--- no other is left ----'
              '------------> its error, delivered (`Deliver`), or a death charged; no worker is set aside for it
                        no other worker; or the same on two machines, and no success on any

A working directory is missing, or an import fails or takes the process down while a function or its arguments are
unpickled: the machine may be at fault, or the program. So the job goes to another worker, and the outcome there
decides. A job visits no worker twice before it has visited all others, so its journey ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from cw.master.policy.actions import Action, Deliver, ReportAside, SendToWorker, SetAside, WatchSetbacks
from cw.master.policy.fit import NEVER, fit, is_aside, serves, suits
from cw.master.policy.jobs import Aside, Job, Queue, Session, SessionKey, Setbacks, Worker
from cw.master.policy.scheduler import Scheduler
from cw.master.policy.state import State
from cw.net import messages as m
from cw.net.objects import Estimate

RETRY_SECONDS = 180.0
"""Time until a worker that is set aside gets one job to try. Larger: a machine that works again is not used.
Smaller: more jobs start in vain on one that does not."""

NOTICE_SECONDS = 3.0
"""Time until the client is notified, if no result has come by then: until then the program may be at fault."""

NAMED = 3
"""Most workers, and most reasons, that are named in full."""

KINDS = 100
"""Most different failures that are remembered of a session. Larger: more memory if every error text is different.
Smaller: a failure is forgotten, and must occur on two machines again before it counts as the program's."""


class Asides:
    """Sets workers aside for sessions, and lets them try again."""

    def __init__(self, state: State, scheduler: Scheduler) -> None:
        self._state = state
        self._scheduler = scheduler

    def on_not_entered(
        self, worker: Worker, job: Job, dispatch: int, is_general: bool, reason: str, payload: Any
    ) -> list[Action]:
        """The worker gave the job back since its call could not be entered. The job is in no place now.

        `is_general`: no call of its session can be entered there.
        """
        session = job.session
        if session.is_absent:  # it is tried again when the client is back and can be notified
            self._state.requeue([job])
            return []
        actions, goes_elsewhere = self._pass_on(
            worker, job, None if is_general else job.function.estimate, reason
        )
        if not goes_elsewhere:
            del session.jobs[job.number]
            self._state.tallies.on_given_up(
                session.key, job.number, job.function.estimate, worker.key, reason
            )
            session.delivered += 1
            actions.append(
                Deliver(session.key, worker.key, [dispatch], [job.number], [m.NOT_ENTERED], [0.0], [payload])
            )
        return actions

    def on_died_loading(self, worker: Worker, job: Job, how: str) -> tuple[list[Action], bool]:
        """The job's runner died while it loaded the function. False: the caller charges that as any other death."""
        return self._pass_on(
            worker, job, job.function.estimate, f"the process that loads its functions {how}"
        )

    def _pass_on(
        self, worker: Worker, job: Job, function: Estimate | None, reason: str
    ) -> tuple[list[Action], bool]:
        """Set the worker aside, and requeue the job. False: neither, since other workers would fail as well.

        `function`: the one whose calls cannot be entered; None: all functions of the session.
        """
        session = job.session
        is_general = function is None
        actions: list[Action] = []
        if session.setbacks is None:
            session.setbacks = Setbacks()
            actions.append(WatchSetbacks(session.key))
        setbacks = session.setbacks
        kind = function, "" if is_general else reason
        failed = setbacks.failed.setdefault(kind, {})
        failed[worker] = None
        if len(setbacks.failed) > KINDS:
            del setbacks.failed[next(iter(setbacks.failed))]
        if worker not in job.unfit:
            job.unfit += (worker,)
        others = [
            other
            for other in self._state.workers.values()
            if other.available > 0
            and fit(job, other, despite_setbacks=True) is not NEVER
            and other not in failed
            and other not in job.unfit
        ]
        has_run = session.has_run if is_general else job.function.estimate.seconds < math.inf
        if not others or (len(failed) > 1 and not has_run and not _is_under_way(others, job, is_general)):
            for other in [other for other, aside in setbacks.aside.items() if aside.kind == kind]:
                self._welcome(other, session)
            return actions, False
        setbacks.aside[worker] = Aside(kind)
        if (worker.key, reason) not in setbacks.reported:
            setbacks.unreported[worker] = reason
            actions.append(SetAside(session.key, worker.key, reason))
        if all(other in setbacks.aside for other in others):
            for other in others:  # this job has not been there: better than no worker at all
                self._welcome(other, session)
        unstarted = [d for d, held in worker.held.items() if held.session is session and not held.started]
        if unstarted:
            actions.append(SendToWorker(worker.key, m.TakeBack(unstarted)))
        self._state.requeue([job])
        return actions + (self.on_reported(session.key) if has_run else []), True

    def on_entered(self, worker: Worker, session: Session, dispatches: Iterable[int]) -> list[Action]:
        """Jobs of a session with setbacks have ended at this worker. So the program is not at fault."""
        assert session.setbacks is not None
        aside = session.setbacks.aside.get(worker)
        if aside is not None and aside.trial in dispatches:
            self._welcome(worker, session)
        return self.on_reported(session.key)

    def on_reported(self, key: SessionKey) -> list[Action]:
        """Notify the client of the workers that are set aside."""
        session = self._state.sessions.get(key)
        if session is None or session.setbacks is None or session.is_absent:
            return []
        setbacks = session.setbacks
        unreported = [(worker.key, reason) for worker, reason in setbacks.unreported.items()]
        setbacks.unreported.clear()
        setbacks.reported.update(unreported)
        return [ReportAside(key, unreported)] if unreported else []

    def on_retry(self, key: SessionKey) -> list[Action]:
        """Let each worker that is set aside try one job: minutes have passed, and what failed may work now."""
        session = self._state.sessions.get(key)
        if session is None or session.setbacks is None:
            return []
        setbacks = session.setbacks
        setbacks.failed.clear()
        if not setbacks.aside:
            session.setbacks = None
        for aside in setbacks.aside.values():
            aside.is_due = True
        return self.on_second(key)

    def on_second(self, key: SessionKey) -> list[Action]:
        """Give each worker that is due its job to try, if one waits."""
        session = self._state.sessions.get(key)
        if session is None or session.setbacks is None:
            return []
        actions: list[Action] = []
        for worker, aside in session.setbacks.aside.items():
            if not aside.is_due or aside.trial in worker.held:
                continue
            assigned = self._scheduler.assign_trial(session, worker)
            for action in assigned:
                aside.trial = action.jobs[0].dispatch
                aside.is_due = False
            actions += assigned
        return actions

    def on_worker_gone(self, worker: Worker) -> None:
        for session in self._state.sessions.values():
            if session.setbacks is not None:
                session.setbacks.aside.pop(worker, None)
                session.setbacks.unreported.pop(worker, None)
                for failed in session.setbacks.failed.values():
                    failed.pop(worker, None)

    def look_again(self) -> list[Action]:
        """Use set-aside workers again for sessions that have no others left: workers are gone or cannot be used."""
        actions: list[Action] = []
        for session in self._state.sessions.values():
            for queue in session.queues.values() if session.setbacks is not None else ():
                actions += self._look_again(session, queue)
        return actions

    def _look_again(self, session: Session, queue: Queue) -> list[Action]:
        assert session.setbacks is not None
        aside = [worker for worker in session.setbacks.aside if worker.pool is queue.pool]
        if not aside or any(
            worker.available > 0
            and suits(worker, queue)
            and serves(worker, queue)
            and not is_aside(worker, session)
            for worker in self._state.workers.values()
        ):
            return []
        for worker in aside:
            self._welcome(worker, session)
        return self._scheduler.assign_all(queue.pool)

    def _welcome(self, worker: Worker, session: Session) -> None:
        assert session.setbacks is not None
        del session.setbacks.aside[worker]
        session.setbacks.unreported.pop(worker, None)


def sentences(workers: Iterable[tuple[str, str]]) -> list[str]:
    """Sentences for the client about these workers, each given with its reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in workers:
        by_reason.setdefault(reason, []).append(name)
    texts = []
    for reason, names in list(by_reason.items())[:NAMED]:
        others = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        texts.append(
            f"{', '.join(names[:NAMED])}{others} {'is' if len(names) == 1 else 'are'} set aside for this program: "
            f"{reason}. Its jobs go to other workers, and in {RETRY_SECONDS / 60:g} minutes one is tried there again"
        )
    return texts


def _is_under_way(workers: Iterable[Worker], job: Job, is_general: bool) -> bool:
    """True if one of the workers holds a similar job, which may have been entered."""
    return any(
        held.session is job.session and (is_general or held.function.estimate is job.function.estimate)
        for worker in workers
        for held in worker.held.values()
    )
