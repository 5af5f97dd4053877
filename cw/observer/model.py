"""The snapshot of a cluster, as `cw.status()` returns it: plain frozen values.

master --- Status (JSON) ---> from_dict ---> Snapshot ---> `cw status`, `cw top`, programs
                                                '--- to_dict ---> JSON lines

A snapshot is bounded, whatever the size of the cluster: each list holds at most the number of entries that is given
here (the totals count all). What comes over the wire is checked: types, numbers, lengths; texts are one line without
control characters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from cw import html
from cw.errors import ProtocolError
from cw.observer.bounds import clean

WORKERS = 200
"""Most workers that are listed one by one; with more, `Snapshot.workers` is empty, and `hosts` has their sums."""

HOSTS = 300
"""Most hosts that are listed; the last entry sums up the others."""

CLIENTS = 50
"""Most clients that are listed."""

FUNCTIONS = 100
"""Most functions that are listed, those with the most open jobs first."""

SHAPES = 50
"""Most shapes of jobs that are listed."""

RESOURCES = 16
"""Most resources that are listed, of a worker or of several."""

RUNNING = 50
"""Most running jobs that are listed, longest first."""

_LISTED = 1000
"""Most entries of a list that are accepted from a master of another version."""

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class MasterStatus:
    """The master."""

    ident: str
    """Start id: a different one means that the master was restarted."""
    host: str
    pid: int
    version: str
    """Version of cw."""
    age: float
    """Seconds since its start."""
    location: str
    """Place where a launcher put it, such as 'Slurm job 4711'; '' if it was started by hand."""


@dataclass(frozen=True)
class AmountStatus:
    """Something that workers have by a name of the user's own."""

    name: str
    total: int
    used: int


@dataclass(frozen=True)
class CapacityStatus:
    """What a worker has, and what is taken of it by the jobs that run there. Or sums of these."""

    cpus: int
    cpus_used: int
    gpus: int
    gpus_used: float
    """Parts of devices count as such."""
    memory: int | None
    """Bytes that its jobs share; None: not known, or not of all."""
    memory_used: int
    """Bytes that these jobs have asked for, whatever they use."""
    resources: tuple[AmountStatus, ...]
    tags: str
    """Its tags, with spaces between them; '' of several workers."""


@dataclass(frozen=True)
class Totals:
    """Sums over the whole cluster."""

    clients: int
    workers: int
    hosts: int
    slots: int
    """Slots of connected workers, without those of draining ones."""
    busy: int
    """Slots on which a job runs."""
    waiting: int
    running: int
    done: int
    """Jobs that have returned since the master's start."""
    failed: int
    """Jobs that have raised an error, or were given up, since the master's start."""
    rate: float
    """Jobs that ended in the last minute, per second."""
    capacity: CapacityStatus
    """Of connected workers, without draining ones."""


@dataclass(frozen=True)
class ShapeStatus:
    """The open jobs that need the same of a worker."""

    needs: str
    """What one of them takes, such as '8 CPUs, 1 GPU'; alternatives are separated by ' or '."""
    python: str
    """Version of Python that it runs in, such as '3.12'."""
    waiting: int
    """Jobs that wait at the master."""
    running: int
    clients: int
    """Programs that have such jobs."""
    median_seconds: float | None
    """Median duration, judged by the jobs of the same functions that ended lately; None: not known."""


@dataclass(frozen=True)
class ClientStatus:
    """A client: one program, over its reconnects."""

    session: str
    """Its session's key: 16 hexadecimal digits."""
    label: str
    """'sim.py on node7, pid 4711'."""
    host: str
    pid: int
    program: str
    """Name of its script; '' if it is not known."""
    depth: int
    """0; 1 if it is in a job, 2 if it is in a job of such a client, ..."""
    age: float
    """Seconds since the master first saw it."""
    is_connected: bool
    """False: it is gone, and may come back."""
    waiting: int
    """Jobs that wait, including those that the client has not sent yet."""
    running: int
    done: int
    failed: int
    why_waiting: str
    """Reason why the oldest of its jobs waits, a sentence; '' if none waits."""


@dataclass(frozen=True)
class FunctionStatus:
    """The jobs of one function of one client."""

    session: str
    """Session of the client."""
    name: str
    """Name as its client gives it, such as 'simulate' or 'Model.fit'; '?' if it has not said it yet."""
    waiting: int
    """Jobs that wait, including those that the client has not sent yet."""
    running: int
    done: int
    failed: int
    rate_1min: float
    """Jobs that ended in the last minute, per second."""
    rate_5min: float
    median_seconds: float | None
    """Median duration of the jobs that ended lately; None: none has ended."""
    p95_seconds: float | None
    """Duration that 95 % of these did not exceed."""
    seconds_left: float | None
    """Estimated time until its open jobs have ended; None: not known yet."""


@dataclass(frozen=True)
class WorkerStatus:
    """A worker: one process on a machine, with its slots."""

    key: str
    """Its ident, by which it can be drained: 32 hexadecimal digits."""
    name: str
    host: str
    location: str
    """Place where a launcher put it, such as 'Slurm job 4711, step 0, node n17'; ''."""
    slots: int
    busy: int
    """Slots on which a job runs."""
    ahead: int
    """Jobs that were sent to it ahead of time and have not started."""
    done: int
    """Jobs that have ended there."""
    rate: float
    """Jobs that ended there in the last minute, per second."""
    load: float | None
    """Load average of its machine over 1 minute; None: not reported yet."""
    memory: int | None
    """Resident memory of its runners (bytes); None: not reported yet."""
    age: float
    """Seconds since it joined this master."""
    seconds_left: float | None
    """Seconds until its jobs are stopped; None: no end is known."""
    is_draining: bool
    is_away: bool
    """Its connection broke a moment ago."""
    last_loss: str
    """Last death of one of its runners: how, and how long ago; ''."""
    capacity: CapacityStatus


