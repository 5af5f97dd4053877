"""Observers that look at the cluster: one snapshot a second while there are some, and nothing otherwise.

Look ---> Watching ---> Watched ---> clients, which answer with their Backlog
             '--- FIRST_SECONDS later, then every second ---> make, encode (once for all) ---> SnapshotReport

All in here runs in the loop's thread.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from cw import location
from cw.master.observers.facts import ClientFacts, WorkerFacts, WorkerPeer
from cw.master.policy.state import State
from cw.master.policy.to_come import NOTHING
from cw.master.policy.why import Survey
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.loop import Loop
from cw.observer.bounds import LOSSES, clean
from cw.version import VERSION

if TYPE_CHECKING:
    from cw.observer.demand import Demand
    from cw.observer.model import Snapshot

FIRST_SECONDS = 0.25
"""Time from the first look to the first snapshot (seconds), in which clients answer. Longer: observers wait. Shorter:
what waits at slow clients is not counted."""

SECONDS = 1.0
"""Time between two snapshots (seconds)."""

ASKED_SECONDS = 30.0
"""Time after a tender's question for which clients go on to tell what waits there (seconds). Longer: they tell it to
nobody. Shorter: what waits there is not counted in the next answer."""

SHARE = 50
"""Snapshots take at most one part in this many of the master's time: with very many workers they come less often."""


class Client(Protocol):
    """A client of the master."""

    @property
    def facts(self) -> ClientFacts: ...
    def send(self, message: tuple[Any, ...]) -> None: ...


class Watching:
    """The observers that look."""

    def __init__(
        self,
        loop: Loop,
        ident: str,
        state: State,
        clients: Mapping[int, Client],
        workers: Mapping[str, WorkerPeer],
    ) -> None:
        self._loop, self._ident, self._state = loop, ident, state
        self._clients, self._workers = clients, workers
        self.survey = Survey(state)
        """The master's latest, of this second."""
        self.to_come = NOTHING
        """The workers that the cluster's tender could start."""
        self._began = time.monotonic()
        self._losses: deque[tuple[str, str, str, float]] = deque(maxlen=LOSSES)
        self._observers: dict[Connection, None] = {}
        self._number = 0
        self._is_going = False  # the next snapshot is due, if somebody looks
        self._asked_at = -math.inf  # when a tender asked last

    def on_look(self, connection: Connection) -> None:
        """An observer looks."""
        self._observers[connection] = None
        self._go_on()

    def on_gone(self, connection: Connection) -> None:
        """An observer is gone."""
        self._observers.pop(connection, None)

    def on_client_joined(self, client: Client) -> None:
        """A client has come, or is back."""
        if self._is_going:
            self._tell([client], True)

    def leave(self, goodbye: m.Goodbye) -> None:
        """The master ends: say goodbye to those that look."""
        for connection in self._observers:
            connection.send(goodbye)
            connection.flush()
            connection.close()

    def on_lost(self, facts: WorkerFacts, how: str) -> None:
        """A worker was lost."""
        self._losses.append((facts.name, facts.place, clean(how), time.time()))

    def _go_on(self) -> None:
        if not self._is_going:
            self._is_going = True
            self._tell(self._clients.values(), True)
            self._loop.call_later(FIRST_SECONDS, self._report)

    def _report(self) -> None:
        began = time.monotonic()
        self._is_going = bool(self._observers) or began - self._asked_at < ASKED_SECONDS
        if not self._is_going:
            self._tell(self._clients.values(), False)
            return
        if self._observers:
            self._send_snapshot(began)
        took = time.monotonic() - began
        self._loop.call_later(max(SECONDS, SHARE * took), self._report)

    def _send_snapshot(self, began: float) -> None:
        from cw.master.observers import snapshot

        self._state.tallies.on_second(began)
        message = m.SnapshotReport([self._number], [snapshot.encode(self.make())])
        self._number = (self._number + 1) % 2**32
        for connection in self._observers:
            if not connection.unsent:  # otherwise it is behind: it gets a later one
                connection.send(message)

    def make(self) -> Snapshot:
        """Return the snapshot of this moment."""
        from cw.master.observers import snapshot  # loaded when somebody looks
        from cw.observer.model import LostWorker, MasterStatus

        age = time.monotonic() - self._began
        place = str(location.of_this_process())
        master = MasterStatus(self._ident, os.uname().nodename, os.getpid(), VERSION, age, place)
        losses = [LostWorker(*loss) for loss in reversed(self._losses)]

        def why_waiting(session: int) -> str:
            reason = self.survey.why(session)
            return "" if reason is None else reason.text

        known = snapshot.Known(master, time.time(), self._workers, self._clients, losses, why_waiting)
        return snapshot.make(self._state, known)

    def demand(self) -> Demand:
        """Return what jobs ask of the cluster, for its tender."""
        from cw.master.observers.demand import demand  # loaded when a tender asks

        self._asked_at = time.monotonic()
        self._go_on()
        return demand(self._state, self._clients, self._workers, self._ident, self._asked_at)

    def _tell(self, clients: Iterable[Client], is_watched: bool) -> None:
        for client in clients:
            client.send(m.Watched(is_watched))
