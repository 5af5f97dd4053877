"""What the master knows of its peers: a client's session, whether connected or not, and a connected worker.

    connection ---> ClientPeer._on_*() ---> Dispatcher.on_*() ---> the master performs the actions
    connection ---> WorkerPeer._on_*() ---'

`master` is the `cw.master.Master` that they belong to. All in here runs in the loop's thread.
"""

from __future__ import annotations

import errno
import hmac
import logging
import math
import os
import time
from collections.abc import Callable, Set
from typing import Any

from cw import program
from cw.errors import ProtocolError
from cw.master import checks
from cw.master.jobs import Deliver, Job
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.objects import Key, ObjectCache, SessionObjects

logger = logging.getLogger("cw.master")
_lines = program.RateLimited(logger)
_events = program.RateLimited(logger, burst=10)  # of one peer each: thousands may come or go at once

WINDOW_JOBS = 16 * 1024
"""Jobs that a client may have here, beside some for each slot. Larger: more memory for each client here.
Smaller: slots may run dry while the next jobs are on their way."""

WINDOW_JOBS_A_SLOT = 64

WINDOW_BYTES = 64 * 1024**2
"""Bytes of payload that a client may have here; one larger job is allowed when it is alone."""

RESULTS_UNSENT = 16 * 1024**2
"""Bytes of results that a client has not taken, beyond which nothing more of it is dispatched."""

GRACE_IF_WANTED = 5.0
"""Seconds for which the session of a client that is gone is kept, at most, if its connection was closed or reset (its
program has ended, likely) and others want the slots."""

SETTLE = 5.0
"""Seconds after the return of a client to a new master for which workers that were there before are waited for. Jobs
that were handed in again are not dispatched until these have named what they hold, or the time is over."""

AWAY = 1.0
"""Seconds in which a worker whose connection broke may come back with all that it holds, before its jobs are taken for
lost. Larger: the jobs of a dead worker wait. Smaller: a broken connection costs more than that."""

NOTICE_SECONDS = 3.0
"""A client whose jobs find no worker for that long is told so."""

REMARKS = 100
"""Kinds of remarks that a client is told from its workers."""

STALLED = (
    "all slots are held by jobs that wait for jobs of their own, and these wait for a slot: nothing goes on. A job "
    "lends its slot while its main thread waits in result(), wait(), map or at the end of the block of its client, "
    "unless that has lend=False; else there must be more slots than such jobs: start more workers "
    "(python -m cw.worker HOST)"
)

FROM_CLIENT = m.sent_on(m.Leg.CLIENT_MASTER)
FROM_WORKER = m.sent_on(m.Leg.WORKER_MASTER)
FROM_OBSERVER = m.sent_on(m.Leg.OBSERVER_MASTER)

_BEFORE_JOINING = (m.Holding, m.Reported, m.Stay, m.Goodbye, m.Heartbeat)


def charged(job: Job) -> m.Charged:
    return m.Charged(job.number, job.deaths, job.losses, list(job.notes))


