"""Clients with a store, as users run them: on disk before the callback, and a rerun asks for what is missing only."""

import functools
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from concurrent.futures import wait
from pathlib import Path

import jobs
import pytest
from conftest import events, wait_until
from programs import LIMIT, Program, run_script, start_script

import cw
from cw.client.store_client import StoreClient
from cw.payloads import serialize
from cw.store import callkey
from cw.store.directory import MARKER
from cw.store.reader import Store
from cw.store.writer import Writer


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s"


@pytest.fixture(autouse=True)
def each_client_is_a_run(monkeypatch):
    """As in a notebook: so that these tests can play several runs in one process."""
    monkeypatch.setattr("cw.client.store_client._is_interactive", lambda: True)


@pytest.fixture
def run(cluster, tmp_path):
    return lambda source, **settings: run_script(tmp_path, source, CW_MASTER=cluster.master, **settings)


def note(directory, number):
    """A job that leaves a trace of each time it runs."""
    with open(Path(directory, "ran"), "a") as file:
        file.write(f"{number}\n")
    return number * 2


def ran(directory):
    found = [int(line) for line in Path(directory, "ran").read_text().split()]
    Path(directory, "ran").unlink()
    return sorted(found)


def stored(path):
    return [result.value for result in cw.results(path).filter(failed=False)]


# --- resuming ---------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 7])
def test_a_second_run_asks_for_exactly_what_is_missing(tmp_path, path, chunksize):
    with cw.ClusterExecutor(store=path) as executor:
        for number in range(0, 100, 3):
            executor.submit(note, tmp_path, number)
    assert ran(tmp_path) == [*range(0, 100, 3)]
    with cw.ClusterExecutor(store=path) as executor:
        results = executor.map(note, [tmp_path] * 100, range(100), chunksize=chunksize)
        assert list(results) == [number * 2 for number in range(100)]
    assert ran(tmp_path) == [number for number in range(100) if number % 3]
    with cw.ClusterExecutor(store=path) as executor:
        assert list(executor.map(note, [tmp_path] * 100, range(100))) == [number * 2 for number in range(100)]
    assert not (tmp_path / "ran").exists()


def one_run_with_callbacks(path):
    found, threads = {}, set()

    def callback(jobid, result):
        found[jobid] = result
        threads.add(threading.current_thread().name)

    with cw.ClientThread(callback, store=path) as thread:
        ids = {thread.submit(jobs.square, number): number**2 for number in range(200)}
        thread.submit(12345, jobs.square, 3)
    assert found == {**ids, 12345: 9} and threads == {"cw-client"}


def test_the_function_of_plain_calls_is_looked_at_once(path, monkeypatch):
    seen, identify = [], StoreClient.identify
    monkeypatch.setattr(
        StoreClient, "identify", lambda self, *args: seen.append(args[2]) or identify(self, *args)
    )
    for _ in range(2):
        with cw.ClusterExecutor(store=path) as executor:
            futures = [executor.submit(pow, n, 2) for n in range(30)] * 2
            assert [future.result() for future in futures] == [n**2 for n in range(30)] * 2
            assert list(executor.map(pow, range(30), range(30))) == [n**n for n in range(30)]
            assert executor.submit(pow, 0, 2).result() == 0  # the second such call
    assert seen == [(0, 2), (0, 0)] * 2  # (a map checks all that its function reaches)
    assert len(cw.results(path)) == 61


def test_callbacks_come_for_what_is_stored_too(path):
    for _ in range(2):
        one_run_with_callbacks(path)
    assert len(cw.results(path)) == 201


def one_run_from_callbacks(path):
    found = []

    def callback(jobid, result):
        found.append(result)
        if len(found) == 1:
            thread.submit(jobs.square, 5)
            thread.submit(jobs.square, 6)

    thread = cw.ClientThread(callback, store=path)
    thread.submit(jobs.square, 4)
    thread.start()
    thread.wait(LIMIT)
    thread.stop()
    assert found[0] == 16 and sorted(found) == [16, 25, 36]


def test_what_is_submitted_before_the_start_and_from_callbacks_is_recorded(path):
    for _ in range(2):
        one_run_from_callbacks(path)
    assert len(cw.results(path)) == 3


