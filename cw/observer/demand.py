"""What jobs ask of a cluster, and the workers that it has, as its tender hears of them: plain frozen values.

    master --- DemandReport ----> Demand.from_wire ----------> a plan of what to start
    tender --- WorkersToCome ---> PossibleWorker.from_wire --> the reason why a job waits

A tender starts and ends the workers of a cluster. What comes over the wire is checked: a mistake is a ProtocolError.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cw.errors import ProtocolError
from cw.needs import Needs
from cw.requirements import WorkerCapacity

Python = tuple[int, int]
"""A Python version, such as (3, 11)."""

TEXT = 200
"""Characters of a peer's mistake in a message about it."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class ShapeDemand:
    """The open jobs of one shape: those that need the same of a worker."""

    python: Python
    needs: tuple[Needs, ...]
    """What one job takes; of several alternatives, the first is preferred and each one will do."""
    min_time: float
    """Seconds that a worker must have left when such a job starts; 0.0: not named."""
    waiting: int
    """Jobs that no worker runs, with those that the client holds back since it has filled its window. Estimated where
    one program has jobs of several kinds."""
    running: int
    sessions: int
    """Programs that have such jobs."""
    median_seconds: float | None
    """Median duration of a job, judged by jobs of the same functions that have ended; None: not known."""
    mean_seconds: float | None
    """Mean of these: times `waiting`, the work that waits. None: not known."""

    def to_wire(self) -> list[Any]:
        return list(vars(self).values())

    @classmethod
    def from_wire(cls, value: Any) -> ShapeDemand:
        """Return what `to_wire` has written. Raises ProtocolError."""
        python, needs, min_time, waiting, running, sessions, median, mean = value
        return cls(
            _python(python),
            tuple(_needs(each) for each in needs),
            _seconds(min_time),
            _count(waiting),
            _count(running),
            _count(sessions),
            _seconds_if_known(median),
            _seconds_if_known(mean),
        )


@dataclass(frozen=True)
class WorkerSupply:
    """A connected worker."""

    ident: str
    host: str
    location: str
    """Where a launcher put it: a `cw.location.Location` as text; ''."""
    python: Python
    capacity: WorkerCapacity
    busy: int
    """Jobs that run there."""
    age: float
    """Time since it joined this master (seconds)."""
    idle_seconds: float
    """Time for which it has held no job, to a second; 0.0: it holds one."""
    seconds_left: float | None
    """Time until its jobs are stopped; None: no end is known."""
    is_draining: bool

    def to_wire(self) -> list[Any]:
        return [
            self.capacity.to_wire() if name == "capacity" else value for name, value in vars(self).items()
        ]

    @classmethod
    def from_wire(cls, value: Any) -> WorkerSupply:
        """Return what `to_wire` has written. Raises ProtocolError."""
        ident, host, location, python, capacity, busy, age, idle, left, is_draining = value
        return cls(
            _text(ident),
            _text(host),
            _text(location),
            _python(python),
            WorkerCapacity.from_wire(capacity),
            _count(busy),
            _seconds(age),
            _seconds(idle),
            _seconds_if_known(left),
            is_draining is True,
        )


@dataclass(frozen=True)
class Demand:
    """What a cluster's master answers to its tender."""

    ident: str
    """The master's start id: another one means that it was restarted."""
    clients: int
    """Programs that are connected, or were a moment ago and may come back."""
    settling: int
    """Jobs of which the master does not know yet if a worker has them, since it was restarted a moment ago. They are in
    no shape, so what is asked for seems less than it is."""
    shapes: tuple[ShapeDemand, ...]
    workers: tuple[WorkerSupply, ...]
    where: str = field(default="", compare=False)
    """Address at which the master answered, 'HOST:PORT'. Not sent: the tender knows it."""

    def to_wire(self) -> dict[str, Any]:
        shapes, workers = ([each.to_wire() for each in rows] for rows in (self.shapes, self.workers))
        return {**vars(self), "shapes": shapes, "workers": workers, "where": ""}

    @classmethod
    def from_wire(cls, state: dict[str, Any], where: str = "") -> Demand:
        """Return what `to_wire` has written. Raises ProtocolError."""

        def read() -> Demand:
            shapes = tuple(ShapeDemand.from_wire(each) for each in state["shapes"])
            workers = tuple(WorkerSupply.from_wire(each) for each in state["workers"])
            return cls(
                _text(state["ident"]),
                _count(state["clients"]),
                _count(state["settling"]),
                shapes,
                workers,
                where,
            )

        return _checked(read, state)


@dataclass(frozen=True)
class PossibleWorker:
    """A worker that the tender could still start, if jobs ask for it."""

    python: Python
    capacity: WorkerCapacity
    seconds: float | None = None
    """Time from its start until its jobs are stopped; None: no end is known."""

    def to_wire(self) -> list[Any]:
        return [self.python, self.capacity.to_wire(), self.seconds]

    @classmethod
    def from_wire(cls, value: Any) -> PossibleWorker:
        """Return what `to_wire` has written. Raises ProtocolError."""

        def read() -> PossibleWorker:
            python, capacity, seconds = value
            return cls(_python(python), WorkerCapacity.from_wire(capacity), _seconds_if_known(seconds))

        return _checked(read, value)


# --- values from a peer -----------------------------------------------------------------------


def _checked(read: Callable[[], Value], value: Any) -> Value:
    try:
        return read()
    except (TypeError, ValueError, KeyError) as error:
        raise ProtocolError(f"{str(value)[:TEXT]}: {str(error)[:TEXT]}") from None


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{str(value)[:TEXT]!r} is no number of things")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError(f"{str(value)[:TEXT]!r} is no number of seconds")
    return float(value)


def _seconds_if_known(value: Any) -> float | None:
    return None if value is None else _seconds(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{str(value)[:TEXT]!r} is no line of text")
    return value


def _python(value: Any) -> Python:
    major, minor = value
    return _count(major), _count(minor)


def _needs(value: Any) -> Needs:
    cpus, gpus, memory, resources, tags, nodes = value
    amounts = tuple((_text(name), _count(amount)) for name, amount in resources)
    texts = tuple(map(_text, tags))
    return Needs(_count(cpus), _count(gpus), _count(memory), amounts, texts, _count(nodes))
