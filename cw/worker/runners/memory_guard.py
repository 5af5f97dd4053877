"""Enforcement of jobs' memory (`--enforce-memory`): a job that grows beyond what it asked for is stopped.

    every LOOK_SECONDS: each runner at work --> its processes' memory, as the kernel counts it
                           '--> more than the job's options say: stopped as at a time limit, MemoryExceeded
                                    '--> it still grows: killed at once

What a runner held before the job began is not the job's: earlier jobs may have left it. Neither are values of
`cw.share`, which are in memory once, however many jobs read them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from cw.events import EventLogger
from cw.machine import process_memory
from cw.named_tuple import NamedTuple
from cw.needs import format_bytes
from cw.worker.policy.actions import Action, Retract
from cw.worker.policy.jobs import WorkerJob
from cw.worker.policy.pool import AHEAD_JOBS, PooledRunner, RunnerPool
from cw.worker.runners.runners import Runners

logger = EventLogger("cw.worker")

LOOK_SECONDS = 0.1
"""Time between two looks (seconds). Longer: a job that grows fast takes more from the others before it is stopped.
Shorter: more of the worker's time."""

MOST_LOAD = 0.05
"""Most of the worker's time that looking may take: after a look that takes long, the next one is later."""

GROWTH = 1.1
"""Growth of a job that is being stopped, from one look to the next, for which it is killed at once."""


class _Seen(NamedTuple):
    """What was found of a runner at the last look."""

    job: WorkerJob | None
    before: int
    """Bytes that the runner held before its job began."""
    held: int


_NEW = _Seen(None, 0, 0)


class MemoryGuard:
    """Looks at the memory of one worker's jobs. `perform` carries out actions on the runners."""

    def __init__(
        self, pool: RunnerPool, runners: Runners, perform: Callable[[Sequence[Action]], None]
    ) -> None:
        self._pool = pool
        self._runners = runners
        self._perform = perform
        self._seen: dict[PooledRunner, _Seen] = {}
        self._not_before = 0.0

    def look(self, now: float) -> float:
        """Look if it is time. Returns when the next look is; infinity: no job has begun since this one."""
        if now < self._not_before:
            return self._not_before
        runners = list(self._pool.runners.values())
        if not self._seen and not any(job.needs.memory for runner in runners for job in runner.sent):
            return math.inf
        began = time.monotonic()
        self._seen = {runner: self._look(runner) for runner in runners}
        took = time.monotonic() - began
        self._not_before = now + max(took / MOST_LOAD, LOOK_SECONDS)
        return self._not_before if any(runner.sent for runner in runners) else math.inf

    def _look(self, runner: PooledRunner) -> _Seen:
        last = self._seen.get(runner, _NEW)
        job = runner.sent[0] if runner.sent else None
        if job is None and last.job is None and last.held:
            return last  # it does nothing
        pids = process_memory.descendants(self._runners.place(runner)["pid"])
        held = process_memory.upper_bound(pids)
        before = last.before if job is last.job else last.held
        if last is _NEW and runner.ended:  # jobs before it were not looked at
            before = held
        if job is None or not job.needs.memory:
            return _Seen(job, before, held)
        limit = job.needs.memory + sum(item.shared_size for item in job.function.shared)
        if held - before > limit:
            held = process_memory.held(pids)
        if held - before > limit:
            self._on_exceeded(runner, job, held - before)
        return _Seen(job, before, held)

    def _on_exceeded(self, runner: PooledRunner, job: WorkerJob, held: int) -> None:
        if job.peak:
            if runner.is_stopping and held > job.peak * GROWTH:
                self._runners.stop(runner, 0.0)  # all steps at once
            job.peak = max(job.peak, held)
        elif not runner.is_ending and self._runners.tokens_left(runner) < len(runner.sent):
            job.peak = held
            job.expired = True
            logger.warning(
                "worker.memory_exceeded", "a job on slot %d holds %s of memory, and asked for %s: it is stopped",
                runner.slot.index, format_bytes(held), format_bytes(job.needs.memory),
            )  # fmt: skip
            self._perform([Retract(runner, AHEAD_JOBS)])  # then it is stopped
