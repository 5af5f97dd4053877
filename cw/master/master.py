"""The master, which carries messages between the network and the scheduling policy.

    clients                             this process                             workers
    Submit, Cancel ----> ClientPeer ----> Dispatcher.on_*() ----> actions ----> Dispatch, Recall, Stop
    Results, Lost  <---- actions     <---- Dispatcher.on_*() <---- WorkerPeer <---- Results, Returned

The master opens no payload but the options of jobs: it knows jobs, functions and environments by number. It holds
nothing that clients and workers cannot report again. All in here runs in the loop's thread.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from cw import events, location
from cw.events import RateLimited
from cw.master import checks
from cw.master.client_peer import ClientPeer
from cw.master.observers.observer import ObserverPeer
from cw.master.observers.watching import Watching
from cw.master.output import OutputRoute
from cw.master.passing_orders import PassingOrders
from cw.master.peer import Peer, logger
from cw.master.policy import asides
from cw.master.policy.actions import (
    Action,
    Assign,
    Deliver,
    GiveUp,
    ReportAside,
    SendToClient,
    SendToWorker,
    SetAside,
    WatchSetbacks,
)
from cw.master.policy.dispatch import Dispatcher
from cw.master.policy.resumption import SETTLE
from cw.master.policy.why import Survey
from cw.master.records import Records
from cw.master.settings import Settings
from cw.master.worker_peer import Loss, WorkerPeer
from cw.net import memory
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.loop import Loop
from cw.net.objects import SHARED_BYTES, Key
from cw.net.wire import MAX_BODY
from cw.version import VERSION

_lines = RateLimited("cw.master", burst=10)

HELLO_SECONDS = 10.0
"""Time limit for a connection's Hello (seconds); then the connection is closed."""

HELLO_BYTES = 4096
"""Most bytes in a Hello. Before it, nothing else is read."""

UNGREETED = 1024
"""Most connections without a Hello; at the limit the oldest is dropped. Larger: faulty peers can take more memory.
Smaller: of thousands that join at once, some are dropped whose Hello is on its way, and come again."""

LOST_KEPT = 1000
"""Most lost workers that are kept for observers."""

RECALL_SECONDS = 0.02
"""Period at which the policy looks for work that waits at one worker while another idles."""


