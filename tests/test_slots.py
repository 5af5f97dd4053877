"""A worker's policy: named facts, then random events against a model of the runners, their tokens and their deaths."""

import math
from collections import deque
from random import Random

import pytest
from asked import asked
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from cw.net.messages import ENVIRONMENT
from cw.net.objects import Object as Function
from cw.requirements import WorkerCapacity
from cw.worker.policy import assignment
from cw.worker.policy.actions import LookAtTokens, SendJobs, StartRunner
from cw.worker.policy.assignment import AHEAD_SECONDS
from cw.worker.policy.jobs import EXCLUDED_SECONDS, WorkerJob
from cw.worker.policy.pool import (
    AHEAD_JOBS,
    CROWD,
    CROWD_SECONDS,
    IDLE_RUNNERS,
    IDLE_SECONDS,
    RESTART_SECONDS,
    STUCK_SECONDS,
)
from cw.worker.policy.slots import REPORT_SECONDS, Slots

NOTE = {"how": "killed by SIGSEGV"}
TICK = 0.02


class ModelRunner:
    """What a runner does: it takes a token before each job, and skips to the Drop where there is none."""

    def __init__(self, runner):
        self.runner = runner
        self.stream = deque()  # jobs, and None for a Drop
        self.tokens = 0
        self.pipe = deque()  # (job, seconds), and None for Dropped
        self.current = None
        self.is_up = False
        self.is_skipping = False
        self.is_closed = False  # the end of its stream will be read
        self.is_killed = False  # the signal is on its way
        self.is_dead = False

    def step(self, on_start, seconds=1e-4):
        """One thing that the process does by itself. Whether there was any."""
        if self.is_dead:
            return False
        if not self.is_up:
            self.is_up = True
        elif self.current is not None:
            self.pipe.append((self.current, seconds))
            self.current = None
        elif self.stream:
            job = self.stream.popleft()
            if job is None:
                self.is_skipping = False
                self.pipe.append(None)
            elif not self.is_skipping:
                if self.tokens:
                    self.tokens -= 1
                    self.current = job
                    on_start(self, job)
                else:
                    self.is_skipping = True
        elif self.is_closed:
            self.is_dead = True
        else:
            return False
        return True


