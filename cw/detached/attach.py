"""`cw.attach("sweep.cw")`: comes back to a run that goes on without its script, from any machine that sees its store.

    the run's folder: calls, state, output --.
    the store: results ----------------------+--> look, every POLL_SECONDS --> futures, counts, what jobs print

It reads only, and asks: results come through the store, once each, errors as in the run. If the run has lost its
steward, another one is started.
"""

from __future__ import annotations

import concurrent.futures
import os
import queue
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from cw import html
from cw.client.futures.future import Future
from cw.client.maps.progress import Counts, Progress
from cw.client.session.outcome import Abandoned
from cw.errors import DetachError, StoreError
from cw.events import EventLogger
from cw.output.printer import Piece, printer
from cw.payloads import classes, serialize
from cw.payloads.deferred import Deferred
from cw.runs import finding
from cw.runs.calls import CallEntry, CallRecord, CallsReader
from cw.runs.folder import CANCELLED, ENDED, HANDING_OVER, SCRIPT, RunFolder
from cw.runs.names import RunError
from cw.runs.onlooker import Onlooker, is_owned
from cw.runs.output import OutputReader
from cw.runs.starting import start_steward
from cw.runs.under_way import LOOK_SHARE, POLL_SECONDS, result_of
from cw.scripts.status import is_script
from cw.store.reader import Store
from cw.store.result import Result

if TYPE_CHECKING:
    from types import TracebackType

    from cw.client.session.session import Session

logger = EventLogger("cw.runs")


SCRIPT_SECONDS = 10.0
"""Time for which a script on another machine is watched, to see if it lives (seconds). Longer: `attach` to a run whose
script was killed takes longer. Shorter: one on a slow file system seems dead."""


class RunCounts(NamedTuple):
    """Numbers of calls of a run."""

    calls: int
    done: int
    """Those that have a result, and did not fail."""
    failed: int
    running: int
    """As the run's steward has said last."""
    waiting: int


class _NoSession:
    """Stands for the session that a future of a run does not have."""

    lends = False


class RunFuture(Future[Any]):
    """The future of one call of a run. Its value is read from the store when it is asked for.

    It cannot be cancelled by itself: `Run.cancel` cancels the run.
    """

    stored_key: bytes

    def __init__(self, run: Run, number: int, entry: CallEntry) -> None:
        super().__init__(cast("Session", _NoSession()))
        self._number = number
        self._run = run  # which settles it, and so must not end before
        self._entry = entry
        self._place = -1
        self.stored_key = entry.key

    @property
    def key(self) -> str:
        """Key of the call in the store, in hexadecimal digits."""
        return self._entry.key.hex()

    @property
    def jobid(self) -> int:
        """Number of the job in the run."""
        return self._number

    @property
    def function(self) -> str:
        """Name of the function."""
        return self._entry.name

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments. Raises LookupError if they were too large to be kept."""
        return self._call()[0]

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments. Raises LookupError as `args` does."""
        return self._call()[1]

    @property
    def state(self) -> str:
        """'under way', 'done', 'failed' or 'cancelled'."""
        if not self.done():
            return "under way"
        if self._exception is None:
            return "done"
        return "cancelled" if isinstance(self._exception, Abandoned) else "failed"

    @property
    def stored(self) -> Result:
        """Its result in the store, with host, seconds and usage. Raises LookupError if it has none (yet)."""
        if self._place < 0:
            raise LookupError(f"{self.function}(), job {self._number}, has no result: it is {self.state}")
        return self._run._read(self._place)

    def cancel(self) -> bool:
        """Return False: calls of a run are cancelled together, by `Run.cancel`."""
        return False

    kill = cancel

    def settle(self, place: int) -> None:
        """Take the result at a place of the store."""
        self._place = place
        describe = f"job {self._number}, {self.function}()"
        try:
            if not place & 1:
                self.set_result(Deferred(place, self._load, describe))
                return
            result = self.stored
            error = result.error
            if result.stdout is not None and result.stderr is not None:
                self.note_output(result.stdout, result.stderr)
        except BaseException as failure:
            error = serialize.unreadable(describe, failure)
        self.set_exception(error)

    def _load(self, place: int) -> Any:
        return self._run._read(place).value

    def _call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not self._entry.args:
            raise LookupError("the arguments of this call were too large to be kept")
        classes.definitions.update(self._entry.definitions)
        return serialize.load_call(self._entry.args)


