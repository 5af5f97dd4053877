"""What jobs log, and their warnings, on their way to the client; `cw.payloads.log_levels` says what is made at all.

    logger.info() --> callHandlers --> handlers in this process, if a job has set some up
                          |
                          '--> a logger above without one here, but with one at home? --> send(line)

    warnings.warn() --> filters --> showwarning --> send(line)

No handler is put on any logger here: `logging.basicConfig()` in a job works as in a new process. Each logger's handlers
are those of this process where it has some, otherwise those at home. So nothing is shown twice, and a job's own file
gets its records. A record that no handler is for ends as in any process: on stderr, if it is a warning.

What processes that a job forks log goes the same way: their lines are short enough to be written at once, or go to
stderr. So does what threads log while no job runs.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import select
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

from cw.payloads import current, log_levels, log_settings
from cw.payloads.log_records import Warned, categories_of, dump_record, dump_warning

FRAMES = 100
"""Most frames that are searched for the module of a warning."""


class Forwarder:
    """Sends records and warnings of the job that runs. `send(line)`: called from any thread, one at a time, and in
    processes that a job forks."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._pid = os.getpid()
        self._lock = threading.RLock()  # (a signal's handler may log while this thread does)
        self._host = os.uname().nodename
        self._call_handlers: Callable[[logging.Logger, logging.LogRecord], None] = logging.Logger.callHandlers
        self._show_warning: Callable[..., None] = warnings.showwarning

    def install(self) -> None:
        """Take what is logged in this process from now on, and its warnings."""
        log_levels.keep_while_importing()
        on_record, configure = self.on_record, logging.basicConfig

        @functools.wraps(logging.Logger.callHandlers)
        def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
            on_record(logger, record)

        @functools.wraps(configure)
        def configure_if_asked(**settings: Any) -> None:
            # `logging.info()` and its kin call it if the root has no handler: it has one, at home.
            is_asked = bool(settings) or sys._getframe(1).f_globals is not vars(logging)
            if is_asked or log_levels.lowest_at_home("") is None:
                configure(**settings)

        logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign, assignment]
        logging.basicConfig = configure_if_asked
        warnings.showwarning = self.on_warning

    def on_record(self, logger: logging.Logger, record: logging.LogRecord) -> None:
        """Pass a record to the handlers of this process, and to those at home that remain."""
        taken, has_some, has_home, is_wanted = [], False, False, False
        at: logging.Logger | None = logger
        while at is not None:
            name = "" if at is logging.root else at.name
            has_some = has_some or bool(at.handlers)
            if log_levels.lowest_of(at) is not None:
                taken.append(name)
            elif (lowest := log_levels.lowest_at_home(name)) is not None:
                has_home = True
                is_wanted = is_wanted or record.levelno >= lowest
            at = at.parent if at.propagate else None
        if has_some or not has_home:
            self._call_handlers(logger, record)
        if is_wanted:
            self._forward(record, taken)

    def _forward(self, record: logging.LogRecord, taken: list[str]) -> None:
        line = b""
        if current.running is not None:
            try:
                line = dump_record(record, taken, self._where(current.running))
            except Exception:
                logging.StreamHandler().handleError(record)  # as any handler does
                return
        if not self._has_sent(line):
            on_stderr = logging.StreamHandler()
            on_stderr.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
            on_stderr.handle(record)

    def _has_sent(self, line: bytes) -> bool:
        """Send a line. False: it cannot be sent from here."""
        with contextlib.suppress(OSError):  # the worker is gone
            if os.getpid() == self._pid and line:
                with self._lock:
                    self._send(line)
                return True
            if 0 < len(line) < select.PIPE_BUF:
                self._send(line)
                return True
        return False

    def on_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        """Send a warning; in the place of `warnings.showwarning`."""
        sent = b""
        if file is None and log_settings.is_forwarding and current.running is not None:
            module = _module_at(filename, lineno)
            sent = dump_warning(Warned(str(message), categories_of(category), filename, lineno, module))
        if not self._has_sent(sent):
            self._show_warning(message, category, filename, lineno, file, line)

    def _where(self, job: tuple[Any, ...]) -> dict[str, Any]:
        return {
            "cw_job": current.id_of(job), "cw_function": current.name_of(job[1]), "cw_host": self._host,
            "cw_slot": current.slot.index,
        }  # fmt: skip


def _module_at(filename: str, lineno: int) -> str:
    """Return the name of the module whose line a warning is about: it is among the callers."""
    frame: Any = sys._getframe(2)
    for _ in range(FRAMES):
        if frame is None:
            break
        if frame.f_lineno == lineno and frame.f_code.co_filename == filename:
            return str(frame.f_globals.get("__name__", ""))
        frame = frame.f_back
    return ""
