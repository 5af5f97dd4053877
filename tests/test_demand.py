"""What jobs ask of a cluster, for its tender: hand-counted values, the wire, and a real master's answer."""

import json
import time

import jobs
import pytest
from asked import asked
from conftest import wait_until
from test_snapshot import PY, Cluster

import cw
from cw.errors import ProtocolError
from cw.launch import status_client
from cw.master.observers import demand as demanded
from cw.master.policy.jobs import Job
from cw.master.policy.to_come import NOTHING, ToCome
from cw.needs import ONE_CPU, UNITS_PER_GPU, Needs
from cw.net import address
from cw.net import messages as m
from cw.observer.demand import Demand, PossibleWorker, ShapeDemand
from cw.requirements import WorkerCapacity


def ask(cluster, now=1000.0):
    """The answer as it arrives."""
    demand = demanded.demand(cluster.state, cluster.clients, cluster.workers, "f" * 32, now)
    arrived = Demand.from_wire(json.loads(json.dumps(demand.to_wire())))
    assert arrived == demand
    return arrived


def submit(cluster, function, numbers, session=7, **options):
    options = asked(**options)
    cluster.policy.on_submitted(session, [Job(n, function, options, b"") for n in numbers])


def test_jobs_are_counted_by_what_they_need():
    cluster = Cluster([2], sessions=(7, 8))
    f = cluster.function("f")
    submit(cluster, f, range(10))
    submit(cluster, f, range(10, 30), min_time=60)
    submit(cluster, cluster.function("g", 8), range(5), 8)
    submit(cluster, cluster.function("h", 8), [5], 8, priority=1)
    answer = ask(cluster)
    assert (answer.clients, answer.settling) == (2, 0)
    assert answer.shapes == (
        ShapeDemand(PY, (ONE_CPU,), 0.0, 14, 2, 2, None, None),
        ShapeDemand(PY, (ONE_CPU,), 60.0, 20, 0, 1, None, None),
    )


