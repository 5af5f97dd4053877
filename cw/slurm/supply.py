"""The pieces of an elastic cluster, by kind and stage; and those that have ended, and how. Asks nobody.

noted jobs, the batch system's rows, the master's workers --> look() --> pieces by kind | ended: worked, died, failed
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import NamedTuple

from cw.elastic.failures import QUICK_SECONDS
from cw.elastic.plan import Piece, Stage
from cw.launch.batch_system import ListedJob
from cw.slurm.submitted import BatchJob, State


class Outcome(Enum):
    """How a piece has ended."""

    WORKED = "worked"
    """Its worker had joined, and it did not fail soon after its start."""
    DIED = "died"
    """It failed soon after its start."""
    FAILED = "failed"
    """It failed later, and no worker of it has ever joined."""
    TAKEN = "taken"
    """It was cancelled, preempted, or lost with its node: nothing is known of the kind by that."""


class Ended(NamedTuple):
    """A piece that has ended."""

    job: BatchJob
    outcome: Outcome
    why: str


class Found(NamedTuple):
    """The pieces of a cluster."""

    pieces: dict[str, list[Piece]]
    """Those that are there, by kind."""
    jobs: list[BatchJob]
    """All noted jobs but the ended pieces, those that have just joined marked so."""
    ended: list[Ended]
    joined: list[BatchJob]
    """Those whose worker is new."""


def look(
    state: State, rows: Mapping[int, ListedJob], workers: Mapping[int, Collection[bool]], now: float
) -> Found:
    """Sort the noted pieces. `rows`: the batch system's, by id; `workers`: for each job with connected workers, which
    of these drain."""
    found = Found({}, [], [], [])
    idents = {job.ident for job in state.jobs}
    for job in state.jobs:
        row = rows.get(job.ident)
        draining = workers.get(job.ident, ())
        if not _is_piece(job, bool(draining) or (row is not None and row.is_running), idents):
            found.jobs.append(job)
            continue
        if job.role == "workers" and not draining and _has_ended(job, row, now):
            found.ended.append(Ended(job, *_outcome(job, row)))
            continue
        stage = _stage(job, row, draining)
        if stage is Stage.RUNNING and not job.joined:
            job = job._replace(joined=now)
            found.joined.append(job)
        elif stage is Stage.WAITING:
            job = job._replace(joined=0.0)  # it was requeued
        found.jobs.append(job)
        found.pieces.setdefault(job.kind, []).append(Piece(job.ident, job.slots, stage, job.stays))
    return found


def _is_piece(job: BatchJob, has_begun: bool, idents: Collection[int]) -> bool:
    """True if this job has slots of its own: what follows a piece adds none to it. A follower of a master's job with
    workers does as soon as it runs, since that one goes on beside it."""
    if job.role == "master":
        return job.slots > 0 and has_begun
    return job.follows not in idents


def _has_ended(job: BatchJob, row: ListedJob | None, now: float) -> bool:
    # (One that is not listed may have been submitted after the answer.)
    return now - job.at > 2 * State.system.list_seconds + 1 if row is None else not row.is_active


def _stage(job: BatchJob, row: ListedJob | None, draining: Collection[bool]) -> Stage:
    if draining:
        return Stage.ENDING if all(draining) else Stage.RUNNING
    if row is None or row.is_waiting:
        return Stage.WAITING
    return Stage.ENDING if job.joined or not row.is_running else Stage.STARTING


def _outcome(job: BatchJob, row: ListedJob | None) -> tuple[Outcome, str]:
    if row is None:
        is_seen = Outcome.WORKED if job.joined else Outcome.DIED
        return is_seen, f"{job} is not in the queue any more, and no worker has joined"
    why = f"{job} {row.describe()}"
    if not row.has_failed:
        return (Outcome.TAKEN if row.has_lost_allocation or not job.joined else Outcome.WORKED), why
    if row.end - row.start < QUICK_SECONDS:
        return Outcome.DIED, f"{why}, {max(0.0, row.end - row.start):.0f} s after its start"
    return (Outcome.WORKED if job.joined else Outcome.FAILED), why
