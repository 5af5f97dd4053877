"""Durations in a report: quantiles and histograms, against what sorting gives."""

import random

import pytest

from cw.report.durations import BARS, Durations


def counted(*seconds):
    durations = Durations()
    for each in seconds:
        durations.add(each)
    return durations


def test_quantiles_are_those_of_the_sorted_durations_within_2_percent():
    rng = random.Random(5)
    seconds = [rng.lognormvariate(-2, 1.5) for _ in range(5000)]
    durations = counted(*seconds)
    seconds.sort()
    for share in (0.05, 0.5, 0.95, 0.999):
        assert durations.quantile(share) == pytest.approx(seconds[int(share * 5000) - 1], rel=0.02)
    assert durations.quantile(1) == pytest.approx(durations.longest, rel=0.02)
    assert durations.longest == seconds[-1] and durations.total == pytest.approx(sum(seconds))


def test_a_histogram_has_every_call_once_in_bars_without_gaps():
    rng = random.Random(6)
    seconds = [10 ** rng.uniform(-4, 3) for _ in range(1000)]
    bars = counted(*seconds).histogram()
    assert len(bars) <= BARS and sum(count for _, _, count in bars) == 1000
    assert all(before[1] == pytest.approx(after[0]) for before, after in zip(bars, bars[1:], strict=False))
    for lower, upper, count in bars:
        assert abs(count - sum(lower <= each < upper for each in seconds)) <= 1  # (one may lie on the edge)


def test_calls_of_no_measurable_duration_count_too():
    durations = counted(0.0, -1e-9, 0.0)
    assert durations.count == 3 and durations.quantile(0.5) == 0.0
    assert [count for _, _, count in durations.histogram()] == [3]
    assert Durations().histogram() == [] and Durations().quantile(0.5) == 0.0


def test_merged_durations_are_those_of_all_calls():
    both, first = counted(0.5, 2.0, 8.0), counted(0.5, 8.0)
    first.merge(counted(2.0))
    assert first.histogram() == both.histogram() and (first.count, first.total) == (3, 10.5)
