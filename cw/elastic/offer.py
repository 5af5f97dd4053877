"""What one piece of a kind offers, and how many jobs of one shape run in it at a time. Pure.

options(gpus=1, memory="8GB") --> Needs --.
                                          |--> jobs_at_once(): 0 if it never can, and lacks() says why
the kind's template --> Offer ------------'
"""

from __future__ import annotations

import math
from typing import NamedTuple

from cw.needs import UNITS_PER_GPU, Needs, format_bytes
from cw.requirements import WorkerCapacity


class Offer(NamedTuple):
    """What a whole piece offers to its jobs."""

    slots: int
    cpus: int = 0
    """0: one for each slot."""
    gpus: int = 0
    """Whole devices."""
    memory: int = 0
    """Bytes; 0: unknown, and no job is refused for its memory."""
    resources: tuple[tuple[str, int], ...] = ()
    tags: tuple[str, ...] = ()
    seconds: float = math.inf
    """Time limit of the piece."""
    python: tuple[int, int] | None = None
    """Python version of its worker; None: unknown, and no job is refused for it."""
    nodes: int = 1
    """Machines, all for one job at a time; all else is what each has."""

    def capacity(self) -> WorkerCapacity:
        """Return the capacity that its worker would have."""
        gpus = tuple(map(str, range(self.gpus)))
        return WorkerCapacity(
            self.slots, self.cpus, self.memory, gpus, self.resources, self.tags, nodes=self.nodes
        )


def jobs_at_once(needs: Needs, offer: Offer) -> int:
    """Return the number of jobs with these needs that one piece runs at a time; 0 if it can never run one."""
    if needs.nodes != offer.nodes or not set(needs.tags) <= set(offer.tags):
        return 0
    amounts = dict(offer.resources)
    numbers = [offer.slots, (offer.cpus or offer.slots) // needs.cpus]
    numbers += [amounts.get(name, 0) // amount for name, amount in needs.resources]
    if needs.memory and offer.memory:
        numbers.append(offer.memory // needs.memory)
    if needs.gpus >= UNITS_PER_GPU:
        numbers.append(offer.gpus * UNITS_PER_GPU // needs.gpus)
    elif needs.gpus:  # (a part is of one device)
        numbers.append(offer.gpus * (UNITS_PER_GPU // needs.gpus))
    return min(numbers)


def lacks(needs: Needs, offer: Offer) -> str:
    """Say what a piece lacks for a job with these needs: 'needs 8 CPUs, and it has 4'; '' if it lacks nothing."""
    amounts = dict(offer.resources)
    cpus = offer.cpus or offer.slots
    gpus = needs.gpus / UNITS_PER_GPU
    missing = [tag for tag in needs.tags if tag not in offer.tags]
    pairs = [
        (needs.nodes != offer.nodes, f"{needs.nodes} node{'s' * (needs.nodes > 1)}", f"{offer.nodes}"),
        (needs.cpus > cpus, f"{needs.cpus} CPUs", f"{cpus}"),
        (needs.gpus > offer.gpus * UNITS_PER_GPU, f"{gpus:g} GPU{'s' * (gpus > 1)}", f"{offer.gpus}"),
        (0 < offer.memory < needs.memory, format_bytes(needs.memory), format_bytes(offer.memory)),
        *((amounts.get(name, 0) < amount, f"{amount} of {name!r}", f"{amounts.get(name, 0)}")
          for name, amount in needs.resources),
    ]  # fmt: skip
    told = [f"needs {needed}, and it has {there}" for is_short, needed, there in pairs if is_short]
    told += [f"needs the tag {tag!r}, which it does not have" for tag in missing]
    return "; ".join(told)
