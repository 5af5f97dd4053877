"""Batches of a map's calls: each is one job, with a future for the whole chunk or for each of its calls.

calls --in_batches--> WholeBatch: chunks.run       --> one future, whose value `mapping.of_chunks` opens
                  '-> EachBatch:  chunks.run_each  --> ChunkTag.deliver --> the futures of the calls
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any, Protocol

from cw.client.functions.calls import ManyCalls, OneCall, StoredCall
from cw.client.functions.prepared import Prepared
from cw.client.futures.future import Future
from cw.client.maps import mapping
from cw.client.recorded_calls import Call, Chunk
from cw.client.session.session import Session
from cw.client.store_client import StoreClient
from cw.net import messages as m
from cw.payloads import chunks, serialize
from cw.payloads.deferred import Deferred
from cw.payloads.objects import ONE
from cw.requirements import JobOptions


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

    def note_number(self, number: int) -> bool:
        """Take another number for the job: it has waited for futures. False: all its futures are cancelled."""
        self.number = number
        return self._wanted > 0

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

    def __len__(self) -> int:
        """Return the number of calls that were added."""

    def add_all(self, calls: Iterable[tuple[Any, ...]]) -> None:
        """Add calls, each before the next one is read. Raises the error that makes one unpicklable, and what reading
        them raises."""

    def add_columns(self, columns: Sequence[Sequence[Any]]) -> None:
        """Add calls that were read ahead: the first arguments of all, the second ones, ... which are plain."""

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

    def __len__(self) -> int:
        return len(self._chunk)

    def add_all(self, calls: Iterable[tuple[Any, ...]]) -> None:
        self._chunk.add_all(calls)

    def add_columns(self, columns: Sequence[Sequence[Any]]) -> None:
        self._chunk.add_columns(columns)

    def submit(self) -> Iterable[Future[Any]]:
        if not len(self._chunk):
            return []
        future: Future[Any] = Future(self._session)
        number = self._submit(future)
        if number > 0:  # otherwise it waits for futures, and has its number already
            future._number = number
        return [future]

    def _submit(self, tag: Any, items: Sequence[int] | None = None, call: Chunk | None = None) -> int:
        calls = ManyCalls(
            self._session.calls, self._function, self._chunk, self._prepared, self._label, items, call
        )
        if self._chunk.large:
            self._session.submitter.large_arguments.look(self._function, self._chunk.large, {})
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

    def __len__(self) -> int:
        return len(self._futures)

    def add_all(self, calls: Iterable[tuple[Any, ...]]) -> None:
        for args in calls:
            self._add(args)

    def add_columns(self, columns: Sequence[Sequence[Any]]) -> None:
        self.add_all(zip(*columns, strict=True))

    def _add(self, args: tuple[Any, ...]) -> None:
        future, call = ChunkFuture(self._session), None
        if self._store_client is not None:
            call = self._session.calls.identify(self._store_client, self._function, args, self._prepared)
        if call is not None and call.is_stored:
            future._number = self._session.submitter.add(StoredCall(call), future, self._options)
        elif call is not None and call.is_under_way:  # it may have to run after all, alone
            future._number = self._session.submitter.add(self._alone(args, call), future, self._options)
        else:
            self._chunk.add(args)
            self._missing.append((future, call, len(self._futures)))
        self._futures.append(future)

    def _alone(self, args: tuple[Any, ...], call: Call) -> OneCall:
        calls, function = self._session.calls, self._function
        prepared = calls.freeze(function, ONE)
        label = self._label + len(self._futures)
        alone = OneCall(calls, function, args, {}, None, None, prepared, label)
        alone.call = call
        return alone

    def submit(self) -> Iterable[Future[Any]]:
        if self._missing:
            futures, calls, items = zip(*self._missing, strict=True)
            tag = ChunkTag(list(futures))
            is_whole = len(items) == len(self._futures)
            recorded = None if self._store_client is None else Chunk(list(calls))
            number = self._submit(tag, None if is_whole else list(items), recorded)
            if number > 0:
                tag.number = number
        return self._futures


Together = Callable[[Callable[[], bool]], bool]
"""Type of `Submitter.send_together`."""


def in_batches(
    calls: Iterator[tuple[Any, ...]],
    size: int,
    label: int,
    begin: Callable[[int], Batch],
    together: Together | None = None,
) -> Iterator[Future[Any]]:
    """Submit calls in batches of `size`, and yield the futures. `begin` makes a batch for the label of its first call;
    `label` is the label of the very first call. `together`: all are submitted now; those with plain arguments, whose
    pickling runs no code of the user's, are sent together."""
    columns = calls.columns if type(calls) is mapping.Quiet else None
    labels = count(label, size)
    read: Any = None  # columns that are not submitted yet
    if columns is not None and together is not None:
        futures: list[Future[Any]] = []

        def step() -> bool:
            nonlocal read
            read = columns(size)
            if not chunks.are_plain(read):
                return False
            batch = begin(next(labels))
            batch.add_columns(read)
            futures.extend(batch.submit())
            is_full, read = len(read[0]) == size, None
            return is_full

        while together(step):
            pass
        yield from futures
        if read is None:
            return
    for first in labels:
        batch, failure = begin(first), None
        try:
            if columns is None:
                batch.add_all(islice(calls, size))
            elif chunks.are_plain(read := read or columns(size)):
                batch.add_columns(read)
            else:
                batch.add_all(zip(*read, strict=True))
            read = None
        except Exception as error:  # items that were read before the input raises are a batch, too
            failure = error
        yield from batch.submit()
        if failure is not None:
            raise failure
        if len(batch) < size:
            return
