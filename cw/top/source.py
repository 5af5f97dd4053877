"""Where the snapshots of `cw top` come from, and where its orders go.

master --- one snapshot a second ---> Source --- Update ---> the app
       <-- stop this job, drain that worker --'
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cw.observer.model import Snapshot


@dataclass(frozen=True)
class Away:
    """No master answers, and why: a sentence. The source looks for one until it is closed."""

    why: str


@dataclass(frozen=True)
class Batch:
    """Lines on the cluster's jobs in a batch system: (name, text)."""

    lines: tuple[tuple[str, str], ...]


Update = Snapshot | Away | Batch


class Source(Protocol):
    """Snapshots of a cluster, and orders to it."""

    @property
    def takes_orders(self) -> bool:
        """False: `stop_job` and `drain` raise PermissionError."""

    def start(self, on_update: Callable[[Update], None]) -> None:
        """Begin. `on_update` is called from any thread, with a snapshot each second, or with why there is none."""

    def close(self) -> None:
        """End: no more updates."""

    def stop_job(self, session: str, number: int) -> None:
        """Stop a job that runs."""

    def drain(self, worker: str) -> None:
        """Let the worker with this key finish what runs there, take no more, and leave."""
