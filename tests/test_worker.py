"""The worker: how it joins and leaves, and what becomes of jobs whose runner or worker dies."""

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jobs
import pytest
from conftest import wait_until
from programs import (
    LIMIT,
    ROOT,
    Master,
    Program,
    Worker,
    children_of,
    descendants_of,
    free_port,
    is_running,
    worker_of,
)

import cw
from cw import credential
from cw.cpus import usable_cpus
from cw.net import messages as m
from cw.net import tls, wire


@pytest.fixture(scope="module")
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture
def executor(cluster):
    executor = cw.ClusterExecutor(cluster.master)
    yield executor
    executor.shutdown(wait=False, cancel_futures=True)
    executor._session.close(is_waiting=False)
    executor.shutdown()


@pytest.fixture(scope="module")
def master():
    with Master() as master:
        yield master


# --- a runner dies ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how, told",
    [
        (0, "exited with status 0"),
        (7, "exited with status 7"),
        ("SIGKILL", "killed by SIGKILL"),
        ("SIGSEGV", "killed by SIGSEGV"),
        ("SIGABRT", "killed by SIGABRT"),
        ("exec", "exited with status 1"),
    ],
)
def test_a_job_that_ends_its_runner_each_time_is_given_up_after_three_attempts(cluster, executor, how, told):
    future = executor.submit(jobs.die, how)
    error = future.exception(LIMIT)
    assert isinstance(error, cw.WorkerLost)
    assert len(error.attempts) == 3
    for note in error.attempts:
        assert note["how"] == told
        assert note["host"] == os.uname().nodename
        assert note["worker"] == worker_of(cluster)
        assert note["slot"] in (0, 1)
        assert note["pid"] > 0
        assert note["seconds"] >= 0
    assert len({note["pid"] for note in error.attempts}) == 3
    slots = [note["slot"] for note in error.attempts]
    assert slots[0] != slots[1] != slots[2]  # each time on another slot, since there is one
    for number, line in enumerate(str(error).splitlines()[1:], 1):
        assert line.lstrip().startswith(f"attempt {number}: host {os.uname().nodename}")
        assert told in line
    assert executor.submit(jobs.square, 2).result(LIMIT) == 4


def test_a_job_that_dies_once_is_run_again_and_returns(executor, tmp_path):
    (died,) = executor.submit(jobs.die_once, tmp_path, "SIGKILL").result(LIMIT)
    assert not is_running(died)


def test_attempts_can_be_limited(executor):
    future = executor.options(attempts=1).submit(jobs.die, "SIGKILL")
    assert len(future.exception(LIMIT).attempts) == 1
    errors = []
    with cw.ClientThread(on_error=lambda jobid, error: errors.append(error)) as thread:
        thread.options(attempts=2).submit(jobs.die, 3)
    assert [len(error.attempts) for error in errors] == [2]


def test_the_jobs_beside_and_behind_one_that_dies_do_not_suffer(executor, tmp_path):
    futures = []
    for n in range(200):
        futures.append(executor.submit(jobs.mark_and_return, tmp_path, n))
        if n % 50 == 25:
            futures.append(executor.submit(jobs.die, "SIGKILL"))
    lost = [future for future in futures if isinstance(future.exception(LIMIT), cw.WorkerLost)]
    assert len(lost) == 4
    assert [future.result() for future in futures if future not in lost] == list(range(200))
    # None of them ran twice: what was only sent ahead had not started.
    assert sorted(int(path.name.split()[0]) for path in tmp_path.iterdir()) == list(range(200))


def test_a_runner_that_is_killed_from_outside_costs_its_job_one_attempt(executor, tmp_path):
    future = executor.submit(jobs.until, tmp_path / "go", "there", tmp_path / "pid")
    wait_until((tmp_path / "pid").exists, LIMIT)
    first = int((tmp_path / "pid").read_text())
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: int((tmp_path / "pid").read_text()) != first, LIMIT)
    jobs.mark(tmp_path / "go")
    assert future.result(LIMIT) == "there"


