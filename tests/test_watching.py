"""Observers that look: when snapshots come, and that nothing happens otherwise."""

import time
from types import SimpleNamespace

import pytest
from test_snapshot import Cluster

from cw.master.observers import snapshot, watching
from cw.master.observers.watching import ASKED_SECONDS, FIRST_SECONDS, SECONDS, SHARE, Watching
from cw.net import messages as m


class Loop:
    def __init__(self):
        self.calls = []

    def call_later(self, seconds, callback):
        self.calls.append((seconds, callback))

    def go_on(self):
        """Make the next call. Returns the time that it had to wait for."""
        seconds, callback = self.calls.pop(0)
        callback()
        return seconds


class Peer:
    def __init__(self, facts=None):
        self.facts = facts
        self.unsent = 0
        self.sent = []

    def send(self, message):
        self.sent.append(message)


@pytest.fixture
def bench():
    cluster = Cluster([2])
    cluster.clients[7] = Peer(cluster.clients[7].facts)
    loop = Loop()
    looking = Watching(loop, "f" * 32, cluster.state, cluster.clients, cluster.workers)
    return SimpleNamespace(loop=loop, watching=looking, client=cluster.clients[7], cluster=cluster)


def test_while_nobody_looks_nothing_is_computed_or_sent(bench):
    bench.watching.on_client_joined(bench.client)
    assert bench.loop.calls == [] and bench.client.sent == []


def test_snapshots_come_to_all_that_look_until_the_last_is_gone(bench):
    one, other = Peer(), Peer()
    bench.watching.on_look(one)
    bench.watching.on_look(other)
    assert bench.client.sent == [m.Watched(True)] and len(bench.loop.calls) == 1
    assert bench.loop.go_on() == FIRST_SECONDS
    assert bench.loop.go_on() >= SECONDS
    assert [message.numbers for message in one.sent] == [[0], [1]] and one.sent == other.sent
    bench.watching.on_gone(one)
    bench.loop.go_on()
    assert len(one.sent) == 2 and len(other.sent) == 3
    bench.watching.on_gone(other)
    bench.loop.go_on()
    assert bench.client.sent == [m.Watched(True), m.Watched(False)] and bench.loop.calls == []


def test_who_does_not_read_gets_a_later_one(bench):
    slow = Peer()
    bench.watching.on_look(slow)
    slow.unsent = 1
    bench.loop.go_on()
    slow.unsent = 0
    bench.loop.go_on()
    assert [message.numbers for message in slow.sent] == [[1]]


def test_a_client_that_comes_while_somebody_looks_is_told(bench):
    bench.watching.on_look(Peer())
    late = Peer()
    bench.watching.on_client_joined(late)
    assert late.sent == [m.Watched(True)]


def test_snapshots_that_take_long_come_less_often(bench, monkeypatch):
    """So they take at most one part in SHARE of the master's time, whatever the size of the cluster."""
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now, time=time.time)
    monkeypatch.setattr(watching, "time", clock)

    def make(state, known):
        clock.now += 0.1
        return made(state, known)

    made = snapshot.make
    monkeypatch.setattr(snapshot, "make", make)
    bench.watching.on_look(Peer())
    bench.loop.go_on()
    assert bench.loop.calls[0][0] == pytest.approx(0.1 * SHARE)


def test_while_a_tender_asks_clients_tell_their_backlog_and_no_snapshot_is_made(bench, monkeypatch):
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now, time=time.time)
    monkeypatch.setattr(watching, "time", clock)
    monkeypatch.setattr(snapshot, "make", lambda state, known: 1 / 0)
    bench.watching.demand()
    for _ in range(3):
        bench.loop.go_on()
        bench.watching.demand()
    assert bench.client.sent == [m.Watched(True)] and len(bench.loop.calls) == 1
    clock.now += ASKED_SECONDS
    bench.loop.go_on()
    assert bench.client.sent == [m.Watched(True), m.Watched(False)] and bench.loop.calls == []
