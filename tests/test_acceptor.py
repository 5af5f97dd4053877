"""The acceptor, with a loop that the test turns and pending peers from this very process."""

import contextlib
import logging
import os
import resource
import socket
import ssl
import threading
import time

import pytest
from conftest import events

from cw import credential
from cw.net import acceptor, sockets, tls
from cw.net.acceptor import Acceptor
from cw.net.loop import Loop


class House:
    """An acceptor on a TCP port and a local name, and who got in."""

    def __init__(self):
        self.loop = Loop()
        self.loop.call_later = self._later
        self.credential = credential.load_or_make()
        self.contexts = tls.Contexts(self.credential)
        self.admitted = []
        self.rests = []
        self.gate = Acceptor(self.loop, self.credential, self.admitted.append)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = self.listener.getsockname()[1]
        self.local = sockets.listen_locally(self.port, self.credential.fingerprint)
        self.gate.listen(self.listener)
        self.gate.listen(self.local)
        self._clients = []

    def _later(self, seconds, callback):
        self.rests.append((seconds, callback))

    def turn(self):
        self.loop._handle(self.loop._epoll.poll(0.01))

    def turn_until(self, condition, seconds=20.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            while self.rests:
                self.rests.pop()[1]()
            self.turn()

    def connect(self, source=None, first=b""):
        """A pending peer; a plain socket."""
        sock = socket.create_connection(("127.0.0.1", self.port), 10, source and (source, 0))
        self._clients.append(sock)
        if first:
            sock.sendall(first)
        return sock

    def begin_handshake(self):
        """One that says the first words, and will go on when asked."""
        secured = self.contexts.client.wrap_socket(self.connect(), do_handshake_on_connect=False)
        self._clients.append(secured)
        secured.setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError):
            secured.do_handshake()
        return secured

    def pending(self):
        return len(self.gate._pending)

    def close(self):
        self.gate.close()
        for sock in (*self._clients, *self.admitted):
            sock.close()
        self.loop._close()


@pytest.fixture
def house():
    made = House()
    yield made
    made.close()


def is_closed(sock):
    """Has the other end closed it? Nothing else may have come."""
    sock.settimeout(10)
    try:
        return sock.recv(100) == b""
    except ConnectionError:
        return True


def test_who_has_the_credential_is_admitted(house):
    found = []
    thread = threading.Thread(
        target=lambda: found.append(tls.connect(house.connect(), house.contexts, "here", 20))
    )
    thread.start()
    house.turn_until(lambda: house.admitted)
    thread.join(10)
    assert isinstance(house.admitted[0], tls.Socket) and house.pending() == 0
    found[0].close()


def test_who_is_on_this_machine_is_admitted_by_the_kernels_word(house):
    sock = sockets.connect_locally(house.port, house.credential.fingerprint)
    house.turn_until(lambda: house.admitted)
    assert house.admitted[0].family == socket.AF_UNIX
    sock.close()


def test_the_local_name_depends_on_the_credential(house):
    assert sockets.connect_locally(house.port, "0" * 64) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_on_this_machine_is_turned_away_at_the_local_socket(house, caplog):
    child = os.fork()
    if not child:
        os.setresuid(12345, 12345, 12345)
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(sockets.local_name(house.port, house.credential.fingerprint))
        # And he, too, sees that this is not his own master.
        is_right = (
            sock.recv(10) == b"" and sockets.connect_locally(house.port, house.credential.fingerprint) is None
        )
        os._exit(0 if is_right else 1)
    house.turn_until(lambda: house.gate.turned_away >= 2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not house.admitted
    assert set(events(caplog)) == {"acceptor.other_user"}


def test_a_user_whom_the_kernel_cannot_name_is_not_taken_for_oneself(monkeypatch):
    one, other = socket.socketpair()
    assert sockets.is_own_peer(one)
    monkeypatch.setattr(sockets, "NOBODY", os.geteuid())
    assert not sockets.is_own_peer(one)
    one.close()
    other.close()


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, b"SSH-2.0-x\r\n"])
def test_what_is_no_handshake_is_turned_away_at_the_first_byte(house, caplog, first):
    sock = house.connect(first=first)
    house.turn_until(lambda: house.gate.turned_away)
    assert is_closed(sock)
    assert events(caplog) == ["acceptor.turned_away"]
    assert f"127.0.0.1:{sock.getsockname()[1]} " in caplog.text and "it does not speak TLS" in caplog.text


