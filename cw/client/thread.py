"""`ClientThread`: submit calls from any thread; results come back through callbacks.

    thread = cw.client.ClientThread(callback)
    thread.start()
    jobid = thread.submit(function, argument)

Callbacks run in the client's own thread, one at a time.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import threading
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypeVar, overload

from cw import guard
from cw.client.futures import remote
from cw.client.maps.progress import Counts, Progress
from cw.client.options import ClientSettings, closed_on_error
from cw.client.session.job import NamedTag
from cw.client.session.outcome import Abandoned
from cw.client.session.session import Session
from cw.client.store_client import StoreClient
from cw.errors import RemoteException
from cw.events import EventLogger
from cw.payloads import current, serialize
from cw.payloads.deferred import Deferred
from cw.program import count
from cw.requirements import NO_OPTIONS, JobOptions, OptionArguments, takes_options, to_options

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in `typing` from Python 3.11 on

logger = EventLogger("cw.client")

Callback = Callable[[Any, Any], object]
"""Type of callbacks, which get a job's id (an int, unless the caller has given another) and its result or error."""

JobId = TypeVar("JobId", bound=SupportsIndex | str | bytes | tuple[Any, ...])
"""Type of the caller's own id of a job."""

FAILURES_LOGGED = 10
"""Number of failed callbacks of a client that are logged. More: one mistake in the callback of a million jobs buries
everything else in the log. Fewer: a different failure is not seen."""


def randid() -> int:
    """Return a random job id, for the form of `submit` that takes the caller's own."""
    return secrets.randbits(62)


