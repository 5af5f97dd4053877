"""A snapshot as text for a terminal, as `cw status` prints it. Pure: the width is an argument."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from cw.needs import format_bytes

if TYPE_CHECKING:
    from cw.observer.model import (
        CapacityStatus,
        ClientStatus,
        FunctionStatus,
        HostStatus,
        RunningJob,
        ShapeStatus,
        Snapshot,
        WorkerStatus,
    )

ROWS = 10
"""Most rows of a table. Larger: the text fills more than a terminal. Smaller: more is left out."""

WIDE = 90
"""Width from which a table that shows what jobs take has the load, too."""

NARROW = 12
"""Fewest characters of a row's name."""


def lines(snapshot: Snapshot, width: int = 80) -> Iterator[str]:
    """Yield the tables of a snapshot, line by line, at most `width` characters wide; nothing for what is not there."""
    yield from _functions(snapshot, width)
    yield from _shapes(snapshot.shapes, width)
    yield from _waiting(snapshot.clients, width)
    has_shapes = bool(snapshot.shapes)
    if snapshot.workers:
        yield from _workers(snapshot.workers, has_shapes, width)
    else:
        yield from _hosts(snapshot.hosts, has_shapes, width)
    yield from _running(snapshot.running, width)
    yield from _failures(snapshot, width)
    yield from _losses(snapshot, width)


def seconds(value: float | None) -> str:
    """Return a time for people: '45 ms', '2.3 s', '5 min', '2 h 05 min', '3 d'; '' for None."""
    if value is None:
        return ""
    if value < 0.9995:
        return f"{value * 1000:.0f} ms" if value >= 0.0005 else "0 s"
    if value < 9.95:
        return f"{value:.1f} s"
    if value < 99.5:
        return f"{value:.0f} s"
    if value < 3600:
        return f"{value / 60:.0f} min"
    if value < 48 * 3600:
        return f"{value // 3600:.0f} h {value % 3600 // 60:02.0f} min"
    return f"{value / 86400:.0f} d"


def size(value: int | None) -> str:
    """Return a number of bytes for people: '512 MiB', '3.0 GiB'; '' for None."""
    if value is None:
        return ""
    return f"{value / 2**20:.0f} MiB" if value < 2**30 else f"{value / 2**30:.1f} GiB"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> Iterator[str]:
    """Yield an empty line, and a table with this head. The first column is cut to what the others leave."""
    cells = [head, *rows]
    shown = list(cells[: ROWS + 1])
    widths = [max(len(row[place]) for row in shown) for place in range(len(head))]
    widths[0] = max(NARROW, min(widths[0], width - sum(widths[1:]) - 2 * (len(head) - 1)))
    yield ""
    for row in shown:
        name = cut(row[0], widths[0]).ljust(widths[0])
        rest = (text.rjust(room) for text, room in zip(row[1:], widths[1:], strict=True))
        yield cut("  ".join((name, *rest)).rstrip(), width)
    if len(cells) > len(shown):
        yield f"... and {len(cells) - len(shown):,} more"


