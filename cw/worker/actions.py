"""What a worker's policy decides: values that the worker carries out, one after the other."""

from __future__ import annotations

from typing import Any, NamedTuple

from cw.net import messages as m
from cw.net.objects import Object
from cw.worker.jobs import Job
from cw.worker.pool import Runner


class Send(NamedTuple):
    """Send the master this message."""

    message: m.Returned | m.Recalled | m.Started | m.CutShort | m.Lent


class StartRunner(NamedTuple):
    """Start its process, in this environment."""

    runner: Runner
    environment: Object | None


class SendJobs(NamedTuple):
    """Put a token for each job, then send them."""

    runner: Runner
    jobs: list[Job]


class Retract(NamedTuple):
    """Take up to `limit` tokens and report them with `on_retracted`, before the actions after this one."""

    runner: Runner
    limit: int


class SendDrop(NamedTuple):
    """Have the runner pass over what it was sent and will find no token for."""

    runner: Runner


class EndRunner(NamedTuple):
    """Let an idle runner end by itself."""

    runner: Runner


class StopRunner(NamedTuple):
    """End it with what it runs, step by step: a job may clean up."""

    runner: Runner


class LookAtTokens(NamedTuple):
    """Call `on_tokens_seen` with the number that is left."""

    runner: Runner


class GiveBack(NamedTuple):
    """When the actions before this are done, call `on_give_back`."""

    limit: int


class Resume(NamedTuple):
    """Let the job that has waited for jobs of its own go on."""

    runner: Runner
    serial: int


class TellDied(NamedTuple):
    """Tell the master that the runner died in the middle of this job."""

    job: Job
    note: dict[str, Any]


class TellExpired(NamedTuple):
    """Tell the master that the job ran into its time limit."""

    job: Job
    note: dict[str, Any]


class TellUsable(NamedTuple):
    """Tell the master how many slots can be used, and for which sessions none can."""

    slots: int
    blocked_sessions: list[int]


Action = (
    Send | StartRunner | SendJobs | Retract | SendDrop | EndRunner | StopRunner | LookAtTokens
    | GiveBack | Resume | TellDied | TellExpired | TellUsable
)  # fmt: skip


def returned(dispatches: list[int]) -> list[Action]:
    """Tell the master that these are not here any more, if there are any."""
    return [Send(m.Returned(dispatches))] if dispatches else []
