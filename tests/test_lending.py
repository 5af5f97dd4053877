"""Jobs that wait for jobs of their own lend their slots: the policies of worker and master, facts and random events;
then both together, with trees of jobs. (On real processes: test_nested.)"""

from collections import deque
from random import Random

import pytest
from test_slots import Bench, Events, ModelRunner

from cw.master.policy.actions import Assign, Deliver, GiveUp, SendToWorker
from cw.master.policy.dispatch import Dispatcher
from cw.master.policy.jobs import Job
from cw.master.policy.why import Cause, Survey
from cw.net import messages as m
from cw.net.objects import Object as Function
from cw.requirements import WorkerCapacity

PY = (3, 11)


class Model(ModelRunner):
    """A runner whose job may wait for jobs of its own."""

    def __init__(self, runner):
        super().__init__(runner)
        self.serial = self.resumed = 0
        self.waits = ""  # "for jobs", "for its turn"
        self.is_hasty = False  # it went on without its turn
        self.is_ready = lambda: False  # has it what it waits for?

    def wait(self):
        self.serial += 1
        self.waits, self.is_hasty = "for jobs", False
        self.pipe.append(("waits", self.current.dispatch))

    def end_wait(self, is_patient=True):
        self.waits = "for its turn" if is_patient else ""
        self.is_hasty = not is_patient
        self.pipe.append(("over", self.serial, is_patient))

    def step(self, on_start, seconds=1e-4):
        if self.is_dead:
            return False
        if self.waits == "for jobs":
            if self.is_ready():
                self.end_wait()
            return self.waits != "for jobs"
        if self.waits == "for its turn":
            if self.resumed < self.serial:
                return False
            self.waits = ""
            return True
        if self.current is not None and not super().step(on_start, seconds):
            return False
        elif self.current is None and not self.waits:
            self.is_hasty = False
            return super().step(on_start, seconds)
        return True


class LendingBench(Bench):
    def __init__(self, count, max_jobs=0, capacity=None):
        super().__init__(count, max_jobs, capacity)
        self.lent = 0, []

    def _StartRunner(self, action):
        super()._StartRunner(action)
        self.models[action.runner.key] = Model(action.runner)

    def _SendJobs(self, action):
        super()._SendJobs(action)
        depth = self.slots.depth(action.runner.session)
        for other in self.models.values():
            if other.runner is not action.runner and other.runner.slot is action.runner.slot and other.waits:
                assert self.slots.depth(other.runner.session) < depth, "lent to deeper sessions only"

    def _Lent(self, message):
        assert (message.extra, message.floors) != self.lent, "nothing new"
        self.lent = message.extra, message.floors

    def _Resume(self, action):
        if action.runner.key in self.models:
            self.models[action.runner.key].resumed = action.serial

    def check_slot_is_free(self, runner):
        for other in self.models.values():
            if other.runner is not runner and other.runner.slot is runner.slot and not other.is_dead:
                assert other.current is None or other.waits or other.is_hasty
                assert other.waits or other.is_hasty or not other.is_killed

    def read(self, model):
        pipe, model.pipe = model.pipe, deque()
        for one in pipe:
            if one is None or type(one[0]) is not str:
                model.pipe.append(one)
                continue
            super().read(model)
            if one[0] == "waits":
                self.perform(self.slots.on_waits(model.runner, one[1], self.now))
            else:
                self.perform(self.slots.on_wait_over(model.runner, *one[1:], self.now))
        super().read(model)

    def running(self, slot):
        return [
            model
            for model in self.models.values()
            if model.runner.slot is slot and model.current is not None and not model.is_dead
        ]


def lent_out(bench, session=1):
    """A job that waits for jobs, on a bench of one slot, with sessions of depth 0 (1), 1 (2) and 2 (3)."""
    bench.slots.on_depth(2, 1)
    bench.slots.on_depth(3, 2)
    (job,) = bench.give(session=session)
    model = bench.run_until(job)
    model.wait()
    bench.read(model)
    return model


# --- the worker -------------------------------------------------------------------------------


def test_a_slot_is_lent_to_deeper_sessions_only_and_comes_back_first():
    bench = LendingBench(1)
    outer = lent_out(bench)
    assert bench.lent == (0, [0])
    (same,) = bench.give(session=1)
    assert same not in outer.runner.sent
    (inner,) = bench.give(session=2)
    model = bench.run_until(inner)
    assert bench.lent == (1, [])
    (next_inner,) = bench.give(session=2)
    outer.end_wait()
    bench.read(outer)
    assert not outer.step(bench.on_start)  # the slot runs another job
    model.step(bench.on_start)
    bench.read(model)
    assert outer.step(bench.on_start) and outer.waits == ""
    assert next_inner not in model.runner.sent
    assert bench.lent == (0, [])
    bench.settle()
    assert set(bench.ended.values()) == {"result"}


