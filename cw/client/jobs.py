"""A session's jobs, from their submission to their delivery: no socket, no thread, no clock.

          add              next_batch             take             on_delivered
    --------------> WAITING ----------> SENT -------------> TAKEN -------------> forgotten
          |          ^  ^                |                    ^
          |          |  '----------------'                    |
          |          |      on_master_lost                    |
          |          '------ wait --------.                   |
          '--------------------------> STORED ----------------'
           by an earlier run: it is read, and waits if it cannot be read

    cancel: WAITING, SENT, STORED ----> CANCELLED ----> take_cancelled (and on_delivered)

The client owns its jobs: a payload is kept until the result has been delivered. Sent is only what the master's window
has room for. When a master is lost, what was sent waits again, before all others, and is handed in to the next one
beyond its window: it was granted once. What is TAKEN is delivered, or written to a store first, by the caller.

The methods under "any thread" stand on dict and deque operations that are one step: who takes a job out of
`_by_number` ends it, and nobody else does. The others are for one thread at a time, that which holds the loop's lock.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from cw.net import messages as m

BATCH = 1024
"""Jobs sent in one go. Larger: the first jobs of a burst wait for more of the rest. Smaller: more messages."""

ACKNOWLEDGED_JOBS = 256
"""Results after which the master is told that they are here. Larger: workers keep more of them until then. Smaller:
more messages."""


class Job:
    """One call (or chunk of calls) that is outstanding."""

    __slots__ = ("number", "function", "options", "payload", "tag", "call", "sent_over")

    def __init__(
        self, number: int, function: int, options: int, payload: Any, tag: Any, call: Any = None
    ) -> None:
        self.number = number
        self.function = function  # the number of an object
        self.options = options  # the number of a set; 0: none
        self.payload = payload
        self.tag = tag  # the caller's: what the result is delivered to
        self.call = call  # a `store_client.Call` or `Chunk`, if its result goes to a store
        self.sent_over = 0  # the connection over which it was sent last, from 1

    @property
    def name(self) -> str:
        """For messages: by the caller's own id, where the job has one (its tag is a tuple that begins with it)."""
        tag = self.tag
        return f"job {tag[0] if type(tag) is tuple else self.number}"


