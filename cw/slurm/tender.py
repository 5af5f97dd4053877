"""The tender of an elastic cluster: looks after its pieces while its master lives, in the master's sidecar.

    master: demand, workers ----.
    batch system: its queue ----|--> cw.elastic.plan --> submit pieces | cancel those that wait
    notes: plans, failures -----'                    --> the master: which workers may come, and why none comes

What it knows is in the cluster's notes, so that another one goes on when the master moves. The plan is made and pieces
are cancelled under the lock of the notes; pieces are submitted after that.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from cw import program
from cw.elastic import plan as elastic_plan
from cw.elastic.failures import QUICK_SECONDS, Failures
from cw.elastic.notes import KindNotes
from cw.elastic.offer import Offer
from cw.elastic.plan import Demand, Limits, Order, Piece, Plan, Stage, Supply, Trend
from cw.events import EventLogger
from cw.launch import status_client
from cw.launch.batch_system import ListedJob
from cw.launch.launcher import LaunchError
from cw.location import Location
from cw.net import address
from cw.net import messages as m
from cw.observer.demand import Demand as Answer
from cw.observer.demand import PossibleWorker, WorkerSupply
from cw.slurm import job_logs, kinds, pieces, submitted, supply
from cw.slurm.submitted import State
from cw.slurm.supply import Ended, Found, Outcome

logger = EventLogger("cw.slurm.sidecar")

LOOK_SECONDS = 2.0
"""Time between two looks (seconds). Longer: pieces come later. Shorter: more questions to the master."""

RETURN_SECONDS = 10.0
"""Time for workers to come back to a master that was restarted (seconds). Shorter: pieces are submitted in place of
those that are only about to return."""

PROMISE_SECONDS = 60.0
"""Time for which the master relies on what it was last told (seconds). Longer: jobs wait for a tender that is gone.
Shorter: one look that takes long lets clients hear that no worker can come."""

PROBLEM_LENGTH = 1000
"""Most characters about what goes wrong with the cluster's jobs that programs are told. More: they hide all else."""

TAIL_LINES = 5
"""Lines of a failed piece's log that are kept."""


class Tender:
    """Looks after the elastic kinds of one cluster, if it has any. Tells the master, too, what goes wrong with jobs of
    any cluster: programs whose jobs wait hear it."""

    def __init__(self, name: str, token: str) -> None:
        self._name = name
        self._token = token
        self._trends: dict[str, Trend] = {}
        self._unmeasured: dict[int, float] = {}  # when pieces have joined whose start is not known yet
        self._master = ""  # its start id
        self._quiet_until = 0.0
        self.hindrance = ""
        """Why it could not look last time; ''."""

    def look(self) -> None:
        """Look once, and do what is due. Raises LaunchError if the batch system does not answer."""
        state = State.load(self._name)
        is_elastic = bool(kinds.elastic(state))
        if state.token != self._token or state.is_stopping or not (is_elastic or state.problems):
            return
        answer = status_client.ask_demand(address.find_cluster(self._name), self._to_come(state))
        if not is_elastic or answer is None or answer.settling or self._is_quiet(answer, state):
            return
        state.rows()  # (asks the batch system if its last answer is old, while others may have the lock)
        with submitted.locked(self._name) as state:
            if state.token != self._token or state.is_stopping:
                return
            orders = self._decide(state, answer, time.time())
        for kind, order in orders.items():
            self._submit(kind, order)

    def _is_quiet(self, answer: Answer, state: State) -> bool:
        """True while workers may come back to a new master."""
        now = time.monotonic()
        if answer.ident != self._master:
            self._master = answer.ident
            self._quiet_until = now + RETURN_SECONDS * any(job.joined for job in state.jobs)
        return now < self._quiet_until

    # --- under the lock ---

    def _decide(self, state: State, answer: Answer, now: float) -> dict[str, Order]:
        """Make the plan, note what has changed, and cancel what is to be cancelled. Returns the orders by kind."""
        before = dict(state.kinds), list(state.jobs)
        plans, rows = kinds.elastic(state), state.rows()
        for kind in plans:
            state.kinds.setdefault(kind, KindNotes())
        workers = _workers_by_job(answer)
        found = supply.look(
            state,
            rows,
            {job: [worker.is_draining for worker in those] for job, those in workers.items()},
            now,
        )
        state.jobs = found.jobs
        self._note(state, found, rows, workers, now)
        limits = kinds.fixed_limits(state)
        limits |= {kind: kinds.limits_of(plan, state.kinds[kind]) for kind, plan in plans.items()}
        made = self._plan(state, answer, found, limits, now)
        orders = {kind: order for kind, order in made.orders.items() if kind in plans}
        for kind, order in orders.items():
            self._trends[kind] = order.trend
            state.kinds[kind] = state.kinds[kind]._replace(wanted=order.wanted)
        refused = tuple(each.why for each in made.refused)
        for place, kind in enumerate(plans):  # those of all kinds are shown once
            state.kinds[kind] = state.kinds[kind]._replace(refused=() if place else refused)
        if before != (state.kinds, state.jobs):
            state.save()
        self._cancel(state, [ident for order in orders.values() for ident in order.cancel])
        return orders

    def _plan(
        self, state: State, answer: Answer, found: Found, limits: Mapping[str, Limits], now: float
    ) -> Plan:
        demand = [
            Demand(each.waiting, each.running, each.mean_seconds, each.needs, each.min_time, each.python)
            for each in answer.shapes
        ]
        there = {}
        for kind in limits:
            notes = state.kinds.get(kind, KindNotes())
            trend = self._trends.get(kind, Trend())
            there[kind] = Supply(found.pieces.get(kind, []), notes.failures, trend, notes.start_seconds)
        return elastic_plan.plan(demand, there, limits, now)

    def _note(
        self,
        state: State,
        found: Found,
        rows: Mapping[int, ListedJob],
        workers: Mapping[int, list[WorkerSupply]],
        now: float,
    ) -> None:
        """Note what the pieces have shown: failures, the time that a start takes, what a worker has."""
        for job in found.joined:
            self._unmeasured[job.ident] = now - max(worker.age for worker in workers[job.ident])
        for job in found.jobs:
            joined, row = self._unmeasured.get(job.ident), rows.get(job.ident)
            if joined is None or job.kind not in state.kinds or not (row is None or row.is_running):
                continue
            # (One that is not listed has started since its submission.)
            began = job.at if row is None else row.start
            state.kinds[job.kind] = state.kinds[job.kind].on_joined(joined - began)
            del self._unmeasured[job.ident]
        for kind, those in found.pieces.items():
            if kind in state.kinds:
                _note_workers(state, kind, those, workers, now)
        for ended in found.ended:
            self._unmeasured.pop(ended.job.ident, None)
            if ended.job.kind in state.kinds:
                _note_end(state, ended, now)

    def _cancel(self, state: State, idents: list[int]) -> None:
        if idents:
            chosen = [job for job in state.jobs if job.ident in idents or job.follows in idents]
            state.cancel(chosen)
            logger.info(
                "sidecar.pieces_cancelled",
                "%s not wanted any more, and cancelled",
                program.count(len(idents), "waiting piece is", "waiting pieces are"),
            )

    # --- without the lock ---

    def _submit(self, kind: str, order: Order) -> None:
        for slots, stays in order.submit:
            try:
                job = pieces.submit_pieces(self._name, self._token, [slots], kind, stays)[0]
            except LaunchError as error:
                logger.warning(
                    "sidecar.piece_refused", "a piece of %s is refused: %s", kinds.title(kind), error
                )
                self._note_refusal(kind, str(error))
                return
            logger.info("sidecar.piece_submitted", "%s is submitted: %s", job, program.count(slots, "slot"))

    def _note_refusal(self, kind: str, why: str) -> None:
        with submitted.locked(self._name) as state:
            if state.token == self._token and kind in state.kinds and not state.is_stopping:
                notes = state.kinds[kind]
                state.kinds[kind] = notes._replace(failures=notes.failures.on_refused(why, time.time()))
                state.save()

    def _to_come(self, state: State) -> m.WorkersToCome:
        """Return what the master should know of the workers that may come."""
        possible = []
        for kind, plan in kinds.elastic(state).items():
            offer = kinds.limits_of(plan, state.kinds.get(kind, KindNotes())).offer
            seconds = None if offer.seconds == float("inf") else offer.seconds
            if plan.most:
                python = offer.python or _own_python()
                possible.append(PossibleWorker(python, offer.capacity(), seconds).to_wire())
        problem = "; ".join(state.problems.values())[:PROBLEM_LENGTH]
        return m.WorkersToCome(possible, PROMISE_SECONDS, kinds.notice(state, time.time()), problem)


