"""Jobs of many shapes at a worker: what starts where, beside what, and on which devices; then random events."""

from random import Random

import pytest
from test_lending import LendingBench, LendingEvents
from test_slots import TICK, Bench, Events

from cw.needs import UNITS_PER_GPU
from cw.requirements import WorkerCapacity
from cw.worker.policy.pool import STUCK_SECONDS


def bench_with(slots=4, **capacity):
    return Bench(slots, capacity=WorkerCapacity(slots, **capacity))


def running(bench):
    return sorted(model.current.dispatch for model in bench.models.values() if model.current is not None)


def go(bench):
    """Runners start what they have been sent, and end as they are asked to."""
    for _ in range(3):
        for model in list(bench.models.values()):
            while model.current is None and model.step(bench.on_start):
                pass
            if model.is_dead:
                bench.exit(model)


def finish(bench, job):
    model = bench.run_until(job)
    model.step(bench.on_start)
    bench.read(model)
    go(bench)


def devices_of(bench, job):
    return bench.model_of(job).runner.context[3]


# --- CPUs, memory, resources --------------------------------------------------------------------


def test_jobs_start_where_their_cpus_are_free():
    bench = bench_with(4)
    first = bench.give(1, cpus=3)
    second = bench.give(1, cpus=2)
    small = bench.give(1)
    go(bench)
    assert running(bench) == [first[0].dispatch]  # the one CPU that is free is claimed
    finish(bench, first[0])
    assert running(bench) == [second[0].dispatch, small[0].dispatch]


def test_a_worker_with_more_cpus_than_slots_runs_as_many_jobs_as_it_has_slots():
    bench = bench_with(2, cpus=8)
    bench.give(3, cpus=2)
    go(bench)
    assert len(running(bench)) == 2


def test_small_jobs_behind_a_large_one_do_not_starve_it():
    bench = bench_with(4)
    small = bench.give(3)
    (large,) = bench.give(1, cpus=4)
    later = bench.give(20)
    go(bench)
    for job in small:
        finish(bench, job)
    assert running(bench) == [large.dispatch]
    finish(bench, large)
    assert running(bench) == [job.dispatch for job in later[:4]]
    bench.settle()


def test_what_a_waiting_job_does_not_need_is_used_beside_it():
    bench = bench_with(4, gpus=("a",))
    (first,) = bench.give(1, gpus=1)
    waiting = bench.give(5, gpus=1)
    others = bench.give(4)
    go(bench)
    # One slot and one CPU are claimed by the jobs that wait for the device: one of them can be next, not five.
    assert running(bench) == [first.dispatch, *(job.dispatch for job in others[:2])]
    finish(bench, first)
    assert running(bench) == [waiting[0].dispatch, *(job.dispatch for job in others[:2])]
    bench.settle()


@pytest.mark.parametrize("needs", [{"memory": "6GB"}, {"resources": {"licence": 1}}])
def test_memory_and_resources_are_shared_out_too(needs):
    bench = bench_with(4, memory=10**10, resources=(("licence", 1),))
    jobs = bench.give(3, **needs)
    go(bench)
    assert running(bench) == [jobs[0].dispatch]
    finish(bench, jobs[0])
    assert running(bench) == [jobs[1].dispatch]
    bench.settle()


def test_a_worker_of_unknown_memory_refuses_no_job():
    bench = bench_with(4)
    bench.give(4, memory="1TB")
    go(bench)
    assert len(running(bench)) == 4


def test_short_jobs_of_one_shape_are_sent_ahead_though_slots_idle():
    bench = bench_with(4)
    short = bench.function("short", seconds=1e-4)
    jobs = bench.give(9, function=short, cpus=4)
    (model,) = bench.models.values()
    assert len(model.runner.sent) > 1 and set(model.runner.sent) < set(jobs)
    bench.settle()
    assert set(bench.ended.values()) == {"result"}


def test_jobs_that_name_other_cpus_get_another_runner():
    bench = bench_with(2)
    bench.give(1)
    bench.settle()
    bench.give(1, cpus=1)
    bench.settle()
    bench.give(1, cpus=2)
    bench.settle()
    assert sorted(model.runner.context[2] for model in bench.models.values()) == [0, 1, 2]
    bench.give(1, cpus=2, memory="1GB")  # no other binding: the same runner
    bench.settle()
    assert len(bench.models) == 3


