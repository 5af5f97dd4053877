"""One adapter per system, with the same few methods; each is set up as in its own documentation.

Defaults are changed only for a fair comparison: the number of workers, no dashboards, no logs of jobs, results of equal
calls not reused. A system's module is imported when it is opened.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import namespaces
from benchmarks.functions import whoami
from benchmarks.processes import siblings_named

PEER_EXIT_LIMIT = 20.0
PEER_START_LIMIT = 60.0


class System:
    """An open system with a number of slots. `submit` returns something that has `result()`."""

    label: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()  # modules that a program imports before it can open the system
    package: ClassVar[str | None] = None  # the distribution whose version is shown; None: part of Python
    in_process: ClassVar[bool] = False  # True: jobs run in the very process that submits them
    stores: ClassVar[str] = ""  # the directory in which it keeps results; '': it does not
    masters: ClassVar[tuple[str, ...]] = ()  # words in command lines of processes that hold its queue

    def __init__(self, slots: int) -> None:
        raise NotImplementedError

    def submit(self, function: Callable, *args: Any) -> Any:
        raise NotImplementedError

    def submit_all(self, function: Callable, items: Iterable) -> Any:
        """Submit one job for each item; returns the argument of `gather`."""
        return [self.submit(function, item) for item in items]

    def gather(self, handles: Any) -> list:
        return [handle.result() for handle in handles]

    def run(self, function: Callable, items: Iterable) -> list:
        """Run one job for each item; returns all results, in any order."""
        return self.gather(self.submit_all(function, items))

    def run_all(self, function: Callable, calls: Iterable[tuple]) -> list:
        """Run one job for each tuple of arguments; returns all results, in any order."""
        return self.gather([self.submit(function, *arguments) for arguments in calls])

    def share(self, value: Any) -> Any:
        """Give a value to all workers; returns what stands for it in the arguments of jobs."""
        return value

    def map(self, function: Callable, items: Sequence, chunksize: int) -> list:
        raise NotImplementedError(f"{self.label} has no map with a chunk size")

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> System:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @classmethod
    def master_pids(cls) -> list[int]:
        return siblings_named(*cls.masters) if cls.masters else []

    @classmethod
    def missing(cls) -> str | None:
        """Return the reason why the system cannot be used here, or None."""
        for module in cls.modules:
            name = module.partition(".")[0]
            spec = importlib.util.find_spec(name)
            if spec is None or spec.origin is None:  # missing, or an empty folder of that name
                return f"{name} is not installed"
        return None

    @classmethod
    def version(cls) -> str:
        try:
            return version(cls.package) if cls.package else ""
        except PackageNotFoundError:
            return ""


class _Getter:
    """Gives other systems' futures a `result()`; `get` is a bound method, so that it costs little."""

    __slots__ = ("result",)

    def __init__(self, get: Callable[[], Any]) -> None:
        self.result = get


# --- cw --------------------------------------------------------------------------------------------


class _CwSystem(System):
    modules = ("cw",)
    masters = ("cw.worker",)  # in the cluster of one program it is the master, too

    def share(self, value):
        import cw

        return cw.share(value)


class Cw(_CwSystem):
    """An executor with a cluster of its own."""

    label = "cw"

    def __init__(self, slots: int) -> None:
        import cw

        with ExitStack() as stack:
            where = self._start(stack, slots)
            self._executor = stack.enter_context(cw.ClusterExecutor(**where, store=self.stores or None))
            self._stack = stack.pop_all()

    def _start(self, stack: ExitStack, slots: int) -> dict[str, Any]:
        """Start a cluster, unless the executor does; returns where that finds one."""
        return {"local": slots}

    def submit(self, function, *args):
        return self._executor.submit(function, *args)

    def map(self, function, items, chunksize):
        return list(self._executor.map(function, items, chunksize=chunksize))

    def close(self):
        self._stack.close()


class CwStored(Cw):
    """A local cluster with a store: each result is on disk before its future is done."""

    label = "cw, with a store"
    stores = "stored.cw"


