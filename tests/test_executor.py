"""ClusterExecutor keeps the contract of concurrent.futures, as its documentation and CPython's own tests have it."""

import asyncio
import concurrent.futures
import contextlib
import gc
import itertools
import logging
import multiprocessing
import operator
import os
import re
import threading
import time
import weakref
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    InvalidStateError,
)

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT, Master, Worker, children_of, free_port, is_running, worker_of

import cw
from cw.client.futures.future import Future


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def executor(cluster):
    executor = cw.ClusterExecutor()
    yield executor
    executor.shutdown(wait=False, cancel_futures=True)  # what hangs ends with the cluster


class Gate:
    """A file for which jobs wait."""

    def __init__(self, directory):
        self.path = directory / "gate"
        self._second = directory / "second gate"
        self._directory = directory
        self._second_row = []

    def block(self, executor, count=2):
        """Fill `count` of the two slots with jobs that wait for the gate, and wait until they run."""
        marks = [self._directory / f"running {n}" for n in range(count)]
        futures = [executor.submit(jobs.until, self.path, n, marks[n]) for n in range(count)]
        wait_until(lambda: all(mark.exists() for mark in marks), LIMIT)
        if count == 2:
            self._second_row += [executor.submit(jobs.until, self._second) for _ in range(2)]
        return futures

    def open(self):
        """Let them go on. What was cancelled before is not run for a moment because the master has not heard of it:
        before it there come two jobs which end only when they are known to run."""
        jobs.mark(self.path)
        wait_until(lambda: all(future.running() or future.done() for future in self._second_row), LIMIT)
        jobs.mark(self._second)


@pytest.fixture
def gate(tmp_path):
    """Opened at the end of the test at the latest."""
    gate = Gate(tmp_path)
    yield gate
    gate.open()


# --- submit -----------------------------------------------------------------------------------


def test_submit_gives_a_real_future(executor):
    future = executor.submit(pow, 323, 1235)
    assert isinstance(future, concurrent.futures.Future)
    assert isinstance(executor, concurrent.futures.Executor)
    assert future.result(LIMIT) == 323**1235
    assert future.exception() is None
    assert future.done()
    assert not future.running()
    assert not future.cancelled()


def test_submit_passes_keyword_arguments_whatever_their_names(executor):
    assert executor.submit(jobs.add, 1, self=2, fn=3, function=4, timeout=5, executor=6).result(LIMIT) == 21


def test_submit_needs_something_to_call(executor):
    with pytest.raises(TypeError):
        executor.submit()
    with pytest.raises(TypeError):
        executor.submit(arg=1)
    with pytest.raises(TypeError, match="not 5"):
        executor.submit(5)


def test_what_cannot_be_pickled_is_told_by_submit(executor):
    with pytest.raises(cw.NotPicklable, match="lock"):
        executor.submit(jobs.echo, threading.Lock())


def test_the_exception_of_a_job_is_that_of_its_future(executor):
    future = executor.submit(jobs.divide, 1, 0)
    with pytest.raises(ZeroDivisionError) as caught:
        future.result(LIMIT)
    assert future.exception() is caught.value
    assert isinstance(caught.value.__cause__, cw.RemoteTraceback)
    assert "return a / b" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, CancelledError, concurrent.futures.TimeoutError]
)
def test_whatever_a_job_raises_is_its_result_also_when_it_is_known_to_run(executor, kind, tmp_path):
    quick = executor.submit(jobs.fail, kind("as it is"))
    assert type(quick.exception(LIMIT)) is kind
    assert not quick.cancelled()
    slow = executor.submit(_wait_and_fail, kind("as it is"), tmp_path / "go")
    wait_until(slow.running)
    jobs.mark(tmp_path / "go")
    assert type(slow.exception(LIMIT)) is kind


def _wait_and_fail(error, path):
    jobs.until(path)
    raise error


class Errors(Exception):
    """Some that were collected; none, and it is false."""

    def __len__(self):
        return 0


def raise_none_collected(*_):
    raise Errors("none")


@pytest.mark.parametrize("is_done", [True, False])
def test_an_exception_that_is_false_is_raised_too(executor, is_done):
    future = executor.submit(raise_none_collected)
    if is_done:
        wait_until(future.done, LIMIT)
    with pytest.raises(Errors, match="none"):
        future.result(LIMIT)
    for more in ({}, {"chunksize": 2}, {"as_completed": True}):
        with pytest.raises(Errors, match="none"):
            list(executor.map(raise_none_collected, range(3), **more))
    errors = list(executor.map(raise_none_collected, range(3), return_exceptions=True))
    assert [type(error) for error in errors] == [Errors] * 3


