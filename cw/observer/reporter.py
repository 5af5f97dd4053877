"""A client's reports for observers, which the master cannot make: it opens no payload, and not all jobs are there yet.

    objects are sent   ---> FunctionName, once for each code
    a job fails        ---> JobFailed, at most FAILURES a second
    Watched            ---> Backlog, every second while somebody looks

All in here runs in the session's thread.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Protocol

from cw.errors import RemoteTraceback
from cw.net import messages as m
from cw.net.loop import Loop
from cw.net.objects import Object
from cw.net.observer_messages import LISTED
from cw.observer.bounds import FAILURES, clean

SECONDS = 1.0
"""Time between two reports of the backlog (seconds)."""

SAMPLED = 1000
"""Waiting jobs that are looked at to find out to which functions all belong. Larger: more of the program's time.
Smaller: rougher numbers."""

CHARACTERS = 64 * 1024
"""Most characters of a traceback that are searched for the error's own lines."""


class Job(Protocol):
    """An outstanding job."""

    @property
    def function(self) -> int: ...


class Jobs(Protocol):
    """The jobs of the session."""

    def all(self) -> Sequence[Any]: ...
    def is_sent(self, job: Any) -> bool: ...
    @property
    def held(self) -> Any: ...


class Reporter:
    """Sends the reports of one session. `send` does nothing while no master is there. `names`: function names, by
    number."""

    def __init__(self, loop: Loop, send: Callable[[Any], None], jobs: Jobs, names: Mapping[int, str]) -> None:
        self._loop, self._send = loop, send
        self._jobs, self._names = jobs, names
        self._is_watched = self._is_going = False
        self._backlog: dict[str, int] = {}  # as it was sent last
        self._left = FAILURES  # failures that may be sent in this second
        self._second = 0.0  # when it began

    def start_anew(self) -> None:
        """Another master comes: nobody looks, as far as is known."""
        self._is_watched = False
        self._backlog = {}

    def on_objects_sent(self, sent: Iterable[Object]) -> None:
        """Name the functions among the objects that were sent, if their code was sent with them."""
        codes = set()
        for item in sent:
            if item.kind != m.FUNCTION:
                codes.add(item)
                continue
            code = next((need for need in item.needs if need.kind != m.ENVIRONMENT), None)
            name = self._names.get(item.number)
            if name and (code is None or code in codes):
                codes.discard(code)
                self._send(m.FunctionName(item.number, clean(name)))

    def on_failed(self, number: int, error: BaseException) -> None:
        """Report the first and last line of a job's error, unless many fail."""
        now = monotonic()
        if now - self._second >= 1.0:
            self._second, self._left = now, FAILURES
        if self._left:
            self._left -= 1
            self._send(m.JobFailed(number, *lines_of(error)))

    def on_watched(self, message: m.Watched) -> None:
        """Somebody looks, or nobody any more."""
        self._is_watched = message.is_watched
        if self._is_watched and not self._is_going:
            self._is_going = True
            self._report()

    def _report(self) -> None:
        self._is_going = self._is_watched
        if not self._is_watched:
            self._backlog = {}
            return
        backlog = self.backlog()
        if backlog != self._backlog:
            self._backlog = backlog
            self._send(m.Backlog(backlog))
        self._loop.call_later(SECONDS, self._report)

    def backlog(self) -> dict[str, int]:
        """Number of jobs that wait here, or for futures, by function. Estimated if they are many."""
        jobs = [*self._jobs.all(), *self._jobs.held.all()]
        step = 1 + len(jobs) // SAMPLED
        functions = Counter(job.function for job in jobs[::step] if not self._jobs.is_sent(job))
        found: Counter[str] = Counter()
        for function, count in functions.items():
            found[clean(self._names.get(function, "?"))] += count * step
        return dict(found.most_common(LISTED))


def lines_of(error: BaseException) -> tuple[str, str]:
    """Return the first line of an error and, if it has several, the last one: of its own text, not the traceback."""
    text = ""
    with contextlib.suppress(Exception):  # a user's __str__ may raise
        cause = error.__cause__
        text = str(cause.args[0])[-CHARACTERS:] if cause is not None and _is_remote(cause) else ""
    lines = [line for line in text.rpartition("Traceback (most recent call last):\n")[2].splitlines() if line]
    while lines and lines[0].startswith(" "):
        del lines[0]  # frames
    if not lines:
        text = type(error).__name__
        with contextlib.suppress(Exception):
            text = f"{text}: {error}"[:CHARACTERS]
        lines = [line for line in text.splitlines() if line] or [type(error).__name__]
    return clean(lines[0].strip()), clean(lines[-1].strip()) if len(lines) > 1 else ""


def _is_remote(cause: BaseException) -> bool:
    return isinstance(cause, RemoteTraceback) and bool(cause.args)


def program_name() -> str:
    """Return the name of this program's script; '' if it has none."""
    name = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
    return clean("" if name in ("-c", "-m") else name)
