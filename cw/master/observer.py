"""A launcher that asks for the cluster's status, or gives orders and facts about its workers."""

from __future__ import annotations

from typing import Any, Protocol

from cw.master import checks
from cw.master.peer import Peer, logger
from cw.net import messages as m
from cw.net.connection import Connection


class Master(Protocol):
    """The part of its master that an observer's peer uses."""

    def status_report(self) -> dict[str, Any]: ...
    def forgive(self, key: str) -> None: ...
    def drain(self, key: str) -> None: ...
    def leave(self, is_final: bool | None = None) -> None: ...


class ObserverPeer(Peer):
    """An observer. The status is sent once, when it connects."""

    def __init__(self, master: Master, connection: Connection, hello: m.Hello) -> None:
        super().__init__("observer", hello)
        self._master = master
        self.attach(connection, checks.ObserverRules())
        self.send(m.StatusReport(master.status_report()))

    def _on_forgive(self, message: m.Forgive) -> None:
        for key in message.workers:
            self._master.forgive(key)

    def _on_drain(self, message: m.Drain) -> None:
        for key in message.workers:
            self._master.drain(key)

    def _on_end(self, message: m.End) -> None:
        logger.info("master.ending", "the master ends: %s", message.reason)
        self._master.leave(is_final=True)

    handlers = {m.Forgive: _on_forgive, m.Drain: _on_drain, m.End: _on_end}
