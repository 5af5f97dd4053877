"""Part of the master's policy for jobs that were cut short because their worker's time was over, as at the end of a
Slurm allocation: it costs no attempt, but is counted.

on_cut_short ---> a note, which the client keeps with the job's attempts, and warns of from the second on
             '--> GiveUp, at the job's `attempts_by_limit`

A worker that ends for another reason (it is preempted, or was asked to) leaves no note.
"""

from __future__ import annotations

from typing import Any

from cw.master.policy.actions import Action, SendToClient, attempt_counts
from cw.master.policy.jobs import Job, Worker
from cw.master.policy.state import State

LIMIT_SECONDS = 3.0
"""Time left below which a worker stops its jobs for its own end (seconds): it is reported each second."""

NOTES = 5
"""Cuts of one job whose notes are kept: the latest."""

HOW = "was cut short as its worker's time was over"
"""How the job ended, in notes."""


def on_cut_short(state: State, worker: Worker, job: Job) -> tuple[list[Action], bool]:
    """Handle a job that was cut short on this worker. Returns actions, and whether the job is given up."""
    if job.attempts() == 1:
        return [state.give_up(job, "its worker had to end while it ran")], True
    if worker.left > LIMIT_SECONDS:
        return [], False
    count = count_of(job.notes) + 1
    job.notes = _with_cut(job.notes, _note(state, worker, job, count))
    most = job.options.attempts_by_limit if job.options is not None else None
    if most is not None and count >= most:
        times = f"{count} times" if count > 1 else "once"
        return [state.give_up(job, f"its worker's time was over {times} while it ran")], True
    return [SendToClient(job.session.key, attempt_counts(job))], False


def count_of(notes: tuple[dict[str, Any], ...]) -> int:
    """Number of times that the job of these notes was cut short."""
    return max((note.get("cuts", 0) for note in notes), default=0)


def _note(state: State, worker: Worker, job: Job, count: int) -> dict[str, Any]:
    _, since = state.tallies.started.get(job.dispatch, ("", None))
    seconds = {} if since is None else {"seconds": round(state.tallies.now - since, 1)}
    return {"worker": worker.key, "how": HOW, **seconds, "cuts": count}


def _with_cut(notes: tuple[dict[str, Any], ...], note: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Add a note, and leave out the oldest of its kind if there are many."""
    cuts = [other for other in notes if "cuts" in other]
    dropped = cuts[: len(cuts) + 1 - NOTES] if len(cuts) >= NOTES else []
    return (*(other for other in notes if not any(other is gone for gone in dropped)), note)
