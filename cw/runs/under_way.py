"""Calls that are under way in runs of a store which go on without this program, and the wait for their results.

    has: among the calls of a run that is not over, and no result since? --yes--> follow --> look, every POLL_SECONDS
                                                                      a result in the store --> done(place) <--|
                                                                    its run is over without --> done(-1) <-----'

A result that the store had when the call was submitted is none of the run's: it is an error that the run tries again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable

from cw.errors import DetachError, StoreError
from cw.events import EventLogger
from cw.runs import names
from cw.runs.calls import CallRecord, CallsReader
from cw.runs.folder import HANDING_OVER, SCRIPT, RunFolder
from cw.runs.onlooker import Onlooker, is_owned
from cw.runs.starting import start_steward
from cw.store.reader import Store

logger = EventLogger("cw.runs")

POLL_SECONDS = 0.5
"""Time between two looks for results (seconds). Longer: they come later. Shorter: more reads, of a network file system
too."""

LOOK_SHARE = 0.5
"""Share of the time that looks may take. Larger: the program is slower. Smaller: results of large runs come later."""

Done = Callable[[int], None]
"""Type of the callback with the place of a call's result in the store; -1: its run is over without one."""


def result_of(store: Store, key: bytes, former: float) -> int:
    """Return the place of the result of a run's call; -1: there is none yet. `former`: time of the result that the
    store had before; 0.0: it had none."""
    place = store.index.get(key, -1)
    return -1 if place < 0 or (former and store.head(place).when == former) else place


def is_listed(folder: RunFolder) -> bool:
    """True if the list of a run's calls is what a steward holds. Before, its script may write it anew."""
    return folder.state().phase not in (SCRIPT, HANDING_OVER)


class OpenRun:
    """A run that may have more results: its calls that have none yet, so far as they were read."""

    def __init__(self, folder: RunFolder, start: Callable[[RunFolder], None]) -> None:
        self.onlooker = Onlooker(folder, start)
        self.formers: dict[bytes, float] = {}
        """Time of the result that the store had before, by key."""
        self._reader = CallsReader(folder)
        self._is_told = False

    def tell(self) -> None:
        """Tell the user, once, that the program waits for this run."""
        if self._is_told:
            return
        self._is_told = True
        folder = self.onlooker.folder
        named = folder.name if names.folders().get(folder.name) == folder.path else folder.path
        logger.warning(
            "runs.followed",
            "calls are under way in the run %s, which goes on without this program: it waits for their results. `%s` "
            "says how far they are, and after `%s` this program computes them itself",
            folder.name, names.command("status", named), names.command("cancel", named),
        )  # fmt: skip

    def read(self, store: Store) -> None:
        """Read the calls that have come since. Raises DetachError if the list is damaged."""
        if not is_listed(self.onlooker.folder):
            return
        for record in self._reader.read():
            for entry in record.entries if type(record) is CallRecord else ():
                if result_of(store, entry.key, entry.former) < 0:
                    self.formers[entry.key] = entry.former


