"""What must be known of a master and a worker in one process when both have died: which jobs may have started.

    note_sent --> a file that is mapped: it outlives the process, and no job costs a system call
                    '--> the next process: Records.of, lost_up_to

Jobs of a session start roughly in the order of their numbers, so the highest number that went to a worker is enough:
those above have not started.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from typing import Any

from cw.master.policy.jobs import Job

SESSIONS = 254
"""Most sessions in the file, which has a page. Of the others, all jobs count as started."""

MOST = 2**64 - 1
"""Highest number of a job: all may have started."""

_IDENT, _PID, _IS_FULL, _ROWS = slice(0, 16), 2, 3, 4  # the first in bytes, the others in words


class Records:
    """The file, as one process finds and continues it. Where there can be none, all jobs count as started."""

    def __init__(self, words: memoryview) -> None:
        """`words`: the memory of the file, or other memory."""
        self._words = words
        self._rows = {words[row]: row for row in range(_ROWS, len(words), 2) if words[row]}
        self._lost = {session: words[row + 1] for session, row in self._rows.items()}
        self._lost_others = MOST if words[_IS_FULL] else 0
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
        size = 8 * (_ROWS + 2 * SESSIONS)
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

    def note_sent(self, jobs: Iterable[Job]) -> None:
        """Note that these jobs go to a worker now."""
        words, rows = self._words, self._rows
        for job in jobs:
            session = job.session.key
            row = rows.get(session)
            if row is None:
                if not (row := self._new_row(session)):
                    continue
            if job.number > words[row + 1]:
                words[row + 1] = job.number

    def lost_up_to(self, session: int) -> int:
        """Return the highest number of a job that may have started before the death of the process, the first time that
        it is asked for this session; 0: none has."""
        found = self._lost.get(session, self._lost_others)
        self._lost[session] = 0
        return found

    def forget(self, session: int) -> None:
        """Forget a session that is over."""
        self._lost.pop(session, None)
        if row := self._rows.pop(session, 0):
            self._words[row + 1] = self._words[row] = 0

    def _new_row(self, session: int) -> int:
        """Return the row of a new session; 0: there is no room."""
        free = next((row for row in range(_ROWS, len(self._words), 2) if not self._words[row]), 0)
        if free:
            self._words[free + 1] = 0
            self._words[free] = session
            self._rows[session] = free
        else:
            self._words[_IS_FULL] = 1
        return free
