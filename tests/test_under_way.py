"""Calls that are under way in a run which goes on without this program: found, waited for, and never run beside it."""

import os
import random

import jobs
import pytest
from conftest import events, wait_until
from played_runs import LIMIT, PlayedRun, as_entry, entry, key

import cw
from cw.runs.folder import CANCELLED, ENDED, SCRIPT, STEWARD
from cw.runs.under_way import UnderWay
from cw.store.reader import Store


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("cw.runs.under_way.POLL_SECONDS", 0.05)


@pytest.fixture
def path(tmp_path):
    Store(tmp_path / "s.cw", is_writing=True)
    return tmp_path / "s.cw"


@pytest.fixture
def begin(path):
    made = []

    def begin(*arguments, **settings):
        made.append(PlayedRun(path, *arguments, **settings))
        return made[-1]

    yield begin
    for run in made:
        run.close()


def under_way(path, started=None):
    store = Store(path, is_writing=False)
    found = UnderWay(store, store.refresh, started.append if started is not None else (lambda folder: None))
    return found if found.find_runs() else None


def test_a_store_without_runs_has_nothing_under_way(path, begin):
    assert under_way(path) is None
    begin(phase=ENDED)
    begin("other", phase=CANCELLED)
    assert under_way(path) is None


def test_a_result_of_the_run_ends_the_wait_for_it(path, begin):
    run = begin()
    run.add(key(1), key(2))
    found, places = under_way(path), []
    assert found.has(key(1)) and not found.has(key(3))
    found.follow(key(1), places.append)
    found.look()
    assert places == []
    run.store(entry(key(1)))
    wait_until(lambda: places)  # its thread looks, too
    assert Store(path, is_writing=False).read(places[0]).key == key(1)
    assert not found.has(key(1)) and found.has(key(2))
    found.close()


def test_an_error_that_the_run_tries_again_is_no_result_of_it(path, begin):
    run = begin()
    run.store(entry(key(1), status=1, when=7.25))
    run.add(key(1), former=7.25)
    found, places = under_way(path), []
    assert found.has(key(1))
    found.follow(key(1), places.append)
    found.look()
    assert places == []
    run.store(entry(key(1), status=1, when=8.5))
    wait_until(lambda: places)
    assert places[0] & 1 and not found.has(key(1))
    found.close()


def test_what_a_run_leaves_undone_is_given_back_and_what_it_stored_last_is_found(path, begin):
    run = begin()
    run.add(key(1), key(2))
    found, places = under_way(path), {}
    for number in (1, 2):
        found.follow(key(number), lambda place, number=number: places.__setitem__(number, place))
    run.store(entry(key(2)))
    run.end(CANCELLED)
    wait_until(lambda: len(places) == 2)
    assert places[1] == -1 and places[2] >= 0 and not found.has(key(1))
    found.close()


def test_calls_that_the_run_lists_later_are_found_later(path, begin):
    run = begin()
    found = under_way(path)
    run.add(key(5))
    wait_until(lambda: found.has(key(5)))


def test_what_a_script_has_not_handed_over_yet_is_not_under_way(path, begin):
    run = begin(phase=SCRIPT)
    run.add(key(1))  # it may still write its list anew
    found = under_way(path)
    assert not found.has(key(1))
    run.end(STEWARD)
    wait_until(lambda: found.has(key(1)))


def test_a_run_whose_script_has_died_has_nothing_under_way(path, begin):
    run = begin(phase=SCRIPT)
    run.folder.write_state(run.state._replace(pid=2**22 + 1))
    assert under_way(path) is None


def test_a_run_of_this_very_program_is_none_of_the_others(path, begin):
    run = begin(phase=STEWARD)
    run.add(key(1))
    run.folder.write_state(run.state._replace(pid=os.getpid()))
    assert under_way(path) is None


def test_a_steward_that_has_died_is_started_again(path, begin, monkeypatch):
    monkeypatch.setattr("cw.runs.onlooker.CHECK_SECONDS", 0.0)
    run = begin(phase=STEWARD)  # nobody has its lease
    run.add(key(1))
    started = []
    found = under_way(path, started)
    for _ in range(4):
        found.look()
    assert [folder.path for folder in started] == [run.folder.path]  # and not at each look


