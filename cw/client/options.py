"""What a user may ask for: the settings of a client, checked; those of a job, checked and numbered for the master."""

from __future__ import annotations

import math
import os
import threading
from typing import Any, NamedTuple

MOST_OPTION_SETS = 50_000
"""Different settings of jobs that a session may use: the master keeps them all."""

MOST_SECONDS = 1e9
"""The longest time limit of a job: 30 years, as the master has it."""


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


class OptionTable:
    """The different settings of a session's jobs, by number from 1. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        self._sets: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._sets)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self._sets[number - 1]

    def number_of(self, options: dict[str, Any]) -> int:
        """The number under which the master knows these options; 0 for none. Raises ValueError: too many."""
        if not options:
            return 0
        key = repr(sorted(options.items()))
        with self._lock:
            number = self._numbers.get(key)
            if number is None:
                number = len(self._sets) + 1
                if number > MOST_OPTION_SETS:
                    raise ValueError(
                        f"more than {MOST_OPTION_SETS} different settings of jobs: use fewer values"
                    )
                self._sets.append(options)
                self._numbers[key] = number
            return number


def job_options(
    attempts: int | None, timeout: float | None, min_time: float | None = None, on_limit: str | None = None
) -> dict[str, Any]:
    """Options of jobs as they travel, those that are given. Raises TypeError, ValueError."""
    options: dict[str, Any] = {}
    if attempts is not None:
        if not isinstance(attempts, int) or isinstance(attempts, bool):
            raise TypeError(f"attempts must be an int, not {attempts!r}")
        if attempts < 1:
            raise ValueError(f"attempts must be 1 or more, not {attempts}")
        options["attempts"] = attempts
    for name, value in (("timeout", timeout), ("min_time", min_time)):
        if value is None:
            continue
        seconds = _seconds(name, value)
        if not 0 < seconds < math.inf:
            raise ValueError(f"{name} must be a number of seconds above 0, not {value!r}")
        options[name] = min(seconds, MOST_SECONDS)
    if on_limit is not None:
        if on_limit != "keep":
            raise ValueError(f"on_limit must be 'keep' or None, not {on_limit!r}")
        options["on_limit"] = on_limit
    return options


def check_patience(name: str, value: Any, default: float) -> float:
    """For how many seconds a client looks for a master; `value` may be None. Raises TypeError, ValueError."""
    seconds = default if value is None else _seconds(name, value)
    if not seconds >= 0:  # nor is it 'nan'
        raise ValueError(f"{name} must be a number of seconds, 0 or more, not {value!r}")
    return min(seconds, MOST_SECONDS)


def check_outstanding(limits: Any) -> tuple[int | None, int | None]:
    """(jobs, bytes) of `max_outstanding`, which may be None. Raises TypeError, ValueError."""
    told = f"max_outstanding is (jobs, bytes), each a number above 0 or None, not {limits!r}"
    if limits is None:
        return None, None
    if not isinstance(limits, (tuple, list)) or len(limits) != 2:
        raise TypeError(told)
    for limit in limits:
        try:
            if limit is not None and not limit > 0:
                raise ValueError(told)
        except TypeError:
            raise TypeError(told) from None
    return limits[0], limits[1]


def _seconds(name: str, value: Any) -> float:
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        return float(value)
    except TypeError:
        raise TypeError(f"{name} must be a number of seconds, not {value!r}") from None