def test_jobs_behind_a_long_one_start_elsewhere_when_there_is_room():
    bench = bench_with(4)
    short = bench.function("short", seconds=1e-4)
    first, *behind = bench.give(8, function=short, cpus=2)
    model = bench.run_until(first)
    other = next(each for each in bench.models.values() if each is not model)
    assert first in model.runner.sent and len(model.runner.sent) > 1
    bench.tick(2 * STUCK_SECONDS)
    bench.settle(hanging=[first])
    assert first.dispatch not in bench.ended and len(bench.ended) == len(behind)
    assert other.runner.slot is not model.runner.slot


def test_when_all_jobs_are_of_one_cpu_again_that_is_noticed():
    bench = bench_with(2)
    bench.give(1, cpus=2)
    assert bench.slots.held.is_shaped
    bench.settle()
    bench.perform(bench.slots.on_second(bench.now))
    assert not bench.slots.held.is_shaped


# --- devices ------------------------------------------------------------------------------------


def test_two_jobs_have_two_devices_and_a_third_waits():
    bench = bench_with(4, gpus=("a", "b"))
    jobs = bench.give(3, gpus=1)
    go(bench)
    assert [devices_of(bench, job) for job in jobs[:2]] == [("a",), ("b",)]
    assert len(running(bench)) == 2
    finish(bench, jobs[1])
    assert devices_of(bench, jobs[2]) == ("b",)
    assert len(bench.models) == 2  # in the same runner


def test_shares_fill_one_device_before_the_next():
    bench = bench_with(8, gpus=("a", "b"))
    halves = bench.give(3, gpus=0.5)
    go(bench)
    assert [devices_of(bench, job) for job in halves] == [("a",), ("a",), ("b",)]
    (whole,) = bench.give(1, gpus=1)
    (half,) = bench.give(1, gpus=0.5)  # behind the whole one, which waits for b
    go(bench)
    assert running(bench) == [job.dispatch for job in halves]
    finish(bench, halves[2])
    assert devices_of(bench, whole) == ("b",)
    finish(bench, halves[0])
    assert devices_of(bench, half) == ("a",)


def test_a_job_of_several_devices_is_not_starved_by_jobs_of_shares():
    bench = bench_with(8, gpus=("a", "b", "c"))
    halves = bench.give(5, gpus=0.5)
    (both,) = bench.give(1, gpus=2)
    bench.give(9, gpus=0.5)
    go(bench)
    assert running(bench) == [job.dispatch for job in halves]  # what is left of the third device is claimed
    for job in (halves[4], halves[0], halves[1]):
        finish(bench, job)
    go(bench)
    assert both.dispatch in running(bench)
    bench.settle()


def test_an_idle_runner_that_may_hold_memory_of_a_device_ends_before_another_gets_it():
    bench = bench_with(2, gpus=("a",))
    bench.give(1, session=1, gpus=1)
    bench.settle()
    (old,) = bench.models.values()
    (job,) = bench.give(1, session=2, gpus=1)
    assert old.is_closed and list(bench.models.values()) == [old]
    (beside,) = bench.give(1, session=2)
    go(bench)
    assert devices_of(bench, job) == ("a",) and old not in bench.models.values()
    assert running(bench) == [job.dispatch, beside.dispatch]


def test_idle_runners_stay_while_their_shares_fit():
    bench = bench_with(4, gpus=("a",))
    for session in (1, 2, 1, 2):
        bench.give(1, session=session, gpus=0.5)
        bench.settle()
    assert len(bench.models) == 2
    bench.now += 1
    bench.give(1, session=2, gpus=0.5)
    bench.settle()
    bench.give(1, session=3, gpus=0.5)  # the least recently used one ends
    bench.settle()
    assert sorted(model.runner.session for model in bench.models.values()) == [2, 3]


