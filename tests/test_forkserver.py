"""What jobs leave behind ends with their runner, and runners end with their worker, whatever happened to it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT, Master, Worker, children_of, descendants_of, is_running, start_script, worker_of

import cw
from cw.worker.runners import forkserver, reaping


@pytest.fixture
def cluster():
    with cw.mp.allocate(1) as cluster:
        yield cluster


def all_gone(pids):
    wait_until(
        lambda: not any(map(is_running, pids)), LIMIT, lambda: [pid for pid in pids if is_running(pid)]
    )


def pids_in(path):
    return [int(word) for word in Path(path).read_text().split()]


@pytest.mark.parametrize("new_session", [False, True])
def test_children_and_their_children_end_with_the_session(cluster, tmp_path, new_session):
    with cw.ClusterExecutor() as executor:
        runner = executor.submit(jobs.leave_child, str(tmp_path / "pids"), new_session=new_session).result(
            LIMIT
        )
        pids = pids_in(tmp_path / "pids")
        assert len(pids) == 2
        assert all(map(is_running, pids))
        # They live as long as the runner: a later job may use what an earlier one has started.
        assert executor.submit(jobs.pid).result(LIMIT) == runner
        assert all(map(is_running, pids))
    all_gone([runner, *pids])


def test_a_daemon_ends_with_the_session(cluster, tmp_path):
    with cw.ClusterExecutor() as executor:
        runner = executor.submit(jobs.leave_orphan, str(tmp_path / "pids")).result(LIMIT)
        (pid,) = pids_in(tmp_path / "pids")
        assert is_running(pid)
        assert executor.submit(jobs.pid).result(LIMIT) == runner
    all_gone([runner, pid])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGKILL", 3])
@pytest.mark.parametrize("new_session", [False, True])
def test_children_end_with_a_runner_that_dies(cluster, tmp_path, how, new_session):
    with cw.ClusterExecutor() as executor:
        runner = executor.submit(jobs.leave_child, str(tmp_path / "pids"), new_session=new_session).result(
            LIMIT
        )
        executor.submit(jobs.leave_orphan, str(tmp_path / "orphan")).result(LIMIT)
        pids = pids_in(tmp_path / "pids") + pids_in(tmp_path / "orphan")
        assert isinstance(executor.submit(jobs.die, how).exception(LIMIT), cw.WorkerLost)
        all_gone([runner, *pids])
        assert executor.submit(jobs.square, 2).result(LIMIT) == 4


def test_children_end_with_a_job_that_is_cancelled(cluster, tmp_path):
    with cw.ClusterExecutor() as executor:
        future = executor.submit(_leave_and_wait, tmp_path)
        wait_until((tmp_path / "waits").exists, LIMIT)
        pids = pids_in(tmp_path / "pids") + pids_in(tmp_path / "orphan")
        runner = int((tmp_path / "waits").read_text())
        if not future.cancel():  # it is known to run: only the end of its session stops it
            executor.submit(jobs.square, 2)
            executor._session.close(is_waiting=False)
        all_gone([runner, *pids])


def _leave_and_wait(directory):
    jobs.leave_child(str(directory / "pids"), new_session=True)
    jobs.leave_orphan(str(directory / "orphan"))
    jobs.until(directory / "never", None, directory / "waits")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_runners_and_all_they_started_end_with_the_worker(tmp_path, number):
    with Master() as master, Worker(master.address, "-n", "2") as worker:
        executor = cw.ClusterExecutor(master.address)
        executor.submit(jobs.leave_child, str(tmp_path / "pids"), new_session=True).result(LIMIT)
        executor.submit(jobs.leave_orphan, str(tmp_path / "orphan")).result(LIMIT)
        executor.submit(jobs.until, tmp_path / "never", None, tmp_path / "waits")
        wait_until((tmp_path / "waits").exists, LIMIT)
        pids = pids_in(tmp_path / "pids") + pids_in(tmp_path / "orphan")
        below = descendants_of(worker.pid)
        assert set(pids) <= set(below)
        worker.send_signal(number)
        all_gone([*pids, *below, worker.pid])
        assert worker.wait() == (-9 if number == signal.SIGKILL else 0)
        executor._session.close(is_waiting=False)
        executor._session.join()


def test_a_stopped_runner_does_not_keep_its_worker_from_ending():
    with Master() as master, Worker(master.address) as worker:
        with cw.ClusterExecutor(master.address) as executor:
            pid = executor.submit(jobs.pid).result(LIMIT)
            os.kill(pid, signal.SIGSTOP)
            began = time.monotonic()
            assert worker.end() == 0
            assert time.monotonic() - began < 10
            assert not is_running(pid)


def test_a_killed_keeper_is_replaced_and_its_jobs_run_again(tmp_path):
    with cw.mp.allocate(2) as cluster, cw.ClusterExecutor() as executor:
        worker = worker_of(cluster)
        assert executor.submit(jobs.leave_child, str(tmp_path / "pids"), new_session=True).result(LIMIT)
        futures = [executor.submit(jobs.until, tmp_path / "go", n, tmp_path / f"mark {n}") for n in range(2)]
        wait_until(lambda: all((tmp_path / f"mark {n}").exists() for n in range(2)), LIMIT)
        (killed,) = children_of(worker)
        below = descendants_of(killed)
        os.kill(killed, signal.SIGKILL)
        all_gone([killed, *below, *pids_in(tmp_path / "pids")])
        jobs.mark(tmp_path / "go")
        assert [future.result(LIMIT) for future in futures] == [0, 1]
        assert worker_of(cluster) == worker


def test_sigkill_of_the_program_leaves_nothing(tmp_path):
    source = f"""
        import cw, sys
        sys.path.append({str(Path(jobs.__file__).parent)!r})
        import jobs
        with cw.mp.allocate(2):
            executor = cw.ClusterExecutor()
            executor.submit(jobs.leave_child, "pids", new_session=True).result()
            executor.submit(jobs.leave_orphan, "orphan").result()
            executor.submit(jobs.until, "never", None, "waits").result()
    """
    with start_script(tmp_path, source) as script:
        wait_until((tmp_path / "waits").exists, LIMIT, lambda: script.err)
        below = descendants_of(script.pid)
        pids = pids_in(tmp_path / "pids") + pids_in(tmp_path / "orphan") + pids_in(tmp_path / "waits")
        assert set(pids) <= set(below)
        assert script.end(signal.SIGKILL) == -9
        all_gone(below)


@pytest.mark.slow
def test_the_number_of_runners_is_bounded_and_idle_ones_are_used_again():
    with cw.mp.allocate(1) as cluster:
        (own,) = children_of(worker_of(cluster))
        executors = [cw.ClusterExecutor() for _ in range(8)]
        for _ in range(3):
            pids = [executor.submit(jobs.pid).result(LIMIT) for executor in executors]
            assert len(set(pids)) == 8
        wait_until(lambda: len(children_of(own)) == 4, LIMIT)  # some seconds later
        assert executors[-1].submit(jobs.pid).result(LIMIT) == pids[-1]
        assert executors[0].submit(jobs.pid).result(LIMIT) not in pids
        for executor in executors:
            executor.shutdown()
        wait_until(lambda: children_of(own) == [], LIMIT)


def test_no_zombies_are_left(tmp_path):
    with cw.mp.allocate(2) as cluster:
        worker = worker_of(cluster)
        for _ in range(3):
            with cw.ClusterExecutor() as executor:
                executor.submit(jobs.leave_orphan, str(tmp_path / "orphan")).result(LIMIT)
                assert isinstance(executor.submit(jobs.die, "SIGKILL").exception(LIMIT), cw.WorkerLost)
            (tmp_path / "orphan").unlink()
        (own,) = children_of(worker)
        wait_until(lambda: keeper_children(own) == [], LIMIT, lambda: keeper_children(own))


def keeper_children(pid):
    """All children of a process, zombies included."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append((int(name), fields[0]))
    return found


# --- pieces -----------------------------------------------------------------------------------


def test_how_a_process_ended_is_said_in_words():
    def status_of(code):
        pid = os.fork()
        if not pid:
            exec(code)
            os._exit(0)
        return os.waitpid(pid, 0)[1]

    assert forkserver.how_it_ended(status_of("os._exit(3)")) == "exited with status 3"
    assert forkserver.how_it_ended(status_of("os.kill(os.getpid(), 9)")) == "killed by SIGKILL"
    assert forkserver.how_it_ended(status_of("os.kill(os.getpid(), 40)")) == "killed by signal 40"


@pytest.mark.parametrize("has_file", [True, False])
def test_children_are_found_with_and_without_the_kernels_list(has_file, monkeypatch):
    if not has_file:
        real_open = open

        def open_without(path, *rest):
            if str(path).endswith("/children"):
                raise FileNotFoundError(path)
            return real_open(path, *rest)

        monkeypatch.setattr(forkserver, "open", open_without, raising=False)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in reaping.children()
    finally:
        child.communicate(b"\n")
    assert child.pid not in reaping.children()
