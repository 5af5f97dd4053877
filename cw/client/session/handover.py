"""A session that is handed over to a steward: its calls as records, and its state frozen meanwhile.

    cw.runs.handing_over.hand_over(Handover(session), folder, ...)

What is written is what the master was, or would have been, sent. Nothing is pickled here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakValueDictionary

from cw.client.futures.future import Future
from cw.client.recorded_calls import Call, Chunk
from cw.client.session.dependents import Result
from cw.client.session.job import ClientJob, Dependent
from cw.client.session.retries import Retries
from cw.client.session.session import Session
from cw.net.objects import closure
from cw.payloads import byvalue, classes, script, serialize
from cw.requirements import JobOptions
from cw.runs.calls import NOTHING_ASKED, Asked, Awaited, CallEntry, CallRecord, ObjectRecord
from cw.runs.handing_over import Progress
from cw.runs.restored import RestoredCall
from cw.store import callkey

STORED_SECONDS = 60.0
"""Longest wait until results that have come are stored (seconds)."""


class Handover:
    """One session as `hand_over` needs it. For any thread but the session's own."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._written = 0  # jobs up to this number are on disk
        self._spilled: set[int] = set()  # numbers of functions and options of calls that are on disk only
        self._tags: WeakValueDictionary[int, Any] = (
            WeakValueDictionary()
        )  # of those calls, while somebody has them
        self._is_spilling = False
        self._was_closed: bool | None = None  # before it was frozen
        self._put: Callable[[ObjectRecord | CallRecord], None] = lambda record: None

    def outstanding(self) -> int:
        return self._session.outstanding()

    def has_calls(self) -> bool:
        jobs = self._session.jobs
        return not all(map(_is_left_out, [*jobs.all(), *jobs.held.all()]))

    def under_way(self) -> int:
        jobs = self._session.jobs
        return sum(bool(job.call and job.call.is_under_way) for job in [*jobs.all(), *jobs.held.all()])

    def why_not(self) -> str:
        session = self._session
        if not session.is_alive():
            return "the run cannot be handed over: its session has ended"
        jobs = [*session.jobs.all(), *session.jobs.held.all()]
        return next(filter(None, map(_why_not, jobs)), "")

    def describe(self) -> dict[str, Any]:
        ident, secret, python, program, _ = self._session.exchange.identity
        return {
            "session": ident,
            "secret": secret,
            "python": list(python),
            "program": program,
            "keys": callkey.SCHEME,
        }

    def progress(self) -> Progress:
        jobs, exchange = self._session.jobs, self._session.exchange
        return Progress(
            highest_sent=jobs.highest_sent,
            last_number=jobs.last_number + len(jobs.held),
            objects=self._session.calls.objects.last_number,
            most=exchange.most or 0,
            workers=sorted(exchange.roster),
            attempt_counts=[list(counts) for counts in jobs.attempt_counts.values()],
        )

    # --- the calls ---

    def spill(self, put: Callable[[ObjectRecord | CallRecord], None]) -> bool:
        session = self._session
        with session.calls.lock:
            if session.jobs.held:
                return False  # they get numbers of jobs as they are released
            for record in self._records(session.jobs.all()):
                put(record)
            self._written = session.jobs.last_number
            self._is_spilling, self._put = True, put
            in_use, spilled = session.calls.object_sender.in_use, self._spilled
            session.calls.object_sender.in_use = lambda: in_use() | spilled
            session.submitter.spill = self._spill
        return True

    def _spill(
        self, function: int, options: int, payload: Any, tag: Any, call: Call | Chunk, asked: JobOptions
    ) -> int:
        """Write a call in place of keeping it. Under the lock."""
        jobs = self._session.jobs
        number = jobs.last_number = jobs.last_number + 1
        job = ClientJob(number, function, options, payload, None, call, asked)
        self._spilled |= {function, options} - {0}
        self._tags[number] = tag
        for record in self._records([job], asked):
            self._put(record)
        return number

    def rest(self) -> Iterator[ObjectRecord | CallRecord]:
        jobs = self._session.jobs
        yield from self._records([job for job in jobs.all() if job.number > self._written])
        for number, held in enumerate(jobs.held.all(), jobs.last_number + 1):
            self._extend(held)
            for record in self._records([held]):
                if type(record) is CallRecord:
                    record = record._replace(number=number, waits_for=tuple(map(_awaited, held.results)))
                yield record

    def _extend(self, held: Dependent) -> None:
        """Let a call's function have what the results refer to that have come."""
        there = [result for result in held.results if result.future is None]
        names = sorted({name for result in there for name in result.names})
        codes = list({id(code[1]): code for result in there for code in result.codes}.values())
        if names or codes:
            calls = self._session.calls
            with calls.lock:
                held.function = calls.functions.maker.extend(held.function, names, codes, held.called)

    def _records(
        self, jobs: list[ClientJob], asked: JobOptions | None = None
    ) -> Iterator[ObjectRecord | CallRecord]:
        objects = self._session.calls.objects
        for job in jobs:
            if job.call is None or _is_left_out(job):
                continue
            named = [objects.get(number) for number in (job.function, job.options) if number]
            for item in sorted(closure(named), key=lambda item: item.number):
                needs = tuple(need.number for need in item.needs)
                yield ObjectRecord(
                    item.number, item.kind, needs, item.payload, objects.names.get(item.number, "")
                )
            options = named[1].options if len(named) > 1 else None
            yield CallRecord(
                job.number, job.function, job.options, job.payload, tuple(map(_entry, job.call.calls)),
                NOTHING_ASKED if options is None else _asked(job), job.sent_over > 0,
                type(job.call) is Chunk,
            )  # fmt: skip

    # --- freezing ---

    def freeze(self) -> None:
        session = self._session
        with session.calls.lock:
            self._was_closed, session.is_closed = session.is_closed, True
        session.delivery.flush()
        end = time.monotonic() + STORED_SECONDS
        while not self._in_thread(self._freeze) and time.monotonic() < end:
            pass

    def _freeze(self) -> bool:
        session, exchange = self._session, self._session.exchange
        exchange.is_frozen = exchange.link.is_held = True  # from here on, results are the next process's
        session.delivery.flush()
        session.on_wake()
        if session.delivery.has_some:
            return False  # results of earlier runs
        exchange.acknowledger.send()
        exchange.acknowledger.is_frozen = True
        return True

    def thaw(self, spilled: Callable[[], Iterator[CallRecord]]) -> None:
        session = self._session
        session.submitter.spill = None
        if self._is_spilling:
            store_client = next(iter(session.delivery.store_clients))
            with session.calls.lock:
                for record in spilled():
                    if record.number > self._written:
                        call = RestoredCall(record, store_client, store_client.is_durable)
                        restore(session, record, call, self._tags.pop(record.number, None) or Future(session))
            self._is_spilling = False
            self._session.delivery.is_used = True
        self._in_thread(self._thaw)

    def _thaw(self) -> None:
        exchange = self._session.exchange
        if self._was_closed is not None:
            self._session.is_closed = self._was_closed
        if exchange.is_frozen:
            exchange.is_frozen = exchange.acknowledger.is_frozen = False
            exchange.link.gets_back = True
            exchange.link.resume("the run was not handed over")
        self._session.on_wake()

    def leave(self, reason: BaseException) -> None:
        session = self._session

        def leave() -> None:
            session.jobs.delivered = session.jobs.last_number - len(
                session.jobs.all()
            )  # (those on disk do not count)
            session.exchange.link.leave_silently()
            session.on_failure(reason)

        self._in_thread(leave)
        session.join()

    def _in_thread(self, function: Callable[[], Any]) -> Any:
        """Call a function in the session's thread, and return what it returns."""
        found: list[Any] = []
        is_done = threading.Event()

        def call() -> None:
            try:
                found.append(function())
            finally:
                is_done.set()

        self._session.exchange.call_soon(call)
        while not is_done.wait(0.1):
            if not self._session.is_alive():
                return True  # it has ended, and nobody can do it
        return found[0] if found else None


