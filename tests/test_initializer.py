"""The initializer of an executor: once in each runner, before its first job. (That of a pool: test_pool.)"""

import os
import pickle
import sys
import traceback
from concurrent.futures import BrokenExecutor
from pathlib import Path

import jobs
import numpy
import pytest
from programs import LIMIT

import cw


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


def append_pid(path):
    jobs.append(path, f"{os.getpid()}\n")


def pids_in(path):
    return sorted(map(int, path.read_text().split()))


def nap_pid(argument=None):
    jobs.nap(0.01)
    return os.getpid()


@pytest.mark.parametrize("settings", [{}, {"chunksize": 2, "as_completed": True, "progress": True}])
def test_it_runs_once_in_each_process_before_its_first_call(tmp_path, settings):
    path = tmp_path / "pids"
    with cw.ClusterExecutor(initializer=append_pid, initargs=(path,)) as executor:
        pids = {*executor.map(nap_pid, range(12), timeout=LIMIT, **settings)}
        pids |= {executor.submit(nap_pid).result(LIMIT) for _ in range(4)}
        assert pids_in(path) == sorted(pids)
    with cw.ClusterExecutor() as other:
        assert other.submit(nap_pid).result(LIMIT) not in pids_in(path)


def test_it_runs_again_in_fresh_runners(tmp_path):
    path, deaths = tmp_path / "pids", tmp_path / "deaths"
    deaths.mkdir()
    with cw.ClusterExecutor(initializer=append_pid, initargs=[path]) as executor:
        pids = [executor.submit(jobs.pid).result(LIMIT)]
        executor.restart()
        pids.append(executor.submit(jobs.pid).result(LIMIT))
        assert executor.submit(jobs.die_once, deaths, "SIGKILL").result(LIMIT)
        assert len(pids_in(path)) >= 3 and set(pids) < set(pids_in(path))


def test_what_it_stores_stays_for_all_functions(script):
    names = script("""
        model = other = None

        def begin(value):
            global model
            model = value
            globals()["oth" + "er"] = [value]

        def first(number):
            return model, number

        def second(number):
            return other, number
    """)
    with cw.ClusterExecutor(max_workers=1, initializer=names["begin"], initargs=(7,)) as executor:
        assert list(executor.map(names["first"], range(2), timeout=LIMIT)) == [(7, 0), (7, 1)]
        assert executor.submit(names["first"], 5).result(LIMIT) == (7, 5)
    with cw.ClusterExecutor(max_workers=1, initializer=names["begin"], initargs=(8,)) as executor:
        assert executor.submit(names["second"], 3).result(LIMIT) == ([8], 3)


class Model:
    def __init__(self, size):
        self.weights = numpy.arange(size)

    def begin(self):
        jobs.set_global(self.weights)


def sum_of_global():
    return int(jobs.get_global().sum())


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_it_may_be_a_method_of_an_object_of_any_size(size):
    model = Model(size)
    with cw.ClusterExecutor(initializer=model.begin) as executor:
        model.weights[:] = 0  # its state was taken before
        assert executor.submit(sum_of_global).result(LIMIT) == sum(range(size))


def test_large_arguments_travel_once():
    table = numpy.ones(500_000)
    with cw.ClusterExecutor(initializer=jobs.set_global, initargs=(table,)) as executor:
        table[:] = 0  # they were taken before
        functions = [lambda n=n: (n, jobs.get_global().sum()) for n in range(20)]
        futures = [executor.submit(function) for function in functions]
        assert [future.result(LIMIT) for future in futures] == [(n, 500_000.0) for n in range(20)]
        assert executor._session.calls.objects.size < 2 * table.nbytes


def fail(text):
    raise OSError(text)


def leave(text):
    sys.exit(text)


@pytest.mark.parametrize("initializer", [fail, leave])
def test_one_that_fails_fails_the_jobs_and_says_where(initializer):
    with cw.ClusterExecutor(max_workers=1, initializer=initializer, initargs=("no table",)) as executor:
        text = rf"initializer {initializer.__name__} failed on host .*, in process \d+: .*no table"
        futures = [executor.submit(jobs.pid) for _ in range(3)]
        first = traceback.format_exception(futures[0].exception(LIMIT))
        assert f"in {initializer.__name__}" in "".join(first)
        for future in futures:
            with pytest.raises(cw.InitializerFailed, match=text) as caught:
                future.result(LIMIT)
            assert isinstance(caught.value, BrokenExecutor)
            assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
        with pytest.raises(cw.InitializerFailed, match=text):
            list(executor.map(abs, [1, 2], chunksize=2, timeout=LIMIT))


def test_one_that_kills_its_process_is_the_jobs_fault():
    with (
        cw.ClusterExecutor(initializer=os._exit, initargs=(3,)) as executor,
        pytest.raises(cw.WorkerLost, match="status 3"),
    ):
        executor.options(attempts=2).submit(jobs.pid).result(LIMIT)


class Unreadable:
    def __reduce__(self):
        raise ValueError("does not pickle")


def test_one_that_cannot_travel_is_refused_at_once(tmp_path):
    with pytest.raises(TypeError, match="callable"):
        cw.ClusterExecutor(initializer=5)
    with pytest.raises(cw.NotPicklable, match="does not pickle"):
        cw.ClusterExecutor(initializer=fail, initargs=(Unreadable(),), store=tmp_path / "store")


def test_stored_results_are_found_with_any_initializer_and_its_failure_is_not_stored(tmp_path, monkeypatch):
    monkeypatch.setattr("cw.client.store_client._is_interactive", lambda: True)  # each client is a run
    path, store = tmp_path / "pids", tmp_path / "store"
    with cw.ClusterExecutor(initializer=fail, initargs=("",), store=store, retry_errors=False) as executor:
        with pytest.raises(cw.InitializerFailed):
            executor.submit(jobs.square, 3).result(LIMIT)
        with pytest.raises(cw.InitializerFailed):
            list(executor.map(jobs.square, [4, 5], chunksize=2, timeout=LIMIT))
    assert len(cw.results(store)) == 0
    for initializer in (append_pid, fail, None):
        with cw.ClusterExecutor(initializer=initializer, initargs=(path,), store=store) as executor:
            assert executor.submit(jobs.square, 3).result(LIMIT) == 9
            assert list(executor.map(jobs.square, [4, 5], chunksize=2, timeout=LIMIT)) == [16, 25]
    assert len(cw.results(store)) == 3 and len(pids_in(path)) <= 2


def in_a_job(path):
    with cw.ClusterExecutor(initializer=append_pid, initargs=(Path(path),)) as executor:
        return executor.submit(jobs.pid).result(LIMIT)


def test_a_job_may_have_an_executor_with_its_own(tmp_path):
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    with cw.ClusterExecutor(initializer=append_pid, initargs=(outer,)) as executor:
        pid = executor.submit(in_a_job, inner).result(LIMIT)
    assert pids_in(inner) == [pid] and len(pids_in(outer)) == 1