class Master:
    """The cluster's master. `ident` is its start id: a different one means that it was restarted."""

    def __init__(
        self,
        loop: Loop,
        is_final: bool = False,
        settings: Settings = Settings(),  # noqa: B008
        records: Records | None = None,
    ) -> None:
        """`records`: of a master whose process is that of a worker, too."""
        self.ident = secrets.token_hex(16)
        self.loop = loop
        self.settings = settings
        # Dispatch numbers above those of any previous master: workers may still hold its dispatches.
        self.dispatcher = Dispatcher(int(time.time() * 1000) << 22)
        self.dispatcher.state.tallies.on_second(time.monotonic())
        self.clients: dict[int, ClientPeer] = {}  # by session
        self.workers: dict[str, WorkerPeer] = {}  # by ident
        self.passing = PassingOrders(self.workers, self.clients)
        self.output = OutputRoute(
            self.dispatcher.state, self.clients, lambda key, share: self.workers[key].send(share)
        )
        self.watching = Watching(loop, self.ident, self.dispatcher.state, self.clients, self.workers)
        self._lost: deque[Loss] = deque(maxlen=LOST_KEPT)
        # Until then, clients may come back whose sessions only workers know.
        self._leftovers_end_at = time.monotonic() + SETTLE + settings.client_grace
        self._is_final = is_final
        self._ungreeted: dict[Connection, float] = {}  # when their time is over; the oldest first
        self._is_recalling = False
        self.records = records
        if records is not None:
            self.dispatcher.state.on_given_back = records.note_left
        self._queued = _Queued(self)
        self.period = min(1.0, settings.silence / 4)
        """Seconds between two checks for silent peers."""
        loop.call_every(self.period, self._on_second)

    def on_admitted(self, sock: Any) -> None:
        """Await the Hello of a peer that has the credential (a socket, a `tls.Socket`, or a connection)."""
        connection = sock if isinstance(sock, Connection) else Connection(self.loop, sock)
        connection.set_patience(self.settings.silence)
        connection.decoder.accepts = frozenset({m.Hello})
        connection.decoder.max_body = HELLO_BYTES
        connection.on_message = lambda hello: self._on_hello(connection, hello)
        connection.on_close = lambda reason: logger.debug(
            "master.left_before_hello", "%s left before its hello", connection.peer
        )
        if len(self._ungreeted) >= UNGREETED:
            _close_oldest(self._ungreeted)
        self._ungreeted[connection] = time.monotonic() + HELLO_SECONDS

    def perform(self, actions: list[Action]) -> None:
        """Carry out what the policy decided."""
        todo = deque(actions)
        while todo:
            action = todo.popleft()
            todo.extend(_PERFORM[type(action)](self, action) or ())  # in the order in which they were decided
        if not self._is_recalling and self.dispatcher.wants_tick():
            self._is_recalling = True
            self.loop.call_every(RECALL_SECONDS, self._on_recall_tick)

    def assign_soon(self, key: int) -> None:
        """Give a session's new jobs to workers when all has been read that came at this wakeup: then each worker gets
        its jobs in one message, however many messages brought them."""
        self._queued.sessions[key] = None
        self.loop.unflushed.add(self._queued)

    def welcome(self, connection: Connection) -> None:
        connection.send(m.Welcome(self.ident, VERSION, self.settings.silence, memory.takes_files()))

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        self.loop.call_later(seconds, callback)

    def drop_session(self, key: int) -> None:
        """End a session, at the policy and at each worker that knows it."""
        self.dispatcher.state.tallies.on_client_gone(key, self.clients.pop(key).facts.label)
        if self.records is not None:
            self.records.forget(key)
        self.perform(self.dispatcher.on_session_closed(key))
        for worker in self.workers.values():
            worker.jobs.close_session(key)
        self.passing.on_session_closed(key)
        self.output.on_session_closed(key)

    def note_worker(self, key: str, is_there: bool) -> None:
        """Note that a worker has joined, or is gone for good."""
        if not is_there:
            self.dispatcher.state.tallies.on_worker_gone(key, self.workers.pop(key).host)
            self.output.on_worker_gone(key)
        self._resize_windows()
        for client in self.clients.values():
            client.on_roster([key] if is_there else [], [] if is_there else [key])

    def joined(self) -> set[str]:
        """The connected workers that have named what they hold."""
        return {key for key, worker in self.workers.items() if worker.is_known}

    def host_of(self, key: str) -> str:
        """Host of a worker; '' if it is gone."""
        worker = self.workers.get(key)
        return "" if worker is None else worker.host

    def remark(self, session: int, kind: str, text: str) -> None:
        """Send a worker's remark to this session's client, if the session exists."""
        if session in self.clients:
            self.clients[session].remark(kind, text)

    def forget_objects(self, keys: list[Key]) -> None:
        """Let workers forget objects that a client will not use again."""
        for worker in self.workers.values():
            worker.jobs.forget_objects(keys)
        self.passing.on_let_go(keys)

    def note_lost(self, loss: Loss) -> None:
        """Keep this loss for observers."""
        self._lost.append(loss)

    def forgive(self, key: str) -> None:
        """Take back what was charged for the loss of this worker: no job was the reason."""
        for loss in [loss for loss in self._lost if loss.ident == key]:
            _lines.info(
                "master.loss_forgiven", "%s was lost with its allocation: no job is charged for it", loss.name
            )
            self._lost.remove(loss)
        self.perform(self.dispatcher.on_forgiven(key))

    def drain(self, key: str) -> None:
        """Let this worker finish what runs, and leave, if it is connected."""
        if key in self.workers:
            self.workers[key].drain()

    def status_report(self) -> dict[str, Any]:
        """Status of the cluster, for observers."""
        waiting, running = self.dispatcher.state.status_report()
        return {
            "ident": self.ident, "host": os.uname().nodename, "pid": os.getpid(),
            "location": location.of_this_process().as_text(), "waiting": waiting, "running": running,
            "clients": len(self.clients), "lost": [loss._asdict() for loss in self._lost],
            "workers": [worker.status() for worker in self.workers.values() if worker.is_known],
        }  # fmt: skip

    def leave(self, is_final: bool | None = None) -> None:
        """Say goodbye to each peer, and stop the loop. `is_final`: no other master will take its place."""
        goodbye = m.Goodbye("the master ends", self._is_final if is_final is None else is_final)
        self.watching.leave(goodbye)
        peers: list[Peer] = [*self.clients.values(), *self.workers.values()]
        for peer in peers:
            peer.send_goodbye(goodbye)
        self.loop.stop()

    # --- connections ---

    def _on_hello(self, connection: Connection, hello: m.Hello) -> None:
        self._ungreeted.pop(connection, None)
        reason = checks.reason_to_refuse(hello)
        key = int(hello.ident[:16], 16) if not reason else 0
        client = self.clients.get(key) if hello.role == "client" else None
        if client is not None and not client.knows(hello):
            reason = "another client has this session"
        if reason:
            _lines.warning(
                "master.peer_refused", "the %s at %s is refused: %s", hello.role, connection.peer, reason
            )
            connection.send(m.Refused(reason))
            connection.on_close = lambda reason: None
            connection.close_when_sent()
            return
        connection.decoder.max_body = MAX_BODY
        connection.passes_files = connection.passes_files and hello.takes_files
        if hello.role == "client":
            is_new = client is None
            if client is None:
                client = self.clients[key] = ClientPeer(self, key, hello)
            client.on_connected(connection, hello, is_new)
            self.watching.on_client_joined(client)
            self._resize_windows()
            self._allow_shared()
        elif hello.role == "observer":
            ObserverPeer(self, connection, hello)
            return
        else:
            before = self.workers.get(hello.ident)
            if before is not None:
                before.give_way()
            self.workers[hello.ident] = WorkerPeer(
                self, connection, hello, before is not None and before.is_known
            )

    def _resize_windows(self) -> None:
        slots = self.dispatcher.state.slots()
        for client in self.clients.values():
            client.grant(slots)

    def _allow_shared(self) -> None:
        """Let each client have the shared values for which the others leave memory."""
        used = sum(client.shared_size for client in self.clients.values())
        for client in self.clients.values():
            client.allow_shared(max(memory.half_of_all() - used + client.shared_size, SHARED_BYTES))

    # --- time ---

    def _on_second(self, now: float) -> bool:
        events.flush_repeated()
        self.dispatcher.state.tallies.on_second(now)
        while self._ungreeted and next(iter(self._ungreeted.values())) < now:
            connection = _close_oldest(self._ungreeted)
            _lines.warning(
                "master.hello_missing",
                "%s sent no hello within %d s: its connection is closed",
                connection.peer,
                HELLO_SECONDS,
            )
        for worker in list(self.workers.values()):
            worker.on_second(now)
        survey = self.watching.survey = survey_of(self)
        for client in list(self.clients.values()):
            client.on_second(now, survey)
        self._allow_shared()
        self.output.on_second(now)
        if now > self._leftovers_end_at:
            self.perform(self.dispatcher.on_orphans_expired())
            if self.records is not None:
                self.records.forget_lost()
            for worker in self.workers.values():
                worker.jobs.close_unknown_sessions(self.clients.keys())
        return True

    def _on_recall_tick(self, now: float) -> bool:
        self._is_recalling = self.dispatcher.wants_tick()
        if self._is_recalling:
            self.perform(self.dispatcher.on_tick())
        return self._is_recalling

    # --- actions ---

    def _set_aside(self, action: SetAside) -> None:
        worker, client = self.workers[action.worker], self.clients[action.session]
        _lines.warning(
            "master.worker_set_aside", "%s is set aside for %s: %s", worker.name, client.name, action.reason
        )
        self.loop.call_later(
            asides.NOTICE_SECONDS, lambda: self.perform(self.dispatcher.on_aside_reported(action.session))
        )

    def _watch_setbacks(self, action: WatchSetbacks) -> None:
        def retry(now: float) -> bool:
            self.perform(self.dispatcher.on_aside_retry(action.session))
            return self.dispatcher.state.has_setbacks(action.session)

        def look(now: float) -> bool:
            self.perform(self.dispatcher.on_aside_second(action.session))
            return self.dispatcher.state.has_setbacks(action.session)

        self.loop.call_every(asides.RETRY_SECONDS, retry)
        self.loop.call_every(1.0, look)

    def _report_aside(self, action: ReportAside) -> None:
        named = [(self.workers[key].name, reason) for key, reason in action.workers]
        for text in asides.sentences(named):
            self.clients[action.session].send(m.Notice(text))


