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
import operator
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any, Protocol

from cw import nested
from cw.client.calls import ManyCalls, StoredCall
from cw.client.future import Future
from cw.client.outcome import Abandoned
from cw.client.prepared import Prepared
from cw.client.progress import Counts, Progress
from cw.client.session import Session
from cw.client.store_client import Call, Chunk, StoreClient
from cw.net import messages as m
from cw.payloads import chunks, serialize
from cw.payloads.deferred import Deferred
from cw.requirements import JobOptions


class Tally:
    """Progress of a map: counts each of its futures when it is done."""

    def __init__(self, total: int | None, session: Session) -> None:
        self._total = total
        self._session = session
        self._done = self._failed = 0

    def watch(self, futures: Iterator[Future[Any]]) -> Iterator[Future[Any]]:
        for future in futures:
            future.add_done_callback(self._note)
            yield future

    def _note(self, future: Any) -> None:
        # Runs in the client's thread, except for a future that was done before.
        # A future that the end of the map cancels has neither a result nor failed.
        if future.cancelled() or isinstance(future._exception, Abandoned):
            return
        self._done += 1
        if future._exception is not None:  # (exception() might unpickle the result)
            self._failed += 1

    def counts(self) -> Counts:
        return Counts(self._total, self._done, self._failed, self._session.jobs.counts()[3])


def length_of(iterables: Iterable[Iterable[Any]]) -> int | None:
    """Return the number of calls, if all inputs know their length."""
    lengths = [operator.length_hint(iterable, -1) for iterable in iterables]
    return min(lengths) if lengths and -1 not in lengths else None


SLOW_SECONDS = 0.01
"""Time to read one item above which an input is slow (seconds). Smaller: slots idle while results are used. Larger:
results wait for an input."""


class Feed:
    """Submits calls, at most `ahead` more than results were taken; None: all at once."""

    def __init__(self, futures: Iterator[Future[Any]], ahead: int | None) -> None:
        self._futures = futures
        self._ahead = ahead
        self._failure: Exception | None = None
        self.is_slow = False
        """True if the last item took long. Otherwise the next is read early, so that no slot idles while a result is
        used."""

    def start(self) -> deque[Future[Any]]:
        """Submit the first calls and return their futures. Raises what the input, or the first call, raises."""
        if self._ahead is None:
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
                future = next(self._futures, None)
            except Exception as error:
                self._failure = error
                return
            self.is_slow = time.monotonic() - began > SLOW_SECONDS
            if future is None:
                return
            count += 1
            yield future
            if is_there():
                return

    def check(self) -> None:
        """Raise what the input has raised."""
        if self._failure is not None:
            raise self._failure