class Bench:
    """A worker around the policy, with model runners, and a clock that stands still."""

    def __init__(self, count, max_jobs=0, capacity=None):
        self.slots = Slots(capacity or WorkerCapacity(count), max_jobs)
        self.max_jobs = max_jobs
        self.now = 100.0
        self.dispatches = 0
        self.models = {}  # by the runner's key, while its channel is open
        self.ended = {}  # by dispatch: how
        self.jobs = {}  # by dispatch
        self.starts = {}  # by dispatch: how often
        self.told = []
        self.recalled = []
        self.functions = {}
        self.closed = set()
        self.given = set()  # dispatches that arrived
        self.avoided = {}  # slots where a runner died before, by dispatch
        self.usable = count, set()  # slots, sessions for which there is none

    # --- what a worker carries out ---

    def perform(self, actions):
        todo = deque(actions)
        while todo:
            action = todo.popleft()
            more = getattr(self, "_" + type(action).__name__)(action)
            # What a retraction gives is carried out first: jobs must not be on their way to a runner behind it.
            assert not more or not any(type(later) is SendJobs for later in todo)
            todo.extendleft(reversed(more or []))
        self.slots.check_invariants()

    def _Send(self, action):
        getattr(self, "_" + type(action.message).__name__)(action.message)

    def _StartRunner(self, action):
        self.check_slot_is_free(action.runner)
        self.models[action.runner.key] = ModelRunner(action.runner)

    def _PinRunner(self, action):
        pass

    def _SendJobs(self, action):
        model = self.models[action.runner.key]
        self.check_slot_is_free(action.runner)
        assert action.jobs and not model.is_closed and not model.is_killed and not self.slots.held.is_draining
        assert not self.max_jobs or model.runner.ended + len(model.runner.sent) <= self.max_jobs
        assert None not in model.stream, "nothing is sent behind a Drop that was not read"
        assert None not in model.pipe, "nor before that is known"
        assert all(job.context == action.runner.serves for job in action.jobs)
        model.tokens += len(action.jobs)
        model.stream.extend(action.jobs)

    def _Retract(self, action):
        model = self.models[action.runner.key]
        taken = min(model.tokens, action.limit)
        model.tokens -= taken
        return self.slots.on_retracted(action.runner, taken, self.now)

    def _SendDrop(self, action):
        self.models[action.runner.key].stream.append(None)

    def _EndRunner(self, action):
        model = self.models[action.runner.key]
        assert model.current is None and not model.tokens
        model.is_closed = True

    def _StopRunner(self, action):
        model = self.models[action.runner.key]
        assert not model.tokens, "all behind what runs was taken back"
        assert model.current is None or model.current.must_end, "the innocent are not hit"
        model.is_killed = True

    def _LookAtTokens(self, action):
        self.slots.on_tokens_seen(action.runner, self.models[action.runner.key].tokens, self.now)

    def _ReportExpired(self, action):
        job = action.job
        assert not job.stopped and job.options.timeout
        assert self.starts[job.dispatch] == 1
        self.end(job.dispatch, "expired")

    def _CutShort(self, message):
        for dispatch in message.dispatches:
            assert self.starts[dispatch] == 1 and self.slots.held.is_draining
            assert not self.jobs[dispatch].stopped
            self.end(dispatch, "cut short")

    def _GiveBack(self, action):
        return self.slots.on_give_back(action.limit)

    def _Returned(self, message):
        for dispatch in message.dispatches:
            self.end(dispatch, "returned")

    def _Recalled(self, message):
        self.recalled.append(message.dispatches)
        for dispatch in message.dispatches:
            assert not self.starts.get(dispatch)
            self.end(dispatch, "recalled")

    def _ReportCapacity(self, action):
        assert 0 <= action.slots <= len(self.slots.pool.slots)
        assert (action.slots, set(action.blocked_sessions)) != self.usable, "nothing new"
        self.usable = action.slots, set(action.blocked_sessions)

    def _Started(self, message):
        self.told += message.numbers

    def _ReportDied(self, action):
        assert not action.job.stopped
        assert self.starts[action.job.dispatch] == 1, "what never started is not charged"
        self.end(action.job.dispatch, "died")

    def end(self, dispatch, how):
        assert dispatch not in self.ended, f"{how}, and was {self.ended[dispatch]}"
        self.ended[dispatch] = how

    # --- what is checked of it ---

    def on_start(self, model, job):
        assert job.dispatch not in self.ended, "given back, and run all the same"
        assert not job.stopped, "stopped, and started after that"
        self.starts[job.dispatch] = self.starts.get(job.dispatch, 0) + 1
        assert self.starts[job.dispatch] == 1, "run twice"
        self.check_slot_is_free(model.runner)

    def check_slot_is_free(self, runner):
        for other in self.models.values():
            if other.runner is not runner and other.runner.slot is runner.slot:
                assert other.current is None and not other.is_killed

    # --- events ---

    def function(self, name, seconds=None, environment=0):
        if name not in self.functions:
            needs = [Function(environment, b"", ENVIRONMENT)] if environment else []
            self.functions[name] = Function(1, b"", needs=needs)
            if seconds is not None:
                self.functions[name].estimate.seconds = seconds
        return self.functions[name]

    def make(self, how_many=1, session=1, function=None, avoid=0, size=10, **options):
        """The next jobs; they have not arrived yet."""
        new = []
        given = {name: value for name, value in options.items() if value}
        for _ in range(how_many):
            self.dispatches += 1
            f = function or self.function("f")
            job = WorkerJob(self.dispatches, session, self.dispatches, f, asked(**given), 1, bytes(size))
            if avoid:
                self.avoided[job.dispatch] = avoid - 1
            new.append(job)
            self.jobs[job.dispatch] = job
        return new

    def arrive(self, jobs):
        self.given.update(job.dispatch for job in jobs)
        if avoiding := [job.dispatch for job in jobs if job.dispatch in self.avoided]:
            self.slots.on_avoid(avoiding, [self.avoided[dispatch] for dispatch in avoiding])
        self.perform(self.slots.on_jobs(jobs, self.now))

    def give(self, how_many=1, session=1, **more):
        new = self.make(how_many, session, **more)
        self.arrive(new)
        return new

    def stop(self, *dispatches):
        self.perform(self.slots.on_stop(dispatches, self.now))

    def close(self, session):
        self.closed.add(session)
        self.perform(self.slots.on_session_closed(session, self.now))

    def recall(self, count):
        self.perform(self.slots.on_recall(count, self.now))
        return self.recalled[-1]

    def read(self, model):
        """The worker reads a runner's pipe."""
        runner, results, dropped = model.runner, [], False
        while model.pipe:
            one = model.pipe.popleft()
            if one is None:
                dropped = True
            else:
                results.append(one)
        if results:
            for job, _ in results:
                self.end(job.dispatch, "result")
            dispatches = [job.dispatch for job, _ in results]
            self.perform(self.slots.on_results(runner, dispatches, [s for _, s in results], self.now))
        if dropped:
            self.perform(self.slots.on_dropped(runner, self.now))

    def drain(self):
        self.perform(self.slots.on_drain())

    def exit(self, model, was_ordered=False):
        """The worker learns that the process is gone."""
        assert model.is_dead
        del self.models[model.runner.key]
        self.slots.on_runner_gone(model.runner)
        self.read(model)
        unstarted = min(model.tokens, len(model.runner.sent))
        self.perform(self.slots.on_runner_exited(model.runner, unstarted, NOTE, self.now, was_ordered))

    def die(self, model):
        model.is_dead = True

    def tick(self, seconds=TICK):
        self.now += seconds
        actions = self.slots.on_tick(self.now)
        if not actions:  # then nothing is due before the time that it names, unless something happens
            due = self.slots.next_tick(self.now) if self.slots.wants_tick() else math.inf
            if due > self.now + 0.001:  # (more than rounding)
                before = self.now + 0.99 * min(due - self.now, 100.0)
                assert self.slots.on_tick(before) == [], "nobody would have looked"
        self.perform(actions)

    def model_of(self, job):
        """The runner to which the job was sent."""
        return next(m for m in self.models.values() if job in m.runner.sent)

    def run_until(self, job):
        """Let its runner start the job."""
        model = self.model_of(job)
        while model.current is not job:
            assert model.step(self.on_start)
        return model

    def settle(self, steps=3000, hanging=()):
        """All runners go on until nothing more happens; jobs in `hanging` never end."""
        quiet = 0
        for _ in range(steps):
            busy = False
            for model in list(self.models.values()):
                if model.is_killed:
                    model.is_dead = True
                while model.current not in hanging and model.step(self.on_start):
                    busy = True
                self.read(model)
                if model.is_dead:
                    self.exit(model)
                    busy = True
            quiet = 0 if busy else quiet + 1
            if quiet > EXCLUDED_SECONDS / TICK + 5:
                return
            self.tick()
        raise AssertionError("it never settles")


# --- a job and its runner ---------------------------------------------------------------------


def test_a_job_gets_a_runner_of_its_session_and_the_next_one_the_same():
    bench = Bench(1)
    (job,) = bench.make()
    start, send = bench.slots.on_jobs([job], bench.now)
    assert (type(start), start.runner.session, start.runner.slot.index) == (StartRunner, 1, 0)
    assert send == SendJobs(start.runner, [job])
    assert bench.slots.on_results(start.runner, [job.dispatch], [0.1], bench.now) == []
    (again,) = bench.make()
    assert bench.slots.on_jobs([again], bench.now) == [SendJobs(start.runner, [again])]


