"""Jobs of random shapes on a cluster that comes and goes: nothing that a worker has is given twice, no job waits while
a worker has room that nobody keeps, and none waits longer than what ran when it reserved.

The policy is the real one; time is simulated. A modelled worker starts what it holds in order, as far as it has room.
"""

import heapq
import itertools
import math
from random import Random

import pytest
from asked import asked
from test_dispatch import PY

from cw.master.policy.actions import Assign, GiveUp, SendToWorker
from cw.master.policy.dispatch import Dispatcher
from cw.master.policy.fit import could_run
from cw.master.policy.jobs import Job
from cw.master.policy.placement import age
from cw.master.policy.placing import room_at
from cw.master.policy.taken import Place, Use
from cw.net import messages as m
from cw.net.objects import Object
from cw.requirements import WorkerCapacity

LATENCY = 0.0005
TICK = 0.02


class ModelWorker:
    """A worker that starts the jobs that it holds in order, as far as it has room for them."""

    def __init__(self, cluster, key, capacity):
        self.cluster, self.key, self.capacity = cluster, key, capacity
        self.use = Use(capacity)
        self.backlog = {}  # by dispatch: job, what it runs as
        self.running = {}  # by dispatch: job, place
        self.is_draining = False

    def take(self, job, choice):
        needs = job.queue.shape.choices[choice]
        assert needs.nodes == self.capacity.nodes
        self.backlog[job.dispatch] = job, needs
        self.start()

    def start(self):
        for dispatch, (job, needs) in list(self.backlog.items()):
            slots, cpus = self.capacity.slots - self.use.slots, self.capacity.cpus - self.use.cpus
            devices = self.use.place(needs, slots, cpus)
            if devices is None or self.is_draining:
                continue
            del self.backlog[dispatch]
            self.running[dispatch] = job, Place(needs, devices=devices)
            self.use.add(self.running[dispatch][1])
            self.check()
            self.cluster.on_start(self, dispatch, job)

    def check(self):
        """What runs never needs more than the worker has."""
        capacity = self.capacity
        assert self.use.slots <= capacity.slots and self.use.cpus <= capacity.cpus
        assert not capacity.memory or self.use.memory <= capacity.memory
        assert all(self.use.resources[name] <= amount for name, amount in capacity.resources)
        assert all(shares >= 0 for shares in self.use.shares)

    def end(self, dispatch):
        if dispatch in self.running:
            job, place = self.running.pop(dispatch)
            self.use.add(place, -1)
            self.start()
            return job
        return None

    def give_back(self, dispatches):
        found = [dispatch for dispatch in dispatches if self.backlog.pop(dispatch, None) is not None]
        self.start()
        return found


