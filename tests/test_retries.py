"""Jobs that raise and are tried again: the rule alone, then with real processes."""

import os
import sys
import time
from concurrent.futures import CancelledError
from pathlib import Path

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT, Master, Worker, free_port

import cw
from cw.client.session.retries import Retries
from cw.requirements import JobOptions


def retries(most, retry_on=None):
    return Retries(JobOptions(retries=most, retry_on=retry_on))


# --- the rule ---------------------------------------------------------------------------------


def test_a_job_is_tried_again_as_often_as_it_says_and_the_last_error_has_the_others_as_notes():
    job = retries(2)
    assert [job.note_failure(OSError(n), b"%d" % n, 1) for n in range(3)] == [True, True, False]
    last = OSError(2)
    job.add_notes(last)
    assert last.__notes__ == ["try 1 of 3: OSError: 0", "try 2 of 3: OSError: 1"]
    assert not retries(0).note_failure(OSError(), b"", 1)


class Own(Exception):
    pass


@pytest.mark.parametrize(
    ("retry_on", "error", "is_again"),
    [
        (None, ValueError(), True),
        (None, Own(), True),
        (None, cw.RemoteException("it"), True),
        (None, SystemExit(), False),
        (None, KeyboardInterrupt(), False),
        (None, cw.JobTimeout(), False),
        (None, cw.NotPicklable(), False),
        (None, cw.InitializerFailed(), False),
        (OSError, FileNotFoundError(), True),
        (OSError, ValueError(), False),
        ((KeyError, Own), Own(), True),
        (TimeoutError, cw.JobTimeout(), False),
        (cw.JobTimeout, cw.JobTimeout(), True),
        ((OSError, cw.InitializerFailed), cw.InitializerFailed(), True),
    ],
)
def test_an_error_counts_if_its_class_is_named_and_one_of_cws_own_by_a_class_of_cw(retry_on, error, is_again):
    assert retries(1, retry_on).note_failure(error, b"", 1) is is_again


def test_a_failure_that_comes_once_more_over_another_connection_is_the_same_try():
    job = retries(1)
    assert job.note_failure(OSError(1), b"one", 1)
    assert job.note_failure(OSError(1), b"one", 2) and job.tries == 1
    assert not job.note_failure(OSError(1), b"one", 2)


class Frozen(Exception):
    def __setattr__(self, name, value):
        raise AttributeError(name)

    def __str__(self):
        raise ValueError


def test_notes_reach_exceptions_that_forbid_attributes_or_have_no_text():
    job, error = retries(1), Frozen()
    assert job.note_failure(error, b"", 1)
    job.add_notes(error)
    assert error.__notes__ == ["try 1 of 2: Frozen"]


# --- real processes ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture
def executor(cluster):
    with cw.ClusterExecutor(cluster.master) as executor:
        yield executor


def fail_at_first(path, times, error=OSError):
    """Raise so often; then return how it was seen: attempt, seed, id."""
    jobs.append(path, f"{os.getpid()}\n")
    count = len(Path(path).read_text().split())
    if count <= times:
        raise error(f"try {count}")
    job = cw.current_job()
    return job.attempt, job.seed


@pytest.mark.parametrize("how", ["submit", "map", "chunks", "as_completed"])
def test_a_job_that_raises_is_tried_again(executor, tmp_path, how):
    careful = executor.options(retries=2, retry_on=(OSError, KeyError))
    paths = [tmp_path / str(n) for n in range(3)]
    if how == "submit":
        found = [careful.submit(fail_at_first, path, 2).result(LIMIT) for path in paths]
    else:
        settings = {"chunks": {"chunksize": 3}, "as_completed": {"as_completed": True}}.get(how, {})
        found = list(careful.map(fail_at_first, paths, [2] * 3, timeout=LIMIT, **settings))
    assert [attempt for attempt, _ in found] == [3] * 3 and len({seed for _, seed in found}) == 3
    assert all(len(path.read_text().split()) == 3 for path in paths)
    assert not executor._session.outstanding()