def _is_left_out(job: ClientJob) -> bool:
    """True if a job need not be handed over: its result is stored, or comes from another run."""
    return job.call is not None and bool(job.call.is_found)


def _why_not(job: ClientJob) -> str:
    """Say why a job cannot be handed over; '' if it can."""
    if job.call is None:
        return (
            f"{job.name} cannot be handed over, as its result is not stored: give the executor a store=, or wait for "
            "the job first"
        )
    if isinstance(job, Dependent) and not (
        hasattr(job.call, "calls")
        and all(each.future is None or _key_of(each.future) for each in job.results)
    ):
        return (
            f"{job.name} cannot be handed over, as it waits for one whose result is not stored: store that, too, or "
            "wait for it first"
        )
    return ""


def _entry(call: Call) -> CallEntry:
    definitions = dict(call.definitions)
    for _, identity, _ in call.classes:
        cls = classes.class_with(identity)
        definition = None if cls is None else byvalue.definition_of(cls)
        if (
            definition is not None
            and definition.data is not None
            and len(definition.data) <= serialize.LARGEST_APART
        ):
            definitions[identity] = definition.data
            if cls is not None and script.name_of(cls) is not None:
                definitions[classes.key_of_name(cls.__qualname__)] = definition.data
    former = call.store_client.former(call.key)
    return CallEntry(call.key, call.name, bytes(call.args), tuple(call.classes), definitions, former)


def _asked(job: ClientJob) -> Asked:
    if job.retries is None:
        return Asked(job.priority, job.keeps_output)
    return Asked(
        job.priority, job.keeps_output, job.retries.most, job.retries.tries, job.retries.class_names()
    )


def _awaited(result: Result) -> Awaited:
    future = result.future
    return Awaited(b"", bytes(result.payload)) if future is None else Awaited(_key_of(future) or b"")


def _key_of(future: Any) -> bytes | None:
    """Return the key under which a store will have a future's result; None: none will."""
    return getattr(future, "stored_key", None)


def restore(session: Session, record: CallRecord, call: RestoredCall, tag: Any) -> None:
    """Let a call of an earlier process, or one that was on disk only, wait in this session."""
    job = ClientJob(record.number, record.function, record.options, record.payload, tag, call)
    asked = record.asked
    job.priority, job.keeps_output = asked.priority, asked.keeps_output
    if record.waits_for:  # its number is not in the order of the others
        job.priority = job.priority or 1
    if asked.retries:
        job.retries = Retries.restored(asked.retries, asked.tries, asked.retry_on)
    session.jobs.restore(job, record.is_sent)