def test_options_apply_to_submit_and_map_and_unknown_ones_are_refused(executor):
    with pytest.raises(TypeError, match="'colour'"):
        executor.options(colour="blue")
    plain = executor.options()
    assert plain.submit(jobs.square, 3).result(LIMIT) == 9
    assert list(plain.map(jobs.square, range(5), chunksize=2)) == [0, 1, 4, 9, 16]


# --- result, exception, callbacks -------------------------------------------------------------


def test_result_and_exception_time_out(executor, gate):
    (future,) = gate.block(executor, 1)
    for ask in (future.result, future.exception):
        began = time.monotonic()
        with pytest.raises(concurrent.futures.TimeoutError):
            ask(timeout=0.1)
        assert 0.1 <= time.monotonic() - began < 5
        with pytest.raises(concurrent.futures.TimeoutError):
            ask(0)
    gate.open()
    assert future.result(LIMIT) == 0


def test_many_threads_can_wait_for_one_future(executor, gate):
    (future,) = gate.block(executor, 1)
    results = []
    waiting = [threading.Thread(target=lambda: results.append(future.result(LIMIT))) for _ in range(5)]
    for waiter in waiting:
        waiter.start()
    gate.open()
    for waiter in waiting:
        waiter.join()
    assert results == [0] * 5


def test_done_callbacks_are_called_in_order_with_the_future(executor, gate):
    (future,) = gate.block(executor, 1)
    called = []
    for n in range(5):
        future.add_done_callback(lambda done, n=n: called.append((n, done, done.result())))
    assert called == []
    gate.open()
    future.result(LIMIT)
    wait_until(lambda: len(called) == 5)
    assert called == [(n, future, 0) for n in range(5)]


def test_a_done_callback_of_a_done_future_is_called_at_once(executor):
    future = executor.submit(jobs.square, 2)
    future.result(LIMIT)
    called = []
    future.add_done_callback(lambda done: called.append((done, threading.current_thread())))
    assert called == [(future, threading.current_thread())]


def test_a_done_callback_may_submit_and_cancel_and_shut_down():
    executor = cw.ClusterExecutor()
    later = []

    def callback(done):
        later.append(executor.submit(jobs.square, done.result()))
        executor.submit(jobs.nap, 0).cancel()
        executor.shutdown()

    executor.submit(jobs.square, 3).add_done_callback(callback)
    wait_until(lambda: later, LIMIT)
    assert later[0].result(LIMIT) == 81


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_done_callback_that_raises_is_logged_and_harms_no_other(executor, gate, kind, caplog):
    def callback(done):
        raise kind("a slip in the callback")

    called = []
    (future,) = gate.block(executor, 1)
    future.add_done_callback(callback)
    if kind is ValueError:  # what follows anything worse is undefined
        future.add_done_callback(called.append)
    gate.open()
    assert future.result(LIMIT) == 0
    wait_until(lambda: "a slip in the callback" in caplog.text)
    assert executor.submit(jobs.square, 2).result(LIMIT) == 4
    assert called == ([future] if kind is ValueError else [])


# --- wait and as_completed --------------------------------------------------------------------


def test_as_completed_yields_in_the_order_of_completion(executor, tmp_path):
    slow = executor.submit(jobs.until, tmp_path / "go")
    quick = executor.submit(jobs.square, 2)
    done = concurrent.futures.as_completed([slow, quick, quick], timeout=LIMIT)
    assert next(done) is quick
    jobs.mark(tmp_path / "go")
    assert list(done) == [slow]


def test_as_completed_takes_thousands_and_includes_failed_and_cancelled_ones(executor, gate):
    gate.block(executor)
    futures = [executor.submit(jobs.square, n) for n in range(2000)]
    futures += [executor.submit(jobs.divide, 1, 0) for _ in range(10)]
    for future in futures[100:200]:
        assert future.cancel()
    gate.open()
    assert set(concurrent.futures.as_completed(futures, LIMIT)) == set(futures)
    assert sum(future.cancelled() for future in futures) == 100


def test_as_completed_times_out(executor, gate):
    (future,) = gate.block(executor, 1)
    done = executor.submit(jobs.square, 2)
    done.result(LIMIT)
    seen = []
    with pytest.raises(concurrent.futures.TimeoutError, match="1 .*unfinished"):
        for completed in concurrent.futures.as_completed([future, done], timeout=0.1):
            seen.append(completed)
    assert seen == [done]


