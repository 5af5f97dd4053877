"""Jobs that raise and are tried again: which, how often, and what their last error says of the tries before.

    a job's error --> note_failure --> True: the client submits the job once more, under its number
                                  '-> False: it is the job's outcome --> add_notes, on the tries before

The client alone decides: it has the exception, and the classes of `retry_on`. An exception of cw's own, such as
JobTimeout, counts only if its class is named.
"""

from __future__ import annotations

import contextlib

from cw.errors import Error, RemoteException, RemoteTraceback
from cw.requirements import JobOptions

NOTE_CHARACTERS = 500
"""Most characters of a failed try in the notes of the last error."""


class Retries:
    """The tries of one job so far."""

    __slots__ = ("_classes", "_most", "_notes", "_seen", "tries")

    def __init__(self, options: JobOptions) -> None:
        classes = options.retry_on
        self._classes = (
            classes if isinstance(classes, tuple) else (Exception,) if classes is None else (classes,)
        )
        self._most = options.retries or 0
        self._notes: list[str] = []
        self._seen: tuple[int, int] | None = None  # the last failure: its connection, and a hash of its bytes
        self.tries = 0  # those that have failed

    def note_failure(self, error: BaseException, payload: bytes, connection: int) -> bool:
        """Note the failure of a try. Returns whether the job is tried again.

        `payload`, over this connection: what the error was made of. A failure that comes once more over another
        connection is the same try: the master had not heard that the client has it.
        """
        seen = hash(payload)
        if self._seen is not None and self._seen[0] != connection and self._seen[1] == seen:
            self._seen = connection, seen
            return True
        if self.tries < self._most and self._matches(error):
            self.tries += 1
            self._seen = connection, seen
            self._notes.append(f"try {self.tries} of {self._most + 1}: {_summary(error)}")
            return True
        return False

    def add_notes(self, error: BaseException | None) -> None:
        """Add the tries before to the notes of a job's last error."""
        if error is not None and self._notes:
            with contextlib.suppress(
                Exception
            ):  # (Python 3.10 has no add_note; and a class may forbid attributes)
                notes = [*getattr(error, "__notes__", ()), *self._notes]
                BaseException.__setattr__(error, "__notes__", notes)

    def _matches(self, error: BaseException) -> bool:
        is_own = isinstance(error, Error) and not isinstance(error, RemoteException)
        classes = (
            tuple(each for each in self._classes if issubclass(each, Error)) if is_own else self._classes
        )
        try:
            return issubclass(type(error), classes)
        except Exception:  # a metaclass of the user's
            return False


def _summary(error: BaseException) -> str:
    """Return an error and its place, as text."""
    try:
        text = f"{type(error).__name__}: {error}"[:NOTE_CHARACTERS]
    except Exception:  # user code
        text = type(error).__name__
    where = error.__cause__.where if isinstance(error.__cause__, RemoteTraceback) else {}
    places = ", ".join(f"{key} {where[key]}" for key in ("host", "pid") if key in where)
    return f"{text} ({places})" if places else text
