"""Sizes of a cluster's *pieces*: jobs of the batch system that begin and end one by one, each with some of the slots.

    slots wanted, slots of one node  -->  size of a piece  -->  sizes of all pieces, the last one smaller

A piece fits on one node, so that it starts as soon as one node has room for it. Only where there would be too many of
them is a piece larger. Pure: no batch system, no clock.
"""

from __future__ import annotations

import math
from typing import NamedTuple

MOST_PIECES = 64
"""Number of pieces up to which one is no larger than a node, if the user names no size. More: the batch system, which
all users share, has more to schedule. Fewer: a cluster starts and ends less smoothly."""


class NodeShape(NamedTuple):
    """Size of the nodes on which the jobs would run, as the batch system tells it."""

    cpus: int
    """CPUs of one node that jobs may use."""
    memory: int = 0
    """Memory of one node (MB), or 0 if unknown."""
    is_whole: bool = False
    """A job gets whole nodes, whatever it asks for."""


class NodeSlots(NamedTuple):
    """Slots of a cluster for which one node has room."""

    slots: int
    is_whole: bool
    """A job gets whole nodes, whatever it asks for."""
    is_whole_for_all: bool = False
    """So does the master's: this is not by an option for workers alone."""


def slots_of_node(shape: NodeShape, cpus_per_slot: int = 1, memory_per_cpu: int = 0) -> int:
    """Return the number of slots for which a node has room. `memory_per_cpu`: in MB; 0: not named."""
    slots = shape.cpus // max(1, cpus_per_slot)
    if memory_per_cpu and shape.memory:
        slots = min(slots, shape.memory // (memory_per_cpu * max(1, cpus_per_slot)))
    return max(1, slots)


def default_size(slots: int, slots_of_node: int) -> int:
    """Return the size of a piece if the user names none: a node's slots; more where there would be too many pieces."""
    nodes = math.ceil(slots / (slots_of_node * MOST_PIECES))
    return slots_of_node * max(1, nodes)


def divide(slots: int, size: int, slots_of_node: int = 0) -> list[int]:
    """Return the sizes of the pieces; the last one may be smaller. `size`: as the user gave it; 0: the default one.
    `slots_of_node`: 0 if unknown; then all slots are one piece if `size` is 0, too."""
    if not size and slots_of_node:
        size = default_size(slots, slots_of_node)
    if not size or size >= slots:
        return [slots]
    whole, rest = divmod(slots, size)
    return [size] * whole + ([rest] if rest else [])
