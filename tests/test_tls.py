"""Handshakes, and a secured socket under a Connection. Both ends are in this process; no names, no addresses."""

import contextlib
import os
import socket
import ssl
import threading
import time

import pytest
from test_credential import make_pem

from cw import credential
from cw.credential import Credential, WrongCredential
from cw.net import messages as m
from cw.net import tls, wire
from cw.net.batches import FRAME
from cw.net.connection import Connection
from cw.net.loop import Loop


@pytest.fixture(scope="module")
def own():
    return tls.Contexts(Credential("own.pem", make_pem()))


def shake_hands(server, client, seconds=10.0):
    """Both sides, each in a thread; what each came to: a tls.Socket or an exception."""
    theirs, ours = socket.socketpair()
    theirs.setblocking(False)
    results = {}

    def serve():
        handshake = tls.Handshake(theirs, server)
        deadline = time.monotonic() + seconds
        try:
            while (done := handshake.step()) is None:
                assert time.monotonic() < deadline
                time.sleep(0.0005)
            results["server"] = done
        except OSError as error:
            handshake.close()
            results["server"] = error

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        results["client"] = tls.connect(ours, client, "node7:1", seconds)
    except OSError as error:
        results["client"] = error
    thread.join(30)
    return results["server"], results["client"]


def test_two_with_the_same_credential_meet(own):
    server, client = shake_hands(own, own)
    for sender, receiver in ((server, client), (client, server)):
        assert sender.send(b"hello") == 5
        into = memoryview(bytearray(100))
        deadline = time.monotonic() + 10
        while True:
            try:
                assert receiver.recv_into(into) == 5 and bytes(into[:5]) == b"hello"
                break
            except BlockingIOError:
                assert time.monotonic() < deadline
    server.close()
    client.close()


def test_it_is_tls_1_3_and_nothing_older(own):
    for context in (own.server, own.client):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
        assert context.verify_mode == ssl.CERT_REQUIRED
    assert own.server.num_tickets == 0
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    theirs, ours = socket.socketpair()
    theirs.setblocking(False)
    handshake = tls.Handshake(theirs, own)
    stranger = old.wrap_socket(ours, do_handshake_on_connect=False)
    stranger.settimeout(10)
    thread = threading.Thread(target=lambda: pytest.raises(OSError, stranger.do_handshake))
    thread.start()
    with pytest.raises(OSError, match="does not speak TLS 1.3"):
        while handshake.step() is None:
            time.sleep(0.001)
    handshake.close()
    thread.join(10)
    stranger.close()


def test_another_credential_is_refused_by_both_ends_each_with_its_sentence(own):
    other = tls.Contexts(Credential("other.pem", make_pem()))
    server, client = shake_hands(own, other)
    assert isinstance(client, WrongCredential)
    assert str(client).startswith("the master at node7:1 has another credential than other.pem: ")
    assert isinstance(server, OSError) and server.strerror == "its credential is another one"


