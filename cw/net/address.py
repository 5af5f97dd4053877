"""Search for the master, by workers and clients alike, and the address files by which it is found.

    HOST given ------------------------------------------.
    CW_MASTER in the environment ------------------------|   the first of these that exists
    the cluster that this very process has started ------|   is the only candidate
    one that the program has started for itself of which  |
        this process is a child, or a child's child ------|
    in a job: the master that its worker was given ------'
    the address file of the cluster's name (CW_CLUSTER) --.
    (what other modules add to FINDERS) ------------------|   otherwise all of these, in this order:
    this machine, port 5494, unless CW_CLUSTER is set ----'   the connector skips those that refuse

A HOST without a port gets the port of the master that is known there: by the address file, which names the host, or, on
this machine, by any of these. Otherwise it is 5494.

Nothing here resolves names or connects: the connector does.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable
from typing import Any

from cw import processes
from cw.errors import Error
from cw.events import EventLogger
from cw.named_tuple import NamedTuple
from cw.net import interfaces
from cw.program import UserError
from cw.userdir import home_directory, locked, make_home, read_private, write_private

PORT = 5494
"""Default port of a master."""

DEFAULT_CLUSTER = "default"
"""Name of the cluster if CW_CLUSTER gives none."""

logger = EventLogger("cw.address")


NOTHING_KNOWN = "nothing else is known"
"""The source of the last candidate."""

AS_GIVEN = "as given"
"""The source of an address that the program has given."""


class AddressError(UserError, Error, ValueError):
    """An invalid address, or an invalid name of a cluster."""


class NotThere(Exception):
    """A cluster is known, but its master cannot be reached now, with the reason. No other master may replace it."""


class Candidate(NamedTuple):
    """An address at which a master may be."""

    host: str
    port: int
    source: str
    """The origin of this address, for messages."""

    def __str__(self) -> str:
        return f"{join(self.host, self.port)} ({self.source})"


# --- HOST:PORT ------------------------------------------------------------------------------


def parse(text: str) -> tuple[str, int | None]:
    """Parse `'HOST'`, `'HOST:PORT'`, `'[IPv6]:PORT'` or a bare IPv6 address to (host, port or None).

    Raises AddressError, a ValueError.
    """
    host, colon, port = _split(text.strip()) if isinstance(text, str) else ("", "", "")
    if not re.fullmatch(r"[0-9A-Fa-f:.]+(%\w+)?" if ":" in host else r"[^\s/@,[\]]+", host):
        raise AddressError(f"{text!r} is no address of a master: give HOST, HOST:PORT or [IPV6]:PORT")
    return host, check_port(port, text) if colon else None


def _split(text: str) -> tuple[str, str, str]:
    """Split into (host, colon, port), with an empty host if the text is invalid."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        is_sound = ":" in host and bracket and rest[:1] in ("", ":")
        return (host if is_sound else "", rest[:1], rest[1:])
    return (text, "", "") if text.count(":") > 1 else text.partition(":")


def check_port(port: int | str, context: str | None = None) -> int:
    """Convert `port` (int or text) to an int from 1 to 65535. Raises AddressError, a ValueError."""
    digits = str(port)
    if isinstance(port, bool) or not re.fullmatch("[0-9]{1,5}", digits) or not 1 <= int(digits) <= 65535:
        where = "" if context in (None, port) else f" in {context!r}"
        raise AddressError(f"{digits!r}{where} is no port: give a number from 1 to 65535")
    return int(digits)


def join(host: str, port: int) -> str:
    """Join to `'HOST:PORT'`, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# --- finding the master ---------------------------------------------------------------------

# The masters that this process has started, the innermost last: an address, or (with port 0) the name of a cluster
# with a master that may move. Changed by launchers, in the user's threads.
_started_here: list[tuple[str, int]] = []

# Not CW_MASTER, which has precedence over a cluster that a job starts for itself.
_OF_WORKER = "CW_MASTER_OF_WORKER"

# 'HOST:PORT PID START': the program's process and its start time; its end is that of its cluster.
_OF_PROGRAM = "CW_MASTER_OF_PROGRAM"


def bind_process(address: str) -> None:
    """Make the master at `address` ('HOST:PORT') the default for clients of this process from now on."""
    host, port = parse(address)
    _started_here.append((host, port or PORT))


def bind_cluster(name: str) -> None:
    """Make the cluster of that name the default, as `bind_process` does. Its address file names the master."""
    _started_here.append((name, 0))


def unbind_cluster(name: str) -> None:
    """Undo `bind_cluster`, in the same way as `unbind_process`."""
    for bound in reversed(_started_here):
        if bound == (name, 0):
            _started_here.remove(bound)
            return


def bind_jobs(host: str, port: int | None = None) -> None:
    """Make a worker's master the default for its jobs, and for the processes that these start."""
    name, named_port = parse(host)
    port = port or named_port
    os.environ[_OF_WORKER] = join(name, port) if port else name
    os.environ.pop(_OF_PROGRAM, None)