def test_each_session_has_a_runner_of_its_own_and_the_least_used_make_room():
    bench = Bench(1)
    for session in range(CROWD + 2):
        bench.give(session=session)
        bench.settle()
    assert sorted(m.runner.session for m in bench.models.values()) == [*range(2, CROWD + 2)]


def test_the_runners_of_a_crowd_of_sessions_end_soon_after_it():
    bench = Bench(1)
    for _ in range(3):
        for session in range(IDLE_RUNNERS + 2):
            bench.give(session=session)
            bench.settle()
    assert len(bench.models) == IDLE_RUNNERS + 2
    oldest = min(model.runner.idle_since for model in bench.models.values())
    assert bench.slots.on_second(oldest + CROWD_SECONDS - 0.1) == []
    ended = bench.slots.on_second(bench.now + CROWD_SECONDS + 1)
    assert [action.runner.session for action in ended] == [0, 1]


def test_a_slot_with_a_runner_of_the_session_is_taken_before_one_without():
    bench = Bench(3)
    bench.give(3, session=1)
    bench.settle()
    bench.give(2, session=2)
    bench.settle()
    bench.give(3, session=1)
    assert len(bench.models) == 5
    bench.settle()


def test_two_jobs_never_run_on_one_slot_and_all_slots_are_used():
    bench = Bench(3)
    bench.give(10)
    assert sorted(m.runner.slot.index for m in bench.models.values()) == [0, 1, 2]
    bench.settle()
    assert set(bench.ended.values()) == {"result"} and len(bench.ended) == 10


def test_a_runner_that_nobody_used_for_long_is_ended():
    bench = Bench(2)
    bench.give(2)
    bench.settle()
    bench.now += IDLE_SECONDS - 1
    bench.give(1)
    bench.settle()
    bench.now += 2
    bench.perform(bench.slots.on_second(bench.now))
    bench.settle()
    assert len(bench.models) == 1


def test_a_long_job_is_told_as_started_once_and_a_short_one_never():
    bench = Bench(1)
    (job,) = bench.give()
    bench.tick(REPORT_SECONDS / 2)
    assert bench.told == []
    bench.tick(REPORT_SECONDS)
    bench.tick(REPORT_SECONDS)
    assert bench.told == [job.dispatch]


# --- environments -----------------------------------------------------------------------------


def test_a_job_of_another_environment_gets_a_runner_of_its_own_and_ends_the_idle_older_one():
    bench = Bench(1)
    older, newer = bench.function("older", environment=1), bench.function("newer", environment=2)
    bench.give(function=older)
    bench.settle()
    bench.give(2, function=newer)
    assert [model.is_closed for model in bench.models.values()] == [True, False]
    bench.settle()
    bench.give(function=older)  # sent again, say: in a fresh runner, and the newer one stays
    bench.settle()
    assert [model.runner.context for model in bench.models.values()] == [(1, 2, 0, ()), (1, 1, 0, ())]
    assert set(bench.ended.values()) == {"result"}


def test_what_waits_for_another_environment_is_not_sent_ahead():
    bench = Bench(1)
    older = bench.function("older", seconds=1e-4, environment=1)
    newer = bench.function("newer", seconds=1e-4, environment=2)
    bench.give(2, function=older)
    bench.give(2, function=newer)
    (model,) = bench.models.values()
    assert len(model.runner.sent) == 2
    bench.settle()
    assert set(bench.ended.values()) == {"result"} and len(bench.ended) == 4


def test_runners_whose_environment_is_forgotten_end_when_they_have_nothing_to_do():
    bench = Bench(2)
    long = bench.function("long", environment=1)
    idle, busy = bench.give(2, function=long)
    bench.run_until(idle)
    other = bench.give(function=bench.function("other", environment=2), session=2)
    bench.settle(hanging=[busy])
    assert len(bench.models) == 3
    bench.perform(bench.slots.on_environment_forgotten(1, 1, bench.now))
    bench.settle(hanging=[busy])
    assert len(bench.models) == 2 and busy.dispatch not in bench.ended
    bench.settle()
    assert [model.runner.session for model in bench.models.values()] == [2]
    assert {bench.ended[job.dispatch] for job in (idle, busy, *other)} == {"result"}


# --- ahead ------------------------------------------------------------------------------------


def test_short_jobs_are_sent_ahead_and_unknown_and_long_ones_are_not():
    bench = Bench(1)
    bench.give(3)
    assert [len(m.runner.sent) for m in bench.models.values()] == [1]
    bench = Bench(1)
    bench.give(50, function=bench.function("long", 1.0))
    assert [len(m.runner.sent) for m in bench.models.values()] == [1]
    bench = Bench(1)
    bench.give(1000, function=bench.function("short", 1e-5))
    assert [len(m.runner.sent) for m in bench.models.values()] == [AHEAD_JOBS]


def test_nothing_is_sent_ahead_while_a_slot_idles():
    bench = Bench(4)
    bench.give(3, function=bench.function("short", 1e-5))
    assert [len(m.runner.sent) for m in bench.models.values()] == [1, 1, 1]


def test_another_sessions_job_is_not_passed_over():
    bench = Bench(1)
    short = bench.function("short", 1e-5)
    bench.give(5, session=1, function=short)
    (other,) = bench.give(1, session=2, function=bench.function("other", 1e-5))
    bench.give(5, session=1, function=short)
    order = []
    on_start = bench.on_start
    bench.on_start = lambda model, job: (order.append(job.dispatch), on_start(model, job))
    bench.settle()
    assert order == sorted(order)


# --- stuck ------------------------------------------------------------------------------------


