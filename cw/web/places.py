"""Where `cw top --web` listens: a Unix socket in the user's own directory, or a port of this machine's loopback."""

from __future__ import annotations

import contextlib
import os
import socket
from urllib.parse import urlsplit

from cw import userdir
from cw.program import UsageError, UserError

LONGEST_PATH = 107
"""Most bytes of a Unix socket's path, of the kernel's."""


def at_socket() -> tuple[socket.socket, str]:
    """Return a socket that listens in the user's own directory, and its path. Raises UserError."""
    # The directory may be shared by several machines.
    path = os.path.join(userdir.make_home(), f"top-{os.uname().nodename.partition('.')[0]}.sock")
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise UserError(
            f"{path} is too long for a socket: set CW_HOME to a shorter directory, or give --port N"
        )
    _remove_leftover(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)
    except OSError as error:
        listener.close()
        raise UserError(f"no socket can be made at {path} ({error.strerror}): give --port N") from None
    return listener, path


def _remove_leftover(path: str) -> None:
    """Remove the socket of a process that has ended. Raises UserError if one serves there."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except OSError as error:
            raise UserError(
                f"{path} cannot be used ({error.strerror}): remove it, or give --port N"
            ) from None
    raise UserError(
        f"a `cw top --web` of yours serves at {path}: use it, or end it with Ctrl-C in its terminal"
    )


def at_port(port: int) -> socket.socket:
    """Return a socket that listens at that port of 127.0.0.1. Raises UserError."""
    listener = socket.socket(socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise UserError(
            f"port {port} cannot be used ({error.strerror}): choose another with --port N"
        ) from None
    return listener


def check_public_url(url: str) -> str:
    """Return the address of a page, which ends with '/'. Raises UsageError."""
    parts = urlsplit(url)
    if (
        parts.scheme not in ("http", "https")
        or not parts.netloc
        or parts.query
        or parts.fragment
        or "@" in url
    ):
        raise UsageError(
            f"{url!r} is not the address of a page: give one such as https://hub.example.org/user/ann/proxy/8765/"
        )
    return url if parts.path.endswith("/") else url + "/"


def how_to_reach(path: str) -> str:
    """Return what to type to see the page that is served at a Unix socket."""
    host = os.uname().nodename
    return (
        f"On your own machine, type\n\n    ssh -N -L 8765:{path} {host}\n\n"
        "and open http://localhost:8765/ in a browser there."
    )
