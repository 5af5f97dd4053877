"""`ClusterExecutor`: a complete `concurrent.futures.Executor` whose calls run on the cluster's workers."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import InvalidStateError
from typing import TYPE_CHECKING, Any

from cw import guard
from cw.client import mapping
from cw.client.future import Future
from cw.client.mapping import MapSettings
from cw.client.options import ClientSettings
from cw.client.outcome import Abandoned
from cw.client.prepared import Prepared
from cw.client.progress import Progress
from cw.client.session import Session
from cw.client.store_client import StoreClient
from cw.events import EventLogger
from cw.payloads.current import LABELS, PLACE
from cw.payloads.objects import CHUNK, CHUNK_OF_EACH, ONE
from cw.requirements import NO_OPTIONS, JobOptions, OptionArguments, takes_options, to_options

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in `typing` from Python 3.11 on

logger = EventLogger("cw.client")


class Options:
    """Settings of jobs: `executor.options(...).submit(function, *args)`. One object may be used many times."""

    def __init__(
        self, executor: ClusterExecutor, options: JobOptions, key: Any = None, version: Any = None
    ) -> None:
        self._executor = executor
        self._options = options
        self._key, self._version = key, version
        self._recorder = self._named(executor._recorder)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Submit as `ClusterExecutor.submit` does, with these options."""
        label = next(self._executor._labels) & LABELS
        return self._executor._submit(self._options, self._recorder, function, args, kwargs, label)

    def freeze(self, function: Callable[..., Any]) -> Callable[..., Future]:
        """Return `submit` for this function with its state as it is now, as `map` takes it. (For cw's own use.)"""
        executor = self._executor
        prepared = executor._session.calls.freeze(function, ONE)

        def submit(*args: Any) -> Future:
            label = next(executor._labels) & LABELS
            try:
                return submit_as(label, args)
            except KeyError:  # no job used the state, and it was forgotten at this very moment
                nonlocal prepared
                prepared = executor._session.calls.freeze(function, ONE)
                return submit_as(label, args)

        def submit_as(label: int, args: tuple[Any, ...]) -> Future:
            return executor._submit(self._options, self._recorder, function, args, {}, label, prepared)

        return submit

    def map(
        self,
        function: Callable[..., Any],
        *iterables: Iterable[Any],
        end: Callable[[], None] = lambda: None,
        **settings: Any,
    ) -> Iterator[Any]:
        """Map as `ClusterExecutor.map` does, with these options. `end()` is called when the iteration ends."""
        if self._key is not None and not callable(self._key):
            raise ValueError(
                "a key for map() must be a function, which gives the key for the arguments of a call"
            )
        return self._executor._map(self, function, iterables, MapSettings(**settings), end)

    def _named(self, recorder: StoreClient | None) -> StoreClient | None:
        if recorder is None or (self._key is None and self._version is None):
            return recorder
        return recorder.with_key(self._key, self._version)


