"""What a session receives of its jobs' output, until it is shown, or goes to a future, a store or an error.

    JobOutput --> Sink.on_output --> Lines: whole lines --> the printer      live, of jobs with output="print"
    JobKept ----> Sink.on_kept ----> kept until the result, which comes next

What is kept comes of jobs with output="keep", and of those that fail; also of an attempt after which the job runs
again. What a job printed is handed over before its result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from cw.named_tuple import NamedTuple
from cw.net import messages as m
from cw.output.lines import Lines
from cw.output.log_records import LeftOut
from cw.output.printer import Piece
from cw.output.screen import label_of


class Kept(NamedTuple):
    """Output of a job, as bytes; if something is missing in the middle, a line there says how much."""

    stdout: bytes
    stderr: bytes

    def texts(self) -> tuple[str, str]:
        """Return it as texts. What is no UTF-8 becomes '\\ufffd'."""
        return self.stdout.decode("utf-8", "replace"), self.stderr.decode("utf-8", "replace")


class Job(Protocol):
    """A job, as it is needed here."""

    function: int
    """Number of the object."""

    @property
    def id(self) -> Any:
        """What its caller knows it by."""


class Jobs(Protocol):
    """The outstanding jobs of a session."""

    def get(self, number: int) -> Job | None:
        """Return a job; None: it is not outstanding."""


class Printer(Protocol):
    """Where lines go, as it is needed here."""

    def put(self, piece: Piece) -> None:
        """Take lines of one job. Never blocks."""

    def settle(self) -> bool:
        """Return when all that was put before is written, or soon after."""


class Sink:
    """Takes what comes of the output of one session's jobs. For the session's thread; nothing in here raises.

    `names`: names of functions, by their number. `cell_of`: finds the cell of a notebook that has submitted a job.
    """

    def __init__(
        self, printer: Printer, jobs: Jobs, names: Mapping[int, str], cell_of: Callable[[int], Any]
    ) -> None:
        self.is_used = False
        """True if some output has come, so that `on_ended` must be called."""
        self._printer = printer
        self._jobs = jobs
        self._names = names
        self._cell_of = cell_of
        self._lines = Lines()
        self._hosts: dict[int, str] = {}  # of jobs that have a line without an end
        self._kept: dict[int, Kept] = {}
        self._records_left_out = LeftOut()

    def on_output(self, number: int, stream: int, data: bytes, host: str) -> None:
        """Take a part of what a job printed: whole lines, unless a line took its time or the job ended within it.

        `number`: the job's, within the session; `stream`: m.STDOUT, m.STDERR, or m.RECORDS (one line a record).
        """
        self.is_used = True
        if stream == m.RECORDS:
            self._print(number, stream, data, host)
            return
        if whole := self._lines.feed(number, stream, data):
            self._print(number, stream, whole, host)
        if self._lines.has(number):
            self._hosts[number] = host

    def on_left_out(self, number: int, stream: int, lines: int, size: int) -> None:
        """Note that this many lines of the job, with this many bytes, are left out here."""
        if stream == m.RECORDS:
            self._records_left_out.note(lines)
        else:
            label, cell = self._label(number, ""), self._cell_of(number)
            self._printer.put(Piece(stream, b"", label, cell, (lines, size)))

    def on_kept(self, number: int, stdout: bytes, stderr: bytes, is_cut: bool) -> None:
        """Take what is kept of a job's output, just before its result. `is_cut`: something is missing; a line in its
        place says how much."""
        self.is_used = True
        self._kept[number] = Kept(stdout, stderr)
        if number in self._hosts:  # this attempt is over, and another one may begin
            self._show_rest(number, self._hosts.pop(number))

    def on_ended(self, numbers: Iterable[int]) -> None:
        """Show the rest of the output of these jobs, which have ended; return when it is written, or soon after."""
        for number in self._hosts.keys() & numbers if self._hosts else ():
            self._show_rest(number, self._hosts.pop(number))
        self._printer.settle()

    @property
    def has_kept(self) -> bool:
        """True if output of some job is kept."""
        return bool(self._kept)

    def take_kept(self, number: int) -> Kept | None:
        """Return the kept output of a job whose result is there, and forget it."""
        return self._kept.pop(number, None)

    def end(self) -> None:
        """Show what is there of jobs that have not ended, at the end of the session."""
        self.on_ended(list(self._hosts))
        self._kept.clear()

    def _show_rest(self, number: int, host: str) -> None:
        for stream, rest in self._lines.end(number):
            self._print(number, stream, rest, host)

    def _print(self, number: int, stream: int, data: bytes, host: str) -> None:
        if self._jobs.get(number) is not None:  # otherwise it is cancelled, and nobody wants its lines
            self._printer.put(Piece(stream, data, self._label(number, host), self._cell_of(number)))

    def _label(self, number: int, host: str) -> str:
        job = self._jobs.get(number)
        return (
            label_of("", number, host)
            if job is None
            else label_of(self._names.get(job.function, ""), job.id, host)
        )
