"""cw: a Python loop on hundreds of cores.

    thread = cw.client.ClientThread(callback)    results through callbacks
    executor = cw.ClusterExecutor()              results through concurrent.futures
    for result in cw.map(function, items): ...   replaces the loop
    with cw.allocate(8): ...                     a cluster for the duration of a block
    cw.results('sweep.db')                       the results in a store

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
    from cw import results as results
    from cw import slurm as slurm
    from cw.anywhere import allocate as allocate
    from cw.anywhere import start as start
    from cw.anywhere import stop as stop
    from cw.client import ClientThread as ClientThread
    from cw.client import ClusterExecutor as ClusterExecutor
    from cw.client import SlurmExecutor as SlurmExecutor
    from cw.client import randid as randid
    from cw.client.executor import map as map
    from cw.errors import ConnectionError as ConnectionError
    from cw.errors import EnvironmentMismatch as EnvironmentMismatch
    from cw.errors import Error as Error
    from cw.errors import InitializerFailed as InitializerFailed
    from cw.errors import JobTimeout as JobTimeout
    from cw.errors import NotPicklable as NotPicklable
    from cw.errors import ProtocolError as ProtocolError
    from cw.errors import RemoteException as RemoteException
    from cw.errors import RemoteTraceback as RemoteTraceback
    from cw.errors import SharedRandomState as SharedRandomState
    from cw.errors import StartRefused as StartRefused
    from cw.errors import StoreError as StoreError
    from cw.errors import UnseenChanges as UnseenChanges
    from cw.errors import UnstableKey as UnstableKey
    from cw.errors import WorkerLost as WorkerLost
    from cw.net.address import PORT as PORT
    from cw.payloads.current import CurrentJob as CurrentJob
    from cw.payloads.current import current_job as current_job
    from cw.pool import Pool as Pool
    from cw.slurm import slurm_master_host as slurm_master_host

_MODULES = ("client", "mp", "results", "slurm")
_MODULE_BY_NAME = {
    "PORT": "net.address",
    "ClientThread": "client",
    "randid": "client",
    "ClusterExecutor": "client",
    "SlurmExecutor": "client",
    "map": "client.executor",
    "Pool": "pool",
    "allocate": "anywhere",
    "start": "anywhere",
    "stop": "anywhere",
    "slurm_master_host": "slurm",
    "current_job": "payloads.current",
    "CurrentJob": "payloads.current",
} | dict.fromkeys(
    ("ConnectionError", "EnvironmentMismatch", "Error", "InitializerFailed", "JobTimeout", "NotPicklable",
     "ProtocolError", "RemoteException", "RemoteTraceback", "SharedRandomState", "StartRefused", "StoreError",
     "UnseenChanges", "UnstableKey", "WorkerLost"), "errors",
)  # fmt: skip

__all__ = ["__version__", *_MODULES, *_MODULE_BY_NAME]  # noqa: PLE0604


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
    return sorted({*globals(), *__all__})
