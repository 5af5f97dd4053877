"""Outbox: results and crashes of runners, kept until the master reports that the client has them.

Master or client may be lost in between. Then the worker lists what it keeps to the next master, which claims it
when the job's client is back, or releases it. Beyond the limits the oldest are dropped: their jobs may run again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cw.named_tuple import NamedTuple
from cw.net.memory import Memory
from cw.net.messages import FINISHED
from cw.worker.policy.jobs import WorkerJob

BYTES = 256 * 1024**2
"""Most bytes kept. Larger: more of this machine's memory. Smaller: more jobs run again after a fault."""

OVERHEAD = 400
"""Bytes that one outcome takes beside its payload."""

FILES = 128
"""Most results kept in memory files: each holds a descriptor of this process."""


Result = tuple[int, int, int, float, Any]
"""Session, number, status, seconds, payload. One is made for each job: with a class it takes 0.3 us more."""


class Crash(NamedTuple):
    """Crash of a job's runner."""

    session: int
    number: int
    note: dict[str, Any]


class Outbox:
    """Outcomes by dispatch number, oldest first."""

    def __init__(self) -> None:
        self._outcomes: dict[int, Result | Crash] = {}
        self._size = 0  # bytes
        self._output: dict[int, tuple[int, int, bytes]] = {}  # what is kept of these jobs' output, as in Kept
        self._files: dict[int, None] = {}  # dispatches whose result is in a memory file

    def __len__(self) -> int:
        return len(self._outcomes)

    def __contains__(self, dispatch: int) -> bool:
        return dispatch in self._outcomes

    def add_results(
        self,
        jobs: Sequence[WorkerJob],
        statuses: Sequence[int],
        seconds: Sequence[float],
        payloads: Sequence[Any],
    ) -> None:
        outcomes, size = self._outcomes, self._size
        for job, status, lasted, payload in zip(jobs, statuses, seconds, payloads, strict=True):
            if job.stopped:
                continue  # no client will ask for it
            outcomes[job.dispatch] = job.session, job.number, status, lasted, payload
            size += OVERHEAD + len(payload)
            if type(payload) is memoryview and isinstance(payload.obj, Memory):
                self._files[job.dispatch] = None
        self._size = size
        if self._size > BYTES or len(self._files) > FILES:
            self._trim()

    def add_crash(self, job: WorkerJob, note: dict[str, Any]) -> None:
        self._outcomes[job.dispatch] = Crash(job.session, job.number, note)
        self._size += 4 * OVERHEAD
        self._trim()

    def keep_output(self, dispatch: int, output: tuple[int, int, bytes]) -> None:
        """Keep what a job has printed; its outcome follows."""
        self._output[dispatch] = output
        self._size += len(output[-1])

    def find_output(self, dispatches: Iterable[int]) -> list[tuple[int, int, int, bytes]]:
        """Find what is kept of these jobs' output."""
        return [
            (dispatch, *self._output[dispatch])
            for dispatch in (dispatches if self._output else ())
            if dispatch in self._output
        ]

    def forget(self, dispatches: Iterable[int]) -> None:
        pop, files, size, output = self._outcomes.pop, self._files, self._size, self._output
        for dispatch in dispatches:
            outcome = pop(dispatch, None)
            if outcome is not None:
                size -= 4 * OVERHEAD if isinstance(outcome, Crash) else OVERHEAD + len(outcome[-1])
                if files:
                    files.pop(dispatch, None)
                if output and dispatch in output:
                    size -= len(output.pop(dispatch)[-1])
        self._size = size

    def forget_session(self, session: int) -> None:
        self.forget([dispatch for dispatch, (owner, *_) in self._outcomes.items() if owner == session])

    def inventories(self) -> list[tuple[int, int, int, int]]:
        """List the outcomes as reported to the master: dispatch, session, number, state."""
        return [
            (dispatch, session, number, FINISHED)
            for dispatch, (session, number, *_) in self._outcomes.items()
        ]

    def find(
        self, dispatches: Iterable[int]
    ) -> tuple[list[tuple[int, int, float, Any]], list[tuple[int, dict[str, Any]]], list[int]]:
        """Find results (dispatch, status, seconds, payload), crashes (dispatch, note), and dispatches that are not
        here."""
        results, crashes, gone = [], [], []
        for dispatch in dispatches:
            outcome = self._outcomes.get(dispatch)
            if outcome is None:
                gone.append(dispatch)
            elif isinstance(outcome, Crash):
                crashes.append((dispatch, outcome.note))
            else:
                _, _, status, seconds, payload = outcome
                results.append((dispatch, status, seconds, payload))
        return results, crashes, gone

    def _trim(self) -> None:
        while self._size > BYTES and len(self._outcomes) > 1:
            self.forget([next(iter(self._outcomes))])
        while len(self._files) > FILES:
            self.forget([next(iter(self._files))])
