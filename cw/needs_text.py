"""What a job needs, and what a worker has of it, in words.

Needs(cpus=8, gpus=5000)      --> "8 CPUs and 0.5 GPU"
WorkerCapacity(slots=4)       --> "4 CPUs and no GPU"    what it has of these
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cw.needs import ONE_CPU, UNITS_PER_GPU, Needs, format_bytes
from cw.requirements import WorkerCapacity


def in_words(choices: Iterable[Needs]) -> str:
    """Return what a job takes, for a sentence; `choices`: its alternatives."""
    return " or ".join(_listed(list(_parts(needs).values())) for needs in choices)


def in_short(choices: Iterable[Needs]) -> str:
    """Return what a job takes, for a table: '8 CPUs, 1 GPU'; `choices`: its alternatives."""
    return " or ".join(", ".join(_parts(needs).values()) for needs in choices)


def has_of(capacity: WorkerCapacity, needs: Needs, dimensions: Sequence[str]) -> str:
    """Return what the worker has in these dimensions (names of options) of what a job needs: '4 CPUs and no GPU'."""
    amounts = dict(capacity.resources)
    found: list[str] = []
    for dimension in dimensions:
        if dimension == "nodes":
            found.append("1 node" if capacity.nodes == 1 else f"room for jobs on {capacity.nodes} nodes only")
        elif dimension == "cpus":
            found.append(_count(capacity.cpus, "CPU"))
        elif dimension == "gpus":
            found.append(_count(len(capacity.gpus), "GPU"))
        elif dimension == "memory":
            found.append(f"{format_bytes(capacity.memory)} of memory")
        elif dimension == "resources":
            lacking = [name for name, amount in needs.resources if amounts.get(name, 0) < amount]
            found += [f"{amounts[name]} of {name}" if name in amounts else f"no {name}" for name in lacking]
        elif dimension == "tags":
            found += [f"no tag {tag}" for tag in needs.tags if tag not in capacity.tags]
    return _listed(found)


def _parts(needs: Needs) -> dict[str, str]:
    """What the job takes, by the names of the options. CPUs are named if they are several, or there is nothing else."""
    found = {"nodes": _count(needs.nodes, "node")} if needs.nodes > 1 else {}
    found["cpus"] = _count(needs.cpus, "CPU")
    if needs.gpus:
        found["gpus"] = _count(needs.gpus / UNITS_PER_GPU, "GPU")
    if needs.memory:
        found["memory"] = f"{format_bytes(needs.memory)} of memory"
    if needs.resources:
        found["resources"] = ", ".join(f"{amount} of {name}" for name, amount in needs.resources)
    if needs.tags:
        found["tags"] = ", ".join(f"tag {tag}" for tag in needs.tags)
    if len(found) > 1 and needs.cpus == ONE_CPU.cpus:
        del found["cpus"]
    return found


def _count(count: float, unit: str) -> str:
    if not count:
        return f"no {unit}"
    return f"{count:g} {unit}{'s' if count > 1 else ''}"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