def test_an_idle_runner_that_is_killed_costs_nothing(executor):
    for _ in range(5):
        pid = executor.submit(jobs.pid).result(LIMIT)
        os.kill(pid, signal.SIGKILL)
        assert executor.options(attempts=1).submit(jobs.square, 2).exception(LIMIT) is None or not is_running(
            pid
        )
        wait_until(lambda pid=pid: not is_running(pid), LIMIT)
        assert executor.submit(jobs.square, 3).result(LIMIT) == 9


def test_a_job_that_closes_all_descriptors_ends_nothing_but_its_runner(executor):
    error = executor.submit(jobs.die, "close").exception(LIMIT)
    assert error is None or isinstance(error, cw.WorkerLost)
    assert executor.submit(jobs.square, 2).result(LIMIT) == 4


def test_unpickling_that_ends_the_runner_is_an_attempt_too(executor):
    error = executor.submit(jobs.echo, jobs.Bomb()).exception(LIMIT)
    assert isinstance(error, cw.WorkerLost)
    assert [note["how"] for note in error.attempts] == ["exited with status 5"] * 3


def test_a_result_that_ends_the_client_thread_is_an_error():
    errors = []
    with cw.ClientThread(on_error=lambda jobid, error: errors.append(error)) as thread:
        thread.submit(jobs.make_exit)
        thread.wait(LIMIT)
        assert thread.is_alive()
    assert [type(error) for error in errors] == [cw.RemoteException]


def test_a_session_whose_jobs_all_die_leaves_the_slots_to_others(executor):
    bad = cw.ClusterExecutor()
    futures = [bad.submit(jobs.die, "SIGKILL") for _ in range(10)]
    began = time.monotonic()
    assert [executor.submit(jobs.square, n).result(LIMIT) for n in range(10)] == [n * n for n in range(10)]
    assert time.monotonic() - began < 10
    assert all(isinstance(future.exception(LIMIT), cw.WorkerLost) for future in futures)
    bad.shutdown()


# --- a client goes ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_client_that_is_killed_leaves_no_job_behind(tmp_path, number):
    source = f"""
import sys, time
sys.path.append({str(Path(jobs.__file__).parent)!r})
import cw, jobs
executor = cw.ClusterExecutor()
running = [executor.submit(jobs.until, "never", None, f"waits {{n}}") for n in range(2)]
queued = [executor.submit(jobs.mark, "queued") for n in range(100)]
time.sleep(1000)
"""
    with (
        Master("--client-grace", "1") as master,
        Worker(master.address, "-n", "2"),
        cw.ClusterExecutor(master.address) as executor,
        Program("-c", source, cwd=tmp_path, CW_MASTER=master.address) as client,
    ):
        marks = [tmp_path / f"waits {n}" for n in range(2)]
        wait_until(lambda: all(mark.exists() for mark in marks), LIMIT, lambda: client.err)
        pids = [int(mark.read_text()) for mark in marks]
        assert all(map(is_running, pids))
        after = executor.submit(jobs.square, 3)
        assert not after.done()
        client.end(number)
        wait_until(lambda: not any(map(is_running, pids)), LIMIT)
        assert after.result(LIMIT) == 9
    assert not (tmp_path / "queued").exists()


def test_a_client_that_stops_ends_its_running_jobs(executor, tmp_path):
    thread = cw.ClientThread()
    thread.start()
    thread.submit(jobs.until, tmp_path / "never", None, tmp_path / "pid")
    wait_until((tmp_path / "pid").exists, LIMIT)
    pid = int((tmp_path / "pid").read_text())
    thread.stop()
    wait_until(lambda: not is_running(pid), LIMIT)
    assert list(executor.map(jobs.square, range(10))) == [n * n for n in range(10)]


@pytest.mark.parametrize("how", ["stops", "is killed", "is killed with its cluster", "loses its master"])
def test_what_is_stopped_when_its_client_has_gone_may_clean_up(tmp_path, how):
    source = f"""
import contextlib, os, sys, time
sys.path.append({str(Path(jobs.__file__).parent)!r})
import cw, jobs
with cw.mp.allocate(1) if {how == "is killed with its cluster"} else contextlib.nullcontext():
    thread = cw.ClientThread()
    thread.start()
    thread.submit(jobs.note_signals, "it")
    while not os.path.exists("it"):
        time.sleep(0.01)
    if {how == "stops"}:
        thread.stop()
    time.sleep(1000)
"""
    with (
        Master("--client-grace", "0") as master,
        Worker(master.address, "--reconnect-timeout", "0.5"),
        Program("-c", source, cwd=tmp_path, CW_MASTER="" if "cluster" in how else master.address) as client,
    ):
        wait_until((tmp_path / "it").exists, LIMIT, lambda: client.err)
        if how == "loses its master":
            master.end()
        elif how != "stops":
            client.end(signal.SIGKILL)
        wait_until((tmp_path / "it told").exists, LIMIT, lambda: client.err)
        assert (tmp_path / "it told").read_text() == "SIGINT SIGTERM"
        pid = int((tmp_path / "it").read_text())
        wait_until(lambda: not is_running(pid), 5)


