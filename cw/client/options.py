"""The settings of a client, checked; the options of its jobs (`cw.requirements`), numbered for the master."""

from __future__ import annotations

import os
import threading
from typing import Any, NamedTuple

from cw.requirements import MOST_SECONDS, NO_OPTIONS, JobOptions, to_seconds

MOST_OPTION_SETS = 50_000
"""Different settings of jobs that a session may use: the master keeps them all."""


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
        self._numbers: dict[JobOptions, int] = {NO_OPTIONS: 0}
        self._sets: list[JobOptions] = []

    def __len__(self) -> int:
        return len(self._sets)

    def __getitem__(self, number: int) -> JobOptions:
        return self._sets[number - 1]

    def number_of(self, options: JobOptions) -> int:
        """The number under which the master knows these options; 0 for none. Raises ValueError: too many."""
        with self._lock:
            number = self._numbers.get(options)
            if number is None:
                number = len(self._sets) + 1
                if number > MOST_OPTION_SETS:
                    raise ValueError(
                        f"more than {MOST_OPTION_SETS} different settings of jobs: use fewer values"
                    )
                self._sets.append(options)
                self._numbers[options] = number
            return number


def check_patience(name: str, value: Any, default: float) -> float:
    """For how many seconds a client looks for a master; `value` may be None. Raises TypeError, ValueError."""
    seconds = default if value is None else to_seconds(name, value)
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
