"""Output of a worker's jobs: read from the runners' pipes, and sent where it belongs, before the jobs' results.

    pipes of a runner --> RunnerOutput (Splitter) --> parts of jobs --> LiveOutput --> Output --> the master
      Printed in its results: read up to the marks        |   '-------> JobOutput ---> Kept ----> the master, outbox
                                                          '-----------> JobLog --> the worker's log

The worker always reads, so no job waits for its output to be taken. All code here runs in the loop's thread.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cw import userdir
from cw.net import messages as m
from cw.net.loop import Loop
from cw.runner.channel import WorkerEnd
from cw.runner.output_channel import READ, STREAMS
from cw.worker.output.job_log import JobLog
from cw.worker.output.job_output import JobOutput, Splitter
from cw.worker.output.last_words import TAIL_BYTES, last_words
from cw.worker.output.live_output import LINE_SECONDS, LiveOutput
from cw.worker.policy.jobs import WorkerJob
from cw.worker.policy.outbox import Outbox
from cw.worker.policy.pool import PooledRunner

READS = 4
"""Most reads from one pipe in a turn. Larger: one that prints much holds up the others. Smaller: more turns."""

BUSY_BYTES = 16 * 1024
"""Bytes in one turn from which on a pipe is read again as soon as it has more."""

PAUSE_SECONDS = 0.002
"""Time between two turns at a pipe that has less (seconds). Longer: output is late, and pipes are full sooner. Shorter:
a runner that prints line by line wakes the worker up for every few of them."""

REST_BYTES = 1024 * 1024
"""Most bytes that wait to be known as the running job's."""

DRAIN_BYTES = 1024 * 1024
"""Most bytes read of what a runner left behind: as much as a pipe may hold."""

UNSENT_BYTES = 1024 * 1024
"""Bytes that the master has not taken, above which live output waits here, or is left out."""

RETRY_SECONDS = 0.1
"""Time after which it is tried again to send what waits (seconds)."""

SETTLE_SECONDS = 5.0
"""Time that live output waits when a master has been joined that does not know the jobs yet (seconds)."""


