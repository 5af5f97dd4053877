"""Futures among the arguments of a call: the pickler notes each where it meets one.

    a future --> it has a value? --yes--> the value is pickled
                               '-no---> `result_at(place)`; the future is noted at this place in a list

`dependent.py` describes how the results get there. A small module: pickling by value needs it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

REFUSAL = (
    "a future cannot travel here: give it as an argument of submit() or map(), where its result takes its place, or "
    "give its result()"
)


class _Collecting(threading.local):
    """The list in which this thread's pickler notes futures; None: they are refused."""

    met: list[Any] | None = None


collecting = _Collecting()
"""Its `met` is set, and set back, by `collect`; also where each call passes."""


class Unread(list[Any]):
    """Given to `collect`: lets futures be pickled for a store, whose reader sees that the argument was a result."""


class ResultOfCall:
    """Stands in a store, among a call's arguments, for the result of another call."""

    def __repr__(self) -> str:
        return "<the result of a call>"

    def __eq__(self, other: object) -> bool:
        return type(other) is ResultOfCall

    __hash__ = object.__hash__


def collect(met: list[Any] | None) -> list[Any] | None:
    """Let this thread's picklers note futures without a value in `met`; None: refuse all. Returns what was set before,
    which must be set again."""
    before = collecting.met
    collecting.met = met
    return before


def key_of(future: Future[Any]) -> bytes | None:
    """Return the key of the stored call whose result a future has or will have; None: its value identifies it."""
    key: bytes | None = getattr(future, "stored_key", None)
    return key


def has_value(future: Future[Any]) -> bool:
    """True if the future is done, and has neither failed nor been cancelled."""
    return future.done() and not future.cancelled() and future.exception() is None


def reduce(future: Future[Any], is_refused: bool = False) -> Any:
    """Reduce a future for pickle. Raises TypeError where futures are refused."""
    met = collecting.met
    if met is None or is_refused:
        raise TypeError(REFUSAL)
    if has_value(future):
        return reduce_value(future.result())
    if type(met) is Unread:
        return ResultOfCall, ()
    met.append(future)
    return result_at, (len(met) - 1,)


def reduce_value(value: Any) -> Any:
    """Reduce a future that has this value. Raises TypeError where futures are refused."""
    if collecting.met is None:
        raise TypeError(REFUSAL)
    return value_of, (value,)


def value_of(value: Any) -> Any:
    """Return, in a pickle, the value that a future had."""
    return value


_results: Sequence[Callable[[], Any]] = ()
"""Functions that unpickle the results for the runner's job, by place."""


def result_at(place: int) -> Any:
    """Return, in a pickle, the result of a future."""
    return _results[place]()


def use(results: Sequence[Callable[[], Any]]) -> None:
    """Let `result_at` return these; an empty sequence drops them."""
    global _results
    _results = results