def test_what_was_sent_ahead_to_a_job_that_waits_is_taken_back():
    bench = LendingBench(1)
    bench.slots.on_depth(2, 1)
    f = bench.function("short", 1e-3)
    first, second = bench.give(2, session=1, function=f)
    assert bench.model_of(second) is bench.model_of(first)
    model = bench.run_until(first)
    (inner,) = bench.give(session=2)
    model.wait()
    bench.read(model)
    assert second not in model.runner.sent
    assert bench.run_until(inner) is not model


def test_what_was_sent_ahead_to_who_has_the_slot_does_not_hold_up_who_comes_back():
    bench = LendingBench(1)
    outer = lent_out(bench)
    inner = bench.give(5, session=2, function=bench.function("short", 1e-3))
    model = bench.run_until(inner[0])
    assert len(model.runner.sent) > 1
    outer.end_wait()
    bench.read(outer)
    assert list(model.runner.sent) == inner[:1]
    model.step(bench.on_start)
    bench.read(model)
    assert outer.step(bench.on_start)
    bench.settle()
    assert set(bench.ended.values()) == {"result"}


def test_who_comes_back_goes_on_in_another_slot_that_is_idle():
    bench = LendingBench(2)
    bench.slots.on_depth(2, 1)
    (other,) = bench.give(session=1)
    busy = bench.run_until(other)
    (job,) = bench.give(session=1)
    outer = bench.run_until(job)
    outer.wait()
    bench.read(outer)
    (inner,) = bench.give(session=2)
    bench.run_until(inner)
    outer.end_wait()
    bench.read(outer)
    assert not outer.step(bench.on_start)
    busy.step(bench.on_start)
    bench.read(busy)
    assert outer.step(bench.on_start) and outer.runner.slot.index == 0
    bench.settle()
    assert set(bench.ended.values()) == {"result"}


def test_who_goes_on_without_its_turn_counts_again_when_the_slot_is_free():
    bench = LendingBench(1)
    outer = lent_out(bench)
    (inner,) = bench.give(session=2)
    model = bench.run_until(inner)
    outer.end_wait(is_patient=False)
    bench.read(outer)
    model.step(bench.on_start)
    bench.read(model)
    (more,) = bench.give(session=2)
    assert more not in model.runner.sent  # the slot is the other's again
    bench.settle()
    assert bench.ended[more.dispatch] == "result"


def test_a_process_for_each_depth_and_not_one_more():
    bench = LendingBench(1)
    outer = lent_out(bench)
    (inner,) = bench.give(session=2)
    bench.run_until(inner)
    bench.settle(hanging=[outer.current])
    bench.close(2)
    bench.slots.on_depth(4, 1)
    (again,) = bench.give(session=4)
    assert not any(
        again in model.runner.sent for model in bench.models.values()
    )  # the one of 2 is about to end
    bench.settle(hanging=[outer.current])
    assert bench.ended[again.dispatch] == "result"


def test_a_waiting_job_that_is_stopped_or_dies_or_runs_out_of_time_frees_its_slot():
    for how in "stop", "die", "expire":
        bench = LendingBench(1)
        bench.slots.on_depth(2, 1)
        (job,) = bench.give(session=1, timeout=1.0 if how == "expire" else 0.0)
        outer = bench.run_until(job)
        bench.tick()
        outer.wait()
        bench.read(outer)
        (inner,) = bench.give(session=2)
        model = bench.run_until(inner)
        if how == "stop":
            bench.stop(job.dispatch)
        elif how == "die":
            bench.die(outer)
            bench.exit(outer)
        else:
            bench.tick(2.0)
        assert outer.is_killed or how == "die"
        assert model.runner.sent
        (next_one,) = bench.give(session=1)
        bench.settle()
        assert bench.ended[inner.dispatch] == bench.ended[next_one.dispatch] == "result"
        assert bench.ended[job.dispatch] == {"stop": "returned", "die": "died", "expire": "expired"}[how]
        assert bench.lent == (0, [])


def test_who_has_a_lent_slot_may_die():
    bench = LendingBench(1)
    outer = lent_out(bench)
    (inner,) = bench.give(session=2)
    model = bench.run_until(inner)
    bench.die(model)
    bench.exit(model)
    assert bench.ended[inner.dispatch] == "died" and bench.lent == (0, [0])
    outer.end_wait()
    bench.read(outer)
    assert outer.step(bench.on_start)