class Run:
    """A run to which this program has come back. A context manager; `close` ends the look at it, not the run.

    `futures`: those of all calls that were handed over, in the order of their submission. They are done when the store
    has their results. Those that a script still has come when it hands them over.
    """

    def __init__(self, folder: RunFolder, output: str) -> None:
        description = folder.description()
        self.name = description.name
        """Name of the run."""
        self.store = description.store
        """Directory of its store."""
        self.is_over = False
        """True if the run will have no more results."""
        self._folder = folder
        self._store = Store(_store_of(folder, description.store), is_writing=False)
        self._onlooker = Onlooker(folder, start_steward)
        self._calls = CallsReader(folder)
        self._output = OutputReader(folder, is_new_only=True) if output == "print" else None
        self._futures: list[RunFuture] = []
        self._former: dict[RunFuture, float] = {}  # of those that are not done; see `CallEntry`
        self._version = (-1, -1)  # of what they were compared with
        self._done = self._failed = self._found = 0
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._looking = threading.Lock()
        self._look()
        self._found = self._done + self._failed
        if not self.is_over:
            name = "cw-attached"
            threading.Thread(
                target=_look_again, args=(weakref.ref(self), self._stop), name=name, daemon=True
            ).start()

    @property
    def futures(self) -> list[RunFuture]:
        """The futures of the calls so far, in the order of their submission."""
        return self._futures[:]

    @property
    def state(self) -> str:
        """'with its script', 'handing over', 'with its steward', 'ended' or 'cancelled'."""
        return self._onlooker.state.phase

    @property
    def text(self) -> str:
        """Why it does not go on, or how it has ended, if there is something to say."""
        return self._onlooker.state.text

    def counts(self) -> RunCounts:
        """Return how many calls there are, by state."""
        calls, done, failed = len(self._futures), self._done, self._failed
        running = 0 if self.is_over else min(self._onlooker.state.running, calls - done - failed)
        return RunCounts(calls, done, failed, running, 0 if self.is_over else calls - done - failed - running)

    def wait(self, timeout: float | None = None, *, progress: bool | Literal["always"] = False) -> bool:
        """Block until the run is over and its futures are done. False: `timeout` (seconds) is over. `progress`: show a
        bar, as in `cw.map`."""
        with self._bar(progress), self._changed:
            return self._changed.wait_for(lambda: self.is_over, timeout)

    def as_completed(
        self, timeout: float | None = None, *, progress: bool | Literal["always"] = False
    ) -> Iterator[RunFuture]:
        """Yield the futures as they are done, those first that are; ends when the run is over. `progress`: show a bar,
        as in `cw.map`. Raises TimeoutError (of concurrent.futures) after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        done: queue.SimpleQueue[RunFuture] = queue.SimpleQueue()
        asked = yielded = 0
        with self._bar(progress):
            while True:
                is_over = self.is_over
                for future in self._futures[asked:]:
                    asked += 1
                    future.add_done_callback(done.put)
                if is_over and yielded == asked:
                    return
                left = POLL_SECONDS if deadline is None else deadline - time.monotonic()
                if left <= 0 and done.empty():
                    raise concurrent.futures.TimeoutError
                try:
                    future = done.get(timeout=max(0.0, min(left, POLL_SECONDS)))
                except queue.Empty:
                    continue
                yielded += 1
                yield future

    def cancel(self) -> None:
        """Cancel the run: what waits is dropped, what runs is stopped. Its results so far stay in the store. Its
        futures are done soon. Raises RunError if it is over, or its script still has it."""
        finding.cancel(self._folder)

    def _read(self, place: int) -> Result:
        """Return the result at a place of the store. Raises StoreError."""
        return Result(self._store.read(place))

    def close(self) -> None:
        """Look no more; the run goes on. Futures that are not done stay so. May be called again."""
        self._stop.set()
        with self._looking:  # it ends its look before
            if self._output is not None:
                self._output.close()
            self._store.close()
        printer.settle()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._futures)

    def __repr__(self) -> str:
        counts = self.counts()
        return f"<run {self.name} {self.state}: {counts.done} of {counts.calls} done, {counts.failed} failed>"

    def _repr_html_(self) -> str | None:
        return html.shown(
            lambda: html.fields(f"run {self.name}", {"state": self.state, **self.counts()._asdict()})
        )

    def _bar(self, progress: bool | Literal["always"]) -> Any:
        return Progress(self._counts_of_bar, progress) if progress else nullcontext()

    def _counts_of_bar(self) -> Counts:
        counts = self.counts()
        return Counts(counts.calls, counts.done + counts.failed, counts.failed, counts.running, self._found)

    def _look(self) -> None:
        """Take what has come since. Raises DetachError, StoreError."""
        with self._looking:
            if self._stop.is_set():
                return
            self._onlooker.look()
            self._read_calls()
            self._store.refresh()
            self._print()
            version = len(self._futures), self._store.own_results
            if version != self._version:
                self._version = version
                places = [
                    (each, result_of(self._store, each.stored_key, former))
                    for each, former in self._former.items()
                ]
                for future, place in places:
                    if place >= 0:
                        future.settle(place)
                        self._note(future)
            if self._onlooker.is_over:
                self._end(self._why_over())

    def _read_calls(self) -> None:
        if self.state in (SCRIPT, HANDING_OVER):
            return  # its script may write the list anew
        for record in self._calls.read():
            if type(record) is CallRecord:
                for entry in record.entries:
                    future = RunFuture(self, record.number, entry)
                    self._former[future] = entry.former
                    self._futures.append(future)

    def _end(self, error: BaseException) -> None:
        """Settle what has no result when there will be none."""
        for future in list(self._former):
            future.set_exception(type(error)(*error.args))
            self._note(future)
        self._stop.set()
        with self._changed:
            self.is_over = True
            self._changed.notify_all()

    def _why_over(self) -> BaseException:
        """Return the error of calls that will have no result."""
        if self.state == CANCELLED:
            return Abandoned(f"the run {self.name} was cancelled before this call had a result")
        if self.state == ENDED:
            return RunError(
                f"the run {self.name} has ended without a result of this call: {self.text or 'see its log'}"
            )
        return RunError(
            f"the run {self.name} is over without a result of this call: it was forgotten, or its script was killed. "
            "The script, run again, computes it"
        )

    def _note(self, future: RunFuture) -> None:
        del self._former[future]
        if isinstance(future._exception, Abandoned):
            return
        self._failed += future._exception is not None
        self._done += future._exception is None

    def _print(self) -> None:
        if self._output is not None:
            for printed in self._output.read():
                printer.put(Piece(printed.stream, printed.data, printed.label))

    def give_up(self, error: Exception) -> None:
        """End the look, which cannot go on: futures that are not done get this error."""
        logger.error("runs.attached_failed", "the run %s cannot be followed: %s", self.name, error)
        with self._looking:
            self._end(RunError(str(error)))


def _look_again(reference: weakref.ref[Run], stop: threading.Event) -> None:
    """Look at a run until it is over or closed, or nobody has it any more."""
    pause = POLL_SECONDS
    while not stop.wait(pause):
        run = reference()
        if run is None:
            return
        began = time.monotonic()
        try:
            run._look()
        except StoreError as error:  # a network file system may come back
            logger.warning("runs.results_unreadable", "results cannot be read now: %s", error)
        except Exception as error:
            run.give_up(error)
        pause = max(POLL_SECONDS, (time.monotonic() - began) / LOOK_SHARE)
        del run


def _store_of(folder: RunFolder, noted: str) -> str:
    """Return the directory of a run's store: as this machine sees it, around the folder."""
    around = os.path.dirname(os.path.dirname(folder.path))
    return around if os.path.basename(os.path.dirname(folder.path)) == "runs" and noted else noted


def attach(run: str | os.PathLike[str], *, output: Literal["print", "drop"] = "print") -> Run:
    """Come back to a run that goes on without its script. `run`: its name, or its store's directory.

    `output`: whether what its jobs print from now on is printed here, as it comes. If its steward has died, another
    one is started. Raises RunError if there is no such run, StoreError.
    """
    if output not in ("print", "drop"):
        raise ValueError(f"output must be 'print' or 'drop', not {output!r}")
    folder = finding.find(run)
    try:
        if is_script(folder.path):
            raise RunError(f"the run {folder.name} is a whole script: it has output, but no calls")
        folder.description()  # raises if it is damaged
        if folder.state().phase == SCRIPT and not is_owned(folder, SCRIPT_SECONDS):
            raise RunError(
                f"the script of the run {folder.name} has ended without handing it over, as if it was killed: what was "
                "computed is in the store, and the script, run again, computes the rest"
            )
        return Run(folder, output)
    except DetachError as error:
        raise RunError(str(error)) from error


__all__ = ["Run", "RunCounts", "RunFuture", "attach"]
