"""Jobs that raise and are tried again: which, how often, and what their last error says of the tries before.

    a job's error --> note_failure --> True: the client submits the job once more, under its number
                                  '-> False: it is the job's outcome --> add_notes, on the tries before

The client alone decides: it has the exception, and the classes of `retry_on`. An exception of cw's own, such as
JobTimeout, counts only if its class is named.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterable

from cw.errors import Error, RemoteException, RemoteTraceback
from cw.requirements import JobOptions

NOTE_CHARACTERS = 500
"""Most characters of a failed try in the notes of the last error."""


class Retries:
    """The tries of one job so far."""

    __slots__ = ("_classes", "_most", "_names", "_notes", "_seen", "tries")

    def __init__(self, options: JobOptions) -> None:
        classes = options.retry_on
        self._classes = (
            classes if isinstance(classes, tuple) else (Exception,) if classes is None else (classes,)
        )
        self._most = options.retries or 0
        self._notes: list[str] = []
        self._seen: tuple[int, int] | None = None  # the last failure: its connection, and a hash of its bytes
        self._names: Container[str] | None = None  # of the classes, in place of these
        self.tries = 0  # those that have failed

    @classmethod
    def restored(cls, most: int, tries: int, names: Iterable[str] | None) -> Retries:
        """Return the tries of a job of an earlier process, with the names that `class_names` has returned there."""
        made = cls(JobOptions(retries=most))
        made.tries = tries
        made._names = NotExceptions() if names is None else frozenset(names)
        return made

    @property
    def most(self) -> int:
        """How often it is tried again."""
        return self._most

    def class_names(self) -> tuple[str, ...] | None:
        """Return the names of the classes after which it is tried again, with those derived of them that this process
        knows; None: each Exception that is not cw's own."""
        if self._names is not None or self._classes == (Exception,):
            return None
        found, waiting = set(), list(self._classes)
        while waiting:
            one = waiting.pop()
            if one not in found:
                found.add(one)
                waiting += type.__subclasses__(one)
        own = tuple(each for each in self._classes if issubclass(each, Error))
        return tuple(
            sorted(_name_of(one) for one in found if not issubclass(one, Error) or issubclass(one, own))
        )

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
        if self._names is not None:
            return (
                _name_of(type(error)) in self._names
                if type(error) is not RemoteException
                else error.type_name in self._names
            )
        is_own = isinstance(error, Error) and not isinstance(error, RemoteException)
        classes = (
            tuple(each for each in self._classes if issubclass(each, Error)) if is_own else self._classes
        )
        try:
            return issubclass(type(error), classes)
        except Exception:  # a metaclass of the user's
            return False


class NotExceptions:
    """The names of all errors but cw's own, and those that end a program."""

    def __contains__(self, name: object) -> bool:
        return not str(name).startswith("cw.") and name not in (
            "KeyboardInterrupt",
            "SystemExit",
            "GeneratorExit",
            "",
        )


def _name_of(cls: type) -> str:
    """Return the name of a class as an error's payload has it."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _summary(error: BaseException) -> str:
    """Return an error and its place, as text."""
    try:
        text = f"{type(error).__name__}: {error}"[:NOTE_CHARACTERS]
    except Exception:  # user code
        text = type(error).__name__
    where = error.__cause__.where if isinstance(error.__cause__, RemoteTraceback) else {}
    places = ", ".join(f"{key} {where[key]}" for key in ("host", "pid") if key in where)
    return f"{text} ({places})" if places else text
