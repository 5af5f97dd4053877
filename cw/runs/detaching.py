"""A client that detaches: its run's folder from its start on, and at its end the way to a steward.

    begin: name, folder, state "with its script" --- beats --- leave: is anything outstanding, or to be read?
                                                                 '-no--> end: "ended"
                                                                 '-yes-> hand_over --> a steward has it: a line says so
                                                                            '--> it failed: a line says why, and the
                                                                                 program goes on as if it did not detach

`leave` is called at the end of a block or a loop, and at the end of the interpreter. What else ends a program leads
there (`cw.runs.interrupts`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from cw import advice, guard, processes
from cw.errors import Detached, DetachError, Error, StartRefused
from cw.launch import launcher
from cw.net import address
from cw.observer.reporter import program_name
from cw.runs import handing_over, interrupts, keeping, names, onlooker, own, starting
from cw.runs.folder import CANCELLED, ENDED, SCRIPT, Description, RunFolder, RunState

BEAT_SECONDS = 3.0
"""Time between two writes of the state (seconds). Longer: whoever looks sees older counts. Shorter: more writes."""

STORED_SECONDS, LOOK_SECONDS = 60.0, 0.02
"""Longest time for stored results to be delivered, and the time between looks (seconds)."""

LIVE_SECONDS = 6.0
"""Time for which a run of the same name on another machine is watched, to see if it lives (seconds)."""


class Jobs(Protocol):
    """A client's jobs."""

    def counts(self) -> tuple[int, int, int, int]:
        """Return numbers of jobs: submitted, delivered, delivered with an error, known to run."""


class Client(Protocol):
    """A client's session, as it is needed here. The methods are for any thread."""

    @property
    def jobs(self) -> Jobs: ...

    def outstanding(self) -> int:
        """Return the number of jobs submitted and not delivered yet."""

    def leave_now(self, seconds: float = ...) -> None:
        """Cancel all jobs and leave within `seconds`."""


class Source(Protocol):
    """An input that is read as results are taken."""

    has_rest: bool
    """True unless it is known to have ended."""
    shield: Callable[[], contextlib.AbstractContextManager[None]]
    """Keeps Ctrl-C away while it is read."""

    def rest(self) -> Iterable[Any]:
        """Submit the remaining calls, one by one."""


class Place(NamedTuple):
    """Where a client's calls are kept."""

    store: str
    """Its store's directory."""
    host: str
    """The master, as the user has named it: 'HOST:PORT', or ''."""
    master: str
    """Address of the master that it is connected to."""
    durability: str = "process"
    """That of the store."""


def check(detach: Any, store: Any) -> None:
    """Check the settings of a client that detaches. Raises TypeError, ValueError, StartRefused."""
    if not isinstance(detach, (bool, str)):
        raise TypeError(f"detach must be True, False or a name for the run, not {detach!r}")
    if isinstance(detach, str):
        names.check_name(detach)
    if store is None:
        raise ValueError(
            f"detach={detach!r} needs a store, which keeps the results until you come back: give store='sweep.cw'"
        )
    if guard.depth():
        raise StartRefused(
            f"detach={detach!r} is refused in a job: what the job leaves behind ends with it. Let the program that "
            "submits the job detach"
        )


