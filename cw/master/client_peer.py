"""A client's session at the master, whether the client is connected or not.

    Connection ---> ClientPeer._on_*() ---> Dispatcher.on_*() ---> the master performs the actions
                        |    '-- Resumption: what it resubmits when it is back
                        '------- Wait: when to notify it that its jobs wait

All in here runs in the loop's thread.
"""

from __future__ import annotations

import errno
import hmac
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from cw import program
from cw.master import checks
from cw.master.observers.facts import ClientFacts
from cw.master.output import OutputRoute
from cw.master.passing_orders import PassingOrders
from cw.master.peer import Peer, events, lines
from cw.master.policy.actions import Action, Deliver, GiveUp, attempt_counts
from cw.master.policy.dispatch import Dispatcher
from cw.master.policy.jobs import Job
from cw.master.policy.resumption import Resumption
from cw.master.policy.why import Cause, Survey, Wait, is_going_on
from cw.master.records import Records
from cw.master.settings import Settings
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.objects import Key, SessionObjects

WINDOW_JOBS = 16 * 1024
"""Most open jobs of a client, beside some for each slot. Larger: more memory for each client here.
Smaller: slots may run dry while the next jobs are on their way."""

WINDOW_JOBS_A_SLOT = 64
"""Open jobs that a client may have for each slot, beside WINDOW_JOBS."""

WINDOW_BYTES = 64 * 1024**2
"""Most bytes of payload that a client may have here; one larger job is allowed when it is alone."""

RESULTS_UNSENT = 16 * 1024**2
"""Bytes of results not taken by a client, above which no more of its jobs are dispatched."""

ROOM_STEPS = 16
"""The client is told of the room for its shared values when it has changed by more than one part in this many."""

FAREWELL_SECONDS = 5.0
"""Time for a process whose session another one takes over to read that, and to close its connection (seconds)."""

REMARKS = 100
"""Most kinds of remarks from workers that are sent to a client."""


class Master(Protocol):
    """The part of its master that a client's peer uses."""

    @property
    def dispatcher(self) -> Dispatcher: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def passing(self) -> PassingOrders: ...
    @property
    def output(self) -> OutputRoute: ...
    def perform(self, actions: list[Action]) -> None: ...
    @property
    def records(self) -> Records | None: ...
    def assign_soon(self, key: int) -> None: ...
    def welcome(self, connection: Connection) -> None: ...
    def call_later(self, seconds: float, callback: Callable[[], None]) -> None: ...
    def joined(self) -> set[str]: ...
    def host_of(self, worker: str) -> str: ...
    def forget_objects(self, keys: list[Key]) -> None: ...
    def drop_session(self, key: int) -> None: ...


