"""What a faulty peer may not say. No socket."""

import json
import logging
import math

import pytest
from conftest import events

from cw.errors import ProtocolError
from cw.master import checks
from cw.master.checks import ClientRules, ObserverRules, WorkerRules
from cw.master.policy.jobs import Job
from cw.net import messages as m
from cw.net import schema
from cw.net.objects import SessionObjects

IDENT = "0123456789abcdef" * 2


def hello(role="client", **changes):
    values = dict.fromkeys(m.Hello._fields, 0) | {
        "role": role, "ident": IDENT, "secret": IDENT * (role == "client"), "protocol": m.PROTOCOL,
        "python": [3, 11], "version": "9.9", "host": "node7", "pid": 7, "program": "sim.py",
        "capacity": {"slots": 1} if role == "worker" else {},
    }  # fmt: skip
    return m.Hello(**values | changes)


# --- Hello ------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["client", "worker", "observer"])
def test_a_sound_hello_is_welcome(role):
    assert checks.reason_to_refuse(hello(role)) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": 999}, {"protocol": -1}, {"role": "master"}, {"role": ""}, {"ident": ""}, {"ident": "x" * 32},
        {"ident": "0" * 31}, {"ident": "0" * 64}, {"ident": "\ud800" * 32}, {"ident": "A" * 32}, {"secret": ""},
        {"secret": "\ud800" * 32}, {"python": []}, {"python": [3]}, {"python": [3, 11, 0]}, {"python": ["3", "11"]},
        {"python": [3, 10**9]}, {"python": [-3, 11]}, {"python": [True, False]}, {"python": [3, None]},
        {"host": "a\nb"}, {"host": "\ud800"}, {"host": "x" * 2000},
        {"version": "\x1b[2J"}, {"program": "a\nb"},
        {"role": "worker", "capacity": {"slots": 0}}, {"role": "worker", "capacity": {"slots": -1}},
        {"role": "worker", "capacity": {"slots": 10**9}}, {"role": "worker", "capacity": {}},
        {"role": "worker", "capacity": {"slots": 1, "\ud800": 2}}, {"role": "worker", "capacity": 2},
    ],
)  # fmt: skip
def test_any_other_is_refused_with_a_sentence(changes):
    reason = checks.reason_to_refuse(hello(**changes))
    assert reason and reason.isprintable()


def test_who_speaks_another_protocol_reads_that_whatever_it_offers_in_its_way():
    assert "(protocol 2)" in checks.reason_to_refuse(hello("worker", protocol=2, capacity=4))


# --- clients ----------------------------------------------------------------------------------


class Client:
    """The rules of a client that has been welcomed, and the books they look into."""

    def __init__(self, window_bytes=1000):
        self.open = {}
        self.window_bytes = window_bytes
        self.connect()

    def connect(self, resubmitted_up_to=0):
        self.objects = SessionObjects()
        self.rules = ClientRules(lambda: self.open, self.objects, self.window_bytes, resubmitted_up_to)
        self.rules.window_jobs = 10
        self.send(100, b"here", m.ENVIRONMENT)
        self.send(1)

    def send(self, number, payload=b"f", kind=m.FUNCTION, needs=None):
        needs = (100,) * (kind == m.FUNCTION) if needs is None else needs
        self.say(m.Objects([0], [number], [kind], [needs], [payload]))

    def say(self, message):
        self.rules.check(message)
        if type(message) is m.Objects:
            for entry in zip(*message[1:], strict=True):
                self.objects.add(*entry)
        elif type(message) is m.Forget:
            self.objects.forget(message.numbers)
        elif type(message) is m.Submit:
            self.open.update(
                {
                    n: Job(n, self.objects.by_number[1], None, p)
                    for n, p in zip(message.numbers, message.payloads, strict=True)
                }
            )

    def submit(self, *numbers, function=1, options=0, size=1):
        count = len(numbers)
        self.say(m.Submit(list(numbers), [function] * count, [options] * count, [bytes(size)] * count))


