"""Connecting to a master: the first that answers, and why the others did not."""

import errno
import socket

import pytest
from conftest import wait_until
from loops import make_connect, make_running

from cw import credential
from cw.net import sockets
from cw.net.connector import dial

running = pytest.fixture(make_running)
connect = pytest.fixture(make_connect)


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
