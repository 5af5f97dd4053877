"""Elastic clusters, as users see them: more kinds of pieces, other limits, an end of a pause, their status.

    cw slurm start --max 512            cw slurm add --kind gpu --max 8 --gpus 1
    cw slurm scale --min 2 --max 64     cw slurm resume                            cw slurm status

All of these change the cluster's notes only. Its tender (cw.slurm.tender), beside the master, acts on them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from cw import advice
from cw.elastic.notes import KindNotes
from cw.elastic.plan import Stage
from cw.launch.batch_system import ListedJob
from cw.launch.launcher import LaunchError
from cw.launch.plan import Plan
from cw.slurm import ending, hosting, kinds, submitted, supply
from cw.slurm.submitted import BatchJob, State


class KindStatus(NamedTuple):
    """One kind of pieces of an elastic cluster. Numbers are slots."""

    kind: str
    """Its name; 'workers': the one of the start."""
    least: int
    most: int
    wanted: int
    """Number that the jobs want, within these limits."""
    waiting: int
    """Slots whose pieces wait in the queue."""
    starting: int
    """Those whose pieces have started, and whose workers have not joined yet."""
    running: int
    problem: str
    """Why no pieces are submitted, and what to do; ''."""
    log: str
    """Last lines of the log of the piece that failed last; ''."""
    refused: list[str]
    """Needs of jobs that no kind can ever satisfy. (Told with the first kind.)"""


def statuses(
    state: State, rows: Mapping[int, ListedJob], draining: Mapping[int, Collection[bool]]
) -> list[KindStatus]:
    """Return the status of each elastic kind. `draining`: for each job with connected workers, which of these drain."""
    now = time.time()
    found = supply.look(state, rows, draining, now).pieces
    told = []
    for kind, plan in kinds.elastic(state).items():
        notes = state.kinds.get(kind, KindNotes())
        slots = {
            stage: sum(piece.slots for piece in found.get(kind, []) if piece.stage is stage)
            for stage in Stage
        }
        told.append(
            KindStatus(
                kinds.title(kind),
                plan.least,
                plan.most or 0,
                notes.wanted,
                slots[Stage.WAITING],
                slots[Stage.STARTING],
                slots[Stage.RUNNING],
                kinds.in_words(state, kind, notes, now),
                notes.tail,
                list(notes.refused),
            )
        )
    return told


def add(plan: Plan, kind: str) -> str:
    """Add a kind of pieces to the cluster of the plan's name. Returns a description. Raises LaunchError, ValueError."""
    kinds.check_name(kind)
    plan = plan.on_nodes(State.system.look_at_nodes(plan))
    size = kinds.size_of(plan)
    if (plan.is_whole or plan.gpus) and (plan.most or 0) < size:
        raise ValueError(f"max is {plan.most}, less than the {size} slots of a piece")
    with _existing(plan.name) as state:
        kinds.check_master(state, False)
        if kind in state.plans:
            scale = advice.command("slurm", "scale", "--kind", kind, "--max", str(plan.most), name=state.name)
            raise LaunchError(
                f"the cluster {plan.name!r} has a kind {kind!r} already: `{scale}` changes its limits"
            )
        state.plans[kind] = plan
        state.save()
    return f"pieces of the kind {kind!r} come when jobs need them: {kinds.in_numbers(plan)}"


def resume(name: str, kind: str | None = None) -> str:
    """End the pause of a kind, or of all; also the wait after a failure. Returns a description. Raises LaunchError."""
    with _existing(name) as state:
        chosen = [kind for kind in _chosen(state, kind) if state.kinds.get(kind, KindNotes()).failures.in_a_row
                  or state.kinds.get(kind, KindNotes()).failures.is_paused]  # fmt: skip
        for each in chosen:
            state.kinds[each] = state.kinds[each]._replace(failures=KindNotes().failures, tail="")
        state.save()
    if not chosen:
        return "nothing is paused"
    return f"pieces of {', '.join(map(kinds.title, chosen))} are submitted again when jobs need them"


