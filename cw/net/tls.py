"""TLS with the cluster's credential: contexts, handshakes, and a secured socket for the I/O loop.

Plain `ssl.SSLContext`s of the standard library, TLS 1.3 and nothing older. Each end demands a certificate of
the other, trusts one single certificate, its own, and compares the two byte for byte. Names, authorities and
session tickets are not used.

This module is loaded when the first connection needs it: `ssl` takes 15 ms, and peers on the master's own
machine do not need it.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from cw import advice
from cw.credential import Credential, CredentialError, WrongCredential

RECORD = 64 * 1024
"""Bytes passed to OpenSSL at once. It makes records of 16 KiB of them, one at each call."""


FULL = 16 * 1024
"""Bytes in the largest record."""


class Contexts:
    """Both ends' settings for one credential. Raises CredentialError for an unusable one."""

    def __init__(self, credential: Credential) -> None:
        self.credential = credential
        # Load the bytes that were checked, since the file may have changed. A memory file has no name to be found.
        descriptor = os.memfd_create("cw-credential", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, credential.pem)
            path = f"/proc/self/fd/{descriptor}"
            self.server = self._context(ssl.PROTOCOL_TLS_SERVER, path)
            self.client = self._context(ssl.PROTOCOL_TLS_CLIENT, path)
        except (ssl.SSLError, ValueError) as error:
            raise CredentialError(
                f"the credential {credential.path} cannot be used ({_reason(error)}): copy it again, or make a new "
                f"one with `{advice.module('credential', '--new')}`"
            ) from None
        finally:
            os.close(descriptor)
        self.server.num_tickets = 0  # no resumption: each connection proves its key
        self._check_dates()

    def _context(self, protocol: int, path: str) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        # A key that needs a password then fails, instead of asking for it at the terminal.
        context.load_cert_chain(path, password="")
        context.load_verify_locations(cadata=self.credential.certificate)
        return context

    def _check_dates(self) -> None:
        for certificate in self.client.get_ca_certs():
            begin, end = (
                ssl.cert_time_to_seconds(str(certificate[key])) for key in ("notBefore", "notAfter")
            )
            if not begin <= time.time() <= end:
                what = "has expired" if time.time() > end else "is not valid yet (by this machine's clock)"
                raise CredentialError(
                    f"the credential {self.credential.path} {what}: make a new one with "
                    f"`{advice.module('credential', '--new')}`, for all machines"
                )

    def is_own(self, secured: ssl.SSLSocket) -> bool:
        """True if the other end's certificate is ours, byte for byte. Call it after the handshake."""
        return secured.getpeercert(binary_form=True) == self.credential.certificate


class Socket:
    """A secured socket that behaves like a plain non-blocking one. It has no `family`, since it never takes memory
    files."""

    def __init__(self, secured: ssl.SSLSocket) -> None:
        self._secured = secured  # (what follows does not keep it alive)
        # The C object in it: the methods around it cost six calls of Python for each message that comes, two for each
        # that goes. They differ only in what they do when the other end closes without a goodbye: see `recv_into`.
        self._object: Any = secured._sslobj  # type: ignore[attr-defined]
        self.fileno = secured.fileno
        self.getpeername = secured.getpeername
        self.setblocking = secured.setblocking
        self.close = secured.close
        self.setsockopt = secured.setsockopt
        self.getsockopt = secured.getsockopt
        self.pending = self._object.pending
        """Number of bytes that have left the kernel and wait in here: no selector reports them."""

    def recv_into(self, into: memoryview) -> int:
        """Receive what there is. If that is less than all of `into`, nothing is left in here."""
        receive = self._object.read
        count, size = 0, len(into)
        try:
            while count < size:
                received = receive(size - count, into[count:] if count else into)
                count += received
                # The end of the stream will be read again. A short record is the last of one write; if the kernel
                # has more, the selector reports it.
                if received < FULL and not self.pending():
                    break
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not count:
                raise BlockingIOError from None
        except (ssl.SSLEOFError, BrokenPipeError):
            pass  # the end of the stream; OpenSSL 3.6 sends an alert then, which nobody takes
        return count

    def send(self, buffer: Any) -> int:
        """Send as a plain socket does. Unsent bytes must be sent next, since OpenSSL has begun with them."""
        send: Callable[[Any], int] = self._object.write
        size = len(buffer)
        if size <= FULL:
            try:
                return send(buffer)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise BlockingIOError from None
        view, sent = memoryview(buffer), 0
        try:
            while sent < size:
                sent += send(view[sent : sent + RECORD])
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not sent:
                raise BlockingIOError from None
        return sent


