"""The I/O loop and its connections, on real sockets: one side is a raw socket that reads when the test says so."""

import contextlib
import errno
import logging
import os
import signal
import socket
import threading
import time
from concurrent.futures import Future

import pytest
from conftest import wait_until

from cw import credential
from cw.errors import ProtocolError
from cw.net import connection as its_module
from cw.net import messages as m
from cw.net import sockets, wire
from cw.net.connection import Connection
from cw.net.connector import dial
from cw.net.loop import Loop
from cw.net.memory import Memory, store
from cw.net.sockets import tune
from cw.program import RateLimited

BIG = 8 * 1024**2


class Running:
    """A loop in a thread of its own, and the means to do things there."""

    def __init__(self):
        self.loop = Loop()
        self.error = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            self.loop.run()
        except BaseException as error:
            self.error = error

    def call(self, function, *args):
        """The function's result, from the loop's thread. When this returns, the wakeup is over: all is flushed."""
        future = Future()

        def work():
            try:
                future.set_result(function(*args))
            except BaseException as error:
                future.set_exception(error)

        self.loop.call_soon_threadsafe(work)
        result = future.result(10)
        over = threading.Event()
        self.loop.call_soon_threadsafe(over.set)
        assert over.wait(10)
        return result

    def join(self):
        self._thread.join(10)
        assert not self._thread.is_alive()

    def stop(self):
        self.loop.stop()
        self.join()


@pytest.fixture
def running(monkeypatch):
    monkeypatch.setattr(its_module, "_lines", RateLimited(its_module.logger, burst=10))  # none is left out
    running = Running()
    yield running
    running.stop()
    assert running.error is None


class Peer:
    """A connection in the loop, and the raw socket at its other end."""

    def __init__(self, running, pair):
        ours, self.raw = pair
        self.got = []
        self.closed = []
        self.drained = 0
        self.connection = running.call(self._connect, running.loop, ours)
        self.send = lambda *messages: running.call(lambda: [self.connection.send(one) for one in messages])

    def _connect(self, loop, sock):
        connection = Connection(loop, sock)
        connection.on_message = self.got.append
        connection.on_close = self.closed.append
        connection.on_drained = self._on_drained
        return connection

    def _on_drained(self):
        self.drained += 1

    def receive(self, count, decoder=None):
        """So many messages, read by the raw socket (to its end with count=None)."""
        decoder, found = decoder or wire.Decoder(), []
        self.raw.settimeout(10)
        while count is None or len(found) < count:
            data = self.raw.recv(65536)
            if not data:
                assert count is None, "closed"
                break
            found += decoder.feed(data)
        return found


