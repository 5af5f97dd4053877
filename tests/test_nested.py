"""Jobs that wait for jobs of their own, on real processes: they end on any number of slots, or it is said why not."""

import contextlib
import logging
import os
import signal
import time

import jobs
import nesting
import pytest
from conftest import wait_until
from programs import LIMIT, Master, Worker, children_of, free_port, run_script, worker_of

import cw
from cw import nested

HELD = "all slots are held by jobs that wait for jobs of their own"


@pytest.fixture(scope="module")
def one_slot():
    with cw.mp.allocate(1) as cluster, cw.ClusterExecutor(cluster.master) as executor:
        yield cluster, executor


@pytest.fixture
def executor(one_slot):
    executor = one_slot[1]
    yield executor
    for job in executor._session.jobs.all():  # what a failed test has left
        executor.kill(job.tag)


def runners_of(cluster):
    return [pid for keeper in children_of(worker_of(cluster)) for pid in children_of(keeper)]


def pid_of(path):
    wait_until(path.exists, LIMIT)
    return int(path.read_text())


@pytest.mark.parametrize("way", nesting.WAYS, ids=lambda way: way.__name__)
def test_a_job_on_the_only_slot_waits_for_jobs_of_its_own(way, executor):
    futures = [executor.submit(nesting.squares, way, 5) for _ in range(2)]
    assert [future.result(LIMIT) for future in futures] == [30, 30]


@pytest.mark.parametrize(
    ("slots", "depth"),
    [(1, 1), (1, 3), (2, 2)]
    + [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [(1, 2), (1, 4), (2, 3), (2, 4), (3, 3), (3, 4)]
    ],
)
def test_trees_of_jobs_end_on_few_slots_with_a_process_for_each_depth(slots, depth):
    with cw.mp.allocate(slots), cw.ClusterExecutor() as executor:
        assert executor.submit(nesting.tree, depth).result(2 * LIMIT) == 2**depth
        most = executor.submit(nesting.most_processes, depth).result(2 * LIMIT)
        assert most >= depth + 1
        if slots == 1:
            assert most == depth + 1


@pytest.mark.slow
def test_as_many_waiting_jobs_as_slots_and_more(cluster):
    with cw.ClusterExecutor() as executor:
        futures = [
            executor.submit(nesting.tree, 2, way) for way in (nesting.by_result, nesting.by_as_completed) * 2
        ]
        assert [future.result(2 * LIMIT) for future in futures] == [4] * 4


def test_who_has_its_result_is_next(executor):
    assert executor.submit(nesting.next_in_turn).result(LIMIT) <= 2  # and one that began meanwhile


def test_a_timeout_returns_at_once_though_the_slot_is_in_use(executor, tmp_path):
    took, value = executor.submit(nesting.impatient, tmp_path).result(LIMIT)
    assert 0.5 <= took < LIMIT / 2 and value == "long"


def test_a_slot_is_not_lent_to_those_who_are_not_deeper(executor, tmp_path):
    outer = executor.submit(nesting.hold_inside, tmp_path, "inner", {})
    pid_of(tmp_path / "inner")
    other = executor.submit(jobs.square, 3)
    jobs.note(tmp_path / "go-inner")
    assert outer.result(LIMIT) == "inner"
    assert other.result(LIMIT) == 9
    assert len([name for name in os.listdir(tmp_path) if name.startswith("outer")]) == 1


def test_who_waits_for_jobs_of_another_cluster_lends_nothing_here(executor, tmp_path):
    future = executor.submit(nesting.elsewhere, tmp_path)
    jobs.note(tmp_path / "go")
    began_here, ended_there = future.result(2 * LIMIT)
    assert began_here > ended_there


# --- who does not lend ------------------------------------------------------------------------


@pytest.mark.slow  # it is told after seconds
def test_with_lend_false_the_slot_is_held_and_the_clients_are_told(cluster, tmp_path, caplog):
    with cw.ClusterExecutor() as executor:
        held = [
            executor.submit(nesting.hold_inside, tmp_path, f"inner{n}", {"lend": False}) for n in range(2)
        ]
        wait_until(lambda: HELD in caplog.text, LIMIT)
        assert not list(tmp_path.glob("inner*"))
        for future in held:
            executor.kill(future)
        assert executor.submit(jobs.square, 3).result(LIMIT) == 9
    told = [getattr(record, "cw_job", None) for record in caplog.records if HELD in record.getMessage()]
    assert "lend=False" in caplog.text and len(told) == len(set(told)), "once by each client"
    thread = cw.ClientThread(lend=False)
    assert not thread._session.lends


@pytest.mark.parametrize(
    "way",
    [nesting.by_asyncio, pytest.param(nesting.by_thread, marks=pytest.mark.slow)],
    ids=lambda way: way.__name__,
)
def test_who_waits_in_a_way_that_is_not_seen_is_told(way, executor, caplog):
    future = executor.submit(nesting.squares, way, 2)
    wait_until(lambda: HELD in caplog.text, LIMIT)
    executor.kill(future)
    assert executor.submit(jobs.square, 3).result(LIMIT) == 9


