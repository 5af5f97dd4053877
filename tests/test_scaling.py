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


def test_of_those_that_wait_the_ones_that_fit_go_and_the_rest_of_another_is_submitted_anew():
    change = plan(
        [OLD, MIDDLE, NEW], [OLD, MIDDLE, NEW], 5
    )  # 9 slots: NEW fits in the excess of 4, MIDDLE is cut
    assert (change.cancelled, change.drained, change.slots, change.left) == ([NEW, MIDDLE], [], 1, 4)


def test_then_the_newest_drain_that_fit_in_the_excess_and_none_is_cut():
    change = plan([OLD, MIDDLE, NEW], [], 5)
    assert (change.cancelled, change.drained, change.slots, change.left) == ([], [NEW], 0, 6)
    assert plan([job(1, 12)], [], 10) == Change(
        [], [], [], 0, 12
    )  # there would be 10 slots later, and none now


def test_the_least_used_drains_first():
    pieces = [job(n, 2) for n in (1, 2, 3, 4)]
    assert plan(pieces, [], 4, held={2: 0, 1: 1, 3: 2, 4: 5}).drained == [pieces[1], pieces[0]]


def test_lost_slots_are_submitted_anew():
    change = plan([OLD, MIDDLE, NEW], [], 9, lost={1: 4, 3: 1})
    assert (change.ended, change.slots, change.left) == ([], 5, 4)


def test_one_that_follows_another_is_no_addition_and_goes_with_it():
    following = job(7, 3, follows=3)
    assert plan([OLD, NEW, following], [following], 7).ended == []
    change = plan([OLD, NEW, following], [following], 4)
    assert (change.cancelled, change.drained, change.slots) == ([following], [NEW], 0)


def test_one_that_drains_already_is_neither_counted_nor_ended_again():
    draining = OLD._replace(slots=0)
    change = plan([draining, MIDDLE], [], 1)
    assert (change.ended, change.slots, change.left) == ([], 0, 2)
    assert plan([draining, MIDDLE], [], 3).slots == 1


@pytest.mark.parametrize("seed", range(50))
def test_there_are_never_fewer_slots_than_wanted_and_no_more_than_must_be(seed):
    chance = random.Random(seed)
    for _ in range(50):
        jobs = [job(n, chance.randrange(5)) for n in range(1, chance.randrange(2, 9))]
        lost = {one.ident: chance.randrange(one.slots + 1) for one in jobs if chance.random() < 0.2}
        waiting = [one for one in jobs if chance.random() < 0.4]
        wanted = chance.randrange(1, 25)
        lost = {ident: count for ident, count in lost.items() if ident not in {one.ident for one in waiting}}
        change = plan(jobs, waiting, wanted, lost)
        stay = [one for one in jobs if one not in change.ended]
        there = {one.ident: one.slots - lost.get(one.ident, 0) for one in jobs}
        assert sum(there[one.ident] for one in stay) == change.left
        assert change.left + change.slots >= wanted
        running = [one for one in jobs if one not in waiting]
        left_running = sum(there[one.ident] for one in running if one in stay)
        assert left_running >= min(wanted, sum(there[one.ident] for one in running))
        if change.left > wanted:  # then nothing waits, and every piece that runs is larger than the excess
            assert not any(one.slots for one in stay if one in waiting)
            assert all(there[one.ident] > change.left - wanted for one in stay if there[one.ident])
        assert sorted(change.ended) == sorted(change.cancelled + change.drained)
        assert set(change.cancelled) <= set(waiting) and not set(change.drained) & set(waiting)
        if change.drained:  # then nothing waits that has slots
            assert not any(one.slots for one in stay if one in waiting)
        again = plan([*stay, job(99, change.slots)], [], wanted, lost)
        assert again.ended == [] and again.slots == 0  # it is settled