def test_another_master_is_told_what_is_lent():
    bench = LendingBench(1)
    lent_out(bench)
    bench.lent = 0, []
    bench.perform(bench.slots.on_joined())
    assert bench.lent == (0, [0])


class LendingEvents(Events):
    """Those of a worker, and jobs that wait."""

    def __init__(self, random):
        super().__init__(random)
        self.bench = LendingBench(self.count, self.bench.max_jobs)

    def jobs_are_sent(self, random):
        super().jobs_are_sent(random)
        session = self.data[-1][0].session
        self.bench.slots.on_depth(session, session % 10 - 1)

    def job_waits(self, random):
        model = self.some_model(random)
        if model and model.current and not model.waits and not model.is_dead:
            model.wait()

    def wait_ends(self, random):
        for model in self.bench.models.values():
            if model.waits == "for jobs" and not model.is_dead and random.random() < 0.4:
                model.end_wait(random.random() < 0.7)
            elif model.waits == "for its turn" and not model.is_dead and random.random() < 0.1:
                model.end_wait(False)

    EVENTS = Events.EVENTS + [job_waits] * 12 + [wait_ends] * 8

    def check(self):
        policy = self.bench.slots
        for slot in policy.pool.slots:
            running = self.bench.running(slot)
            assert sum(not model.waits and not model.is_hasty for model in running) <= 1
            depths = [policy.depth(model.runner.session) for model in running]
            assert len(depths) == len(set(depths)), "a job for each depth"
        for slot in policy.pool.idle.values():
            for job in policy.held.backlog:
                runner = slot.runners.get(job.context)
                avoids = job.excluded_slot == slot.index and self.count > 1
                rests = slot.backoff_until > self.bench.now
                assert avoids or rests or (runner is not None and runner.is_dropping)

    def check_end(self):
        for model in self.bench.models.values():
            model.is_ready = lambda: True
        start = self.bench._StartRunner
        self.bench._StartRunner = lambda action: (
            start(action) or setattr(self.bench.models[action.runner.key], "is_ready", lambda: True)
        )
        super().check_end()
        assert self.bench.lent == (0, [])


@pytest.mark.parametrize("seed", range(25))
def test_random_events_at_a_worker(seed):
    random = Random(seed)
    events = LendingEvents(random)
    for _ in range(400):
        random.choice(events.EVENTS)(events, random)
        events.check()
    events.hanging.clear()
    events.check_end()


# --- the master -------------------------------------------------------------------------------


def dispatcher(depths, **workers):
    d = Dispatcher()
    for key, depth in depths.items():
        d.on_session_opened(key, PY, depth)
    for key, slots in workers.items():
        d.on_worker_joined(key, WorkerCapacity(slots), PY)
    return d


def jobs(*numbers, f=None):
    f = f or Function(1, b"")
    return [Job(number, f, None, b"payload") for number in numbers]


def assigned(actions):
    return [
        (a.worker, a.jobs[0].session.key, [j.number for j in a.jobs]) for a in actions if type(a) is Assign
    ]


def test_a_lent_slot_gets_a_job_of_a_deeper_session_whoever_is_before_it():
    d = dispatcher({"outer": 0, "other": 0, "inner": 1}, w=1)
    d.on_submitted("outer", jobs(1, 2))
    d.on_submitted("other", jobs(1))
    d.on_submitted("inner", jobs(1, 2))
    assert assigned(d.on_lent("w", 0, [0])) == [("w", "inner", [1])]
    d.check_invariants()
    assert d.on_lent("w", 1, []) == []
    d.on_results("w", [2], [0], [0.1], [b""])
    assert assigned(d.on_lent("w", 0, [0])) == [("w", "inner", [2])]
    assert assigned(d.on_lent("w", 0, [1])) == []
    d.check_invariants()


def test_an_idle_slot_goes_before_one_that_is_lent():
    d = dispatcher({"outer": 0, "inner": 1}, w=1, v=1)
    d.on_submitted("outer", jobs(1))
    d.on_lent("w", 0, [0])
    assert assigned(d.on_submitted("inner", jobs(1, 2, 3))) == [("v", "inner", [1]), ("w", "inner", [2])]


def test_a_worker_with_a_lent_slot_that_is_used_has_an_idle_one_still():
    d = dispatcher({"outer": 0, "inner": 1}, w=2)
    d.on_submitted("outer", jobs(1))
    d.on_lent("w", 0, [0])
    d.on_submitted("inner", jobs(1, 2))
    d.on_lent("w", 1, [])  # one beside the job that waits, one in the second slot
    d.on_results("w", [2], [0], [0.1], [b""])
    assert assigned(d.on_submitted("outer", jobs(2))) == [("w", "outer", [2])]
    d.check_invariants()


