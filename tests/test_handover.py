"""A run that cannot be handed over stays with its script, which goes on as before; and what is refused at once."""

import concurrent.futures
import os
import threading

import pytest

import cw
from cw.client.session.handover import Handover
from cw.runs import handing_over
from cw.runs.calls import CallRecord, CallsReader
from cw.runs.folder import SCRIPT, Description, RunFolder
from cw.runs.handing_over import hand_over


def mark(path, n):
    with open(f"{path}/{n}", "a") as file:
        file.write("x")
    if n == 3:
        raise ValueError("three")
    return n * n


def hold(path):
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.01)


def add(a, b):
    return a + b


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "sweep.cw" / "runs" / "sweep")
    folder.create(Description("sweep", str(tmp_path / "sweep.cw")))
    return folder


@pytest.fixture(scope="module")
def shared_cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture
def executor(shared_cluster, tmp_path):
    executor = cw.ClusterExecutor(store=tmp_path / "sweep.cw")
    yield executor
    executor.terminate_workers()  # what a test that fails has left


def marks(path, count):
    return {n: (path / str(n)).read_text() for n in range(count)}


def nobody(folder):
    """Start no steward."""


def test_a_script_whose_steward_does_not_come_goes_on(executor, folder, tmp_path):
    calls = [executor.submit(mark, str(tmp_path), n) for n in range(20)]
    with pytest.raises(cw.DetachError, match=r"did not answer within 0\.3 s; its log is .*steward\.log"):
        hand_over(Handover(executor._session), folder, nobody, seconds=0.3)
    assert folder.state().phase == SCRIPT
    assert [n * n if n != 3 else None for n in range(20)] == [
        call.result() if n != 3 else None for n, call in enumerate(calls)
    ]
    assert str(calls[3].exception()) == "three"
    assert executor.submit(mark, str(tmp_path), 20).result() == 400
    assert set(marks(tmp_path, 21).values()) == {"x"}


