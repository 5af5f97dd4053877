"""A session's results on their way through the store.

    submit --> must_run: stored? --yes--> deliver_stored ----------------------.
                            '-no---> a job -- its result --> record             |--> deliver
                                                                |               |
                                       (the store's thread) written --> deliver_recorded

Nothing is delivered before it is on disk.
"""

from __future__ import annotations

import functools
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from cw.client.recorder import Call, Chunk, Recorder
from cw.errors import StoreError

logger = logging.getLogger("cw.client")

STORED_SECONDS = 0.02
"""For which stored results are delivered in one go. More: the master and callbacks wait. Less: more wakeups."""


class Outcome(NamedTuple):
    """What a job came to."""

    number: int
    job: Any
    call: Call | Chunk
    status: int
    seconds: float
    payload: Any
    error: BaseException | None
    value: Any


class Recording:
    """The methods are for the session's thread, unless they say otherwise.

    `finish(number, job, error, value)` delivers, `name(number, job)` is for messages; `wake()` has the session's
    thread look here again (any thread).
    """

    def __init__(
        self,
        recorder: Recorder | None,
        finish: Callable[[int, Any, BaseException | None, Any], None],
        name: Callable[[int, Any], str],
        wake: Callable[[], None],
    ) -> None:
        self.calls: dict[int, Call | Chunk] = {}
        """Of outstanding jobs that are recorded, by number."""
        self._recorders = set() if recorder is None else {recorder}
        self._stored: deque[tuple[int, Call]] = deque()  # what need not run: its result is in the store
        self._recorded: deque[tuple[list[Outcome], StoreError | None]] = deque()  # written, to be delivered
        self._finish = finish
        self._name = name
        self._wake = wake

    def must_run(self, number: int, call: Call | Chunk) -> bool:
        """Whether the job with this number must run. Else its result is delivered soon. Any thread."""
        if isinstance(call, Call) and call.is_stored:
            self._stored.append((number, call))
            return False
        self.calls[number] = call
        return True

    def close_with(self, recorder: Recorder) -> None:
        """Have a recorder of some of the jobs closed at the end, too. Any thread."""
        self._recorders.add(recorder)

    @property
    def has_some(self) -> bool:
        """Is there something to deliver? Any thread."""
        return bool(self._recorded or self._stored)

    def record(self, outcomes: list[Outcome], host: str) -> None:
        """Have them stored; they are delivered after that. Blocks while the store is far behind."""
        by_recorder: dict[Recorder, list[Outcome]] = {}
        for outcome in outcomes:
            by_recorder.setdefault(outcome.call.recorder, []).append(outcome)
        for recorder, group in by_recorder.items():
            try:
                entries = [
                    entry
                    for number, _, call, status, seconds, payload, _, _ in group
                    for entry in call.entries(number, status, seconds, host, payload)
                ]
            except (
                Exception
            ) as error:  # nobody else knows of these jobs any more: they must not be left pending
                logger.critical("results cannot be recorded", exc_info=True)
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
            for number, job, _, _, _, _, own_error, value in outcomes:
                if error is None:
                    self._finish(number, job, own_error, value)
                else:
                    self._finish(number, job, StoreError(*error.args), None)
        return failure

    def deliver_stored(self, jobs: dict[int, Any]) -> list[int]:
        """Deliver what earlier runs have stored; for a moment, then others have their turn. `jobs` are outstanding.

        Returns the numbers of those whose result cannot be read, and which must run.
        """
        again = []
        end = time.monotonic() + STORED_SECONDS
        while self._stored and time.monotonic() < end:
            number, call = self._stored.popleft()
            job = jobs.get(number)
            if job is None:
                continue  # cancelled
            try:
                error, value = call.load(self._name(number, job))
            except BaseException as failure:
                logger.warning(
                    "%s runs again: what is stored of it cannot be read (%s)",
                    self._name(number, job),
                    failure,
                )
                self.calls[number] = call
                again.append(number)
                continue
            if jobs.pop(number, None) is not None:
                self._finish(number, job, error, value)
        return again

    def flush(self) -> None:
        """Return when all is stored that was recorded, or has failed to be."""
        for recorder in list(self._recorders):
            recorder.flush()

    def close(self) -> None:
        """At the end of the session."""
        for recorder in list(self._recorders):
            recorder.close()
