"""cw.Pool keeps the contract of multiprocessing.Pool, as its documentation and CPython's own tests have it."""

import contextlib
import functools
import gc
import itertools
import multiprocessing
import os
import pickle
import threading
import time
import weakref
from concurrent.futures import BrokenExecutor, CancelledError

import jobs
import pytest
from conftest import events, wait_until
from programs import LIMIT

import cw


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def pool(cluster):
    with cw.Pool() as pool:
        yield pool


class Broken(Exception):
    """Raised by an input, or by a call."""


def counting(total, broken_at=-1):
    """0, 1, ...; raises in place of one of them."""
    for number in range(total):
        if number == broken_at:
            raise Broken(number)
        yield number


def fail(argument):
    raise Broken(argument)


def fail_at_three(number):
    if number == 3:
        raise Broken(number)
    return number


class Unreadable:
    def __reduce__(self):
        raise Broken("does not pickle")


# --- one call ---------------------------------------------------------------------------------


def test_apply_takes_arguments_and_keywords(pool):
    assert pool.apply(jobs.add, (1, 2)) == 3
    assert pool.apply(jobs.add, [1], {"other": 4}) == 5
    assert pool.apply(jobs.pid) != os.getpid()


def test_apply_async_gives_a_result_that_is_not_ready_at_once(pool, tmp_path):
    result = pool.apply_async(jobs.until, (tmp_path / "gate", 7))
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    jobs.mark(tmp_path / "gate")
    assert result.get() == 7
    assert result.ready() and result.successful()
    assert result.get(timeout=0) == 7


def test_get_times_out_with_the_error_of_multiprocessing(pool, tmp_path):
    result = pool.apply_async(jobs.until, (tmp_path / "gate",))
    result.wait(0.001)
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0.01)
    jobs.mark(tmp_path / "gate")
    result.wait()
    assert result.ready()


def test_an_error_of_the_call_is_raised_by_each_get(pool):
    result = pool.apply_async(fail, (5,))
    result.wait()
    assert not result.successful()
    for _ in range(2):
        with pytest.raises(Broken, match="5") as caught:
            result.get()
        assert "in fail" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    "function, args", [(jobs.echo, (Unreadable(),)), (5, ()), (lambda: Unreadable(), ())]
)
def test_what_does_not_pickle_is_an_error_of_the_result(pool, function, args):
    result = pool.apply_async(function, args)
    with pytest.raises((cw.NotPicklable, TypeError, Broken)):
        result.get()
    assert pool.apply(jobs.square, (3,)) == 9


def test_callbacks_get_the_value_or_the_error_before_the_result_is_ready(pool):
    seen = []
    for function in (jobs.square, fail):
        box = []

        def note(kind, value, box=box):
            seen.append((kind, value, box[0].ready() if box else False))

        box.append(
            pool.apply_async(
                function, (3,), {}, functools.partial(note, "value"), functools.partial(note, "error")
            )
        )
        box[0].wait()
    assert seen[0] == ("value", 9, False)
    assert seen[1][0] == "error" and type(seen[1][1]) is Broken and not seen[1][2]


def test_a_callback_that_fails_is_logged_and_does_no_harm(pool, caplog):
    assert pool.apply_async(jobs.square, (3,), callback=fail).get() == 9
    assert "pool.callback_failed" in events(caplog)


def test_a_callback_may_submit_but_not_wait(pool):
    results, errors = [], []

    def chain(value):
        results.append(pool.apply_async(jobs.square, (value,)))
        try:
            results[0].get()
        except RuntimeError as error:
            errors.append(error)

    pool.apply_async(jobs.square, (3,), callback=chain).wait()
    assert results[0].get() == 81
    assert len(errors) == 1


# --- map and starmap --------------------------------------------------------------------------


def test_map_returns_a_list_in_the_order_of_the_input(pool):
    expected = list(map(jobs.square, range(100)))
    assert pool.map(jobs.square, range(100)) == expected
    assert pool.map(jobs.square, iter(range(100)), 20) == expected
    assert pool.map(jobs.square, list(range(100)), chunksize=1000) == expected
    assert pool.map(jobs.square, range(10), 1) == expected[:10]
    assert pool.map(lambda number: number + 1, {4: "a", 5: "b"}) == [5, 6]


