"""The kinds of pieces of an elastic cluster: names, sizes, limits, and what a piece offers by the user's options.

State.plans: "workers" -> the kind "", others by their names     Plan --> Limits, Offer (cw.elastic)
"""

from __future__ import annotations

import math
import re
import sys
import time
from typing import Any

from cw import advice, program
from cw.elastic.notes import KindNotes
from cw.elastic.offer import Offer
from cw.elastic.plan import Limits
from cw.launch import piece_sizes
from cw.launch.launcher import LaunchError
from cw.launch.options import ClusterOptions
from cw.launch.plan import Plan
from cw.slurm.submitted import State

ROLES = frozenset({"master", "workers"})
"""Names that no kind can have: plans have them."""


IDLE_SECONDS = 120.0
"""Time after which a worker of an elastic cluster with nothing to do ends (seconds), unless the user gives another.
Longer: nodes are held for nothing. Shorter: a short pause of the jobs costs the start of new pieces."""

BACKLOG = 4
"""Pieces that wait in the queue at a time, unless the user says otherwise. More: they hold places in the queue that
all users share. Fewer: the cluster grows slowly."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


def limits_given(options: ClusterOptions, is_kind: bool = False) -> dict[str, Any]:
    """Return the fields of a plan by the options of elastic clusters. `is_kind`: of pieces that are added to one.
    Raises TypeError, ValueError."""
    gpus = check_count("gpus", options.gpus, 1) if options.gpus is not None else 0
    if options.max is None:
        for name in ("min", "backlog"):
            if getattr(options, name) is not None:
                raise ValueError(f"{name} is for an elastic cluster: give max, too")
        return {"gpus": gpus}
    if options.nworkers is not None:
        raise ValueError(
            "a number of slots and max: give min in place of the number, or leave out max if it is fixed"
        )
    if options.isolated:
        raise ValueError("max and isolated: an elastic cluster is of pieces")
    if options.nodes is not None and not is_kind:
        raise ValueError(
            "max and nodes: the first pieces of an elastic cluster are on one node each; cw.slurm.add (in a shell "
            f"`{advice.command('slurm', 'add', '--help')}`) adds others, with nodes for one job"
        )
    if not options.workers:
        raise ValueError("max is for workers, and workers=False (-W) starts none")
    backlog = BACKLOG if options.backlog is None else check_count("backlog", options.backlog, 1)
    least, most = check_limits(options.min or 0, options.max)
    nodes = {} if options.nodes is None else {"job_nodes": check_count("nodes", options.nodes, 2)}
    return {"gpus": gpus, "most": most, "least": least, "backlog": backlog, **nodes}


def check_size(options: ClusterOptions) -> None:
    """Raise ValueError for a kind with several nodes of which a user says the slots, too."""
    if options.nodes is not None and options.piece is not None:
        raise ValueError(
            "nodes and piece: pieces of several nodes run one job at a time; leave out piece (the number of its "
            "processes on a node is sbatch's: --Xworkers --ntasks-per-node=K)"
        )


def check_limits(least: Any, most: Any) -> tuple[int, int]:
    """Return both limits as numbers of slots. Raises TypeError, ValueError."""
    least, most = check_count("min", least, 0), check_count("max", most, 0)
    if least > most:
        raise ValueError(f"min is {least}, more than max, which is {most}")
    return least, most


def check_count(name: str, value: Any, least: int) -> int:
    """Return the value as an int. Raises TypeError, ValueError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int from {least} on, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")
    return value


def check_name(kind: str) -> str:
    """Return the name of a kind. Raises ValueError."""
    if not _NAME.fullmatch(kind) or kind in ROLES:
        raise ValueError(
            f"{kind!r} is no name for a kind: give letters, digits and _ . -, and neither of {', '.join(sorted(ROLES))}"
        )
    return kind


def check_master(state: State, is_started: bool) -> None:
    """Raise LaunchError unless the cluster's own master looks after its pieces."""
    if not (is_started or state.of_role("master") or state.local):
        raise LaunchError(
            "an elastic cluster needs a master of its own, which looks after it: leave out -M (master=False)"
        )


def first_sizes(plan: Plan) -> list[int]:
    """Return the sizes of the pieces that are submitted at the start; for an elastic cluster, those of its minimum."""
    if not plan.is_elastic:
        return plan.pieces(plan.slots)
    size, most = size_of(plan), plan.most or 0
    if (
        0 < plan.least < size <= most < plan.least + size
    ):  # beside a smaller one, a whole one would never have room
        return [size]
    return piece_sizes.divide(plan.least, size) if plan.least else []


