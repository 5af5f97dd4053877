"""joblib's backend "cw", which `import cw.joblib` registers: a cluster for scikit-learn and all else that uses joblib.

    Parallel --batch of calls--> submit --> job --> future --callback--> Parallel, which submits the next batch
                                   '-- large arguments that recur: state of the job's function, an object, which
                                       travels once on each hop

In this module `joblib` is the library, as everywhere: imports are absolute.
"""

from __future__ import annotations

import concurrent.futures
import math
import operator
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import joblib
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase, ThreadingBackend

from cw import own_cluster
from cw.client.executor import ClusterExecutor
from cw.client.with_options import Options
from cw.payloads.current import current_job

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in `typing` from Python 3.11 on

    from cw.requirements import OptionArguments

Task = tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]
"""A call as joblib has it: function, arguments, keyword arguments."""

Done = Callable[[Any], object]
"""What joblib wants called with the future of a batch when it is done."""

LEAST_SLOTS = 2
"""Number of slots that is reported at least. With 1, joblib would run the calls in this process."""

CELL_BYTES = 8
"""Size of a value in a table or sparse matrix that does not say how large it is (bytes)."""


class ClusterBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Runs the calls of `joblib.Parallel` on a cluster.

    `host`, `port`, `local`, `initializer`, `initargs`: as for `cw.ClusterExecutor`; a cluster of the program's own has
    at least `n_jobs` slots. The other arguments are options of the jobs, as `executor.options` takes them. Connects at
    construction: raises cw.ConnectionError if no master answers. A Parallel with an initializer of its own has a
    connection, and thus runners, of its own.

    `n_jobs=-1` (the default here) uses the slots that are there when the call of Parallel begins; it waits for the
    first. With a number, at most that many batches run at a time, however many slots there are.

    Arguments of `max_nbytes` and more (1 MB, unless `parallel_config` says otherwise) that recur travel once to each
    machine: arrays, tables, sparse matrices. Arrays are read-only in the calls, as with joblib's memory maps;
    `mmap_mode="c"` makes them writable copies.
    """

    MIN_IDEAL_BATCH_DURATION = 0.2
    MAX_IDEAL_BATCH_DURATION = 1.0
    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        local: bool | int | None = None,
        nesting_level: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        **options: Unpack[OptionArguments],
    ) -> None:
        super().__init__(nesting_level=nesting_level)
        self._options = options
        self._is_sized = type(local) is int  # the size of a cluster that cw starts was given
        # joblib bounds what is outstanding (`pre_dispatch`), and submits under a lock that callbacks take, too: a
        # submit that waited for room would wait for ever.
        self._connect = partial(ClusterExecutor, host, port, local=local, max_outstanding=(None, sys.maxsize))
        self._own = initializer, tuple(initargs)
        self._begin(*self._own)
        if current_job() is not None:
            # In a job, Parallel waits in `retrieve_result`, which lends the slot, not in a loop of short sleeps.
            self.supports_retrieve_callback = False
        self._parallel: Callable[[], Any] = lambda: None
        self._lock = threading.Lock()  # guards what follows: callbacks run in the client's thread
        self._limit = 0  # most jobs at a time; 0: no limit
        self._count = 0  # jobs that have been submitted and are not done
        self._held: deque[tuple[Any, Done | None]] = deque()  # batches beyond the limit
        self._futures: dict[
            concurrent.futures.Future[Any], Any
        ] = {}  # of these jobs, with what keeps their state
        self._large = LargeArguments(self._jobs)

    def _begin(
        self,
        initializer: Callable[..., Any] | None,
        initargs: tuple[Any, ...],
        max_workers: int | None = None,
    ) -> None:
        """Connect, with this initializer for the runners. `max_workers`: size of a cluster of the program's own."""
        self._initialized_by = initializer, initargs
        self._executor = self._connect(initializer=initializer, initargs=initargs, max_workers=max_workers)
        self._jobs = self._executor.options(**self._options)

    # --- what joblib asks and reports ---

    @property
    def parallel(self) -> Any:
        """The Parallel that uses this backend. (A weak reference: without a circle, the client ends with its user.)"""
        return self._parallel()

    @parallel.setter
    def parallel(self, parallel: Any) -> None:
        self._parallel = (lambda: None) if parallel is None else weakref.ref(parallel)

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return the number of calls that can run at a time; with a negative `n_jobs`, that of the slots now."""
        if n_jobs is None:
            n_jobs = self.default_n_jobs
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        return n_jobs if n_jobs > 0 else max(LEAST_SLOTS, self._slots() + 1 + n_jobs)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        *,
        max_nbytes: int | None = 1 << 20,
        mmap_mode: str | None = "r",
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        **others: Any,
    ) -> int:
        """Take the settings of a Parallel, and return `effective_n_jobs`."""
        self.parallel = parallel
        wanted = self._own if initializer is None else (initializer, tuple(initargs))
        slots = own_cluster.slots_for(self._executor._session)
        if n_jobs is not None and n_jobs > slots > 0 and not self._is_sized:
            self._executor.shutdown(wait=False)
            self._begin(*wanted, max_workers=n_jobs)
        elif not _is_same(wanted, self._initialized_by):
            self._executor.shutdown(wait=False)
            self._begin(*wanted)
        count = self.effective_n_jobs(n_jobs)
        # (In a job, Parallel itself waits for each future, so no batch is held back.)
        self._limit = count if n_jobs > 0 and self.supports_retrieve_callback else 0
        self._large = LargeArguments(self._jobs, None if mmap_mode is None else max_nbytes, mmap_mode == "r")
        return count

    def start_call(self) -> None:
        """Begin a call of Parallel."""
        self._large.clear()

    def stop_call(self) -> None:
        """End a call of Parallel."""
        self._large.clear()

    def terminate(self) -> None:
        """End the use by a Parallel. The connection stays for the next one."""
        self.reset_batch_stats()

    def get_nested_backend(self) -> tuple[Any, int | None]:
        """Return the backend of a Parallel inside of a call: threads, on the CPUs of the job's slot."""
        return SlotThreads(nesting_level=self._level()), None

    def submit(self, func: Any, callback: Done | None = None) -> Any:
        """Submit a batch of calls. `callback(future)` is called in every case, also if the batch does not pickle."""
        with self._lock:
            if self._limit and self._count >= self._limit:
                self._held.append((func, callback))
                return None
            self._count += 1
        future, has_started = self._start(func, callback)
        if not has_started:
            self._start_held()
        return future

    def retrieve_result_callback(self, future: concurrent.futures.Future[Any]) -> Any:
        """Return the results of a batch that is done, or raise its error."""
        return future.result()

    def retrieve_result(self, future: concurrent.futures.Future[Any], timeout: float | None = None) -> Any:
        """Wait for the results of a batch, in a job."""
        return future.result(timeout)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop all jobs, also those that run. Their callbacks get cancelled futures."""
        with self._lock:
            held, futures = [*self._held], [*self._futures]
            self._held.clear()
        for future in futures:
            self._executor.kill(future)
        for _, callback in held:
            cancelled: concurrent.futures.Future[Any] = concurrent.futures.Future()
            cancelled.cancel()
            if callback is not None:
                callback(cancelled)

    # --- batches as jobs ---

    def _start(self, batch: Any, callback: Done | None) -> tuple[Any, bool]:
        """Submit a batch. Returns its future, and whether there is a job: without one, the callback has been called."""
        try:
            sharer, tasks = self._large.take_out(batch.items)
            if sharer is None:
                future = self._jobs.submit(run_batch, tasks, self._level())
            else:
                future = sharer.submit(tasks, self._level())
        except Exception as error:  # in a callback of the client's thread, nobody would see it
            failed: concurrent.futures.Future[Any] = concurrent.futures.Future()
            failed.set_exception(error)
            if callback is not None:
                callback(failed)
            return failed, False
        with self._lock:
            self._futures[future] = sharer
        future.add_done_callback(partial(self._on_done, callback))
        return future, True

    def _on_done(self, callback: Done | None, future: concurrent.futures.Future[Any]) -> None:
        with self._lock:
            self._futures.pop(future, None)
        try:
            if callback is not None:
                callback(future)
        finally:
            self._start_held()

    def _start_held(self) -> None:
        """Give the place of a batch that has no job, or none any more, to the next one that is held back."""
        has_started = False
        while not has_started:
            with self._lock:
                if not self._held:
                    self._count -= 1
                    return
                batch, callback = self._held.popleft()
            _, has_started = self._start(batch, callback)

    def _level(self) -> int:
        return (self.nesting_level or 0) + 1

    def _slots(self) -> int:
        """Return the number of slots now; wait for the first."""
        slots = self._executor.slots()
        if not slots:
            self._executor.submit(_nothing).result()
            slots = self._executor.slots()
        return slots


def _is_same(one: tuple[Any, tuple[Any, ...]], other: tuple[Any, tuple[Any, ...]]) -> bool:
    """True if these are the same initializer with the same arguments (which may be arrays, so not compared)."""
    parts, others = (one[0], *one[1]), (other[0], *other[1])
    return len(parts) == len(others) and all(map(operator.is_, parts, others))


class SlotThreads(ThreadingBackend):  # type: ignore[misc]
    """Runs a Parallel inside of a call in threads, as many as the job's slot has CPUs; with one, without threads."""

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Return the number of threads."""
        job = current_job()
        cpus = 1 if job is None else job.cpus
        if n_jobs is not None and n_jobs < 0:
            n_jobs = max(1, cpus + 1 + n_jobs)
        return min(int(super().effective_n_jobs(n_jobs)), cpus)


# --- arguments that recur ---


class Reference:
    """The place of an argument that travels apart from its call."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __reduce__(self) -> Any:
        return Reference, (self.index,)