def tcp_pair(size=64 * 1024):
    """Two ends of a TCP connection that holds little."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        raw.connect(listener.getsockname())
        ours, _ = listener.accept()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    return ours, raw


@pytest.fixture
def connect(running):
    """Makes peers, and closes what is left of them."""
    peers = []

    def connect(pair=tcp_pair):
        peers.append(Peer(running, pair()))
        return peers[-1]

    yield connect
    for peer in peers:
        peer.raw.close()


def encoded(*messages):
    return b"".join(
        bytes(buffer) for message in messages for frame in wire.encode(message) for buffer in frame
    )


def descriptors():
    return len(os.listdir("/proc/self/fd"))


# --- messages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [tcp_pair, socket.socketpair])
def test_messages_go_both_ways(connect, pair):
    peer = connect(pair)
    messages = [m.Recall(3), m.Submit([1], [2], [0], [b"payload"]), m.Stop([7])]
    peer.raw.sendall(encoded(*messages))
    assert wait_until(lambda: len(peer.got) == 3)
    assert peer.got == messages
    peer.send(*messages)
    assert sorted(map(str, peer.receive(3))) == sorted(map(str, messages))
    assert peer.connection.unsent == 0


def test_a_message_in_crumbs_and_many_in_one_piece(connect):
    peer = connect()
    for byte in encoded(m.Recall(1)):
        peer.raw.send(bytes([byte]))
    assert wait_until(lambda: peer.got) == [m.Recall(1)]
    peer.raw.sendall(encoded(*[m.Recall(n) for n in range(5000)]))
    assert wait_until(lambda: len(peer.got) == 5001)


def test_control_messages_overtake_a_payload_and_each_lane_keeps_its_order(running, connect):
    peer = connect()
    payload = os.urandom(BIG)
    peer.send(m.Submit([1], [1], [0], [payload]), m.Submit([2], [1], [0], [b"small"]))
    assert peer.connection.unsent > BIG / 2  # it is stuck
    peer.send(m.Cancel([1]), m.Forget([1], [1]), m.Cancel([2]))
    found = peer.receive(5)
    assert found[:2] == [m.Cancel([1]), m.Cancel([2])]
    assert bytes(found[2].payloads[0]) == payload
    assert found[3:] == [m.Submit([2], [1], [0], [b"small"]), m.Forget([1], [1])]
    assert running.call(lambda: peer.connection.unsent) == 0


def test_a_slow_peer_delays_only_itself(running, connect):
    slow, quick = connect(), connect()
    slow.send(m.Submit([1], [1], [0], [bytes(BIG)]))
    for n in range(50):
        quick.raw.sendall(encoded(m.Recall(n)))
        wait_until(lambda n=n: len(quick.got) == n + 1)
        quick.send(m.Recall(n))
        assert quick.receive(1) == [m.Recall(n)]
    assert running.call(lambda: slow.connection.unsent) > BIG / 2
    (message,) = slow.receive(1)
    assert len(message.payloads[0]) == BIG


def test_a_peer_that_sends_without_end_does_not_keep_the_others_out(connect):
    loud, quiet = connect(), connect()
    ended = threading.Event()
    data = encoded(*[m.Recall(1)] * 1000)

    def shout():
        with contextlib.suppress(OSError):
            while not ended.is_set():
                loud.raw.sendall(data)

    thread = threading.Thread(target=shout)
    thread.start()
    try:
        for n in range(8):
            quiet.raw.sendall(encoded(m.Recall(n)))
            wait_until(lambda n=n: len(quiet.got) == n + 1)
    finally:
        ended.set()
        thread.join()


def test_any_byte_is_a_sign_of_life(running, connect):
    peer = connect()
    before = peer.connection.heard_at
    peer.raw.send(b"\0")
    wait_until(lambda: peer.connection.heard_at > before)
    assert peer.got == []


# --- drained, closed --------------------------------------------------------------------------


def test_drained_is_told_when_the_socket_has_taken_all(running, connect):
    peer = connect()
    running.call(lambda: None)
    before = peer.drained
    peer.send(m.Submit([1], [1], [0], [bytes(BIG)]))
    assert peer.connection.unsent and peer.drained == before
    peer.receive(1)
    wait_until(lambda: peer.drained > before)
    assert peer.connection.unsent == 0


def test_drained_is_told_as_well_when_the_socket_took_all_at_once(connect):
    peer = connect()
    before = peer.drained
    peer.send(m.Recall(1))
    assert peer.drained > before


def test_close_when_sent_delivers_everything(running, connect):
    peer = connect()
    payload = os.urandom(BIG)

    def say_goodbye():
        peer.connection.send(m.Submit([1], [1], [0], [payload]))
        peer.connection.send(m.Goodbye("done", True))
        peer.connection.close_when_sent()
        peer.connection.send(m.Recall(1))  # too late

    running.call(say_goodbye)
    assert not peer.connection.closed
    peer.raw.sendall(encoded(m.Recall(2)))  # nobody listens any more
    goodbye, submit = peer.receive(None)
    assert goodbye == m.Goodbye("done", True) and bytes(submit.payloads[0]) == payload
    wait_until(lambda: peer.connection.closed)
    assert peer.got == [] and peer.closed == []


def test_the_end_of_a_peer_is_told_once_after_its_last_message(running, connect):
    peer = connect()
    peer.raw.sendall(encoded(m.Recall(1)) + b"half a frame"[:5])
    peer.raw.close()
    wait_until(lambda: peer.closed)
    assert peer.got == [m.Recall(1)] and peer.closed == [""]
    peer.send(m.Recall(1))  # to nobody
    assert peer.closed == [""] and peer.connection.unsent == 0


def test_a_reset_connection_is_told_with_its_reason(connect):
    peer = connect()
    peer.send(m.Recall(1))
    peer.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.raw.close()
    wait_until(lambda: peer.closed)
    assert peer.closed == [os.strerror(errno.ECONNRESET)]


def test_who_closes_is_not_told(running, connect):
    peer = connect()
    peer.send(m.Submit([1], [1], [0], [bytes(BIG)]))
    running.call(peer.connection.close)
    running.call(peer.connection.close)
    assert peer.closed == [] and peer.connection.unsent == 0


def test_what_is_closed_in_a_wakeup_is_not_read_in_it(running, connect):
    a, b = connect(), connect()

    def close_both(message):
        a.connection.close()
        b.connection.close()

    a.connection.on_message = b.connection.on_message = close_both
    busy = threading.Event()
    running.loop.call_soon_threadsafe(lambda: busy.wait(10))
    a.raw.sendall(encoded(m.Recall(1), m.Recall(2)))
    b.raw.sendall(encoded(m.Recall(1)))
    busy.set()
    wait_until(lambda: a.connection.closed and b.connection.closed)
    assert a.closed == b.closed == []


# --- who breaks the protocol ------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage", [b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n", encoded(m.Recall(1))[:-1] + b"!"]
)
def test_a_protocol_error_closes_that_peer_only_with_one_line(running, connect, caplog, garbage):
    bad, good = connect(), connect()
    bad.raw.sendall(garbage)
    wait_until(lambda: bad.closed)
    assert "broke the protocol" in bad.closed[0] and bad.connection.closed
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and bad.connection.peer in record.getMessage()
    good.raw.sendall(encoded(m.Recall(1)))
    wait_until(lambda: good.got)
    assert good.closed == []


def test_a_message_that_its_handler_refuses_closes_the_peer(running, connect, caplog):
    peer = connect()

    def refuse(message):
        raise ProtocolError("no such job")

    peer.connection.on_message = refuse
    peer.raw.sendall(encoded(m.Recall(1), m.Recall(2)))
    wait_until(lambda: peer.closed)
    assert peer.closed == ["broke the protocol: no such job"]
    assert len(caplog.records) == 1


def test_what_may_come_is_asked_again_for_what_came_in_the_same_bytes(running, connect):
    peer = connect()
    peer.connection.decoder.accepts = frozenset({m.Recall})

    def greet(message):
        peer.got.append(message)
        peer.connection.decoder.accepts = frozenset({m.Stop})

    peer.connection.on_message = greet
    peer.raw.sendall(encoded(m.Recall(1), m.Recall(2)))
    wait_until(lambda: peer.closed)
    assert peer.got == [m.Recall(1)]


# --- memory files -----------------------------------------------------------------------------


def test_on_one_machine_a_large_payload_is_passed_as_a_memory_file(running, connect):
    before = descriptors()
    ours, theirs = socket.socketpair()
    a, b = connect(lambda: (ours, theirs)), connect(lambda: (theirs, ours))
    payload = os.urandom(BIG)
    a.send(m.Submit([1, 2], [1, 1], [0, 0], [payload, b"small"]), m.Cancel([5]))
    wait_until(lambda: len(b.got) == 3)
    cancel, large, small = b.got
    assert (cancel, small) == (m.Cancel([5]), m.Submit([2], [1], [0], [b"small"]))
    assert type(large.payloads[0].obj) is Memory and bytes(large.payloads[0]) == payload
    assert a.connection.unsent == 0
    # Passed on, it is not copied again: a worker does so.
    b.send(large)
    wait_until(lambda: len(a.got) == 1)
    assert os.fstat(a.got[0].payloads[0].obj.fd).st_ino == os.fstat(large.payloads[0].obj.fd).st_ino
    del large
    a.got.clear()
    b.got.clear()
    running.call(lambda: (a.connection.close(), b.connection.close()))
    assert descriptors() == before


def test_memory_files_count_as_unsent_until_the_socket_has_them(running, connect):
    peer = connect(socket.socketpair)
    memory = store([bytes(wire.FRAME + 1)], wire.FRAME + 1)
    count = 2000
    peer.send(*[m.Submit([n], [1], [0], [memory]) for n in range(count)])
    assert peer.connection.unsent > count / 2 * len(memory)
    taken = 0
    while taken < count:
        _, fds, _, _ = socket.recv_fds(peer.raw, 65536, 64)
        taken += len(fds)
        for fd in fds:
            os.close(fd)
    wait_until(lambda: not peer.connection.unsent)
    assert not peer.closed


def test_memory_files_that_nobody_asked_for_are_closed_with_the_connection(running, connect):
    before = descriptors()
    peer = connect(socket.socketpair)
    with open(os.devnull) as file:
        socket.send_fds(peer.raw, [b"\0"], [file.fileno()] * 3)
    wait_until(lambda: descriptors() == before + 5)
    running.call(peer.connection.close)
    peer.raw.close()
    assert descriptors() == before


# --- the loop ---------------------------------------------------------------------------------


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
    assert time.monotonic() - began < 2
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
        running.call(lambda: running.loop.call_every(0.001, fail))
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


# --- accepting, dialling ----------------------------------------------------------------------


def test_dial_takes_the_first_that_answers_and_tells_why_the_others_did_not(running):
    got, failures = [], []
    mine = credential.load_or_make()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        where = listener.getsockname()
        addresses = [taken.getsockname(), where]
        with sockets.listen_locally(where[1], mine.fingerprint) as local:
            dial(
                running.loop, addresses, 5, lambda sock, address: got.append((sock, address)), failures.append
            )
            ((sock, address),) = wait_until(lambda: got)
            assert address == where and not failures
            assert sock.getpeername() == local.getsockname()  # on one machine, not through the network
            sock.close()
        dial(running.loop, addresses[:1], 5, lambda sock, address: got.append(sock), failures.append)
        (((address, error),),) = wait_until(lambda: failures)
        assert address == addresses[0] and error.errno == errno.ECONNREFUSED


def test_a_dead_host_is_found_by_the_kernel():
    ours, raw = tcp_pair()
    with ours, raw:
        tune(ours)
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert 0 < ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 60_000
