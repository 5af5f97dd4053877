"""A worker that is asked to end finishes what runs, and what it cannot finish runs elsewhere, uncharged."""

import os
import signal
import subprocess
import time

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT, Master, Program, descendants_of, is_running
from programs import Worker as AnyWorker

import cw
from cw.launch import status_client
from cw.net import address
from cw.net import messages as m


def Worker(*arguments):
    """One with the grace that workers have by default."""
    return AnyWorker(*arguments, *([] if "--grace" in arguments else ["--grace", "20"]))


@pytest.fixture
def master():
    with Master() as master:
        yield master


@pytest.fixture
def executor(master):
    with cw.ClusterExecutor(master.address) as executor:
        yield executor


def count_runs(directory):
    return len(list(directory.iterdir()))


def run_until(directory, path):
    """Leave a file for each run, then wait for a file."""
    jobs.mark_and_return(directory, 1)
    return jobs.until(path, os.getpid())


@pytest.fixture
def runs(tmp_path):
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_is_finished_and_the_rest_goes_elsewhere_at_once(master, executor, tmp_path, number):
    with Worker(master.address) as worker:
        running = executor.submit(jobs.until, tmp_path / "go", "finished", tmp_path / "mark")
        wait_until((tmp_path / "mark").exists, LIMIT)
        waiting = [executor.submit(jobs.pid) for _ in range(5)]
        worker.send_signal(number)
        worker.wait_for_event("worker.draining", "1 running job for up to 20 s")
        with Worker(master.address) as other:
            elsewhere = {future.result(LIMIT) for future in waiting}
            assert elsewhere <= set(descendants_of(other.pid)) and not running.done()
            (tmp_path / "go").touch()
            assert running.result(LIMIT) == "finished"
            assert worker.wait() == 0
            assert other.end() == 0
            assert "Traceback" not in worker.err + other.err + master.err
    assert {"master.worker_draining", "master.peer_left"} <= set(master.events)


def test_an_idle_worker_leaves_at_once(master, executor):
    with Worker(master.address) as worker:
        assert executor.submit(jobs.square, 3).result(LIMIT) == 9
        began = time.monotonic()
        assert worker.end() == 0
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("numbers", "seconds", "is_cut"),
    [
        ([signal.SIGTERM, signal.SIGTERM], 0.05, False),  # as Slurm does it
        pytest.param([signal.SIGTERM, signal.SIGTERM], 2.2, True, marks=pytest.mark.slow),
        ([signal.SIGINT, signal.SIGINT], 0.2, True),
        pytest.param([signal.SIGTERM, signal.SIGINT], 0.2, True, marks=pytest.mark.slow),
    ],
)
def test_told_twice_it_ends_at_once_if_that_is_meant(
    master, executor, tmp_path, runs, numbers, seconds, is_cut
):
    with Worker(master.address) as worker:
        future = executor.submit(run_until, runs, tmp_path / "go")
        wait_until(lambda: count_runs(runs) == 1, LIMIT)
        worker.send_signal(numbers[0])
        time.sleep(seconds)
        worker.send_signal(numbers[1])
        if is_cut:
            assert worker.wait() == 0
            with Worker(master.address) as other:
                wait_until(lambda: count_runs(runs) == 2, LIMIT)
                (tmp_path / "go").touch()
                assert future.result(LIMIT) in descendants_of(other.pid)
                assert other.end() == 0
        else:
            time.sleep(0.3)
            assert worker.process.poll() is None
            (tmp_path / "go").touch()
            future.result(LIMIT)
            assert worker.wait() == 0
            assert count_runs(runs) == 1


def test_when_the_grace_is_over_what_runs_is_stopped_and_runs_elsewhere_uncharged(
    master, executor, tmp_path, runs
):
    with Worker(master.address, "--grace", "0.5", "-n", "2") as worker:
        future = executor.options(attempts=2).submit(run_until, runs, tmp_path / "go")
        once = executor.options(attempts=1).submit(jobs.until, tmp_path / "never", None, tmp_path / "mark")
        wait_until(lambda: count_runs(runs) == 1 and (tmp_path / "mark").exists(), LIMIT)
        runners = descendants_of(worker.pid)
        began = time.monotonic()
        assert worker.end() == 0
        assert 0.4 < time.monotonic() - began < 5
        assert not any(map(is_running, runners))
        (line,) = worker.lines_of("worker.jobs_stopped")
        assert "2 running jobs" in line
    for number in (2, 3):  # more often than it may fail
        with Worker(master.address, "--grace", "0") as worker:
            wait_until(lambda number=number: count_runs(runs) == number, LIMIT)
            assert worker.end() == 0
    with Worker(master.address) as worker:
        (tmp_path / "go").touch()
        future.result(LIMIT)
        assert worker.end() == 0
    error = once.exception(LIMIT)  # never sent again once it may have started
    assert isinstance(error, cw.WorkerLost)


