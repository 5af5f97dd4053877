"""Reports of one session about its waits, in the log.

    the master's Waiting ----> on_waiting --.--> no worker? ask the batch system, in a thread of its own
                                            |
    submit() blocks ---------> blocked -----'--> Lines --> the log

The thread lives while there is something to look at: it asks the batch system again, and logs what is late.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING

from cw import advice, userdir
from cw.events import EventLogger
from cw.net import messages as m
from cw.waits.cut_jobs import CutJobs
from cw.waits.sentences import MASTER, SUBMIT, Lines, Reason

if TYPE_CHECKING:
    from cw.waits.batch_queue import Found

logger = EventLogger("cw.client")

PERIOD = 1.0
"""Time between two looks of the thread (seconds)."""

LOOK_SECONDS = 20.0
"""Time between two questions to the batch system (seconds). Longer: another reason is seen late. Shorter: nothing, as
its last answer is kept for some seconds."""


class WaitReporter:
    """Logs a session's waits. For any thread. `where()`: the master's address, 'HOST:PORT'."""

    def __init__(self, where: Callable[[], str]) -> None:
        self.cut_jobs = CutJobs()
        self._where = where
        self._lock = threading.Lock()
        self._lines = Lines()
        self._waiting: m.Waiting | None = None  # of which the batch system is asked
        self._blocked = 0  # threads in submit()
        self._is_running = self._is_closed = False
        self._wake = threading.Event()

    def on_waiting(self, message: m.Waiting) -> None:
        """Note why the jobs wait, as the master says, or that they do no longer."""
        is_asked = message.cause in _ASKED | _SCALED and _has_notes()
        with self._lock:
            self._waiting = message if is_asked else None
        if is_asked:
            self._look_later()
        else:
            with self._lock:
                self._lines.note(MASTER, self._reason(message, None) if message.cause else None, monotonic())
            self._log_due()

    def on_joined(self) -> None:
        """Note that a master is there."""
        with self._lock:
            self._lines.on_joined()

    def on_lost(self) -> None:
        """Note that the master is lost. When it is back, it says again why jobs wait."""
        with self._lock:
            self._waiting = None
            self._lines.on_lost()

    @contextlib.contextmanager
    def blocked(self, text: str) -> Iterator[None]:
        """Note that a thread waits in submit(), and has waited for `sentences.SECONDS`."""
        self._count_blocked(1, Reason(SUBMIT, text))
        try:
            yield
        finally:
            self._count_blocked(-1, None)

    def _count_blocked(self, change: int, reason: Reason | None) -> None:
        with self._lock:
            self._blocked += change
            if not self._blocked or reason:
                self._lines.note(SUBMIT, reason, monotonic())
        self._log_due()

    def close(self) -> None:
        """Log nothing more."""
        self._is_closed = True
        self._wake.set()

    def drop_after_fork(self) -> None:
        """Log nothing in a forked child. A thread that does not exist here may have held the lock."""
        self._lock = threading.Lock()
        self._is_closed = True

    def _log_due(self) -> None:
        with self._lock:
            due = [] if self._is_closed else self._lines.due(monotonic())
            is_late = self._lines.is_late
        for line in due:
            (logger.warning if line.is_loud else logger.info)(line.event, "%s", line.text)
        if is_late:
            self._look_later()

    # --- the thread ---

    def _look_later(self) -> None:
        with self._lock:
            if self._is_running or self._is_closed:
                self._wake.set()
                return
            self._is_running = True
        threading.Thread(target=self._run, name="cw-waits", daemon=True).start()

    def _run(self) -> None:
        asked, asked_at = None, 0.0
        while True:
            self._wake.clear()
            with self._lock:
                waiting = self._waiting
                if self._is_closed or not (waiting or self._lines.is_late):
                    self._is_running = False
                    return
            if waiting is not None and (waiting is not asked or monotonic() - asked_at >= LOOK_SECONDS):
                asked, asked_at = waiting, monotonic()
                self._ask(waiting)
            self._log_due()
            self._wake.wait(PERIOD)

    def _ask(self, waiting: m.Waiting) -> None:
        from cw.waits import batch_queue  # takes 20 ms, which a program that never waits saves

        if waiting.cause in _SCALED:
            if waiting.cause in ("too-large", SEVERAL_NODES):
                nodes = _NODES.search(waiting.text) if waiting.cause == SEVERAL_NODES else None
                more = batch_queue.other_pieces(self._where(), int(nodes[1]) if nodes else 1)
            else:
                more = batch_queue.more_slots(self._where())
            reason = self._reason(waiting, None, more)
        else:
            found = batch_queue.look(self._where())
            if waiting.cause == "to-come" and found is not None and found.key == batch_queue.NOTHING:
                found = None  # the cluster submits one soon
            reason = self._reason(waiting, found)
        with self._lock:
            if self._waiting is waiting:  # otherwise it is over by now
                self._lines.note(MASTER, reason, monotonic())

    # --- words ---

    def _reason(self, message: m.Waiting, found: Found | None, more: str = "") -> Reason:
        """Return the words: the batch system's, or the advice. `more`: the command for more workers, if it is known."""
        if found is not None:
            return Reason(message.cause, f"{message.text}: {found.text}", found.key)
        where = self._where()
        here, elsewhere = advice.module("worker", where), advice.elsewhere("worker", where)
        if message.cause == SEVERAL_NODES:
            elsewhere += " --hostfile FILE"
        text = _ADVICE.get(message.cause, "").format(where=where, here=here, more=more or elsewhere)
        return Reason(message.cause, message.text + text, message.text)


def _has_notes() -> bool:
    """True if launchers have noted clusters in the user's own directory."""
    return bool(glob.glob(os.path.join(glob.escape(userdir.home_directory()), "*-*", "state.json")))


_ASKED = {"no-worker", "to-come", "draining"}
"""Causes for which the batch system may know more."""

SEVERAL_NODES = "several-nodes"
_NODES = re.compile(r"\bneeds (\d+) nodes\b")

_SCALED = {"busy", "stalled", "too-large", SEVERAL_NODES}
"""Causes against which more workers help, or others: how to have them depends on how the cluster was started."""

_ADVICE = {
    "no-worker": " at {where}; to start one on this machine: {here}",
    "too-large": ": start one with more ({more}), or ask for less in options()",
    SEVERAL_NODES: ": start one with as many ({more})",
    "other-python": "; to start one on this machine: {here}",
    "time-left": ": it waits for one that is (such as one in a Slurm job with a longer --time)",
    "stalled": ": start more workers ({more})",
    "unusable": "; the worker's log says more, and it is tried again",
    "draining": "; to start another on this machine: {here}",
    "busy": "; these jobs have their turn as those end, or on more workers ({more})",
}
"""What a user can do, by the value of `cw.master.policy.why.Cause`."""
