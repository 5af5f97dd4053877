"""The actions that the master's policy decides on, which the master carries out in order. Values; no I/O."""

from __future__ import annotations

from typing import Any

from cw.master.policy.jobs import Job, SessionKey, WorkerKey
from cw.named_tuple import NamedTuple
from cw.net import messages as m

WorkerMessage = m.Recall | m.Stop | m.TakeBack | m.Claim | m.Release
"""Orders to a worker. Recall: name unstarted jobs as returned. Stop: end jobs that are not wanted any more. TakeBack:
return those of the named jobs that have not started. Claim: send the kept results of ended jobs. Release: forget
them."""


class Assign(NamedTuple):
    """Send these jobs to the worker."""

    worker: WorkerKey
    jobs: list[Job]


class SendToWorker(NamedTuple):
    worker: WorkerKey
    message: WorkerMessage


class SendToClient(NamedTuple):
    session: SessionKey
    message: m.JobsStarted | m.AttemptCounts


class Deliver(NamedTuple):
    """Send these results, of that worker's dispatches, to the session's client."""

    session: SessionKey
    worker: WorkerKey
    dispatches: list[int]
    numbers: list[int]
    statuses: list[int]
    seconds: list[float]
    payloads: list[Any]


class GiveUp(NamedTuple):
    """Notify the client that the job was lost too often, or stopped by an observer."""

    session: SessionKey
    number: int
    reason: str
    notes: tuple[dict[str, Any], ...]
    is_stopped: bool = False


class SetAside(NamedTuple):
    """Log that the worker gets no more of this session's jobs for now, and call `on_aside_reported` after
    `NOTICE_SECONDS`."""

    session: SessionKey
    worker: WorkerKey
    reason: str


class WatchSetbacks(NamedTuple):
    """Call `on_aside_retry` every `RETRY_SECONDS` and `on_aside_second` every second, while the session
    `has_setbacks`."""

    session: SessionKey


class ReportAside(NamedTuple):
    """Notify the client which workers are set aside, and why."""

    session: SessionKey
    workers: list[tuple[WorkerKey, str]]


Action = Assign | SendToWorker | SendToClient | Deliver | GiveUp | SetAside | WatchSetbacks | ReportAside

Inventory = tuple[int, SessionKey, int, int]
"""A job that a worker reports to hold: dispatch, session, number, state."""


def merged(actions: list[Action]) -> list[Action]:
    """Merge the actions' Claim, Release and Stop messages: one of each for a worker, not one for each dispatch."""
    merged: dict[tuple[type, WorkerKey], list[int]] = {}
    rest: list[Action] = []
    for action in actions:
        if isinstance(action, SendToWorker) and isinstance(action.message, (m.Claim, m.Release, m.Stop)):
            merged.setdefault((type(action.message), action.worker), []).extend(action.message.dispatches)
        else:
            rest.append(action)
    return rest + [SendToWorker(worker, kind(dispatches)) for (kind, worker), dispatches in merged.items()]


def attempt_counts(job: Job) -> m.AttemptCounts:
    """Message to the client with the attempts that were charged to its job so far."""
    return m.AttemptCounts(job.number, job.crashes, job.worker_losses, list(job.notes))
