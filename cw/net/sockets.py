"""What is asked of the kernel about sockets: descriptors beside the bytes, who is at the other end, patience.

on one machine     an abstract name beside the TCP port; the kernel says whose process is at the other end
between machines   TCP, told to notice a dead host by itself
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
"""Descriptors taken from a socket at once, or held for frames to come; the kernel gives them frame by frame."""

NOBODY = 65534
"""The kernel's overflow uid: what a user of another user namespace looks like."""

SILENCE = 30.0
"""Seconds without an answer from the other host's kernel after which a connection is dead. It is asked after half."""

_ANCILLARY = socket.CMSG_SPACE(MOST_FILES * array("i").itemsize)


def receive_with_files(sock: socket.socket, into: memoryview, flags: int = 0) -> tuple[int, list[int]]:
    """As `recv_into`, on a socket of this machine; also the descriptors that came with the bytes."""
    count, ancillary, flags, _ = sock.recvmsg_into([into], _ANCILLARY, flags | socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += array("i", data[: len(data) - len(data) % 4])
    if flags & socket.MSG_CTRUNC:  # one was lost: its sender must send again, and no file
        for fd in fds:
            os.close(fd)
        error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        memory.is_short(error)
        raise error
    return count, fds


def is_own_peer(sock: socket.socket) -> bool:
    """Does the process at the other end, on this machine, belong to this user? The kernel says so.

    It tells who called connect(), or listen(). A user whom this user namespace does not know looks like
    NOBODY: who is NOBODY himself can tell nobody apart, and has to do with TLS.
    """
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    return bool(user == os.geteuid() != NOBODY)


def local_name(port: int, fingerprint: str) -> str:
    """Beside the TCP port, a master listens here for peers on its own machine (an abstract name: no file).

    Anybody can take a name like that, or connect to it: both sides ask `is_own_peer`. The fingerprint of the
    credential keeps apart clusters of the same user: peers with another credential do not meet here, and are
    turned away at the TCP port.
    """
    return f"\0cw/{port}/{fingerprint[:32]}"


def listen_locally(port: int, fingerprint: str) -> socket.socket | None:
    """A socket for peers on this machine, beside the one that listens on the TCP port. None: the name is taken."""
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
    """'HOST:PORT' of the other end, for log lines."""
    try:
        name = sock.getpeername()
    except OSError:
        return "(gone)"
    if not isinstance(name, tuple):
        return "this machine"
    # (A listener that takes IPv4, too, shows it with that prefix.)
    return address.join(name[0].removeprefix("::ffff:"), name[1])


def tune(sock: Any, patience: float = SILENCE) -> None:
    """Small frames go at once; a dead host is found by the kernel, however busy this process is."""
    patience = min(max(patience, 1.0), 3600.0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(patience / 2)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int(patience / 6)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(patience * 1000))