def test_garbage_in_the_form_of_a_handshake_is_turned_away(house):
    sock = house.connect(first=b"\x16\x03\x01\x00\x40" + os.urandom(64))
    house.turn_until(lambda: house.gate.turned_away)
    sock.settimeout(10)
    with contextlib.suppress(ConnectionError):
        while sock.recv(100):  # an alert, at most
            pass


def test_sentences_about_strangers_are_rate_limited(house, caplog):
    caplog.set_level(logging.WARNING)
    for _ in range(50):
        house.connect(first=b"x")
    house.turn_until(lambda: house.gate.turned_away == 50)
    assert len(caplog.records) <= 3


def test_who_leaves_without_a_word_is_not_worth_a_line(house, caplog):
    caplog.set_level(logging.INFO)
    house.connect().close()
    house.turn()
    house.turn_until(lambda: not house.pending())
    assert not caplog.records


def test_who_takes_too_long_is_dropped(house, monkeypatch, caplog):
    monkeypatch.setattr(acceptor, "SECONDS", 0.05)
    silent, half = house.connect(), house.begin_handshake()
    house.turn_until(lambda: house.pending() == 2)
    house.turn_until(lambda: house.gate._on_second(time.monotonic()) and not house.pending())
    assert is_closed(silent)
    assert set(events(caplog)) == {"acceptor.turned_away"} and "in time" in caplog.text
    half.close()


def test_the_oldest_gives_way_to_the_newest_and_their_number_is_bounded(house, monkeypatch):
    monkeypatch.setattr(acceptor, "PENDING_PEERS", 10)
    pending = [house.connect(f"127.0.0.{2 + number % 5}") for number in range(25)]
    house.turn_until(lambda: house.gate.turned_away == 15)
    assert house.pending() == 10
    for sock in pending[:15]:
        assert is_closed(sock)
    pending[-1].setblocking(False)
    with pytest.raises(BlockingIOError):
        pending[-1].recv(1)


def test_who_is_in_the_middle_of_a_handshake_goes_first_then_who_came_first(house, monkeypatch):
    monkeypatch.setattr(acceptor, "ROUND", 0.0)  # one step a round
    begun = house.begin_handshake()
    house.turn_until(
        lambda: house.pending() == 1 and next(iter(house.gate._pending.values())).handshake is not None
    )
    others = [house.begin_handshake() for _ in range(5)]
    house.turn_until(lambda: house.pending() == 6)
    served = []
    step = house.gate._step
    monkeypatch.setattr(house.gate, "_step", lambda peer: (served.append(peer.number), step(peer)))
    begun.do_handshake()  # its last words
    time.sleep(0.05)
    house.turn_until(lambda: len(served) == 6)
    assert served == [1, 2, 3, 4, 5, 6]
    assert len(house.admitted) == 1
    del others