# --- the handshake, from the side that connects ---------------------------------------------------


def connect(sock: socket.socket, contexts: Contexts, where: str, seconds: float) -> Socket:
    """Perform the handshake with the master at `where`; blocks for at most `seconds`. Takes over the socket.

    Raises WrongCredential; other OSErrors.
    """
    deadline = time.monotonic() + seconds
    sock.setblocking(False)
    try:
        secured = contexts.client.wrap_socket(sock, do_handshake_on_connect=False)
    except OSError:
        sock.close()
        raise
    try:
        _shake_hands(secured, deadline)
        if not contexts.is_own(secured):
            raise _wrong(contexts, where)
    except ssl.SSLCertVerificationError:
        secured.close()
        raise _wrong(contexts, where) from None
    except ssl.SSLError as error:
        secured.close()
        raise OSError(0, f"no cw master (of this version) answers there: {_reason(error)}") from None
    except BaseException:
        secured.close()
        raise
    return Socket(secured)


def _shake_hands(secured: ssl.SSLSocket, deadline: float) -> None:
    poller = select.poll()
    poller.register(secured.fileno(), select.POLLIN)
    while True:
        try:
            secured.do_handshake()
            return
        except ssl.SSLWantReadError:
            poller.modify(secured.fileno(), select.POLLIN)
        except ssl.SSLWantWriteError:
            poller.modify(secured.fileno(), select.POLLOUT)
        left = deadline - time.monotonic()
        if left <= 0 or not poller.poll(left * 1000):
            raise TimeoutError(0, "accepts the connection but says nothing")


def _wrong(contexts: Contexts, where: str) -> WrongCredential:
    return WrongCredential(
        f"the master at {where} has another credential than {contexts.credential.path}: if that master is yours, "
        f"copy its credential here (`{advice.elsewhere('credential', '--copy', 'HOST')}`, run where it is, says "
        "how), or name the right file in CW_CREDENTIAL"
    )


# --- the handshake, from the side that listens ----------------------------------------------------


class Handshake:
    """A handshake that has begun. Call `step()` when the descriptor is ready."""

    def __init__(self, sock: socket.socket, contexts: Contexts) -> None:
        self._contexts = contexts
        self._secured = contexts.server.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self.wants_to_write = False
        self.close = self._secured.close

    def has_answered(self) -> bool:
        """True if our answer to its first message has been sent. That was most of the work: its next message is cheap
        to check."""
        return self._secured.cipher() is not None

    def step(self) -> Socket | None:
        """Continue the handshake. Returns the secured socket when the other end has proved its credential, None before.
        Raises OSError with the reason if it fails."""
        self.wants_to_write = False
        try:
            self._secured.do_handshake()
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLWantWriteError:
            self.wants_to_write = True
            return None
        except ssl.SSLCertVerificationError:
            raise OSError(0, "its credential is another one") from None
        except ssl.SSLEOFError:
            raise OSError(0, "it left in the middle of the handshake") from None
        except ssl.SSLError as error:
            raise OSError(0, _REASONS.get(error.reason or "", _reason(error))) from None
        if not self._contexts.is_own(self._secured):
            raise OSError(0, "its credential is another one")
        return Socket(self._secured)


_REASONS = {
    "TLSV1_ALERT_UNKNOWN_CA": "its credential is another one",
    "SSLV3_ALERT_BAD_CERTIFICATE": "its credential is another one",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it has no credential",
    "UNSUPPORTED_PROTOCOL": "it does not speak TLS 1.3",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that the credential has expired",
}


def _reason(error: Exception) -> str:
    """OpenSSL's reason, in few words."""
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else str(error)
