"""Client of a cluster: submits jobs and gets their results. All names of the original library are here.

A module is loaded when one of its names is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cw.client.executor import ClusterExecutor as ClusterExecutor
    from cw.client.executor import SlurmExecutor as SlurmExecutor
    from cw.client.original import BaseClientThread as BaseClientThread
    from cw.client.original import Client as Client
    from cw.client.thread import ClientThread as ClientThread
    from cw.client.thread import randid as randid
    from cw.errors import RemoteException as RemoteException

_MODULE_BY_NAME = {
    "BaseClientThread": "client.original",
    "Client": "client.original",
    "ClientThread": "client.thread",
    "ClusterExecutor": "client.executor",
    "RemoteException": "errors",
    "SlurmExecutor": "client.executor",
    "randid": "client.thread",
}

__all__ = [*_MODULE_BY_NAME]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    import importlib

    module = _MODULE_BY_NAME.get(name)
    if module is None:
        raise AttributeError(f"module 'cw.client' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"cw.{module}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
