"""A loop in a thread, and peers of it whose other end is a raw socket that reads when the test wants it."""

import os
import socket
import threading
from concurrent.futures import Future

from cw.events import RateLimited
from cw.net import connection, wire
from cw.net.connection import Connection
from cw.net.loop import Loop

BIG = 8 * 1024**2


class Running:
    """A loop in its own thread, in which tests can call functions."""

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
        """Call a function in the loop's thread and return its result. All output is flushed by then."""
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


def make_running(monkeypatch):
    monkeypatch.setattr(connection, "_lines", RateLimited("cw.network", burst=10))  # none is left out
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
        """Read `count` messages from the raw socket (to its end with count=None)."""
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
    """Return two ends of a TCP connection with small buffers."""
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


def make_connect(running):
    """Make peers, and close those that are left."""
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
