"""The calls of a detached run, from the disk to the session: as many at a time as the session should hold.

    CallsReader --read--> in the store already? --yes--> counted
                              '--no--> waits for others? --yes--> Waiting --their results are there--.
                                           '--no--> the session's jobs <---------------------------------'

Before calls may be sent, it is on disk that they may have been: the next steward resubmits these, and others only as
the master has room for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from cw.client.session.dependents import LARGE_RESULT
from cw.client.session.handover import restore
from cw.client.session.session import Session
from cw.detached.awaited import Waiting
from cw.detached.recorder import Recorder
from cw.errors import DependencyFailed
from cw.net import messages as m
from cw.payloads import dependent, serialize
from cw.runs import handing_over
from cw.runs.calls import CallEntry, CallRecord, CallsReader, ObjectRecord
from cw.runs.folder import RunFolder
from cw.runs.restored import RestoredCall

LOADED = 16_384
"""Number of jobs that are in memory beyond those that were sent. Larger: more memory. Smaller: the master's window is
not filled."""

LOADED_BYTES = 256 * 1024**2
"""Most bytes of their payloads; one job is allowed in any case."""

RESERVED = 4096
"""Number of jobs that are noted on disk as sent at a time, before they are. Larger: the next steward resubmits more
than was sent. Smaller: more writes."""

RESERVED_BYTES = 16 * 1024**2
"""Most bytes of their payloads."""


class Backlog:
    """The calls of one run. For the session's thread, once that runs."""

    def __init__(
        self, session: Session, folder: RunFolder, recorder: Recorder, is_durable: bool, first_object: int
    ) -> None:
        """`first_object`: objects that are made here get higher numbers."""
        self.calls = self.done = self.failed = 0
        """Numbers of calls: read so far, ended well, failed."""
        self._session, self._folder, self._recorder = session, folder, recorder
        self._is_durable = is_durable
        self._first_object = first_object
        self._reader = CallsReader(folder)
        self._records = self._reader.read()
        self._next: CallRecord | None = None
        self._waiting: Waiting[CallRecord] = Waiting(self._is_over)
        self._over: set[bytes] = set()  # keys of calls that have failed in this run
        self._progress = handing_over.Progress()
        self._has_begun = False

    @property
    def is_over(self) -> bool:
        """True if all calls have ended."""
        return self._next is None and self._reader.is_complete and not self._session.jobs.outstanding

    def load_sent(self, progress: handing_over.Progress) -> None:
        """Read the calls up to the last one that may have been sent."""
        self._progress = progress
        self._session.jobs.highest_sent = progress.highest_sent
        self._load(lambda record: record.number <= progress.highest_sent or record.is_sent)
        self._session.calls.objects.last_number = self._first_object

    def begin(self) -> None:
        """Drop what the store has got since: by the script, or by a steward before. From now on calls may be sent."""
        jobs = self._session.jobs
        self._recorder.refresh()
        for job in jobs.all():
            if self._recorder.has(job.call.calls) and jobs.take(job.number) is not None:
                self._note_stored(job.call.calls)
                jobs.on_delivered(job, False)
        self._has_begun = True

    def feed(self) -> bool:
        """Let further calls wait, if there is room for them. True: there are some."""
        jobs = self._session.jobs
        if self._next is None and self._reader.is_complete:
            return False
        if len(jobs.all()) > LOADED or jobs.bytes_in - jobs.bytes_out > LOADED_BYTES:
            return False
        taken = size = 0

        def is_wanted(record: CallRecord) -> bool:
            nonlocal taken, size
            taken, size = taken + 1, size + len(record.payload)
            return taken <= RESERVED and (taken == 1 or size < RESERVED_BYTES)

        before = jobs.last_number
        self._load(is_wanted)
        if jobs.last_number > self._progress.highest_sent:
            self._reserve(jobs.last_number)
        return jobs.last_number > before

    def on_ended(self, call: RestoredCall) -> None:
        """Note that a job has ended, and is stored."""
        self._note(call.calls, call.failed)

    # --- reading ---

    def _load(self, is_wanted: Callable[[CallRecord], bool]) -> None:
        """Read records while the next call is wanted."""
        while (record := self._next or next(self._records, None)) is not None:
            self._next = None
            if type(record) is ObjectRecord:
                self._restore_object(record)
            elif type(record) is CallRecord:
                if not is_wanted(record):
                    self._next = record
                    return
                self._add(record)

    def _restore_object(self, record: ObjectRecord) -> None:
        objects = self._session.calls.objects
        objects.restore(record.number, record.kind, record.needs, record.payload)
        if record.name:
            objects.names[record.number] = record.name

    def _add(self, record: CallRecord) -> None:
        self.calls += len(record.entries)
        if self._recorder.has(record.entries):
            self._note_stored(record.entries)
        elif record.waits_for:
            self._session.jobs.expect(record.number)
            if not self._waiting.add(record):
                self._release(record)
        else:
            self._restore(record)

    def _restore(self, record: CallRecord) -> None:
        call = self._call_of(record)
        restore(self._session, record, call, call)

    def _call_of(self, record: CallRecord) -> RestoredCall:
        return RestoredCall(record, self._recorder, self._is_durable)

    def _reserve(self, number: int) -> None:
        exchange, jobs = self._session.exchange, self._session.jobs
        self._progress = self._progress._replace(
            highest_sent=number,
            workers=sorted(exchange.roster),
            attempt_counts=[list(counts) for counts in jobs.attempt_counts.values()],
        )
        handing_over.write_progress(self._folder, self._progress)

    # --- calls that wait for others ---

    def _is_over(self, key: bytes) -> bool:
        return key in self._over or self._recorder.is_done(key)

    def _release(self, record: CallRecord) -> None:
        """Let a call run whose results are there; or record that it cannot, as one of them is an error."""
        payloads = [
            each.payload if each.payload is not None else self._recorder.payload(each.key)
            for each in record.waits_for
        ]
        if None in payloads:
            call = self._call_of(record)
            error = DependencyFailed(
                f"{record.entries[0].name}() was not called: a call that it depends on failed"
            )
            entries = list(call.entries(record.number, m.ERROR, 0.0, "", serialize.dump_error(error, {})))
            # Done by the store's thread.
            self._recorder.put(
                entries, lambda _: self._session.exchange.call_soon(lambda: self._on_not_called(call))
            )
            return
        function, payload = self._filled(record, payloads)
        # At first it is not known if a steward before has sent it.
        self._restore(record._replace(function=function, payload=payload, is_sent=not self._has_begun))

    def _filled(self, record: CallRecord, payloads: list[Any]) -> tuple[int, Any]:
        """Return the function for a call with its results, and its payload. Large results are objects."""
        objects, function = self._session.calls.objects, record.function
        objects.last_number = self._first_object
        parts: list[Any] = [
            objects.add(m.VALUE, (), part) if len(part) >= LARGE_RESULT else part for part in payloads
        ]
        if large := [part for part in parts if type(part) is int]:
            made = objects.get(function)
            needs = dict.fromkeys([*[need.number for need in made.needs], *large])
            function = objects.add(m.FUNCTION, list(needs), made.payload)
            objects.names[function] = objects.names.get(record.function, "")
        return function, dependent.pack(parts, record.payload)

    def _on_not_called(self, call: RestoredCall) -> None:
        """Count a call that was not run, as that is stored."""
        jobs = self._session.jobs
        jobs.delivered += 1
        jobs.failed += 1
        self._note(call.calls, call.failed)

    # --- counting ---

    def _note_stored(self, calls: Iterable[CallEntry]) -> None:
        calls = list(calls)
        self._note(calls, self._recorder.failed(calls))

    def _note(self, calls: Iterable[CallEntry], failed: int) -> None:
        """Count calls that have ended, and let those go on that have waited for them."""
        calls = list(calls)
        self.failed += failed
        self.done += len(calls) - failed
        if failed:
            self._over.update(call.key for call in calls)
        if self._waiting:
            for record in [record for call in calls for record in self._waiting.on_ended(call.key)]:
                self._release(record)
