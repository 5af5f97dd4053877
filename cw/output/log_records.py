"""Jobs' log records and warnings at home: they go to the program's own loggers, and through its own filters.

    a line --> Record --> the logger of its name here: its filters, and the handlers of it and of those above
           --> Warned --> warnings.warn_explicit: once for each text and place, unless a filter says otherwise

User code runs in here (handlers, filters), in the thread that writes jobs' output: see `cw.output.printer`. Whatever it
raises is shown on stderr, and ends nothing.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import traceback
import warnings
from time import monotonic
from typing import Any

from cw.errors import PayloadError
from cw.events import EventLogger
from cw.net.output_messages import LINES_A_SECOND, SIZE_A_SECOND
from cw.payloads.log_records import Record, Warned, load
from cw.payloads.sources import with_sources
from cw.payloads.warning_filters import category_of, name_of

logger = EventLogger("cw.client")

MOST_FILES = 1000
MOST_TEXTS = 10_000
"""Most files, and most texts of one file, whose warnings are remembered. More: memory. Fewer: a warning may be shown
again."""

LEFT_OUT_SECONDS = 5.0
"""Least time between two lines of the log about records that are left out (seconds)."""

FAILURES_SHOWN = 5
"""Most errors of handlers that are shown."""


class LogRecords:
    """Hands jobs' records and warnings to the program. Used from one thread at a time; nothing in here raises."""

    def __init__(self) -> None:
        self._registries: dict[str, dict[Any, Any]] = {}  # which warnings were shown, by file
        self._failures = 0

    def take(self, data: bytes) -> None:
        """Take whole lines, each a record or a warning."""
        for line in data.splitlines():
            try:
                found = load(line)
            except PayloadError as error:
                logger.debug("client.record_unreadable", "%s", error)
                continue
            try:
                if type(found) is Record:
                    self._log(found)
                elif type(found) is Warned:
                    self._warn(found)
            except BaseException:  # of a user's handler or filter; SystemExit would end the thread, too
                self._show_failure()

    def _log(self, made: Record) -> None:
        attributes = made.attributes
        number, text = attributes["levelno"], attributes.get("exc_text")
        if attributes.get("levelname") == f"Level {number}":
            attributes["levelname"] = logging.getLevelName(number)  # this program may have a name for it
        if text:
            attributes["exc_text"] = with_sources(text)
        record = logging.makeLogRecord({})
        # (Counted from the start of this program, as in its own records.)
        attributes["relativeCreated"] = record.relativeCreated + 1000 * (
            attributes["created"] - record.created
        )
        record.__dict__.update(attributes)
        named = logging.getLogger(attributes["name"])
        if made.taken:
            _handle_except(named, record, made.taken)
        else:
            named.handle(record)

    def _warn(self, warned: Warned) -> None:
        if len(self._registries) >= MOST_FILES:
            self._registries.clear()
        registry = self._registries.setdefault(warned.file, {})
        if len(registry) >= MOST_TEXTS:
            registry.clear()
        warning = _warning_of(warned)
        module = warned.module or warned.file.removesuffix(".py")  # (as `warnings` itself does)
        try:
            warnings.warn_explicit(warning, type(warning), warned.file, warned.line, module, registry)
        except BaseException as error:
            if error is not warning:
                raise
            # A filter makes it an error, and did not when the job was submitted: it is shown as one of this thread.
            where = threading.current_thread()
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, where)))

    def _show_failure(self) -> None:
        """Show what a handler has raised, as handlers themselves show what goes wrong in them."""
        self._failures += 1
        if logging.raiseExceptions and sys.stderr is not None and self._failures <= FAILURES_SHOWN:
            last = " (later ones are not shown)" if self._failures == FAILURES_SHOWN else ""
            try:
                sys.stderr.write(
                    f"--- Logging error, with a record of a job{last} ---\n{traceback.format_exc()}"
                )
            except Exception:  # stderr itself fails
                return


class LeftOut:
    """Counts records that were not sent. Used from one thread."""

    def __init__(self) -> None:
        self._count = 0  # since the last line about them
        self._reported = -LEFT_OUT_SECONDS

    def note(self, count: int) -> None:
        """Note that this many records and warnings are left out; log it now and then."""
        self._count += count
        now = monotonic()
        if now - self._reported >= LEFT_OUT_SECONDS:
            self._reported = now
            logger.warning(
                "client.records_left_out",
                "%d log records and warnings of jobs are left out: there were more than %d lines or %d bytes a second",
                self._count, LINES_A_SECOND, SIZE_A_SECOND,
            )  # fmt: skip
            self._count = 0


def _handle_except(named: logging.Logger, record: logging.LogRecord, taken: list[str]) -> None:
    """Handle a record as `Logger.handle` does, without the handlers of some loggers."""
    if named.disabled:
        return
    passed: Any = named.filter(record)
    if not passed:
        return
    if isinstance(passed, logging.LogRecord):  # (from Python 3.12 on)
        record = passed
    at: logging.Logger | None = named
    while at is not None:
        if ("" if at is logging.root else at.name) not in taken:
            for handler in at.handlers:
                if record.levelno >= handler.level:
                    handler.handle(record)
        at = at.parent if at.propagate else None


def _warning_of(warned: Warned) -> Warning:
    """Make the warning: of its own class if that is loaded here and takes a text, otherwise of the nearest one that
    does, with the class's name in front."""
    for name in warned.categories:
        category = category_of(name)
        if category is None:
            continue
        text = warned.text
        if name != warned.categories[0]:
            text = f"{warned.categories[0].rpartition(':')[2]}: {text}"
        with contextlib.suppress(Exception):  # its constructor may take something else
            warning = category(text)
            if str(warning) == text and name_of(type(warning)) == name:
                return warning
    return UserWarning(warned.text)
