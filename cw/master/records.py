"""What must be known of a master and a worker in one process when both have died: which jobs may have started.

    note_held, note_left --> a file that is mapped: it outlives the process, and no job costs a system call
                               '--> the next process: Records.of, take_lost

A word stands for a job from its dispatch to a worker until its client has the result, or the worker has given it back.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from typing import Any

from cw.master.policy.jobs import Job

JOBS = 2**16
"""Number of words: half a MiB, of which only what is used takes memory. If more jobs were at workers, all count as
started."""

_IDENT, _PID, _IS_FULL, _END, _HEAD = slice(0, 16), 2, 3, 4, 5  # the first in bytes, the others in words
_FACTOR, _MASK = 0x9E3779B97F4A7C15, 2**64 - 1  # odd: jobs of a session have different words


class Records:
    """The file, as one process finds and continues it. Where there can be none, all jobs count as started."""

    def __init__(self, words: memoryview) -> None:
        """`words`: the memory of the file, or other memory."""
        self._words = words
        end = words[_END] = words[_END] or _HEAD  # of the places that were ever used
        # By word: what the process before has left.
        self._lost = {words[place]: place for place in range(_HEAD, end) if words[place]}
        self._free = [place for place in range(_HEAD, end) if not words[place]]
        self._places: dict[int, int] = {}  # by dispatch
        self._sessions = [0] * end  # by place
        self._are_all_lost = bool(words[_IS_FULL])
        self._asked: set[int] = set()  # sessions
        ident = bytes(words.cast("B")[_IDENT])
        self.worker = ident.hex() if any(ident) else ""
        """Ident of the worker that has died; '': there was none."""
        host = os.uname().nodename
        self.note = {
            "host": host, "worker": f"worker {host}:{words[_PID]}", "worker_ident": self.worker,
            "how": "the worker was lost: its process died",
        }  # fmt: skip
        """What is told of its death."""

    @classmethod
    def of(cls, path: str) -> Records:
        """Open the file, or make it."""
        size = 8 * (_HEAD + JOBS)
        memory: Any
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size)  # a full disk must be noticed here
                memory = mmap.mmap(descriptor, size)
            finally:
                os.close(descriptor)
        except OSError:
            memory = bytearray(size)
            memory[8 * _IS_FULL] = 1
        return cls(memoryview(memory).cast("Q"))

    def note_worker(self, ident: str, pid: int) -> None:
        """Note which worker is here now."""
        self._words.cast("B")[_IDENT] = bytes.fromhex(ident)
        self._words[_PID] = pid

    def note_held(self, jobs: Iterable[Job]) -> None:
        """Note that these jobs go to a worker now."""
        words, free, places, sessions = self._words, self._free, self._places, self._sessions
        for job in jobs:
            place = free.pop() if free else self._new_place()
            if place:
                places[job.dispatch] = place
                session = sessions[place] = job.session.key
                words[place] = (session + job.number * _FACTOR) & _MASK or 1

    def note_left(self, dispatches: Iterable[int]) -> None:
        """Note that these dispatches are over: nobody will ask what has become of them."""
        words, free, pop = self._words, self._free, self._places.pop
        for dispatch in dispatches:
            if place := pop(dispatch, 0):
                words[place] = 0
                free.append(place)

    def forget(self, session: int) -> None:
        """Forget a session that is over."""
        sessions = self._sessions
        self.note_left([d for d, place in self._places.items() if sessions[place] == session])

    def take_lost(self, session: int, numbers: Iterable[int]) -> set[int]:
        """Return those of a session's jobs that may have started before the death of the process. Each is returned
        once."""
        are_all = self._are_all_lost and session not in self._asked
        self._asked.add(session)
        found = set()
        for number in numbers:
            place = self._lost.pop((session + number * _FACTOR) & _MASK or 1, 0)
            if place:
                self._clear(place)
            if place or are_all:
                found.add(number)
        return found

    def forget_lost(self) -> None:
        """Forget what nobody has asked for: those clients do not come back any more."""
        for place in self._lost.values():
            self._clear(place)
        self._lost.clear()
        if self._are_all_lost:  # until here: this process may die, too, before all have asked
            self._are_all_lost = False
            self._words[_IS_FULL] = 0

    def _clear(self, place: int) -> None:
        self._words[place] = 0
        self._free.append(place)

    def _new_place(self) -> int:
        """Return a place that was never used; 0: there is none."""
        words = self._words
        place = words[_END]
        if place == len(words):
            words[_IS_FULL] = 1
            return 0
        words[_END] = place + 1
        self._sessions.append(0)
        return place