@pytest.fixture
def client():
    return Client()


def test_a_sound_client_may_work(client):
    client.send(9, b'{"attempts":5,"timeout":1.5,"min_time":60}', m.OPTIONS)
    client.submit(1, 2, 3)
    client.submit(4, options=9)
    client.open.clear()
    client.submit(5, 6, 7, 8, 9, 10, 11)
    client.say(m.Forget([0], [1]))
    client.send(1, b"g")
    client.say(m.Cancel([5, 99]))
    client.say(m.Goodbye("it has finished", True))


def test_only_jobs_that_are_not_open_are_submitted_apart(client):
    client.say(m.ResubmitEnd())
    client.submit(1, 2, 3)
    again = m.SubmitApart([2], [1], [0], [1], [b"x"])
    with pytest.raises(ProtocolError, match="that are open"):
        client.say(again)
    del client.open[2]
    client.say(again)
    with pytest.raises(ProtocolError, match="submitted twice"):
        client.say(m.SubmitApart([2, 2], [1] * 2, [0] * 2, [1] * 2, [b""] * 2))
    client.say(again._replace(numbers=[9]))
    client.open[9] = client.open[1]
    client.submit(4, 5)
    with pytest.raises(ProtocolError, match="that are open"):
        client.submit(8, 9)
    with pytest.raises(ProtocolError, match="function that was not sent"):
        client.say(again._replace(functions=[7]))


def test_a_client_that_is_back_resubmits_open_jobs_apart_too_until_it_says_that_it_has(client):
    client.submit(1)
    client.say(m.SubmitApart([7], [1], [0], [0], [b"x"]))
    client.open[7] = client.open[1]
    client.connect(resubmitted_up_to=1)
    client.submit(1)
    again = m.SubmitApart([7], [1], [0], [0], [b"x"])
    client.say(again)
    client.say(m.ResubmitEnd())
    with pytest.raises(ProtocolError, match="that are open"):
        client.say(again)


def test_a_job_names_a_function_that_was_sent(client):
    client.send(5, kind=m.VALUE)
    for number in (5, 7, 100):
        with pytest.raises(ProtocolError, match="function that was not sent"):
            client.submit(1, function=number)


def test_a_function_runs_in_one_environment(client):
    client.send(101, b"there", m.ENVIRONMENT)
    client.send(2, needs=(101,))
    for needs in ((), (1,), (100, 101)):
        with pytest.raises(ProtocolError, match="environment"):
            client.send(3, needs=needs)
    with pytest.raises(ProtocolError, match="an environment of"):
        client.send(102, bytes(checks.ENVIRONMENT_BYTES + 1), m.ENVIRONMENT)


def test_what_an_object_needs_was_sent_before_it(client):
    client.send(5, kind=m.VALUE)
    two = m.Objects([0, 0], [6, 7], [m.VALUE, m.FUNCTION], [(5, 1), (6, 100)], [b"v", b"f"])
    client.say(two)  # or with it
    for needs in ((8,), (9,), (5, 77)):
        with pytest.raises(ProtocolError, match="needs object"):
            client.say(m.Objects([0, 0], [8, 9], [m.VALUE] * 2, [needs, ()], [b"", b""]))
    client.say(m.Forget([0], [5]))
    with pytest.raises(ProtocolError, match="object 8 needs object 5"):
        client.send(8, kind=m.VALUE, needs=(5,))
    with pytest.raises(ProtocolError, match="kind 5"):
        client.send(8, kind=m.SHARED + 1)


def test_a_number_is_open_once(client):
    client.submit(1, 2)
    with pytest.raises(ProtocolError, match="before"):
        client.submit(2, 3)


def test_what_was_handed_in_before_may_be_handed_in_again_and_nothing_else():
    client = Client()
    client.submit(1, 2, 3)
    client.connect(resubmitted_up_to=2)
    client.submit(1, 2)
    with pytest.raises(ProtocolError, match="before"):
        client.submit(2)


