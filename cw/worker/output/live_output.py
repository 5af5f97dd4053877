"""Live output of a worker's jobs: whole lines, within the bounds of each client. Pure: time is an argument.

    parts of jobs --> add --> whole lines --> bucket of the session --> take: entries for Output messages
                       |                          '--> left out, and counted: the next entry of that job says so
                       '--> the rest of a line waits: for its end, for LINE_SECONDS, or for the end of the job

The bound of a client is shared out to its workers by the master (OutputShare). Before it has said how much, a session
has FIRST_LINES. A bucket that is empty stays shut until it has a quarter of a second's share: so what is left out lies
in one place.
"""

from __future__ import annotations

from cw.net.messages import RECORDS
from cw.worker.output.job_output import JobOutput

LINE_SECONDS = 0.2
"""Time that the beginning of a line waits for its end (seconds). Longer: a progress bar, which ends no line, is late.
Shorter: lines are sent in parts."""

LINE_BYTES = 16 * 1024
"""Longest part of a line that waits for its end."""

RECORD_BYTES = 1024 * 1024
"""Longest line that stands for a record: a longer one is left out."""

FIRST_SIZE, FIRST_LINES = 256 * 1024, 5000
"""Bytes and lines of a session that are sent before the master has named the worker's share. Larger: more comes to the
master at once where thousands of workers begin to print. Smaller: of the first long output something is left out."""

BURST_SECONDS = 10.0
"""Time for which a session that was silent has saved up its share (seconds). Longer: a flood is cut later. Shorter: a
job that prints a long table now and then loses a part of it."""

QUEUE_BYTES = 1024 * 1024
"""Most bytes of a session that wait until they can be sent; beyond, they are left out."""

Entry = tuple[int, int, int, int, bytes]
"""Dispatch, stream, lines and bytes left out before, payload."""


class _Bucket:
    """The bound of one session."""

    def __init__(self, now: float) -> None:
        self.rates: tuple[float, float] | None = None  # bytes and lines a second; None: not known yet
        self._size, self._lines = float(FIRST_SIZE), float(FIRST_LINES)
        self._filled = now
        self._is_shut = False
        self.queued: list[Entry] = []
        self.queued_bytes = 0

    def set_rates(self, size: float, lines: float) -> None:
        if self.rates is None:  # some of it is used already
            self._size = max(0.0, size * BURST_SECONDS - (FIRST_SIZE - self._size))
            self._lines = max(0.0, lines * BURST_SECONDS - (FIRST_LINES - self._lines))
        self.rates = size, lines

    def room(self, now: float) -> tuple[float, float]:
        """Bytes and lines that may be sent now."""
        if self.rates is not None:
            seconds = now - self._filled
            size, lines = self.rates
            self._size = min(self._size + seconds * size, size * BURST_SECONDS)
            self._lines = min(self._lines + seconds * lines, lines * BURST_SECONDS)
            if self._is_shut and self._size >= size / 4 and self._lines >= max(lines / 4, 1.0):
                self._is_shut = False
        self._filled = now
        return (0.0, 0.0) if self._is_shut else (self._size, self._lines)

    def take(self, size: int, lines: int) -> None:
        self._size -= size
        self._lines -= lines

    def shut(self) -> None:
        self._is_shut = True

    def put(self, entry: Entry) -> None:
        self.queued.append(entry)
        self.queued_bytes += len(entry[-1])