# --- work sent ahead --------------------------------------------------------------------------


def test_short_jobs_are_not_stuck_behind_a_long_one_in_the_same_worker(executor, tmp_path):
    # The same function for both, so that the estimate of its duration is wrong.
    list(executor.map(jobs.until_or_not, [None] * 200))
    futures = [executor.submit(jobs.until_or_not, None) for _ in range(300)]
    long = executor.submit(jobs.until_or_not, tmp_path / "go")
    futures += [executor.submit(jobs.until_or_not, None) for _ in range(1000)]
    for future in futures:
        future.result(LIMIT)
    assert not long.done()
    jobs.mark(tmp_path / "go")
    long.result(LIMIT)


def test_short_jobs_are_not_stuck_behind_a_long_one_in_another_worker(master, tmp_path):
    with Worker(master.address), Worker(master.address):
        executor = cw.ClusterExecutor(master.address)
        list(executor.map(jobs.until_or_not, [None] * 200))
        futures = [executor.submit(jobs.until_or_not, None) for _ in range(300)]
        long = executor.submit(jobs.until_or_not, tmp_path / "go")
        futures += [executor.submit(jobs.until_or_not, None) for _ in range(1000)]
        for future in futures:
            future.result(LIMIT)
        assert not long.done()
        jobs.mark(tmp_path / "go")
        long.result(LIMIT)
        executor.shutdown()


def test_work_is_taken_back_from_a_runner_that_runs_no_line_of_python(executor, tmp_path):
    # A regular expression that backtracks for seconds holds the interpreter's lock all the while.
    list(executor.map(jobs.backtrack_or_not, [0] * 200))
    began = time.monotonic()
    long = executor.submit(jobs.backtrack_or_not, 25)
    futures = [executor.submit(jobs.backtrack_or_not, 0) for _ in range(500)]
    for future in futures:
        future.result(LIMIT)
    short_lasted = time.monotonic() - began
    long.result(LIMIT)
    assert short_lasted < 0.7 * (time.monotonic() - began)


def test_no_job_runs_twice_or_never_when_work_is_sent_ahead_and_recalled(master, tmp_path):
    with (
        Worker(master.address, "-n", "2"),
        Worker(master.address),
        cw.ClusterExecutor(master.address) as executor,
    ):
        futures = [
            executor.submit(jobs.mark_and_return, tmp_path, n, 0.2 if n % 97 == 0 else 0) for n in range(1500)
        ]
        assert [future.result(LIMIT) for future in futures] == list(range(1500))
    ran = sorted(int(path.name.split()[0]) for path in tmp_path.iterdir())
    assert ran == list(range(1500))


# --- workers come and go ----------------------------------------------------------------------


def test_a_worker_that_leaves_hands_its_jobs_to_another(master, tmp_path):
    with Worker(master.address, "-n", "2") as first, cw.ClusterExecutor(master.address) as executor:
        running = [executor.submit(jobs.until, tmp_path / "go", n, tmp_path / f"mark {n}") for n in range(2)]
        futures = [executor.submit(jobs.square, n) for n in range(100)]
        wait_until(lambda: all((tmp_path / f"mark {n}").exists() for n in range(2)), LIMIT)
        with Worker(master.address):
            assert first.end() == 0
            jobs.mark(tmp_path / "go")
            assert [future.result(LIMIT) for future in running + futures] == [
                0,
                1,
                *(n * n for n in range(100)),
            ]
    assert "master.peer_left" in master.events


