"""Calls that depend on calls: each is held until the futures among its arguments are done, and gets their results.

    submit --> add: HeldCalls, one Result for each future         (any thread)
    a future is done --> on_done --> its Result: a payload | an error | cancelled
                            |--- all of a call's are there --> a job with them in its payload, sent as any other
                            '--- one failed, or was cancelled --> a job that is not sent; DependencyFailed, or cancelled

A result of this session's own jobs is passed on as it came, without a look into it: the exchange gives the
payload to the Result. One above LARGE_RESULT is an object of the session, which each machine gets once.

No step calls another of these: failures pass through the session's thread, one by one, so that chains of any length are
no recursion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from cw.client.functions.calls import Calls
from cw.client.recorded_calls import UnkeyedCall
from cw.client.session.delivery import Delivery
from cw.client.session.job import Dependent
from cw.client.session.jobs import Jobs
from cw.client.session.outcome import Abandoned
from cw.errors import DependencyFailed
from cw.net import messages as m
from cw.net import wire
from cw.payloads import dependent as payloads
from cw.payloads import script, serialize
from cw.payloads.pickling_errors import function_name

LARGE_RESULT = 64 * 1024
"""Size of a result (bytes) from which it is an object. Larger: it travels once for each call that needs it. Smaller: an
object, and a function of its own, cost more time than the bytes."""

_CLASS_BY_IDENTITY = b"class_of"
"""What a pickle contains that refers to a class of the client's without a name, as runners' results do."""


_NAMELESS = 24
"""A pickle that is shorter refers to nothing: its shortest name, with the frame around it, takes more."""


class Owner(Protocol):
    """The session, as it is needed here."""

    def is_own_thread(self) -> bool:
        """True if called in the session's thread."""


class Result:
    """The result of a future, for the calls that wait for it."""

    __slots__ = ("codes", "dependents", "future", "names", "number", "payload")

    def __init__(self, future: Future[Any]) -> None:
        self.future: Future[Any] | None = future
        self.dependents: list[Dependent] = []
        self.payload: Any = None
        # What the payload refers to, as in `Pickled`.
        self.names: Sequence[str] = ()
        self.codes: Sequence[Any] = ()
        self.number = 0  # of its object, if it is large


