"""The tables as plain text."""

from dataclasses import replace

import pytest
from snapshots import sample

from cw.top import once
from cw.top.tables import Cell, Row, Table


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_no_line_is_wider_than_asked_for(width):
    for line in list(once.lines(sample(), width))[3:]:
        assert len(line) <= width, line


def test_all_tables_are_there():
    text = "\n".join(once.lines(sample(), 160, [("workers", "Slurm job 7 waits")]))
    for word in ("slots  9 of 12 busy", "Functions", "simulate", "5 min 30 s", "drains", "#17", "no convergence",
                 "all 12 slots are busy", "silent for 30 s", "Slurm job 7 waits"):  # fmt: skip
        assert word in text, word


def test_the_first_columns_matter_most():
    wide = next(iter(list(once.as_text(_table(), 200))))
    assert wide.split() == ["name", "count", "long", "last"]
    header, row = once.as_text(_table(), 50)
    assert header.split() == ["name", "count", "long"]  # the last one had no room
    assert row == f"  a         7  {'x' * 34}…" and len(row) == 50


def _table():
    cells = (Cell("a"), Cell("7"), Cell(""), Cell("x" * 80), Cell("y" * 20))
    return Table(("name", "count#", "empty", "long", "last"), (Row("1", cells),), "nothing")


def test_an_empty_table_says_so():
    assert list(once.as_text(replace(_table(), rows=()), 80)) == ["  nothing"]
