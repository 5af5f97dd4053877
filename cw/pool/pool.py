"""`cw.Pool`: the interface of `multiprocessing.Pool`; the calls run on the cluster.

with cw.Pool() as pool:
    print(pool.map(function, items))
"""

from __future__ import annotations

import operator
import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from cw import guard, own_cluster
from cw.client.options import ClientSettings
from cw.client.session.session import Session
from cw.client.slot_count import SlotCount
from cw.pool.feeder import AHEAD, Feeder, Result, Source, deliver
from cw.pool.jobs import Job, JobMaker
from cw.pool.results import AsyncResult, Callback, IMapIterator, IMapUnorderedIterator, MapResult
from cw.pool.sizes import ALLOWED_SECONDS, Sizes

_RUN, _CLOSE, _TERMINATE = "RUN", "CLOSE", "TERMINATE"


class Pool:
    """The interface of `multiprocessing.Pool`, for calls on the cluster. Connects at construction: raises
    cw.ConnectionError if no master answers.

    `processes`: at most this many jobs run at a time; without it, as many as the cluster has slots. If no cluster is
    known, one of that size is started for the program, as `cw.ClusterExecutor` says. `initializer`,
    `initargs`: called in each runner before the first job of this pool there; if it fails, jobs that come to this
    runner fail with cw.InitializerFailed. `maxtasksperchild` and `context` have no effect, and warn. The other
    parameters are those of `cw.ClusterExecutor`.

    As in multiprocessing, the end of a `with` block terminates the pool. The end of the program waits for the calls
    that have been submitted until then.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        *,
        host: str | None = None,
        port: int | None = None,
        local: bool | int | None = None,
        connect_timeout: float | None = None,
        max_outstanding: tuple[int | None, int | None] | None = None,
        reconnect_timeout: float | None = None,
        seed: int | None = None,
        workdir: str | os.PathLike[str] | None = None,
        modules: Iterable[str | ModuleType] | bool | None = None,
        files: Iterable[str | os.PathLike[str]] | None = None,
        lend: bool = True,
    ) -> None:
        self._state = ""  # until it is connected
        guard.check_import("cw.Pool()")
        if processes is not None and operator.index(processes) < 1:
            raise ValueError("Number of processes must be at least 1")
        _warn_of_unused(maxtasksperchild, context)
        self._most = processes
        self._session = Session(
            ClientSettings(
                host, port, connect_timeout, max_outstanding, reconnect_timeout, seed, workdir, lend,
                initializer=initializer, initargs=initargs, local=local, size=processes, modules=modules, files=files,
            ),
            deliver,
            lambda number, tag: None,
        )  # fmt: skip
        self._session.start()
        self._jobs = JobMaker(self._session)
        self._feeder = Feeder(self._session)
        session = self._session
        self._slots = SlotCount(lambda: session.exchange.link.where, own_cluster.slots_for(session))
        self._sizes = Sizes()
        self._end = weakref.finalize(self, _terminate, self._session, self._feeder, os.getpid())
        self._end.atexit = False  # the session waits for its jobs then
        self._state = _RUN

    # --- calls ---

    def apply(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> Any:
        """Return `func(*args, **kwds)`."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult[Any]:
        """Submit `func(*args, **kwds)`; returns at once. `callback(value)` or `error_callback(exception)` is called in
        the pool's thread before the result is ready."""
        self._check_running()
        result: AsyncResult[Any] = AsyncResult(self, self._session, callback, error_callback)
        self._start(result, iter([self._jobs.one(func, tuple(args), dict(kwds))]))
        return result

    def map(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Return the results of `func` for each item, in order. Raises the first error, when all calls have ended."""
        return self._collect(func, _one_each(iterable), chunksize)

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> MapResult:
        """Submit the calls of a `map`; returns at once. Callbacks as for `apply_async`; they get the whole list, or the
        error."""
        return self._map(func, _one_each(iterable), chunksize, callback, error_callback)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """Map as `map` does; each item is the arguments of a call."""
        return self._collect(func, map(tuple, iterable), chunksize)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> MapResult:
        """Submit the calls of a `starmap`; returns at once. Callbacks as for `map_async`."""
        return self._map(func, map(tuple, iterable), chunksize, callback, error_callback)

    def imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator:
        """Return an iterator over the results, in order. The input is read in a thread, while results are taken."""
        return self._imap(IMapIterator, func, iterable, chunksize)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> IMapIterator:
        """Return an iterator over the results, as they arrive. The input is read as that of `imap`."""
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize)

    # --- its end ---

    def close(self) -> None:
        """Accept no more calls. Those submitted go on."""
        if self._state == _RUN:
            self._state = _CLOSE
            self._feeder.close()

    def terminate(self) -> None:
        """Stop all calls. Results that are not there are cancelled: `get()` raises CancelledError."""
        self._state = _TERMINATE
        self._end()
        self._session.join()

    def join(self) -> None:
        """Wait until all calls have ended, after `close`, or were stopped. Raises ValueError if the pool is open."""
        if self._state == _RUN:
            raise ValueError("Pool is still running")
        self._feeder.join()
        self._session.join()

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self.terminate()

    def __del__(self, warn: Any = warnings.warn, run: str = _RUN) -> None:
        if self._state == run:
            warn(f"unclosed running pool {self!r}", ResourceWarning, source=self)

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        return f"<cw.Pool state={self._state} processes={self._most}>"

    # --- its size ---

    @property
    def size(self) -> int:
        """Number of jobs that run at a time: the cluster's slots, or `processes` if that is less; 1 at least."""
        slots = self._slots.get()
        if self._most is not None:
            return min(self._most, slots or self._most)
        return max(1, slots)

    _processes = size  # the name by which libraries read it

    # --- submission ---

    def _check_running(self) -> None:
        if self._state != _RUN:
            raise ValueError("Pool not running")

    def _collect(
        self, function: Callable[..., Any], iterable: Iterable[tuple[Any, ...]], chunksize: int | None
    ) -> list[Any]:
        self._check_running()
        size, calls = _checked_map(iterable, chunksize)
        label, values = self._jobs.next_label(), []
        if size is None and self._sizes.are_tiny(function, len(calls), self.size):
            jobs = self._jobs.of_map(function, iter(calls), len(calls), label, ALLOWED_SECONDS)
            values = self._gather(function, jobs, 1, is_chunked=True)
            del calls[: len(values)]
            label += len(values)
        if calls:
            size = size or self._sizes.size(function, len(calls), self.size)
            jobs = self._jobs.of_map(function, iter(calls), size, label)
            values += self._gather(function, jobs, -(-len(calls) // size), is_chunked=size > 1)
        return values

    def _gather(
        self, function: Callable[..., Any], jobs: Iterator[Job], count: int, is_chunked: bool
    ) -> list[Any]:
        result = MapResult(self, self._session, None, None, is_chunked, count)
        self._start(result, jobs)
        values = result.get()
        self._sizes.note(function, result.seconds, len(values))
        return values

    def _map(
        self,
        function: Callable[..., Any],
        iterable: Iterable[tuple[Any, ...]],
        chunksize: int | None,
        callback: Callback | None,
        error_callback: Callback | None,
    ) -> MapResult:
        self._check_running()
        size, calls = _checked_map(iterable, chunksize)
        size = size or self._sizes.size(function, len(calls), self.size)
        count = -(-len(calls) // size)
        result = MapResult(self, self._session, callback, error_callback, size > 1, count)
        if count:
            self._start(result, self._jobs.of_map(function, iter(calls), size, self._jobs.next_label()))
        return result

    def _imap(
        self, kind: type[IMapIterator], function: Callable[..., Any], iterable: Iterable[Any], chunksize: int
    ) -> IMapIterator:
        self._check_running()
        size = _checked_size(chunksize)
        result = kind(self, self._session, size > 1)
        jobs = self._jobs.of_map(function, _one_each(iterable), size, self._jobs.next_label())
        self._feeder.put(Source(result, jobs, self._feeder), self._limit() or AHEAD)
        return result

    def _start(self, result: Result, jobs: Iterator[Job]) -> None:
        """Submit jobs now, or as others end."""
        limit = self._limit()
        if limit is not None:
            self._feeder.put(Source(result, jobs, self._feeder), limit)
            return
        source = Source(result, jobs)
        has_more = self._session.submitter.send_together(source.step)
        while has_more:
            has_more = source.step()

    def _limit(self) -> int | None:
        """Return the largest number of jobs at a time, if the cluster would run more."""
        return self._most if self._most is not None and self._slots.get() > self._most else None


def _terminate(session: Session, feeder: Feeder, pid: int) -> None:
    if os.getpid() != pid:
        return  # a forked child, which has neither thread; one of them may have held a lock
    feeder.stop()
    session.close(is_waiting=False)


def _one_each(iterable: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the arguments of calls with one argument."""
    return zip(iterable)


def _checked_map(
    iterable: Iterable[tuple[Any, ...]], chunksize: int | None
) -> tuple[int | None, list[tuple[Any, ...]]]:
    """Return the size of a map's chunks, if it is given, and its calls."""
    return None if chunksize is None else _checked_size(chunksize), list(iterable)


def _checked_size(chunksize: int) -> int:
    size = operator.index(chunksize)
    if size < 1:
        raise ValueError(f"Chunksize must be 1+, not {chunksize!r}")
    return size


def _warn_of_unused(maxtasksperchild: Any, context: Any) -> None:
    if maxtasksperchild is not None:
        if not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0:
            raise ValueError("maxtasksperchild must be a positive int or None")
        text = "maxtasksperchild= has no effect in cw.Pool: start the workers with --max-jobs"
        warnings.warn(text, UserWarning, stacklevel=3)
    if context is not None:
        text = "context= has no effect in cw.Pool: workers start the processes in which calls run"
        warnings.warn(text, UserWarning, stacklevel=3)