def test_the_seed_is_the_same_at_each_try(cluster, tmp_path):
    with cw.ClusterExecutor(cluster.master, seed=7) as executor:
        first = executor.options(retries=1).submit(fail_at_first, tmp_path / "a", 0).result(LIMIT)
    with cw.ClusterExecutor(cluster.master, seed=7) as executor:
        second = executor.options(retries=1).submit(fail_at_first, tmp_path / "b", 1).result(LIMIT)
    assert first == (1, second[1]) and second[0] == 2


def test_the_last_error_comes_with_the_others_as_notes_and_its_own_traceback(executor, tmp_path):
    future = executor.options(retries=2).submit(fail_at_first, tmp_path / "a", 9)
    with pytest.raises(OSError, match="try 3") as caught:
        future.result(LIMIT)
    first, second = caught.value.__notes__
    assert first.startswith("try 1 of 3: OSError: try 1 (host ") and "try 2 of 3: OSError: try 2" in second
    assert "in fail_at_first" in str(caught.value.__cause__)


def test_other_errors_and_plain_jobs_fail_at_once(executor, tmp_path):
    with pytest.raises(LookupError):
        executor.options(retries=2, retry_on=OSError).submit(
            fail_at_first, tmp_path / "a", 9, KeyError
        ).result(LIMIT)
    with pytest.raises(OSError, match="try 1"):
        executor.submit(fail_at_first, tmp_path / "b", 9).result(LIMIT)
    with pytest.raises(SystemExit):
        executor.options(retries=2).submit(sys.exit, 3).result(LIMIT)


def test_a_class_of_the_script_is_matched(executor, script, tmp_path):
    names = script("""
        class Flaky(Exception):
            pass

        def work(path):
            if not path.exists():
                path.touch()
                raise Flaky(path)
            return "done"
    """)
    careful = executor.options(retries=1, retry_on=names["Flaky"])
    assert careful.submit(names["work"], tmp_path / "mark").result(LIMIT) == "done"


def test_a_job_that_timed_out_is_tried_again_only_if_that_is_asked_for(executor, tmp_path):
    def work(path):
        if not path.exists():
            path.touch()
            time.sleep(LIMIT)
        return "done"

    with pytest.raises(cw.JobTimeout):
        executor.options(timeout=0.1, retries=1, retry_on=OSError).submit(work, tmp_path / "a").result(LIMIT)
    careful = executor.options(timeout=1, retries=1, retry_on=cw.JobTimeout)
    assert careful.submit(work, tmp_path / "b").result(LIMIT) == "done"


def test_it_runs_on_another_worker_if_there_is_one(tmp_path):
    with (
        Master() as master,
        Worker(master.address),
        Worker(master.address),
        cw.ClusterExecutor(master.address) as executor,
    ):
        wait_until(lambda: executor.slots() == 2, LIMIT)
        for n in range(5):
            assert (
                executor.options(retries=1).submit(fail_at_first, tmp_path / str(n), 1).result(LIMIT)[0] == 2
            )
            first, second = (tmp_path / str(n)).read_text().split()
            assert first != second


def test_callbacks_get_the_last_outcome_once_under_the_same_id(cluster, tmp_path):
    results, errors = [], []
    with cw.ClientThread(
        lambda *args: results.append(args), cluster.master, on_error=lambda *args: errors.append(args)
    ) as thread:
        careful = thread.options(retries=1)
        own = careful.submit(fail_at_first, tmp_path / "a", 1)
        assert careful.submit(77, fail_at_first, tmp_path / "b", 1) == 77
        failed = careful.submit(fail_at_first, tmp_path / "c", 9)
        thread.wait(LIMIT)
    assert sorted((jobid, value[0]) for jobid, value in results) == sorted([(own, 2), (77, 2)])
    assert [(jobid, str(error)) for jobid, error in errors] == [(failed, "try 2")]


def test_a_store_has_the_last_outcome_only(cluster, tmp_path):
    with cw.ClusterExecutor(cluster.master, store=tmp_path / "store") as executor:
        careful = executor.options(retries=1)
        assert careful.submit(fail_at_first, str(tmp_path / "a"), 1).result(LIMIT)[0] == 2
        assert careful.submit(fail_at_first, str(tmp_path / "b"), 9).exception(LIMIT) is not None
        assert (
            len(list(careful.map(fail_at_first, [str(tmp_path / "c")], [1], chunksize=5, timeout=LIMIT))) == 1
        )
    stored = list(cw.results(tmp_path / "store"))
    assert len(stored) == 3 and sum(result.failed for result in stored) == 1
    (failed,) = [result for result in stored if result.failed]
    assert "try 2" in str(failed.error)


