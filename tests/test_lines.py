"""Whole lines from pieces: fed whole, in parts, beyond the limits, and at random."""

import random

import pytest

from cw.output import lines
from cw.output.lines import Lines


def test_a_line_comes_when_it_is_whole():
    begun = Lines()
    assert begun.feed(17, 1, b"a\nb") == b"a\n"
    assert begun.feed(18, 1, b"other\n") == b"other\n"
    assert begun.feed(17, 2, b"error") == b"" and begun.has(17) and not begun.has(18)
    assert begun.feed(17, 1, b"c\nd\ne") == b"bc\nd\n"
    assert begun.end(17) == [(1, b"e"), (2, b"error")]
    assert begun.end(17) == [] and not begun.has(17)


def test_a_long_line_goes_on_without_its_end_but_not_within_a_character(monkeypatch):
    monkeypatch.setattr(lines, "LINE_BYTES", 10)
    begun = Lines()
    assert begun.feed(1, 1, b"ab" * 5) == b""
    assert begun.feed(1, 1, "\u00e9".encode()[:1]) == b"ababababab"
    assert begun.feed(1, 1, "\u00e9".encode()[1:] + b"\n") == "\u00e9\n".encode()
    for character in "a", "\u00e9", "\u20ac", "\U0001f600":
        data = b"x" * 20 + character.encode()
        for cut in range(20, len(data)):
            assert begun.feed(1, 1, data[:cut]) == b"x" * 20
            begun.check_invariants()
            assert begun.feed(1, 1, data[cut:] + b"\n") == character.encode() + b"\n"
    assert (
        begun.feed(1, 1, b"x" * 20 + b"\xff\xfe\x80\x80\x80\x80") == b"x" * 20 + b"\xff\xfe\x80\x80\x80\x80"
    )


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_and_nothing_grows_without_limit(monkeypatch, seed):
    chance = random.Random(seed)
    monkeypatch.setattr(lines, "LINE_BYTES", 40)
    monkeypatch.setattr(lines, "TOTAL_BYTES", 100)
    begun, put, got = Lines(), {}, {}
    for _ in range(2000):
        key = chance.randrange(8), chance.choice([1, 2])
        if chance.random() < 0.1:
            for stream, rest in begun.end(key[0]):
                got[key[0], stream] = got.get((key[0], stream), b"") + rest
            assert all(got.get(each, b"") == data for each, data in put.items() if each[0] == key[0])
        else:
            data = bytes(chance.choices(b"ab\n\xc3\xa9", (9, 9, 1, 3, 3), k=chance.randrange(1, 60)))
            put[key] = put.get(key, b"") + data
            got[key] = got.get(key, b"") + begun.feed(*key, data)
        begun.check_invariants()
        assert begun.size <= 100 + 3 * len(put)
