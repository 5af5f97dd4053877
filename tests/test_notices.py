"""Notices about lines that were left out: the first at once, and each line in exactly one."""

from cw.output.notices import NOTICE_SECONDS, Notices


def test_the_first_comes_at_once_and_later_ones_together():
    notices = Notices()
    assert notices.due is None and notices.take(5.0) == ""
    notices.add(1200, 34_000, "[f #1] ", None, 5.0)
    assert notices.due == 5.0
    assert notices.take(5.0) == "[f #1] [… 1,200 lines (34,000 bytes) left out: more than a client is sent]\n"
    assert notices.due is None
    notices.add(1, 2, "[f #2] ", "one cell", 5.1)
    notices.add(2, 3, "[f #2] ", "one cell", 5.2)
    assert notices.due == 5.0 + NOTICE_SECONDS and notices.cell == "one cell"
    assert notices.take(6.0) == "[f #2] [… 3 lines (5 bytes) left out: more than a client is sent]\n"
    notices.add(1, 2, "[f #1] ", "one cell", 6.1)
    notices.add(1, 3, "[g #7] ", "another", 6.2)
    assert notices.take(7.0) == "[… 2 lines (5 bytes) of 2 jobs left out: more than a client is sent]\n"


def test_after_a_pause_it_comes_at_once_again():
    notices = Notices()
    notices.add(1, 2, "[f #1] ", None, 5.0)
    assert notices.take(5.0) == "[f #1] [… 1 line (2 bytes) left out: more than a client is sent]\n"
    notices.add(1, 2, "[f #1] ", None, 9.0)
    assert notices.due == 9.0
