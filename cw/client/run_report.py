"""The report on what an executor runs: figures that are summed while results arrive, and the page at the end.

a job ends --> note() --> Figures          in the session's thread; no more than some KiB, whatever runs
the end    --> write() --> the page
"""

from __future__ import annotations

import datetime
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from cw.client.session.job import ClientJob
from cw.events import EventLogger
from cw.net import messages as m
from cw.payloads import chunks
from cw.report import library, reader
from cw.report.figures import Call, Figures
from cw.report.reader import Described

logger = EventLogger("cw.client")

WHAT_IS_KNOWN = (
    "This page is about the calls that one executor ran: when the result of each arrived, how long it ran and on which "
    "host. A slot is a row that calls of its host fit into without overlap."
)


class RunReport:
    """A report that is written to `path`. Raises ModuleNotFoundError, NotADirectoryError at once if it could not be."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        library.check()
        self._path = os.path.abspath(os.fspath(path))
        if not os.path.isdir(os.path.dirname(self._path)):
            raise NotADirectoryError(
                f"the report {self._path} cannot be written: its directory does not exist"
            )
        self.names: Mapping[int, str] = {}
        """Names of functions, by their numbers."""
        self._figures = Figures()
        self._writing = threading.Lock()
        self._is_written = False

    def note(
        self, job: ClientJob, seconds: float, host: str, error: BaseException | None, value: Any
    ) -> None:
        """Take note of a job that has ended, or is tried again."""
        end, function = time.time(), self.names.get(job.function) or "?"
        calls = [(seconds, error)]
        if hasattr(job.tag, "deliver") and type(value) is list:  # the outcomes of a chunk's calls
            calls = [
                (lasted, None if status == m.DONE else chunks.load_error(payload, job.number, place))
                for place, (status, lasted, payload) in enumerate(value, 1)
            ]
        for place, (lasted, failure) in enumerate(calls):
            lines = None if failure is None else reader.error_lines(failure)
            key = job.number, place
            self._figures.add(
                Call(function, host, end, lasted, failure is not None, (0, job.number), key, lines)
            )

    def write(self, stored: int) -> None:
        """Write the page, once. `stored`: number of calls whose results were in a store. An error is logged."""
        with self._writing:
            if self._is_written:
                return
            self._is_written = True
        figures = self._figures
        figures.finish()
        if not figures.totals.durations.count:
            logger.warning("client.report_empty", "no report is written to %s: no call has run", self._path)
            return
        try:
            text = self._page(stored)
            with open(self._path, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except Exception as error:  # the run itself is well
            logger.error("client.report_failed", "the report %s cannot be written: %s", self._path, error)

    def _page(self, stored: int) -> str:
        from cw.report import page  # it loads matplotlib

        remarks = [WHAT_IS_KNOWN]
        if stored:
            remarks.append(f"{stored:,} more calls did not run: their results were in a store.")
        title = _program() or "a run of cw"
        slowest, failures = (
            [_described(call) for call in calls]
            for calls in (self._figures.slowest(), self._figures.failures())
        )
        made = datetime.datetime.now().astimezone()
        return page.page(page.Report(title, self._figures, slowest, failures, made, remarks))


def _program() -> str:
    """The name of the script, or of the module that was started with -m; '' if there is none."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    return str(os.path.basename(getattr(main, "__file__", None) or "") if spec is None else spec.name)


def _described(call: Call) -> Described:
    error, error_end, where = call.source or ("", "", "")
    return Described(call, "", error, error_end, where, is_loaded=False)