class ClientPeer:
    """A client's session, whether connected or not: its objects and options, by the numbers that it gave them."""

    def __init__(self, master: Any, key: int, hello: m.Hello) -> None:
        self.connection: Connection | None = None
        self.name = f"client {hello.host}:{hello.pid}"
        self._master = master
        self._key = key
        self._rules: checks.ClientRules  # of its present connection
        self._ident, self._secret = hello.ident, hello.secret
        self._python = tuple(hello.python)
        self._handed = 0  # jobs up to this number were handed in before the client came back,
        self._were_here = False  # and to this master
        self._highest = 0  # number of a job that was handed in, here or before
        self._submitted = 0  # the same, over this connection
        self._cancelled: set[int] = set()  # jobs whose Cancel overtook their Submit
        self._charges: dict[int, m.Charged] = {}  # of jobs that are about to be handed in again
        self._lost: list[m.Lost] = []  # what the client is to be told when it is back
        self._is_settling = False  # it is back
        self._is_handed_in = False  # with all its jobs
        self._missing: set[str] = set()  # workers that were there before, and have not come back yet
        self._is_complete = True  # none of those that came back is gone again
        self._settles_at = 0.0  # however many are missing
        self._ends_at = 0.0  # when a session without client is given up
        self._is_reset = False
        self._objects = SessionObjects(key)
        self._options: dict[int, dict[str, Any]] = {}
        self._window = 0
        self._is_blocked = False
        self._waits_since = 0.0  # when its jobs were first seen without any worker; 0: not so
        self._stalled_by: Set[int] = frozenset()  # by which jobs, if so
        self._is_told = False
        self._remarks: set[str] = set()  # of runners, that were passed on
        self._origin: str | None = None  # the host of the last results; None: it does not want to know
        self._remarks: set[str] = set()  # kinds of which it was told
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.Submit: self._on_submit,
            m.Objects: self._on_objects,
            m.OptionSets: self._on_options,
            m.Forget: self._on_forget,
            m.Cancel: self._on_cancel,
            m.Received: self._on_received,
            m.Charged: self._on_charged,
            m.Roster: self._on_roster,
            m.HandedIn: self._on_handed_in,
            m.WantsOrigin: self._on_wants_origin,
            m.Goodbye: self._on_goodbye,
            m.Heartbeat: lambda message: None,
        }
        master.dispatcher.on_session_opened(key, self._python, hello.depth, hello.parent)

    def knows(self, hello: m.Hello) -> bool:
        """Is it the client of this session that says hello?"""
        return hmac.compare_digest(
            (self._ident + self._secret).encode(), (hello.ident + hello.secret).encode()
        )

    def attach(self, connection: Connection, hello: m.Hello, is_new: bool) -> None:
        """The client is here: new, or back."""
        master, dispatcher = self._master, self._master.dispatcher
        if self.connection is not None:  # of which the end was not seen
            self.connection.close()
        self.connection = connection
        connection.decoder.accepts = FROM_CLIENT
        connection.on_message = self._on_message
        connection.on_close = self._on_close
        connection.on_drained = self._on_drained
        connection.bear_with_reader()
        self._window = self._submitted = 0
        self._is_blocked = False
        self._origin = None
        self._ends_at = 0.0
        self._cancelled.clear()
        self._charges.clear()
        # What it needs of these it sends again.
        self._objects = SessionObjects(self._key, self._objects.by_number)
        self._options.clear()
        if is_new:
            self._highest = hello.handed
        self._handed = self._highest
        self._rules = checks.ClientRules(
            lambda: self._master.dispatcher.open_jobs(self._key), self._objects, WINDOW_BYTES, self._handed
        )
        master.welcome(connection)
        connection.send(m.Roster(sorted(master.joined()), []))
        if is_new and not hello.handed:
            _events.info("%s joined from %s", self.name, connection.peer)
            return
        _events.info(
            "%s is back, from %s; %d of its jobs are here",
            self.name,
            connection.peer,
            dispatcher.jobs_of(self._key),
        )
        self._were_here = not is_new
        if not self._is_settling:  # else it was, and there may be some missing still
            self._is_settling, self._is_complete = True, True
            self._missing.clear()
        self._is_handed_in = False
        self._settles_at = time.monotonic() + SETTLE
        for lost in self._lost:
            connection.send(lost)
        self._lost.clear()
        for job in dispatcher.charged(self._key):
            connection.send(charged(job))
        master.perform(dispatcher.on_session_resumed(self._key))

    def on_roster(self, joined: list[str], gone: list[str]) -> None:
        """Tell the client who is there: it hands that in, should it come back to another master."""
        self.send(m.Roster(joined, gone))
        self._missing.difference_update(joined)
        self._is_complete = self._is_complete and not gone
        self._settle()

    def give_up(self, number: int, reason: str, notes: list[Any]) -> None:
        _lines.warning("job %d of %s is given up: %s", number, self.name, reason)
        if self.connection is None:
            self._lost.append(m.Lost(number, reason, notes))
        self.send(m.Lost(number, reason, notes))

    def send(self, message: tuple[Any, ...]) -> None:
        if self.connection is not None:
            self.connection.send(message)

    def remark(self, kind: str, text: str) -> None:
        """Tell the user something that workers say: once of each kind, and not without end."""
        if self.connection is not None and kind not in self._remarks and len(self._remarks) < REMARKS:
            self._remarks.add(kind)
            self.connection.send(m.Notice(text))

    def grant(self, jobs: int) -> None:
        if jobs != self._window and self.connection is not None:
            self._window = jobs
            self._rules.window_jobs = max(self._rules.window_jobs, jobs)
            self.connection.send(m.Window(jobs, WINDOW_BYTES))

    def deliver_results(self, results: Deliver) -> None:
        """To the client. Until it has acknowledged them, their worker keeps them."""
        assert self.connection is not None
        if self._origin is not None and (host := self._master.host_of(results.worker)) != self._origin:
            self._origin = host
            self.connection.send(m.Origin(host))
        self.connection.send(
            m.JobResults(results.numbers, results.statuses, results.seconds, results.payloads)
        )
        if self.connection.unsent > RESULTS_UNSENT and not self._is_blocked:
            self._is_blocked = True
            self._master.perform(self._master.dispatcher.on_blocked(self._key, True))

    def on_second(self, now: float) -> None:
        """Settle; give up a client that does not come back; tell one whose jobs no connected worker can run."""
        dispatcher = self._master.dispatcher
        if self._ends_at and (
            now >= self._ends_at
            or (
                self._is_reset
                and now >= self._ends_at - self._master.settings.client_grace + AWAY
                and dispatcher.has_lost_parent(self._key)  # the job in which it was is gone, and it with it
            )
            or (
                self._is_reset
                and now >= self._ends_at - self._master.settings.client_grace + GRACE_IF_WANTED
                and self._master.wants_slots(self._key)
            )
        ):
            _events.warning(
                "%s did not come back; its %s dropped",
                self.name,
                program.count(dispatcher.jobs_of(self._key), "open job is", "open jobs are"),
            )
            self._master.drop_session(self._key)
            return
        if self.connection is not None and self.connection.is_unanswered(self._master.settings.silence):
            self.connection.fail(os.strerror(errno.ETIMEDOUT))
        self._settle()
        if not dispatcher.jobs_of(self._key) or (
            dispatcher.can_run(self._key)
            and not dispatcher.time_wanting(self._key)
            and not dispatcher.stalled_by(self._key)
        ):
            self._waits_since, self._is_told = 0.0, False
        elif not self._waits_since or dispatcher.stalled_by(self._key) != self._stalled_by:
            self._waits_since, self._is_told = now, False
            self._stalled_by = dispatcher.stalled_by(self._key)
        elif not self._is_told and now - self._waits_since >= NOTICE_SECONDS:
            self._is_told = True
            self.send(m.Notice(self._why_it_waits()))

    def _settle(self) -> None:
        """Queue what was handed in again and nobody holds, once all who may hold it have been heard."""
        if not self._is_settling or not self._is_handed_in or self.connection is None:
            return
        if not self._missing or time.monotonic() >= self._settles_at:
            if self._missing:
                _events.info(
                    "%s not come back for the jobs of %s",
                    program.count(len(self._missing), "worker has", "workers have"),
                    self.name,
                )
                self.send(m.Roster([], sorted(self._missing)))
            is_complete = self._is_complete and not self._missing
            self._is_settling = False
            self._missing.clear()
            self._objects.forget_former()
            self._master.perform(self._master.dispatcher.on_settled(self._key, is_complete))

    def _why_it_waits(self) -> str:
        own = "{}.{}".format(*self._python)
        if self._python in self._master.dispatcher.pythons():
            if seconds := self._master.dispatcher.time_wanting(self._key):
                return (
                    f"the next job needs {seconds:g} s (min_time), and no worker is there for so long: it waits for "
                    "one that is (such as one in a Slurm job with a longer --time)"
                )
            if self._stalled_by:
                return STALLED
            return f"no worker can start a process for this program's jobs ({self._master.why_unusable()}); they wait"
        others = sorted(self._master.dispatcher.pythons())
        if not others:
            return "no worker is connected to the master; the jobs wait for one (python -m cw.worker HOST)"
        names = ", ".join("{}.{}".format(*python) for python in others)
        return (
            f"this program runs Python {own}, but the connected workers run Python {names}: its jobs wait for "
            f"workers with Python {own}"
        )

    def _on_message(self, message: Any) -> None:
        self._rules.check(message)
        self._handlers[type(message)](message)

    def _on_submit(self, message: m.Submit) -> None:
        functions, options = self._objects.by_number, self._options
        jobs = [
            Job(number, functions[function], options[chosen] if chosen else None, payload)
            for number, function, chosen, payload in zip(*message, strict=True)
        ]
        if not jobs:
            return
        dispatcher = self._master.dispatcher
        self._submitted = jobs[-1].number
        self._highest = max(self._highest, self._submitted)
        if self._cancelled:
            jobs = [job for job in jobs if job.number not in self._cancelled]
            self._cancelled = {number for number in self._cancelled if number > self._submitted}
        again = []
        if jobs and jobs[0].number <= self._handed:  # (they come in order)
            again = [job for job in jobs if job.number <= self._handed]
        if again:
            for job in again:
                charges = self._charges.pop(job.number, None)
                if charges is not None:
                    job.deaths, job.losses, job.notes = charges.deaths, charges.losses, tuple(charges.notes)
            self._master.perform(dispatcher.on_handed_in(self._key, again, self._were_here))
        if len(jobs) > len(again):
            self._master.perform(dispatcher.on_submitted(self._key, jobs[len(again) :]))

    def _on_objects(self, message: m.Objects) -> None:
        for _, number, kind, needs, payload in zip(*message, strict=True):
            self._objects.add(number, kind, needs, payload)

    def _on_options(self, message: m.OptionSets) -> None:
        self._options[message.number] = message.options

    def _on_forget(self, message: m.Forget) -> None:
        gone = [item.key for item in self._objects.forget(message.numbers)]
        for worker in self._master.workers.values():
            worker.forget(gone)

    def _on_cancel(self, message: m.Cancel) -> None:
        early = [number for number in message.numbers if number > self._submitted]
        if len(self._cancelled) + len(early) <= checks.HANDED_IN_JOBS:
            self._cancelled.update(early)
        self._master.perform(self._master.dispatcher.on_cancelled(self._key, message.numbers))

    def _on_received(self, message: m.Received) -> None:
        """The client has these results: their workers need not keep them."""
        if message.counts:
            self._master.perform(self._master.dispatcher.on_received(self._key, max(message.counts)))

    def _on_roster(self, message: m.Roster) -> None:
        """The workers that were at the master before this one, or at this one before the client came back."""
        if self._is_settling and not self._were_here:
            self._missing = set(message.joined) - self._master.joined()

    def _on_wants_origin(self, message: m.WantsOrigin) -> None:
        self._origin = self._origin or ""

    def _on_handed_in(self, message: m.HandedIn) -> None:
        self._is_handed_in = True
        self._settle()

    def _on_charged(self, message: m.Charged) -> None:
        if len(self._charges) < checks.HANDED_IN_JOBS:
            self._charges[message.number] = message._replace(notes=checks.clean_notes(message.notes))

    def _on_goodbye(self, message: m.Goodbye) -> None:
        _events.info("%s left: %s", self.name, message.reason)
        assert self.connection is not None
        self.connection.close()
        self._master.drop_session(self._key)

    def _on_close(self, reason: str) -> None:
        open_jobs = self._master.dispatcher.jobs_of(self._key)
        grace = self._master.settings.client_grace
        _events.warning("%s is gone%s; its %s kept for %.0f s", self.name, f" ({reason})" if reason else "",
                       program.count(open_jobs, "open job is", "open jobs are"), grace)  # fmt: skip
        self.connection = None
        self._ends_at = time.monotonic() + grace
        # Closed or reset: likely its program has ended. Else its network may be down.
        self._is_reset = reason not in (os.strerror(errno.ETIMEDOUT), os.strerror(errno.EHOSTUNREACH))
        self._master.perform(self._master.dispatcher.on_session_absent(self._key))

    def _on_drained(self) -> None:
        if self._is_blocked:
            self._is_blocked = False
            self._master.perform(self._master.dispatcher.on_blocked(self._key, False))


