"""Change of a cluster's number of slots: a pure function, with no batch system and no clock.

    jobs of workers, which of them wait, slots wanted  -->  Change: cancel these, drain those, submit a job of n slots

Waiting jobs are cancelled first, then the newest are drained; a smaller job is submitted for slots that were drained in
excess. A job that follows another one adds no slots to it, and is cancelled with it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class SizedJob(Protocol):
    """A job of workers."""

    @property
    def ident(self) -> int: ...
    @property
    def slots(self) -> int:
        """Number of slots; 0 if it drains already."""

    @property
    def follows(self) -> int:
        """Id of the job whose successor it is, or 0."""


J = TypeVar("J", bound=SizedJob)


@dataclass(frozen=True)
class Change(Generic[J]):
    """Changes to make."""

    ended: list[J]
    """Jobs that are cancelled or drained, in the order in which they were chosen."""
    cancelled: list[J]
    """Waiting jobs among them, and all jobs that would follow one of them."""
    drained: list[J]
    slots: int
    """Number of slots of a job to submit; 0: none."""
    left: int
    """Number of slots of the jobs that stay."""


def plan(jobs: Sequence[J], waiting: Collection[J], wanted: int) -> Change[J]:
    """Plan the change to `wanted` slots. `jobs`: workers' jobs that have not ended, oldest first."""
    idents = {job.ident for job in jobs}
    own = [job for job in jobs if job.follows not in idents]
    left = sum(job.slots for job in own)
    ended: list[J] = []
    newest_first = own[::-1]
    for job in sorted(newest_first, key=lambda job: job not in waiting):
        if left > wanted and job.slots:  # (0 slots: it drains already)
            left -= job.slots
            ended.append(job)
    ended_idents = {job.ident for job in ended}
    followers = [job for job in jobs if job.follows in ended_idents]
    return Change(
        ended,
        [job for job in ended if job in waiting] + followers,
        [job for job in ended if job not in waiting],
        max(0, wanted - left),
        left,
    )
