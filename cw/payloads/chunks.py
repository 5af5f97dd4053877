"""What runs on the workers for `map(chunksize=...)`. Small: runners import it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from cw.net.messages import DONE, ERROR
from cw.payloads import serialize


def run(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> tuple[list[Any], Any]:
    """The results of the calls, up to the first that fails; and its pickled exception, or None."""
    results: list[Any] = []
    try:
        for args in calls:
            results.append(function(*args))
        return results, None
    except KeyboardInterrupt:  # told to stop, likely: not what the call came to
        raise
    except BaseException as error:
        answer = serialize.dump_error(error, {"host": os.uname().nodename, "pid": os.getpid()})
        serialize.forget_tracebacks(error)
        return results, answer
    finally:
        del results  # the traceback of an exception among them leads to this frame


def run_each(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[tuple[int, float, Any]]:
    """What became of each of the calls: status, seconds, payload. One that fails does not hold up those after it."""
    outcomes: list[tuple[int, float, Any]] = []
    pid = os.getpid()
    for args in calls:
        start = time.monotonic()
        try:
            status, payload = DONE, serialize.dump_result(function(*args))
        except BaseException as error:
            if (
                isinstance(error, KeyboardInterrupt) or os.getpid() != pid
            ):  # told to stop; a child that it forked
                raise
            status, payload = ERROR, serialize.dump_error(error, {"host": os.uname().nodename, "pid": pid})
            serialize.forget_tracebacks(error)
        outcomes.append((status, time.monotonic() - start, payload))
    return outcomes


def load_error(payload: Any, job: int, call: int) -> BaseException:
    """The exception of a call in a chunk, which is one job."""
    return serialize.load_error(payload, f"job {job}, call {call} of its chunk")
