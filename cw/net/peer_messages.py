"""Messages about the peers themselves: who they are, how they stand, when they leave. Part of `cw.net.messages`."""

from __future__ import annotations

from typing import Any, NamedTuple

from cw.net.schema import Depths, Idents, Leg, Line, Sessions, TimeLeft, record

PROTOCOL = 2
"""Raised by one whenever two versions could no longer talk to each other."""

_TO_MASTER = Leg.CLIENT_MASTER, Leg.WORKER_MASTER, Leg.OBSERVER_MASTER
_FROM_MASTER = Leg.MASTER_CLIENT, Leg.MASTER_WORKER, Leg.MASTER_OBSERVER
_BOTH_WAYS = Leg.CLIENT_MASTER, Leg.WORKER_MASTER, Leg.MASTER_CLIENT, Leg.MASTER_WORKER

# --- handshake --------------------------------------------------------------------------------


@record(1, *_TO_MASTER, is_handshake=True)
class Hello(NamedTuple):
    """The first message of a peer. Nothing else is accepted before it."""

    role: str  # 'client', 'worker' or 'observer'
    ident: str  # of the session or the worker: 32 hexadecimal digits, random
    secret: str  # only who knows it may resume this session; '' for a worker
    protocol: int  # PROTOCOL
    python: list[Any]  # [major, minor]
    version: str  # cw's own
    host: str  # where the peer runs
    pid: int  # of its process
    slots: int  # 0 for others than workers
    handed: int = 0  # a client that was connected before: the highest number of a job that it has handed in
    takes_files: bool = True  # else it has no descriptors left: large payloads go to it as on a network
    depth: int = 0  # a client in a job: of its session (see cw.nested)
    parent: int = 0  # and the dispatch number of that job


@record(2, *_FROM_MASTER, is_handshake=True)
class Welcome(NamedTuple):
    """The master accepts a peer."""

    ident: str  # the master's start id
    version: str  # cw's own
    silence: float  # seconds without a sign of life after which it takes a worker for lost
    takes_files: bool = True  # as in Hello


@record(3, *_FROM_MASTER, is_handshake=True)
class Refused(NamedTuple):
    """The master turns a peer down, and closes."""

    reason: str


# --- any time ---------------------------------------------------------------------------------


@record(4, *_BOTH_WAYS, Leg.MASTER_OBSERVER)
class Goodbye(NamedTuple):
    """The sender leaves on purpose: nothing that it holds is to be waited for."""

    reason: Line
    is_final: bool = True  # from a master: no other one will take its place


@record(5, *_BOTH_WAYS)
class Heartbeat(NamedTuple):
    """A sign of life; any other byte is one too. The master answers those of workers."""


@record(6, Leg.MASTER_CLIENT)
class Notice(NamedTuple):
    """A sentence from the master that the client's user should read."""

    text: str


@record(20, Leg.MASTER_CLIENT, Leg.CLIENT_MASTER)
class Roster(NamedTuple):
    """The workers (their idents) that joined, and that are gone, as the sender knows. A client that is back says which
    were there before."""

    joined: Idents
    gone: list[Any]


# --- how a worker stands ----------------------------------------------------------------------


@record(24, Leg.WORKER_MASTER)
class Stay(NamedTuple):
    """How long a worker that joins will be there, and where that is in words, if a launcher said so."""

    seconds: TimeLeft  # until what runs there is stopped; -1: no end is known
    place: Line


@record(18, Leg.WORKER_MASTER)
class InventoryEnd(NamedTuple):
    """A worker that joins has named all that it holds before this. It knows these sessions."""

    sessions: Sessions


@record(22, Leg.WORKER_MASTER)
class Capacity(NamedTuple):
    """How many of a worker's slots can be used now, where runners cannot be started; and the sessions for which none
    can. Until the next Usable; at the beginning all can."""

    slots: int
    blocked_sessions: Sessions
    reason: str


@record(100, Leg.WORKER_MASTER)
class Lent(NamedTuple):
    """What a worker lends whose jobs wait for jobs of their own (see cw.nested), whenever it changes. A worker that
    joins has lent nothing until it says so."""

    extra: int  # jobs that it holds beyond one for each slot that is taken
    floors: Depths  # for each slot that is lent and free: the depth that a session must exceed to use it


@record(19, Leg.WORKER_MASTER)
class Draining(NamedTuple):
    """A worker finishes what runs, takes nothing more, and will leave."""


@record(28, Leg.OBSERVER_MASTER, Leg.MASTER_WORKER)
class Drain(NamedTuple):
    """These workers are to finish what runs, and leave."""

    workers: Idents  # to a worker: its own


# --- observers --------------------------------------------------------------------------------


@record(25, Leg.MASTER_OBSERVER)
class Census(NamedTuple):
    """How the cluster stands. `cw.launch.status_client` says what is in it."""

    state: dict[str, Any]


@record(26, Leg.OBSERVER_MASTER)
class Excuse(NamedTuple):
    """These workers (their idents) were lost with their machine or allocation. What was charged to the jobs there is
    taken back."""

    workers: Idents


@record(27, Leg.OBSERVER_MASTER)
class End(NamedTuple):
    """The master is to end, and no other one will take its place."""

    reason: Line
