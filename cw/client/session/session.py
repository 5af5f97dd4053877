"""Session of a client: the thread that talks to the master, its start and end, and the threads that wait for jobs.

    user's threads                     session's thread                          master
      Submitter ---> Jobs ------wake--> Exchange.pump -----> Submit --------------->
      wait   <------ Delivery --------- Exchange.on_message <-- Results <-----------

The client owns its jobs: it keeps a payload until the result has been delivered. `ClientThread` and
`ClusterExecutor` are built on this and differ in what they attach to a job (its *tag*) and in how they deliver.
"""

from __future__ import annotations

import glob
import os
import threading
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from cw import guard, nested, userdir
from cw.client.functions.calls import Calls
from cw.client.futures import cells, tracebacks
from cw.client.options import ClientSettings, check_flag, check_outstanding
from cw.client.session import ending
from cw.client.session.delivery import Deliver, Delivery
from cw.client.session.exchange import Exchange
from cw.client.session.job import ClientJob
from cw.client.session.jobs import Jobs, objects_of
from cw.client.session.object_sender import ObjectSender
from cw.client.session.objects import ObjectTable
from cw.client.session.outcome import Abandoned, copy_of
from cw.client.session.submitter import Submitter
from cw.client.session.waiting import Waiting
from cw.client.store_client import StoreClient
from cw.errors import ConnectionError, Detached, StoreError
from cw.events import EventLogger
from cw.net import address
from cw.net.loop import Loop
from cw.net.warm_files import WarmFiles
from cw.output.incoming import Incoming
from cw.output.printer import printer
from cw.output.sink import Sink
from cw.payloads import current, log_settings
from cw.payloads.environment import check_workdir, dump_environment
from cw.program import count
from cw.travel.baggage import Baggage
from cw.waits.sentences import SECONDS

logger = EventLogger("cw.client")


