"""A cluster on machines that only ssh reaches: `cw.ssh.allocate`, `start`, `stop`, `status`; `cw ssh`.

All that is public is in `cw.ssh.cluster`, which is loaded when it is first used: clients need `cw.ssh.known` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cw.ssh.cluster import MachineStatus as MachineStatus
    from cw.ssh.cluster import SshCluster as SshCluster
    from cw.ssh.cluster import Status as Status
    from cw.ssh.cluster import allocate as allocate
    from cw.ssh.cluster import start as start
    from cw.ssh.cluster import status as status
    from cw.ssh.cluster import stop as stop

__all__ = ["MachineStatus", "SshCluster", "Status", "allocate", "start", "status", "stop"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cw.ssh' has no attribute {name!r}")
    from cw.ssh import cluster

    return getattr(cluster, name)


def __dir__() -> list[str]:
    return sorted(__all__)
