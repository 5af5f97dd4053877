"""What is only valid in a process that multiprocessing itself has started: connections, queues, locks, proxies.

Some of it pickles, and comes out as a number that means another descriptor over there (a `Connection`), or as an
address that nobody has the key of (a manager's proxy). All of it is refused by name.
"""

from __future__ import annotations

import sys

MARK = b"multiprocessing."
"""Is in a pickle that names any of it."""

_KINDS = (
    ("connection", "_ConnectionBase"), ("managers", "BaseProxy"), ("managers", "BaseManager"),
    ("resource_sharer", "DupFd"), ("queues", "Queue"), ("queues", "SimpleQueue"), ("synchronize", "SemLock"),
    ("synchronize", "Condition"), ("synchronize", "Event"), ("synchronize", "Barrier"),
    ("sharedctypes", "SynchronizedBase"), ("heap", "BufferWrapper"), ("process", "BaseProcess"), ("pool", "Pool"),
)  # fmt: skip


def is_loaded() -> bool:
    """Can there be any of it in this process?"""
    return "multiprocessing.connection" in sys.modules


def kinds() -> tuple[type, ...]:
    """The classes of which no instance may travel, as far as they are loaded."""
    found = (getattr(sys.modules.get(f"multiprocessing.{module}"), name, None) for module, name in _KINDS)
    return tuple(kind for kind in found if isinstance(kind, type))


def refusal(kind: type) -> str:
    """Why an instance of such a class cannot travel."""
    what = "shared memory" if kind.__name__ == "BufferWrapper" else kind.__name__
    return (
        f"multiprocessing's {what} works only in processes that multiprocessing has started from one another: give "
        "the data itself, or make it in the job"
    )
