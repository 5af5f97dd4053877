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
from collections.abc import Callable
from typing import Any

from cw import processes, program
from cw.client.options import ClientSettings
from cw.client.session.identity import Identity
from cw.client.session.job import ClientJob
from cw.client.session.outcome import UNENTERED, Abandoned, Opener, limit_error
from cw.client.session.session import Session
from cw.detached.backlog import Backlog
from cw.detached.recorder import Recorder
from cw.errors import DetachError, Error
from cw.events import EventLogger
from cw.net import address
from cw.net import messages as m
from cw.output.sink import Sink
from cw.payloads import unopened
from cw.runs import handing_over, own
from cw.runs.folder import CANCELLED, ENDED, SCRIPT, STEWARD, RunFolder, RunState
from cw.runs.lease import BEAT_SECONDS, Lease
from cw.runs.output import OutputWriter

logger = EventLogger("cw.steward")

CONNECT_SECONDS = 30.0
"""Time in which a master must answer while the script waits (seconds). Longer: a script that cannot hand its run over
goes on later. Shorter: a busy master is given up."""

PATIENT_SECONDS = 1e9
"""Time in which one must answer otherwise: a run waits for its cluster."""

OBJECTS = 100_000
"""Numbers of objects that are left to each steward. Fewer: two of them might give one number to two objects."""

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
        self._calls = 0  # all of the run, as the script has counted
        self._beats = 0
        self._beat_at = self._written_at = 0.0
        self._phase, self._text = STEWARD, ""
        self._is_ours = self._is_leaving = False
        self._is_decided = False  # before this steward came
        self._backlog: Backlog
        self._session: _Session

    # --- its life ---

    def run(self) -> int:
        """Hold the run until it is over. Returns the exit status; 0 also if another steward has it."""
        progress = handing_over.read_progress(self._folder)
        state = self._folder.state()
        if state.is_over:
            return 0
        self._calls = state.calls
        if progress is None or state.phase == SCRIPT or handing_over.is_kept(self._folder, progress.handover):
            raise DetachError(f"the run {self._folder.name} was not handed over: run its script again")
        if not self._lease.acquire():
            logger.info("steward.not_needed", "another steward has the run %s", self._folder.path)
            return 0
        self._progress = progress
        try:
            recorder = Recorder(self._description.store, self._description.keys)
            self._session = session = self._make_session(recorder)
            is_durable = self._description.durability == "disk"
            # Objects that the steward before has made are not known.
            first_object = progress.objects + self._lease.number * OBJECTS
            self._backlog = Backlog(session, self._folder, recorder, is_durable, first_object)
            self._backlog.load_sent(progress)
            self._session.call_every(TICK_SECONDS, self._tick)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(
                    number, lambda number, frame: self._session.exchange.call_soon(self._leave_silently)
                )
            self._session.start()
            return self._hold()
        finally:
            self._lease.release()

    def _make_session(self, recorder: Recorder) -> _Session:
        """Make a session with the identity of the script's."""
        description, folder = self._description, self._folder
        if description.cluster:
            os.environ["CW_CLUSTER"] = description.cluster
        is_new = handing_over.decision(folder, self._progress.handover) is None
        self._is_decided = not is_new
        settings = ClientSettings(
            host=description.master or None,
            local=False,
            connect_timeout=CONNECT_SECONDS if is_new else PATIENT_SECONDS,
            reconnect_timeout=PATIENT_SECONDS,
            workdir="/",
            forward_logging=False,
            modules=False,
        )
        session = _Session(settings, self._deliver, lambda number, tag: None, recorder)  # type: ignore[arg-type]
        exchange = session.exchange
        major, minor = description.python
        exchange.identity = Identity(
            description.session, description.secret, (major, minor), description.program, 0
        )
        exchange.opener = _Unopened()
        exchange.acknowledger.waits_for_store = True
        exchange.most = self._progress.most or None
        exchange.roster.update(self._progress.workers)
        exchange.link.find = lambda: address.find_master(own.master_of(folder) or description.master or None)
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
        self._backlog.begin()
        self._write_state()
        return True

    def _hold(self) -> int:
        """Wait until the run is over."""
        session = self._session
        while session.is_alive():
            session.join(TICK_SECONDS)
        failure = session.failure
        if not self._is_ours and not self._is_decided:
            return 0
        if failure is not None:
            self._text = str(failure)
            logger.error("steward.failed", "the run %s stands still: %s", self._folder.path, failure)
        elif not self._is_leaving:
            self._phase = CANCELLED if self._phase == CANCELLED else ENDED
        if self._lease.is_in_force():
            self._write_state()
        return 1 if failure is not None else 0

    def _leave_silently(self) -> None:
        """End without a goodbye: another steward goes on."""
        self._is_leaving = True
        self._session.leave_silently()

    def _deliver(self, number: int, tag: Any, error: BaseException | None, value: Any) -> None:
        """Note a job whose result is stored. `tag`: its call."""
        if not isinstance(error, Abandoned):
            self._backlog.on_ended(tag)

    # --- time ---

    def _tick(self, now: float) -> bool:
        """Show that the run is held, obey, go on."""
        if self._is_leaving:
            return False
        now = time.monotonic()
        try:
            if now - self._beat_at > BEAT_SECONDS:
                self._beat_at = now
                if not self._lease.beat():
                    logger.warning("steward.superseded", "another steward has the run %s", self._folder.path)
                    self._leave_silently()
                    return False
            if not self._is_ours and not self._is_decided:
                return True
            if "cancel" in self._folder.requests():
                self._phase = CANCELLED
                self._session.exchange.leave()
                return False
            if self._is_ours and self._backlog.feed():
                self._session.on_wake()
            if now - self._written_at > 1.0:
                self._write_state()
        except Error as error:
            logger.warning("steward.disk_failed", "the run %s: %s", self._folder.path, error)
        if self._is_ours and self._backlog.is_over:
            self._session.exchange.leave()
            return False
        return True

    def _write_state(self) -> None:
        self._written_at = time.monotonic()
        self._beats += 1
        backlog, pid = self._backlog, os.getpid()
        text = self._text
        if not text and self._phase == STEWARD and not self._session.exchange.link.is_joined:
            text = "no master of its cluster answers"
        running, calls = len(self._session.jobs.started), max(self._calls, backlog.calls)
        waiting = max(0, calls - backlog.done - backlog.failed - running)
        state = RunState(
            self._phase, os.uname().nodename, pid, processes.identity(pid), self._beats, text=text
        )
        self._folder.write_state(
            state._replace(
                calls=calls, done=backlog.done, failed=backlog.failed, running=running, waiting=waiting
            )
        )


def main() -> int:
    """Run as `python -m cw.detached.steward FOLDER`. Returns the exit status."""
    parser = program.argument_parser(
        "cw.detached.steward", "Holds a run whose script has left. It is started as it is needed."
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
