"""Snapshots of a policy that is in a known state: hand-counted values, and the bounds with very many workers."""

import json
from types import SimpleNamespace

import pytest
from asked import asked

from cw.master.observers.facts import ClientFacts, WorkerFacts
from cw.master.observers.snapshot import MOST_BYTES, Known, encode, key_as_text, make
from cw.master.policy.dispatch import Dispatcher
from cw.master.policy.jobs import Job
from cw.net import messages as m
from cw.net.objects import Object as Function
from cw.observer import model
from cw.observer.model import AmountStatus, CapacityStatus, LostWorker, MasterStatus, Snapshot, from_dict
from cw.requirements import WorkerCapacity

PY = (3, 11)
MASTER = MasterStatus("f" * 32, "login1", 1, "0.2.0", 100.0, "")


class Cluster:
    """A policy, and what the master would know besides."""

    def __init__(self, slots, sessions=(7,), hosts=1000):
        self.policy = Dispatcher()
        self.state = self.policy.state
        self.tallies = self.state.tallies
        self.tallies.on_second(1000.0)
        self.clients, self.workers = {}, {}
        for key in sessions:
            self.policy.on_session_opened(key, PY)
            self.clients[key] = SimpleNamespace(facts=ClientFacts("login1", key, "sim.py", 1000.0))
        for number, count in enumerate(slots):
            key = f"{number:032x}"
            self.policy.on_worker_joined(key, WorkerCapacity(count), PY)
            facts = WorkerFacts(f"node{number}:1", f"node{number % hosts}", 1000.0)
            self.workers[key] = SimpleNamespace(facts=facts)

    def function(self, name, session=7, seconds=None):
        function = Function(1)
        self.tallies.name(session, function.estimate, name)
        if seconds is not None:
            function.estimate.seconds = seconds
        return function

    def submit(self, function, numbers, session=7):
        return self.policy.on_submitted(session, [Job(n, function, None, b"") for n in numbers])

    def end(self, count, status=m.DONE, seconds=1.0):
        """Let the first `count` of the held jobs end."""
        held = [(worker.key, dispatch) for worker in self.state.workers.values() for dispatch in worker.held]
        for key, dispatch in held[:count]:
            self.policy.on_results(key, [dispatch], [status], [seconds], [b""])

    def start(self):
        for worker in self.state.workers.values():
            self.policy.on_started(worker.key, list(worker.held))

    def snapshot(self, why="all slots are busy", losses=()):
        known = Known(MASTER, 5000.0, self.workers, self.clients, losses, lambda key: why)
        return make(self.state, known)


def test_jobs_are_counted_by_client_and_function():
    cluster = Cluster([2, 2], sessions=(7, 8))
    cluster.submit(cluster.function("f"), range(10))
    cluster.end(3)
    cluster.submit(cluster.function("g", session=8), range(5), session=8)
    cluster.end(1, m.ERROR)
    cluster.clients[7].facts.backlog = {"f": 1000, "h": 1}
    seen = cluster.snapshot()
    assert (seen.totals.slots, seen.totals.busy, seen.totals.running) == (4, 4, 4)
    assert (seen.totals.done, seen.totals.failed) == (3, 1)
    assert seen.totals.waiting == 10 + 5 - 4 - 4 + 1001
    names = {
        (one.session, one.name): (one.waiting + one.running, one.done, one.failed) for one in seen.functions
    }
    assert names == {
        (key_as_text(7), "f"): (1006, 3, 1), (key_as_text(7), "h"): (1, 0, 0), (key_as_text(8), "g"): (5, 0, 0)
    }  # fmt: skip
    first, second = seen.clients
    assert (first.session, first.waiting + first.running, first.done, first.failed) == (
        key_as_text(7),
        1007,
        3,
        1,
    )
    assert first.why_waiting == second.why_waiting == "all slots are busy"
    assert first.label == "sim.py on login1, pid 7"


