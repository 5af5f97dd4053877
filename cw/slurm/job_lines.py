"""The Slurm jobs of a cluster as lines of `status`: one for each, or for many that are alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from cw import program
from cw.slurm.cluster import JobStatus

ALIKE = 4
"""Number of jobs in the same state that have a line each. More: one line is for all of them."""


def job_lines(jobs: Sequence[JobStatus]) -> list[str]:
    """Return the lines about these jobs."""
    lines: list[str] = []
    alike: dict[tuple[str, int, str], list[JobStatus]] = {}
    for job in jobs:
        alike.setdefault((job.role, job.slots, job.state), []).append(job)
    for same in alike.values():
        lines += map(_of_one, same) if len(same) <= ALIKE else [_of_many(same)]
    return lines


def _of_one(job: JobStatus) -> str:
    nodes = f" on {job.nodes}" if job.nodes else ""
    left = "" if job.time_left is None else f", {format_seconds(job.time_left)} left"
    size = f" ({program.count(job.slots, 'slot')})" if job.slots else ""
    what = "master and workers" if job.role == "master" and job.slots else job.role
    return f"{what}{size}: Slurm job {job.ident} {job.state}{nodes}{left}"


def _of_many(jobs: Sequence[JobStatus]) -> str:
    first = jobs[0]
    size = f" ({program.count(first.slots, 'slot')} each)" if first.slots else ""
    least = min((job.time_left for job in jobs if job.time_left is not None), default=None)
    left = "" if least is None else f", {format_seconds(least)} left or more"
    idents = in_ranges(job.ident for job in jobs)
    return f"{first.role}{size}: {len(jobs)} Slurm jobs ({idents}), each {first.state}{left}"


def in_ranges(numbers: Iterable[int]) -> str:
    """Return numbers in a short form, such as '3-7, 9'."""
    ranges = []
    for _, group in itertools.groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        ranges.append(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]))
    return ", ".join(ranges)


def format_seconds(seconds: float) -> str:
    """Format a time as Slurm does: [D-]HH:MM:SS."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{f'{days}-' if days else ''}{hours:02d}:{minutes:02d}:{rest:02d}"
