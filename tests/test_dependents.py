"""Calls that depend on calls, with real processes: the futures among their arguments, and what becomes of them."""

import concurrent.futures as cf
import dataclasses
import signal
import threading
import time

import jobs
import pytest
from conftest import events, wait_until
from programs import LIMIT, Master, Worker, free_port, run_script, start_script

import cw
from cw.client import store_client


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture
def executor():
    with cw.ClusterExecutor() as executor:
        yield executor


@dataclasses.dataclass
class Point:
    x: int


def tell(*args, **kwargs):
    return args, kwargs


def move(point, by):
    return Point(point.x + by)


def is_one_object(first, second):
    return first is second


def append(items, value):
    items.append(value)
    return items


def total(array):
    return float(array.sum())


def ones(count):
    import numpy

    return numpy.ones(count)


def fill(array, value):
    array[:] = value
    return float(array.sum())


def gate():
    """A future that the test sets itself."""
    return cf.Future()


# --- what the call gets ---


@pytest.mark.parametrize("is_done", [False, True])
def test_results_take_the_places_of_futures_at_any_depth(executor, is_done):
    futures = [executor.submit(jobs.nap, 0 if is_done else 0.1, n) for n in range(4)]
    if is_done:
        cf.wait(futures)
    a, b, c, d = futures
    future = executor.submit(tell, a, [b, 3], (4, {"deep": {5: (c,)}}), k={"x": d})
    assert future.result(LIMIT) == ((0, [1, 3], (4, {"deep": {5: (2,)}})), {"k": {"x": 3}})


def test_futures_of_others_count_too(executor):
    own = gate()
    with cf.ThreadPoolExecutor() as threads, cw.ClusterExecutor() as other:
        thread, elsewhere = threads.submit(jobs.nap, 0.1, "thread"), other.submit(jobs.nap, 0.1, "other")
        future = executor.submit(tell, thread, [elsewhere, own])
        own.set_result("own")
        assert future.result(LIMIT) == (("thread", ["other", "own"]), {})


@pytest.mark.parametrize("count", [1, 2])
def test_one_future_is_one_object_in_a_call(executor, count):
    source = executor.submit(jobs.nap, 0.1, [])
    assert executor.submit(is_one_object, source, source).result(LIMIT)
    assert executor.submit(is_one_object, *[[source]] * 2).result(LIMIT)
    other = executor.submit(jobs.nap, 0.1, [])
    assert not executor.submit(is_one_object, source, other).result(LIMIT)


def test_each_call_gets_a_copy_of_its_own(executor):
    source = executor.submit(jobs.nap, 0.2, [])
    calls = [executor.submit(append, source, n) for n in range(3)]
    assert [call.result(LIMIT) for call in calls] == [[0], [1], [2]]
    assert source.result() == []
    own = gate()
    mapped = executor.map(append, [own] * 3, range(3), chunksize=3)
    own.set_result([9])
    assert list(mapped) == [[9, 0], [9, 1], [9, 2]]


@pytest.mark.parametrize("count", [10, 20_000, 2_000_000])
def test_arrays_arrive_whole_and_writable(executor, count):
    source = executor.submit(ones, count)
    calls = [executor.submit(fill, source, n) for n in (1, 2)] + [executor.submit(total, source)]
    assert [call.result(LIMIT) for call in calls] == [count, 2 * count, count]
    assert float(source.result().sum()) == count


def test_a_large_result_travels_once_for_all_that_need_it(executor):
    source = executor.submit(ones, 1_000_000)
    calls = [executor.submit(total, source) for _ in range(20)]
    assert [call.result(LIMIT) for call in calls] == [1_000_000] * 20
    session = executor._session
    assert session.jobs.bytes_in < 1_000_000  # it is in none of the jobs' payloads
    wait_until(lambda: session.calls.objects.size < 1_000_000)  # and forgotten after them


@pytest.mark.parametrize("chunksize", [1, 3])
def test_map_takes_futures(executor, chunksize):
    futures = [executor.submit(jobs.nap, 0.05, n) for n in range(7)]
    assert list(executor.map(jobs.square, futures, chunksize=chunksize)) == [n * n for n in range(7)]
    assert list(executor.map(jobs.square, futures, chunksize=chunksize)) == [n * n for n in range(7)]
    failing = [executor.submit(jobs.nap, 0.05, 1), executor.submit(jobs.divide, 1, 0)]
    outcomes = list(executor.map(jobs.square, failing, chunksize=1, return_exceptions=True))
    assert outcomes[0] == 1 and isinstance(outcomes[1], cw.DependencyFailed)


