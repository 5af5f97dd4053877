"""A client's jobs: facts in, batches out; no socket, no thread, no clock. Random events, with invariants."""

import math
import random
from types import SimpleNamespace

import pytest

from cw.client.session.job import ClientJob, Dependent, NamedTag
from cw.client.session.jobs import BATCH, Jobs, objects_of
from cw.client.session.receipts import ACKNOWLEDGED_JOBS
from cw.net import messages as m
from cw.requirements import NO_OPTIONS, JobOptions

CALL, STORED = SimpleNamespace(is_found=False), SimpleNamespace(is_found=True)


def make(count=0, *, window=(1000, 10**6), limits=(None, None), size=10):
    jobs = Jobs(limits)
    for _ in range(count):
        jobs.add(1, 0, bytes(size), None)
    jobs.on_master_joined()
    if window is not None:
        jobs.on_window(*window)
        hand_in(jobs)
    return jobs


def hand_in(jobs):
    """The numbers that are sent again to a master that was just joined."""
    again = []
    while batch := jobs.next_resubmitted():
        again += numbers(batch)
    return again


PRIORITIES = [JobOptions(priority=priority) for priority in (-3, 2, 2, 7)]


def numbers(batch):
    return [job.number for job in batch]


def test_jobs_are_numbered_from_1_and_sent_in_order():
    jobs = make(3)
    assert numbers(jobs.all()) == [1, 2, 3] and jobs.outstanding == 3
    assert numbers(jobs.next_batch()) == [1, 2, 3]
    assert jobs.next_batch() == []
    jobs.check_invariants()


def test_a_job_is_named_by_the_callers_own_id_where_it_has_one():
    assert ClientJob(7, 1, 0, b"", None).name == "job 7"
    assert ClientJob(7, 1, 0, b"", NamedTag(42, "options")).name == "job 42"


def test_nothing_is_sent_without_a_window():
    jobs = make(3, window=None)
    assert not jobs.is_window_open and jobs.next_batch() == []
    jobs.on_window(2, 10**6)
    assert jobs.is_window_open and numbers(jobs.next_batch()) == [1, 2]
    jobs.close_window()
    assert jobs.next_batch() == []


def test_the_window_of_jobs_is_filled_again_as_results_come():
    jobs = make(5, window=(2, 10**6))
    assert numbers(jobs.next_batch()) == [1, 2] and jobs.next_batch() == []
    assert jobs.take(2).number == 2
    assert numbers(jobs.next_batch()) == [3]
    jobs.check_invariants()


def test_the_window_of_bytes_is_kept_but_for_one_job_that_is_larger():
    jobs = make(0, window=(1000, 100))
    for size in (60, 50, 1000, 10):
        jobs.add(1, 0, bytes(size), None)
    sent = []
    for _ in range(4):
        (job,) = jobs.next_batch()
        assert jobs.next_batch() == []
        sent.append(jobs.take(job.number).number)
        jobs.check_invariants()
    assert sent == [1, 2, 3, 4]


def test_a_batch_is_bounded():
    jobs = make(BATCH + 5, window=(BATCH * 2, 10**9))
    assert [len(jobs.next_batch()) for _ in range(3)] == [BATCH, 5, 0]


def test_what_was_sent_is_handed_in_to_the_next_master_before_all_others_and_beyond_the_window():
    jobs = make(6, window=(4, 10**6))
    jobs.next_batch()
    jobs.take(2)
    jobs.on_master_lost()
    assert not jobs.is_window_open
    jobs.on_master_joined()
    assert jobs.is_resubmitting and jobs.highest_sent == 4
    jobs.on_window(1, 10**6)
    assert numbers(jobs.next_resubmitted()) == [1, 3, 4] and jobs.is_resubmitting
    assert jobs.next_resubmitted() == [] and not jobs.is_resubmitting
    assert jobs.next_batch() == []
    for number in (1, 3, 4):
        jobs.take(number)
    assert numbers(jobs.next_batch()) == [5]
    jobs.check_invariants()


