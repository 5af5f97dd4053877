"""The master passes output on to the client whose job it is, and to no other, and holds up nothing for it."""

import pytest

from cw.master.output import COUNTED, UNSENT, OutputRoute
from cw.master.policy.output_shares import share_of
from cw.net import messages as m


class Connection:
    unsent = 0

    def __init__(self):
        self.sent = []

    def send(self, message):
        self.sent.append(message)

    def take(self):
        sent, self.sent = self.sent, []
        return sent


class Client:
    def __init__(self):
        self.connection = Connection()


class State:
    """Who holds what: dispatches 10 to 19 are jobs 0 to 9 of session 1, 20 to 29 of session 2, at worker "a"."""

    def owner_of(self, worker, dispatch):
        return (dispatch // 10, dispatch % 10) if worker == "a" and 10 <= dispatch < 30 else None


@pytest.fixture
def clients():
    return {1: Client(), 2: Client()}


@pytest.fixture
def told():
    return []


@pytest.fixture
def route(clients, told):
    return OutputRoute(State(), clients, lambda worker, share: told.append((worker, share)))


def output(*dispatches, text=b"x\n"):
    count = len(dispatches)
    return m.Output(list(dispatches), [m.STDOUT] * count, [0] * count, [0] * count, [text] * count)


def test_each_client_gets_its_jobs_output_with_the_host(route, clients, told):
    route.on_output("a", "node7", output(11, 21, 12))
    first, second = clients[1].connection.take(), clients[2].connection.take()
    assert first == [m.OutputHost("node7"), m.JobOutput([1, 2], [1, 1], [0, 0], [0, 0], [b"x\n"] * 2)]
    assert second == [m.OutputHost("node7"), m.JobOutput([1], [1], [0], [0], [b"x\n"])]
    assert told == [("a", share_of(1, 1)), ("a", share_of(2, 1))]
    route.on_output("a", "node7", output(11))
    route.on_output("a", "node8", output(11))
    kinds = [type(message) for message in clients[1].connection.take()]
    assert kinds == [m.JobOutput, m.OutputHost, m.JobOutput]
    clients[1].connection = Connection()  # it is back
    route.on_output("a", "node8", output(11))
    assert clients[1].connection.take()[0] == m.OutputHost("node8")


def test_what_a_worker_says_of_jobs_that_it_does_not_hold_is_dropped(route, clients):
    route.on_output("b", "node7", output(11))
    route.on_output("a", "node7", output(99))
    route.on_kept("b", m.Kept([11], [1], [0], [b"x"]))
    assert clients[1].connection.take() == [] and not route.has_sent(1)


def test_what_a_client_does_not_take_is_left_out_and_reported_when_it_reads_again(route, clients):
    connection = clients[1].connection
    connection.unsent = UNSENT + 1
    for _ in range(3):
        route.on_output("a", "node7", output(11, 21))
    route.on_second(1.0)
    assert connection.take() == [] and len(clients[2].connection.take()) == 4
    connection.unsent = 0
    route.on_second(2.0)
    assert connection.take() == [m.JobOutput([1], [1], [3], [6], [b""])]
    route.on_output("a", "node7", output(12))
    assert connection.take()[-1] == m.JobOutput([2], [1], [0], [0], [b"x\n"])


def test_of_many_jobs_whose_output_is_left_out_the_sum_is_right(route, clients, monkeypatch):
    monkeypatch.setattr("cw.master.output.COUNTED", 3)
    connection = clients[1].connection
    connection.unsent = UNSENT + 1
    route.on_output("a", "node7", output(*range(10, 20)))
    connection.unsent = 0
    route.on_second(1.0)
    (message,) = connection.take()
    assert len(message.numbers) == 3 < COUNTED and sum(message.lines) == 10 and sum(message.sizes) == 20


def test_what_is_kept_goes_to_the_client_whether_it_reads_or_not(route, clients):
    clients[1].connection.unsent = UNSENT + 1
    route.on_kept("a", m.Kept([11, 21], [1, 0], [0, 1], [b"xy", b"z"]))
    assert clients[1].connection.take() == [m.JobKept([1], [1], [0], [b"xy"])]
    assert clients[2].connection.take() == [m.JobKept([1], [0], [1], [b"z"])]
    assert route.has_sent(1) and route.has_sent(2)
    route.on_session_closed(1)
    assert not route.has_sent(1)


def test_a_client_that_is_away_gets_nothing(route, clients):
    clients[1].connection = None
    route.on_output("a", "node7", output(11))
    route.on_kept("a", m.Kept([11], [0], [0], [b"x"]))
    route.on_second(1.0)
    clients[1].connection = Connection()
    route.on_second(2.0)
    assert clients[1].connection.take() == [m.JobOutput([1], [1], [1], [2], [b""])]