def test_a_device_that_no_idle_runner_holds_is_preferred():
    bench = bench_with(2, gpus=("a", "b"))
    bench.give(1, session=1, gpus=1)
    bench.settle()
    (job,) = bench.give(1, session=2, gpus=1)
    assert devices_of(bench, job) == ("b",)
    (again,) = bench.give(1, session=1, gpus=1)
    assert devices_of(bench, again) == ("a",) and len(bench.models) == 2


# --- pins ---------------------------------------------------------------------------------------


def test_running_jobs_have_cpus_of_their_own_and_a_runner_keeps_its_if_they_are_free():
    bench = bench_with(4)
    bench.slots.pin_runners(range(10, 14), choose)
    pair, *small = bench.give(1, cpus=2) + bench.give(2)
    go(bench)
    assert [bench.model_of(job).runner.cpus for job in (pair, *small)] == [(10, 11), (12,), (13,)]
    finish(bench, small[0])
    finish(bench, pair)
    large, again = bench.give(1, cpus=3) + bench.give(1)
    go(bench)
    assert bench.model_of(large).runner.cpus == (10, 11, 12)
    assert running(bench) == [small[1].dispatch, large.dispatch]
    finish(bench, small[1])
    assert bench.model_of(again).runner.cpus == (13,)
    bench.settle()


# --- lending ------------------------------------------------------------------------------------


def nested(bench, outer_needs, inner_needs, inner=1):
    (outer,) = bench.give(1, session=1, **outer_needs)
    model = bench.run_until(outer)
    bench.slots.on_depth(2, 1)
    model.wait()
    bench.read(model)
    return outer, model, bench.give(inner, session=2, **inner_needs)


def lending_bench(slots, **capacity):
    return LendingBench(slots, capacity=WorkerCapacity(slots, **capacity))


def test_a_waiting_job_lends_its_cpus_and_devices():
    bench = lending_bench(2, gpus=("a",))
    outer, _, (inner,) = nested(bench, {"cpus": 2, "gpus": 1}, {"cpus": 2, "gpus": 1})
    assert devices_of(bench, inner) == ("a",)
    (other,) = bench.give(1, session=3)  # not deeper: it does not get what is lent
    bench.run_until(inner)
    assert not any(other in model.runner.sent for model in bench.models.values())
    model = bench.model_of(inner)
    model.step(bench.on_start)
    bench.read(model)
    assert not any(other in model.runner.sent for model in bench.models.values())
    finish_wait(bench, outer)
    assert bench.ended[outer.dispatch] == "result"
    bench.settle()
    assert bench.ended[other.dispatch] == "result"


def finish_wait(bench, outer):
    model = bench.model_of(outer)
    model.end_wait()
    bench.read(model)
    assert model.resumed == model.serial
    while model.current is outer:
        model.step(bench.on_start)
    bench.read(model)


def test_what_one_job_lends_is_for_all_deeper_ones_and_it_comes_back_when_that_is_free():
    bench = lending_bench(3, cpus=4)
    outer, model, inner = nested(bench, {"cpus": 3}, {"cpus": 2}, inner=3)
    (other,) = bench.give(1, session=3)
    bench.settle(hanging=[outer, *inner])
    assert running(bench) == [outer.dispatch, inner[0].dispatch, inner[1].dispatch]
    model.end_wait()
    bench.read(model)
    finish_in(bench, inner[0])
    assert not model.resumed  # of its three CPUs two are free; they and its slot are kept for it
    assert running(bench) == [outer.dispatch, inner[1].dispatch]
    finish_in(bench, inner[1])
    assert model.resumed == model.serial
    go(bench)
    assert running(bench) == [outer.dispatch]  # the nested job that waits is before the other
    bench.settle()
    assert {bench.ended[job.dispatch] for job in (outer, other, *inner)} == {"result"}


def finish_in(bench, job):
    model = bench.model_of(job)
    while model.current is job:
        model.step(bench.on_start)
    bench.read(model)
    go(bench)


# --- random events ------------------------------------------------------------------------------


