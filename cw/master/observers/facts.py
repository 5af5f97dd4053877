"""What the master knows of its peers besides the policy's state, for observers. Pure: times are the master's clock."""

from __future__ import annotations

import math
from typing import Protocol

from cw.net import messages as m


class WorkerFacts:
    """A worker, as it has described itself."""

    __slots__ = (
        "done",
        "ends_at",
        "host",
        "idle_since",
        "joined_at",
        "load",
        "location",
        "lost_at",
        "loss",
        "memory",
        "name",
        "place",
    )

    def __init__(self, name: str, host: str, now: float) -> None:
        self.name = name
        self.host = host
        self.joined_at = now
        self.idle_since = now  # since when it holds no job, if it holds none
        self.done = 0  # number of its ended jobs then
        self.ends_at = math.inf  # when its jobs will be stopped
        self.location = ""  # the text of its cw.location.Location
        self.place = ""  # the same for people
        self.load: float | None = None
        self.memory: int | None = None
        self.loss = ""  # how its last runner died
        self.lost_at = 0.0

    def on_heartbeat(self, message: m.Heartbeat) -> m.Heartbeat:
        """Note what the worker says of its machine. Returns the answer."""
        if 0 <= message.load < math.inf:
            self.load, self.memory = float(message.load), message.memory
        return m.Heartbeat()

    def on_second(self, now: float, held: int, done: int) -> None:
        """Note the numbers of jobs that it holds, and that have ended there."""
        if held or done != self.done:
            self.idle_since, self.done = now, done


class ClientFacts:
    """A client, as it has described itself."""

    __slots__ = ("backlog", "host", "joined_at", "pid", "program")

    def __init__(self, host: str, pid: int, program: str, now: float) -> None:
        self.host = host
        self.pid = pid
        self.program = program  # name of its script; ''
        self.joined_at = now
        self.backlog: dict[str, int] = {}  # jobs that wait at the client, by function

    def on_backlog(self, message: m.Backlog) -> None:
        self.backlog = message.counts

    @property
    def label(self) -> str:
        """Name for people."""
        return f"{self.program or 'python'} on {self.host}, pid {self.pid}"


class ClientPeer(Protocol):
    """A client of the master."""

    @property
    def facts(self) -> ClientFacts: ...


class WorkerPeer(Protocol):
    """A worker of the master."""

    @property
    def facts(self) -> WorkerFacts: ...
