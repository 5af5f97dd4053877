"""What a job may do to itself, and what is done to it: deaths of runners, time limits, cancelling, sizes."""

import ctypes
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import CancelledError
from pathlib import Path

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT, ROOT, Master, Worker, descendants_of, is_running, worker_of

import cw
from cw.net import wire


@pytest.fixture(scope="module")
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture
def executor(cluster):
    with cw.ClusterExecutor(cluster.master) as executor:
        yield executor


def wait_for_start(path):
    wait_until(path.exists, LIMIT)
    return int(path.read_text())


def hold_the_interpreter():
    """C code that runs no line of Python, looks at no signal, and never ends."""
    deque(itertools.repeat(0), maxlen=0)


# --- a runner dies ----------------------------------------------------------------------------


def overflow():
    sys.setrecursionlimit(10**9)

    class Endless:
        def __repr__(self):
            return repr([self.__class__()])

    repr(Endless())


def say_and_die(text, how):
    print(text, file=sys.stderr)
    jobs.die(how)


@pytest.mark.parametrize(
    ("function", "args", "how", "said"),
    [
        (say_and_die, ("this is the end", "SIGKILL"), "killed by SIGKILL", "this is the end"),
        (say_and_die, ("this too", 3), "exited with status 3", "this too"),
        (jobs.die, ("SIGSEGV",), "killed by SIGSEGV", "Fatal Python error: Segmentation fault"),
        (overflow, (), "killed by SIGSEGV", "Fatal Python error: Segmentation fault"),
        (jobs.echo, (jobs.Bomb(),), "exited with status 5", None),
    ],
)
def test_a_runners_death_is_told_with_where_and_how_and_its_last_words(
    executor, cluster, function, args, how, said
):
    beside = executor.submit(jobs.nap, 0.3, "unharmed")
    error = executor.options(attempts=2).submit(function, *args).exception(LIMIT)
    assert isinstance(error, cw.WorkerLost) and len(error.attempts) == 2
    for attempt in error.attempts:
        assert attempt["host"] == os.uname().nodename and attempt["worker"] == worker_of(cluster)
        assert attempt["slot"] in (0, 1) and attempt["how"] == how and 0 <= attempt["seconds"] < LIMIT
        assert not is_running(attempt["pid"])
        if said:
            assert said in attempt["stderr"] and said in str(error)
    assert beside.result(LIMIT) == "unharmed"


def test_of_a_crash_the_note_says_in_which_line_of_the_job(executor):
    error = executor.options(attempts=1).submit(jobs.die, "SIGSEGV").exception(LIMIT)
    assert "jobs.py" in error.attempts[0]["stderr"] and "in die" in error.attempts[0]["stderr"]
    assert "cw/runner/runner.py" not in error.attempts[0]["stderr"]


def test_last_words_may_come_from_a_child_and_be_many(executor):
    def work():
        code = "import sys; [print('line', n, 'x' * 50, file=sys.stderr) for n in range(100_000)]"
        subprocess.run([sys.executable, "-c", code], check=True)
        os._exit(1)

    (attempt,) = executor.options(attempts=1).submit(work).exception(LIMIT).attempts
    lines = attempt["stderr"].splitlines()
    assert len(lines) > 5 and len(attempt["stderr"]) <= 1000
    assert [line.split()[1] for line in lines] == [str(100_000 - len(lines) + n) for n in range(len(lines))]


def test_a_job_is_told_of_no_other_runners_words(executor):
    with cw.ClusterExecutor() as other:
        other.submit(print, "not mine", file=None).result(LIMIT)
        other.submit(say_and_die, "not mine", 1).exception(LIMIT)
    (attempt,) = executor.options(attempts=1).submit(jobs.die, 1).exception(LIMIT).attempts
    assert "not mine" not in attempt["stderr"]


def test_output_to_a_log_that_nobody_reads_holds_up_nobody(tmp_path):
    with Master() as master:
        command = [sys.executable, "-m", "cw.worker", master.address, "-n", "2", "--grace", "0"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        worker = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment)
        try:
            with cw.ClusterExecutor(master.address) as executor:

                def shout(n):
                    for _ in range(n):
                        print("x" * 1023, file=sys.stderr)
                    return n

                assert executor.options(output="log").submit(shout, 5000).result(LIMIT) == 5000
                error = executor.options(attempts=1).submit(say_and_die, "still heard", 1).exception(LIMIT)
                assert error.attempts[0]["stderr"].endswith("still heard")
                assert executor.submit(jobs.square, 3).result(LIMIT) == 9
                # When it is read again, it says what is missing.
                heard = b""
                while b"left out" not in heard:
                    heard += os.read(worker.stderr.fileno(), 65536)
        finally:
            worker.kill()
            worker.wait()
            worker.stderr.close()


