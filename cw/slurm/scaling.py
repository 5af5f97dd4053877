"""How a cluster comes to have another number of slots: a pure question, with no batch system and no clock.

    jobs of workers, which of them wait, slots wanted  -->  Change: cancel these, drain those, submit a job of n slots

Jobs that wait are taken back first, then the newest are drained; what they had too much is submitted anew, as a smaller
job. A job that only follows another one, when that ends, is no addition to it, and goes with it.
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
        """0: it drains already."""

    @property
    def follows(self) -> int:
        """The job whose successor it is, or 0."""


J = TypeVar("J", bound=SizedJob)


@dataclass(frozen=True)
class Change(Generic[J]):
    """What is to be done."""

    ended: list[J]
    """Jobs that are cancelled or drained, in the order in which they were chosen."""
    cancelled: list[J]
    """Those of them that wait, and all that would follow one of them."""
    drained: list[J]
    slots: int
    """Of a job that is to be submitted; 0: none."""
    left: int
    """Slots of the jobs that stay."""


def plan(jobs: Sequence[J], waiting: Collection[J], wanted: int) -> Change[J]:
    """What to do to have `wanted` slots. `jobs`: those of workers that have not ended, the oldest first."""
    idents = {job.ident for job in jobs}
    own = [job for job in jobs if job.follows not in idents]
    left = sum(job.slots for job in own)
    ended: list[J] = []
    newest_first = own[::-1]
    for job in sorted(newest_first, key=lambda job: job not in waiting):
        if left > wanted and job.slots:  # (none: it drains already)
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