def test_the_time_left_is_judged_by_the_rate_or_by_the_durations():
    cluster = Cluster([2])
    cluster.submit(cluster.function("f"), range(8))
    assert cluster.snapshot().functions[0].seconds_left is None  # none has ended
    cluster.tallies.on_second(1010.0)
    cluster.end(2, seconds=4.0)
    (one,) = cluster.snapshot().functions
    assert (one.waiting, one.running, one.median_seconds, one.p95_seconds) == (4, 2, 4.0, 4.0)
    assert one.seconds_left == pytest.approx(4.0 * (4 / 2 + 0.5))
    cluster.submit(one_more := cluster.function("f"), range(8, 108))
    for _ in range(50):
        cluster.end(1, seconds=0.2)
    cluster.tallies.on_second(1020.0)
    (one,) = cluster.snapshot().functions
    assert one_more.estimate.tally.ended == 52 and one.rate_1min == pytest.approx(52 / 20)
    assert one.seconds_left == pytest.approx((one.waiting + one.running) / (52 / 20))


def test_the_jobs_that_run_for_longest_come_first():
    cluster = Cluster([1, 1, 1])
    f = cluster.function("f")
    for number in range(3):
        cluster.tallies.on_second(1000.0 + 10 * number)
        cluster.submit(f, [number])
        cluster.start()
    cluster.tallies.on_second(1030.0)
    assert [(one.number, one.seconds) for one in cluster.snapshot().running] == [
        (0, 30.0),
        (1, 20.0),
        (2, 10.0),
    ]
    cluster.end(1)
    seen = cluster.snapshot().running
    assert [(one.number, one.host, one.client) for one in seen] == [
        (1, "node1", "sim.py on login1, pid 7"), (2, "node2", "sim.py on login1, pid 7")
    ]  # fmt: skip
    assert len(cluster.tallies.started) == 2


def test_failures_come_with_their_lines_and_times():
    cluster = Cluster([1])
    cluster.submit(cluster.function("f"), range(3))
    cluster.end(1, m.ERROR)
    cluster.tallies.on_error_lines(7, 0, "ValueError: a", "b")
    cluster.tallies.on_second(1030.0)
    cluster.end(1, m.TIMEOUT)
    later, earlier = cluster.snapshot().failures
    assert (earlier.number, earlier.first, earlier.last, earlier.at, earlier.host) == (
        0, "ValueError: a", "b", 4970.0, "node0"
    )  # fmt: skip
    assert (later.number, later.first, later.at) == (1, "", 5000.0)


def test_an_observer_stops_jobs_that_run_or_wait():
    cluster = Cluster([1])
    cluster.submit(cluster.function("f"), range(3))
    dispatch = next(iter(cluster.state.workers["0" * 32].held))
    stop, lost = cluster.policy.on_stopped(7, 0, "anna on login1")
    assert stop.message == m.Stop([dispatch]) and lost.is_stopped and lost.number == 0
    (lost,) = cluster.policy.on_stopped(7, 2, "anna on login1")
    assert (lost.number, lost.reason) == (2, "anna on login1")
    assert cluster.policy.on_stopped(7, 2, "anna") == cluster.policy.on_stopped(9, 1, "anna") == []
    assert list(cluster.state.open_jobs(7)) == [1]
    assert cluster.snapshot().totals.failed == 2
    cluster.policy.check_invariants()


def test_a_snapshot_is_what_observers_read():
    cluster = Cluster([2, 2])
    cluster.submit(cluster.function("f"), range(10))
    cluster.start()
    cluster.end(2, m.ERROR)
    seen = cluster.snapshot(losses=[LostWorker("node9:1", "", "silent for 30 s", 4000.0)])
    assert from_dict(Snapshot, json.loads(encode(seen))) == seen


def shaped_cluster():
    """Two workers; on the first, a job of 3 CPUs and one of half a GPU and a licence run."""
    cluster = Cluster([], sessions=(7, 8))
    has = {"memory": "64GB", "gpus": ("0", "1"), "resources": {"licence": 2}, "tags": ("fast", "big")}
    for number, capacity in enumerate([WorkerCapacity(8, **has), WorkerCapacity(2)]):
        cluster.policy.on_worker_joined(f"{number:032x}", capacity, PY)
        facts = WorkerFacts(f"node{number}:1", f"node{number}", 1000.0)
        cluster.workers[f"{number:032x}"] = SimpleNamespace(facts=facts)
    asks = [
        {"cpus": 3, "memory": "4GB"},
        {"gpus": 0.5, "resources": {"licence": 1}},
        {"cpus": 9},
        {"cpus": 9},
    ]
    f = cluster.function("f")
    for number, options in enumerate(asks):
        cluster.policy.on_submitted(7, [Job(number, f, asked(**options), b"")])
    return cluster


