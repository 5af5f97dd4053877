"""Messages about the peers themselves: identity, state, departure. Part of `cw.net.messages`."""

from typing import Any

from cw.named_tuple import NamedTuple
from cw.net.schema import Depths, Idents, Leg, Line, Sessions, TimeLeft, record

PROTOCOL = 6
"""Version of the protocol: incremented where a version of cw cannot talk to the one before. (cw 0.1 had 1.)"""

_TO_MASTER = Leg.CLIENT_MASTER, Leg.WORKER_MASTER, Leg.OBSERVER_MASTER
_FROM_MASTER = Leg.MASTER_CLIENT, Leg.MASTER_WORKER, Leg.MASTER_OBSERVER
_BOTH_WAYS = Leg.CLIENT_MASTER, Leg.WORKER_MASTER, Leg.MASTER_CLIENT, Leg.MASTER_WORKER

# --- handshake --------------------------------------------------------------------------------


@record(1, *_TO_MASTER, is_handshake=True)
class Hello(NamedTuple):
    """The first message of a peer. Nothing else is accepted before it."""

    role: str  # 'client', 'worker' or 'observer'
    ident: str  # the session's or the worker's: 32 hexadecimal digits, random
    secret: str  # needed to resume this session; '' for a worker
    protocol: int  # PROTOCOL
    python: list[Any]  # [major, minor]
    version: str  # version of cw
    host: str  # the peer's host
    pid: int  # its process
    capacity: (
        object  # from a worker: what it offers, by dimension (cw.requirements); otherwise an empty object
    )
    resubmitted_up_to: int = 0  # from a client that was connected before: its highest job number so far
    takes_files: bool = True  # if false, it has no descriptors left: large payloads go to it as on a network
    depth: int = 0  # from a client in a job: the depth of its session (see cw.nested)
    parent: int = 0  # from a client in a job: the dispatch number of that job
    program: str = ""  # from a client: name of its script


@record(2, *_FROM_MASTER, is_handshake=True)
class Welcome(NamedTuple):
    """The master accepts a peer."""

    ident: str  # the master's start id
    version: str  # version of cw
    silence: float  # seconds without a sign of life after which a worker counts as lost
    takes_files: bool = True  # as in Hello


@record(3, *_FROM_MASTER, is_handshake=True)
class Refused(NamedTuple):
    """The master refuses a peer, and closes the connection."""

    reason: str


# --- any time ---------------------------------------------------------------------------------


@record(4, *_BOTH_WAYS, Leg.MASTER_OBSERVER)
class Goodbye(NamedTuple):
    """The sender leaves on purpose: the receiver must not wait for anything that it holds."""

    reason: Line
    is_final: bool = True  # from a master: no other master will take its place


@record(5, *_BOTH_WAYS)
class Heartbeat(NamedTuple):
    """A sign of life; any other byte is one too. The master answers a worker's Heartbeat."""

    load: float = -1.0  # from a worker: load average of its machine over 1 minute; otherwise -1
    memory: int = 0  # from a worker: resident memory of its runners (bytes)


@record(6, Leg.MASTER_CLIENT)
class Notice(NamedTuple):
    """A sentence from the master that the client's user should read."""

    text: str


@record(21, Leg.MASTER_CLIENT)
class TakenOver(NamedTuple):
    """Another process has this session now, and its jobs: the receiver must not come back."""

    by: Line  # that process, for messages


@record(31, Leg.MASTER_CLIENT)
class Waiting(NamedTuple):
    """The reason why the client's jobs wait, when that has lasted for some seconds, and whenever it changes."""

    cause: Line  # a cw.master.policy.why.Cause; empty: the wait is over
    text: Line


@record(20, Leg.MASTER_CLIENT, Leg.CLIENT_MASTER)
class Roster(NamedTuple):
    """The workers (their idents) that have joined, and that are gone, as the sender knows. A client that is back names
    those of its previous master."""

    joined: Idents
    gone: list[Any]


# --- a worker's state -------------------------------------------------------------------------


@record(24, Leg.WORKER_MASTER)
class WorkerInfo(NamedTuple):
    """Time that is left to a worker that joins, and its location, if its launcher has set one."""

    seconds: TimeLeft  # until its jobs are stopped; -1: no end is known
    location: Line  # a cw.location.Location


@record(18, Leg.WORKER_MASTER)
class InventoryEnd(NamedTuple):
    """A worker that joins has named all that it holds. It knows these sessions."""

    sessions: Sessions


@record(22, Leg.WORKER_MASTER)
class Capacity(NamedTuple):
    """The number of a worker's slots that can be used now, and the sessions that can use none, since runners cannot be
    started. Valid until the next Capacity; at first all slots can be used."""

    slots: int
    blocked_sessions: Sessions
    reason: str


@record(100, Leg.WORKER_MASTER)
class Lent(NamedTuple):
    """The slots that a worker lends while its jobs wait for jobs of their own (see cw.nested), whenever that changes. A
    worker that joins lends nothing until it says so."""

    extra: int  # jobs that it runs beyond one for each taken slot
    floors: Depths  # for each slot that is lent and free: the depth that a session must exceed to use it


@record(19, Leg.WORKER_MASTER)
class Draining(NamedTuple):
    """A worker finishes what runs, accepts no more, and will leave."""


@record(28, Leg.OBSERVER_MASTER, Leg.MASTER_WORKER)
class Drain(NamedTuple):
    """These workers must finish what runs, and leave."""

    workers: Idents  # to a worker: its own


# --- observers --------------------------------------------------------------------------------


@record(25, Leg.MASTER_OBSERVER)
class StatusReport(NamedTuple):
    """The status of the cluster, as a launcher needs it. `cw.launch.status_client` defines its content."""

    state: dict[str, Any]


@record(26, Leg.OBSERVER_MASTER)
class Forgive(NamedTuple):
    """These workers (their idents) were lost with their machine or allocation. The attempts counted for jobs there are
    taken back."""

    workers: Idents


@record(27, Leg.OBSERVER_MASTER)
class End(NamedTuple):
    """The master must end, and no other master will take its place."""

    reason: Line
