"""An *observer* of a master: asks for the status of its cluster, and reports to it what a launcher knows.

launcher --> Hello (observer), WantStatus ----------------> StatusReport
                                                            Forgive, Drain, End --> the master
tender ----> Hello (observer), WorkersToCome, WantDemand -> DemandReport
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cw.named_tuple import NamedTuple
from cw.net import address
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.connector import dial
from cw.net.loop import Loop
from cw.version import VERSION

if TYPE_CHECKING:
    from cw.observer.demand import Demand

Failure = tuple[tuple[str, int], OSError]
"""An address at which no master could be reached, and the error."""

ANSWER_SECONDS = 2.0
"""Time for a master to answer (seconds). Longer: a launcher hangs if a firewall drops its messages. Shorter: a busy
master seems to be gone."""


class ClusterStatus(NamedTuple):
    """Status of a cluster."""

    where: str
    """The address at which the master answered, 'HOST:PORT'."""
    ident: str
    """The master's start id."""
    location: str
    """Place where a launcher put the master: a Location as text."""
    waiting: int
    running: int
    clients: int
    workers: list[dict[str, Any]]
    """Each with its ident, name, location (as text), slots, left (seconds, or None), held (jobs), draining."""
    lost: list[dict[str, Any]]
    """Workers that were lost and not forgiven: ident, name, location, how, at (seconds since 1970)."""

    @property
    def slots(self) -> int:
        """Number of connected slots, without those of draining workers."""
        return sum(worker["slots"] for worker in self.workers if not worker["draining"])


def ask(
    candidates: Sequence[address.Candidate],
    *messages: m.Forgive | m.Drain | m.End,
    seconds: float = ANSWER_SECONDS,
    on_failures: Callable[[list[Failure]], None] = lambda failures: None,
) -> ClusterStatus | None:
    """Return the status of the cluster whose master answers first, or None; then send that master the messages.

    Blocks for up to `seconds` for each candidate. `on_failures` is called with the failures if none could be reached.
    """
    found = converse(candidates, [m.WantStatus()], messages, seconds=seconds, on_failures=on_failures)
    if found is None:
        return None
    answer, where = found
    state = {name: answer.state.get(name) for name in ClusterStatus._fields if name != "where"}
    return ClusterStatus(where, **state)


def ask_demand(
    candidates: Sequence[address.Candidate],
    to_come: m.WorkersToCome | None = None,
    seconds: float = ANSWER_SECONDS,
) -> Demand | None:
    """Return what jobs ask of the cluster whose master answers first, or None. `to_come`: the workers that the caller
    could start, which that master is told before. Raises ProtocolError. Blocks for up to `seconds` for each candidate.
    """
    from cw.observer.demand import Demand  # only tenders ask

    opening = [m.WantDemand()] if to_come is None else [to_come, m.WantDemand()]
    found = converse(candidates, opening, seconds=seconds)
    return None if found is None else Demand.from_wire(found[0].state, found[1])


def converse(
    candidates: Sequence[address.Candidate],
    opening: Sequence[tuple[Any, ...]],
    closing: Sequence[tuple[Any, ...]] = (),
    seconds: float = ANSWER_SECONDS,
    on_failures: Callable[[list[Failure]], None] = lambda failures: None,
) -> tuple[Any, str] | None:
    """Send the opening to the master that answers first; return its answer and its address, and send it the closing."""
    loop = Loop()
    found: list[tuple[Any, str]] = []

    def on_connected(sock: Any, where: tuple[str, int]) -> None:
        connection = Connection(loop, sock)
        connection.decoder.accepts = m.sent_on(m.Leg.MASTER_OBSERVER) | {m.Welcome, m.Refused}
        connection.on_message = lambda message: on_message(connection, message, where)
        connection.on_close = lambda reason: loop.stop()
        hello = m.Hello("observer", secrets.token_hex(16), "", m.PROTOCOL, list(sys.version_info[:2]), VERSION,
                        os.uname().nodename, os.getpid(), {})  # fmt: skip
        connection.send(hello)
        loop.call_later(seconds, loop.stop)

    def on_message(connection: Connection, message: Any, where: tuple[str, int]) -> None:
        if type(message) in (m.StatusReport, m.DemandReport):
            found.append((message, address.join(*where)))
            for order in closing:
                connection.send(order)
            connection.on_close = lambda reason: None
            connection.close_when_sent()
            loop.call_later(0.05 if closing else 0.0, loop.stop)
        elif type(message) is m.Welcome:
            for question in opening:
                connection.send(question)
        else:
            loop.stop()

    def on_unreachable(failures: list[Failure]) -> None:
        on_failures(failures)
        loop.stop()

    dial(loop, [(c.host, c.port) for c in candidates], seconds, on_connected, on_unreachable)
    loop.run()
    return found[0] if found else None
