"""Output of jobs on its way through the master: from the worker that holds the job to the client whose job it is.

    Output, Kept from a worker --> which session, which job? --> JobOutput, JobKept to its client
                                        '--> a client that does not read: left out, counted, reported later

Output never holds up a result: a client that does not read gets no more of it, and what is left out is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from cw.master.policy.jobs import SessionKey, WorkerKey
from cw.master.policy.output_shares import OutputShares, ToWorker
from cw.master.policy.state import State
from cw.net import messages as m
from cw.net.connection import Connection

UNSENT = 1024 * 1024
"""Bytes that a client has not taken, above which its output is left out. Larger: more memory here for each client, and
results wait for longer behind output. Smaller: more is left out on a slow network."""

COUNTED = 100
"""Most jobs of one client for which it is counted what is left out; then all count as the last one's."""

# For each session, by job and stream: lines and bytes.
_LeftOut = dict[tuple[int, int], list[int]]


class Client(Protocol):
    """A client, as its output needs it."""

    @property
    def connection(self) -> Connection | None: ...


class OutputRoute:
    """The way of output through the master. `send(worker, message)` sends a message to a worker."""

    def __init__(
        self,
        state: State,
        clients: Mapping[SessionKey, Client],
        send: Callable[[WorkerKey, m.OutputShare], None],
    ) -> None:
        self._state = state
        self._clients = clients
        self._send = send
        self._shares = OutputShares()
        self._hosts: dict[SessionKey, tuple[Connection, str]] = {}  # the last OutputHost
        self._left_out: dict[SessionKey, _LeftOut] = {}
        self._served: set[SessionKey] = set()

    def has_sent(self, session: SessionKey) -> bool:
        """True if the client was sent output of its jobs."""
        return session in self._served

    def report(self, session: SessionKey, message: m.JobsStarted | m.AttemptCounts) -> None:
        """Send a client what is known of jobs that go on. What an attempt printed goes before the news that it is over:
        then the client drops it."""
        connection = self._clients[session].connection
        if connection is not None:
            is_behind = type(message) is m.AttemptCounts and session in self._served
            connection.send(message, is_ordered=is_behind)

    def on_output(self, worker: WorkerKey, host: str, message: m.Output) -> None:
        """Pass on live output. What the worker says of jobs that it does not hold is dropped."""
        parts: dict[SessionKey, list[tuple[int, int, int, int, bytes]]] = {}
        for dispatch, *part in zip(*message, strict=True):
            owner = self._state.owner_of(worker, dispatch)
            if owner is not None:
                session, number = owner
                parts.setdefault(session, []).append((number, *part))
        for session, entries in parts.items():
            self._tell(self._shares.on_printed(session, worker, time.monotonic()))
            self._pass_on(session, host, entries)

    def on_kept(self, worker: WorkerKey, message: m.Kept) -> None:
        """Pass on what is kept of jobs whose results follow."""
        for dispatch, *part in zip(*message, strict=True):
            owner = self._state.owner_of(worker, dispatch)
            connection = None if owner is None else self._clients[owner[0]].connection
            if owner is not None and connection is not None:
                self._served.add(owner[0])
                connection.send(m.JobKept([owner[1]], *([value] for value in part)))

    def on_second(self, now: float) -> None:
        """Report what was left out to the clients that read again, and shares that have changed."""
        self._tell(self._shares.on_second(now))
        for session in list(self._left_out):
            self._pass_on(session, "", [])

    def on_session_closed(self, session: SessionKey) -> None:
        self._shares.on_session_closed(session)
        self._hosts.pop(session, None)
        self._left_out.pop(session, None)
        self._served.discard(session)

    def on_worker_gone(self, worker: WorkerKey) -> None:
        self._shares.on_worker_gone(worker)

    def _tell(self, shares: list[ToWorker]) -> None:
        for share in shares:
            self._send(share.worker, share.message)

    def _pass_on(
        self, session: SessionKey, host: str, entries: list[tuple[int, int, int, int, bytes]]
    ) -> None:
        connection = self._clients[session].connection
        left_out = self._left_out.get(session)
        if connection is None or connection.unsent > UNSENT:
            for entry in entries:
                self._leave_out(session, *entry)
            return
        if left_out:
            del self._left_out[session]
            missing = [
                (number, stream, lines, size, b"") for (number, stream), (lines, size) in left_out.items()
            ]
            entries = missing + entries
        if not entries:
            return
        if host and self._hosts.get(session) != (connection, host):
            self._hosts[session] = connection, host
            connection.send(m.OutputHost(host))
        self._served.add(session)
        connection.send(m.JobOutput(*map(list, zip(*entries, strict=True))))

    def _leave_out(
        self, session: SessionKey, number: int, stream: int, lines: int, size: int, payload: bytes
    ) -> None:
        left_out = self._left_out.setdefault(session, {})
        key = number, stream
        if key not in left_out and len(left_out) >= COUNTED:
            key = next(reversed(left_out))
        counts = left_out.setdefault(key, [0, 0])
        counts[0] += lines + bytes(payload).count(b"\n")
        counts[1] += size + len(payload)
