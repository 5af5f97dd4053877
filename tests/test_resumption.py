"""The return of a client: named facts, then random events against a model. No socket, no clock."""

import math
from random import Random

import pytest

from cw.master.policy.jobs import Job
from cw.master.policy.resumption import GRACE_IF_WANTED, MOST_SETTLE, SETTLE, Resumption
from cw.master.settings import AWAY
from cw.net import messages as m
from cw.net.objects import Object

GRACE = 60.0
MOST = 20


def jobs(*numbers):
    return [Job(number, Object(1), None, b"") for number in numbers]


def numbers(jobs):
    return [job.number for job in jobs]


def submitted(resumption, *which):
    """The numbers of those that are handed in again, and of the new ones."""
    again, new = resumption.on_submitted(jobs(*which))
    resumption.check_invariants()
    return numbers(again), numbers(new)


def new_client():
    resumption = Resumption(GRACE, MOST)
    assert not resumption.on_connected(0.0, is_new=True, resubmitted_up_to=0)
    return resumption


def client_of_another_master(resubmitted_up_to):
    resumption = Resumption(GRACE, MOST)
    assert resumption.on_connected(0.0, is_new=True, resubmitted_up_to=resubmitted_up_to)
    return resumption


def client_that_is_back(*which):
    """A client that has handed in these jobs to this master, before its connection broke at 0."""
    resumption = new_client()
    resumption.on_submitted(jobs(*which))
    resumption.on_disconnected(0.0, is_reset=True)
    assert resumption.on_connected(1.0, is_new=False, resubmitted_up_to=which[-1])
    return resumption


# --- what is handed in ------------------------------------------------------------------------


def test_the_jobs_of_a_new_client_are_new_and_nothing_settles():
    resumption = new_client()
    assert submitted(resumption, 1, 2, 3) == ([], [1, 2, 3])
    assert resumption.settle(math.inf) is None


def test_a_client_that_is_back_hands_in_what_it_had_and_then_new_ones():
    resumption = client_that_is_back(1, 2, 5)
    assert resumption.were_here and resumption.resubmitted_up_to == 5
    assert submitted(resumption, 2, 5, 6, 7) == ([2, 5], [6, 7])
    assert submitted(resumption, 8) == ([], [8])


def test_a_client_of_another_master_says_how_far_it_had_come():
    resumption = client_of_another_master(resubmitted_up_to=4)
    assert not resumption.were_here
    assert submitted(resumption, 3, 5) == ([3], [5])


def test_what_was_charged_comes_before_its_job_and_is_charged_to_it():
    resumption = client_of_another_master(resubmitted_up_to=2)
    note = {"how": "killed by SIGSEGV"}
    resumption.on_attempt_counts(m.AttemptCounts(2, 1, 3, [note]))
    again, _ = resumption.on_submitted(jobs(1, 2))
    assert [(job.crashes, job.worker_losses, job.notes) for job in again] == [(0, 0, ()), (1, 3, (note,))]


# --- settling ---------------------------------------------------------------------------------


def test_it_settles_when_all_is_handed_in_and_no_worker_is_missing():
    resumption = client_of_another_master(resubmitted_up_to=2)
    assert resumption.settle(0.0) is None
    resumption.on_former_workers(["v", "w"], {"w"})
    resumption.on_resubmitted()
    assert resumption.settle(1.0) is None
    resumption.on_workers_changed(1.0, ["v"], [])
    assert resumption.settle(1.0) == ([], True)
    assert resumption.settle(1.0) is None  # once


def test_a_worker_that_does_not_come_back_is_waited_for_a_while_and_named():
    resumption = client_of_another_master(resubmitted_up_to=2)
    resumption.on_former_workers(["v", "w"], {"w"})
    resumption.on_resubmitted()
    assert resumption.settle(SETTLE - 0.1) is None
    assert resumption.settle(SETTLE) == (["v"], False)


def test_while_workers_come_back_the_others_have_more_time():
    resumption = client_of_another_master(resubmitted_up_to=2)
    workers = [f"w{number}" for number in range(100)]
    resumption.on_former_workers(workers, set())
    resumption.on_resubmitted()
    for second in range(1, 9):
        resumption.on_workers_changed(second, [workers.pop(), "new"], [])
        assert resumption.settle(second + SETTLE - 0.1) is None
    resumption.on_workers_changed(9.0, ["new"], [])  # it was not missing
    assert resumption.settle(8 + SETTLE) == (sorted(workers), False)


def test_it_does_not_wait_for_ever_while_workers_come_back():
    resumption = client_of_another_master(resubmitted_up_to=2)
    workers = [f"w{number}" for number in range(100)]
    resumption.on_former_workers(workers, set())
    resumption.on_resubmitted()
    for second in range(1, 99):
        resumption.on_workers_changed(second, [workers.pop()], [])
        assert (resumption.settle(second + 0.5) is None) == (second + 0.5 < MOST_SETTLE)
        if second + 0.5 >= MOST_SETTLE:
            break