@dataclass(frozen=True)
class HostStatus:
    """The workers of one host, summed up."""

    host: str
    """Its name; 'N more hosts' for the last entry of a list that was cut."""
    workers: int
    slots: int
    busy: int
    done: int
    rate: float
    load: float | None
    """Load average of the machine over 1 minute; None: not reported yet, or several machines."""
    memory: int | None
    """Resident memory of their runners (bytes); None: not reported yet."""
    capacity: CapacityStatus


@dataclass(frozen=True)
class RunningJob:
    """A job that runs."""

    session: str
    number: int
    """Its number in the session: session and number name the job, to stop it."""
    function: str
    client: str
    """Label of its client."""
    worker: str
    """Key of its worker."""
    host: str
    slot: int | None
    """Its slot there, if known."""
    seconds: float
    """Seconds since its start was reported."""


@dataclass(frozen=True)
class FailedJob:
    """A job that failed."""

    session: str
    number: int
    function: str
    client: str
    """Label of its client."""
    host: str
    at: float
    """When it failed (seconds since 1970, by the master's clock)."""
    first: str
    """First line of the error, such as 'ValueError: no convergence'; '' if the client has not told."""
    last: str
    """Last line of the error, if there are several; ''."""


@dataclass(frozen=True)
class LostWorker:
    """A worker that was lost."""

    name: str
    location: str
    how: str
    at: float
    """When it was lost (seconds since 1970, by the master's clock)."""


@dataclass(frozen=True)
class Snapshot:
    """State of a cluster at one moment."""

    at: float
    """Its time (seconds since 1970, by the master's clock)."""
    master: MasterStatus
    totals: Totals
    clients: tuple[ClientStatus, ...] = ()
    """Those with the most open jobs first."""
    functions: tuple[FunctionStatus, ...] = ()
    """Those with the most open jobs first."""
    shapes: tuple[ShapeStatus, ...] = ()
    """Those with the most open jobs first; empty if all jobs need one CPU and nothing else."""
    workers: tuple[WorkerStatus, ...] = ()
    """By name; empty if there are more than WORKERS."""
    hosts: tuple[HostStatus, ...] = ()
    """Sums of the workers by host, by name."""
    running: tuple[RunningJob, ...] = ()
    """Longest first."""
    failures: tuple[FailedJob, ...] = ()
    """Newest first."""
    losses: tuple[LostWorker, ...] = ()
    """Newest first."""
    where: str = field(default="", compare=False)
    """Address at which the master answered, 'HOST:PORT'. Not sent: the observer knows it."""

    def _repr_html_(self) -> str | None:
        return html.shown(self._as_html)

    def _as_html(self) -> str:
        names = (
            "name",
            "waiting",
            "running",
            "done",
            "failed",
            "rate_1min",
            "median_seconds",
            "seconds_left",
        )
        rows = [[_short(getattr(one, name)) for name in names] for one in self.functions]
        sums = {name: _short(value) for name, value in vars(self.totals).items() if name != "capacity"}
        tables = html.table("functions", names, rows)
        if self.shapes:
            capacity = self.totals.capacity
            sums |= {
                "cpus": f"{capacity.cpus_used}/{capacity.cpus}",
                "gpus": f"{capacity.gpus_used:g}/{capacity.gpus}",
            }
            heads = ("needs", "waiting", "running", "median_seconds")
            tables += html.table(
                "shapes", heads, [[_short(getattr(one, name)) for name in heads] for one in self.shapes]
            )
        return html.fields(f"cluster at {self.where}", sums) + tables


def _short(value: object) -> str:
    """Return a value for a table."""
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


# --- to and from plain values -----------------------------------------------------------------


def to_dict(value: Any) -> Any:
    """Return a value of this module as dicts, lists, texts and numbers, which JSON can write."""
    shape: Any = type(value)
    if hasattr(shape, "__dataclass_fields__"):
        return {name: to_dict(getattr(value, name)) for name in _kinds(shape)}
    return [to_dict(entry) for entry in value] if isinstance(value, tuple) else value


def from_dict(cls: type[Parsed], value: Any, where: str = "") -> Parsed:
    """Return the value of this module's class that `to_dict` has written. Raises ProtocolError if it is not one.

    Unknown names are ignored, so that a later version may add some.
    """
    where = where or cls.__name__
    if not isinstance(value, dict):
        raise ProtocolError(f"{where}: not an object")
    shape: Any = cls
    found = {name: _checked(kind, value.get(name), f"{where}.{name}") for name, kind in _kinds(shape).items()}
    return cls(**found)


@cache
def _kinds(cls: Any) -> dict[str, Any]:
    """The type of each field of a class, but those that are not sent."""
    hints = get_type_hints(cls)
    return {entry.name: hints[entry.name] for entry in fields(cls) if entry.compare}


def _checked(kind: Any, value: Any, where: str) -> Any:
    """Return the value as one of this kind; raises ProtocolError if it is none."""
    if kind in (int | None, float | None):
        if value is None:
            return None
        kind = get_args(kind)[0]
    if get_origin(kind) is tuple:
        if not isinstance(value, list) or len(value) > _LISTED:
            raise ProtocolError(f"{where}: not a list of at most {_LISTED} entries")
        return tuple(from_dict(get_args(kind)[0], entry, where) for entry in value)
    if hasattr(kind, "__dataclass_fields__"):
        return from_dict(kind, value, where)
    if kind is str and isinstance(value, str):
        return clean(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind is int and type(value) is int and 0 <= value < 2**64:
        return value
    raise ProtocolError(f"{where}: not {kind.__name__}")