def test_a_worker_that_is_killed_hands_its_jobs_to_another(master, tmp_path):
    with Worker(master.address, "-n", "2") as first, cw.ClusterExecutor(master.address) as executor:
        running = [executor.submit(jobs.until, tmp_path / "go", n, tmp_path / f"mark {n}") for n in range(2)]
        futures = [executor.submit(jobs.square, n) for n in range(100)]
        wait_until(lambda: all((tmp_path / f"mark {n}").exists() for n in range(2)), LIMIT)
        assert first.end(signal.SIGKILL) == -9
        jobs.mark(tmp_path / "go")
        with Worker(master.address):
            assert [future.result(LIMIT) for future in running + futures] == [
                0,
                1,
                *(n * n for n in range(100)),
            ]


def test_with_one_attempt_a_job_that_had_started_on_a_lost_worker_is_never_run_again(master, tmp_path):
    with Worker(master.address) as first, cw.ClusterExecutor(master.address) as executor:
        once = executor.options(attempts=1)
        started = once.submit(jobs.until, tmp_path / "go", 0, tmp_path / "mark")
        wait_until(started.running, LIMIT)
        queued = [once.submit(jobs.nap, 0.01, n) for n in range(5)]
        first.end(signal.SIGKILL)
        with Worker(master.address):
            assert isinstance(started.exception(LIMIT), cw.WorkerLost)
            assert [future.result(LIMIT) for future in queued] == list(range(5))


def test_jobs_wait_for_a_worker_and_a_worker_that_joins_late_gets_work(master):
    with cw.ClusterExecutor(master.address) as executor:
        futures = [executor.submit(jobs.nap, 0.02, n) for n in range(40)]
        time.sleep(0.1)
        assert not any(future.done() for future in futures)
        with Worker(master.address):
            assert futures[0].result(LIMIT) == 0
            with Worker(master.address):
                hosts = set(executor.map(_worker_pid, [0.01] * 60))
                assert len(hosts) == 2
                assert [future.result(LIMIT) for future in futures] == list(range(40))


def _worker_pid(seconds):
    time.sleep(seconds)
    return os.getppid()


def test_a_worker_started_before_its_master_waits_for_it_and_says_so():
    port = free_port()
    with Program("-m", "cw.worker", f"127.0.0.1:{port}") as worker:
        worker.wait_for_event("worker.no_master", f"127.0.0.1:{port}")
        with Master("--port", str(port)) as master, cw.ClusterExecutor(master.address) as executor:
            assert executor.submit(jobs.square, 2).result(LIMIT) == 4
        assert worker.events.count("worker.no_master") == 1
        assert worker.end() == 0


def test_a_worker_whose_master_ends_waits_for_the_next():
    port = free_port()
    # It may keep the last result for a master to come: it is not to wait for that one.
    with Program("-m", "cw.worker", "127.0.0.1", "--port", str(port), "--grace", "0") as worker:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with Master("--port", str(port)) as master:
                with cw.ClusterExecutor(master.address) as executor:
                    pid = executor.submit(jobs.pid).result(LIMIT)
                    assert pid in descendants_of(worker.pid)
                master.end(number)
        worker.wait_for_event("worker.master_gone", count=2)
        assert worker.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_busy", [False, True])
def test_a_worker_ends_cleanly_on_ctrl_c_and_sigterm(master, number, is_busy, tmp_path):
    with Worker(master.address) as worker:
        executor = cw.ClusterExecutor(master.address)
        if is_busy:
            executor.submit(jobs.until, tmp_path / "never", None, tmp_path / "mark")
            wait_until((tmp_path / "mark").exists, LIMIT)
        assert worker.end(number) == 0
        assert "Traceback" not in worker.err
        executor._session.close(is_waiting=False)
        executor._session.join()


