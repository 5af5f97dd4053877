"""A `concurrent.futures.Future` at a tenth of the cost: its lock and lists are made when a thread waits for it.

A plain Future has a condition, a lock, a deque and two lists: 1.7 KiB and nine objects for the garbage collector to
walk, a million times in a large batch, and most futures are never waited for singly. Here, changes of state happen
under one lock that all futures share, until `_condition` is first used (which `wait()` and `as_completed()` do only
while the future is pending); from then on, as in the base class. The first thread that waits in `result()` does without
it: it blocks at a *gate*, a plain lock that opens when the future is done.

The attributes with an underscore are those that concurrent.futures itself (wait, as_completed) reads.
"""

from __future__ import annotations

import concurrent.futures
import os
import reprlib
import threading
from collections.abc import Callable, Generator
from concurrent.futures import InvalidStateError
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any, TypeVar

from cw import html, nested
from cw.payloads import futures, serialize
from cw.payloads.deferred import Deferred, ImportDeadlock
from cw.payloads.job_usage import Usage

if TYPE_CHECKING:
    from cw.client.session.session import Session

T = TypeVar("T")

# Guards every future without a condition, and the creation of conditions.
_lock = threading.Lock()


def _renew_lock() -> None:
    """Replace the lock in a forked child: another thread of the parent may have held it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


class _GateCondition(threading.Condition):
    """The condition of a future at whose gate a thread waits. It is notified when the future is done, and only then."""

    def __init__(self, gate: Any) -> None:
        super().__init__()
        self._gate = gate

    def notify_all(self) -> None:
        super().notify_all()
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.release()


class Future(concurrent.futures.Future[T]):
    """The future of one job. `running()` is approximate: short jobs are never reported as running.

    `await future` works in asyncio; if the task that awaits it is cancelled, so is the job, and stopped if it runs.
    """

    is_stored = False
    """True if the job did not run: its result was in the store."""
    output: tuple[str, str] | None = None
    """What the job has printed on stdout and stderr, as it comes with the result; see `stdout`."""
    usage: Usage | None = None
    """What the job has used, once it is done; None: it lasted less than 10 ms, or its result was in the store."""
    _made_condition: threading.Condition | None = None
    _gate: Any = None  # a lock that is held until the future is done, if a thread waits at it and there is no condition
    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _waiters: Any = ()
    _done_callbacks: Any = ()
    awaited: Any = None
    """Its result for calls of its session that wait for it (`cw.client.session.dependents.Result`). Set under the
    session's lock."""
    stored_key: bytes | None = None
    """Key of its call in a store, by which calls that depend on it are recognised."""

    def __init__(self, session: Session) -> None:  # without the base's, which makes what is saved here
        self._session = session
        self._number = 0

    @property
    def stdout(self) -> str | None:
        """What the job has printed on stdout, C code and child processes included, of a job with `output="keep"` or one
        that failed; a byte that is no UTF-8 is a '\ufffd'. None: it is not done, or nothing was kept."""
        return None if self.output is None or not self.done() else self.output[0]

    @property
    def stderr(self) -> str | None:
        """What the job has printed on stderr, as `stdout`."""
        return None if self.output is None or not self.done() else self.output[1]

    def _condition_in_use(self) -> threading.Condition:
        condition = self._made_condition
        if condition is None:
            with _lock:
                condition = self._made_condition
                if condition is None:
                    is_lender = nested.lender is not None and self._session.lends
                    self._waiters = nested.Waiters(self._session) if is_lender else []
                    self._done_callbacks = list(self._done_callbacks)
                    gate, self._gate = self._gate, None
                    condition = threading.Condition() if gate is None else _GateCondition(gate)
                    self._made_condition = condition
        return condition

    # Type checkers see the attribute that wait() and as_completed() ask for.
    _condition: threading.Condition = property(_condition_in_use)  # type: ignore[assignment]

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio

        wrapped = asyncio.wrap_future(self, loop=asyncio.get_running_loop())
        try:
            return (yield from wrapped)
        except asyncio.CancelledError:
            if wrapped.cancelled():  # otherwise the job has raised it
                self.kill()
            raise

    def _repr_html_(self) -> str | None:
        return html.shown(self._html)

    def _html(self) -> str:
        state = "cancelled" if self.cancelled() else "done" if self.done() else self._state.lower()
        fields: dict[str, object] = {"job": self._number, "state": state}
        if state == "done" and (error := self._exception) is not None:
            fields |= {"state": "failed", "error": f"{type(error).__name__}: {error}"}
        elif state == "done" and type(self._result) is not Deferred:
            fields["result"] = reprlib.repr(self._result)
        return html.fields("Future", fields)

    def __reduce__(self) -> Any:
        if self._state == FINISHED and self._exception is None and type(self._result) is not Deferred:
            return futures.reduce_value(self._result)  # (`exception()` costs more)
        return futures.reduce(self)

    def cancel(self) -> bool:
        """Cancel the job unless it is known to run or has ended; returns at once.

        True: the future is cancelled for good. If its job has started at this very moment, it is stopped and its
        result dropped.
        """
        with _lock:
            is_bare = self._made_condition is None
            was = self._state
            if is_bare and was == PENDING:
                self._state = CANCELLED_AND_NOTIFIED
                if self._gate is not None:
                    self._gate.release()
                    self._gate = None
        if is_bare:
            if was == PENDING:
                self._notify_dependents()
                self._invoke_callbacks()  # type: ignore[attr-defined]
                self._session.submitter.cancel(self._number)
            return was not in (RUNNING, FINISHED)
        with self._condition:
            if self._state != PENDING:
                return self.cancelled()
            self._state = CANCELLED
            self._condition.notify_all()
            self.set_running_or_notify_cancel()  # notifies wait() and as_completed()
        self._notify_dependents()
        self._invoke_callbacks()  # type: ignore[attr-defined]
        self._session.submitter.cancel(self._number)
        return True

    def kill(self) -> bool:
        """Cancel the job as `cancel` does, but stop it if it runs (used by `ClusterExecutor.kill`)."""
        if self.cancel():
            return True
        with self._condition:
            if self._state != RUNNING:
                return self.cancelled()
            self._state = CANCELLED_AND_NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        self._notify_dependents()
        self._invoke_callbacks()  # type: ignore[attr-defined]
        self._session.submitter.cancel(self._number)
        return True

    def cancelled(self) -> bool:
        """True if the future was cancelled."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def running(self) -> bool:
        """True if the job is known to run."""
        return self._state == RUNNING

    def done(self) -> bool:
        """True if the future has a result or an exception, or was cancelled."""
        return self._state in (FINISHED, CANCELLED, CANCELLED_AND_NOTIFIED)

    def result(self, timeout: float | None = None) -> T:
        """Return the job's result; blocks for it up to `timeout` seconds (TimeoutError). Raises what the job raised."""
        if self._state != FINISHED:
            timeout = self._wait(timeout)
        if self._state == FINISHED and self._exception is None:
            value = self._result
        else:
            error = super().exception(timeout)
            if error is not None:
                try:  # (the base class ignores an exception that is false, such as an empty list of errors)
                    raise error
                finally:
                    del self, error  # the traceback refers to this frame
            value = self._result
        result: T = value if type(value) is not Deferred else self._undefer(value)
        return result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the job raised, or None; blocks for it as `result()` does."""
        error = super().exception(self._wait(timeout))
        if error is None and type(self._result) is Deferred:
            try:
                self._undefer(self._result)
            except BaseException as failure:
                error = failure
        return error

    def _undefer(self, deferred: Deferred) -> T:
        """Unpickle a result that came while a module was being imported, in the thread that asks for it."""
        try:
            value, error = deferred.load(), None
        except ImportDeadlock as failure:  # in a callback; another thread may succeed
            raise serialize.unreadable(deferred.describe, failure) from failure
        except BaseException as failure:
            value, error = None, serialize.unreadable(deferred.describe, failure)
        with _lock:
            if self._result is deferred:  # otherwise another thread was faster
                self._result, self._exception = value, error
        return super().result()

    def _wait(self, timeout: float | None) -> float | None:
        """Wait at the gate, unless another thread does; in a job, with its slot lent. Returns the rest of the timeout
        (seconds)."""
        if self.done():
            return timeout
        if nested.lender is None:
            gate = threading.Lock()
            with _lock:
                if self._made_condition is not None or self._gate is not None or self.done():
                    return timeout
                gate.acquire()
                self._gate = gate
            if timeout is None:
                gate.acquire()
            elif not (gate.acquire(timeout=timeout) if timeout > 0 else gate.acquire(blocking=False)):
                return 0.0
            return timeout

        def wait(timeout: float | None) -> None:
            with self._condition:
                self._condition.wait_for(self.done, timeout)

        nested.wait(self._session, wait, timeout)
        return None if timeout is None else 0.0

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call `fn(self)` when the future is done (in the client's thread), or at once if it already is."""
        with _lock:
            if self._made_condition is None and self._state in (PENDING, RUNNING):
                self._done_callbacks = [*self._done_callbacks, fn]
                return
        super().add_done_callback(fn)

    def _notify_dependents(self) -> None:
        """Report that the future is done to the calls of its session that wait for it. (A callback would cost more.)"""
        if self.awaited is not None:
            self._session.dependents.on_done(self)

    def note_number(self, number: int) -> bool:
        """Take another number for the job: it has waited for futures. False: the future is cancelled."""
        self._number = number
        return self._state == PENDING

    def note_stored(self) -> None:
        """Note that the job need not run (called just before its result is set)."""
        self.is_stored = True

    def note_output(self, stdout: str, stderr: str) -> None:
        """Note what the job has printed (called just before its result is set)."""
        self.output = stdout, stderr

    def note_running(self) -> None:
        """Note that the job runs (called by the executor). Has no effect if the future is cancelled or done by then."""
        with _lock:
            if self._made_condition is None:
                self._state = RUNNING if self._state == PENDING else self._state
                return
        with self._condition:
            if self._state == PENDING:
                self._state = RUNNING

    def set_result(self, result: T) -> None:
        """Set the result (called by the executor)."""
        with _lock:
            is_bare = self._made_condition is None
            is_open = self._state in (PENDING, RUNNING)
            if is_bare and is_open:
                self._result = result
                self._state = FINISHED
                if self._gate is not None:
                    self._gate.release()
                    self._gate = None
        if not is_bare:
            try:
                super().set_result(result)
            finally:
                self._notify_dependents()
        elif not is_open:
            raise InvalidStateError(f"{self._state}: {self!r}")  # (not under the lock, which repr takes)
        else:
            if self.awaited is not None:
                self._notify_dependents()
            if self._done_callbacks:
                self._invoke_callbacks()  # type: ignore[attr-defined]

    def set_exception(self, exception: BaseException | None) -> None:
        """Set the exception (called by the executor)."""
        self._condition  # failures are rare: do as the base class  # noqa: B018
        try:
            super().set_exception(exception)
        finally:
            self._notify_dependents()