def used(bench):
    """What runs, by dimension, from what the processes do."""
    cpus = memory = licences = 0
    shares = {}
    for model in bench.models.values():
        job = model.current
        if job is None or model.is_dead or getattr(model, "waits", "") or getattr(model, "is_hasty", False):
            continue
        options = job.options
        cpus += options.cpus or 1
        memory += options.memory or 0
        licences += dict(options.resources or ()).get("licence", 0)
        gpus = options.gpus or 0
        devices = model.runner.context[3]
        assert len(devices) == (0 if not gpus else max(1, int(gpus)))
        for device in devices:
            shares[device] = shares.get(device, 0) + min(1, gpus)
    return cpus, memory, licences, shares


def choose(count, free, before):
    return tuple(sorted(free, key=lambda cpu: (cpu not in before, cpu)))[:count] if len(free) >= count else ()


class ShapedEvents(Events):
    """Events at a worker with devices, memory and a licence, whose jobs need some of that."""

    def __init__(self, random):
        super().__init__(random)
        self.count = random.choice([1, 2, 4])
        self.capacity = WorkerCapacity(
            self.count,
            cpus=self.count + random.choice([0, 0, 3]),
            memory=random.choice([0, 100]),
            gpus=("a", "b", "c")[: random.randint(0, 3)],
            resources=(("licence", 2),),
        )
        self.bench = self.make_bench(self.bench.max_jobs)
        perform = self.bench.perform
        self.bench.perform = lambda actions: (perform(actions), self.check_devices())

        if random.random() < 0.5:
            self.bench.slots.pin_runners(range(self.capacity.cpus), choose)

    def make_bench(self, max_jobs):
        return Bench(self.count, max_jobs, self.capacity)

    def needs(self, random):
        offers = [
            ("cpus", random.randint(1, self.capacity.cpus)),
            ("memory", random.choice([10, 60, 100])),
            ("resources", {"licence": random.randint(1, 2)}),
        ]
        if self.capacity.gpus:
            offers.append(("gpus", random.choice([0.25, 0.5, 0.75, *range(1, len(self.capacity.gpus) + 1)])))
        return dict(random.sample(offers, random.choice([0, 0, 1, 1, 2, len(offers)])))

    def check_devices(self):
        """Idle processes hold no more of a device than the jobs there leave."""
        for device in self.capacity.gpus:
            held = 0
            for model in self.bench.models.values():
                runner = model.runner
                if device in runner.context[3] and not model.is_dead and not getattr(model, "waits", ""):
                    held += min(UNITS_PER_GPU, runner.needs.gpus)
            assert held <= UNITS_PER_GPU

    def check(self):
        bench, capacity = self.bench, self.capacity
        cpus, memory, licences, shares = used(bench)
        assert cpus <= capacity.cpus and licences <= 2 and all(share <= 1 for share in shares.values())
        assert memory <= (capacity.memory or memory)
        policy = bench.slots
        jobs = [job for job in policy.held.backlog if job.function.is_ready()]
        if jobs and jobs[0].excluded_slot is None and not jobs[0].needs.gpus and not policy.lending.lenders():
            room = policy._allocation.room()
            needs = jobs[0].needs
            amounts = {
                "cpus": needs.cpus,
                "memory": needs.memory,
                "resource licence": dict(needs.resources).get("licence", 0),
            }
            if all(room.free[name] >= amount for name, amount in amounts.items()):
                for slot in policy.pool.idle.values():
                    runner = slot.runners.get(jobs[0].context)
                    rests = slot.backoff_until > bench.now
                    assert rests or (runner is not None and runner.is_dropping), "it could start"
        assert policy.held.by_dispatch.keys() == bench.given - bench.ended.keys()

    def check_end(self):
        self.hanging.clear()
        super().check_end()


class ShapedLendingEvents(ShapedEvents, LendingEvents):
    def make_bench(self, max_jobs):
        return LendingBench(self.count, max_jobs, self.capacity)

    def check_devices(self):
        pass  # a job that waits holds memory of what it lends

    EVENTS = LendingEvents.EVENTS


@pytest.mark.parametrize("events", [ShapedEvents, ShapedLendingEvents])
@pytest.mark.parametrize("seed", range(12))
def test_random_events_with_shapes(events, seed):
    random = Random(seed)
    events = events(random)
    for _ in range(400):
        random.choice(events.EVENTS)(events, random)
        events.check()
    events.check_end()
    assert events.bench.now > 100 + TICK