def in_order(
    waiting: deque[Future[Any]],
    feed: Feed,
    deadline: float | None,
    returns_errors: bool,
    end: Callable[[], None],
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
        while waiting:
            waiting.pop().cancel()
        end()


def of_chunks(
    waiting: deque[Future[Any]], feed: Feed, deadline: float | None, end: Callable[[], None]
) -> Iterator[Any]:
    """Yield results as `in_order` does, from futures of whole chunks: `chunks.run`."""
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
            if not (is_late := feed.is_slow):
                _add_in_order(waiting, feed)
            failed = len(values) + 1
            values.reverse()
            while values:
                yield values.pop()
            if error is not None:
                raise chunks.load_error(error, number, failed)
            if is_late:
                _add_in_order(waiting, feed)
        feed.check()
    finally:
        while waiting:
            waiting.pop().cancel()
        end()


def as_completed(
    waiting: deque[Future[Any]],
    feed: Feed,
    deadline: float | None,
    returns_errors: bool,
    end: Callable[[], None],
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
        while pending:
            pending.pop().cancel()
        end()


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


# --- chunks of which each call has a future ---------------------------------------------------


class ChunkFuture(Future[Any]):
    """The future of one call of a chunk. When all futures of a chunk are cancelled, its job is, too."""

    _chunk: ChunkTag | None = None

    def cancel(self) -> bool:
        was = self.cancelled()
        is_cancelled = super().cancel()
        if is_cancelled and not was and self._chunk is not None:
            self._chunk.note_cancelled(self._session)
        return is_cancelled


class ChunkTag:
    """Tag of a chunk's job: the futures of its calls."""

    def __init__(self, futures: list[ChunkFuture]) -> None:
        self.number = 0
        self._futures = futures
        self._wanted = len(futures)
        for future in futures:
            future._chunk = self

    def cancel(self) -> None:
        for future in self._futures:
            future.cancel()

    def note_cancelled(self, session: Session) -> None:
        self._wanted -= 1
        if not self._wanted:
            session.submitter.cancel(self.number)

    def note_running(self) -> None:
        """Ignore the start: the call that runs is not known."""

    def deliver(
        self,
        number: int,
        error: BaseException | None,
        value: Any,
        settle: Callable[[int, Any, Any, Any], None],
    ) -> None:
        """Settle the futures; `value` is the result of `chunks.run_each`."""
        if error is not None:
            for future in self._futures:
                settle(number, future, error, None)
            return
        if type(value) is Deferred:  # results in it are deferred by themselves
            value = value.load()
        for place, (future, (status, _, payload)) in enumerate(zip(self._futures, value, strict=True), 1):
            failure, result = None, None
            if status != m.DONE:
                failure = chunks.load_error(payload, number, place)
            else:
                try:
                    result = serialize.load_result_soon(payload, f"job {number}, call {place} of its chunk")
                except BaseException as unreadable:
                    failure = unreadable
            settle(number, future, failure, result)


class Batch(Protocol):
    """Calls that are read from the input and become one job."""

    def add(self, args: tuple[Any, ...]) -> None:
        """Add the next call. Raises the error that makes it unpicklable."""

    def submit(self) -> Iterable[Future[Any]]:
        """Submit the added calls, if any, and return their futures."""


class WholeBatch:
    """A batch with one future for all its calls, whose result is that of `chunks.run`."""

    def __init__(
        self,
        session: Session,
        options: JobOptions,
        function: Callable[..., Any],
        prepared: Prepared,
        label: int,
    ) -> None:
        self._session = session
        self._options = options
        self._function = function
        self._prepared = prepared
        self._label = label  # the first call's
        self._chunk = chunks.Chunk(function, prepared.inline_state)

    def add(self, args: tuple[Any, ...]) -> None:
        self._chunk.add(args)

    def submit(self) -> Iterable[Future[Any]]:
        if not len(self._chunk):
            return []
        future: Future[Any] = Future(self._session)
        future._number = self._submit(future)
        return [future]

    def _submit(self, tag: Any, items: Sequence[int] | None = None, call: Chunk | None = None) -> int:
        calls = ManyCalls(
            self._session.calls, self._function, self._chunk, self._prepared, self._label, items, call
        )
        return self._session.submitter.add(calls, tag, self._options)


class EachBatch(WholeBatch):
    """A batch with a future for each of its calls; those that are not stored run by `chunks.run_each`."""

    def __init__(
        self,
        session: Session,
        options: JobOptions,
        function: Callable[..., Any],
        prepared: Prepared,
        label: int,
        store_client: StoreClient | None,
    ) -> None:
        super().__init__(session, options, function, prepared, label)
        self._store_client = store_client
        self._futures: list[ChunkFuture] = []
        self._missing: list[tuple[ChunkFuture, Call | None, int]] = []  # and the index of its item

    def add(self, args: tuple[Any, ...]) -> None:
        future, call = ChunkFuture(self._session), None
        if self._store_client is not None:
            call = self._session.calls.identify(self._store_client, self._function, args, self._prepared)
        if call is not None and call.is_stored:
            future._number = self._session.submitter.add(StoredCall(call), future, self._options)
        else:
            super().add(args)
            self._missing.append((future, call, len(self._futures)))
        self._futures.append(future)

    def submit(self) -> Iterable[Future[Any]]:
        if self._missing:
            futures, calls, items = zip(*self._missing, strict=True)
            tag = ChunkTag(list(futures))
            is_whole = len(items) == len(self._futures)
            recorded = None if self._store_client is None else Chunk(list(calls))
            tag.number = self._submit(tag, None if is_whole else list(items), recorded)
        return self._futures


def in_batches(
    calls: Iterator[tuple[Any, ...]], size: int, label: int, begin: Callable[[int], Batch]
) -> Iterator[Future[Any]]:
    """Submit calls in batches of `size`, and yield the futures. `begin` makes a batch for the label of its first call;
    `label` is the label of the very first call."""
    for first in count(label, size):
        batch, failure, taken = begin(first), None, 0
        try:
            for args in islice(calls, size):
                batch.add(args)
                taken += 1
        except Exception as error:  # items that were read before the input raises are a batch, too
            failure = error
        yield from batch.submit()
        if failure is not None:
            raise failure
        if taken < size:
            return


def with_progress(results: Iterator[Any], progress: Progress) -> Iterator[Any]:
    """Yield the results, with a bar from the first `next` to the end."""
    with progress:
        yield from results
