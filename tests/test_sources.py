"""Tracebacks of jobs with the source lines that only the client has."""

import linecache

from cw.payloads.sources import with_sources


def known(name, *lines):
    linecache.cache[name] = sum(map(len, lines)), None, [line + "\n" for line in lines], name


def test_a_line_that_the_runner_did_not_have_comes_from_here():
    known("<cell 3>", "def bad(x):", "    return 1 / x")
    text = 'job 1\nTraceback (most recent call last):\n  File "<cell 3>", line 2, in bad\nZeroDivisionError: no\n'
    assert with_sources(text) == text.replace("in bad\n", "in bad\n    return 1 / x\n")


def test_what_is_there_stays_as_it_is():
    known("<cell 3>", "def bad(x):", "    return 1 / x")
    text = '  File "<cell 3>", line 2, in bad\n    what the runner had\n    ^^^^\nZeroDivisionError: no\n'
    assert with_sources(text) == text
    unknown = '  File "<no such cell>", line 2, in bad\n  File "/no/such.py", line 1, in f\nError: File "x", line 1\n'
    assert with_sources(unknown) == unknown
    assert with_sources("") == "" and with_sources("KeyError: 3") == "KeyError: 3"


def test_members_of_a_group_have_their_lines_too():
    known("<cell 3>", "raise it")
    text = '  | ExceptionGroup: two\n  +-+---- 1 ----\n    |   File "<cell 3>", line 1, in f\n    | KeyError: 3\n'
    assert with_sources(text) == text.replace("in f\n", "in f\n    |     raise it\n")
