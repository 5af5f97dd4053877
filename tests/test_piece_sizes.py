"""Sizes of pieces: a node's slots, larger where there would be too many, the last one smaller."""

import random

import pytest

from cw.launch.piece_sizes import MOST_PIECES, NodeShape, default_size, divide, slots_of_node


@pytest.mark.parametrize(
    ("slots", "size", "sizes"),
    [(8, 2, [2, 2, 2, 2]), (5, 2, [2, 2, 1]), (3, 8, [3]), (7, 0, [7]), (4, 4, [4]), (3, 1, [1, 1, 1])],
)
def test_the_last_piece_may_be_smaller(slots, size, sizes):
    assert divide(slots, size) == sizes


@pytest.mark.parametrize(
    ("slots", "of_node", "size"),
    # By hand: 64 pieces of 8 have 512 slots; 513 need pieces of two nodes.
    [(1, 16, 16), (512, 8, 8), (513, 8, 16), (1024, 8, 16), (1025, 8, 24), (10_000, 1, 157)],
)
def test_a_piece_is_a_node_until_there_would_be_too_many(slots, of_node, size):
    assert default_size(slots, of_node) == size


def test_a_node_has_room_for_what_its_cpus_and_its_memory_allow():
    node = NodeShape(cpus=16, memory=64_000)
    assert slots_of_node(node) == 16
    assert slots_of_node(node, cpus_per_slot=5) == 3
    assert slots_of_node(node, memory_per_cpu=8000) == 8
    assert slots_of_node(node, cpus_per_slot=2, memory_per_cpu=8000) == 4
    assert slots_of_node(NodeShape(cpus=4), memory_per_cpu=8000) == 4  # its memory is not known
    assert slots_of_node(node, cpus_per_slot=32) == 1  # the batch system refuses that in its own words


def test_pieces_have_all_slots_and_are_not_too_many():
    chance = random.Random(1)
    for _ in range(500):
        slots, of_node = chance.randrange(1, 5000), chance.randrange(1, 200)
        sizes = divide(slots, default_size(slots, of_node))
        assert sum(sizes) == slots and min(sizes) > 0 and len(sizes) <= MOST_PIECES
        assert len(set(sizes[:-1])) <= 1 and sizes[-1] <= sizes[0]
        assert sizes[0] <= of_node or slots > of_node * MOST_PIECES