def test_wait_returns_when_the_first_has_completed(executor, gate):
    (slow,) = gate.block(executor, 1)
    quick = executor.submit(jobs.square, 2)
    done, pending = concurrent.futures.wait([slow, quick], LIMIT, FIRST_COMPLETED)
    assert (done, pending) == ({quick}, {slow})


def test_wait_returns_at_the_first_exception(executor, gate):
    (slow,) = gate.block(executor, 1)
    good = executor.submit(jobs.square, 2)
    bad = executor.submit(jobs.divide, 1, 0)
    done, pending = concurrent.futures.wait([slow, good, bad], LIMIT, FIRST_EXCEPTION)
    assert bad in done
    assert slow in pending


def test_wait_returns_when_all_have_completed_or_at_its_timeout(executor, gate):
    (slow,) = gate.block(executor, 1)
    quick = executor.submit(jobs.square, 2)
    quick.result(LIMIT)
    done, pending = concurrent.futures.wait([slow, quick], 0.1, ALL_COMPLETED)
    assert (done, pending) == ({quick}, {slow})
    gate.open()
    done, pending = concurrent.futures.wait([slow, quick], LIMIT)
    assert (done, pending) == ({slow, quick}, set())


# --- cancel -----------------------------------------------------------------------------------


def test_a_queued_job_is_cancelled_at_once_and_never_runs(executor, gate, tmp_path):
    gate.block(executor)
    called = []
    future = executor.submit(jobs.mark, tmp_path / "ran")
    future.add_done_callback(called.append)
    began = time.monotonic()
    assert future.cancel()
    assert time.monotonic() - began < 5
    assert future.cancelled()
    assert future.done()
    assert not future.running()
    assert called == [future]
    assert future.cancel()  # again
    assert called == [future]
    with pytest.raises(CancelledError):
        future.result()
    with pytest.raises(CancelledError):
        future.exception()
    after = executor.submit(jobs.square, 2)
    gate.open()
    assert after.result(LIMIT) == 4
    assert not (tmp_path / "ran").exists()


def test_who_waits_for_a_future_hears_that_it_was_cancelled(executor, gate):
    gate.block(executor)
    first, second, third = [executor.submit(jobs.square, n) for n in range(3)]
    heard = []

    def wait_for_result():
        try:
            first.result(LIMIT)
        except CancelledError:
            heard.append("result")

    waiting = [
        threading.Thread(target=wait_for_result),
        threading.Thread(target=lambda: heard.append(concurrent.futures.wait([second], LIMIT).done)),
        threading.Thread(target=lambda: heard.append(list(concurrent.futures.as_completed([third], LIMIT)))),
    ]
    for waiter in waiting:
        waiter.start()
    wait_until(lambda: second._waiters and third._waiters)
    for future in (first, second, third):
        assert future.cancel()
    for waiter in waiting:
        waiter.join()
    assert sorted(map(str, heard)) == sorted(map(str, ["result", {second}, [third]]))


def test_a_job_that_is_known_to_run_is_not_cancelled(executor, gate):
    (future,) = gate.block(executor, 1)
    wait_until(future.running, LIMIT)
    assert not future.cancel()
    assert not future.cancelled()
    assert not future.done()
    gate.open()
    assert future.result(LIMIT) == 0


def test_a_done_job_is_not_cancelled(executor):
    for future in (executor.submit(jobs.square, 2), executor.submit(jobs.divide, 1, 0)):
        future.exception(LIMIT)
        assert not future.cancel()
        assert not future.cancelled()


def test_a_job_cancelled_in_the_moment_of_its_start_is_stopped_and_its_result_dropped(executor, tmp_path):
    stopped = 0
    for n in range(20):
        mark = tmp_path / f"mark {n}"
        future = executor.submit(jobs.until, tmp_path / "never", None, mark)
        wait_until(mark.exists, LIMIT)
        pid = int(mark.read_text())
        if future.cancel():
            wait_until(lambda pid=pid: not is_running(pid), LIMIT)
            assert future.cancelled()
            stopped += 1
        else:  # the test was slow, and the client has heard of the start meanwhile
            assert future.running()
            jobs.mark(tmp_path / "never")
            future.result(LIMIT)
            (tmp_path / "never").unlink()
        assert executor.submit(jobs.square, 2).result(LIMIT) == 4
    assert stopped


def test_cancelling_at_random_settles_every_future(executor):
    for pause in (0, 0.0005, 0.002, 0.01):
        futures = [executor.submit(jobs.nap, 0.001, n) for n in range(200)]
        time.sleep(pause)
        cancelled = {n for n, future in enumerate(futures) if n % 3 and future.cancel()}
        concurrent.futures.wait(futures, LIMIT)
        for n, future in enumerate(futures):
            assert future.done()
            assert future.cancelled() == (n in cancelled)
            assert future.cancelled() or future.result() == n


