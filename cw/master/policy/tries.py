"""Part of the master's policy for jobs that raise and are tried again: they go elsewhere, and before new ones.

    on_raised:     a result that is an error, of a job with retries: where it ran is kept for a while
    on_submitted:  its client, which alone knows whether it is tried again, submits it under the same number

A job that is not tried again leaves its place behind, so the number of places is bounded: without one, a job may run
anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from cw.master.policy.jobs import Job, Session, Worker
from cw.master.policy.state import State

PLACES = 4096
"""Most jobs of one session of which it is known where they raised. Larger: memory. Smaller: more of them may be
tried again at the same place."""


def on_raised(session: Session, job: Job, worker: Worker) -> None:
    """A job that may be tried again raised on this worker."""
    session.raised[job.number] = worker
    if len(session.raised) > PLACES:
        del session.raised[next(iter(session.raised))]


def on_submitted(state: State, session: Session, jobs: Sequence[Job]) -> None:
    """Queue jobs that are tried again, and new ones with a priority of their own."""
    state.add(session, jobs)
    for job in jobs:
        if job.tries:
            job.excluded_worker = session.raised.pop(job.number, None)
            state.tallies.on_tried_again(session.key, job.function.estimate)
        else:
            job.queue.add(job)
            state.wait(job.queue)
    state.requeue([job for job in jobs if job.tries])


def on_worker_gone(state: State, worker: Worker) -> None:
    """Forget a worker that will not come back."""
    for session in state.sessions.values():
        if worker in session.raised.values():
            session.raised = {
                number: place for number, place in session.raised.items() if place is not worker
            }
