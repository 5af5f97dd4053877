"""The figures of a run, against sums by hand."""

import random

import pytest

from cw.report import figures as module
from cw.report.figures import OTHERS, SHOWN, Call, Figures

START = 1.7e9


def call(number, end, seconds, *, function="f", host="node1", failed=False, job=None, key=None):
    return Call(
        function,
        host,
        START + end,
        seconds,
        failed,
        (0, number if job is None else job),
        number if key is None else key,
    )


def summed(*calls):
    figures = Figures()
    for each in calls:
        figures.add(each)
    figures.finish()
    return figures


def test_totals_by_function_and_host():
    figures = summed(
        call(1, 2, 2), call(2, 3, 1, function="g", host="node2"), call(3, 7, 4, host="node2", failed=True)
    )
    assert (figures.totals.durations.count, figures.totals.durations.total, figures.totals.failed) == (
        3,
        7,
        1,
    )
    assert {name: (t.durations.count, t.durations.total) for name, t in figures.functions.items()} == {
        "f": (2, 6),
        "g": (1, 1),
    }
    assert {name: (t.durations.total, t.failed) for name, t in figures.hosts.items()} == {
        "node1": (2, 0),
        "node2": (5, 1),
    }
    assert (figures.begin, figures.end) == (START, START + 7)


def test_calls_of_a_chunk_ran_one_after_the_other():
    # One job of three calls, stored together at its end: one slot, busy for 6 seconds.
    figures = summed(*(call(n, 10 + n / 1e6, 2, job=7, key=n) for n in range(3)), call(9, 11, 1))
    assert figures.timeline.count == 1
    assert max(column.busy for column in figures.bins.columns(1000)) == pytest.approx(1, abs=0.001)
    assert figures.totals.durations.count == 4 and figures.totals.durations.total == 7


def test_a_chunk_whose_process_died_took_its_time_once():
    figures = summed(*(call(n, 10, 2.5, job=7, key=n, failed=True) for n in range(4)))
    assert figures.totals.durations.total == 2.5 and figures.failed == 4


def test_jobs_of_one_number_at_other_times_are_two():
    figures = summed(call(1, 1, 1, job=1, key="a"), call(2, 100, 1, job=1, key="b"))
    assert sum(len(row.bars) for row in figures.timeline.rows(9)) == 2


def test_the_slowest_calls_are_the_slowest():
    rng = random.Random(2)
    calls = [call(n, n, rng.random()) for n in range(500)]
    assert summed(*calls).slowest() == sorted(calls, key=lambda each: -each.seconds)[:SHOWN]


def test_a_call_that_is_done_later_has_not_failed():
    figures = summed(
        call(1, 1, 1, failed=True), call(2, 2, 1, failed=True), call(1, 3, 1, failed=True), call(1, 9, 1)
    )
    assert figures.failed == 1 and [each.key for each in figures.failures()] == [2]
    assert figures.done_after_failure == 1


def test_the_latest_failures_are_shown_and_all_are_counted(monkeypatch):
    monkeypatch.setattr(module, "MOST_FAILURES", 30)
    figures = summed(*(call(n, n, 1, failed=True) for n in range(100)))
    assert figures.failed == 100 and [each.key for each in figures.failures()] == list(
        range(99, 99 - SHOWN, -1)
    )
    assert len(figures._failures) == 30


def test_more_functions_and_hosts_than_a_page_has_room_for_are_summed(monkeypatch):
    monkeypatch.setattr(module, "MOST_FUNCTIONS", 3)
    monkeypatch.setattr(module, "MOST_HOSTS", 2)
    figures = summed(*(call(n, n, 1, function=f"f{n % 10}", host=f"node{n % 5}") for n in range(100)))
    assert {name: totals.durations.count for name, totals in figures.functions.items()} == {
        "f0": 10, "f1": 10, "f2": 10, OTHERS: 70,
    }  # fmt: skip
    assert figures.hosts[OTHERS].durations.count == 60 and figures.totals.durations.count == 100