class Sharing:
    """The function of jobs that share values: its state, which is an object of the session."""

    def __init__(self, values: Sequence[Any], is_read_only: bool) -> None:
        self.values = values
        self.is_read_only = is_read_only

    def __call__(self, tasks: Sequence[Task], level: int) -> list[Any]:
        if self.is_read_only:  # the calls of one batch share it
            for value in self.values:
                if hasattr(value, "setflags"):
                    value.setflags(write=False)
        whole = [
            (function, [*map(self._put_in, args)], {name: self._put_in(kwargs[name]) for name in kwargs})
            for function, args, kwargs in tasks
        ]
        return run_batch(whole, level)

    def _put_in(self, value: Any) -> Any:
        return self.values[value.index] if type(value) is Reference else value


class Sharer:
    """Submits jobs that share values, which are taken as they are now. The client keeps them as long as this lives."""

    def __init__(self, jobs: Options, values: Sequence[Any], is_read_only: bool) -> None:
        self.submit = jobs.freeze(Sharing(values, is_read_only))


class LargeArguments:
    """Large arguments of one call of Parallel: those that recur travel apart from the batches.

    A value recurs if an earlier batch had it. All those of the first batch with any are taken to: usually each call
    has the same. `least`: size from which an argument is large (bytes); None: none is.
    """

    def __init__(self, jobs: Options, least: int | None = None, is_read_only: bool = True) -> None:
        self._jobs = jobs
        self._least = least
        self._is_read_only = is_read_only
        self._seen: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        # By the ids of their values. They live as long as a job uses them: a chunk of data that does not recur is
        # not kept.
        self._sharers: weakref.WeakValueDictionary[tuple[int, ...], Sharer] = weakref.WeakValueDictionary()

    def clear(self) -> None:
        """Forget what occurred."""
        self._seen.clear()

    def take_out(self, tasks: Sequence[Task]) -> tuple[Sharer | None, Sequence[Task]]:
        """Return what submits a batch, with references in place of what travels apart; None: nothing does."""
        large = {id(value): value for value in _arguments(tasks) if self._is_large(value)}
        if not large:
            return None, tasks
        is_first = not self._seen
        shared = {key: value for key, value in large.items() if is_first or self._seen.get(key) is value}
        self._seen.update(large)
        if not shared:
            return None, tasks
        places = {key: Reference(index) for index, key in enumerate(shared)}
        sharer = self._sharers.get(tuple(shared))
        if sharer is None:
            sharer = self._sharers[tuple(shared)] = Sharer(self._jobs, [*shared.values()], self._is_read_only)
        return sharer, [
            (
                function,
                [places.get(id(value), value) for value in args],
                {name: places.get(id(value), value) for name, value in kwargs.items()},
            )
            for function, args, kwargs in tasks
        ]

    def _is_large(self, value: Any) -> bool:
        return self._least is not None and _size(value) >= self._least and _is_weakly_referable(value)


