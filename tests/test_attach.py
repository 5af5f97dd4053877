"""Coming back to a run: futures by call, as they are done; errors as in the run; and what there is to say otherwise."""

import concurrent.futures
import os
import pickle
import shutil
import threading

import pytest
from conftest import events, wait_until
from played_runs import LIMIT, PlayedRun

import cw
from cw.net import messages as m
from cw.output.printer import Piece
from cw.payloads import serialize
from cw.runs import finding
from cw.runs.folder import CANCELLED, ENDED, HANDING_OVER, SCRIPT, STEWARD
from cw.runs.lease import Lease
from cw.runs.names import RunError
from cw.runs.output import OutputWriter
from cw.store.format import Entry
from cw.store.reader import Store


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CW_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("cw.detached.attach.POLL_SECONDS", 0.05)


@pytest.fixture
def path(tmp_path):
    Store(tmp_path / "sweep.cw", is_writing=True)
    return tmp_path / "sweep.cw"


@pytest.fixture
def played(path):
    run = PlayedRun(path)
    for number in range(4):
        run.add(key(number), args=serialize.dump_call_alone((number,), {"scale": 2}))
    yield run
    run.close()


def key(number):
    return number.to_bytes(16, "big")


def done(number, value):
    return Entry(key(number), number, "f", "node7", m.DONE, 5.0, 0.25, b"", pickle.dumps(value), False, ())


def failed(number, error):
    payload = serialize.dump_error(error, {})
    return Entry(
        key(number), number, "f", "node7", m.ERROR, 5.0, 0.25, b"", payload, False, (), {}, (b"out", b"err")
    )


def test_futures_have_calls_and_results_in_the_order_of_submission(path, played):
    played.store(done(2, "two"))
    with cw.attach(path) as run:
        assert (run.name, run.store, run.state) == ("sweep", str(path), STEWARD)
        assert [future.args for future in run.futures] == [(0,), (1,), (2,), (3,)]
        second = run.futures[2]
        assert second.kwargs == {"scale": 2} and second.key == key(2).hex()
        assert (second.function, second.jobid, second.state) == ("f", 3, "done")
        assert second.result() == "two" and second.exception() is None
        assert (second.stored.host, second.stored.seconds) == ("node7", 0.25)
        first = run.futures[0]
        assert first.state == "under way" and not first.cancel() and not first.done()
        with pytest.raises(LookupError, match="has no result: it is under way"):
            first.stored  # noqa: B018
        with pytest.raises(concurrent.futures.TimeoutError):
            first.result(0.01)
        assert run.counts() == (4, 1, 0, 0, 3) and len(run) == 4
        assert repr(run) == "<run sweep with its steward: 1 of 4 done, 0 failed>"
        assert "with its steward" in run._repr_html_()
        played.store(done(0, "zero"))
        assert first.result(LIMIT) == "zero"


def test_results_come_as_they_are_stored_once_each_and_errors_as_in_the_run(path, played):
    played.store(done(3, 30))
    with cw.attach(path) as run:
        found = []
        for future in run.as_completed(LIMIT):
            found.append((future.args[0], future.exception() or future.result()))
            if len(found) == 1:
                played.store(failed(1, KeyError("no such key")))
            elif len(found) == 2:
                played.store(done(0, 10))
                played.store(done(2, 20))
            elif len(found) == 4:
                played.end()
        assert [number for number, _ in found] == [3, 1, 0, 2]
        error = found[1][1]
        assert isinstance(error, KeyError) and error.args == ("no such key",)
        broken = run.futures[1]
        assert broken.state == "failed" and (broken.stdout, broken.stderr) == ("out", "err")
        assert run.is_over and run.wait(0) and run.counts() == (4, 3, 1, 0, 0)
        assert [future.args[0] for future in run.as_completed(0)] == [0, 1, 2, 3]
    assert run.futures[0].result() == 10  # also after the look has ended


def test_a_run_that_has_ended_gives_all_at_once_and_leaves_no_thread(path, played):
    for number in range(4):
        played.store(done(number, number))
    played.end()
    before = threading.active_count()
    run = cw.attach(str(path))
    assert threading.active_count() == before
    assert [future.result(0) for future in run.futures] == [0, 1, 2, 3]


def test_calls_of_a_cancelled_run_are_cancelled_and_say_so(path, played):
    played.store(done(0, 10))
    with cw.attach(path) as run:
        assert not run.wait(0.01)
        waiting = run.futures[1]
        played.end(CANCELLED)
        assert run.wait(LIMIT)
        with pytest.raises(
            concurrent.futures.CancelledError, match="the run sweep was cancelled before this call"
        ):
            waiting.result()
        assert waiting.state == "cancelled" and run.futures[0].result() == 10
        assert run.counts() == (4, 1, 0, 0, 0)


def test_a_call_that_an_ended_run_left_without_result_says_so(path, played):
    played.state = played.state._replace(text="the disk is full")
    played.end()
    with pytest.raises(cw.RunError, match="has ended without a result of this call: the disk is full"):
        cw.attach(path).futures[0].result()