def test_many_threads_may_cancel_one_future(executor, gate):
    gate.block(executor)
    for _ in range(50):
        future = executor.submit(jobs.square, 2)
        called, answers = [], []
        future.add_done_callback(called.append)
        threads = [
            threading.Thread(target=lambda f=future, a=answers: a.append(f.cancel())) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [True] * 4
        assert called == [future]


def test_a_long_job_is_known_to_run_and_a_queued_one_not(executor, gate):
    running = gate.block(executor)
    queued = executor.submit(jobs.square, 2)
    wait_until(lambda: all(future.running() for future in running), LIMIT)
    assert not queued.running()
    assert not queued.done()
    gate.open()
    assert queued.result(LIMIT) == 4
    assert not any(future.running() for future in running if future.result(LIMIT) is None)


# --- the future itself, without a cluster -----------------------------------------------------


class Silent:
    """Stands for the session: notes what was cancelled."""

    def __init__(self):
        self.cancelled = []
        self.submitter = self

    def cancel(self, number):
        self.cancelled.append(number)


@pytest.mark.parametrize("is_waited_for", [False, True])
def test_a_future_is_settled_once(is_waited_for):
    def make():
        future = Future(Silent())
        if is_waited_for:
            future._condition  # noqa: B018
        return future

    future = make()
    future.set_result(1)
    for change in (lambda: future.set_result(2), lambda: future.set_exception(ValueError())):
        with pytest.raises(InvalidStateError):
            change()
    assert future.result() == 1
    assert not future.cancel()

    future = make()
    assert future.cancel()
    future.note_running()
    with pytest.raises(InvalidStateError):
        future.set_result(2)
    with pytest.raises(InvalidStateError):
        future.set_exception(ValueError())
    assert future.cancelled()
    assert future._session.cancelled == [0]

    future = make()
    future.note_running()
    future.note_running()
    assert future.running()
    assert not future.cancel()
    future.set_exception(ValueError("x"))
    with pytest.raises(ValueError, match="x"):
        future.result()
    future.note_running()
    assert future.done()
    assert not future.running()


def test_a_future_that_is_settled_while_others_look_at_it_is_seen_by_all():
    for n in range(200):
        future = Future(Silent())
        called, results = [], []
        future.add_done_callback(called.append)

        def wait_for_it(future=future, results=results):
            done, _ = concurrent.futures.wait([future], LIMIT)
            results.extend(one.result() for one in done)

        threads = [
            threading.Thread(target=lambda f=future, r=results: r.append(f.result(LIMIT))),
            threading.Thread(target=future.add_done_callback, args=(called.append,)),
            threading.Thread(target=wait_for_it),
        ]
        threads.insert(n % 4, threading.Thread(target=future.set_result, args=(5,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert results == [5, 5]
        assert called == [future, future]


ENDS = {
    "result": lambda future: future.set_result(5),
    "error": lambda future: future.set_exception(ValueError("x")),
    "cancelled": lambda future: future.cancel(),
    "killed": lambda future: (future.note_running(), future.kill()),
}


@pytest.mark.parametrize("others", [0, 1, 3])
@pytest.mark.parametrize("end", ENDS)
def test_who_waits_first_without_a_condition_goes_on_with_the_others(end, others):
    future, seen = Future(Silent()), []

    def wait_for_it():
        try:
            seen.append(future.result(LIMIT))
        except (ValueError, CancelledError) as error:
            seen.append(type(error))

    waiting = [threading.Thread(target=wait_for_it)]
    waiting[0].start()
    wait_until(lambda: future._gate is not None, LIMIT)
    assert future._made_condition is None
    for _ in range(others):
        waiting.append(threading.Thread(target=wait_for_it))
        waiting[-1].start()
    if others:  # they wait at the condition, which has taken over what the first one waits at
        wait_until(lambda: len(getattr(future._made_condition, "_waiters", ())) == others, LIMIT)
        assert future._gate is None
    called = []
    future.add_done_callback(lambda done: (waiting[0].join(LIMIT), called.append(list(seen))))
    ENDS[end](future)
    for thread in waiting:
        thread.join(LIMIT)
    expected = {"result": 5, "error": ValueError}.get(end, CancelledError)
    assert seen == [expected] * (others + 1)
    assert expected in called[0]  # nobody who waits has to wait for callbacks, too


def test_a_wait_that_timed_out_leaves_the_future_as_it_was():
    future = Future(Silent())
    for timeout in (0.001, 0, -1):
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(timeout)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.exception(timeout)
    future.set_result(5)
    assert future.result(0) == 5
    assert future.exception() is None


def test_a_future_shows_its_state():
    future = Future(Silent())
    assert "pending" in repr(future)
    future.set_result(1)
    assert "finished returned int" in repr(future)


# --- map --------------------------------------------------------------------------------------


def test_map_yields_in_the_order_of_the_input(executor):
    naps = [0.1, 0.0, 0.05, 0.0]
    assert list(executor.map(jobs.nap, naps, range(4))) == [0, 1, 2, 3]


def test_map_stops_with_the_shortest_input(executor):
    assert list(executor.map(pow, range(10), itertools.repeat(2))) == [n * n for n in range(10)]
    assert list(executor.map(pow, [2, 3, 4], [1, 2])) == [2, 9]
    assert list(executor.map(jobs.square, [])) == []


@pytest.mark.parametrize("chunksize", [1, 2, 7, 100, 5000])
def test_map_gives_the_same_with_any_chunksize(executor, chunksize):
    assert list(executor.map(jobs.add, range(1000), range(1000), chunksize=chunksize)) == [
        2 * n for n in range(1000)
    ]


@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_map_raises_at_the_failed_call_after_all_results_before_it(executor, chunksize):
    results = executor.map(jobs.divide, [10] * 10, [1, 2, 5, 10, 0, 1, 1, 1, 1, 1], chunksize=chunksize)
    got = []
    with pytest.raises(ZeroDivisionError) as caught:
        for result in results:
            got.append(result)
    assert got == [10, 5, 2, 1]
    text = str(caught.value.__cause__)
    assert "return a / b" in text
    assert f"(host {os.uname().nodename}, " in text
    assert re.search(
        r"job \d+ \(" if chunksize == 1 else rf"job \d+, call {4 % chunksize + 1} of its chunk \(", text
    )
    assert list(results) == []


def test_a_chunk_runs_in_one_runner_and_a_system_exit_in_it_is_its_calls_own(executor):
    assert len(set(executor.map(_pid_of, range(50), chunksize=50))) == 1
    with pytest.raises(SystemExit, match="out"):
        list(executor.map(jobs.fail, [SystemExit("out")] * 5, chunksize=5))


def _pid_of(_):
    return jobs.pid()


def test_map_submits_all_at_once_before_any_result_is_taken(executor, tmp_path):
    results = executor.map(jobs.mark, [tmp_path / str(n) for n in range(20)])
    wait_until(lambda: len(list(tmp_path.iterdir())) == 20, LIMIT)
    assert len(list(results)) == 20


def test_map_times_out_counting_from_its_call(executor, gate):
    gate.block(executor)
    results = executor.map(jobs.square, range(3), timeout=0.3)
    time.sleep(0.1)
    began = time.monotonic()
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    assert time.monotonic() - began < 5
    results = executor.map(jobs.square, range(3), timeout=0)
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    gate.open()
    assert list(executor.map(jobs.square, range(3), timeout=LIMIT)) == [0, 1, 4]


def test_a_timed_out_or_closed_map_cancels_what_is_left_of_it(gate, tmp_path):
    with cw.ClusterExecutor() as executor:
        gate.block(executor)
        results = executor.map(jobs.mark, [tmp_path / f"ran {n}" for n in range(20)], timeout=0)
        with pytest.raises(concurrent.futures.TimeoutError):
            next(results)
        assert executor.submit(abs, -2) is not None
        gate.open()
        results = executor.map(jobs.nap, [0] + [0.5] * 200, range(201))
        assert next(results) == 0
        results.close()
    assert len([path for path in tmp_path.iterdir() if path.name.startswith("ran")]) == 0


@pytest.mark.parametrize("chunksize", [0, -1, 1.5, "2", None])
def test_a_chunksize_below_one_is_refused(executor, chunksize):
    with pytest.raises((ValueError, TypeError)):
        executor.map(jobs.square, [1], chunksize=chunksize)


def test_buffersize_is_checked_as_in_python_3_14(executor):
    for wrong in (1.5, "2"):
        with pytest.raises(TypeError, match="buffersize must be an integer or None"):
            executor.map(jobs.square, [1], buffersize=wrong)
    for wrong in (0, -3):
        with pytest.raises(ValueError, match="buffersize must be None or > 0"):
            executor.map(jobs.square, [1], buffersize=wrong)


def test_sizes_may_be_of_any_integer_type(executor):
    numpy = pytest.importorskip("numpy")
    sizes = {"chunksize": numpy.int64(3), "buffersize": numpy.int32(5)}
    assert list(executor.map(jobs.square, range(10), **sizes)) == [n * n for n in range(10)]


class Counting:
    """An input that knows how much of it was consumed."""

    def __init__(self, length):
        self._items = iter(range(length))
        self.consumed = 0

    def __iter__(self):
        return self

    def __next__(self):
        item = next(self._items)
        self.consumed += 1
        return item


@pytest.mark.parametrize("chunksize, buffersize", [(1, 1), (1, 10), (5, 20), (7, 50), (20, 5)])
def test_with_a_buffersize_the_input_is_consumed_as_results_are_taken(executor, chunksize, buffersize):
    items = Counting(500)
    results = executor.map(jobs.square, items, chunksize=chunksize, buffersize=buffersize)
    most = max(chunksize, buffersize)  # a chunk is not divided
    assert 0 < items.consumed <= most
    for taken, result in enumerate(results, 1):
        assert result == (taken - 1) ** 2
        # All of a chunk's results are taken when it has arrived.
        assert items.consumed - taken < most + chunksize
    assert taken == items.consumed == 500


def test_without_a_buffersize_the_input_is_consumed_at_once(executor):
    items = Counting(500)
    results = executor.map(jobs.square, items)
    assert items.consumed == 500
    assert sum(results) == sum(n * n for n in range(500))


def test_an_endless_input_can_be_mapped_with_a_buffersize(executor):
    results = executor.map(jobs.square, itertools.count(), buffersize=100)
    assert list(itertools.islice(results, 3000)) == [n * n for n in range(3000)]
    results.close()


def test_an_input_that_raises_does_so_in_map_or_where_it_is_consumed(executor):
    def items():
        yield from range(5)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        executor.map(jobs.square, items())
    results = executor.map(jobs.square, items(), buffersize=2)
    got = []
    with pytest.raises(LookupError, match="no more"):
        for result in results:
            got.append(result)
    assert got == [0, 1, 4, 9, 16]


@pytest.mark.parametrize(
    "settings", [{}, {"as_completed": True}, {"chunksize": 2}, {"return_exceptions": True}]
)
def test_map_keeps_no_result_that_was_taken(executor, settings):
    results = executor.map(jobs.make_thing, range(5), **settings)
    for result in results:
        seen = weakref.ref(result)
        del result
        gc.collect()
        assert seen() is None


# --- shutdown ---------------------------------------------------------------------------------


def test_shutdown_waits_for_what_is_outstanding():
    executor = cw.ClusterExecutor()
    futures = [executor.submit(jobs.nap, 0.05, n) for n in range(10)]
    executor.shutdown()
    assert [future.done() for future in futures] == [True] * 10
    assert [future.result() for future in futures] == list(range(10))


def test_after_shutdown_submit_and_map_raise():
    executor = cw.ClusterExecutor()
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(jobs.square, 2)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.map(jobs.square, [2])
    executor.shutdown()
    executor.shutdown(wait=False, cancel_futures=True)


def test_shutdown_without_wait_returns_at_once_and_all_is_delivered(gate):
    executor = cw.ClusterExecutor()
    gate.block(executor)
    futures = [executor.submit(jobs.square, n) for n in range(5)]
    began = time.monotonic()
    executor.shutdown(wait=False)
    assert time.monotonic() - began < 5
    with pytest.raises(RuntimeError):
        executor.submit(jobs.square, 2)
    assert not futures[0].done()
    gate.open()
    assert [future.result(LIMIT) for future in futures] == [0, 1, 4, 9, 16]


def test_shutdown_can_cancel_what_is_queued_and_lets_the_running_end(gate):
    executor = cw.ClusterExecutor()
    running = gate.block(executor)
    wait_until(lambda: all(future.running() for future in running), LIMIT)
    queued = [executor.submit(jobs.square, n) for n in range(100)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in queued)
    assert not any(future.done() for future in running)
    gate.open()
    executor.shutdown(wait=True)
    assert [future.result() for future in running] == [0, 1]


@pytest.mark.parametrize("method", ["terminate_workers", "kill_workers"])
def test_all_that_runs_can_be_stopped_as_in_python_3_14(method, tmp_path):
    executor = cw.ClusterExecutor()
    marks = [tmp_path / str(n) for n in range(2)]
    running = [executor.submit(jobs.until, tmp_path / "never", n, mark) for n, mark in enumerate(marks)]
    wait_until(lambda: all(mark.exists() for mark in marks), LIMIT)
    waiting = [executor.submit(jobs.square, n) for n in range(5)]
    with cw.ClusterExecutor() as other:
        theirs = other.submit(jobs.square, 4)  # the slots are free for it only when the others are stopped
        getattr(executor, method)()
        for future in running + waiting:
            with pytest.raises(CancelledError):
                future.result(0)
        assert theirs.result(LIMIT) == 16
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(jobs.square, 2)
    getattr(executor, method)()
    executor.shutdown()


def test_no_job_that_another_thread_submits_at_the_end_is_left_over():
    """Either submit raises, or the job is cancelled or runs: as with a pool."""
    for _ in range(20):
        executor, futures = cw.ClusterExecutor(), []

        def submit(executor=executor, futures=futures):
            with contextlib.suppress(RuntimeError):
                while True:
                    futures.append(executor.submit(jobs.square, 3))

        thread = threading.Thread(target=submit)
        thread.start()
        wait_until(lambda futures=futures: len(futures) > 5, LIMIT)
        executor.shutdown(wait=False, cancel_futures=True)
        thread.join(LIMIT)
        executor.shutdown()
        assert all(future.cancelled() or future.result(0) == 9 for future in futures)


def test_the_end_of_the_block_waits_also_after_an_exception():
    with pytest.raises(LookupError), cw.ClusterExecutor() as executor:
        future = executor.submit(jobs.nap, 0.2, "there")
        raise LookupError
    assert future.result(0) == "there"


def test_an_executor_that_nobody_refers_to_leaves_when_its_futures_are_done():
    before = threading.active_count()
    future = cw.ClusterExecutor().submit(jobs.nap, 0.1, "there")
    gc.collect()
    assert future.result(LIMIT) == "there"
    wait_until(lambda: threading.active_count() <= before, LIMIT)


def test_futures_of_one_executor_do_not_keep_each_other_or_their_results_alive(executor):
    future = executor.submit(jobs.make_thing, 1)
    seen = weakref.ref(future.result(LIMIT))
    assert seen() is not None
    del future
    gc.collect()
    assert seen() is None


# --- max_workers ------------------------------------------------------------------------------


def most_at_a_time(directory):
    """How many of the jobs `note_interval` were under way at a time: the largest number of open intervals."""
    steps = []
    for path in directory.iterdir():
        began, ended = map(float, path.read_text().split())
        steps += [(began, 1), (ended, -1)]
    return max(itertools.accumulate(step for _, step in sorted(steps)))


@pytest.mark.parametrize("settings", [{}, {"chunksize": 2}, {"as_completed": True, "chunksize": 2}])
def test_no_more_jobs_than_max_workers_are_under_way_at_a_time(settings, tmp_path):
    paths = [tmp_path / str(n) for n in range(8)]
    with cw.ClusterExecutor(max_workers=1) as executor:
        assert executor._max_workers == 1 < executor.slots() == 2
        assert sorted(executor.map(jobs.note_interval, paths, **settings)) == sorted(paths)
    assert len(list(tmp_path.iterdir())) == 8 and most_at_a_time(tmp_path) == 1


def test_cancelled_and_failed_jobs_make_room_for_others_under_max_workers(gate, tmp_path):
    with cw.ClusterExecutor(max_workers=2) as executor:
        gate.block(executor, 1)
        with pytest.raises(ZeroDivisionError):
            executor.submit(jobs.divide, 1, 0).result(LIMIT)
        mark = tmp_path / "it runs"
        endless = executor.submit(jobs.until, tmp_path / "never", 0, mark)
        wait_until(mark.exists, LIMIT)
        behind = executor.submit(jobs.square, 3)
        assert executor.kill(endless)
        assert behind.result(LIMIT) == 9
        gate.open()


def test_more_max_workers_than_slots_change_nothing(tmp_path):
    with cw.ClusterExecutor(max_workers=100) as executor:
        assert executor._max_workers == executor.slots() == 2
        assert list(executor.map(jobs.square, range(1000))) == [n * n for n in range(1000)]
        executor._max_workers = 8  # as users of dask do
        assert executor._max_workers == 8 and executor.slots() == 2


def test_max_workers_is_checked_as_in_a_pool():
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        concurrent.futures.ProcessPoolExecutor(0)
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        cw.ClusterExecutor(max_workers=0)
    with pytest.raises(TypeError, match="'2'"):
        cw.ClusterExecutor(max_workers="2")


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"mp_context": multiprocessing.get_context("spawn")}, "mp_context"),
        ({"max_tasks_per_child": 3}, "--max-jobs"),
    ],
)
def test_settings_of_a_pool_that_have_no_meaning_here_are_accepted_with_a_warning(setting, text):
    with pytest.warns(UserWarning, match=text) as caught, cw.ClusterExecutor(**setting) as executor:
        assert executor.submit(jobs.square, 3).result(LIMIT) == 9
    assert [warning.filename for warning in caught if text in str(warning.message)] == [__file__]


