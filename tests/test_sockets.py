"""What is asked of the kernel about sockets."""

import socket
import time

from loops import tcp_pair

from cw.net.sockets import name_of_peer, receive_with_files, silence_of_peer, tune


def test_a_dead_host_is_found_by_the_kernel():
    ours, raw = tcp_pair()
    with ours, raw:
        tune(ours)
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert 0 < ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 60_000


def test_the_other_end_has_a_name_for_log_lines():
    ours, raw = tcp_pair()
    with ours, raw:
        assert name_of_peer(ours) == f"127.0.0.1:{raw.getsockname()[1]}"
    assert name_of_peer(ours) == "(gone)"
    one, other = socket.socketpair()
    with one, other:
        assert name_of_peer(one) == "this machine"


def test_descriptors_come_with_the_bytes_that_they_were_sent_with():
    one, other = socket.socketpair()
    with one, other, socket.socket() as sent:
        socket.send_fds(one, [b"abc"], [sent.fileno()])
        into = memoryview(bytearray(10))
        count, (fd,) = receive_with_files(other, into)
        with socket.socket(fileno=fd) as received:
            assert (bytes(into[:count]), received.family) == (b"abc", sent.family)


def test_the_silence_of_a_peer_begins_with_its_last_bytes():
    ours, raw = tcp_pair()
    with ours, raw:
        while silence_of_peer(ours) < 0.05:
            pass
        begin = time.monotonic()
        raw.send(b"x")
        assert silence_of_peer(ours) <= time.monotonic() - begin + 0.02
        raw.close()
        assert ours.recv(10) == b"x" and ours.recv(10) == b""
        assert silence_of_peer(ours) is None