def test_values_of_the_script_arrive_as_what_they_are(cluster, tmp_path):
    """In a program of its own: the class is one of `__main__`, and so is one without a name."""
    script = """
import dataclasses, enum, time, cw

@dataclasses.dataclass
class Point:
    x: int
    def moved(self): return Point(self.x + STEP)

class Colour(enum.Enum):
    RED = 1

class Odd(Exception): pass

STEP = 2

def make(x):
    time.sleep(0.1)
    return Point(x), Colour.RED, Odd("odd")

def check(made):
    point, colour, error = made
    return point.moved(), STEP, colour is Colour.RED, type(error) is Odd

def local():
    class Local:
        value = 3
    time.sleep(0.1)
    return Local()

def read(thing): return thing.value

if __name__ == "__main__":
    with cw.ClusterExecutor() as executor:
        first = executor.submit(check, executor.submit(make, 1))
        STEP = 100
        assert first.result() == (Point(3), 2, True, True), first.result()
        assert executor.submit(read, executor.submit(local)).result() == 3

        class Late:
            value = 4
        def late():
            time.sleep(0.1)
            return Late()
        assert executor.submit(read, executor.submit(late)).result() == 4
        source = executor.submit(late)
        import operator
        assert executor.submit(operator.attrgetter("value"), source).result() == 4
    print("all")
"""
    assert run_script(tmp_path, script, CW_MASTER=cluster.master)[0] == "all\n"


def test_arguments_are_as_they_were_at_submit(executor):
    own, items = gate(), [1]
    future = executor.submit(tell, own, items)
    items.append(2)
    own.set_result(0)
    assert future.result(LIMIT) == ((0, [1]), {})


def test_state_of_the_function_is_as_it_was_at_submit(executor):
    own, step = gate(), 1
    add = lambda value: value + step  # noqa: E731
    first = executor.submit(add, own)
    step = 10
    second = executor.submit(add, own)
    own.set_result(0)
    assert (first.result(LIMIT), second.result(LIMIT)) == (1, 10)


def test_a_captured_future_is_refused_with_advice(executor):
    future = executor.submit(jobs.square, 2)
    with pytest.raises(cw.NotPicklable, match="give it as an argument of submit"):
        executor.submit(lambda: future.result())
    with pytest.raises(TypeError, match="cannot travel"):
        __import__("pickle").dumps(future)


def test_options_and_label_stay_those_of_the_call():
    with cw.ClusterExecutor(seed=7) as executor:
        seeds = [executor.submit(jobs_seed, n).result(LIMIT) for n in range(2)]
    with cw.ClusterExecutor(seed=7) as executor:
        own = gate()
        waiting = [executor.submit(jobs_seed, own), executor.options(timeout=20).submit(jobs_seed, [own])]
        own.set_result(0)
        assert [future.result(LIMIT) for future in waiting] == seeds


def jobs_seed(_):
    return cw.current_job().seed


# --- failures ---


def test_a_failure_passes_on_with_its_cause(executor):
    failing = executor.submit(jobs.divide, 1, 0)
    middle = executor.submit(jobs.square, failing)
    last = executor.submit(tell, [middle], 1)
    for future in (middle, last):
        with pytest.raises(cw.DependencyFailed, match=rf"job {failing._number}\b.* failed") as caught:
            future.result(LIMIT)
        assert isinstance(caught.value, cw.Error)
        assert caught.value.__cause__ is failing.exception()
        assert caught.value.origin == f"job {failing._number}"
    done = executor.submit(jobs.square, failing)  # it has failed already
    assert isinstance(done.exception(LIMIT), cw.DependencyFailed)
    assert executor.submit(jobs.square, 3).result(LIMIT) == 9


def test_the_first_failure_counts_at_once(executor):
    never, failing = gate(), gate()
    future = executor.submit(tell, never, failing)
    failing.set_exception(OSError("gone"))
    assert isinstance(future.exception(LIMIT).__cause__, OSError)
    never.set_result(1)