def _arguments(tasks: Sequence[Task]) -> Iterator[Any]:
    for _, args, kwargs in tasks:
        yield from args
        yield from kwargs.values()


def _size(value: Any) -> int:
    """Return the approximate size of an array, a table or a sparse matrix (bytes); 0 for anything else."""
    if isinstance(value, (int, float, str, list, dict, tuple, type(None))):
        return 0
    size = getattr(value, "nbytes", None)
    if type(size) is int:
        return size
    cells = getattr(value, "nnz", None)
    if type(cells) is int:
        return cells * CELL_BYTES
    shape = getattr(value, "shape", None)
    if type(shape) is tuple and all(type(length) is int for length in shape):
        return math.prod(shape) * CELL_BYTES
    return 0


def _is_weakly_referable(value: Any) -> bool:
    try:
        weakref.ref(value)
    except TypeError:
        return False
    return True


# --- in a job ---


def run_batch(tasks: Sequence[Task], level: int) -> list[Any]:
    """Run the calls of a batch. `level`: the nesting level of a Parallel inside of them."""
    with joblib.parallel_config(backend=SlotThreads(nesting_level=level), n_jobs=None):
        return [function(*args, **kwargs) for function, args, kwargs in tasks]


def _nothing() -> None:
    pass


joblib.register_parallel_backend("cw", ClusterBackend)
