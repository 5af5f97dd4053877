"""What `cw top` shows: a snapshot to tables of texts. No terminal is known here.

Snapshot ---> functions, workers, running, failures, clients, cluster ---> Table ---> the app    (cw.top.app)
                                                                               '---> plain text  (cw.top.once)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from cw.observer.model import (
    CapacityStatus,
    ClientStatus,
    FailedJob,
    FunctionStatus,
    RunningJob,
    Snapshot,
    WorkerStatus,
)
from cw.observer.text import taken_names, taken_of
from cw.top import texts

BAR = 8
"""Characters of a bar in a table."""

SortValue = float | str


@dataclass(frozen=True)
class Cell:
    """A text, and the value by which its column sorts."""

    text: str
    sort: SortValue = ""
    mood: str = ""
    """'good', 'bad', 'warn', 'dim' or '': the app has a colour for it."""


@dataclass(frozen=True)
class Row:
    """A line of a table. Its key stays the same from snapshot to snapshot."""

    key: str
    cells: tuple[Cell, ...]

    def contains(self, words: str) -> bool:
        """True if each of the words, in small letters, is in one of its texts."""
        text = " ".join(cell.text for cell in self.cells).lower()
        return all(word in text for word in words.split())


@dataclass(frozen=True)
class Table:
    """A table; `empty` is what is said where it has no rows."""

    columns: tuple[str, ...]
    """Names; one that ends with a number's sign, '#', is set to the right."""
    rows: tuple[Row, ...]
    empty: str

    def filtered(self, words: str) -> Table:
        """Return the rows that contain the words, whatever their case."""
        words = words.lower()
        return replace(self, rows=tuple(row for row in self.rows if row.contains(words))) if words else self

    def sorted_by(self, column: int | None, is_descending: bool = False) -> Table:
        """Return it with its rows by that column, numbers before texts; None: in its own order."""
        if column is None or column >= len(self.columns):  # (there may have been more)
            return self

        def key(row: Row) -> tuple[bool, float, str]:
            value = row.cells[column].sort
            return (True, 0.0, value.lower()) if isinstance(value, str) else (False, value, "")

        return replace(self, rows=tuple(sorted(self.rows, key=key, reverse=is_descending)))


def text(value: str, mood: str = "") -> Cell:
    """Return a cell for a text from the cluster."""
    shown = texts.plain(value)
    return Cell(shown, shown, mood)


def number(value: int, mood: str = "") -> Cell:
    """Return a cell for a count; 0 is dim."""
    return Cell(str(value), value, mood if value else "dim")


def measure(value: float | None, show: Callable[[float], str], mood: str = "") -> Cell:
    """Return a cell for a value that may not be known; that sorts last."""
    return Cell("", float("inf")) if value is None else Cell(show(value), value, mood)


def functions(snapshot: Snapshot) -> Table:
    """Return the progress of each function of each client."""
    labels = {client.session: client.label for client in snapshot.clients}
    rows = []
    for function in snapshot.functions:
        part = done_part(function)
        is_open = function.waiting or function.running
        bar = Cell(texts.progress(part, BAR), part, "good" if not is_open else "")
        rows.append(
            Row(function_key(function), (
                text(function.name), bar, measure(function.seconds_left if is_open else None, texts.duration),
                number(function.running), number(function.waiting), number(function.done),
                number(function.failed, "bad"), measure(function.rate_1min, texts.rate),
                measure(function.median_seconds, texts.duration), measure(function.p95_seconds, texts.duration),
                text(labels.get(function.session, function.session)),
            ))
        )  # fmt: skip
    columns = (
        "function",
        "progress",
        "left",
        "run#",
        "wait#",
        "done#",
        "failed#",
        "rate#",
        "median#",
        "p95#",
        "client",
    )
    return Table(columns, tuple(rows), "no job yet: run a program that submits some")


def done_part(function: FunctionStatus) -> float:
    """Return the part of a function's jobs that have ended, 0 to 1."""
    ended = function.done + function.failed
    return ended / (ended + function.waiting + function.running) if ended else 0.0


def function_key(function: FunctionStatus) -> str:
    return f"{function.session}/{function.name}"


