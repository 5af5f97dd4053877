"""What is behind a row of a table of `cw top`: the facts on one function, worker, client or job, and its jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cw.observer.model import FailedJob, RunningJob, Snapshot
from cw.observer.text import taken_of
from cw.top import tables, texts
from cw.top.tables import Table


@dataclass(frozen=True)
class Detail:
    """Names with values, and the jobs that belong to them; None: no such table."""

    lines: tuple[tuple[str, str], ...]
    running: Table | None = None
    failures: Table | None = None


def detail(snapshot: Snapshot, view: str, key: str) -> Detail | None:
    """Return what is behind the row with this key in that view; None if it is not there, or no more."""
    find = _FINDERS.get(view)
    return find(snapshot, key) if find else None


def _function(snapshot: Snapshot, key: str) -> Detail | None:
    function = next((f for f in snapshot.functions if tables.function_key(f) == key), None)
    if function is None:
        return None
    client = next((c for c in snapshot.clients if c.session == function.session), None)
    pace = [texts.rate(value) or "0/s" for value in (function.rate_1min, function.rate_5min)]
    spread = ""
    if function.median_seconds is not None:
        spread = f"median {texts.duration(function.median_seconds)}"
        if function.p95_seconds is not None:
            spread += f", 95 % within {texts.duration(function.p95_seconds)}"

    def is_own(job: RunningJob | FailedJob) -> bool:
        return (job.session, job.function) == (function.session, function.name)

    return _detail(
        snapshot,
        is_own,
        ("function", function.name),
        ("client", client.label if client else ""),
        ("progress", texts.progress(tables.done_part(function), 3 * tables.BAR)),
        ("jobs", _counts(function.running, function.waiting, function.done, function.failed)),
        ("rate", f"{pace[0]} over 1 min, {pace[1]} over 5 min"),
        ("duration", spread),
        ("left", texts.duration(function.seconds_left)),
        ("waits", client.why_waiting if client and function.waiting else ""),
    )


def _worker(snapshot: Snapshot, key: str) -> Detail | None:
    worker = next((w for w in snapshot.workers if w.key == key), None)
    if worker is None:
        host = next((h for h in snapshot.hosts if h.host == key and not snapshot.workers), None)
        if host is None:
            return None
        return _detail(
            snapshot, lambda job: job.host == key, ("host", host.host), ("workers", str(host.workers))
        )

    def is_own(job: RunningJob | FailedJob) -> bool:
        return job.worker == key if isinstance(job, RunningJob) else job.host == worker.host

    return _detail(
        snapshot,
        is_own,
        ("worker", tables.worker_name(worker.name)),
        ("place", worker.location),
        ("slots", tables.slots(worker.busy, worker.slots).text),
        *(taken_of(worker.capacity).items() if snapshot.shapes else ()),
        *((each.name, f"{each.used} of {each.total}") for each in worker.capacity.resources),
        ("tags", worker.capacity.tags),
        ("jobs", f"{worker.done} done, {worker.ahead} sent ahead; {texts.rate(worker.rate) or '0/s'}"),
        ("load", "" if worker.load is None else f"{worker.load:.1f} on {worker.host}"),
        ("memory", texts.size(worker.memory)),
        ("age", texts.duration(worker.age)),
        ("left", texts.duration(worker.seconds_left)),
        ("state", tables.worker_state(worker)[0]),
    )


def _client(snapshot: Snapshot, key: str) -> Detail | None:
    client = next((c for c in snapshot.clients if c.session == key), None)
    if client is None:
        return None
    return _detail(
        snapshot,
        lambda job: job.session == key,
        ("client", client.label),
        ("age", texts.duration(client.age)),
        ("jobs", _counts(client.running, client.waiting, client.done, client.failed)),
        ("waits", client.why_waiting),
        ("in a job", "yes: its jobs are jobs of a job" if client.depth else ""),
        ("state", "" if client.is_connected else "it is gone, and may come back"),
    )


def _running(snapshot: Snapshot, key: str) -> Detail | None:
    job = next((j for j in snapshot.running if tables.job_key(j) == key), None)
    if job is None:
        return None
    worker = next((w for w in snapshot.workers if w.key == job.worker), None)
    function = next(
        (f for f in snapshot.functions if (f.session, f.name) == (job.session, job.function)), None
    )
    lines = _lines(
        ("function", job.function),
        ("client", job.client),
        ("host", job.host if job.slot is None else f"{job.host}, slot {job.slot}"),
        ("worker", tables.worker_name(worker.name) if worker else ""),
        ("its median", texts.duration(function.median_seconds) if function else ""),
    )
    return Detail(lines, tables.running(snapshot, [job]))


def _failure(snapshot: Snapshot, key: str) -> Detail | None:
    job = next((j for j in snapshot.failures if tables.job_key(j) == key), None)
    if job is None:
        return None
    lines = _lines(
        ("function", job.function),
        ("job", f"#{job.number}"),
        ("client", job.client),
        ("host", job.host),
        ("error", job.first or "(not known yet)"),
        ("last line", job.last),
    )
    return Detail(lines)


_FINDERS: dict[str, Callable[[Snapshot, str], Detail | None]] = {
    "functions": _function, "workers": _worker, "clients": _client, "running": _running, "failures": _failure,
}  # fmt: skip


def _detail(
    snapshot: Snapshot, is_own: Callable[[RunningJob | FailedJob], bool], *lines: tuple[str, str]
) -> Detail:
    running = tables.running(snapshot, [job for job in snapshot.running if is_own(job)])
    failures = tables.failures(snapshot, [job for job in snapshot.failures if is_own(job)])
    return Detail(_lines(*lines), running, failures)


def _lines(*lines: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, texts.plain(value)) for name, value in lines if value)


def _counts(running: int, waiting: int, done: int, failed: int) -> str:
    return f"{running} run, {waiting} wait, {done} done, {failed} failed"