def test_what_jobs_need_and_take_is_shown():
    seen = shaped_cluster().snapshot()
    rows = {one.needs: (one.waiting, one.running, one.clients, one.python) for one in seen.shapes}
    assert rows == {
        "3 CPUs, 4GB of memory": (0, 1, 1, "3.11"), "0.5 GPU, 1 of licence": (0, 1, 1, "3.11"),
        "9 CPUs": (2, 0, 1, "3.11"),
    }  # fmt: skip
    first, second = seen.workers
    licence = AmountStatus("licence", 2, 1)
    assert first.capacity == CapacityStatus(8, 4, 2, 0.5, 64 * 10**9, 4 * 10**9, (licence,), "big fast")
    assert second.capacity == CapacityStatus(2, 0, 0, 0.0, None, 0, (), "")
    assert seen.totals.capacity == CapacityStatus(10, 4, 2, 0.5, None, 4 * 10**9, (licence,), "")
    assert [host.capacity.cpus_used for host in seen.hosts] == [4, 0]
    assert (seen.totals.running, seen.totals.waiting, first.busy, first.ahead) == (2, 2, 2, 0)
    assert from_dict(Snapshot, json.loads(encode(seen))) == seen


def test_where_all_jobs_need_one_cpu_there_is_nothing_more_to_see():
    cluster = Cluster([2, 2])
    cluster.submit(cluster.function("f"), range(10))
    seen = cluster.snapshot()
    assert seen.shapes == () and seen.totals.capacity == CapacityStatus(4, 4, 0, 0.0, None, 0, (), "")
    ended = shaped_cluster()
    ended.policy.on_cancelled(7, list(range(4)))
    for worker in list(ended.state.workers.values()):
        ended.policy.on_returned(worker.key, list(worker.held))
    assert ended.snapshot().shapes == ()


@pytest.fixture(scope="module")
def large():
    """A cluster of 10,000 workers on as many hosts, with work ahead, and clients with jobs of many functions."""
    cluster = Cluster([1] * 10_000, sessions=range(1, 61), hosts=10**6)
    for key in range(1, 61):
        functions = [cluster.function(f"function_of_a_long_name_{n}", session=key) for n in range(10)]
        for place, function in enumerate(functions):
            cluster.submit(function, range(place * 500, place * 500 + 500), session=key)
    for worker in cluster.state.workers.values():
        worker.recent.add(1, 1000.0)
    for peer in cluster.workers.values():
        peer.facts.on_heartbeat(m.Heartbeat(7.5, 2**30))
    cluster.start()
    return cluster


def test_ten_thousand_workers_are_summed_up_within_the_bound(large):
    seen = large.snapshot()
    data = encode(seen)
    assert len(data) < MOST_BYTES
    assert from_dict(Snapshot, json.loads(data)) == seen
    assert seen.workers == () and len(seen.hosts) == model.HOSTS and len(seen.running) == model.RUNNING
    assert seen.hosts[-1].host == "9701 more hosts"
    assert sum(host.workers for host in seen.hosts) == seen.totals.workers == 10_000
    assert sum(host.busy for host in seen.hosts) == seen.totals.busy == seen.totals.running == 10_000
    assert seen.totals.waiting == 300_000 - 10_000


def test_texts_that_are_too_long_cost_entries_and_not_the_bound(large):
    for peer in large.clients.values():
        peer.facts.host = peer.facts.program = "ü" * 1000
    for peer in large.workers.values():
        peer.facts.host = peer.facts.host.ljust(900, "x")
    seen = large.snapshot(why="w" * 1000)
    data = encode(seen)
    assert len(data) <= MOST_BYTES
    assert from_dict(Snapshot, json.loads(data)).totals == seen.totals
