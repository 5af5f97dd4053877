"""The link to a master, without a socket: its owner, loop and connections are the test's."""

from types import SimpleNamespace

import pytest

from cw.errors import ProtocolError
from cw.net import master_link, wire
from cw.net import messages as m
from cw.net.master_link import MasterLink, Terms

WELCOME = m.Welcome("start id", "1.0", 8.0)
TERMS = Terms("worker", frozenset({m.Goodbye, m.Heartbeat, m.Drain}), (0.1, 5.0), 1.0, "it has finished", 0.7)
HELLO = m.Hello("worker", "1" * 32, "", m.PROTOCOL, [3, 12], "1.0", "node7", 1, {"slots": 1})


class Loop:
    """Timers that the test lets pass."""

    def __init__(self):
        self.timers, self.ticks = [], []

    def call_later(self, seconds, callback):
        self.timers.append((seconds, callback))

    def call_every(self, seconds, callback):
        self.ticks.append((seconds, callback))

    def fire(self, seconds):
        """Let the oldest timer of this length pass."""
        found = next(timer for timer in self.timers if timer[0] == seconds)
        self.timers.remove(found)
        found[1]()


class Connection:
    is_local = False
    passes_files = True

    def __init__(self, loop, sock, decoder):
        self.decoder = decoder
        self.closed = False
        self.unsent = 0
        self.peer = "10.0.0.7:5494"
        self.sent = []
        self.silence = 0
        sock.connections.append(self)

    def set_patience(self, seconds):
        self.patience = seconds

    def send(self, message, is_ordered=False):
        self.sent.append(message)

    send_last = send

    def close(self):
        self.closed = True

    def count_silence(self):
        return self.silence


class Owner:
    def __init__(self):
        self.told = []

    def hello(self):
        return HELLO

    def on_welcome(self):
        self.told.append("welcome")

    def on_message(self, message):
        self.told.append(message)

    def on_lost(self):
        self.told.append("lost")

    def on_failure(self, error):
        self.told.append(error)


class Patience:
    """Waits for ever, unless `failure` is set."""

    is_lost = False
    failure = None

    def dial_seconds(self, now):
        return 10.0

    def answer_seconds(self, now):
        return 3.0

    def on_welcome(self):
        self.is_lost = False

    def on_lost(self, loss, now, pause):
        self.is_lost, self.loss = True, loss
        return self.failure

    def on_not_found(self, failures, candidates, now, pause):
        return self.failure


class Bench:
    def __init__(self, silence=8.0):
        self.loop, self.owner, self.patience = Loop(), Owner(), Patience()
        self.connections, self.dials = [], []
        find = lambda: [SimpleNamespace(host="node7", port=5494)]  # noqa: E731
        self.link = MasterLink(self.loop, find, self.owner, self.patience, TERMS, silence)

    def dial(self, loop, where, seconds, on_connected, on_failed):
        self.dials.append((where, seconds, on_connected, on_failed))

    def connect(self):
        self.link.connect()
        where, _, on_connected, _ = self.dials[-1]
        on_connected(self, where[0])
        return self.connections[-1]

    def join(self):
        connection = self.connect()
        connection.on_message(WELCOME)
        return connection


@pytest.fixture
def make(monkeypatch):
    def make(**settings):
        bench = Bench(**settings)
        monkeypatch.setattr(master_link, "dial", bench.dial)
        monkeypatch.setattr(master_link, "Connection", Connection)
        monkeypatch.setattr(master_link.random, "uniform", lambda low, high: low)
        return bench

    return make


@pytest.fixture
def bench(make):
    return make()


def test_a_link_says_hello_and_is_joined_with_the_welcome(bench):
    connection = bench.connect()
    assert bench.dials[0][:2] == ([("node7", 5494)], 10.0)
    assert connection.sent == [HELLO] and connection.patience == 8.0 and not bench.link.is_joined
    assert {m.Welcome, m.Refused} < connection.decoder.accepts
    connection.on_message(WELCOME)
    assert bench.link.is_joined and bench.link.master == "start id" and bench.owner.told == ["welcome"]
    assert bench.link.where == "node7:5494" and connection.decoder.accepts == TERMS.accepts
    connection.on_message(m.Heartbeat())
    assert bench.owner.told == ["welcome", m.Heartbeat()]


def test_nothing_is_sent_before_the_welcome_or_after_the_loss(bench):
    connection = bench.connect()
    bench.link.send(m.Heartbeat())
    connection.on_message(WELCOME)
    bench.link.send(m.Heartbeat())
    connection.on_close("reset")
    bench.link.send(m.Heartbeat())
    assert connection.sent == [HELLO, m.Heartbeat()]


def test_what_comes_before_the_welcome_breaks_the_protocol(bench):
    with pytest.raises(ProtocolError, match="Drain before a Welcome"):
        bench.connect().on_message(m.Drain([]))


def test_a_refusal_is_a_failure(bench):
    bench.connect().on_message(m.Refused("install the same cw on both"))
    assert "node7:5494 refused this worker: install the same cw" in str(bench.owner.told[0])


def test_a_link_that_cannot_look_fails(bench):
    error = ValueError("no address")

    def find():
        raise error

    bench.link.find = find
    bench.link.connect()
    assert bench.owner.told == [error] and not bench.dials


def test_pauses_grow_until_a_connection_has_lasted(bench):
    bench.link.connect()
    for pause in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0):
        bench.dials[-1][3]([])
        bench.loop.fire(pause)
    connection = bench.join()
    connection.on_close("reset")
    bench.loop.fire(1.0)  # a lost master is looked for at least once a second
    connection = bench.join()
    bench.loop.fire(master_link.STEADY_SECONDS)  # that of the connection before, which is gone
    connection.on_close("reset")
    bench.loop.fire(1.0)
    connection = bench.join()
    bench.loop.fire(master_link.STEADY_SECONDS)
    bench.loop.fire(master_link.STEADY_SECONDS)
    connection.on_close("reset")
    bench.loop.fire(0.1)