def test_a_job_that_is_cancelled_before_it_is_sent_is_never_sent():
    jobs = make(3)
    assert jobs.cancel(2, is_delivered=False)
    assert not jobs.cancel(2, is_delivered=False) and not jobs.cancel(17, is_delivered=False)
    assert numbers(jobs.next_batch()) == [1, 3] and jobs.outstanding == 3
    assert jobs.take_cancelled() == ([], []) and jobs.outstanding == 2
    jobs.check_invariants()


def test_a_job_that_is_cancelled_at_the_master_makes_room_and_the_master_is_told():
    jobs = make(3, window=(2, 10**6))
    jobs.next_batch()
    assert jobs.cancel(1, is_delivered=True) and jobs.has_cancelled
    to_deliver, at_master = jobs.take_cancelled()
    assert numbers(to_deliver) == [1] and at_master == [1] and not jobs.has_cancelled
    assert jobs.outstanding == 3  # until it is delivered
    jobs.on_delivered(to_deliver[0], True)
    assert jobs.outstanding == 2 and jobs.failed == 1
    assert numbers(jobs.next_batch()) == [3]
    assert jobs.take(1) is None
    jobs.check_invariants()


def test_a_job_is_cancelled_only_by_its_owner():
    jobs, mine = Jobs(), object()
    jobs.add(1, 0, b"", mine)
    assert not jobs.cancel(1, True, owner=object())
    assert jobs.cancel(1, True, owner=mine)


def test_the_master_is_not_told_of_a_job_that_was_cancelled_when_it_was_lost():
    jobs = make(2)
    jobs.next_batch()
    jobs.cancel(1, is_delivered=False)
    jobs.on_master_lost()
    jobs.check_invariants()
    assert jobs.take_cancelled() == ([], [])
    jobs.on_master_joined()
    jobs.on_window(10, 10**6)
    assert hand_in(jobs) == [2]
    jobs.check_invariants()


def test_what_is_taken_cannot_be_cancelled():
    jobs = make(1)
    jobs.next_batch()
    job = jobs.take(1)
    assert not jobs.cancel(1, True) and jobs.get(1) is None and jobs.outstanding == 1
    jobs.on_delivered(job, False)
    assert jobs.counts() == (1, 1, 0, 0)


def test_a_job_whose_number_was_not_counted_yet_is_withdrawn_without_a_trace():
    jobs = make(1)
    jobs._by_number[2] = ClientJob(2, 1, 0, b"", None)  # Ctrl-C came in the middle of `add`
    jobs.withdraw(2)
    assert not jobs.has_cancelled and jobs.outstanding == 1
    jobs.withdraw(1)
    assert jobs.take_cancelled() == ([], []) and not jobs.outstanding
    jobs.withdraw(0)
    jobs.check_invariants()


def test_an_interrupt_in_the_middle_of_a_batch_loses_no_job_and_doubles_none():
    jobs = make(3)
    job = jobs._waiting[0]
    job.sent_over = jobs._connection  # Ctrl-C came before the `popleft`: another connection is made
    jobs.on_master_lost()
    jobs.on_master_joined()
    jobs.on_window(10, 10**6)
    assert hand_in(jobs) + numbers(jobs.next_batch()) == [1, 2, 3]
    jobs.check_invariants()


def test_what_is_stored_does_not_wait_unless_it_cannot_be_read():
    jobs = make(0)
    jobs.add(0, 0, b"", None, STORED)
    jobs.add(1, 0, b"", None, CALL)
    assert numbers(jobs.next_batch()) == [2]
    jobs.check_invariants()
    assert not jobs.wait(jobs.get(1))  # the master has had a later one
    jobs.check_invariants()
    jobs.on_master_lost()
    jobs.on_master_joined()
    jobs.on_window(10, 10**6)
    assert hand_in(jobs) == [1, 2]
    jobs.check_invariants()