class Session:
    """One client's life. The methods are for any thread unless they say otherwise.

    `deliver(number, tag, error, value)` and `on_started(number, tag)` are called in the session's thread;
    they must not raise.
    """

    def __init__(
        self,
        settings: ClientSettings,
        deliver: Deliver,
        on_started: Callable[[int, Any], None],
        store_client: StoreClient | None = None,
    ) -> None:
        _look_for_launched()
        address.find_master(settings.host, settings.port)  # raises now if they are wrong
        jobs_limit, bytes_limit = check_outstanding(settings.max_outstanding)
        baggage = Baggage(settings.modules, settings.files, check_workdir(settings.workdir))
        logs = log_settings.Watch(check_flag("forward_logging", settings.forward_logging))
        self.lends = settings.lend
        """True if a job that this client is in lends its slot while it waits here."""
        self.on_exit: Callable[[], None] = lambda: None
        """Called at the end of the interpreter, when all results are delivered."""
        self.is_closed = False
        """True if the session accepts no more jobs."""
        settings = settings.with_cluster(self)
        self._on_started = on_started
        self._pid = os.getpid()
        # Guards state that users' threads change. The session's thread takes it rarely.
        self._lock = threading.RLock()  # reentrant: pickling a function may run user code that submits
        self._loop = Loop()
        self._loop.lock = threading.RLock()  # callbacks submit, too
        self._loop.on_wake = self.on_wake
        self.jobs = jobs = Jobs((jobs_limit, _half_the_memory() if bytes_limit is None else bytes_limit))
        seed = current.seed_of_session(settings.seed)
        objects = ObjectTable(lambda: dump_environment(seed, *baggage.for_environment()), baggage.pack)
        object_sender = ObjectSender(objects, self._lock, self._loop, lambda: objects_of(jobs))
        self.calls = Calls(self._lock, objects, jobs, object_sender, logs, baggage, WarmFiles(self._loop))
        if settings.initializer is not None:
            self.calls.set_initializer(settings.initializer, settings.initargs)
        self.delivery = Delivery(
            jobs, deliver, store_client, lambda: self._loop.call_soon_threadsafe(self.on_wake)
        )
        self.output = Incoming(Sink(printer, jobs, objects.names, partial(cells.cell_of, self)))
        """Takes what jobs print."""
        self.exchange = Exchange(self._loop, self, settings, jobs, self.calls, self.delivery)
        self.submitter: Submitter = Submitter(
            self._loop, self, jobs, self.calls, self.exchange, self.delivery
        )
        self.dependents = self.submitter.dependents
        self._thread = threading.Thread(target=self._main, name="cw-client", daemon=True)
        self._connected = threading.Event()
        # In place of the thread's own: up to Python 3.12, a join() that Ctrl-C interrupts regards the thread as ended.
        self._ended = threading.Event()
        self._failure: BaseException | None = None  # written by the session's thread
        self.waiting = Waiting()
        """Threads that wait for deliveries."""

    def __reduce__(self) -> Any:
        raise TypeError("a client cannot travel: a job that gives out jobs makes a client of its own")

    def start(self) -> None:
        """Connect. Raises cw.ConnectionError if no master answers within the connect timeout; StartRefused."""
        guard.check_import("a client")
        ending.register(self)
        cells.register(self)
        tracebacks.install()
        self.exchange.patience.start_clock(monotonic())
        self._thread.start()
        self._connected.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    @property
    def master(self) -> str:
        """Start id of the master that it is connected to."""
        return self.exchange.link.master

    def outstanding(self) -> int:
        """Return the number of jobs submitted and not delivered yet."""
        return self.jobs.outstanding

    def restart(self, reason: str) -> None:
        """Run jobs that are submitted from now on in fresh runners."""
        with self._lock:
            if self.is_closed:
                raise self.why_closed()
            self.calls.renew(reason)

    # --- waiting ---

    def wait(self, timeout: float | None = None) -> bool:
        """Block until all jobs submitted so far, and by callbacks meanwhile, are delivered. False: `timeout` (seconds)
        is over."""

        def wait(timeout: float | None) -> bool:
            return self.waiting.until(lambda: not self.jobs.outstanding, timeout)

        return not self.jobs.outstanding or nested.wait(self, wait, timeout)

    def wait_for_room(self, size: int) -> None:
        """Block until the client may hold `size` more bytes, or is closed."""

        def has_room() -> bool:
            return self.is_closed or not self.jobs.is_full(size)

        def wait(timeout: float | None) -> bool:
            if self.waiting.until(has_room, SECONDS):
                return True
            with self.exchange.waits.blocked(_why_full(self.jobs)):
                return self.waiting.until(has_room, timeout)

        # (Before the start nothing would ever make room, and a callback must not block.)
        if self.jobs.is_full(size) and self.is_started() and not self.is_own_thread():
            nested.wait(self, wait, None)

    def on_progress(self) -> None:
        """Notify waiting threads that jobs have been delivered, or that no more will be."""
        self.waiting.notify()

    # --- its end ---

    def close(self, is_waiting: bool) -> None:
        """Accept no more jobs, and say goodbye: when all results are delivered (`is_waiting`), or now."""
        with self._lock:
            self.is_closed = True
        if not self.is_started():
            self._abandon()
            self.delivery.close()
        elif self.is_alive():
            self._loop.call_soon_threadsafe(
                self.exchange.leave_when_done if is_waiting else self.exchange.leave
            )

    def why_closed(self) -> BaseException:
        """Return the error that `submit` raises then."""
        if os.getpid() != self._pid:
            return RuntimeError(
                "this process was forked from the one that is connected: open a connection of its own"
            )
        if isinstance(self._failure, (StoreError, Detached)):
            return copy_of(self._failure)
        if self._failure is not None:
            return ConnectionError(f"{self._failure}; no more jobs can be submitted here")
        return RuntimeError("cannot submit: this client has been stopped")

    def leave_when_done(self) -> None:
        """Say goodbye at the end of the program, when all results are delivered. Callbacks may submit until then."""
        self._loop.call_soon_threadsafe(self.exchange.leave_when_done)

    def leave_now(self, seconds: float = ending.LEAVE_SECONDS) -> None:
        """Cancel all jobs at the end of the program and leave within `seconds`, even if a callback does not return."""
        self.close(is_waiting=False)
        self.join(seconds)
        if self.is_alive():  # it is in a callback, and so not in the middle of a message
            self.exchange.link.break_off("it was interrupted")

    def join(self, timeout: float | None = None) -> None:
        """Wait until the session's thread has ended. Does nothing in that thread itself."""
        if self._thread.ident is None or self.is_own_thread():
            return
        wait = self._ended.wait
        has_ended = nested.wait(self, wait, timeout) if self.jobs.outstanding else wait(timeout)
        if has_ended:
            self._thread.join()

    def is_own_thread(self) -> bool:
        """True if called in the session's thread (by a callback)."""
        return threading.current_thread() is self._thread

    def is_started(self) -> bool:
        return self._thread.ident is not None

    def is_alive(self) -> bool:
        return self.is_started() and not self._ended.is_set()

    def drop_after_fork(self) -> None:
        """Drop the connection in a forked child, without a goodbye."""
        self.is_closed = True
        self.jobs.drop_after_fork()
        # Threads that do not exist here may have held these locks. The event makes join() return.
        self._lock = self.submitter.lock = self.calls.lock = threading.RLock()
        self.waiting.drop_after_fork()
        self.exchange.waits.drop_after_fork()
        self.calls.warm_files.drop()
        self._ended = threading.Event()
        self._ended.set()
        self._loop.drop_after_fork()
        if self.exchange.link.connection is not None:
            self.exchange.link.connection.drop_after_fork()

    # --- the session's thread ---

    def _main(self) -> None:
        self.exchange.link.connect()
        try:
            self._loop.run()
        except BaseException as error:
            logger.critical("client.thread_failed", "the client's thread failed", exc_info=True)
            self._failure = error
        finally:
            with self._lock:
                self.is_closed = True
            self.calls.store = None  # a call that comes too late leaves no file here
            self.calls.warm_files.drop()
            try:
                self.output.sink.end()
                self.delivery.flush()  # results that have arrived are stored, and delivered
                self._deliver_recorded()
                self.delivery.deliver_failed()
                self._abandon()
                self.delivery.close()
            finally:
                self.exchange.waits.close()
                self._connected.set()
                self._ended.set()

    def on_wake(self) -> None:
        """Take jobs that were submitted, cancelled or stored."""
        self.submitter.is_woken = False  # cleared before the look: a job added later wakes this thread again
        if self.jobs.has_cancelled:
            self.exchange.take_cancelled()
        if self.delivery.has_some:
            if self.is_own_thread():
                self._deliver_recorded()
                self.delivery.deliver_failed()
                if not self.delivery.deliver_stored():
                    self.exchange.link.connect_anew("some jobs must be sent after all, and before later ones")
                self.exchange.note_progress()
            else:  # a thread that sends its own job; callbacks run in the session's thread only
                self._loop.wake()
        self.exchange.pump()

    def on_joined(self) -> None:
        """Note that a master is connected; it may be another than before."""
        self._connected.set()
        if nested.lender is not None:
            nested.lender.report_again(self)

    def on_started(self, job: ClientJob) -> None:
        """Report that the job is known to run."""
        self._on_started(job.number, job.tag)

    def on_failure(self, error: BaseException) -> None:
        """End the session, which cannot go on: all outstanding jobs end with this error."""
        self._failure = error
        with self._lock:
            self.is_closed = True
        self._loop.stop()

    def _deliver_recorded(self) -> None:
        failure = self.delivery.deliver_recorded()
        if failure is not None and not self.is_closed:
            self.on_failure(failure)
        self.exchange.note_progress()

    def _abandon(self) -> None:
        """Settle outstanding jobs when the thread ends, so that none stays pending for ever."""
        if self.exchange.link.connection is not None:
            self.exchange.link.connection.close()
        self.dependents.abandon()
        self.exchange.take_cancelled()
        for job in self.jobs.all():  # in the order of their submission
            if self.jobs.take(job.number) is None:
                continue  # cancelled at this very moment
            error = self._failure
            self.delivery.finish(job, Abandoned() if error is None else copy_of(error), None)
        self.exchange.note_progress()