CLASSES = """
    import dataclasses, enum, sys, cw
    @dataclasses.dataclass
    class Point:
        x: int
    class Color(enum.Enum):
        RED = 1
    class Mistake(Exception): pass
    def f(x):
        if x == 3: raise Mistake(x)
        return Point(x), Color.RED
    with cw.ClusterExecutor(store="s", retry_errors=False) as executor:
        one = executor.submit(f, 1).result()
        assert one == (Point(1), Color.RED) and type(one[0]) is Point, one
        given = executor.submit(lambda point: point, Point(7)).result()
        assert type(given) is Point
        try:
            executor.submit(f, 3).result()
        except Mistake as error:
            assert "Mistake: 3" in str(error.__cause__)
    print(len(cw.results("s")))
"""


def test_instances_of_the_scripts_classes_come_back_as_such(run, tmp_path):
    for _ in range(2):
        assert run(CLASSES) == ("3\n", "")
    # And without the script.
    first, second, third = cw.results(tmp_path / "s")
    assert type(first.value[0]).__name__ == "Point" and first.value[0].x == 1 and second.value.x == 7
    assert type(third.error).__name__ == "Mistake"


MANY_INSTANCES = """
    import dataclasses, cw
    @dataclasses.dataclass
    class Point:
        x: int
        def next(self): return Point(self.x + 1)
    class Mistake(Exception):
        pass
    def f(point):
        if point.x == 40: raise Mistake(point)
        return point.next()
    with cw.ClusterExecutor(store="s") as executor:
        futures = [executor.submit(f, Point(x)) for x in range(40)]
        assert [future.result() for future in futures] == [Point(x + 1) for x in range(40)]
        try:
            executor.submit(f, Point(40)).result()
        except Mistake as error:
            assert type(error.args[0]) is Point, error.__cause__
"""


def test_the_definition_of_a_class_is_stored_once_for_all_its_instances(run, tmp_path):
    for _ in range(2):  # the second finds them
        assert run(MANY_INSTANCES) == ("", "")
    (segment,) = [path for path in (tmp_path / "s").glob("*.seg") if path.stat().st_size > 10_000]
    assert segment.stat().st_size < 41 * 350 + 8000
    # And another program finds the definition, also for a result that is sent to it.
    results = sorted(cw.results(tmp_path / "s"), key=lambda result: result.args[0].x)
    assert [result.value.x for result in results[:-1]] == list(range(1, 41))
    sent = pickle.dumps([results[7], results[-1]])
    program = (
        "import pickle, sys\n"
        "done, failed = pickle.load(sys.stdin.buffer)\n"
        "print(done.args, done.value, type(failed.error).__name__, failed.error.args)"
    )
    answer = subprocess.run([sys.executable, "-c", program], input=sent, capture_output=True, check=True)
    assert answer.stdout == b"(Point(x=7),) Point(x=8) Mistake (Point(x=40),)\n"


MORE_CLASSES = """
    import dataclasses, cw
    @dataclasses.dataclass
    class Point:
        x: int
    @dataclasses.dataclass
    class Path:
        points: list
        @classmethod
        def of(cls, n): return cls([Point(i) for i in range(n)])
    def path(n): return Path.of(n)
    def of_argument(what): return what.points[0]
    def with_key(n): return Path.of(n)
    def define():
        class Twin:
            def __init__(self, x): self.x = x
        return Twin
    One, Other = define(), define()
    def one(x): return One(x)
    def other(x): return Other(x)
    with cw.ClusterExecutor(store="s") as executor:
        found = executor.submit(path, 2).result()
        assert found == Path.of(2) and type(found.points[0]) is Point, "a class that only another class refers to"
        found = executor.submit(of_argument, Path.of(2)).result()
        assert type(found) is Point, "a class that an argument's class refers to"
        own = executor.options(key="mine")
        assert own.submit(with_key, 2).result() == Path.of(2), "with a key of one's own"
        assert own.submit(of_argument, Path.of(2)).result() == Point(0), "with a key of one's own, and an argument"
        lambdas = executor.options(key="lambda")
        # Not for long at this place.
        print(lambdas.submit(lambda: 7).result())
        twins = executor.submit(one, 1), executor.submit(other, 1)
        assert [type(twin.result()) for twin in twins] == [One, Other], "classes of one definition"
    print(len(cw.results("s")))
"""


