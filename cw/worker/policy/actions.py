"""Actions that a worker's policy decides on: values that the worker carries out in order."""

from __future__ import annotations

from typing import Any

from cw.named_tuple import NamedTuple
from cw.net import messages as m
from cw.net.objects import Object
from cw.worker.policy.jobs import WorkerJob
from cw.worker.policy.pool import PooledRunner


class Send(NamedTuple):
    """Send the master this message."""

    message: m.Returned | m.Recalled | m.Started | m.CutShort | m.Lent


class StartRunner(NamedTuple):
    """Start the runner's process, in this environment."""

    runner: PooledRunner
    environment: Object | None


class PinRunner(NamedTuple):
    """Let a runner that is there run on its CPUs, which are others now."""

    runner: PooledRunner


class SendJobs(NamedTuple):
    """Put one token per job into the eventfd, then send the jobs."""

    runner: PooledRunner
    jobs: list[WorkerJob]


class Retract(NamedTuple):
    """Take up to `limit` tokens and report how many with `on_retracted`, before the next action."""

    runner: PooledRunner
    limit: int


class SendDrop(NamedTuple):
    """Have the runner skip the jobs that it was sent and will find no token for."""

    runner: PooledRunner


class EndRunner(NamedTuple):
    """Let an idle runner end by itself."""

    runner: PooledRunner


class StopRunner(NamedTuple):
    """Stop the runner and what it runs, step by step, so that the job may clean up."""

    runner: PooledRunner


class LookAtTokens(NamedTuple):
    """Call `on_tokens_seen` with the number of tokens left."""

    runner: PooledRunner


class GiveBack(NamedTuple):
    """Call `on_give_back` when the actions before this one are done."""

    limit: int


class Resume(NamedTuple):
    """Let a job that waited for its nested jobs go on."""

    runner: PooledRunner
    serial: int


class ReportDied(NamedTuple):
    """Report to the master that the runner died in the middle of this job."""

    job: WorkerJob
    note: dict[str, Any]


class ReportExpired(NamedTuple):
    """Report to the master that the job reached its limit of time or memory."""

    job: WorkerJob
    note: dict[str, Any]


class ReportCapacity(NamedTuple):
    """Report to the master how many slots can be used, and for which sessions none can."""

    slots: int
    blocked_sessions: list[int]


Action = (
    Send | StartRunner | PinRunner | SendJobs | Retract | SendDrop | EndRunner | StopRunner | LookAtTokens
    | GiveBack | Resume | ReportDied | ReportExpired | ReportCapacity
)  # fmt: skip


def returned(dispatches: list[int]) -> list[Action]:
    """Report to the master that these dispatches are not here any more, if there are any."""
    return [Send(m.Returned(dispatches))] if dispatches else []
