"""Part of the master's policy that takes in a batch of results: jobs leave the worker, and their estimates are updated.

results ---> take ---> Deliver, one for each session
              |'-----> those that nobody waits for
              '------> tallies, one addition for each run of results of one function
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from cw.master.policy import placing, tries
from cw.master.policy.actions import Deliver
from cw.master.policy.jobs import Job, Session, Worker
from cw.master.policy.reconcile import Reconciler
from cw.master.policy.state import State
from cw.net.objects import Estimate

SMOOTHING = 0.2
"""Weight of a new duration in a function's estimate (0 to 1)."""

Rows = Iterable[tuple[int, int, float, Any]]
"""Results: dispatch, status, seconds, payload."""


def take(
    state: State, reconciler: Reconciler, worker: Worker, rows: Rows
) -> tuple[dict[Session, Deliver], list[int]]:
    """Take these results of a worker. Returns them by session, and the dispatches whose results nobody waits for."""
    pop, load, size = worker.held.pop, worker.load, worker.size
    outs: dict[Session, Deliver] = {}
    dropped: list[int] = []
    numbers: list[int] = []
    session, latest, first, before, spent = None, None, 0.0, 0, 0.0
    for dispatch, status, lasted, payload in rows:
        job = pop(dispatch, None)
        if job is None:
            dropped.append(dispatch)
            continue
        cost = job.cost
        load -= cost
        size -= len(job.payload)
        if job.place is not None:
            placing.vacate(job, worker)
            cost = 0.0
        known = (estimate := job.function.estimate).seconds
        estimate.seconds = lasted if known == math.inf else known + (lasted - known) * SMOOTHING
        if job.cancelled:
            job.session.load -= cost
            if not reconciler.is_kept_orphan(job, worker):
                dropped.append(dispatch)
            continue
        if estimate is not latest or job.session is not session:
            if session is not None:
                _count(state, session, latest, len(numbers) - before, first)
                session.load -= spent
            session, latest, first, spent = job.session, estimate, lasted, 0.0
            if session not in outs:
                outs[session] = Deliver(session.key, worker.key, [], [], [], [], [])
            out, jobs = outs[session], session.jobs
            numbers, before = out.numbers, len(out.numbers)
        spent += cost
        if status:
            _note_error(state, session, job, worker)
        del jobs[job.number]
        out.dispatches.append(dispatch)
        numbers.append(job.number)
        out.statuses.append(status)
        out.seconds.append(lasted)
        out.payloads.append(payload)
    if session is not None:
        _count(state, session, latest, len(numbers) - before, first)
        session.load -= spent
    worker.load, worker.size = (load, size) if worker.held else (0.0, 0)
    return outs, dropped


def _count(state: State, session: Session, estimate: Estimate | None, count: int, seconds: float) -> None:
    """Count a run of results. (If the client is away, it asks for them again.)"""
    assert estimate is not None
    if not session.is_absent:
        state.tallies.on_ended(session.key, estimate, count, seconds)


def _note_error(state: State, session: Session, job: Job, worker: Worker) -> None:
    """Note a result that is an error."""
    if not session.is_absent:
        state.tallies.on_failed(session.key, job.number, job.function.estimate, worker.key)
    if job.options is not None and job.options.retries:
        tries.on_raised(session, job, worker)
