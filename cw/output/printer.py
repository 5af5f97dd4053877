"""The printer: writes what jobs print on the program's own stdout and stderr, in a thread of its own.

    sessions' threads --put--> queue --> the printer's thread --> streams, handlers of `logging`
            '--settle: is it written? (before a result is delivered)

The thread is there because a terminal may stand still (Ctrl-S, a pager), and a user's handler may block: the session's
thread, which results and heartbeats need, must not wait for it. Before results it waits, SETTLE_SECONDS at most, so
that a job's output is on the stream before its future is done. Where a stream takes nothing for longer, results go on
without it, and what the queue has no room for is left out; a line of the log says how much. At its end the program
waits for the rest.

All sessions of a process have one printer. Its thread ends when nothing has come for a while.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from time import monotonic
from typing import Any

from cw.events import EventLogger
from cw.named_tuple import NamedTuple
from cw.net import messages as m
from cw.output import streams
from cw.output.log_records import LogRecords
from cw.output.notices import Notices
from cw.output.screen import Screen

logger = EventLogger("cw.client")

QUEUE_BYTES = 16 * 1024 * 1024
"""Bytes that wait for the streams. Larger: more memory. Smaller: a reader that pauses misses more."""

NOTE_BYTES = 100
"""Bytes that count for what was left out in one place: about what it takes in memory."""

BATCH_BYTES = 256 * 1024
"""Bytes that the thread takes at a time. Larger: `settle` waits longer. Smaller: more changes between threads."""

SETTLE_SECONDS = 0.5
"""Longest wait of results for the streams (seconds). Longer: a slow terminal delays results. Shorter: on a busy machine
a result may come before the output of its job."""

IDLE_SECONDS = 1.0
"""Time after which the thread ends (seconds). Longer: it is there for nothing. Shorter: it is started often."""


class Piece(NamedTuple):
    """Lines of one job. `stream`: m.STDOUT, m.STDERR, or m.RECORDS, for handlers of `logging`. `cell`: the cell of a
    notebook under which they appear. `left_out`: lines and bytes left out in this place; then there is no data."""

    stream: int
    data: bytes
    label: str = ""
    cell: Any = None
    left_out: tuple[int, int] | None = None

    @property
    def size(self) -> int:
        """Bytes that count for the room in the queue."""
        return len(self.data) or NOTE_BYTES


class Printer:
    """Writes pieces in their order. The methods are for any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # Under the condition's lock.
        self._queue: deque[Piece] = deque()
        self._put = self._written = 0  # bytes so far
        self._left_out = [0, 0]  # lines and bytes, since the last line of the log about them
        self._thread: threading.Thread | None = None
        self._is_stuck = self._is_ending = False
        # The thread's own.
        self._screens = {number: Screen() for number in streams.NAMES}
        self._notices = {number: Notices() for number in streams.NAMES}
        self._reported: set[int] = set()  # streams that have failed
        self._records = LogRecords()

    def put(self, piece: Piece) -> None:
        """Queue lines. Never blocks: without room, they are left out."""
        size = piece.size
        with self._changed:
            if self._queue and self._put - self._written + size > QUEUE_BYTES:
                lines, missing = piece.left_out or (piece.data.count(b"\n"), size)
                self._left_out[0] += lines
                self._left_out[1] += missing
                return
            self._put += size
            self._queue.append(piece)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="cw-output", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter ends
                    self._queue.clear()
                    self._written = self._put
                    return
                self._thread = thread
            self._changed.notify_all()

    def settle(self) -> bool:
        """Return when all that was put before is written. False: the streams do not take it in SETTLE_SECONDS; then the
        next calls do not wait until they do."""
        with self._changed:
            if self._is_stuck or self._written == self._put:
                return not self._is_stuck
            end = self._put
            is_written = self._changed.wait_for(lambda: self._written >= end, SETTLE_SECONDS)
            self._is_stuck = not is_written
            return is_written

    def drain(self, seconds: float) -> bool:
        """Return when all is written, with the counts of equal lines, at the end of the program. False: this time is
        over."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
            is_done = self._changed.wait_for(lambda: self._thread is None, seconds)
            self._is_ending = False
            return is_done

    def _run(self) -> None:
        while pieces := self._next():
            began = 0
            for place, piece in enumerate(pieces, 1):  # those for one place together
                if place == len(pieces) or not _go_together(piece, pieces[place]):
                    self._write(pieces[began:place])
                    began = place
            with self._changed:
                self._written += sum(piece.size for piece in pieces)
                left_out, self._left_out = self._left_out, [0, 0]
                self._is_stuck = False
                self._changed.notify_all()
            if left_out[1]:
                logger.warning(
                    "client.output_left_out",
                    "%d lines (%d bytes) that jobs printed or logged are left out: the program's stdout, stderr or "
                    "handlers took nothing for a while",
                    left_out[0],
                    left_out[1],
                )

    def _next(self) -> list[Piece]:
        """Wait for pieces, and return some; none: the thread ends."""
        pieces: list[Piece] = []
        size = 0
        with self._changed:
            idle_end = monotonic() + IDLE_SECONDS
            while not self._queue:
                times = [screen.due for screen in self._screens.values()]
                times += [notices.due for notices in self._notices.values()]
                due = min([time for time in times if time is not None], default=None)
                now = monotonic()
                if due is not None and (self._is_ending or due <= now):
                    self._changed.release()
                    try:
                        self._show_late(math.inf if self._is_ending else now)
                    finally:
                        self._changed.acquire()
                    continue
                if due is None and (self._is_ending or now >= idle_end):
                    self._thread = None
                    self._changed.notify_all()
                    return []
                self._changed.wait((idle_end if due is None else due) - now)
            while self._queue and size < BATCH_BYTES:
                pieces.append(self._queue.popleft())
                size += pieces[-1].size
        return pieces

    def _write(self, pieces: list[Piece]) -> None:
        """Write pieces of one stream and cell."""
        number, cell = pieces[0].stream, pieces[0].cell
        if number == m.RECORDS:
            streams.turn_to(cell)
            for piece in pieces:
                self._records.take(piece.data)
            return
        stream, screen, now = streams.current(number), self._screens[number], monotonic()
        if pieces[0].left_out:
            notices = self._notices[number]
            for piece in pieces:
                notices.add(*(piece.left_out or (0, 0)), piece.label, piece.cell, now)
            self._show_notice(number, now)
            return
        if stream is None:
            return
        try:
            if streams.is_labelled(stream):
                shown = [
                    screen.feed(each.label, each.data.decode("utf-8", "replace"), now) for each in pieces
                ]
                streams.write_text(stream, "".join(shown), cell)
            else:
                streams.write(stream, b"".join([each.data for each in pieces]))
        except Exception as error:
            self._report(number, error)

    def _show_late(self, now: float) -> None:
        """Write the numbers of lines that were not shown, as far as they are due."""
        for number, screen in self._screens.items():
            if screen.due is not None and screen.due <= now:
                text = screen.show_count()
                if streams.is_labelled(streams.current(number)):
                    self._write_text(number, text)
            self._show_notice(number, now)

    def _show_notice(self, number: int, now: float) -> None:
        """Write how much of a stream was left out, if that is due: there, or on stderr if the stream is a file."""
        notices = self._notices[number]
        if notices.due is None or notices.due > now:
            return
        if not streams.is_labelled(streams.current(number)):
            number = 2
        moment = monotonic()
        text = notices.take(moment)
        if streams.is_labelled(streams.current(number)):
            text = self._screens[number].feed("", text, moment)
        self._write_text(number, text, notices.cell)

    def _write_text(self, number: int, text: str, cell: Any = None) -> None:
        stream = streams.current(number)
        if stream is not None:
            try:
                streams.write_text(stream, text, cell)
            except Exception as error:
                self._report(number, error)

    def _report(self, number: int, error: Exception) -> None:
        """Log once that a stream takes nothing: it is closed, or an object of the user's that fails."""
        if number not in self._reported:
            self._reported.add(number)
            logger.warning(
                "client.output_not_shown",
                "what jobs print does not appear: sys.%s fails with %s: %s",
                streams.NAMES[number],
                type(error).__name__,
                error,
            )


def _go_together(first: Piece, second: Piece) -> bool:
    return (
        first.stream == second.stream
        and first.cell is second.cell
        and bool(first.left_out) == bool(second.left_out)
    )


printer = Printer()
"""The printer of this process."""


def _renew() -> None:
    """Forget all in a forked child: its parent writes it. Threads that are not here may hold the lock."""
    printer.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_renew)