def test_what_cannot_be_read_is_sent_in_its_place():
    jobs = Jobs()
    jobs.add(0, 0, b"", None, STORED)
    jobs.add(1, 0, b"", None, CALL)
    assert jobs.wait(jobs.get(1))
    jobs.on_window(10, 10**6)
    assert numbers(jobs.next_batch()) == [1, 2]
    jobs.check_invariants()


def test_it_is_full_at_its_limits_but_never_for_one_job_alone():
    jobs = make(2, limits=(3, None))
    assert not jobs.is_full(10**9)
    jobs.add(1, 0, b"", None)
    assert jobs.is_full(0)
    jobs.on_delivered(jobs.take(1), False)
    assert not jobs.is_full(0)
    jobs = make(0, limits=(None, 100))
    assert not jobs.is_full(1000)
    jobs.add(1, 0, bytes(60), None)
    assert not jobs.is_full(40) and jobs.is_full(41)
    jobs.on_delivered(jobs.take(1), False)
    assert not jobs.is_full(1000)


def test_what_runs_is_known_until_it_ends_or_its_master_is_lost():
    jobs = make(3)
    jobs.next_batch()
    assert numbers(jobs.on_started([1, 2, 3, 17])) == [1, 2, 3] and jobs.counts()[3] == 3
    jobs.take(1)
    jobs.cancel(2, False)
    jobs.take_cancelled()
    assert jobs.started == {3}
    jobs.check_invariants()
    jobs.on_master_lost()
    assert not jobs.started


def test_charges_are_kept_while_their_job_is_outstanding():
    jobs = make(2)
    for number in (1, 2, 17):
        jobs.on_attempt_counts(m.AttemptCounts(number, 1, 0, []))
    assert list(jobs.attempt_counts) == [1, 2]
    jobs.on_delivered(jobs.take(1), False)
    jobs.cancel(2, False)
    jobs.take_cancelled()
    assert not jobs.attempt_counts


def test_results_are_acknowledged_when_they_are_many_or_when_it_is_time():
    jobs = Jobs()
    assert jobs.receipts.acknowledge() == 0
    assert not jobs.receipts.note(ACKNOWLEDGED_JOBS - 1)
    assert jobs.receipts.note(1) and jobs.receipts.acknowledge() == ACKNOWLEDGED_JOBS
    assert not jobs.receipts.note(1) and jobs.receipts.acknowledge() == ACKNOWLEDGED_JOBS + 1
    assert jobs.receipts.acknowledge() == 0
    jobs.receipts.note(1)
    jobs.on_master_lost()
    assert jobs.receipts.acknowledge() == 0
    jobs.receipts.note(1)
    assert jobs.receipts.acknowledge() == 1


def test_the_objects_that_outstanding_jobs_name_are_known():
    jobs = Jobs()
    for function, options in ((3, 0), (5, 7), (3, 8)):
        jobs.add(function, options, b"", None)
    assert objects_of(jobs) == {3, 5, 7, 8}
    jobs.take(2)
    assert objects_of(jobs) == {3, 8}


def test_jobs_of_a_larger_priority_are_sent_first_and_those_of_a_negative_one_last():
    jobs = make(2, window=None)
    for asked in PRIORITIES:
        jobs.add(1, 0, b"", None, None, asked)
    assert jobs.next_apart() == [] and jobs.is_resubmitting
    jobs.on_window(3, 100)
    assert hand_in(jobs) == numbers(jobs.next_apart(is_again=True)) == []
    assert numbers(jobs.next_apart()) == [6, 4, 5] and jobs.next_batch() == []
    jobs.take(4)
    assert numbers(jobs.next_apart()) == [] and numbers(jobs.next_batch()) == [1]
    jobs.on_window(5, 100)
    assert numbers(jobs.next_apart()) == [] and numbers(jobs.next_batch()) == [2]
    assert numbers(jobs.next_apart()) == [3]
    jobs.check_invariants()