# --- asyncio ----------------------------------------------------------------------------------


def test_futures_can_be_awaited(executor):
    async def main():
        loop = asyncio.get_running_loop()
        wrapped = [asyncio.wrap_future(executor.submit(jobs.square, n)) for n in range(20)]
        assert await asyncio.gather(*wrapped) == [n * n for n in range(20)]
        assert await loop.run_in_executor(executor, jobs.add, 1, 2) == 3
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(executor, jobs.divide, 1, 0)
        return "done"

    assert asyncio.run(asyncio.wait_for(main(), LIMIT)) == "done"


def test_what_submit_gives_can_be_awaited_itself(executor):
    async def main():
        assert await executor.submit(jobs.square, 3) == await executor.asubmit(jobs.square, 3) == 9
        settings = executor.options(attempts=1)
        assert await asyncio.gather(*map(settings.asubmit, [jobs.square] * 9, range(9))) == [
            n * n for n in range(9)
        ]
        done = executor.submit(jobs.square, 5)
        done.result(LIMIT)
        assert await done == await done == 25
        with pytest.raises(ZeroDivisionError):
            await executor.asubmit(jobs.divide, 1, 0)
        assert isinstance(done, cw.Future) and issubclass(
            cw.Future[int].__origin__, concurrent.futures.Future
        )

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_a_task_that_is_cancelled_cancels_the_job_that_it_awaits(executor, gate, tmp_path):
    async def main():
        gate.block(executor)
        future = executor.asubmit(jobs.mark, tmp_path / "ran")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(future, 0.1)
        assert future.cancelled()

    asyncio.run(main())