def test_what_jobs_print_from_now_on_is_printed_here(path, played, capfd):
    writer = OutputWriter(played.folder)
    writer.put(Piece(m.STDOUT, b"before\n", "[f #1 n] "))
    with cw.attach(path) as run, cw.attach(path, output="drop"):
        writer.put(Piece(m.STDOUT, b"after\n", "[f #1 n] "))
        writer.put(Piece(m.STDERR, b"trouble\n", "[f #1 n] "))
        played.end()
        assert run.wait(LIMIT)
    assert capfd.readouterr() == ("after\n", "trouble\n")
    writer.close()
    with pytest.raises(ValueError, match="output must be 'print' or 'drop', not 'keep'"):
        cw.attach(path, output="keep")


def test_a_script_that_hands_over_later_is_waited_for(path, tmp_path):
    played = PlayedRun(path, phase=SCRIPT)
    with cw.attach(path) as run:
        assert run.futures == [] and run.state == SCRIPT
        with pytest.raises(cw.RunError, match=rf"still with its script \(pid {os.getppid()} on "):
            run.cancel()
        played.add(key(1), args=b"")
        played.end(HANDING_OVER)
        played.end(STEWARD)
        played.store(done(1, 11))
        played.end()
        (future,) = run.as_completed(LIMIT)
        assert future.result() == 11
        with pytest.raises(LookupError, match="too large to be kept"):
            future.args  # noqa: B018
    played.close()


def test_the_look_goes_on_while_only_futures_are_kept(path, played):
    futures = cw.attach(path).futures
    played.store(done(0, 10))
    finished, _ = concurrent.futures.wait(futures, LIMIT, concurrent.futures.FIRST_COMPLETED)
    assert [future.result() for future in finished] == [10]
    played.end()
    concurrent.futures.wait(futures, LIMIT)


def test_a_run_that_is_forgotten_or_damaged_meanwhile_ends_with_a_sentence(path, played, caplog):
    with cw.attach(path) as run, cw.attach(path) as other:
        with open(played.folder.place("state.json"), "w") as file:
            file.write("{")
        assert run.wait(LIMIT)
        with pytest.raises(cw.RunError, match="state.json is damaged .*forget sweep"):
            run.futures[0].result()
        assert other.wait(LIMIT)
    assert "runs.attached_failed" in events(caplog)
    played.folder.write_state(played.state)
    with cw.attach(path) as run:
        shutil.rmtree(played.folder.path)
        assert run.wait(LIMIT)
        with pytest.raises(cw.RunError, match="is over without a result of this call: it was forgotten"):
            run.futures[0].result()


def test_what_cannot_be_attached_to_says_why(path, tmp_path):
    for what, message in (
        ("sweep", "there is no run 'sweep' in "),
        (path, "has no run: no program has detached from it"),
        (tmp_path / "none.cw", "there is no store .*none.cw"),
        (str(tmp_path), "has no run"),
    ):
        with pytest.raises(cw.RunError, match=message):
            cw.attach(what)
    with pytest.raises(TypeError, match="not by 7"):
        cw.attach(7)
    played = PlayedRun(path, phase=SCRIPT)
    played.folder.write_state(played.state._replace(start="another process"))
    with pytest.raises(cw.RunError, match="script of the run sweep has ended without handing it over"):
        cw.attach(path)
    with open(played.folder.place("run.json"), "w") as file:
        file.write("[]")
    with pytest.raises(cw.RunError, match="run.json is damaged"):
        cw.attach(path)
    played.close()


def test_a_store_leads_to_the_run_that_goes_on_and_otherwise_to_the_last(path):
    runs = [PlayedRun(path, name, phase=ENDED) for name in ("one", "two", "three")]
    for number, each in enumerate(runs):
        os.utime(each.folder.place("run.json"), (1000 + number, 1000 + number))
    assert finding.find(path).name == "three"
    runs[1].state = runs[1].state._replace(calls=7)
    runs[1].end()
    assert finding.find(path).name == "two"  # the others had nothing to do
    runs[0].end(STEWARD)
    assert finding.find(path).name == "one"
    assert finding.find(runs[1].folder.path).name == "two"
    runs[2].end(SCRIPT)
    assert finding.find(path).name == "one"  # the other has not been handed over
    runs[1].end(STEWARD)
    with pytest.raises(RunError, match="several runs that go on: one, two. Give the name of one"):
        finding.find(path)
    for each in runs:
        each.close()


def test_a_run_is_cancelled_by_its_steward_or_if_there_is_none_at_once(path, played):
    steward = Lease(played.folder)
    assert steward.acquire()
    with cw.attach(path) as run:
        run.cancel()
        assert played.folder.requests() == {"cancel"} and run.state == STEWARD
        steward.release()
        run.cancel()
        assert run.wait(LIMIT) and run.state == CANCELLED and run.text == "cancelled while it had no steward"
        assert played.folder.requests() == set()
        with pytest.raises(cw.RunError, match="is not under way: it was cancelled"):
            run.cancel()


def test_only_what_is_over_is_forgotten(path, played):
    with pytest.raises(RunError, match="goes on: `.*cancel sweep` ends it"):
        finding.forget(played.folder)
    played.end()
    finding.forget(played.folder)
    assert not os.path.exists(played.folder.path) and os.path.isdir(path)
    wait_until(lambda: finding.names.folders() == {})
