"""A connection between two parts of one process: what arrives, when, and that neither part is entered twice."""

import pytest
from conftest import events, wait_until
from loops import BIG, make_running

from cw.net import in_process
from cw.net import messages as m
from cw.net.connector import dial

running = pytest.fixture(make_running)

ONE = m.Dispatch([1], [2], [3], [4], [0], [1], [b"payload"])


class Part:
    """One end and what has happened there; its handler may answer."""

    def __init__(self, end):
        self.end = end
        self.got, self.closed = [], []
        self.answer = lambda message: None
        self.depth = self.deepest = 0
        end.on_message = self._on_message
        end.on_close = self.closed.append

    def _on_message(self, message):
        self.depth += 1
        self.deepest = max(self.deepest, self.depth)
        self.got.append(message)
        self.answer(message)
        self.depth -= 1


@pytest.fixture
def parts(running):
    return running.call(lambda: list(map(Part, in_process.connect(running.loop))))


def test_messages_go_both_ways_in_order_at_the_end_of_the_wakeup(running, parts):
    one, other = parts

    def work():
        for message in (m.Recall(1), ONE, m.Recall(2)):
            one.end.send(message)
        other.end.send(m.Started([7]))
        return list(other.got), one.end.unsent

    assert running.call(work) == ([], 3)
    assert other.got == [m.Recall(1), ONE, m.Recall(2)] and one.got == [m.Started([7])]
    assert one.end.unsent == other.end.unsent == 0


def test_a_message_arrives_as_a_socket_brings_it(running, parts):
    one, other = parts
    large, columns = memoryview(bytes(BIG)), [1]
    sent = [
        m.Avoid((1, 2), (3, 4)),
        m.CloseSession(5),
        m.Objects([2], [3], [m.FUNCTION], [[4, 5]], [memoryview(b"small")]),
        m.Dispatch(columns, [2], [3], [4], [0], [1], [large]),
    ]
    running.call(lambda: [one.end.send(message) for message in sent])
    avoid, close, objects, dispatch = other.got
    assert avoid == m.Avoid([1, 2], [3, 4]) and close == sent[1]
    assert objects == m.Objects([2], [3], [m.FUNCTION], [(4, 5)], [b"small"])
    assert type(objects.payloads[0]) is bytes
    assert dispatch.payloads[0] is large  # uncopied
    columns.append(2)  # the sender's lists stay its own
    assert dispatch[0] == [1]


def test_a_message_that_can_wait_goes_with_the_next_one(running, parts):
    one, other = parts
    running.call(lambda: one.end.send_along(m.Recall(1)))
    assert not other.got and one.end.unsent
    running.call(lambda: one.end.send(m.Recall(2)))
    assert other.got == [m.Recall(1), m.Recall(2)]


def test_in_a_hurry_a_lone_message_is_handled_at_once_but_no_part_is_entered_twice(running, parts):
    one, other = parts

    def answer(message):
        other.end.send(m.Started([1]))
        other.end.hurry()

    def answer_again(message):
        one.end.send(m.Recall(2))
        one.end.hurry()

    other.answer, one.answer = answer, answer_again
    one.answer = lambda message: answer_again(message) if len(one.got) < 3 else None

    def work():
        one.end.send(m.Recall(1))
        one.end.hurry()
        return len(other.got), len(one.got)

    running.loop.is_lone = True
    assert running.call(work) == (1, 0)  # the answer waits until the first part is done
    assert len(one.got) == len(other.got) == 3
    assert one.deepest == other.deepest == 1


def test_while_there_is_more_to_do_nothing_is_in_a_hurry(running, parts):
    one, other = parts

    def work():
        running.loop.is_lone = False
        one.end.send(m.Recall(1))
        one.end.hurry()
        return list(other.got)

    assert running.call(work) == [] and other.got


def test_the_end_of_one_is_the_end_of_the_other(running, parts):
    one, other = parts
    running.call(lambda: (one.end.send(m.Goodbye("it ends")), one.end.flush(), one.end.close()))
    assert wait_until(lambda: other.closed) == [""]
    assert other.got == [m.Goodbye("it ends")] and not one.closed
    assert one.end.closed and other.end.closed
    running.call(lambda: other.end.send(m.Recall(1)))
    assert not one.got


def test_what_is_not_expected_ends_the_connection(running, parts, caplog):
    one, other = parts
    other.end.decoder.accepts = frozenset({m.Recall})
    running.call(lambda: [one.end.send(message) for message in (m.Recall(1), ONE, m.Recall(2))])
    assert wait_until(lambda: one.closed) and other.closed == [
        "broke the protocol: Dispatch is not expected here"
    ]
    assert other.got == [m.Recall(1)] and "network.protocol_broken" in events(caplog)


def test_nothing_can_be_taken_back(running, parts):
    one, other = parts

    def work():
        one.end.send(ONE)
        return one.end.withdraw(m.Dispatch, {1})

    assert running.call(work) == [] and other.got == [ONE]


def test_a_master_of_this_process_is_reached_without_a_socket(running, monkeypatch):
    admitted, got = [], []
    monkeypatch.setitem(in_process.masters, ("127.0.0.1", 1), admitted.append)
    running.call(
        lambda: dial(running.loop, [("127.0.0.1", 1)], 5, lambda *found: got.append(found), got.append)
    )
    ((end, address),) = wait_until(lambda: got)
    assert address == ("127.0.0.1", 1) and end.is_local and end.passes_files
    (of_master,) = map(Part, admitted)
    running.call(lambda: end.send(ONE))
    assert of_master.got == [ONE]