def test_memory_that_a_limit_refuses_is_the_jobs_error(executor):
    def work():
        resource.setrlimit(resource.RLIMIT_AS, (2**30, resource.RLIM_INFINITY))
        try:
            return len(bytearray(2**31))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    assert isinstance(executor.submit(work).exception(LIMIT), MemoryError)
    assert executor.submit(jobs.square, 3).result(LIMIT) == 9


def test_the_result_of_a_job_without_memory_to_pickle_it_is_an_error_or_a_death(executor):
    def work():
        value = [str(n) for n in range(3_000_000)]
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, used + 2**20))
        return value

    error = executor.options(attempts=1).submit(work).exception(LIMIT)
    assert isinstance(error, (MemoryError, cw.NotPicklable, cw.WorkerLost))
    assert executor.submit(jobs.square, 3).result(LIMIT) == 9


# --- time limits ------------------------------------------------------------------------------


def test_a_job_that_runs_too_long_fails_with_what_when_and_where(executor, tmp_path):
    future = executor.options(timeout=0.3).submit(jobs.until, tmp_path / "never", None, tmp_path / "mark")
    pid = wait_for_start(tmp_path / "mark")
    began = time.monotonic()
    with pytest.raises(cw.JobTimeout, match=r"0\.3 s.*host .*attempt 1") as caught:
        future.result(LIMIT)
    assert 0.2 < time.monotonic() - began < 5
    assert isinstance(caught.value, TimeoutError) and os.uname().nodename in str(caught.value)
    wait_until(lambda: not is_running(pid), 5)
    assert executor.submit(jobs.square, 3).result(LIMIT) == 9


def test_it_may_clean_up(executor, tmp_path):
    def work(path):
        try:
            time.sleep(LIMIT)
        finally:
            Path(path).write_text("cleaned")

    assert isinstance(
        executor.options(timeout=0.2).submit(work, tmp_path / "it").exception(LIMIT), cw.JobTimeout
    )
    assert (tmp_path / "it").read_text() == "cleaned"


def test_what_it_returns_after_the_signal_counts_if_that_is_wanted(executor, cluster):
    def best(answer):
        try:
            time.sleep(LIMIT)
        except KeyboardInterrupt:
            if answer == "raise":
                raise ValueError("cut off") from None
        return "the best so far"

    keep = executor.options(timeout=0.3, on_limit="keep")
    assert keep.submit(best, "return").result(LIMIT) == "the best so far"
    assert isinstance(keep.submit(best, "raise").exception(LIMIT), cw.JobTimeout)
    assert isinstance(keep.submit(jobs.nap, LIMIT).exception(LIMIT), cw.JobTimeout)
    with pytest.raises(cw.JobTimeout):
        list(keep.map(jobs.nap, [0, LIMIT], chunksize=2))
    told = {}
    with cw.ClientThread(told.__setitem__) as thread:
        jobid = thread.options(timeout=0.3, on_limit="keep").submit(best, "return")
    assert told == {jobid: "the best so far"}


@pytest.mark.parametrize("wrong", ["", "Keep", "drop", True, 1])
def test_an_on_limit_that_is_none_is_a_value_error(executor, wrong):
    with pytest.raises(ValueError, match="on_limit must be 'keep' or None, not "):
        executor.options(on_limit=wrong)


SLOW = [pytest.param(answer, marks=pytest.mark.slow) for answer in ("return", "hold")]


@pytest.mark.parametrize("answer", ["raise", "go on", *SLOW])
def test_whatever_it_answers_to_the_signals_it_is_over(executor, answer, tmp_path):
    def work(mark):
        jobs.note(mark, os.getpid())
        if answer == "hold":
            hold_the_interpreter()
        while True:
            try:
                time.sleep(LIMIT)
            except KeyboardInterrupt:
                if answer == "return":
                    return "caught"
                if answer == "raise":
                    raise ValueError("not in time") from None

    for _ in range(2):
        executor.submit(hold_it_or_not, False).result(LIMIT)  # which imports this module
    future = executor.options(timeout=1).submit(work, tmp_path / "mark")
    pid = wait_for_start(tmp_path / "mark")
    began = time.monotonic()
    assert isinstance(future.exception(LIMIT), cw.JobTimeout)
    assert not is_running(pid) or answer in ("return", "raise")
    assert time.monotonic() - began < (5 if answer in ("return", "raise") else 10)
    wait_until(lambda: not is_running(pid), 3)