@pytest.mark.slow
def test_nothing_is_said_where_things_go_on(executor, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    future = executor.submit(nesting.hold_inside, tmp_path, "inner", {})
    pid_of(tmp_path / "inner")
    time.sleep(5.0)  # longer than it takes to be told
    jobs.note(tmp_path / "go-inner")
    assert future.result(LIMIT) == "inner"
    assert HELD not in caplog.text


# --- deaths -----------------------------------------------------------------------------------


def test_the_job_that_waits_may_die_and_runs_again(executor, tmp_path):
    future = executor.submit(nesting.hold_inside, tmp_path, "inner", {})
    pid_of(tmp_path / "inner")
    outer = pid_of(tmp_path / "outer-inner")
    (tmp_path / "inner").unlink()
    (tmp_path / "outer-inner").unlink()
    os.kill(outer, signal.SIGKILL)
    assert pid_of(tmp_path / "outer-inner") != outer  # the job of the dead one has been stopped
    pid_of(tmp_path / "inner")
    jobs.note(tmp_path / "go-inner")
    assert future.result(LIMIT) == "inner"


def test_the_job_that_is_waited_for_may_die_and_runs_again(executor, tmp_path):
    future = executor.submit(nesting.hold_inside, tmp_path, "inner", {})
    inner = pid_of(tmp_path / "inner")
    (tmp_path / "inner").unlink()
    os.kill(inner, signal.SIGKILL)
    assert pid_of(tmp_path / "inner") != inner
    jobs.note(tmp_path / "go-inner")
    assert future.result(LIMIT) == "inner"


def test_a_job_that_waits_can_be_cancelled_and_with_it_end_its_own(executor, tmp_path, one_slot):
    future = executor.submit(nesting.hold_inside, tmp_path, "inner", {})
    inner = pid_of(tmp_path / "inner")
    assert executor.kill(future)
    wait_until(lambda: inner not in runners_of(one_slot[0]), LIMIT)
    assert executor.submit(jobs.square, 3).result(LIMIT) == 9


def test_the_time_of_a_job_that_waits_goes_on(executor, tmp_path):
    future = executor.options(timeout=1.0).submit(nesting.hold_inside, tmp_path, "inner", {})
    with pytest.raises(cw.JobTimeout):
        future.result(LIMIT)
    assert executor.submit(jobs.square, 3).result(LIMIT) == 9


def test_a_master_is_killed_while_jobs_wait_for_jobs(tmp_path):
    port = free_port()
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(Master("--port", port))
        worker = stack.enter_context(Worker(master.address))
        executor = stack.enter_context(cw.ClusterExecutor(master.address))
        future = executor.submit(nesting.nested_twice, tmp_path, "inner")
        pid_of(tmp_path / "inner")
        master.end(signal.SIGKILL)
        again = stack.enter_context(Master("--port", port))
        again.wait_for_event("master.worker_joined", "it holds")
        jobs.note(tmp_path / "go-inner")
        assert future.result(2 * LIMIT) == "inner"
        assert executor.submit(nesting.tree, 2).result(2 * LIMIT) == 4
        assert len(list(tmp_path.glob("outer*"))) == 1
        executor.shutdown()
        assert worker.events.count("worker.joined") == 2
        assert "Traceback" not in worker.err + master.err + again.err


@pytest.mark.slow
def test_a_master_is_killed_before_the_job_that_is_waited_for_can_run(tmp_path):
    port = free_port()
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(Master("--port", port))
        stack.enter_context(Worker(master.address))
        executor = stack.enter_context(cw.ClusterExecutor(master.address))
        futures = [executor.submit(nesting.tree, 2, nesting.by_wait) for _ in range(4)]
        futures[0].result(LIMIT)
        master.end(signal.SIGKILL)
        stack.enter_context(Master("--port", port))
        assert [future.result(3 * LIMIT) for future in futures] == [4] * 4
        executor.shutdown()


# --- at the client ----------------------------------------------------------------------------


def test_outside_of_a_job_nothing_is_lent():
    assert nested.depth == 0 and nested.job() == 0 and nested.lender is None


def test_what_a_job_forks_is_in_the_job_and_lends_nothing(executor):
    assert executor.submit(nesting.in_a_fork).result(LIMIT) == [1, True]


@pytest.mark.slow
def test_the_case_of_two_slots_and_two_jobs_that_wait(tmp_path):
    out, err = run_script(
        tmp_path,
        """
        import cw

        def outer(n):
            return sum(cw.map(abs, range(-n, 0)))

        if __name__ == "__main__":
            with cw.mp.allocate(2), cw.ClusterExecutor() as executor:
                print(list(executor.map(outer, [3, 4, 5, 6])))
        """,
    )
    assert out == "[6, 10, 15, 21]\n" and "WARNING" not in err