@pytest.mark.parametrize("empty", [[], (), iter([])])
def test_a_map_of_nothing_is_ready_at_once(pool, empty):
    result = pool.map_async(jobs.square, empty)
    assert result.ready() and result.successful() and result.get() == []


def test_starmap_unpacks_each_item(pool):
    pairs = list(zip(range(20), range(20, 40), strict=True))
    expected = list(itertools.starmap(jobs.add, pairs))
    assert pool.starmap(jobs.add, pairs) == expected
    assert pool.starmap(jobs.add, ([a, b] for a, b in pairs), 3) == expected
    assert pool.starmap_async(jobs.add, pairs).get() == expected


def test_callbacks_of_a_map_get_all_of_it_or_the_first_error(pool):
    seen = []
    pool.map_async(jobs.square, range(10), callback=seen.append, error_callback=seen.append).wait()
    assert seen == [[number**2 for number in range(10)]]
    pool.map_async(fail, range(10), callback=seen.append, error_callback=seen.append).wait()
    assert len(seen) == 2 and str(seen[1]) == "0"


def test_an_error_is_raised_when_all_calls_have_ended(pool, tmp_path):
    result = pool.map_async(functools.partial(fail_or_wait, tmp_path / "gate"), ["fail", "wait"], chunksize=1)
    result.wait(0.1)
    assert not result.ready()
    jobs.mark(tmp_path / "gate")
    with pytest.raises(Broken):
        result.get()


def fail_or_wait(path, what):
    return fail(what) if what == "fail" else jobs.until(path)


def test_a_call_after_a_failed_one_of_its_chunk_does_not_run(pool, tmp_path):
    def mark(number):
        jobs.mark(tmp_path / str(number))
        return fail_at_three(number)

    with pytest.raises(Broken):
        pool.map(mark, range(6), 6)
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2", "3"]


def test_an_error_of_the_input_of_map_is_raised(pool):
    with pytest.raises(Broken):
        pool.map(jobs.square, counting(10, 3))
    with pytest.raises(TypeError):
        pool.starmap(jobs.add, [1, 2])


@pytest.mark.parametrize("size", [0, -1])
def test_a_chunk_has_one_call_at_least(pool, size):
    for method in (pool.map, pool.starmap, pool.imap, pool.imap_unordered):
        with pytest.raises(ValueError, match="Chunksize must be 1"):
            method(jobs.square, [1], size)


def test_a_map_has_four_chunks_for_each_process(pool):
    """Each call returns the job that it is in; calls of a chunk are one job."""
    for count, sizes in ((16, [2] * 8), (17, [3] * 5 + [2]), (7, [1] * 7)):
        found = pool.map_async(lambda number: job_id(number), range(count)).get()
        assert [len(list(group)) for _, group in itertools.groupby(found)] == sizes


@pytest.mark.parametrize("tiny, short, chunks", [(0.0, 1000.0, 2), (0.0, 0.0, 8), (1000.0, 1000.0, 1)])
def test_a_map_that_was_short_has_fewer_chunks_from_then_on(pool, monkeypatch, tiny, short, chunks):
    monkeypatch.setattr("cw.pool.sizes.TINY_SECONDS", tiny)
    monkeypatch.setattr("cw.pool.sizes.SHORT_SECONDS", short)
    assert len(set(pool.map(lambda number: job_id(number), range(16)))) == 8
    pool.map(job_id, range(3))
    assert len(set(pool.map(job_id, range(16)))) == chunks
    assert len(set(pool.map(job_id, range(16), 1))) == 16
    assert len(set(pool.map(job_id, range(2)))) == 2


def test_calls_that_take_longer_than_before_do_not_wait_for_each_other(tmp_path, monkeypatch):
    """All calls of the second map are one chunk. Its first call takes its time; the others go on in both processes."""
    monkeypatch.setattr("cw.pool.sizes.TINY_SECONDS", 1000.0)
    with cw.Pool(seed=3) as pool:
        pool.map(seed, range(3), 1)
        seeds = pool.map(seed, range(11), 1)
    with cw.Pool(seed=3) as pool:
        pool.map(meet, [("", 0.0)] * 3, 1)
        found = pool.map(meet, [("", 0.02), *[(tmp_path, 0.0)] * 10])
    assert [each for each, _ in found] == seeds
    assert len({process for _, process in found}) == 2


