"""The size of an elastic cluster: demand and supply in, orders out. Pure: no batch system, no clock.

    demand: jobs by shape, with their seconds ----------.
    supply: pieces that wait, start, run, end ----------|--> plan() --> by kind: sizes to submit, pieces to cancel
    limits: min, max, backlog, what a piece offers -----'          '--> shapes that no kind can ever run

Each shape is for the first kind that can run its jobs; what is beyond the kind's `most` is for the next one. A kind
with GPUs is not started for jobs without, if another one can run them. All sizes are in slots: a job that needs half of
a piece takes half of the piece's slots.

    wanted = min(jobs, most, seconds of work / (3 x seconds from a piece's start to its worker's hello))

While durations are unknown, the pieces that are there may double. Only pieces that wait in the queue are cancelled;
those that run end themselves (`--idle`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from cw.elastic.failures import Failures
from cw.elastic.offer import Offer, jobs_at_once, lacks
from cw.needs import ONE_CPU, Needs

STARTS = 3.0
"""A new slot should have work for this many times the seconds that it takes to come. More: fewer slots, longer runs.
Less: slots that come when the work is done."""

EXCESS_SECONDS = 15.0
"""Pieces that wait and are not wanted are cancelled after this time (seconds). Longer: they may start for nothing.
Shorter: a pause between two batches costs the place in the queue."""


class Demand(NamedTuple):
    """The open jobs of one shape."""

    waiting: int
    running: int = 0
    seconds: float | None = None
    """Duration of a job; None: unknown."""
    needs: tuple[Needs, ...] = (ONE_CPU,)
    """Alternatives, the first preferred."""
    min_time: float = 0.0
    """Least seconds that a piece must have left when such a job starts."""
    python: tuple[int, int] | None = None
    """Python version that the workers must have; None: any."""


class Stage(Enum):
    """Stage in the life of a piece."""

    WAITING = "waiting"
    """Waits in the batch system's queue."""
    STARTING = "starting"
    """Has started; its worker has not joined yet."""
    RUNNING = "running"
    """Its worker has joined."""
    ENDING = "ending"
    """Takes no jobs any more: drains, or is coming to its end."""


class Piece(NamedTuple):
    """A piece of the cluster: one job of the batch system, with one worker."""

    ident: int
    slots: int
    stage: Stage
    stays: bool = False
    """True if it was submitted for `least`: it does not end when it is idle."""


class Trend(NamedTuple):
    """What a plan must remember for the next one."""

    waiting: int = 0
    """Least number of jobs that waited since it was last less."""
    since: float = 0.0
    excess_since: float | None = None
    """Time since which more pieces wait than are wanted."""


class Supply(NamedTuple):
    """The pieces of one kind."""

    pieces: Sequence[Piece] = ()
    failures: Failures = Failures()
    trend: Trend = Trend()
    start_seconds: float = 10.0
    """Seconds from the start of a piece to its worker's hello, as measured."""

    def slots(self, *stages: Stage) -> int:
        """Return the number of slots of the pieces in one of these stages; in any, if none is given."""
        return sum(piece.slots for piece in self.pieces if not stages or piece.stage in stages)


class Limits(NamedTuple):
    """What a user allows for one kind, in slots."""

    offer: Offer
    """What a whole piece has; its slots are the size of a piece."""
    most: int
    least: int = 0
    backlog: int = 4
    """Most pieces that wait in the queue at a time. (Those for `least` are submitted at once.)"""
    is_whole: bool = False
    """True if there are only whole pieces: whole nodes, or pieces with devices."""


class Order(NamedTuple):
    """What is to be done for one kind."""

    wanted: int
    """Slots that should be there."""
    submit: list[tuple[int, bool]]
    """Pieces to submit: slots of each, and whether it stays when it is idle."""
    cancel: list[int]
    """Pieces to cancel, all of which wait."""
    trend: Trend


class Refusal(NamedTuple):
    """A shape that no kind can ever run: it counts as no demand."""

    demand: Demand
    why: str


class Plan(NamedTuple):
    """Answer of `plan`."""

    orders: dict[str, Order]
    """By kind."""
    refused: list[Refusal]


class _Load(NamedTuple):
    """Jobs of one shape that a kind should run."""

    demand: Demand
    at_once: int
    """Number of them that a whole piece runs at a time."""

    def slots(self, jobs: int, offer: Offer) -> int:
        """Return the slots that so many of the jobs take."""
        return math.ceil(jobs * offer.slots / self.at_once)