class CwWorkers(Cw):
    """A master and one-slot workers, each started by hand."""

    label = "cw, workers of one slot"
    masters = ("cw.master",)

    def _start(self, stack: ExitStack, slots: int) -> dict[str, Any]:
        port = free_port()
        self.master = stack.enter_context(Program("cw.master", "--host", "127.0.0.1", "--port", str(port)))
        self._start_workers(stack, port, slots)
        return {"host": "127.0.0.1", "port": port}

    def _start_workers(self, stack: ExitStack, port: int, slots: int) -> None:
        workers = [stack.enter_context(Program("cw.worker", f"127.0.0.1:{port}")) for _ in range(slots)]
        for worker in workers:  # all get the signal before any is waited for
            stack.callback(worker.process.terminate)


class CwOneWorker(CwWorkers):
    """A master and one worker with all the slots, started by hand."""

    label = "cw, one worker"

    def _start_workers(self, stack: ExitStack, port: int, slots: int) -> None:
        stack.enter_context(Program("cw.worker", f"127.0.0.1:{port}", "-n", str(slots)))


class CwEncrypted(CwWorkers):
    """A master and one worker; the worker and this client talk to the master as if it were on another machine."""

    label = "cw, encrypted"

    def __init__(self, slots: int) -> None:
        from benchmarks import far_worker

        far_worker.look_away()
        super().__init__(slots)

    def _start_workers(self, stack: ExitStack, port: int, slots: int) -> None:
        stack.enter_context(Program("benchmarks.far_worker", f"127.0.0.1:{port}", "-n", str(slots)))


class CwMachines(CwEncrypted):
    """A master and one-slot workers; all talk as if each was on a machine of its own."""

    label = "cw, a machine each"

    def _start_workers(self, stack: ExitStack, port: int, slots: int) -> None:
        wait_for_port(port)  # many programs that start at the same time may hold it up
        for _ in range(slots):
            stack.enter_context(Program("benchmarks.far_worker", f"127.0.0.1:{port}"))


class CwNamespaces(CwWorkers):
    """A client, a master and a worker, each in a network namespace of its own."""

    label = "cw, machines apart"

    def _start(self, stack: ExitStack, slots: int) -> dict[str, Any]:
        middle, far = namespaces.machines(stack)
        port = 5494
        stack.enter_context(Program("cw.master", "--port", str(port), enter=middle.enter))
        worker = ("cw.worker", f"{namespaces.MIDDLE_FROM_FAR}:{port}", "-n", str(slots))
        stack.enter_context(Program(*worker, enter=far.enter))
        return {"host": namespaces.MIDDLE, "port": port}

    @classmethod
    def missing(cls) -> str | None:
        return super().missing() or namespaces.why_not()


class CwCrowd(CwWorkers):
    """A master, and one process that plays all the workers."""

    label = "cw, a crowd"

    def _start_workers(self, stack: ExitStack, port: int, slots: int) -> None:
        crowd = Program("benchmarks.crowd", str(port), str(slots), stdout=subprocess.PIPE)
        stack.enter_context(crowd)
        assert crowd.process.stdout
        if crowd.process.stdout.readline() != b"ready\n":
            raise RuntimeError("the crowd did not get ready")


