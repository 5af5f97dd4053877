"""What `map` yields: results in the order of the input, or as they come; the input is read as they are taken.

calls --submit--> Feed: at most `ahead` futures --> in order:      the oldest is waited for
                      ^                         '-> as completed:  whichever is done
                      '--- one more for each result that is taken; and others while there is nothing to be taken

The input is read in the thread that takes the results. One that is slow is read after a result is given, not before:
it holds up none for longer than it takes for one item. One that fails is told after the results of what it gave before.
"""

from __future__ import annotations

import concurrent.futures
import operator
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from typing import Any

from cw import nested
from cw.client.future import Future
from cw.client.progress import Counts, Progress
from cw.client.recorder import Chunk, Recorder
from cw.client.session import Abandoned, Session
from cw.net import messages as m
from cw.payloads import chunks, serialize
from cw.payloads.deferred import Deferred
from cw.payloads.objects import CHUNK, CHUNK_OF_EACH


class Tally:
    """How far a map is; it counts each of its futures when it is done."""

    def __init__(self, total: int | None, session: Session) -> None:
        self._total = total
        self._session = session
        self._done = self._failed = 0

    def watch(self, futures: Iterator[Future]) -> Iterator[Future]:
        for future in futures:
            future.add_done_callback(self._note)
            yield future

    def _note(self, future: Any) -> None:
        # In the client's thread, but for a future that was done before.
        # By the end of the map: it neither came to anything nor failed.
        if future.cancelled() or isinstance(future._exception, Abandoned):
            return
        self._done += 1
        if future._exception is not None:  # (exception() might unpickle the result)
            self._failed += 1

    def counts(self) -> Counts:
        return Counts(self._total, self._done, self._failed, self._session.counts()[3])


def length_of(iterables: Iterable[Iterable[Any]]) -> int | None:
    """How many calls there will be, where all inputs say how long they are."""
    lengths = [operator.length_hint(iterable, -1) for iterable in iterables]
    return min(lengths) if lengths and -1 not in lengths else None


SLOW_SECONDS = 0.01
"""For one item of an input. Less: slots idle while results are used. More: results wait for an input."""


class Feed:
    """Submits calls, up to so many `ahead` of the results that were taken; None: all at once."""

    def __init__(self, futures: Iterator[Future], ahead: int | None) -> None:
        self._futures = futures
        self._ahead = ahead
        self._failure: Exception | None = None
        self.is_slow = False
        """Did the last item take long to come? Else the next is better read early: no slot idles while a result is
        used."""

    def start(self) -> deque[Future]:
        """The first ones. Raises what the input, or the first call, raises."""
        if self._ahead is None:
            return deque(self._futures)
        waiting: deque[Future] = deque()
        _add_in_order(waiting, self)
        if not waiting:
            self.check()
        return waiting

    def more(self, count: int, is_there: Callable[[], bool]) -> Iterator[Future]:
        """One more where there are `count` of them, and others as long as no result is there."""
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
        """Raises what the input has raised."""
        if self._failure is not None:
            raise self._failure


def in_order(
    waiting: deque[Future],
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
            yield taken.pop()  # what has been yielded is kept alive by nobody here
            if is_late:
                _add_in_order(waiting, feed)
        feed.check()
    finally:
        while waiting:
            waiting.pop().cancel()
        end()


def of_chunks(
    waiting: deque[Future], feed: Feed, deadline: float | None, end: Callable[[], None]
) -> Iterator[Any]:
    """As `in_order`, where each future is that of a whole chunk: `chunks.run`."""
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
    waiting: deque[Future],
    feed: Feed,
    deadline: float | None,
    returns_errors: bool,
    end: Callable[[], None],
) -> Iterator[Any]:
    """Yield results as they come, submitting one more for each that is taken."""
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


def _next_done(done: queue.SimpleQueue[Any], pending: set[Future], timeout: float | None) -> Future:
    def wait(timeout: float | None) -> Future:
        return done.get(timeout=timeout)  # type: ignore[no-any-return]

    return wait(timeout) if not done.empty() else nested.wait(next(iter(pending))._session, wait, timeout)