def test_a_loss_is_told_to_the_owner_before_the_next_attempt(bench):
    connection = bench.join()
    connection.on_close("reset")
    assert bench.owner.told == ["welcome", "lost"] and not bench.link.is_joined and connection.closed
    assert bench.patience.loss == ("node7:5494", "reset", None)
    assert bench.link.connection is None and bench.link.is_lost
    bench.loop.fire(0.1)
    assert len(bench.dials) == 2


@pytest.mark.parametrize("how", ["not found", "lost"])
def test_the_end_of_patience_is_a_failure(bench, how):
    bench.patience.failure = error = OSError("enough")
    if how == "lost":
        bench.join().on_close("reset")
    else:
        bench.link.connect()
        bench.dials[-1][3]([])
    assert bench.owner.told[-1] is error
    assert not [seconds for seconds, _ in bench.loop.timers if seconds < 3.0]


def test_a_goodbye_is_a_loss(bench):
    for is_early in (False, True):
        connection = bench.connect() if is_early else bench.join()
        goodbye = m.Goodbye("the master ends", False)
        (connection.on_message if is_early else bench.link.on_goodbye)(goodbye)
        assert bench.patience.loss == ("node7:5494", "the master ends", goodbye) and connection.closed


def test_a_master_that_does_not_answer_a_hello_is_left(bench):
    silent, answered = bench.connect(), None
    bench.loop.fire(3.0)
    assert silent.closed and bench.patience.loss.reason == master_link.SAYS_NOTHING
    answered = bench.join()
    bench.loop.fire(3.0)
    assert not answered.closed


def test_signs_of_life_are_given_and_missed(bench):
    connection = bench.join()
    ((period, beat),) = bench.loop.ticks
    assert period == 2.0  # a quarter of the shorter silence
    assert beat(0.0) and connection.sent[-1] == m.Heartbeat()
    connection.silence = 5
    assert not beat(0.0) and connection.closed and bench.patience.loss.reason == "silent for 8 s"
    bench.join()
    assert not beat(0.0)  # that of the connection before


def test_an_owner_without_silence_gives_no_signs_of_life(make):
    bench = make(silence=None)
    bench.join()
    assert not bench.loop.ticks


def test_a_joined_link_leaves_when_the_master_has_read_its_goodbye(bench):
    connection, left = bench.join(), []
    bench.link.leave(lambda: left.append(True))
    assert connection.sent[-1] == m.Goodbye("it has finished") and not connection.closed and not left
    bench.link.send(m.Heartbeat())
    connection.on_message(m.Drain([]))
    assert connection.sent[-1] == m.Goodbye("it has finished") and bench.owner.told == ["welcome"]
    connection.on_close("")
    assert left == [True] and not bench.loop.ticks[0][1](0.0)


def test_a_master_that_does_not_read_has_its_time(bench):
    left = []
    bench.join()
    bench.link.leave(lambda: left.append(True))
    bench.loop.fire(0.7)
    assert left


def test_a_link_without_a_master_leaves_at_once(bench):
    left = []
    bench.link.connect()
    bench.link.leave(lambda: left.append(True))
    assert left == [True] and not bench.loop.timers
    bench.dials[-1][3]([])
    assert not bench.loop.timers and not bench.owner.told


def test_a_link_that_has_no_welcome_yet_leaves_at_once(bench):
    left = []
    connection = bench.connect()
    bench.link.leave(lambda: left.append(True))
    assert left == [True] and connection.closed


def test_a_link_that_has_left_takes_no_connection_and_makes_none(bench):
    class Late:
        closed = False

        def close(self):
            self.closed = True

    bench.link.connect()
    where, _, on_connected, _ = bench.dials[-1]
    bench.link.leave(lambda: None)
    late = Late()
    on_connected(late, where[0])
    assert late.closed and not bench.connections
    bench.link.connect()
    assert len(bench.dials) == 1


def test_a_link_that_has_said_goodbye_looks_for_no_master(bench):
    connection = bench.join()
    bench.link.leave(lambda: None)
    bench.loop.fire(3.0)  # when the master's answer to the Hello was due
    assert not connection.closed and bench.owner.told == ["welcome"] and len(bench.dials) == 1


def test_who_waits_for_a_lost_master_can_say_goodbye_to_it(bench):
    left = []
    bench.join().on_close("reset")
    bench.link.leave(lambda: left.append(True), waits_for_lost=True)
    assert not left
    connection = bench.join()
    assert connection.sent == [HELLO, m.Goodbye("it has finished")] and bench.owner.told == [
        "welcome",
        "lost",
    ]


def test_a_connection_that_lost_its_place_is_replaced(bench):
    connection = bench.join()
    bench.link.connect_anew("a message was interrupted")
    assert connection.closed and bench.patience.loss.reason == "a message was interrupted"
    bench.link.connect_anew("again")  # there is none
    assert len(bench.loop.timers) == 3  # the silence, the steadiness, and one attempt


def test_the_decoder_makes_memory_as_the_terms_say(bench):
    made = []
    bench.link._terms = TERMS._replace(allocate=lambda size: made.append(size) or memoryview(bytearray(size)))
    decoder = bench.connect().decoder
    for frame in wire.encode(m.Results([1], [0], [0.0], [bytes(3_000_000)])):
        decoder.accepts = None
        decoder.feed(b"".join(frame))
    assert made
