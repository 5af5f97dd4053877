"""Submits calls whose results are futures: one by one, or all of a map.

executor.submit, .options(...).submit --> submit ---------------------------.
executor.map, .options(...).map --------> map: one call each, or in batches --> Session.submitter --> futures
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from cw.client.functions.prepared import Prepared
from cw.client.futures.future import Future
from cw.client.maps import batches, mapping
from cw.client.maps.progress import Progress
from cw.client.options import MapSettings
from cw.client.session.session import Session
from cw.client.store_client import StoreClient
from cw.payloads import serialize
from cw.payloads.current import LABELS, PLACE
from cw.payloads.objects import CHUNK, CHUNK_OF_EACH, ONE
from cw.requirements import NO_OPTIONS, JobOptions

if TYPE_CHECKING:
    from cw.runs.detaching import Detachment

T = TypeVar("T")


class FutureSubmitter:
    """Submits calls to one session. For any thread.

    `open_store`: opens a store of some of the calls. `store_client`: the store of all others, if any.
    """

    def __init__(
        self,
        session: Session,
        store_client: StoreClient | None,
        open_store: Callable[[str | os.PathLike[str]], StoreClient],
        defaults: JobOptions = NO_OPTIONS,
        detachment: Detachment | None = None,
    ) -> None:
        self.is_shut_down = False
        """True if no more calls are accepted."""
        self.store_client = store_client
        self.defaults = defaults
        """The options of calls that ask for nothing else: `output`."""
        self.detachment = detachment
        """Hands over the session's calls, if the client detaches."""
        self._session = session
        self._open_store = open_store
        self._labels = itertools.count(PLACE, PLACE)  # of submits, and of maps' first calls

    def with_defaults(self, options: JobOptions) -> JobOptions:
        """Return a call's options, and the defaults where it does not say."""
        if self.defaults is NO_OPTIONS or options.output is not None:
            return options
        return self.defaults if options is NO_OPTIONS else replace(options, output=self.defaults.output)

    def next_label(self) -> int:
        """Return the label of the next call; see `cw.payloads.current`."""
        return next(self._labels) & LABELS

    def open_store(self, path: str | os.PathLike[str]) -> StoreClient:
        """Open a store of some of the calls. It is closed with the session."""
        if self.detachment is not None:
            raise ValueError(
                f"store={os.fspath(path)!r} for some of the calls: a client that detaches has one store, the executor's"
            )
        opened = self._open_store(path)
        self._session.delivery.close_with(opened)
        return opened

    def end_of_map(self, futures: Collection[Future[Any]]) -> None:
        """Cancel calls whose results nobody takes; unless Ctrl-C ends the map, and they are about to be handed over."""
        if self.detachment is None or not isinstance(sys.exc_info()[1], KeyboardInterrupt):
            mapping.cancel_all(futures)

    def freeze(self, function: Callable[..., Any], mode: int) -> Prepared:
        """Prepare a function with its state as it is now."""
        return self._session.calls.freeze(function, mode)

    def submit(
        self,
        options: JobOptions,
        store_client: StoreClient | None,
        function: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        label: int | None = None,
        prepared: Prepared | None = None,
    ) -> Future[T]:
        """Submit a call. `label`: None for one that is no part of a map. `prepared`: the function, if it is frozen.

        Raises NotPicklable, UnstableKey; RuntimeError after the shutdown.
        """
        if self.is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if not callable(function):
            raise TypeError(f"submit() takes a function first, not {function!r}")
        if label is None:
            label = next(self._labels) & LABELS
        future: Future[T] = Future(self._session)
        if options is not NO_OPTIONS and options.output == "keep":
            future.output = "", ""  # until there is more
        number = self._session.submitter.submit(
            function, args, kwargs, future, options, store_client, prepared, label
        )
        if number > 0:  # otherwise it waits for futures, and has its number already
            future._number = number
        return future

    def map(
        self,
        options: JobOptions,
        store_client: StoreClient | None,
        function: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        settings: MapSettings,
        end: mapping.End,
    ) -> Iterator[Any]:
        """Submit the calls of a map, and return the iterator over their results. `settings` are checked, and their
        store is `store_client`, by now. `end` is called when the iteration ends."""
        timeout, chunksize, buffersize, _, progress, as_completed, return_exceptions = settings
        if options.retries or options.output == "keep":
            chunksize = 1  # each call is tried again by itself, and has its own output
        self._session.calls.look_at_modules()
        tally = mapping.Tally(mapping.length_of(iterables), self._session)
        bar = Progress(tally.counts, progress) if progress else None
        store_client = None if store_client is None else store_client.of_map()
        deadline = None if timeout is None else time.monotonic() + timeout
        is_reported = self._session.delivery.run_report is not None
        is_each = bool(store_client or progress or as_completed or return_exceptions or is_reported)
        calls = mapping.calls_of(iterables)
        ahead = None if buffersize is None else max(1, buffersize if is_each else buffersize // chunksize)
        futures = self._submit_all(options, store_client, function, calls, chunksize, is_each, ahead is None)
        if bar is not None:
            futures = tally.watch(futures)
        feed = mapping.Feed(futures, ahead)
        if self.detachment is not None:
            self.detachment.add(feed)
        waiting = feed.start()  # now, not when the first result is taken
        if chunksize > 1 and not is_each:
            return mapping.ChunkResults.of(mapping.of_chunks(waiting, feed, deadline, end))
        order = mapping.as_completed if as_completed else mapping.in_order
        results = order(waiting, feed, deadline, return_exceptions, end)
        return results if bar is None else mapping.with_progress(results, bar)

    def amap(
        self,
        options: JobOptions,
        store_client: StoreClient | None,
        function: Callable[..., Any],
        iterables: tuple[Iterable[Any] | AsyncIterable[Any], ...],
        settings: MapSettings,
    ) -> AsyncGenerator[Any, None]:
        """Return the asynchronous iterator over the results of a map, which submits its calls. As for `map`."""
        from cw.client.maps import async_map  # asyncio takes 40 ms to load

        timeout, chunksize, ahead, _, progress, as_completed, return_exceptions = settings
        if options.output == "keep":
            chunksize = 1  # each call has its own output
        self._session.calls.look_at_modules()
        tally = mapping.Tally(mapping.length_of(iterables), self._session)
        bar = Progress(tally.counts, progress) if progress else None
        store_client = None if store_client is None else store_client.of_map()
        calls = async_map.Calls()
        futures = self._submit_all(options, store_client, function, calls, chunksize, True)
        if bar is not None:
            futures = tally.watch(futures)

        def begin() -> async_map.AsyncFeed:
            jobs = self._session.jobs
            return async_map.AsyncFeed(iterables, calls, futures, jobs, (chunksize, ahead), as_completed)

        return async_map.results(begin, timeout, return_exceptions, bar)

    def _submit_all(
        self,
        options: JobOptions,
        store_client: StoreClient | None,
        function: Callable[..., Any],
        calls: Iterator[tuple[Any, ...]],
        chunksize: int,
        is_each: bool,
        are_all_taken: bool = False,
    ) -> Iterator[Future[Any]]:
        """Yield the futures of a map's calls, or of its chunks; each is submitted when it is taken, or before if all
        are taken at once."""
        label = self.next_label()
        if chunksize == 1:
            prepared = self.freeze(function, ONE)
            labels = itertools.count(label)

            def submit(args: tuple[Any, ...]) -> Future[Any]:
                return self.submit(options, store_client, function, args, {}, next(labels), prepared)

            if are_all_taken and type(calls) is mapping.Quiet and store_client is None:
                return self._first_together(calls, submit)
            return (submit(args) for args in calls)
        prepared = self.freeze(function, CHUNK_OF_EACH if is_each else CHUNK)

        def begin(label: int) -> batches.Batch:
            session = self._session  # (by way of `self`, with which the session ends)
            if is_each:
                return batches.EachBatch(session, options, function, prepared, label, store_client)
            return batches.WholeBatch(session, options, function, prepared, label)

        together = self._session.submitter.send_together if are_all_taken and not is_each else None
        return batches.in_batches(calls, chunksize, label, begin, together)

    def _first_together(
        self, calls: Iterator[tuple[Any, ...]], submit: Callable[[tuple[Any, ...]], Future[Any]]
    ) -> Iterator[Future[Any]]:
        """Submit calls; the first ones are sent together, up to one whose arguments are not plain: pickling these runs
        code of the user's, which may wait for jobs."""
        futures: list[Future[Any]] = []
        last: list[tuple[Any, ...]] = []

        def step() -> bool:
            args = next(calls, None)
            if args is not None and serialize.is_plain(args, {}):
                futures.append(submit(args))
                return True
            if args is not None:
                last.append(args)
            return False

        self._session.submitter.send_together(step)
        yield from futures
        for args in itertools.chain(last, calls):
            yield submit(args)
