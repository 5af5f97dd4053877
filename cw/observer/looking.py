"""A connection that looks at a cluster: a snapshot every second, and orders to its jobs and workers.

    Hello (observer), Look ---> the master
    on_snapshot(snapshot)  <--- SnapshotReport, every second
    stop_job, drain        ---> StopJob, Drain

It is an ordinary connection of an observer, with the cluster's credential. No port is opened.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cw.errors import ProtocolError
from cw.net import address
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.connector import dial
from cw.net.loop import Loop
from cw.observer.bounds import clean
from cw.observer.model import Snapshot, from_dict
from cw.version import VERSION

ANSWER_SECONDS = 5.0
"""Time for a master to answer (seconds). Longer: a command hangs if a firewall drops its messages. Shorter: a busy
master seems to be gone."""

SILENT_SECONDS = 30.0
"""Time without a snapshot after which the master counts as gone (seconds). With very many workers they come less often
than every second."""


class Observer:
    """Looks at the cluster whose master answers first. `run` does all the work, in one thread, and calls
    `on_snapshot(snapshot)` there; the other methods are for any thread."""

    def __init__(
        self, candidates: Sequence[address.Candidate], on_snapshot: Callable[[Snapshot], None]
    ) -> None:
        self.reason = ""
        """Why it ended, if that was not by `close`: a sentence."""
        self.where = ""
        """Address of the master that answered, 'HOST:PORT'."""
        self.failures: list[tuple[str, OSError]] = []
        """Addresses at which no master answered, with the errors, if none did."""
        self._candidates = candidates
        self._on_snapshot = on_snapshot
        self._loop = Loop()
        self._connection: Connection | None = None
        self._left = ANSWER_SECONDS  # seconds for the next message of the master

    def run(self) -> None:
        """Look until `close()`, or until the connection ends: then `reason` says why."""
        where = [(candidate.host, candidate.port) for candidate in self._candidates]
        dial(self._loop, where, ANSWER_SECONDS, self._on_connected, self._on_unreachable)
        self._loop.call_every(1.0, self._on_second)
        self._loop.run()

    def close(self) -> None:
        """Look no more."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    def stop_job(self, session: str, number: int) -> None:
        """Have a running or waiting job stopped. It fails at its client, with `cw.JobStopped`."""
        by = clean(f"{_user()} on {os.uname().nodename}")
        self._order(m.StopJob(int(session, 16), number, by))

    def drain(self, worker: str) -> None:
        """Let a worker, by its key, finish what runs, and leave."""
        self._order(m.Drain([worker]))

    def _order(self, message: m.StopJob | m.Drain) -> None:
        def send() -> None:
            if self._connection is not None:
                self._connection.send(message)

        self._loop.call_soon_threadsafe(send)

    # --- the thread of `run` ---

    def _on_connected(self, sock: Any, where: tuple[str, int]) -> None:
        self.where = address.join(*where)
        self._left = ANSWER_SECONDS
        connection = Connection(self._loop, sock)
        connection.decoder.accepts = m.sent_on(m.Leg.MASTER_OBSERVER) | {m.Welcome, m.Refused}
        connection.on_message = self._on_message
        connection.on_close = lambda reason: self._end(reason or "the master has closed the connection")
        connection.set_patience(SILENT_SECONDS)
        connection.send(
            m.Hello("observer", secrets.token_hex(16), "", m.PROTOCOL, list(sys.version_info[:2]), VERSION,
                    os.uname().nodename, os.getpid(), {})
        )  # fmt: skip
        self._connection = connection

    def _on_message(self, message: Any) -> None:
        assert self._connection is not None
        self._left = SILENT_SECONDS
        if type(message) is m.Welcome:
            self._connection.send(m.Look())
        elif type(message) is m.SnapshotReport:
            for payload in message.payloads:
                snapshot = from_dict(Snapshot, _loads(payload))
                self._on_snapshot(replace(snapshot, where=self.where))
        else:
            self._end(str(getattr(message, "reason", "")) or "the master has ended")

    def _on_unreachable(self, failures: list[tuple[tuple[str, int], OSError]]) -> None:
        self.failures = [(address.join(*where), error) for where, error in failures]
        self._end("no master answers")

    def _on_second(self, now: float) -> bool:
        self._left -= 1.0
        if self._left < 0:
            self._end("the master does not answer")
        return True

    def _end(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._loop.stop()


def _loads(payload: Any) -> Any:
    try:
        return json.loads(bytes(payload))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a snapshot that is no JSON: {error}") from None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user here
        return f"user {os.getuid()}"
