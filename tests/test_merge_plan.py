"""Which segments of a store are merged: the plan alone."""

import random

import pytest

from cw.store import merge_plan
from cw.store.merge_plan import Candidate


def plan(*segments):
    """Groups of (name, size, scheme, settled, results, superseded)."""
    return merge_plan.groups([Candidate(*each) for each in segments])


def test_settled_segments_that_follow_each_other_are_one_group():
    assert plan(("a", 1, "x", True), ("b", 1, "x", True), ("c", 1, "x", True)) == [["a", "b", "c"]]
    assert plan(("a", 1, "x", True)) == [] and plan() == []


def test_no_segment_that_may_be_written_is_between_those_of_a_group():
    segments = [
        ("a", 1, "x", True),
        ("b", 1, "x", True),
        ("c", 1, "x", False),
        ("d", 1, "x", True),
        ("e", 1, "x", True),
    ]
    assert plan(*segments) == [["a", "b"], ["d", "e"]]
    segments[2] = ("c", 1, None, False)  # nobody knows of which scheme it is
    assert plan(*segments) == [["a", "b"], ["d", "e"]]
    segments[2] = ("c", 1, "y", False)  # its keys are none of theirs
    assert plan(*segments) == [["a", "b", "d", "e"]]


def test_a_segment_alone_is_written_again_if_it_becomes_smaller():
    assert plan(("a", 1, "x", True, 10, 1)) == [["a"]]
    huge = merge_plan.MOST_BYTES + 1
    assert plan(("a", huge, "x", True, 100, 9)) == [] and plan(("a", huge, "x", True, 100, 10)) == [["a"]]


def test_what_is_large_enough_is_left():
    huge = merge_plan.MOST_BYTES + 1
    small = [(name, 1, "x", True) for name in "bcd"]
    assert plan(("a", huge, "x", True), *small[:2], ("e", huge, "x", True), small[2]) == [["b", "c"]]
    half = merge_plan.MOST_BYTES * 2 // 3
    assert plan(*((name, half, "x", True) for name in "abcde")) == [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize("seed", range(20))
def test_any_store_is_planned_so_that_a_second_plan_has_nothing_to_do(seed):
    chance = random.Random(seed)
    sizes = [10, merge_plan.MOST_BYTES // 3, merge_plan.MOST_BYTES + 5]
    segments = [
        Candidate(
            f"{n:03}", chance.choice(sizes), chance.choice(["x", "x", "y", None]), chance.random() < 0.8, 9
        )
        for n in range(60)
    ]
    by_name = {each.name: each for each in segments}
    groups = merge_plan.groups(segments)
    names = [name for group in groups for name in group]
    assert len(names) == len(set(names))
    for group in groups:
        (scheme,) = {by_name[name].scheme for name in group}
        between = [each for each in segments if group[0] <= each.name <= group[-1]]
        assert scheme is not None and all(by_name[name].is_settled for name in group)
        assert [each.name for each in between if each.scheme in (scheme, None)] == group
        assert sum(by_name[name].size for name in group[:-1]) <= 2 * merge_plan.MOST_BYTES
    merged = {
        group[0]: Candidate(
            group[0] + "~", sum(by_name[n].size for n in group), by_name[group[0]].scheme, True, 9
        )
        for group in groups
    }
    left = [merged.get(each.name, each) for each in segments if each.name in merged or each.name not in names]
    assert merge_plan.groups(left) == []
