"""Socket functions of the kernel: descriptors beside the bytes, the owner of the other end, detection of dead hosts.

on one machine     an abstract name beside the TCP port; the kernel reports which user's process is at the other end
between machines   TCP, with options by which the kernel detects a dead host
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from array import array
from typing import Any

from cw.net import address, memory

MOST_FILES = 64
"""Most descriptors taken from a socket at once, or held for later frames; the kernel gives them frame by frame."""

NOBODY = 65534
"""The kernel's overflow uid, which it reports for a user of another user namespace."""

SILENCE = 30.0
"""Time without an answer from the other host's kernel after which a connection is dead (seconds). Probes begin after
half of it."""

# Plain numbers: an operation of two enum members costs more than the system call.
_CLOSED_ON_EXEC, _IS_CUT = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC)

_TCP_INFO = struct.Struct("<B51xI")
"""Fields of tcp_info(7): state; milliseconds since bytes came from the other end, or since it has connected."""

_ESTABLISHED = 1

_ANCILLARY = socket.CMSG_SPACE(MOST_FILES * array("i").itemsize)


def receive_with_files(sock: socket.socket, into: memoryview, flags: int = 0) -> tuple[int, list[int]]:
    """Receive as `recv_into` does, from a local socket. Returns the count, and the descriptors that came along."""
    count, ancillary, flags, _ = sock.recvmsg_into([into], _ANCILLARY, flags | _CLOSED_ON_EXEC)
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += array("i", data[: len(data) - len(data) % 4])
    if flags & _IS_CUT:  # a descriptor was lost: the sender must send again, without files
        for fd in fds:
            os.close(fd)
        error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        memory.is_short(error)
        raise error
    return count, fds


def is_own_peer(sock: socket.socket) -> bool:
    """True if the kernel reports that the process at the other end, on this machine, belongs to this user.

    The kernel reports the user that called connect(), or listen(). All users that this user namespace does
    not know are reported as NOBODY, so a process of NOBODY itself cannot tell them apart and must use TLS.
    """
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    return bool(user == os.geteuid() != NOBODY)


def local_name(port: int, fingerprint: str) -> str:
    """Name at which a master listens for peers on its own machine, beside the TCP port (an abstract name: no file).

    Any process can take such a name, or connect to it, so both sides check `is_own_peer`. The fingerprint of the
    credential separates clusters of the same user: a peer with another credential does not find this name, and is
    turned away at the TCP port.
    """
    return f"\0cw/{port}/{fingerprint[:32]}"


def listen_locally(port: int, fingerprint: str) -> socket.socket | None:
    """Listen for peers on this machine, beside the socket that listens on the TCP port. None: the name is taken."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(local_name(port, fingerprint))
        listener.listen(1024)
    except OSError:
        listener.close()
        return None
    return listener


def connect_locally(port: int, fingerprint: str) -> socket.socket | None:
    """Connect to this user's master on this machine. None: there is none at that port with that credential."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(local_name(port, fingerprint))
        if is_own_peer(sock):
            return sock
    except OSError:
        pass
    sock.close()
    return None


def name_of_peer(sock: socket.socket) -> str:
    """Name of the other end for log lines: 'HOST:PORT', or 'this machine'."""
    try:
        name = sock.getpeername()
    except OSError:
        return "(gone)"
    if not isinstance(name, tuple):
        return "this machine"
    # (A listener for IPv6 and IPv4 shows IPv4 addresses with that prefix.)
    return address.join(name[0].removeprefix("::ffff:"), name[1])


def silence_of_peer(sock: socket.socket) -> float | None:
    """Seconds since bytes came from the other end of a TCP socket, read or not; None: it has closed the connection."""
    state, milliseconds = _TCP_INFO.unpack(
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    )
    return milliseconds / 1000 if state == _ESTABLISHED else None


def tune(sock: Any, patience: float = SILENCE) -> None:
    """Let TCP send small frames at once, and the kernel detect a dead host, even if this process is busy.

    `patience`: time without an answer after which the connection is dead (seconds).
    """
    patience = min(max(patience, 1.0), 3600.0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(patience / 2)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int(patience / 6)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(patience * 1000))