def test_a_value_that_cannot_travel_is_a_failure(executor):
    own = gate()
    future = executor.submit(tell, own)
    own.set_result(threading.Lock())
    error = future.exception(LIMIT)
    assert isinstance(error, cw.DependencyFailed) and isinstance(error.__cause__, cw.NotPicklable)


def test_cancelled_ones_cascade(executor):
    own = gate()
    first = executor.submit(jobs.square, own)
    second = executor.submit(tell, [first])
    third = executor.submit(jobs.square, second)
    assert first.cancel()
    for future in (second, third):
        with pytest.raises(cf.CancelledError):
            future.result(LIMIT)
        assert future.cancelled()
    own.set_result(1)
    own = gate()
    future = executor.submit(jobs.square, own)
    own.cancel()
    own.set_running_or_notify_cancel()
    wait_until(future.cancelled)


def test_a_killed_one_cascades(executor, tmp_path):
    running = executor.submit(jobs.until, tmp_path / "never", None, tmp_path / "mark")
    waiting = executor.submit(jobs.square, running)
    wait_until((tmp_path / "mark").exists)
    wait_until(running.running)
    assert executor.kill(running)
    with pytest.raises(cf.CancelledError):
        waiting.result(LIMIT)


def test_a_waiting_call_is_cancelled_or_killed_and_never_runs(executor, tmp_path):
    own = gate()
    cancelled = executor.submit(jobs.note, tmp_path / "cancelled", own)
    killed = executor.submit(jobs.note, tmp_path / "killed", own)
    assert cancelled.cancel() and executor.kill(killed)
    own.set_result("text")
    executor.submit(jobs.square, 2).result(LIMIT)
    assert list(tmp_path.iterdir()) == []
    wait_until(lambda: not executor._session.outstanding())


def test_long_chains_end_at_once_whatever_ends_them(executor):
    own, count = gate(), 20_000
    began = time.monotonic()
    for end in ("fail", "cancel"):
        own = future = gate()
        for _ in range(count):
            future = executor.submit(jobs.square, future)
        if end == "fail":
            own.set_exception(ValueError("first"))
            assert str(future.exception(LIMIT).__cause__) == "first"
        else:
            own.cancel()
            own.set_running_or_notify_cancel()
            with pytest.raises(cf.CancelledError):
                future.result(LIMIT)
    assert time.monotonic() - began < 60


def test_many_calls_of_one_future(executor):
    own = executor.submit(jobs.nap, 1, 3)
    calls = [executor.submit(jobs.square, own) for _ in range(5_000)]
    assert {call.result(LIMIT) for call in calls} == {9}


# --- limits, and the end ---


def test_a_submit_does_not_wait_for_room_that_only_the_caller_can_make():
    with cw.ClusterExecutor(max_outstanding=(3, None)) as executor:
        own = gate()
        futures = [executor.submit(jobs.square, own) for _ in range(10)]
        futures.append(executor.submit(jobs.square, 3))
        own.set_result(3)
        assert [future.result(LIMIT) for future in futures] == [9] * 11


def test_held_calls_hold_no_slot(executor):
    own = gate()
    waiting = [executor.submit(jobs.square, own) for _ in range(20)]
    assert list(executor.map(jobs.square, range(5))) == [0, 1, 4, 9, 16]
    own.set_result(1)
    assert [future.result(LIMIT) for future in waiting] == [1] * 20


def test_shutdown_waits_for_held_calls_or_cancels_them():
    executor, own = cw.ClusterExecutor(), gate()
    future = executor.submit(jobs.square, own)
    with pytest.raises(cf.TimeoutError):
        future.result(0.05)
    timer = threading.Timer(0.2, own.set_result, [5])
    timer.start()
    executor.shutdown()
    timer.join()
    assert future.result(0) == 25
    executor, own = cw.ClusterExecutor(), gate()
    futures = [executor.submit(jobs.square, own)]
    futures.append(executor.submit(jobs.square, futures[0]))
    executor.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in futures)
    own.set_result(1)  # nobody waits for it any more


def test_a_master_that_restarts_loses_no_held_call():
    port, own = free_port(), gate()
    master = Master("--port", port)
    with Worker(master.address), cw.ClusterExecutor(master.address) as executor:
        source = executor.submit(jobs.nap, 0.5, 3)
        waiting = executor.submit(tell, source, [own])
        with master:
            master.end(signal.SIGKILL)
        own.set_result(4)
        with Master("--port", port):
            assert waiting.result(LIMIT) == ((3, [4]), {})