@pytest.mark.parametrize("new_session", [False, True])
def test_what_it_has_started_ends_with_it(executor, tmp_path, new_session):
    def work(path):
        jobs.leave_child(path, new_session=new_session)
        time.sleep(LIMIT)

    future = executor.options(timeout=1).submit(work, tmp_path / "pids")
    pids = list(
        map(
            int,
            wait_until(
                lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text(), LIMIT
            ).split(),
        )
    )
    assert isinstance(future.exception(LIMIT), cw.JobTimeout)
    wait_until(lambda: not any(map(is_running, pids)), 5)


def test_waiting_does_not_count(executor):
    futures = [executor.options(timeout=0.6).submit(jobs.nap, 0.3, n) for n in range(8)]
    assert [future.result(LIMIT) for future in futures] == list(range(8))


def test_a_limit_costs_the_jobs_around_it_nothing(executor, tmp_path):
    """Jobs of about the length of their limit, with short ones before and behind them."""
    for _ in range(20):
        executor.submit(jobs.until_or_not, None).result(LIMIT)  # so that they are sent ahead
    limited = executor.options(timeout=0.05)
    futures = []
    for n in range(40):
        futures.append((None, limited.submit(jobs.nap, 0.03 + 0.002 * n, "slept")))
        futures += [
            (m, executor.submit(jobs.mark_and_return, tmp_path, m)) for m in range(100 * n, 100 * n + 5)
        ]
    outcomes = []
    for expected, future in futures:
        if expected is None:
            error = future.exception(LIMIT)
            outcomes.append(type(error))
            assert error is None or isinstance(error, cw.JobTimeout)
        else:
            assert future.result(LIMIT) == expected
    assert {type(None), cw.JobTimeout} <= set(outcomes)
    runs = [path.name.split()[0] for path in tmp_path.iterdir()]
    assert len(runs) == len(set(runs)) == 200


def test_a_limit_for_the_chunks_of_a_map(executor):
    results = executor.options(timeout=0.3).map(jobs.nap, [0, 0, 0, 10], chunksize=2)
    assert [next(results), next(results)] == [None, None]
    with pytest.raises(cw.JobTimeout):
        next(results)


def test_a_client_threads_on_error_is_told(cluster):
    told = []
    with cw.ClientThread(
        host=cluster.master, on_error=lambda jobid, error: told.append((jobid, error))
    ) as thread:
        jobid = thread.options(timeout=0.1).submit(time.sleep, LIMIT)
        thread.wait(LIMIT)
    assert [(number, type(error)) for number, error in told] == [(jobid, cw.JobTimeout)]


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_a_value_error(executor, timeout):
    with pytest.raises(ValueError, match="timeout"):
        executor.options(timeout=timeout)


@pytest.mark.parametrize("timeout", ["1", True, [1]])
def test_a_limit_that_is_no_number_is_a_type_error(executor, timeout):
    with pytest.raises(TypeError, match="timeout"):
        executor.options(timeout=timeout)


# --- C code that holds the interpreter --------------------------------------------------------


def test_while_c_code_holds_the_interpreter_of_one_job_the_others_go_on(executor, cluster):
    assert executor.submit(jobs.until_or_not, None).result(LIMIT) is None
    holding = executor.options(timeout=4).submit(hold_it_or_not, True)
    for _ in range(200):  # some of them are sent behind it
        executor.submit(hold_it_or_not, False)
    assert [executor.submit(jobs.square, n).result(LIMIT) for n in range(100)] == [n * n for n in range(100)]
    assert not holding.done()
    error = holding.exception(LIMIT)
    assert isinstance(error, cw.JobTimeout)


def hold_it_or_not(is_holding):
    if is_holding:
        hold_the_interpreter()


@pytest.mark.slow
def test_a_worker_with_such_a_job_is_not_taken_for_dead():
    with Master("--silence", "1") as master, Worker(master.address, "--silence", "1") as worker:
        with cw.ClusterExecutor(master.address) as executor:
            future = executor.submit(hold_for, 3)
            assert future.result(LIMIT) == "held"
        assert not {"master.worker_gone", "master.worker_lost", "worker.master_gone"} & {
            *master.events,
            *worker.events,
        }
        assert worker.end() == 0


def hold_for(seconds):
    ctypes.PyDLL(None).sleep(seconds)
    return "held"


# --- cancelling -------------------------------------------------------------------------------


