"""`cw.amap`: a loop of asyncio whose calls run on the cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from cw import guard
from cw.client.executor import ClusterExecutor
from cw.client.map import BUFFER
from cw.client.options import LoopArguments, MapSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in `typing` from Python 3.11 on

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")


# For type checkers: with up to two inputs their items are checked against the function.
@overload
def amap(
    function: Callable[[A], T], items: Iterable[A] | AsyncIterable[A], /, **settings: Unpack[LoopArguments]
) -> AsyncGenerator[T, None]: ...
@overload
def amap(
    function: Callable[[A, B], T],
    first: Iterable[A] | AsyncIterable[A],
    second: Iterable[B] | AsyncIterable[B],
    /,
    **settings: Unpack[LoopArguments],
) -> AsyncGenerator[T, None]: ...
@overload
def amap(
    function: Callable[..., T], first: Iterable[Any] | AsyncIterable[Any], second: Iterable[Any] | AsyncIterable[Any],
    third: Iterable[Any] | AsyncIterable[Any], /, *inputs: Iterable[Any] | AsyncIterable[Any],
    **settings: Unpack[LoopArguments],
) -> AsyncGenerator[T, None]: ...  # fmt: skip
def amap(
    function: Callable[..., T],
    *inputs: Iterable[Any] | AsyncIterable[Any],
    **settings: Unpack[LoopArguments],
) -> AsyncGenerator[T, None]:
    """Yield the results of `function` for each item, computed on the cluster: replaces a loop in asyncio.

    `async for result in cw.amap(function, items)`: as `cw.map`, with its parameters; inputs may be asynchronous. It
    connects when the first result is asked for. When the loop is left, its jobs are cancelled, and stopped if they run.
    """
    guard.check_import("cw.amap()")
    unknown = [name for name in settings if name not in LoopArguments.__annotations__]
    if unknown:
        raise TypeError(f"amap() got an unexpected keyword argument {unknown[0]!r}")
    of_client: dict[str, Any] = {**settings}
    of_map = {"buffersize": BUFFER}
    of_map |= {
        name: of_client.pop(name) for name in MapSettings._fields if name in of_client and name != "store"
    }
    MapSettings(**of_map).checked()  # type: ignore[arg-type]
    named: dict[str, Any] = {name: of_client.pop(name) for name in ("key", "version") if name in of_client}
    return _amap(function, inputs, of_client, named, of_map)


async def _amap(
    function: Callable[..., T],
    inputs: tuple[Iterable[Any] | AsyncIterable[Any], ...],
    of_client: dict[str, Any],
    named: dict[str, Any],
    of_map: dict[str, Any],
) -> AsyncGenerator[T, None]:
    executor = await asyncio.to_thread(ClusterExecutor, **of_client)
    try:
        results = executor.options(**named).amap(function, *inputs, **of_map)
        async with contextlib.aclosing(results):
            async for result in results:
                yield result
    finally:
        await asyncio.to_thread(executor._leave)
