"""The steward of a run: an ordinary client, which has the session of a script that has left (`python -m` this FOLDER).

    lease --> calls that are not in the store --> connect --> decision: ours? --> submit, record, ... --> goodbye
                                                                  '-- the script has kept the run --> end

It takes the script's session with its number, secret and the numbers of its jobs, as a client that comes back after a
lost connection: what runs goes on. It opens no payload: results go to the store as they come. It acknowledges a result
when it is stored, so the next steward finds what this one had not stored still at the workers.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from cw import processes, program
from cw.client.handover import restore
from cw.client.identity import Identity
from cw.client.job import ClientJob
from cw.client.options import ClientSettings
from cw.client.outcome import UNENTERED, Abandoned, Opener, limit_error
from cw.client.session import Session
from cw.detached.recorder import Recorder
from cw.errors import DetachError, Error
from cw.events import EventLogger
from cw.net import messages as m
from cw.output.sink import Sink
from cw.payloads import unopened
from cw.runs import handing_over
from cw.runs.calls import CallEntry, CallRecord, CallsReader, ObjectRecord
from cw.runs.folder import CANCELLED, ENDED, SCRIPT, STEWARD, RunFolder, RunState
from cw.runs.lease import BEAT_SECONDS, Lease
from cw.runs.output import OutputWriter
from cw.runs.restored import RestoredCall

logger = EventLogger("cw.steward")

CONNECT_SECONDS = 30.0
"""Time in which a master must answer while the script waits (seconds). Longer: a script that cannot hand its run over
goes on later. Shorter: a busy master is given up."""

PATIENT_SECONDS = 1e9
"""Time in which one must answer otherwise: a run waits for its cluster."""

LOADED = 16_384
"""Number of jobs that are in memory beyond those that were sent. Larger: more memory. Smaller: the master's window is
not filled."""

LOADED_BYTES = 256 * 1024**2
"""Most bytes of their payloads; one job is allowed in any case."""

RESERVED = 4096
"""Number of jobs that are noted on disk as sent at a time, before they are. Larger: the next steward resubmits more
than was sent. Smaller: more writes."""

TICK_SECONDS = 0.5


class _Unopened(Opener):
    """Leaves values and errors of results unopened."""

    @staticmethod
    def load(job: ClientJob, status: int, payload: Any) -> tuple[BaseException | None, Any]:
        if status == m.DONE:
            return None, payload
        if status == m.TIMEOUT:
            return limit_error(job.name, payload), None
        return unopened.error_of(payload, job.name + (UNENTERED if status == m.NOT_ENTERED else "")), None

    def is_recorded(self, status: int, error: BaseException | None) -> bool:
        return True  # nobody waits for it: it must be somewhere


class _Session(Session):
    """The script's session, in this process."""

    take_over: Callable[[], bool]
    """Called when the first master has answered. False: the session is still the script's."""
    _is_ours = False

    @property
    def failure(self) -> BaseException | None:
        return self._failure

    def on_joined(self) -> None:
        if self._is_ours or self.take_over():
            self._is_ours = True
            super().on_joined()
        else:
            self.leave_silently()
            super().on_joined()

    def call_every(self, seconds: float, function: Callable[[float], bool]) -> None:
        self._loop.call_every(seconds, function)

    def leave_silently(self) -> None:
        """End without a goodbye: another process has the session, or will have it."""
        self.exchange.link.leave_silently()
        self._loop.stop()


