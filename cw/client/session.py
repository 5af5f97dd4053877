"""A client's session: the thread that talks to the master, its start and its end, and who waits for its jobs.

    user's threads                     session's thread                          master
      Submitter ---> Jobs ------wake--> Exchange.pump -----> Submit --------------->
      wait   <------ Delivery --------- Exchange.on_message <-- Results <-----------

The client owns its jobs: a payload is kept until its result has been delivered. `ClientThread` and
`ClusterExecutor` stand on this and differ in what they hang on a job (its *tag*) and in how they deliver.
"""

from __future__ import annotations

import glob
import logging
import os
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from cw import guard, nested, userdir
from cw.client import ending
from cw.client.calls import Calls
from cw.client.delivery import Deliver, Delivery
from cw.client.exchange import Exchange
from cw.client.jobs import Job, Jobs
from cw.client.object_sender import ObjectSender
from cw.client.objects import ObjectTable
from cw.client.options import ClientSettings, OptionTable, check_outstanding
from cw.client.outcome import Abandoned, copy_of
from cw.client.store_client import StoreClient
from cw.client.submitter import Submitter
from cw.client.waiting import Waiting
from cw.errors import ConnectionError, StoreError
from cw.net import address
from cw.net.loop import Loop
from cw.payloads import current
from cw.payloads.environment import check_workdir, dump_environment

logger = logging.getLogger("cw.client")


