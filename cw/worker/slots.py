"""A worker's policy: which runner gets which job; facts in, actions out, no I/O, time as an argument.

      on_jobs              SendJobs               (token taken)          on_results
     ---------> BACKLOG ------------> SENT AHEAD ---------------> RUNNING ---------> forgotten
                 ^  |                     |                          |
                 |  | Recalled,           | Retract, on_retracted    | on_runner_exited: TellDied;
                 |  | Returned            |                          | where it was stopped Returned, at its
                 '--+---------------------'                          | time limit TellExpired, cut short
                                                                     | as the worker ends CutShort

The worker reports facts to the on_*() methods and carries out the actions that they return. The state is kept in
rooms of its own: the jobs (cw.worker.jobs), the slots and runners (cw.worker.pool), the slots that waiting jobs have
lent (cw.worker.lending); cw.worker.assignment decides which job goes where.

One slot runs one job at a time, in the runner of the job's *context* on that slot: its session, and the number of the
environment that its function needs. (A client that asks for fresh runners names a new environment.) Beside it may be
others that wait for jobs of their own. A runner is sent the jobs after its current one ahead, as many as it will need
for AHEAD_SECONDS. Who owns a job that was sent ahead is decided by the kernel: for each job a token is put in an
eventfd, which the runner takes before it starts the job, and the worker (`Retract`) to own the last of those sent. So
a runner that is stuck in a long job, or in C code that lets no line of Python run, loses its tail to an idle slot. It
also shows when a job has started, from when on its time limit counts.

A job that must end, ends with its runner (StopRunner): first all behind it is taken back, and a runner
that was signalled is never used again; its slot is free when its process is gone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cw.net import messages as m
from cw.worker.actions import (
    Action,
    EndRunner,
    GiveBack,
    LookAtTokens,
    Resume,
    Retract,
    Send,
    SendDrop,
    StopRunner,
    TellDied,
    TellExpired,
    returned,
)
from cw.worker.assignment import Assignment
from cw.worker.jobs import HeldJobs, Job
from cw.worker.lending import Lending
from cw.worker.pool import AHEAD_JOBS, Runner, RunnerPool

TOLD_SECONDS = 0.05
"""A job that runs for longer is reported as started. Shorter ones end before anybody could care."""

SMOOTHING = 0.2
"""Share of a new duration in a function's estimate."""