class Steward:
    """Holds one run. `run` is its life."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._lease = Lease(folder)
        self._description = folder.description()
        self._progress = handing_over.Progress()
        self._reader = CallsReader(folder)
        self._records = self._reader.read()
        self._next: CallRecord | None = None
        self._calls = self._done = self._failed = 0
        self._beats = 0
        self._beat_at = self._written_at = 0.0
        self._phase, self._text = STEWARD, ""
        self._is_ours = self._is_leaving = False
        self._recorder: Recorder
        self._session: _Session

    # --- its life ---

    def run(self) -> int:
        """Hold the run until it is over. Returns the exit status; 0 also if another steward has it."""
        progress = handing_over.read_progress(self._folder)
        state = self._folder.state()
        if state.is_over:
            return 0
        if progress is None or state.phase == SCRIPT:
            raise DetachError(f"the run {self._folder.name} was not handed over: run its script again")
        if not self._lease.acquire():
            logger.info("steward.not_needed", "another steward has the run %s", self._folder.path)
            return 0
        self._progress = progress
        try:
            self._recorder = Recorder(self._description.store, self._description.keys)
            self._session = self._make_session()
            self._load_objects_and_sent()
            self._session.call_every(TICK_SECONDS, self._tick)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(
                    number, lambda number, frame: self._session.exchange.call_soon(self._leave_silently)
                )
            self._session.start()
            return self._hold()
        finally:
            self._lease.release()

    def _make_session(self) -> _Session:
        """Make a session with the identity of the script's."""
        description, folder = self._description, self._folder
        if description.cluster:
            os.environ["CW_CLUSTER"] = description.cluster
        is_new = handing_over.decision(folder, self._progress.handover) is None
        settings = ClientSettings(
            host=description.master or None,
            local=False,
            connect_timeout=CONNECT_SECONDS if is_new else PATIENT_SECONDS,
            reconnect_timeout=PATIENT_SECONDS,
            workdir="/",
            forward_logging=False,
        )
        session = _Session(settings, self._deliver, lambda number, tag: None, self._recorder)  # type: ignore[arg-type]
        exchange = session.exchange
        major, minor = description.python
        exchange.identity = Identity(
            description.session, description.secret, (major, minor), description.program, 0
        )
        exchange.opener = _Unopened()
        exchange.acknowledger.waits_for_store = True
        exchange.roster.update(self._progress.workers)
        session.take_over = self._take_over
        session.jobs.attempt_counts = {
            counts[0]: m.AttemptCounts(*counts) for counts in self._progress.attempt_counts
        }
        session.delivery.is_used = True
        session.output.sink = Sink(
            OutputWriter(folder), session.jobs, session.calls.objects.names, lambda number: None
        )
        return session

    def _take_over(self) -> bool:
        """Take the run, as a master has answered. False: the script has kept it."""
        if not handing_over.accept(self._folder, self._progress.handover):
            return False
        self._is_ours = True
        self._recorder.refresh()
        self._drop_stored()
        self._write_state()
        return True

    def _hold(self) -> int:
        """Wait until the run is over."""
        session = self._session
        while session.is_alive():
            session.join(TICK_SECONDS)
        failure = session.failure
        if not self._is_ours:
            return 0
        if failure is not None:
            self._text = str(failure)
            logger.error("steward.failed", "the run %s stands still: %s", self._folder.path, failure)
        elif not self._is_leaving:
            self._phase = CANCELLED if self._phase == CANCELLED else ENDED
        self._write_state()
        return 1 if failure is not None else 0

    def _leave_silently(self) -> None:
        """End without a goodbye: another steward goes on."""
        self._is_leaving = True
        self._session.leave_silently()

    # --- the calls ---

    def _load_objects_and_sent(self) -> None:
        """Read the calls, up to the last one that may have been sent."""
        progress, session = self._progress, self._session
        session.jobs.highest_sent = progress.highest_sent
        self._load(lambda record: record.number <= progress.highest_sent or record.is_sent)
        # Those that the steward before has added, for large results, are not known.
        session.calls.objects.last_number = progress.objects + self._lease.number * 100_000

    def _load(self, is_wanted: Any) -> None:
        """Read records while the next call is wanted."""
        while (record := self._next or next(self._records, None)) is not None:
            self._next = None
            if type(record) is ObjectRecord:
                objects = self._session.calls.objects
                objects.restore(record.number, record.kind, record.needs, record.payload)
                if record.name:
                    objects.names[record.number] = record.name
            elif type(record) is CallRecord:
                if not is_wanted(record):
                    self._next = record
                    return
                self._calls += len(record.entries)
                if self._recorder.has(record.entries):
                    self._note_stored(record.entries)
                else:
                    call = RestoredCall(record, self._recorder, self._description.durability == "disk")
                    restore(self._session, record, call, call)

    def _note_stored(self, entries: Sequence[CallEntry]) -> None:
        failed = self._recorder.failed(entries)
        self._done += len(entries) - failed
        self._failed += failed

    def _drop_stored(self) -> None:
        """Drop jobs whose results the script has stored since they were read here."""
        jobs = self._session.jobs
        for job in jobs.all():
            if self._recorder.has(job.call.calls) and jobs.take(job.number) is not None:
                self._note_stored(job.call.calls)
                jobs.on_delivered(job, False)

    def _feed(self) -> None:
        """Let further calls wait, and note before that they may have been sent."""
        jobs = self._session.jobs
        if self._next is None and self._reader.is_complete:
            return
        if len(jobs.all()) > LOADED or jobs.bytes_in - jobs.bytes_out > LOADED_BYTES:
            return
        taken = size = 0

        def is_wanted(record: CallRecord) -> bool:
            nonlocal taken, size
            taken, size = taken + 1, size + len(record.payload)
            return taken <= RESERVED and (taken == 1 or size < LOADED_BYTES // 16)

        before = jobs.last_number
        self._load(is_wanted)
        if jobs.last_number > before:
            self._reserve(jobs.last_number)
            self._session.on_wake()

    def _reserve(self, number: int) -> None:
        exchange, jobs = self._session.exchange, self._session.jobs
        self._progress = self._progress._replace(
            highest_sent=max(number, self._progress.highest_sent),
            workers=sorted(exchange.roster),
            attempt_counts=[list(counts) for counts in jobs.attempt_counts.values()],
        )
        handing_over.write_progress(self._folder, self._progress)

    def _deliver(self, number: int, tag: Any, error: BaseException | None, value: Any) -> None:
        """Count a job whose result is stored. `tag`: its call."""
        if not isinstance(error, Abandoned):
            self._failed += tag.failed
            self._done += len(tag.calls) - tag.failed

    # --- time ---

    def _tick(self, now: float) -> bool:
        """Show that the run is held, obey, go on."""
        if not self._is_ours or self._is_leaving:
            return not self._is_leaving
        now = time.monotonic()
        try:
            if now - self._beat_at > BEAT_SECONDS:
                self._beat_at = now
                if not self._lease.beat():
                    logger.warning("steward.superseded", "another steward has the run %s", self._folder.path)
                    self._leave_silently()
                    return False
            if "cancel" in self._folder.requests():
                self._phase = CANCELLED
                self._session.exchange.leave()
                return False
            self._feed()
            if now - self._written_at > 1.0:
                self._write_state()
        except Error as error:
            logger.warning("steward.disk_failed", "the run %s: %s", self._folder.path, error)
        if not self._session.jobs.outstanding and self._next is None and self._reader.is_complete:
            self._session.exchange.leave()
            return False
        return True

    def _write_state(self) -> None:
        self._written_at = time.monotonic()
        self._beats += 1
        jobs, pid = self._session.jobs, os.getpid()
        running = len(jobs.started)
        state = RunState(
            self._phase, os.uname().nodename, pid, processes.identity(pid), self._beats, text=self._text
        )
        waiting = max(0, self._calls - self._done - self._failed - running)
        self._folder.write_state(
            state._replace(
                calls=self._calls, done=self._done, failed=self._failed, running=running, waiting=waiting
            )
        )


def main() -> int:
    """Run as `python -m cw.detached.steward FOLDER`. Returns the exit status."""
    parser = program.argument_parser(
        "cw.detached.steward", "Holds a detached run: `cw runs` starts it as needed."
    )
    parser.add_argument("folder", metavar="FOLDER", help="the folder of the run")
    folder = RunFolder(parser.parse_args().folder)
    program.set_up_logging()
    program.allow_many_descriptors()
    try:
        return Steward(folder).run()
    except Error as error:
        handing_over.fail(folder, str(error))
        logger.error("steward.refused", "the run cannot be held: %s", error)
        return 1


if __name__ == "__main__":
    program.run("cw.detached.steward", main)