def _add_in_order(waiting: deque[Future], feed: Feed) -> None:
    for future in feed.more(len(waiting), lambda: waiting[0].done()):
        waiting.append(future)


def _add_as_completed(pending: set[Future], feed: Feed, done: queue.SimpleQueue[Any]) -> None:
    for future in feed.more(len(pending), lambda: not done.empty()):
        pending.add(future)
        future.add_done_callback(done.put)


def _is_of(future: Future, error: BaseException) -> bool:
    """Whether the call ended with this error: not time that is up, or Ctrl-C."""
    return future.done() and not future.cancelled() and future.exception() is error


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


# --- chunks of which each call has a future ---------------------------------------------------


class ChunkFuture(Future):
    """The future of one call of a chunk. When all of a chunk are cancelled, so is its job."""

    _chunk: ChunkTag | None = None

    def cancel(self) -> bool:
        was = self.cancelled()
        is_cancelled = super().cancel()
        if is_cancelled and not was and self._chunk is not None:
            self._chunk.note_cancelled(self._session)
        return is_cancelled


class ChunkTag:
    """What hangs on the job of a chunk: the futures of its calls."""

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
            session.cancel(self.number)

    def note_running(self) -> None:
        """Which of them runs, nobody knows."""

    def deliver(
        self,
        number: int,
        error: BaseException | None,
        value: Any,
        settle: Callable[[int, Any, Any, Any], None],
    ) -> None:
        """Settle the futures; `value` is what `chunks.run_each` gave."""
        if error is not None:
            for future in self._futures:
                settle(number, future, error, None)
            return
        if type(value) is Deferred:  # what is in there is deferred by itself
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


def in_chunks(
    session: Session,
    options: int,
    function: Callable[..., Any],
    calls: Iterator[tuple[Any, ...]],
    chunksize: int,
    label: int,
) -> Iterator[Future]:
    """A future for each chunk of calls: of what `chunks.run` gives. `label`: the first call's."""
    prepared = session.freeze(function, CHUNK)
    for first in count(label, chunksize):
        chunk, failure = chunks.Chunk(function, prepared.inline_state), None
        try:
            for args in islice(calls, chunksize):
                chunk.add(args)
        except Exception as error:  # what was read before the input raises is a chunk, too
            failure = error
        if len(chunk):
            future = Future(session)
            future._number = session.submit_chunk(function, chunk, prepared, future, options, None, first)
            yield future
        if failure is not None:
            raise failure
        if len(chunk) < chunksize:
            return


def chunked(
    session: Session,
    recorder: Recorder | None,
    options: int,
    function: Callable[..., Any],
    calls: Iterator[tuple[Any, ...]],
    chunksize: int,
    label: int,
) -> Iterator[Future]:
    """A future for each call; those that are not stored travel by the chunk. `label`: the first call's."""
    prepared = session.freeze(function, CHUNK_OF_EACH)
    for first in count(label, chunksize):
        chunk, failure = chunks.Chunk(function, prepared.inline_state), None
        futures: list[ChunkFuture] = []
        missing: list[tuple[ChunkFuture, Any, int]] = []
        try:
            for item, args in enumerate(islice(calls, chunksize)):
                future = ChunkFuture(session)
                call = None if recorder is None else session.identify(recorder, function, args, {}, prepared)
                if call is not None and call.is_stored:
                    future._number = session.submit_stored(call, future, options)
                else:
                    chunk.add(args)
                    missing.append((future, call, item))
                futures.append(future)
        except Exception as error:  # what was read before the input raises is a chunk, too
            failure = error
        if missing:
            tag = ChunkTag([future for future, _, _ in missing])
            recorded = None if recorder is None else Chunk([call for _, call, _ in missing])
            items = [item for _, _, item in missing]
            tag.number = session.submit_chunk(
                function, chunk, prepared, tag, options, recorded, first,
                None if len(items) == len(futures) else items,
            )  # fmt: skip
        yield from futures
        if failure is not None:
            raise failure
        if len(futures) < chunksize:
            return


def with_progress(results: Iterator[Any], progress: Progress) -> Iterator[Any]:
    """The same results, with a bar from the first `next` to the end."""
    with progress:
        yield from results
