"""`ClusterExecutor`: a complete `concurrent.futures.Executor` whose calls run on the cluster's workers.

This module loads little, so that the first executor of a program starts the cluster that it needs, and the rest of the
client is loaded meanwhile (`cw.client.executor_parts`).
"""

from __future__ import annotations

import concurrent.futures
import os
import warnings
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from cw import guard, html, program
from cw.client.options import ClientSettings, MapArguments, MapSettings
from cw.requirements import OptionArguments, takes_options, to_options

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in `typing` from Python 3.11 on

    from cw.client.futures.future import Future
    from cw.client.with_options import Options

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound="ClusterExecutor")


class ClusterExecutor(concurrent.futures.Executor):
    """Runs calls on the cluster. Connects at construction: raises cw.ConnectionError if no master answers.

    `host` may be 'HOST:PORT'; without it the master is found as the README says. If no cluster is known, one is started
    on this machine for the life of the program, with `max_workers` slots or one for each usable CPU; `local=False`
    forbids that, `local=4` asks for one with four slots whatever is known (raises LaunchError). `connect_timeout`,
    `reconnect_timeout` (seconds) and `max_outstanding=(jobs, bytes)` as for ClientThread. All methods may be called
    from any thread.

    `store`: directory in which each result is stored before its future is done; it is created if missing. Calls whose
    results it already has do not run again. With `durability='disk'`, results survive a power cut, too. Errors are
    stored as well, but such calls run again unless `retry_errors` is false. Raises StoreError.

    `seed`: an int from which the calls' own seeds are derived (`cw.current_job().seed`), the same in each run of the
    program; it is part of the keys of stored results. Without it, seeds are random; in a job, derived from the job's.
    `workdir`: working directory of jobs, in place of this program's own: a path that exists on the workers' machines,
    or 'scratch', a private directory for each process that runs jobs, which is removed with it.
    `modules`: the program's own modules that travel to the workers as files: a list of names; True: all; False: none;
    None: all, if no worker can run the program's calls without. `files`: files and directories below the working
    directory that travel, too: jobs find them by the same relative path. An edit is seen at the next submit or map.
    `output`: what becomes of what jobs print, where their options do not say (see `options`).
    `max_workers`: at most so many of this executor's jobs are under way at a time (each chunk of a `map` is one); None:
    as many as the cluster takes. `mp_context` and `max_tasks_per_child`, of ProcessPoolExecutor, are ignored with a
    warning.
    `initializer`, `initargs`: called in each process that runs jobs of this executor, before the first one there. If it
    fails, the jobs that come to this process fail with cw.InitializerFailed (a BrokenExecutor), which says where. The
    keys of stored results do not depend on it.
    `report`: file for a page about what this executor ran, as `cw report` makes one of a store. It is written when the
    executor is shut down and its calls have ended, also after an error or Ctrl-C. Raises ModuleNotFoundError without
    matplotlib.
    `detach`: True, or a name for the run: what is outstanding when the block or the program ends, by Ctrl-C or with its
    terminal, too, goes on without this program, and its results come to the store. The page "Runs that outlive their
    script" says how to come back. Raises ValueError without a store.
    `lend`: in a job, whether the job lends its CPUs, to jobs of deeper clients only, while its main thread waits for
    results of this executor. With False it holds them: then others must be free for the jobs that it waits for.
    `forward_logging`: whether log records of jobs go to this program's loggers of the same name, where these have
    handlers, with their levels in force in the jobs; and whether warnings of jobs are issued here, under this program's
    filters. With False, jobs log and warn on their own stderr.
    """

    _local: bool | None = None
    """Default of `local`."""
    _assumed_workers: int | None = None

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        local: bool | int | None = None,
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
        output: Literal["print", "keep", "log", "drop"] | None = None,
        forward_logging: bool = True,
        max_workers: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        report: str | os.PathLike[str] | None = None,
        detach: bool | str = False,
        mp_context: Any = None,
        max_tasks_per_child: int | None = None,
    ) -> None:
        guard.check_import("cw.ClusterExecutor()")  # before a store is opened
        detach = _check_detach(detach, store)
        _warn_of_ignored(mp_context, max_tasks_per_child)
        settings = ClientSettings(
            host, port, connect_timeout, max_outstanding, reconnect_timeout, seed, workdir, lend, max_workers,
            initializer, initargs, self._local if local is None else local, max_workers, forward_logging,
            modules, files,
        )  # fmt: skip
        if program.ahead:
            settings.start_cluster()
            program.load_ahead()
        from cw.client import executor_parts

        parts = executor_parts.make(settings, store, durability, retry_errors, output, report, detach)
        self._session = parts.session
        self._futures = parts.futures
        self._defaults = parts.defaults
        self._slot_count = parts.slot_count
        self._detachment = parts.detachment

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """Run `fn(*args, **kwargs)` on a worker. Futures among the arguments, at any depth, stand for their results,
        for which the call waits. Raises NotPicklable (a TypeError) at once if the call cannot be sent, RuntimeError
        after `shutdown`. What this returns is a `cw.Future`, which asyncio can await."""
        return self._futures.submit(self._futures.defaults, self._futures.store_client, fn, args, kwargs)

    def asubmit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit as `submit` does: to type checkers, what this returns can be awaited."""
        return self._futures.submit(self._futures.defaults, self._futures.store_client, fn, args, kwargs)

    @takes_options
    def options(self, *, key: Any = None, version: Any = None, **options: Unpack[OptionArguments]) -> Options:
        """Submit jobs with their own settings: `.options(attempts=1).submit(fn, *args)`, or `.map(fn, items)`.

        `key`, `version` (for a store): `key` (a str, an int or a tuple of these; or a function that returns one for the
        arguments) identifies the call in place of its code and arguments; `version` is part of the key in both cases.

        The other arguments are what a user may ask for a job; the page "Options of jobs" has a table of them.
        """
        # (The class is loaded with the rest; an import here would cost each call.)
        return type(self._defaults)(self._futures, to_options(options), key, version)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        store: str | os.PathLike[str] | None = None,
        progress: bool | Literal["always"] = False,
        as_completed: bool = False,
        return_exceptions: bool = False,
    ) -> Iterator[T]:
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
        return self._defaults._map(fn, iterables, settings, self._futures.end_of_map)

    def starmap(
        self, fn: Callable[..., T], iterable: Iterable[Iterable[Any]], **settings: Unpack[MapArguments]
    ) -> Iterator[T]:
        """Map as `map` does, with the same settings. Each item is the arguments of a call: `fn(*item)`."""
        from cw.client.maps import mapping

        return self.map(fn, mapping.Tuples(iterable), **settings)

    def amap(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any] | AsyncIterable[Any],
        **settings: Unpack[MapArguments],
    ) -> AsyncGenerator[T, None]:
        """Map for `async for`, with the parameters of `map`; inputs may be asynchronous. No thread waits.

        The input is read when the first result is asked for, and as results are taken. When the loop is left, or its
        task is cancelled, the jobs whose results were not taken are cancelled, and stopped if they run.
        """
        return self._defaults.amap(fn, *iterables, **settings)

    def slots(self) -> int:
        """Return the number of slots of the cluster now: those of all workers that are connected and do not drain.

        The master is asked, at most every two seconds; if it does not answer within one, the last number is returned.
        """
        return self._slot_count.get()

    @property
    def _max_workers(self) -> int:
        """What programs for pools read: the number of slots, or `max_workers` if that is less; 1 or more."""
        if self._assumed_workers is not None:
            return self._assumed_workers
        slots, most = max(1, self.slots()), self._session.exchange.most
        return slots if most is None else min(slots, most)

    @_max_workers.setter
    def _max_workers(self, number: int) -> None:
        """Set what those programs read; it limits nothing here."""
        self._assumed_workers = number

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
        from cw.client.futures.future import Future

        if not isinstance(future, Future) or future._session is not self._session:
            raise ValueError("this future is not of this executor")
        return future.kill()

    def restart(self) -> None:
        """Run all jobs submitted from now on in fresh runners, without modules and values that earlier jobs left.

        The working directory and `sys.path` are taken as they are now. Jobs submitted before end in the old runners.
        Raises RuntimeError after `shutdown`."""
        self._session.restart("restart() was called")

    def terminate_workers(self) -> None:
        """Shut down, and stop all calls of this executor, also those that run; the cluster's workers stay.

        The name is that of ProcessPoolExecutor's method (Python 3.14). Returns when all futures are done: `result()` of
        those whose results had not arrived raises CancelledError. The processes that run calls end as after `kill`.
        """
        self._leave()

    def kill_workers(self) -> None:
        """Do as `terminate_workers`: processes that do not end by themselves are killed in any case."""
        self._leave()

    def _leave(self) -> None:
        """Cancel all outstanding jobs, and end the session."""
        self._futures.is_shut_down = True
        if self._detachment is not None:
            self._detachment.note_cancelled()
        self._session.close(is_waiting=False)
        self._join()

    def _cancel(self, futures: Collection[Future[Any]]) -> None:
        """End a map of all calls, whose results nobody takes any more."""
        from cw.client.maps import mapping

        mapping.cancel_all(futures)
        self._leave()

    def _join(self) -> None:
        """Wait for the end of the session, and do what is due then."""
        self._session.join()
        self._write_report()
        if self._detachment is not None:
            self._detachment.end()

    def _leave_over(self) -> None:
        """Shut down, and hand over what is outstanding; if that is not possible, wait for it."""
        assert self._detachment is not None
        if self._detachment.leave():
            self._futures.is_shut_down = True
            self._join()
        else:
            self.shutdown()

    def _write_report(self) -> None:
        """Write the report if one was asked for, and none has been written."""
        delivery = self._session.delivery
        if delivery.run_report is not None:
            delivery.run_report.write(delivery.stored)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool | None:
        if self._detachment is not None:
            self._leave_over()
            return None
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._futures.is_shut_down = True
            self._session.leave_now()  # after Ctrl-C, nobody wants to wait for outstanding jobs
            self._write_report()
            return None
        return super().__exit__(kind, error, traceback)

    async def __aenter__(self: E) -> E:
        return self

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> None:
        """End as `with` does, without blocking the event loop. If the task is cancelled, so are outstanding jobs."""
        from cw.client.futures import async_end  # asyncio takes 40 ms to load

        if self._detachment is not None:
            await async_end.leave_over(self._leave_over)
        else:
            await async_end.leave(self._session, self.shutdown, kind)

    def _repr_html_(self) -> str | None:
        from cw.client import shown

        return html.shown(lambda: shown.of_executor(self._session, self.slots))

    def __reduce__(self) -> Any:
        return self._session.__reduce__()  # (raises, before another attribute raises an error of its own)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; with `cancel_futures`, cancel those that have not started; with `wait`, block until
        the others have ended."""
        self._futures.is_shut_down = True
        self._session.close(is_waiting=True)  # before the others are cancelled: no thread adds one after that
        if cancel_futures:
            jobs = self._session.jobs
            for tag in [job.tag for job in jobs.all()] + [call.tag for call in jobs.held.all()]:
                tag.cancel()
        if wait:
            self._join()


class SlurmExecutor(ClusterExecutor):
    """A ClusterExecutor, under the name of the original library's executor for a Slurm cluster.

    It finds the master as ClusterExecutor does; the user's Slurm job is one of the places searched. Unless `local` says
    so, it starts no cluster.
    """

    _local = False


def _check_detach(detach: bool | str, store: str | os.PathLike[str] | None) -> bool | str:
    """Return the setting. Raises TypeError, ValueError, StartRefused."""
    if detach is not False:
        from cw.runs import detaching  # rarely needed

        detaching.check(detach, store)
    return detach


def _warn_of_ignored(mp_context: Any, max_tasks_per_child: Any) -> None:
    """Warn the caller's caller of settings of a ProcessPoolExecutor that have no meaning here."""
    for name, value, advice in (
        ("mp_context", mp_context, "the cluster's workers start the processes that run jobs"),
        ("max_tasks_per_child", max_tasks_per_child, "give the workers the option --max-jobs"),
    ):
        if value is not None:
            warnings.warn(f"ClusterExecutor ignores {name}: {advice}", UserWarning, stacklevel=3)
