"""What a job came to: from a status and a payload to a value or an error."""

import gc
import json
from types import SimpleNamespace

import cw
from cw.client.recorded_calls import Call
from cw.client.session import outcome
from cw.client.session.job import ClientJob, NamedTag
from cw.client.session.outcome import Entries, Outcomes
from cw.net import messages as m
from cw.output.sink import Kept
from cw.payloads import deferred, serialize
from cw.payloads.deferred import Deferred
from cw.store.format import Entry

NAMED = ClientJob(7, 1, 0, b"", NamedTag(42, "options"))


def test_a_result_is_its_value():
    assert outcome.load(NAMED, m.DONE, serialize.dump_result([1, 2])) == (None, [1, 2])


def test_what_does_not_unpickle_is_an_error_that_names_the_job():
    error, value = outcome.load(NAMED, m.DONE, b"\x80\x05no pickle")
    assert type(error) is cw.RemoteException and "the result of job 42 cannot be unpickled here" in str(error)
    assert value is None and error.__cause__ is not None


def test_a_result_that_comes_while_a_module_is_imported_is_unpickled_later(monkeypatch):
    monkeypatch.setattr(deferred, "module_locks", {"numpy": lambda: SimpleNamespace(owner=1)})
    error, value = outcome.load(NAMED, m.DONE, serialize.dump_result(SimpleNamespace(a=1)))
    assert error is None and type(value) is Deferred and value.load().a == 1


def test_an_error_has_its_own_type_and_names_the_job():
    error, value = outcome.load(NAMED, m.ERROR, serialize.dump_error(KeyError("x"), {"host": "node7"}))
    assert type(error) is KeyError and error.args == ("x",) and value is None
    assert "job 42 (host node7)" in str(error.__cause__)


def test_a_call_that_no_worker_could_enter_says_so():
    error, _ = outcome.load(NAMED, m.NOT_ENTERED, serialize.dump_error(ImportError("no torch"), {}))
    assert type(error) is ImportError and "job 42, whose call no worker could enter" in str(error.__cause__)


def test_a_job_that_took_too_long_says_its_limit_and_where_it_was():
    note = json.dumps({"host": "node7", "pid": 3, "attempt": 1, "limit": 1.5, "seconds": 1.6}).encode()
    error, _ = outcome.load(NAMED, m.TIMEOUT, note)
    assert type(error) is cw.JobTimeout
    assert "job 42 ran longer than its limit of 1.5 s and was stopped (host node7, pid 3, attempt 1)" in str(
        error
    )
    error, _ = outcome.load(NAMED, m.TIMEOUT, b"?")
    assert "job 42 ran longer than its limit and was stopped" in str(error)


def test_a_job_that_used_too_much_memory_says_its_limit_and_its_peak():
    note = {"host": "node7", "pid": 3, "attempt": 1, "memory": 10**8, "peak": 312 * 10**6, "seconds": 1.6}
    error, _ = outcome.load(NAMED, m.TIMEOUT, json.dumps(note).encode())
    assert type(error) is cw.MemoryExceeded and (error.limit, error.peak) == (10**8, 312 * 10**6)
    assert "job 42 used 312MB of memory, more than the 100MB that its options name" in str(error)
    assert "(host node7, pid 3, attempt 1)" in str(error)
    stored = Outcomes()
    stored.add(NAMED, m.TIMEOUT, 1.6, b"?", error, None)
    again = serialize.load_error(stored.payloads[0], "")
    assert type(again) is cw.MemoryExceeded and again.peak == error.peak


def test_what_ran_into_its_time_limit_is_stored_as_an_error():
    found = Outcomes()
    found.add(NAMED, m.TIMEOUT, 2.0, b"?", cw.JobTimeout("too long"), None)
    found.add(NAMED, m.DONE, 2.0, b"payload", None, 3)
    assert found.statuses == [m.ERROR, m.DONE] and found.values == [None, 3] and found.jobs == [NAMED, NAMED]
    assert (
        type(serialize.load_error(found.payloads[0], "")) is cw.JobTimeout and found.payloads[1] == b"payload"
    )


def recorded(number, store, name="f"):
    return ClientJob(number, 1, 0, b"", None, Call(store, bytes([number]) * 16, name, ((), {}), b"args"))


def test_outcomes_are_grouped_by_the_store_that_takes_them():
    first, second = object(), object()
    outcomes = Outcomes()
    for number in range(4):
        outcomes.add(recorded(number, first), m.DONE, 0.0, b"", None, number)
    ((store, group),) = outcomes.by_store()
    assert store is first and group is outcomes
    outcomes.add(recorded(4, second), m.ERROR, 0.5, b"pickle", KeyError("x"), None)
    groups = dict(outcomes.by_store())
    assert groups[first].values == [0, 1, 2, 3] and groups[second].seconds == [0.5]
    assert [type(error) for error in groups[second].errors] == [KeyError]


def test_entries_of_plain_results_are_made_when_they_are_written_and_others_at_once():
    made = []

    def entry(call, *fields):
        made.append(call.name)
        return Entry(
            call.key, fields[0], call.name, "node7", m.DONE, 0.0, 0.0, call.args, b"alone", False, ()
        )

    store = SimpleNamespace(entry=entry, is_durable=True)
    outcomes, plain, named = Outcomes(), serialize.dump_result(7), b"\x80\x05\x8c\x08__main__"
    outcomes.add(recorded(1, store, "f"), m.DONE, 0.25, plain, None, 7, Kept(b"out", b"err"))
    outcomes.add(recorded(2, store, "g"), m.DONE, 0.25, named, None, None)
    outcomes.add(recorded(3, store, "h"), m.DONE, 0.25, memoryview(plain), None, 7, Kept(b"", b"err"))
    entries = Entries(outcomes, "node7")
    assert made == ["g", "h"] and entries.size == 2 * len(plain) + len(named)
    first, second, third = entries
    assert first[:5] == (bytes([1]) * 16, 1, "f", "node7", m.DONE) and first[6:] == (
        0.25, b"args", plain, True, (), {}, (b"out", b"err")
    )  # fmt: skip
    assert second.payload == third.payload == b"alone" and third.output == (b"", b"err")
    again = list(entries)
    assert made == ["g", "h"] and again[1] is second and again[0] is not first


def test_results_that_wait_for_their_store_give_the_collector_of_garbage_nothing_to_walk():
    jobs = [recorded(number % 250, object()) for number in range(1000)]
    payloads = [serialize.dump_result(number) for number in range(1000)]
    gc.collect()
    before = len(gc.get_objects())
    outcomes = Outcomes()
    for job, payload in zip(jobs, payloads, strict=True):
        outcomes.add(job, m.DONE, 0.0, payload, None, 5)
    entries = Entries(outcomes, "node7")
    assert len(gc.get_objects()) - before < 100 and entries.size == sum(map(len, payloads))


def test_a_job_that_was_given_up_is_lost_with_its_notes():
    message = m.Lost(7, "it was lost 3 times", [{"host": "node7", "how": "killed by SIGKILL", "seconds": 1}])
    error = outcome.error_of_lost(NAMED, message)
    assert type(error) is cw.WorkerLost and error.attempts == message.notes
    assert str(error).startswith("job 42 was given up: it was lost 3 times")


def test_each_job_gets_an_error_of_its_own():
    error = cw.ConnectionError("gone")
    copy = outcome.copy_of(error)
    assert copy is not error and type(copy) is cw.ConnectionError and copy.args == error.args
