"""Why jobs wait that need more than one CPU, in words."""

import time
from collections import Counter

from test_dispatch import OTHER_PY, PY, dispatcher, jobs, known, result
from test_why import cause, why

from cw.master.policy.to_come import ToCome
from cw.master.policy.why import NOTICE_SECONDS, SURE_SECONDS, Cause, Survey, Wait
from cw.observer.demand import PossibleWorker
from cw.requirements import WorkerCapacity


def cluster(*capacities, **options):
    """A policy with these workers, w0 and so on, and a session with a job that has these options."""
    d = dispatcher("s")
    for number, capacity in enumerate(capacities):
        d.on_worker_joined(f"w{number}", capacity, PY)
    d.on_submitted("s", jobs(1, **options))
    return d


def to_come(*capacities, python=PY, seconds=None, notice=""):
    return ToCome(tuple(PossibleWorker(python, capacity, seconds) for capacity in capacities), notice, 1e9)


def host_of(key):
    return f"node{key[1:]}"


def test_the_largest_worker_is_named_if_all_are_too_small():
    d = cluster(WorkerCapacity(2), WorkerCapacity(4), WorkerCapacity(1), cpus=8)
    reason = why(d, host_of=host_of)
    assert reason.cause is Cause.TOO_LARGE
    assert reason.text == "the next job needs 8 CPUs; the best worker, node1, has 4 CPUs"
    d = cluster(WorkerCapacity(2), cpus=8)
    assert why(d, host_of=host_of).text == "the next job needs 8 CPUs; the only worker, node0, has 2 CPUs"


def test_the_best_worker_is_the_one_that_lacks_least():
    many = WorkerCapacity(64, memory="8GB")
    gpu = WorkerCapacity(4, gpus=("0",), memory="32GB", tags="a100")
    d = cluster(many, gpu, cpus=4, gpus=1, memory="40GB", tags="a100")
    text = "the next job needs 4 CPUs, 1 GPU, 40GB of memory and tag a100; the best worker, node1, has 32GB of memory"
    assert why(d, host_of=host_of).text == text
    d = cluster(many, gpu, alternatives=[{"gpus": 2}, {"cpus": 65}])
    assert why(d, host_of=host_of).text.endswith(
        "needs 2 GPUs or 65 CPUs; the best worker, node0, has 64 CPUs"
    )


def test_each_thing_that_no_worker_has_is_named():
    d = cluster(WorkerCapacity(4), resources={"licence": 1})
    assert why(d).text == "the next job needs 1 of licence; the only worker, w0, has no licence"
    d = cluster(WorkerCapacity(4, tags="avx2"), tags="avx512")
    assert why(d).text == "the next job needs tag avx512; the only worker, w0, has no tag avx512"
    d = cluster(WorkerCapacity(4), gpus=0.5)
    assert why(d).text == "the next job needs 0.5 GPU; the only worker, w0, has no GPU"


def test_jobs_on_several_nodes_and_others_have_workers_of_their_own():
    d = cluster(WorkerCapacity(4), nodes=2)
    reason = why(d)
    assert reason.cause is Cause.SEVERAL_NODES
    assert reason.text == "the next job needs 2 nodes; the only worker, w0, has 1 node"
    d = cluster(WorkerCapacity(4), WorkerCapacity(1, 4, nodes=4), nodes=2, cpus=8)
    end = "2 nodes and 8 CPUs; the best worker, w0, has 1 node and 4 CPUs"
    assert why(d).text == f"the next job needs {end}"
    d = cluster(WorkerCapacity(1, nodes=2))
    text = "the next job needs 1 CPU; the only worker, w0, has room for jobs on 2 nodes only"
    assert (cause(d), why(d).text) == (Cause.TOO_LARGE, text)
    assert why(d, to_come=to_come(WorkerCapacity(1))).cause is Cause.TO_COME
    assert why(d, to_come=to_come(WorkerCapacity(1, nodes=3))).cause is Cause.TOO_LARGE
    d.on_worker_joined("one", WorkerCapacity(1), PY)
    assert cause(d) is None
    reason = why(cluster(nodes=2))
    assert (reason.cause, reason.text.endswith(", and the next job needs 2 nodes")) == (
        Cause.SEVERAL_NODES,
        True,
    )


def test_what_never_starts_is_reported_before_what_waits_for_its_turn():
    d = cluster(WorkerCapacity(2), cpus=2)
    d.on_submitted("s", jobs(2, 3))
    assert cause(d) is Cause.OWN_JOBS
    d.on_submitted("s", jobs(4, cpus=3))
    assert cause(d) is Cause.TOO_LARGE


def test_all_kinds_of_jobs_that_never_start_are_named():
    d = cluster(WorkerCapacity(2), cpus=3)
    d.on_submitted("s", jobs(2, gpus=1))
    assert why(d).text.endswith(
        "needs 3 CPUs; the only worker, w0, has 2 CPUs; nor can any run those that need 1 GPU"
    )
    for number in range(3, 7):
        d.on_submitted("s", jobs(number, cpus=number + 1))
    assert why(d).text.endswith("that need 1 GPU or 4 CPUs, and 3 more kinds")


def test_no_worker_at_all_is_another_reason():
    d = cluster(cpus=2)
    assert cause(d) is Cause.NO_WORKER
    d.on_worker_joined("other", WorkerCapacity(8), OTHER_PY)
    assert cause(d) is Cause.OTHER_PYTHON