def test_an_awaited_future_that_is_cancelled_cancels_the_job(executor, gate, tmp_path):
    async def main():
        gate.block(executor)
        future = executor.submit(jobs.mark, tmp_path / "ran")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(future), 0.1)
        assert future.cancelled()

    asyncio.run(main())
    gate.open()
    assert executor.submit(jobs.square, 2).result(LIMIT) == 4
    assert not (tmp_path / "ran").exists()


# --- a cluster that is not there, or goes -----------------------------------------------------


def test_without_a_master_the_constructor_says_where_it_looked():
    port = free_port()
    began = time.monotonic()
    with pytest.raises(cw.ConnectionError, match=f"127.0.0.1:{port}.*python -m cw.master"):
        cw.ClusterExecutor("127.0.0.1", port, connect_timeout=0.3)
    assert time.monotonic() - began < 5


def test_a_lost_master_breaks_the_executor_and_leaves_no_future_pending(gate):
    with Master() as master, Worker(master.address):
        executor = cw.ClusterExecutor(master.address, reconnect_timeout=0.3)
        (running,) = gate.block(executor, 1)
        wait_until(running.running, LIMIT)
        queued = [executor.submit(jobs.square, n) for n in range(100)]
        master.end(9)
        for future in [running, *queued]:
            assert isinstance(future.exception(LIMIT), cw.ConnectionError)
        with pytest.raises(cw.ConnectionError):
            executor.submit(jobs.square, 1)
        executor.shutdown()
        with pytest.raises(RuntimeError):
            executor.submit(jobs.square, 1)


def test_executors_of_one_program_are_sessions_of_their_own(cluster):
    with cw.ClusterExecutor() as one, cw.ClusterExecutor(cluster.master) as two:
        assert one.submit(jobs.set_global, "one").result(LIMIT) is None
        pids = {executor: set(executor.map(_pid_of, range(20))) for executor in (one, two)}
        assert not pids[one] & pids[two]
        assert set(two.map(jobs.get_global, range(20))) == {None}


def test_runners_of_an_executor_end_with_it(cluster):
    (keeper,) = children_of(worker_of(cluster))
    with cw.ClusterExecutor() as executor:
        pids = set(executor.map(_pid_of, range(20)))
        assert pids <= set(children_of(keeper))
    wait_until(lambda: not pids & set(children_of(keeper)), LIMIT)


def test_the_log_of_the_client_is_silent(executor, caplog):
    caplog.set_level(logging.DEBUG)
    assert executor.submit(operator.add, 1, 2).result(LIMIT) == 3
    assert caplog.records == []