class Cluster:
    """The policy, modelled workers and clients, and a clock."""

    def __init__(self, seed, durations=(0.01, 3.0)):
        self.random = Random(seed)
        self.now = 0.0
        self.events, self.order = [], itertools.count()
        self.d = Dispatcher()
        self.workers = {}
        self.numbers = itertools.count(1)
        self.waiting = {}  # by (session, number), since when
        self.ended = set()
        self.seconds = {}  # by job: how long it takes
        self.functions = {}
        self.low, self.high = durations
        self.submitted = set()
        self.reserved = {}  # by session: worker, job number and reservation; when the job must have started
        self.names = itertools.count(1)
        self.ticks = False

    def at(self, seconds, action, *args):
        heapq.heappush(self.events, (self.now + seconds, next(self.order), action, args))

    def run(self, until=math.inf):
        while self.events and self.events[0][0] <= until:
            self.now, _, action, args = heapq.heappop(self.events)
            self.d.state.tallies.now = self.now
            action(*args)
            self.check()
        self.now = max(self.now, until) if until < math.inf else self.now

    def perform(self, actions):
        for action in actions:
            if type(action) is Assign:
                for job in action.jobs:
                    self.at(LATENCY, self.receive, action.worker, job, job.place.choice if job.place else 0)
            elif type(action) is SendToWorker:
                self.at(LATENCY, self.order_to, action.worker, action.message)
            elif type(action) is GiveUp:
                self.ended.add((action.session, action.number))
        if self.d.wants_tick() and not self.ticks:
            self.ticks = True
            self.at(TICK, self.tick)

    def tick(self):
        self.ticks = False
        self.perform(self.d.on_tick())

    # --- workers ---

    def join(self, capacity):
        key = f"w{next(self.names)}"
        self.workers[key] = ModelWorker(self, key, capacity)
        self.perform(self.d.on_worker_joined(key, capacity, PY))
        return key

    def receive(self, key, job, choice):
        if (
            key in self.workers
            and key in self.d.state.workers
            and job.worker is not None
            and job.worker.key == key
        ):
            worker = self.workers[key]
            if worker.is_draining:
                self.perform(self.d.on_returned(key, [job.dispatch]))
            else:
                worker.take(job, choice)

    def order_to(self, key, message):
        worker = self.workers.get(key)
        if worker is None or key not in self.d.state.workers:
            return
        if type(message) is m.Recall:
            self.perform(
                self.d.on_recalled(key, worker.give_back(list(worker.backlog)[::-1][: message.count]))
            )
        elif type(message) is m.TakeBack:
            self.perform(self.d.on_returned(key, worker.give_back(message.dispatches)))
        elif type(message) is m.Stop:
            gone = [dispatch for dispatch in message.dispatches if worker.end(dispatch) is not None]
            self.perform(self.d.on_returned(key, gone + worker.give_back(message.dispatches)))

    def on_start(self, worker, dispatch, job):
        self.waiting.pop((job.session.key, job.number), None)
        self.at(LATENCY, self.tell_started, worker.key, dispatch)
        self.at(self.seconds[job.session.key, job.number], self.finish, worker.key, dispatch)

    def tell_started(self, key, dispatch):
        if key in self.d.state.workers:
            self.perform(self.d.on_started(key, [dispatch]))

    def finish(self, key, dispatch):
        worker = self.workers.get(key)
        job = worker.end(dispatch) if worker is not None else None
        if job is not None and key in self.d.state.workers:
            seconds = self.seconds[job.session.key, job.number]
            self.ended.add((job.session.key, job.number))
            self.perform(self.d.on_results(key, [dispatch], [0], [seconds], [b""]))

    def drain(self, key):
        worker = self.workers[key]
        worker.is_draining = True
        self.perform(self.d.on_worker_draining(key))
        self.perform(self.d.on_returned(key, worker.give_back(list(worker.backlog))))

    def lose(self, key):
        worker = self.workers.pop(key)
        for job, _ in worker.running.values():
            self.waiting[job.session.key, job.number] = self.now
        self.perform(self.d.on_worker_lost(key, {"how": "lost"}))

    # --- clients ---

    def open(self, key):
        self.d.on_session_opened(key, PY)

    def submit(self, key, count=1, name="f", **options):
        function = self.functions.setdefault((key, name), Object(len(self.functions) + 1))
        made = []
        for _ in range(count):
            job = Job(next(self.numbers), function, asked(**options), b"")
            self.seconds[key, job.number] = self.random.uniform(self.low, self.high)
            if "timeout" in options:
                self.seconds[key, job.number] = min(self.seconds[key, job.number], options["timeout"])
            self.waiting[key, job.number] = self.now
            self.submitted.add((key, job.number))
            made.append(job)
        self.perform(self.d.on_submitted(key, made))
        return [job.number for job in made]

    # --- what must be true ---

    def check(self):
        self.d.check_invariants()
        for worker in self.d.state.workers.values():
            slots, cpus = worker.free()
            assert slots >= 0 and cpus >= 0
            if worker.shaped is not None:
                assert all(shares >= 0 for shares in worker.shaped.use.shares)
                assert not worker.capacity.memory or worker.shaped.use.memory <= worker.capacity.memory
        self.check_reservations()

    def check_reservations(self):
        """A job starts at the latest when all has ended that ran at the worker that keeps room for it."""
        seen = {}
        for pool in self.d.state.pools.values():
            for session, (worker, _) in pool.reserved.items():
                queues = sorted((queue for queue in session.queues.values() if queue.head()), key=age)
                if not queues or worker.reservation.needs not in queues[0].shape.choices:
                    continue  # older jobs of the same session go first
                number = queues[0].head().number
                name = worker.key, number, worker.reservation
                # One that was lost elsewhere may have gone first since.
                older = {
                    d for d, job in worker.held.items() if job.session is session and job.number < number
                }
                known = self.reserved.get(session.key)
                is_known = known is not None and known[0] == name and older <= known[2]
                bound = known[1] if is_known else self.end_of_running(worker)
                assert self.now <= bound + 0.1
                seen[session.key] = name, bound, older
        self.reserved = seen

    def end_of_running(self, worker):
        ends = [
            when for when, _, action, args in self.events if action == self.finish and args[0] == worker.key
        ]
        started = self.workers[worker.key].running
        ends += [
            self.now + self.seconds[job.session.key, job.number]
            for dispatch, job in worker.held.items()
            if dispatch not in started
        ]
        expected = worker.reservation.room_at
        return max([*ends, self.now, expected if expected < math.inf else 0.0])


CAPACITIES = [
    WorkerCapacity(1), WorkerCapacity(4), WorkerCapacity(4, 8, 16), WorkerCapacity(8, 8, 64, ("0", "1")),
    WorkerCapacity(2, 16, 32, ("0",), (("licence", 2),), ("x",)), WorkerCapacity(4, ends_idle=True),
    WorkerCapacity(1, 4, nodes=2),
]  # fmt: skip


