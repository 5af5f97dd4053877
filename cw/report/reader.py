"""From a store to figures, and to the texts of some calls: their arguments, and the errors of those that failed.

Stream: (place, head) --> Call --> Figures.add          nothing is unpickled
a few calls to show   --> describer() --> Described     their arguments and errors are unpickled
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable
from typing import NamedTuple

from cw.errors import StoreError
from cw.net import messages as m
from cw.report.figures import Call, Figures
from cw.store import rows
from cw.store.directory import FileGone
from cw.store.format import Stored
from cw.store.reader import Store
from cw.store.result import Result
from cw.store.stream import Stream

TRIES = 10
"""Most times that a store is read from the beginning because another program tidies it. Larger: a program that reads a
store tidied all the time fails later."""

LONGEST = 2000
"""Most letters of a text that are kept. Larger: more memory. Smaller: the page shows less."""


class Described(NamedTuple):
    """A call as a table shows it."""

    call: Call
    arguments: str
    error: str
    """The first line of its error, with the type; '' if it did not fail."""
    error_end: str
    """The last line of its error, if there are several."""
    where: str
    """The line of code that raised it, if that is known."""
    is_loaded: bool = True
    """False if nothing was unpickled: then there are no texts."""


class Choice(NamedTuple):
    """Which results a report is about, by function and time; None: any. `is_described`: with arguments and errors."""

    function: str | None = None
    since: datetime.datetime | None = None
    until: datetime.datetime | None = None
    is_described: bool = True


def read(path: str | os.PathLike[str], choice: Choice) -> tuple[Stream, Figures]:
    """Read a store: the figures of its results. Raises StoreError."""
    for _ in range(TRIES):
        with contextlib.suppress(
            FileGone
        ):  # another program has tidied the store: what was read may come again
            return _read(path, choice)
    return _read(path, choice)


def _read(path: str | os.PathLike[str], choice: Choice) -> tuple[Stream, Figures]:
    first = choice.since.timestamp() if choice.since is not None else -float("inf")
    last = choice.until.timestamp() if choice.until is not None else float("inf")
    store, figures = Stream(path, is_writing=False), Figures()
    for place, run, head in store:
        if first <= head.when <= last and choice.function in (None, head.function):
            figures.add(
                Call(
                    head.function,
                    head.host,
                    head.when,
                    head.seconds,
                    head.status != m.DONE,
                    (run, head.number),
                    head.key,
                    place,
                )
            )
    figures.finish()
    return store, figures


def describer(store: Stream) -> Callable[[list[Call]], list[Described]]:
    """Return what gives the texts of calls. Their arguments and errors are unpickled: that runs code of the store."""
    return lambda calls: [_described(store, call) for call in calls]


def undescribed(calls: list[Call]) -> list[Described]:
    """Return calls without their texts."""
    return [Described(call, "", "", "", "", is_loaded=False) for call in calls]


def _described(store: Stream, call: Call) -> Described:
    try:
        result = Result(_stored(store, call))
    except StoreError as error:
        return Described(call, f"({error})", "", "", "")
    arguments = str(rows.tried(lambda: rows.arguments(result)))[:LONGEST]
    if not call.is_failed:
        return Described(call, arguments, "", "", "")
    return Described(call, arguments, *error_lines(rows.tried(lambda: result.error)))


def _stored(store: Stream, call: Call) -> Stored:
    try:
        return store.read(call.source)
    except FileGone:  # the store was tidied after its figures had been read
        opened = Store(store.path, is_writing=False)
        place = opened.index.get(call.key)
        if place is None or place & 1 != call.is_failed:
            raise
        return opened.read(place)


def error_lines(error: object) -> tuple[str, str, str]:
    """Return an error's first line with its type, its last line if it has several, and where it was raised, each
    shortened. A text says why the error is not known."""
    if not isinstance(error, BaseException):
        return str(error), "", ""
    lines = [line for line in str(rows.tried(lambda: rows.error_text(error))).splitlines() if line.strip()]
    cause = str(rows.tried(lambda: error.__cause__ or ""))
    places = [line.strip() for line in cause.splitlines() if line.strip().startswith('File "')]
    first, *others = lines or [""]
    return (
        first[:LONGEST],
        others[-1].strip()[:LONGEST] if others else "",
        places[-1][:LONGEST] if places else "",
    )