def workers(snapshot: Snapshot) -> Table:
    """Return the workers; their sums by host, where there are too many to list."""
    if not snapshot.workers and snapshot.hosts:
        return _hosts(snapshot)
    names = taken_names([worker.capacity for worker in snapshot.workers]) if snapshot.shapes else ()
    rows = [_worker(worker, names) for worker in snapshot.workers]
    columns = (
        "worker",
        "slots",
        *_heads(names),
        "state",
        "load#",
        "memory#",
        "rate#",
        "done#",
        "left",
        "age",
        "place",
    )
    return Table(
        columns, tuple(rows), "no worker yet: `cw worker HOST -n auto` starts one, `cw slurm start` many"
    )


def _heads(names: Iterable[str]) -> Iterable[str]:
    return (f"{name}#" for name in names)


def taken(capacity: CapacityStatus, names: Iterable[str]) -> Iterable[Cell]:
    """Return cells of what jobs take of a worker."""
    texts_by_name = taken_of(capacity)
    by_name = {"cpus": capacity.cpus_used, "gpus": capacity.gpus_used, "asked": capacity.memory_used}
    return (Cell(texts_by_name[name], by_name[name]) for name in names)


def _worker(worker: WorkerStatus, names: Iterable[str]) -> Row:
    cells = (
        text(worker_name(worker.name)),
        slots(worker.busy, worker.slots),
        *taken(worker.capacity, names),
        text(*worker_state(worker)),
        measure(worker.load, "{:.1f}".format),
        measure(worker.memory, lambda count: texts.size(int(count))),
        measure(worker.rate, texts.rate),
        number(worker.done),
        measure(worker.seconds_left, texts.duration, "warn" if (worker.seconds_left or 999) < 300 else ""),
        measure(worker.age, texts.duration),
        text(worker.location),
    )
    return Row(worker.key, cells)


def worker_name(name: str) -> str:
    """Return a worker's name without the word that its column has."""
    return name.removeprefix("worker ")


def worker_state(worker: WorkerStatus) -> tuple[str, str]:
    """Return what is out of the ordinary about a worker, or '', and its mood."""
    if worker.is_away:
        return "away: its connection broke", "bad"
    if worker.is_draining:
        return "drains", "warn"
    return (f"lost a runner: {worker.last_loss}", "bad") if worker.last_loss else ("", "")


def slots(busy: int, count: int) -> Cell:
    """Return a bar of busy slots."""
    part = busy / count if count else 0.0
    return Cell(f"{texts.bar(part, BAR)} {busy}/{count}", part)


def _hosts(snapshot: Snapshot) -> Table:
    names = taken_names([host.capacity for host in snapshot.hosts]) if snapshot.shapes else ()
    rows = [
        Row(host.host, (
            text(host.host), slots(host.busy, host.slots), *taken(host.capacity, names), number(host.workers),
            measure(host.load, "{:.1f}".format),
            measure(host.memory, lambda count: texts.size(int(count))), measure(host.rate, texts.rate),
            number(host.done),
        ))
        for host in snapshot.hosts
    ]  # fmt: skip
    columns = ("host", "slots", *_heads(names), "workers#", "load#", "memory#", "rate#", "done#")
    return Table(columns, tuple(rows), "")


def running(snapshot: Snapshot, jobs: Iterable[RunningJob] | None = None) -> Table:
    """Return the running jobs, longest first; `jobs`: some of them."""
    rows = [
        Row(job_key(job), (
            text(job.function), Cell(f"#{job.number}", job.number), measure(job.seconds, texts.duration),
            text(job.host), Cell("", float("inf")) if job.slot is None else number(job.slot), text(job.client),
        ))
        for job in (snapshot.running if jobs is None else jobs)
    ]  # fmt: skip
    more = snapshot.totals.running - len(snapshot.running) if jobs is None else 0
    if more > 0:
        rows.append(Row("", (Cell(f"and {more} more", float("inf"), "dim"), *[Cell("", float("inf"))] * 5)))
    return Table(("function", "job#", "time", "host", "slot#", "client"), tuple(rows), "no job runs")


def job_key(job: RunningJob | FailedJob) -> str:
    return f"{job.session}/{job.number}"


