"""What jobs log, and their warnings, on their way to the client; `cw.payloads.log_levels` says what is made at all.

    logger.info() --> callHandlers --> handlers in this process, if a job has set some up
                          |
                          '--> a logger above without one here, but with one at home? --> send(line)

    warnings.warn() --> filters --> showwarning --> send(line)

No handler is put on any logger here: `logging.basicConfig()` in a job works as in a new process. Each logger's handlers
are those of this process where it has some, otherwise those at home. So nothing is shown twice, and a job's own file
gets its records. A record that no handler is for ends as in any process: on stderr, if it is a warning.

What threads log while no job runs, and what children of a job log, goes to stderr.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from cw.payloads import current, log_levels, log_settings
from cw.payloads.log_records import Warned, categories_of, dump_record, dump_warning

FRAMES = 100
"""Most frames that are searched for the module of a warning."""


class Forwarder:
    """Sends records and warnings of the job that runs. `send(line)` may be called from any thread."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._pid = os.getpid()
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
        on_stderr = logging.StreamHandler()
        on_stderr.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
        if not self._is_in_job():
            on_stderr.handle(record)
            return
        try:
            line = dump_record(record, taken, self._where())
        except Exception:
            on_stderr.handleError(record)  # as any handler does
        else:
            self._send(line)

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
        if file is not None or not log_settings.is_forwarding or not self._is_in_job():
            self._show_warning(message, category, filename, lineno, file, line)
            return
        module = _module_at(filename, lineno)
        self._send(dump_warning(Warned(str(message), categories_of(category), filename, lineno, module)))

    def _is_in_job(self) -> bool:
        return current.running is not None and os.getpid() == self._pid

    def _where(self) -> dict[str, Any]:
        job = current.running
        assert job is not None
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
