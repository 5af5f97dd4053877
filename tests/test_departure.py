"""How a worker leaves: named facts, then random events. No process, no clock."""

import math
from random import Random

import pytest

from cw.worker.policy.departure import (
    END_DRAIN,
    END_MARGIN,
    END_SECONDS,
    NOTICE_SECONDS,
    REPEATED_SECONDS,
    STEPS_MARGIN,
    STOP_RESERVE,
    STOP_SECONDS,
    TAKEN_SECONDS,
    Departure,
    Drain,
    Here,
    Leave,
    StopJobs,
)

NOW = 1000.0
GRACE = 20.0
AT_WORK = Here(False, True, False, False, False, True)  # a job runs
DONE = Here(True, False, False, False, False, True)  # nothing is left, and the master has been told all
STEPS = STOP_SECONDS + STOP_RESERVE


def draining(here=AT_WORK, **settings):
    """One that was asked to end at NOW, and had this."""
    departure = Departure(GRACE, now=NOW, **settings)
    assert departure.on_sigterm(NOW) == [Drain("it was asked to end", GRACE)]
    assert departure.on_tick(NOW, here) == []
    return departure


# --- asked to end -----------------------------------------------------------------------------


def test_an_idle_worker_leaves_at_once():
    departure = Departure(GRACE)
    departure.on_sigterm(NOW)
    assert departure.on_tick(NOW, DONE) == [Leave(is_sudden=True, has_threads=False)]
    assert departure.is_leaving and departure.on_tick(NOW, DONE) == departure.on_sigterm(NOW) == []


def test_what_runs_has_its_grace_then_is_stopped_and_is_waited_for_no_longer_than_the_steps_take():
    departure = draining()
    assert departure.on_tick(NOW + GRACE - 0.1, AT_WORK) == []
    assert departure.on_tick(NOW + GRACE, AT_WORK) == [StopJobs()]
    assert departure.on_tick(NOW + GRACE + STEPS - 0.1, AT_WORK) == []
    assert departure.on_tick(NOW + GRACE + STEPS, AT_WORK) == [Leave(is_sudden=False, has_threads=False)]


def test_it_leaves_as_soon_as_what_runs_has_ended():
    departure = draining()
    assert departure.on_tick(NOW + 1.0, DONE) == [Leave(is_sudden=True, has_threads=False)]


def test_a_second_sigterm_counts_unless_it_is_the_first_ones_echo_and_a_third_ends_it_at_once():
    departure = draining()
    assert departure.on_sigterm(NOW + REPEATED_SECONDS / 2) == []
    assert departure.on_tick(NOW + REPEATED_SECONDS, AT_WORK) == []
    second = NOW + 5.0
    assert departure.on_sigterm(second) == []
    assert departure.on_tick(second, AT_WORK) == [StopJobs()]
    assert departure.on_sigterm(second + REPEATED_SECONDS / 2) == []
    third = second + REPEATED_SECONDS + 0.1
    assert departure.on_sigterm(third) == [Leave(is_sudden=False, has_threads=False)]


def test_a_second_ctrl_c_ends_it_at_once():
    departure = Departure(GRACE)
    assert departure.on_sigint(NOW) == [Drain("Ctrl-C", GRACE)]
    assert departure.on_sigint(NOW + 0.2) == [Leave(is_sudden=True, has_threads=False)]


def test_the_end_of_the_terminal_drains_and_does_no_more_however_often_it_comes():
    departure = Departure(GRACE)
    assert departure.on_sighup(NOW) == [Drain("SIGHUP: its terminal is gone", GRACE)]
    assert departure.on_sighup(NOW + 0.1) == departure.on_sighup(NOW + GRACE / 2) == []
    assert departure.is_draining and not departure.is_leaving


def test_without_its_launcher_it_stops_what_runs_and_told_again_leaves():
    departure = Departure(GRACE)
    (drain,) = departure.on_launcher_gone(NOW)
    assert drain.grace == 0.0
    assert departure.on_tick(NOW, AT_WORK) == [StopJobs()]
    assert departure.on_launcher_gone(NOW) == [Leave(is_sudden=False, has_threads=False)]


def test_it_drains_once():
    departure = draining()
    for again in (departure.on_drain("again", NOW), departure.on_drain_until_the_end("again", NOW)):
        assert again == []


def test_a_worker_without_a_master_that_knows_of_its_jobs_does_not_wait_for_them():
    departure = draining()
    departure.on_forsaken()
    assert departure.on_tick(NOW + 1.0, AT_WORK) == [StopJobs()]


# --- what is left -----------------------------------------------------------------------------


def test_threads_that_jobs_have_left_get_the_grace_and_some_seconds_at_least():
    threads = Here(True, True, False, False, False, True)
    departure = draining(threads)
    assert departure.on_tick(NOW + GRACE - 0.1, threads) == []
    assert departure.on_tick(NOW + GRACE, threads) == [Leave(is_sudden=True, has_threads=True)]
    departure = Departure(GRACE)
    departure.on_launcher_gone(NOW)
    assert departure.on_tick(NOW + END_SECONDS - 0.1, threads) == []
    assert departure.on_tick(NOW + END_SECONDS, threads) == [Leave(is_sudden=True, has_threads=True)]


@pytest.mark.parametrize("here,is_patient", [
    (DONE, False),
    (DONE._replace(is_all_sent=False), True),  # the last results are still in the socket
    (DONE._replace(is_lost=True, is_all_sent=False), False),  # there is nobody to send them to
    (DONE._replace(has_results=True), True),  # for a moment: see below
    (DONE._replace(has_results=True, is_lost=True), True),  # the next master asks for them
])  # fmt: skip
def test_it_waits_until_what_it_has_to_report_is_with_somebody(here, is_patient):
    departure = Departure(GRACE)
    departure.on_sigterm(NOW)
    assert departure.is_waiting(NOW, here) == is_patient
    assert bool(departure.on_tick(NOW, here)) != is_patient


