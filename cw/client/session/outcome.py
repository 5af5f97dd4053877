"""Outcomes of jobs: from a status and a payload to a value or an error, and to what a store keeps of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from typing import Any

from cw.client.recorded_calls import Call
from cw.client.session.job import ClientJob
from cw.errors import Error, InitializerFailed, JobStopped, JobTimeout, MemoryExceeded, WorkerLost
from cw.needs import format_bytes
from cw.net import messages as m
from cw.output.sink import Kept
from cw.payloads import deferred, serialize
from cw.store.format import Entry, EntryFields

UNENTERED = (
    ", whose call no worker could enter: what it needs when it is unpickled must be on the workers' machines"
)


class Abandoned(CancelledError):
    """The client was stopped before the job had ended. (A job itself may raise a plain CancelledError.)"""


class Outcomes:
    """Outcomes of jobs that are recorded, a column for each field: a tuple for each job would be one more object that
    the collector of garbage walks until it is stored.

    `errors` and `values` are what is delivered; `statuses` and `payloads` the form in which it is stored.
    """

    __slots__ = ("errors", "jobs", "outputs", "payloads", "seconds", "statuses", "values")

    def __init__(self) -> None:
        self.jobs: list[ClientJob] = []
        self.statuses: list[int] = []
        self.seconds: list[float] = []
        self.payloads: list[Any] = []
        self.errors: list[BaseException | None] = []
        self.values: list[Any] = []
        self.outputs: list[Kept | None] = []
        """What the jobs have printed, if it is kept."""

    def add(
        self,
        job: ClientJob,
        status: int,
        seconds: float,
        payload: Any,
        error: BaseException | None,
        value: Any,
        output: Kept | None = None,
    ) -> None:
        """Add a loaded result. A job that reached a limit is stored as an error."""
        if status == m.TIMEOUT:
            assert error is not None
            status, payload = m.ERROR, serialize.dump_error(copy_of(error), {})  # (without its last output)
        self.jobs.append(job)
        self.statuses.append(status)
        self.seconds.append(seconds)
        self.payloads.append(payload)
        self.errors.append(error)
        self.values.append(value)
        self.outputs.append(output)

    def by_store(self) -> Iterable[tuple[Any, Outcomes]]:
        """Return the outcomes by the store that takes them: usually, one takes all."""
        stores = {job.call.store_client for job in self.jobs}
        if len(stores) == 1:
            return [(stores.pop(), self)]
        groups: dict[Any, Outcomes] = {}
        for job, *fields in zip(
            self.jobs, self.statuses, self.seconds, self.payloads, self.errors, self.values, self.outputs,
            strict=True,
        ):  # fmt: skip
            groups.setdefault(job.call.store_client, Outcomes()).add(job, *fields)
        return groups.items()


class Entries:
    """What is stored of outcomes, an entry after the other. Most are made each time that they are asked for, in the
    store's thread, and live no longer; those whose making runs code of the user's, now. Raises whatever that raises."""

    def __init__(self, outcomes: Outcomes, host: str) -> None:
        self.size = sum(map(len, outcomes.payloads))
        """Bytes of payload."""
        self._outcomes, self._host = outcomes, host
        self._made: dict[int, list[Entry]] = {}  # by index of the job
        for index, (job, payload) in enumerate(zip(outcomes.jobs, outcomes.payloads, strict=True)):
            if type(job.call) is Call and type(payload) is bytes and serialize.is_pickle_alone(payload):
                continue  # as mostly
            self._made[index] = self._make(index)

    def _make(self, index: int) -> list[Entry]:
        outcomes = self._outcomes
        job, output, payload = outcomes.jobs[index], outcomes.outputs[index], outcomes.payloads[index]
        status, seconds = outcomes.statuses[index], outcomes.seconds[index]
        entries = job.call.entries(job.number, status, seconds, self._host, payload)
        return [entry if output is None else entry._replace(output=output) for entry in entries]

    def __iter__(self) -> Iterator[EntryFields]:
        outcomes, made, host, now = self._outcomes, self._made, self._host, time.time()
        rows = zip(
            outcomes.jobs, outcomes.statuses, outcomes.seconds, outcomes.payloads, outcomes.outputs, strict=True
        )  # fmt: skip
        for index, (job, status, seconds, payload, output) in enumerate(rows):
            if made and index in made:
                yield from made[index]
                continue
            call = job.call
            yield (
                call.key, job.number, call.name, host, status, now, seconds, call.args, payload,
                call.store_client.is_durable, call.classes, call.definitions, output,
            )  # fmt: skip


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


def error_of_lost(job: ClientJob, message: m.Lost) -> Error:
    """Return the error of a job that was given up, or stopped by an observer."""
    if message.is_stopped:
        return JobStopped(f"{job.name} was stopped by {message.reason}")
    return WorkerLost(f"{job.name} was given up: {message.reason}", message.notes)


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
