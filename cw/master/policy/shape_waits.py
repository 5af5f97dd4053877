"""Part of the master's policy that says, in words, why jobs wait that need more than one CPU. Pure.

queue, workers, workers that a tender could start ---> never: no worker could run them, and none may come
                                                  '--> later: reserved, or taken by others
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from cw import needs_text
from cw.master.policy.jobs import Queue, Shape, Worker, WorkerKey
from cw.master.policy.to_come import ToCome
from cw.needs import UNITS_PER_GPU, Needs
from cw.observer import text
from cw.requirements import WorkerCapacity

NAMED = 2
"""Most kinds of jobs that are named beside the one that waits first."""


class Best:
    """The worker that lacks least of what a job needs."""

    def __init__(self, where: str, capacity: WorkerCapacity, needs: Needs) -> None:
        self.where = where
        """Its name; '' of one that could be started."""
        self.capacity = capacity
        self.needs = needs
        """What it lacks least of: one of the job's alternatives."""
        self.lacks = capacity.lacks(needs)

    def rank(self) -> tuple[float, ...]:
        """Smaller ranks are better: fewer dimensions lacking, then a larger part of each."""
        parts = [_part_of(self.capacity, self.needs, dimension) for dimension in self.lacks]
        return len(parts), -sum(parts)

    def has(self) -> str:
        """Say what it has of what it lacks."""
        return needs_text.has_of(self.capacity, self.needs, self.lacks)


def _part_of(capacity: WorkerCapacity, needs: Needs, dimension: str) -> float:
    """The part that the worker has of what is needed: from 0.0 to 1.0."""
    if dimension == "nodes":
        return min(capacity.nodes, needs.nodes) / max(capacity.nodes, needs.nodes)
    if dimension == "cpus":
        return capacity.cpus / needs.cpus
    if dimension == "gpus":
        return len(capacity.gpus) * UNITS_PER_GPU / needs.gpus
    if dimension == "memory":
        return capacity.memory / needs.memory
    if dimension == "tags":
        return len({*needs.tags} & {*capacity.tags}) / len(needs.tags)
    amounts = dict(capacity.resources)
    return sum(min(1.0, amounts.get(name, 0) / amount) for name, amount in needs.resources) / len(
        needs.resources
    )


def best_of(
    shape: Shape, workers: Iterable[Worker], to_come: ToCome, host_of: Callable[[WorkerKey], str]
) -> Best:
    """Return the worker, of these and those that could be started, that lacks least. There must be one."""
    known = [(host_of(worker.key), worker.capacity) for worker in workers]
    known += [("", kind.capacity) for kind in to_come.kinds if kind.python == shape.python]
    return min((Best(*one, needs) for one in known for needs in shape.choices), key=Best.rank)


def never(shape: Shape, best: Best, workers: int) -> str:
    """Say that no worker could ever run such jobs."""
    wanted = needs_text.in_words(shape.choices)
    if not best.where:
        return (
            f"the next job needs {wanted}, and the best worker that this cluster can start has {best.has()}"
        )
    which = "the only worker" if workers == 1 else "the best worker"
    return f"the next job needs {wanted}; {which}, {best.where}, has {best.has()}"


def others(shapes: Sequence[Shape]) -> str:
    """Say that no worker could run such jobs, either: what follows the words of `never`."""
    named = " or ".join(dict.fromkeys(needs_text.in_words(shape.choices) for shape in shapes[:NAMED]))
    rest = len(shapes) - NAMED
    return f"; nor can any run those that need {named}" + (f", and {rest} more kinds" if rest > 0 else "")


def could_come(shape: Shape, min_time: float, to_come: ToCome) -> bool:
    """True if a worker could be started that could run such jobs, for this long."""
    return any(
        kind.python == shape.python
        and min_time <= (math.inf if kind.seconds is None else kind.seconds)
        and not all(kind.capacity.lacks(needs) for needs in shape.choices)
        for kind in to_come.kinds
    )


def reserved(queue: Queue, now: float, host_of: Callable[[WorkerKey], str]) -> str:
    """Say that a worker keeps room for the queue's next job, and when it will have it; '' if that is not so."""
    kept = queue.pool.reserved.get(queue.session)
    reservation = None if kept is None else kept.worker.reservation
    if kept is None or reservation is None or kept.job.queue is not queue:
        return ""
    left = reservation.room_at - now
    when = (
        f"free in about {text.seconds(max(1.0, left))}"
        if left < math.inf
        else "free when jobs there have ended"
    )
    wanted = needs_text.in_words([reservation.needs])
    return f"the next job waits for {wanted} on {host_of(kept.worker.key)}, reserved; {when}"
