"""When looks happen: at the time that the last one named, and soon after an event. The clock is played."""

import math
from types import SimpleNamespace

import pytest

from cw.net.timers import Timers
from cw.worker.runners import ticks
from cw.worker.runners.ticks import PERIOD, Ticks


@pytest.fixture
def play(monkeypatch):
    """A clock, the times of the looks, and `due`: what the next looks answer, last one first; then: never."""
    timers = Timers()
    found = SimpleNamespace(now=0.0, looks=[], due=[], timers=timers)
    monkeypatch.setattr(ticks, "time", SimpleNamespace(monotonic=lambda: found.now))

    def look(now):
        found.looks.append(now)
        return found.due.pop() if found.due else math.inf

    def run(until):
        """Let time pass."""
        while (due := timers.next_due()) <= until:
            found.now = due
            timers.run_due(due)
        found.now = until

    loop = SimpleNamespace(call_later=lambda seconds, call: timers.call_later(found.now + seconds, call))
    found.ticks, found.run = Ticks(loop, look), run
    return found


def test_while_nothing_happens_there_are_none(play):
    play.run(1000.0)
    assert play.looks == [] and play.ticks.is_resting and not len(play.timers)


def test_after_an_event_there_is_one_and_no_other_if_nothing_is_due(play):
    play.ticks.resume()
    assert not play.ticks.is_resting
    play.run(1000.0)
    assert play.looks == [PERIOD] and play.ticks.is_resting and not len(play.timers)


def test_the_next_is_when_something_is_due(play):
    play.due = [90.0, 5.0]
    play.ticks.resume()
    play.run(1000.0)
    assert play.looks == [PERIOD, 5.0, 90.0]


def test_what_is_always_due_is_looked_at_no_more_often_than_once_in_a_period(play):
    play.due = [0.0] * 5
    play.ticks.resume()
    play.run(5.5 * PERIOD)
    assert play.looks == pytest.approx([PERIOD * n for n in (1, 2, 3, 4, 5)]) and not play.ticks.is_resting


def test_an_event_before_the_due_time_brings_it_forward_and_leaves_no_second_timer(play):
    play.due = [90.0, 90.0]
    play.ticks.resume()
    play.run(10.0)
    assert play.ticks.is_resting
    play.ticks.resume()
    assert len(play.timers) == 1
    play.run(1000.0)
    assert play.looks == [PERIOD, 10.0 + PERIOD, 90.0]


def test_each_look_has_its_time_and_all_are_made_at_any_of_them(play):
    others = []
    play.ticks.looks.append(lambda now: others.append(now) or (3.0 if now < 3.0 else math.inf))
    play.due = [7.0]
    play.ticks.resume()
    play.run(1000.0)
    assert play.looks == others == [PERIOD, 3.0]
