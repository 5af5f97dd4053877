"""`options(priority=...)` with real processes: which of the waiting jobs of a client goes first."""

import random

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT, Master, Worker, free_port

import cw


@pytest.fixture(scope="module")
def cluster():
    with cw.mp.allocate(1) as cluster:
        yield cluster


class Order:
    """A slot that is busy until `open`, and the order in which jobs that wait for it have run."""

    def __init__(self, executor, directory):
        self._session = executor._session
        self.path = directory / "order"
        self._gate = directory / "gate"
        mark = directory / "mark"
        executor.submit(jobs.until, self._gate, 0, mark)
        wait_until(mark.exists, LIMIT)

    def open(self, futures, master=None):
        """Let the jobs run. `master`: its address, if all of them must be there before."""
        if master is not None:
            waiting = self._session.jobs
            wait_until(lambda: not waiting.ranked and not waiting._waiting, LIMIT)
            cw.ClusterExecutor(
                master
            ).shutdown()  # it answers a new client after it has read what was sent before
        jobs.mark(self._gate)
        for future in futures:
            future.result(LIMIT)
        return [int(line) for line in self.path.read_text().split()]


@pytest.mark.parametrize("settings", [{}, {"max_workers": 2}])
def test_waiting_jobs_run_in_the_order_of_their_priorities(cluster, tmp_path, settings):
    with cw.ClusterExecutor(cluster.master, **settings) as executor:
        order = Order(executor, tmp_path)
        # With max_workers the first one is at the master already, and the others wait in the client.
        futures = [executor.submit(jobs.append, order.path, "0\n")]
        wait_until(lambda: executor._session.jobs.highest_sent == 2, LIMIT)
        priorities = [0, 3, -1, 7, 0, 3, 10**9, -5, 0]
        for priority in priorities:
            submit = executor.options(priority=priority).submit
            futures.append(submit(jobs.append, order.path, f"{priority}\n"))
        found = order.open(futures, None if settings else cluster.master)
    if settings:
        assert found.pop(0) == 0
        assert found == sorted(priorities, reverse=True)
    else:
        assert found == sorted([0, *priorities], reverse=True)


def test_jobs_of_one_priority_and_a_map_keep_their_order(cluster, tmp_path):
    with cw.ClusterExecutor(cluster.master) as executor:
        order = Order(executor, tmp_path)
        futures = [executor.submit(jobs.append, order.path, f"{n}\n") for n in range(100, 120)]
        urgent = executor.options(priority=1)
        results = urgent.map(jobs.append, [order.path] * 20, [f"{n}\n" for n in range(20)], timeout=LIMIT)
        assert order.open(futures, cluster.master) == [*range(20), *range(100, 120)]
        list(results)
        chunks = urgent.map(jobs.square, range(100), chunksize=7, timeout=LIMIT)
        assert list(chunks) == [n**2 for n in range(100)]


def test_a_job_with_a_priority_can_be_cancelled_while_it_waits(cluster, tmp_path):
    with cw.ClusterExecutor(cluster.master) as executor:
        order = Order(executor, tmp_path)
        futures = [
            executor.options(priority=n).submit(jobs.append, order.path, f"{n}\n") for n in range(-3, 4)
        ]
        assert futures.pop(5).cancel() and futures.pop(0).cancel()
        assert order.open(futures, cluster.master) == [3, 1, 0, -1, -2]


def test_callbacks_and_stores_take_priorities(cluster, tmp_path):
    results = []
    with cw.ClientThread(lambda *args: results.append(args), cluster.master) as thread:
        number = thread.options(priority=5).submit(jobs.square, 3)
        assert thread.options(priority=-5).submit(77, jobs.square, 4) == 77
        thread.wait(LIMIT)
    assert sorted(results) == sorted([(number, 9), (77, 16)])
    for _ in range(2):
        with cw.ClusterExecutor(cluster.master, store=tmp_path / "store") as executor:
            urgent = executor.options(priority=5)
            assert urgent.submit(jobs.square, 5).result(LIMIT) == 25
            assert list(urgent.map(jobs.square, range(9), chunksize=2, timeout=LIMIT)) == [
                n**2 for n in range(9)
            ]


def test_a_master_that_is_restarted_in_the_middle_loses_no_job(tmp_path):
    port, choice = free_port(), random.Random(1)
    with Master("--port", str(port)) as master, Worker(master.address):
        with cw.ClusterExecutor(master.address, reconnect_timeout=LIMIT) as executor:
            order = Order(executor, tmp_path)
            options = [executor.options(priority=priority, retries=1) for priority in (0, 0, 5, -5)]
            futures = [choice.choice(options).submit(jobs.append, order.path, f"{n}\n") for n in range(300)]
            wait_until(lambda: executor._session.jobs.highest_sent, LIMIT)
            master.process.kill()
            with Master("--port", str(port)):
                assert set(order.open(futures)) == set(range(300))
                executor.shutdown()


def test_jobs_with_priorities_alone_survive_a_restart_of_the_master(tmp_path):
    port = free_port()
    with Master("--port", str(port)) as master, Worker(master.address):
        with cw.ClusterExecutor(master.address, reconnect_timeout=LIMIT) as executor:
            urgent, mark = executor.options(priority=5), tmp_path / "mark"
            running = urgent.submit(jobs.until, tmp_path / "gate", "done", mark)
            waiting = [urgent.submit(jobs.square, n) for n in range(5)]
            wait_until(mark.exists, LIMIT)
            mark.unlink()
            master.process.kill()
            with Master("--port", str(port)) as second:
                second.wait_for_event("master.client_back")
                jobs.mark(tmp_path / "gate")
                assert running.result(LIMIT) == "done" and not mark.exists()  # it did not run twice
                assert [future.result(LIMIT) for future in waiting] == [0, 1, 4, 9, 16]
                executor.shutdown()