class Dependents:
    """The calls of one session that wait for futures. The methods are for any thread.

    `wake()` makes the session's thread look for jobs and results.
    """

    def __init__(
        self,
        owner: Owner,
        jobs: Jobs,
        calls: Calls,
        delivery: Delivery,
        wake: Callable[[], None],
    ) -> None:
        self.tag_of: Callable[[int, Any], Any] | None = None
        """Return the tag of a call that gets this number (below 0) for now; called under the lock."""
        self._jobs = jobs
        self._calls = calls
        self._delivery = delivery
        self._wake = wake
        self._owner = owner
        self._results: dict[int, Result] = {}  # of other futures than the session's own, by id

    def add(self, dependent: Dependent, futures: Sequence[Future[Any]]) -> int:
        """Hold a call until these futures are done. Returns its number."""
        added = []
        with self._calls.lock:
            self._jobs.held.add(dependent)
            if self.tag_of is not None:
                dependent.tag = self.tag_of(dependent.number, dependent.tag)
            number = dependent.number  # (another one soon, if all futures are done)
            _renumber(dependent, number)
            for future in futures:
                is_own = getattr(future, "_session", None) is self._owner
                result = future.awaited if is_own else self._results.get(id(future))  # type: ignore[attr-defined]
                if result is None:
                    result = Result(future)
                    added.append(future)
                    if is_own:
                        future.awaited = result  # type: ignore[attr-defined]
                    else:
                        self._results[id(future)] = result
                if not result.dependents or result.dependents[-1] is not dependent:
                    result.dependents.append(dependent)
                    dependent.missing += 1
                dependent.results.append(result)
        for future in added:
            if getattr(future, "_session", None) is not self._owner:
                future.add_done_callback(self.on_done)
            elif future.done():  # it may have been done before it was noted there
                self.on_done(future)
        return number

    def withdraw(self, number: int, owner: Any = None) -> int:
        """Make a job that must be cancelled of a held call. Returns its number; 0: the call is not held. `owner`: the
        tag that it must have, if not None."""
        with self._calls.lock:
            dependent = self._jobs.held.get(number)
            if dependent is None or (owner is not None and dependent.tag is not owner):
                return 0
            return self._end(dependent)

    def abandon(self) -> None:
        """Make jobs of all held calls, at the end of the session, which settles these."""
        with self._calls.lock:
            for dependent in self._jobs.held.all():
                self._end(dependent)

    def on_done(self, future: Future[Any]) -> None:
        """Note that a future is done, and release the calls that have waited for it."""
        with self._calls.lock:
            if getattr(future, "_session", None) is self._owner:
                result, future.awaited = future.awaited, None  # type: ignore[attr-defined]
            else:
                result = self._results.pop(id(future), None)
            if result is None or not self._jobs.held.size:  # (a forked child holds none)
                return
            dependents, result.dependents, result.future = result.dependents, [], None
            payload = result.payload
            is_plain = type(payload) is bytes and len(payload) < _NAMELESS and not future.cancelled()
            error = None if is_plain else self._take(result, future)
            is_ready = False
            for dependent in dependents:
                if not dependent.missing:
                    continue  # it has been cancelled, or another future has failed
                if error is None:
                    dependent.missing -= 1
                    if not dependent.missing:
                        is_ready = True
                        self._release(dependent)
                else:
                    self._fail(dependent, _failure_of(dependent, future, error))
        if is_ready and not self._owner.is_own_thread():  # (that thread sends when it has taken all results)
            self._wake()

    # --- under the lock ---

    def _take(self, result: Result, future: Future[Any]) -> BaseException | None:
        """Take the payload of a future's result. Returns its error, if it has one."""
        if future.cancelled():
            return Abandoned("a call that it depends on was cancelled")
        payload = result.payload
        if payload is None:
            error = future.exception()
            return self._pickle(result, future.result()) if error is None else error
        payload = serialize.split_text(payload)[1]
        pickled = serialize.pickle_of(payload)
        if pickled.find(_CLASS_BY_IDENTITY) >= 0:
            return self._pickle(result, serialize.load(payload))
        result.names = script.names_in(pickled)
        result.payload = payload
        return None

    def _pickle(self, result: Result, value: Any) -> BaseException | None:
        """Pickle a value that came on another way, or refers to classes of ours. Returns the error if it cannot be."""
        try:
            pickled = serialize.pickle_value(value)
            result.payload = pickled.payload(self._calls.store)
        except Exception as error:
            return error
        result.names, result.codes = pickled.names, pickled.codes
        return None

    def _release(self, dependent: Dependent) -> None:
        """Make a job of a call whose futures are done."""
        results, before = dependent.results, dependent.function
        try:
            call = dependent.call
            if type(call) is UnkeyedCall:
                dependent.call = call = call.complete()
            if call is not None and call.is_found:
                function, payload = dependent.function, dependent.payload
            else:
                function, payload = self._fill(dependent)
        except Exception as error:
            self._fail(dependent, error)
            return
        number = self._jobs.release(dependent, function, payload, is_sent=True)
        if call is not None:
            self._delivery.add(number, call)
            if call.is_found:
                self._wake()
        if not _renumber(dependent, number):  # cancelled at this very moment
            self._jobs.cancel(number, False)
            self._wake()
        if function != before:
            large = [result.number for result in results if result.number]
            self._calls.objects.forget([function, *large])

    def _fill(self, dependent: Dependent) -> tuple[int, Any]:
        """Return the number of the function for a call with its results, and its payload."""
        results, function = dependent.results, dependent.function
        if len(results) == 1 and len(results[0].payload) < _NAMELESS:  # most calls of large graphs
            return function, payloads.pack([results[0].payload], dependent.payload)
        if any(result.names or result.codes for result in results):
            names = sorted({name for result in results for name in result.names})
            codes = list({id(code[1]): code for result in results for code in result.codes}.values())
            function = self._calls.functions.maker.extend(function, names, codes, dependent.called)
        parts = [self._part_of(result) for result in results]
        large = [part for part in parts if type(part) is int]
        if large:
            made = self._calls.objects.get(function)
            needs = dict.fromkeys([*[need.number for need in made.needs], *large])
            function = self._calls.objects.add(m.FUNCTION, list(needs), made.payload)
        if function != dependent.function:
            known = self._calls.objects.names
            known[function] = known.get(dependent.function, "")
            self._calls.make_room(function)
        payload = payloads.pack(parts, dependent.payload, self._calls.store)
        wire.check_payload(payload, "the arguments")
        return function, payload

    def _part_of(self, result: Result) -> Any:
        """Return a result's payload, or the number of its object if it is large."""
        if len(result.payload) < LARGE_RESULT:
            return result.payload
        try:
            self._calls.objects.get(result.number)
        except KeyError:  # it is not made yet, or forgotten after the jobs that needed it
            result.number = self._calls.objects.add(m.VALUE, (), result.payload, b"")
        return result.number

    def _fail(self, dependent: Dependent, error: BaseException) -> None:
        """Make a job of a call that cannot run, which ends with this error."""
        self._delivery.add_failed(self._end(dependent), error)
        self._wake()

    def _end(self, dependent: Dependent) -> int:
        """Make a job of a call that is not sent; returns its number."""
        number = self._jobs.release(dependent, dependent.function, dependent.payload, is_sent=False)
        _renumber(dependent, number)
        return number


def _renumber(dependent: Dependent, number: int) -> bool:
    """Give a call's tag the number by which it is cancelled from now on. False: it has been cancelled."""
    note_number = getattr(dependent.tag, "note_number", None)
    return note_number is None or bool(note_number(number))


def _failure_of(dependent: Dependent, future: Future[Any], error: BaseException) -> BaseException:
    """Return the error of a call that depends on a future which failed."""
    if isinstance(error, Abandoned):
        return error
    name = function_name(dependent.called)
    if isinstance(error, DependencyFailed) and error.__cause__ is not None:
        cause, origin = error.__cause__, error.origin
        text = f"{name}() was not called: a call that it depends on did not run either, since {origin} failed"
    else:
        number = getattr(future, "_number", 0)
        cause, origin = error, f"job {number}" if number > 0 else "a future among the arguments"
        text = f"{name}() was not called: {origin}, which it depends on, failed"
    failure = DependencyFailed(f"{text} ({type(cause).__name__}: {cause})", origin)
    failure.__cause__ = cause
    return failure
