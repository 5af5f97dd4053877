"""Connections on real sockets: one side is a raw socket that reads when the test says so."""

import contextlib
import errno
import logging
import os
import socket
import threading

import pytest
from conftest import events, wait_until
from loops import BIG, descriptors, encoded, make_connect, make_running, tcp_pair

from cw.errors import ProtocolError
from cw.net import messages as m
from cw.net import wire
from cw.net.batches import FRAME
from cw.net.memory import Memory, store

running = pytest.fixture(make_running)
connect = pytest.fixture(make_connect)


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


def test_a_message_that_can_wait_goes_with_the_next_one(running, connect):
    peer = connect()
    running.call(lambda: peer.connection.send_along(m.Recall(1)))
    assert running.call(lambda: peer.connection.unsent) > 0  # a wakeup later
    peer.send(m.Recall(2))
    assert peer.receive(2) == [m.Recall(1), m.Recall(2)]
    running.call(lambda: (peer.connection.send_along(m.Recall(3)), peer.connection.flush()))
    assert peer.receive(1) == [m.Recall(3)]


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


@pytest.mark.slow
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

    def send_goodbye():
        peer.connection.send(m.Submit([1], [1], [0], [payload]))
        peer.connection.send(m.Goodbye("done", True))
        peer.connection.close_when_sent()
        peer.connection.send(m.Recall(1))  # too late

    running.call(send_goodbye)
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


# --- haste ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_the_answer_to_a_lone_message_is_written_before_its_handler_returns(running, connect, count):
    peer, seen = connect(), []

    def answer(message):
        peer.connection.send(message)
        peer.connection.hurry()
        with contextlib.suppress(BlockingIOError):
            seen.append(peer.raw.recv(1000, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        peer.got.append(message)

    peer.connection.on_message = answer
    messages = [m.Recall(n) for n in range(count)]
    peer.raw.sendall(encoded(*messages))
    wait_until(lambda: len(peer.got) == count)
    assert seen == ([encoded(m.Recall(0))] if count == 1 else [])  # several answers go in one write
    assert peer.receive(count) == messages
    running.call(lambda: (peer.connection.send(m.Recall(5)), peer.connection.hurry(), seen.clear()))
    assert peer.receive(1) == [m.Recall(5)]


def test_an_error_of_a_hasty_write_is_told_when_the_message_is_handled(connect):
    peer, told = connect(socket.socketpair), []

    def answer(message):
        peer.raw.close()
        for _ in range(2):
            peer.connection.send(m.Recall(1))
            peer.connection.hurry()
        told.append(list(peer.closed))

    peer.connection.on_message = answer
    peer.raw.sendall(encoded(m.Recall(1)))
    wait_until(lambda: peer.closed)
    assert told == [[]] and peer.closed == [os.strerror(errno.EPIPE)]


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
    assert record.levelno == logging.ERROR and record.event == "network.protocol_broken"
    assert bad.connection.peer in record.getMessage()
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
    assert events(caplog) == ["network.protocol_broken"]


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
    memory = store([bytes(FRAME + 1)], FRAME + 1)
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


# --- what is taken back -----------------------------------------------------------------------


def withdraw(running, peer, *numbers):
    """Those of these jobs that never come; a Cancel of all of them follows."""

    def cancel():
        gone = peer.connection.withdraw(m.Submit, set(numbers))
        peer.connection.send(m.Cancel(list(numbers)))
        return gone

    return running.call(cancel)


def test_what_the_socket_has_not_taken_can_be_taken_back(running, connect):
    peer = connect()
    stuck = os.urandom(BIG)
    peer.send(m.Submit([1], [1], [0], [stuck]), m.Submit([2, 3, 4], [1, 1, 1], [0, 0, 0], [b"b", b"c", b"d"]))
    peer.send(m.Submit([5], [1], [0], [bytes(BIG)]), m.Forget([1], [1]))
    assert withdraw(running, peer, 3, 5, 9) == [3, 5]
    assert BIG / 2 < peer.connection.unsent < 1.1 * BIG
    cancel, large, *rest = peer.receive(4)
    assert cancel == m.Cancel([3, 5, 9]) and bytes(large.payloads[0]) == stuck
    assert rest == [m.Submit([2, 4], [1, 1], [0, 0], [b"b", b"d"]), m.Forget([1], [1])]
    assert peer.connection.unsent == 0


def test_a_large_payload_that_is_half_sent_is_given_up_and_its_bytes_stop(running, connect):
    peer, size = connect(), 200_000_000
    peer.send(m.Submit([1], [1], [0], [bytes(size)]), m.Submit([2], [1], [0], [b"next"]))
    read, decoder = 0, wire.Decoder()
    while read < 5_000_000:
        data = peer.raw.recv(65536)
        read += len(data)
        assert decoder.feed(data) == []
    assert withdraw(running, peer, 1) == [1]
    assert peer.connection.unsent < 2 * wire.PIECE
    assert peer.receive(2, decoder) == [m.Cancel([1]), m.Submit([2], [1], [0], [b"next"])]
    assert decoder.direct() is None
    wait_until(lambda: peer.connection.unsent == 0)  # it counts after the socket has taken it


def test_what_the_socket_has_taken_comes_before_what_cancels_it(running, connect):
    peer = connect()
    peer.send(m.Submit([1], [1], [0], [b"small"]))
    assert withdraw(running, peer, 1) == []
    assert peer.receive(2) == [m.Submit([1], [1], [0], [b"small"]), m.Cancel([1])]


def test_a_closed_connection_has_nothing_to_take_back(running, connect):
    peer = connect()
    peer.send(m.Submit([1], [1], [0], [bytes(BIG)]))
    running.call(peer.connection.close)
    assert withdraw(running, peer, 1) == []
