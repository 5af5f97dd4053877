"""The jobs of a pool: each is one call, or a chunk of a map's calls, that can be submitted.

one(function, args)              --> a job
of_map(function, calls, size)    --> jobs, one after the other      job(tag) --> session
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import FunctionType
from typing import Any

from cw.client.calls import ManyCalls
from cw.client.session import Session
from cw.payloads import chunks
from cw.payloads.code_names import stored_names
from cw.payloads.current import LABELS, PLACE
from cw.payloads.initializer import Initialized, prepare_arguments
from cw.payloads.objects import CHUNK, ONE
from cw.requirements import NO_OPTIONS

Job = Callable[[Any], object]
"""Submits a job, with the tag that it is given. Raises the error that makes it unpicklable."""


class Initializer:
    """The initializer of a pool. Raises NotPicklable if its arguments cannot travel."""

    def __init__(self, initializer: Callable[..., Any], initargs: Iterable[Any]) -> None:
        self._initializer = initializer
        self._initargs = prepare_arguments(tuple(initargs))
        self._reader = _reader_of(initializer)
        self._token = secrets.token_hex(8)
        self._last: tuple[Any, Initialized] | None = None

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function before whose first call in a runner the initializer runs."""
        last = self._last
        if last is None or last[0] is not function:  # the same one is not prepared again
            initialized = Initialized(self._token, function, self._initializer, self._initargs, self._reader)
            self._last = last = function, initialized
        return last[1]


class JobMaker:
    """Makes the jobs of one pool."""

    def __init__(self, session: Session, initializer: Initializer | None) -> None:
        self._session = session
        self._initializer = initializer
        self._labels = itertools.count(PLACE, PLACE)

    def one(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job:
        """Make the job of one call."""
        function, label = self._complete(function), next(self._labels) & LABELS
        return lambda tag: self._session.submitter.submit(
            function, args, kwargs, tag, NO_OPTIONS, None, None, label
        )

    def of_map(
        self, function: Callable[..., Any], calls: Iterator[tuple[Any, ...]], size: int
    ) -> Iterator[Job]:
        """Make the jobs of a map, each of `size` calls. The function's state is taken now. If it does not pickle, the
        first step raises that."""
        session, label = self._session, next(self._labels) & LABELS
        function = self._complete(function)
        session.calls.look_at_modules()
        try:
            prepared = session.calls.freeze(function, ONE if size == 1 else CHUNK)
        except Exception as error:
            return _failing(error)

        def submit_one(args: tuple[Any, ...], place: int, tag: Any) -> None:
            session.submitter.submit(function, args, {}, tag, NO_OPTIONS, None, prepared, place)

        def submit_chunk(batch: tuple[tuple[Any, ...], ...], place: int, tag: Any) -> None:
            chunk = chunks.Chunk(function, prepared.inline_state)
            for args in batch:
                chunk.add(args)
            session.submitter.add(ManyCalls(session.calls, function, chunk, prepared, place), tag)

        if size == 1:
            return (partial(submit_one, args, place) for place, args in enumerate(calls, label))
        batches = iter(lambda: tuple(itertools.islice(calls, size)), ())
        return (partial(submit_chunk, batch, label + size * n) for n, batch in enumerate(batches))

    def _complete(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function if self._initializer is None else self._initializer.before(function)


def _failing(error: Exception) -> Iterator[Job]:
    """Return jobs of which already the first cannot be made."""
    raise error
    yield


def _reader_of(initializer: Callable[..., Any]) -> Callable[[], Any] | None:
    """Return a function that reads the global names which the initializer stores, or None.

    It travels with the initializer, so that this program's values of these names arrive before the initializer runs.
    With the first function that reads them, they would come later, and replace what it has stored."""
    while isinstance(initializer, partial):
        initializer = initializer.func
    stored = stored_names(initializer) if type(initializer) is FunctionType else set()
    if not stored:
        return None
    code = f"lambda: ({', '.join(sorted(stored))},)"
    reader: Callable[[], Any] = eval(code, initializer.__globals__)  # noqa: S307
    return reader
