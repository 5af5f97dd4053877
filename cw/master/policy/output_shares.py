"""Shares of a client's live output among the workers that print for it: pure, without a clock.

    first Output of a worker ---> on_printed ---> its share: the client's bound divided by the workers that print
    once a second            ---> on_second  ---> new shares where they have changed much

A worker that has printed nothing for FORGOTTEN seconds has no share any more, and asks for one by printing.
"""

from __future__ import annotations

from cw.master.policy.jobs import SessionKey, WorkerKey
from cw.named_tuple import NamedTuple
from cw.net.output_messages import LINES_A_SECOND, SIZE_A_SECOND, OutputShare

FORGOTTEN = 5.0
"""Time without output after which a worker has no share (seconds). Longer: the others get less meanwhile. Shorter: a
worker that prints now and then is more often limited to its first lines."""

CHANGE = 1.25
"""Factor by which a share must change before the worker is told. Larger: fewer messages, and less exact shares."""

LEAST_SIZE, LEAST_LINES = 4096, 1
"""The least share of a worker, bytes and lines a second."""


class _Printer:
    """A worker that prints for a session."""

    __slots__ = ("among", "is_heard")

    def __init__(self, among: int) -> None:
        self.among = among  # number of workers in the share that it was told
        self.is_heard = 0.0  # when it printed last


class ToWorker(NamedTuple):
    """Send the worker this message."""

    worker: WorkerKey
    message: OutputShare


class OutputShares:
    """Who prints for whom, and which share they were told."""

    def __init__(self) -> None:
        self._printers: dict[SessionKey, dict[WorkerKey, _Printer]] = {}

    def on_printed(self, session: SessionKey, worker: WorkerKey, now: float) -> list[ToWorker]:
        """Note that a worker has sent output of this session. Returns its share, if it is new."""
        printers = self._printers.setdefault(session, {})
        printer = printers.get(worker)
        told: list[ToWorker] = []
        if printer is None:
            among = len(printers) + 1
            printer = printers[worker] = _Printer(among)
            told.append(ToWorker(worker, share_of(session, among)))
        printer.is_heard = now
        return told

    def on_second(self, now: float) -> list[ToWorker]:
        """Forget the workers that print no more, and return shares that have changed much."""
        told: list[ToWorker] = []
        for session, printers in list(self._printers.items()):
            for worker in [key for key, printer in printers.items() if now - printer.is_heard > FORGOTTEN]:
                del printers[worker]
            if not printers:
                del self._printers[session]
            among = len(printers)
            for worker, printer in printers.items():
                if max(among, printer.among) > CHANGE * min(among, printer.among):
                    printer.among = among
                    told.append(ToWorker(worker, share_of(session, among)))
        return told

    def on_session_closed(self, session: SessionKey) -> None:
        self._printers.pop(session, None)

    def on_worker_gone(self, worker: WorkerKey) -> None:
        for printers in self._printers.values():
            printers.pop(worker, None)

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself. For tests."""
        for printers in self._printers.values():
            assert all(printer.among > 0 for printer in printers.values())


def share_of(session: SessionKey, among: int) -> OutputShare:
    """The share of one of so many workers."""
    return OutputShare(
        session, max(SIZE_A_SECOND // among, LEAST_SIZE), max(LINES_A_SECOND // among, LEAST_LINES)
    )