class WorkerPeer:
    """A connected worker: which sessions and objects it has been sent."""

    def __init__(self, master: Any, connection: Connection, hello: m.Hello, is_known: bool) -> None:
        self.connection = connection
        self.is_known = is_known  # to the policy: from a connection before, or since it has reported
        self.name = f"worker {hello.host}:{hello.pid}"
        self._master = master
        self._key = hello.ident
        self.host = hello.host
        self.rules = checks.WorkerRules(hello.slots)
        self._slots, self._python = hello.slots, tuple(hello.python)
        self._has_joined = False  # over this connection
        self.why_unusable = ""  # the last reason for which it could not use a slot
        self._holdings: list[Any] = []  # named, and not yet handed to the policy
        self._ends_at = math.inf  # when what runs there is stopped
        self.place = ""  # where it is: the text of a cw.location.Location
        self.is_draining = False
        self._sessions: set[int] = set()
        self._objects = ObjectCache()
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.Results: self._on_results,
            m.Started: self._on_started,
            m.Returned: self._on_returned,
            m.Recalled: self._on_recalled,
            m.Holding: self._on_holding,
            m.Reported: self._on_reported,
            m.Stay: self._on_stay,
            m.Draining: self._on_draining,
            m.Usable: self._on_usable,
            m.Lent: self._on_lent,
            m.RunnerDied: self._on_runner_died,
            m.CutShort: self._on_cut_short,
            m.NotEntered: self._on_not_entered,
            m.Remark: self._on_remark,
            m.Goodbye: self._on_goodbye,
            m.Heartbeat: lambda message: self.connection.send(message),  # the beat is the worker's
        }
        connection.decoder.accepts = FROM_WORKER
        connection.on_message = self._on_message
        connection.on_close = self._on_close
        master.welcome(connection)

    def assign(self, jobs: list[Job]) -> None:
        for message in self._objects.prepare(dict.fromkeys([job.function for job in jobs])):
            if type(message) is m.Objects:
                for session in set(message.sessions) - self._sessions:
                    if depth := self._master.dispatcher.depth(session):
                        self.connection.send(m.Depth(session, depth))
                self._sessions.update(message.sessions)
            self.connection.send(message)
        if keeping := [job.dispatch for job in jobs if job.options is not None and job.keeps()]:
            self.connection.send(m.Keep(keeping))
        avoid = [
            0 if job.avoid is None or job.avoid[0].key != self._key else job.avoid[1] + 1 for job in jobs
        ]
        self.connection.send(
            m.Dispatch(
                [job.dispatch for job in jobs],
                [job.session.key for job in jobs],  # type: ignore[misc]
                [job.number for job in jobs],
                [job.function.number for job in jobs],
                avoid,
                [min(job.deaths + job.losses + 1, 255) if job.notes else 1 for job in jobs],
                [0.0 if job.options is None else job.timeout() for job in jobs],
                [job.payload for job in jobs],
            )
        )

    def close_session(self, key: int) -> None:
        if key in self._sessions:
            self._sessions.discard(key)
            self._objects.forget_session(key)
            self.connection.send(m.CloseSession(key))
            self.connection.send(m.ForgetSession(key))

    def forget(self, keys: list[Key]) -> None:
        """These objects will not be used again, but by jobs that it has."""
        for message in self._objects.forget(keys):
            self.connection.send(message)

    def drain(self) -> None:
        """Let it finish what runs, and leave."""
        self.connection.send(m.Drain([self._key]))

    def close_unknown_sessions(self) -> None:
        """It was elsewhere when these ended."""
        for key in self._sessions - self._master.clients.keys():
            self.close_session(key)

    def on_second(self, now: float) -> None:
        if self.connection.closed:
            return
        if self._ends_at < math.inf and self.is_known:
            self._master.dispatcher.on_time_left(self._key, self._time_left(now))
        silence = self._master.settings.silence
        if self.connection.count_silence() * self._master.period > silence:
            self.connection.close()
            self._lose(f"silent for {silence:.0f} s")

    def _on_results(self, message: m.Results) -> None:
        self._master.perform(self._master.dispatcher.on_results(self._key, *message))

    def _on_started(self, message: m.Started) -> None:
        self._master.perform(self._master.dispatcher.on_started(self._key, message.numbers))

    def _on_returned(self, message: m.Returned) -> None:
        self._master.perform(self._master.dispatcher.on_returned(self._key, message.dispatches))

    def _on_recalled(self, message: m.Recalled) -> None:
        self._master.perform(self._master.dispatcher.on_recalled(self._key, message.dispatches))

    def _on_runner_died(self, message: m.RunnerDied) -> None:
        note = checks.clean_note(message.note)
        _lines.warning("a runner of %s died: %s", self.name, note.get("how"))
        self._master.perform(self._master.dispatcher.on_runner_died(self._key, message.dispatch, note))

    def _on_cut_short(self, message: m.CutShort) -> None:
        self._master.perform(self._master.dispatcher.on_cut_short(self._key, message.dispatches))

    def _on_not_entered(self, message: m.NotEntered) -> None:
        for dispatch, general, size, payload in zip(*message, strict=True):
            reason = checks.clean_text(bytes(payload[:size]).decode(errors="replace"))
            self._master.perform(
                self._master.dispatcher.on_not_entered(
                    self._key, dispatch, bool(general), reason, payload[size:]
                )
            )

    def _on_remark(self, message: m.Remark) -> None:
        client = self._master.clients.get(message.session)
        if client is not None:
            client.remark(message.kind, checks.clean_text(message.text))

    def _on_message(self, message: Any) -> None:
        if not self._has_joined and type(message) not in _BEFORE_JOINING:
            raise ProtocolError(f"{type(message).__name__} before it has reported what it holds")
        self.rules.check(message)
        self._handlers[type(message)](message)

    def _on_holding(self, message: m.Holding) -> None:
        if self._has_joined:
            raise ProtocolError("Holding after it has joined")
        self._holdings += zip(*message, strict=True)

    def _on_stay(self, message: m.Stay) -> None:
        self.place = message.place
        if message.seconds >= 0:
            self._ends_at = time.monotonic() + message.seconds

    def _time_left(self, now: float) -> float:
        return self._ends_at - now - self._master.period  # it is looked at once in a period

    def describe(self) -> dict[str, Any]:
        """For an observer."""
        left = None if self._ends_at == math.inf else round(self._ends_at - time.monotonic(), 1)
        return {
            "ident": self._key, "name": self.name, "place": self.place, "slots": self._slots, "left": left,
            "held": self._master.dispatcher.held(self._key), "draining": self.is_draining,
        }  # fmt: skip

    def _on_reported(self, message: m.Reported) -> None:
        """It has named all that it holds."""
        dispatcher = self._master.dispatcher
        if self._has_joined:
            raise ProtocolError("Reported a second time")
        holdings, self._holdings = self._holdings, []
        self._has_joined = True
        self._sessions = set(message.sessions)
        _events.info("%s %s from %s: %s, Python %d.%d%s", self.name, "is back" if self.is_known else "joined",
                    self.connection.peer, program.count(self._slots, "slot"), *self._python,
                    f"; it holds {program.count(len(holdings), 'job')}" if holdings else "")  # fmt: skip
        if self.is_known:
            self._master.perform(dispatcher.on_worker_back(self._key, holdings))
            return
        self.is_known = True
        left = self._time_left(time.monotonic())
        self._master.perform(
            dispatcher.on_worker_joined(self._key, self._slots, self._python, holdings, left)
        )
        self._master.note_worker(self._key, True)

    def _on_draining(self, message: m.Draining) -> None:
        _events.info("%s drains", self.name)
        self.is_draining = True
        self._master.perform(self._master.dispatcher.on_worker_draining(self._key))

    def _on_usable(self, message: m.Usable) -> None:
        dispatcher = self._master.dispatcher
        if message.slots < self._slots or message.not_for:
            reason = checks.clean_text(message.reason)
            self.why_unusable = f"{self.name}: {reason}"
            _lines.warning("%s has slots that it cannot use now: a runner %s", self.name, reason)
        self._master.perform(dispatcher.on_worker_usable(self._key, message.slots, message.not_for))
        for session in message.not_for:
            client = self._master.clients.get(session)
            if client is not None and dispatcher.can_run(session):  # else it is told that its jobs wait
                client.remark(
                    f"unusable {self._key}",
                    f"{self.name} cannot start a process for this program's jobs (a runner {reason}): they go to other "
                    "workers, and it is tried again",
                )

    def _on_lent(self, message: m.Lent) -> None:
        self._master.perform(self._master.dispatcher.on_lent(self._key, message.extra, message.floors))

    def give_way(self) -> None:
        """It has connected again: this connection is dead, whether that was seen or not."""
        if not self.connection.closed:
            self.connection.close()
            if self.is_known:
                self._master.perform(self._master.dispatcher.on_worker_away(self._key))

    def _on_goodbye(self, message: m.Goodbye) -> None:
        _events.info("%s left: %s", self.name, message.reason)
        self.connection.close()
        if self.is_known:
            self._master.perform(self._master.dispatcher.on_worker_departed(self._key))
        self._master.note_worker(self._key, False)

    def _on_close(self, reason: str) -> None:
        if not self.is_known:
            _events.warning("%s is gone%s", self.name, f" ({reason})" if reason else "")
            self._master.note_worker(self._key, False)
            return
        _events.warning(
            "%s is gone%s; it may be back within %g s", self.name, f" ({reason})" if reason else "", AWAY
        )
        self._master.perform(self._master.dispatcher.on_worker_away(self._key))
        self._master.loop.call_later(AWAY, lambda: self._on_not_back(reason or "its connection closed"))

    def _on_not_back(self, reason: str) -> None:
        if self._master.workers.get(self._key) is self:
            self._lose(reason)

    def _lose(self, reason: str) -> None:
        dispatcher = self._master.dispatcher
        held = dispatcher.held(self._key) if self.is_known else 0
        _events.warning(
            "%s is lost (%s); %s back to the queue",
            self.name,
            reason,
            program.count(held, "job goes", "jobs go"),
        )
        self._master.lost.append(
            {"ident": self._key, "name": self.name, "place": self.place, "how": reason, "at": time.time()}
        )
        if self.is_known:
            note = {
                "host": self.host, "worker": self.name, "worker_ident": self._key,
                "how": f"the worker was lost: {reason}",
            }  # fmt: skip
            self._master.perform(dispatcher.on_worker_lost(self._key, note))
        # After the policy: by this, clients settle, and what the policy decides then is not for one that is gone.
        self._master.note_worker(self._key, False)


class ObserverPeer:
    """A launcher that wants to know how the cluster stands, or has something to say about it."""

    def __init__(self, master: Any, connection: Connection) -> None:
        self._master = master
        self._rules = checks.ObserverRules()
        connection.decoder.accepts = FROM_OBSERVER
        connection.on_message = self._on_message
        connection.on_close = lambda reason: None
        connection.send(m.Census(master.census()))

    def _on_message(self, message: Any) -> None:
        self._rules.check(message)
        if type(message) is m.Excuse:
            for key in message.workers:
                self._master.excuse(key)
        elif type(message) is m.Drain:
            for key in message.workers:
                self._master.drain(key)
        else:
            logger.info("told to end: %s", message.reason)
            self._master.leave(is_final=True)
