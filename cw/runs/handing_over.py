"""The way of a run from its script to a steward.

    script                                             steward
      its input is read to the end
      freeze: nothing is sent or acknowledged now
      the calls are on disk
      start_steward ------------------------------>    reads the calls, connects as the session's client
      [the master tells it that it is replaced]        the master has answered
      wait for the decision  <---- decision-1 -----    "steward": from here on it is the owner
      leave, without a goodbye                         submits again what is outstanding

The *decision* is a file that only one of both can make. If the steward does not answer in time, the script makes it:
"script". Then the steward ends, and the script connects again and goes on. So there is one owner at any moment, whoever
dies; if the script dies before the decision, the steward that comes next makes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple, Protocol

from cw import processes
from cw.errors import Detached, DetachError
from cw.runs import lease
from cw.runs.calls import CallRecord, CallsReader, CallsWriter, ObjectRecord
from cw.runs.folder import HANDING_OVER, SCRIPT, RunFolder, RunState

ANSWER_SECONDS = 60.0
"""Longest wait for the steward (seconds). Longer: a script whose steward cannot start goes on later. Shorter: on a busy
machine, or a slow file system, no run is handed over."""

IN_MEMORY = 20_000
"""Number of outstanding calls above which those that are read from the input go to the disk only. Larger: more memory.
Smaller: a cluster runs dry if the rest of the input takes long."""

LOOK_SECONDS = 0.02

_PROGRESS, _FAILURE, _DECISION = "session.json", "steward-failed", "decision-"
_BY_STEWARD, _BY_SCRIPT = b"steward", b"script"


class Progress(NamedTuple):
    """What the session's next process must know, besides the calls."""

    handover: int = 0
    """Number of this handing over: the script may have tried before."""
    highest_sent: int = 0
    """Highest number of a job that may have been sent to a master, in the order of numbers."""
    last_number: int = 0
    """Highest number of a job."""
    objects: int = 0
    """Highest number of an object."""
    most: int = 0
    """How many jobs may be at the master at a time, by the user's wish; 0: any number."""
    workers: list[str] = []
    """The workers that are at the master."""
    attempt_counts: list[Any] = []
    """The attempts of jobs so far."""


class Owner(Protocol):
    """The script's session, as it is needed here. The methods are for any thread but the session's."""

    def outstanding(self) -> int:
        """Return the number of calls that are outstanding."""

    def has_calls(self) -> bool:
        """True if a call is outstanding that is neither stored nor under way in another run."""

    def under_way(self) -> int:
        """Return the number of outstanding calls that are under way in another run."""

    def why_not(self) -> str:
        """Say why the session cannot be handed over; '' if it can."""

    def describe(self) -> dict[str, Any]:
        """Return the fields of the run's description that the session knows."""

    def spill(self, put: Callable[[ObjectRecord | CallRecord], None]) -> bool:
        """Give `put` all outstanding calls with their objects, and from now on each call that is submitted, which is
        then nowhere else. False: that cannot be done yet."""

    def freeze(self) -> None:
        """Store all results that have come, and send and take no more."""

    def rest(self) -> Iterator[ObjectRecord | CallRecord]:
        """Yield what `spill` has not given, when it is frozen."""

    def progress(self) -> Progress:
        """Return what the next process must know, when it is frozen."""

    def thaw(self, spilled: Callable[[], Iterator[CallRecord]]) -> None:
        """Go on, with the calls that are on disk only, too."""

    def leave(self, reason: BaseException) -> None:
        """End without a goodbye: another process has the session. Calls that are outstanding end with `reason`."""


def hand_over(
    owner: Owner,
    folder: RunFolder,
    start_steward: Callable[[RunFolder], None],
    rest: Iterable[Any] = (),
    seconds: float = ANSWER_SECONDS,
    farewell: BaseException | None = None,
) -> bool:
    """Hand a run over to a steward. Returns when that has it, and the session has ended. False: all is stored by now,
    or under way in another run, and the script goes on.

    `rest`: each of its items submits one more call of the script; an error that it raises is raised, and the script
    goes on. Raises DetachError: the script goes on, too. `farewell`: the error of the futures that are not done.
    """
    if reason := owner.why_not():
        raise DetachError(reason)
    transfer = _Transfer(owner, folder)
    try:
        for _ in rest:
            if transfer.writer is None and owner.outstanding() > IN_MEMORY:
                transfer.begin()
        if transfer.writer is None and not owner.has_calls():
            return False
        if not transfer.hand_over(start_steward, seconds):
            transfer.revoke()
            return False
    except BaseException:
        if transfer.revoke():
            raise
        # (Otherwise the steward has it: Ctrl-C came just after that.)
    owner.leave(Detached("this call goes on without this program") if farewell is None else farewell)
    return True