class CwJoiners(CwWorkers):
    """A master, and a few processes that play all the workers, each process as if on a machine of its own. What the
    master logs is in a file."""

    label = "cw, joiners"
    processes = 4
    log = Path("joining.log")

    def __init__(self, slots: int) -> None:
        self._are_apart = namespaces.why_not() is None
        if self._are_apart:
            namespaces.go_apart()
        super().__init__(slots)

    def _start(self, stack: ExitStack, slots: int) -> dict[str, Any]:
        self.port = free_port()
        self.joiners: list[subprocess.Popen] = []
        self.start_master()
        stack.callback(self._end_all)
        for number in range(self.processes):
            options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            count = str(slots // self.processes)
            enter, here = (), "127.0.0.1"
            if self._are_apart:
                machine, here = namespaces.beside(stack, number)
                enter = machine.enter
            where = here, str(self.port), count
            self.joiners.append(Program("benchmarks.joiners", *where, enter=enter, **options).process)
        return {"host": "127.0.0.1", "port": self.port}

    def _end_all(self) -> None:
        for process in (*self.joiners, self.master.process):
            process.kill()
            process.wait()

    def start_master(self) -> None:
        with self.log.open("ab") as log:
            host = "0.0.0.0" if self._are_apart else "127.0.0.1"
            self.master = Program("cw.master", "--host", host, "--port", str(self.port), stderr=log)
        wait_for_port(self.port)

    def kill_master(self) -> None:
        self.master.process.kill()
        self.master.process.wait()

    def kill_workers(self) -> None:
        for joiner in self.joiners:
            joiner.kill()

    def wait(self) -> None:
        """Return when the master has welcomed all workers."""
        for joiner in self.joiners:
            if _line_of(joiner) != b"joined\n":
                raise RuntimeError("the workers did not join")

    def began(self) -> list[int]:
        """The arguments of all jobs that workers were given, each as often as they were."""
        self._tell_workers(b"count\n")
        return [value for joiner in self.joiners for value in json.loads(_line_of(joiner))]

    def finish(self) -> None:
        """Let the jobs end."""
        self._tell_workers(b"finish\n")

    def _tell_workers(self, command: bytes) -> None:
        for joiner in self.joiners:
            assert joiner.stdin
            joiner.stdin.write(command)
            joiner.stdin.flush()


def _line_of(process: subprocess.Popen) -> bytes:
    assert process.stdout
    return process.stdout.readline()


class CwThread(_CwSystem):
    """A local cluster and a ClientThread with one callback for all jobs; no futures."""

    label = "cw ClientThread"

    def __init__(self, slots: int) -> None:
        import cw

        with ExitStack() as stack:
            stack.enter_context(cw.mp.allocate(slots))
            self._results: list = []
            thread = cw.client.ClientThread(self._on_result, store=self.stores or None)
            self._thread = stack.enter_context(thread)
            self._stack = stack.pop_all()

    def _on_result(self, jobid: object, result: object) -> None:
        self._results.append(result)

    def submit(self, function, *args):
        future: Future = Future()
        options = self._thread.options(callback=lambda jobid, result: future.set_result(result))
        options.submit(function, *args)
        return future

    def submit_all(self, function, items):
        self._results.clear()
        submit = self._thread.submit
        for item in items:
            submit(function, item)

    def gather(self, handles):
        self._thread.wait()
        return self._results.copy()

    def count(self, function: Callable, items: Iterable) -> int:
        """Run the jobs, drop each result as it arrives, and return their number."""
        numbers = itertools.count()
        jobs = self._thread.options(callback=lambda jobid, result: next(numbers))
        for item in items:
            jobs.submit(function, item)
        self._thread.wait()
        return next(numbers)

    def close(self):
        self._stack.close()


class CwThreadStored(CwThread):
    """A ClientThread with a store: each result is on disk before its callback is called."""

    label = "cw ClientThread, with a store"
    stores = "stored.cw"


class Program:
    """`python -m MODULE`, ended by SIGTERM at the end of the block. `enter`: what its command begins with."""

    def __init__(self, module: str, *args: str, enter: Sequence[str] = (), **options: Any) -> None:
        command = [*enter, sys.executable, "-m", module, *args]
        self.process = subprocess.Popen(command, **{"stdin": subprocess.DEVNULL, **options})

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(PEER_EXIT_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def wait_for_port(port: int) -> None:
    """Return when a program listens at this port, or after some time."""
    deadline = time.monotonic() + PEER_EXIT_LIMIT
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- Python's own ----------------------------------------------------------------------------------


class ProcessPool(System):
    label = "ProcessPoolExecutor"
    modules: ClassVar[tuple[str, ...]] = ("concurrent.futures.process",)

    def __init__(self, slots: int) -> None:
        self._executor = self._make(slots)

    def _make(self, slots: int) -> Any:
        from concurrent.futures import ProcessPoolExecutor

        return ProcessPoolExecutor(slots)

    def submit(self, function, *args):
        return self._executor.submit(function, *args)

    def map(self, function, items, chunksize):
        return list(self._executor.map(function, items, chunksize=chunksize))

    def close(self):
        self._executor.shutdown()


class Pool(System):
    label = "Pool"
    modules = ("multiprocessing.pool",)

    def __init__(self, slots: int) -> None:
        import multiprocessing

        self._pool = multiprocessing.Pool(slots)

    def submit(self, function, *args):
        return _Getter(self._pool.apply_async(function, args).get)

    def map(self, function, items, chunksize):
        return self._pool.map(function, items, chunksize)

    def close(self):
        self._pool.close()
        self._pool.join()


class CwPool(Pool):
    """The interface of multiprocessing's pool with a cluster of its own."""

    label = "cw.Pool"
    modules = ("cw",)
    masters = _CwSystem.masters

    def __init__(self, slots: int) -> None:
        import cw

        self._pool = cw.Pool(slots, local=slots)


class PoolAsync(Pool):
    label = "Pool.apply_async"


class PoolImap(Pool):
    label = "Pool.imap_unordered, chunksize=1"

    def submit_all(self, function, items):
        return self._pool.imap_unordered(function, items, chunksize=1)

    def gather(self, handles):
        return list(handles)


class BareLoop(System):
    """No system: the calls run one after the other in this process. A reference, not a peer."""

    label = "a bare loop"
    in_process = True

    def __init__(self, slots: int) -> None:
        pass

    def submit(self, function, *args):
        result = function(*args)
        return _Getter(lambda: result)

    def close(self):
        pass


# --- the others ------------------------------------------------------------------------------------


class Loky(ProcessPool):
    label = "loky"
    modules = ("loky",)
    package = "loky"

    def _make(self, slots: int) -> Any:
        import loky

        return loky.get_reusable_executor(max_workers=slots, timeout=600)


class Mpi4py(ProcessPool):
    label = "mpi4py.futures"
    modules = ("mpi4py", "mpi4py.MPI", "mpi4py.futures")
    package = "mpi4py"

    def _make(self, slots: int) -> Any:
        from mpi4py.futures import MPIPoolExecutor

        return MPIPoolExecutor(slots)

    @classmethod
    def missing(cls) -> str | None:
        return super().missing() or (None if shutil.which("mpiexec") else "there is no mpiexec")


class Mpi4pyCloudpickle(Mpi4py):
    """mpi4py with cloudpickle, as its documentation shows, for functions that pickle does not take."""

    label = "mpi4py.futures with cloudpickle"

    def _make(self, slots: int) -> Any:
        import cloudpickle
        from mpi4py import MPI

        MPI.pickle.__init__(cloudpickle.dumps, cloudpickle.loads)
        return super()._make(slots)


class Executorlib(ProcessPool):
    """executorlib with persistent workers (`block_allocation`), its fast mode."""

    label = "executorlib"
    modules = ("executorlib",)
    package = "executorlib"

    def _make(self, slots: int) -> Any:
        from executorlib import SingleNodeExecutor

        return SingleNodeExecutor(max_workers=slots, block_allocation=True)


class ExecutorlibStored(Executorlib):
    """executorlib with its cache; needs h5py."""

    label = "executorlib, with its cache"
    modules = ("executorlib", "h5py")
    stores = "stored"

    def _make(self, slots: int) -> Any:
        from executorlib import SingleNodeExecutor

        return SingleNodeExecutor(max_workers=slots, block_allocation=True, cache_directory=self.stores)


class JoblibStored(System):
    """A cached function (`Memory`) called by `Parallel`, as its documentation combines them."""

    label = "joblib.Memory"
    modules = ("joblib",)
    package = "joblib"
    stores = "stored"

    def __init__(self, slots: int) -> None:
        import joblib

        self._memory = joblib.Memory(self.stores, verbose=0)
        self._parallel = joblib.Parallel(n_jobs=slots)
        self._parallel.__enter__()

    def submit_all(self, function, items):
        from joblib import delayed

        if function is not whoami:  # whose result differs each time
            function = self._memory.cache(function)
        return self._parallel(delayed(function)(item) for item in items)

    def gather(self, handles):
        return handles

    def close(self):
        self._parallel.__exit__(None, None, None)


class Joblib(System):
    """`joblib.Parallel` with the backend `name`, for what uses joblib inside, too."""

    modules: ClassVar[tuple[str, ...]] = ("joblib",)
    package: ClassVar[str | None] = "joblib"
    name: ClassVar[str]

    def __init__(self, slots: int) -> None:
        import joblib

        with ExitStack() as stack:
            self._open(slots, stack)
            stack.enter_context(joblib.parallel_config(backend=self.name, n_jobs=slots))
            self._stack = stack.pop_all()

    def _open(self, slots: int, stack: ExitStack) -> None:
        """Start what the backend needs."""

    def submit_all(self, function, items):
        from joblib import Parallel, delayed

        return Parallel()(delayed(function)(item) for item in items)

    def run_all(self, function, calls):
        from joblib import Parallel, delayed

        return Parallel(batch_size=1)(delayed(function)(*arguments) for arguments in calls)

    def gather(self, handles):
        return handles

    def close(self):
        self._stack.close()


class JoblibLoky(Joblib):
    """joblib's own processes, its default."""

    label = "joblib, loky"
    name = "loky"


class JoblibCw(Joblib):
    label = "joblib, cw"
    modules = ("cw", "joblib")
    masters = _CwSystem.masters
    name = "cw"

    def _open(self, slots, stack):
        import cw
        import cw.joblib

        stack.enter_context(cw.mp.allocate(slots))


class Dask(System):
    label = "dask.distributed"
    modules = ("dask", "distributed")
    package = "distributed"

    def __init__(self, slots: int) -> None:
        from distributed import Client, LocalCluster

        self._cluster = LocalCluster(
            n_workers=slots, threads_per_worker=1, dashboard_address=None, **self._options()
        )
        self._client = Client(self._cluster)

    def _options(self) -> dict[str, Any]:
        return {}

    def submit(self, function, *args):
        return self._client.submit(function, *args, pure=False)

    def gather(self, handles):
        return self._client.gather(handles)

    def share(self, value):
        return self._client.scatter(value, broadcast=True)

    def close(self):
        self._client.close()
        self._cluster.close()


class DaskEncrypted(Dask):
    label = "dask.distributed, encrypted"
    modules = (*Dask.modules, "cryptography")

    def _options(self):
        from distributed import Security

        return {"protocol": "tls://", "security": Security.temporary()}


class DaskNamespaces(Dask):
    """A client, a scheduler and workers, each in a network namespace of its own; the workers share one."""

    label = "dask.distributed, machines apart"
    modules = DaskEncrypted.modules

    def __init__(self, slots: int) -> None:
        from distributed import Client, Security

        security = Security.temporary()
        with ExitStack() as stack:
            middle, far = namespaces.machines(stack)
            port = 8786
            files = _tls_files(security)
            at = f"tls://{namespaces.MIDDLE_FROM_FAR}:{port}"
            stack.enter_context(
                Program("distributed.cli.dask_scheduler", "--protocol", "tls", "--port", str(port),
                        "--no-dashboard", *files, enter=middle.enter)
            )  # fmt: skip
            stack.enter_context(
                Program("distributed.cli.dask_worker", at, "--nworkers", str(slots), "--nthreads", "1",
                        "--no-dashboard", *files, enter=far.enter)
            )  # fmt: skip
            self._client = stack.enter_context(
                Client(f"tls://{namespaces.MIDDLE}:{port}", security=security, timeout=PEER_START_LIMIT)
            )
            self._client.wait_for_workers(slots, PEER_START_LIMIT)
            self._stack = stack.pop_all()

    def close(self):
        self._stack.close()

    @classmethod
    def missing(cls) -> str | None:
        return super().missing() or namespaces.why_not()


def _tls_files(security: Any) -> list[str]:
    """Write the keys of a dask cluster to files; returns options of its programs."""
    options = []
    for option, text in (
        ("ca-file", security.tls_ca_file),
        ("cert", security.tls_worker_cert),
        ("key", security.tls_worker_key),
    ):
        Path(option).write_text(text)
        options += [f"--tls-{option}", os.path.abspath(option)]
    return options


class JoblibDask(Joblib):
    label = "joblib, dask"
    modules = ("joblib", *Dask.modules)
    package = Dask.package
    name = "dask"

    def _open(self, slots, stack):
        stack.callback(Dask(slots).close)


class Ray(System):
    label = "ray"
    modules = ("ray",)
    package = "ray"
    masters = ("gcs_server", "raylet/raylet")

    def __init__(self, slots: int) -> None:
        import ray

        self._ray = ray
        self._remote: dict[Callable, Any] = {}  # a function is exported once, as by a decorator
        ray.init(
            num_cpus=slots,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=os.path.abspath("r"),  # short, because it becomes part of a socket's name
        )

    def _remote_of(self, function: Callable) -> Any:
        if function not in self._remote:
            self._remote[function] = self._ray.remote(function)
        return self._remote[function]

    def submit(self, function, *args):
        ref = self._remote_of(function).remote(*args)
        return _Getter(lambda: self._ray.get(ref))

    def submit_all(self, function, items):
        remote = self._remote_of(function).remote
        return [remote(item) for item in items]

    def gather(self, handles):
        return self._ray.get(handles)

    def run_all(self, function, calls):
        remote = self._remote_of(function).remote
        return self.gather([remote(*arguments) for arguments in calls])

    def share(self, value):
        return self._ray.put(value)

    def close(self):
        self._ray.shutdown()


class Parsl(System):
    """Parsl's executor for clusters, HighThroughputExecutor, with one block on this machine."""

    label = "parsl"
    modules = ("parsl",)
    package = "parsl"
    masters = ("interchange",)

    def __init__(self, slots: int) -> None:
        import parsl
        from parsl.config import Config
        from parsl.executors import HighThroughputExecutor
        from parsl.providers import LocalProvider

        executor = HighThroughputExecutor(
            address="127.0.0.1",
            max_workers_per_node=slots,
            cores_per_worker=0.01,  # otherwise never more workers than CPUs
            provider=LocalProvider(init_blocks=1, max_blocks=1),
        )
        config = Config(executors=[executor], run_dir="runinfo", strategy="none", initialize_logging=False)
        self._apps: dict[Callable, Any] = {}
        self._python_app = parsl.python_app
        self._kernel = parsl.load(config)

    def submit(self, function, *args):
        if function not in self._apps:
            self._apps[function] = self._python_app(function)
        return self._apps[function](*args)

    def close(self):
        self._kernel.cleanup()


class Ipyparallel(System):
    label = "ipyparallel"
    modules = ("ipyparallel",)
    package = "ipyparallel"
    masters = ("ipyparallel.controller",)

    def __init__(self, slots: int) -> None:
        import ipyparallel

        self._cluster = ipyparallel.Cluster(n=slots)
        self._client = self._cluster.start_and_connect_sync(activate=False)
        self._view = self._client.load_balanced_view()

    def submit(self, function, *args):
        return _Getter(self._view.apply_async(function, *args).get)

    def map(self, function, items, chunksize):
        return self._view.map_sync(function, items, chunksize=chunksize)

    def close(self):
        self._client.close()
        self._cluster.stop_cluster_sync()


SYSTEMS: dict[str, type[System]] = {
    "cw": Cw,
    "cw-thread": CwThread,
    "cw-stored": CwStored,
    "cw-thread-stored": CwThreadStored,
    "cw-workers": CwWorkers,
    "cw-one-worker": CwOneWorker,
    "cw-crowd": CwCrowd,
    "cw-joiners": CwJoiners,
    "cw-encrypted": CwEncrypted,
    "cw-machines": CwMachines,
    "cw-namespaces": CwNamespaces,
    "cw-pool": CwPool,
    "bare-loop": BareLoop,
    "pool": Pool,
    "pool-imap": PoolImap,
    "pool-async": PoolAsync,
    "processpool": ProcessPool,
    "loky": Loky,
    "mpi4py": Mpi4py,
    "mpi4py-cloudpickle": Mpi4pyCloudpickle,
    "executorlib": Executorlib,
    "executorlib-stored": ExecutorlibStored,
    "joblib-stored": JoblibStored,
    "joblib-cw": JoblibCw,
    "joblib-loky": JoblibLoky,
    "joblib-dask": JoblibDask,
    "ray": Ray,
    "parsl": Parsl,
    "dask": Dask,
    "dask-encrypted": DaskEncrypted,
    "dask-namespaces": DaskNamespaces,
    "ipyparallel": Ipyparallel,
}