def test_jobs_with_a_priority_that_were_sent_are_resubmitted_apart_and_others_wait():
    jobs = make(window=(2, 100))
    for asked in (NO_OPTIONS, *PRIORITIES):
        jobs.add(1, 0, b"", None, None, asked)
    assert numbers(jobs.next_apart()) == [5, 3]
    jobs.on_master_lost()
    assert jobs.highest_sent  # so the next master expects jobs from before
    jobs.on_master_joined()
    jobs.on_window(2, 100)
    assert hand_in(jobs) == [1] and numbers(jobs.next_apart(is_again=True)) == [3, 5]
    assert jobs.next_apart() == jobs.next_batch() == []
    jobs.check_invariants()


def test_a_forked_child_has_no_jobs():
    jobs = make(3)
    jobs.drop_after_fork()
    assert not jobs.outstanding and not jobs.all()


# --- random events ----------------------------------------------------------------------------


class Events:
    """A master and a user at random. What must be true of each job is kept beside it."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.jobs = Jobs((self.random.choice([None, 30]), None))
        self.at_master = {}  # number: size, over this connection
        self.is_there = False
        self.submitted = 0  # number, over this connection
        self.window = 0, 0
        self.expected = set()  # numbers that must be delivered
        self.delivered = []
        self.storing = []  # taken, and not delivered yet
        self.in_store = []  # numbers
        self.failed = []  # numbers of jobs that must not be sent

    def step(self):
        event = self.random.choice([
            self.add, self.add, self.add, self.cancel, self.pump, self.pump, self.result, self.result, self.result,
            self.window_changes, self.master_is_lost, self.master_joins, self.master_joins, self.started, self.stored,
            self.store_is_read, self.cancelled_are_taken, self.attempt_counts, self.hold, self.release,
            self.failures_are_delivered,
        ])  # fmt: skip
        event()
        self.jobs.check_invariants()
        assert self.jobs.outstanding >= 0
        assert not set(self.delivered) - self.expected

    def add(self):
        if self.jobs.is_full(0):
            assert self.jobs.outstanding >= 30
            return
        call = self.random.choice([None, None, None, CALL, STORED])
        asked = self.random.choice([NO_OPTIONS] * 4 + PRIORITIES)
        number = self.jobs.add(1, 0, bytes(self.random.choice([0, 1, 10, 100])), None, call, asked)
        self.expected.add(number)
        if call is STORED:
            self.in_store.append(number)

    def hold(self):
        if not self.jobs.is_full(0):
            payload = bytes(self.random.choice([1, 10, 100]))
            self.jobs.held.add(Dependent(None, 1, 0, payload, None, self.random.choice([None, CALL])))

    def release(self):
        if held := self.jobs.held.all():
            call, outstanding = self.random.choice(held), self.jobs.outstanding
            is_sent = self.random.random() < 0.7
            number = self.jobs.release(call, 2, call.payload + bytes(self.random.choice([0, 50])), is_sent)
            assert self.jobs.outstanding == outstanding
            self.expected.add(number)
            if not is_sent:
                self.failed.append(number)

    def failures_are_delivered(self):
        while self.failed:
            job = self.jobs.take(self.failed.pop())
            if job is not None:
                self.deliver(job)

    def cancel(self):
        number = self.random.randint(1, self.jobs.last_number + 1)
        is_open = self.jobs.get(number) is not None
        is_delivered = self.random.random() < 0.5
        assert self.jobs.cancel(number, is_delivered) == is_open
        if is_open and not is_delivered:
            self.expected.discard(number)
        assert self.jobs.get(number) is None

    def pump(self):
        if not self.is_there or not self.jobs.is_window_open:
            assert self.jobs.next_batch() == []
            return
        if self.jobs.is_resubmitting:
            while batch := self.jobs.next_resubmitted():
                self.send(batch)
            self.send(self.jobs.next_apart(is_again=True))
        self.pump_apart(is_first=True)
        while batch := self.jobs.next_batch():
            self.send(batch)
            self.check_window(batch)
        self.pump_apart(is_first=False)

    def pump_apart(self, is_first):
        while batch := self.jobs.next_apart():
            ranks = [(-job.priority, job.number) for job in batch]
            assert ranks == sorted(ranks) and not (is_first and self.jobs._waiting and batch[-1].priority < 0)
            left = [job.priority for job in self.jobs.ranked.jobs() if self.jobs.get(job.number) is job]
            assert batch[-1].priority >= max(left, default=-math.inf)
            self.send(batch)
            self.check_window(batch)

    def check_window(self, batch):
        assert len(self.at_master) <= self.window[0] or len(self.at_master) == len(batch)
        assert sum(self.at_master.values()) <= self.window[1] or len(self.at_master) == 1

    def send(self, batch):
        for job in batch:
            assert job.number not in self.failed
            assert self.is_there and job.number not in self.at_master and job.number not in self.delivered
            if not job.priority:
                assert job.number > self.submitted  # or the master would close the connection
                self.submitted = job.number
            self.at_master[job.number] = len(job.payload)

    def result(self):
        if self.at_master:
            number = self.random.choice(list(self.at_master))
            job = self.jobs.take(number)
            # What was cancelled stays in the books until that is seen.
            if job is not None:
                del self.at_master[number]
                (self.storing.append if job.call is not None else self.deliver)(job)
            self.jobs.receipts.note(1)
            self.jobs.receipts.acknowledge()

    def deliver(self, job):
        assert job.number not in self.delivered
        self.delivered.append(job.number)
        self.jobs.on_delivered(job, self.random.random() < 0.1)

    def stored(self):
        if self.storing:
            self.deliver(self.storing.pop(0))

    def store_is_read(self):
        if self.in_store:
            job = self.jobs.get(self.in_store.pop(0))
            if job is not None and self.random.random() < 0.3:
                if not self.jobs.wait(job):
                    self.lose_master()
            elif job is not None:
                self.deliver(self.jobs.take(job.number))

    def cancelled_are_taken(self):
        to_deliver, at_master = self.jobs.take_cancelled()
        for job in to_deliver:
            self.deliver(job)
        for number in at_master:
            del self.at_master[number]

    def window_changes(self):
        if self.is_there:
            self.window = self.random.choice([0, 1, 5, 1000]), self.random.choice([0, 50, 10**6])
            self.jobs.on_window(*self.window)

    def master_is_lost(self):
        if self.is_there and self.random.random() < 0.3:
            self.lose_master()

    def lose_master(self):
        self.is_there = False
        self.at_master.clear()
        self.submitted = 0
        self.jobs.on_master_lost()

    def master_joins(self):
        if not self.is_there:
            self.is_there = True
            self.jobs.on_master_joined()
            self.window = 5, 10**6
            self.jobs.on_window(*self.window)

    def started(self):
        if self.at_master:
            self.jobs.on_started(self.random.sample(list(self.at_master), 1))

    def attempt_counts(self):
        self.jobs.on_attempt_counts(
            m.AttemptCounts(self.random.randint(1, self.jobs.last_number + 1), 1, 0, [])
        )

    def finish(self):
        """All goes well from here on."""
        while self.jobs.held.all():
            self.release()
        self.failures_are_delivered()
        while self.in_store:
            self.store_is_read()
        self.master_joins()
        for _ in range(10 * self.jobs.last_number + 10):
            self.cancelled_are_taken()
            self.window = 5, 10**6
            self.jobs.on_window(*self.window)
            self.pump()
            self.result()
            self.stored()
        self.jobs.check_invariants()
        assert sorted(self.delivered) == sorted(self.expected)
        assert not self.jobs.outstanding and not self.jobs.all() and not self.at_master
        assert (
            self.jobs.bytes_in == self.jobs.bytes_out
            and not self.jobs.attempt_counts
            and not self.jobs.started
        )


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_each_job_is_delivered_once_and_nothing_is_left(seed):
    events = Events(seed)
    for _ in range(400):
        events.step()
    events.finish()
