"""A `concurrent.futures.Future` that costs a tenth: its lock and lists are made when somebody waits for it.

A plain Future brings a condition, a lock, a deque and two lists along: 1.7 KiB and nine objects for the garbage
collector to walk, a million times in a large batch, of which most are never waited for singly. Here, as long as
nobody has asked for `_condition` (which `result()`, `wait()` and `as_completed()` do only while it is pending),
changes of state happen under one lock that all futures share; from then on, as in the base class.

The attributes with an underscore are those that concurrent.futures itself (wait, as_completed) looks at.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any

from cw import nested
from cw.payloads import serialize
from cw.payloads.deferred import Deferred, ImportDeadlock

if TYPE_CHECKING:
    from cw.client.session import Session

# Guards every future without a condition, and the making of conditions.
_lock = threading.Lock()


def _renew_lock() -> None:
    """In a forked child: another thread of the parent may have held it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


class Future(concurrent.futures.Future[Any]):
    """The future of one job. `running()` is best knowledge: short jobs are never reported as running."""

    _made_condition: threading.Condition | None = None
    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _waiters: Any = ()
    _done_callbacks: Any = ()

    def __init__(self, session: Session) -> None:  # the base's is not called: it makes what is spared here
        self._session = session
        self._number = 0

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        condition = self._made_condition
        if condition is None:
            with _lock:
                condition = self._made_condition
                if condition is None:
                    is_lender = nested.lender is not None and self._session.lends
                    self._waiters = nested.Waiters(self._session) if is_lender else []
                    self._done_callbacks = list(self._done_callbacks)
                    condition = self._made_condition = threading.Condition()
        return condition

    def __reduce__(self) -> Any:
        raise TypeError("a future cannot travel: give its result()")

    def cancel(self) -> bool:
        """Cancel the job unless it is known to run or has ended; answers at once.

        True: the future is cancelled for good. Should its job have started in this very moment, it is stopped and
        its result dropped.
        """
        with _lock:
            is_bare = self._made_condition is None
            was = self._state
            if is_bare and was == PENDING:
                self._state = CANCELLED_AND_NOTIFIED
        if is_bare:
            if was == PENDING:
                self._invoke_callbacks()  # type: ignore[attr-defined]
                self._session.cancel(self._number)
            return was not in (RUNNING, FINISHED)
        with self._condition:
            if self._state != PENDING:
                return self.cancelled()
            self._state = CANCELLED
            self._condition.notify_all()
            self.set_running_or_notify_cancel()  # tells those in wait() and as_completed()
        self._invoke_callbacks()  # type: ignore[attr-defined]
        self._session.cancel(self._number)
        return True

    def kill(self) -> bool:
        """As `cancel`, also if the job runs: then it is stopped. For `ClusterExecutor.kill`."""
        if self.cancel():
            return True
        with self._condition:
            if self._state != RUNNING:
                return self.cancelled()
            self._state = CANCELLED_AND_NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        self._invoke_callbacks()  # type: ignore[attr-defined]
        self._session.cancel(self._number)
        return True

    def cancelled(self) -> bool:
        """Was it cancelled?"""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def running(self) -> bool:
        """Is the job known to run?"""
        return self._state == RUNNING

    def done(self) -> bool:
        """Has it a result or an exception, or was it cancelled?"""
        return self._state in (FINISHED, CANCELLED, CANCELLED_AND_NOTIFIED)

    def result(self, timeout: float | None = None) -> Any:
        """The job's result; blocks for it, up to `timeout` seconds (TimeoutError). Raises what the job raised."""
        if self._state == FINISHED and self._exception is None:
            value = self._result
        else:
            error = super().exception(self._wait(timeout))
            if error is not None:
                try:
                    raise error  # (the base class returns None where an exception is false: an empty list of errors)
                finally:
                    del self, error  # the traceback leads to this frame
            value = self._result
        return value if type(value) is not Deferred else self._undefer(value)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the job raised, or None; blocks for it as `result()`."""
        error = super().exception(self._wait(timeout))
        if error is None and type(self._result) is Deferred:
            try:
                self._undefer(self._result)
            except BaseException as failure:
                error = failure
        return error

    def _undefer(self, deferred: Deferred) -> Any:
        """Unpickle a result that came while a module was being imported, in the thread that asks for it."""
        try:
            value, error = deferred.load(), None
        except ImportDeadlock as failure:  # (in a callback) another thread may have better luck
            raise serialize.unreadable(deferred.describe, failure) from failure
        except BaseException as failure:
            value, error = None, serialize.unreadable(deferred.describe, failure)
        with _lock:
            if self._result is deferred:  # else another thread was faster
                self._result, self._exception = value, error
        return super().result()

    def _wait(self, timeout: float | None) -> float | None:
        """In a job: wait here, with its slot lent. Returns what is left of the timeout."""
        if nested.lender is None or self.done():
            return timeout

        def wait(timeout: float | None) -> None:
            with self._condition:
                self._condition.wait_for(self.done, timeout)

        nested.wait(self._session, wait, timeout)
        return None if timeout is None else 0.0

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call `fn(self)` when it is done (in the client's thread), or at once if it is."""
        with _lock:
            if self._made_condition is None and self._state in (PENDING, RUNNING):
                self._done_callbacks = [*self._done_callbacks, fn]
                return
        super().add_done_callback(fn)

    def note_running(self) -> None:
        """For the executor: the job runs. Nothing happens if the future was cancelled, or is done, meanwhile."""
        with _lock:
            if self._made_condition is None:
                self._state = RUNNING if self._state == PENDING else self._state
                return
        with self._condition:
            if self._state == PENDING:
                self._state = RUNNING

    def set_result(self, result: Any) -> None:
        """For the executor."""
        with _lock:
            is_bare = self._made_condition is None
            is_open = self._state in (PENDING, RUNNING)
            if is_bare and is_open:
                self._result = result
                self._state = FINISHED
        if not is_bare:
            super().set_result(result)
        elif not is_open:
            raise InvalidStateError(f"{self._state}: {self!r}")  # (not under the lock, which repr takes)
        elif self._done_callbacks:
            self._invoke_callbacks()  # type: ignore[attr-defined]

    def set_exception(self, exception: BaseException | None) -> None:
        """For the executor."""
        self._condition  # failures are rare: the base class's way  # noqa: B018
        super().set_exception(exception)
