"""Snapshots of a cluster from its master, for `cw top`: an observer that looks again when its master has gone.

find the master ---> Observer, a snapshot a second ---> on_update      (a thread of its own)
      ^--- a pause <--- it ended: Away -----------------'
the user's cluster in a batch system, now and then ---> Batch          (another thread)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from cw import overview
from cw.errors import ConnectionError as NoMaster
from cw.launch.launcher import LaunchError
from cw.net import address
from cw.observer.looking import Observer
from cw.program import UserError
from cw.slurm import cluster
from cw.slurm.submitted import State
from cw.top import texts
from cw.top.source import Away, Batch, Update

PAUSE = 2.0
"""Seconds between two searches for a master. Longer: the screen stays old when it is back. Shorter: log lines at a
master that refuses us."""

BATCH_SECONDS = 15.0
"""Seconds between two looks at the batch system. Shorter: its answers are kept that long anyway."""


class LiveSource:
    """The source of a cluster that runs: the one at `host`, or that a program would find."""

    def __init__(self, host: str | None, takes_orders: bool) -> None:
        self.takes_orders = takes_orders
        self._host = host
        self._observer: Observer | None = None  # while one looks; set by the thread, read by the app's
        self._ended = threading.Event()
        self._on_update: Callable[[Update], None] = lambda update: None

    def start(self, on_update: Callable[[Update], None]) -> None:
        """Begin; `on_update` is called in threads."""
        self._on_update = on_update
        threading.Thread(target=self._look, name="cw-top", daemon=True).start()
        if not self._host and is_in_batch():
            threading.Thread(target=self._look_at_batch, name="cw-top-batch", daemon=True).start()

    def close(self) -> None:
        """End: no more updates."""
        self._ended.set()
        self._on_update = lambda update: None
        if self._observer is not None:
            self._observer.close()

    def stop_job(self, session: str, number: int) -> None:
        """Stop a job that runs. Raises OSError if no master is there now, or this source takes no orders."""
        self._master().stop_job(session, number)

    def drain(self, worker: str) -> None:
        """Let a worker finish what it runs, and leave. Raises OSError as `stop_job` does."""
        self._master().drain(worker)

    def _master(self) -> Observer:
        if not self.takes_orders:
            raise PermissionError("this view is read-only")
        if self._observer is None:
            raise OSError("no master answers now")
        return self._observer

    def _look(self) -> None:
        while not self._ended.is_set():
            try:
                observer = overview.observe(self._host, self._on_snapshot)
            except (NoMaster, UserError) as error:
                why = str(error)
            else:
                self._observer = observer
                if not self._ended.is_set():  # (`close` may not have seen it)
                    observer.run()
                self._observer = None
                why = why_gone(observer)
            self._on_update(Away(why))
            self._ended.wait(PAUSE)

    def _on_snapshot(self, snapshot: Update) -> None:
        self._on_update(snapshot)

    def _look_at_batch(self) -> None:
        while not self._ended.is_set():
            self._on_update(Batch(batch_lines()))
            self._ended.wait(BATCH_SECONDS)


def why_gone(observer: Observer) -> str:
    """Return the sentence for an observer that has ended."""
    if observer.failures:
        where, error = observer.failures[0]
        return f"no master answers at {where}: {error.strerror or error}"
    return f"no master: {observer.reason}"


def is_in_batch() -> bool:
    """True if programs of the user find a cluster that was started in a batch system."""
    return not os.environ.get("CW_MASTER") and bool(State.load(address.cluster_name()).token)


def batch_lines() -> tuple[tuple[str, str], ...]:
    """Return the jobs of the user's cluster in the batch system, as (role, text)."""
    try:
        found = cluster.status()
    except LaunchError as error:
        return (("Slurm", str(error)),)
    if found is None:
        return ()
    lines = []
    for job in found.jobs:
        nodes = f" on {job.nodes}" if job.nodes else ""
        left = "" if job.time_left is None else f", {texts.duration(job.time_left)} left"
        size = f" ({job.slots} slots)" if job.slots else ""
        lines.append((job.role, f"Slurm job {job.ident}{size} {job.state}{nodes}{left}"))
    return (*lines, *([("Slurm", f"does not answer: {found.problem}")] if found.problem else []))
