"""A worker: one connection to the master, whatever its number of slots, and the messages on it.

    master <==> MasterLink > _on_<message> > Slots.on_*() --> Execution <==> runners
                  ^                            ^                  |
                  |                            '------------------|
                  '----- Results, ...  <--------------------------'
    signals, alarms, Drain --> Leaving: it drains, stops what runs, leaves

The worker runs no user code and opens no payload but the options of jobs, which are plain JSON: no job can keep it from
answering, or from ending a job that must end. All code here runs in the loop's thread.
"""

from __future__ import annotations

import math
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cw import events, location, program
from cw.cpus import usable_cpus
from cw.errors import ProtocolError
from cw.events import EventLogger
from cw.machine import batch_job
from cw.machine.topology import find_topology
from cw.named_tuple import NamedTuple
from cw.needs import ONE_CPU
from cw.net import address, memory
from cw.net import messages as m
from cw.net.loop import Loop
from cw.net.master_link import MasterLink
from cw.net.objects import Object, SessionObjects, closure, named_by
from cw.version import VERSION
from cw.worker.leaving import Leaving
from cw.worker.offer import Offer
from cw.worker.policy import patience
from cw.worker.policy.departure import END_SECONDS, Departure
from cw.worker.policy.jobs import WorkerJob
from cw.worker.policy.pinning import Pinning
from cw.worker.policy.slots import Slots
from cw.worker.runners import reaping
from cw.worker.runners.binding import Binder
from cw.worker.runners.execution import Execution
from cw.worker.runners.memory_guard import MemoryGuard
from cw.worker.runners.runners import Runners
from cw.worker.sharing.sharing import Sharing

logger = EventLogger("cw.worker")

MOST_SECONDS = 1e9
"""Treat ends farther away than this as no end (seconds)."""


class Settings(NamedTuple):
    """Limits of a worker, as the options of `cw.worker` give them. Times are in seconds."""

    silence: float = 30.0
    """Time that the master may be silent before we take it for lost."""
    reconnect_timeout: float = 300.0
    """Time that we look for a lost master while the runners go on. After that we end them, and wait for a master."""
    grace: float = 20.0
    """Time that running jobs may go on after a request to end. Slurm kills 30 s after its SIGTERM."""
    lifetime: float = math.inf
    """Time that the worker runs before it leaves by itself."""
    until: float = math.inf
    """End of the allocation (seconds since 1970). Running jobs are stopped END_MARGIN before that."""
    max_jobs: int = 0
    """Jobs after which a runner is replaced by a new one; 0: never."""
    enforce_memory: bool = False
    """True: stop jobs that use more memory than their options name."""
    idle: float = 0.0
    """Time with nothing to do after which the worker ends; 0: never."""
    without_master: float = math.inf
    """Time without a master after which the worker ends."""
    share_gpus: bool = False
    """True: jobs that ask for no GPU see all of them."""
    pin: bool = False
    """True: each runner runs on CPUs of its own."""