def test_more_may_be_handed_in_again_than_the_window_has_now():
    client = Client()
    client.connect(resubmitted_up_to=1000)
    for number in range(1, 1001):
        client.submit(number)
    with pytest.raises(ProtocolError, match="more jobs than its window"):
        client.submit(1001)


@pytest.mark.parametrize("joined", [["x"], [3], ["ab" * 16, None]])
def test_a_roster_names_workers(client, joined):
    client.say(m.Roster(["ab" * 16, "cd" * 16], []))
    with pytest.raises(ProtocolError, match="Roster.joined: not a list of idents"):
        client.say(m.Roster(joined, []))


@pytest.mark.parametrize("sessions", [["x"], [-1], [2**64], [True]])
def test_a_worker_knows_sessions_that_can_be(sessions):
    WorkerRules(2).check(m.InventoryEnd([1, 2**64 - 1]))
    WorkerRules(2).check(m.WorkerInfo(-1, ""))
    with pytest.raises(ProtocolError, match="InventoryEnd.sessions: not a list of sessions"):
        WorkerRules(2).check(m.InventoryEnd(sessions))


@pytest.mark.parametrize("numbers", [(2, 1), (1, 1), (1, 3, 2)])
def test_jobs_come_in_order(client, numbers):
    with pytest.raises(ProtocolError, match="not in order"):
        client.submit(*numbers)


@pytest.mark.parametrize("wrong", [{"crashes": 10**6 + 1}, {"worker_losses": 10**18}])
def test_a_jobs_past_is_possible(client, wrong):
    client.say(m.AttemptCounts(1, 2, 1, []))
    with pytest.raises(ProtocolError, match="AttemptCounts.*: not at most"):
        client.say(m.AttemptCounts(1, 2, 1, [])._replace(**wrong))


def test_jobs_name_what_was_sent(client):
    with pytest.raises(ProtocolError, match="function"):
        client.submit(1, function=2)
    with pytest.raises(ProtocolError, match="options"):
        client.submit(1, options=1)
    client.say(m.Forget([0], [1]))
    with pytest.raises(ProtocolError, match="function"):
        client.submit(1)


def test_the_window_of_jobs_has_an_end(client):
    client.submit(*range(1, 21))
    with pytest.raises(ProtocolError, match="more jobs than its window of 10"):
        client.submit(21)


def test_the_window_of_bytes_has_an_end_but_one_job_may_be_larger():
    client = Client(window_bytes=1000)
    client.submit(1, size=100_000)
    with pytest.raises(ProtocolError, match="bytes, its window has 1000"):
        client.submit(2)
    client.open.clear()
    for number in range(2, 100):
        client.submit(number, size=900)
        client.open.clear()


def test_objects_are_bounded(client, monkeypatch):
    with pytest.raises(ProtocolError, match="sent again"):
        client.send(1)
    with pytest.raises(ProtocolError, match="sent again"):
        client.say(m.Objects([0, 0], [2, 2], [m.VALUE] * 2, [()] * 2, [b"", b""]))
    monkeypatch.setattr(checks, "OBJECT_BYTES", 100)
    monkeypatch.setattr(checks, "OBJECTS", 6)
    client.send(2, bytes(1000), m.VALUE)
    client.send(3, needs=(2, 100))
    client.submit(1, function=3)  # however much it needs
    client.send(4, bytes(10), m.VALUE)
    with pytest.raises(ProtocolError, match="more than are kept"):
        client.submit(2)  # beside what is needed
    client.say(m.Forget([0, 0, 0], [3, 2, 77]))
    client.submit(3)
    client.send(5)
    client.send(6)
    client.send(7)
    with pytest.raises(ProtocolError, match="more than are kept"):
        client.send(8)