class ClientPeer(Peer):
    """A client: its objects, by the numbers that it gave them."""

    def __init__(self, master: Master, key: int, hello: m.Hello) -> None:
        super().__init__("client", hello)
        self._master = master
        self._key = key
        self._ident, self._secret = hello.ident, hello.secret
        self._rules: checks.ClientRules
        self._resumption = Resumption(master.settings.client_grace, checks.RESUBMITTED_JOBS)
        self._wait = Wait()
        self._lost: list[m.Lost] = []  # to be sent when the client is back
        self._objects = SessionObjects(key)
        self._window = 0
        self._shared_room = 0  # as the client was told
        self._is_blocked = False
        # Host of the latest results; None: the client does not want to know.
        self._result_host: str | None = None
        self._remarks: set[str] = set()  # kinds that were sent
        self.facts = ClientFacts(hello.host, hello.pid, hello.program, time.monotonic())
        master.dispatcher.on_session_opened(key, tuple(hello.python), hello.depth, hello.parent)

    def knows(self, hello: m.Hello) -> bool:
        """True if the Hello comes from the client of this session."""
        return hmac.compare_digest(
            (self._ident + self._secret).encode(), (hello.ident + hello.secret).encode()
        )

    def on_connected(self, connection: Connection, hello: m.Hello, is_new: bool) -> None:
        """The client has connected: new, or back."""
        master, dispatcher = self._master, self._master.dispatcher
        if self.connection is not None:
            _give_up(self.connection, self.facts, hello, master)
        self.name = f"client {hello.host}:{hello.pid}"
        self.facts.host, self.facts.pid = hello.host, hello.pid
        self._window = self._shared_room = 0
        self._is_blocked = False
        self._result_host = None
        self._wait.on_connected()
        self.facts.backlog = {}
        # The client sends again the objects that it needs.
        self._objects = SessionObjects(self._key, self._objects.by_number)
        is_back = self._resumption.on_connected(time.monotonic(), is_new, hello.resubmitted_up_to)
        rules = checks.ClientRules(
            lambda: dispatcher.state.open_jobs(self._key),
            self._objects,
            WINDOW_BYTES,
            self._resumption.resubmitted_up_to,
        )
        self.attach(connection, rules)
        connection.on_drained = self._on_drained
        connection.allow_slow_reader()
        master.welcome(connection)
        connection.send(m.Roster(sorted(master.joined()), []))
        if not is_back:
            events.info("master.client_joined", "%s joined from %s", self.name, connection.peer)
            return
        events.info(
            "master.client_back",
            "%s is back from %s; %d of its jobs are here",
            self.name,
            connection.peer,
            len(dispatcher.state.open_jobs(self._key)),
        )
        for lost in self._lost:
            connection.send(lost)
        self._lost.clear()
        for job in dispatcher.state.charged_jobs(self._key):
            connection.send(attempt_counts(job))
        master.passing.on_client_back(self._key)
        master.perform(dispatcher.on_session_resumed(self._key))

    # --- messages to it ---

    def on_roster(self, joined: list[str], gone: list[str]) -> None:
        """Report to the client which workers have come and gone: it names them if it comes back to another master."""
        self.send(m.Roster(joined, gone))
        self._resumption.on_workers_changed(time.monotonic(), joined, gone)
        self._settle()

    def give_up(self, action: GiveUp) -> None:
        if not action.is_stopped:
            lines.warning(
                "master.job_given_up", "job %d of %s is given up: %s", action.number, self.name, action.reason
            )
        lost = m.Lost(action.number, action.reason, list(action.notes), action.is_stopped)
        if self.connection is None:
            self._lost.append(lost)
        else:
            # What the job printed must come before this, and goes behind results.
            self.connection.send(lost, is_ordered=self._master.output.has_sent(self._key))

    def remark(self, kind: str, text: str) -> None:
        """Send the user a worker's remark: once for each kind, and at most REMARKS kinds."""
        if self.connection is not None and kind not in self._remarks and len(self._remarks) < REMARKS:
            self._remarks.add(kind)
            self.connection.send(m.Notice(text))

    def grant(self, slots: int) -> None:
        """Size its window for this number of slots."""
        jobs = WINDOW_JOBS + WINDOW_JOBS_A_SLOT * slots
        if jobs != self._window and self.connection is not None:
            self._window = jobs
            self._rules.window_jobs = max(self._rules.window_jobs, jobs)
            self.connection.send(m.Window(jobs, WINDOW_BYTES))

    @property
    def shared_size(self) -> int:
        """Bytes of its shared values here."""
        return self._objects.shared_size

    def allow_shared(self, room: int) -> None:
        """Let it have this many bytes of shared values here."""
        before = self._shared_room
        if self.connection is not None and abs(room - before) > before // ROOM_STEPS:
            self._shared_room = room
            self._rules.shared_room = max(self._rules.shared_room, room)
            self.connection.send(m.SharedRoom(room))

    def deliver_results(self, results: Deliver) -> None:
        """Send results to the client. Their worker keeps them until the client has acknowledged them."""
        assert self.connection is not None
        if self._result_host is not None:
            host = self._master.host_of(results.worker)
            if host != self._result_host:
                self._result_host = host
                self.connection.send(m.ResultHost(host))
        self.connection.send(
            m.JobResults(results.numbers, results.statuses, results.seconds, results.payloads)
        )
        self.connection.hurry()
        if self.connection.unsent > RESULTS_UNSENT and not self._is_blocked:
            self._is_blocked = True
            self._master.perform(self._master.dispatcher.on_blocked(self._key, True))

    # --- time ---

    def on_second(self, now: float, survey: Survey) -> None:
        """Settle; give up a client that does not come back; notify one whose jobs cannot go on."""
        dispatcher = self._master.dispatcher
        if self.connection is None:
            has_lost_parent, is_in_the_way = (
                dispatcher.state.has_lost_parent(self._key),
                dispatcher.state.has_waiting(self._key),
            )
            if self._resumption.should_end(now, has_lost_parent, is_in_the_way):
                events.warning(
                    "master.client_expired",
                    "%s did not come back; its %s dropped",
                    self.name,
                    program.count(len(dispatcher.state.open_jobs(self._key)), "open job is", "open jobs are"),
                )
                self._master.drop_session(self._key)
                return
        elif self.connection.is_unanswered(self._master.settings.silence):
            self.connection.fail(os.strerror(errno.ETIMEDOUT))
        self._settle()
        session = dispatcher.state.sessions[self._key]
        goes_on = session.delivered != self._wait.delivered or is_going_on(session)
        reason = survey.why(self._key, goes_on)
        waiting = self._wait.on_second(now, reason, session.delivered)
        if waiting is not None:
            self.send(waiting)
        to_come = survey.to_come
        if to_come.notice and reason is not None and reason.cause is not Cause.PAUSED:
            self.remark(f"to come: {to_come.notice}", to_come.notice)
        if to_come.problem and reason is not None:
            self.remark(f"to come: {to_come.problem}", to_come.problem)

    def _settle(self) -> None:
        """Queue resubmitted jobs that no worker holds, once all workers that may hold some have reported."""
        settled = self._resumption.settle(time.monotonic())
        if settled is None:
            return
        if settled.missing:
            events.info(
                "master.workers_missing",
                "%s not come back for the jobs of %s",
                program.count(len(settled.missing), "worker has", "workers have"),
                self.name,
            )
            self.send(m.Roster([], settled.missing))
        self._objects.forget_former()
        records = self._master.records
        if records is not None:
            find = partial(records.take_lost, self._key)
            self._master.perform(self._master.dispatcher.on_lost_before(self._key, find, records.note))
        self._master.perform(self._master.dispatcher.on_settled(self._key, settled.is_complete))

    # --- its messages ---

    def _on_submit(self, message: m.Submit) -> None:
        objects = self._objects.by_number
        jobs = [
            Job(number, objects[function], objects[options] if options else None, payload)
            for number, function, options, payload in zip(*message, strict=True)
        ]
        if not jobs:
            return
        dispatcher = self._master.dispatcher
        again, new = self._resumption.on_submitted(jobs)
        if again:
            self._master.perform(dispatcher.on_resubmitted(self._key, again, self._resumption.were_here))
        if new:
            dispatcher.on_queued(self._key, new)
            self._master.assign_soon(self._key)

    def _on_submit_apart(self, message: m.SubmitApart) -> None:
        objects = self._objects.by_number
        jobs = []
        for number, function, options, tries, payload in zip(*message, strict=True):
            job = Job(number, objects[function], objects[options] if options else None, payload)
            job.tries = tries
            jobs.append(job)
        dispatcher = self._master.dispatcher
        if self._resumption.on_submitted_apart(jobs):
            self._master.perform(dispatcher.on_resubmitted(self._key, jobs, self._resumption.were_here))
        else:
            self._master.perform(dispatcher.on_submitted_apart(self._key, jobs))

    def _on_objects(self, message: m.Objects) -> None:
        for _, number, kind, needs, payload in zip(*message, strict=True):
            self._objects.add(number, kind, needs, payload)

    def _on_forget(self, message: m.Forget) -> None:
        self._master.forget_objects([item.key for item in self._objects.forget(message.numbers)])

    def _on_cancel(self, message: m.Cancel) -> None:
        self._master.perform(self._master.dispatcher.on_cancelled(self._key, message.numbers))

    def _on_received(self, message: m.Received) -> None:
        """The client has these results: their workers need not keep them any longer."""
        if message.counts:
            self._master.perform(self._master.dispatcher.on_received(self._key, max(message.counts)))

    def _on_attempt_counts(self, message: m.AttemptCounts) -> None:
        self._resumption.on_attempt_counts(message._replace(notes=checks.clean_notes(message.notes)))

    def _on_roster(self, message: m.Roster) -> None:
        """The client names the workers that were at its previous master, or here before it came back."""
        self._resumption.on_former_workers(message.joined, self._master.joined())

    def _on_resubmit_end(self, message: m.ResubmitEnd) -> None:
        self._resumption.on_resubmitted()
        self._settle()

    def _on_wants_result_host(self, message: m.WantsResultHost) -> None:
        self._result_host = self._result_host or ""

    def _on_goodbye(self, message: m.Goodbye) -> None:
        self.note_left(message)
        self._master.drop_session(self._key)

    # --- its connection ---

    def on_close(self, reason: str) -> None:
        open_jobs = len(self._master.dispatcher.state.open_jobs(self._key))
        events.warning("master.client_gone", "%s is gone%s; its %s kept for %.0f s", self.name,
                       f" ({reason})" if reason else "",
                       program.count(open_jobs, "open job is", "open jobs are"),
                       self._master.settings.client_grace)  # fmt: skip
        self.connection = None
        # If it was closed or reset, its program has probably ended. Otherwise its network may be down.
        is_reset = reason not in (os.strerror(errno.ETIMEDOUT), os.strerror(errno.EHOSTUNREACH))
        self._resumption.on_disconnected(time.monotonic(), is_reset)
        self._master.perform(self._master.dispatcher.on_session_absent(self._key))

    def _on_drained(self) -> None:
        if self._is_blocked:
            self._is_blocked = False
            self._master.perform(self._master.dispatcher.on_blocked(self._key, False))

    handlers = {
        m.Submit: _on_submit,
        m.SubmitApart: _on_submit_apart,
        m.Objects: _on_objects,
        m.Digest: lambda self, message: self._master.passing.on_digest(
            (self._key, message.number), message.digest
        ),
        m.Forget: _on_forget,
        m.FunctionName: lambda self, message: self._master.dispatcher.state.tallies.name(
            self._key, self._objects.by_number[message.number].estimate, message.name
        ),
        m.Backlog: lambda self, message: self.facts.on_backlog(message),
        m.JobFailed: lambda self, message: self._master.dispatcher.state.tallies.on_error_lines(
            self._key, *message
        ),
        m.Cancel: _on_cancel,
        m.Received: _on_received,
        m.AttemptCounts: _on_attempt_counts,
        m.Roster: _on_roster,
        m.ResubmitEnd: _on_resubmit_end,
        m.WantsResultHost: _on_wants_result_host,
        m.Goodbye: _on_goodbye,
        m.Heartbeat: lambda self, message: None,
    }


def _give_up(former: Connection, facts: ClientFacts, hello: m.Hello, master: Master) -> None:
    """Give up a connection to a client: its end was not noticed, or another process takes the session over."""
    if (hello.host, hello.pid) == (facts.host, facts.pid):
        former.close()
        return
    by = f"{hello.host}:{hello.pid}"
    events.info(
        "master.session_taken_over", "client %s takes over the session of %s:%d", by, facts.host, facts.pid
    )
    # The other end closes the connection when it has read this. If we did, what it sends meanwhile would reset it.
    former.on_message = former.on_close = lambda _: None
    former.send_last(m.TakenOver(by))
    master.call_later(FAREWELL_SECONDS, former.close)
