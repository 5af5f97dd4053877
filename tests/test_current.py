"""`cw.current_job()`: which job runs, and a seed of its own for each call."""

import ast
import itertools
import math
import os
import threading
import time
from pathlib import Path

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT, Master, Program, Worker

import cw
from cw.cpus import usable_cpus
from cw.net import messages as m
from cw.payloads import current
from cw.store import callkey


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def executor(cluster):
    with cw.ClusterExecutor() as executor:
        yield executor


def whole(*_):
    return cw.current_job()


def seed(*_):
    return cw.current_job().seed


def time_left():
    return cw.current_job().time_left()


# --- who it is --------------------------------------------------------------------------------


def test_there_is_none_outside_of_a_job():
    assert cw.current_job() is None


def test_a_job_knows_its_name_place_and_share(executor):
    job = executor.submit(whole).result(LIMIT)
    assert (job.name, job.attempt, job.host, job.gpus) == ("whole", 1, os.uname().nodename, ())
    assert job.slot in (0, 1)
    assert job.cpus == max(1, usable_cpus() // 2)
    assert 0 <= job.seed < 2**128
    with pytest.raises(AttributeError):
        job.seed = 1


def test_the_number_is_the_one_in_messages(executor):
    def fail():
        raise ValueError(cw.current_job().id)

    error = executor.submit(fail).exception(LIMIT)
    assert f"job {error.args[0]} " in str(error.__cause__)


def test_the_calls_of_a_chunk_are_told_of_themselves(executor):
    for settings in ({}, {"return_exceptions": True}):
        found = list(executor.map(whole, range(4), chunksize=4, **settings))
        assert {job.name for job in found} == {"whole"}
        assert len({job.id for job in found}) == 1
        assert len({job.seed for job in found}) == 4


def test_it_is_there_in_threads_and_not_in_a_forked_child(executor):
    def elsewhere():
        found = []
        thread = threading.Thread(target=lambda: found.append(cw.current_job()))
        thread.start()
        thread.join()
        pid = os.fork()
        if not pid:
            os._exit(0 if cw.current_job() is None else 1)
        return found[0] == cw.current_job(), os.waitpid(pid, 0)[1]

    assert executor.submit(elsewhere).result(LIMIT) == (True, 0)


def test_a_thread_that_a_job_left_behind_has_none_when_no_job_runs(executor, tmp_path):
    path = str(tmp_path / "found")

    def leave_thread():
        def look():
            deadline = time.monotonic() + LIMIT
            while cw.current_job() is not None and time.monotonic() < deadline:
                time.sleep(0.005)
            jobs.note(path, cw.current_job())

        threading.Thread(target=look, daemon=True).start()

    executor.submit(leave_thread).result(LIMIT)
    wait_until(lambda: os.path.exists(path), LIMIT)
    assert Path(path).read_text() == "None"


def test_the_next_attempt_has_the_same_seed(executor, tmp_path):
    path = str(tmp_path / "first")

    def die_once():
        job = cw.current_job()
        if job.attempt == 1:
            jobs.note(path, job.seed)
            os._exit(1)
        return job

    job = executor.submit(die_once).result(LIMIT)
    assert job.attempt == 2
    assert job.seed == int(Path(path).read_text())


def test_an_id_of_the_callers_own_is_given_back():
    found = {}
    own = cw.randid()
    with cw.ClientThread(lambda jobid, job: found.__setitem__(jobid, job.id)) as thread:
        first = thread.submit(whole)
        for jobid in (own, 0, 2**63 - 1):
            thread.submit(jobid, whole)
        last = thread.submit(whole)
    assert found == {jobid: jobid for jobid in (first, own, 0, 2**63 - 1, last)}


@pytest.mark.parametrize(
    ("devices", "gpus"),
    [("", ()), ("0, 3", (0, 3)), ("GPU-1a,MIG-2b", ("GPU-1a", "MIG-2b")), ("1,-1,2", (1,)), ("-1", ())],
)
def test_the_gpus_are_those_that_cuda_sees(executor, devices, gpus):
    def look():
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
        return cw.current_job().gpus

    assert executor.submit(look).result(LIMIT) == gpus


# --- how long it has --------------------------------------------------------------------------


def test_the_time_left_is_that_of_its_own_limit(executor):
    assert executor.submit(time_left).result(LIMIT) == math.inf
    assert 90 < executor.options(timeout=100).submit(time_left).result(LIMIT) <= 100


def test_each_job_has_the_time_of_its_own_options(executor):
    futures = [executor.options(timeout=1000 * n).submit(time_left) for n in (*range(1, 40), 3, 2, 1)]
    left = [future.result(LIMIT) for future in futures]
    assert [round(seconds, -3) for seconds in left] == [1000 * n for n in (*range(1, 40), 3, 2, 1)]


def test_the_time_left_ends_with_the_workers():
    with Master() as master, Worker(master.address, "--lifetime", "1000", "--grace", "50"):
        with cw.ClusterExecutor(master.address) as executor:
            assert 950 < executor.submit(time_left).result(LIMIT) <= 1050
            assert 90 < executor.options(timeout=100).submit(time_left).result(LIMIT) <= 100


def test_no_time_is_left_when_the_end_has_passed(monkeypatch):
    current.begin_runner(str)
    monkeypatch.setattr(current, "running", (1, 1, 0, 1, 1, bytes(8)))
    monkeypatch.setattr(current, "slot", m.Slot(0, 1, time.monotonic() - 1))
    assert cw.current_job().time_left() == 0.0


# --- seeds ------------------------------------------------------------------------------------


def seeds_of(chunksize=1, store=None, **settings):
    with cw.ClusterExecutor(seed=7, store=store) as executor:
        first = executor.submit(seed).result(LIMIT)
        mapped = list(executor.map(seed, range(20), chunksize=chunksize, **settings))
        return [first, *mapped, executor.submit(seed, 1).result(LIMIT)]


def test_seeds_depend_on_the_call_and_not_on_how_it_travels(tmp_path):
    right = seeds_of()
    assert len(set(right)) == 22
    for settings in (
        {"chunksize": 3},
        {"chunksize": 20},
        {"chunksize": 3, "return_exceptions": True},
        {"buffersize": 4},
        {"chunksize": 6, "buffersize": 6},
        {"chunksize": 7, "store": str(tmp_path / "store")},
    ):
        assert seeds_of(**settings) == right, settings


@pytest.mark.parametrize("slots", [1, 3])
def test_seeds_do_not_depend_on_the_slots(slots):
    right = seeds_of(chunksize=2)
    with cw.mp.allocate(slots):
        assert seeds_of(chunksize=2) == right


STORED = """
import sys

import cw

def numbered(n):
    open("ran", "a").write("x")
    return n, cw.current_job().seed

own, chunksize, *items = [None if word == "None" else int(word) for word in sys.argv[1:]]
with cw.ClusterExecutor(seed=own, store="store") as executor:
    print(list(executor.map(numbered, items or range(20), chunksize=chunksize)))
"""


@pytest.fixture
def run_stored(cluster, tmp_path):
    """Run that script, as one run of a program: what it gave, and how many calls ran."""

    def run(*words):
        (tmp_path / "ran").write_text("")
        (tmp_path / "script.py").write_text(STORED)
        with Program(tmp_path / "script.py", *words, cwd=tmp_path, CW_MASTER=cluster.master) as script:
            assert script.wait() == 0, script.err
            return dict(ast.literal_eval(script.out)), len((tmp_path / "ran").read_text())

    return run


def test_what_is_missing_in_a_store_has_the_seeds_of_its_places(run_stored):
    with cw.ClusterExecutor(seed=7) as executor:
        right = list(executor.map(seed, range(20)))
    stored, _ = run_stored(7, 1, 0, 2, 3, 7, 9)
    found, ran = run_stored(7, 5)
    assert found == {n: stored.get(n, right[n]) for n in range(20)}
    assert ran == 15


def test_a_seed_is_part_of_what_results_are_stored_under(run_stored):
    first, other = run_stored(1, 1), run_stored(2, 1)
    assert (first[1], other[1]) == (20, 20)
    assert not set(first[0].values()) & set(other[0].values())
    assert run_stored(1, 6) == (first[0], 0)
    assert run_stored(None, 1)[1] == 20


def test_maps_that_are_read_in_turn_keep_their_seeds():
    def both(buffersize):
        with cw.ClusterExecutor(seed=7) as executor:
            maps = [executor.map(seed, range(9), buffersize=buffersize) for _ in range(2)]
            return list(itertools.chain.from_iterable(zip(*maps, strict=True)))

    assert both(2) == both(None)


def test_seeds_are_random_where_none_is_given():
    with cw.ClusterExecutor() as one, cw.ClusterExecutor() as other:
        assert one.submit(seed).result(LIMIT) != other.submit(seed).result(LIMIT)


def test_another_seed_gives_other_seeds():
    assert len({next(iter(cw.map(seed, [0], seed=own))) for own in (0, 1, -1, 2**200)}) == 4


def test_a_client_thread_has_the_seeds_of_an_executor():
    found = {}
    with cw.ClientThread(found.__setitem__, seed=7) as thread:
        order = [thread.submit(seed), thread.submit(cw.randid(), seed)]
    with cw.ClusterExecutor(seed=7) as executor:
        assert [found[jobid] for jobid in order] == [executor.submit(seed).result(LIMIT) for _ in range(2)]


@pytest.mark.slow
def test_clients_in_a_job_derive_their_seeds_from_its():
    def nested(_):
        found = []
        for own in (None, None, 5):
            with cw.ClusterExecutor(seed=own) as executor:
                found.append(executor.submit(seed).result(LIMIT))
        return found

    def run(own):
        with cw.ClusterExecutor(seed=own) as executor:
            return list(executor.map(nested, range(2), chunksize=2, buffersize=2))

    (a, b, explicit), (c, d, again) = run(3)
    assert len({a, b, c, d}) == 4
    assert explicit == again
    assert run(3) == [[a, b, explicit], [c, d, again]]


@pytest.mark.parametrize("own", [1.5, "1", b"1", True])
def test_a_seed_is_an_int(own):
    for make in (cw.ClusterExecutor, cw.ClientThread):
        with pytest.raises(TypeError, match="seed must be an int, not "):
            make(seed=own)


def test_keys_without_a_seed_are_what_they_were():
    assert callkey.of_seed(None) == b""
    assert len({callkey.of_seed(own) for own in (0, 1, -1, 10)}) == 4
