"""Connection to a master that has our credential: tries the addresses one by one, in a thread of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from cw import credential
from cw.net import address, in_process
from cw.net.connection import Connection
from cw.net.loop import Loop
from cw.net.sockets import connect_locally, tune


def dial(
    loop: Loop,
    addresses: Sequence[tuple[str, int]],
    timeout: float,
    on_connected: Callable[[socket.socket | Connection, tuple[str, int]], None],
    on_failed: Callable[[list[tuple[tuple[str, int], OSError]]], None],
) -> None:
    """Connect to the first master that has our credential. A thread of its own does this: a name may take long to
    resolve, and a handshake may take long. `timeout`: limit of each attempt (seconds).

    Calls one of the callbacks, in the loop's thread; `on_connected` gets a socket, or a connection to a master of this
    process; `on_failed` gets each address with its error.
    """

    if addresses and (admit := in_process.masters.get(addresses[0])) is not None:
        loop.call_later(0.0, lambda: on_connected(in_process.join(loop, admit), addresses[0]))
        return

    def work() -> None:
        failures: list[tuple[tuple[str, int], OSError]] = []
        for where in addresses:
            try:
                sock = _connect(where, timeout)
            except UnicodeError:  # raised by getaddrinfo for 'a..b'
                failures.append((where, socket.gaierror(socket.EAI_NONAME, "Name or service not known")))
                continue
            except OSError as error:
                failures.append((where, error))
                continue
            loop.call_soon_threadsafe(partial(on_connected, sock, where))
            return
        loop.call_soon_threadsafe(lambda: on_failed(failures))

    threading.Thread(target=work, name="cw-dial", daemon=True).start()


def _connect(where: tuple[str, int], timeout: float) -> Any:
    """Connect to that address. Returns a socket after the master has proved that it has our credential."""
    host, port = where
    try:
        # Read the file each time: it may have been made or changed since the last time.
        mine = credential.load(credential.OF_MASTERS.get(where, ""))
    except credential.CredentialMissing as error:
        # If no process listens there, that error must be solved first.
        socket.create_connection(where, timeout).close()
        raise error
    if address.is_loopback(host):
        local = connect_locally(port, mine.fingerprint)
        if local is not None:
            return local
    failure: OSError | None = None
    for family, kind, protocol, _, name in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(timeout)
            sock.connect(name)
            if sock.getsockname()[0] == name[0]:  # this machine, by a name of its own
                local = connect_locally(port, mine.fingerprint)
                if local is not None:
                    sock.close()
                    return local
            tune(sock)
            from cw.net import tls  # takes 15 ms, and peers on the master's machine do not need it

            return tls.connect(sock, tls.Contexts(mine), address.join(host, port), timeout)
        except OSError as error:
            sock.close()
            if not isinstance(failure, credential.WrongCredential):  # the most useful error to report
                failure = error
    assert failure is not None  # getaddrinfo gives one address, or raises
    raise failure
