"""The jobs of a pool: each is one call, or a chunk of a map's calls, that can be submitted.

one(function, args)              --> a job
of_map(function, calls, size)    --> jobs, one after the other      job(tag) --> session
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from cw.client.functions.calls import ManyCalls
from cw.client.session.session import Session
from cw.payloads import chunks
from cw.payloads.current import LABELS, PLACE
from cw.payloads.objects import CHUNK, ONE
from cw.requirements import NO_OPTIONS

Job = Callable[[Any], object]
"""Submits a job, with the tag that it is given. Raises the error that makes it unpicklable."""


class JobMaker:
    """Makes the jobs of one pool."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._labels = itertools.count(PLACE, PLACE)

    def one(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job:
        """Make the job of one call."""
        label = self.next_label()
        return lambda tag: self._session.submitter.submit(
            function, args, kwargs, tag, NO_OPTIONS, None, None, label
        )

    def next_label(self) -> int:
        """Return the label of the first call of the next map; those of the others follow."""
        return next(self._labels) & LABELS

    def of_map(
        self,
        function: Callable[..., Any],
        calls: Iterator[tuple[Any, ...]],
        size: int,
        label: int,
        seconds: float | None = None,
    ) -> Iterator[Job]:
        """Make the jobs of a map, each of `size` calls. The function's state is taken now. If it does not pickle, the
        first step raises that. `seconds`: time after which a chunk begins no further call."""
        session = self._session
        session.calls.look_at_modules()
        try:
            prepared = session.calls.freeze(function, ONE if size == 1 else CHUNK)
        except Exception as error:
            return _failing(error)

        def submit_one(args: tuple[Any, ...], place: int, tag: Any) -> None:
            session.submitter.submit(function, args, {}, tag, NO_OPTIONS, None, prepared, place)

        def submit_chunk(batch: tuple[tuple[Any, ...], ...], place: int, tag: Any) -> None:
            chunk = chunks.Chunk(function, prepared.inline_state, seconds)
            columns = tuple(zip(*batch, strict=True)) if len(set(map(len, batch))) == 1 else ()
            if columns and chunks.are_plain(columns):
                chunk.add_columns(columns)
            else:
                chunk.add_all(batch)
            session.submitter.add(ManyCalls(session.calls, function, chunk, prepared, place), tag)

        if size == 1:
            return (partial(submit_one, args, place) for place, args in enumerate(calls, label))
        batches = iter(lambda: tuple(itertools.islice(calls, size)), ())
        return (partial(submit_chunk, batch, label + size * n) for n, batch in enumerate(batches))


def _failing(error: Exception) -> Iterator[Job]:
    """Return jobs of which already the first cannot be made."""
    raise error
    yield
