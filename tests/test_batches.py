"""Batches that are cut into what travels whole, and entries that are left out of them."""

import pytest

from cw.net import messages as m
from cw.net.batches import FRAME, split, without
from cw.net.memory import LARGE


def submit(*sizes):
    count = len(sizes)
    return m.Submit(list(range(1, count + 1)), [7] * count, [0] * count, list(map(bytes, sizes)))


@pytest.mark.parametrize(
    "sizes, parts",
    [
        ([], [[]]),
        ([LARGE + 1], [[1]]),
        ([10, LARGE + 1, 10], [[1, 2, 3]]),  # all of it is less than a frame
        ([10, FRAME, 10, 10], [[1], [2], [3, 4]]),
        ([FRAME // 2] * 5, [[1, 2], [3, 4], [5]]),
        ([0] * (FRAME // 32 + 1), [list(range(1, FRAME // 32 + 1)), [FRAME // 32 + 1]]),
    ],
)
def test_each_part_is_one_frame_or_one_large_payload(sizes, parts):
    assert [part.numbers for part in split(submit(*sizes))] == parts


def test_objects_stand_alone_and_what_has_no_payloads_is_cut_by_its_entries():
    objects = m.Objects([1, 1], [1, 2], [0, 0], [(), (1,)], [b"a", b"b"])
    assert [part.numbers for part in split(objects)] == [[1], [2]]
    assert [len(part.dispatches) for part in split(m.Stop([1] * 40_000))] == [FRAME // 8, 40_000 - FRAME // 8]
    assert list(split(m.Depth(7, 1))) == [m.Depth(7, 1)]


def test_entries_are_left_out_by_their_first_number():
    message = submit(1, 2, 3)
    assert without(message, {2, 9}) == (m.Submit([1, 3], [7, 7], [0, 0], [bytes(1), bytes(3)]), [2])
    assert without(message, {9}) == (message, [])
    assert without(message, {1, 2, 3}) == (None, [1, 2, 3])
    assert without(m.Depth(7, 1), {7}) == (None, [7])
    assert without(m.Depth(7, 1), {8}) == (m.Depth(7, 1), [])