def test_shared_values_have_a_bound_of_their_own_and_no_needs(client):
    client.rules.shared_room = 100
    client.send(2, bytes(1000), m.SHARED)
    client.send(3, needs=(2, 100))
    client.submit(1, function=3)  # however much it needs
    assert (client.objects.size < 100, client.objects.shared_size) == (True, 1000)
    client.send(4, bytes(checks.SLACK * 100), m.SHARED)
    client.submit(2, function=3)
    client.send(5, b"x", m.SHARED)
    with pytest.raises(ProtocolError, match="more than are kept"):
        client.submit(3, function=3)
    with pytest.raises(ProtocolError, match="the shared value 6 with 1 needs"):
        client.send(6, kind=m.SHARED, needs=(2,))


@pytest.mark.parametrize(
    "options",
    [{"attempts": 0}, {"attempts": "3"}, {"attempts": True}, {"attempts": 1.5}, {"attempts": None}, {"x" * 2000: 1},
     {"attempts": [[]]}, {"\ud800": 1}, {"timeout": 0}, {"timeout": -1.0}, {"timeout": True}, {"timeout": "1"},
     {"timeout": math.nan}, {"timeout": math.inf}, {"x": "y" * 5000}, [], 7],
)  # fmt: skip
def test_options_are_what_we_know_and_hold_what_they_may(client, options):
    with pytest.raises(ProtocolError, match="option"):
        client.send(9, json.dumps(options).encode(), m.OPTIONS)


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"[" * 4000])
def test_options_are_json(client, payload):
    with pytest.raises(ProtocolError, match="options that are not JSON"):
        client.send(9, payload, m.OPTIONS)


def test_options_need_nothing_and_are_no_function(client):
    with pytest.raises(ProtocolError, match="options 9 with 1 needs"):
        client.send(9, b"{}", m.OPTIONS, needs=(1,))
    client.send(9, b"{}", m.OPTIONS)
    with pytest.raises(ProtocolError, match="function that was not sent"):
        client.submit(1, function=9)
    for number in 1, 100, 7:  # a function, an environment, nothing
        with pytest.raises(ProtocolError, match="options that were not sent"):
            client.submit(1, options=number)


@pytest.mark.parametrize("reason", ["a\nb", "x" * 2000, "\ud800"])
def test_a_reason_is_a_line(client, reason):
    with pytest.raises(ProtocolError, match="Goodbye.reason: not a line of text"):
        client.say(m.Goodbye(reason, True))


def test_an_oversight_in_a_rule_ends_a_connection_and_not_the_master(client, caplog):
    client.rules._open_jobs = lambda: 1 / 0
    with pytest.raises(ProtocolError, match="cannot be checked"):
        client.submit(1)
    assert events(caplog) == ["checks.failed"]
    assert caplog.records[0].levelno == logging.ERROR and "ZeroDivisionError" in caplog.text


# --- workers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [[], [0.0], [1.5, 0.0]])
def test_results_of_a_sound_worker(seconds):
    count = len(seconds)
    WorkerRules(2).check(m.Results(list(range(count)), [m.DONE, m.ERROR][:count], seconds, [b""] * count))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, -0.1])
@pytest.mark.parametrize("others", [[], [1.0], [0.0, 2.0]])
def test_a_duration_is_a_duration(wrong, others):
    for seconds in ([wrong, *others], [*others, wrong]):
        assert not schema.are_durations(seconds)
    with pytest.raises(ProtocolError, match="Results.seconds: not finite"):
        WorkerRules(2).check(m.Results([1], [0], [wrong], [b""]))


def test_a_status_is_one_that_we_know():
    with pytest.raises(ProtocolError, match="neither"):
        WorkerRules(2).check(m.Results([1], [7], [0.0], [b""]))


@pytest.mark.parametrize("stream", [0, 4])
def test_output_is_of_a_stream_that_we_know(stream):
    WorkerRules(2).check(m.Output([1, 1, 1], [1, 2, 3], [0, 0, 0], [0, 0, 0], [b"x", b"", b"y"]))
    WorkerRules(2).check(m.Output([], [], [], [], []))
    with pytest.raises(ProtocolError, match="a stream that is none"):
        WorkerRules(2).check(m.Output([1, 1], [1, stream], [0, 0], [0, 0], [b"x", b"y"]))