def test_while_long_jobs_run_nothing_is_due_but_their_time_limits():
    bench = Bench(2)
    bench.give(1)
    bench.run_until(bench.give(1, timeout=100.0)[0])
    sent = bench.now
    assert bench.slots.next_tick(sent) == sent  # its token says when its time begins
    bench.tick()
    began = bench.now
    assert bench.slots.next_tick(began) == sent + REPORT_SECONDS
    bench.tick(REPORT_SECONDS)
    assert len(bench.told) == 2 and bench.slots.next_tick(bench.now) == began + 100.0


def test_without_work_nothing_is_ever_due():
    bench = Bench(2)
    assert bench.slots.next_tick(bench.now) == math.inf
    bench.give(2)
    bench.settle()
    assert bench.slots.next_tick(bench.now) == math.inf and not bench.slots.wants_tick()


def test_the_unstarted_behind_a_long_job_get_to_an_idle_slot():
    bench = Bench(2)
    short = bench.function("short", 1e-4)
    (first,) = bench.give(1)
    bench.run_until(first)
    waiting = bench.give(20, function=short)
    model = bench.run_until(waiting[0])  # on the other slot: it takes long after all
    assert model.runner.slot is not bench.model_of(first).runner.slot
    assert len(model.runner.sent) > 1
    other = bench.model_of(first)
    while other.current:
        other.step(bench.on_start)
    bench.read(other)
    bench.settle(hanging=waiting[:1])
    assert [bench.ended.get(job.dispatch) for job in waiting] == [None] + 19 * ["result"]


def test_they_get_there_too_while_a_job_waits_that_must_avoid_it():
    bench = Bench(3)
    short = bench.function("short", 1e-4)
    long = bench.give(2)
    for job in long:
        bench.run_until(job)
    bench.tick(2 * STUCK_SECONDS)  # nothing goes behind these
    model = bench.model_of(long[0])
    behind = bench.give(2, function=short)  # one on the third slot, one behind it
    third = bench.run_until(behind[0])
    bench.tick(2 * STUCK_SECONDS)
    assert len(third.runner.sent) > 1
    (picky,) = bench.give(1, avoid=1 + model.runner.slot.index)
    while model.current:
        model.step(bench.on_start)
    bench.read(model)
    assert picky.dispatch not in bench.starts
    bench.tick()
    assert list(third.runner.sent) == behind[:1]
    bench.settle(hanging=[long[1], behind[0]])
    assert [bench.ended.get(job.dispatch) for job in behind] == [None, "result"]
    assert bench.ended[picky.dispatch] == "result"


def test_a_recall_takes_the_last_of_the_backlog_and_what_waits_behind_long_jobs():
    bench = Bench(1)
    jobs = bench.give(20, function=bench.function("short", AHEAD_SECONDS / 5))
    model = bench.run_until(jobs[0])
    sent = len(model.runner.sent)
    assert 1 < sent < 20
    assert bench.recall(3) == [20, 19, 18]
    assert sorted(bench.recall(100)) == list(range(sent + 1, 18))
    assert bench.recall(100) == []  # the job is not long yet
    bench.now += 2 * STUCK_SECONDS
    assert sorted(bench.recall(100)) == list(range(2, sent + 1))
    bench.settle()
    assert bench.ended[1] == "result"


def test_every_recall_is_answered():
    bench = Bench(1)
    assert bench.recall(5) == []
    bench.give(1)
    assert bench.recall(5) == []
    assert len(bench.recalled) == 2


def test_what_is_taken_back_goes_before_what_came_after_it():
    bench = Bench(2)
    first, second = bench.give(2)
    bench.run_until(first)
    model = bench.run_until(second)
    bench.tick(2 * STUCK_SECONDS)  # nothing goes behind these
    short = bench.give(6, function=bench.function("short", 1e-3))
    model.step(bench.on_start)
    bench.read(model)  # the second has ended: the short ones go there
    bench.run_until(short[0])
    bench.tick(2 * STUCK_SECONDS)
    later = bench.give(3)
    waiting = list(model.runner.sent)[1:]
    assert waiting == short[1:4]
    assert sorted(bench.recall(100), reverse=True) == bench.recalled[-1] == [11, 10, 9, 8, 7, 6, 5, 4]
    assert [job.dispatch for job in short + later] == [3, 4, 5, 6, 7, 8, 9, 10, 11]


def test_a_runner_that_has_read_its_drop_gets_what_waits_at_once():
    bench = Bench(1)
    (job,) = bench.give()
    model = bench.model_of(job)
    bench.stop(job.dispatch)
    (waiting,) = bench.give()
    assert not model.runner.sent
    while model.step(bench.on_start):
        pass
    bench.read(model)
    assert list(model.runner.sent) == [waiting]


# --- stops ------------------------------------------------------------------------------------


def test_a_stop_ends_what_runs_and_its_slot_is_free_when_the_process_is_gone():
    bench = Bench(1)
    (job,) = bench.give()
    model = bench.run_until(job)
    (after,) = bench.give()
    bench.stop(job.dispatch)
    assert model.is_killed and job.dispatch not in bench.ended
    assert len(bench.models) == 1
    bench.die(model)
    bench.exit(model)
    assert bench.ended == {job.dispatch: "returned"}
    bench.settle()
    assert bench.ended[after.dispatch] == "result"


def test_a_stop_takes_back_what_was_sent_behind_before_it_kills():
    bench = Bench(1)
    jobs = bench.give(20, function=bench.function("short", 1e-3))
    model = bench.run_until(jobs[0])
    bench.stop(jobs[0].dispatch)
    assert model.is_killed and list(model.runner.sent) == jobs[:1]
    bench.settle()
    assert bench.ended.pop(1) == "returned"
    assert set(bench.ended.values()) == {"result"} and len(bench.ended) == 19