def options_at_random(random):
    wanted = {}
    for name, values in {
        "cpus": [None, 1, 2, 3, 4, 8, 16], "gpus": [None] * 5 + [0.25, 0.5, 1, 2],
        "memory": [None] * 4 + [4, 8, 16, 60],
        "resources": [None] * 6 + [{"licence": 1}, {"licence": 2}], "tags": [None] * 8 + ["x"],
        "timeout": [None] * 3 + [0.5, 5.0], "nodes": [None] * 5 + [1, 2, 3],
    }.items():  # fmt: skip
        if random.random() < 0.4 and (value := random.choice(values)) is not None:
            wanted[name] = value
    if random.random() < 0.1:
        wanted["alternatives"] = [{"gpus": 1}, {"cpus": random.choice([2, 4])}]
    return wanted if random.random() < 0.7 else {}


def one_event(cluster, random, events):
    d = cluster.d
    event = random.choice(events)
    alive = [key for key in cluster.workers if not cluster.workers[key].is_draining]
    if event == "submit":
        name = random.choice("fgh")
        session = random.choice(list(d.state.sessions))
        cluster.submit(session, random.choice([1, 1, 2, 5]), name, **options_at_random(random))
    elif event == "join" and len(alive) < 8:
        cluster.join(random.choice(CAPACITIES))
    elif event == "drain" and len(alive) > 2:
        cluster.drain(random.choice(alive))
    elif event == "lose" and len(alive) > 2:
        cluster.lose(random.choice(alive))
    elif event == "cancel" and cluster.waiting:
        session, number = random.choice(list(cluster.waiting))
        if number in d.state.open_jobs(session):
            cluster.ended.add((session, number))
            cluster.waiting.pop((session, number))
            cluster.perform(d.on_cancelled(session, [number]))
    elif event == "block":
        session = random.choice(list(d.state.sessions))
        is_blocked = d.state.sessions[session].is_blocked
        cluster.perform(d.on_blocked(session, not is_blocked))
    cluster.check()


FAULTS = ["submit"] * 12 + ["join", "join", "drain", "lose", "cancel", "block", "block"]


def play(seed, events, durations=(0.01, 3.0), length=150):
    random = Random(seed)
    cluster = Cluster(seed, durations)
    for key in "s", "t", "u":
        cluster.open(key)
    for capacity in CAPACITIES:
        cluster.join(capacity)
    for _ in range(length):
        cluster.run(cluster.now + random.expovariate(4))
        one_event(cluster, random, events)
    for key, session in cluster.d.state.sessions.items():
        if session.is_blocked:
            cluster.perform(cluster.d.on_blocked(key, False))
    for capacity in CAPACITIES:
        cluster.join(capacity)
    cluster.run()
    return cluster


@pytest.mark.parametrize("seed", range(2))
def test_all_jobs_run_though_workers_come_and_go(seed):
    cluster = play(seed, FAULTS)
    impossible = {
        (key, job.number)
        for key, session in cluster.d.state.sessions.items()
        for job in session.jobs.values()
        if not any(
            could_run(worker, needs)
            for worker in cluster.d.state.workers.values()
            for needs in job.queue.shape.choices
        )
    }
    assert cluster.submitted - cluster.ended == impossible


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_jobs_of_many_seeds_run():
    for seed in range(100, 140):
        test_all_jobs_run_though_workers_come_and_go(seed)


def test_a_wide_job_is_not_starved_by_narrow_ones_that_never_end_to_come():
    cluster = Cluster(1, (0.5, 1.5))
    for key in "wide", "narrow":
        cluster.open(key)
    for _ in range(3):
        cluster.join(WorkerCapacity(8))
    cluster.submit("narrow", 24)
    cluster.run(1.0)
    cluster.submit("wide", 1, cpus=8)
    longest = 0.0
    while cluster.waiting.keys() & {("wide", number) for number in cluster.d.state.open_jobs("wide")}:
        cluster.submit("narrow", 3)
        cluster.run(cluster.now + 0.1)
        longest = cluster.now - 1.0
        assert longest < 3.0
    assert longest > 0.3


def test_the_estimate_of_when_a_worker_has_room_counts_what_runs():
    cluster = Cluster(1)
    cluster.open("s")
    key = cluster.join(WorkerCapacity(4, gpus=("0",)))
    for name, seconds in ("f", 5.0), ("g", 20.0):
        cluster.functions["s", name] = Object(1)
        cluster.functions["s", name].estimate.seconds = seconds
    cluster.submit("s", 1, "f", cpus=2)
    cluster.submit("s", 1, "g", gpus=1)
    cluster.submit("s", 1, "h", timeout=60)
    worker = cluster.d.state.workers[key]
    started = dict.fromkeys(worker.held, (key, -1.0))
    needs = [asked(cpus=2), asked(cpus=3, gpus=1), asked(cpus=4)]
    assert [room_at(worker, each.options.needs, started, 0.0) for each in needs] == [4.0, 19.0, 59.0]