class ClusterExecutor(concurrent.futures.Executor):
    """Runs calls on the cluster. Connects at construction: raises cw.ConnectionError if no master answers.

    `host` may be 'HOST:PORT'; without it the master is found as the README says. `connect_timeout`,
    `reconnect_timeout` (seconds) and `max_outstanding=(jobs, bytes)` as for ClientThread. All methods may be called
    from any thread.

    `store`: directory in which each result is stored before its future is done; it is created if missing. Calls whose
    results it already has do not run again. With `durability='disk'`, results survive a power cut, too. Errors are
    stored as well, but such calls run again unless `retry_errors` is false. Raises StoreError.

    `seed`: an int from which the calls' own seeds are derived (`cw.current_job().seed`), the same in each run of the
    program; it is part of the keys of stored results. Without it, seeds are random; in a job, derived from the job's.
    `workdir`: working directory of jobs, in place of this program's own: a path that exists on the workers' machines,
    or 'scratch', a private directory for each process that runs jobs, which is removed with it.
    `lend`: in a job, whether the job lends its CPUs, to jobs of deeper clients only, while its main thread waits for
    results of this executor. With False it holds them: then others must be free for the jobs that it waits for.
    """

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        connect_timeout: float | None = None,
        max_outstanding: tuple[int | None, int | None] | None = None,
        reconnect_timeout: float | None = None,
        store: str | os.PathLike[str] | None = None,
        durability: str = "process",
        retry_errors: bool = True,
        seed: int | None = None,
        workdir: str | os.PathLike[str] | None = None,
        lend: bool = True,
    ) -> None:
        guard.check_import("cw.ClusterExecutor()")  # before a store is opened
        self._labels = itertools.count(PLACE, PLACE)  # of submits, and of maps' first calls
        self._open_store = functools.partial(
            StoreClient, durability=durability, retry_errors=retry_errors, seed=seed
        )
        self._recorder = recorder = None if store is None else self._open_store(store)
        try:
            settings = ClientSettings(
                host, port, connect_timeout, max_outstanding, reconnect_timeout, seed, workdir, lend
            )
            self._session = Session(settings, _deliver, _notify_started, recorder)
            self._session.start()
        except BaseException:
            if recorder is not None:
                recorder.close()
            raise
        self._is_shut_down = False
        self._defaults = Options(self, NO_OPTIONS)
        # A forgotten shutdown() leaves no thread and no runners behind; the futures are still settled.
        weakref.finalize(self, self._session.close, is_waiting=True).atexit = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run `fn(*args, **kwargs)` on a worker. Raises NotPicklable (a TypeError) at once if the call cannot be sent,
        RuntimeError after `shutdown`."""
        return self._submit(NO_OPTIONS, self._recorder, fn, args, kwargs, next(self._labels) & LABELS)

    @takes_options
    def options(self, *, key: Any = None, version: Any = None, **options: Unpack[OptionArguments]) -> Options:
        """Submit jobs with their own settings: `.options(attempts=1).submit(fn, *args)`, or `.map(fn, items)`.

        `key`, `version` (for a store): `key` (a str, an int or a tuple of these; or a function that returns one for the
        arguments) identifies the call in place of its code and arguments; `version` is part of the key in both cases.

        The other arguments are what a user may ask for a job; the page "Options of jobs" has a table of them.
        """
        return Options(self, to_options(options), key, version)

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        store: str | os.PathLike[str] | None = None,
        progress: bool | str = False,
        as_completed: bool = False,
        return_exceptions: bool = False,
    ) -> Iterator[Any]:
        """Map as `Executor.map` of Python 3.14: yields results in the order of the input.

        `chunksize`: number of calls that travel and run together. `buffersize`: maximum number of submitted calls whose
        results have not been taken yet; the input is read as results are taken (without it, at once). `timeout`:
        seconds, from this call on. A failed call raises when its result is taken; earlier calls of its chunk are not
        affected.

        `store`: store for these calls, in place of the executor's own. `progress`: a bar, if stderr is a terminal (with
        'always', in any case). `as_completed`: yield results in the order in which they arrive. `return_exceptions`:
        yield an exception of a call in place of its result.
        """
        settings = MapSettings(
            timeout, chunksize, buffersize, store, progress, as_completed, return_exceptions
        )
        return self._map(self._defaults, fn, iterables, settings, lambda: None)

    def refresh(self) -> None:
        """Check all values that a function reads at its next `submit`, whatever that costs.

        Needed after a change in place of a value that is too large to be checked each time (see `cw.UnseenChanges`).
        """
        self._session.calls.refresh()

    def kill(self, future: concurrent.futures.Future[Any]) -> bool:
        """Cancel a call of this executor even if it runs; returns at once. False: the call has ended.

        The future is cancelled (`result()` raises CancelledError). The process that runs the call and all processes
        that it has started get SIGINT (a KeyboardInterrupt), a second later SIGTERM, another second later SIGKILL.
        """
        if not isinstance(future, Future) or future._session is not self._session:
            raise ValueError("this future is not of this executor")
        return future.kill()

    def restart(self) -> None:
        """Run all jobs submitted from now on in fresh runners, without modules and values that earlier jobs left.

        The working directory and `sys.path` are taken as they are now. Jobs submitted before end in the old runners.
        Raises RuntimeError after `shutdown`."""
        self._session.restart("restart() was called")

    def _leave(self) -> None:
        """Cancel all outstanding jobs, and end the session."""
        self._is_shut_down = True
        self._session.close(is_waiting=False)
        self._session.join()

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool | None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._is_shut_down = True
            self._session.leave_now()  # after Ctrl-C, nobody wants to wait for outstanding jobs
            return None
        return super().__exit__(kind, error, traceback)

    def __reduce__(self) -> Any:
        return self._session.__reduce__()  # (raises, before another attribute raises an error of its own)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; with `cancel_futures`, cancel those that have not started; with `wait`, block until
        the others have ended."""
        self._is_shut_down = True
        if cancel_futures:
            for job in self._session.jobs.all():
                job.tag.cancel()
        self._session.close(is_waiting=True)
        if wait:
            self._session.join()

    def _submit(
        self,
        options: JobOptions,
        recorder: StoreClient | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        label: int,
        prepared: Prepared | None = None,
    ) -> Future:
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if not callable(fn):
            raise TypeError(f"submit() takes a function first, not {fn!r}")
        future = Future(self._session)
        future._number = self._session.submit(fn, args, kwargs, future, options, recorder, prepared, label)
        return future

    def _map(
        self,
        options: Options,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        settings: MapSettings,
        end: Callable[[], None],
    ) -> Iterator[Any]:
        timeout, chunksize, buffersize, store, progress, as_completed, return_exceptions = settings.checked()
        self._session.calls.look_at_modules()
        tally = mapping.Tally(mapping.length_of(iterables), self._session)
        bar = Progress(tally.counts, progress) if progress else None
        recorder = self._recorder_of_map(options, store)
        deadline = None if timeout is None else time.monotonic() + timeout
        is_each = bool(recorder or progress or as_completed or return_exceptions)
        calls = zip(*iterables, strict=False)
        futures = self._submit_all(options._options, recorder, fn, calls, chunksize, is_each)
        if bar is not None:
            futures = tally.watch(futures)
        ahead = None if buffersize is None else max(1, buffersize if is_each else buffersize // chunksize)
        feed = mapping.Feed(futures, ahead)
        waiting = feed.start()  # now, not when the first result is taken
        if chunksize > 1 and not is_each:
            return mapping.of_chunks(waiting, feed, deadline, end)
        order = mapping.as_completed if as_completed else mapping.in_order
        results = order(waiting, feed, deadline, return_exceptions, end)
        return results if bar is None else mapping.with_progress(results, bar)

    def _recorder_of_map(self, options: Options, store: str | os.PathLike[str] | None) -> StoreClient | None:
        """Return the store client of a map. `store`: in place of the executor's own."""
        recorder = options._recorder
        if store is not None:
            opened = self._open_store(store)
            self._session.delivery.close_with(opened)
            recorder = options._named(opened)
        return None if recorder is None else recorder.of_map()

    def _submit_all(
        self,
        options: JobOptions,
        recorder: StoreClient | None,
        fn: Callable[..., Any],
        calls: Iterator[tuple[Any, ...]],
        chunksize: int,
        is_each: bool,
    ) -> Iterator[Future]:
        """Yield the futures of a map's calls, or of its chunks; each is submitted when it is taken."""
        session = self._session
        label = next(self._labels) & LABELS
        if chunksize == 1:
            prepared = session.calls.freeze(fn, ONE)
            return (
                self._submit(options, recorder, fn, args, {}, place, prepared)
                for place, args in enumerate(calls, label)
            )
        prepared = session.calls.freeze(fn, CHUNK_OF_EACH if is_each else CHUNK)

        def begin(label: int) -> mapping.Batch:
            if is_each:
                return mapping.EachBatch(session, options, fn, prepared, label, recorder)
            return mapping.WholeBatch(session, options, fn, prepared, label)

        return mapping.in_batches(calls, chunksize, label, begin)


BUFFER = 1000
"""Calls of `cw.map` in progress at a time. More: more results wait in memory. Less: many slots are idle."""


def map(
    function: Callable[..., Any],
    *iterables: Iterable[Any],
    host: str | None = None,
    port: int | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: bool | str = False,
    as_completed: bool = False,
    return_exceptions: bool = False,
    chunksize: int = 1,
    buffersize: int = BUFFER,
    timeout: float | None = None,
    durability: str = "process",
    retry_errors: bool = True,
    key: Callable[..., Any] | None = None,
    version: Any = None,
    seed: int | None = None,
    workdir: str | os.PathLike[str] | None = None,
) -> Iterator[Any]:
    """Yield the results of `function` for each item, computed on the cluster: replaces a loop.

    Connects as ClusterExecutor does, and disconnects when all results have been taken or the loop is left. The input
    is read as results are taken, so that neither must fit in memory. All other parameters are those of
    `ClusterExecutor`, its `map` and its `options`.
    """
    guard.check_import("cw.map()")
    executor = ClusterExecutor(
        host, port, store=store, durability=durability, retry_errors=retry_errors, seed=seed, workdir=workdir
    )
    try:
        return executor.options(key=key, version=version).map(
            function, *iterables, progress=progress, as_completed=as_completed, return_exceptions=return_exceptions,
            chunksize=chunksize, buffersize=buffersize, timeout=timeout, end=executor._leave,
        )  # fmt: skip
    except BaseException:
        executor._leave()
        raise


class SlurmExecutor(ClusterExecutor):
    """A ClusterExecutor, under the name of the original library's executor for a Slurm cluster.

    It finds the master as ClusterExecutor does; the user's Slurm job is one of the places searched.
    """


def _deliver(number: int, tag: Any, error: BaseException | None, value: Any) -> None:
    if type(tag) is mapping.ChunkTag:
        tag.deliver(number, error, value, _settle)
    else:
        _settle(number, tag, error, value)


def _settle(number: int, future: Future, error: BaseException | None, value: Any) -> None:
    try:
        if error is None:
            future.set_result(value)
        elif not isinstance(error, Abandoned) or not future.cancel():
            future.set_exception(error)
    except InvalidStateError:
        pass  # cancelled at this very moment
    except BaseException:  # Future itself logs a callback's Exception; nothing may end the session's thread
        logger.error("client.done_callback_failed", "a callback of a future failed", exc_info=True)


def _notify_started(number: int, future: Future) -> None:
    future.note_running()
