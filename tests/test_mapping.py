"""`cw.map` and what `executor.map` takes besides the standard library's arguments."""

import concurrent.futures
import gc
import itertools
import sys
import threading
import time
import weakref
from collections import deque

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT, run_script

import cw
from cw.client.futures.future import Future
from cw.client.maps import batches, mapping
from cw.net import messages as m
from cw.payloads import chunks


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture
def executor():
    with cw.ClusterExecutor() as executor:
        yield executor


def odd_fails(number):
    if number % 2:
        raise ValueError(number)
    return number


class Source:
    """An input that counts how much of it has been read."""

    def __init__(self, count=None):
        self.read = 0
        self._numbers = itertools.count() if count is None else iter(range(count))

    def __iter__(self):
        return self

    def __next__(self):
        number = next(self._numbers)
        self.read += 1
        return number


def clients():
    return [thread for thread in threading.enumerate() if thread.name == "cw-client"]


# --- how inputs are read ----------------------------------------------------------------------


def test_inputs_that_run_no_code_are_read_by_columns():
    inputs = [1, 2, 3], ("a", "b", "c", "d"), range(10, 20)
    calls = mapping.calls_of(inputs)
    assert calls.columns(2) == [[1, 2], ("a", "b"), range(10, 12)]
    assert calls.columns(5) == [[3], ("c",), range(12, 13)]
    assert calls.columns(5) == [[], (), range(0)]
    assert list(mapping.calls_of(inputs)) == [(1, "a", 10), (2, "b", 11), (3, "c", 12)]


class Batched:
    """A batch that notes when it is submitted."""

    def __init__(self, label, submitted):
        self.label, self.submitted, self.calls = label, submitted, []

    def __len__(self):
        return len(self.calls)

    def add_columns(self, columns):
        assert chunks.are_plain(columns)
        self.add_all(zip(*columns, strict=True))

    def add_all(self, calls):
        self.calls = list(calls)

    def submit(self):
        self.submitted.append((self.label, self.calls))
        return [f"future of {self.label}"] if self.calls else []


@pytest.mark.parametrize(
    ("items", "plain"), [([1, 2, 3, 4, 5], 3), ([1, 2, 3, 4], 3), ([1, 2, 3, [], 5], 1), ([[]], 0), ([], 1)]
)
def test_chunks_of_plain_arguments_are_sent_together_up_to_others(items, plain):
    submitted, held = [], []

    def together(step):
        has_more = step()
        held[:] = submitted
        return has_more

    calls = mapping.calls_of((items,))
    futures = list(batches.in_batches(calls, 2, 7, lambda label: Batched(label, submitted), together))
    assert len(held) == plain
    assert [call for _, calls in submitted for call in calls] == [(item,) for item in items]
    filled = [label for label, calls in submitted if calls]
    assert filled == list(range(7, 7 + len(items), 2)) and futures == [f"future of {n}" for n in filled]


def chunks_of(*chunks):
    """Return results of chunks that have arrived, and the list of the futures that its end cancels."""
    left = []
    futures = [Future(None) for _ in chunks]
    for future, chunk in zip(futures, chunks, strict=True):
        future.set_result((chunk, None))
    feed = mapping.Feed(iter(()), None)
    return mapping.ChunkResults.of(mapping.of_chunks(deque(futures), feed, None, left.extend)), left


def test_results_of_chunks_are_taken_without_a_call_in_python_for_each():
    results, left = chunks_of([1, 2], [], list(range(1000)))
    entered = []
    sys.setprofile(lambda frame, event, _: event == "call" and entered.append(frame.f_code.co_filename))
    try:
        taken = list(results)
    finally:
        sys.setprofile(None)
    assert taken == [1, 2, *range(1000)] and left == []
    assert entered.count(mapping.__file__) < 20


def test_results_of_chunks_that_are_closed_end_in_the_middle_of_a_chunk():
    results, left = chunks_of([1, 2, 3], [4])
    assert next(results) == 1
    results.close()
    assert list(results) == [] and len(left) == 1


def test_a_result_of_a_chunk_is_kept_alive_by_nobody_once_it_is_taken():
    results, _ = chunks_of([Source(1), Source(2)])
    reference = weakref.ref(next(results))
    assert reference() is None


@pytest.mark.parametrize(
    "inputs, calls", [((iter([1]),), [(1,)]), (([1], {2}), [(1, 2)]), ("a", [("a",)]), ((), [])]
)
def test_other_inputs_are_read_call_by_call(inputs, calls):
    found = mapping.calls_of(tuple(inputs))
    assert not isinstance(found, mapping.Quiet) and list(found) == calls