def meet(argument):
    """Wait n seconds, and until another process is here, too, if there is a directory."""
    directory, seconds = argument
    time.sleep(seconds)
    if directory:
        jobs.mark(directory / str(os.getpid()))
        wait_until(lambda: len(os.listdir(directory)) > 1, LIMIT)
    return cw.current_job().seed, os.getpid()


def job_id(argument):
    return cw.current_job().id


def test_each_call_has_a_seed_of_its_own_whatever_the_chunks():
    seeds = []
    for chunksize in (1, 5):
        with cw.Pool(seed=3) as pool:
            seeds.append(pool.map(seed, range(10), chunksize))
    assert seeds[0] == seeds[1] and len(set(seeds[0])) == 10


def seed(argument):
    return cw.current_job().seed


class Counted:
    """Can be referred to weakly."""


def test_arguments_and_results_are_not_kept(pool):
    for run in (
        lambda objects: pool.map(jobs.echo, objects),
        lambda objects: pool.map(jobs.echo, objects, 1),
        lambda objects: [*pool.imap(jobs.echo, objects)],
        lambda objects: [pool.apply(jobs.echo, (each,)) for each in objects],
    ):
        objects = [Counted() for _ in range(10)]
        found = run(objects)
        references = [weakref.ref(each) for each in (*objects, *found)]
        del objects, found
        gc.collect()
        wait_until(lambda: not any(reference() for reference in references), LIMIT)  # noqa: B023


@pytest.mark.parametrize("chunksize", [None, 1])
def test_nothing_to_map_gives_nothing(pool, chunksize):
    sizes = {} if chunksize is None else {"chunksize": chunksize}
    assert pool.map(jobs.square, [], **sizes) == pool.starmap(jobs.square, iter(()), **sizes) == []
    assert pool.map_async(jobs.square, [], **sizes).get(LIMIT) == []
    assert [*pool.imap(jobs.square, [], **sizes)] == [*pool.imap_unordered(jobs.square, [], **sizes)] == []


# --- imap -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 7, 1000])
def test_imap_yields_in_order_and_imap_unordered_all(pool, chunksize):
    expected = list(map(jobs.square, range(200)))
    assert list(pool.imap(jobs.square, range(200), chunksize)) == expected
    assert sorted(pool.imap_unordered(jobs.square, iter(range(200)), chunksize)) == expected


def test_imap_is_an_iterator_that_ends(pool):
    results = pool.imap(jobs.square, range(3))
    assert iter(results) is results
    assert [next(results), results.next(), results.next(timeout=LIMIT)] == [0, 1, 4]
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(results)
    assert list(pool.imap(jobs.square, [])) == []


def test_next_times_out_and_the_result_can_be_taken_later(pool, tmp_path):
    for method in (pool.imap, pool.imap_unordered):
        gate = tmp_path / method.__name__
        results = method(jobs.until, [gate])
        with pytest.raises(multiprocessing.TimeoutError):
            results.next(timeout=0.01)
        jobs.mark(gate)
        assert list(results) == [None]


def test_imap_raises_in_place_of_a_result_and_goes_on(pool):
    results = pool.imap(fail_at_three, range(5))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Broken):
        next(results)
    assert list(results) == [4]


@pytest.mark.parametrize(
    "total, broken_at, chunksize, before",
    [(1, 0, 1, 0), (10, 3, 1, 3), (1, 0, 2, 0), (10, 3, 2, 2), (10, 4, 2, 4)],
)
def test_an_error_of_the_input_of_imap_comes_after_whole_chunks(pool, total, broken_at, chunksize, before):
    results = pool.imap(jobs.square, counting(total, broken_at), chunksize)
    assert [next(results) for _ in range(before)] == [number**2 for number in range(before)]
    with pytest.raises(Broken):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    taken = []
    with pytest.raises(Broken):
        for value in pool.imap_unordered(jobs.square, counting(total, broken_at), chunksize):
            taken.append(value)
    assert set(taken) <= {number**2 for number in range(before)}


def test_an_item_that_does_not_pickle_fails_alone(pool):
    results = pool.imap(jobs.echo, [1, Unreadable(), 3])
    assert next(results) == 1
    with pytest.raises(cw.NotPicklable, match="does not pickle"):
        next(results)
    assert list(results) == [3]