def failures(snapshot: Snapshot, jobs: Iterable[FailedJob] | None = None) -> Table:
    """Return the last failures, newest first; `jobs`: some of them."""
    rows = [
        Row(job_key(job), (
            measure(max(snapshot.at - job.at, 0.0), lambda age: f"{texts.duration(age)} ago"), text(job.function),
            Cell(f"#{job.number}", job.number), text(job.host), text(job.first or "(not known yet)", "bad"),
            text(job.last), text(job.client),
        ))
        for job in (snapshot.failures if jobs is None else jobs)
    ]  # fmt: skip
    columns = ("when", "function", "job#", "host", "error", "its last line", "client")
    return Table(columns, tuple(rows), "no job has failed")


def clients(snapshot: Snapshot) -> Table:
    """Return the programs, and why their oldest jobs wait."""
    rows = [
        Row(client.session, (
            text(client.label, "" if client.is_connected else "bad"), number(client.running), number(client.waiting),
            number(client.done), number(client.failed, "bad"), text(*_why(client)),
            measure(client.age, texts.duration),
        ))
        for client in snapshot.clients
    ]  # fmt: skip
    columns = ("client", "run#", "wait#", "done#", "failed#", "why its oldest job waits", "age")
    return Table(columns, tuple(rows), "no program is connected")


def _why(client: ClientStatus) -> tuple[str, str]:
    return (
        ("(it is gone, and may come back)", "bad")
        if not client.is_connected
        else (client.why_waiting, "warn")
    )


def cluster(snapshot: Snapshot, batch: Iterable[tuple[str, str]] = ()) -> Table:
    """Return what is known of the cluster as a whole. `batch`: its jobs in a batch system, as (name, text)."""
    master, totals = snapshot.master, snapshot.totals
    lines = [
        ("master", f"{snapshot.where or master.host}, process {master.pid} on {master.host}"),
        ("version", f"cw {master.version}"),
        ("up", texts.duration(master.age)),
        ("place", master.location),
        (
            "size",
            texts.joined(", ", (totals.slots, "slot"), (totals.workers, "worker"), (totals.hosts, "host")),
        ),
        *batch,
        *_needs(snapshot),
    ]
    rows = [Row(f"{place}", (text(name), text(value))) for place, (name, value) in enumerate(lines) if value]
    for loss in snapshot.losses:
        ago = texts.duration(max(snapshot.at - loss.at, 0.0))
        place = f" ({loss.location})" if loss.location else ""
        lost = text(f"{worker_name(loss.name)}{place}, {ago} ago: {loss.how}", "bad")
        rows.append(Row(f"lost {loss.name} {loss.at}", (text("lost worker"), lost)))
    return Table(("what", "is"), tuple(rows), "")


def _needs(snapshot: Snapshot) -> Iterable[tuple[str, str]]:
    """Say what is taken of all workers, and what the jobs need, unless all need one CPU."""
    if snapshot.shapes:
        yield from taken_of(snapshot.totals.capacity).items()
    for shape in snapshot.shapes:
        median = (
            f", median {texts.duration(shape.median_seconds)}" if shape.median_seconds is not None else ""
        )
        yield "jobs need", f"{shape.needs}: {shape.running} run, {shape.waiting} wait{median}"


# --- above the tables ----------------------------------------------------------------------------


def head(snapshot: Snapshot) -> list[str]:
    """Return the lines above the tables: slots, jobs, and why the oldest job waits."""
    totals = snapshot.totals
    left = [
        f.seconds_left for f in snapshot.functions if f.seconds_left is not None and (f.waiting or f.running)
    ]
    parts = [
        f"{totals.running} run",
        f"{totals.waiting} wait",
        f"{totals.done} done",
        f"{totals.failed} failed",
    ]
    if pace := texts.rate(totals.rate):
        parts.append(pace)
    if left:
        parts.append(f"done in about {texts.duration(max(left))}")
    lines = [f"{totals.busy} of {totals.slots} busy", ", ".join(parts)]
    for client in snapshot.clients:
        if client.why_waiting:
            lines.append(f"{texts.plain(client.label)} waits: {texts.plain(client.why_waiting)}")
            break
    return lines