def test_kept_output_has_the_parts_that_it_names():
    WorkerRules(2).check(m.Kept([1, 2], [1, 0], [0, 1], [b"x", b"y"]))
    with pytest.raises(ProtocolError, match="more stdout than there is output"):
        WorkerRules(2).check(m.Kept([1, 2], [1, 2], [0, 1], [b"x", b"y"]))


def test_a_part_of_an_output_is_bounded(monkeypatch):
    monkeypatch.setattr(checks, "OUTPUT_BYTES", 10)
    for message in m.Output([1], [1], [0], [0], [b"x" * 11]), m.Kept([1], [0], [0], [b"x" * 11]):
        with pytest.raises(ProtocolError, match="output of 11 bytes in one part"):
            WorkerRules(2).check(message)


def test_each_recall_is_answered_once():
    rules = WorkerRules(2)
    rules.recalls = 1
    rules.check(m.Recalled([]))
    with pytest.raises(ProtocolError, match="without a Recall"):
        rules.check(m.Recalled([]))


def test_what_a_worker_says_that_it_holds_is_bounded(monkeypatch):
    monkeypatch.setattr(checks, "INVENTORIES", 3)
    rules = WorkerRules(2)
    for _ in range(2):
        rules.check(m.Inventory([1, 2, 3], [1, 1, 1], [1, 2, 3], [0, 0, 0]))
        rules.check(m.InventoryEnd([]))
    rules.check(m.Inventory([1, 2], [1, 1], [1, 2], [0, 0]))
    with pytest.raises(ProtocolError, match="holds 4 jobs"):
        rules.check(m.Inventory([3, 4], [1, 1], [3, 4], [0, 0]))


@pytest.mark.parametrize("numbers", [[1, 2], [1, 1]])
def test_a_dispatch_that_a_worker_holds_twice_is_refused(numbers):
    with pytest.raises(ProtocolError, match="it holds one dispatch twice"):
        WorkerRules(2).check(m.Inventory([7, 7], [1, 2], numbers, [2, 0]))
    rules = WorkerRules(2)
    rules.check(m.Inventory([7], [1], [1], [2]))
    rules.check(m.InventoryEnd([]))
    rules.check(m.Inventory([7], [1], [1], [2]))
    with pytest.raises(ProtocolError, match="it holds one dispatch twice"):
        rules.check(m.Inventory([7], [2], [1], [2]))


def test_of_many_notes_the_latest_are_kept():
    notes = checks.clean_notes([{"pid": n} for n in range(50)] + ["no note", None])
    assert notes == [{"pid": n} for n in range(52 - checks.NOTES, 50)]


def test_a_note_keeps_what_we_know_and_fits():
    note = {"host": "node7", "worker": 8, "slot": 0, "pid": 9, "how": "SIGSEGV\nand so on", "seconds": 0.5}
    assert checks.clean_note(note) == note
    assert checks.clean_note({"host": 7, "slot": "x", "pid": 10**30, "seconds": math.nan, "else": 1}) == {}
    assert checks.clean_note({"slot": True, "how": {"a": 1}}) == {}
    assert checks.clean_note({"how": "\x1b\ud800" + "x" * 5000}) == {"how": "??" + "x" * (schema.TEXT - 2)}


@pytest.mark.parametrize("stay", [(float("nan"), ""), (-2, ""), (float("inf"), ""), (1.0, "a\nb")])
def test_a_stay_that_cannot_be_is_refused(stay):
    with pytest.raises(ProtocolError, match="WorkerInfo.*: not "):
        WorkerRules(2).check(m.WorkerInfo(*stay))


def test_an_observer_names_workers_and_says_why():
    rules = ObserverRules()
    rules.check(m.Forgive([IDENT]))
    rules.check(m.End("the cluster was stopped"))
    for message in (m.Forgive([IDENT, 7]), m.Forgive(["x"]), m.End("a\nb")):
        with pytest.raises(ProtocolError):
            rules.check(message)