def work_until_told(directory, go, answer):
    """Leave a file for each run, and in it what came; at SIGINT, return, raise or go on."""
    path = directory / str(os.getpid())
    signal.signal(signal.SIGTERM, lambda *_: jobs.append(path, "SIGTERM "))
    try:
        jobs.append(path, "")
        return jobs.until(go, "whole")
    except KeyboardInterrupt:
        jobs.append(path, "SIGINT ")
        if answer == "raise":
            raise ValueError("cut off") from None
        if answer == "go on":
            return jobs.until(directory / "never")
        return "the best so far"
    finally:
        jobs.append(path, "finally ")


@pytest.mark.parametrize("answer", ["return", "raise", "go on"])
def test_what_is_cut_short_may_clean_up_and_what_it_answers_is_dropped(
    master, executor, tmp_path, runs, answer
):
    with Worker(master.address, "--grace", "0.3") as worker:
        future = executor.options(attempts=2).submit(work_until_told, runs, tmp_path / "go", answer)
        wait_until(lambda: count_runs(runs) == 1, LIMIT)
        began = time.monotonic()
        assert worker.end() == 0
        assert time.monotonic() - began < 10
    (path,) = runs.iterdir()
    assert path.read_text() == ("SIGINT SIGTERM " if answer == "go on" else "SIGINT finally ")
    assert not future.done()
    (tmp_path / "go").touch()
    with Worker(master.address) as other:
        assert future.result(LIMIT) == "whole"
        assert other.end() == 0
    assert count_runs(runs) == 2


def test_what_it_returns_counts_if_that_is_wanted(master, tmp_path, runs):
    store = tmp_path / "store"
    with cw.ClusterExecutor(master.address, store=store) as executor:
        with Worker(master.address, "--grace", "0", "-n", "2") as worker:
            keep = executor.options(on_limit="keep")
            kept = keep.submit(work_until_told, runs, tmp_path / "go", "return")
            raised = keep.submit(work_until_told, runs, tmp_path / "go", "raise")
            wait_until(lambda: count_runs(runs) == 2, LIMIT)
            assert worker.end() == 0
        assert kept.result(LIMIT) == "the best so far"
        (tmp_path / "go").touch()
        with Worker(master.address) as other:
            assert raised.result(LIMIT) == "whole"
            assert other.end() == 0
    assert sorted(result.value for result in cw.results(store)) == ["the best so far", "whole"]


def test_with_one_attempt_what_was_cut_short_is_lost(master, executor, tmp_path, runs):
    with Worker(master.address, "--grace", "0") as worker:
        future = executor.options(attempts=1).submit(work_until_told, runs, tmp_path / "go", "return")
        wait_until(lambda: count_runs(runs) == 1, LIMIT)
        assert worker.end() == 0
    assert isinstance(future.exception(LIMIT), cw.WorkerLost)


def call(mark, go):
    """What many jobs are: a program's caller."""
    with open(f"{mark}.{os.getpid()}", "w"):
        pass
    subprocess.run(["sh", "-c", f"until [ -e {go} ]; do sleep 0.02; done"], check=True)
    return os.getpid()


def test_a_job_whose_child_a_node_that_goes_has_ended_runs_elsewhere(master, executor, tmp_path):
    """As Slurm does it: SIGTERM to all, the runner and the job's own children too, twice within 50 ms."""
    with Worker(master.address) as worker:
        future = executor.options(attempts=1 + 1).submit(call, tmp_path / "mark", tmp_path / "go")
        wait_until(lambda: list(tmp_path.glob("mark.*")), LIMIT)
        wait_until(lambda: any(b"until" in _command(pid) for pid in descendants_of(worker.pid)), LIMIT)
        # The runner before its child: else the job may have failed before the runner hears of anything.
        for pid in (worker.pid, *descendants_of(worker.pid)) * 2:
            if is_running(pid):
                os.kill(pid, signal.SIGTERM)
        assert worker.wait() == 0
        assert not future.done()
        (tmp_path / "go").touch()
        with Worker(master.address) as other:
            assert future.result(LIMIT) in descendants_of(other.pid)
            assert other.end() == 0
    assert len(list(tmp_path.glob("mark.*"))) == 2


