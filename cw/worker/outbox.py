"""Outbox: results and crashes of runners, kept until the master reports that the client has them.

Master or client may be lost in between. Then the worker lists what it keeps to the next master, which claims it
when the job's client is back, or releases it. Beyond the limits the oldest are dropped: their jobs may run again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cw.net.memory import Memory
from cw.net.messages import FINISHED
from cw.worker.jobs import WorkerJob

BYTES = 256 * 1024**2
"""Most bytes kept. Larger: more of this machine's memory. Smaller: more jobs run again after a fault."""

OVERHEAD = 400
"""Bytes that one outcome takes beside its payload."""

FILES = 128
"""Most results kept in memory files: each holds a descriptor of this process."""


class Outbox:
    """Outcomes by dispatch number, oldest first."""

    def __init__(self) -> None:
        # Each is session, number, status, seconds, payload; for a death: session, number, -1, 0, note.
        self._outcomes: dict[int, tuple[int, int, int, float, Any]] = {}
        self._size = 0  # bytes
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

    def add_death(self, job: WorkerJob, note: dict[str, Any]) -> None:
        self._outcomes[job.dispatch] = job.session, job.number, -1, 0.0, note
        self._size += 4 * OVERHEAD
        self._trim()

    def forget(self, dispatches: Iterable[int]) -> None:
        pop, files, size = self._outcomes.pop, self._files, self._size
        for dispatch in dispatches:
            outcome = pop(dispatch, None)
            if outcome is not None:
                size -= 4 * OVERHEAD if outcome[2] < 0 else OVERHEAD + len(outcome[4])
                if files:
                    files.pop(dispatch, None)
        self._size = size

    def forget_session(self, session: int) -> None:
        self.forget([dispatch for dispatch, outcome in self._outcomes.items() if outcome[0] == session])

    def inventories(self) -> list[tuple[int, int, int, int]]:
        """List the outcomes as reported to the master: dispatch, session, number, state."""
        return [(dispatch, outcome[0], outcome[1], FINISHED) for dispatch, outcome in self._outcomes.items()]

    def find(
        self, dispatches: Iterable[int]
    ) -> tuple[list[tuple[int, int, float, Any]], list[tuple[int, dict[str, Any]]], list[int]]:
        """Find results (dispatch, status, seconds, payload), deaths (dispatch, note), and dispatches that are not
        here."""
        results, crashes, gone = [], [], []
        for dispatch in dispatches:
            outcome = self._outcomes.get(dispatch)
            if outcome is None:
                gone.append(dispatch)
            elif outcome[2] < 0:
                crashes.append((dispatch, outcome[4]))
            else:
                results.append((dispatch, *outcome[2:]))
        return results, crashes, gone

    def _trim(self) -> None:
        while self._size > BYTES and len(self._outcomes) > 1:
            self.forget([next(iter(self._outcomes))])
        while len(self._files) > FILES:
            self.forget([next(iter(self._files))])