class RunnerOutput:
    """Output of one runner. `on_part(stream, dispatch, data)` gets it in order; dispatch 0: it belongs to no job.
    `flush()` is called after some of these that no result follows."""

    def __init__(
        self,
        loop: Loop,
        runner: PooledRunner,
        end: WorkerEnd,
        on_part: Callable[[int, int, bytes], None],
        flush: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._runner = runner
        self._end = end
        self._on_part = on_part
        self._flush = flush
        self._splitter = Splitter(end.output.token)
        self._marks = [0] * len(STREAMS)  # marks that were read, and whose Printed was not
        self._errors = b""  # the end of stderr
        end.output.on_ready = self._on_ready
        end.output.on_printed = self._on_printed
        end.output.on_reported = self._settle

    def _on_ready(self, index: int) -> None:
        if self._take_turn(index) < BUSY_BYTES:
            self._end.watch_output(index, False)
            self._loop.call_later(PAUSE_SECONDS, lambda: self._look_again(index))

    def _look_again(self, index: int) -> None:
        """Read at intervals from a runner that prints little at a time, and on its next bytes after a silence."""
        if self._end.is_closed:
            return
        if 0 < self._take_turn(index) < BUSY_BYTES:
            self._loop.call_later(PAUSE_SECONDS, lambda: self._look_again(index))
        else:
            self._end.watch_output(index, True)

    def _take_turn(self, index: int) -> int:
        total = 0
        for _ in range(READS):
            count = self._read(index)
            total += count
            if count < READ:
                break
        self._settle()
        self._flush()
        return total

    def _on_printed(self, streams: int) -> None:
        for index in range(len(STREAMS)):
            if streams >> index & 1:
                while not self._marks[index] and self._read(index):
                    pass
                self._marks[index] -= bool(self._marks[index])

    def _read(self, index: int) -> int:
        """Read once. Returns the number of bytes."""
        data = self._end.read_output(index)
        if not data:
            return 0
        stream = STREAMS[index]
        for dispatch, part in self._splitter.feed(stream, data, len(data) < READ):
            self._marks[index] += bool(dispatch)
            self._take(stream, dispatch, part)
        return len(data)

    def _settle(self) -> None:
        """Give what stands behind the last marks to the job that runs."""
        if not self._splitter.has_rest:
            return
        # Jobs that ended before it was written have written their results before it. (Those are not read while a large
        # one waits for a descriptor: then this waits, too, as long as it is not much.)
        if self._end.read_all() or self._splitter.rest_size() > REST_BYTES:
            sent = self._runner.sent
            self._give(sent[0].dispatch if sent else 0)
            self._flush()

    def _give(self, dispatch: int) -> None:
        for stream, part in self._splitter.settle():
            self._take(stream, dispatch, part)

    def _take(self, stream: int, dispatch: int, part: bytes) -> None:
        if stream == m.STDERR:
            self._errors = (self._errors + part)[-TAIL_BYTES:]
        if part:
            self._on_part(stream, dispatch, part)

    def close(self, dispatch: int) -> str:
        """Take what an ended runner has left, for the job that it ran (0: none). Returns its last words."""
        for index in range(len(STREAMS)):
            total = 0
            while total < DRAIN_BYTES and (count := self._read(index)):
                total += count
        self._give(dispatch)
        return last_words(self._errors)


class WorkerOutput:
    """Output of all jobs of a worker. `send` sends a message to the master, `send_ordered` one that must not overtake
    the output; `unsent()` gives the bytes that wait for the master, None: there is none."""

    def __init__(
        self,
        loop: Loop,
        jobs: Mapping[int, WorkerJob],
        send: Callable[[tuple[Any, ...]], None],
        place: Callable[[PooledRunner], dict[str, Any]],
    ) -> None:
        """`jobs`: those of the worker, by dispatch; `place` describes where a runner is."""
        self.unsent: Callable[[], int | None] = lambda: 0
        self.send_ordered = send
        self.printing: dict[int, JobOutput] = {}
        """Jobs that have printed and not ended, by dispatch."""
        self.outbox: Callable[[], Outbox]
        self._loop = loop
        self._jobs = jobs
        self._send = send
        self._place = place
        self._live = LiveOutput()
        self._log = JobLog(2, time.monotonic(), _own_directory())
        self._runners: dict[int, RunnerOutput] = {}
        self._is_ticking = False
        self._waits_until = 0.0  # live output waits: the master does not know the jobs yet
        self._master = ""
        self.on_session_closed = self._live.on_session_closed

    # --- runners ---

    def attach(self, runner: PooledRunner, end: WorkerEnd) -> None:
        """Take the output of a runner that starts."""
        self._runners[runner.key] = RunnerOutput(
            self._loop,
            runner,
            end,
            lambda stream, dispatch, data: self._on_part(runner, stream, dispatch, data),
            self._flush,
        )

    def detach(self, runner: PooledRunner, has_job: bool) -> str:
        """Take the last output of a runner that has ended, in the middle of a job (`has_job`) or not. Returns its last
        words."""
        output = self._runners.pop(runner.key, None)
        if output is None:
            return ""
        words = output.close(runner.sent[0].dispatch if has_job else 0)
        self._log.end(-runner.key, time.monotonic())
        return words

    def _on_part(self, runner: PooledRunner, stream: int, dispatch: int, data: bytes) -> None:
        now = time.monotonic()
        printed = self.printing.get(dispatch)
        if printed is None and (job := self._jobs.get(dispatch)) is not None:
            printed = self.printing[dispatch] = JobOutput(
                job.session, job.number, dispatch, job.options.output
            )
        if printed is None:
            if stream != m.RECORDS:
                self._add_to_log(runner, None, stream, data, now)
            return
        printed.add(stream, data)
        if printed.mode == "print" or stream == m.RECORDS:
            self._live.add(printed, stream, data, now)
        elif printed.mode == "log":
            self._add_to_log(runner, printed, stream, data, now)

    def _add_to_log(
        self, runner: PooledRunner, printed: JobOutput | None, stream: int, data: bytes, now: float
    ) -> None:
        job = b"" if printed is None else b"job %d, " % printed.number
        label = b"[%sprocess %d] " % (job, self._place(runner)["pid"])
        source = -runner.key if printed is None else printed.dispatch
        self._log.add(source, stream, label, data, now)
        self._tick_later()

    # --- jobs ---

    def on_died(self, job: WorkerJob) -> Callable[[tuple[Any, ...]], None]:
        """Send what is left of the output of a job whose runner has died. Returns what sends the news of that."""
        if job.dispatch not in self.printing:
            return self._send
        self.on_ended([job], [m.ERROR])
        return self.send_ordered

    def on_ended(self, jobs: Sequence[WorkerJob], statuses: Sequence[int]) -> None:
        """Send what is left of these jobs' output, as their results follow."""
        now = time.monotonic()
        kept: list[tuple[int, int, int, bytes]] = []
        for job, status in zip(jobs, statuses, strict=True):
            printed = self.printing.pop(job.dispatch, None)
            if printed is None:
                continue
            self._end(printed, now)
            if printed.mode == "keep" or status != m.DONE or job.must_end:
                parts = printed.kept_output()
                if parts is not None:
                    kept.append((job.dispatch, *parts))
                    if not job.stopped and status != m.NOT_ENTERED:
                        self.outbox().keep_output(job.dispatch, parts)
        self._flush(is_due=True)
        if kept:
            self._send(m.Kept(*map(list, zip(*kept, strict=True))))

    def forget(self, jobs: Sequence[WorkerJob]) -> None:
        """Send what is left of the output of jobs that end here without an outcome."""
        now = time.monotonic()
        printed = [self.printing.pop(job.dispatch) for job in jobs if job.dispatch in self.printing]
        for each in printed:
            self._end(each, now)
        if printed:
            self._flush()

    def _end(self, printed: JobOutput, now: float) -> None:
        self._live.end(printed, now)
        if printed.mode == "log":
            self._log.end(printed.dispatch, now)

    # --- the master ---

    def on_welcome(self, master: str) -> None:
        """Note that a master was joined; a new one learns of the jobs here from their clients."""
        if self._master and master != self._master:
            self._waits_until = time.monotonic() + SETTLE_SECONDS
        self._master = master
        self._flush()

    def on_share(self, share: m.OutputShare) -> None:
        """The master has named this worker's share of a session's live output."""
        self._live.on_share(share.session, share.size, share.lines, time.monotonic())

    def on_claim(self) -> None:
        """The master knows the jobs."""
        self._flush(is_due=True)

    def _flush(self, is_due: bool = False) -> None:
        """Send live output, if the master takes it. `is_due`: a result follows, so it goes now."""
        unsent = self.unsent()
        is_open = unsent is not None and unsent < UNSENT_BYTES and time.monotonic() >= self._waits_until
        if unsent is not None and (is_due or is_open) and (entries := self._live.take()):
            self._send(m.Output(*map(list, zip(*entries, strict=True))))
        self._tick_later()

    def _tick_later(self) -> None:
        if not self._is_ticking and (
            self._live.has_open_lines or self._live.has_queued or self._log.is_stuck
        ):
            self._is_ticking = True
            self._loop.call_later(min(RETRY_SECONDS, LINE_SECONDS / 2), self._on_tick)

    def _on_tick(self) -> None:
        self._is_ticking = False
        self._live.end_lines(time.monotonic())
        self._log.flush()
        self._flush()


def _own_directory() -> str:
    """Path of the user's own directory; '' if there is none, which connecting reports."""
    with contextlib.suppress(userdir.HomeError):
        return userdir.home_directory()
    return ""