def fail_and_wait(path):
    """Raise at the first try; wait for ever at the second."""
    if not path.exists():
        path.touch()
        raise OSError
    jobs.mark(path.with_suffix(".second"))
    time.sleep(LIMIT)


def test_a_job_can_be_killed_and_cancelled_between_and_in_its_tries(executor, tmp_path):
    future = executor.options(retries=5).submit(fail_and_wait, tmp_path / "a")
    wait_until((tmp_path / "a.second").exists, LIMIT)
    assert not future.done() and executor.kill(future)
    with pytest.raises(CancelledError):
        future.result(LIMIT)
    # One that raises for ever is cancelled at any moment.
    for _ in range(20):
        future = executor.options(retries=10**6).submit(jobs.fail, OSError("again"))
        time.sleep(0.005)
        assert executor.kill(future)
    wait_until(lambda: not executor._session.outstanding(), LIMIT)
    assert executor.submit(jobs.square, 3).result(LIMIT) == 9


def test_bounds_on_what_is_outstanding_hold(cluster, tmp_path):
    with cw.ClusterExecutor(cluster.master, max_outstanding=(2, None), max_workers=1) as executor:
        careful = executor.options(retries=1)
        futures = [careful.submit(fail_at_first, tmp_path / str(n), 1) for n in range(6)]
        assert [future.result(LIMIT)[0] for future in futures] == [2] * 6


def test_a_master_that_is_restarted_in_the_middle_loses_no_try(tmp_path):
    port = free_port()
    with Master("--port", str(port)) as master, Worker(master.address):
        with cw.ClusterExecutor(master.address, reconnect_timeout=LIMIT) as executor:
            careful = executor.options(retries=10**6)
            paths = [tmp_path / str(n) for n in range(20)]
            futures = [careful.submit(fail_at_first, path, 30) for path in paths]
            wait_until(lambda: any(path.exists() for path in paths), LIMIT)
            master.process.kill()
            with Master("--port", str(port)):
                assert all(future.result(LIMIT)[0] >= 1 for future in futures)
                executor.shutdown()
        assert all(len(path.read_text().split()) >= 31 for path in paths)


def test_an_executor_forgets_the_tries_of_jobs_that_ended(executor, tmp_path):
    executor.options(retries=3).submit(fail_at_first, tmp_path / "a", 1).result(LIMIT)
    assert not executor._session.exchange._again
    executor._session.jobs.check_invariants()


class Closed(OSError):
    pass


def test_another_process_knows_the_classes_by_name():
    """As `Retries.restored` does, which has no exceptions: only the names of their types."""
    first = Retries(JobOptions(retries=3, retry_on=(OSError, cw.JobTimeout)))
    assert first.note_failure(Closed("a"), b"a", 1)
    again = Retries.restored(first.most, first.tries, first.class_names())
    closed = cw.RemoteException("x", f"{Closed.__module__}.Closed")
    assert not again.note_failure(cw.RemoteException("x", "builtins.ValueError"), b"b", 1)
    assert not again.note_failure(cw.RemoteException("x", "ValueError"), b"b", 1)
    assert again.note_failure(closed, b"b", 1) and again.note_failure(cw.JobTimeout("x"), b"c", 1)
    assert not {"cw.errors.ConnectionError", "cw.errors.WorkerLost"} & set(first.class_names())
    assert again.tries == 3 and not again.note_failure(closed, b"d", 1)


@pytest.mark.parametrize("name", ["KeyboardInterrupt", "SystemExit", "cw.errors.MemoryExceeded", ""])
def test_without_classes_all_names_count_but_those_of_ends_and_of_cw(name):
    assert Retries(JobOptions(retries=1)).class_names() is None
    again = Retries.restored(1, 0, None)
    assert not again.note_failure(cw.RemoteException("x", name), b"a", 1)
    assert again.note_failure(cw.RemoteException("x", "mylab.TooHot"), b"a", 1)
