"""The policy of a worker: which runner gets which job. Facts in, actions out, no I/O, time as an argument.

      on_jobs              SendJobs               (token taken)          on_results
     ---------> BACKLOG ------------> SENT AHEAD ---------------> RUNNING ---------> forgotten
                 ^  |                     |                          |
                 |  | Recalled,           | Retract, on_retracted    | on_runner_exited: ReportDied;
                 |  | Returned            |                          | where it was stopped Returned, at its
                 '--+---------------------'                          | time limit ReportExpired, cut short
                                                                     | as the worker ends CutShort

The worker reports facts to the on_*() methods and carries out the actions that they return. The state is in modules
of its own: the jobs (cw.worker.policy.jobs), the slots and runners (cw.worker.policy.pool), the slots that waiting
jobs have lent (cw.worker.policy.lending); cw.worker.policy.assignment decides which job goes where, within what is
free of the worker (cw.worker.policy.allocation).

One slot runs one job at a time, in the runner of the job's *context* on that slot: its session, the number of the
environment that its function needs, the number of CPUs that it names, and its devices. (A client that asks for fresh
runners names a new environment.) It may also hold runners whose jobs wait for nested jobs. The jobs after the current
one are sent ahead, as many as the runner needs for AHEAD_SECONDS, if they need the same. The kernel decides who owns
a job that was sent ahead: for each job a token is put in an eventfd. The runner takes it to start the job; the worker
(`Retract`) takes it to own the last of those sent. So a runner stuck in a long job, or in C code that lets no line
of Python run, loses its tail to an idle slot. Tokens also show when a job has started, which is when its time limit
begins.

A job that must end ends with its runner (StopRunner): first all jobs behind it are taken back. A runner
that was signalled is never used again; its slot is free when its process is gone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from cw.net import messages as m
from cw.requirements import WorkerCapacity
from cw.worker.policy.actions import (
    Action,
    EndRunner,
    GiveBack,
    LookAtTokens,
    ReportDied,
    ReportExpired,
    Resume,
    Retract,
    Send,
    SendDrop,
    StopRunner,
    returned,
)
from cw.worker.policy.allocation import Allocation
from cw.worker.policy.assignment import Assignment
from cw.worker.policy.jobs import HeldJobs, WorkerJob
from cw.worker.policy.lending import Lending
from cw.worker.policy.pins import Choose, Pins
from cw.worker.policy.pool import AHEAD_JOBS, STUCK_SECONDS, PooledRunner, RunnerPool

REPORT_SECONDS = 0.05
"""Running time after which a job is reported as started (seconds). Shorter jobs end before the report matters."""

SMOOTHING = 0.2
"""Share of a new duration in a function's estimate."""