class Worker:
    """One worker process. `ident` is random: by it the master distinguishes this worker from all others."""

    def __init__(
        self,
        loop: Loop,
        offer: Offer,
        find: Callable[[], list[address.Candidate]],
        settings: Settings = Settings(),  # noqa: B008  (it is immutable)
        descriptors: tuple[int, int] | None = None,
    ) -> None:
        """`descriptors`: soft and hard limit of open files in the jobs' processes; None: those of this process."""
        self.ident = secrets.token_hex(16)
        self.on_joined: Callable[[], None] = lambda: None
        self.failure: str = ""
        """Reason why the worker ended, if it could not go on; otherwise ''."""
        self._loop = loop
        self._sessions: dict[int, SessionObjects] = {}
        self._choices: dict[int, int] = {}  # alternatives of the jobs that come next, by dispatch
        self._offer = offer
        self._slots = _make_slots(offer, settings)
        self._departure = Departure(
            settings.grace, settings.lifetime, settings.until, time.monotonic(), time.time()
        )
        self._link = MasterLink(
            loop, find, self, _make_patience(settings, self._start_afresh), patience.TERMS, settings.silence
        )
        self._link.beat = lambda: m.Heartbeat(round(os.getloadavg()[0], 2), self._runners.memory())
        self._send = self._link.send
        self.connect = self._link.connect
        binder = _make_binder(offer, settings.share_gpus)
        self._runners = Runners(loop, binder, descriptors, max(settings.grace, END_SECONDS))
        self._runners.on_failure = self._give_up
        if self._departure.ends_at < math.inf:
            self._runners.ends = self._departure.ends_at
        self._execution = Execution(loop, self._slots, self._runners, self._departure, self._send)
        self._execution.hurry = self._link.hurry
        self._outcomes = self._execution.outcomes
        self._output = self._execution.output
        self._output.unsent = self._unsent
        self._output.send_ordered = lambda message: self._link.send(message, is_ordered=True)
        self._perform = self._execution.perform
        if settings.enforce_memory:
            guard = MemoryGuard(self._slots.pool, self._runners, self._perform)
            self._execution.ticks.looks.append(guard.look)
        self._sharing = Sharing(
            loop, self._sessions, self._send, lambda: self._perform(self._slots.on_values(time.monotonic())),
            settings.silence,
        )  # fmt: skip
        reaping.set_subreaper()
        loop.call_every(1.0, self._on_second)
        self.leaving = Leaving(loop, self._departure, self._execution, self._link, settings.idle)
        self._handlers = self._message_handlers()

    def _message_handlers(self) -> dict[type, Callable[[Any], None]]:
        """Map each message type of the master to its handler."""
        now, slots, perform = time.monotonic, self._slots, self._perform
        return {
            m.Dispatch: self._on_dispatch,
            m.Objects: self._on_objects,
            m.Promise: self._on_promise,
            m.Fetch: self._sharing.on_fetch,
            m.OpenPort: self._sharing.on_open_port,
            m.Alternatives: lambda message: self._choices.update(zip(*message, strict=True)),
            m.Avoid: lambda message: slots.on_avoid(message.dispatches, message.slots),
            m.Depth: lambda message: slots.on_depth(message.session, message.depth),
            m.Forget: self._on_forget,
            m.Recall: lambda message: perform(slots.on_recall(message.count, now())),
            m.Stop: lambda message: perform(slots.on_stop(message.dispatches, now())),
            m.TakeBack: lambda message: perform(slots.on_take_back(message.dispatches, now())),
            m.Claim: self._on_claim,
            m.OutputShare: self._output.on_share,
            m.Release: lambda message: self._outcomes.outbox.forget(message.dispatches),
            m.CloseSession: self._on_close_session,
            m.Drain: self.leaving.on_drain,
            m.Goodbye: self._link.on_goodbye,
            m.Heartbeat: lambda message: None,
        }

    def close(self) -> None:
        """End the runners and wait until they are gone."""
        self._runners.close()

    def _give_up(self, reason: str) -> None:
        self.failure = reason
        self._loop.stop()

    # --- the master: the owner of its link ---

    def hello(self) -> m.Hello:
        return m.Hello("worker", self.ident, "", m.PROTOCOL, list(sys.version_info[:2]), VERSION, os.uname().nodename,
                       os.getpid(), self._offer.capacity.to_wire(), takes_files=memory.takes_files())  # fmt: skip

    def on_message(self, message: Any) -> None:
        self._handlers[type(message)](message)

    def on_lost(self) -> None:
        """Stop what the master has ordered: `on_welcome` reports to the next master what is here."""
        self._sharing.on_lost()

    def on_failure(self, error: BaseException) -> None:
        if not isinstance(error, (program.UserError, ConnectionError)):
            raise error  # our bug
        self._give_up(str(error))

    def _unsent(self) -> int | None:
        """Bytes that the master has not taken; None: there is no master."""
        connection = self._link.connection
        return connection.unsent if connection is not None and self._link.is_joined else None

    def _on_claim(self, message: m.Claim) -> None:
        self._output.on_claim()
        self._send_all(self._outcomes.on_claim(message.dispatches))

    def _send_all(self, messages: Iterable[tuple[Any, ...]]) -> None:
        for message in messages:
            self._send(message)

    def on_welcome(self) -> None:
        self._execution.master = self._link.master
        self._report()
        if self._departure.is_draining:
            self._send(m.Draining())
        logger.info(
            "worker.joined", "the worker joined the master at %s with %s", self._link.peer, self._offer.text
        )
        self._loop.call_later(0.0, self.on_joined)  # when what the master must know has been sent

    def _report(self) -> None:
        """Report the inventory to a master that we have just joined, which knows nothing of it."""
        self._slots.held.drop_awaiting()
        self._sharing.begin_anew()
        capacity = self._slots.on_joined()
        self._forget_unused_objects()
        inventories = [
            (job.dispatch, job.session, job.number, m.RUNNING if is_running else m.UNSTARTED)
            for job, is_running in self._slots.inventories()
        ]
        inventories += self._outcomes.inventories()
        if inventories:
            self._send(m.Inventory(*_columns(inventories)))
        left = self._departure.ends_at - time.monotonic()
        place = location.of_this_process().as_text()
        self._send(m.WorkerInfo(round(max(left, 0.0), 3) if left < MOST_SECONDS else -1, place))
        self._send(m.SharedRoom(memory.half_of_all()))
        self._send(m.InventoryEnd(list(self._sessions)))
        self._perform(capacity)
        self._output.on_welcome(self._link.master)
        self._execution.lend_again()  # the client may have found this master before us

    def _forget_unused_objects(self) -> None:
        """Forget all objects that no job here needs, except environments and what they need: their runners stay."""
        kept = list(named_by([job for job, _ in self._slots.inventories()]))
        for objects in self._sessions.values():
            kept += [item for item in objects.by_number.values() if item.kind == m.ENVIRONMENT]
        in_use = {item.key for item in closure(kept)}
        forgotten = [
            item.key
            for objects in self._sessions.values()
            for item in objects.by_number.values()
            if item.key not in in_use
        ]
        if forgotten:
            self._on_forget(m.Forget(*_columns(forgotten)))

    def _start_afresh(self) -> None:
        """End all runners and forget all jobs, of which no master knows."""
        for session in list(self._sessions):
            self._on_close_session(m.CloseSession(session))
        self._execution.on_forsaken()
        self._departure.on_forsaken()

    def _on_dispatch(self, message: m.Dispatch) -> None:
        self.leaving.idleness.on_work()
        jobs = []
        objects: dict[int, Object] = {}
        latest = None
        for dispatch, session, number, function_number, options_number, attempt, payload in zip(
            *message, strict=True
        ):
            if session != latest:
                latest = session
                objects = self._sessions[session].by_number if session in self._sessions else {}
            function = objects.get(function_number)
            options = objects.get(options_number) if options_number else None
            if function is None or (options_number and options is None):
                raise ProtocolError("a job of a function, or with options, that was not sent")
            job = WorkerJob(dispatch, session, number, function, options, attempt, payload)
            if self._choices and dispatch in self._choices:
                job.run_as(self._choices[dispatch])
            if job.needs is not ONE_CPU and (missing := self._offer.capacity.lacks(job.needs)):
                raise ProtocolError(f"a job that needs more {' and '.join(missing)} than this worker has")
            jobs.append(job)
        self._choices = {}
        self._perform(self._slots.on_jobs(jobs, time.monotonic()))

    def _on_objects(self, message: m.Objects) -> None:
        self.leaving.idleness.on_work()
        for session, number, kind, needs, payload in zip(*message, strict=True):
            if kind == m.SHARED and self._sharing.on_objects(session, number, payload):
                continue
            self._open_session(session).add(number, kind, needs, payload)

    def _on_promise(self, message: m.Promise) -> None:
        for session in set(message.sessions):
            self._open_session(session)
        self._sharing.on_promise(message)

    def _open_session(self, session: int) -> SessionObjects:
        """Return a session's objects, for a master that names it."""
        if session not in self._sessions:
            self._sessions[session] = SessionObjects(session)
            self._slots.on_session_opened(session)
        return self._sessions[session]

    def _on_forget(self, message: m.Forget) -> None:
        gone = [
            item
            for session, number in zip(*message, strict=True)
            if session in self._sessions
            for item in self._sessions[session].forget([number])
        ]
        self._runners.forget([item.key for item in gone])
        for session, number in [item.key for item in gone if item.kind == m.ENVIRONMENT]:
            self._perform(self._slots.on_environment_forgotten(session, number, time.monotonic()))

    def _on_close_session(self, message: m.CloseSession) -> None:
        self._perform(self._slots.on_session_closed(message.session, time.monotonic()))
        self._sharing.close_session(message.session)
        self._output.on_session_closed(message.session)
        self._outcomes.outbox.forget_session(message.session)
        self._sessions.pop(message.session, None)

    # --- time ---

    def _on_second(self, now: float) -> bool:
        if self._departure.is_leaving:
            return False
        if actions := self._slots.on_second(now):  # to perform nothing would be taken for an event
            self._perform(actions)
        self.leaving.on_second(now)
        events.flush_repeated()
        return True


def _make_slots(offer: Offer, settings: Settings) -> Slots:
    slots = Slots(offer.capacity, settings.max_jobs)
    if settings.pin:
        cpus = os.sched_getaffinity(0)
        slots.pin_runners(cpus, Pinning(*find_topology(cpus)).choose)
    return slots


def _make_patience(settings: Settings, forsake: Callable[[], None]) -> patience.Patience:
    return patience.Patience(settings.silence, settings.reconnect_timeout, forsake, settings.without_master)


def _make_binder(offer: Offer, shares_gpus: bool) -> Binder:
    threads = max(1, usable_cpus() // offer.capacity.slots)
    if offer.capacity.nodes > 1:  # the job starts processes on all CPUs, and they read the same variables
        threads = batch_job.cpus_of_task(os.environ)
    devices = () if shares_gpus else offer.capacity.gpus
    return Binder(threads, devices, offer.gpu_variable, hostfile=offer.hostfile)


def _columns(rows: Sequence[tuple[Any, ...]]) -> Iterable[Any]:
    """Turn rows into the columns of a message."""
    return map(list, zip(*rows, strict=True))