def _command(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_the_same_without_the_end_of_the_worker_is_the_jobs_error(master, executor, tmp_path):
    with Worker(master.address) as worker:
        future = executor.submit(call, tmp_path / "mark", tmp_path / "go")
        wait_until(lambda: list(tmp_path.glob("mark.*")), LIMIT)
        wait_until(lambda: any(b"until" in _command(pid) for pid in descendants_of(worker.pid)), LIMIT)
        runner = int(next(tmp_path.glob("mark.*")).name.split(".")[1])
        os.kill(runner, signal.SIGTERM)
        os.killpg(runner, signal.SIGTERM)
        assert isinstance(future.exception(LIMIT), subprocess.CalledProcessError)
        assert executor.submit(jobs.pid).result(LIMIT) == runner  # which goes on
        assert isinstance(executor.submit(jobs.divide, 1, 0).exception(LIMIT), ZeroDivisionError)
        assert worker.end() == 0


def test_what_a_job_returns_after_the_signal_counts(master, executor, tmp_path):
    with Worker(master.address) as worker:
        future = executor.submit(jobs.until, tmp_path / "go", "whole", tmp_path / "mark")
        wait_until((tmp_path / "mark").exists, LIMIT)
        for pid in (worker.pid, *descendants_of(worker.pid)):
            os.kill(pid, signal.SIGTERM)
        worker.wait_for_event("worker.draining", "1 running")
        (tmp_path / "go").touch()
        assert future.result(LIMIT) == "whole"
        assert worker.wait() == 0


def test_a_large_result_arrives_before_the_goodbye(executor, master, tmp_path):
    with Worker(master.address) as worker:
        future = executor.submit(jobs.until, tmp_path / "go", bytes(50_000_000), tmp_path / "mark")
        wait_until((tmp_path / "mark").exists, LIMIT)
        worker.send_signal(signal.SIGTERM)
        (tmp_path / "go").touch()
        assert len(future.result(LIMIT)) == 50_000_000
        assert worker.wait() == 0
    assert "master.worker_lost" not in master.events


def test_a_worker_that_drains_while_its_master_is_away_waits_for_it(tmp_path, runs):
    with Master() as master, Worker(master.address) as worker:
        port = master.port
        with cw.ClusterExecutor(master.address) as executor:
            future = executor.submit(run_until, runs, tmp_path / "go")
            wait_until(lambda: count_runs(runs) == 1, LIMIT)
            master.end(signal.SIGKILL)
            worker.wait_for_event("worker.master_gone")
            worker.send_signal(signal.SIGTERM)
            worker.wait_for_event("worker.draining", "1 running")
            (tmp_path / "go").touch()
            time.sleep(0.5)
            assert worker.process.poll() is None
            with Master("--port", str(port)):
                future.result(LIMIT)
                assert worker.wait() == 0
    assert count_runs(runs) == 1


def test_a_master_that_ends_before_it_has_passed_on_the_last_results_costs_no_second_run(tmp_path, runs):
    with Master() as master, Worker(master.address) as worker:
        port = master.port
        with cw.ClusterExecutor(master.address) as executor:
            future = executor.submit(run_until, runs, tmp_path / "go")
            wait_until(lambda: count_runs(runs) == 1, LIMIT)
            worker.send_signal(signal.SIGTERM)
            worker.wait_for_event("worker.draining", "1 running")
            master.send_signal(signal.SIGSTOP)
            (tmp_path / "go").touch()
            time.sleep(0.3)  # what is to be seen is that it does not leave
            master.end(signal.SIGKILL)
            with Master("--port", str(port)):
                future.result(LIMIT)
                assert worker.wait() == 0
    assert count_runs(runs) == 1


def test_a_launcher_can_let_workers_drain(master, executor, tmp_path):
    with Worker(master.address) as one, Worker(master.address) as other:
        running = executor.submit(jobs.until, tmp_path / "go", "finished", tmp_path / "mark")
        wait_until((tmp_path / "mark").exists, LIMIT)
        standing = wait_until(lambda: (found := ask()) and len(found.workers) == 2 and found, LIMIT)
        (busy,) = [worker for worker in standing.workers if worker["held"]]
        ask(m.Drain([busy["ident"], "0" * 32]))  # one that is there, and one that is not
        drained, left = (one, other) if busy["name"].endswith(f":{one.pid}") else (other, one)
        drained.wait_for_event("worker.draining", "1 running job")
        assert executor.submit(jobs.square, 3).result(LIMIT) == 9
        (tmp_path / "go").touch()
        assert running.result(LIMIT) == "finished" and drained.wait() == 0
        assert left.process.poll() is None and "worker.draining" not in left.events


def ask(*messages):
    return status_client.ask(address.find_cluster(address.cluster_name()), *messages)


# --- recycling --------------------------------------------------------------------------------


def test_a_runner_is_replaced_after_so_many_jobs(master, executor):
    with Worker(master.address, "--max-jobs", "3") as worker:
        pids = [executor.submit(jobs.pid).result(LIMIT) for _ in range(9)]
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]
        pids = [future.result(LIMIT) for future in [executor.submit(jobs.pid) for _ in range(300)]]
        assert len(set(pids)) == 100 and max(pids.count(pid) for pid in set(pids)) == 3
        assert worker.end() == 0
        assert "WARNING" not in worker.err


