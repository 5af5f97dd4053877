"""A connected worker at the master: its messages, its orders, and its end.

    Connection ---> WorkerPeer ---> Dispatcher.on_*() ---> the master performs the actions
                        '--- JobSender: what it is sent for its jobs

All in here runs in the loop's thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

from cw import program
from cw.errors import ProtocolError
from cw.location import Location
from cw.master import checks
from cw.master.job_sender import JobSender
from cw.master.observers.facts import WorkerFacts
from cw.master.observers.watching import Watching
from cw.master.output import OutputRoute
from cw.master.passing_orders import PassingOrders
from cw.master.peer import Peer, events, lines
from cw.master.policy.actions import Action, Inventory, WorkerMessage
from cw.master.policy.dispatch import Dispatcher
from cw.master.releases import Releases
from cw.master.settings import AWAY, Settings
from cw.named_tuple import NamedTuple
from cw.net import messages as m
from cw.net.connection import Connection
from cw.requirements import WorkerCapacity

_BEFORE_JOINING = (m.Inventory, m.InventoryEnd, m.WorkerInfo, m.SharedRoom, m.Goodbye, m.Heartbeat)


class Loss(NamedTuple):
    """A worker that was lost, as reported to observers."""

    ident: str
    name: str
    location: str
    how: str
    at: float


class Master(Protocol):
    """The part of its master that a worker's peer uses."""

    @property
    def dispatcher(self) -> Dispatcher: ...
    @property
    def output(self) -> OutputRoute: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def period(self) -> float: ...
    def perform(self, actions: list[Action]) -> None: ...
    def call_later(self, seconds: float, callback: Callable[[], None]) -> None: ...
    @property
    def passing(self) -> PassingOrders: ...
    @property
    def watching(self) -> Watching: ...
    def welcome(self, connection: Connection) -> None: ...
    def remark(self, session: int, kind: str, text: str) -> None: ...
    def note_worker(self, key: str, is_there: bool) -> None: ...
    def note_lost(self, loss: Loss) -> None: ...


