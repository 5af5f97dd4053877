"""Results of `map`, in the order of the input or as they arrive; the input is read as they are taken.

calls --submit--> Feed: at most `ahead` futures --> in order:      waits for the oldest
                      ^                         '-> as completed:  waits for any
                      '--- one more for each result that is taken; and others while no result is there

The input is read in the thread that takes the results. A slow input is read after a result is yielded, not before: it
delays no result for longer than the time of one item. An error of the input is raised after the results of all items
before it.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import operator
import queue
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from cw import nested
from cw.client.futures.future import Future
from cw.client.maps.progress import Counts, Progress
from cw.client.session.outcome import Abandoned
from cw.client.session.session import Session
from cw.payloads import chunks


class Tally:
    """Progress of a map: counts each of its futures when it is done."""

    def __init__(self, total: int | None, session: Session) -> None:
        self._total = total
        self._session = session
        self._done = self._failed = self._stored = 0

    def watch(self, futures: Iterator[Future[Any]]) -> Iterator[Future[Any]]:
        for future in futures:
            future.add_done_callback(self._note)
            yield future

    def _note(self, future: Any) -> None:
        # Runs in the client's thread, except for a future that was done before.
        # A future that the end of the map cancels has neither a result nor failed.
        if future.cancelled() or isinstance(future._exception, Abandoned):
            return
        self._stored += future.is_stored
        self._done += 1
        if future._exception is not None:  # (exception() might unpickle the result)
            self._failed += 1

    def counts(self) -> Counts:
        running = len(self._session.jobs.started)
        return Counts(self._total, self._done, self._failed, running, self._stored)


class Tuples:
    """The input of a starmap: each item is the arguments of a call."""

    def __init__(self, items: Iterable[Iterable[Any]]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for item in self._items:
            try:
                args = tuple(item)
            except TypeError:
                raise TypeError(
                    f"starmap() takes an iterable of tuples, the arguments of each call, not of {item!r:.80}"
                ) from None
            yield args

    def __length_hint__(self) -> int:
        length = operator.length_hint(self._items, -1)
        return length if length >= 0 else NotImplemented


class Quiet(Iterator[tuple[Any, ...]]):
    """The arguments of calls, from inputs that run no code of the user's when they are read: so many calls may be read
    before the first of them is pickled."""

    kinds = frozenset({list, tuple, range})

    def __init__(self, inputs: Iterable[Any]) -> None:
        self._inputs = inputs
        self._place = 0  # of the next call that `columns` reads
        self._calls = zip(*inputs, strict=False)

    def __next__(self) -> tuple[Any, ...]:
        return next(self._calls)

    def columns(self, size: int) -> list[Sequence[Any]]:
        """Return the first arguments of the next `size` calls, or of those that are left; the second ones, ... Calls
        are read by this or by `next`, not by both."""
        start = self._place
        self._place = end = start + size
        columns = [each[start:end] for each in self._inputs]
        if len(columns) == 1:
            return columns
        shortest = min(map(len, columns))
        return columns if shortest == size else [column[:shortest] for column in columns]


def calls_of(inputs: tuple[Iterable[Any], ...]) -> Iterator[tuple[Any, ...]]:
    """Return an iterator over the arguments of each call."""
    if len(inputs) == 1 and type(inputs[0]) is Tuples:
        return iter(inputs[0])
    if inputs and Quiet.kinds.issuperset(map(type, inputs)):
        return Quiet(inputs)
    return zip(*inputs, strict=False)


def length_of(inputs: Iterable[Any]) -> int | None:
    """Return the number of calls, if all inputs know their length."""
    lengths = [operator.length_hint(each, -1) for each in inputs]
    return min(lengths) if lengths and -1 not in lengths else None


SLOW_SECONDS = 0.01
"""Time to read one item above which an input is slow (seconds). Smaller: slots idle while results are used. Larger:
results wait for an input."""


class Feed:
    """Submits calls, at most `ahead` more than results were taken; None: all at once."""

    def __init__(
        self,
        futures: Iterator[Future[Any]],
        ahead: int | None,
    ) -> None:
        self._futures = futures
        self._ahead = ahead
        self.shield: Callable[[], AbstractContextManager[None]] = nullcontext
        """Keeps Ctrl-C away while the input is read, where the rest of it is wanted in any case."""
        self.has_rest = ahead is not None
        """True unless the input is known to have ended."""
        self._failure: Exception | None = None
        self.is_slow = False
        """True if the last item took long. Otherwise the next is read early, so that no slot idles while a result is
        used."""

    def start(self) -> deque[Future[Any]]:
        """Submit the first calls and return their futures. Raises what the input, or the first call, raises."""
        if self._ahead is None:
            with self.shield():
                return deque(self._futures)
        waiting: deque[Future[Any]] = deque()
        _add_in_order(waiting, self)
        if not waiting:
            self.check()
        return waiting

    def more(self, count: int, is_there: Callable[[], bool]) -> Iterator[Future[Any]]:
        """Yield one more future if there is room beside `count` others, and further ones while no result is there."""
        while self._ahead is not None and count < self._ahead:
            began = time.monotonic()
            try:
                with self.shield():
                    future = next(self._futures, None)
            except Exception as error:
                self._failure = error
                return
            self.is_slow = time.monotonic() - began > SLOW_SECONDS
            if future is None:
                self.has_rest = False
                return
            count += 1
            yield future
            if is_there():
                return

    def rest(self) -> Iterator[Future[Any]]:
        """Submit the remaining calls, whatever `ahead` is. Yields their futures; raises what the input raises."""
        yield from self._futures
        self.has_rest = False
        self.check()

    def check(self) -> None:
        """Raise what the input has raised."""
        if self._failure is not None:
            self.has_rest = False
            raise self._failure


End = Callable[[Collection[Future[Any]]], None]
"""Type of what is called when an iteration ends, with the futures whose results were not taken."""


def cancel_all(futures: Collection[Future[Any]]) -> None:
    """Cancel these futures, the latest first, so that none takes the place of another."""
    for future in reversed(list(futures)):
        future.cancel()


class Results(Iterator[Any]):
    """The results of a map that ends by itself when nobody has them any more, even if none was ever taken."""

    def __init__(self, results: Iterator[Any], end: Callable[[], None]) -> None:
        self._results = results
        self._end = end

    def __next__(self) -> Any:
        return next(self._results)

    def close(self) -> None:
        """End the iteration, as for a generator."""
        self._end()  # (a generator that has not begun does nothing at its end, and forgets its input)
        self._results.close()  # type: ignore[attr-defined]  # (a generator)

    def __del__(self) -> None:
        self.close()


def in_order(
    waiting: deque[Future[Any]],
    feed: Feed,
    deadline: float | None,
    returns_errors: bool,
    end: End,
) -> Iterator[Any]:
    """Yield results in order, submitting one more for each that is taken."""
    try:
        while waiting:
            future = waiting.popleft()
            try:
                taken = [future.result(_left(deadline))]
            except BaseException as error:
                if not (returns_errors and _is_of(future, error)):
                    waiting.appendleft(future)
                    raise
                taken = [error]
            del future
            if not (is_late := feed.is_slow):
                _add_in_order(waiting, feed)
            yield taken.pop()  # so that nothing here keeps a yielded value alive
            if is_late:
                _add_in_order(waiting, feed)
        feed.check()
    finally:
        end(waiting)


class ChunkResults(itertools.chain[Any]):
    """Results of chunks, one after the other: there is no call in Python for each. Ends as a generator does."""

    _parts: Generator[Iterator[Any], None, None]

    @classmethod
    def of(cls, parts: Generator[Iterator[Any], None, None]) -> ChunkResults:
        """Return the items of iterators that a generator yields."""
        results = cls.from_iterable(parts)
        assert isinstance(results, ChunkResults)
        results._parts = parts
        return results

    def close(self) -> None:
        """End the iteration, as for a generator."""
        self._parts.close()


def of_chunks(
    waiting: deque[Future[Any]], feed: Feed, deadline: float | None, end: End
) -> Generator[Iterator[Any], None, None]:
    """Yield the results of each chunk as an iterator, as `in_order` does those of calls, from futures of whole chunks:
    `chunks.run`. For `ChunkResults`."""
    places: list[int] = []
    try:
        while waiting:
            future = waiting.popleft()
            try:
                values, error = future.result(_left(deadline))
            except BaseException:
                waiting.appendleft(future)
                raise
            number = future._number
            del future
            is_late = feed.is_slow
            if feed.has_rest and not is_late:
                _add_in_order(waiting, feed)
            failed = len(values) + 1
            values.reverse()
            places = [-1] * len(values)
            yield map(values.pop, places)  # so that nothing here keeps a yielded value alive
            if error is not None:
                raise chunks.load_error(error, number, failed)
            if is_late:
                _add_in_order(waiting, feed)
        feed.check()
    finally:
        places.clear()  # a chunk of which not all was taken has no more results
        end(waiting)


def as_completed(
    waiting: deque[Future[Any]],
    feed: Feed,
    deadline: float | None,
    returns_errors: bool,
    end: End,
) -> Iterator[Any]:
    """Yield results as they arrive, submitting one more for each that is taken."""
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    pending = set(waiting)
    waiting.clear()
    try:
        for future in pending:
            future.add_done_callback(done.put)
        while pending:
            try:
                future = _next_done(done, pending, _left(deadline))
            except queue.Empty:
                raise concurrent.futures.TimeoutError() from None  # not the built-in one before Python 3.11
            pending.remove(future)
            if not (is_late := feed.is_slow):
                _add_as_completed(pending, feed, done)
            error = None if future.cancelled() else future.exception()
            taken = [error if error is not None and returns_errors else future.result()]
            del future, error
            yield taken.pop()
            if is_late:
                _add_as_completed(pending, feed, done)
        feed.check()
    finally:
        end(pending)


def _next_done(done: queue.SimpleQueue[Any], pending: set[Future[Any]], timeout: float | None) -> Future[Any]:
    def wait(timeout: float | None) -> Future[Any]:
        return done.get(timeout=timeout)  # type: ignore[no-any-return]

    return wait(timeout) if not done.empty() else nested.wait(next(iter(pending))._session, wait, timeout)


def _add_in_order(waiting: deque[Future[Any]], feed: Feed) -> None:
    for future in feed.more(len(waiting), lambda: waiting[0].done()):
        waiting.append(future)


def _add_as_completed(pending: set[Future[Any]], feed: Feed, done: queue.SimpleQueue[Any]) -> None:
    for future in feed.more(len(pending), lambda: not done.empty()):
        pending.add(future)
        future.add_done_callback(done.put)


def _is_of(future: Future[Any], error: BaseException) -> bool:
    """True if the call ended with this error; false for a timeout of the wait, or Ctrl-C."""
    return future.done() and not future.cancelled() and future.exception() is error


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def with_progress(results: Iterator[Any], progress: Progress) -> Iterator[Any]:
    """Yield the results, with a bar from the first `next` to the end."""
    with progress:
        yield from results
