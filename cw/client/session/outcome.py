"""Outcomes of jobs: from a status and a payload to a value or an error."""

from __future__ import annotations

import json
from concurrent.futures import CancelledError
from typing import Any

from cw.client.session.job import ClientJob
from cw.errors import Error, InitializerFailed, JobStopped, JobTimeout, MemoryExceeded, WorkerLost
from cw.named_tuple import NamedTuple
from cw.needs import format_bytes
from cw.net import messages as m
from cw.output.sink import Kept
from cw.payloads import deferred, serialize

UNENTERED = (
    ", whose call no worker could enter: what it needs when it is unpickled must be on the workers' machines"
)


class Abandoned(CancelledError):
    """The client was stopped before the job had ended. (A job itself may raise a plain CancelledError.)"""


class Outcome(NamedTuple):
    """Outcome of a job: an error or a value, and the form in which it is stored."""

    job: ClientJob
    status: int
    seconds: float
    payload: Any
    error: BaseException | None
    value: Any
    output: Kept | None = None
    """What the job has printed, if it is kept."""


def load(job: ClientJob, status: int, payload: Any) -> tuple[BaseException | None, Any]:
    """Return the error, or None and the value, of a result as the master sends it."""
    if status == m.DONE:
        try:
            if deferred.module_locks:
                return None, serialize.load_result_soon(payload, job.name)
            return None, serialize.load_result(payload)
        except BaseException as failure:
            return serialize.unreadable(job.name, failure), None
    if status == m.TIMEOUT:
        return limit_error(job.name, payload), None
    if status == m.NOT_ENTERED:
        return serialize.load_error(payload, job.name + UNENTERED), None
    return serialize.load_error(payload, job.name), None


class Opener:
    """Makes values and errors of results, and says which of them a store keeps."""

    load = staticmethod(load)

    def is_recorded(self, status: int, error: BaseException | None) -> bool:
        """True if a store keeps this. (A call that has not run has nothing to store.)"""
        return status != m.NOT_ENTERED and type(error) is not InitializerFailed


def of_result(
    job: ClientJob, status: int, seconds: float, payload: Any, error: BaseException | None, value: Any
) -> Outcome:
    """Return the outcome of a loaded result. A job that reached a limit is stored as an error."""
    if status == m.TIMEOUT:
        assert error is not None
        status, payload = m.ERROR, serialize.dump_error(copy_of(error), {})  # (without its last output)
    return Outcome(job, status, seconds, payload, error, value)


def of_lost(job: ClientJob, message: m.Lost) -> Outcome:
    """Return the outcome of a job that was given up, or stopped by an observer."""
    error: Error = WorkerLost(f"{job.name} was given up: {message.reason}", message.notes)
    if message.is_stopped:
        error = JobStopped(f"{job.name} was stopped by {message.reason}")
    payload = b"" if job.call is None else serialize.dump_error(error, {})
    return Outcome(job, m.ERROR, 0.0, payload, error, None)


def copy_of(error: BaseException) -> BaseException:
    """Copy an error for one more job: one instance raised in many threads would mix their tracebacks."""
    return type(error)(*error.args)


def limit_error(name: str, payload: Any) -> BaseException:
    try:
        note = json.loads(bytes(payload))
        where = f"host {note['host']}, pid {note['pid']}, attempt {note['attempt']}"
        if "peak" in note:
            limit, peak = int(note["memory"]), int(note["peak"])
            return MemoryExceeded(
                f"{name} used {format_bytes(peak)} of memory, more than the {format_bytes(limit)} that its options "
                f"name, and was stopped ({where}): give it more by options(memory=...)",
                limit,
                peak,
            )
        return JobTimeout(
            f"{name} ran longer than its limit of {note['limit']:g} s and was stopped ({where})"
        )
    except (ValueError, TypeError, KeyError):
        return JobTimeout(f"{name} ran longer than its limit and was stopped")