class Slots:
    """The policy of one worker. `max_jobs`: a runner is replaced after so many; 0: never."""

    def __init__(self, count: int, max_jobs: int = 0) -> None:
        self.held = HeldJobs()
        self.pool = RunnerPool(count)
        self.lending = Lending(self.pool)
        self._assignment = Assignment(self.held, self.pool, self.lending, max_jobs)
        self._max_jobs = max_jobs

    # --- from the master ---

    def on_jobs(self, jobs: Sequence[Job], now: float) -> list[Action]:
        return returned(self.held.take(jobs, now)) + self._assignment.assign(now)

    def on_recall(self, count: int, now: float) -> list[Action]:
        """Give back unstarted jobs: the last of the backlog first, then what waits behind long jobs."""
        actions: list[Action] = []
        if count > len(self.held.backlog):
            actions += map(_retract_tail, self.pool.stuck_runners(now))
        return [*actions, GiveBack(count)]

    def on_give_back(self, count: int) -> list[Action]:
        """The second half of a recall, when what could be retracted is in the backlog."""
        return [Send(m.Recalled(self.held.give_back(count)))]

    def on_stop(self, dispatches: Iterable[int], now: float) -> list[Action]:
        """Nobody waits for these any more, started or not."""
        gone = self.held.stop(dispatches)
        # Take back everything first: the next job must not be hit by what ends this one.
        actions = self._retract_from(lambda runner: any(job.stopped for job in runner.sent))
        hit = bool(actions)
        actions += returned(gone)
        return actions if hit else actions + self._assignment.assign(now)

    def on_take_back(self, dispatches: Iterable[int], now: float) -> list[Action]:
        """These must not start; those that have, go on."""
        gone = self.held.spare(dispatches)
        retractions = self._retract_from(lambda runner: any(job.spared for job in runner.sent))
        return returned(gone) + (retractions or self._assignment.assign(now))

    def on_drain(self) -> list[Action]:
        """From now on nothing starts here: what has not started is returned, also what still comes. Runners end that
        have nothing to do: threads that jobs have left there get the time that there is."""
        gone = self.held.drain()
        return [
            *returned(gone),
            *self._retract_from(lambda runner: bool(runner.sent)),
            *map(self._end, self.pool.idle_runners()),
        ]

    def on_time_up(self) -> list[Action]:
        """This worker, which drains, ends in a moment: stop what runs, step by step."""
        actions = self._retract_from(lambda runner: bool(runner.sent))  # then it is stopped
        for runner in self.pool.runners.values():
            if not runner.is_ending:
                for job in runner.sent:
                    job.is_cut = True
        return actions

    def on_joined(self) -> list[Action]:
        """A master is there, perhaps another."""
        self.held.begin_anew()
        self._assignment.begin_anew()
        self.lending.begin_anew()
        return self._assignment.report_usable() + self.lending.report()

    def on_depth(self, session: int, depth: int) -> None:
        """How deep a session is that is about to come (see cw.nested)."""
        self.lending.depths[session] = depth

    def on_session_opened(self, session: int) -> None:
        self.held.open_session(session)

    def on_session_forgotten(self, session: int) -> None:
        """It is closed, and no job of it comes any more."""
        self.held.forget_session(session)

    def on_session_closed(self, session: int, now: float) -> list[Action]:
        actions = self.on_stop(self.held.close_session(session), now)
        return actions + [
            self._end(runner) for runner in self.pool.idle_runners() if runner.session == session
        ]

    def on_environment_forgotten(self, session: int, environment: int, now: float) -> list[Action]:
        """No function needs this environment any more: its runners end when they have nothing to do."""
        context = session, environment
        for runner in self.pool.runners.values():
            runner.is_outdated = runner.is_outdated or runner.context == context
        ended: list[Action] = [
            self._end(runner) for runner in self.pool.idle_runners() if runner.context == context
        ]
        return ended + self._assignment.assign(now) if ended else []

    # --- questions ---

    def is_empty(self) -> bool:
        """Is there no job here?"""
        return not self.held.by_dispatch

    def has_runners(self) -> bool:
        """Is there a runner whose process is not gone?"""
        return bool(self.pool.runners)

    def inventories(self) -> list[tuple[Job, bool]]:
        """All jobs that are wanted here, and whether each may have started."""
        running = {runner.sent[0].dispatch for runner in self.pool.runners.values() if runner.sent}
        return [(job, job.dispatch in running) for job in self.held.by_dispatch.values() if not job.stopped]

    def jobs(self, dispatches: Iterable[int]) -> list[Job]:
        """The jobs of these dispatches, which are here."""
        by_dispatch = self.held.by_dispatch
        return [by_dispatch[dispatch] for dispatch in dispatches]

    def depth(self, session: int) -> int:
        """How deep a session is."""
        return self.lending.depth(session)

    # --- from the runners ---

    def on_results(
        self, runner: Runner, dispatches: Sequence[int], seconds: Sequence[float], now: float
    ) -> list[Action]:
        """The runner's first jobs have ended, in the order in which they were sent."""
        sent, by_dispatch = runner.sent, self.held.by_dispatch
        for dispatch, lasted in zip(dispatches, seconds, strict=True):
            job = sent.popleft()
            assert job.dispatch == dispatch, "a runner answers in order"
            estimate = job.function.estimate
            known = estimate.seconds
            estimate.seconds = lasted if known == math.inf else known + (lasted - known) * SMOOTHING
            del by_dispatch[dispatch]
        runner.since = now
        runner.began = 0.0
        runner.slot.rest = 0.0
        runner.ended += len(dispatches)
        if sent:
            if sent[-1].stopped or sent[-1].is_cut:
                return self._stop_if_running(runner)
            return self._assignment.top_up(runner, now)
        if (
            runner.is_stopping
        ):  # what had to end has ended; the process follows by itself, or by the next step
            return [EndRunner(runner), *self._assignment.assign(now)]
        if runner.is_ending:
            return self._assignment.assign(now)
        return self._free(runner, now) + self._assignment.assign(now)

    def on_retracted(self, runner: Runner, count: int, now: float) -> list[Action]:
        """The last `count` of the jobs sent are the worker's again; the runner will not start them."""
        back = [runner.sent.pop() for _ in range(count)]
        actions: list[Action] = []
        if count and not runner.is_dropping:  # one Drop will do: nothing was sent behind it
            runner.is_dropping = True
            actions.append(SendDrop(runner))
        actions += returned(self.held.put_back(back))
        if runner.sent:
            actions += self._stop_if_running(runner)
        elif runner.slot.busy is runner and not runner.is_ending:
            actions += self._free(runner, now)
        return actions + self._assignment.assign(now)

    def on_dropped(self, runner: Runner, now: float) -> list[Action]:
        """The runner has read the Drop: it may be sent jobs again."""
        runner.is_dropping = False
        return self._assignment.assign(now)

    def on_tokens_seen(self, runner: Runner, count: int, now: float) -> None:
        """So many of the jobs sent to it have not started."""
        if count < len(runner.sent) and not runner.began:
            runner.began = now

    def on_waits(self, runner: Runner, dispatch: int, now: float) -> list[Action]:
        """The runner's job waits for jobs of its own."""
        if runner.is_ending or not runner.sent or runner.sent[0].dispatch != dispatch:
            return []
        actions = self.lending.lend(runner)
        return [] if actions is None else actions + self._assignment.assign(now)

    def on_wait_over(self, runner: Runner, serial: int, is_patient: bool, now: float) -> list[Action]:
        """It has what it waited for, and waits for its turn (`is_patient`); or it goes on at once."""
        if not self.lending.is_lender(runner):
            return [Resume(runner, serial)] if is_patient else []
        was_coming = self.lending.is_coming(runner)
        actions = self.lending.come_back(runner, serial if is_patient else 0)
        return actions if was_coming else actions + self._assignment.assign(now)

    def on_runner_gone(self, runner: Runner) -> None:
        """Its process is gone; its last results are yet to be reported, then `on_runner_exited`."""
        self.pool.retire(runner)
        runner.is_stopping = False

    def on_runner_exited(
        self, runner: Runner, unstarted: int, note: dict[str, Any], now: float, was_told_to: bool = False
    ) -> list[Action]:
        """Its process is gone, its last results are reported, and `unstarted` tokens were left.

        `was_told_to`: it ended in a way in which processes are told to.
        """
        sent = runner.sent
        had_work = bool(sent)
        back = [sent.pop() for _ in range(min(unstarted, len(sent)))]
        actions = [
            self._end_of(job, note, was_told_to and self.held.is_draining) for job in sent if not job.stopped
        ]
        is_unfit = had_work and not sent and not runner.ended  # (one that has worked is replaced at once)
        if is_unfit and not any(job.stopped or job.spared for job in back):
            self.pool.rest(runner.slot, now)
        self.held.forget([job.dispatch for job in sent])
        actions += returned([job.dispatch for job in sent if job.stopped])
        actions += returned(self.held.put_back(back))
        self.pool.remove(runner)
        actions += self.lending.vacate(runner)
        if self.pool.resting:
            actions += self._assignment.report_usable()
        return actions + self._assignment.assign(now)

    # --- time ---

    def wants_tick(self) -> bool:
        pool = self.pool
        return len(pool.idle) < len(pool.slots) or bool(self.held.backlog) or bool(pool.resting)

    def on_tick(self, now: float) -> list[Action]:
        """Called every some 10 ms while `wants_tick`."""
        actions, expired, started = self._look_at_jobs(now)
        if started:
            actions.append(Send(m.Started(started)))
        self.held.allow_all_slots(now)
        if self.pool.resting:
            self.pool.end_rests(now)
            actions += self._assignment.report_usable()
        if self.held.backlog:
            actions += self._assignment.assign(now)
        actions += expired  # last: what they give back may go to a runner that is started just now
        return actions + self._retract_for_free_slots(now)

    def on_second(self, now: float) -> list[Action]:
        """Called every second: runners that nobody has used for long are ended."""
        actions: list[Action] = []
        for runner in self.pool.idle_runners():
            if runner.is_unused(now):
                actions.append(self._end(runner))
        for session in self.held.forget_sessions_without({r.session for r in self.pool.runners.values()}):
            self.lending.depths.pop(session, None)
        return actions

    def _look_at_jobs(self, now: float) -> tuple[list[Action], list[Action], list[int]]:
        """What runs: actions about time limits, those for jobs whose limit is reached, and the dispatches of jobs that
        are reported as started."""
        actions: list[Action] = []
        expired: list[Action] = []
        started: list[int] = []
        busy = [slot.busy for slot in self.pool.slots if slot.busy is not None]
        for runner in [*busy, *self.lending.lenders()]:
            if not runner.sent:
                continue
            job = runner.sent[0]
            if not job.told and now - runner.since > TOLD_SECONDS:
                job.told = True
                started.append(job.dispatch)
            if job.timeout and not job.expired and not runner.is_ending:
                if not runner.began:
                    actions.append(LookAtTokens(runner))
                elif now - runner.began >= job.timeout:
                    job.expired = True
                    expired.append(Retract(runner, AHEAD_JOBS))  # then it is stopped
        return actions, expired, started

    def _retract_for_free_slots(self, now: float) -> list[Action]:
        """A slot that could start something is free: take back what waits behind long jobs."""
        pool, lending = self.pool, self.lending
        actions: list[Action] = []
        if any(slot.rests_until <= now for slot in pool.idle.values()):
            actions += map(_retract_tail, pool.stuck_runners(now))
        floors = [lending.floor(slot) for slot in lending.lent.values() if slot.rests_until <= now]
        if floors and lending.depths:
            deep = (r for r in pool.stuck_runners(now) if lending.depth(r.session) > min(floors))
            actions += map(_retract_tail, deep)
        return actions

    # --- inside ---

    def _retract_from(self, is_hit: Callable[[Runner], bool]) -> list[Action]:
        """Take back all that these runners have not started."""
        return [
            Retract(runner, AHEAD_JOBS)
            for runner in self.pool.runners.values()
            if not runner.is_ending and is_hit(runner)
        ]

    def _stop_if_running(self, runner: Runner) -> list[Action]:
        """End the runner if what it runs must end. All behind that has been taken back; where there is
        something before it, that has ended and its result is on its way: then it is seen to when it is here."""
        sent = runner.sent
        if runner.is_ending or len(sent) != 1 or not sent[0].must_end:
            return []
        self.pool.retire(runner)
        runner.is_stopping = True
        actions: list[Action] = [StopRunner(runner)]
        if self.lending.is_lender(runner) and not self.lending.is_coming(runner):
            # It may clean up, and does not wait for its turn.
            actions += self.lending.come_back(runner, 0)
        return actions

    def _free(self, runner: Runner, now: float) -> list[Action]:
        """The runner has nothing to do: its slot is idle."""
        if self._max_jobs and runner.ended >= self._max_jobs:
            return [self._end(runner)]  # and the slot is free when its process is gone
        runner.idle_since = now
        actions = self.lending.vacate(runner)
        if runner.is_outdated or runner.session in self.held.closed or self.held.is_draining:
            actions.append(self._end(runner))
        return actions

    def _end(self, runner: Runner) -> Action:
        self.pool.retire(runner)
        return EndRunner(runner)

    def _end_of(self, job: Job, note: dict[str, Any], is_cut: bool) -> Action:
        """What the master is told of a job that had started when its runner ended."""
        if job.expired:
            return TellExpired(job, note)
        return Send(m.CutShort([job.dispatch])) if job.is_cut or is_cut else TellDied(job, note)

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself. For tests."""
        self.pool.check_invariants()
        self.held.check_invariants([job for runner in self.pool.runners.values() for job in runner.sent])
        self.lending.check_invariants()


def _retract_tail(runner: Runner) -> Action:
    """Take back all behind the job that runs."""
    return Retract(runner, len(runner.sent) - 1)
