"""Jobs of a session, from their submission to their delivery: no socket, no thread, no clock.

          add              next_batch             take             on_delivered
    --------------> WAITING ----------> SENT -------------> TAKEN -------------> forgotten
          |          ^  ^                |                    ^
          |          |  '----------------'                    |
          |          |      on_master_lost                    |
          |          '------ wait --------.                   |
          '--------------------------> STORED ----------------'
           by an earlier run: the result is read; if it cannot be read, the job waits
           by a run that goes on: the same, when its result is there, or when it has ended without

    cancel: WAITING, SENT, STORED ----> CANCELLED ----> take_cancelled (and on_delivered)

The client owns its jobs: it keeps a payload until the result has been delivered. It sends only as many jobs as the
master's window has room for. When a master is lost, sent jobs wait again, before all others, and are resubmitted to the
next one regardless of its window: they were granted once. The caller delivers a TAKEN job, or writes it to a store
first.

The methods under "any thread" rely on atomic dict and deque operations: the thread that takes a job out of `_by_number`
ends it, and no other does. The other methods are for one thread at a time, the one that holds the loop's lock.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from cw.client.session.held import HeldCalls
from cw.client.session.job import ENDED, ClientJob, Dependent
from cw.client.session.ranked import Ranked
from cw.client.session.receipts import Receipts
from cw.net import messages as m
from cw.requirements import NO_OPTIONS, JobOptions

BATCH = 1024
"""Number of jobs sent at a time. Larger: the first jobs of a burst wait for more of the rest. Smaller: more
messages."""


class Jobs:
    """All outstanding jobs of one session, and counts of the others.

    `limits`: jobs and bytes of payload above which the session is full; None: no limit.
    """

    def __init__(self, limits: tuple[int | None, int | None] = (None, None)) -> None:
        # Written by any thread, under the session's lock.
        self.last_number = 0
        self.bytes_in = 0  # of all payloads so far
        self.held: HeldCalls[Dependent] = HeldCalls(limits)
        """Calls that become jobs when the futures among their arguments are done."""
        # Written by any thread, atomically.
        self._by_number: dict[int, ClientJob] = {}  # in the order of their numbers
        self._waiting: deque[ClientJob] = deque()  # next first; jobs that are not outstanding are skipped
        # Jobs with a priority of their own that wait, in the same way.
        self.ranked: Ranked[ClientJob] = Ranked()
        self._cancelled: deque[tuple[ClientJob, bool]] = (
            deque()
        )  # jobs, and whether their cancelling is delivered
        # Written by the session's thread.
        self.delivered = 0
        self.failed = 0  # number of delivered jobs that failed
        self.bytes_out = 0  # payloads of delivered jobs
        self.started: set[int] = set()  # numbers of jobs that are known to run
        self.attempt_counts: dict[int, m.AttemptCounts] = {}  # attempts of jobs so far, for the next master
        self.highest_sent = 0  # highest number ever sent to a master
        self.is_resubmitting = False  # jobs that were sent to an earlier master must be resubmitted
        self._connection = 1  # number of the connection: jobs sent over others are not at the master
        self._window = 0, 0  # jobs, bytes
        self._sent_jobs = self._sent_bytes = 0
        self._last_sent = 0  # last number sent over this connection
        self.receipts = Receipts()  # for results over this connection

    # --- any thread ---

    def add(
        self,
        function: int,
        options: int,
        payload: Any,
        tag: Any,
        call: Any = None,
        asked: JobOptions = NO_OPTIONS,
    ) -> int:
        """Add a job under the session's lock; it waits, unless it is found. Returns its number."""
        number = self.last_number + 1
        job = ClientJob(number, function, options, payload, tag, call, asked)
        self._by_number[number] = job
        self.last_number = number
        self.bytes_in += len(payload)
        if call is None or not call.is_found:
            (self.ranked.add if job.priority else self._waiting.append)(job)
        return number

    def restore(self, job: ClientJob, is_sent: bool) -> None:
        """Add a job of an earlier process of this session, or one that was on disk. Those with lower numbers that are
        not here are over. `is_sent`: it may have been sent to a master, and is resubmitted."""
        self.expect(job.number)
        self._by_number[job.number] = job
        self.bytes_in += len(job.payload)
        if not job.priority:
            self._waiting.append(job)
        elif is_sent:
            self.ranked.lost.append(job)
        else:
            self.ranked.add(job)

    def expect(self, number: int) -> None:
        """Count a job of an earlier process as outstanding, before `restore` adds it: it waits for others."""
        self.delivered += max(0, number - self.last_number - 1)
        self.last_number = max(self.last_number, number)

    def release(self, dependent: Dependent, function: int, payload: Any, is_sent: bool) -> int:
        """Make a job of a held call, under the session's lock. Returns its number. `is_sent`: it waits as others do,
        unless its result is stored; otherwise the caller takes or cancels it soon."""
        number = self.last_number + 1
        self._by_number[number] = dependent
        self.last_number = number
        self.bytes_in += len(payload)
        self.held.remove(dependent)  # only now: `outstanding` must not be too small
        dependent.number, dependent.function, dependent.payload = number, function, payload
        dependent.missing, dependent.results, dependent.called = 0, [], None
        if not is_sent:
            dependent.sent_over = ENDED
        elif dependent.call is None or not dependent.call.is_found:
            (self.ranked.add if dependent.priority else self._waiting.append)(dependent)
        return number

    def cancel(self, number: int, is_delivered: bool, owner: Any = None) -> bool:
        """Cancel a job. False: it is not outstanding. `owner`: the tag that it must have, if not None."""
        job = self._by_number.get(number)
        if job is None or (owner is not None and job.tag is not owner):
            return False
        if self._by_number.pop(number, None) is None:
            return False
        self._cancelled.append((job, is_delivered))
        return True

    def withdraw(self, number: int) -> None:
        """Cancel a job whose number did not reach its submitter. If it is not counted yet, there is no job."""
        job = self._by_number.pop(number, None)
        if job is not None and number <= self.last_number:
            self._cancelled.append((job, False))

    def get(self, number: int) -> ClientJob | None:
        """Return the job if it is outstanding and not taken."""
        return self._by_number.get(number)

    def all(self) -> list[ClientJob]:
        """Return the jobs that are outstanding and not taken, in the order of their submission."""
        return list(self._by_number.values())

    @property
    def outstanding(self) -> int:
        """Number of jobs that were submitted and are not delivered yet, held calls included."""
        return self.last_number - self.delivered + len(self.held)

    @property
    def has_cancelled(self) -> bool:
        """True if `take_cancelled` has something to do."""
        return bool(self._cancelled)

    def counts(self) -> tuple[int, int, int, int]:
        """Return numbers of jobs: submitted, delivered, delivered with an error, known to run."""
        return self.last_number, self.delivered, self.failed, len(self.started)

    def is_full(self, size: int) -> bool:
        """True if a job of `size` bytes must wait until others are delivered. One of any size is always allowed, and
        so is any while all others are held: the futures for which they wait may be the caller's to set."""
        jobs_limit, bytes_limit = self.held.limits
        held = self.bytes_in - self.bytes_out
        if self.held.size:
            if self.last_number == self.delivered:
                return False
            held += self.held.size
        if held and bytes_limit is not None and held + size > bytes_limit:
            return True
        return jobs_limit is not None and self.outstanding >= jobs_limit

    # --- to the master ---

    def on_window(self, jobs: int, size: int) -> None:
        """Set the number of jobs and bytes that the master accepts."""
        self._window = jobs, size

    def close_window(self) -> None:
        """Send no more until the next `on_window`."""
        self._window = 0, 0

    @property
    def is_window_open(self) -> bool:
        return self._window[0] > 0

    def next_batch(self) -> list[ClientJob]:
        """Return the next jobs that the window has room for, and count them as sent."""
        waiting, by_number, connection = self._waiting, self._by_number, self._connection
        batch: list[ClientJob] = []
        most, limit = self._window
        room = min(BATCH, most - self._sent_jobs)
        size = self._sent_bytes
        while waiting and len(batch) < room:
            job = waiting[0]
            # It is here twice if Ctrl-C came just before the `popleft`.
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

    def next_apart(self, is_again: bool = False) -> list[ClientJob]:
        """Return the next jobs with a priority of their own, as `next_batch` does: those of a lower one than the others
        only if no others wait. `is_again`: as `next_resubmitted`."""
        batch: list[ClientJob] = []
        most, limit = (math.inf, math.inf) if is_again else self._window
        while len(batch) < BATCH and self._sent_jobs < most:
            job = self.ranked.pop_lost() if is_again else self.ranked.pop(1 if self._waiting else -math.inf)
            if job is None:
                break
            if job.sent_over == self._connection or job.number not in self._by_number:
                continue
            if self._sent_bytes + len(job.payload) > limit and self._sent_jobs:
                self.ranked.add(job)
                break
            job.sent_over = self._connection
            self._sent_jobs += 1
            self._sent_bytes += len(job.payload)
            self.highest_sent = max(self.highest_sent, 1)  # so that the next master expects resubmitted jobs
            batch.append(job)
        return batch

    def next_resubmitted(self) -> list[ClientJob]:
        """Return the next jobs that were sent to an earlier master, whatever the window, and count them as sent. Empty:
        there are no more."""
        waiting, by_number, highest = self._waiting, self._by_number, self.highest_sent
        batch: list[ClientJob] = []
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

    def try_again(self, job: ClientJob, error: BaseException, payload: Any) -> bool:
        """Note that a try of a job has failed. True: it is tried again; it stays where it is, under its number."""
        if job.retries is None or not job.retries.note_failure(error, bytes(payload), self._connection):
            return False
        self.started.discard(job.number)
        self.attempt_counts.pop(job.number, None)
        return True

    def is_sent(self, job: ClientJob) -> bool:
        """True if the job is outstanding and was sent over this connection. Otherwise it waits, or nobody wants it."""
        return job.sent_over == self._connection and job.number in self._by_number

    def wait(self, job: ClientJob) -> bool:
        """Let a job wait that must run after all: its stored result cannot be read.

        False: it cannot be sent over this connection, over which later ones were sent. The master takes jobs only in
        their order.
        """
        if job.priority:
            self.ranked.add(job)
            return True
        if job.number > self._last_sent:
            self._waiting.insert(bisect(list(self._waiting), job.number, key=lambda each: each.number), job)
            return True
        job.sent_over = self._connection  # so that it waits in its place when the connection is given up
        self._sent_jobs += 1
        self._sent_bytes += len(job.payload)
        return False

    def on_master_joined(self) -> None:
        """Resubmit to a new master, before all else, the jobs that were sent to an earlier one."""
        self.is_resubmitting = True

    def on_master_lost(self) -> None:
        """Let sent jobs wait again."""
        former = self._connection
        self._connection += 1
        self._window = 0, 0
        self._sent_jobs = self._sent_bytes = self._last_sent = 0
        self.receipts = Receipts()
        self.started.clear()
        sent = [job for job in self.all() if job.sent_over == former]
        # One call, since other threads append to it. Sent jobs are older than waiting ones.
        self._waiting.extendleft(job for job in reversed(sent) if not job.priority)
        self.ranked.lost += [job for job in sent if job.priority]

    # --- from the master ---

    def take(self, number: int) -> ClientJob | None:
        """Take a job whose result has arrived: it can no longer be cancelled. None: it was cancelled."""
        job = self._by_number.pop(number, None)
        if job is not None:
            if job.sent_over == self._connection:
                self._sent_jobs -= 1
                self._sent_bytes -= len(job.payload)
            if self.started:
                self.started.discard(number)
        return job

    def on_started(self, numbers: Iterable[int]) -> list[ClientJob]:
        """Note that jobs run. Returns those that are outstanding."""
        found = [job for job in map(self._by_number.get, numbers) if job is not None]
        self.started.update(job.number for job in found)
        return found

    def on_attempt_counts(self, attempt_counts: m.AttemptCounts) -> None:
        """Keep the attempt counts of a job for the next master."""
        if attempt_counts.number in self._by_number:
            self.attempt_counts[attempt_counts.number] = attempt_counts

    # --- the end ---

    def take_cancelled(self) -> tuple[list[ClientJob], list[int]]:
        """Forget cancelled jobs. Returns those that must be delivered, and the numbers of those at the master."""
        to_deliver: list[ClientJob] = []
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

    def on_delivered(self, job: ClientJob, has_failed: bool) -> None:
        """Count a job whose result the caller has, or does not want."""
        self.bytes_out += len(job.payload)
        if self.attempt_counts:
            self.attempt_counts.pop(job.number, None)
        if has_failed:
            self.failed += 1
        self.delivered += 1

    def drop_after_fork(self) -> None:
        """Forget all jobs in a forked child."""
        self._by_number = {}
        self.held.drop_after_fork()
        self.delivered = self.last_number

    def check_invariants(self) -> None:
        """Check the state in tests, while no other thread is at work."""
        ranked = [job for job in self.ranked.jobs() if job.sent_over != self._connection]
        waiting = Counter(id(job) for job in (*self._waiting, *ranked) if job.number in self._by_number)
        assert all(job.priority for job in ranked) and not any(job.priority for job in self._waiting)
        assert [job.number for job in self._waiting] == sorted(job.number for job in self._waiting)
        cancelled = [job for job, _ in self._cancelled]
        sent = [job for job in (*self.all(), *cancelled) if job.sent_over == self._connection]
        assert list(self._by_number) == sorted(self._by_number)
        assert not self._by_number.keys() & {job.number for job in cancelled}
        assert len(self._by_number) + len(cancelled) <= self.outstanding
        for number, job in self._by_number.items():
            assert job.number == number <= self.last_number
            is_found = job.call is not None and job.call.is_found
            places = waiting[id(job)] + (job.sent_over == self._connection)
            may_be_nowhere = is_found or job.sent_over == ENDED
            assert places == 1 or (may_be_nowhere and not places), f"{job.name} is in {places} places"
        assert (self._sent_jobs, self._sent_bytes) == (len(sent), sum(len(job.payload) for job in sent))
        assert all(job.number <= self.highest_sent for job in sent if not job.priority)
        assert self.started <= {job.number for job in sent}
        assert self.bytes_in - self.bytes_out >= sum(len(job.payload) for job in (*self.all(), *cancelled))
        assert self.receipts.acknowledged <= self.receipts.received and self.failed <= self.delivered
        self.held.check_invariants()


def objects_of(jobs: Jobs) -> set[int]:
    """Return the numbers of the objects that outstanding jobs name: functions and options."""
    outstanding = [*jobs.all(), *jobs.held.all()]
    return ({job.function for job in outstanding} | {job.options for job in outstanding}) - {0}
