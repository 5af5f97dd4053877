"""`ClusterExecutor`: a complete `concurrent.futures.Executor` whose calls run on the cluster's workers."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import logging
import operator
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import InvalidStateError
from typing import Any

from cw import chunks
from cw.future import Future
from cw.session import Abandoned, Session, job_options

logger = logging.getLogger("cw.client")


class Options:
    """Settings of jobs: `executor.options(...).submit(function, *args)`. May be kept and used many times."""

    def __init__(self, executor: ClusterExecutor, options: dict[str, Any]) -> None:
        self._executor = executor
        self._number = executor._session.option_number(options)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """As `ClusterExecutor.submit`, with these options."""
        return self._executor._submit(self._number, function, args, kwargs)

    def map(self, function: Callable[..., Any], *iterables: Iterable[Any], **settings: Any) -> Iterator[Any]:
        """As `ClusterExecutor.map`, with these options."""
        return self._executor._map(self._number, function, iterables, **settings)


class ClusterExecutor(concurrent.futures.Executor):
    """Runs calls on the cluster. Connects when it is made: raises cw.ConnectionError if no master answers.

    `host` may be 'HOST:PORT'; without it the master is found as the README says. `connect_timeout` is in
    seconds, `max_outstanding=(jobs, bytes)` as for ClientThread. All methods may be called from any thread.
    """

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        connect_timeout: float | None = None,
        max_outstanding: tuple[int | None, int | None] | None = None,
        reconnect_timeout: float | None = None,
    ) -> None:
        self._session = Session(
            host, port, _deliver, _tell_started, connect_timeout, max_outstanding, reconnect_timeout
        )
        self._is_shut_down = False
        self._session.start()
        # Who forgets shutdown() leaves no thread and no runners behind; the futures are settled still.
        weakref.finalize(self, self._session.close, is_waiting=True).atexit = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run `fn(*args, **kwargs)` on a worker. Raises NotPicklable (a TypeError) here if it cannot be sent,
        RuntimeError after `shutdown`."""
        return self._submit(0, fn, args, kwargs)

    def options(
        self, *, attempts: int | None = None, timeout: float | None = None, min_time: float | None = None
    ) -> Options:
        """Jobs with settings of their own: `.options(attempts=1).submit(fn, *args)`, or `.map(fn, items)`.

        `attempts`: how many runners a job may take down before it fails with WorkerLost (default 3). With 1 it is
        never tried again once it may have started, whatever happened.

        `timeout`: seconds for which a job may run, from its start on (waiting does not count); for `map`, each chunk is
        a job. Then its process, with all that it has started, gets SIGINT (a KeyboardInterrupt in the job), a second
        later SIGTERM, another second later SIGKILL; the job fails with JobTimeout, and is not tried again.

        `min_time`: seconds that a job needs. It is not started on a worker that is about to be taken away sooner, as
        at the end of an allocation of Slurm's.
        """
        return Options(self, job_options(attempts, timeout, min_time))

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """As `Executor.map` of Python 3.14: results in the order of the input.

        `chunksize` calls travel and run together. `buffersize`: so many calls, at most, are submitted whose results
        have not been taken yet; the input is consumed as results are (without it, at once). `timeout` in seconds,
        from this call on. A failed call raises when its result is taken; those before it in its chunk do not suffer.
        """
        return self._map(0, fn, iterables, timeout=timeout, chunksize=chunksize, buffersize=buffersize)

    def kill(self, future: concurrent.futures.Future[Any]) -> bool:
        """Cancel a call of this executor, also one that runs; answers at once. False: it has ended.

        The future is cancelled (`result()` raises CancelledError). The process that runs the call gets SIGINT (a
        KeyboardInterrupt in it), a second later SIGTERM, another second later SIGKILL, with all that it has started.
        """
        if not isinstance(future, Future) or future._session is not self._session:
            raise ValueError("this future is not of this executor")
        return future.kill()

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool | None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._is_shut_down = True
            self._session.leave_now()  # who presses Ctrl-C does not want to wait for what is outstanding
            return None
        return super().__exit__(kind, error, traceback)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; with `cancel_futures`, cancel those that have not started; with `wait`, block until
        the others have ended."""
        self._is_shut_down = True
        if cancel_futures:
            for future in self._session.tags():
                future.cancel()
        self._session.close(is_waiting=True)
        if wait:
            self._session.join()

    def _submit(
        self, options: int, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future:
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if not callable(fn):
            raise TypeError(f"submit() takes a function first, not {fn!r}")
        future = Future(self._session)
        future._number = self._session.submit(fn, args, kwargs, future, options)
        return future

    def _map(
        self,
        options: int,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        chunksize = operator.index(chunksize)
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None:
            try:
                buffersize = operator.index(buffersize)
            except TypeError:
                raise TypeError("buffersize must be an integer or None") from None
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else time.monotonic() + timeout
        calls = zip(*iterables, strict=False)
        if chunksize == 1:
            futures = (self._submit(options, fn, args, {}) for args in calls)
        else:
            run = functools.partial(chunks.run, fn)
            parts = iter(lambda: list(itertools.islice(calls, chunksize)), [])
            futures = (self._submit(options, run, (part,), {}) for part in parts)
        ahead = None if buffersize is None else max(1, buffersize // chunksize)
        # The calls are submitted now, not when the first result is taken.
        waiting = deque(itertools.islice(futures, ahead))
        return _results(waiting, futures, chunksize > 1, deadline)


def _results(
    waiting: deque[Future], more: Iterator[Future], is_chunked: bool, deadline: float | None
) -> Iterator[Any]:
    """Yield results in order, submitting one more for each that is taken."""
    try:
        while waiting:
            future = waiting.popleft()
            try:
                result = future.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
            except BaseException:
                waiting.appendleft(future)
                raise
            number = future._number
            del future
            following = next(more, None)
            if following is not None:
                waiting.append(following)
            values, error = result if is_chunked else ([result], None)
            del result  # what has been yielded is kept alive by nobody here
            failed = len(values) + 1
            values.reverse()
            while values:
                yield values.pop()
            if error is not None:
                raise chunks.load_error(error, number, failed)
    finally:
        while waiting:
            waiting.pop().cancel()


class SlurmExecutor(ClusterExecutor):
    """A ClusterExecutor, by the name that the original library gave to the one for a Slurm cluster.

    It finds the master as ClusterExecutor does; the user's Slurm job is one of the places looked at.
    """


def _deliver(number: int, future: Future, error: BaseException | None, value: Any) -> None:
    try:
        if error is None:
            future.set_result(value)
        elif not isinstance(error, Abandoned) or not future.cancel():
            future.set_exception(error)
    except InvalidStateError:
        pass  # cancelled in this very moment
    except (
        BaseException
    ):  # Future itself logs an Exception of a callback; nothing may end the session's thread
        logger.error("a callback of a future failed", exc_info=True)


def _tell_started(number: int, future: Future) -> None:
    future.note_running()