def test_where_a_worker_has_gone_again_not_all_are_here():
    resumption = client_of_another_master(resubmitted_up_to=2)
    resumption.on_former_workers(["w"], {"w"})
    resumption.on_workers_changed(0.0, [], ["w"])
    resumption.on_resubmitted()
    assert resumption.settle(1.0) == ([], False)


def test_this_master_has_not_lost_the_workers_that_were_here_before():
    resumption = client_that_is_back(1)
    resumption.on_former_workers(["v"], set())
    resumption.on_resubmitted()
    assert resumption.settle(1.0) == ([], True)


def test_a_second_return_waits_for_those_that_were_missing_at_the_first():
    resumption = client_of_another_master(resubmitted_up_to=2)
    resumption.on_former_workers(["v"], set())
    resumption.on_disconnected(1.0, is_reset=True)
    assert resumption.settle(math.inf) is None  # the client is not there
    resumption.on_connected(2.0, is_new=False, resubmitted_up_to=2)
    resumption.on_former_workers([], set())  # of this master, which has met none of them
    resumption.on_resubmitted()
    assert resumption.settle(SETTLE + 1) is None
    assert resumption.settle(SETTLE + 2) == (["v"], False)


# --- staying away -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "is_reset, has_lost_parent, is_in_the_way, seconds",
    [
        (False, True, True, GRACE),  # its network may be down
        (True, False, False, GRACE),
        (True, False, True, GRACE_IF_WANTED),
        (True, True, False, AWAY),
    ],
)
def test_a_client_is_waited_for_as_long_as_its_case_deserves(
    is_reset, has_lost_parent, is_in_the_way, seconds
):
    resumption = new_client()
    assert not resumption.should_end(math.inf, has_lost_parent, is_in_the_way)
    resumption.on_disconnected(10.0, is_reset)
    assert not resumption.should_end(10.0 + seconds - 0.1, has_lost_parent, is_in_the_way)
    assert resumption.should_end(10.0 + seconds, has_lost_parent, is_in_the_way)
    resumption.on_connected(11.0, is_new=False, resubmitted_up_to=0)
    assert not resumption.should_end(math.inf, has_lost_parent, is_in_the_way)


# --- random events ----------------------------------------------------------------------------


class Events:
    """A client that comes and goes, to one master. The model knows which jobs it has handed in."""

    def __init__(self, random):
        self.random = random
        self.now = 0.0
        resubmitted_up_to = random.choice([0, 0, 5])
        self.resumption = Resumption(GRACE, MOST)
        self.is_here = True
        self.is_settling = self.resumption.on_connected(
            self.now, is_new=True, resubmitted_up_to=resubmitted_up_to
        )
        assert self.is_settling == bool(resubmitted_up_to)
        self.before = self.highest = resubmitted_up_to  # numbers handed in before the client came back; ever
        self.next = 1  # over this connection
        self.has_handed_in = False
        self.missing = set()

    def client_goes(self):
        if self.is_here:
            self.is_here = False
            self.resumption.on_disconnected(self.now, is_reset=self.random.random() < 0.5)

    def client_comes(self):
        if self.is_here and self.random.random() < 0.5:  # its end was not seen: rare
            return
        assert self.resumption.on_connected(self.now, is_new=False, resubmitted_up_to=self.highest)
        self.is_here = self.is_settling = True
        self.before, self.next = self.highest, 1
        self.has_handed_in = False

    def jobs_come(self):
        if self.is_here:
            wanted = sorted(self.random.sample(range(self.next, self.next + 8), self.random.randint(1, 5)))
            again, new = submitted(self.resumption, *wanted)
            assert again == [n for n in wanted if n <= self.before]
            assert new == [n for n in wanted if n > self.before]
            self.next = wanted[-1] + 1
            self.highest = max(self.highest, wanted[-1])

    def all_is_handed_in(self):
        if self.is_here:
            self.resumption.on_resubmitted()
            self.has_handed_in = True

    def workers_are_named(self):
        if self.is_here:
            self.resumption.on_former_workers(["u", "v"], {"v"})
            if self.is_settling and not self.resumption.were_here:
                self.missing = {"u"}

    def workers_change(self):
        joined, gone = self.random.choice([(["u"], []), (["w"], []), ([], ["v"])])
        self.resumption.on_workers_changed(self.now, joined, gone)
        self.missing.difference_update(joined)

    def time_passes(self):
        self.now += self.random.choice([0.1, 1.0, SETTLE])
        settled = self.resumption.settle(self.now)
        if settled is not None:
            assert self.is_here and self.is_settling and self.has_handed_in
            assert set(settled.missing) == self.missing
            self.is_settling = False
            self.missing = set()
        assert not self.resumption.should_end(self.now, True, True) or not self.is_here

    EVENTS = [jobs_come, time_passes] * 4 + [
        client_goes, client_comes, all_is_handed_in, workers_are_named, workers_change,
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(30))
def test_random_events(seed):
    random = Random(seed)
    events = Events(random)
    for _ in range(300):
        random.choice(Events.EVENTS)(events)
        events.resumption.check_invariants()
    if not events.is_here:
        events.client_comes()
    events.all_is_handed_in()
    events.now += SETTLE
    events.time_passes()
    assert not events.is_settling, "every return settles"