def test_instances_come_back_as_what_they_were_however_their_class_is_found(run, tmp_path):
    assert run(MORE_CLASSES) == ("7\n7\n", "")
    assert run(MORE_CLASSES.replace("# Not for long", "\n\n        # No longer")) == ("7\n7\n", "")


def test_two_stores_in_one_program_do_not_disturb_each_other(path, tmp_path):
    class Given:
        pass

    with cw.ClusterExecutor(store=path) as executor:
        waits = executor.submit(_when_there, tmp_path / "go", None)
        assert list(executor.map(_when_there, [None], [Given()], store=tmp_path / "other")) == ["Given"]
        (tmp_path / "go").touch()
        assert waits.result(LIMIT) == "NoneType"
    assert len(cw.results(path)) == len(cw.results(tmp_path / "other")) == 1


def _when_there(path, thing):
    jobs.until_or_not(path)
    return type(thing).__name__


def test_what_cannot_be_recorded_is_an_error_of_these_calls_alone(path, monkeypatch):
    def entry(store_client, call, *rest):
        if call.name == "square":
            raise ZeroDivisionError("by accident")
        return original(store_client, call, *rest)

    original = StoreClient.entry
    monkeypatch.setattr(StoreClient, "entry", entry)
    monkeypatch.setattr(
        serialize, "is_pickle_alone", lambda payload: False
    )  # as if it named a class of the script
    with cw.ClusterExecutor(store=path) as executor:
        with pytest.raises(cw.StoreError, match="cannot be recorded: ZeroDivisionError"):
            executor.submit(jobs.square, 3).result(LIMIT)


def test_that_none_of_many_results_is_found_is_told_once(run):
    script = """
        import cw
        def f(x): return x
        def g(x): return x
        print(sum(cw.map(f, range(30), store="s")) + sum(cw.map(g, range(3), store="s")))
    """
    assert run(script) == ("438\n", "")
    assert run(script.replace("range(30)", "range(10, 40)")) == ("738\n", "")
    out, told = run(script.replace("f(x): return x", "f(x): return 2 * x"))
    assert out == "873\n" and told.count("\n") == 1
    assert re.search(r"the store \S+ has 40 results of f\(\), but none for the first 20 calls", told)


def test_a_dataclass_with_a_function_as_default_is_found_again(run):
    script = """
        import dataclasses, typing, cw
        def relu(x): return max(x, 0)
        @dataclasses.dataclass
        class Config:
            size: int = 2
            activation: typing.Callable = relu
            names: frozenset = frozenset({"a", "b", "c", "d"})
        def train(config, x): return config.activation(x)
        with cw.ClusterExecutor(store="s") as executor:
            executor.submit(train, Config(), 1).result()
        print(len(cw.results("s")))
    """
    assert [run(script)[0], run(script)[0]] == ["1\n", "1\n"]


def test_an_edited_function_runs_again_and_a_moved_one_does_not(run, tmp_path):
    script = """
    import cw
    # first
    def used(x): return x + 1
    def unused(x): return x
    def f(x):
        open("ran", "a").write("x")
        return used(x)
    with cw.ClusterExecutor(store="s") as executor:
        print(executor.submit(f, 1).result())
    """
    assert run(script)[0] == "2\n"
    edited = script.replace("# first", "# another\n\n").replace("unused(x): return x", "unused(x): return 0")
    assert run(edited)[0] == "2\n" and (tmp_path / "ran").read_text() == "x"
    assert run(edited.replace("x + 1", "x + 2"))[0] == "3\n" and (tmp_path / "ran").read_text() == "xx"


def draw(_):
    return os.urandom(8)


def test_a_thousand_draws_with_the_same_arguments_are_a_thousand_results(path):
    runs = []
    for _ in range(2):
        with cw.ClusterExecutor(store=path) as executor:
            runs.append(list(executor.map(draw, [None] * 1000)))
    assert runs[0] == runs[1] and len(set(runs[0])) == 1000
    with cw.ClusterExecutor(store=path) as executor:
        more = list(executor.map(draw, [None] * 1100, chunksize=50))
    assert more[:1000] == runs[0] and len(set(more)) == 1100