def test_what_a_job_needs_is_named():
    cluster = Cluster([])
    needs = {"cpus": 4, "gpus": 0.5, "memory": "8GB", "resources": {"licence": 1}, "tags": "avx512"}
    submit(cluster, cluster.function("f"), range(3), **needs)
    (shape,) = ask(cluster).shapes
    assert shape.needs == (Needs(4, UNITS_PER_GPU // 2, 8 * 10**9, (("licence", 1),), ("avx512",)),)
    assert (shape.waiting, shape.running) == (3, 0)


def test_cancelled_jobs_ask_for_nothing():
    cluster = Cluster([1])
    submit(cluster, cluster.function("f"), range(20))
    cluster.policy.on_cancelled(7, list(range(20)))
    assert ask(cluster).shapes == ()


def test_durations_are_those_of_the_functions_whose_jobs_are_open():
    cluster = Cluster([1])
    slow, quick, new = (cluster.function(name) for name in ("slow", "quick", "new"))
    submit(cluster, quick, range(2))
    cluster.end(1, seconds=1.0)
    cluster.end(1, seconds=1.0)
    submit(cluster, slow, range(2, 4))
    cluster.end(1, seconds=10.0)
    cluster.end(1, seconds=20.0)
    submit(cluster, quick, range(10, 16))
    submit(cluster, slow, range(16, 18))
    (shape,) = ask(cluster).shapes
    assert (shape.waiting, shape.running) == (7, 1)
    assert shape.median_seconds == 1.0
    assert shape.mean_seconds == pytest.approx((6 * 1.0 + 2 * 15.0) / 8)
    submit(cluster, new, range(20, 28))
    (shape,) = ask(cluster).shapes
    assert (shape.waiting, shape.median_seconds, shape.mean_seconds) == (15, None, None)  # of half, not known


def test_what_a_client_holds_back_is_counted_if_it_has_sent_what_it_may():
    cluster = Cluster([1])
    f, g = cluster.function("f"), cluster.function("g")
    submit(cluster, f, range(demanded.FULL - 2))
    cluster.clients[7].facts.backlog = {"f": 900_000, "g": 300}
    assert ask(cluster).shapes[0].waiting == demanded.FULL - 3
    submit(cluster, f, [10_000], min_time=60)
    submit(cluster, g, [10_001], min_time=60)
    plain, long = ask(cluster).shapes
    assert plain.waiting + long.waiting == pytest.approx(900_300 + demanded.FULL - 1, rel=0.001)
    assert 300 < long.waiting < 600  # all of g, and its part of f


def test_jobs_of_an_unknown_place_are_counted_apart():
    cluster = Cluster([1])
    cluster.policy.on_session_resumed(7)
    cluster.policy.on_resubmitted(7, [Job(1, cluster.function("f"), None, b"")], False)
    answer = ask(cluster)
    assert (answer.settling, answer.shapes) == (1, ())


def test_workers_say_for_how_long_they_have_been_idle():
    cluster = Cluster([1, 1])
    cluster.submit(cluster.function("f"), range(2))
    first, second = (peer.facts for peer in cluster.workers.values())

    def tick(now):
        for key, worker in cluster.state.workers.items():
            cluster.workers[key].facts.on_second(now, len(worker.held), worker.recent.total)

    tick(1010.0)
    assert [worker.idle_seconds for worker in ask(cluster, 1010.5).workers] == [0.0, 0.0]
    cluster.end(1)
    tick(1011.0)  # it has ended since the last second
    tick(1012.0)
    first_seen, second_seen = ask(cluster, 1013.0).workers
    assert (first_seen.idle_seconds, first_seen.busy) == (2.0, 0)
    assert (second_seen.idle_seconds, second_seen.busy, second_seen.age) == (0.0, 1, 13.0)
    assert first_seen.capacity == WorkerCapacity(1) and first_seen.host == first.host
    second.ends_at = 1100.0
    assert [worker.seconds_left for worker in ask(cluster, 1013.0).workers] == [None, 87.0]


def test_a_million_jobs_and_ten_thousand_workers_take_milliseconds():
    cluster = Cluster([1] * 10_000)
    submit(cluster, cluster.function("f"), range(200_000))
    submit(cluster, cluster.function("g"), range(200_000, 300_000), priority=1)
    began = time.process_time()
    answer = demanded.demand(cluster.state, cluster.clients, cluster.workers, "f" * 32, 1000.0)
    assert time.process_time() - began < 0.5  # 30 ms on a quiet machine
    (shape,) = answer.shapes
    assert shape.running == pytest.approx(10_000, rel=0.01)
    assert shape.waiting == pytest.approx(290_000, rel=0.01)


def test_what_is_no_demand_is_refused():
    good = ask(Cluster([1])).to_wire()
    for name, value in [
        ("shapes", 3),
        ("workers", [[]]),
        ("clients", -1),
        ("settling", "x"),
        ("ident", None),
    ]:
        with pytest.raises(ProtocolError):
            Demand.from_wire({**good, name: value})
    for kind in ([], None, [[3, 11], {"slots": 0}, None], [[3, 11], {"slots": 1}, -1.0]):
        with pytest.raises(ProtocolError):
            PossibleWorker.from_wire(kind)


def test_workers_that_may_come_are_believed_for_a_while():
    kind = PossibleWorker(PY, WorkerCapacity(8, memory="64GB", gpus=("0", "1")), 3600.0)
    message = m.WorkersToCome(
        [json.loads(json.dumps(kind.to_wire()))], 60.0, "the cluster is paused", "no job follows"
    )
    to_come = ToCome.of(message, 1000.0)
    assert to_come.at(1059.0) == ToCome((kind,), "the cluster is paused", "no job follows", 1060.0)
    assert to_come.at(1060.0) is NOTHING


def test_a_real_master_answers_its_tender(cluster, tmp_path):
    candidates = address.find_master(cluster.master)
    with cw.ClusterExecutor(cluster.master) as executor:
        futures = [executor.submit(jobs.until, tmp_path / "gate") for _ in range(5)]
        kind = PossibleWorker(PY, WorkerCapacity(8))
        to_come = m.WorkersToCome([kind.to_wire()], 60.0, "", "")
        answer = wait_until(
            lambda: (
                (found := status_client.ask_demand(candidates, to_come))
                and sum(shape.waiting + shape.running for shape in found.shapes) == len(futures)
                and found
            ),
            30,
        )
        (shape,) = answer.shapes
        assert (shape.needs, shape.waiting, shape.running, shape.sessions) == ((ONE_CPU,), 3, 2, 1)
        assert [(worker.capacity.slots, worker.busy) for worker in answer.workers] == [(2, 2)]
        assert (answer.clients, answer.where) == (1, cluster.master)
        (tmp_path / "gate").touch()
        assert len([future.result(30) for future in futures]) == 5
    wait_until(lambda: status_client.ask_demand(candidates).clients == 0, 30)