class WorkerPeer(Peer):
    """A worker. `is_known`: the policy knows it, from an earlier connection or since it has reported its jobs."""

    connection: Connection

    def __init__(self, master: Master, connection: Connection, hello: m.Hello, is_known: bool) -> None:
        super().__init__("worker", hello)
        self.is_known = is_known
        self.why_unusable = ""  # the latest reason why it could not use a slot
        self._master = master
        self._key = hello.ident
        self._rules: checks.WorkerRules
        self._capacity = WorkerCapacity.from_wire(hello.capacity)
        self._python = hello.python[0], hello.python[1]
        self._has_joined = False  # over this connection
        self._is_over = False  # it is gone for good, or has another connection
        self._inventory: list[Inventory] = []  # named, and not yet passed to the policy
        self.facts = WorkerFacts(f"{hello.host}:{hello.pid}", self.host, time.monotonic())
        self._is_draining = False
        self._releases = Releases(connection)
        self.jobs = JobSender(connection, self._key, master.dispatcher.state.depth, master.passing)
        self.attach(connection, checks.WorkerRules(self._capacity.slots))
        master.welcome(connection)

    # --- messages to it ---

    def send(self, message: tuple[Any, ...]) -> None:
        if type(message) is m.Recall:
            self._rules.recalls += 1
        self.connection.send(message)

    def order(self, message: WorkerMessage) -> list[Action]:
        """Send an order of the policy. Dispatches that it ends, and the socket has not taken, are taken back: then the
        policy hears of them what the worker would report. Returns what it decides."""
        if isinstance(message, m.Release):
            self._releases.send(message)
            return []
        if not isinstance(message, (m.Stop, m.TakeBack)):
            self.send(message)
            return []
        gone = set(self.connection.withdraw(m.Dispatch, set(message.dispatches)))
        if left := [dispatch for dispatch in message.dispatches if dispatch not in gone]:
            self.send(type(message)(left))
        return self._master.dispatcher.on_returned(self._key, sorted(gone)) if gone else []

    def drain(self) -> None:
        """Let the worker finish what runs, and leave."""
        self.send(m.Drain([self._key]))

    def status(self) -> dict[str, Any]:
        """The worker's entry in the cluster's status, for observers."""
        left = None if self.facts.ends_at == math.inf else round(self.facts.ends_at - time.monotonic(), 1)
        return {
            "ident": self._key, "name": self.name, "location": self.facts.location, "slots": self._capacity.slots,
            "left": left, "held": self._master.dispatcher.state.held(self._key), "draining": self._is_draining,
        }  # fmt: skip

    def on_second(self, now: float) -> None:
        if self.connection.closed:
            return
        self._releases.flush()
        if self.is_known:
            worker = self._master.dispatcher.state.workers[self._key]
            self.facts.on_second(now, len(worker.held), worker.recent.total)
        if self.facts.ends_at < math.inf and self.is_known:
            self._master.dispatcher.on_time_left(self._key, self._time_left(now))
        silence = self._master.settings.silence
        if self.connection.count_silence() * self._master.period > silence:
            self._close()
            self._lose(f"silent for {silence:.0f} s")

    # --- its messages ---

    def on_message(self, message: Any) -> None:
        if not self._has_joined and type(message) not in _BEFORE_JOINING:
            raise ProtocolError(f"{type(message).__name__} before it has reported what it holds")
        super().on_message(message)

    def _on_fact(self, message: Any) -> None:
        """Pass the message to the policy, as it is."""
        self._master.perform(_FACTS[type(message)](self._master.dispatcher, self._key, *message))

    def _on_runner_died(self, message: m.RunnerDied) -> None:
        note = checks.clean_note(message.note)
        self.facts.loss, self.facts.lost_at = str(note.get("how", "died")), time.monotonic()
        lines.warning("master.runner_died", "a runner of %s died: %s", self.name, note.get("how"))
        self._master.perform(self._master.dispatcher.on_runner_died(self._key, message.dispatch, note))

    def _on_not_entered(self, message: m.NotEntered) -> None:
        for dispatch, general, size, payload in zip(*message, strict=True):
            reason = checks.clean_text(bytes(payload[:size]).decode(errors="replace"))
            self._master.perform(
                self._master.dispatcher.on_not_entered(
                    self._key, dispatch, bool(general), reason, payload[size:]
                )
            )

    def _on_remark(self, message: m.Remark) -> None:
        self._master.remark(message.session, message.kind, checks.clean_text(message.text))

    def _on_inventory(self, message: m.Inventory) -> None:
        if self._has_joined:
            raise ProtocolError("Inventory after it has joined")
        self._inventory += zip(*message, strict=True)

    def _on_worker_info(self, message: m.WorkerInfo) -> None:
        self.facts.location = message.location
        self.facts.place = str(Location.parse(message.location))
        if message.seconds >= 0:
            self.facts.ends_at = time.monotonic() + message.seconds

    def _time_left(self, now: float) -> float:
        return self.facts.ends_at - now - self._master.period  # (it is updated only once in a period)

    def _on_inventory_end(self, message: m.InventoryEnd) -> None:
        """The worker has named all that it holds."""
        dispatcher = self._master.dispatcher
        if self._has_joined:
            raise ProtocolError("InventoryEnd a second time")
        inventories, self._inventory = self._inventory, []
        self._has_joined = True
        self.jobs.on_inventory(message.sessions)
        if not self.connection.passes_files:  # on the master's machine a value is not copied
            self._master.passing.on_joined(self._key)
        slots = program.count(self._capacity.slots, "slot")
        described = (
            f"{self.connection.peer}: {slots}, Python {'.'.join(map(str, self._python))}"
            + f"; it holds {program.count(len(inventories), 'job')}" * bool(inventories)
        )
        if self.is_known:
            events.info("master.worker_back", "%s is back from %s", self.name, described)
            self._master.perform(dispatcher.on_worker_back(self._key, inventories))
            return
        events.info("master.worker_joined", "%s joined from %s", self.name, described)
        self.is_known = True
        left = self._time_left(time.monotonic())
        self._master.perform(
            dispatcher.on_worker_joined(self._key, self._capacity, self._python, inventories, left)
        )
        self._master.note_worker(self._key, True)

    def _on_held(self, message: m.Held) -> None:
        value = message.session, message.number
        self.jobs.on_held(value)
        self._master.passing.on_held(self._key, value)

    def _on_not_fetched(self, message: m.NotFetched) -> None:
        lines.warning(
            "master.not_fetched",
            "%s could not fetch a shared value from another worker: %s",
            self.name,
            message.reason,
        )
        self._master.passing.on_failed(self._key, (message.session, message.number))

    def _on_draining(self, message: m.Draining) -> None:
        events.info("master.worker_draining", "%s drains", self.name)
        self._is_draining = True
        self._releases.on_draining()
        self._master.perform(self._master.dispatcher.on_worker_draining(self._key))

    def _on_capacity(self, message: m.Capacity) -> None:
        dispatcher = self._master.dispatcher
        reason = checks.clean_text(message.reason)
        if message.slots < self._capacity.slots or message.blocked_sessions:
            self.why_unusable = f"{self.name}: {reason}"
            lines.warning(
                "master.slots_unusable", "%s cannot use all its slots now: a runner %s", self.name, reason
            )
        self._master.perform(
            dispatcher.on_worker_capacity(self._key, message.slots, message.blocked_sessions)
        )
        for session in message.blocked_sessions:
            if dispatcher.state.can_run(session):  # (otherwise the client is notified that its jobs wait)
                self._master.remark(
                    session,
                    f"unusable {self._key}",
                    f"{self.name} cannot start a process for this program's jobs (a runner {reason}): they go to other "
                    "workers, and it is tried again",
                )

    # --- it goes ---

    def give_way(self) -> None:
        """Close this connection, since the worker has another one: it is dead, even if that was not noticed."""
        self._is_over = True
        if not self.connection.closed:
            self._close()
            if self.is_known:
                self._master.perform(self._master.dispatcher.on_worker_away(self._key))

    def _on_goodbye(self, message: m.Goodbye) -> None:
        self.note_left(message)
        self._master.passing.on_gone(self._key)
        if self.is_known:
            self._master.perform(self._master.dispatcher.on_worker_departed(self._key))
        self._end()

    def _close(self) -> None:
        self.connection.close()
        self._master.passing.on_gone(self._key)

    def on_close(self, reason: str) -> None:
        self._master.passing.on_gone(self._key)
        if not self.is_known:
            events.warning(
                "master.worker_not_joined",
                "%s is gone before it joined%s",
                self.name,
                f" ({reason})" if reason else "",
            )
            self._end()
            return
        events.warning(
            "master.worker_gone",
            "%s is gone%s; it may be back within %g s",
            self.name,
            f" ({reason})" if reason else "",
            AWAY,
        )
        self._master.perform(self._master.dispatcher.on_worker_away(self._key))
        self._master.call_later(AWAY, lambda: self._lose(reason or "its connection closed"))

    def _lose(self, reason: str) -> None:
        """Count a worker as lost that is gone without goodbye, and not back in time."""
        if self._is_over:
            return
        dispatcher = self._master.dispatcher
        held = dispatcher.state.held(self._key) if self.is_known else 0
        events.warning(
            "master.worker_lost",
            "%s is lost (%s); %s requeued",
            self.name,
            reason,
            program.count(held, "job is", "jobs are"),
        )
        self._master.note_lost(Loss(self._key, self.name, self.facts.location, reason, time.time()))
        self._master.watching.on_lost(self.facts, reason)
        if self.is_known:
            note = {
                "host": self.host, "worker": self.name, "worker_ident": self._key,
                "how": f"the worker was lost: {reason}",
            }  # fmt: skip
            self._master.perform(dispatcher.on_worker_lost(self._key, note))
        self._end()

    def _end(self) -> None:
        """Remove a worker that is gone for good. The policy must know it before: this lets clients settle, and then the
        policy must not decide anything for a worker that is gone."""
        self._is_over = True
        self._master.note_worker(self._key, False)

    handlers = {
        m.Results: lambda self, message: self._on_fact(self._releases.noted(message)),
        m.Started: _on_fact,
        m.Returned: _on_fact,
        m.Recalled: _on_fact,
        m.CutShort: _on_fact,
        m.Lent: _on_fact,
        m.Inventory: _on_inventory,
        m.InventoryEnd: _on_inventory_end,
        m.WorkerInfo: _on_worker_info,
        m.SharedRoom: lambda self, message: self.jobs.on_shared_room(message.size),
        m.Held: _on_held,
        m.NotFetched: _on_not_fetched,
        m.PortOpened: lambda self, message: self._master.passing.on_opened(self._key, *message),
        m.Draining: _on_draining,
        m.Capacity: _on_capacity,
        m.RunnerDied: _on_runner_died,
        m.NotEntered: _on_not_entered,
        m.Output: lambda self, message: self._master.output.on_output(self._key, self.host, message),
        m.Kept: lambda self, message: self._master.output.on_kept(self._key, message),
        m.Remark: _on_remark,
        m.Goodbye: _on_goodbye,
        # (The beat is the worker's.)
        m.Heartbeat: lambda self, message: self.connection.send(self.facts.on_heartbeat(message)),
    }


_FACTS: dict[type, Callable[..., list[Action]]] = {
    m.Results: Dispatcher.on_results,
    m.Started: Dispatcher.on_started,
    m.Returned: Dispatcher.on_returned,
    m.Recalled: Dispatcher.on_recalled,
    m.CutShort: Dispatcher.on_cut_short,
    m.Lent: Dispatcher.on_lent,
}
"""The policy's method for each message that it takes as it is."""