def test_in_a_program_a_run_is_its_whole_life(run):
    script = """
    import os, cw
    def draw(): return os.urandom(8).hex()
    found = []
    for _ in range(2):
        with cw.ClusterExecutor(store="s") as one, cw.ClusterExecutor(store="./s") as other:
            found += [one.submit(draw).result(), other.submit(draw).result()]
    print(*found)
    """
    first = run(script)[0].split()
    assert len(set(first)) == 4 and run(script)[0].split() == first


DRAWS = """
    import os, cw
    def draw(_): return os.urandom(8).hex()
    def outer(_): return [*cw.map(draw, [1, 1], store="s"), *cw.map(draw, [1], store="s")]
    """


def test_a_program_without_a_file_is_one_run_too(cluster, tmp_path):
    source = textwrap.dedent(DRAWS) + 'print(*(d for _ in range(3) for d in cw.map(draw, [1, 1], store="s")))'
    outs = set()
    for _ in range(2):
        with Program("-c", source, cwd=tmp_path, CW_MASTER=cluster.master) as program:
            assert program.wait() == 0, program.err
            outs.add(program.out)
    assert len(outs) == 1 and len(set(outs.pop().split())) == 6


def test_in_a_job_that_is_a_client_a_run_is_the_job(cluster, run):
    out, _ = run(DRAWS + "print(*(d for _ in range(4) for d in next(cw.map(outer, [1]))))")
    assert len(set(out.split())) == 3 and len(out.split()) == 12


def test_in_a_notebook_a_run_is_the_execution_of_a_cell(run):
    # (IPython itself: what is asked of it.)
    out, _ = run("""
        import os, sys, types, cw
        shell = types.SimpleNamespace(execution_count=1)
        sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: shell)
        def draw(_): return os.urandom(8).hex()
        def cell(): return [d for _ in range(3) for d in cw.map(draw, [1], store="s")]
        first = cell()
        shell.execution_count = 2
        assert cell() == first and len(set(first)) == 3
        begun = cw.map(draw, [2] * 60, store="s", buffersize=20)
        shell.execution_count = 3
        assert len(set(begun)) == 60
        print("done")
    """)
    assert out == "done\n"


def test_in_a_notebook_a_client_of_an_earlier_cell_counts_from_the_cell_that_calls(run):
    out, _ = run("""
        import os, sys, types, cw
        shell = types.SimpleNamespace(execution_count=1)
        sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: shell)
        def draw(_): return os.urandom(8).hex()
        executor = cw.ClusterExecutor(store="s")
        results = []
        thread = cw.ClientThread(lambda number, value: results.append(value), store="s")
        thread.start()
        def cell():
            shell.execution_count += 1
            results.clear()
            for _ in range(2): thread.submit(draw, 2)
            thread.wait()
            return [executor.submit(draw, 1).result() for _ in range(3)], sorted(results), [
                *executor.map(draw, [3, 3]), *executor.options(version=2).map(draw, [3, 3], chunksize=2)]
        first = cell()
        assert [len(set(drawn)) for drawn in first] == [3, 2, 4]
        assert cell() == first == cell()
        begun = executor.map(draw, [4] * 60, buffersize=20)
        shell.execution_count += 1
        assert len(set(begun)) == 60
        thread.stop()
        executor.shutdown()
        print("done")
    """)
    assert out == "done\n"


# --- errors -----------------------------------------------------------------------------------


def failing(directory):
    note(directory, 1)
    raise LookupError("no such star")


def test_errors_are_stored_and_tried_again_unless_that_is_not_wanted(tmp_path, path):
    for retry_errors, runs in [(True, [1]), (True, [1]), (False, None)]:
        with cw.ClusterExecutor(store=path, retry_errors=retry_errors) as executor:
            with pytest.raises(LookupError, match="no such star") as raised:
                executor.submit(failing, tmp_path).result()
        assert "in failing" in str(raised.value.__cause__)
        assert (ran(tmp_path) if runs else None) == runs
    (result,) = cw.results(path)
    assert result.failed and type(result.error) is LookupError


def test_what_took_its_runner_down_or_was_too_slow_is_stored_as_an_error(path):
    with cw.ClusterExecutor(store=path) as executor:
        first = executor.options(attempts=1).submit(os._exit, 3)
        second = executor.options(timeout=0.2).submit(time.sleep, 1000)
        wait([first, second])
    with cw.ClusterExecutor(store=path, retry_errors=False) as executor:
        with pytest.raises(cw.WorkerLost, match="was given up") as lost:
            executor.submit(os._exit, 3).result()
        assert "exited with status 3" in str(lost.value)
        with pytest.raises(cw.JobTimeout):
            executor.submit(time.sleep, 1000).result()