def test_at_the_end_of_its_lifetime_a_worker_drains_and_leaves(master, executor, tmp_path, runs):
    future = executor.submit(run_until, runs, tmp_path / "go")
    with Worker(
        master.address, "--lifetime", "5"
    ) as worker:  # (a busy machine takes seconds for a job's start)
        wait_until(lambda: count_runs(runs) == 1, LIMIT)
        worker.wait_for_event("worker.draining", "its lifetime is over")
        (tmp_path / "go").touch()
        future.result(LIMIT)
        assert worker.wait() == 0
    assert count_runs(runs) == 1


# --- a worker that knows its end --------------------------------------------------------------


@pytest.mark.slow
def test_before_the_end_of_its_allocation_it_starts_nothing_stops_what_runs_and_is_gone(
    master, executor, tmp_path, runs
):
    end = int(time.time()) + 15  # time enough on a busy machine
    with Worker(master.address, "--until", str(end)) as worker:
        future = executor.submit(run_until, runs, tmp_path / "go")
        wait_until(lambda: count_runs(runs) == 1, LIMIT)
        worker.wait_for_event("worker.draining", "its allocation ends soon")
        after = executor.submit(jobs.pid)
        assert worker.wait() == 0
        assert time.time() < end
    with Worker(master.address) as other:
        wait_until(lambda: count_runs(runs) == 2, LIMIT)
        (tmp_path / "go").touch()
        assert {future.result(LIMIT), after.result(LIMIT)} <= set(descendants_of(other.pid))
        assert other.end() == 0
    assert "master.worker_lost" not in master.events


@pytest.mark.parametrize("left", [3600, 100])
def test_notice_of_an_end_is_heeded_unless_it_is_the_one_that_the_worker_knows_to_be_near(
    master, executor, left
):
    with Worker("--until", str(int(time.time()) + left), "--notice", str(int(signal.SIGWINCH))) as worker:
        assert executor.submit(jobs.square, 3).result(LIMIT) == 9
        worker.send_signal(signal.SIGWINCH)
        if left > 130:
            assert worker.wait() == 0 and "master.peer_left" in master.events
        else:
            assert executor.submit(jobs.square, 4).result(LIMIT) == 16
            assert worker.end() == 0
            assert all("it was asked to end" in line for line in worker.lines_of("worker.draining"))


@pytest.mark.slow
def test_a_job_that_needs_more_time_than_a_worker_has_waits_for_another_and_that_is_told(
    master, executor, caplog
):
    with Worker(master.address, "--lifetime", "100"):
        future = executor.options(min_time=1000).submit(jobs.square, 3)
        assert executor.options(min_time=50).submit(jobs.square, 2).result(LIMIT) == 4
        wait_until(lambda: "the next job needs 1000 s (min_time)" in caplog.text, LIMIT)
        assert not future.done()
        with Worker(master.address):
            assert future.result(LIMIT) == 9


@pytest.mark.parametrize("wrong", ["soon", "-1", "12", "2026-01-01", "99999999999"])
def test_a_time_that_is_none_is_told(wrong):
    with Program("-m", "cw.worker", "--until", wrong) as worker:
        assert worker.wait() == 2 and "is no time: give seconds since 1970" in worker.err


@pytest.mark.parametrize("wrong", [0, -1, "5", True, float("nan"), float("inf")])
def test_a_min_time_that_is_none_is_told_at_once(executor, wrong):
    with pytest.raises((TypeError, ValueError), match="min_time must be a number of seconds"):
        executor.options(min_time=wrong)
