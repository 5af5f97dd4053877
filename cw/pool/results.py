"""What the methods of a pool return: results that arrive from the session's thread, one for each job.

    Source --job 0, 1, ...--> session --outcomes--> note(index, ...)   AsyncResult, MapResult: get, wait, callbacks
       '------------ the input is over ------------> end(count, error)  IMapIterator: next

A job is one call, or a chunk of calls. An outcome is opened, which may unpickle it, when it is asked for, in the thread
that asks; only for callbacks, it is in the session's.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from cw import nested
from cw.client.session.session import Session
from cw.events import EventLogger
from cw.payloads import chunks, serialize
from cw.payloads.deferred import Deferred

logger = EventLogger("cw.pool")

T = TypeVar("T")
Callback = Callable[[Any], object]


class Outcome(NamedTuple):
    """Outcome of a job as the session delivers it. `value` of a chunk: that of `chunks.run`."""

    number: int
    error: BaseException | None
    value: Any

    def values(self, is_chunk: bool) -> list[Any]:
        """Return the results of its calls. Raises the error of the first that failed."""
        if self.error is not None:
            raise self.error
        value = self.value
        if type(value) is Deferred:
            try:
                value = value.load()
            except BaseException as failure:
                raise serialize.unreadable(value.describe, failure) from failure
        if not is_chunk:
            return [value]
        results: list[Any]
        results, error = value
        if error is not None:
            raise chunks.load_error(error, self.number, len(results) + 1)
        return results


class _Result:
    """What all results have: they keep their pool alive until they are complete."""

    def __init__(self, pool: Any, session: Session, is_chunked: bool) -> None:
        self._pool = pool
        self._session = session
        self._is_chunked = is_chunked

    def _block(self, wait: Callable[[float | None], object], timeout: float | None) -> None:
        """Call `wait(timeout)`; in a job, with its slot lent."""
        if self._session.is_own_thread():
            raise RuntimeError("a callback of a pool cannot wait for results, which arrive in its own thread")
        nested.wait(self._session, wait, timeout)


class AsyncResult(_Result, Generic[T]):
    """Result of `Pool.apply_async`."""

    def __init__(
        self,
        pool: Any,
        session: Session,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        is_chunked: bool = False,
        count: int = 1,
    ) -> None:
        super().__init__(pool, session, is_chunked)
        self._callback = callback
        self._error_callback = error_callback
        self._lock = threading.Lock()  # outcomes come from the session's thread and from those that submit
        self._outcomes: list[Outcome | None] = [None] * count
        self._left = count
        self._opened: tuple[BaseException | None, Any] | None = None
        self._event = threading.Event()
        if not count:
            self._event.set()  # (without a callback, as in multiprocessing)
            self._pool = None

    def ready(self) -> bool:
        """True if the result, or the error, is there."""
        return self._event.is_set()

    def successful(self) -> bool:
        """True if there is no error. Raises ValueError if the result is not there yet."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._open()[0] is None

    def wait(self, timeout: float | None = None) -> None:
        """Block until the result is there, at most `timeout` seconds."""
        if not self._event.is_set():
            self._block(self._event.wait, timeout)

    def get(self, timeout: float | None = None) -> T:
        """Return the result; blocks up to `timeout` seconds (multiprocessing.TimeoutError). Raises what a call raised,
        and CancelledError if the pool was terminated."""
        self.wait(timeout)
        if not self.ready():
            raise multiprocessing.TimeoutError
        error, value = self._open()
        if error is not None:
            try:
                raise error
            finally:
                del self, error  # the traceback refers to this frame
        result: T = value
        return result

    def note(self, index: int, outcome: Outcome) -> None:
        """Take the outcome of a job. After the last one, the callback is called, and then the result is there."""
        with self._lock:
            if self._outcomes[index] is not None:
                return  # that it is cancelled was noted before
            self._outcomes[index] = outcome
            self._left -= 1
            if self._left:
                return
        if self._callback is not None or self._error_callback is not None:
            self._call_back()
        self._callback = self._error_callback = self._pool = None
        self._event.set()

    def end(self, count: int, error: BaseException | None) -> None:
        """Note that no more than `count` jobs come; the others fail with the error."""
        for index in range(count, len(self._outcomes)):
            self.note(index, Outcome(0, error, None))

    def _call_back(self) -> None:
        error, value = self._open()
        callback, argument = (self._callback, value) if error is None else (self._error_callback, error)
        try:
            if callback is not None:
                callback(argument)
        except BaseException:
            logger.error("pool.callback_failed", "the callback of a pool failed", exc_info=True)

    def _open(self) -> tuple[BaseException | None, Any]:
        """Return the error, or None and the value."""
        opened = self._opened
        if opened is None:
            try:
                opened = None, self._value([o for o in self._outcomes if o is not None])
            except BaseException as error:
                opened = error, None
            self._opened, self._outcomes = opened, [None] * len(self._outcomes)
        return opened

    def _value(self, outcomes: list[Outcome]) -> Any:
        return outcomes[0].values(False)[0]


