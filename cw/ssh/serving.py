"""Start of a master of `cw ssh`, on this machine or on one of the others: it listens before it is a process."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from cw import credential
from cw.launch import spawning
from cw.launch.launcher import Child, LaunchError, Lifeline
from cw.net.sockets import listen_locally


def start_master(
    path: str, logs: str, host: str, port: int, options: Sequence[str], lifeline: Lifeline | None = None
) -> tuple[Child, int]:
    """Start a master with the credential in the file `path`; returns it, and its port.

    `host`: '' for all addresses of this machine. `port` 0: a free one. Raises LaunchError, CredentialError.
    """
    listener = _listen(host, port)
    number = listener.getsockname()[1]
    listeners = {"--listen-fd": listener}
    if local := listen_locally(number, credential.load(path).fingerprint):
        listeners["--local-fd"] = local
    environment = {**os.environ, "CW_CREDENTIAL": path}
    arguments = ["--no-address-file", *options]
    return spawning.spawn(
        "master", arguments, logs, lifeline=lifeline, listeners=listeners, environment=environment
    ), number


def _listen(host: str, port: int) -> socket.socket:
    is_on_all = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_on_all else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=is_on_all)
    except OSError as error:
        raise LaunchError(
            f"the master cannot listen on port {port} ({error.strerror}): give another (--port), or 0 for a free one"
        ) from None


def free_port() -> int:
    """Return a port of the loopback interface that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        number: int = found.getsockname()[1]
        return number
