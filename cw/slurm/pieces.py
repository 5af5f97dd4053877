"""A cluster's pieces, jobs with some of the workers' slots: their submission one by one, and what became of them.

    sizes --> submit_pieces() --> State.submit(), once for each --> BatchJob with its slots
    look_at()               which run, wait, have ended, by the batch system
    use_of(), lost_slots()  the slots of each, by the master

Each is noted under the lock of the cluster, which is free between two of them: a piece that begins meanwhile may need
it (`cw.slurm.sidecar`), and the cluster may be stopped.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cw.launch import status_client
from cw.launch.batch_system import ListedJob
from cw.launch.launcher import LaunchError
from cw.slurm import finding, job_logs, submitted
from cw.slurm.submitted import BatchJob, State

BURST = 8
"""Number of pieces that are submitted without a pause."""

PAUSE_SECONDS = 0.3
"""Time between two later ones (seconds). Shorter: Slurm refuses some of them, as it has no time for them."""


FAR_SECONDS = 90 * 24 * 3600.0
"""Treat an expected start that is farther away than this (seconds) as none: Slurm takes a year for jobs without a time
limit that must end before."""

JOIN_SECONDS = 60.0
"""Time from the begin of a piece after which a worker that is not there counts as lost (seconds). Shorter: one on a
slow file system is replaced before it comes."""


def submit_pieces(
    name: str, token: str, sizes: Sequence[int], kind: str = "", stays: bool = False
) -> list[BatchJob]:
    """Submit a piece of each size, of the cluster `name` with this token. `kind`, `stays`: as in BatchJob.

    Raises LaunchError with the batch system's own message, or if the cluster was stopped meanwhile; then those that
    were submitted before are noted, as always.
    """
    jobs = []
    for number, size in enumerate(sizes):
        if number >= BURST:
            time.sleep(PAUSE_SECONDS)
        with submitted.locked(name) as state:
            if state.token != token or state.is_stopping:
                raise LaunchError(f"the cluster {name!r} was stopped meanwhile")
            jobs.append(state.submit("workers", slots=size, kind=kind, stays=stays))
    return jobs


class Found(NamedTuple):
    """The batch system's answer about pieces, each of which is in one of the lists."""

    running: list[BatchJob]
    """Those that have begun and not ended."""
    joined: list[BatchJob]
    """Those among them that began so long ago that their workers should be there."""
    waiting: list[BatchJob]
    ended: list[BatchJob]
    unknown: list[BatchJob]
    """Those that were submitted after the last answer, or all if there was none."""
    text: str
    """The same in words."""


def look_at(state: State, jobs: Sequence[BatchJob], must_answer: bool = False) -> Found:
    """Ask the batch system about these pieces of the cluster. Raises LaunchError if it `must_answer` and does not."""
    try:
        rows = state.rows()
    except LaunchError as error:
        if must_answer:
            raise
        return Found([], [], [], [], list(jobs), str(error))
    now = time.time()
    found = Found([], [], [], [], [], "")
    for job in jobs:
        row = rows.get(job.ident)
        if row is None:
            is_new = now - job.at < State.system.list_seconds
            (found.unknown if is_new else found.ended).append(job)
        elif row.is_waiting:
            found.waiting.append(job)
        else:
            (found.running if row.is_active else found.ended).append(job)
            if row.is_running and 0 < row.start < now - JOIN_SECONDS:
                found.joined.append(job)
    return found._replace(text=_in_words(state, found, rows, now))


def _in_words(state: State, found: Found, rows: Mapping[int, ListedJob], now: float) -> str:
    """Describe the pieces: those that run in a number, of the others one each."""
    jobs = [*found.running, *found.waiting, *found.ended, *found.unknown]
    described = []
    for some, verb in (
        (found.waiting, "wait"), (found.ended, "ended"), (found.unknown, "are not known yet"),
        ([] if len(jobs) > 1 else found.running, "run"),
    ):  # fmt: skip
        if some:
            first = f"{some[0]} (workers) {_state_in_words(state, some[0], rows.get(some[0].ident), now)}"
            described.append(first if len(jobs) == 1 else f"{len(some)} {verb}: {first}")
    if len(jobs) == 1:
        return described[0]
    return "; ".join([f"{len(found.running)} of {len(jobs)} pieces run", *described])


def _state_in_words(state: State, job: BatchJob, row: ListedJob | None, now: float) -> str:
    if row is None:
        is_new = now - job.at < State.system.list_seconds
        words = "was submitted" if is_new else "is not in the queue any more"
        return job_logs.with_failure(state, job, words, not is_new)
    if row.is_waiting and now < row.start < now + FAR_SECONDS:
        return f"{row.describe()}; expected start: {clock(row.start, now)}"
    return job_logs.with_failure(state, job, row.describe(), not row.is_active)


def clock(at: float, now: float) -> str:
    """Return the local time of day, with the date if it is far away."""
    return time.strftime("%H:%M" if at - now < 18 * 3600 else "%Y-%m-%d %H:%M", time.localtime(at))


class Use(NamedTuple):
    """What the master says of a piece."""

    slots: int
    """Number of connected slots."""
    held: int
    """Number of jobs of clients there."""


def use_of(status: status_client.ClusterStatus | None, jobs: Sequence[BatchJob]) -> dict[int, Use]:
    """Return what the master says of each piece, by id. `status`: None if it does not answer."""
    found = {}
    for job in jobs:
        workers = finding.workers_of(status, [job]) if status else []
        found[job.ident] = Use(
            sum(worker["slots"] for worker in workers), sum(worker["held"] for worker in workers)
        )
    return found


def lost_slots(found: Found, there: Mapping[int, Use]) -> dict[int, int]:
    """Return the number of slots of each piece, by id, that should be there and are not."""
    lost = {job.ident: job.slots - there[job.ident].slots for job in found.joined}
    return {ident: count for ident, count in lost.items() if count > 0}
