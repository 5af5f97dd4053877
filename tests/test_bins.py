"""Sums by time: hand-computed columns, pauses that are left out, and bounded memory."""

import random

import pytest

from cw.report.bins import MOST, Axis, Bins

DAY = 86400.0
START = 1.7e9  # a time of our days: floats are coarse there


def filled(*calls, start=START):
    """Calls as (begin, end), in seconds after the start."""
    bins = Bins()
    for begin, end in calls:
        bins.add_interval(start + begin, start + end)
        bins.add_ends(start + end, False)
    return bins


def test_columns_are_the_calls_that_ended_and_the_slots_that_were_busy():
    # Two slots: one busy from 0 to 4, the other from 1 to 2 and from 2 to 3. In columns of one second:
    bins = filled((0, 4), (1, 2), (2, 3))
    columns = bins.columns(4)
    assert [column.seconds for column in columns] == pytest.approx([1] * 4, abs=0.02)
    assert [column.busy for column in columns] == pytest.approx([1, 2, 2, 1], abs=0.03)
    assert sum(column.done for column in columns) == 3 and not any(column.failed for column in columns)
    assert sum(column.busy * column.seconds for column in columns) == pytest.approx(6)


def test_failed_calls_are_counted_by_themselves():
    bins = filled((0, 1))
    bins.add_ends(START + 1, True, 3)
    columns = bins.columns(1)
    assert [(column.done, column.failed) for column in columns] == [(1, 3)]


def test_a_pause_is_left_out_of_the_axis_and_reported():
    # A run of 60 s that was resumed a day later: the axis has two minutes.
    bins = filled(*((n, n + 1) for n in range(60)), *((DAY + n, DAY + n + 1) for n in range(60)))
    axis = Axis(bins)
    ((where, long),) = axis.pauses()
    assert where == pytest.approx(60, abs=1) and long == pytest.approx(DAY - 60, abs=1)
    assert axis.seconds == pytest.approx(120, abs=2)
    assert axis.x(START) == pytest.approx(0, abs=1) and axis.x(START + DAY + 30) == pytest.approx(90, abs=1)
    assert axis.x(START + DAY / 2) == pytest.approx(60, abs=1)  # in the pause: where it is drawn
    assert axis.x(START + 9 * DAY) == axis.seconds
    assert [column.busy for column in bins.columns(12)] == pytest.approx([1] * 12, abs=0.1)


def test_a_short_wait_stays_on_the_axis():
    assert Axis(filled(*((n, n + 1) for n in range(50)), (53, 60))).pauses() == []


def test_no_sum_is_lost_and_memory_is_bounded_whatever_is_added():
    rng = random.Random(1)
    bins, busy = Bins(), 0.0
    now = START
    for _ in range(3000):
        now += rng.expovariate(1) * 10 ** rng.uniform(-4, 4)
        seconds = 10 ** rng.uniform(-6, 4.5)
        bins.add_interval(now - seconds, now)
        bins.add_ends(now, rng.random() < 0.1)
        busy += seconds
    columns = bins.columns(100)
    assert len(bins._bins) <= MOST and len(columns) <= 100
    assert sum(column.done + column.failed for column in columns) == 3000
    assert sum(column.busy * column.seconds for column in columns) == pytest.approx(busy)


def test_nothing_has_an_empty_axis():
    assert Bins().columns(10) == [] and Axis(Bins()).seconds == 0
