"""Scaling a cluster: what waits goes first, then the newest; nothing is ended that is not too much."""

import random

import pytest

from cw.slurm.scaling import Change, plan
from cw.slurm.submitted import BatchJob


def job(ident, slots, follows=0):
    return BatchJob("workers", ident, "", "cw-x-workers-t", slots, float(ident), follows)


OLD, MIDDLE, NEW = job(1, 4), job(2, 2), job(3, 3)


def test_for_more_slots_one_more_job_is_submitted():
    change = plan([OLD, MIDDLE], [], 10)
    assert (change.ended, change.slots, change.left) == ([], 4, 6)


def test_as_many_as_there_are_change_nothing():
    assert plan([OLD, MIDDLE], [MIDDLE], 6) == Change([], [], [], 0, 6)


def test_jobs_that_wait_are_taken_back_before_any_that_runs():
    change = plan([OLD, MIDDLE, NEW], [OLD], 5)
    assert (change.cancelled, change.drained, change.slots) == ([OLD], [], 0)


def test_then_the_newest_drain_and_what_they_had_too_much_is_submitted_anew():
    change = plan([OLD, MIDDLE, NEW], [], 5)
    assert (change.cancelled, change.drained, change.slots, change.left) == ([], [NEW, MIDDLE], 1, 4)


def test_one_that_follows_another_is_no_addition_and_goes_with_it():
    following = job(7, 3, follows=3)
    assert plan([OLD, NEW, following], [following], 7).ended == []
    change = plan([OLD, NEW, following], [following], 4)
    assert (change.cancelled, change.drained, change.slots) == ([following], [NEW], 0)


def test_one_that_drains_already_is_neither_counted_nor_ended_again():
    draining = OLD._replace(slots=0)
    change = plan([draining, MIDDLE], [], 1)
    assert (change.ended, change.slots, change.left) == ([MIDDLE], 1, 0)


@pytest.mark.parametrize("seed", range(50))
def test_there_are_as_many_slots_afterwards_as_were_wanted(seed):
    chance = random.Random(seed)
    for _ in range(50):
        jobs = [job(n, chance.randrange(5)) for n in range(1, chance.randrange(2, 9))]
        waiting = [one for one in jobs if chance.random() < 0.4]
        wanted = chance.randrange(1, 25)
        change = plan(jobs, waiting, wanted)
        stay = [one for one in jobs if one not in change.ended]
        assert sum(one.slots for one in stay) == change.left
        assert change.left + change.slots == wanted or (change.slots == 0 and change.left == wanted)
        assert sorted(change.ended) == sorted(change.cancelled + change.drained)
        assert set(change.cancelled) <= set(waiting) and not set(change.drained) & set(waiting)
        if change.drained:  # then nothing waits that has slots
            assert not any(one.slots for one in stay if one in waiting)
        again = plan([*stay, job(99, change.slots)], [], wanted)
        assert again.ended == [] and again.slots == 0  # it is settled