def test_what_is_cancelled_is_not_stored(tmp_path, path):
    with cw.ClusterExecutor(store=path) as executor:
        future = executor.submit(jobs.until, tmp_path / "go", 1)
        wait_until(future.running)
        assert executor.kill(future)
        assert executor.submit(jobs.square, 2).result() == 4
    assert stored(path) == [4]


def test_a_call_of_a_chunk_that_fails_does_not_hold_up_the_others(path):
    with cw.ClusterExecutor(store=path) as executor:
        results = executor.map(int, ["1", "x", "3"], chunksize=3)
        assert next(results) == 1
        with pytest.raises(ValueError, match="'x'"):
            next(results)
    assert stored(path) == [1, 3] and len(cw.results(path)) == 3


def test_a_chunk_that_took_its_runner_down_is_stored_as_errors(path):
    with cw.ClusterExecutor(store=path) as executor:
        options = executor.options(attempts=1)
        assert len(list(options.map(ends, [3, 4], chunksize=2, return_exceptions=True))) == 2
    assert [result.failed for result in cw.results(path)] == [True, True]
    with cw.ClusterExecutor(store=path, retry_errors=False) as executor:
        errors = list(executor.map(ends, [3, 4], chunksize=2, return_exceptions=True))
    assert [type(error) for error in errors] == [cw.WorkerLost] * 2


def ends(status):
    os._exit(status)


# --- keys of one's own ------------------------------------------------------------------------


def test_a_key_and_a_version_of_ones_own(tmp_path, path):
    unstable = [object.__repr__(object())]
    for version, runs in [(1, True), (1, False), (2, True), (2, False)]:
        with cw.ClusterExecutor(store=path) as executor, cw.ClientThread(store=path) as thread:
            with pytest.raises(cw.UnstableKey, match=r"argument 'number' of note\(\).*options\(key=\.\.\.\)"):
                executor.submit(note, tmp_path, unstable)
            executor.options(key="a", version=version).submit(note, tmp_path, 5).result()
            thread.options(key=("b", 2), version=version).submit(note, tmp_path, 6)
            by_item = executor.options(key=lambda directory, number: number, version=version)
            assert list(by_item.map(note, [tmp_path] * 2, [7, 8], chunksize=2)) == [14, 16]
            with pytest.raises(ValueError, match="must be a function"):
                executor.options(key="c").map(note, [tmp_path], [1])
        assert (tmp_path / "ran").exists() == runs
        if runs:
            assert ran(tmp_path) == [5, 6, 7, 8]
    with cw.ClusterExecutor() as executor:  # without a store a key means nothing
        assert executor.options(key="a").submit(jobs.square, 2).result() == 4


# --- what is promised -------------------------------------------------------------------------


def test_a_result_is_on_disk_before_its_callback(path):
    missing = []

    def callback(jobid, result):
        if result not in stored(path):
            missing.append(result)

    with cw.ClientThread(callback, store=path) as thread, cw.ClusterExecutor(store=path) as executor:
        for number in range(50):
            thread.submit(jobs.square, number)
            future = executor.submit(jobs.square, 100 + number)
            future.add_done_callback(lambda future: callback(0, future.result()))
    assert not missing and len(cw.results(path)) == 100


SWEEP = """
    import os, sys, time, cw
    def work(number):
        with open("ran", "a") as file:
            file.write(f"{number}\\n")
        time.sleep(0.001)
        return number * 2
    def callback(jobid, result):
        os.write(told, b"%d\\n" % result)
    told = os.open("told", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with cw.ClientThread(callback, store="s") as thread:
        for number in range(2000):
            thread.submit(work, number)
    print(len(cw.results("s")))
"""