class MapResult(AsyncResult[list[Any]]):
    """Result of `Pool.map_async` and `starmap_async`: the results in the order of the input, or the first error in that
    order. It is there when all jobs have ended."""

    seconds = 0.0
    """Duration of its jobs in their runners, in all."""

    def note(self, index: int, outcome: Outcome) -> None:
        """Take the outcome of a job, which the session delivers."""
        self.seconds += self._session.delivery.seconds
        super().note(index, outcome)

    def _value(self, outcomes: list[Outcome]) -> Any:
        return [value for outcome in outcomes for value in outcome.values(self._is_chunked)]


class IMapIterator(_Result):
    """Results of `Pool.imap`, in the order of the input."""

    def __init__(self, pool: Any, session: Session, is_chunked: bool) -> None:
        super().__init__(pool, session, is_chunked)
        self._condition = threading.Condition()
        self._early: dict[int, Outcome] = {}  # those that came before an earlier one
        self._ready: deque[Outcome] = deque()
        self._count = 0  # of outcomes that became ready so far
        self._length: int | None = None
        self._values: Iterator[Any] = iter(())  # of the chunk that is being taken

    def __iter__(self) -> IMapIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result; blocks up to `timeout` seconds (multiprocessing.TimeoutError). Raises what the call
        raised; the next call of this method goes on with the next result."""
        for value in self._values:
            return value
        with self._condition:
            is_there = self._is_there()
        if not is_there:
            self._block(self._wait, timeout)
        with self._condition:
            if not self._ready:
                if self._is_over():
                    raise StopIteration
                raise multiprocessing.TimeoutError
            outcome = self._ready.popleft()
        self._values = iter(outcome.values(self._is_chunked))
        return next(self._values)

    def note(self, index: int, outcome: Outcome) -> None:
        """Take the outcome of a job."""
        with self._condition:
            self._put(index, outcome)
            if self._is_over():
                self._pool = None
            self._condition.notify_all()

    def end(self, count: int, error: BaseException | None) -> None:
        """Note that no more than `count` jobs come, and after them the error, if any."""
        with self._condition:
            if self._length is not None:
                return
            self._length = count if error is None else count + 1
        if error is not None:
            self.note(count, Outcome(0, error, None))
        else:
            with self._condition:
                if self._is_over():
                    self._pool = None
                self._condition.notify_all()

    def _put(self, index: int, outcome: Outcome) -> None:
        self._early.setdefault(index, outcome)
        while self._count in self._early:
            self._ready.append(self._early.pop(self._count))
            self._count += 1

    def _is_over(self) -> bool:
        """True if no more outcomes become ready."""
        return self._length is not None and self._count >= self._length

    def _is_there(self) -> bool:
        return bool(self._ready) or self._is_over()

    def _wait(self, timeout: float | None) -> None:
        with self._condition:
            self._condition.wait_for(self._is_there, timeout)


class IMapUnorderedIterator(IMapIterator):
    """Results of `Pool.imap_unordered`, as they arrive."""

    def _put(self, index: int, outcome: Outcome) -> None:
        self._ready.append(outcome)
        self._count += 1
