"""Messages about large shared values that workers pass on among themselves. Part of `cw.net.messages`.

master ---> Promise ---> worker: it comes later          master ---> WantDigest ---> client ---> Digest ---> master
master ---> OpenPort --> a worker that has it ---> PortOpened ---> master
master ---> Fetch -----> worker ---> Want ---> the other worker ---> Objects ---> worker ---> Held ---> master
"""

from cw.named_tuple import NamedTuple
from cw.net.schema import Digest as DigestText
from cw.net.schema import Hosts, Leg, Line, Port, U32s, U64s, batch, record


@record(111, Leg.MASTER_CLIENT)
class WantDigest(NamedTuple):
    """Workers will pass on this shared value: its digest is needed. Answered by a Digest if the value is there."""

    number: int


@record(11, Leg.CLIENT_MASTER)
class Digest(NamedTuple):
    """The BLAKE2b digest (32 bytes) of a shared value's payload."""

    number: int
    digest: DigestText


@batch(73, Leg.MASTER_WORKER, is_ordered=True)
class Promise(NamedTuple):
    """Shared values that come later, by Objects or after a Fetch, and count as sent: jobs that need one wait for it.
    Each is answered by a Held."""

    sessions: U64s
    numbers: U32s
    sizes: U64s  # bytes


@record(105, Leg.MASTER_WORKER, is_ordered=True)
class Fetch(NamedTuple):
    """Fetch a promised value from the worker at this port of the first of these hosts that answers. Answered by Held
    or NotFetched."""

    session: int
    number: int
    digest: DigestText
    port: Port
    hosts: Hosts


@record(106, Leg.WORKER_MASTER)
class Held(NamedTuple):
    """The promised value is here."""

    session: int
    number: int


@record(107, Leg.WORKER_MASTER)
class NotFetched(NamedTuple):
    """The value could not be fetched from the worker that the last Fetch named."""

    session: int
    number: int
    reason: Line


@record(108, Leg.MASTER_WORKER)
class OpenPort(NamedTuple):
    """Open a port for other workers, or close it."""

    is_open: bool


@record(109, Leg.WORKER_MASTER)
class PortOpened(NamedTuple):
    """The port is open, at this machine's address as the master sees it, and at these."""

    port: Port  # 0: it cannot be opened
    hosts: Hosts


@record(110, Leg.FETCHER_WORKER)
class Want(NamedTuple):
    """The first and only message of a worker that fetches a value. Answered by Objects with this one object; if the
    value is not here, the connection is closed."""

    protocol: int  # PROTOCOL
    session: int
    number: int
