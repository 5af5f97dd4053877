"""A worker with nothing to do: counted from its last job's end, and from its start."""

import sys
import threading
import time

import pytest
from programs import Master, Worker, free_port

import cw
from cw.slot_seconds import parse
from cw.worker.policy.idleness import Idleness


def test_it_is_over_when_there_was_nothing_to_do_for_so_long():
    idle = Idleness(3.0, 10.0)
    assert [idle.is_over(now, True) for now in (11.0, 12.0, 13.0)] == [False, False, True]


def test_a_job_that_is_here_and_one_that_came_and_went_start_it_anew():
    idle = Idleness(2.0, 0.0)
    assert not idle.is_over(3.0, is_empty=False)
    assert not idle.is_over(4.0, is_empty=True)
    idle.on_work()  # it has come and ended between two looks
    assert not idle.is_over(5.0, is_empty=True)
    assert not idle.is_over(6.0, is_empty=True)
    assert idle.is_over(7.0, is_empty=True)


def test_without_a_limit_it_is_never_over():
    assert not Idleness(0.0, 0.0).is_over(1e9, True)


def leave_a_thread_and_a_child():
    import subprocess

    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return "done"


def test_a_worker_ends_by_itself_whatever_its_jobs_have_left_behind():
    with Master() as master, cw.ClusterExecutor(master.address) as executor:
        jobs = [
            executor.submit(leave_a_thread_and_a_child),
            executor.submit(time.sleep, 2.5),
        ]  # longer than the limit
        with Worker(master.address, "--idle", "1.5", "--idle-status", "9") as worker:
            assert [job.result(30) for job in jobs] == ["done", None]
            assert worker.wait() == 9
            assert "it has had nothing to do for 1.5 s" in worker.lines_of("worker.idle")[0]
            (use,) = parse(worker.err)
            assert 2.5 <= use.used <= use.held
        assert "master.worker_lost" not in master.events


def test_a_worker_that_is_asked_to_end_does_not_end_as_an_idle_one():
    with Master() as master, Worker(master.address, "--idle", "600", "--idle-status", "9") as worker:
        assert worker.end() == 0


@pytest.mark.parametrize("text", ["-1", "x", "nan"])
def test_a_time_that_is_none_is_refused(text):
    with Worker(f"--idle={text}", is_awaited=False) as worker:
        assert worker.wait() == 2 and "--idle" in worker.err


def test_time_without_a_master_does_not_count():
    port = free_port()
    with Worker(f"127.0.0.1:{port}", "--idle", "0.3", is_awaited=False) as worker:
        worker.wait_for_event("worker.no_master")
        time.sleep(1.5)
        assert worker.process.poll() is None
        with Master("--port", str(port)):
            assert worker.wait() == 0
            assert worker.events.index("worker.joined") < worker.events.index("worker.idle")