class _Transfer:
    """One attempt to hand over."""

    def __init__(self, owner: Owner, folder: RunFolder) -> None:
        self.writer: CallsWriter | None = None
        self._owner, self._folder = owner, folder
        self._number = 1 + max(_decisions(folder), default=0)
        self._is_frozen = self._is_offered = False

    def begin(self) -> None:
        """Let calls that come go to the disk only, if that is possible."""
        writer = CallsWriter(self._folder)

        def put(record: ObjectRecord | CallRecord) -> None:
            _put(writer, record)

        if self._owner.spill(put):
            self.writer = writer
        else:
            writer.close()

    def hand_over(self, start_steward: Callable[[RunFolder], None], seconds: float) -> bool:
        """Do all that follows the end of the input. False: there are no calls. Raises DetachError."""
        try:
            self._write()
            if self.writer is None or not self.writer.calls:
                return False
            start_steward(self._folder)
            self._wait(seconds)
            return True
        except OSError as error:
            raise DetachError(f"the run cannot be handed over: {error}") from error

    def _write(self) -> None:
        """Write all calls, and what else the steward needs."""
        owner, folder = self._owner, self._folder
        self._is_frozen = True
        owner.freeze()
        if self.writer is None:
            self.writer = CallsWriter(folder)
        for record in owner.rest():
            _put(self.writer, record)
        self.writer.finish()
        folder.change(**owner.describe())
        folder.remove(_FAILURE)
        state = RunState(
            HANDING_OVER,
            os.uname().nodename,
            os.getpid(),
            processes.identity(os.getpid()),
            calls=self.writer.calls,
        )
        folder.write_state(state)
        self._is_offered = True
        write_progress(folder, owner.progress()._replace(handover=self._number))

    def _wait(self, seconds: float) -> None:
        """Wait until the steward has the run. Raises DetachError."""
        end = time.monotonic() + seconds
        while decision(self._folder, self._number) != _BY_STEWARD:
            failure = self._folder.read(_FAILURE)
            if failure is not None:
                raise DetachError(f"the run cannot be handed over: {failure.decode(errors='replace')}")
            how = "has died" if lease.has_died(self._folder) else ""
            if time.monotonic() > end:
                how = f"did not answer within {seconds:g} s"
            if how:
                raise DetachError(
                    f"the run cannot be handed over: its steward {how}; its log is "
                    f"{self._folder.place('steward.log')}"
                )
            time.sleep(LOOK_SECONDS)

    def revoke(self) -> bool:
        """Keep the run. False: the steward has it."""
        folder = self._folder
        if self._is_offered and not self._is_kept():
            return False
        writer, self.writer = self.writer, None
        with contextlib.suppress(DetachError):  # a full disk: the script goes on all the same
            folder.remove(_PROGRESS)
            if writer is not None:
                writer.flush()
            if self._is_offered or self._is_frozen:
                process = processes.identity(os.getpid())
                folder.write_state(RunState(SCRIPT, os.uname().nodename, os.getpid(), process))
        unwritten = b"" if writer is None else writer.unwritten
        self._owner.thaw(lambda: _read_calls(folder, unwritten))
        if writer is not None:
            writer.close()
        return True

    def _is_kept(self) -> bool:
        """Decide that the script keeps the run. False: the steward was first."""
        try:
            return _decide(self._folder, self._number, _BY_SCRIPT)
        except DetachError:  # it cannot be written; then the steward cannot do that either
            return decision(self._folder, self._number) != _BY_STEWARD


def accept(folder: RunFolder, number: int) -> bool:
    """Make the steward the owner of the run. False: the script has kept it."""
    return _decide(folder, number, _BY_STEWARD)


def is_kept(folder: RunFolder, number: int) -> bool:
    """True if the script has kept the run after this handing over."""
    return decision(folder, number) == _BY_SCRIPT


def fail(folder: RunFolder, text: str) -> None:
    """Tell a script that waits for its steward why there is none."""
    folder.write(_FAILURE, text.encode())


def read_progress(folder: RunFolder) -> Progress | None:
    """Read what the session's next process must know; None: the run was not handed over. Raises DetachError."""
    text = folder.read(_PROGRESS)
    if text is None:
        return None
    try:
        found = json.loads(text)
        return Progress(**{field: found[field] for field in Progress._fields if field in found})
    except (ValueError, TypeError) as error:
        raise DetachError(f"{folder.place(_PROGRESS)} is damaged: {error}") from error


def write_progress(folder: RunFolder, progress: Progress) -> None:
    folder.write(_PROGRESS, json.dumps(progress._asdict()).encode())


def decision(folder: RunFolder, number: int) -> bytes | None:
    """Return who is the owner after this handing over; None: it is not decided."""
    return folder.read(f"{_DECISION}{number}")


def _read_calls(folder: RunFolder, unwritten: bytes) -> Iterator[CallRecord]:
    """Yield the calls of a run, also those that could not be written."""
    reader = CallsReader(folder)
    for record in chain(reader.read(), reader.read_unwritten(unwritten)):
        if type(record) is CallRecord:
            yield record


def _decide(folder: RunFolder, number: int, by: bytes) -> bool:
    return folder.make(f"{_DECISION}{number}", by) or decision(folder, number) == by


def _decisions(folder: RunFolder) -> list[int]:
    try:
        names = os.listdir(folder.path)
    except OSError:
        return []
    return [
        int(name[len(_DECISION) :]) for name in names if name.startswith(_DECISION) and name[-1].isdigit()
    ]


def _put(writer: CallsWriter, record: ObjectRecord | CallRecord) -> None:
    if type(record) is CallRecord:
        writer.put_call(record)
    elif type(record) is ObjectRecord and not writer.has_object(record.number):
        writer.put_object(record)
