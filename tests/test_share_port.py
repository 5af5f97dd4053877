"""A worker's port for other workers, and what one fetches there: in one process, over TCP or a local socket."""

import os
import socket
import time

import pytest
from conftest import wait_until
from loops import make_running

from cw import credential
from cw.net import connector
from cw.net import messages as m
from cw.net.objects import Object, digest_of
from cw.worker.sharing import share_port
from cw.worker.sharing.fetching import Fetching
from cw.worker.sharing.share_port import SharePort

SIZE = 1_000_000
VALUE = os.urandom(SIZE)
DIGEST = digest_of(VALUE)

running = pytest.fixture(make_running)


@pytest.fixture(params=["a network", "one machine"])
def port(running, request, monkeypatch):
    if request.param == "a network":
        monkeypatch.setattr(connector, "connect_locally", lambda port, fingerprint: None)
    credential.load_or_make()
    values = {(7, 3): Object(3, VALUE, m.SHARED, session=7)}
    made = SharePort(running.loop, lambda *key: values.get(key), 30.0)
    made.number = running.call(made.open)
    assert made.number and running.call(made.open) == made.number
    yield made
    running.call(made.close)


def fetch(running, port, number=3, digest=DIGEST, size=SIZE, host="127.0.0.1"):
    """Fetch a value; return what came, and the reason why not."""
    done = []
    order = m.Fetch(7, number, digest, port, [host])
    running.call(lambda: Fetching(running.loop, order, size, lambda *what: done.append(what)))
    return wait_until(lambda: done)[0]


def test_a_value_comes_and_is_checked(running, port):
    payload, reason = fetch(running, port.number)
    assert bytes(payload) == VALUE and not reason
    wait_until(lambda: running.call(lambda: not running.loop.connections), 10)


def test_another_content_is_refused(running, port):
    assert fetch(running, port.number, digest="0" * 64) == (
        None,
        "its value has another digest than the client's",
    )
    assert fetch(running, port.number, size=SIZE + 1) == (None, "it sent something else")


def test_a_value_that_is_not_here_closes_the_connection(running, port):
    assert fetch(running, port.number, number=4) == (None, "it closed the connection")


def test_a_closed_port_refuses(running, port):
    running.call(port.close)
    payload, reason = fetch(running, port.number)
    assert payload is None and "refused" in reason
    again = running.call(port.open)
    assert bytes(fetch(running, again)[0]) == VALUE


def test_a_stranger_gets_no_word(running, port):
    with socket.create_connection(("127.0.0.1", port.number), 10) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        try:
            assert stranger.recv(100) == b""
        except ConnectionResetError:
            pass
    assert bytes(fetch(running, port.number)[0]) == VALUE


def test_one_that_does_not_say_what_it_wants_is_closed(running, port, monkeypatch):
    monkeypatch.setattr(share_port, "WANT_SECONDS", 0.5)
    got = []
    connector.dial(
        running.loop, [("127.0.0.1", port.number)], 5, lambda sock, where: got.append(sock), got.append
    )
    (sock,) = wait_until(lambda: got)
    sock.setblocking(True)
    began = time.monotonic()
    assert sock.recv_into(memoryview(bytearray(10))) == 0
    assert time.monotonic() - began < 10
    sock.close()
