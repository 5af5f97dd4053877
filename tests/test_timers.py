"""Timers, without a clock: they are called when they are due, in order, and never after they were cancelled."""

import math
import random

import pytest

from cw.net import timers as timers_module
from cw.net.timers import FEWEST_SWEPT, Timers


@pytest.fixture
def timers():
    timers = Timers()
    yield timers
    timers.check_invariants()


def test_a_timer_is_called_once_when_it_is_due(timers):
    done = []
    timer = timers.call_later(5.0, lambda: done.append("called"))
    assert timers.next_due() == 5.0 and timer.is_pending
    timers.run_due(4.9)
    assert done == []
    timers.run_due(5.0)
    timers.run_due(6.0)
    assert done == ["called"]
    assert not timer.is_pending and timers.next_due() == math.inf


def test_timers_come_in_the_order_of_their_time_and_those_of_one_time_in_that_of_their_making(timers):
    done = []
    for name, due in (("c", 3.0), ("a", 1.0), ("b", 2.0), ("d", 3.0), ("e", 3.0)):
        timers.call_later(due, lambda name=name: done.append(name))
    timers.run_due(10.0)
    assert done == ["a", "b", "c", "d", "e"]


def test_one_that_repeats_comes_a_period_after_each_call_until_it_says_no(timers):
    times = []
    timers.call_every(1.0, 2.0, lambda now: times.append(now) or len(times) < 3)
    for now in (1.0, 2.9, 3.5, 5.0, 5.5, 20.0):  # it was late once: no two calls to make up for it
        timers.run_due(now)
    assert times == [1.0, 3.5, 5.5]
    assert len(timers) == 0


def test_a_cancelled_timer_is_not_called(timers):
    done = []
    timer = timers.call_later(1.0, lambda: done.append(1))
    timer.cancel()
    timer.cancel()
    assert not timer.is_pending and len(timers) == 0
    timers.run_due(2.0)
    assert done == []
    timer.cancel()


def test_one_that_repeats_may_cancel_itself_or_be_cancelled_by_one_of_the_same_time(timers):
    done = []
    own = timers.call_every(1.0, 1.0, lambda now: done.append("own") or own.cancel() or True)
    timers.call_later(2.0, lambda: other.cancel())
    other = timers.call_later(2.0, lambda: done.append("other"))
    for now in (1.0, 2.0, 3.0):
        timers.run_due(now)
    assert done == ["own"]


def test_what_a_callback_adds_waits_for_the_next_time_though_it_is_due(timers):
    done = []

    def again():
        done.append(len(done))
        timers.call_later(0.0, again)

    timers.call_later(0.0, again)
    timers.run_due(1.0)
    assert done == [0] and timers.next_due() == 0.0
    timers.run_due(1.0)
    assert done == [0, 1]


def test_an_error_in_a_callback_reaches_the_caller(timers):
    timers.call_later(1.0, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        timers.run_due(1.0)


def test_cancelled_timers_do_not_pile_up(timers):
    """A timeout for each of many messages, each cancelled by its answer."""
    kept = timers.call_later(1e6, lambda: None)
    for n in range(10_000):
        timers.call_later(1000.0 + n, lambda: None).cancel()
        assert len(timers._heap) <= 2 * FEWEST_SWEPT + 2
    assert kept.is_pending and len(timers) == 1


@pytest.mark.parametrize("seed", range(30))
def test_any_events_in_any_order_agree_with_a_plain_list(seed, monkeypatch):
    """Against a model that looks through all timers each time."""
    monkeypatch.setattr(timers_module, "FEWEST_SWEPT", 3)
    chance = random.Random(seed)
    timers, called, expected = Timers(), [], []
    model = {}  # by number: [due, period, order, handle]
    now, numbers = 0.0, 0

    for _ in range(400):
        event = chance.random()
        if event < 0.4:
            number, due = numbers, now + chance.choice([0.0, 1.0, chance.uniform(0, 20)])
            if chance.random() < 0.5:
                period, handle = 0.0, timers.call_later(due, lambda number=number: called.append(number))
            else:
                period = chance.uniform(0.1, 5)
                handle = timers.call_every(
                    due, period, lambda now, number=number: called.append(number) or True
                )
            model[number] = [due, period, numbers, handle]
            numbers += 1
        elif event < 0.7 and model:
            number = chance.choice(list(model))
            model.pop(number)[3].cancel()
        else:
            now += chance.uniform(0, 3)
            timers.run_due(now)
            due = sorted((due, order, number) for number, (due, _, order, _) in model.items() if due <= now)
            for _, _, number in due:
                expected.append(number)
                entry = model[number]
                if entry[1]:
                    entry[0], entry[2] = now + entry[1], numbers
                    numbers += 1
                else:
                    del model[number]
        timers.check_invariants()
        assert called == expected
        assert len(timers) == len(model)
        assert timers.next_due() <= min((entry[0] for entry in model.values()), default=math.inf)
