"""Events between two snapshots, in words: what `cw top` writes into its log. Also the slots over time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from cw.observer.model import FunctionStatus, Snapshot
from cw.top import texts
from cw.top.tables import Cell, Row, Table, function_key, worker_name

EVENTS = 500
"""Number of events that are kept. Larger: more memory. Smaller: old events are gone."""

SECONDS = 600
"""Number of snapshots, one a second, of which the slots over time are kept."""

NAMED = 8
"""Most workers or clients that are named one by one in the events of one snapshot; more are counted."""


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    text: str
    mood: str = ""


def changes(before: Snapshot, after: Snapshot) -> Iterator[Event]:
    """Yield what happened between two snapshots of a cluster."""
    if before.master.ident != after.master.ident:
        yield Event(f"another master: process {after.master.pid} on {texts.plain(after.master.host)}", "warn")
    yield from _workers(before, after)
    yield from _clients(before, after)
    yield from _functions(before, after)
    known = {(job.session, job.number) for job in before.failures}
    for job in reversed(after.failures):
        if (job.session, job.number) not in known:
            why = f": {job.first}" if job.first else ""
            yield Event(texts.plain(f"{job.function} #{job.number} failed on {job.host}{why}"), "bad")


def _workers(before: Snapshot, after: Snapshot) -> Iterator[Event]:
    known = {(loss.name, loss.how) for loss in before.losses}
    for loss in reversed(after.losses):
        if (loss.name, loss.how) not in known:
            yield Event(texts.plain(f"worker lost: {worker_name(loss.name)}: {loss.how}"), "bad")
    if before.totals.workers and not before.workers or after.totals.workers and not after.workers:
        if before.totals.workers != after.totals.workers:
            yield Event(f"{before.totals.workers} workers are now {after.totals.workers}")
        return
    old = {worker.key: worker for worker in before.workers}
    new = {worker.key: worker for worker in after.workers}
    joined = [f"{worker_name(new[key].name)} ({new[key].slots} slots)" for key in new.keys() - old.keys()]
    yield from _named("worker", "joined", joined, "good")
    yield from _named(
        "worker", "left", [worker_name(old[key].name) for key in old.keys() - new.keys()], "warn"
    )
    for key in new.keys() & old.keys():
        name = worker_name(new[key].name)
        if new[key].is_draining and not old[key].is_draining:
            yield Event(texts.plain(f"worker drains: {name}"), "warn")
        if new[key].last_loss and not old[key].last_loss:
            yield Event(texts.plain(f"worker {name} lost a runner: {new[key].last_loss}"), "bad")


def _clients(before: Snapshot, after: Snapshot) -> Iterator[Event]:
    old = {client.session: client.label for client in before.clients}
    new = {client.session: client.label for client in after.clients}
    yield from _named("client", "joined", [new[session] for session in new.keys() - old.keys()], "good")
    yield from _named("client", "left", [old[session] for session in old.keys() - new.keys()], "")


def _functions(before: Snapshot, after: Snapshot) -> Iterator[Event]:
    were_open = {function_key(function) for function in before.functions if _open(function)}
    for function in after.functions:
        if function_key(function) in were_open and not _open(function):
            failed = f", {function.failed} failed" if function.failed else ""
            name = texts.plain(function.name)
            yield Event(f"{name}: no job is open; {function.done} done{failed}", "bad" if failed else "good")


def _open(function: FunctionStatus) -> int:
    return function.waiting + function.running


def _named(what: str, verb: str, names: list[str], mood: str) -> Iterator[Event]:
    """Yield an event for each of them, or one for all if they are many."""
    if len(names) > NAMED:
        yield Event(f"{len(names)} {what}s {verb}", mood)
        return
    for name in sorted(names):
        yield Event(texts.plain(f"{what} {verb}: {name}"), mood)


class History:
    """What was seen since the start of `cw top`: events, and busy slots over time. Bounded."""

    def __init__(self) -> None:
        self.last: Snapshot | None = None
        self._busy: deque[int] = deque(maxlen=SECONDS)
        self._events: deque[tuple[int, str, Event]] = deque(maxlen=EVENTS)
        self._count = 0

    def add(self, snapshot: Snapshot, clock: str) -> None:
        """Take in the next snapshot. `clock`: the time of day, as the log shows it."""
        if self.last is None:
            self.note(Event(f"connected to {snapshot.where or texts.plain(snapshot.master.host)}"), clock)
        else:
            for event in changes(self.last, snapshot):
                self.note(event, clock)
        self.last = snapshot
        self._busy.append(snapshot.totals.busy)

    def note(self, event: Event, clock: str) -> None:
        """Write an event into the log."""
        self._count += 1
        self._events.append((self._count, clock, event))

    def busy(self, width: int) -> str:
        """Return the busy slots over time as a sparkline of at most `width` columns."""
        return texts.sparkline(list(self._busy), self.last.totals.slots if self.last else 0, width)

    def log(self) -> Table:
        """Return the events, newest first."""
        rows = [
            Row(str(count), (Cell(clock, count), Cell(event.text, event.text, event.mood)))
            for count, clock, event in reversed(self._events)
        ]
        return Table(("time", "event"), tuple(rows), "nothing has happened yet")