def test_what_waits_elsewhere_is_recalled_for_a_lent_slot():
    d = dispatcher({"outer": 0, "inner": 1}, w=1)
    d.on_submitted("outer", jobs(1))
    d.on_worker_joined("v", WorkerCapacity(1), PY)
    f = Function(1, b"")
    f.estimate.seconds = 0.001
    d.on_submitted("inner", jobs(1, 2, 3, f=f))  # all to v
    assert d.state.held("v") == 3
    d.on_lent("w", 0, [0])
    assert d.wants_tick()
    assert d.on_tick() == []  # they have only just been sent
    assert d.on_tick() == [SendToWorker("v", m.Recall(2))]
    actions = d.on_recalled("v", [3, 4])
    assert assigned(actions)[0][:2] == ("w", "inner")
    d.check_invariants()
    d = dispatcher({"outer": 0, "inner": 1}, w=1)
    d.on_submitted("outer", jobs(1, 2, 3, f=f))
    d.on_lent("w", 0, [0])
    assert d.on_tick() == []  # what is not deep enough stays


def test_a_worker_that_drains_or_is_away_lends_nothing():
    for leave in "on_worker_draining", "on_worker_away":
        d = dispatcher({"outer": 0, "inner": 1}, w=1)
        d.on_submitted("outer", jobs(1))
        d.on_lent("w", 0, [0])
        getattr(d, leave)("w")
        assert d.on_submitted("inner", jobs(1)) == []
        d.check_invariants()
    assert assigned(d.on_worker_back("w", [(1, "outer", 1, 1)])) == []
    assert assigned(d.on_lent("w", 0, [0])) == [("w", "inner", [1])]


def stalled_by(d, key):
    reason = Survey(d.state).why(key)
    return reason.detail if reason is not None and reason.cause is Cause.STALLED else set()


def test_all_are_told_when_jobs_that_wait_for_jobs_hold_all_slots():
    d = dispatcher({"outer": 0, "other": 0}, w=2)
    d.on_submitted("outer", jobs(1, 2))
    d.on_started("w", [1, 2])
    assert not stalled_by(d, "outer")
    for number in 1, 2:
        d.on_session_opened(f"inner{number}", PY, 1, number)
        d.on_submitted(f"inner{number}", jobs(1))
    d.on_submitted("other", jobs(1))
    assert stalled_by(d, "outer") and stalled_by(d, "inner1") and stalled_by(d, "other")
    d.on_lent("w", 0, [0])  # one of them lends: the other's job runs there
    d.on_lent("w", 1, [])
    d.on_started("w", [3])
    assert not stalled_by(d, "outer")
    assert not d.state.has_lost_parent("inner1")
    d.on_results("w", [1], [0], [0.1], [b""])
    assert d.state.has_lost_parent("inner1") and not d.state.has_lost_parent("outer")


# --- both -------------------------------------------------------------------------------------


