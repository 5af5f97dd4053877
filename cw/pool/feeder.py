"""The thread that submits a pool's jobs where the caller's must not wait: it reads the inputs of `imap`, and keeps to
the pool's number of processes.

    put(source) --> sources, first come first served --step, if there is room--> session
                                         note_done <---------- outcome ------------'
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any, NamedTuple, Protocol

from cw.client.session import ending
from cw.client.session.session import Session
from cw.pool.jobs import Job
from cw.pool.results import Outcome

AHEAD = 1000
"""Jobs of an `imap` in progress at a time. More: more of the input is read early. Fewer: slots idle if calls
are short."""


class Result(Protocol):
    """A result, as those that submit its jobs need it."""

    def note(self, index: int, outcome: Outcome) -> None:
        """Take the outcome of a job."""

    def end(self, count: int, error: BaseException | None) -> None:
        """Note that no more than `count` jobs come, because of the error, if any."""


class Tag(NamedTuple):
    """Tag of a job: its result, its place there, and the feeder that waits for its end."""

    result: Result
    place: int
    feeder: Feeder | None


class Source:
    """The jobs of one result. `feeder`: the one that takes its steps, if any."""

    def __init__(self, result: Result, jobs: Iterator[Job], feeder: Feeder | None = None) -> None:
        self._result = result
        self._jobs = jobs
        self._feeder = feeder
        self._count = 0

    def step(self) -> bool:
        """Submit the next job. False: there are no more."""
        try:
            job = next(self._jobs, None)
        except Exception as error:  # of the input
            self._result.end(self._count, error)
            return False
        if job is None:
            self._result.end(self._count, None)
            return False
        index = self._count
        self._count += 1
        tag = Tag(self._result, index, self._feeder)
        try:
            job(tag)
        except Exception as error:
            feeder = self._feeder
            deliver(0, tag, CancelledError() if feeder is not None and feeder.is_stopped else error, None)
            if (
                feeder is not None and feeder.is_over()
            ):  # otherwise an endless input would be read for nothing
                self._result.end(self._count, error)
                return False
        return True

    def abandon(self, error: BaseException) -> None:
        """End the result: jobs that were not submitted fail with the error."""
        self._result.end(self._count, error)


def deliver(number: int, tag: Tag, error: BaseException | None, value: Any) -> None:
    """Give the outcome of a job to its result (called by the session)."""
    result, index, feeder = tag
    result.note(index, Outcome(number, error, value))
    if feeder is not None:
        feeder.note_done()


class Feeder:
    """Submits the jobs of sources in a thread of its own, which is started with the first one."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._condition = threading.Condition()
        self._sources: deque[tuple[Source, int]] = deque()
        self._in_progress = 0
        self.is_stopped = False
        """True if no more jobs are submitted."""
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def put(self, source: Source, limit: int) -> None:
        """Submit these jobs after those of other sources, at most `limit` at a time."""
        with self._condition:
            self._sources.append((source, limit))
            self._condition.notify_all()
            if self._thread is None:
                ending.register_source(self)
                self._thread = threading.Thread(target=self._main, name="cw-pool-feeder", daemon=True)
                self._thread.start()

    def note_done(self) -> None:
        """Note that a job has ended."""
        with self._condition:
            self._in_progress -= 1
            self._condition.notify_all()

    def is_over(self) -> bool:
        """True if no more jobs can be submitted."""
        return self.is_stopped or self._session.is_closed

    def close(self) -> None:
        """Close the session when all sources are read and all results delivered."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
            if self._thread is not None:
                return
        self._session.close(is_waiting=True)

    def stop(self) -> None:
        """Submit no more; what is not submitted ends as cancelled."""
        with self._condition:
            self.is_stopped = True
            sources = list(self._sources)
            self._sources.clear()
            self._condition.notify_all()
        for source, _ in sources:
            source.abandon(CancelledError())

    def join(self) -> None:
        """Wait until all sources are read, after `close`, or the thread has noticed `stop`."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _main(self) -> None:
        while (source := self._next()) is not None:
            try:
                has_more = source.step()
            except BaseException as error:  # such as SystemExit, in an input
                source.abandon(error)
                has_more = False
            if not has_more:
                with self._condition:
                    self._in_progress -= 1
                    if self._sources and self._sources[0][0] is source:
                        self._sources.popleft()
        if not self.is_stopped:
            self._session.close(is_waiting=True)

    def _next(self) -> Source | None:
        """Wait for a source, and for room for one more of its jobs. None: there will be no more."""
        with self._condition:
            self._condition.wait_for(self._is_due)
            if self.is_stopped or not self._sources:
                return None
            self._in_progress += 1
            return self._sources[0][0]

    def _is_due(self) -> bool:
        if self.is_stopped or not self._sources:
            return self.is_stopped or self._is_closed
        return self._in_progress < self._sources[0][1]