def test_calls_that_are_only_on_disk_run_too_if_the_script_keeps_them(
    executor, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(handing_over, "IN_MEMORY", 5)
    gate = tmp_path / "gate"
    held = [executor.submit(hold, str(gate)) for _ in range(2)]
    most, kept = [], []

    def submit():
        for n in range(30, 60):
            future = executor.submit(mark, str(tmp_path), n)
            if n % 2:  # the script keeps every other one
                kept.append(future)
            most.append(len(executor._session.jobs.all()))
            yield n

    def start(folder):
        found = list(CallsReader(folder).read())
        calls = [(record.number, record.entries[0].name) for record in found if type(record) is CallRecord]
        assert calls == [(n, "hold" if n < 3 else "mark") for n in range(1, 33)], calls
        raise OSError(28, "No space left on device")

    with pytest.raises(cw.DetachError, match="cannot be handed over: .*No space left"):
        hand_over(Handover(executor._session), folder, start, submit())
    assert max(most) == 6  # the others were on disk
    gate.touch()
    assert [call.result(60) for call in kept] == [n * n for n in range(31, 60, 2)]
    executor.shutdown()
    assert all(call.done() for call in held)
    results = cw.results(tmp_path / "sweep.cw")
    assert {result.args[1] for result in results if result.function == "mark"} >= set(range(30, 60))
    assert {(tmp_path / str(n)).read_text() for n in range(30, 60)} == {"x"}


def test_on_a_full_disk_no_call_is_lost(executor, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(handing_over, "IN_MEMORY", 5)
    monkeypatch.setattr("cw.runs.calls.WRITTEN_AT_ONCE", 2000)
    gate = tmp_path / "gate"
    executor.submit(hold, str(gate)), executor.submit(hold, f"{tmp_path}/./gate")

    class FullDisk:
        """`os`, with a disk that takes a part of the calls."""

        is_full = False

        def __getattr__(self, name):
            return getattr(os, name)

        def write(self, descriptor, data):
            if self.is_full:
                raise OSError(28, "No space left on device")
            self.is_full = len(submitted) > 20
            return os.write(descriptor, data[: len(data) // 2] if self.is_full else data)

    submitted = []
    monkeypatch.setattr("cw.runs.calls.os", FullDisk())

    def submit():
        for n in range(30, 90):
            submitted.append(n)
            executor.submit(mark, str(tmp_path), n)
            yield n

    with pytest.raises(
        cw.DetachError, match=r"calls of the run cannot be written to .*: No space left on device"
    ):
        hand_over(Handover(executor._session), folder, pytest.fail, submit())
    assert 10 < len(submitted) < 60
    gate.touch()
    executor.shutdown()
    assert {(tmp_path / str(n)).read_text() for n in submitted} == {"x"}


def test_an_error_of_the_input_is_raised_and_the_script_goes_on(executor, folder, tmp_path):
    def submit():
        futures.append(executor.submit(mark, str(tmp_path), 1))
        yield
        raise OSError("the input is torn")

    futures = []

    with pytest.raises(OSError, match="the input is torn"):
        hand_over(Handover(executor._session), folder, pytest.fail, submit())
    assert executor.submit(mark, str(tmp_path), 2).result() == 4
    assert futures[0].result() == 1
    assert marks(tmp_path, 0) == {} and (tmp_path / "1").read_text() == "x"


def test_a_steward_that_says_why_it_cannot_is_quoted(executor, folder, tmp_path):
    call = executor.submit(mark, str(tmp_path), 1)
    with pytest.raises(cw.DetachError, match="cannot be handed over: no cw master answers"):
        hand_over(
            Handover(executor._session),
            folder,
            lambda folder: handing_over.fail(folder, "no cw master answers"),
        )
    assert call.result() == 1


def test_calls_without_a_store_are_refused_before_anything_happens(shared_cluster, folder):
    with cw.ClusterExecutor() as executor:
        call = executor.submit(add, 1, 2)
        gate = executor.submit(hold, str(folder.place("gate")))
        with pytest.raises(cw.DetachError, match=r"its result is not stored: give the executor a store="):
            hand_over(Handover(executor._session), folder, pytest.fail)
        open(folder.place("gate"), "w").close()
        assert call.result() == 3 and gate.result() is None


def test_a_call_that_waits_for_one_without_a_store_is_refused(executor, shared_cluster, folder):
    with cw.ClusterExecutor() as other:
        waits = executor.submit(add, other.submit(hold, str(folder.place("gate"))), None)
        with pytest.raises(cw.DetachError, match="it waits for one whose result is not stored"):
            hand_over(Handover(executor._session), folder, pytest.fail)
        open(folder.place("gate"), "w").close()
        assert isinstance(waits.exception(), TypeError)


def test_a_steward_that_comes_too_late_gives_the_session_back(executor, folder, tmp_path, shared_cluster):
    gate = tmp_path / "gate"
    held = executor.submit(hold, str(gate))
    calls = [executor.submit(mark, str(tmp_path), n) for n in range(20)]
    with pytest.raises(cw.DetachError, match="did not answer"):
        hand_over(Handover(executor._session), folder, nobody, seconds=0.1)
    assert not concurrent.futures.wait(calls, 60).not_done
    with cw.ClusterExecutor() as other:  # which has none of the calls: what runs is stopped, and runs again
        assert take_over(executor, other)
        other._session.exchange.call_soon(other._session.exchange.link.leave_silently)
        assert executor.submit(mark, str(tmp_path), 20).result() == 400
        gate.touch()
        assert held.result() is None
        other._session.exchange.call_soon(other._session.exchange.stop)
    assert set(marks(tmp_path, 21).values()) == {"x"}


def take_over(executor, other):
    """Take the session of one executor over by another, as a steward does. True: the other has heard that."""
    thief, is_lost = other._session.exchange, threading.Event()
    link = executor._session.exchange.link
    lose = link._lose
    link._lose = lambda loss: (is_lost.set(), lose(loss))
    fail = executor._session.on_failure
    executor._session.on_failure = lambda error: (is_lost.set(), fail(error))

    def connect():
        thief.identity = executor._session.exchange.identity
        thief.hello = lambda hello=thief.hello: hello()._replace(pid=1)
        thief.link.connect_anew("for a test")

    thief.call_soon(connect)
    return is_lost.wait(10)


def test_a_process_whose_session_is_taken_over_ends_and_says_so(executor, folder, tmp_path, shared_cluster):
    call = executor.submit(hold, str(folder.place("gate")))
    executor.submit(add, 1, 2).result()
    with cw.ClusterExecutor() as other:  # as a steward would, without having been asked
        assert take_over(executor, other)
        with pytest.raises(cw.ConnectionError, match="the session was taken over by the process"):
            call.result()
        with pytest.raises(cw.ConnectionError, match="taken over"):
            executor.submit(add, 1, 2)
        open(folder.place("gate"), "w").close()