def _look_for_launched() -> None:
    """Search for the master also where launchers have noted theirs, if they have."""
    noted = f"*-{glob.escape(address.cluster_name())}/state.json"  # (before '-': the system's name)
    if os.path.exists(os.path.join(userdir.home_directory(), f"ssh-{address.cluster_name()}", "state.json")):
        import cw.ssh.known
    if glob.glob(os.path.join(glob.escape(userdir.home_directory()), noted)):
        import cw.slurm
    if os.path.exists(os.path.join(userdir.home_directory(), f"mp-{os.uname().nodename}", "state.json")):
        import cw.launch.local_state  # noqa: F401


def _why_full(jobs: Jobs) -> str:
    """Say which limit keeps more jobs from being submitted."""
    jobs_limit, bytes_limit = jobs.held.limits
    if jobs_limit is not None and jobs.outstanding >= jobs_limit:
        what = (
            f"{count(jobs.outstanding, 'job is', 'jobs are')} outstanding, as many as max_outstanding allows"
        )
    else:
        size = jobs.bytes_in - jobs.bytes_out + jobs.held.size
        what = f"the arguments of outstanding jobs take {size / 1e9:.3g} of {(bytes_limit or 0) / 1e9:.3g} GB"
    return f"{what}; it goes on when results come, and max_outstanding=(JOBS, BYTES) sets the limits"


def _half_the_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
