"""Exchange of messages between a session and its master: jobs and what they need go out, results come in.

    Jobs.next_batch --> Objects, Submit -->           | master
    Delivery.finish, record   <---------- Results <-- |

When a master is lost, the session sends the next one its jobs' attempt counts, and resubmits the jobs. All code here
runs in the session's thread, or in one that holds the loop's lock in its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Protocol

from cw import nested, program
from cw.client.functions.calls import Calls
from cw.client.options import ClientSettings, check_patience, check_workers
from cw.client.session import outcome, patience
from cw.client.session.acknowledging import Acknowledger
from cw.client.session.delivery import Delivery
from cw.client.session.identity import new_identity
from cw.client.session.job import ClientJob
from cw.client.session.jobs import BATCH, Jobs
from cw.client.session.outcome import Abandoned, Outcomes
from cw.events import EventLogger
from cw.net import address, memory
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.loop import Loop
from cw.net.master_link import MasterLink
from cw.observer.reporter import Reporter
from cw.output.incoming import Incoming
from cw.payloads import serialize
from cw.payloads.job_usage import MEASURED_SECONDS
from cw.version import VERSION
from cw.waits.reporter import WaitReporter

logger = EventLogger("cw.client")

# The columns of a Submit, by functions of C: this is on the way of each job.
_number, _function = attrgetter("number"), attrgetter("function")
_options, _payload = attrgetter("options"), attrgetter("payload")


class Owner(Protocol):
    """The session, as an exchange needs it."""

    output: Incoming

    def on_joined(self) -> None:
        """Note that a master is connected; it may be another than before."""

    def on_progress(self) -> None:
        """Note that some jobs have been delivered."""

    def on_started(self, job: ClientJob) -> None:
        """Note that the job is known to run."""

    def on_failure(self, error: BaseException) -> None:
        """End the session, which cannot go on."""


class Exchange:
    """Talks for one session to its masters, one after the other; owns the link to them."""

    def __init__(
        self,
        loop: Loop,
        owner: Owner,
        settings: ClientSettings,
        jobs: Jobs,
        calls: Calls,
        delivery: Delivery,
    ) -> None:
        self.identity = new_identity()
        self.opener: outcome.Opener = outcome.Opener()
        """Makes values and errors of results."""
        self.is_frozen = False
        """True if nothing is sent, and what comes is passed over: another process is taking the session over."""
        self.result_host: str | None = None
        """Host of the results that arrive; None: the master was not asked."""
        self.most = check_workers(settings.max_workers)
        """How many jobs may be at the master at a time, by the user's wish; None: any number."""
        self.patience = patience.Patience(
            check_patience("connect_timeout", settings.connect_timeout, patience.CONNECT_SECONDS),
            check_patience("reconnect_timeout", settings.reconnect_timeout, patience.RECONNECT_SECONDS),
            lambda: not self._leaves_when_done or bool(jobs.outstanding),
        )
        self.link = MasterLink(
            loop,
            lambda: address.find_master(settings.host, settings.port),
            self,
            self.patience,
            patience.TERMS,
        )
        self.waits = WaitReporter(lambda: self.link.where)
        self.reporter = Reporter(loop, self.link.send, jobs, calls.objects.names)
        calls.object_sender.on_sent = self.reporter.on_objects_sent
        self.acknowledger = Acknowledger(loop, self.link, jobs)
        delivery.on_stored = self.acknowledger.on_stored
        self._loop, self._owner = loop, owner
        self._jobs, self._calls = jobs, calls
        self._object_sender = calls.object_sender
        self._delivery = delivery
        self._again: list[ClientJob] = []  # jobs that must be submitted once more over this connection
        self.roster: set[str] = set()
        """Workers that are at the master, or were when it was lost."""
        self._leaves_when_done = False
        self._handlers = {**self._message_handlers(), **owner.output.handlers}

    def _message_handlers(self) -> dict[type, Callable[[Any], None]]:
        """Map message types of the master to their handlers, but those about output."""
        return {
            m.Window: self._on_window,
            m.SharedRoom: lambda message: self._object_sender.on_shared_room(message.size),
            m.WantDigest: lambda message: self._object_sender.on_want_digest(message),
            m.Waiting: self.waits.on_waiting,
            m.Notice: lambda message: logger.warning("client.notice", "%s", message.text),
            m.Roster: self._on_roster,
            m.ResultHost: self._on_result_host,
            m.JobsStarted: self._on_started,
            m.JobResults: self._on_results,
            m.Lost: self._on_job_lost,
            m.AttemptCounts: self._on_attempt_counts,
            m.Watched: self.reporter.on_watched,
            m.TakenOver: lambda message: self.link.on_taken_over(message),
            m.Goodbye: lambda message: self.link.on_goodbye(message),
            m.Heartbeat: lambda message: None,
        }

    # --- the owner of the link ---

    def hello(self) -> m.Hello:
        ident, secret, python, program_name, parent = self.identity
        return m.Hello("client", ident, secret, m.PROTOCOL, list(python), VERSION, os.uname().nodename, os.getpid(), {},
                       self._jobs.highest_sent, memory.takes_files(), nested.depth, parent, program_name)  # fmt: skip

    def on_message(self, message: Any) -> None:
        self._handlers[type(message)](message)

    def on_welcome(self) -> None:
        link, jobs, connection = self.link, self._jobs, self.link.connection
        assert connection is not None
        self._calls.store = self._calls.warm_files.join if connection.passes_files else None
        self._object_sender.start_anew(connection)
        self.reporter.start_anew()
        if link.is_lost:
            left = program.count(jobs.outstanding, "job is", "jobs are")
            logger.warning(
                "client.reconnected",
                "the client is connected to the master at %s again; %s outstanding",
                link.where,
                left,
            )
        if jobs.highest_sent:
            connection.send(m.Roster(sorted(self.roster), []))
            for attempt_counts in jobs.attempt_counts.values():
                connection.send(attempt_counts)
        jobs.on_master_joined()
        self.waits.on_joined()
        self._owner.on_joined()

    def on_lost(self) -> None:
        self._jobs.on_master_lost()
        self.acknowledger.on_lost()
        self.waits.on_lost()
        self._again.clear()  # they are resubmitted with all others
        self._object_sender.start_anew(None)
        self.result_host = None

    def on_failure(self, error: BaseException) -> None:
        self._owner.on_failure(error)

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call a function in the session's thread. Any thread."""
        self._loop.call_soon_threadsafe(function)

    def stop(self) -> None:
        """End the session's thread, without a goodbye."""
        self._loop.stop()

    def leave_when_done(self) -> None:
        """Say goodbye when all results are delivered."""
        self._leaves_when_done = True
        if not self._jobs.outstanding:
            self.leave()

    def leave(self) -> None:
        """Say goodbye, and end when the master has read it or its time is over."""
        self._jobs.close_window()
        self.link.leave(self._loop.stop, waits_for_lost=True)

    def note_progress(self) -> None:
        """Notify the session that jobs have been delivered, and leave if all are."""
        self._owner.on_progress()
        if self._leaves_when_done and not self._jobs.outstanding:
            self.leave()

    # --- to the master ---

    def pump(self) -> None:
        """Send the jobs that the master's window has room for."""
        jobs, connection = self._jobs, self.link.connection
        if connection is None or self.is_frozen:
            return
        if self._again:
            again, self._again = list(filter(jobs.is_sent, self._again)), []
            self.acknowledger.send()  # of their results, before the master knows these jobs once more
            if again:
                self._submit(connection, again, is_apart=True)
        if not jobs.is_window_open:
            return
        if jobs.is_resubmitting:
            while batch := jobs.next_resubmitted():
                self._submit(connection, batch)
            while batch := jobs.next_apart(is_again=True):
                self._submit(connection, batch, is_apart=True)
            connection.send(m.ResubmitEnd())
        if jobs.ranked.heap:
            self._pump_apart(connection)
        while batch := jobs.next_batch():
            self._submit(connection, batch)
            if len(batch) < BATCH:
                break  # there are no more, or there is no room
        if jobs.ranked.heap:
            self._pump_apart(connection)

    def _pump_apart(self, connection: Connection) -> None:
        """Send jobs with a priority of their own, as far as it is their turn."""
        while batch := self._jobs.next_apart():
            self._submit(connection, batch, is_apart=True)

    def _submit(self, connection: Connection, batch: list[ClientJob], is_apart: bool = False) -> None:
        """Send jobs, after the objects that they need and the master does not have."""
        if self._delivery.is_used and self.result_host is None:
            self.result_host = ""
            connection.send(m.WantsResultHost())
        functions, options = list(map(_function, batch)), list(map(_options, batch))
        if not self._object_sender.send_objects(connection, set(functions), set(options) - {0}):
            if len(batch) > 1:  # too many objects at a time
                middle = len(batch) // 2
                self._submit(connection, batch[:middle], is_apart)
                self._submit(connection, batch[middle:], is_apart)
            return  # a single job was cancelled meanwhile, and its function is forgotten
        numbers, payloads = list(map(_number, batch)), list(map(_payload, batch))
        if is_apart:
            tries = [0 if job.retries is None else min(job.retries.tries, 255) for job in batch]
            connection.send(m.SubmitApart(numbers, functions, options, tries, payloads))
        else:
            connection.send(m.Submit(numbers, functions, options, payloads))

    def take_cancelled(self) -> None:
        """Forget cancelled jobs, here and at the master."""
        to_deliver, at_master = self._jobs.take_cancelled()
        for job in to_deliver:
            self._delivery.finish(job, Abandoned(), None)
        if at_master and self.link.connection is not None:
            for kind in m.Submit, m.SubmitApart:
                self.link.connection.withdraw(kind, set(at_master))
            # Also of what is withdrawn: this master may know such a job from an earlier connection.
            self.link.send(m.Cancel(at_master))
        self.note_progress()

    # --- from the master ---

    def _on_window(self, message: m.Window) -> None:
        self._jobs.on_window(
            message.jobs if self.most is None else min(message.jobs, self.most), message.size
        )
        self.pump()

    def _on_roster(self, message: m.Roster) -> None:
        self.roster.update(message.joined)
        self.roster.difference_update(message.gone)

    def _on_result_host(self, message: m.ResultHost) -> None:
        self.result_host = message.host

    def _on_started(self, message: m.JobsStarted) -> None:
        for job in self._jobs.on_started(message.numbers):
            self._owner.on_started(job)

    def _on_results(self, message: m.JobResults) -> None:
        if self.is_frozen:
            return  # not acknowledged, it comes again to the next process
        delivery, sink = self._delivery, self._owner.output.sink
        if sink.is_used:
            sink.on_ended(message.numbers)  # before the results
        has_kept = sink.has_kept
        take, load, deliver, on_delivered = (
            self._jobs.take, self.opener.load, delivery.deliver, self._jobs.on_delivered,
        )  # fmt: skip
        has_held, report = bool(self._jobs.held), delivery.run_report
        to_record = Outcomes()
        for number, status, seconds, payload in zip(*message, strict=True):
            kept = sink.take_kept(number) if has_kept else None
            if status and self._try_again(number, status, seconds, payload):
                continue
            job = take(number)
            if job is None:
                continue  # cancelled meanwhile
            error, value = load(job, status, payload)
            if report is not None:
                report.note(job, seconds, self.result_host or "", error, value)
            if error is not None:
                self.reporter.on_failed(number, error)
            if job.retries is not None:
                job.retries.add_notes(error)
            if seconds > MEASURED_SECONDS:
                delivery.note_usage(job, payload)
            if kept is not None or job.keeps_output:
                kept = delivery.note_output(job, error, kept)
            if has_held and error is None and (result := getattr(job.tag, "awaited", None)) is not None:
                result.payload = payload
            if job.call is None or (status and not self.opener.is_recorded(status, error)):
                delivery.seconds = seconds
                deliver(number, job.tag, error, value)
                on_delivered(job, error is not None)
            else:
                to_record.add(job, status, seconds, payload, error, value, kept)
        if to_record.jobs:
            self._delivery.record(to_record, self.result_host or "")
        self.acknowledger.note(len(message.numbers), bool(to_record.jobs))
        self.note_progress()
        self.pump()

    def _try_again(self, number: int, status: int, seconds: float, payload: Any) -> bool:
        """Submit a job that has failed once more, if its options say so, or if modules that it lacked travel from now
        on. It stays among the outstanding jobs, so the objects that it needs stay, too."""
        job = self._jobs.get(number)
        if job is None or (job.retries is None and status != m.NOT_ENTERED):
            return False
        error, _ = self.opener.load(job, status, payload)
        if status == m.NOT_ENTERED:
            if not self._calls.take_modules_along(job, error):
                return False
            self._again.append(job)
            return True
        if error is None or not self._jobs.try_again(job, error, payload):
            return False
        if self._delivery.run_report is not None:
            self._delivery.run_report.note(job, seconds, self.result_host or "", error, None)
        self.reporter.on_failed(number, error)
        self._again.append(job)
        return True

    def _on_attempt_counts(self, message: m.AttemptCounts) -> None:
        self._jobs.on_attempt_counts(message)
        if (job := self._jobs.get(message.number)) is not None:
            self.waits.cut_jobs.on_attempt_counts(
                self._calls.objects.names.get(job.function, "?"), message.notes
            )
        self._owner.output.sink.take_kept(message.number)  # of the attempt that is over: the job runs again

    def _on_job_lost(self, message: m.Lost) -> None:
        if self.is_frozen:
            return
        sink = self._owner.output.sink
        sink.on_ended([message.number])
        kept = sink.take_kept(message.number)
        job = self._jobs.take(message.number)
        if job is not None:
            error = outcome.error_of_lost(job, message)
            # (Without its last output, which is noted below.)
            payload = b"" if job.call is None else serialize.dump_error(error, {})
            self.reporter.on_failed(message.number, error)
            if kept is not None:
                kept = self._delivery.note_output(job, error, kept)
            if self._delivery.run_report is not None:
                self._delivery.run_report.note(job, 0.0, "", error, None)
            if job.call is None:
                self._delivery.finish(job, error, None)
            else:
                to_record = Outcomes()
                to_record.add(job, m.ERROR, 0.0, payload, error, None, kept)
                self._delivery.record(to_record, "")
                self.acknowledger.note(0, True)
        self.note_progress()
        self.pump()
