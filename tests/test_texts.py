"""Durations and users' texts in a report."""

import pytest

from cw.report import texts


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (-1, "0 s"), (3e-8, "0.03 µs"), (2.5e-6, "2.5 µs"), (0.0012, "1.2 ms"), (0.99999, "1 s"),
        (1, "1 s"), (9.96, "10 s"), (90, "90 s"), (120, "2 min"), (5400, "90 min"), (9000, "2.5 h"), (86400, "24 h"),
        (2e6, "23 d"),
    ],
)  # fmt: skip
def test_durations_have_two_digits_and_the_unit_that_suits_them(seconds, text):
    assert texts.duration(seconds) == text


def test_what_is_no_letter_is_a_sign():
    assert texts.legible("a\x00b\x1b[31m\u202ec\nd") == "a·b·[31m·c ⏎ d"
    assert texts.legible("星 é <b>") == "星 é <b>"