@pytest.mark.parametrize("chunksize", [1, 3])
def test_an_argument_is_taken_before_the_next_is_read(executor, chunksize):
    def items():
        item = [0]
        for number in range(7):
            item[0] = number
            yield item

    assert list(executor.map(list, items(), chunksize=chunksize)) == [[number] for number in range(7)]


@pytest.mark.parametrize("settings", [{}, {"as_completed": True}])
@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_chunks_of_inputs_of_unequal_length(executor, kind, settings):
    results = executor.map(pow, kind([2, 3, 4, 5, 6]), range(4), chunksize=3, **settings)
    assert sorted(results) == [1, 3, 16, 125]


def test_the_calls_of_a_short_map_travel_together(executor, monkeypatch):
    list(executor.map(abs, range(-4, 0)))
    connection, counts = executor._session.exchange.link.connection, []
    send = connection.send

    def note(message):
        if type(message) is m.Submit:
            counts.append(len(message.numbers))
        send(message)

    monkeypatch.setattr(connection, "send", note)
    monkeypatch.setattr("cw.client.session.submitter.HELD_SECONDS", LIMIT)
    assert list(executor.map(abs, range(-16, 0))) == list(range(16, 0, -1))
    assert counts == [16]


class Waits:
    """An argument that needs a job's result while it is pickled."""

    def __init__(self, executor):
        self.executor = executor

    def __reduce__(self):
        return int, (self.executor.submit(abs, -7).result(LIMIT),)


def test_a_job_that_pickling_waits_for_is_not_kept_back(executor, monkeypatch):
    monkeypatch.setattr("cw.client.session.submitter.HELD_SECONDS", LIMIT)
    assert list(executor.map(abs, [-1, Waits(executor), -2])) == [1, 7, 2]


# --- order, errors ----------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_in_order_and_as_completed_with_and_without_errors(executor, chunksize):
    for settings in {}, {"buffersize": 5}:
        settings = {**settings, "chunksize": chunksize}
        assert list(executor.map(jobs.square, range(50), **settings)) == [n * n for n in range(50)]
        found = list(executor.map(jobs.square, range(50), as_completed=True, **settings))
        assert sorted(found) == [n * n for n in range(50)]
        found = list(executor.map(odd_fails, range(50), return_exceptions=True, **settings))
        assert [error.args[0] if n % 2 else error for n, error in enumerate(found)] == list(range(50))
        assert {type(error) for error in found[1::2]} == {ValueError}
        assert "odd_fails" in str(found[1].__cause__)
        found = list(
            executor.map(odd_fails, range(50), return_exceptions=True, as_completed=True, **settings)
        )
        assert sorted(error.args[0] if isinstance(error, ValueError) else error for error in found) == list(
            range(50)
        )


def test_what_is_done_first_comes_first(executor, tmp_path):
    results = executor.map(jobs.until, [tmp_path / "a", tmp_path / "b"], "ab", as_completed=True)
    jobs.mark(tmp_path / "b")
    assert next(results) == "b"
    jobs.mark(tmp_path / "a")
    assert list(results) == ["a"]


@pytest.mark.parametrize("as_completed", [False, True])
def test_an_error_or_time_that_is_up_ends_it_and_cancels_the_rest(executor, tmp_path, as_completed):
    results = executor.map(odd_fails, [1], as_completed=as_completed)
    with pytest.raises(ValueError):
        next(results)
    assert list(results) == []
    paths = [tmp_path / "never"] * 20
    for chunksize in 1, 4:
        results = executor.map(
            jobs.until, paths, range(20), timeout=0.2, as_completed=as_completed, return_exceptions=True,
            chunksize=chunksize,
        )  # fmt: skip
        with pytest.raises(concurrent.futures.TimeoutError):
            next(results)
    jobs.mark(tmp_path / "never")  # for those two that run
    wait_until(lambda: not executor._session.outstanding(), LIMIT)


def test_a_call_that_itself_times_out_is_not_time_that_is_up(executor):
    (error,) = executor.map(jobs.fail, [TimeoutError("its own")], timeout=LIMIT, return_exceptions=True)
    assert error.args == ("its own",)


# --- the input is read as results are taken ---------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"as_completed": True}, {"chunksize": 5}])
def test_an_endless_input_is_read_as_results_are_taken(settings):
    source = Source()
    results = cw.map(jobs.square, source, buffersize=20, **settings)
    for taken in range(1, 60):
        next(results)
        assert source.read <= 20 + taken + 5
    results.close()
    assert not clients()