def bind_program(address: str) -> None:
    """Make the master at `address` the default of this process and of all that it starts, as long as it lives."""
    bind_process(address)
    os.environ[_OF_PROGRAM] = f"{address} {processes.identity(os.getpid())}"


def _of_program() -> str:
    """Return the address of the master that the program has started of which this process is a child, or ''."""
    address, _, process = os.environ.get(_OF_PROGRAM, "").partition(" ")
    pid = process.partition(" ")[0]
    return address if pid.isdecimal() and processes.identity(int(pid)) == process else ""


def names_one() -> bool:
    """True if there is but one candidate: it is named by the environment, or by what this process is a part of."""
    is_in_one = _started_here or _of_program() or os.environ.get(_OF_WORKER)
    return bool(os.environ.get("CW_MASTER") or is_in_one) or cluster_name() != DEFAULT_CLUSTER


def started_here() -> str:
    """The address of the master that `bind_process` named last, or ''."""
    return join(*_started_here[-1]) if _started_here and _started_here[-1][1] else ""


def unbind_process(address: str) -> None:
    """Undo `bind_process` or `bind_program`; nothing happens if it was undone before, or never done."""
    if os.environ.get(_OF_PROGRAM) == f"{address} {processes.identity(os.getpid())}":
        del os.environ[_OF_PROGRAM]
    for bound in reversed(_started_here):
        if join(*bound) == address:
            _started_here.remove(bound)
            return


def find_master(host: str | None = None, port: int | None = None) -> list[Candidate]:
    """List the addresses at which the master may be, the likeliest first.

    The list is empty if a cluster is named (by CW_CLUSTER, or `bind_cluster`) but its master is not known (yet).
    `host` may be 'HOST:PORT'. A given port has precedence over one that is found. Call this again before every
    round of attempts: a master may have started, or come back at another address. Raises AddressError or HomeError.
    """
    global _why_not_there
    port, _why_not_there = None if port is None else check_port(port), ""
    named: tuple[str, int | None]
    if host:
        named, source = parse(host), AS_GIVEN
        if port and named[1] and named[1] != port:
            raise AddressError(f"{host!r} and port {port} contradict each other: give the port once")
    elif os.environ.get("CW_MASTER"):
        try:
            named, source = parse(os.environ["CW_MASTER"]), "from CW_MASTER"
        except AddressError as error:
            raise AddressError(f"in the environment variable CW_MASTER: {error}") from None
    elif _started_here and not _started_here[-1][1]:
        found = find_cluster(_started_here[-1][0])
        return [c._replace(port=port) for c in found] if port else found
    elif _started_here:
        named, source = _started_here[-1], "started by this program"
    elif of_program := _of_program():
        named, source = parse(of_program), "started by the program that this process is a child of"
    elif os.environ.get(_OF_WORKER):
        named, source = parse(os.environ[_OF_WORKER]), "that of the worker"
    else:
        try:
            found = [candidate for find in FINDERS for candidate in find()]
        except NotThere as error:
            _why_not_there = str(error)
            return []
        return [c._replace(port=port) for c in found] if port else found
    name, named_port = named
    return [Candidate(name, port or named_port or _known_port(name) or PORT, source)]


def why_not_found() -> str:
    """Reason why `find_master` has found no master, and what to do."""
    if _why_not_there:
        return _why_not_there
    name = sought_cluster()
    others = ", ".join(map(repr, known_clusters())) or "none"
    return (
        f"no master of the cluster {name!r} is known (there is no {address_file(name)}; clusters that are known: "
        f"{others}): start one, or check the name in CW_CLUSTER"
    )


def find_cluster(name: str) -> list[Candidate]:
    """List the addresses of the master in the address file of the cluster `name`. The list may be empty."""
    entry = read_address(name)
    if entry is None:
        return []
    source = f"from {address_file(name)}"
    hosts = [host for host in entry["addresses"] if not is_loopback(host)]
    if entry["machine"] == _machine():
        hosts = entry["loopback"] + hosts
    if not hosts:
        logger.warning(
            "address.not_reachable",
            "%s is passed over: only programs on %s reach its master, as the master's --host says",
            address_file(name),
            entry["host"],
        )
    return [Candidate(host, entry["port"], source) for host in hosts]


def _find_in_address_file() -> list[Candidate]:
    return find_cluster(cluster_name())


def _find_on_this_machine() -> list[Candidate]:
    # Not for a cluster that was named: a master that answers here belongs to another one.
    return [Candidate("localhost", PORT, NOTHING_KNOWN)] if cluster_name() == DEFAULT_CLUSTER else []


_why_not_there = ""

FINDERS: list[Callable[[], list[Candidate]]] = [_find_in_address_file, _find_on_this_machine]
"""Functions that are called in this order if no host is named. Launchers of masters on other machines insert theirs
before the last. They may raise NotThere."""