def test_it_does_not_wait_long_for_clients_that_do_not_say_that_they_have_their_results():
    kept = DONE._replace(has_results=True)
    departure = draining(kept)
    assert departure.on_tick(NOW + TAKEN_SECONDS, kept) == []
    unclaimed = kept._replace(has_unclaimed=True)  # a new master has not asked for them yet
    assert departure.on_tick(NOW + TAKEN_SECONDS + 0.1, unclaimed) == []
    assert departure.on_tick(NOW + TAKEN_SECONDS + 0.1, kept) == [Leave(is_sudden=True, has_threads=False)]


# --- the end is known -------------------------------------------------------------------------


def test_at_the_end_of_its_lifetime_it_drains_with_its_grace():
    departure = Departure(GRACE, lifetime=100.0, now=NOW)
    (alarm,) = departure.alarms
    assert (alarm.seconds, departure.ends_at) == (100.0, NOW + 100.0 + GRACE)
    assert departure.on_alarm(alarm, NOW + 100.0) == [Drain("its lifetime is over", GRACE)]


def test_before_the_end_of_its_allocation_it_drains_and_is_gone_a_margin_before_it():
    departure = Departure(GRACE, until=5000.0 + 3600.0, now=NOW, wall=5000.0)
    (alarm,) = departure.alarms
    assert departure.ends_at == NOW + 3600.0 - END_MARGIN
    assert alarm.seconds == 3600.0 - END_MARGIN - END_DRAIN
    (drain,) = departure.on_alarm(alarm, NOW + alarm.seconds)
    assert drain.grace == END_DRAIN and departure.stop_pace == 1.0
    assert departure.on_tick(departure.ends_at - 0.1, AT_WORK) == []
    assert departure.on_tick(departure.ends_at, AT_WORK) == [StopJobs()]
    # There is time for longer steps: a job may save its state after the first.
    assert departure.stop_pace == END_MARGIN / STEPS_MARGIN == 3.0
    gone = departure.ends_at + 3 * STEPS
    assert departure.on_tick(gone - 0.1, AT_WORK) == [] and gone < NOW + 3600.0 - STEPS_MARGIN
    assert departure.on_tick(gone, AT_WORK) == [Leave(is_sudden=False, has_threads=False)]


def test_in_a_short_allocation_the_steps_are_short_too():
    departure = Departure(GRACE, until=5010.0, now=NOW, wall=5000.0)
    assert departure.ends_at == NOW + 7.5 and departure.alarms[0].seconds == 6.5
    assert departure.stop_pace == 1.0  # a job that must end for another reason has all of its time
    departure.on_alarm(departure.alarms[0], NOW + 6.5)
    assert departure.stop_pace == 0.5
    assert departure.on_tick(NOW + 7.5, AT_WORK) == [StopJobs()]
    assert departure.on_tick(NOW + 7.5 + STEPS / 2, AT_WORK) == [Leave(is_sudden=False, has_threads=False)]


def test_an_allocation_that_is_over_is_drained_at_once():
    departure = Departure(GRACE, until=4000.0, now=NOW, wall=5000.0)
    (alarm,) = departure.alarms
    assert alarm.seconds == 0.0
    departure.on_alarm(alarm, NOW)
    assert departure.on_tick(NOW, AT_WORK) == [StopJobs()]
    assert departure.on_tick(NOW, AT_WORK) == [Leave(is_sudden=False, has_threads=False)]


def test_a_notice_counts_unless_the_worker_knows_the_end_to_be_near():
    departure = Departure(GRACE, until=10_000.0, now=NOW, wall=5000.0)
    assert departure.on_notice(NOW, 10_000.0 - NOTICE_SECONDS) == []
    (drain,) = departure.on_notice(NOW, 10_000.0 - NOTICE_SECONDS - 1.0)
    assert drain.grace == departure.ends_at - NOW
    assert Departure(GRACE).on_notice(NOW, 5000.0) == [Drain("notice of the end", math.inf)]


# --- random events ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_it_leaves_once_and_not_before_it_is_told_to(seed):
    for each in range(50):
        leave_somehow(Random(1000 * seed + each))


def leave_somehow(random):
    now, wall = NOW, 5000.0
    until = random.choice([math.inf, wall - 1.0, wall + 3.0, wall + 100.0])
    departure = Departure(random.choice([0.0, GRACE]), random.choice([math.inf, 30.0]), until, now, wall)
    alarms = {now + alarm.seconds: alarm for alarm in departure.alarms}
    signals = departure.on_sigterm, departure.on_sigint, departure.on_launcher_gone
    here, stops, was_told = AT_WORK, 0, False
    while not departure.is_leaving:
        actions = []
        for due in [due for due in alarms if due <= now]:
            actions += departure.on_alarm(alarms.pop(due), now)
            was_told = True
        if random.random() < 0.05:
            actions += random.choice(signals)(now)
            was_told = True
        if random.random() < 0.2:
            is_empty, *rest = (random.random() < 0.4 for _ in range(6))
            here = Here(is_empty, *rest)
        if departure.is_draining:
            is_due = now >= departure.next_tick(now, here)
            ticked = departure.on_tick(now, here)
            assert is_due or not ticked, "nobody would have looked"
            actions += ticked
        departure.check_invariants()
        assert was_told or not actions
        stops += actions.count(StopJobs())
        assert sum(type(action) is Leave for action in actions) == departure.is_leaving
        assert stops <= 1 and now < NOW + 10_000.0
        now += random.choice([0.02, 0.5, 3.0])
    assert departure.on_sigint(now) == departure.on_tick(now, AT_WORK) == []
