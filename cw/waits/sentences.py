"""State machine of the sentences about waits: reasons in, lines out. No log, no thread, no clock.

    the master's reason --(and the batch system's words)--.              .--> "the jobs wait: ..."
                                                          |--> due() ----|
    a submit() that blocks -------------------------------'              '--> "the jobs wait no longer ..."

Callers report a wait when it has lasted for SECONDS. Each reason has one line, another reason has another one, and the
end has one. Of a wait that passes by itself, only the first in a session is loud. There are at most MOST lines in a
MINUTE; what is still true is said later.
"""

from __future__ import annotations

from collections import deque

from cw.named_tuple import NamedTuple

SECONDS = 3.0
"""Duration of a wait from which it is said (seconds). Longer: a user wonders. Shorter: lines about nothing."""

MOST, MINUTE = 6, 60.0
"""Most lines within this time (seconds). More: they hide others if waits come and go. Fewer: some are not said."""

MASTER, SUBMIT = "master", "submit"
"""Kinds of waits: of the jobs, as the master sees them; of threads that submit."""

_BEGUN = {MASTER: "the jobs wait", SUBMIT: "submit() waits"}
_OVER = {MASTER: "the jobs wait no longer", SUBMIT: "submit() goes on"}

QUIET = frozenset({"busy", "reserved", "to-come", "lent", "settling", "client-slow", SUBMIT})
"""Causes that pass by themselves: loud at first, quiet when they come again."""


class Reason(NamedTuple):
    """The reason of a wait."""

    cause: str
    text: str
    detail: str = ""
    """It is another reason if this changes. The text may differ without that."""


class Line(NamedTuple):
    """A line for the user. `is_loud`: shown without settings of the log."""

    event: str
    text: str
    is_loud: bool


class _Wait:
    """One kind of wait: the reason now, and the one that was said last, if that has not been taken back."""

    def __init__(self) -> None:
        self.now: Reason | None = None
        self.said: Reason | None = None
        self.since = 0.0
        self.is_loud = True


class Lines:
    """The waits of one session, and the lines that are due."""

    def __init__(self) -> None:
        self._waits = {MASTER: _Wait(), SUBMIT: _Wait()}
        self._is_lost = False  # the master is
        self._said_at: deque[float] = deque()
        self._had: set[str] = set()  # causes that were said before

    def note(self, what: str, reason: Reason | None, now: float) -> None:
        """Note the reason of a wait, which has lasted for SECONDS; None: it is over."""
        wait = self._waits[what]
        if wait.now is None and wait.said is None:
            wait.since = now - SECONDS
        wait.now = reason

    def on_lost(self) -> None:
        """Note that the master is lost, which is said elsewhere: why its jobs wait is not known any more."""
        self._is_lost = True
        self._waits[MASTER] = _Wait()

    def on_joined(self) -> None:
        """Note that a master is there, and says why jobs wait, if they do."""
        self._is_lost = False

    @property
    def is_late(self) -> bool:
        """True if a line is missing, since there were too many."""
        return any(self._is_due(what) for what in self._waits)

    def due(self, now: float) -> list[Line]:
        """Return the lines that are due."""
        lines = []
        while self._said_at and now - self._said_at[0] >= MINUTE:
            self._said_at.popleft()
        for what, wait in self._waits.items():
            if self._is_due(what) and len(self._said_at) < MOST:
                self._said_at.append(now)
                lines.append(self._line(what, wait, now))
        return lines

    def _is_due(self, what: str) -> bool:
        """True if what was said last is not so any more."""
        now, said = self._waits[what].now, self._waits[what].said
        if now is None:
            return said is not None
        if said is not None:
            return (now.cause, now.detail) != (said.cause, said.detail)
        # (That jobs wait, or the master is lost, is the reason why submit() waits.)
        return what == MASTER or not (self._is_lost or self._waits[MASTER].now)

    def _line(self, what: str, wait: _Wait, now: float) -> Line:
        before, wait.said = wait.said, wait.now
        if wait.now is None:
            # (A client that is slow hears late that it was.)
            is_known = before is not None and before.cause != "client-slow"
            after = f", after {in_words(now - wait.since)}" if is_known else ""
            return Line("client.wait_over", _OVER[what] + after, wait.is_loud)
        wait.is_loud = wait.now.cause not in QUIET or wait.now.cause not in self._had
        self._had.add(wait.now.cause)
        return Line("client.waits", f"{_BEGUN[what]}: {wait.now.text}", wait.is_loud)


def in_words(seconds: float) -> str:
    """Return a duration for a reader: '5 s', '3 min', '2 h 5 min'."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