class Options:
    """Settings of jobs: `thread.options(callback=f).submit(function, *args)`. One object may be used many times."""

    __slots__ = ("_client", "callback", "on_error", "options", "store_client")

    def __init__(
        self,
        client: ClientThread,
        callback: Callback | None,
        on_error: Callback | None,
        options: JobOptions = NO_OPTIONS,
        store_client: StoreClient | None = None,
    ) -> None:
        self._client = client
        self.callback = callback
        self.on_error = on_error
        self.options = options
        self.store_client = store_client

    @overload
    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> int: ...
    @overload
    def submit(self, jobid: JobId, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> JobId: ...
    @overload
    def submit(self, jobid: Any = None, /, *, func: Callable[..., Any], **kwargs: Any) -> Any: ...
    def submit(self, function: Any = None, /, *args: Any, **kwargs: Any) -> Any:
        """Submit as `ClientThread.submit` does, with these options. For any thread."""
        return self._client._submit(self, function, args, kwargs)


class ClientThread:
    """A thread that submits jobs to the master and calls back with their results.

    `callback(jobid, result)` is called in this thread for each job that returns, `on_error(jobid, exception)` for
    each that fails; without `on_error`, `wait()` raises the first error. Either may be None.
    `host` may be 'HOST:PORT'; without it the master is found as the README says. `connect_timeout`: seconds that
    `start` tries to reach it (default 5). `reconnect_timeout`: seconds that the client looks for a lost master while
    jobs are outstanding (default 300). `max_outstanding=(jobs, bytes)`: with that much outstanding, `submit` blocks
    (but never in a callback); None means no limit of jobs, and half of this machine's memory. `store`, `durability`,
    `retry_errors`, `seed`, `workdir`, `modules` and `files` as for ClusterExecutor: each result is stored before its
    callback is called. `lend`, for a client in a job, and `forward_logging`: as for ClusterExecutor. Raises ValueError
    or TypeError for invalid settings, StoreError.

    As a context manager it starts, and at the end of the block waits and stops; an exception cancels outstanding jobs.
    The end of the program waits for outstanding jobs.
    """

    def __init__(
        self,
        callback: Callback | None = None,
        host: str | None = None,
        port: int | None = None,
        *,
        on_error: Callback | None = None,
        connect_timeout: float | None = None,
        max_outstanding: tuple[int | None, int | None] | None = None,
        reconnect_timeout: float | None = None,
        store: str | os.PathLike[str] | None = None,
        durability: Literal["process", "disk"] = "process",
        retry_errors: bool = True,
        seed: int | None = None,
        workdir: str | os.PathLike[str] | None = None,
        modules: Iterable[str | ModuleType] | bool | None = None,
        files: Iterable[str | os.PathLike[str]] | None = None,
        lend: bool = True,
        forward_logging: bool = True,
    ) -> None:
        callback, on_error = _checked(callback, "callback"), _checked(on_error, "on_error")
        store_client = None if store is None else StoreClient(store, durability, retry_errors, seed)
        self._defaults = Options(self, callback, on_error, NO_OPTIONS, store_client)
        with closed_on_error(store_client):
            settings = ClientSettings(
                host, port, connect_timeout, max_outstanding, reconnect_timeout, seed, workdir, lend,
                forward_logging=forward_logging, modules=modules, files=files,
            )  # fmt: skip
            self._session = Session(settings, self._deliver, lambda number, tag: None, store_client)
        self._session.on_exit = self._log_unreported
        self._session.dependents.tag_of = self._tag_of
        # Outstanding jobs with the caller's own id.
        self._tag_by_jobid: dict[Any, NamedTag] = {}
        self._error: BaseException | None = None  # the first that no `on_error` received, for wait()
        # The same, if it is a job's error: a callback's error has been logged.
        self._unreported: BaseException | None = None
        self._callbacks_failed = 0

    def start(self) -> None:
        """Connect to the master. Raises cw.ConnectionError if none answers within `connect_timeout`."""
        if self._session.is_started() or self._session.is_closed:
            raise RuntimeError("this ClientThread was started before, or stopped; make another one")
        guard.check_import("ClientThread.start()")
        self._session.start()

    @overload
    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> int: ...
    @overload
    def submit(self, jobid: JobId, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> JobId: ...
    @overload
    def submit(self, jobid: Any = None, /, *, func: Callable[..., Any], **kwargs: Any) -> Any: ...
    def submit(self, function: Any = None, /, *args: Any, **kwargs: Any) -> Any:
        """Run `function(*args, **kwargs)` on a worker; returns the job's id. For any thread, callbacks included.

        If the first argument is not callable, it is the caller's own id for the job, and the function follows: an int
        (see `cw.randid`), a str, bytes or a tuple. The two may be given as `jobid=` and `func=`, too. Futures among the
        arguments stand for their results, for which the call waits (its id is below 0, unless the caller gave one).
        Raises ValueError for an id that is outstanding, TypeError (NotPicklable) if the call cannot be pickled,
        RuntimeError after `stop`.
        """
        return self._submit(self._defaults, function, args, kwargs)

    @takes_options
    def options(
        self,
        *,
        callback: Callback | None = None,
        on_error: Callback | None = None,
        key: Any = None,
        version: Any = None,
        **options: Unpack[OptionArguments],
    ) -> Options:
        """Submit jobs with their own callbacks and settings: `.options(callback=f).submit(function, *args)`.

        A callback that is not given here is the ClientThread's.

        `key` and `version`, for a store: as in ClusterExecutor's options.

        The other arguments are what a user may ask for a job; the page "Options of jobs" has a table of them.
        """
        store_client = self._defaults.store_client
        if store_client is None and options.get("output") == "keep":
            raise ValueError(
                "output='keep' needs a store, as callbacks get results only: give the ClientThread store=..., or use a "
                "ClusterExecutor, whose futures have stdout and stderr"
            )
        if store_client is not None and (key is not None or version is not None):
            store_client = store_client.with_key(key, version)
        defaults = self._defaults
        # (`or` would ignore a callable that is empty, such as a list with a __call__.)
        return Options(
            self,
            defaults.callback if callback is None else _checked(callback, "callback"),
            defaults.on_error if on_error is None else _checked(on_error, "on_error"),
            to_options(options),
            store_client,
        )

    def cancel(self, jobid: Any) -> bool:
        """Cancel an outstanding job even if it runs; returns at once. False: it has ended, or is not known.

        Its `on_error` gets a CancelledError; its callback is not called. The process that runs it and all processes
        that it has started get SIGINT (a KeyboardInterrupt), a second later SIGTERM, another second later SIGKILL.
        """
        tag = self._tag_by_jobid.get(jobid)
        if tag is not None:
            return bool(tag.number) and self._session.submitter.cancel(tag.number, True, owner=tag)
        job = self._session.jobs.get(jobid)
        if job is None or type(job.tag) is NamedTag:  # that job has the caller's own id, which is another
            return False
        return self._session.submitter.cancel(jobid, True)

    def wait(self, timeout: float | None = None, progress: bool | Literal["always"] = False) -> None:
        """Block until every outstanding job has called back, at most `timeout` seconds (TimeoutError).

        `progress`: show a bar, if stderr is a terminal (with 'always', in any case).

        Then raises the first error of a job that no `on_error` received, or of a callback; each is raised once. A job's
        is of its own type, and a RemoteException too, whose `error` is the text of the traceback.
        """
        if self._session.is_own_thread():
            raise RuntimeError(
                "wait() in a callback would wait for itself; submit more jobs from callbacks instead"
            )
        if not self._session.is_started() and self._session.outstanding():
            raise RuntimeError("wait() before start(): nothing would ever run")
        with Progress(self._counts, progress) if progress else contextlib.nullcontext():
            is_done = self._session.wait(timeout)
        if not is_done:
            left = count(self._session.outstanding(), "job is", "jobs are")
            raise TimeoutError(f"{left} still outstanding after {timeout} s")
        error, of_job, self._error, self._unreported = self._error, self._unreported, None, None
        if error is not None:
            raise error if of_job is None else remote.with_both_types(error)

    @property
    def active_jobs(self) -> int:
        """Number of outstanding jobs."""
        return self._session.outstanding()

    @property
    def remote_exception(self) -> RemoteException | None:
        """The error that `wait()` would raise, as a RemoteException; None may be assigned, as `wait()` does."""
        return None if self._error is None else remote.as_remote(self._error)

    @remote_exception.setter
    def remote_exception(self, error: None) -> None:
        self._error = self._unreported = error

    @functools.cached_property
    def jobs_cond(self) -> threading.Condition:
        """Condition that is held during each callback from now on, and notified after it. (Others do without.)"""
        condition, delivery = self._session.waiting.expose(), self._session.delivery

        def deliver(number: int, tag: Any, error: BaseException | None, value: Any) -> None:
            with condition:
                self._deliver(number, tag, error, value)

        delivery.deliver = deliver
        return condition

    def refresh(self) -> None:
        """Check all values that a function reads at its next `submit`, whatever that costs.

        Same as `ClusterExecutor.refresh`. For any thread.
        """
        self._session.calls.refresh()

    def restart(self) -> None:
        """Run all jobs submitted from now on in fresh runners, without modules and values that earlier jobs left.

        The working directory and `sys.path` are taken as they are now. Jobs submitted before end in the old runners.
        Raises RuntimeError after `stop`."""
        self._session.restart("restart() was called")

    def stop(self) -> None:
        """Disconnect from the master. Outstanding jobs are cancelled (`on_error` gets a CancelledError); `submit`
        raises from then on."""
        self._session.close(is_waiting=False)
        self._session.join()
        self._log_unreported()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended, after `stop`."""
        self._session.join(timeout)

    def is_alive(self) -> bool:
        """True if the thread is running."""
        return self._session.is_alive()

    def __reduce__(self) -> Any:
        return self._session.__reduce__()  # (raises, before another attribute raises an error of its own)

    def __enter__(self) -> ClientThread:
        self.start()
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._session.leave_now()
            return
        try:
            if kind is None:
                self.wait()
        finally:
            self.stop()

    def _submit(self, options: Options, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not args and "func" in kwargs and not callable(function):  # `submit(jobid=7, func=f)`
            jobid, function = kwargs.pop("jobid", function), kwargs.pop("func")
            if jobid is not None:
                function, args = jobid, (function,)
        if callable(function):
            own = None if options is self._defaults else options
            return self._session.submitter.submit(
                function, args, kwargs, own, options.options, options.store_client
            )
        jobid = function
        is_id = isinstance(jobid, (str, bytes, tuple)) or hasattr(
            jobid, "__index__"
        )  # (numpy's integers are not ints)
        if not is_id or isinstance(jobid, bool):
            raise TypeError(
                f"submit() takes a function first, or a job id (an int, a str, a tuple) and a function, not {jobid!r}"
            )
        if not args or not callable(args[0]):
            raise TypeError(f"submit({jobid!r}, ...): after a job id comes the function to call")
        tag = NamedTag(jobid, options)
        if self._tag_by_jobid.setdefault(jobid, tag) is not tag:  # (atomic)
            raise ValueError(f"job id {jobid!r} is outstanding: take another (cw.randid() makes one)")
        try:
            label = current.label_of_id(jobid)
            number = self._session.submitter.submit(
                args[0], args[1:], kwargs, tag, options.options, options.store_client, None, label
            )
            if number > 0:  # otherwise it waits for futures, and has its number already
                tag.number = number
        except BaseException:
            self._tag_by_jobid.pop(jobid, None)
            raise
        return jobid

    def _tag_of(self, number: int, tag: Any) -> NamedTag:
        """Return the tag of a call that waits for futures: it is no job yet, so that this number is its id."""
        if type(tag) is NamedTag:
            return tag
        named = self._tag_by_jobid[number] = NamedTag(number, self._defaults if tag is None else tag)
        return named

    def _counts(self) -> Counts:
        return Counts(*self._session.jobs.counts(), self._session.delivery.stored)

    def _log_unreported(self) -> None:
        """Log an error at the end, when wait() can no longer raise it: it must not be lost silently."""
        error, self._unreported = self._unreported, None
        if error is not None:
            logger.error(
                "client.error_unseen",
                "a job failed, and neither on_error nor wait() received its error",
                exc_info=(type(error), error, error.__traceback__),  # (an exception may be false)
            )

    def _deliver(self, number: Any, tag: Any, error: BaseException | None, value: Any) -> None:
        """Call the callback, in the session's thread."""
        if type(tag) is NamedTag:
            number, options = tag.jobid, tag.options
            self._tag_by_jobid.pop(number, None)
        else:
            options = self._defaults if tag is None else tag
        if type(value) is Deferred:
            try:
                value = value.load()
            except BaseException as failure:
                error = serialize.unreadable(value.describe, failure)
        try:
            if error is None:
                if options.callback is not None:
                    options.callback(number, value)
            elif options.on_error is not None:
                options.on_error(number, error)
            elif self._error is None and not isinstance(error, Abandoned):
                self._error = self._unreported = error
        except BaseException as failure:
            self._callbacks_failed += 1
            if self._callbacks_failed <= FAILURES_LOGGED:
                logger.error("client.callback_failed", "the callback of job %s failed", number, exc_info=True)
            elif self._callbacks_failed == FAILURES_LOGGED + 1:
                logger.error(
                    "client.callbacks_not_logged",
                    "the callback of job %s failed too; later ones are not logged",
                    number,
                )
            if self._error is None:
                self._error = failure


def _checked(callback: Callback | None, name: str) -> Callback | None:
    if callback is not None and not callable(callback):
        raise TypeError(f"{name} must be callable, not {callback!r}")
    return callback
