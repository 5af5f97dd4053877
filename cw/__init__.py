"""cw: a Python loop on hundreds of cores.

    thread = cw.client.ClientThread(callback)    results through callbacks
    executor = cw.ClusterExecutor()              results through concurrent.futures
    for result in cw.map(function, items): ...   replaces the loop (in asyncio: async for ... in cw.amap)
    with cw.allocate(8): ...                     a cluster for the duration of a block
    cw.results('sweep.cw')                       the results in a store
    cw.attach('sweep.cw')                        comes back to a run that goes on without its script
    cw.status()                                  what the cluster does at this moment

`python -m cw.master` and `python -m cw.worker HOST` start a cluster by hand. All public names are here; a module is
loaded when one of its names is first used, so that cw's own processes start fast.
"""

from __future__ import annotations

from cw import program as _program

_program.check_interpreter()
_program.drop_cwd_from_path()  # for `python -m cw.…`, before any import from the standard library

from typing import TYPE_CHECKING, Any  # noqa: E402

from cw.version import VERSION as __version__  # noqa: E402

if TYPE_CHECKING:
    from cw import client as client
    from cw import mp as mp
    from cw import slurm as slurm
    from cw import ssh as ssh
    from cw.client import ClientThread as ClientThread
    from cw.client import ClusterExecutor as ClusterExecutor
    from cw.client import SlurmExecutor as SlurmExecutor
    from cw.client import randid as randid
    from cw.client.amap import amap as amap
    from cw.client.futures.future import Future as Future
    from cw.client.map import map as map
    from cw.client.map import starmap as starmap
    from cw.client.share import share as share
    from cw.cluster import allocate as allocate
    from cw.cluster import is_slurm_available as is_slurm_available
    from cw.cluster import start as start
    from cw.cluster import stop as stop
    from cw.credential import CredentialError as CredentialError
    from cw.credential import CredentialMissing as CredentialMissing
    from cw.credential import WrongCredential as WrongCredential
    from cw.detached.attach import Run as Run
    from cw.detached.attach import RunFuture as RunFuture
    from cw.detached.attach import attach as attach
    from cw.errors import ConnectionError as ConnectionError
    from cw.errors import DependencyFailed as DependencyFailed
    from cw.errors import Detached as Detached
    from cw.errors import DetachError as DetachError
    from cw.errors import EnvironmentMismatch as EnvironmentMismatch
    from cw.errors import Error as Error
    from cw.errors import InitializerFailed as InitializerFailed
    from cw.errors import JobStopped as JobStopped
    from cw.errors import JobTimeout as JobTimeout
    from cw.errors import MemoryExceeded as MemoryExceeded
    from cw.errors import NotPicklable as NotPicklable
    from cw.errors import PayloadError as PayloadError
    from cw.errors import ProtocolError as ProtocolError
    from cw.errors import RemoteException as RemoteException
    from cw.errors import RemoteTraceback as RemoteTraceback
    from cw.errors import SharedRandomState as SharedRandomState
    from cw.errors import SharedValueReleased as SharedValueReleased
    from cw.errors import StartRefused as StartRefused
    from cw.errors import StoreError as StoreError
    from cw.errors import UnseenChanges as UnseenChanges
    from cw.errors import UnstableKey as UnstableKey
    from cw.errors import WorkerLost as WorkerLost
    from cw.launch.launcher import LaunchError as LaunchError
    from cw.net.address import PORT as PORT
    from cw.net.address import AddressError as AddressError
    from cw.observer.model import Snapshot as Snapshot
    from cw.overview import status as status
    from cw.payloads.current import CurrentJob as CurrentJob
    from cw.payloads.current import current_job as current_job
    from cw.payloads.job_usage import Usage as Usage
    from cw.payloads.shared import Shared as Shared
    from cw.pool import Pool as Pool
    from cw.results import ResultsModule as _ResultsModule
    from cw.runs.names import RunError as RunError
    from cw.slurm import slurm_master_host as slurm_master_host
    from cw.userdir import HomeError as HomeError

    results: _ResultsModule

_MODULES = ("client", "mp", "results", "slurm", "ssh")
_MODULE_BY_NAME = {
    "PORT": "net.address",
    "ClientThread": "client",
    "randid": "client",
    "ClusterExecutor": "client",
    "SlurmExecutor": "client",
    "map": "client.map",
    "starmap": "client.map",
    "share": "client.share",
    "Shared": "payloads.shared",
    "amap": "client.amap",
    "Pool": "pool",
    "attach": "detached.attach",
    "Run": "detached.attach",
    "RunFuture": "detached.attach",
    "allocate": "cluster",
    "is_slurm_available": "cluster",
    "start": "cluster",
    "stop": "cluster",
    "slurm_master_host": "slurm",
    "status": "overview",
    "Snapshot": "observer.model",
    "current_job": "payloads.current",
    "CurrentJob": "payloads.current",
    "Usage": "payloads.job_usage",
    "Future": "client.futures.future",
    "AddressError": "net.address",
    "CredentialError": "credential",
    "CredentialMissing": "credential",
    "WrongCredential": "credential",
    "HomeError": "userdir",
    "LaunchError": "launch.launcher",
    "RunError": "runs.names",
} | dict.fromkeys(
    ("ConnectionError", "DependencyFailed", "Detached", "DetachError", "EnvironmentMismatch", "Error",
     "InitializerFailed", "JobStopped", "JobTimeout", "MemoryExceeded", "NotPicklable", "PayloadError",
     "ProtocolError", "RemoteException", "RemoteTraceback", "SharedRandomState", "SharedValueReleased",
     "StartRefused", "StoreError", "UnseenChanges", "UnstableKey", "WorkerLost"), "errors",
)  # fmt: skip

__all__ = ["__version__", *_MODULES, *_MODULE_BY_NAME]  # noqa: PLE0604


def _load_client() -> None:
    import contextlib

    with contextlib.suppress(Exception):  # it comes again where the client is used
        from cw.client import executor, executor_parts  # noqa: F401


_program.ahead.append(_load_client)


def __getattr__(name: str) -> Any:
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"cw.{name}")
    module = _MODULE_BY_NAME.get(name)
    if module is None:
        raise AttributeError(f"module 'cw' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"cw.{module}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
