"""An observer: it asks for the cluster's status, looks at it, or gives orders and facts about jobs and workers."""

from __future__ import annotations

import time
from typing import Any, Protocol

from cw.master import checks
from cw.master.observers.watching import Watching
from cw.master.peer import Peer, logger
from cw.master.policy.actions import Action
from cw.master.policy.dispatch import Dispatcher
from cw.master.policy.to_come import ToCome
from cw.net import messages as m
from cw.net.connection import Connection


class Master(Protocol):
    """The part of its master that an observer's peer uses."""

    @property
    def dispatcher(self) -> Dispatcher: ...
    @property
    def watching(self) -> Watching: ...
    def perform(self, actions: list[Action]) -> None: ...
    def welcome(self, connection: Connection) -> None: ...
    def status_report(self) -> dict[str, Any]: ...
    def forgive(self, key: str) -> None: ...
    def drain(self, key: str) -> None: ...
    def leave(self, is_final: bool | None = None) -> None: ...


class ObserverPeer(Peer):
    """An observer. It stays for as long as it likes."""

    connection: Connection

    def __init__(self, master: Master, connection: Connection, hello: m.Hello) -> None:
        super().__init__("observer", hello)
        self._master = master
        self.attach(connection, checks.ObserverRules())
        master.welcome(connection)

    def on_close(self, reason: str) -> None:
        self._master.watching.on_gone(self.connection)

    def _on_want_status(self, message: m.WantStatus) -> None:
        self.send(m.StatusReport(self._master.status_report()))

    def _on_want_demand(self, message: m.WantDemand) -> None:
        self.send(m.DemandReport(self._master.watching.demand().to_wire()))

    def _on_workers_to_come(self, message: m.WorkersToCome) -> None:
        self._master.watching.to_come = ToCome.of(message, time.monotonic())

    def _on_look(self, message: m.Look) -> None:
        self._master.watching.on_look(self.connection)

    def _on_stop_job(self, message: m.StopJob) -> None:
        actions = self._master.dispatcher.on_stopped(message.session, message.number, message.by)
        if actions:
            logger.info("master.job_stopped", "job %d is stopped by %s", message.number, message.by)
        self._master.perform(actions)

    def _on_forgive(self, message: m.Forgive) -> None:
        for key in message.workers:
            self._master.forgive(key)

    def _on_drain(self, message: m.Drain) -> None:
        for key in message.workers:
            self._master.drain(key)

    def _on_end(self, message: m.End) -> None:
        logger.info("master.ending", "the master ends: %s", message.reason)
        self._master.leave(is_final=True)

    handlers = {
        m.WantStatus: _on_want_status,
        m.WantDemand: _on_want_demand,
        m.WorkersToCome: _on_workers_to_come,
        m.Look: _on_look,
        m.StopJob: _on_stop_job,
        m.Forgive: _on_forgive,
        m.Drain: _on_drain,
        m.End: _on_end,
    }