def test_without_a_buffersize_memory_is_bounded_all_the_same():
    source = Source(5000)
    results = cw.map(jobs.square, source)
    next(results)
    assert source.read < 1100
    assert sum(1 for _ in results) == 4999


SETTINGS = [{}, {"as_completed": True}, {"chunksize": 3}, {"chunksize": 3, "as_completed": True}]


@pytest.mark.parametrize("settings", SETTINGS)
def test_with_a_slow_input_results_come_as_soon_as_they_are_there(settings):
    source, chunk = Source(30), settings.get("chunksize", 1)

    def slow():
        for number in source:
            time.sleep(0.15 / chunk)
            yield number

    results = cw.map(jobs.square, slow(), **settings)
    next(results)
    assert source.read <= 5 * chunk  # and not all
    results.close()


@pytest.mark.parametrize("settings", SETTINGS)
def test_what_was_given_before_the_input_failed_is_computed(settings):
    def failing():
        yield from range(7)
        raise LookupError("no more")

    taken = []
    with pytest.raises(LookupError, match="no more"):
        for result in cw.map(jobs.square, failing(), **settings):
            taken.append(result)
    assert sorted(taken) == [n * n for n in range(7)]
    assert not clients()
    with pytest.raises(LookupError, match="at once"):
        cw.map(jobs.square, (_ for _ in [1] if _raise(LookupError("at once"))), **settings)
    assert not clients()


def _raise(error):
    raise error


# --- its own connection -----------------------------------------------------------------------


def test_it_leaves_when_all_is_taken_or_the_loop_is_left():
    assert sorted(cw.map(jobs.square, range(10))) == [n * n for n in range(10)]
    assert not clients()
    begin = time.monotonic()
    for _ in cw.map(jobs.nap, [0, LIMIT, LIMIT]):
        break  # what runs is stopped
    assert not clients() and time.monotonic() - begin < LIMIT / 2
    with pytest.raises(ValueError):
        list(cw.map(odd_fails, [0, 1, 2]))
    assert not clients()
    results = cw.map(jobs.square, range(10))  # nobody looks at them
    assert clients()
    del results
    gc.collect()
    wait_until(lambda: not clients(), LIMIT)


def test_it_takes_several_inputs_and_says_what_is_wrong_at_once():
    assert list(cw.map(pow, [2, 3, 4], [5, 2, 1, 0])) == [32, 9, 4]
    with pytest.raises(ValueError, match="chunksize"):
        cw.map(jobs.square, [1], chunksize=0)
    with pytest.raises(ValueError, match="progress must be True, False or 'always'"):
        cw.map(jobs.square, [1], progress="perhaps")
    with pytest.raises(ValueError, match="must be a function"):
        cw.map(jobs.square, [1], key="mine")
    with pytest.raises(TypeError, match="not callable|function first"):
        cw.map(3, [1])
    assert not clients()


def test_it_is_resumed_from_its_store(cluster, tmp_path):
    script = """
    import cw
    def work(number):
        with open("ran", "a") as file:
            file.write(f"{number}\\n")
        return number
    for result in cw.map(work, range(300), store="s", buffersize=30, chunksize=%d):
        if result == %d:
            break
    print(result)
    """
    assert run_script(tmp_path, script % (1, 20), CW_MASTER=cluster.master)[0] == "20\n"
    first = {int(line) for line in (tmp_path / "ran").read_text().split()}
    stored = {result.value for result in cw.results(tmp_path / "s")}
    assert set(range(21)) <= stored <= first
    (tmp_path / "ran").unlink()
    assert run_script(tmp_path, script % (7, 1000), CW_MASTER=cluster.master)[0] == "299\n"
    assert sorted(int(line) for line in (tmp_path / "ran").read_text().split()) == sorted(
        set(range(300)) - stored
    )


# --- progress ---------------------------------------------------------------------------------


def test_the_bar_says_what_is_done_and_what_has_failed(capfd):
    found = list(cw.map(odd_fails, range(40), return_exceptions=True, progress="always"))
    err = capfd.readouterr().err
    assert len(found) == 40 and "40/40" in err and "failed=20" in err and "job/s" in err
    thread = cw.ClientThread(on_error=lambda jobid, error: None)
    for number in range(30):
        thread.submit(odd_fails, number)
    with thread:
        thread.wait(LIMIT, progress="always")
    err = capfd.readouterr().err
    assert "30/30" in err and "failed=15" in err


