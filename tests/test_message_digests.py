"""What a simulated cluster says is what it said when it was recorded (see message_digests.py)."""

from typing import NamedTuple

import message_digests
import pytest
from message_digests import SEEDS, Texts
from simulation import SimConnection

from cw.net import messages as m
from cw.net import wire

IDENT = "0123456789abcdef" * 2


ORDINARY = 40
"""The ordinary run replays one seed in this many."""

SLOW = 8
"""The slow tests replay one in this many, and `message_digests.py check` all."""


@pytest.mark.parametrize("first", range(0, 1000, 200))
def test_some_seeds_send_what_was_recorded(first):
    assert message_digests.differences(SEEDS[first : first + 200 : ORDINARY]) == []


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_more_seeds_send_what_was_recorded(first):
    more = SEEDS[first : first + 100 : SLOW]
    assert message_digests.differences(seed for seed in more if seed % ORDINARY) == []


def test_a_seed_sends_the_same_whatever_ran_before():
    assert message_digests.messages(30) == message_digests.messages(30)


def test_a_seed_that_differs_is_named_with_its_leg_and_what_to_do(monkeypatch):
    was = message_digests.read_record()
    was[20][3] = "00000000"
    monkeypatch.setattr(message_digests, "read_record", lambda: was)
    (line,) = message_digests.differences([10, 20])
    assert line.startswith("seed 20 differs on worker-master; ")
    assert line.endswith("python tests/message_digests.py print 20 worker-master")


# --- the tables of what has changed --------------------------------------------------------------


class Stock(NamedTuple):
    jobs: list[int]
    sessions: list[int]
    weights: list[int]


def _line(message):
    texts = Texts()
    texts.add("worker 1", "master 1", message)
    return [line for _, line in texts.lines]


def test_renamed_new_and_gone_fields_make_the_text_that_was_recorded(monkeypatch):
    monkeypatch.setattr(message_digests, "RENAMED_CLASSES", {"Stock": "Inventory"})
    monkeypatch.setattr(message_digests, "RENAMED_FIELDS", {"Stock.jobs": "numbers"})
    monkeypatch.setattr(message_digests, "NEW_FIELDS", {"Stock.weights": 1})
    monkeypatch.setattr(message_digests, "GONE_FIELDS", {"Stock.dispatches": 7, "Stock.states": 0})
    assert _line(Stock([1, 2], [5, 6], [1, 1])) == _line(m.Inventory([7, 7], [5, 6], [1, 2], [0, 0]))
    assert "weights=[1, 2]" in _line(Stock([1, 2], [5, 6], [1, 2]))[0]


def test_messages_that_are_new_change_nothing(monkeypatch):
    before = message_digests.digests(30)
    monkeypatch.setattr(message_digests, "NEW_MESSAGES", message_digests.NEW_MESSAGES | {"Stock"})
    send, encode = SimConnection.send, wire.encode

    def send_more(connection, message, is_ordered=False):
        if type(message) is m.Dispatch:
            send(connection, Stock([], [], []))
        send(connection, message, is_ordered)

    def encode_as_something_known(message, with_files=False):
        return encode(m.Release([]) if type(message) is Stock else message, with_files)

    monkeypatch.setattr(wire, "encode", encode_as_something_known)
    monkeypatch.setattr(SimConnection, "send", send_more)
    assert message_digests.digests(30) == before


def test_messages_that_are_gone_are_added_where_they_were(monkeypatch):
    monkeypatch.setattr(message_digests, "GONE_MESSAGES", {"CloseSession": "ForgetSession"})
    texts = Texts()
    texts.add("master 1", "worker 1", m.CloseSession(7))
    assert [line.split()[-2:] for _, line in texts.lines] == [
        ["CloseSession", "session=7"],
        ["ForgetSession", "session=7"],
    ]


def test_a_process_is_called_by_its_name_whatever_its_ident():
    texts = Texts()
    texts.add("client 2", "master 1", m.Hello("client", IDENT, "s", 2, [3, 10], "1", "host", 1, {}))
    texts.add("master 1", "worker 1", m.CloseSession(int(IDENT[:16], 16)))
    line = "master 1 -> worker 1: CloseSession session='client 2'"
    assert ("master-worker", line) in texts.lines