def cut(text: str, width: int) -> str:
    """Return the text, cut if it is longer than this."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def _functions(snapshot: Snapshot, width: int) -> Iterator[str]:
    if not snapshot.functions:
        return
    head = ("function", "waiting", "running", "done", "failed", "rate/s", "median", "p95", "left")
    yield from table(head, map(_function, snapshot.functions), width)


def _function(one: FunctionStatus) -> tuple[str, ...]:
    counts = (f"{count:,}" for count in (one.waiting, one.running, one.done, one.failed))
    left = seconds(one.seconds_left) if one.waiting or one.running else ""
    times = (seconds(one.median_seconds), seconds(one.p95_seconds), left)
    return (one.name, *counts, f"{one.rate_1min:.3g}", *times)


def _shapes(shapes: Sequence[ShapeStatus], width: int) -> Iterator[str]:

    def row(one: ShapeStatus) -> tuple[str, ...]:
        return one.needs, f"{one.waiting:,}", f"{one.running:,}", seconds(one.median_seconds)

    if shapes:
        yield from table(("needs", "waiting", "running", "median"), map(row, shapes), width)


def _waiting(clients: Sequence[ClientStatus], width: int) -> Iterator[str]:
    """Say why the oldest job of each client waits."""
    waiting = [one for one in clients if one.why_waiting]
    if waiting:
        yield ""
    for one in waiting[:ROWS]:
        yield from _wrapped(f"{one.label} waits: {one.why_waiting}", width)
    if len(waiting) > ROWS:
        yield f"... and {len(waiting) - ROWS} more wait"


def _workers(workers: Sequence[WorkerStatus], has_shapes: bool, width: int) -> Iterator[str]:
    columns = _Columns(workers, has_shapes, width)

    def row(one: WorkerStatus) -> tuple[str, ...]:
        state = "away" if one.is_away else "drains" if one.is_draining else ""
        return one.name, *columns.cells(one), size(one.memory), seconds(one.seconds_left), state

    yield from table(("worker", *columns.heads, "memory", "left", ""), map(row, workers), width)
    for one in [one for one in workers if one.last_loss][:ROWS]:
        yield from _wrapped(f"{one.name} lost a runner: {one.last_loss}", width)


def _hosts(hosts: Sequence[HostStatus], has_shapes: bool, width: int) -> Iterator[str]:
    columns = _Columns(hosts, has_shapes, width)

    def row(one: HostStatus) -> tuple[str, ...]:
        return one.host, str(one.workers), *columns.cells(one), size(one.memory)

    if hosts:
        yield from table(("host", "workers", *columns.heads, "memory"), map(row, hosts), width)


class _Columns:
    """The columns that tables of workers and of hosts have in common."""

    def __init__(
        self, rows: Sequence[WorkerStatus] | Sequence[HostStatus], has_shapes: bool, width: int
    ) -> None:
        self._taken = taken_names([one.capacity for one in rows]) if has_shapes else []
        self._has_load = not has_shapes or width >= WIDE
        self.heads = ("busy", *self._taken, "done", *["load"] * self._has_load)

    def cells(self, one: WorkerStatus | HostStatus) -> Iterator[str]:
        taken = taken_of(one.capacity)
        yield f"{one.busy} of {one.slots}"
        yield from (taken[name] for name in self._taken)
        yield f"{one.done:,}"
        if self._has_load:
            yield "" if one.load is None else f"{one.load:.1f}"


def taken_names(capacities: Sequence[CapacityStatus]) -> list[str]:
    """Return the names of what is worth showing of these, of those in `taken_of`."""
    found = ["cpus"]
    if any(each.gpus for each in capacities):
        found.append("gpus")
    if any(each.memory_used for each in capacities):
        found.append("asked")
    return found


def taken_of(capacity: CapacityStatus) -> dict[str, str]:
    """Return what jobs take of a worker: '3/8'; '' for what it has not. asked: memory that they have asked for."""
    memory = "" if capacity.memory is None else f"/{format_bytes(capacity.memory)}"
    return {
        "cpus": f"{capacity.cpus_used}/{capacity.cpus}",
        "gpus": f"{capacity.gpus_used:g}/{capacity.gpus}" if capacity.gpus else "",
        "asked": format_bytes(capacity.memory_used) + memory if capacity.memory_used else "",
    }


def _running(running: Sequence[RunningJob], width: int) -> Iterator[str]:
    def row(one: RunningJob) -> tuple[str, ...]:
        return f"{one.function} #{one.number}", one.host, seconds(one.seconds)

    if running:
        yield from table(("running longest", "host", "for"), map(row, running), width)


def _failures(snapshot: Snapshot, width: int) -> Iterator[str]:
    if not snapshot.failures:
        return
    yield from ("", "failed lately")
    for one in snapshot.failures[:ROWS]:
        place = f" on {one.host}" if one.host else ""
        yield cut(f"{one.function} #{one.number}{place}, {seconds(snapshot.at - one.at)} ago", width)
        for text in filter(None, (one.first, one.last)):
            yield cut(f"  {text}", width)


def _losses(snapshot: Snapshot, width: int) -> Iterator[str]:
    if not snapshot.losses:
        return
    yield from ("", "lost workers")
    for one in snapshot.losses[:ROWS]:
        place = f" ({one.location})" if one.location else ""
        yield cut(f"{one.name}{place}, {seconds(snapshot.at - one.at)} ago: {one.how}", width)


def _wrapped(text: str, width: int) -> Iterator[str]:
    """Yield the text in lines of this width; those after the first are indented."""
    line = ""
    for word in text.split(" "):
        if line.strip() and len(line) + 1 + len(word) > width:
            yield line
            line = f"  {word}"
        else:
            line = f"{line} {word}" if line else word
    yield cut(line, width)