def plan(
    demand: Sequence[Demand], supply: Mapping[str, Supply], limits: Mapping[str, Limits], now: float
) -> Plan:
    """Decide which pieces are submitted and cancelled. `supply`, `limits`: by kind, the first one preferred."""
    loads, refused = _share_out(demand, supply, limits)
    orders = {kind: _order(loads[kind], supply.get(kind, Supply()), limits[kind], now) for kind in limits}
    return Plan(orders, refused)


def _share_out(
    demand: Sequence[Demand], supply: Mapping[str, Supply], limits: Mapping[str, Limits]
) -> tuple[dict[str, list[_Load]], list[Refusal]]:
    """Share the jobs out to the kinds."""
    loads: dict[str, list[_Load]] = {kind: [] for kind in limits}
    room = {kind: limit.most for kind, limit in limits.items()}
    refused = []
    for each in demand:
        at_once = _candidates(each, limits)
        if not at_once:
            if each.waiting:
                refused.append(Refusal(each, _why_never(each, limits)))
            continue
        open_kinds = [kind for kind in at_once if not supply.get(kind, Supply()).failures.is_paused]
        left = each
        for kind in open_kinds:
            slots = limits[kind].offer.slots
            jobs = min(left.waiting + left.running, max(0, room[kind]) * at_once[kind] // slots)
            running = min(jobs, left.running)
            if jobs:
                part = left._replace(running=running, waiting=jobs - running)
                loads[kind].append(_Load(part, at_once[kind]))
                room[kind] -= math.ceil(jobs * slots / at_once[kind])
                left = left._replace(running=left.running - running, waiting=left.waiting - part.waiting)
        if left.waiting + left.running:
            kind = (open_kinds or list(at_once))[0]
            loads[kind].append(_Load(left, at_once[kind]))
    return loads, refused


def _candidates(demand: Demand, limits: Mapping[str, Limits]) -> dict[str, int]:
    """Return the kinds that can run these jobs, the best first, with the number of jobs that a piece runs at a time."""
    found: dict[str, int] = {}
    for needs in demand.needs:
        fitting = {kind: jobs_at_once(needs, limit.offer) for kind, limit in limits.items()}
        fitting = {
            kind: number
            for kind, number in fitting.items()
            if number and _is_in_time(demand, limits[kind].offer) and _fits_most(number, limits[kind])
        }
        plain = {
            kind: number for kind, number in fitting.items() if needs.gpus or not limits[kind].offer.gpus
        }
        for kind, number in (plain or fitting).items():
            found.setdefault(kind, number)
    return found


def _is_in_time(demand: Demand, offer: Offer) -> bool:
    """True if its pieces last as long as the jobs need, in the right version of Python."""
    return demand.min_time <= offer.seconds and (
        demand.python is None or offer.python is None or demand.python == offer.python
    )


def _fits_most(at_once: int, limit: Limits) -> bool:
    """True if one such job fits into `most` slots."""
    return math.ceil(limit.offer.slots / at_once) <= max(limit.most, 0)


def _why_never(demand: Demand, limits: Mapping[str, Limits]) -> str:
    """Say why no kind can run these jobs, by the alternative that is preferred."""
    told = []
    for kind, limit in limits.items():
        offer = limit.offer
        missing = lacks(demand.needs[0], offer)
        if not missing and demand.min_time > offer.seconds:
            missing = f"needs {demand.min_time:g} s, and its time limit is {offer.seconds:g} s (--time)"
        if not missing and not _is_in_time(demand, offer):
            pythons = [".".join(map(str, version or ())) for version in (demand.python, offer.python)]
            missing = f"needs Python {pythons[0]}, and it has {pythons[1]}"
        piece = f"a piece of the kind {kind!r}" if kind else "a piece"
        told.append(f"{piece}: the job {missing or f'needs more slots than {limit.most} (--max)'}")
    return "; ".join(told)


def _order(loads: Sequence[_Load], supply: Supply, limits: Limits, now: float) -> Order:
    trend = _follow(supply.trend, sum(load.demand.waiting for load in loads), now)
    wanted = max(limits.least, min(limits.most, _wanted(loads, supply, limits, trend, now)))
    there = supply.slots(Stage.WAITING, Stage.STARTING, Stage.RUNNING)
    trend = trend._replace(excess_since=_excess_since(supply, wanted, now))
    cancel = _cancelled(supply, wanted, limits, trend, now)
    if cancel:
        return Order(wanted, [], cancel, trend)
    missing = min(wanted - there, limits.most - supply.slots())
    return Order(wanted, _submitted(missing, loads, supply, limits, now), [], trend)


def _follow(trend: Trend, waiting: int, now: float) -> Trend:
    """Note since when no fewer jobs wait."""
    if not waiting or waiting < trend.waiting or not trend.waiting:
        return trend._replace(waiting=waiting, since=now)
    return trend


def _wanted(loads: Sequence[_Load], supply: Supply, limits: Limits, trend: Trend, now: float) -> int:
    """Return the number of slots that the jobs want, before `least` and `most`."""
    offer = limits.offer
    running = supply.slots(Stage.RUNNING)
    waiting = sum(load.slots(load.demand.waiting, offer) for load in loads)
    if not waiting:
        return min(running, sum(load.slots(load.demand.running, offer) for load in loads))
    horizon = STARTS * max(supply.start_seconds, 0.1)
    known = [load for load in loads if load.demand.seconds is not None]
    unknown = [load for load in loads if load.demand.seconds is None]
    widest = max(load.slots(1, offer) for load in loads if load.demand.waiting)
    all_known, work = _sum(known, offer)
    all_unknown, _ = _sum(unknown, offer)
    doubled = min(all_unknown, max(offer.slots, 2 * running))
    wanted = max(min(all_known, math.ceil(work / horizon)) + doubled, widest)
    if now - trend.since >= horizon:  # jobs that run do not end: what waits needs slots of its own
        _, work = _sum([load._replace(demand=load.demand._replace(running=0)) for load in known], offer)
        wanted = max(wanted, running + max(widest, min(waiting, math.ceil(work / horizon))))
    return min(wanted, running + waiting)


def _sum(loads: Sequence[_Load], offer: Offer) -> tuple[int, float]:
    """Return the slots that all these jobs would take at a time, and their work in seconds of one slot."""
    slots = [load.slots(load.demand.waiting + load.demand.running, offer) for load in loads]
    return sum(slots), sum(
        count * (load.demand.seconds or 0.0) for count, load in zip(slots, loads, strict=True)
    )


def _excess_since(supply: Supply, wanted: int, now: float) -> float | None:
    """Return the time since which a piece waits that is not wanted."""
    there = supply.slots(Stage.WAITING, Stage.STARTING, Stage.RUNNING)
    smallest = min((piece.slots for piece in supply.pieces if piece.stage is Stage.WAITING), default=0)
    if not smallest or there - smallest < wanted:
        return None
    before = supply.trend.excess_since
    return now if before is None else before


def _cancelled(supply: Supply, wanted: int, limits: Limits, trend: Trend, now: float) -> list[int]:
    """Choose waiting pieces to cancel, the newest first: at once above `most`, otherwise after some time."""
    present = supply.slots()
    there = supply.slots(Stage.WAITING, Stage.STARTING, Stage.RUNNING)
    is_lasting = trend.excess_since is not None and now - trend.excess_since >= EXCESS_SECONDS
    chosen = []
    for piece in sorted(supply.pieces, key=lambda piece: (piece.stays, -piece.ident)):
        is_unwanted = is_lasting and there - piece.slots >= wanted
        if piece.stage is Stage.WAITING and (is_unwanted or present > limits.most):
            there -= piece.slots
            present -= piece.slots
            chosen.append(piece.ident)
    return chosen


def _submitted(
    missing: int, loads: Sequence[_Load], supply: Supply, limits: Limits, now: float
) -> list[tuple[int, bool]]:
    """Cut the missing slots into pieces: first those that stay, for `least`; the last piece may be smaller, as long as
    `most` leaves room for a whole one."""
    size = limits.offer.slots
    widest = max((load.slots(1, limits.offer) for load in loads if load.demand.waiting), default=1)
    staying = sum(piece.slots for piece in supply.pieces if piece.stays and piece.stage is not Stage.ENDING)
    waiting = sum(piece.stage is Stage.WAITING for piece in supply.pieces)
    most = supply.failures.most_pieces(now)
    room = limits.most - supply.slots()
    pieces: list[tuple[int, bool]] = []
    while missing > 0 and len(pieces) < most:
        to_stay = limits.least - staying
        if to_stay <= 0 and waiting >= limits.backlog:
            break
        slots = size if limits.is_whole else min(size, max(missing, widest), to_stay if to_stay > 0 else size)
        if slots < size <= room < slots + size:
            slots = size  # the last room for a whole one: small ones there would keep out a job that needs it
        if slots > room:
            break
        pieces.append((slots, to_stay > 0))
        staying += slots if to_stay > 0 else 0
        waiting += to_stay <= 0
        missing -= slots
        room -= slots
    return pieces