@pytest.mark.parametrize("times", [6, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(180)])])
def test_a_sweep_that_is_killed_again_and_again_loses_nothing(cluster, tmp_path, times):
    """Calls that run twice are those in flight at a kill: told to nobody."""
    (tmp_path / "ran").touch()
    (tmp_path / "told").touch()
    chance, told = random.Random(5), set()

    def have_come(goal):
        return len(set((tmp_path / "told").read_text().split())) >= goal

    for _ in range(times):
        with start_script(tmp_path, SWEEP, CW_MASTER=cluster.master) as script:
            goal = len(told) + chance.randrange(60)
            wait_until(functools.partial(have_come, goal), LIMIT)
            time.sleep(chance.random() * 0.02)  # at any moment
            script.end(signal.SIGKILL)
        results = stored(tmp_path / "s")
        told = {int(line) for line in (tmp_path / "told").read_text().splitlines()}
        assert told <= set(results) and len(results) == len(set(results)) < 2000
    out, _ = run_script(tmp_path, SWEEP, CW_MASTER=cluster.master)
    assert out == "2000\n"
    assert sorted(stored(tmp_path / "s")) == [number * 2 for number in range(2000)]
    runs = [int(line) for line in (tmp_path / "ran").read_text().split()]
    assert set(runs) == set(range(2000))
    # At a kill at most a window's worth runs for nobody: what had been told before is never asked for again.
    again = len(runs) - 2000
    assert again < 2000


def test_what_was_stored_before_a_kill_is_not_asked_for_again(cluster, tmp_path):
    lasting = SWEEP.replace("print(", "time.sleep(1000)\n    print(")
    with start_script(tmp_path, lasting, CW_MASTER=cluster.master) as script:
        wait_until(lambda: (tmp_path / "s" / MARKER).exists() and len(stored(tmp_path / "s")) == 2000, LIMIT)
        script.end(signal.SIGKILL)
    (tmp_path / "ran").unlink()
    assert run_script(tmp_path, SWEEP, CW_MASTER=cluster.master)[0] == "2000\n"
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_two_programs_share_a_store(cluster, tmp_path):
    scripts = [start_script(tmp_path, SWEEP, name=f"{n}.py", CW_MASTER=cluster.master) for n in range(2)]
    assert [script.wait() for script in scripts] == [0, 0]
    for script in scripts:
        script.__exit__()
    assert sorted(stored(tmp_path / "s")) == [number * 2 for number in range(2000)]


def test_a_full_disk_ends_the_run_with_an_error_that_says_so(path, monkeypatch):
    with cw.ClusterExecutor(store=path) as executor:
        assert executor.submit(jobs.square, 3).result() == 9
        error = cw.StoreError(f"the store {path} cannot be written: No space left on device")

        def fail(self, entries):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(Writer, "_store", fail)
            for number in range(10):  # (it may be known before the last of them)
                with pytest.raises(cw.StoreError, match="No space left on device"):
                    executor.submit(jobs.square, number).result(LIMIT)
            with pytest.raises(cw.StoreError, match="No space left"):
                executor.submit(jobs.square, 1)
    assert stored(path) == [9]
    with cw.ClusterExecutor(store=path) as executor:
        assert list(executor.map(jobs.square, [3, 4])) == [9, 16]


@pytest.mark.parametrize("arguments,kind,message", [
    ({"store": __file__}, cw.StoreError, "is a file and no store"),
    ({"store": "/no/such/place"}, cw.StoreError, "No such file or directory"),
    ({"store": 5}, TypeError, "store must be the path"),
    ({"store": "s", "durability": "cloud"}, ValueError, "durability must be"),
])  # fmt: skip
def test_a_mistake_in_the_store_is_told_at_once(tmp_path, monkeypatch, arguments, kind, message):
    monkeypatch.chdir(tmp_path)
    for make in cw.ClusterExecutor, cw.ClientThread:
        with pytest.raises(kind, match=message):
            make(**arguments)
    with cw.ClusterExecutor() as executor:
        if kind is cw.StoreError:
            with pytest.raises(kind, match=message):
                executor.map(jobs.square, [1], **arguments)
    assert not [name for name in threading.enumerate() if name.name == "cw-store"]


def test_results_of_another_python_are_told_to_the_user(path, caplog):
    Writer(Store(path, True, "1, Python 3.9")).close()
    writer = Writer(Store(path, True, "1, Python 3.9"))
    done = threading.Event()
    from test_store import entry

    writer.put([entry(1)], lambda error: done.set())
    assert done.wait(LIMIT)
    writer.close()
    with cw.ClusterExecutor(store=path) as executor:
        assert executor.submit(jobs.square, 3).result() == 9
    assert events(caplog) == ["store.other_keys"]
    assert "1, Python 3.9" in caplog.text and callkey.SCHEME in caplog.text
    assert len(cw.results(path)) == 2