class Jobs:
    """All jobs of one session that are outstanding, and the counts of those that are not any more.

    `limits`: jobs and bytes of payload above which it is full; None: no limit.
    """

    def __init__(self, limits: tuple[int | None, int | None] = (None, None)) -> None:
        # Written by any thread, under the session's lock.
        self.last_number = 0
        self.bytes_in = 0  # of all payloads so far
        # Written by any thread, in one step.
        self._by_number: dict[int, Job] = {}  # in the order of their numbers
        self._waiting: deque[Job] = deque()  # next first; what is not outstanding is passed over
        self._cancelled: deque[tuple[Job, bool]] = deque()  # and whether that is delivered
        # Written by the session's thread.
        self.delivered = 0
        self.failed = 0  # of those
        self.bytes_out = 0  # of their payloads
        self.started: set[int] = set()  # numbers of jobs that are known to run
        self.charges: dict[int, m.AttemptCounts] = {}  # what jobs have been through, for the next master
        self.highest_sent = 0  # number that was ever sent to a master
        self.is_resubmitting = False  # what was sent to a master before must be handed in again
        self._limits = limits
        self._connection = 1  # its number: what was sent over others is not at the master
        self._window = 0, 0  # jobs, bytes
        self._sent_jobs = self._sent_bytes = 0
        self._last_sent = 0  # number, over this connection
        self._received = self._acknowledged = 0  # results, over this connection

    # --- any thread ---

    def add(self, function: int, options: int, payload: Any, tag: Any, call: Any = None) -> int:
        """Add a job under the session's lock; it waits, unless its result is stored. Returns its number."""
        number = self.last_number + 1
        job = Job(number, function, options, payload, tag, call)
        self._by_number[number] = job
        self.last_number = number
        self.bytes_in += len(payload)
        if call is None or not call.is_stored:
            self._waiting.append(job)
        return number

    def cancel(self, number: int, is_delivered: bool, owner: Any = None) -> bool:
        """Take a job back. False: it is not outstanding. `owner`: the tag that it must have, if not None."""
        job = self._by_number.get(number)
        if job is None or (owner is not None and job.tag is not owner):
            return False
        if self._by_number.pop(number, None) is None:
            return False
        self._cancelled.append((job, is_delivered))
        return True

    def withdraw(self, number: int) -> None:
        """Cancel a job whose number its submitter has not got. It may not be counted yet: then there is no job."""
        job = self._by_number.pop(number, None)
        if job is not None and number <= self.last_number:
            self._cancelled.append((job, False))

    def get(self, number: int) -> Job | None:
        """The job, if it is outstanding and not taken."""
        return self._by_number.get(number)

    def all(self) -> list[Job]:
        """Those that are outstanding and not taken, in the order of their submission."""
        return list(self._by_number.values())

    def functions(self) -> set[int]:
        """The functions of all of these."""
        return {job.function for job in self.all()}

    @property
    def outstanding(self) -> int:
        """How many were submitted and are not delivered yet."""
        return self.last_number - self.delivered

    @property
    def has_cancelled(self) -> bool:
        """Is there something for `take_cancelled`?"""
        return bool(self._cancelled)

    def counts(self) -> tuple[int, int, int, int]:
        """Jobs submitted, delivered, of those with an error, known to run."""
        return self.last_number, self.delivered, self.failed, len(self.started)

    def is_full(self, size: int) -> bool:
        """Must a job with that many bytes wait until others are delivered? One is always allowed, however large."""
        jobs_limit, bytes_limit = self._limits
        held = self.bytes_in - self.bytes_out
        if held and bytes_limit is not None and held + size > bytes_limit:
            return True
        return jobs_limit is not None and self.outstanding >= jobs_limit

    # --- to the master ---

    def on_window(self, jobs: int, size: int) -> None:
        """The master takes this much."""
        self._window = jobs, size

    def close_window(self) -> None:
        """Nothing is sent any more, until the next `on_window`."""
        self._window = 0, 0

    @property
    def is_window_open(self) -> bool:
        return self._window[0] > 0

    def next_batch(self) -> list[Job]:
        """The next jobs that the window has room for. They are sent now."""
        waiting, by_number, connection = self._waiting, self._by_number, self._connection
        batch: list[Job] = []
        most, limit = self._window
        room = min(BATCH, most - self._sent_jobs)
        size = self._sent_bytes
        while waiting and len(batch) < room:
            job = waiting[0]
            # It may be here twice: an interrupt (Ctrl-C) had come just before the `popleft`.
            if job.sent_over != connection and job.number in by_number:
                size += len(job.payload)
                if size > limit and (batch or self._sent_jobs):
                    size -= len(job.payload)
                    break
                job.sent_over = connection
                batch.append(job)
            waiting.popleft()
        if batch:
            self._sent_jobs += len(batch)
            self._sent_bytes = size
            self._last_sent = batch[-1].number
            self.highest_sent = max(self.highest_sent, self._last_sent)
        return batch

    def next_resubmitted(self) -> list[Job]:
        """Jobs that were sent to a master before, whatever the window; none: that were all. They are sent now."""
        waiting, by_number, highest = self._waiting, self._by_number, self.highest_sent
        batch: list[Job] = []
        while waiting and waiting[0].number <= highest and len(batch) < BATCH:
            job = waiting[0]
            if job.sent_over != self._connection and job.number in by_number:
                job.sent_over = self._connection
                self._sent_jobs += 1
                self._sent_bytes += len(job.payload)
                batch.append(job)
            waiting.popleft()
        self.is_resubmitting = bool(batch)
        if batch:
            self._last_sent = batch[-1].number
        return batch

    def wait(self, job: Job) -> bool:
        """It must run, after all: what is stored of it cannot be read.

        False: not over this connection, on which later ones were sent. The master takes jobs only in their order.
        """
        if job.number > self._last_sent:
            self._waiting.insert(bisect(list(self._waiting), job.number, key=lambda each: each.number), job)
            return True
        job.sent_over = self._connection  # so it waits in its place when this one is given up
        self._sent_jobs += 1
        self._sent_bytes += len(job.payload)
        return False

    def on_master_joined(self) -> None:
        """A master is there: it gets first what was sent to one before."""
        self.is_resubmitting = True

    def on_master_lost(self) -> None:
        """What was sent waits again."""
        former = self._connection
        self._connection += 1
        self._window = 0, 0
        self._sent_jobs = self._sent_bytes = self._last_sent = 0
        self._received = self._acknowledged = 0
        self.started.clear()
        sent = [job for job in self.all() if job.sent_over == former]
        # One call, since other threads append to it. What was sent is older than what waits.
        self._waiting.extendleft(reversed(sent))

    # --- from the master ---

    def take(self, number: int) -> Job | None:
        """What came of the job is here: it can be cancelled no more. None: it was cancelled."""
        job = self._by_number.pop(number, None)
        if job is not None:
            if job.sent_over == self._connection:
                self._sent_jobs -= 1
                self._sent_bytes -= len(job.payload)
            if self.started:
                self.started.discard(number)
        return job

    def on_started(self, numbers: Iterable[int]) -> list[Job]:
        """These run. Returns those that are outstanding."""
        found = [job for job in map(self._by_number.get, numbers) if job is not None]
        self.started.update(job.number for job in found)
        return found

    def on_charged(self, charged: m.AttemptCounts) -> None:
        """The next master must know what this job has been through."""
        if charged.number in self._by_number:
            self.charges[charged.number] = charged

    def on_received(self, count: int) -> bool:
        """That many results have come. Is it time to acknowledge them? Otherwise it is in a moment."""
        self._received += count
        return self._received - self._acknowledged >= ACKNOWLEDGED_JOBS

    def acknowledge(self) -> int:
        """The count of results that the master must be told of now; 0: it knows."""
        if self._received == self._acknowledged:
            return 0
        self._acknowledged = self._received
        return self._received

    # --- the end ---

    def take_cancelled(self) -> tuple[list[Job], list[int]]:
        """Let go of what was cancelled. Returns what must be delivered, and the numbers of what is at the master."""
        to_deliver: list[Job] = []
        at_master: list[int] = []
        for _ in range(len(self._cancelled)):
            job, is_delivered = self._cancelled.popleft()
            if job.sent_over == self._connection:
                self._sent_jobs -= 1
                self._sent_bytes -= len(job.payload)
                at_master.append(job.number)
            self.started.discard(job.number)
            if is_delivered:
                to_deliver.append(job)
            else:
                self.on_delivered(job, False)
        return to_deliver, at_master

    def on_delivered(self, job: Job, has_failed: bool) -> None:
        """The caller has its result, or wants none."""
        self.bytes_out += len(job.payload)
        if self.charges:
            self.charges.pop(job.number, None)
        if has_failed:
            self.failed += 1
        self.delivered += 1

    def drop_after_fork(self) -> None:
        """In a forked child: there are no jobs."""
        self._by_number = {}
        self.delivered = self.last_number

    def check_invariants(self) -> None:
        """For tests, while no other thread is at work."""
        waiting = Counter(id(job) for job in self._waiting if job.number in self._by_number)
        assert [job.number for job in self._waiting] == sorted(job.number for job in self._waiting)
        cancelled = [job for job, _ in self._cancelled]
        sent = [job for job in (*self.all(), *cancelled) if job.sent_over == self._connection]
        assert list(self._by_number) == sorted(self._by_number)
        assert not self._by_number.keys() & {job.number for job in cancelled}
        assert len(self._by_number) + len(cancelled) <= self.outstanding
        for number, job in self._by_number.items():
            assert job.number == number <= self.last_number
            is_stored = job.call is not None and job.call.is_stored
            places = waiting[id(job)] + (job.sent_over == self._connection)
            assert places == 1 or (is_stored and not places), f"{job.name} is in {places} places"
        assert (self._sent_jobs, self._sent_bytes) == (len(sent), sum(len(job.payload) for job in sent))
        assert all(job.number <= self.highest_sent for job in sent)
        assert self.started <= {job.number for job in sent}
        assert self.bytes_in - self.bytes_out >= sum(len(job.payload) for job in (*self.all(), *cancelled))
        assert self._acknowledged <= self._received and self.failed <= self.delivered
