"""`executor.options(...)`: submits calls with settings of their own."""

from __future__ import annotations

import concurrent.futures
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from cw.client.futures.future import Future
from cw.client.futures.future_submitter import FutureSubmitter
from cw.client.maps import mapping
from cw.client.options import MapArguments, MapSettings
from cw.client.store_client import StoreClient
from cw.payloads.objects import ONE
from cw.requirements import JobOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in `typing` from Python 3.11 on

P = ParamSpec("P")
T = TypeVar("T")


class Options:
    """Settings of jobs: `executor.options(...).submit(function, *args)`. One object may be used many times."""

    def __init__(
        self, futures: FutureSubmitter, options: JobOptions, key: Any = None, version: Any = None
    ) -> None:
        self._futures = futures
        self._options = futures.with_defaults(options)
        self._key, self._version = key, version
        self._store_client = self._named(futures.store_client)

    def submit(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """Submit as `ClusterExecutor.submit` does, with these options."""
        return self.asubmit(function, *args, **kwargs)

    def asubmit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit as `submit` does: to type checkers, what this returns can be awaited."""
        return self._futures.submit(self._options, self._store_client, function, args, kwargs)

    def freeze(self, function: Callable[..., Any]) -> Callable[..., Future[Any]]:
        """Return `submit` for this function with its state as it is now, as `map` takes it. (For cw's own use.)"""
        futures = self._futures
        prepared = futures.freeze(function, ONE)

        def submit(*args: Any) -> Future[Any]:
            label = futures.next_label()
            try:
                return submit_as(label, args)
            except KeyError:  # no job used the state, and it was forgotten at this very moment
                nonlocal prepared
                prepared = futures.freeze(function, ONE)
                return submit_as(label, args)

        def submit_as(label: int, args: tuple[Any, ...]) -> Future[Any]:
            return futures.submit(self._options, self._store_client, function, args, {}, label, prepared)

        return submit

    def map(
        self, function: Callable[..., T], *iterables: Iterable[Any], **settings: Unpack[MapArguments]
    ) -> Iterator[T]:
        """Map as `ClusterExecutor.map` does, with these options."""
        return self._map(function, iterables, MapSettings(**settings), self._futures.end_of_map)

    def starmap(
        self, function: Callable[..., T], iterable: Iterable[Iterable[Any]], **settings: Unpack[MapArguments]
    ) -> Iterator[T]:
        """Map as `ClusterExecutor.starmap` does, with these options."""
        return self.map(function, mapping.Tuples(iterable), **settings)

    def amap(
        self,
        function: Callable[..., T],
        *iterables: Iterable[Any] | AsyncIterable[Any],
        **settings: Unpack[MapArguments],
    ) -> AsyncGenerator[T, None]:
        """Map as `ClusterExecutor.amap` does, with these options."""
        checked, store_client = self._of_map(MapSettings(**settings))
        return self._futures.amap(self._options, store_client, function, iterables, checked)

    def _map(
        self,
        function: Callable[..., T],
        iterables: tuple[Iterable[Any], ...],
        settings: MapSettings,
        end: mapping.End,
    ) -> Iterator[T]:
        """Map; `end` is called when the iteration ends."""
        settings, store_client = self._of_map(settings)
        return self._futures.map(self._options, store_client, function, iterables, settings, end)

    def _of_map(self, settings: MapSettings) -> tuple[MapSettings, StoreClient | None]:
        """Return the checked settings of a map, and the client of its store."""
        if self._key is not None and not callable(self._key):
            raise ValueError(
                "a key for map() must be a function, which gives the key for the arguments of a call"
            )
        settings, store_client = settings.checked(), self._store_client
        if settings.store is not None:  # in place of the executor's own
            store_client = self._named(self._futures.open_store(settings.store))
        if store_client is None and self._options.output == "keep":
            raise ValueError(
                "output='keep' in a map needs a store, as it yields results, not futures: give it store=..., or submit "
                "the calls one by one"
            )
        return settings, store_client

    def _named(self, store_client: StoreClient | None) -> StoreClient | None:
        if store_client is None or (self._key is None and self._version is None):
            return store_client
        return store_client.with_key(self._key, self._version)