def test_the_end_of_the_program_waits_for_held_calls(cluster, tmp_path):
    script = """
import cw, operator, time
from concurrent.futures import ThreadPoolExecutor
executor, threads = cw.ClusterExecutor(), ThreadPoolExecutor()
last = executor.submit(operator.add, threads.submit(lambda: time.sleep(0.5) or 3), executor.submit(operator.add, 1, 2))
last.add_done_callback(lambda future: print(future.result()))
"""
    assert run_script(tmp_path, script, CW_MASTER=cluster.master)[0] == "6\n"


def test_ctrl_c_ends_the_wait_for_a_future_that_never_comes(cluster, tmp_path):
    script = """
import cw, operator, concurrent.futures
executor = cw.ClusterExecutor()
executor.submit(operator.add, 1, concurrent.futures.Future())
print("submitted", flush=True)
"""
    with start_script(tmp_path, script, CW_MASTER=cluster.master) as program:
        program.wait_for("submitted", in_out=True)
        program.send_signal(signal.SIGINT)
        assert program.wait() == -signal.SIGINT


def test_ctrl_c_after_the_last_line_ends_the_program_before_it_waits(cluster, tmp_path):
    script = """
import cw, operator, concurrent.futures, os, signal, threading
executor = cw.ClusterExecutor()
executor.submit(operator.add, 1, concurrent.futures.Future())
threading._register_atexit(lambda: os.kill(os.getpid(), signal.SIGINT))  # is called before cw's
"""
    with start_script(tmp_path, script, CW_MASTER=cluster.master) as program:
        assert program.wait() == -signal.SIGINT
        assert "KeyboardInterrupt: cancelled 1 job that this program waited for" in program.err


def outer(count):
    """A job that makes a graph of its own, and waits for it."""
    with cw.ClusterExecutor() as executor:
        future = executor.submit(jobs.square, 2)
        for _ in range(count):
            future = executor.submit(jobs.add, future, [1][0])
        return future.result()


def test_a_job_may_have_a_graph_of_its_own(executor):
    assert executor.submit(outer, 5).result(LIMIT) == 9


# --- ClientThread ---


def test_a_client_thread_takes_futures_too():
    got, failed = {}, {}
    with cf.ThreadPoolExecutor() as threads:
        with cw.ClientThread(got.__setitem__, on_error=failed.__setitem__) as thread:
            first = thread.submit(jobs.square, threads.submit(jobs.nap, 0.2, 3))
            own = thread.submit(77, jobs.square, threads.submit(jobs.nap, 0.2, 4))
            bad = thread.submit(jobs.square, threads.submit(jobs.divide, 1, 0))
            failed_before = gate()
            failed_before.set_exception(OSError())
            late = thread.submit(jobs.square, failed_before)
            never = gate()
            dropped = thread.submit(jobs.square, never)
            assert thread.cancel(dropped) and not thread.cancel(dropped)
            assert thread.submit(jobs.square, 5) > 0
    assert own == 77 and first < 0
    assert got[first] == 9 and got[77] == 16 and sorted(got.values()) == [9, 16, 25]
    assert isinstance(failed[late], cw.DependencyFailed)
    assert isinstance(failed[bad], cw.DependencyFailed) and isinstance(failed[dropped], cf.CancelledError)


def test_a_pool_takes_futures_too():
    with cf.ThreadPoolExecutor() as threads, cw.Pool() as pool:
        assert pool.apply(jobs.square, (threads.submit(jobs.nap, 0.1, 3),)) == 9
        assert pool.map(jobs.square, [threads.submit(jobs.nap, 0.1, n) for n in range(4)], chunksize=2) == [
            0,
            1,
            4,
            9,
        ]


# --- stores ---


def note_and_add(path, first, second):
    jobs.append(path, "x")
    return first + second


def runs(path):
    return len(path.read_text()) if path.exists() else 0


@pytest.fixture
def stored(tmp_path):
    """Makes an executor with a store, as the next run of the program would: calls are counted anew."""

    def make():
        store_client._open.clear()
        return cw.ClusterExecutor(store=tmp_path / "store")

    return make


def graph(executor, path, start):
    first = executor.submit(note_and_add, path, start, 1)
    second = executor.submit(note_and_add, path, first, 1)
    third = executor.submit(note_and_add, path, second, first)
    return executor.submit(tell, [third], {"first": first}).result(LIMIT)