class Slots:
    """The policy of one worker. `max_jobs`: jobs after which a runner is replaced; 0: never."""

    def __init__(self, capacity: WorkerCapacity, max_jobs: int = 0) -> None:
        self.held = HeldJobs()
        self.pool = RunnerPool(capacity.slots)
        self._allocation = Allocation(capacity, self.pool)
        self.lending = Lending(self.pool, self._allocation)
        self._assignment = Assignment(self.held, self.pool, self.lending, self._allocation, max_jobs)
        self._max_jobs = max_jobs

    def pin_runners(self, cpus: Collection[int], choose: Choose) -> None:
        """Let each runner run on CPUs of its own from now on."""
        self._allocation.pins = Pins(self.pool, self._allocation.lenders, cpus, choose)

    # --- from the master ---

    def on_jobs(self, jobs: Sequence[WorkerJob], now: float) -> list[Action]:
        return returned(self.held.take(jobs, now)) + self._assignment.assign(now)

    def on_values(self, now: float) -> list[Action]:
        """Shared values are here for which jobs waited."""
        return self._assignment.assign(now)

    def on_avoid(self, dispatches: Sequence[int], slots: Sequence[int]) -> None:
        """Note the slots on which runners of jobs died that come next."""
        self.held.exclude_slots(dispatches, slots)

    def on_recall(self, count: int, now: float) -> list[Action]:
        """Give back unstarted jobs: the last of the backlog first, then those behind long jobs."""
        actions: list[Action] = []
        if count > len(self.held.backlog):
            actions += map(_retract_tail, self.pool.stuck_runners(now))
        return [*actions, GiveBack(count)]

    def on_give_back(self, count: int) -> list[Action]:
        """Finish a recall, with the retracted jobs back in the backlog."""
        return [Send(m.Recalled(self.held.give_back(count)))]

    def on_stop(self, dispatches: Iterable[int], now: float) -> list[Action]:
        """End jobs whose results are not wanted any more, started or not."""
        gone = self.held.stop(dispatches)
        # First take back all: the next job must not be hit by what ends this one.
        retractions = self._retract_from(lambda runner: any(job.stopped for job in runner.sent))
        return self._then_assign([*retractions, *returned(gone)], now)

    def on_take_back(self, dispatches: Iterable[int], now: float) -> list[Action]:
        """Withdraw jobs that have not started; those that have, go on."""
        gone = self.held.withdraw(dispatches)
        retractions = self._retract_from(lambda runner: any(job.withdrawn for job in runner.sent))
        return self._then_assign([*returned(gone), *retractions], now)

    def on_drain(self) -> list[Action]:
        """Start nothing from now on: return jobs that have not started, and those that still come. End the runners
        without work: threads that jobs left there get the remaining time."""
        gone = self.held.drain()
        return [
            *returned(gone),
            *self._retract_from(lambda runner: bool(runner.sent)),
            *map(self._end, self.pool.idle_runners()),
        ]

    def on_time_up(self) -> list[Action]:
        """Stop running jobs step by step, as this draining worker ends in a moment."""
        actions = self._retract_from(lambda runner: bool(runner.sent))  # then it is stopped
        for runner in self.pool.runners.values():
            if not runner.is_ending:
                for job in runner.sent:
                    job.is_cut = True
        return actions

    def on_joined(self) -> list[Action]:
        """Start over with a master that was just joined, perhaps another one."""
        self.held.begin_anew()
        self._assignment.begin_anew()
        self.lending.begin_anew()
        return self._assignment.report_capacity() + self.lending.report()

    def on_depth(self, session: int, depth: int) -> None:
        """Note the depth of a session that is about to come (see cw.nested)."""
        self.lending.depths[session] = depth

    def on_session_opened(self, session: int) -> None:
        self.held.open_session(session)

    def on_session_closed(self, session: int, now: float) -> list[Action]:
        actions = self.on_stop(self.held.close_session(session), now)
        return actions + [
            self._end(runner) for runner in self.pool.idle_runners() if runner.session == session
        ]

    def on_environment_forgotten(self, session: int, environment: int, now: float) -> list[Action]:
        """End the runners of an environment that no function needs any more, when they have no work."""
        runs_in = session, environment
        for runner in self.pool.runners.values():
            runner.is_outdated = runner.is_outdated or runner.context[:2] == runs_in
        ended: list[Action] = [
            self._end(runner) for runner in self.pool.idle_runners() if runner.context[:2] == runs_in
        ]
        return ended + self._assignment.assign(now) if ended else []

    # --- questions ---

    def is_empty(self) -> bool:
        """True if no job is here."""
        return not self.held.by_dispatch

    def has_runners(self) -> bool:
        """True if the process of any runner is not gone."""
        return bool(self.pool.runners)

    def inventories(self) -> list[tuple[WorkerJob, bool]]:
        """List all jobs that are wanted here, each with whether it may have started."""
        running = {runner.sent[0].dispatch for runner in self.pool.runners.values() if runner.sent}
        return [(job, job.dispatch in running) for job in self.held.by_dispatch.values() if not job.stopped]

    def jobs(self, dispatches: Iterable[int]) -> list[WorkerJob]:
        """List the jobs of these dispatches, which must be here."""
        by_dispatch = self.held.by_dispatch
        return [by_dispatch[dispatch] for dispatch in dispatches]

    def depth(self, session: int) -> int:
        """Return the depth of a session."""
        return self.lending.depth(session)

    # --- from the runners ---

    def on_results(
        self, runner: PooledRunner, dispatches: Sequence[int], seconds: Sequence[float], now: float
    ) -> list[Action]:
        """Handle the end of the runner's first jobs, in the order in which they were sent."""
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
        runner.slot.backoff = 0.0
        runner.ended += len(dispatches)
        if sent:
            if sent[-1].stopped or sent[-1].is_cut:
                return self._stop_if_running(runner)
            if self.held.is_shaped:  # what waits behind the jobs that are sent ahead now may fit elsewhere
                return self._assignment.assign(now)
            return self._assignment.top_up(runner, now)
        if runner.is_stopping:  # what had to end has ended; the process ends by itself, or by the next step
            return [EndRunner(runner), *self._assignment.assign(now)]
        if runner.is_ending:
            return self._assignment.assign(now)
        return self._free(runner, now) + self._assignment.assign(now)

    def on_retracted(self, runner: PooledRunner, count: int, now: float) -> list[Action]:
        """Put the last `count` of the jobs sent back in the backlog: the runner will not start them."""
        back = [runner.sent.pop() for _ in range(count)]
        actions: list[Action] = []
        if count and not runner.is_dropping:  # one Drop is enough: nothing was sent behind it
            runner.is_dropping = True
            actions.append(SendDrop(runner))
        actions += returned(self.held.put_back(back))
        if runner.sent:
            actions += self._stop_if_running(runner)
        elif runner.slot.busy is runner and not runner.is_ending:
            actions += self._free(runner, now)
        return self._then_assign(actions, now)

    def on_dropped(self, runner: PooledRunner, now: float) -> list[Action]:
        """Note that the runner has read the Drop, so that it may be sent jobs again."""
        runner.is_dropping = False
        return self._assignment.assign(now)

    def on_tokens_seen(self, runner: PooledRunner, count: int, now: float) -> None:
        """Note that `count` of the jobs sent to the runner have not started."""
        if count < len(runner.sent) and not runner.began:
            runner.began = now

    def on_waits(self, runner: PooledRunner, dispatch: int, now: float) -> list[Action]:
        """Lend the slot of a runner whose job waits for nested jobs."""
        if runner.is_ending or not runner.sent or runner.sent[0].dispatch != dispatch:
            return []
        actions = self.lending.lend(runner)
        return [] if actions is None else self._then_assign(actions, now)

    def on_wait_over(self, runner: PooledRunner, serial: int, is_patient: bool, now: float) -> list[Action]:
        """Handle the end of a wait: the job waits for its turn (`is_patient`), or goes on at once."""
        if not self.lending.is_lender(runner):
            return [Resume(runner, serial)] if is_patient else []
        was_coming = self.lending.is_coming(runner)
        actions = self.lending.come_back(runner, serial if is_patient else 0)
        return actions if was_coming else self._then_assign(actions, now)

    def on_runner_gone(self, runner: PooledRunner) -> None:
        """Note that the runner's process is gone; its last results follow, then `on_runner_exited`."""
        self.pool.retire(runner)
        runner.is_stopping = False

    def on_runner_exited(
        self,
        runner: PooledRunner,
        unstarted: int,
        note: dict[str, Any],
        now: float,
        was_ordered: bool = False,
    ) -> list[Action]:
        """Handle the end of a runner whose last results are reported; `unstarted` tokens were left.

        `was_ordered`: it ended as processes do that are asked to end.
        """
        sent = runner.sent
        had_work = bool(sent)
        back = [sent.pop() for _ in range(min(unstarted, len(sent)))]
        actions = [
            self._end_of(job, note, was_ordered and self.held.is_draining) for job in sent if not job.stopped
        ]
        is_unfit = had_work and not sent and not runner.ended  # a runner that has worked is replaced at once
        if is_unfit and not any(job.stopped or job.withdrawn for job in back):
            self.pool.back_off(runner.slot, now)
        self.held.forget([job.dispatch for job in sent])
        actions += returned([job.dispatch for job in sent if job.stopped])
        actions += returned(self.held.put_back(back))
        self.pool.remove(runner)
        actions += self.lending.vacate(runner)
        if self.pool.backing_off:
            actions += self._assignment.report_capacity()
        return actions + self._assignment.assign(now)

    # --- time ---

    def wants_tick(self) -> bool:
        """True if `on_tick` may have something to do, now or later. Cheaper than `next_tick`."""
        pool = self.pool
        return len(pool.idle) < len(pool.slots) or bool(self.held.backlog) or bool(pool.backing_off)

    def next_tick(self, now: float) -> float:
        """Time before which `on_tick` has nothing to do, if nothing else happens; infinity: it never has."""
        due = [slot.backoff_until for slot in self.pool.backing_off]
        due.append(self.held.all_slots_allowed_at())
        for runner in self._at_work():
            job, timeout = runner.sent[0], runner.sent[0].options.timeout
            if not job.reported:
                due.append(runner.since + REPORT_SECONDS)
            if timeout is not None and not job.expired and not runner.is_ending:
                due.append(runner.began + timeout if runner.began else now)
        due += [action.runner.since + STUCK_SECONDS for action in self._retract_for_free_slots(math.inf)]
        return min(due)

    def on_tick(self, now: float) -> list[Action]:
        """Do what is due; called at `next_tick`, but at most about every 20 ms."""
        actions, expired, started = self._look_at_jobs(now)
        if started:
            actions.append(Send(m.Started(started)))
        self.held.allow_all_slots(now)
        if self.pool.backing_off:
            self.pool.end_backoff(now)
            actions += self._assignment.report_capacity()
        if self.held.backlog:
            actions += self._assignment.assign(now)
        actions += expired  # last: jobs that they give back may go to a runner that was just started
        return actions + self._retract_for_free_slots(now)

    def on_second(self, now: float) -> list[Action]:
        """End runners that have been unused for long; called every second."""
        actions: list[Action] = []
        self.held.forget_shapes(slot.busy.needs for slot in self.pool.slots if slot.busy is not None)
        for runner in self.pool.idle_runners():
            if runner.is_unused(now):
                actions.append(self._end(runner))
        for session in self.held.forget_sessions_without({r.session for r in self.pool.runners.values()}):
            self.lending.depths.pop(session, None)
        return actions + self._assignment.assign(now) if actions else []

    def _look_at_jobs(self, now: float) -> tuple[list[Action], list[Action], list[int]]:
        """Check running jobs: return actions about time limits, actions for jobs whose limit is reached, and dispatches
        of jobs to report as started."""
        actions: list[Action] = []
        expired: list[Action] = []
        started: list[int] = []
        for runner in self._at_work():
            job = runner.sent[0]
            if not job.reported and now - runner.since > REPORT_SECONDS:
                job.reported = True
                started.append(job.dispatch)
            timeout = job.options.timeout
            if timeout is not None and not job.expired and not runner.is_ending:
                if not runner.began:
                    actions.append(LookAtTokens(runner))
                elif now - runner.began >= timeout:
                    job.expired = True
                    expired.append(Retract(runner, AHEAD_JOBS))  # then it is stopped
        return actions, expired, started

    def _at_work(self) -> list[PooledRunner]:
        """List the runners with a job, also those whose job waits for nested ones."""
        busy = [slot.busy for slot in self.pool.slots if slot.busy is not None]
        return [runner for runner in (*busy, *self.lending.lenders()) if runner.sent]

    def _retract_for_free_slots(self, now: float) -> list[Retract]:
        """Take back jobs behind long ones, as there is a free slot that could start some."""
        pool, lending = self.pool, self.lending
        actions: list[Retract] = []
        if any(slot.backoff_until <= now for slot in pool.idle.values()):
            actions += map(_retract_tail, pool.stuck_runners(now))
        floors = [lending.floor(slot) for slot in lending.lent.values() if slot.backoff_until <= now]
        if floors and lending.depths:
            deep = (r for r in pool.stuck_runners(now) if lending.depth(r.session) > min(floors))
            actions += map(_retract_tail, deep)
        return actions

    # --- inside ---

    def _then_assign(self, actions: list[Action], now: float) -> list[Action]:
        """Add what is assigned now, unless there is a retraction: `on_retracted` assigns, too, and its actions are
        carried out first. Otherwise jobs would reach a runner in another order than that of `sent`."""
        if any(type(action) is Retract for action in actions):
            return actions
        return actions + self._assignment.assign(now)

    def _retract_from(self, is_hit: Callable[[PooledRunner], bool]) -> list[Action]:
        """Take back all that these runners have not started."""
        return [
            Retract(runner, AHEAD_JOBS)
            for runner in self.pool.runners.values()
            if not runner.is_ending and is_hit(runner)
        ]

    def _stop_if_running(self, runner: PooledRunner) -> list[Action]:
        """End the runner if its running job must end. All jobs behind it have been taken back. If a job before it has
        ended and its result is on the way, this is called again when the result is here."""
        sent = runner.sent
        if runner.is_ending or len(sent) != 1 or not sent[0].must_end:
            return []
        self.pool.retire(runner)
        runner.is_stopping = True
        actions: list[Action] = [StopRunner(runner)]
        if self.lending.is_lender(runner) and not self.lending.is_coming(runner):
            # The job may clean up without waiting for its turn.
            actions += self.lending.come_back(runner, 0)
        return actions

    def _free(self, runner: PooledRunner, now: float) -> list[Action]:
        """Make the slot of a runner without work idle."""
        if self._max_jobs and runner.ended >= self._max_jobs:
            return [self._end(runner)]  # the slot is free when the process is gone
        runner.idle_since = now
        actions = self.lending.vacate(runner)
        if runner.is_outdated or runner.session in self.held.closed or self.held.is_draining:
            actions.append(self._end(runner))
        return actions

    def _end(self, runner: PooledRunner) -> Action:
        self.pool.retire(runner)
        return EndRunner(runner)

    def _end_of(self, job: WorkerJob, note: dict[str, Any], is_cut: bool) -> Action:
        """Report to the master the fate of a job that had started when its runner ended."""
        if job.expired:
            return ReportExpired(job, note)
        return Send(m.CutShort([job.dispatch])) if job.is_cut or is_cut else ReportDied(job, note)

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself. For tests."""
        self.pool.check_invariants()
        self.held.check_invariants([job for runner in self.pool.runners.values() for job in runner.sent])
        self.lending.check_invariants()
        self._allocation.check_invariants()


def _retract_tail(runner: PooledRunner) -> Retract:
    """Take back all jobs behind the running one."""
    return Retract(runner, len(runner.sent) - 1)
