"""Change of a cluster's number of slots: a pure function, with no batch system and no clock.

    pieces, which of them wait, slots wanted  -->  Change: cancel these, drain those, submit more for n slots

Waiting pieces are cancelled first: those that fit in the excess, then one more, whose rest is submitted again. Then
whole running ones drain that fit in the excess, the least used first: there are never fewer slots than wanted. A job
that follows another one adds no slots to it, and is cancelled with it. Slots that are lost do not count.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
    """Number of slots to submit more; 0: none."""
    left: int
    """Number of slots of the jobs that stay."""


def plan(
    jobs: Sequence[J],
    waiting: Collection[J],
    wanted: int,
    lost: Mapping[int, int] | None = None,
    held: Mapping[int, int] | None = None,
) -> Change[J]:
    """Plan the change to `wanted` slots. `jobs`: workers' jobs that have not ended, oldest first. `lost`: number of
    slots of a job, by its id, that are gone though it runs. `held`: number of jobs of clients that it has."""
    idents = {job.ident for job in jobs}
    own = [job for job in jobs if job.follows not in idents and job.slots]  # (0 slots: it drains already)
    size = {job.ident: job.slots - (lost or {}).get(job.ident, 0) for job in own}
    left = sum(size.values())
    ended: list[J] = []
    newest_first = own[::-1]
    queued = [job for job in newest_first if job in waiting]
    for job in queued:
        if left - size[job.ident] >= wanted:
            left -= size[job.ident]
            ended.append(job)
    rest = next((job for job in queued if job not in ended), None)
    if rest is not None and left > wanted:
        left -= size[rest.ident]
        ended.append(rest)
    running = [job for job in newest_first if job not in waiting]
    for job in sorted(running, key=lambda job: (held or {}).get(job.ident, 0)):
        if left > wanted and 0 < size[job.ident] <= left - wanted:
            left -= size[job.ident]
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