class Detachment:
    """The run of one client. For any thread, unless a method says otherwise."""

    def __init__(
        self,
        client: Client,
        owner: handing_over.Owner,
        name: bool | str,
        place: Place,
        on_over: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the name, and make the folder. `owner`: the session as it is handed over. `on_over()` is called when
        there is no more to hand over. Raises RunError, DetachError, ValueError, OSError."""
        self.is_leaving = False
        """True while calls are being handed over."""
        self.is_interrupted = False
        """True if Ctrl-C came meanwhile. (Set by a signal's handler.)"""
        self._client, self._owner = client, owner
        self._on_over = on_over
        self._sources: weakref.WeakSet[Any] = weakref.WeakSet()
        self._is_cancelled = self._is_over = self._has_failed = False
        self._beat = 0
        self._stop = threading.Event()
        self._lock = threading.RLock()  # one `leave` or `end` at a time; reentrant for a signal's handler
        own_cluster = own.describe(place.master)
        master = own_cluster.get("master") or named(place)
        chosen = None if name is True else str(name)
        self.name, path = names.claim(chosen, place.store, _is_live)
        self.folder = RunFolder(path)
        self.folder.create(
            Description(
                self.name, os.path.realpath(place.store), master=master, cluster=address.sought_cluster(),
                created=time.time(), host=os.uname().nodename, argv=list(sys.argv), program=program_name(),
                durability=place.durability, python=list(sys.version_info[:2]), executable=sys.executable or "",
                own_cluster=own_cluster,
            )
        )  # fmt: skip
        self._write_state(SCRIPT)
        interrupts.register(self)
        self._begin()

    def _begin(self) -> None:
        self._stop = threading.Event()
        threading.Thread(target=self._run, args=(self._stop,), name="cw-run", daemon=True).start()

    def outstanding(self) -> int:
        """Return the number of calls that would be handed over, as far as they are submitted; 1 if none is, and there
        is more to read."""
        if self._is_over:
            return 0
        return self._client.outstanding() or int(any(source.has_rest for source in list(self._sources)))

    def add(self, source: Source) -> None:
        """Add an input that is to be read to its end before the calls are handed over. It is not kept alive."""
        source.shield = interrupts.shielded
        self._sources.add(source)

    # --- the end ---

    def leave(self) -> bool:
        """Hand over what is outstanding, and the calls of the rest of the inputs. Returns when the client has left.

        False: there is nothing to hand over, or it is not possible, which a line says: the program waits then. Raises
        what an input raises, after that; KeyboardInterrupt: all is cancelled.
        """
        with self._lock:
            sources = [source for source in list(self._sources) if source.has_rest]
            if self._is_over or self._has_failed or not (self._client.outstanding() or sources):
                return False
            rest = _Rest(sources)
            self._pause()
            self.is_leaving = True
            try:
                self._hand_over(rest)
            finally:
                self.is_leaving = False
            if rest.failure is not None:
                raise rest.failure
            return self._is_over

    def _hand_over(self, rest: Iterator[Any]) -> None:
        farewell = Detached(f"this call goes on without this program: {self._ways_back()}")
        try:
            is_handed = handing_over.hand_over(
                self._owner, self.folder, starting.start_steward, rest, farewell=farewell
            )
            is_elsewhere = not is_handed and self._are_all_under_way()
        except (Error, OSError) as error:
            self._stay(error)
            return
        except KeyboardInterrupt:
            self._cancel()
            raise
        if not is_handed and not is_elsewhere:
            self._begin()
            return
        if is_elsewhere:
            self._write_state(ENDED)
            self._owner.leave(farewell)
        self._is_over = True
        self._be_over()
        interrupts.end_quietly(Detached, KeyboardInterrupt)
        if self.is_interrupted:  # just after the steward had it
            self.folder.request("cancel")
            interrupts.write(f"{self.name}: its steward cancels what is outstanding")
            raise KeyboardInterrupt
        where = " in an earlier run of its store" if is_elsewhere else ""
        interrupts.write(
            f"{self.name}: what is outstanding goes on without this program{where}; {self._ways_back()}"
        )

    def _are_all_under_way(self) -> bool:
        """True if other runs have all calls that are outstanding, once those are delivered whose results are stored."""
        end = time.monotonic() + STORED_SECONDS
        while (left := self._client.outstanding()) > self._owner.under_way() and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
        return 0 < left <= self._owner.under_way()

    def _stay(self, error: Exception) -> None:
        """Go on as if the client did not detach: what is outstanding could not be handed over."""
        self._has_failed = True
        interrupts.unregister(self)
        with contextlib.suppress(DetachError):
            keeping.withdraw(self.folder)
            self._write_state(SCRIPT)
        left = self._client.outstanding()
        interrupts.write(
            f"{self.name}: cannot detach ({error}); this program waits for its {left:,} outstanding calls, and Ctrl-C "
            "cancels them"
        )
        self._begin()

    def _cancel(self) -> None:
        """Cancel all: Ctrl-C came before a steward had it."""
        self._is_over = True
        left = self._client.outstanding()
        with contextlib.suppress(DetachError):
            keeping.withdraw(self.folder)
            self._write_state(CANCELLED)
        self._client.leave_now()
        self._be_over()
        interrupts.end_quietly(KeyboardInterrupt)
        interrupts.write(f"{self.name}: cancelled {left:,} calls; the results that had come are in the store")

    def end(self) -> None:
        """Note that the client has ended without leaving anything over."""
        with self._lock:
            if self._is_over:
                return
            self._pause()
            self._is_over = True
            with contextlib.suppress(DetachError):
                self._write_state(CANCELLED if self._is_cancelled else ENDED)
            self._be_over()

    def _be_over(self) -> None:
        interrupts.unregister(self)
        self._on_over()

    def note_cancelled(self) -> None:
        """Note that the client is about to cancel its calls."""
        self._is_cancelled = self._is_cancelled or bool(self._client.outstanding())

    def drop_after_fork(self) -> None:
        """Do nothing in a forked child: the run is the parent's."""
        self._is_over = True
        self._lock = threading.RLock()

    def _ways_back(self) -> str:
        status = advice.command("runs", "status", self.name)
        return f"come back by `{status}`, cw.attach({self.name!r}), or this script again"

    # --- its state, while it is with its script ---

    def _pause(self) -> None:
        """Write the state no more."""
        self._stop.set()

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT_SECONDS):
            with self._lock, contextlib.suppress(DetachError):
                if not stop.is_set():
                    self._write_state(SCRIPT)

    def _write_state(self, phase: str) -> None:
        calls, delivered, failed, running = self._client.jobs.counts()
        self._beat += 1
        waiting = max(0, calls - delivered - running)
        self.folder.write_state(
            RunState(
                phase, os.uname().nodename, os.getpid(), processes.identity(os.getpid()), self._beat, calls,
                delivered, failed, running, waiting,
            )
        )  # fmt: skip


class _Rest(Iterator[Any]):
    """The rest of several inputs. What one of them raises is kept, and ends it."""

    def __init__(self, sources: Iterable[Any]) -> None:
        self.failure: Exception | None = None
        self._calls = self._read(list(sources))

    def _read(self, sources: list[Any]) -> Iterator[Any]:
        for source in sources:
            try:
                yield from source.rest()
            except Exception as error:
                self.failure = self.failure or error

    def __next__(self) -> Any:
        return next(self._calls)


def named(place: Place) -> str:
    """Return the address of the master if it is one that a user, or this program, has named; '': it is found by its
    cluster's name. Raises DetachError if that cluster ends with a block of this program."""
    if place.host or os.environ.get("CW_MASTER"):
        return place.host or os.environ["CW_MASTER"]
    started = address.started_here()
    if address.sought_cluster() != address.cluster_name() or launcher.ends_with_program(started):
        raise DetachError(
            "detach= needs a cluster that outlives this program, and this one ends with its block: use one that stays "
            f"(`{advice.command('slurm', 'start', '-n', '8')}`, cw.start(), or what the page about your cluster says)"
        )
    return started


def _is_live(path: str) -> bool:
    return onlooker.is_live(RunFolder(path), LIVE_SECONDS)