class Session:
    """One client's life. The methods are for any thread, unless they say otherwise.

    `deliver(number, tag, error, value)` and `on_started(number, tag)` are called in the session's thread;
    they must not raise.
    """

    def __init__(
        self,
        settings: ClientSettings,
        deliver: Deliver,
        on_started: Callable[[int, Any], None],
        recorder: StoreClient | None = None,
    ) -> None:
        _look_in_slurm()
        address.find_master(settings.host, settings.port)  # a mistake in them is told here
        jobs_limit, bytes_limit = check_outstanding(settings.max_outstanding)
        directory = check_workdir(settings.workdir)
        self.lends = settings.lend
        """In a job: does that lend its slot while it waits here?"""
        self.on_exit: Callable[[], None] = lambda: None
        """Called at the end of the interpreter, when all is delivered."""
        self.is_closed = False
        """Does it take no more jobs?"""
        self._on_started = on_started
        self._pid = os.getpid()
        # What users' threads change together. The session's thread takes it rarely.
        self._lock = threading.RLock()  # pickling a function may run code of the user's that submits
        self._loop = Loop()
        self._loop.lock = threading.RLock()  # callbacks submit, too
        self._loop.on_wake = self.on_wake
        self.jobs = jobs = Jobs((jobs_limit, _half_the_memory() if bytes_limit is None else bytes_limit))
        seed = current.seed_of_session(settings.seed)
        objects = ObjectTable(lambda: dump_environment(seed, directory))
        options = OptionTable()
        object_sender = ObjectSender(objects, options, self._lock, self._loop, jobs.functions)
        self.calls = Calls(self._lock, objects, options, jobs, object_sender)
        self.delivery = Delivery(
            jobs, deliver, recorder, lambda: self._loop.call_soon_threadsafe(self.on_wake)
        )
        self.exchange = Exchange(self._loop, self, settings, jobs, self.calls, self.delivery)
        self._submitter = Submitter(self._loop, self, jobs, self.calls, self.exchange, self.delivery)
        self.submit = self._submitter.submit
        self.add = self._submitter.add
        self.cancel = self._submitter.cancel
        self._thread = threading.Thread(target=self._main, name="cw-client", daemon=True)
        self._connected = threading.Event()
        # Instead of the thread's own: up to Python 3.12 a join() that Ctrl-C interrupts takes the thread for ended.
        self._ended = threading.Event()
        self._failure: BaseException | None = None  # written by the session's thread
        self._waiting = Waiting()  # for jobs to be delivered

    def __reduce__(self) -> Any:
        raise TypeError("a client cannot travel: a job that gives out jobs makes a client of its own")

    def start(self) -> None:
        """Connect. Raises cw.ConnectionError if no master answers within the connect timeout; StartRefused."""
        guard.check_import("a client")
        ending.register(self)
        self.exchange.patience.start_clock(monotonic())
        self._thread.start()
        self._connected.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    @property
    def master(self) -> str:
        """The start id of the master that it is connected to."""
        return self.exchange.link.master

    def outstanding(self) -> int:
        """Jobs submitted and not delivered yet."""
        return self.jobs.outstanding

    def restart(self, reason: str) -> None:
        """What is submitted from now on runs in fresh runners."""
        with self._lock:
            if self.is_closed:
                raise self.why_closed()
            self.calls.renew(reason)

    # --- waiting ---

    def wait(self, timeout: float | None = None) -> bool:
        """Block until all jobs submitted so far, and by callbacks meanwhile, are delivered. False: time is up."""

        def wait(timeout: float | None) -> bool:
            return self._waiting.until(lambda: not self.jobs.outstanding, timeout)

        return not self.jobs.outstanding or nested.wait(self, wait, timeout)

    def wait_for_room(self, size: int) -> None:
        """Block until the client may hold that many bytes more, or is closed."""

        def wait(timeout: float | None) -> bool:
            return self._waiting.until(lambda: self.is_closed or not self.jobs.is_full(size), timeout)

        # (Before the start nothing would ever make room; and a callback must not block.)
        if self.jobs.is_full(size) and self.is_started() and not self.is_own_thread():
            nested.wait(self, wait, None)

    def on_progress(self) -> None:
        """Some jobs have been delivered, or none will be any more."""
        self._waiting.notify()

    # --- its end ---

    def close(self, is_waiting: bool) -> None:
        """Take no more jobs. Say goodbye: when all are delivered (`is_waiting`), or now."""
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
        """What `submit` raises then."""
        if os.getpid() != self._pid:
            return RuntimeError(
                "this process was forked from the one that is connected: open a connection of its own"
            )
        if isinstance(self._failure, StoreError):
            return copy_of(self._failure)
        if self._failure is not None:
            return ConnectionError(f"{self._failure}; no more jobs can be submitted here")
        return RuntimeError("cannot submit: this client has been stopped")

    def leave_when_done(self) -> None:
        """For the end of the program: say goodbye when all is delivered. Callbacks may submit until then."""
        self._loop.call_soon_threadsafe(self.exchange.leave_when_done)

    def leave_now(self, seconds: float = ending.LEAVE_SECONDS) -> None:
        """For the end of the program: cancel all, leave, and do not wait for a callback that does not return."""
        self.close(is_waiting=False)
        self.join(seconds)
        if self.is_alive():  # it sits in a callback, and not in the middle of a message
            self.exchange.link.break_off("it was interrupted")

    def join(self, timeout: float | None = None) -> None:
        """Wait until the session's thread has ended. In that thread itself: nothing."""
        if self._thread.ident is None or self.is_own_thread():
            return
        wait = self._ended.wait
        has_ended = nested.wait(self, wait, timeout) if self.jobs.outstanding else wait(timeout)
        if has_ended:
            self._thread.join()

    def is_own_thread(self) -> bool:
        """Is this called in the session's thread (a callback)?"""
        return threading.current_thread() is self._thread

    def is_started(self) -> bool:
        return self._thread.ident is not None

    def is_alive(self) -> bool:
        return self.is_started() and not self._ended.is_set()

    def drop_after_fork(self) -> None:
        """In a forked child: let go of the connection without a word."""
        self.is_closed = True
        self.jobs.drop_after_fork()
        # Other threads, which are not here, may have held these. The event makes join() return.
        self._lock = self._submitter.lock = self.calls.lock = threading.RLock()
        self._waiting.drop_after_fork()
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
            logger.critical("the client's thread failed", exc_info=True)
            self._failure = error
        finally:
            with self._lock:
                self.is_closed = True
            try:
                self.delivery.flush()  # what has come is stored, and delivered
                self._deliver_recorded()
                self._abandon()
                self.delivery.close()
            finally:
                self._connected.set()
                self._ended.set()

    def on_wake(self) -> None:
        """Take what has been submitted, cancelled, stored."""
        self._submitter.is_woken = False  # before it is looked at: who adds after that wakes us again
        if self.jobs.has_cancelled:
            self.exchange.take_cancelled()
        if self.delivery.has_some:
            if self.is_own_thread():
                self._deliver_recorded()
                if not self.delivery.deliver_stored():
                    self.exchange.link.connect_anew("some jobs must be sent after all, and before later ones")
                self.exchange.note_progress()
            else:  # it was sending a job of its own, and callbacks are not its business
                self._loop.wake()
        self.exchange.pump()

    def on_joined(self) -> None:
        """A master is there; it may be another than before."""
        self._connected.set()
        if nested.lender is not None:
            nested.lender.say_again(self)

    def on_started(self, job: Job) -> None:
        """The job is known to run."""
        self._on_started(job.number, job.tag)

    def on_failure(self, error: BaseException) -> None:
        """The session cannot go on: all that is outstanding ends with this error."""
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
        """Settle what is outstanding when the thread ends: nothing stays pending for ever."""
        if self.exchange.link.connection is not None:
            self.exchange.link.connection.close()
        self.exchange.take_cancelled()
        for job in self.jobs.all():  # in the order of their submission
            if self.jobs.take(job.number) is None:
                continue  # cancelled in this very moment
            error = self._failure
            self.delivery.finish(job, Abandoned() if error is None else copy_of(error), None)
        self.exchange.note_progress()


def _look_in_slurm() -> None:
    """Where the user has a cluster in a batch system, its jobs are one of the places to look for the master."""
    noted = f"*-{glob.escape(address.cluster_name())}/state.json"  # (before '-': the system's name)
    if glob.glob(os.path.join(glob.escape(userdir.home_directory()), noted)):
        import cw.slurm  # noqa: F401


def _half_the_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
