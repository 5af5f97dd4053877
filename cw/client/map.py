"""`cw.map` and `cw.starmap`: loops whose calls run on the cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from cw import guard
from cw.client.executor import ClusterExecutor
from cw.client.options import DetachedLoopArguments, MapSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in `typing` from Python 3.11 on

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

BUFFER = 1000
"""Calls of `cw.map` in progress at a time. More: more results wait in memory. Less: many slots are idle."""


# For type checkers, as the built-in `map`: with up to three iterables their items are checked against the function.
@overload
def map(
    function: Callable[[A], T], items: Iterable[A], /, **settings: Unpack[DetachedLoopArguments]
) -> Iterator[T]: ...
@overload
def map(
    function: Callable[[A, B], T],
    first: Iterable[A],
    second: Iterable[B],
    /,
    **settings: Unpack[DetachedLoopArguments],
) -> Iterator[T]: ...
@overload
def map(
    function: Callable[[A, B, C], T], first: Iterable[A], second: Iterable[B], third: Iterable[C], /,
    **settings: Unpack[DetachedLoopArguments],
) -> Iterator[T]: ...  # fmt: skip
@overload
def map(
    function: Callable[..., T], first: Iterable[Any], second: Iterable[Any], third: Iterable[Any],
    fourth: Iterable[Any], /, *iterables: Iterable[Any], **settings: Unpack[DetachedLoopArguments],
) -> Iterator[T]: ...  # fmt: skip
def map(  # type: ignore[misc]  # (mypy does not see that its keywords are those of DetachedLoopArguments)
    function: Callable[..., T],
    *iterables: Iterable[Any],
    host: str | None = None,
    port: int | None = None,
    local: bool | int | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: bool | Literal["always"] = False,
    as_completed: bool = False,
    return_exceptions: bool = False,
    chunksize: int = 1,
    buffersize: int = BUFFER,
    timeout: float | None = None,
    durability: Literal["process", "disk"] = "process",
    retry_errors: bool = True,
    key: Callable[..., Any] | None = None,
    version: Any = None,
    seed: int | None = None,
    workdir: str | os.PathLike[str] | None = None,
    modules: Iterable[str | ModuleType] | bool | None = None,
    files: Iterable[str | os.PathLike[str]] | None = None,
    output: Literal["print", "keep", "log", "drop"] | None = None,
    report: str | os.PathLike[str] | None = None,
    detach: bool | str = False,
) -> Iterator[T]:
    """Yield the results of `function` for each item, computed on the cluster: replaces a loop.

    Connects as ClusterExecutor does, and disconnects when all results have been taken or the loop is left. The input
    is read as results are taken, so that neither must fit in memory. All other parameters are those of
    `ClusterExecutor`, its `map` and its `options`.

    With `detach`, no loop is needed: when it is left, or nobody has the iterator any more, or the program ends, the
    rest of the input is read, and what is outstanding goes on without this program.
    """
    guard.check_import("cw.map()")
    executor = ClusterExecutor(
        host, port, local=local, store=store, durability=durability, retry_errors=retry_errors, seed=seed,
        workdir=workdir, modules=modules, files=files, report=report, detach=detach,
    )  # fmt: skip
    settings = MapSettings(timeout, chunksize, buffersize, None, progress, as_completed, return_exceptions)
    try:
        options = executor.options(key=key, version=version, output=output)
        if detach is False:
            return options._map(function, iterables, settings, executor._cancel)
        results = options._map(function, iterables, settings, lambda futures: executor._leave_over())
        return _leave_over_after(results, executor)
    except BaseException:
        executor._leave()
        raise


def _leave_over_after(results: Iterator[T], executor: ClusterExecutor) -> Iterator[T]:
    from cw.client.maps import mapping

    return mapping.Results(results, executor._leave_over)


def starmap(
    function: Callable[..., T],
    iterable: Iterable[Iterable[Any]],
    /,
    **settings: Unpack[DetachedLoopArguments],
) -> Iterator[T]:
    """Yield the results of `function(*item)` for each item, computed on the cluster. All else is as for `cw.map`."""
    from cw.client.maps import mapping

    return map(function, mapping.Tuples(iterable), **settings)
