"""The settings of a client, checked. (The options of its jobs: `cw.requirements`.)"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from cw.requirements import MOST_SECONDS, to_seconds


class ClientSettings(NamedTuple):
    """The settings of a client, as `ClientThread` and `ClusterExecutor` describe them; not checked yet."""

    host: str | None = None
    port: int | None = None
    connect_timeout: float | None = None
    max_outstanding: tuple[int | None, int | None] | None = None
    reconnect_timeout: float | None = None
    seed: int | None = None
    workdir: str | os.PathLike[str] | None = None
    lend: bool = True


def check_patience(name: str, value: Any, default: float) -> float:
    """Return how long a client looks for a master (seconds); `value` may be None. Raises TypeError, ValueError."""
    seconds = default if value is None else to_seconds(name, value)
    if not seconds >= 0:  # nor is it 'nan'
        raise ValueError(f"{name} must be a number of seconds, 0 or more, not {value!r}")
    return min(seconds, MOST_SECONDS)


def check_outstanding(limits: Any) -> tuple[int | None, int | None]:
    """(jobs, bytes) of `max_outstanding`, which may be None. Raises TypeError, ValueError."""
    text = f"max_outstanding is (jobs, bytes), each a number above 0 or None, not {limits!r}"
    if limits is None:
        return None, None
    if not isinstance(limits, (tuple, list)) or len(limits) != 2:
        raise TypeError(text)
    for limit in limits:
        try:
            if limit is not None and not limit > 0:
                raise ValueError(text)
        except TypeError:
            raise TypeError(text) from None
    return limits[0], limits[1]