@pytest.mark.parametrize("is_nohup", [False, True])
def test_a_worker_whose_terminal_closes_finishes_its_jobs_and_with_nohup_it_stays(master, is_nohup, tmp_path):
    mine, its = pty.openpty()
    command = [sys.executable, "-m", "cw.worker", master.address, "--grace", "60"]
    with cw.ClusterExecutor(master.address) as executor:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        worker = subprocess.Popen(
            ["setsid", "--ctty", *(["nohup"] if is_nohup else []), *command], stdin=its, stdout=its, stderr=its,
            env=environment, cwd=tmp_path,
        )  # fmt: skip
        try:
            os.close(its)
            running = executor.submit(jobs.until, tmp_path / "go on", "done", tmp_path / "runs")
            wait_until((tmp_path / "runs").exists, LIMIT)
            waits = executor.submit(jobs.square, 3)
            os.close(mine)  # the kernel sends SIGHUP
            if not is_nohup:
                wait_until(
                    lambda: [each.is_draining for each in cw.status(master.address).workers] == [True], LIMIT
                )
            (tmp_path / "go on").touch()
            assert running.result(LIMIT) == "done"
            if is_nohup:
                assert waits.result(LIMIT) == 9
                worker.terminate()
                assert worker.wait(LIMIT) == 0
            else:
                assert worker.wait(LIMIT) == 0
                assert not waits.done()
                waits.cancel()
        finally:
            worker.kill()
            worker.wait()


def test_a_worker_that_waits_ends_cleanly_on_ctrl_c():
    with Program("-m", "cw.worker", "127.0.0.1", "--port", free_port()) as worker:
        worker.wait_for_event("worker.no_master")
        assert worker.end(signal.SIGINT) == 0
        assert "Traceback" not in worker.err


def test_a_worker_says_its_slots_and_the_cpus_and_logs_with_time_stamps(master):
    usable = usable_cpus()
    for option, slots in ([], 1), (["-n", "3"], 3), (["-n", "auto"], usable):
        with Worker(master.address, *option) as worker:
            (line,) = worker.lines_of("worker.joined")
            assert re.search(rf"\b{slots} slots?, {max(slots, usable)} CPUs?, \S+ of memory\b", line)
            assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} cw.worker INFO: ", worker.err)
            assert worker.out == ""
            assert worker.end() == 0


def test_all_slots_of_a_worker_work_at_once(master, tmp_path):
    with Worker(master.address, "-n", "5") as worker, cw.ClusterExecutor(master.address) as executor:
        futures = [executor.submit(jobs.until, tmp_path / "go", n, tmp_path / f"mark {n}") for n in range(5)]
        wait_until(lambda: all((tmp_path / f"mark {n}").exists() for n in range(5)), LIMIT)
        (keeper,) = children_of(worker.pid)
        assert len(children_of(keeper)) == 5
        jobs.mark(tmp_path / "go")
        assert [future.result(LIMIT) for future in futures] == list(range(5))


@pytest.mark.parametrize(
    "arguments, status, text",
    [
        (["no-such-host.invalid"], 1, "'no-such-host.invalid' is unknown: check its name"),
        (["-n", "0"], 2, "'0' is no number of slots"),
        (["-n", "many"], 2, "'many' is no number of slots"),
        (["host:99999"], 1, "99999"),
        (["host", "--port", "0"], 2, "no port"),
        (["a", "b"], 2, "unrecognized arguments"),
        (["--colour"], 2, "unrecognized arguments"),
    ],
)
def test_a_mistake_is_answered_in_one_line(arguments, status, text):
    with Program("-m", "cw.worker", *arguments) as worker:
        assert worker.wait() == status
        assert text in worker.err
        assert "Traceback" not in worker.err
        if status == 1:
            assert worker.err.count("\n") == 1
            assert worker.err.startswith("cw.worker: ")


def test_help_and_version_go_to_stdout():
    for option in ("--help", "--version"):
        with Program("-m", "cw.worker", option) as worker:
            assert worker.wait() == 0
            assert worker.err == ""
            assert ("usage: " if option == "--help" else f"cw {cw.__version__}") in worker.out


def test_a_master_that_refuses_a_worker_is_told_in_one_line():
    # A server that answers like a master of another version.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with Program("-m", "cw.worker", f"127.0.0.1:{port}") as worker:
            plain, _ = listener.accept()
            with tls.Contexts(credential.load()).server.wrap_socket(plain, server_side=True) as connected:
                connected.recv(4096)
                for frame in wire.encode(m.Refused("install the same cw on both")):
                    connected.sendall(b"".join(frame))
                assert worker.wait() == 1
            last = worker.err.splitlines()[-1]
            assert last.startswith("cw.worker: ")
            assert "refused this worker: install the same cw on both" in last