def test_a_stop_of_what_waits_harms_nobody():
    bench = Bench(1)
    jobs = bench.give(20, function=bench.function("short", 1e-3))
    bench.run_until(jobs[0])
    bench.stop(2, 5, 20, 999)
    assert [bench.ended.get(n) for n in (2, 5, 20)] == ["returned"] * 3
    bench.settle()
    assert [bench.ended[n] for n in range(1, 21)].count("result") == 17


def test_a_stop_that_comes_too_late_does_not_hit_the_next_job():
    bench = Bench(1)
    jobs = bench.give(3, function=bench.function("short", 1e-3))
    model = bench.run_until(jobs[1])  # the result of the first one is on its way
    bench.stop(jobs[0].dispatch)
    assert not model.is_killed
    bench.settle()
    assert set(bench.ended.values()) == {"result"}


def test_a_stop_of_what_runs_while_a_result_before_it_is_on_its_way():
    bench = Bench(1)
    short = bench.function("short", 1e-3)
    jobs = bench.give(2, function=short)
    model = bench.run_until(jobs[1])
    bench.stop(jobs[1].dispatch)
    bench.give(5, function=short)
    assert list(model.runner.sent) == jobs  # nothing more goes behind it
    bench.read(model)
    assert model.is_killed
    bench.settle()
    assert bench.ended.pop(2) == "returned"
    assert set(bench.ended.values()) == {"result"} and len(bench.ended) == 6


def test_a_stop_that_unblocks_the_backlog_sends_nothing_before_all_is_taken_back():
    bench = Bench(1)
    short = bench.function("short", 1e-3)
    jobs = bench.give(3, session=1, function=short)
    (other,) = bench.give(1, session=2)
    bench.give(2, session=1, function=short)
    bench.run_until(jobs[0])
    bench.stop(jobs[1].dispatch, other.dispatch)
    bench.settle()
    assert bench.ended == {1: "result", 2: "returned", 3: "result", 4: "returned", 5: "result", 6: "result"}


def test_a_stop_of_what_has_ended_does_nothing():
    bench = Bench(1)
    bench.give(3)
    bench.stop(2)
    assert bench.ended == {2: "returned"}
    bench.settle()
    bench.stop(1, 2, 3)  # all gone
    bench.settle()
    assert bench.ended == {1: "result", 2: "returned", 3: "result"}


def test_a_runner_that_is_told_twice_to_drop_is_told_once():
    bench = Bench(1)
    jobs = bench.give(5, function=bench.function("short", 1e-3))
    model = bench.model_of(jobs[0])  # still on its way up
    bench.now += 2 * STUCK_SECONDS
    bench.recall(1)
    assert list(model.runner.sent) == jobs[:1]
    bench.stop(1)
    assert list(model.stream).count(None) == 1
    bench.settle()
    assert set(bench.ended.values()) == {"recalled", "returned", "result"}


# --- time limits ------------------------------------------------------------------------------


def test_a_job_that_runs_longer_than_its_limit_is_stopped_and_told_when_its_process_is_gone():
    bench = Bench(1)
    (job,) = bench.give(timeout=1.0)
    (after,) = bench.give()
    model = bench.run_until(job)
    for _ in range(52):
        bench.tick()
    assert model.is_killed and job.expired
    assert bench.ended == {} and after.dispatch not in bench.starts
    bench.die(model)
    bench.exit(model)
    assert bench.ended == {job.dispatch: "expired"}
    bench.settle()
    assert bench.ended[after.dispatch] == "result"


def test_the_limit_counts_from_the_start_in_the_runner():
    bench = Bench(1)
    first = bench.give(1)[0]
    timed = bench.give(1, function=bench.function("short", 1e-3), timeout=1.0)[0]
    slow = bench.model_of(first)  # it takes its time to come up
    for _ in range(200):
        bench.tick()
    bench.run_until(first)
    for _ in range(200):
        bench.tick()
    slow.step(bench.on_start)
    bench.read(slow)
    model = bench.run_until(timed)
    for _ in range(45):
        bench.tick()
    assert not timed.expired and not model.is_killed
    for _ in range(10):
        bench.tick()
    assert timed.expired and model.is_killed


def test_at_the_limit_what_was_sent_behind_is_taken_back_first():
    bench = Bench(2)
    short = bench.function("short", 1e-4)
    jobs = bench.give(2) + bench.give(40, function=short, timeout=0.015)
    for job in jobs[:2]:
        bench.run_until(job)
    other, model = (bench.model_of(job) for job in jobs[:2])
    model.step(bench.on_start)
    bench.read(model)
    assert len(model.runner.sent) > 1
    head = model.runner.sent[0]
    bench.run_until(head)
    bench.tick(0.005)
    bench.tick(0.02)
    assert model.is_killed and list(model.runner.sent) == [head]
    other.step(bench.on_start)
    bench.read(other)
    bench.settle()
    assert bench.ended.pop(head.dispatch) == "expired"
    assert set(bench.ended.values()) == {"result"} and len(bench.ended) == 41


def test_a_job_that_ends_in_the_very_moment_of_its_limit_costs_the_next_nothing():
    bench = Bench(1)
    jobs = bench.give(3, function=bench.function("short", 1e-3), timeout=1.0)
    model = bench.run_until(jobs[0])
    bench.tick()
    bench.now += 1.0
    bench.run_until(jobs[1])  # the result of the first one is on its way, and the second has begun
    bench.tick()
    assert jobs[0].expired and not model.is_killed
    bench.settle()
    assert set(bench.ended.values()) == {"result"} and len(bench.ended) == 3


def test_what_a_stopped_job_still_says_ends_its_runner():
    bench = Bench(1)
    (job,) = bench.give(timeout=1.0)
    (after,) = bench.give()
    model = bench.run_until(job)
    bench.tick()
    bench.tick(1.0)
    assert model.is_killed
    model.step(bench.on_start)  # KeyboardInterrupt is its result
    bench.read(model)
    assert model.is_closed and after.dispatch not in bench.starts
    assert bench.slots.pool.slots[0].busy is model.runner  # until the process is gone
    bench.settle()
    assert bench.ended[after.dispatch] == "result"


