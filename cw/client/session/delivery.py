"""Delivery of a session's results: to the store first if they are recorded, and to the caller.

    add: in the store already? ---------------> deliver_stored ----------------.
         under way in another run? --(later)-------^                           |
    a job's result ---.--> finish ---------------------------------------------+--> deliver(number, tag, error, value)
                      |                                                        |
                      '--> record ---> (the store's thread) written --> deliver_recorded

A recorded result is delivered only when it is on disk.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cw.client.recorded_calls import Call, Chunk
from cw.client.session.job import ClientJob
from cw.client.session.jobs import Jobs
from cw.client.session.outcome import Entries, Outcomes
from cw.client.store_client import StoreClient
from cw.errors import StoreError
from cw.events import EventLogger
from cw.output import last_words
from cw.output.sink import Kept
from cw.payloads.job_usage import usage_of

if TYPE_CHECKING:
    from cw.client.run_report import RunReport

logger = EventLogger("cw.client")

STORED_SECONDS = 0.02
"""Longest time that stored results are delivered without a break (seconds). Larger: the master and callbacks wait.
Smaller: more wakeups."""

Deliver = Callable[[int, Any, BaseException | None, Any], None]
"""Type of the callback with a job's number and tag, and its error or value."""


class Delivery:
    """Delivers results. The methods are for the session's thread unless they say otherwise.

    `wake()` makes the session's thread look here again (any thread).
    """

    def __init__(
        self, jobs: Jobs, deliver: Deliver, store_client: StoreClient | None, wake: Callable[[], None]
    ) -> None:
        self.is_used = False
        """True if there is, or was, a job whose result is recorded."""
        self.stored = 0
        """Number of delivered jobs that did not run."""
        self.run_report: RunReport | None = None
        """Takes note of each job that ends, if a report is asked for."""
        self.on_stored: Callable[[], None] = lambda: None
        """Called when what `record` was given once is stored, and delivered."""
        self.deliver = deliver
        """Gives the caller a job's error or value. After it, `Jobs.on_delivered` must be called."""
        self.seconds = 0.0
        """Duration of the job that is being delivered, in its runner."""
        self._jobs = jobs
        self.store_clients = set() if store_client is None else {store_client}
        """Those of all of its stores."""
        self._stored: deque[int] = (
            deque()
        )  # numbers of jobs that need not run: their results are in the store
        self._failed: deque[tuple[int, BaseException]] = deque()  # numbers of jobs that cannot run
        self._recorded: deque[tuple[Outcomes, StoreError | None]] = deque()  # written, to be delivered
        self._wake = wake

    def finish(self, job: ClientJob, error: BaseException | None, value: Any) -> None:
        """Deliver a job's error or value."""
        self.deliver(job.number, job.tag, error, value)
        self._jobs.on_delivered(job, error is not None)

    def note_output(self, job: ClientJob, error: BaseException | None, kept: Kept | None) -> Kept | None:
        """Give a job's future what it has printed, if that is kept, and its error the last of it. Returns what a store
        keeps of it. (What came of an attempt that was lost is not kept if the next one ends well.)"""
        if error is None and not job.keeps_output:
            return None
        kept = Kept(b"", b"") if kept is None else kept
        texts = kept.texts()
        if error is not None:
            last_words.add_to(error, *texts)
        if (note := getattr(job.tag, "note_output", None)) is not None:
            note(*texts)
        return kept

    def note_usage(self, job: ClientJob, payload: Any) -> None:
        """Give a job's future what the job has used, if that was measured."""
        if hasattr(job.tag, "usage"):
            job.tag.usage = usage_of(payload)

    def add(self, number: int, call: Call | Chunk) -> None:
        """Note a job that is recorded. If its result is stored, it need not run and is delivered soon; if it is under
        way elsewhere, when it is stored. Any thread."""
        if call.is_stored:
            self._stored.append(number)
        elif type(call) is Call and call.is_under_way:
            call.store_client.follow(call, functools.partial(self._on_followed, number))
        else:
            self.is_used = True

    def _on_followed(self, number: int) -> None:
        """Note that the result of a job which is under way elsewhere is there, or will not come. Any thread."""
        self._stored.append(number)
        self._wake()

    def add_failed(self, number: int, error: BaseException) -> None:
        """Note a job that is delivered soon, with this error, and not run. Any thread."""
        self._failed.append((number, error))

    def report_to(self, run_report: RunReport, names: Mapping[int, str]) -> None:
        """Let this take note of the jobs that end. Before the start. `names`: those of functions, by number."""
        self.run_report, run_report.names = run_report, names
        self.is_used = True  # the hosts of results are needed, as for a store

    def close_with(self, store_client: StoreClient) -> None:
        """Close a store of some of the jobs at the end, too. Any thread."""
        self.store_clients.add(store_client)

    @property
    def has_some(self) -> bool:
        """True if there is something to deliver. Any thread."""
        return bool(self._recorded or self._stored or self._failed)

    def record(self, outcomes: Outcomes, host: str) -> None:
        """Store outcomes; they are delivered after that. Blocks while the store is far behind."""
        for store_client, group in outcomes.by_store():
            try:
                entries = Entries(group, host)
            except Exception as error:  # no other code knows these jobs now: they must not be left pending
                logger.critical("client.recording_failed", "results cannot be recorded", exc_info=True)
                self._on_stored(group, StoreError(f"results cannot be recorded: {error!r}"))
            else:
                store_client.put(entries, functools.partial(self._on_stored, group), entries.size)

    def _on_stored(self, outcomes: Outcomes, error: StoreError | None) -> None:
        """Note written outcomes, in the store's thread."""
        self._recorded.append((outcomes, error))
        self._wake()

    def deliver_recorded(self) -> StoreError | None:
        """Deliver written results. Returns an error of the store, if any, which the jobs concerned get as theirs."""
        failure = None
        deliver, on_delivered = self.deliver, self._jobs.on_delivered
        while self._recorded:
            outcomes, error = self._recorded.popleft()
            failure = failure or error
            for job, own_error, value in zip(outcomes.jobs, outcomes.errors, outcomes.values, strict=True):
                if error is not None:
                    own_error, value = StoreError(*error.args), None
                deliver(job.number, job.tag, own_error, value)
                on_delivered(job, own_error is not None)
            self.on_stored()
        return failure

    def deliver_failed(self) -> None:
        """Deliver the errors of jobs that cannot run, and of those that depend on them."""
        while self._failed:
            number, error = self._failed.popleft()
            job = self._jobs.take(number)
            if job is not None:
                self.finish(job, error, None)

    def deliver_stored(self) -> bool:
        """Deliver results of earlier runs, up to STORED_SECONDS. A job whose result cannot be read must run. False:
        that needs another connection to the master."""
        can_run = True
        end = time.monotonic() + STORED_SECONDS
        while self._stored and time.monotonic() < end:
            job = self._jobs.get(self._stored.popleft())
            if job is None:
                continue  # cancelled
            found = self._load(job)
            if found is None:
                self.is_used = True
                job.call.place, job.call.is_under_way = -1, False
                if job.call.again is not None:
                    self._run_again(job)
                else:
                    can_run &= self._jobs.wait(job)
                continue
            error, value, output = found
            if self._jobs.take(job.number) is not None:
                self.stored += 1
                note = getattr(job.tag, "note_stored", None)
                if note is not None and not job.call.is_under_way:
                    note()
                if output is not None:
                    self.note_output(job, error, Kept(*output))
                self.finish(job, error, value)
        if self._stored:
            self._wake()
        return can_run

    def _load(self, job: ClientJob) -> Any:
        """Load the stored result of a job, as `Call.load`. None: it must run."""
        if not job.call.is_stored:
            logger.info(
                "client.run_ended_without",
                "%s runs here: the run in which it was under way has ended without its result",
                job.name,
            )
            return None
        try:
            return job.call.load(job.name)
        except BaseException as failure:
            logger.warning(
                "client.result_unreadable",
                "%s runs again: its stored result cannot be read (%s)",
                job.name,
                failure,
            )
            return None

    def _run_again(self, job: ClientJob) -> None:
        """Let a call that need not run, as it seemed, wait for the futures among its arguments."""
        if self._jobs.take(job.number) is not None:
            job.call.again()
            self._jobs.on_delivered(job, False)

    def flush(self) -> None:
        """Return when all recorded results are stored, or have failed to be."""
        for store_client in list(self.store_clients):
            store_client.flush()

    def close(self) -> None:
        """Close the stores at the end of the session."""
        for store_client in list(self.store_clients):
            store_client.close()