def test_a_worker_that_a_tender_could_start_is_waited_for():
    d = cluster(WorkerCapacity(2), cpus=8)
    reason = why(d, to_come=to_come(WorkerCapacity(4), WorkerCapacity(16)))
    assert reason.cause is Cause.TO_COME
    assert reason.text == (
        "no worker with 8 CPUs is connected yet: the cluster starts workers as jobs need them"
    )
    reason = why(d, to_come=to_come(WorkerCapacity(16), notice="the cluster is paused"))
    assert reason.text == "no worker with 8 CPUs is connected yet: the cluster is paused"
    assert why(d, to_come=to_come(WorkerCapacity(16), python=OTHER_PY)).cause is Cause.TOO_LARGE
    reason = why(d, to_come=to_come(WorkerCapacity(4)))
    text = "the next job needs 8 CPUs, and the best worker that this cluster can start has 4 CPUs"
    assert (reason.cause, reason.text) == (Cause.TOO_LARGE, text)
    empty = dispatcher("s")
    empty.on_submitted("s", jobs(1))
    reason = why(empty, to_come=to_come(WorkerCapacity(1)))
    assert reason.text == "no worker is connected yet: the cluster starts workers as jobs need them"


def test_a_worker_that_could_come_and_ends_too_soon_is_no_help():
    d = cluster(min_time=60)
    assert why(d, to_come=to_come(WorkerCapacity(1), seconds=60.0)).cause is Cause.TO_COME
    reason = why(d, to_come=to_come(WorkerCapacity(1), seconds=59.0))
    assert reason.cause is Cause.TIME_LEFT and "needs 60 s (min_time)" in reason.text
    d.on_worker_joined("w", WorkerCapacity(1), PY, left=5)
    assert cause(d) is Cause.TIME_LEFT
    assert why(d, to_come=to_come(WorkerCapacity(1))).cause is Cause.TO_COME


def test_workers_that_could_run_it_and_drain_are_named_as_such():
    d = cluster(WorkerCapacity(2), WorkerCapacity(8), cpus=8)
    result(d, "w1", 1)
    d.on_worker_draining("w1")
    d.on_submitted("s", jobs(2, cpus=8))
    assert why(d)[:2] == (Cause.DRAINING, "the only worker with 8 CPUs drains: no job starts there any more")


def test_others_hold_what_the_next_job_needs():
    d = dispatcher("a", "s", "t", w=4)
    d.on_submitted("a", jobs(1, 2, cpus=2))
    d.on_submitted("s", jobs(1, cpus=3))
    reason = why(d, name_of={"a": "client n1:17"}.get)
    text = "the next job needs 3 CPUs, and jobs of other programs hold it: client n1:17 (2)"
    assert (reason.cause, reason.text) == (Cause.BUSY, text)
    d.on_submitted("t", jobs(1))
    assert why(d, "t").text == "jobs of other programs hold all slots or CPUs: a (2)"
    d.on_submitted("a", jobs(3, cpus=4))
    text = "its own jobs hold what the next one needs: 4 CPUs"
    assert why(d, "a")[:2] == (Cause.OWN_JOBS, text)


def test_a_worker_is_reserved_for_the_next_job():
    d = dispatcher("a", "s", "t", w=4)
    d.state.tallies.on_second(100.0)
    d.on_submitted("a", jobs(1, 2, cpus=2, f=known(40.0)))
    d.on_started("w", [1, 2])
    d.state.tallies.on_second(110.0)
    d.on_submitted("s", jobs(1, cpus=3))
    d.on_submitted("t", jobs(1))
    reason = why(d, host_of=lambda key: "node7")
    text = "the next job waits for 3 CPUs on node7, reserved; free in about 30 s"
    assert (reason.cause, reason.text) == (Cause.RESERVED, text)
    d.on_submitted("t", jobs(2, 3, 4))
    result(d, "w", 1)  # 2 CPUs are free; one job of t runs beside 3 CPUs
    reason = why(d, "t")
    text = "what is free is reserved for a job that needs more than one CPU"
    assert (reason.cause, reason.text) == (Cause.RESERVED, text)


def test_a_look_at_many_waiting_clients_and_workers_is_cheap():
    clients = [f"c{number}" for number in range(200)]
    d = dispatcher("first", *clients, **{f"w{number}": 4 for number in range(2000)})
    d.on_submitted("first", jobs(*range(1, 2001), cpus=3))
    for number, key in enumerate(clients):
        d.on_submitted(key, jobs(1, cpus=2 if number % 2 else 5))
    began = time.process_time()
    survey = Survey(d.state)
    found = Counter(survey.why(key).cause for key in clients)
    assert time.process_time() - began < 0.4  # 50 ms; walks of all workers for each client take 1 s
    assert found == {Cause.TOO_LARGE: 100, Cause.RESERVED: 100}


def test_a_client_hears_at_once_of_what_never_starts():
    d = cluster(WorkerCapacity(2), cpus=8)
    wait, reason = Wait(), why(d)
    assert SURE_SECONDS < 1.0 < NOTICE_SECONDS
    assert wait.on_second(10.0, reason, 0) is None
    assert wait.on_second(11.0, reason, 0).cause == "too-large"
    assert wait.on_second(12.0, reason, 5) is None
    d.on_worker_joined("w9", WorkerCapacity(4), PY)
    wait.on_second(13.0, why(d), 5)
    assert "w9, has 4 CPUs" in wait.on_second(14.0, why(d), 5).text
