"""Results of a map for `async for`: no thread waits for them, and the event loop is not held up.

    input --AsyncFeed.run, a task--> submit --> futures --done, in the session's thread--> queue --> results
                   ^                                                                                   |
                   '------------- one more for each result that is taken ------------------------------'

When the iteration ends, in whatever way, all its jobs are cancelled, and stopped if they run.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from cw.client.futures.future import Future
from cw.client.maps.progress import Progress
from cw.client.session.jobs import Jobs

BREATH_SECONDS = 0.005
"""Longest time that the event loop runs nothing else while results are there (seconds). Longer: other tasks wait.
Shorter: more switches."""

FULL_SECONDS = 0.02
"""Time between checks for room in a client that may hold no more jobs (seconds). Longer: slots idle. Shorter: more
wakeups."""


class Calls:
    """Arguments of calls that were read and wait to be submitted: the input of those who submit."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Any, ...]] = deque()

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self

    def __next__(self) -> tuple[Any, ...]:
        if not self.waiting:
            raise StopIteration
        return self.waiting.popleft()


class AsyncFeed:
    """Reads an input, and submits its calls, at most `ahead` more than results were taken (None: any number).

    `futures` submits a call of `calls` for each future that is taken from it. For one event loop.
    """

    def __init__(
        self,
        iterables: tuple[Iterable[Any] | AsyncIterable[Any], ...],
        calls: Calls,
        futures: Iterator[Future[Any]],
        jobs: Jobs,
        sizes: tuple[int, int | None],
        as_completed: bool,
    ) -> None:
        """`sizes`: number of calls that travel together, and `ahead`."""
        self._iterables = iterables
        self._calls = calls
        self._futures = futures
        self._jobs = jobs
        self._chunksize, self._ahead = sizes
        self._as_completed = as_completed
        self._loop = asyncio.get_running_loop()
        self._pending: set[Future[Any]] = set()  # submitted, and not taken
        # In the order in which they are taken. The session's thread appends, if that is the order of their ends.
        self._queue: deque[Future[Any]] = deque()
        self._changed = asyncio.Event()  # for who takes: a future is done, or added; or the input is over
        self._is_reported = False  # that something has changed; also used by the session's thread
        self._taken = asyncio.Event()  # for the task below
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(lambda task: self._changed.set())

    async def take(self, deadline: float | None) -> Future[Any] | None:
        """Return the next future that is done; None: there are no more. Raises what the input has raised, after the
        results of all items before it; TimeoutError."""
        while not (self._queue and self._queue[0].done()):
            self._changed.clear()
            self._is_reported = False
            if self._queue and self._queue[0].done():  # just now
                break
            if not self._pending and self._task.done():
                self._task.result()
                return None
            await self._wait(deadline)
        future = self._queue.popleft()
        self._pending.discard(future)
        self._taken.set()
        return future

    def close(self) -> None:
        """Read no more, and cancel all jobs whose results were not taken."""
        self._task.cancel()
        if self._task.done() and not self._task.cancelled():
            self._task.exception()  # asyncio would report it, if nobody had asked
        while self._pending:
            self._pending.pop().kill()

    async def _wait(self, deadline: float | None) -> None:
        if deadline is None:
            await self._changed.wait()
            return
        try:
            await asyncio.wait_for(self._changed.wait(), max(0.0, deadline - time.monotonic()))
        except asyncio.TimeoutError:  # not the built-in one before Python 3.11
            raise concurrent.futures.TimeoutError() from None

    async def _run(self) -> None:
        """Read and submit the whole input."""
        calls, failure, is_over = _zipped(self._iterables), None, False
        breath = Breath()
        while not is_over:
            while self._ahead is not None and len(self._pending) >= self._ahead:
                self._taken.clear()
                await self._taken.wait()
            batch: list[tuple[Any, ...]] = []
            try:
                while len(batch) < self._chunksize:
                    batch.append(await calls.__anext__())
            except StopAsyncIteration:
                is_over = True
            except Exception as error:  # items that were read before are a batch, too
                failure, is_over = error, True
            while self._jobs.is_full(1):  # to submit would block the event loop
                await asyncio.sleep(FULL_SECONDS)
            self._calls.waiting.extend(batch)
            for future in islice(self._futures, len(batch)):
                self._add(future)
            self._changed.set()
            await breath.take()
        if failure is not None:
            raise failure

    def _add(self, future: Future[Any]) -> None:
        self._pending.add(future)
        if not self._as_completed:
            self._queue.append(future)
        future.add_done_callback(self._note)

    def _note(self, future: Future[Any]) -> None:
        """Note that a future is done; usually in the session's thread."""
        if self._as_completed:
            self._queue.append(future)
        if not self._is_reported:
            self._is_reported = True
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                self._loop.call_soon_threadsafe(self._changed.set)


class Breath:
    """Gives other tasks of the event loop a turn from time to time."""

    def __init__(self) -> None:
        self._due = time.monotonic() + BREATH_SECONDS

    async def take(self) -> None:
        if time.monotonic() > self._due:
            await asyncio.sleep(0)
            self._due = time.monotonic() + BREATH_SECONDS


async def results(
    begin: Callable[[], AsyncFeed],
    timeout: float | None,
    returns_errors: bool,
    bar: Progress | None,
) -> AsyncGenerator[Any, None]:
    """Yield the results of a feed, which `begin` makes when the first is asked for."""
    deadline = None if timeout is None else time.monotonic() + timeout
    breath, feed = Breath(), begin()
    try:
        with contextlib.nullcontext() if bar is None else bar:
            while (future := await feed.take(deadline)) is not None:
                error = None if future.cancelled() else future.exception()
                taken = [error if error is not None and returns_errors else future.result()]
                del future, error
                yield taken.pop()  # so that nothing here keeps a yielded value alive
                await breath.take()
    finally:
        feed.close()


async def _zipped(
    iterables: tuple[Iterable[Any] | AsyncIterable[Any], ...],
) -> AsyncIterator[tuple[Any, ...]]:
    """Yield the arguments of one call after the other, as `zip` does."""
    inputs = [aiter(each) if isinstance(each, AsyncIterable) else iter(each) for each in iterables]
    while inputs:
        args: list[Any] = []
        for each in inputs:
            try:
                args.append(await anext(each) if isinstance(each, AsyncIterator) else next(each))
            except (StopIteration, StopAsyncIteration):
                return
        yield tuple(args)