def test_kill_stops_a_running_call(executor, tmp_path):
    future = executor.submit(jobs.until, tmp_path / "never", None, tmp_path / "mark")
    pid = wait_for_start(tmp_path / "mark")
    wait_until(future.running, LIMIT)
    assert not future.cancel()
    assert executor.kill(future)
    with pytest.raises(CancelledError):
        future.result(0)
    assert future.cancelled() and future.done() and executor.kill(future)
    wait_until(lambda: not is_running(pid), 5)
    assert executor.submit(jobs.square, 3).result(LIMIT) == 9


def test_kill_tells_those_who_wait(executor):
    future = executor.submit(jobs.nap, LIMIT)
    wait_until(future.running, LIMIT)
    called = []
    future.add_done_callback(called.append)
    threading.Timer(0.2, executor.kill, [future]).start()
    with pytest.raises(CancelledError):
        future.result(LIMIT)
    assert called == [future]


def test_kill_of_what_waits_or_has_ended(executor, tmp_path):
    done = executor.submit(jobs.square, 2)
    assert done.result(LIMIT) == 4
    assert not executor.kill(done) and done.result(0) == 4
    blockers = [executor.submit(jobs.until, tmp_path / "go") for _ in range(2)]
    waiting = executor.submit(jobs.mark, tmp_path / "ran")
    assert executor.kill(waiting) and waiting.cancelled()
    (tmp_path / "go").touch()
    for blocker in blockers:
        blocker.result(LIMIT)
    executor.submit(jobs.square, 2).result(LIMIT)
    assert not (tmp_path / "ran").exists()
    with cw.ClusterExecutor() as other, pytest.raises(ValueError, match="not of this executor"):
        other.kill(done)


def test_a_client_thread_cancels_by_job_id(cluster, tmp_path):
    told, called = {}, []
    thread = cw.ClientThread(
        lambda jobid, result: called.append(jobid),
        cluster.master,
        on_error=lambda jobid, e: told.__setitem__(jobid, e),
    )
    with thread:
        running = thread.submit(jobs.until, tmp_path / "never", None, tmp_path / "mark")
        own = cw.randid()
        assert thread.submit(own, jobs.until, tmp_path / "never") == own
        waiting = [thread.submit(jobs.mark, tmp_path / f"ran {n}") for n in range(3)]
        mine = thread.submit(77, jobs.mark, tmp_path / "ran 77")
        pid = wait_for_start(tmp_path / "mark")
        assert not thread.cancel(waiting[-1] + 1)  # the number of the job that has the name 77
        assert (
            thread.cancel(running)
            and thread.cancel(own)
            and thread.cancel(waiting[1])
            and thread.cancel(mine)
        )
        assert not thread.cancel(running) and not thread.cancel(123456)
        thread.wait(LIMIT)
        wait_until(lambda: not is_running(pid), 5)
        assert not thread.cancel(waiting[0])
    assert {jobid: type(e) for jobid, e in told.items()}.keys() == {running, own, waiting[1], mine}
    assert all(isinstance(e, CancelledError) for e in told.values())
    assert sorted(called) == sorted([waiting[0], waiting[2]])
    assert sorted(p.name for p in tmp_path.glob("ran *")) == ["ran 0", "ran 2"]


def test_without_on_error_a_cancelled_job_is_no_error_of_wait(cluster):
    with cw.ClientThread(host=cluster.master) as thread:
        jobid = thread.submit(time.sleep, LIMIT)
        assert thread.cancel(jobid)
        thread.wait(LIMIT)


@pytest.mark.parametrize("how", ["cancel", "kill"])
@pytest.mark.parametrize("place", ["client", "master", "sent ahead"])
def test_what_has_not_started_is_cancelled_wherever_it_waits(executor, tmp_path, place, how):
    if place == "sent ahead":
        for _ in range(20):
            executor.submit(jobs.until_or_not, None).result(LIMIT)
    blockers = [executor.submit(jobs.until_or_not, str(tmp_path / "go")) for _ in range(2)]
    if place == "client":  # more than the master's window
        filler = [executor.submit(jobs.until_or_not, None) for _ in range(17_000)]
    waiting = [executor.submit(run_or_mark, tmp_path / f"ran {n}") for n in range(5)]
    if place == "sent ahead":
        wait_until(lambda: all(blocker.running() for blocker in blockers), LIMIT)
    if how == "cancel":
        assert all(future.cancel() for future in waiting[:4])
    else:
        assert all(executor.kill(future) for future in waiting[:4])
    (tmp_path / "go").touch()
    assert waiting[4].result(LIMIT) is None
    if place == "client":
        assert all(future.cancel() or future.done() for future in filler)
    assert [path.name for path in tmp_path.glob("ran *")] == ["ran 4"]