def test_a_stored_graph_runs_once_and_a_change_runs_all_that_depends_on_it(tmp_path, stored):
    path = tmp_path / "runs"
    for start, expected in ((1, 3), (1, 3), (2, 6), (1, 6)):
        with stored() as executor:
            second = start + 2
            assert graph(executor, path, start) == (([second + start + 1], {"first": start + 1}), {})
        assert runs(path) == expected
    rows = list(cw.results(tmp_path / "store"))
    assert any("the result of a call" in repr(row.args) for row in rows)


def test_a_future_without_a_stored_call_counts_by_its_value(tmp_path, stored):
    path = tmp_path / "runs"
    for value, is_done, expected in ((1, False, 1), (1, True, 1), (1, False, 1), (2, False, 2), (2, True, 2)):
        with stored() as executor:
            own = gate()
            if is_done:
                own.set_result(value)
            future = executor.submit(note_and_add, path, own, 1)
            if not is_done:
                own.set_result(value)
            assert future.result(LIMIT) == value + 1
        assert runs(path) == expected


class Changing:
    """A value that changes while a call is being submitted, as a future does whose result comes at this moment."""

    def __init__(self):
        self._seen = 0

    def __reduce__(self):
        self._seen += 1
        return int, (min(self._seen, 2),)


def test_a_call_whose_arguments_change_at_its_submit_counts_once(tmp_path, stored):
    path = tmp_path / "runs"
    changing = Changing()
    for _ in range(2):
        with stored() as executor:
            assert executor.submit(note_and_add, path, changing, 1).result(LIMIT) == 3
    assert runs(path) == 1


def test_failures_that_never_ran_are_not_stored(tmp_path):
    with cw.ClusterExecutor(store=tmp_path / "store") as executor:
        failing = executor.submit(jobs.divide, 1, 0)
        assert isinstance(executor.submit(jobs.square, failing).exception(LIMIT), cw.DependencyFailed)
    assert len(list(cw.results(tmp_path / "store"))) == 1


def test_a_map_with_a_store_takes_stored_futures_in_chunks(tmp_path, stored):
    path = tmp_path / "runs"
    for _ in range(2):
        with stored() as executor:
            futures = [executor.submit(jobs.square, n) for n in range(4)]
            assert list(executor.map(note_and_add, [path] * 4, futures, range(4), chunksize=2)) == [
                0,
                2,
                6,
                12,
            ]
        assert runs(path) == 4
    with cw.ClusterExecutor(store=tmp_path / "store") as executor:
        with pytest.raises(cw.UnstableKey, match="chunksize=1"):
            executor.map(note_and_add, [path], [gate()], [1], chunksize=2)


def test_a_stored_result_that_cannot_be_read_runs_again_when_its_futures_are_done(tmp_path, stored, caplog):
    path = tmp_path / "runs"
    for expected in (2, 4):
        with stored() as executor:
            index = executor._futures.store_client._open.store.index
            index.update({key: place + (1 << 20) for key, place in index.items()})  # where nothing is
            first = executor.submit(note_and_add, path, 1, 1)
            assert executor.submit(note_and_add, path, first, [1][0]).result(LIMIT) == 3
            assert first.result(LIMIT) == 2
            session = executor._session
        assert runs(path) == expected
        session.jobs.check_invariants()
    assert "client.result_unreadable" in events(caplog)


def test_a_future_may_have_a_shared_value(executor):
    own = gate()
    future = executor.submit(total, own)
    with_state = executor.submit(tell, own, 1)
    with cw.share(ones(1000)) as data:
        own.set_result(data)
        assert future.result(LIMIT) == 1000
        assert float(with_state.result(LIMIT)[0][0].sum()) == 1000
        assert executor.submit(fill_beside, data, executor.submit(jobs.nap, 0.1, 2)).result(LIMIT) == 2000


def fill_beside(data, factor):
    return float(data.sum()) * factor


def test_a_call_that_waited_is_tried_again(executor, tmp_path):
    own = gate()
    future = executor.options(retries=3).submit(fail_twice, tmp_path, own)
    own.set_result("done")
    assert future.result(LIMIT) == "done"


def fail_twice(directory, result):
    jobs.append(directory / "tries", "x")
    if runs(directory / "tries") < 3:
        raise OSError("not yet")
    return result
