"""Numbers and times as `cw top` shows them."""

import pytest

from cw.top import texts


@pytest.mark.parametrize(
    "seconds, shown",
    [(None, ""), (0, "0 s"), (0.25, "250 ms"), (2.25, "2.2 s"), (9.96, "10 s"), (45.4, "45 s"), (59.7, "1 min 00 s"),
     (330, "5 min 30 s"), (7500, "2 h 05 min"), (86400 * 3 + 4 * 3600, "3 d 04 h")],
)  # fmt: skip
def test_a_time_has_its_two_largest_units(seconds, shown):
    assert texts.duration(seconds) == shown


@pytest.mark.parametrize(
    "rate, shown",
    [(0, ""), (3.5, "3.5/s"), (12345, "12345/s"), (0.5, "0.5/s"), (0.07, "4.2/min"), (0.001, "3.6/h")],
)
def test_a_slow_rate_is_by_the_minute_or_the_hour(rate, shown):
    assert texts.rate(rate) == shown


def test_a_size_is_in_binary_units():
    assert [texts.size(n) for n in (None, 512 * 2**20, 3 * 2**29)] == ["", "512 MiB", "1.5 GiB"]


def test_a_bar_is_filled_by_eighths_of_a_character():
    assert texts.bar(0, 4) == "    "
    assert texts.bar(0.5, 4) == "██  "
    assert texts.bar(5 / 32, 4) == "▋   "  # five eighths of the first of four
    assert texts.bar(7, 4) == "████"


def test_only_what_is_done_has_a_hundred_per_cent():
    assert texts.progress(0.999, 2).endswith(" 99 %")
    assert texts.progress(1, 2) == "██100 %"


def test_a_sparkline_has_the_mean_of_the_values_that_share_a_column():
    assert texts.sparkline([0, 4, 8], 8, 10) == "▁▅█"
    assert texts.sparkline([0, 0, 8, 8], 8, 2) == "▁█"
    assert texts.sparkline([0, 8], 8, 1) == "▅"
    assert texts.sparkline([], 8, 5) == texts.sparkline([1], 8, 0) == ""
    assert texts.sparkline([0, 0], 0, 5) == "▁▁"  # no slot at all
    assert texts.sparkline([9], 8, 5) == "█"  # more are busy than there are: some drain


def test_what_steers_a_terminal_is_not_shown():
    shown = texts.plain("a\x1b]0;title\x07b\x9b31m\nc\u202ed")
    assert shown.isprintable() and "a" in shown and "d" in shown
    assert texts.plain("x" * 300).endswith("…") and len(texts.plain("x" * 300)) == 200