def run_or_mark(path):
    Path(path).touch()


@pytest.mark.parametrize(
    ("count", "seconds"), [(30_000, 1), pytest.param(100_000, 3, marks=pytest.mark.slow)]
)
def test_cancelling_very_many_takes_no_time(executor, tmp_path, count, seconds):
    blockers = [executor.submit(jobs.until, tmp_path / "go") for _ in range(2)]
    futures = [executor.submit(jobs.square, n) for n in range(count)]
    began = time.thread_time()  # (other programs may have the cores meanwhile)
    for future in futures:
        future.cancel()
    assert time.thread_time() - began < seconds
    (tmp_path / "go").touch()
    for blocker in blockers:
        blocker.result(LIMIT)
    assert executor.submit(jobs.square, 3).result(LIMIT) == 9


def test_kills_in_the_very_moment_of_the_end_hit_no_other_job(executor, tmp_path):
    for n in range(30):
        future = executor.submit(jobs.nap, 0.06)
        behind = [executor.submit(jobs.mark_and_return, tmp_path, 100 * n + m) for m in range(5)]
        time.sleep(0.05 + 0.0007 * n)
        executor.kill(future)
        assert [b.result(LIMIT) for b in behind] == [100 * n + m for m in range(5)]
    runs = [path.name.split()[0] for path in tmp_path.iterdir()]
    assert len(runs) == len(set(runs)) == 150


# --- what a job leaves behind -----------------------------------------------------------------


@pytest.mark.parametrize("leave", [jobs.leave_orphan, None])
def test_what_a_job_leaves_behind_ends_with_its_runner(cluster, tmp_path, leave):
    with cw.ClusterExecutor(cluster.master) as executor:
        path = tmp_path / "pids"
        if leave:
            runner = executor.submit(leave, path).result(LIMIT)
        else:
            runner = executor.submit(jobs.leave_child, path, new_session=True).result(LIMIT)
        pids = list(map(int, path.read_text().split()))
        assert all(map(is_running, pids)) and runner in descendants_of(worker_of(cluster))
        os.kill(runner, signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, pids)), 5)


# --- sizes and shapes -------------------------------------------------------------------------


def test_a_result_beyond_the_payload_limit_is_the_jobs_error(executor):
    def work(limit):
        wire.MAX_PAYLOAD = limit
        return bytes(10**6)

    error = executor.submit(work, 10**5 * 2).exception(LIMIT)
    assert isinstance(error, cw.NotPicklable) and "1000" in str(error) and "result" in str(error)
    assert len(executor.submit(work, 2**36).result(LIMIT)) == 10**6


def test_arguments_beyond_the_payload_limit_fail_at_submit(executor, monkeypatch):
    monkeypatch.setattr(wire, "MAX_PAYLOAD", 10**5 * 2)
    with pytest.raises(cw.NotPicklable, match="arguments"):
        executor.submit(len, bytes(10**6))
    assert executor.submit(len, b"abc").result(LIMIT) == 3


def nest(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def test_what_is_nested_too_deeply_is_told_and_harms_nobody(executor):
    with pytest.raises(cw.NotPicklable, match="deep"):
        executor.submit(jobs.echo, nest(100_000))
    error = executor.submit(nest, 100_000).exception(LIMIT)
    assert isinstance(error, cw.NotPicklable) and "deep" in str(error)
    assert executor.submit(jobs.square, 3).result(LIMIT) == 9


class Grumpy(Exception):
    def __reduce__(self):
        return _refuse, (os.getpid(), self.args)


def _refuse(home, args):
    if os.getpid() != home:
        raise RuntimeError("I do not unpickle here")
    return Grumpy(*args)


def test_an_exception_that_does_not_unpickle_comes_with_its_text(executor):
    def work():
        raise Grumpy("I was raised over there")

    error = executor.submit(work).exception(LIMIT)
    assert isinstance(error, cw.RemoteException)
    assert "I was raised over there" in str(error) and "I do not unpickle here" in str(error)
    assert "in work" in error.traceback
    assert executor.submit(jobs.square, 3).result(LIMIT) == 9


@pytest.mark.slow
def test_an_argument_of_more_than_a_gigabyte(executor):
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if available < 6 * 2**30:
        pytest.skip("not enough memory")
    beside = executor.submit(jobs.nap, 0.1, "unharmed")
    assert executor.submit(len, bytes(2**30 + 5)).result(4 * LIMIT) == 2**30 + 5
    assert beside.result(LIMIT) == "unharmed"