def test_a_job_without_limit_is_not_looked_at():
    bench = Bench(1)
    (job,) = bench.give()
    bench.run_until(job)
    for _ in range(100):
        assert not any(isinstance(a, LookAtTokens) for a in bench.slots.on_tick(bench.now))
        bench.now += TICK


def test_when_its_session_closes_a_job_that_is_being_stopped_goes_on_with_its_steps():
    bench = Bench(1)
    (job,) = bench.give(timeout=1.0)
    model = bench.run_until(job)
    bench.tick()
    bench.tick(1.0)
    assert model.is_killed
    bench.closed.add(1)
    assert not bench.slots.on_session_closed(1, bench.now)
    bench.settle()
    assert bench.ended == {job.dispatch: "returned"}


def test_when_its_session_closes_what_runs_is_stopped_step_by_step():
    bench = Bench(1)
    (job,) = bench.give()
    model = bench.run_until(job)
    actions = bench.slots.on_session_closed(1, bench.now)
    bench.perform(actions)
    assert model.is_killed  # by StopRunner, there is no other
    bench.settle()
    assert bench.ended == {job.dispatch: "returned"}


# --- drain and recycling ------------------------------------------------------------------------


def test_a_worker_that_drains_returns_what_has_not_started_and_finishes_the_rest():
    bench = Bench(2)
    jobs = bench.give(30, function=bench.function("short", AHEAD_SECONDS / 5))
    running = [bench.run_until(model.runner.sent[0]).current for model in list(bench.models.values())]
    bench.drain()
    assert sorted(bench.ended) == sorted(job.dispatch for job in jobs if job not in running)
    assert set(bench.ended.values()) == {"returned"}
    late = bench.give(2)
    assert [bench.ended[job.dispatch] for job in late] == ["returned"] * 2
    assert not bench.slots.is_empty()
    bench.settle()
    assert bench.slots.is_empty()
    assert [bench.ended[job.dispatch] for job in running] == ["result"] * 2


def test_what_dies_of_the_order_to_end_while_its_worker_drains_is_not_charged():
    bench = Bench(2)
    first, second = bench.give(2)
    models = [bench.run_until(job) for job in (first, second)]
    bench.drain()
    for model, was_ordered in zip(models, (True, False), strict=True):
        bench.die(model)
        bench.exit(model, was_ordered)
    assert bench.ended == {first.dispatch: "cut short", second.dispatch: "died"}


def test_what_runs_when_the_time_is_up_is_stopped_and_cut_short():
    bench = Bench(2)
    hanging, busy = bench.give(2)
    models = [bench.run_until(job) for job in (hanging, busy)]
    bench.drain()
    models[1].step(bench.on_start)  # its result is on its way when the time is up
    bench.perform(bench.slots.on_time_up())
    assert models[0].is_killed
    bench.settle(hanging=[hanging])
    assert bench.slots.is_empty() and not bench.slots.has_runners()
    assert bench.ended[hanging.dispatch] == "cut short"


def test_a_time_limit_that_was_over_before_the_workers_time_stays_one():
    bench = Bench(1)
    (job,) = bench.give(timeout=1.0)
    model = bench.run_until(job)
    bench.tick()
    bench.tick(1.0)
    bench.drain()
    bench.perform(bench.slots.on_time_up())
    assert model.is_killed and not job.is_cut
    bench.settle(hanging=[job])
    assert bench.ended == {job.dispatch: "expired"}


def test_runners_without_a_job_end_when_the_worker_drains():
    bench = Bench(2)
    bench.give(1)
    bench.settle()
    (model,) = bench.models.values()
    bench.drain()
    assert model.is_closed
    bench.settle()
    assert not bench.slots.has_runners()


def test_what_a_dying_runner_had_not_started_is_returned_when_its_worker_drains():
    bench = Bench(1)
    (job,) = bench.give()
    model = bench.model_of(job)  # not up yet
    bench.die(model)
    bench.drain()
    assert bench.ended == {job.dispatch: "returned"}
    bench.exit(model)
    assert bench.slots.is_empty()


def test_a_runner_is_replaced_after_so_many_jobs_and_its_slot_waits_for_its_end():
    bench = Bench(1, max_jobs=3)
    bench.give(10, function=bench.function("short", 1e-4))
    models = []
    for _ in range(200):
        for model in list(bench.models.values()):
            if model not in models:
                models.append(model)
            model.step(bench.on_start)
            bench.read(model)
            if model.is_dead:
                bench.exit(model)
    assert [model.runner.ended for model in models] == [3, 3, 3, 1]
    assert set(bench.ended.values()) == {"result"} and len(bench.ended) == 10


# --- sessions ---------------------------------------------------------------------------------


def test_a_closed_session_leaves_nothing_behind():
    bench = Bench(2)
    bench.give(2, session=1)
    bench.settle()
    running = bench.give(12, session=1, function=bench.function("short", 1e-3))
    bench.run_until(running[0])
    bench.give(3, session=2)
    bench.close(1)
    bench.settle()
    assert {m.runner.session for m in bench.models.values()} == {2}
    assert all(bench.ended[job.dispatch] in ("returned", "result") for job in running)
    assert [bench.ended[n] for n in (15, 16, 17)] == ["result"] * 3


def test_a_runner_whose_jobs_were_all_taken_back_as_its_session_closed_is_ended():
    bench = Bench(1)
    bench.give(2, session=1, function=bench.function("short", 1e-3))  # it is not up yet
    bench.close(1)
    assert bench.ended == {1: "returned", 2: "returned"}
    (model,) = bench.models.values()
    assert model.is_closed
    bench.settle()
    assert not bench.models


# --- deaths -----------------------------------------------------------------------------------


