"""A snapshot as text for a terminal, as `cw status` prints it. Pure: the width is an argument."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cw.observer.model import ClientStatus, FunctionStatus, HostStatus, RunningJob, Snapshot, WorkerStatus

ROWS = 10
"""Most rows of a table. Larger: the text fills more than a terminal. Smaller: more is left out."""

NARROW = 12
"""Fewest characters of a row's name."""


def lines(snapshot: Snapshot, width: int = 80) -> Iterator[str]:
    """Yield the tables of a snapshot, line by line, at most `width` characters wide; nothing for what is not there."""
    yield from _functions(snapshot, width)
    yield from _waiting(snapshot.clients, width)
    if snapshot.workers:
        yield from _workers(snapshot.workers, snapshot.at, width)
    else:
        yield from _hosts(snapshot.hosts, width)
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


def _waiting(clients: Sequence[ClientStatus], width: int) -> Iterator[str]:
    """Say why the oldest job of each client waits."""
    waiting = [one for one in clients if one.why_waiting]
    if waiting:
        yield ""
    for one in waiting[:ROWS]:
        yield from _wrapped(f"{one.label} waits: {one.why_waiting}", width)
    if len(waiting) > ROWS:
        yield f"... and {len(waiting) - ROWS} more wait"


def _workers(workers: Sequence[WorkerStatus], now: float, width: int) -> Iterator[str]:
    def row(one: WorkerStatus) -> tuple[str, ...]:
        state = "away" if one.is_away else "drains" if one.is_draining else ""
        load = "" if one.load is None else f"{one.load:.1f}"
        slots = f"{one.busy} of {one.slots}"
        return one.name, slots, f"{one.done:,}", load, size(one.memory), seconds(one.seconds_left), state

    yield from table(("worker", "busy", "done", "load", "memory", "left", ""), map(row, workers), width)
    for one in [one for one in workers if one.last_loss][:ROWS]:
        yield from _wrapped(f"{one.name} lost a runner: {one.last_loss}", width)


def _hosts(hosts: Sequence[HostStatus], width: int) -> Iterator[str]:
    def row(one: HostStatus) -> tuple[str, ...]:
        load = "" if one.load is None else f"{one.load:.1f}"
        return (
            one.host,
            str(one.workers),
            f"{one.busy} of {one.slots}",
            f"{one.done:,}",
            load,
            size(one.memory),
        )

    if hosts:
        yield from table(("host", "workers", "busy", "done", "load", "memory"), map(row, hosts), width)


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