def test_a_certificate_that_the_own_one_has_signed_is_not_the_own_one(own, tmp_path):
    """No authority: not even the key in hand makes another certificate good."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = own.credential.pem
    authority = x509.load_pem_x509_certificate(pem)
    signer = serialization.load_pem_private_key(pem[pem.index(b"-----BEGIN PRIVATE") :], None)
    key = ec.generate_private_key(ec.SECP256R1())
    signed = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "signed")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(datetime.datetime(2000, 1, 1))
        .not_valid_after(datetime.datetime(2100, 1, 1))
        .sign(signer, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "signed.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM) + private)
    contexts = tls.Contexts(own.credential)
    contexts.server.load_cert_chain(tmp_path / "signed.pem")
    contexts.client.load_cert_chain(tmp_path / "signed.pem")
    server, _ = shake_hands(own, contexts)
    assert isinstance(server, OSError) and server.strerror == "its credential is another one"
    _, client = shake_hands(contexts, own)
    assert isinstance(client, WrongCredential)


def test_who_shows_no_certificate_is_refused(own):
    theirs, ours = socket.socketpair()
    theirs.setblocking(False)
    handshake = tls.Handshake(theirs, own)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    stranger = context.wrap_socket(ours, do_handshake_on_connect=False)
    stranger.settimeout(10)
    thread = threading.Thread(target=stranger.do_handshake)
    thread.start()
    with pytest.raises(OSError, match="it has no credential"):
        while handshake.step() is None:
            time.sleep(0.001)
    handshake.close()
    thread.join(10)
    stranger.close()


def test_a_certificate_that_is_no_authority_works_too():
    contexts = tls.Contexts(Credential("leaf.pem", make_pem(is_authority=False)))
    server, client = shake_hands(contexts, contexts)
    assert isinstance(server, tls.Socket) and isinstance(client, tls.Socket)
    server.close()
    client.close()


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.0\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 100]
)
def test_what_is_no_master_is_told_as_such(own, answer):
    theirs, ours = socket.socketpair()
    theirs.sendall(answer)
    with pytest.raises(OSError, match="no cw master"):
        tls.connect(ours, own, "node7:1", 5.0)
    theirs.close()


def test_who_says_nothing_or_drips_is_left_in_time(own):
    theirs, ours = socket.socketpair()
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        tls.connect(ours, own, "node7:1", 0.2)
    theirs.close()
    theirs, ours = socket.socketpair()
    is_over = threading.Event()

    def drip():
        for byte in b"\x16\x03\x03\x40\x00" + bytes(1000):
            if is_over.wait(0.02):
                return
            theirs.send(bytes([byte]))

    thread = threading.Thread(target=drip)
    thread.start()
    with pytest.raises(TimeoutError):
        tls.connect(ours, own, "node7:1", 0.3)
    is_over.set()
    thread.join()
    theirs.close()
    assert time.monotonic() - begin < 5


# --- under a Connection -----------------------------------------------------------------------


class End:
    """A Connection on a loop that the test turns."""

    def __init__(self, sock):
        self.loop = Loop()
        self.connection = Connection(self.loop, sock)
        self.messages = []
        self.closed = None
        self.connection.on_message = self.messages.append
        self.connection.on_close = lambda reason: setattr(self, "closed", reason)

    def turn(self):
        self.loop._handle(self.loop._epoll.poll(0))


@pytest.fixture
def ends(own):
    made = [End(sock) for sock in shake_hands(own, own)]
    yield made
    for end in made:
        end.loop._close()


def turn_until(ends, condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        for end in ends:
            end.turn()


def test_messages_of_all_sizes_cross_both_ways_at_once(ends):
    one, other = ends
    sizes = [0, 1, 100, FRAME - 1, wire.LARGE, wire.LARGE + 1, 16384, 16385, 3 * wire.PIECE + 7]
    payloads = [os.urandom(size) for size in sizes]
    for end in ends:
        for number, payload in enumerate(payloads):
            end.connection.send(m.Results([number], [0], [0.5], [payload]))
            end.connection.send(m.Heartbeat())
    turn_until(ends, lambda: all(len(end.messages) == 2 * len(sizes) for end in ends))
    for end in ends:
        results = [message for message in end.messages if type(message) is m.Results]
        assert [bytes(message.payloads[0]) for message in results] == payloads
        assert end.connection.unsent == 0


def test_what_is_left_inside_the_secured_socket_is_not_forgotten(ends, monkeypatch):
    """The selector does not tell of bytes that OpenSSL holds; a turn that ends in the middle must not leave them."""
    monkeypatch.setattr("cw.net.connection.TURN", 1)
    one, other = ends
    other.loop.scratch = memoryview(bytearray(1000))  # of a record of 16 KiB
    for number in range(200):
        one.connection.send(m.Results([number], [0], [0.5], [bytes(300)]))
    turn_until(ends, lambda: len(other.messages) == 200, 10)


def test_a_slow_reader_delays_only_itself_and_gets_all(ends):
    one, other = ends
    payload = os.urandom(8 * 1024 * 1024)
    one.connection.send(m.Results([1], [0], [0.5], [payload]))
    for _ in range(50):
        one.turn()
    assert one.connection.unsent > 0
    one.connection.send(m.Heartbeat())
    turn_until(ends, lambda: len(other.messages) == 2)
    assert type(other.messages[0]) is m.Heartbeat  # control overtakes
    assert bytes(other.messages[1].payloads[0]) == payload


def test_the_end_is_noticed(ends):
    one, other = ends
    one.connection.send(m.Goodbye("enough"))
    one.connection.flush()
    one.connection.close()
    turn_until([other], lambda: other.closed is not None)
    assert other.messages == [m.Goodbye("enough")]
    assert other.closed == ""  # an end as on a plain socket, though without a goodbye of TLS


def test_a_byte_changed_on_the_way_ends_the_connection(own):
    """Somebody in between."""
    inside, outside = socket.socketpair(), socket.socketpair()
    inside[0].setblocking(False)
    results = []
    is_over = threading.Event()

    def relay():
        changed = False
        for sock in (inside[1], outside[1]):
            sock.setblocking(False)
        while not is_over.is_set():
            for source, target in ((inside[1], outside[1]), (outside[1], inside[1])):
                try:
                    data = bytearray(source.recv(65536))
                except BlockingIOError:
                    continue
                if len(data) > 5000 and not changed:
                    changed = True
                    data[2500] ^= 1
                target.setblocking(True)
                with contextlib.suppress(OSError):  # it has been closed, as it should be
                    target.sendall(data)
                target.setblocking(False)
            time.sleep(0.001)

    thread = threading.Thread(target=relay)
    thread.start()
    client = threading.Thread(target=lambda: results.append(tls.connect(outside[0], own, "node7:1", 10)))
    client.start()
    handshake = tls.Handshake(inside[0], own)
    while (served := handshake.step()) is None:
        time.sleep(0.001)
    client.join(10)
    one, other = End(served), End(results[0])
    one.connection.send(m.Results([1], [0], [0.5], [bytes(10_000)]))
    turn_until((one, other), lambda: other.closed is not None)
    assert other.messages == []
    is_over.set()
    thread.join(10)
    for end in (one, other):
        end.loop._close()
    for sock in (*inside, *outside):
        sock.close()


def test_the_credential_stays_out_of_what_is_shown(own):
    assert "PRIVATE" not in repr(own.credential) + repr(vars(own))
    assert credential.fault_among([OSError(), WrongCredential("x")]).may_pass
