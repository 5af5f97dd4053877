"""Objects valid only in processes that multiprocessing itself has started: connections, queues, locks, managers.

Some of them pickle, but become a number that means another descriptor in the runner (a `Connection`). All of them are
refused by name, but a manager's proxies: an address, for which runners have the key (`cw.payloads.environment`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from cw.errors import ConnectionError

MARK = b"multiprocessing."
"""Bytes found in every pickle that names any of them."""

_KINDS = (
    ("connection", "_ConnectionBase"), ("managers", "BaseProxy"), ("managers", "BaseManager"),
    ("resource_sharer", "DupFd"), ("queues", "Queue"), ("queues", "SimpleQueue"), ("synchronize", "SemLock"),
    ("synchronize", "Condition"), ("synchronize", "Event"), ("synchronize", "Barrier"),
    ("sharedctypes", "SynchronizedBase"), ("heap", "BufferWrapper"), ("process", "BaseProcess"), ("pool", "Pool"),
)  # fmt: skip


def is_loaded() -> bool:
    """True if this process can contain any of them."""
    return "multiprocessing.connection" in sys.modules


def kinds() -> tuple[type, ...]:
    """Return the classes whose instances must not travel, of those that are loaded."""
    found = (getattr(sys.modules.get(f"multiprocessing.{module}"), name, None) for module, name in _KINDS)
    return tuple(kind for kind in found if isinstance(kind, type))


def reduce_proxy(proxy: Any) -> Any:
    """Return the reduction of a manager's proxy; None: this is none."""
    managers = sys.modules.get("multiprocessing.managers")
    if managers is None or not issubclass(type(proxy), managers.BaseProxy):
        return None
    return rebuild_proxy, (os.uname().nodename, *proxy.__reduce__()[:2])


def rebuild_proxy(machine: str, rebuild: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Rebuild a proxy, which connects to its manager. Raises ConnectionError. `machine`: the name of the sender's."""
    try:
        return rebuild(*args)
    except (OSError, EOFError) as error:
        advice = "a Manager() serves processes of its own machine, as long as it runs"
        failure: Exception = error
    except Exception as error:
        if type(error).__name__ != "AuthenticationError":
            raise
        advice = "import multiprocessing.managers before the first submit, or call restart() of the client after it"
        failure = error
    raise ConnectionError(
        f"the manager of a multiprocessing proxy from {machine} cannot be reached in a process on "
        f"{os.uname().nodename} ({failure}): {advice}"
    ) from failure


def refusal(kind: type) -> str:
    """Return why an instance of such a class cannot travel."""
    what = "shared memory" if kind.__name__ == "BufferWrapper" else kind.__name__
    return (
        f"multiprocessing's {what} works only in processes that multiprocessing has started from one another: give "
        "the data itself, or make it in the job"
    )