def test_a_death_is_charged_to_the_job_that_ran_and_the_rest_goes_on():
    bench = Bench(1)
    jobs = bench.give(20, function=bench.function("short", 1e-3))
    model = bench.run_until(jobs[1])
    bench.die(model)
    bench.exit(model)
    assert bench.ended == {1: "result", 2: "died"}
    bench.settle()
    assert sorted(bench.ended.values()) == ["died"] + ["result"] * 19


def test_a_runner_that_dies_between_two_jobs_is_not_sent_more():
    bench = Bench(1)
    jobs = bench.give(2)
    model = bench.run_until(jobs[0])
    model.step(bench.on_start)
    bench.die(model)  # its result is still in the pipe
    bench.exit(model)
    assert bench.ended == {1: "result"}
    bench.settle()
    assert bench.ended == {1: "result", 2: "result"}


def cannot_start(bench, job):
    model = bench.model_of(job)
    bench.die(model)
    bench.exit(model)


def test_where_no_runner_starts_the_job_goes_back_and_others_are_tried_after_longer_and_longer_pauses():
    bench = Bench(1)
    first, longest = RESTART_SECONDS
    pause = first
    while pause < 2 * longest:
        (job,) = bench.give(session=5)
        cannot_start(bench, job)
        assert bench.ended[job.dispatch] == "returned" and not bench.models
        assert bench.usable == (0, {5})
        (early,) = bench.give(session=5)
        assert bench.ended[early.dispatch] == "returned" and not bench.models
        assert bench.slots.wants_tick()
        bench.tick(min(pause, longest) * 0.9)
        assert bench.usable == (0, {5})
        bench.tick(min(pause, longest) * 0.2)
        assert bench.usable == (1, set())
        pause *= 2
    (job,) = bench.give(session=5)
    bench.settle()
    assert bench.ended[job.dispatch] == "result"
    bench.die(bench.model_of(bench.give(session=6)[0]))
    for model in list(bench.models.values()):
        if model.is_dead:
            bench.exit(model)
    bench.tick(first * 1.1)
    assert bench.usable == (1, set())  # the pauses begin anew


def test_where_no_runner_starts_those_that_are_there_work_on():
    bench = Bench(3)
    (job,) = bench.give(session=1)
    bench.settle()
    jobs = bench.give(3, session=1)
    assert bench.models.keys() == {1, 2, 3}  # the two other slots start one
    for job in jobs[1:]:
        cannot_start(bench, job)
    assert bench.usable == (1, set())
    bench.settle()
    assert {bench.ended[job.dispatch] for job in jobs} == {"result"}
    (other,) = bench.give(session=2)
    while other.dispatch not in bench.ended:
        cannot_start(bench, other)
    assert bench.ended[other.dispatch] == "returned"
    assert bench.usable == (1, {2})
    (job,) = bench.give(session=1)
    bench.settle()
    assert bench.ended[job.dispatch] == "result"


def test_a_job_is_tried_on_another_slot_than_where_it_died_but_does_not_wait_for_ever():
    bench = Bench(2)
    (long,) = bench.give()
    bench.run_until(long)
    free = 1 - bench.model_of(long).runner.slot.index
    (picky,) = bench.give(avoid=1 + free)
    (other,) = bench.give()
    assert bench.model_of(other).runner.slot.index == free  # it is not in the way of others
    bench.settle(hanging=[long])
    assert bench.ended[picky.dispatch] == "result"
    bench = Bench(1)
    (job,) = bench.give(avoid=1)
    assert bench.model_of(job)


def test_an_idle_runner_that_has_not_read_its_drop_is_not_in_the_way_of_other_sessions():
    bench = Bench(1)
    (job,) = bench.give(session=1)
    bench.stop(job.dispatch)  # it is not up yet
    (own,) = bench.give(session=1)
    (other,) = bench.give(session=2)
    assert bench.model_of(other)
    bench.settle()
    assert bench.ended == {1: "returned", 2: "result", 3: "result"}


def test_an_idle_runner_may_die():
    bench = Bench(1)
    bench.give()
    bench.settle()
    (model,) = bench.models.values()
    bench.die(model)
    (job,) = bench.give()  # before anybody has noticed
    bench.exit(model)
    bench.settle()
    assert bench.ended[job.dispatch] == "result"


# --- random events ----------------------------------------------------------------------------