def test_a_stored_result_that_cannot_be_read_runs_again(path, caplog):
    with cw.ClusterExecutor(store=path) as executor:
        executor.submit(jobs.square, 3).result()
        opened = executor._futures.store_client._open
        (key, place) = opened.store.index.popitem()
    opened.store.index[key] = place + (1 << 20)  # where nothing is
    with cw.ClusterExecutor(store=path) as executor:
        assert executor.submit(jobs.square, 3).result() == 9
    assert "client.result_unreadable" in events(caplog)


def test_the_host_and_the_time_are_recorded(path):
    begin = time.time()
    with cw.ClusterExecutor(store=path) as executor:
        executor.submit(time.sleep, 0.05).result()
    (result,) = cw.results(path)
    assert result.host == os.uname().nodename and 0.05 <= result.seconds < LIMIT
    assert begin - 1 <= result.when.timestamp() <= time.time() + 1
    assert (result.function, result.args, result.kwargs, result.jobid) == ("sleep", (0.05,), {}, 1)


def test_large_results_and_arguments(path):
    large = os.urandom(3_000_000)
    for _ in range(2):
        with cw.ClusterExecutor(store=path, durability="disk") as executor:
            assert executor.submit(bytes.upper, large).result() == large.upper()
    (result,) = cw.results(path)
    assert result.value == large.upper()
    with pytest.raises(LookupError, match="too large to be stored"):
        result.args  # noqa: B018


def test_a_forked_child_opens_the_store_for_itself(run):
    out, _ = run("""
    import os, cw
    with cw.ClusterExecutor(store="s") as executor:
        print(executor.submit(abs, -1).result(), flush=True)
        pid = os.fork()
        if not pid:
            with cw.ClusterExecutor(store="s") as own:
                print(own.submit(abs, -2).result(), flush=True)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        print(executor.submit(abs, -3).result())
    print(len(cw.results("s")))
    """, PYTHONWARNINGS="ignore")  # fmt: skip
    assert out.split() == ["1", "2", "3", "3"]


def test_a_forked_child_does_not_touch_what_its_parent_writes(path):
    thread = cw.ClientThread(store=path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork() beside threads
        pid = os.fork()
    if not pid:
        thread.stop()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    thread.submit(jobs.square, 3)
    with thread:
        pass
    assert stored(path) == [9]


def test_a_class_that_is_defined_again_gets_what_was_stored_of_the_first(path):
    """A cell of a notebook is run again."""
    source = "class Local:\n    def __init__(self, x): self.x = x\ndef make(x): return Local(x)\n"
    for _ in range(3):
        names = {"__name__": "__main__"}
        exec(source, names)
        with cw.ClusterExecutor(store=path) as executor:
            assert type(executor.submit(names["make"], 4).result()) is names["Local"]
    assert len(cw.results(path)) == 1


def test_without_a_store_nothing_of_it_runs():
    with cw.ClusterExecutor() as executor:
        executor.submit(jobs.square, 2).result()
        session = executor._session
        assert not session.delivery.is_used
        assert session.exchange.result_host is None
    assert "cw-store" not in [thread.name for thread in threading.enumerate()]


def test_a_stored_result_that_cannot_be_read_runs_again_though_later_jobs_were_sent(path, tmp_path, caplog):
    with cw.ClusterExecutor(store=path) as executor:
        executor.submit(jobs.square, 3).result()
        opened = executor._futures.store_client._open
        (key, place) = opened.store.index.popitem()
    opened.store.index[key] = place + (1 << 20)  # where nothing is
    with cw.ClusterExecutor(store=path) as executor:
        with executor._session._loop.lock:  # the session's thread looks at both at once
            stored = executor.submit(jobs.square, 3)
            later = [executor.submit(jobs.until, tmp_path / "go", n) for n in range(3)]
            executor._session.exchange.pump()
        jobs.mark(tmp_path / "go")
        assert stored.result(LIMIT) == 9
        assert [future.result(LIMIT) for future in later] == [0, 1, 2]
    assert "client.result_unreadable" in events(caplog)
    assert "network.protocol_broken" not in events(caplog)