class LiveOutput:
    """The live output of one worker."""

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}  # by session
        self._open: dict[tuple[JobOutput, int], float] = {}  # jobs and streams with an open line: since when

    def add(self, job: JobOutput, stream: int, data: bytes, now: float) -> None:
        """Take what a job has written."""
        before = job.open_lines.pop(stream, b"")
        data = before + data
        end = data.rfind(b"\n") + 1
        if stream == RECORDS and len(data) - end > RECORD_BYTES:
            self._leave_out(job, stream, data[end:])
            data = data[:end]
        elif stream != RECORDS and len(data) - end > LINE_BYTES:
            end = len(data)
        if end < len(data):
            job.open_lines[stream] = data[end:]
            if stream != RECORDS and (end or not before):
                self._open[job, stream] = now
        else:
            self._open.pop((job, stream), None)
        if end:
            self._offer(job, stream, data[:end], now)

    def end(self, job: JobOutput, now: float) -> None:
        """The job has ended: send the rest of its lines, and what was not said of those left out."""
        for stream in list(job.open_lines):
            self._end_line(job, stream, now)
        if job.left_out:
            bucket = self._bucket(job.session, now)
            for stream, counts in job.left_out.items():
                bucket.put((job.dispatch, stream, *counts, b""))
            job.left_out.clear()

    def forget(self, job: JobOutput) -> None:
        """The job is gone without an end that matters to its client."""
        for stream in job.open_lines:
            self._open.pop((job, stream), None)

    def end_lines(self, now: float) -> None:
        """Send the beginnings of lines that have waited for LINE_SECONDS."""
        for (job, stream), since in list(self._open.items()):
            if now - since >= LINE_SECONDS:
                self._end_line(job, stream, now)

    @property
    def has_open_lines(self) -> bool:
        return bool(self._open)

    @property
    def has_queued(self) -> bool:
        return any(bucket.queued for bucket in self._buckets.values())

    def on_share(self, session: int, size: int, lines: int, now: float) -> None:
        """The master has named the share of the session's bound."""
        bucket = self._bucket(session, now)
        bucket.room(now)  # up to now, the former share was right
        bucket.set_rates(size, lines)

    def on_session_closed(self, session: int) -> None:
        self._buckets.pop(session, None)

    def take(self) -> list[Entry]:
        """Take all that may be sent now."""
        entries: list[Entry] = []
        for bucket in self._buckets.values():
            entries += bucket.queued
            bucket.queued, bucket.queued_bytes = [], 0
        return entries

    def _bucket(self, session: int, now: float) -> _Bucket:
        bucket = self._buckets.get(session)
        if bucket is None:
            bucket = self._buckets[session] = _Bucket(now)
        return bucket

    def _end_line(self, job: JobOutput, stream: int, now: float) -> None:
        self._open.pop((job, stream), None)
        self._offer(job, stream, job.open_lines.pop(stream), now)

    def _offer(self, job: JobOutput, stream: int, data: bytes, now: float) -> None:
        """Send as many of these lines as there is room for."""
        bucket = self._bucket(job.session, now)
        size, lines = bucket.room(now)
        size = min(size, QUEUE_BYTES - bucket.queued_bytes)
        count = data.count(b"\n") or 1
        if len(data) <= size and count <= lines:
            end = len(data)
        else:
            bucket.shut()
            end = _end_of_lines(data, int(size), int(lines))
        if end:
            taken = data[:end]
            bucket.take(end, taken.count(b"\n") or 1)
            bucket.put((job.dispatch, stream, *job.left_out.pop(stream, (0, 0)), taken))
        if end < len(data):
            self._leave_out(job, stream, data[end:])

    def _leave_out(self, job: JobOutput, stream: int, data: bytes) -> None:
        lines, size = job.left_out.get(stream, (0, 0))
        count = data.count(b"\n") or not lines  # (a part of a line counts only if it is the first)
        job.left_out[stream] = lines + count, size + len(data)

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself. For tests."""
        for job, stream in self._open:
            assert job.open_lines[stream] and b"\n" not in job.open_lines[stream]
            assert len(job.open_lines[stream]) <= LINE_BYTES
        for bucket in self._buckets.values():
            assert bucket.queued_bytes == sum(len(entry[-1]) for entry in bucket.queued) <= QUEUE_BYTES


def _end_of_lines(data: bytes, size: int, lines: int) -> int:
    """Position after the last whole line that is within these numbers of bytes and lines."""
    end = 0
    for _ in range(lines):
        following = data.find(b"\n", end, size) + 1
        if not following:
            break
        end = following
    return end
