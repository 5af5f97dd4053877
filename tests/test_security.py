"""Attacks on a real master with real work going on, and what each side says when a credential is wrong.

The pending peers come from many addresses of this machine (127.x.y.z). They are bounded in number and in time.
"""

import contextlib
import json
import os
import re
import resource
import socket
import ssl
import statistics
import struct
import sys
import threading
import time
from pathlib import Path

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT, Master, Program, Worker, events_in, free_port
from test_credential import make_pem

import cw
from cw import credential
from cw.net import acceptor, sockets, tls, wire
from cw.net import messages as m

LOOPBACK = "127.0.0.1"


@pytest.fixture
def other(tmp_path):
    """The path of a credential that is not the cluster's."""
    path = tmp_path / "other.pem"
    path.write_bytes(make_pem())
    path.chmod(0o600)
    return path


def address_of(number):
    return f"127.{1 + number % 3}.{number // 250 % 250}.{2 + number % 250}"


def connect(port, number=0, first=b""):
    """A pending peer from an address of his own."""
    sock = socket.socket()
    sock.settimeout(LIMIT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a master may have the port thereafter
    sock.bind((address_of(number), 0))
    sock.connect((LOOPBACK, port))
    if first:
        sock.sendall(first)
    return sock


def client_hello(port, number=0):
    """A pending peer who has begun a handshake, and does not go on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    secured = context.wrap_socket(connect(port, number), do_handshake_on_connect=False)
    secured.setblocking(False)
    with contextlib.suppress(ssl.SSLWantReadError):
        secured.do_handshake()
    return secured


def is_turned_away(sock):
    """Does the master close it, having told nothing but an alert?"""
    sock.settimeout(LIMIT)
    heard = b""
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(4096):
            heard += data
    return len(heard) < 100 or heard[:1] == b"\x16"


# --- one home directory, nothing to set up ----------------------------------------------------


def test_master_worker_and_script_work_together_without_an_option(monkeypatch, tmp_path):
    monkeypatch.delenv("CW_CREDENTIAL")
    with Program("-m", "cw.worker") as worker:  # before its master, and before there is a credential
        worker.wait_for_event("worker.no_master")
        with Program("-m", "cw.master", "--port", "0") as master:
            master.wait_for_event("master.listening", "all addresses of this machine")
            worker.wait_for_event("worker.joined")
            with cw.ClusterExecutor() as executor:
                assert executor.submit(jobs.square, 7).result(LIMIT) == 49
            credential_file = Path(os.environ["CW_HOME"], "credential.pem")
            assert str(credential_file) in master.err
            secret = credential_file.read_text().splitlines()[-3]
            assert secret not in master.err + worker.err
            for program in (master, worker):
                assert secret.encode() not in Path(f"/proc/{program.pid}/cmdline").read_bytes()


def test_the_master_takes_ipv4_and_ipv6():
    with Master() as master, Worker(master.address) as _:
        hosts = [LOOPBACK, "localhost", "127.0.0.7"]
        if socket.has_dualstack_ipv6():
            hosts.append("::1")
        for host in hosts:
            with cw.ClusterExecutor(host, master.port) as executor:
                assert executor.submit(jobs.square, 7).result(LIMIT) == 49


def test_a_local_cluster_is_closed_too_and_listens_on_the_loopback_alone():
    with cw.mp.allocate(1) as cluster:
        port = int(cluster.master.rpartition(":")[2])
        sock = connect(port, first=b"x" * 100)
        assert is_turned_away(sock)
        own = {
            row.split()[0] for row in os.popen("hostname -I 2>/dev/null").read().split("\n") if row.strip()
        }
        for host in own:
            with pytest.raises(OSError):
                socket.create_connection((host, port), 5)


def test_peers_on_one_machine_need_no_tls_and_do_not_load_it():
    script = "\n".join(
        (
            "import sys, cw",
            "with cw.mp.allocate(1), cw.ClusterExecutor() as executor:",
            "    executor.submit(abs, -1).result()",
            "    import pathlib",
            "    print({'ssl', 'cryptography'} & sys.modules.keys())",
        )
    )
    credential.load_or_make()
    with Program("-c", script) as program:
        assert program.wait() == 0
        assert program.out == "set()\n"


@contextlib.contextmanager
def only_tcp(port):
    """The local name beside that port is taken: everybody has to come through the TCP port, and TLS."""
    squatter = socket.socket(socket.AF_UNIX)
    squatter.bind(sockets.local_name(port, credential.load_or_make().fingerprint))
    with squatter:
        yield


def test_over_tcp_all_that_crosses_is_encrypted():
    """With a listener in between that writes down what it hears."""
    port = free_port()
    heard = []
    with only_tcp(port), Master("--host", LOOPBACK, "--port", str(port)) as master, Worker(master.address):
        middle = socket.create_server((LOOPBACK, 0))

        def relay():
            client = middle.accept()[0]
            server = socket.create_connection((LOOPBACK, port))

            def copy(source, target):
                with contextlib.suppress(OSError):
                    while data := source.recv(65536):
                        heard.append(data)
                        target.sendall(data)
                    target.shutdown(socket.SHUT_WR)

            threads = [
                threading.Thread(target=copy, args=pair) for pair in ((client, server), (server, client))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            client.close()
            server.close()

        thread = threading.Thread(target=relay)
        thread.start()
        with cw.ClusterExecutor(LOOPBACK, middle.getsockname()[1]) as executor:
            assert (
                executor.submit(jobs.echo, "the secret word" * 1000).result(LIMIT) == "the secret word" * 1000
            )
        thread.join(LIMIT)
        middle.close()
    assert sum(map(len, heard)) > 30_000
    assert b"secret" not in b"".join(heard) and b"square" not in b"".join(heard)


# --- a mistake with the credential ------------------------------------------------------------


def mistake_of_client(master, path):
    """What a client with that credential is told; it must come from start(), within the time given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CW_CREDENTIAL", str(path))
        with pytest.raises(cw.ConnectionError) as caught:
            cw.ClusterExecutor(master.address, connect_timeout=0.5)
    return str(caught.value)


def mistake_of_worker(master, path):
    """The line with which such a worker ends."""
    with Program("-m", "cw.worker", master.address, CW_CREDENTIAL=str(path)) as worker:
        assert worker.wait() == 1
        assert "Traceback" not in worker.err
        return worker.err.splitlines()[-1]


def test_another_credential_is_told_where_the_mistake_is_and_logged_at_the_other_side(other):
    with Master() as master:
        for told in (mistake_of_client(master, other), mistake_of_worker(master, other)):
            assert f"the master at {master.address} has another credential than {other}" in told
            assert "copy" in told and told.count("\n") == 0
        lines = master.lines_of("acceptor.turned_away")
        assert lines and all(re.search(r"127\.0\.0\.1:\d+ .*its credential is another one", x) for x in lines)


@pytest.mark.parametrize("mistake", ["open", "garbage", "foreign", "expired"])
def test_a_credential_that_cannot_be_used_is_told_at_once(other, mistake):
    import datetime

    if mistake == "open":
        other.chmod(0o644)
    elif mistake == "garbage":
        other.write_text("hello")
    elif mistake == "foreign":
        if os.geteuid() != 0:
            pytest.skip("only root can give a file away")
        os.chown(other, 12345, 12345)
    else:
        other.write_bytes(make_pem(end=datetime.datetime(2001, 1, 1)))
    text = {
        "open": "chmod 600", "garbage": "is no credential", "foreign": "belongs to another user",
        "expired": "has expired",
    }[mistake]  # fmt: skip
    port = free_port()
    with only_tcp(port), Master("--port", str(port)) as master:
        assert text in mistake_of_client(master, other)
        assert text in mistake_of_worker(master, other)
    with Program("-m", "cw.master", "--port", "0", CW_CREDENTIAL=str(other)) as program:
        assert program.wait() == 1
        assert text in program.err and "Traceback" not in program.err


def test_a_missing_credential_is_waited_for_and_told(tmp_path):
    with Master() as master:
        missing = tmp_path / "missing.pem"
        assert f"there is no credential at {missing}" in mistake_of_client(master, missing)
        with Program("-m", "cw.worker", master.address, CW_CREDENTIAL=str(missing)) as worker:
            worker.wait_for(f"there is no credential at {missing}")
            os.link(credential.load().path, missing)  # it shows up late
            worker.wait_for_event("worker.joined")


def test_without_a_master_the_missing_credential_is_not_what_is_told(tmp_path):
    """The first master makes it, so that is what is missing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CW_CREDENTIAL", str(tmp_path / "missing.pem"))
        with pytest.raises(cw.ConnectionError, match=r"start one with `\S+ -m cw.master`"):
            cw.ClusterExecutor(LOOPBACK, free_port(), connect_timeout=0.3)


# --- an impostor ------------------------------------------------------------------------------


class Impostor:
    """Listens where a master should be, and notes what it hears. With `contexts` it does the handshake, too."""

    def __init__(self, contexts=None):
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        self.heard = []
        self._contexts = contexts
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while True:
            sock, _ = self._listener.accept()
            sock.settimeout(2)
            with contextlib.suppress(OSError), sock:
                if sock.recv(1, socket.MSG_PEEK) == b"!":
                    return
                if self._contexts is not None:
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # one that asks for nothing
                    context.load_cert_chain(self._contexts)
                    sock = context.wrap_socket(sock, server_side=True)
                while data := sock.recv(65536):
                    self.heard.append(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with socket.create_connection((LOOPBACK, self.port)) as sock:
            sock.sendall(b"!")
            self._thread.join(LIMIT)
        self._listener.close()


@pytest.mark.parametrize("with_tls", [False, True], ids=["plain", "TLS"])
def test_an_impostor_hears_nothing_of_value(other, with_tls):
    """Another credential, no credential, no TLS: client and worker leave before they have said who they are."""
    credential.load_or_make()
    with Impostor(other if with_tls else None) as impostor:
        with pytest.raises(cw.ConnectionError, match="another credential" if with_tls else "no"):
            cw.ClusterExecutor(LOOPBACK, impostor.port, connect_timeout=0.5)
        with Program("-m", "cw.worker", f"{LOOPBACK}:{impostor.port}") as worker:
            if with_tls:
                worker.wait_for("another credential")
            else:
                worker.wait_for_event("worker.no_master")
    heard = b"".join(impostor.heard)
    assert b"client" not in heard and b"worker" not in heard and os.uname().nodename.encode() not in heard
    if with_tls:
        assert not heard  # inside of TLS: nothing at all


def test_an_impostor_of_the_same_user_at_the_local_name_does_not_matter():
    """The local name carries the credential's fingerprint: one with another credential is not looked for."""
    fingerprint = credential.load_or_make().fingerprint
    with Master() as master:
        assert sockets.connect_locally(master.port, "f" * 64) is None
        sock = sockets.connect_locally(master.port, fingerprint)
        assert sock is not None
        sock.close()


# --- faulty peers that hold the credential ----------------------------------------------------


class Peer:
    """One that has the credential, and says what it likes."""

    def __init__(self, port, role=None, over_tls=True, ident=None):
        if over_tls:
            contexts = tls.Contexts(credential.load())
            self.socket = contexts.client.wrap_socket(connect(port))
        else:
            self.socket = sockets.connect_locally(port, credential.load().fingerprint)
        self.socket.settimeout(LIMIT)
        self.decoder = wire.Decoder()
        if role:
            self.send(self.hello(role, ident))
            self.receive(m.Welcome)

    @staticmethod
    def hello(role, ident=None):
        values = {
            "role": role, "ident": ident or os.urandom(16).hex(), "secret": os.urandom(16).hex() * (role == "client"),
            "protocol": m.PROTOCOL, "python": [3, 99], "version": "9.9", "host": "faulty", "pid": 7,
            "capacity": {"slots": 1} if role == "worker" else {},
        }  # fmt: skip
        return m.Hello(**values)

    def send(self, *messages):
        self.write(
            b"".join(
                bytes(buffer) for message in messages for frame in wire.encode(message) for buffer in frame
            )
        )

    def write(self, data):
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            self.socket.sendall(data)

    def receive(self, kind):
        while True:
            data = self.socket.recv(65536)
            assert data, "closed"
            for message in self.decoder.feed(data):
                if type(message) is kind:
                    return message

    def is_closed(self):
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while self.socket.recv(65536):
                pass
        return True

    def close(self):
        self.socket.close()


def frame(kind, body=b"", size=None, flags=0, zero=0):
    return wire.HEADER.pack(len(body) if size is None else size, kind, flags, zero) + body


OBJECTS = m.Objects([0, 0], [2, 1], [m.ENVIRONMENT, m.FUNCTION], [(), (2,)], [b"here", b"f"])
BEFORE_HELLO = {
    "a job": m.Submit([1], [1], [0], [b"x"]),
    "results": m.Results([1], [0], [0.1], [b"x"]),
    "a large frame": frame(1, size=10**6),
    "an impossible frame": frame(1, size=2**32 - 1),
    "a large payload": frame(69, struct.pack("<IQBfQ", 1, 1, 0, 0.0, 2**40), flags=1),
    "an unknown kind": frame(200, b"xx"),
    "deep JSON": frame(1, b"[" * 4000),
}
FROM_CLIENT = {
    "a second hello": [Peer.hello("client")],
    "a worker's message": [m.Results([1], [0], [0.1], [b"x"])],
    "a master's message": [m.Dispatch(*[[1]] * (len(m.Dispatch._fields) - 1), [b"x"])],
    "a function without an environment": [m.Objects([0], [1], [m.FUNCTION], [()], [b"f"])],
    "a job of an unknown function": [OBJECTS, m.Submit([1], [9], [0], [b"x"])],
    "a job with unknown options": [OBJECTS, m.Submit([1], [1], [9], [b"x"])],
    "a number twice": [OBJECTS, m.Submit([1, 1], [1, 1], [0, 0], [b"x", b"y"])],
    "the same again": [OBJECTS, *2 * [m.Submit([1], [1], [0], [b"x"])]],
    "an object twice": [OBJECTS, OBJECTS],
    "wrong options": [m.Objects([0], [1], [m.OPTIONS], [()], [b'{"attempts":"many"}'])],
    "too many jobs": [OBJECTS,
                      *[m.Submit(list(range(n, n + 1000)), [1] * 1000, [0] * 1000, [b""] * 1000)
                        for n in range(1, 60_000, 1000)]],
    "too many bytes": [OBJECTS,
                       *[m.Submit([n], [1], [0], [bytes(2**20)]) for n in range(1, 150)]],
    "an oversized frame": frame(66, size=wire.MAX_BODY + 1),
    "a piece of nothing": frame(255, b"x"),
    "a wrong count": frame(66, struct.pack("<I", 2**31)),
    "trailing bytes": frame(32, struct.pack("<IQ", 1, 1) + b"x"),
}  # fmt: skip
FROM_WORKER = {
    "a client's message": [m.Submit([1], [1], [0], [b"x"])],
    "a status unheard of": [m.Results([1], [9], [0.1], [b"x"])],
    "a duration that is none": [m.Results([1], [0], [float("nan")], [b"x"])],
    "an answer to no recall": [m.Recalled([])],
    "a note that is a list": frame(9, b"[1,[]]"),
    "deep JSON": frame(9, b"[1," + b"[" * 100_000),
}


def say(peer, what):
    if isinstance(what, bytes):
        peer.write(what)
    else:
        peer.send(*what)


@pytest.fixture(scope="module")
def site():
    """A master with one worker, and a client that must never notice anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CW_HOME", os.environ["CW_HOME"] + "-site")
        with (
            Master() as master,
            Worker(master.address),
            cw.ClusterExecutor(LOOPBACK, master.port) as executor,
        ):
            yield master, executor


def is_logged_once(master, before):
    assert "Traceback" not in master.err[before:]
    return events_in(master.err[before:]).count("network.protocol_broken") == 1


@pytest.mark.parametrize("what", BEFORE_HELLO)
def test_before_a_hello_nothing_else_is_listened_to(site, what):
    master, executor = site
    before = len(master.err)
    peer = Peer(master.port)
    say(peer, BEFORE_HELLO[what] if isinstance(BEFORE_HELLO[what], bytes) else [BEFORE_HELLO[what]])
    assert peer.is_closed()
    peer.close()
    wait_until(lambda: is_logged_once(master, before), LIMIT, lambda: master.err[before:])
    assert executor.submit(jobs.square, 7).result(LIMIT) == 49


@pytest.mark.parametrize(
    "over_tls", [pytest.param(True, marks=pytest.mark.slow), False], ids=["TLS", "local"]
)
@pytest.mark.parametrize("what", FROM_CLIENT)
def test_a_client_that_breaks_the_protocol_is_closed_with_one_line(site, what, over_tls):
    master, executor = site
    running = executor.submit(jobs.nap, 0.2, "undisturbed")
    before = len(master.err)
    peer = Peer(master.port, "client", over_tls)
    say(peer, FROM_CLIENT[what])
    assert peer.is_closed()
    peer.close()
    wait_until(lambda: is_logged_once(master, before), LIMIT, lambda: master.err[before:])
    assert running.result(LIMIT) == "undisturbed"
    assert executor.submit(jobs.square, 7).result(LIMIT) == 49


@pytest.mark.parametrize("what", FROM_WORKER)
def test_a_worker_that_breaks_the_protocol_is_closed_with_one_line(site, what):
    master, executor = site
    before = len(master.err)
    peer = Peer(master.port, "worker")
    say(peer, FROM_WORKER[what])
    assert peer.is_closed()
    peer.close()
    wait_until(lambda: is_logged_once(master, before), LIMIT, lambda: master.err[before:])
    assert executor.submit(jobs.square, 7).result(LIMIT) == 49


def test_a_worker_that_claims_jobs_of_others_is_not_listened_to(site):
    master, executor = site
    future = executor.submit(jobs.nap, 0.5, "the right one")
    peer = Peer(master.port, "worker")
    numbers = [base + n for base in (0, int(time.time() * 1000) << 22) for n in range(2000)]
    count = len(numbers)
    peer.send(
        m.Results(numbers, [0] * count, [0.1] * count, [b"forged"] * count),
        m.Returned(numbers),
        m.Started(numbers),
        *[m.RunnerDied(number, {"how": "forged"}) for number in numbers[:50]],
    )
    assert future.result(LIMIT) == "the right one"
    peer.close()


def test_a_client_cancels_only_its_own(site):
    master, executor = site
    future = executor.submit(jobs.nap, 0.5, "mine")
    peer = Peer(master.port, "client")
    peer.send(m.Cancel(list(range(5000))))
    assert future.result(LIMIT) == "mine"
    peer.close()


def test_a_frame_cut_short_harms_nobody(site):
    master, executor = site
    for number, over_tls in enumerate([True, False] * 10):
        peer = Peer(master.port, "client", over_tls)
        peer.write(frame(66, bytes(1000))[: 5 + 50 * number])
        peer.close()
    assert executor.submit(jobs.square, 7).result(LIMIT) == 49


def test_a_large_payload_that_never_comes_costs_no_memory(site):
    master, executor = site
    before = resident(master.pid)
    peers = [Peer(master.port, "client") for _ in range(5)]
    for peer in peers:
        peer.send(OBJECTS)
        peer.write(frame(66, struct.pack("<IQIIQ", 1, 1, 1, 0, 8 * 2**30), flags=1))
        peer.write(frame(255, size=2**20) + bytes(1000))
    assert executor.submit(jobs.square, 7).result(LIMIT) == 49
    assert resident(master.pid) - before < 50
    for peer in peers:
        peer.close()


# --- pending peers, with work going on ------------------------------------------------------------


def resident(pid):
    """MiB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def garbage(port, number):
    yield connect(port, number, os.urandom(2000))
    yield connect(port, number, b"\x16\x03\x01\x02\x00" + os.urandom(512))


def half_handshakes(port, number):
    yield client_hello(port, number)


def silence(port, number):
    yield connect(port, number)


def slow_senders(port, number):
    """The beginning of a handshake, of which more comes byte by byte."""
    yield connect(port, number, b"\x16\x03\x01\x40\x00\x01")


def wrong_certificates(port, number):
    with contextlib.suppress(OSError):
        sock = connect(port, number)
        secured = STRANGER.client.wrap_socket(sock, do_handshake_on_connect=False)
        secured.settimeout(1)
        try:
            secured.do_handshake()
        finally:
            secured.close()
    yield from ()


STRANGER = None
ATTACKS = {
    # What pending peers do, how many a second, how many of them stay.
    "garbage": (garbage, 100, 50),
    "half handshakes": (half_handshakes, 100, 500),
    "500 idle connections": (silence, 400, 500),
    "slow senders": (slow_senders, 200, 400),
    "a flood from many addresses": (silence, 500, 0),
    "wrong certificates": (wrong_certificates, 60, 0),
}


class Attack:
    """Strangers who come for as long as the block lasts; those who stay send a byte now and then, if they are slow."""

    def __init__(self, name, port):
        self._come, self._rate, self._most = ATTACKS[name]
        self._port = port
        self._is_over = threading.Event()
        self._is_paused = threading.Event()
        self.count = 0
        self._here = []
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        begin = time.monotonic()
        while not self._is_over.is_set() and self.count < 20_000:
            if self._is_paused.is_set():
                time.sleep(0.01)
                begin = time.monotonic() - self.count / self._rate
                continue
            due = int((time.monotonic() - begin) * self._rate) - self.count
            for _ in range(min(due, 20)):
                self.count += 1
                with contextlib.suppress(OSError):
                    self._here += self._come(self._port, self.count)
            while len(self._here) > self._most:
                self._here.pop(0).close()
            if self._come is slow_senders and self._here:
                for sock in self._here[-20:]:
                    with contextlib.suppress(OSError):
                        sock.send(b"x")
            time.sleep(0.01)

    def pause(self):
        self._is_paused.set()

    def go_on(self):
        self._is_paused.clear()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        self._thread.join(LIMIT)
        for sock in self._here:
            sock.close()


ATTACKER = """
import sys, time
import test_security as t
from cw.net import tls
from cw.credential import Credential
from test_credential import make_pem
t.STRANGER = tls.Contexts(Credential("pending peer", make_pem()))
attack = t.Attack(sys.argv[1], int(sys.argv[2]))
attack.pause()
with attack:
    print("ready", flush=True)
    for line in sys.stdin:
        (attack.go_on if line.strip() == "go" else attack.pause)()
        print(attack.count, flush=True)
"""


@contextlib.contextmanager
def attacker(name, port):
    """The attack, in a process of its own; call `order('go' | 'pause')`."""
    import subprocess

    process = subprocess.Popen(
        [sys.executable, "-c", ATTACKER, name, str(port)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(cw.__file__).parent.parent), str(Path(__file__).parent)]),
        },
    )  # fmt: skip

    def order(word):
        process.stdin.write(word + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    try:
        assert process.stdout.readline() == "ready\n"
        yield order
    finally:
        process.stdin.close()
        process.wait(LIMIT)
        process.stdout.close()


def rate_of_work(executor, seconds):
    """Jobs a second."""
    begin, done = time.monotonic(), 0
    while (lasted := time.monotonic() - begin) < seconds:
        for _ in executor.map(jobs.square, range(500)):
            done += 1
    return done / lasted


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("name", ATTACKS)
def test_strangers_do_not_slow_the_work(name):
    """In turns with and without them, so that what else the machine does weighs on both alike."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        with (
            Master() as master,
            Worker(master.address, "-n", "2"),
            cw.ClusterExecutor(LOOPBACK, master.port) as executor,
        ):
            rate_of_work(executor, 0.5)
            before = resident(master.pid)
            ratios = []
            with attacker(name, master.port) as order:
                for _ in range(40):
                    without = rate_of_work(executor, 0.3)
                    order("go")
                    under = rate_of_work(executor, 0.3)
                    if len(ratios) == 6:
                        assert_a_newcomer_gets_in(master.port)
                    came = order("pause")
                    ratios.append(under / without)
                    if len(ratios) >= 7 and statistics.median(ratios) >= 0.8:
                        break
            print(name, came, "strangers; ratios", [round(ratio, 2) for ratio in ratios])
            assert came > 50
            assert statistics.median(ratios) >= 0.8, ratios
            assert resident(master.pid) - before < 60
            assert master.process.poll() is None
            assert len(master.err.splitlines()) < 200  # rate-limited
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def assert_a_newcomer_gets_in(port):
    """Through the TCP port, in the middle of the attack; within a second, of three tries, as the machine is shared."""
    lasted = []
    for _ in range(3):
        begin = time.monotonic()
        sock = connect(port, 77)
        try:
            Newcomer = tls.connect(sock, tls.Contexts(credential.load()), "here", 10)
            Newcomer.close()
            lasted.append(time.monotonic() - begin)
        except OSError as error:
            lasted.append(error)
            continue
        if lasted[-1] < 1.0:
            return
    pytest.fail(f"no newcomer got in: {lasted}")


def test_idle_connections_are_bounded_and_dropped():
    with Master() as master:
        strangers = [connect(master.port, number) for number in range(acceptor.PENDING_PEERS + 50)]
        for sock in strangers[:50]:
            assert is_turned_away(sock)
        assert_a_newcomer_gets_in(master.port)
        count = len(os.listdir(f"/proc/{master.pid}/fd"))
        assert count < acceptor.PENDING_PEERS + 40
        for sock in strangers:
            sock.close()


def test_a_replay_of_a_whole_session_opens_nothing():
    """The bytes that a client with the credential has sent, sent again by somebody who has heard them."""
    recorded = []
    with Master() as master:
        middle = socket.create_server((LOOPBACK, 0))

        def relay():
            client = middle.accept()[0]
            server = socket.create_connection((LOOPBACK, master.port))
            server.settimeout(0.2)
            client.settimeout(0.2)
            with contextlib.suppress(OSError):
                for _ in range(6):
                    with contextlib.suppress(TimeoutError):
                        data = client.recv(65536)
                        recorded.append(data)
                        server.sendall(data)
                    with contextlib.suppress(TimeoutError):
                        client.sendall(server.recv(65536))
            client.close()
            server.close()

        thread = threading.Thread(target=relay)
        thread.start()
        sock = socket.create_connection(middle.getsockname())
        secured = tls.connect(sock, tls.Contexts(credential.load()), "here", LIMIT)
        hello = b"".join(bytes(buffer) for part in wire.encode(Peer.hello("client")) for buffer in part)
        secured.send(hello)
        thread.join(LIMIT)
        secured.close()
        middle.close()
        master.wait_for_event("master.client_joined", "client faulty")
        joined = master.events.count("master.client_joined")
        replayer = connect(master.port, 9)
        for data in recorded:
            with contextlib.suppress(OSError):
                replayer.sendall(data)
                time.sleep(0.05)
        assert is_turned_away(replayer)
        assert master.events.count("master.client_joined") == joined


def test_the_state_files_of_a_cluster_are_private(monkeypatch):
    old = os.umask(0)
    try:
        monkeypatch.delenv("CW_CREDENTIAL")
        cw.mp.start(1)
        try:
            with cw.ClusterExecutor() as executor:
                executor.submit(jobs.square, 7).result(LIMIT)
            home = Path(os.environ["CW_HOME"])
            found = {path: path.stat().st_mode & 0o777 for path in [home, *home.rglob("*")]}
            assert {mode for path, mode in found.items() if path.is_dir()} == {0o700}
            assert {mode for path, mode in found.items() if path.is_file()} == {0o600}
            assert json.loads(next(home.rglob("state.json")).read_text())
        finally:
            cw.mp.stop()
    finally:
        os.umask(old)