class Events:
    """What may happen to a worker, each with random details."""

    def __init__(self, random):
        self.count = random.choice([1, 1, 2, 3])
        self.bench = Bench(self.count, random.choice([0, 0, 1, 5]))
        self.data = deque()  # jobs on their way
        self.hanging = []
        self.failed = False

    def some_model(self, random):
        keys = sorted(self.bench.models)
        return self.bench.models[random.choice(keys)] if keys else None

    # --- events: each a method, in its turn as often as it stands in EVENTS ---

    def jobs_are_sent(self, random):
        session = random.randint(1, 3) + 10 * len(self.bench.closed)
        name, seconds = random.choice([("unknown", None), ("tiny", 1e-6), ("short", 1e-3), ("long", 1.0)])
        environment = random.choice([1, 1, 2])
        f = self.bench.function((session, name, environment), seconds, environment)
        avoid = random.choice([0, 0, 0, 0, random.randint(1, self.count)])
        size = random.choice([10, 10, 10, assignment.AHEAD_BYTES // 3])
        options = {"timeout": random.choice([0.0, 0.0, 0.0, 0.015, 0.5]), **self.needs(random)}
        self.data.append(self.bench.make(random.randint(1, 12), session, f, avoid, size, **options))

    def needs(self, random):
        """Options that name what the jobs need."""
        return {}

    def jobs_arrive(self, random):
        if self.data:
            self.bench.arrive(self.data.popleft())

    def jobs_are_stopped(self, random):
        coming = {job.dispatch for batch in self.data for job in batch}
        if known := sorted(self.bench.jobs.keys() - coming):
            self.bench.stop(*random.sample(known, min(len(known), random.randint(1, 4))))

    def what_was_sent_is_stopped(self, random):
        model = self.some_model(random)
        if model and model.runner.sent:
            sent = list(model.runner.sent)[:4]
            self.bench.stop(*(job.dispatch for job in random.sample(sent, random.randint(1, len(sent)))))

    def environment_is_forgotten(self, random):
        model = self.some_model(random)
        if model:
            self.bench.perform(
                self.bench.slots.on_environment_forgotten(*model.runner.context[:2], self.bench.now)
            )

    def session_closes(self, random):
        if self.bench.jobs:
            session = random.choice(sorted({job.session for job in self.bench.jobs.values()}))
            if session not in self.bench.closed:
                for batch in [batch for batch in self.data if batch[0].session == session]:
                    self.data.remove(batch)  # the master withdraws it
                    for job in batch:
                        del self.bench.jobs[job.dispatch]
                self.bench.close(session)

    def recall(self, random):
        count, before = random.randint(1, 30), len(self.bench.recalled)
        assert len(self.bench.recall(count)) <= count
        assert len(self.bench.recalled) == before + 1

    def runner_goes_on(self, random):
        model = self.some_model(random)
        for _ in range(random.randint(1, 8)):
            if model and model.current not in self.hanging:
                model.step(self.bench.on_start, random.choice([1e-6, 1e-4, 1e-3, 1.0]))

    def pipe_is_read(self, random):
        if model := self.some_model(random):
            self.bench.read(model)

    def runner_dies(self, random):
        if model := self.some_model(random):
            model.is_dead = True

    def killed_runners_die(self, random):
        for model in self.bench.models.values():
            model.is_dead = model.is_dead or model.is_killed

    def exits_are_noticed(self, random):
        for model in list(self.bench.models.values()):
            if model.is_dead and random.random() < 0.7:
                self.bench.exit(model, random.random() < 0.3)

    def job_hangs(self, random):
        """On all slots but one, at most."""
        model = self.some_model(random)
        self.hanging = [job for job in self.hanging if job.dispatch not in self.bench.ended]
        if (
            model
            and model.current
            and model.current not in self.hanging
            and len(self.hanging) < self.count - 1
        ):
            self.hanging.append(model.current)

    def time_passes(self, random):
        self.bench.tick(random.choice([0.001, TICK, TICK, 0.1, 2.0]))

    def worker_drains(self, random):
        if random.random() < 0.1:  # nothing much happens after that
            self.bench.drain()

    def time_is_up(self, random):
        if self.bench.slots.held.is_draining:
            self.bench.perform(self.bench.slots.on_time_up())

    def seconds_pass(self, random):
        self.bench.now += random.choice([1.0, IDLE_SECONDS + 1])
        self.bench.perform(self.bench.slots.on_second(self.bench.now))
        self.bench.tick(0.0)

    EVENTS = (
        [runner_goes_on] * 30 + [pipe_is_read] * 20 + [time_passes] * 10 + [jobs_are_sent, jobs_arrive] * 6
        + [exits_are_noticed] * 4 + [jobs_are_stopped, what_was_sent_is_stopped, recall, killed_runners_die] * 2
        + [runner_dies, job_hangs, session_closes, seconds_pass, worker_drains, environment_is_forgotten, time_is_up]
    )  # fmt: skip

    # --- properties ---

    def check(self):
        """Two jobs never run on one slot; nothing waits while a slot idles; nothing is kept of what is gone."""
        policy = self.bench.slots
        for slot in policy.pool.slots:
            models = [m for m in self.bench.models.values() if m.runner.slot is slot and not m.is_dead]
            assert sum(m.current is not None for m in models) <= 1
        for slot in policy.pool.idle.values():
            if slot.backoff_until <= self.bench.now:
                for job in policy.held.backlog:
                    runner = slot.runners.get(job.context)
                    avoids = job.excluded_slot == slot.index and self.count > 1
                    assert avoids or (runner is not None and runner.is_dropping)
        assert policy.held.by_dispatch.keys() == self.bench.given - self.bench.ended.keys()

    def check_end(self):
        """Runners go on: every job comes to its end, but those that hang."""
        bench = self.bench
        while self.data:
            bench.arrive(self.data.popleft())
        bench.settle(hanging=self.hanging)
        left = bench.given - bench.ended.keys()
        assert left <= {job.dispatch for job in self.hanging if not job.must_end and not job.options.timeout}
        assert not any(m.runner.session in bench.closed for m in bench.models.values() if m.current is None)
        for dispatch, how in bench.ended.items():
            assert how not in ("died", "result") or bench.starts[dispatch] == 1


class Machine(RuleBasedStateMachine):
    """Events one by one, which shrink well to what matters, and in bursts, which get far."""

    @initialize(seed=st.integers(0, 9))
    def begin(self, seed):
        self.events = Events(Random(seed))

    def do(self, event, random):
        self.events.failed = True
        event(self.events, random)
        self.events.check()
        self.events.failed = False

    @rule(
        event=st.sampled_from(sorted(set(Events.EVENTS), key=lambda event: event.__name__)),
        seed=st.integers(0, 9),
    )
    def one(self, event, seed):
        self.do(event, Random(seed))

    @rule(seed=st.integers(0, 2**32), length=st.integers(1, 60))
    def many(self, seed, length):
        random = Random(seed)
        for _ in range(length):
            self.do(random.choice(Events.EVENTS), random)

    def teardown(self):
        if hasattr(self, "events") and not self.events.failed:
            self.events.check_end()


class TestRandomEvents(Machine.TestCase):
    settings = settings(
        max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestMoreRandomEvents(Machine.TestCase):
    settings = settings(TestRandomEvents.settings, max_examples=100)
