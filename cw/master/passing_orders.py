"""Carries out what the policy for values that workers pass on decides.

    JobSender, WorkerPeer, ClientPeer ---> facts ---> Passing ---> SendValue, Fetch, Open, Close ---> workers

All in here runs in the loop's thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from cw.master.policy.jobs import WorkerKey
from cw.master.policy.passing import AskDigest, Close, Fetch, Open, Passing, PassingAction, SendValue
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.objects import Key


class Receiver(Protocol):
    """The part of a worker's peer that is used here."""

    connection: Connection
    jobs: Any

    def send(self, message: tuple[Any, ...]) -> None: ...


class Asked(Protocol):
    """The part of a client's peer that is used here."""

    def send(self, message: tuple[Any, ...]) -> None: ...


class PassingOrders:
    """The values that the workers of one master pass on. `workers` and `clients`: its peers."""

    def __init__(self, workers: Mapping[WorkerKey, Receiver], clients: Mapping[int, Asked]) -> None:
        self._workers = workers
        self._clients = clients
        self._policy = Passing()

    def is_passed_on(self, size: int) -> bool:
        """True if workers pass on a value of this size now."""
        return self._policy.is_passed_on(size)

    def on_joined(self, worker: WorkerKey) -> None:
        self._policy.on_joined(worker)

    def on_gone(self, worker: WorkerKey) -> None:
        self._perform(self._policy.on_gone(worker))

    def on_wanted(self, worker: WorkerKey, values: Iterable[Key]) -> None:
        self._perform(self._policy.on_wanted(worker, values))

    def on_forgotten(self, worker: WorkerKey, values: Iterable[Key]) -> None:
        self._perform(self._policy.on_forgotten(worker, values))

    def on_held(self, worker: WorkerKey, value: Key) -> None:
        self._perform(self._policy.on_held(worker, value))

    def on_failed(self, worker: WorkerKey, value: Key) -> None:
        self._perform(self._policy.on_failed(worker, value))

    def on_opened(self, worker: WorkerKey, port: int, hosts: Sequence[str]) -> None:
        self._perform(self._policy.on_opened(worker, port, hosts))

    def on_digest(self, value: Key, digest: str) -> None:
        self._perform(self._policy.on_digest(value, digest))

    def on_client_back(self, session: int) -> None:
        self._perform(self._policy.on_client_back(session))

    def on_let_go(self, values: Iterable[Key]) -> None:
        self._perform(self._policy.on_let_go(values))

    def on_session_closed(self, session: int) -> None:
        self._perform(self._policy.on_session_closed(session))

    def _perform(self, actions: Iterable[PassingAction]) -> None:
        for action in actions:
            if isinstance(action, AskDigest):
                session, number = action.value
                self._clients[session].send(m.WantDigest(number))
                continue
            worker = self._workers[action.worker]
            if type(action) is SendValue:
                worker.jobs.send_value(action.value)
            elif type(action) is Fetch:
                hosts = self._hosts(worker, self._workers[action.source], action.hosts)
                worker.send(m.Fetch(*action.value, action.digest, action.port, hosts))
            elif type(action) is Open or type(action) is Close:
                worker.send(m.OpenPort(type(action) is Open))

    def _hosts(self, worker: Receiver, source: Receiver, hosts: Sequence[str]) -> list[str]:
        """List the addresses at which a worker may find another one, the most likely first."""
        if source.connection.is_local:
            return ["127.0.0.1"] if worker.connection.is_local else list(hosts)
        seen = source.connection.peer.rpartition(":")[0].strip("[]")
        return list(dict.fromkeys([seen, *hosts]))[:MOST_ADDRESSES]


MOST_ADDRESSES = 2
"""Most addresses of one worker that another tries. Larger: more time is lost where none answers."""