def limits(
    state: State, kind: str | None, nworkers: int | None, least: int | None, most: int | None
) -> tuple[int, int]:
    """Return the new limits of a kind: those that are given, otherwise as before. Raises TypeError, ValueError."""
    if nworkers is not None:
        if least is not None or most is not None:
            raise ValueError("a number of slots is both limits: leave out min and max, or the number")
        return nworkers, nworkers
    plan = state.plans.get(kinds.plan_name(_key(kind)))
    if most is None and (plan is None or plan.most is None):
        raise ValueError("the cluster is not elastic yet: give max, too")
    before = plan.most if plan is not None else None
    most = before if most is None else most
    least = (plan.least if plan is not None and plan.is_elastic else 0) if least is None else least
    return kinds.check_limits(least, most)


def _key(kind: str | None) -> str:
    """Return the key of a kind by its name for people."""
    return "" if kind in (None, kinds.title("")) else str(kind)


def resize(name: str, kind: str | None, least: int, most: int) -> str:
    """Change the limits of a kind. Running pieces above them finish their jobs and end, those that wait are cancelled.
    Returns a description. Raises LaunchError.
    """
    with _existing(name) as state:
        chosen = _key(kind)
        if kinds.plan_name(chosen) not in state.plans:
            raise LaunchError(_no_such_kind(state, kind))
        kinds.check_master(state, False)
        plan = state.plans[kinds.plan_name(chosen)]
        if not plan.is_elastic:  # its pieces do not end by themselves
            state.jobs = [job._replace(stays=True) if job.role == "workers" else job for job in state.jobs]
            plan = plan._replace(idle=plan.idle or kinds.IDLE_SECONDS, backlog=kinds.BACKLOG)
        state.plans[kinds.plan_name(chosen)] = plan._replace(least=least, most=most, slots=0)
        state.save()
        drained = _above(state, chosen, least, most)
        ending.order_drain(state, drained)
        told = [kinds.in_numbers(state.plans[kinds.plan_name(chosen)]), *(f"{job} drains" for job in drained)]
    return "; ".join(told)


def _above(state: State, kind: str, least: int, most: int) -> list[BatchJob]:
    """Choose whole pieces that are above the limits, and that would not end by themselves in time: the newest."""
    rows = state.rows()
    idents = {job.ident for job in state.jobs}
    there = [
        job
        for job in state.of_role("workers")
        if job.kind == kind
        and job.follows not in idents
        and (job.ident not in rows or rows[job.ident].is_active)
    ]
    running = [job for job in there if job.ident in rows and rows[job.ident].is_running]
    hosted = sum(job.slots for job in hosting.hosts(state) if not kind and job.follows not in idents)
    total, staying = sum(job.slots for job in there), sum(job.slots for job in there if job.stays)
    total, staying = total + hosted, staying + hosted
    chosen = []
    waiting = [job for job in there if job not in running]
    for job in [*reversed(waiting), *reversed(running)]:
        is_above = total - job.slots >= most
        if is_above or (job in running and job.stays and staying - job.slots >= least):
            total -= job.slots
            staying -= job.slots * job.stays
            chosen.append(job)
    return chosen


def _chosen(state: State, kind: str | None) -> list[str]:
    """Return the kinds that a user means: one by its name, or all. Raises LaunchError."""
    there = kinds.elastic(state)
    if kind is not None and kind not in map(kinds.title, there):
        raise LaunchError(_no_such_kind(state, kind))
    return [each for each in there if kind in (None, kinds.title(each))]


def _no_such_kind(state: State, kind: str | None) -> str:
    there = ", ".join(map(kinds.title, kinds.elastic(state))) or "none"
    return f"the cluster {state.name!r} has no elastic kind {kind or 'workers'!r}: it has {there}"


@contextlib.contextmanager
def _existing(name: str) -> Iterator[State]:
    """Hold the lock of a cluster. Raises LaunchError if there is none of that name."""
    if not State.load(name).token:  # (the lock would leave a directory behind)
        start = advice.command("slurm", "start", "--max", "8", name=name)
        raise LaunchError(f"there is no cluster {name!r}: start one with `{start}`")
    with submitted.locked(name) as state:
        if not state.token or state.is_stopping:
            raise LaunchError(f"the cluster {name!r} was stopped just now")
        yield state
