"""Objects valid only in processes that multiprocessing itself has started: connections, queues, locks, proxies.

Some of them pickle, but become a number that means another descriptor in the runner (a `Connection`), or an
address without its key (a manager's proxy). All of them are refused by name.
"""

from __future__ import annotations

import sys

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


def refusal(kind: type) -> str:
    """Return why an instance of such a class cannot travel."""
    what = "shared memory" if kind.__name__ == "BufferWrapper" else kind.__name__
    return (
        f"multiprocessing's {what} works only in processes that multiprocessing has started from one another: give "
        "the data itself, or make it in the job"
    )
