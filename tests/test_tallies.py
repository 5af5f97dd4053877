"""What the master counts for observers: hand-calculated rates and quantiles, then random events."""

from random import Random

import pytest

from cw.master.policy.tallies import FAILURES, NAMES, OTHERS, STARTED, Recent, Sums, Tallies, Tally
from cw.net.objects import Estimate


def test_a_rate_is_that_of_the_last_minute():
    recent = Recent(60.0, now=1000.0)
    for second in range(120):  # two events a second
        recent.add(2, 1000.0 + second)
    assert recent.rate(1120.0) == pytest.approx(2.0)
    assert recent.rate(1150.0) == pytest.approx(1.0)  # half of the last minute had none
    assert recent.rate(1180.0) == recent.rate(10_000.0) == 0.0


def test_the_rate_of_what_is_new_is_that_since_its_first_moment():
    recent = Recent(300.0, now=1000.0)
    recent.add(30, 1005.0)
    assert recent.rate(1010.0) == pytest.approx(3.0)
    assert Recent(60.0, now=1000.0).rate(1000.0) == 0.0


def test_the_quantiles_count_each_run_as_often_as_it_has_jobs():
    tally = Tally("f", 0.0)
    assert tally.quantiles(0.5) is None and tally.mean() == 0.0
    tally.add(90, 1.0, 0.0)  # 90 jobs of 1 s, 8 of 2 s, 2 of 50 s
    tally.add(2, 50.0, 0.0)
    tally.add(8, 2.0, 0.0)
    assert tally.quantiles(0.5, 0.95, 0.99) == [1.0, 2.0, 50.0]
    assert tally.mean() == pytest.approx((90 + 100 + 16) / 100)


def test_functions_of_one_code_and_of_one_name_are_counted_together():
    tallies, one, other = Tallies(), Estimate(), Estimate()
    tallies.name(7, one, "f")
    tallies.name(7, other, "f")
    tallies.on_ended(7, one, 3, 0.1)
    tallies.on_ended(7, other, 2, 0.1)
    assert tallies.by_session[7]["f"].ended == 5


def test_with_too_many_names_the_others_are_counted_as_one():
    tallies = Tallies()
    for number in range(2 * NAMES):
        tallies.name(7, Estimate(), f"f{number}")
    assert len(tallies.by_session[7]) == NAMES + 1 and OTHERS in tallies.by_session[7]
    tallies.check_invariants()


def test_a_failure_keeps_its_place_and_gets_its_lines_from_the_client():
    tallies, estimate = Tallies(), Estimate()
    tallies.name(7, estimate, "f")
    tallies.on_second(100.0)
    tallies.on_failed(7, 3, estimate, "w")
    tallies.on_ended(7, estimate, 1, 0.1)
    tallies.on_error_lines(7, 3, "ValueError: a", "b")
    tallies.on_error_lines(7, 4, "of no such job", "")
    tallies.on_worker_gone("w", "node7")
    tallies.on_client_gone(7, "sim.py")
    (failure,) = tallies.failures
    assert (failure.function, failure.at, failure.first, failure.last) == ("f", 100.0, "ValueError: a", "b")
    assert (failure.host, failure.client) == ("node7", "sim.py")


def test_a_job_that_is_tried_again_has_not_failed():
    tallies, estimate = Tallies(), Estimate()
    tallies.on_failed(7, 3, estimate, "w")
    tallies.on_ended(7, estimate, 1, 0.1)
    tallies.on_tried_again(7, estimate)
    tallies.on_ended(7, estimate, 1, 0.1)
    assert tallies.sums() == Sums(ended=1, failed=0)


class Holder:
    def __init__(self):
        self.held = {}


@pytest.mark.parametrize("seed", range(4))
def test_random_events_contradict_nothing(seed):
    random = Random(seed)
    tallies = Tallies()
    estimates = {(session, n): Estimate() for session in range(3) for n in range(3)}
    workers = {"a": Holder(), "b": Holder()}
    ended = failed = 0
    now = 1000.0
    for number in range(2000):
        now += random.choice([0.0, 0.0, 0.1, 30.0])
        tallies.on_second(now)
        (session, n), estimate = random.choice(list(estimates.items()))
        worker = random.choice(["a", "b"])
        event = random.randrange(7)
        if event == 0:
            tallies.name(session, estimate, f"f{n}")
        elif event == 1:
            count = random.randint(1, 50)
            errors = random.randint(0, count)
            for _ in range(errors):
                tallies.on_failed(session, number, estimate, worker)
            tallies.on_ended(session, estimate, count, random.random())
            ended, failed = ended + count, failed + errors
        elif event == 2:
            tallies.on_given_up(session, number, estimate, worker, "it was lost")
            ended, failed = ended + 1, failed + 1
        elif event == 3 and tallies.tally_of(session, estimate).failed:
            tallies.on_tried_again(session, estimate)
            ended, failed = ended - 1, failed - 1
        elif event == 4:
            for dispatch in range(number * 1000, number * 1000 + random.choice([1] * 9 + [2 * STARTED])):
                workers[worker].held[dispatch] = None
                tallies.on_started(worker, dispatch, workers)
        elif event == 5:
            workers[worker].held.clear()
        elif random.random() < 0.1:
            tallies.on_session_closed(session)
            for key in [key for key in estimates if key[0] == session]:
                estimates[key] = Estimate()
        tallies.check_invariants()
        assert tallies.sums() == Sums(ended, failed)
        assert tallies.minute.rate(now) >= 0
    assert len(tallies.failures) == FAILURES