def _known_port(host: str) -> int | None:
    """Return the port of the master that is known on this host."""
    if is_loopback(host):
        here = [Candidate(*own, "") for own in _started_here[-1:] if own[1]]
        with contextlib.suppress(NotThere):
            here += [candidate for find in FINDERS for candidate in find()]
        return next((candidate.port for candidate in here if is_loopback(candidate.host)), None)
    entry = read_address()
    is_named = entry and any(_is_same_host(host, other) for other in [entry["host"], *entry["addresses"]])
    return entry["port"] if entry and is_named else None


def is_loopback(host: str) -> bool:
    """True if the name or address always means the own machine."""
    plain = _plain(host)
    return plain in ("localhost", "::1") or plain.startswith("127.")


def _plain(host: str) -> str:
    """Normalise the host's spelling: lower case, IPv6 in its short form."""
    host = host.lower().rstrip(".")
    if ":" in host:
        with contextlib.suppress(OSError):
            return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, host))
    return host


def _is_same_host(one: str, other: str) -> bool:
    """True for the same address or name; a short name matches the full one."""
    one, other = _plain(one), _plain(other)
    if ":" in one + other or re.fullmatch("[0-9.]+", one) or re.fullmatch("[0-9.]+", other):
        return one == other
    return one == other or (("." in one) != ("." in other) and one.split(".")[0] == other.split(".")[0])


# --- the address file -----------------------------------------------------------------------


def cluster_name() -> str:
    """Name of the cluster that this process belongs to: CW_CLUSTER, or 'default'."""
    return check_cluster_name(os.environ.get("CW_CLUSTER") or DEFAULT_CLUSTER)


def check_cluster_name(name: str) -> str:
    """Return `name` if it is valid: it becomes part of file names. Raises AddressError."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", name):
        raise AddressError(
            f'{name!r} is no name for a cluster: use up to 64 letters, digits, "_", "-" and "."'
        )
    return name


def sought_cluster() -> str:
    """Name of the cluster in which a client of this process looks for its master by default."""
    return _started_here[-1][0] if _started_here and not _started_here[-1][1] else cluster_name()


def known_clusters() -> list[str]:
    """Names of the clusters that have address files."""
    try:
        entries = os.listdir(home_directory())
    except OSError:
        return []
    return sorted(found[1] for entry in entries if (found := re.fullmatch(r"address-(.*)\.json", entry)))


def address_file(name: str | None = None) -> str:
    """Path of the address file of the cluster `name`."""
    return os.path.join(home_directory(), _file_name(name))


def write_address(bound_host: str, port: int, name: str | None = None) -> str:
    """Publish the address at which the master of this process listens. Returns the start id, for `remove_address`.

    `bound_host` is the address that it is bound to: '', '::' and '0.0.0.0' are all interfaces. Raises HomeError,
    OSError.
    """
    import json  # Not above: a client that finds no address file does without.

    start_id = os.urandom(16).hex()
    addresses, loopback = _own_addresses(bound_host)
    entry = {
        "start_id": start_id,
        "host": os.uname().nodename,
        "addresses": addresses,
        "loopback": loopback,
        "port": port,
        "machine": _machine(),
        "pid": os.getpid(),
        "time": time.time(),
    }
    make_home()
    with locked(f"{_file_name(name)}.lock"):
        write_private(_file_name(name), json.dumps(entry, indent=1).encode())
    return start_id


def remove_address(start_id: str, name: str | None = None) -> None:
    """Remove the address file if it is still the one that `write_address` made."""
    with contextlib.suppress(OSError), locked(f"{_file_name(name)}.lock"):
        entry = read_address(name)
        if entry is not None and entry["start_id"] == start_id:
            os.unlink(address_file(name))


def read_address(name: str | None = None) -> dict[str, Any] | None:
    """Content of the address file as a dict; None if there is no usable one. An unusable one is logged.

    Raises HomeError if other users could have written it.
    """
    data = read_private(_file_name(name))
    if data is None:
        return None
    import json

    try:
        entry: dict[str, Any] = json.loads(data)
        texts = [entry["start_id"], entry["host"], entry["machine"], *entry["addresses"], *entry["loopback"]]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a text is missing")
        check_port(entry["port"])
    except (ValueError, KeyError, TypeError) as error:
        logger.warning(
            "address.file_invalid",
            "%s is passed over: it is no address file of this version of cw (%r)",
            address_file(name),
            error,
        )
        return None
    return entry


def _file_name(name: str | None) -> str:
    return f"address-{check_cluster_name(name) if name else cluster_name()}.json"


def _machine() -> str:
    """Identify this machine's loopback: by its boot and its network (a container has its own)."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return f"{file.read().strip()}/{os.stat('/proc/self/ns/net').st_ino}"


def _own_addresses(bound_host: str) -> tuple[list[str], list[str]]:
    """List (addresses for other machines, addresses for this one) of a master that is bound to `bound_host`."""
    if is_loopback(bound_host):
        return [], [bound_host]
    if bound_host not in ("", "::", "0.0.0.0"):
        return [bound_host], []
    addresses = [os.uname().nodename, *interfaces.ipv4_addresses()]
    if bound_host != "0.0.0.0":
        addresses += interfaces.ipv6_addresses()
    return [host for host in addresses if not is_loopback(host)], ["127.0.0.1"]