def test_what_a_map_that_is_left_gives_up_has_not_failed(capfd):
    for result in cw.map(jobs.square, range(100_000), progress="always"):
        assert result == 0
        break
    err = capfd.readouterr().err
    assert "/100000" in err and "failed" not in err


def test_the_bar_shows_what_runs(capfd, tmp_path, executor):
    results = executor.map(jobs.until, [tmp_path / "go"] * 4, range(4), progress="always")
    taker = threading.Thread(target=lambda: list(results))
    taker.start()
    seen = ""

    def is_shown():
        nonlocal seen
        seen += capfd.readouterr().err
        return "running=2" in seen and "0/4" in seen

    wait_until(is_shown, LIMIT, lambda: seen)
    jobs.mark(tmp_path / "go")
    taker.join(LIMIT)
    assert "4/4" in capfd.readouterr().err


def test_the_bar_is_silent_without_a_terminal(capfd):
    assert list(cw.map(jobs.square, range(10), progress=True)) == [n * n for n in range(10)]
    with cw.ClientThread() as thread:
        thread.submit(jobs.square, 1)
        thread.wait(progress=True)
    assert capfd.readouterr().err == ""
    assert "cw-progress" not in [thread.name for thread in threading.enumerate()]


def test_the_bar_is_there_on_a_terminal(capfd, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert sum(cw.map(jobs.square, (n for n in range(10)), progress=True)) == 285  # of unknown length
    assert "10job" in capfd.readouterr().err


def test_without_tqdm_it_says_what_to_install(cluster, tmp_path):
    (tmp_path / "tqdm.py").write_text("raise ModuleNotFoundError('no tqdm here')")
    out, _ = run_script(tmp_path, """
    import cw
    try:
        cw.map(abs, [1], progress="always")
    except ModuleNotFoundError as error:
        print(error)
    print(list(cw.map(abs, [-1], progress=True)))  # no terminal, and no bar
    """, CW_MASTER=cluster.master)  # fmt: skip
    assert out == "progress needs tqdm, which is not installed: pip install tqdm\n[1]\n"


# --- starmap ----------------------------------------------------------------------------------


PAIRS = [(2, 3), [3, 2], (5, 1)]


@pytest.mark.parametrize(
    "settings", [{}, {"chunksize": 3}, {"chunksize": 3, "as_completed": True}, {"buffersize": 1}]
)
def test_starmap_gives_what_itertools_gives(executor, settings):
    expected = sorted(itertools.starmap(pow, [(2, 3), (3, 2), (5, 1), (2, 10)]))
    for starmap in executor.starmap, executor.options(attempts=1).starmap, cw.starmap:
        pairs = [*PAIRS, iter((2, 10))]
        assert sorted(starmap(pow, iter(pairs), timeout=LIMIT, **settings)) == expected


def test_starmap_takes_tuples_of_any_length_and_counts_them(executor, capsys):
    calls = [(), (1,), (1, 2), range(4)]
    assert list(executor.starmap(jobs.add, calls, timeout=LIMIT, progress="always")) == [
        jobs.add(*call) for call in calls
    ]
    assert "4/4" in capsys.readouterr().err
    assert list(executor.starmap(jobs.add, [], timeout=LIMIT)) == []


def test_starmap_takes_what_does_not_know_its_length(executor):
    for settings in {}, {"chunksize": 2}, {"buffersize": 1}, {"progress": "always"}:
        pairs = zip([2, 3, 4], [5, 6, 7], strict=True)
        assert list(executor.starmap(jobs.add, pairs, timeout=LIMIT, **settings)) == [7, 9, 11]
        assert list(executor.starmap(jobs.add, ((i, i) for i in [1, 2]), timeout=LIMIT, **settings)) == [2, 4]


def test_an_item_of_starmap_that_is_no_tuple_is_named(executor):
    with pytest.raises(TypeError, match=r"starmap\(\) takes an iterable of tuples.* not of 7"):
        executor.starmap(jobs.add, [(1, 2), 7])
    results = executor.starmap(jobs.echo, [(1,), 7], buffersize=5, timeout=LIMIT)
    assert next(results) == 1
    with pytest.raises(TypeError, match="not of 7"):
        next(results)
    with pytest.raises(TypeError, match="chunksiz"):
        executor.starmap(jobs.add, [(1, 2)], chunksiz=5)