def test_a_damaged_run_is_passed_over(path, begin, caplog):
    run = begin()
    run.add(key(1))
    with open(run.folder.place("state.json"), "w") as file:
        file.write("{")
    assert under_way(path) is None
    assert events(caplog) == ["runs.passed_over"]


def test_whatever_happens_each_call_is_given_back_once(path, begin):
    """Runs list calls, store results and end, in any order; calls are followed at any time."""
    for seed in range(3):
        chance = random.Random(seed)
        runs = [begin(f"run-{seed}-{number}") for number in range(3)]
        found, ends, listed, stored = under_way(path), {}, {}, set()
        for step in range(60):
            number, run = 1000 * seed + step, chance.choice(runs)
            what = chance.random()
            if what < 0.5 and not run.state.is_over:
                run.add(key(number))
                listed[key(number)] = run
            elif what < 0.7 and listed:
                each = chance.choice(list(listed))
                if each not in stored and not listed[each].state.is_over:
                    stored.add(each)
                    listed[each].store(entry(each))
            elif what < 0.75:
                run.end(chance.choice([ENDED, CANCELLED]))
            for each in set(listed) - set(ends):
                if chance.random() < 0.3 and found.has(each):
                    ends[each] = []
                    found.follow(each, ends[each].append)
            if chance.random() < 0.3:
                found.look()
        for run in runs:
            if not run.state.is_over:
                run.end()
        found.look()
        found.close()
        assert ends
        for each, places in ends.items():
            assert len(places) == 1, seed
            assert (places[0] >= 0) == (each in stored), seed


# --- a client ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture
def results(cluster, tmp_path, monkeypatch):
    """The results of some calls, as another program would store them. Each client is a run, as in a notebook."""
    monkeypatch.setattr("cw.client.store_client._is_interactive", lambda: True)
    with cw.ClusterExecutor(store=tmp_path / "other.cw") as executor:
        futures = [executor.submit(jobs.square, number) for number in range(4)]
        futures.append(executor.submit(jobs.square, futures[3]))
        [future.result(LIMIT) for future in futures]
    store = Store(tmp_path / "other.cw", is_writing=False)
    found = {each.number: each for each in map(store.read, store.places())}
    return [found[number] for number in range(1, 6)]


def test_a_call_under_way_is_not_run_and_its_future_has_the_result_of_the_run(path, begin, results):
    run = begin()
    run.add(*[each.key for each in results[:4]])
    run.store(as_entry(results[0]))
    with cw.ClusterExecutor(store=path) as executor:
        futures = [executor.submit(jobs.square, number) for number in range(4)]
        assert futures[0].result(LIMIT) == 0 and futures[0].is_stored
        mapped = executor.map(jobs.square, [7], chunksize=5)
        assert list(mapped) == [49]  # the others go on
        assert not any(future.done() for future in futures[1:])
        assert executor._session.jobs.outstanding == 3
        run.store(as_entry(results[1]))
        assert futures[1].result(LIMIT) == 1 and not futures[1].is_stored
        assert futures[2].cancel()  # here; the run goes on
        run.store(as_entry(results[2]))
        run.store(as_entry(results[3]))
        assert futures[3].result(LIMIT) == 9
    own = [each for each in cw.results(path) if each.args == (7,)]
    assert len(own) == 1 and len(cw.results(path)) == 5


def test_calls_of_a_run_that_is_cancelled_run_here(path, begin, results, caplog):
    run = begin()
    run.add(*[each.key for each in results])
    caplog.set_level("INFO", "cw.client")
    with cw.ClusterExecutor(store=path) as executor:
        mapped = executor.map(jobs.square, range(4), chunksize=2)
        with cw.ClusterExecutor(
            store=path
        ) as other:  # a call that depends on one under way is recognised, too
            first = other.submit(jobs.square, 3)
            second = other.submit(jobs.square, first)
            assert other.submit(jobs.square, 5).result(LIMIT) == 25
            run.end(CANCELLED)
            assert second.result(LIMIT) == 81 and first.result(LIMIT) == 9
        assert list(mapped) == [0, 1, 4, 9]
    assert events(caplog).count("client.run_ended_without") == 6
    assert "under way in the run sweep" in caplog.text and "runs.followed" in events(caplog)