def test_imap_reads_an_endless_input_no_further_than_it_submits(pool):
    read = itertools.count()
    with cw.Pool() as own:
        results = own.imap_unordered(jobs.nap, (0.001 for _ in read))
        assert [next(results) for _ in range(20)] == [None] * 20
    assert next(read) < 50_000


# --- its size ---------------------------------------------------------------------------------


def test_the_size_is_that_of_the_cluster_or_less(pool):
    assert pool.size == pool._processes == 2
    for processes, size in ((1, 1), (2, 2), (5, 2)):
        with cw.Pool(processes) as own:
            assert own.size == own._processes == size


def test_no_more_jobs_run_at_a_time_than_processes(tmp_path):
    with cw.Pool(1) as pool:
        alone = functools.partial(is_alone, tmp_path / "running")
        results = [pool.map_async(alone, range(4), 1), pool.starmap_async(alone, [(1,), (2,)])]
        assert pool.apply(alone, (1,))
        assert all(pool.imap(alone, range(4))) and all(all(result.get()) for result in results)


def is_alone(path, argument):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    time.sleep(0.01)
    path.unlink()
    return True


def test_arguments_of_the_pool_are_checked_as_in_multiprocessing():
    for processes in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            cw.Pool(processes)
    with pytest.raises(TypeError, match="callable"):
        cw.Pool(initializer=5)
    with pytest.raises(ValueError, match="positive"):
        cw.Pool(maxtasksperchild=0)
    with pytest.warns(UserWarning, match="--max-jobs"):
        cw.Pool(maxtasksperchild=5).terminate()
    with pytest.warns(UserWarning, match="context="):
        cw.Pool(context=multiprocessing.get_context("spawn")).terminate()
    with pytest.raises(cw.ConnectionError):
        cw.Pool(host="127.0.0.1:1", connect_timeout=0)


# --- initializer ------------------------------------------------------------------------------


def append_pid(path):
    jobs.append(path, f"{os.getpid()}\n")


def test_an_initializer_runs_once_in_each_process_before_its_first_call(tmp_path):
    path = tmp_path / "pids"
    with cw.Pool(initializer=append_pid, initargs=[path]) as pool:
        pids = {*pool.map(nap_pid, range(8), 1), pool.apply(jobs.pid), *pool.imap(nap_pid, range(4))}
        assert sorted(map(int, path.read_text().split())) == sorted(pids)
        with cw.Pool(initializer=append_pid, initargs=(path,)) as other:
            other.apply(jobs.pid)
    assert len(path.read_text().split()) == len(pids) + 1


def nap_pid(argument):
    time.sleep(0.01)
    return os.getpid()


def test_what_an_initializer_stores_stays_for_all_functions(script):
    names = script("""
        shared = None

        def begin(value):
            keep(value)

        def keep(value):
            global shared
            shared = value

        def first(number):
            return number

        def second(number):
            return shared, number
    """)
    with cw.Pool(1, names["begin"], ("value",)) as pool:
        assert pool.map(names["first"], range(2)) == [0, 1]
        assert pool.map(names["second"], range(2)) == [("value", 0), ("value", 1)]
        assert pool.apply(lambda number: names["second"](number), (5,)) == ("value", 5)


def test_an_initializer_may_be_given_objects_of_the_script(script):
    names = script("""
        class Point:
            x = 4

        def begin(point):
            global shared
            shared = point

        def read(number):
            return shared.x + number
    """)
    with cw.Pool(1, names["begin"], (names["Point"](),)) as pool:
        assert pool.map(names["read"], range(3)) == [4, 5, 6]


def test_a_failed_initializer_fails_the_jobs_and_says_where():
    with cw.Pool(1, fail, ("no table",)) as pool:
        for submit in (lambda: pool.apply(jobs.pid), lambda: pool.map(jobs.square, range(4))):
            with pytest.raises(
                cw.InitializerFailed, match=r"fail failed on host .*, in process \d+.*no table"
            ) as caught:
                submit()
        assert isinstance(caught.value, BrokenExecutor)
        assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


def test_an_initializer_that_does_not_pickle_is_refused_at_once():
    with pytest.raises(cw.NotPicklable, match="argument 1"):
        cw.Pool(1, fail, (Unreadable(),))


# --- its end ----------------------------------------------------------------------------------


