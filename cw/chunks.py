"""What runs on the workers for `map(chunksize=...)`. Small: runners import it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from cw import serialize


def run(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> tuple[list[Any], Any]:
    """The results of the calls, up to the first that fails; and its pickled exception, or None."""
    results: list[Any] = []
    try:
        for args in calls:
            results.append(function(*args))
    except BaseException as error:
        return results, serialize.dump_error(error, {"host": os.uname().nodename, "pid": os.getpid()})
    return results, None


def load_error(payload: Any, job: int, call: int) -> BaseException:
    """The exception of a call in a chunk, which is one job."""
    return serialize.load_error(payload, f"job {job}, call {call} of its chunk")