def _own_python() -> tuple[int, int]:
    import sys

    return sys.version_info[:2]


def _workers_by_job(answer: Answer) -> dict[int, list[WorkerSupply]]:
    """Return the connected workers by the batch system's job in which they are."""
    found: dict[int, list[WorkerSupply]] = {}
    for worker in answer.workers:
        location = Location.parse(worker.location)
        if location.system == State.system.name and location.job.isdigit():
            found.setdefault(int(location.job), []).append(worker)
    return found


def _note_workers(
    state: State, kind: str, those: list[Piece], workers: Mapping[int, list[WorkerSupply]], now: float
) -> None:
    """Note what the workers of a kind have, and that some have worked for long enough."""
    notes = state.kinds[kind]
    joined = {job.ident: job.joined for job in state.jobs}
    size = kinds.size_of(state.plans[kinds.plan_name(kind)])
    for piece in those:
        if piece.stage is Stage.RUNNING and piece.slots == size and len(workers.get(piece.ident, ())) == 1:
            offer = _offer(workers[piece.ident][0])
            if notes.offer is None or offer > notes.offer:
                notes = notes._replace(offer=offer)
        if piece.stage is Stage.RUNNING and now - joined[piece.ident] >= QUICK_SECONDS:
            notes = _worked(notes)
    state.kinds[kind] = notes


def _worked(notes: KindNotes) -> KindNotes:
    failures = notes.failures.on_worked()
    return notes._replace(failures=failures, tail=notes.tail if failures.is_paused else "")


def _offer(worker: WorkerSupply) -> Offer:
    has = worker.capacity
    return Offer(
        has.slots,
        has.cpus,
        len(has.gpus),
        has.memory,
        has.resources,
        has.tags,
        python=worker.python,
        nodes=has.nodes,
    )


def _note_end(state: State, ended: Ended, now: float) -> None:
    """Note how a piece has ended."""
    notes, job = state.kinds[ended.job.kind], ended.job
    if ended.outcome is Outcome.WORKED:
        state.kinds[job.kind] = _worked(notes)
    if ended.outcome not in (Outcome.DIED, Outcome.FAILED):
        return
    has_died = ended.outcome is Outcome.DIED
    note = Failures.on_died if has_died else Failures.on_refused
    failures = note(notes.failures, ended.why, now)
    tail = job_logs.last_lines(state, job, TAIL_LINES)
    logger.warning("sidecar.piece_failed", "%s", ended.why)
    if failures.is_paused and not notes.failures.is_paused:
        logger.error(
            "sidecar.kind_paused", "no more pieces of %s are submitted: %s", kinds.title(job.kind), ended.why
        )
    state.kinds[job.kind] = notes._replace(failures=failures, tail=tail)