def test_a_closed_pool_finishes_what_it_has_and_takes_no_more():
    pool = cw.Pool()
    results = pool.map_async(jobs.nap, [0.01] * 10), pool.imap(jobs.square, iter(range(100)))
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    pool.close()
    pool.close()
    for method in (pool.map, pool.map_async, pool.starmap, pool.imap, pool.imap_unordered):
        with pytest.raises(ValueError, match="Pool not running"):
            method(jobs.square, [1])
    for method in (pool.apply, pool.apply_async):
        with pytest.raises(ValueError, match="Pool not running"):
            method(jobs.square, (1,))
    with pytest.raises(ValueError, match="Pool not running"), pool:
        pass
    pool.join()
    assert results[0].ready() and list(results[1]) == list(map(jobs.square, range(100)))


@pytest.mark.parametrize("processes", [None, 1])
def test_the_end_of_the_block_terminates(processes, tmp_path):
    """Nothing hangs, unlike in multiprocessing: what is not there is cancelled."""
    with cw.Pool(processes) as pool:
        result = pool.map_async(jobs.until, [tmp_path / "gate"] * 20, 1)
        iterator = pool.imap(jobs.until, [tmp_path / "gate"] * 2)
        seen = []
        error = pool.apply_async(jobs.until, (tmp_path / "gate",), error_callback=seen.append)
    with pytest.raises(CancelledError):
        result.get(LIMIT)
    with pytest.raises(CancelledError):
        iterator.next(LIMIT)
    with pytest.raises(CancelledError):
        error.get(LIMIT)
    assert len(seen) == 1
    pool.terminate()
    pool.join()


def test_termination_does_not_wait_for_an_input_that_blocks():
    gate = threading.Event()
    pool = cw.Pool()
    results = pool.imap(jobs.square, (gate.wait() for _ in range(2)))
    pool.terminate()
    with contextlib.suppress(CancelledError):
        assert list(results) == []
    gate.set()
    pool.join()


def test_a_pool_that_is_forgotten_warns_and_leaves_no_thread():
    pool = cw.Pool()
    assert pool.map(jobs.square, range(3)) == [0, 1, 4] and list(pool.imap(jobs.square, [2])) == [4]
    threads = [pool._session._thread, pool._feeder._thread]
    with pytest.warns(ResourceWarning, match="unclosed running pool"):
        del pool
        gc.collect()
    wait_until(lambda: not any(thread.is_alive() for thread in threads))


def test_results_keep_their_pool_alive():
    result = cw.Pool().apply_async(jobs.nap, (0.05, 4))
    pool = result._pool
    gc.collect()
    assert result.get() == 4
    pool.terminate()


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_an_endless_input_is_not_read_on_when_the_cluster_is_gone(method):
    with cw.mp.allocate(1) as own, cw.Pool(host=own.master, reconnect_timeout=0) as pool:
        results = getattr(pool, method)(jobs.square, itertools.count())
        assert next(results) == 0
        pool._session.on_failure(cw.ConnectionError("the master is gone"))
        with pytest.raises(cw.ConnectionError):
            list(results)
        pool.close()
        pool.join()


def test_a_pool_does_not_pickle(pool):
    with pytest.raises(NotImplementedError, match="cannot be passed between processes"):
        pickle.dumps(pool)


@pytest.mark.parametrize("rest", ["", "import sys; sys.exit(0)"])
def test_a_program_ends_although_its_pool_is_open_and_its_input_endless(run_forked, tmp_path, cluster, rest):
    script = tmp_path / "program.py"
    script.write_text(f"""
import itertools, cw

def square(number):
    return number * number

if __name__ == "__main__":
    pool = cw.Pool(host={cluster.master!r})
    print(next(pool.imap(square, itertools.count(3))))
    {rest}
""")
    ended = run_forked(script)
    assert ended.returncode == 0 and ended.stdout == "9\n", ended.stderr


@pytest.mark.slow
def test_a_pool_in_a_job_lends_the_slot_of_its_job(pool):
    """Both slots wait for jobs of their own."""
    assert pool.map(sum_of_squares, [3, 4], 1) == [5, 14]


def sum_of_squares(count):
    with cw.Pool() as pool:
        return sum(pool.map(jobs.square, range(count))) + sum(pool.imap(jobs.square, [0]))