class UnderWay:
    """The calls under way in other runs of one store. For any thread.

    `refresh()` reads results that other programs have stored since. `start(folder)` starts the steward of a run.
    """

    def __init__(self, store: Store, refresh: Callable[[], None], start: Callable[[RunFolder], None]) -> None:
        self._store = store
        self._refresh = refresh
        self._start = start
        self._lock = threading.RLock()  # reentrant: `done` may be of a call that is looked for again
        self._runs: dict[str, OpenRun] = {}
        self._read_at = 0.0
        self._followed: dict[bytes, list[Done]] = {}
        self._follows = 0
        self._version = (-1, 0, 0)  # of what the followed calls were compared with
        self._wakeup = threading.Event()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def find_runs(self) -> bool:
        """Look for runs of the store which are not over; True if there are, or were, some."""
        with self._lock:
            for path in names.in_store(self._store.path):
                if path in self._runs:
                    continue
                try:
                    if _goes_on_without_us(RunFolder(path)):
                        run = OpenRun(RunFolder(path), self._start)
                        run.read(self._store)
                        self._runs[path] = run
                except DetachError as error:
                    logger.warning("runs.passed_over", "a run is passed over: %s", error)
            self._read_at = time.monotonic()
            return bool(self._runs)

    def has(self, key: bytes) -> bool:
        """True if a call with this key is under way."""
        with self._lock:
            if self._runs and time.monotonic() - self._read_at > POLL_SECONDS:
                self._read([run for run in self._runs.values() if not run.onlooker.is_over])
            return self._place_of(key) is None

    def follow(self, key: bytes, done: Done) -> None:
        """Wait for the result of a call that is under way; `done` is called in a thread of ours."""
        with self._lock:
            self._followed.setdefault(key, []).append(done)
            self._follows += 1
            for run in self._runs.values():
                if key in run.formers:
                    run.tell()
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._main, name="cw-under-way", daemon=True)
                self._thread.start()

    def look(self) -> None:
        """Look for results, and for the ends of runs. Raises StoreError."""
        with self._lock:
            runs = [run for run in self._runs.values() if not run.onlooker.is_over]
        for run in runs:  # before the results: what a run has stored until its end is found
            try:
                run.onlooker.look()
            except DetachError as error:
                logger.warning("runs.lost", "a run is given up: %s", error)
                run.onlooker.is_over = True
        self._refresh()
        ended: list[tuple[Done, int]] = []
        with self._lock:
            self._read(runs)
            over = sum(run.onlooker.is_over for run in self._runs.values())
            version = self._store.own_results, over, self._follows
            if version != self._version:
                self._version = version
                for key in list(self._followed):
                    place = self._place_of(key)
                    if place is not None:
                        ended += [(done, place) for done in self._followed.pop(key)]
        for done, place in ended:
            done(place)

    def _place_of(self, key: bytes) -> int | None:
        """Return the place of a call's result; -1: there will be none; None: the call is under way."""
        runs = [run for run in self._runs.values() if key in run.formers]
        place = max((result_of(self._store, key, run.formers[key]) for run in runs), default=-1)
        return place if place >= 0 or all(run.onlooker.is_over for run in runs) else None

    def close(self) -> None:
        """Follow nothing any more, and end the thread."""
        with self._lock:
            self._is_closed = True
            self._followed.clear()
            thread = self._thread
        self._wakeup.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _read(self, runs: Iterable[OpenRun]) -> None:
        """Read the calls that have come since."""
        for run in runs:
            try:
                run.read(self._store)
            except DetachError as error:
                logger.warning("runs.damaged", "a run's calls cannot be read: %s", error)
                run.onlooker.is_over = True
        self._read_at = time.monotonic()

    def _main(self) -> None:
        pause = 0.0
        while not self._wakeup.wait(pause):
            began = time.monotonic()
            try:
                self.look()
            except StoreError as error:
                logger.warning("runs.store_unreadable", "results of a run cannot be read: %s", error)
            pause = max(POLL_SECONDS, (time.monotonic() - began) / LOOK_SHARE)
            with self._lock:
                if not self._followed:
                    self._thread = None
                    return


def _goes_on_without_us(folder: RunFolder) -> bool:
    """True if a run is not over, as far as can be seen at once, and not this program's."""
    state = folder.state()
    is_here = state.host == os.uname().nodename
    if state.is_over or (is_here and state.pid == os.getpid()):
        return False
    return state.phase != SCRIPT or not is_here or is_owned(folder)


def look_for_runs(known: UnderWay | None, store: Store, refresh: Callable[[], None]) -> UnderWay | None:
    """Look for runs of a store that go on without this program. Returns their calls; None: there are no such runs.
    `known`: what was found before."""
    under_way = UnderWay(store, refresh, start_steward) if known is None else known
    return under_way if under_way.find_runs() else None