def test_who_has_left_while_it_waited_costs_no_handshake(house, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    begun = []
    monkeypatch.setattr(tls, "Handshake", begun.append)
    house.begin_handshake().close()
    house.turn()
    house.turn_until(lambda: not house.pending())
    assert not begun and not house.gate.turned_away and not caplog.records


def test_who_had_to_wait_for_too_long_is_closed_before_a_handshake(house, monkeypatch, caplog):
    begun = []
    monkeypatch.setattr(tls, "Handshake", begun.append)
    monkeypatch.setattr(acceptor, "MOST_WAIT", -1.0)
    client = house.begin_handshake()
    house.turn_until(lambda: house.gate.turned_away)
    assert not begun and not house.pending() and "too long" in caplog.text
    client.close()


def test_who_waits_is_found_once_not_in_each_round(house, monkeypatch):
    monkeypatch.setattr(acceptor, "ROUND", 0.0)  # one step a round
    found = []

    class Counting:
        def __getattr__(self, name):
            return getattr(epoll, name)

        def poll(self, *args):
            ready = epoll.poll(*args)
            found.extend(fd for fd, _ in ready if fd != house.listener.fileno())
            return ready

    epoll, house.gate._epoll = house.gate._epoll, Counting()
    clients = [house.begin_handshake() for _ in range(20)]
    house.turn_until(lambda: sum(peer.has_answered for peer in house.gate._pending.values()) == 20)
    assert len(found) == len(set(found)) == 20
    del clients


def test_no_more_are_accepted_than_can_begin_soon(house, monkeypatch):
    monkeypatch.setattr(acceptor, "NEW_PEERS", 3)
    monkeypatch.setattr(acceptor, "ACCEPTS", 5)
    monkeypatch.setattr(acceptor, "ROUND", -1.0)
    waiting, step = [], house.gate._step
    monkeypatch.setattr(
        house.gate, "_step", lambda peer: (waiting.append(1 + len(house.gate._new)), step(peer))
    )
    clients = [house.begin_handshake() for _ in range(20)]
    house.turn_until(lambda: sum(peer.has_answered for peer in house.gate._pending.values()) == 20)
    assert max(waiting) <= 2 + 5  # five were accepted when two waited
    del clients


def test_who_waits_for_us_is_not_dropped_for_a_newcomer(house, monkeypatch):
    monkeypatch.setattr(acceptor, "PENDING_PEERS", 3)
    step = house.gate._step

    def wait_again(peer):  # as if there was never time
        peer.is_waiting = True
        house.gate._new.append(peer)

    monkeypatch.setattr(house.gate, "_step", wait_again)
    early = [house.begin_handshake() for _ in range(3)]
    house.turn_until(lambda: house.pending() == 3)
    late = [house.begin_handshake() for _ in range(3)]
    for _ in range(5):
        house.turn()
    assert house.pending() == 3 and not house.gate.turned_away
    monkeypatch.setattr(house.gate, "_step", step)
    for client in early:  # they are answered, and have a second for their last words
        house.turn_until(lambda: any(peer.has_answered for peer in house.gate._pending.values()))
        finish(house, client)
    for client in late:
        finish(house, client)
    assert len(house.admitted) == 6 and not house.gate.turned_away


def finish(house, client):
    """Let a client finish its handshake."""
    admitted = len(house.admitted)

    def is_done():
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        return len(house.admitted) > admitted

    house.turn_until(is_done)


@pytest.mark.parametrize(
    "work, share", [(0.0, acceptor.IDLE_SHARE), (8.0, acceptor.SHARE), (-1.0, acceptor.IDLE_SHARE)]
)
def test_the_share_of_strangers_is_larger_while_there_is_little_else_to_do(house, monkeypatch, work, share):
    gate = house.gate
    gate._found_at, gate._found_cpu, gate._rounds, gate._at = 100.0, 7.0, 2.0, 110.0
    monkeypatch.setattr(acceptor.time, "thread_time", lambda: 7.0 + 2.0 + work)
    gate._find_share()
    assert gate._share == pytest.approx(share)
    assert (gate._found_at, gate._rounds) == (110.0, 0.0)


def test_strangers_get_a_share_of_the_time_and_no_more(house, monkeypatch):
    monkeypatch.setattr(acceptor, "IDLE_SHARE", acceptor.SHARE)
    monkeypatch.setattr(house.gate, "_credit", 0.0)
    begin, served = time.monotonic(), 0.0
    for _ in range(20):
        house.begin_handshake()
        before = time.thread_time()
        house.turn()
        served += time.thread_time() - before
        while house.rests:
            seconds, go_on = house.rests.pop()
            assert not house.loop._epoll.poll(0), "pending wake the loop while they have to wait"
            time.sleep(seconds)
            go_on()
    # With a margin, as the machine may have been busy with others in between.
    assert house.gate._credit <= acceptor.BURST
    assert served < 3 * acceptor.SHARE * (time.monotonic() - begin) + 0.02


def test_without_a_free_descriptor_the_oldest_stranger_is_given_up(house):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    pending = [house.connect() for _ in range(5)]
    house.turn_until(lambda: house.pending() == 5)
    late = house.connect()
    used = [os.open("/dev/null", os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (used[0] + 1, hard))
    try:
        for _ in range(4):
            house.turn()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(used[0])
    assert is_closed(pending[0])
    assert house.pending() == 5
    late.close()