class Grid:
    """A master's policy and workers' policies, with trees of jobs: each has `width` jobs of its own, in a session of
    its own, and waits for them, one by one or for all, now and then with a timeout."""

    def __init__(self, random, slots, has_deaths):
        self.random, self.has_deaths = random, has_deaths
        self.master = Dispatcher()
        self.workers = {}
        self.mail = deque()  # (worker, function): from the workers to the master
        self.sessions = 0
        self.plan = {}  # (session, number): depth, width
        self.done = {}  # by session: numbers
        self.inner = {}  # by dispatch: session
        self.most = {}  # by worker and slot: processes with a job
        for number, count in enumerate(slots):
            bench = self.workers[f"w{number}"] = LendingBench(count)
            self.connect(f"w{number}", bench)
            self.master.on_worker_joined(f"w{number}", WorkerCapacity(count), PY)

    def connect(self, key, bench):
        def tell(method, *what):
            self.mail.append((key, method, what))

        tells = {
            "_Returned": lambda a: tell("on_returned", a.dispatches),
            "_Recalled": lambda a: tell("on_recalled", a.dispatches),
            "_Started": lambda a: tell("on_started", a.numbers),
            "_ReportDied": lambda a: tell("on_runner_died", a.job.dispatch, a.note),
            "_Lent": lambda a: tell("on_lent", a.extra, a.floors),
        }
        for name, more in tells.items():
            before = getattr(bench, name)
            setattr(bench, name, lambda a, before=before, more=more: (before(a), more(a))[0])
        ended = bench.end

        def end(dispatch, how):
            ended(dispatch, how)
            if how == "result":
                tell("on_results", [dispatch], [0], [1e-4], [b""])

        bench.end = end

    def submit(self, depth, widths, parent=0, session_depth=0):
        self.sessions += 1
        session = self.sessions
        self.done[session] = set()
        self.master.on_session_opened(session, PY, session_depth, parent)
        f = Function(1, b"")
        numbers = range(1, len(widths) + 1)
        new = [Job(number, f, None, b"") for number in numbers]
        for number, width in zip(numbers, widths, strict=True):
            self.plan[session, number] = depth, width
        self.perform(self.master.on_submitted(session, new))
        return session

    def perform(self, actions):
        self.master.check_invariants()
        for action in actions:
            kind = type(action)
            if kind is Assign:
                bench = self.workers[action.worker]
                new = []
                for job in action.jobs:
                    session = job.session.key
                    if job.session.depth:
                        bench.slots.on_depth(session, job.session.depth)
                    f = bench.function(session)
                    made = bench.make(1, session, f)[0]
                    del bench.jobs[made.dispatch]
                    made.dispatch, made.number = job.dispatch, job.number
                    bench.jobs[job.dispatch] = made
                    new.append(made)
                bench.arrive(new)
            elif kind is SendToWorker:
                self.send(self.workers[action.worker], action.message)
            elif kind is Deliver:
                self.done[action.session].update(action.numbers)
            elif kind is GiveUp:
                self.done[action.session].add(action.number)

    def send(self, bench, message):
        if type(message) is m.Recall:
            bench.recall(message.count)
        elif type(message) is m.Stop:
            bench.stop(*message.dispatches)
        elif type(message) is m.TakeBack:
            bench.perform(bench.slots.on_take_back(message.dispatches, bench.now))

    def close(self, session):
        self.perform(self.master.on_session_closed(session))
        for bench in self.workers.values():
            bench.close(session)

    def go_on(self, bench, model):
        """One step of a runner."""
        job = model.current
        if job is None or model.waits:
            model.step(bench.on_start)
            return
        depth, width = self.plan[job.session, job.number]
        inner = self.inner.get(job.dispatch)
        if not depth:
            model.step(bench.on_start)
        elif inner is None:
            self.inner[job.dispatch] = inner = self.submit(
                depth - 1, [width] * width, job.dispatch, bench.slots.depth(job.session) + 1
            )
        elif len(self.done[inner]) < width:
            wanted = self.random.randint(len(self.done[inner]) + 1, width)
            model.is_ready = lambda: len(self.done[inner]) >= wanted
            model.wait()
        else:
            self.close(inner)
            model.step(bench.on_start)

    def step(self):
        random = self.random
        bench = random.choice(list(self.workers.values()))
        models = list(bench.models.values())
        for slot in bench.slots.pool.slots:
            running = bench.running(slot)
            assert sum(not m.waits and not m.is_hasty for m in running) <= 1
            depths = [bench.slots.depth(m.runner.session) for m in running]
            assert len(depths) == len(set(depths))
        if models:
            model = random.choice(models)
            if self.has_deaths and random.random() < 0.01:
                model.is_dead = True
            if model.waits == "for jobs" and random.random() < 0.02 and not model.is_dead:
                model.end_wait(is_patient=False)  # a timeout
            if not model.is_dead:
                self.go_on(bench, model)
            model.is_dead = model.is_dead or model.is_killed
            if random.random() < 0.7:
                bench.read(model)
            if model.is_dead:
                if model.current is not None and (inner := self.inner.get(model.current.dispatch)):
                    self.close(inner)  # its client is gone
                bench.exit(model)
        if random.random() < 0.1:
            bench.tick()
        if self.mail and random.random() < 0.7:
            key, method, what = self.mail.popleft()
            self.perform(getattr(self.master, method)(key, *what))
        if random.random() < 0.05 and self.master.wants_tick():
            self.perform(self.master.on_tick())


@pytest.mark.slow
@pytest.mark.parametrize("has_deaths", [False, True], ids=["all live", "some die"])
@pytest.mark.parametrize("slots", [[1], [2], [1, 1], [3], [2, 1, 1]], ids=str)
def test_trees_of_jobs_come_to_their_end_on_any_number_of_slots(slots, has_deaths):
    for seed in range(3):
        random = Random(seed)
        grid = Grid(random, slots, has_deaths)
        depth, width = random.choice([(1, 4), (2, 3), (3, 2), (4, 2)])
        session = grid.submit(depth, [width] * random.randint(1, 4))
        count = len(grid.master.state.open_jobs(session))
        for _ in range(100_000):
            grid.step()
            if len(grid.done[session]) == count:
                break
        else:
            pytest.fail(f"it hangs: seed {seed}")