class _Queued:
    """Sessions with new jobs. A loop flushes them as it does a connection: at the end of the wakeup."""

    def __init__(self, master: Master) -> None:
        self.sessions: dict[int, None] = {}
        self._master = master

    def flush(self) -> None:
        sessions, self.sessions = self.sessions, {}
        for key in sessions:
            self._master.perform(self._master.dispatcher.on_all_queued(key))

    def close(self) -> None:
        self.sessions.clear()


def _close_oldest(connections: dict[Connection, float]) -> Connection:
    """Close and remove the first of these connections. Returns it."""
    oldest = next(iter(connections))
    del connections[oldest]
    oldest.close()
    return oldest


def survey_of(master: Master) -> Survey:
    """The cluster at this moment, for the reasons why jobs wait."""

    def name_of(session: int) -> str:
        return master.clients[session].name if session in master.clients else "a program that has ended"

    def why_unusable() -> str:
        return next((worker.why_unusable for worker in master.workers.values() if worker.why_unusable), "")

    to_come = master.watching.to_come.at(time.monotonic())
    return Survey(master.dispatcher.state, name_of, why_unusable, master.host_of, to_come)


def _assign(master: Master, action: Assign) -> None:
    if master.records is not None:
        master.records.note_held(action.jobs)
    master.workers[action.worker].jobs.send_jobs(action.jobs)


def _order(master: Master, action: SendToWorker) -> list[Action] | None:
    if master.records is not None and type(action.message) is m.Release:
        master.records.note_left(action.message.dispatches)
    return master.workers[action.worker].order(action.message)


# A handler returns actions that the policy has decided since: they are carried out after those before.
_PERFORM: dict[type, Callable[[Master, Any], list[Action] | None]] = {
    SendToWorker: _order,
    SendToClient: lambda master, action: master.output.report(action.session, action.message),
    Assign: _assign,
    Deliver: lambda master, action: master.clients[action.session].deliver_results(action),
    GiveUp: lambda master, action: master.clients[action.session].give_up(action),
    SetAside: Master._set_aside,
    WatchSetbacks: Master._watch_setbacks,
    ReportAside: Master._report_aside,
}
