"""The calls of a detached run come from the disk as they can be sent, each once, and it is noted before they are."""

import pytest

import cw
from cw.client.options import ClientSettings
from cw.client.session.session import Session
from cw.detached import backlog
from cw.detached.backlog import Backlog
from cw.detached.recorder import Recorder
from cw.net import messages as m
from cw.payloads import dependent, serialize
from cw.runs import handing_over
from cw.runs.calls import Awaited, CallEntry, CallRecord, CallsWriter, ObjectRecord
from cw.runs.folder import Description, RunFolder
from cw.runs.handing_over import Progress
from cw.store.directory import identify

COUNT = 300


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(backlog, "LOADED", 100)
    monkeypatch.setattr(backlog, "RESERVED", 40)
    identify(str(tmp_path / "sweep.cw"), is_writing=True)
    folder = RunFolder(tmp_path / "sweep.cw" / "runs" / "sweep")
    folder.create(Description("sweep", str(tmp_path / "sweep.cw")))
    writer = CallsWriter(folder)
    writer.put_object(ObjectRecord(3, m.ENVIRONMENT, (), b"here"))
    writer.put_object(ObjectRecord(5, m.FUNCTION, (3,), b"code", "simulate"))
    for number in range(1, COUNT + 1):
        writer.put_call(CallRecord(number, 5, 0, b"arguments", (CallEntry(key(number), "simulate", b"x"),)))
    writer.finish()
    writer.close()
    return folder


def key(number):
    return b"%016d" % number


class Steward:
    """A session and its backlog, without a master."""

    def __init__(self, folder, progress=None):
        self.folder, self.recorder = folder, Recorder(folder.description().store, "")
        self.session = Session(ClientSettings("127.0.0.1", 1), lambda *args: None, lambda *args: None)
        self.backlog = Backlog(self.session, folder, self.recorder, False, 1000)
        self.backlog.load_sent(progress or Progress(highest_sent=60, last_number=COUNT, objects=5))
        self.backlog.begin()

    def numbers(self):
        return [job.number for job in self.session.jobs.all()]

    def end(self, number, error=None):
        """Let a job end, as the exchange does."""
        job = self.session.jobs.take(number)
        status = m.DONE if error is None else m.ERROR
        payload = serialize.dump_result(number) if error is None else serialize.dump_error(error, {})
        self.recorder.put(list(job.call.entries(number, status, 1.0, "node7", payload)), lambda error: None)
        self.recorder.flush()
        self.session.jobs.on_delivered(job, error is not None)
        self.backlog.on_ended(job.call)

    def close(self):
        self.recorder.close()
        self.session.close(is_waiting=False)


@pytest.fixture
def make(folder):
    made = []

    def make_one(progress=None):
        made.append(Steward(folder, progress))
        return made[-1]

    yield make_one
    for each in made:
        each.close()


def test_only_what_may_have_been_sent_is_there_at_first(make):
    steward = make()
    assert steward.numbers() == list(range(1, 61)) and steward.session.jobs.highest_sent == 60
    assert steward.session.calls.objects.get(5).needs[0].payload == b"here"
    assert steward.session.calls.objects.names == {5: "simulate"}
    assert not steward.backlog.is_over
    steward.session.jobs.check_invariants()


def test_others_come_as_there_is_room_and_are_noted_before(make, folder):
    steward = make()
    while steward.backlog.feed():
        assert handing_over.read_progress(folder).highest_sent == steward.numbers()[-1]
        steward.session.jobs.check_invariants()
    assert steward.numbers() == list(range(1, 141))  # one part more than there was room for
    for number in range(1, 51):
        steward.end(number)
    while steward.backlog.feed():
        pass
    assert steward.numbers() == list(range(51, 181))


def test_each_call_comes_once_and_is_counted(make):
    steward = make()
    while not steward.backlog.is_over:
        steward.backlog.feed()
        for number in steward.numbers()[:30]:
            steward.end(number, ValueError("no") if number % 50 == 0 else None)
    backlog = steward.backlog
    assert (backlog.calls, backlog.done, backlog.failed) == (COUNT, COUNT - 6, 6)
    assert steward.session.jobs.outstanding == 0


def test_the_next_steward_resubmits_what_may_have_been_sent_and_is_not_stored(make, folder):
    first = make()
    first.backlog.feed()
    for number in (3, 50, 70):
        first.end(number, ValueError("no") if number == 50 else None)
    second = make(handing_over.read_progress(folder))
    assert second.numbers() == [n for n in range(1, 101) if n not in (3, 50, 70)]
    assert (second.backlog.calls, second.backlog.done, second.backlog.failed) == (100, 2, 1)
    assert second.session.jobs.outstanding == 97


def test_what_another_has_stored_meanwhile_is_dropped(make, folder):
    first, second = make(), make()
    first.end(7)
    assert 7 in second.numbers()
    second.backlog.begin()
    assert 7 not in second.numbers() and second.backlog.done == 1
    second.session.jobs.check_invariants()


def test_an_error_that_was_there_before_the_run_is_tried_again(make, folder):
    steward = make()
    steward.end(7, ValueError("before"))
    (when,) = [steward.recorder._store.head(place).when for place in steward.recorder._store.index.values()]
    entry = CallEntry(key(7), "simulate", b"x")
    assert steward.recorder.has([entry])
    assert not steward.recorder.has([entry._replace(former=when)])


def test_a_call_that_waits_gets_results_from_the_store(make, folder):
    steward = make()
    waits_for = Awaited(key(1)), Awaited(b"", serialize.dump_result(5)), Awaited(key(2))
    record = CallRecord(400, 5, 0, b"call", (CallEntry(b"w" * 16, "add", b"x"),), waits_for=waits_for)
    steward.backlog._add(record)
    steward.end(1)
    assert steward.session.jobs.get(400) is None
    steward.end(2)
    results, call = dependent.opened(steward.session.jobs.get(400).payload, pytest.fail)
    assert [result() for result in results] == [1, 5, 2] and call == b"call"


def test_a_call_that_waits_for_one_that_fails_is_recorded_as_not_called(make, folder):
    steward = make()
    record = CallRecord(400, 5, 0, b"", (CallEntry(b"w" * 16, "add", b"x"),), waits_for=(Awaited(key(1)),))
    steward.backlog._add(record)
    steward.session.exchange.call_soon = lambda function: function()
    steward.end(1, KeyError("one"))
    steward.recorder.flush()
    assert steward.backlog.failed == 2
    (result,) = [each for each in cw.results(folder.description().store) if each.function == "add"]
    assert isinstance(result.error, cw.DependencyFailed) and "add() was not called" in str(result.error)
