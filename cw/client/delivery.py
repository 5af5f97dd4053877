"""The delivery of a session's results: to the caller, and to the store before that if they are recorded.

    add_stored: in the store already? --------> deliver_stored ----------------.
                                                                               |
    a job's result ---.--> finish ---------------------------------------------+--> deliver(number, tag, error, value)
                      |                                                        |
                      '--> record ---> (the store's thread) written --> deliver_recorded

Nothing that is recorded is delivered before it is on disk.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from cw.client.jobs import Job, Jobs
from cw.client.outcome import Outcome
from cw.client.store_client import Call, Chunk, StoreClient
from cw.errors import StoreError
from cw.events import EventLogger

logger = EventLogger("cw.client")

STORED_SECONDS = 0.02
"""How long stored results are delivered in one go. More: the master and callbacks wait. Less: more wakeups."""

Deliver = Callable[[int, Any, BaseException | None, Any], None]
"""Called with a job's number and tag, and its error or value."""


class Delivery:
    """The methods are for the session's thread, unless they say otherwise.

    `wake()` has the session's thread look here again (any thread).
    """

    def __init__(
        self, jobs: Jobs, deliver: Deliver, recorder: StoreClient | None, wake: Callable[[], None]
    ) -> None:
        self.is_used = False
        """Is there, or was there, a job whose result is recorded?"""
        self.deliver = deliver
        """Gives the caller what came of a job. After that, `Jobs.on_delivered` must be called."""
        self._jobs = jobs
        self._recorders = set() if recorder is None else {recorder}
        self._stored: deque[int] = deque()  # numbers of what need not run: its result is in the store
        self._recorded: deque[tuple[list[Outcome], StoreError | None]] = deque()  # written, to be delivered
        self._wake = wake

    def finish(self, job: Job, error: BaseException | None, value: Any) -> None:
        """Deliver the job's end."""
        self.deliver(job.number, job.tag, error, value)
        self._jobs.on_delivered(job, error is not None)

    def add(self, number: int, call: Call | Chunk) -> None:
        """Note a job that is recorded. If it is stored it need not run, and is delivered soon. Any thread."""
        if call.is_stored:
            self._stored.append(number)
        else:
            self.is_used = True

    def close_with(self, recorder: StoreClient) -> None:
        """Have a recorder of some of the jobs closed at the end, too. Any thread."""
        self._recorders.add(recorder)

    @property
    def has_some(self) -> bool:
        """Is there something to deliver? Any thread."""
        return bool(self._recorded or self._stored)

    def record(self, outcomes: list[Outcome], host: str) -> None:
        """Have them stored; they are delivered after that. Blocks while the store is far behind."""
        by_recorder: dict[StoreClient, list[Outcome]] = {}
        for outcome in outcomes:
            by_recorder.setdefault(outcome.job.call.recorder, []).append(outcome)
        for recorder, group in by_recorder.items():
            try:
                entries = [
                    entry
                    for job, status, seconds, payload, _, _ in group
                    for entry in job.call.entries(job.number, status, seconds, host, payload)
                ]
            except (
                Exception
            ) as error:  # nothing else knows of these jobs any more: they must not be left pending
                logger.critical("client.recording_failed", "results cannot be recorded", exc_info=True)
                self._on_stored(group, StoreError(f"results cannot be recorded: {error!r}"))
            else:
                recorder.put(entries, functools.partial(self._on_stored, group))

    def _on_stored(self, outcomes: list[Outcome], error: StoreError | None) -> None:
        """In the store's thread."""
        self._recorded.append((outcomes, error))
        self._wake()

    def deliver_recorded(self) -> StoreError | None:
        """Deliver what has been stored. Returns why something could not be, which is delivered as its error."""
        failure = None
        while self._recorded:
            outcomes, error = self._recorded.popleft()
            failure = failure or error
            for job, _, _, _, own_error, value in outcomes:
                if error is None:
                    self.finish(job, own_error, value)
                else:
                    self.finish(job, StoreError(*error.args), None)
        return failure

    def deliver_stored(self) -> bool:
        """Deliver what earlier runs have stored; for a moment, then others have their turn. What cannot be read must
        run. False: that needs another connection to the master."""
        can_run = True
        end = time.monotonic() + STORED_SECONDS
        while self._stored and time.monotonic() < end:
            job = self._jobs.get(self._stored.popleft())
            if job is None:
                continue  # cancelled
            try:
                error, value = job.call.load(job.name)
            except BaseException as failure:
                logger.warning(
                    "client.result_unreadable",
                    "%s runs again: its stored result cannot be read (%s)",
                    job.name,
                    failure,
                )
                self.is_used = True
                can_run &= self._jobs.wait(job)
                continue
            if self._jobs.take(job.number) is not None:
                self.finish(job, error, value)
        if self._stored:
            self._wake()
        return can_run

    def flush(self) -> None:
        """Return when all is stored that was recorded, or has failed to be."""
        for recorder in list(self._recorders):
            recorder.flush()

    def close(self) -> None:
        """At the end of the session."""
        for recorder in list(self._recorders):
            recorder.close()