def in_numbers(plan: Plan) -> str:
    """Describe an elastic plan: '0 to 512 slots in pieces of 8'."""
    pieces = f"in pieces of {size_of(plan)}" if plan.job_nodes == 1 else f"of {plan.job_nodes} nodes each"
    return f"{plan.least} to {program.count(plan.most or 0, 'slot')} {pieces}"


def elastic(state: State) -> dict[str, Plan]:
    """Return the plans of the cluster's elastic kinds by name, in the order in which they were added."""
    plans = {
        "" if name == "workers" else name: plan for name, plan in state.plans.items() if name != "master"
    }
    return {kind: plan for kind, plan in plans.items() if plan.is_elastic}


def has_elastic_workers(state: State) -> bool:
    """True if the workers of the start come and go with the jobs."""
    return "workers" in state.plans and state.plans["workers"].is_elastic


def plan_name(kind: str) -> str:
    """Return the name under which the plan of a kind is noted."""
    return kind or "workers"


def title(kind: str) -> str:
    """Return a kind's name for people."""
    return kind or "workers"


def size_of(plan: Plan) -> int:
    """Return the number of slots of a whole piece."""
    if plan.job_nodes > 1:
        return 1
    if plan.piece:
        return plan.piece
    if plan.gpus:  # each device has a slot, unless the user gives the size
        return plan.gpus
    most = max(1, plan.slots if plan.most is None else plan.most)
    if not plan.node_slots:
        return 1 if plan.is_elastic else most
    return min(piece_sizes.default_size(most, plan.node_slots), most)


def limits_of(plan: Plan, notes: KindNotes) -> Limits:
    """Return the limits of an elastic kind."""
    offer = offer_of(plan)
    if notes.offer is not None:  # a worker has told what it has; the time limit is the template's
        offer = notes.offer._replace(slots=offer.slots, seconds=offer.seconds)
    is_whole = plan.is_whole or bool(plan.gpus)
    return Limits(offer, plan.most or 0, plan.least, plan.backlog, is_whole)


def fixed_limits(state: State) -> dict[str, Limits]:
    """Return the limits of workers whose number does not change, if the cluster has such, by the name of their kind:
    jobs that they can run bring no pieces of a kind that was added with more than these need."""
    plan = state.plans.get(plan_name(""))
    slots = sum(job.slots for job in state.with_workers() if not job.kind)
    if plan is None or plan.is_elastic or not slots:
        return {}
    return {"": Limits(offer_of(plan), max(slots, size_of(plan)))}


def offer_of(plan: Plan) -> Offer:
    """Return what a whole piece of this kind will have, as far as the user's options say."""
    slots = size_of(plan)
    asked = State.system.asked(plan)
    own = _own_options(plan)
    tasks = plan.node_slots or 1 if plan.job_nodes > 1 else slots  # of one node
    memory = asked.memory_of_piece or asked.memory * tasks
    is_in_image = bool(plan.docker_image or plan.apptainer_image)
    return Offer(
        slots,
        max(slots, own.cpus or tasks * asked.cpus),
        asked.gpus,
        own.memory or memory,
        own.resources,
        own.tags,
        math.inf if asked.seconds is None else asked.seconds,
        None if is_in_image else sys.version_info[:2],
        plan.job_nodes,
    )


def _own_options(plan: Plan) -> Any:
    """Return the worker's own options that say what it has. Raises ValueError."""
    import argparse

    from cw.worker.offer import add_options  # `import cw` must not load workers

    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    add_options(parser)
    try:
        return parser.parse_known_args(plan.program_options("worker"))[0]
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None


def notice(state: State, now: float) -> str:
    """Say in one sentence why no piece comes, for clients whose jobs wait; '' if pieces come."""
    told = []
    for kind, plan in elastic(state).items():
        notes = state.kinds.get(kind, KindNotes())
        if plan.most and (text := in_words(state, kind, notes, now)):
            told.append(text)
    return "; ".join(told)


def in_words(state: State, kind: str, notes: KindNotes, now: float) -> str:
    """Say why no piece of a kind is submitted, and what to do; '' if nothing is wrong."""
    failures = notes.failures
    last = notes.tail.rpartition("\n")[2][:200]
    why = failures.why + (f" (its log ends with: {last})" if last else "")
    if failures.is_paused:
        return (
            f"no more pieces of {title(kind)} are submitted, as {failures.deaths} died soon after their start: {why}; "
            f"`{advice.command('slurm', 'resume', name=state.name)}` goes on"
        )
    if now < failures.until:
        return f"the next piece of {title(kind)} is submitted at {_clock(failures.until)}: {why}"
    return ""


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
