"""The I/O loop: threads, timers, signals and errors, on real sockets."""

import os
import signal
import threading
import time

import pytest
from conftest import wait_until
from loops import Peer, Running, descriptors, encoded, make_connect, make_running, tcp_pair

from cw.net import messages as m
from cw.net.loop import Loop

running = pytest.fixture(make_running)
connect = pytest.fixture(make_connect)


def test_other_threads_have_things_done_in_the_loops_thread_in_their_order(running):
    done = []
    where = running.call(threading.get_ident)

    def work(name):
        for n in range(500):
            running.loop.call_soon_threadsafe(lambda n=n: done.append((name, n, threading.get_ident())))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: len(done) == 2000)
    assert {ident for _, _, ident in done} == {where}
    for name in range(4):
        assert [n for who, n, _ in done if who == name] == list(range(500))


def test_wake_calls_on_wake_soon_and_once_for_many(running):
    woken = []
    running.loop.on_wake = lambda: woken.append(1)
    busy, is_busy = threading.Event(), threading.Event()
    running.loop.call_soon_threadsafe(lambda: (is_busy.set(), busy.wait(10)))
    assert is_busy.wait(10)
    for _ in range(1000):
        running.loop.wake()
    busy.set()
    wait_until(lambda: len(woken) >= 2)
    running.call(lambda: None)
    assert len(woken) < 20


def test_a_wakeup_that_comes_while_the_loop_works_is_not_lost(running):
    for _ in range(200):
        seen = threading.Event()
        running.loop.call_soon_threadsafe(seen.set)
        assert seen.wait(5)


def test_a_tick_comes_until_it_says_no_and_later_comes_once(running):
    ticks, once = [], []
    began = time.monotonic()

    def tick(now):
        ticks.append(now)
        return len(ticks) < 4

    running.call(lambda: running.loop.call_every(0.02, tick))
    running.call(lambda: running.loop.call_later(0.03, lambda: once.append(time.monotonic())))
    wait_until(lambda: len(ticks) == 4 and once)
    done = threading.Event()
    running.call(lambda: running.loop.call_later(0.1, done.set))
    assert done.wait(5)
    assert len(ticks) == 4 and len(once) == 1
    assert ticks[0] >= began + 0.015 and once[0] >= began + 0.025
    assert all(b - a >= 0.015 for a, b in zip(ticks, ticks[1:], strict=False))


def test_a_cancelled_timer_is_not_called(running):
    called, done = [], threading.Event()

    def start():
        for call in (running.loop.call_later, running.loop.call_every):
            timers.append(call(0.01, lambda *_: not called.append(1)))
        timers.pop(0).cancel()
        running.loop.call_later(0.05, timers.pop(0).cancel)
        running.loop.call_later(0.1, lambda: (called.clear(), running.loop.call_later(0.05, done.set)))

    timers = []
    running.call(start)
    assert done.wait(10)
    assert called == []


def test_a_timer_of_another_thread_that_is_due_before_all_others_is_not_late(running):
    """The loop waits for the next one that it knows of: it must be woken."""
    running.call(lambda: running.loop.call_later(600, lambda: None))
    seen = threading.Event()
    running.loop.call_later(0.01, seen.set)
    assert seen.wait(5)


def test_what_a_tick_sends_goes_out(running, connect):
    peer = connect()
    running.call(lambda: running.loop.call_later(0.01, lambda: peer.connection.send(m.Recall(1))))
    assert peer.receive(1) == [m.Recall(1)]


def test_a_tick_keeps_its_time_while_sockets_are_busy(running, connect):
    peer = connect()
    ticks = []
    running.call(lambda: running.loop.call_every(0.02, lambda now: not ticks.append(now)))
    peer.connection.on_message = lambda message: peer.connection.send(message)
    deadline = time.monotonic() + 10
    while len(ticks) < 8:
        assert time.monotonic() < deadline
        peer.raw.sendall(encoded(m.Recall(1)))
        assert peer.receive(1)


def test_a_stopped_loop_ends_at_once_whatever_ticks_are_due():
    running = Running()
    running.call(lambda: running.loop.call_every(60, lambda now: True))
    running.call(lambda: running.loop.call_every(0.001, lambda now: True))
    began = time.monotonic()
    running.stop()
    assert time.monotonic() - began < 10
    assert running.error is None
    running.loop.wake()  # nobody is there: no harm
    running.loop.call_soon_threadsafe(lambda: None)


def test_a_loop_closes_its_connections_at_its_end(connect):
    before = descriptors()
    running = Running()
    peer = Peer(running, tcp_pair())
    running.stop()
    assert peer.raw.recv(1) == b""
    peer.raw.close()
    assert descriptors() == before


@pytest.mark.parametrize("where", ["call_soon", "tick", "message"])
def test_an_exception_in_a_callback_ends_the_loop_and_is_raised(where):
    def fail(*_):
        raise ZeroDivisionError

    running = Running()
    if where == "call_soon":
        running.loop.call_soon_threadsafe(fail)
    elif where == "tick":
        running.loop.call_soon_threadsafe(lambda: running.loop.call_every(0.001, fail))
    else:
        peer = Peer(running, tcp_pair())
        peer.connection.on_message = fail
        peer.raw.sendall(encoded(m.Recall(1)))
    running.join()
    assert type(running.error) is ZeroDivisionError
    if where == "message":
        peer.raw.close()


def test_signals_are_answered_in_the_loop_and_none_is_lost():
    loop = Loop()
    caught = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    try:
        loop.on_signal(signal.SIGUSR1, lambda: caught.append((1, threading.get_ident())))
        loop.on_signal(signal.SIGUSR2, lambda: caught.append((2, threading.get_ident())))

        def send():
            for n in range(1, 6):
                os.kill(os.getpid(), signal.SIGUSR1)
                os.kill(os.getpid(), signal.SIGUSR2)
                wait_until(lambda n=n: len(caught) == 2 * n)
            loop.stop()

        sender = threading.Thread(target=send)
        sender.start()
        loop.run()
        sender.join()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    assert sorted(n for n, _ in caught) == [1] * 5 + [2] * 5
    assert {ident for _, ident in caught} == {threading.get_ident()}
    assert signal.set_wakeup_fd(-1) == -1
