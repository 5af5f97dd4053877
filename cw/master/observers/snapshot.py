"""A snapshot of the cluster for observers, made of the policy's state when one looks. Pure: no socket, no clock.

State, Tallies, facts of peers ---> make ---> Snapshot ---> encode ---> JSON of at most MOST_BYTES

What is not counted is estimated from a sample where there are many: which functions the open and running jobs belong
to. So the time that a snapshot takes grows with the number of workers, and hardly with that of jobs.
"""

from __future__ import annotations

import heapq
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from cw import needs_text
from cw.master.observers import demand
from cw.master.observers.capacities import Sums, capacity_of, count_running, running_jobs
from cw.master.observers.facts import ClientPeer, WorkerFacts, WorkerPeer
from cw.master.policy.jobs import PLAIN, Python, Session, SessionKey, Worker, WorkerKey
from cw.master.policy.state import State
from cw.master.policy.tallies import Failure, Tallies, Tally
from cw.needs import Needs
from cw.observer import model
from cw.observer.bounds import clean
from cw.observer.demand import ShapeDemand
from cw.observer.model import (
    ClientStatus,
    FailedJob,
    FunctionStatus,
    HostStatus,
    LostWorker,
    MasterStatus,
    RunningJob,
    ShapeStatus,
    Snapshot,
    Totals,
    WorkerStatus,
)

MOST_BYTES = 256 * 1024
"""Most bytes of an encoded snapshot."""

SAMPLED = 2000
"""Jobs that are looked at to find out to which functions all belong: of those that run, and of those that are open.
Larger: more time for each snapshot. Smaller: rougher numbers, where one client has jobs of several functions."""

FEW_ENDED = 10
"""Jobs that must have ended within a time before its rate says when the others will have."""


class Known(NamedTuple):
    """What is known besides the policy's state."""

    master: MasterStatus
    wall: float
    """The present time (seconds since 1970)."""
    workers: Mapping[WorkerKey, WorkerPeer]
    clients: Mapping[SessionKey, ClientPeer]
    losses: Sequence[LostWorker]
    why_waiting: Callable[[SessionKey], str]


class _Counts(NamedTuple):
    """Open jobs of one function: those that wait, and that run."""

    session: Session
    tally: Tally
    waiting: int
    running: int


def encode(snapshot: Snapshot) -> bytes:
    """Return the snapshot as JSON. Of one that is too long (only if texts are) the longest lists are cut."""
    while True:
        data = json.dumps(snapshot, default=vars, ensure_ascii=False, separators=(",", ":")).encode()
        if len(data) <= MOST_BYTES:
            return data
        lists = [name for name, value in vars(snapshot).items() if isinstance(value, tuple)]
        longest = max(lists, key=lambda name: len(json.dumps(getattr(snapshot, name), default=vars)))
        value = getattr(snapshot, longest)
        snapshot = replace(snapshot, **{longest: value[: len(value) // 2]})


def make(state: State, known: Known) -> Snapshot:
    """Return the snapshot of this moment, `state.tallies.now`."""
    by_host: dict[str, list[Worker]] = {}
    slots = busy = 0
    sums = Sums()
    peers = known.workers
    for key, worker in state.workers.items():  # the only walk over all workers: there may be very many
        busy += _busy(worker)
        if not worker.is_draining:
            slots += worker.capacity.slots
            sums.add(worker)
        host = peers[key].facts.host
        if host in by_host:
            by_host[host].append(worker)
        else:
            by_host[host] = [worker]
    counts = _count_jobs(state, known.clients, busy)
    ended, failed = state.tallies.sums()
    now = state.tallies.now
    totals = Totals(
        clients=len(state.sessions),
        workers=len(state.workers),
        hosts=len(by_host),
        slots=slots,
        busy=busy,
        waiting=_count_waiting(state, known.clients, busy),
        running=busy,
        done=ended - failed,
        failed=failed,
        rate=state.tallies.minute.rate(now),
        capacity=sums.status(),
    )
    return Snapshot(
        at=known.wall,
        master=known.master,
        totals=totals,
        clients=_clients(state, known, counts),
        functions=_functions(counts, now),
        shapes=_shapes(state, known),
        workers=_workers(state, peers),
        hosts=_hosts(by_host, peers, totals, now),
        running=_running(state, known),
        failures=tuple(_failure(state, known, failure) for failure in reversed(state.tallies.failures)),
        losses=tuple(known.losses),
    )


def key_as_text(session: SessionKey) -> str:
    """Return a session's key as observers see it."""
    return f"{session:016x}"


# --- jobs -------------------------------------------------------------------------------------


def _count_jobs(state: State, clients: Mapping[SessionKey, ClientPeer], busy: int) -> list[_Counts]:
    """Count the open jobs by session and function; those with the most come first."""
    running = _count_running(state, busy)
    step = 1 + sum(len(session.jobs) for session in state.sessions.values()) // SAMPLED
    found = []
    for key, session in state.sessions.items():
        backlog = clients[key].facts.backlog if key in clients else {}
        waiting = _count_open(state.tallies, session, step)
        waiting.subtract({tally: running[tally] for tally in waiting})
        tallies = dict(state.tallies.by_session.get(key, {}))
        for name in backlog.keys() - tallies.keys():
            tallies[name] = Tally(name, state.tallies.now)  # none of its jobs was here yet
        found += [
            _Counts(session, tally, max(0, waiting[tally]) + backlog.get(name, 0), running[tally])
            for name, tally in tallies.items()
        ]
    found.sort(key=lambda each: (each.waiting + each.running, each.tally.ended), reverse=True)
    return found


def _count_waiting(state: State, clients: Mapping[SessionKey, ClientPeer], busy: int) -> int:
    """Count the jobs that wait, here and at the clients."""
    there = sum(count for peer in clients.values() for count in peer.facts.backlog.values())
    return max(0, sum(len(session.jobs) for session in state.sessions.values()) - busy) + there


def _count_running(state: State, busy: int) -> Counter[Tally]:
    """Count the running jobs, `busy` in all, by function."""
    found: Counter[Tally] = Counter()
    for worker in islice(state.workers.values(), 0, None, 1 + busy // SAMPLED):
        for job in running_jobs(worker):
            if not job.cancelled:
                found[state.tallies.tally_of(job.session.key, job.function.estimate)] += 1
    sampled = found.total()
    return Counter({tally: round(count * busy / sampled) for tally, count in found.items()})


def _count_open(tallies: Tallies, session: Session, step: int) -> Counter[Tally]:
    """Count the session's jobs by function, from one of `step` jobs."""
    found: Counter[Tally] = Counter()
    own = tallies.by_session.get(session.key, {})
    if len(own) == 1:
        return Counter({tally: len(session.jobs) for tally in own.values()})
    for job in islice(session.jobs.values(), 0, None, step):
        found[tallies.tally_of(session.key, job.function.estimate)] += step
    return found


def _functions(counts: Sequence[_Counts], now: float) -> tuple[FunctionStatus, ...]:
    return tuple(_function(each, now) for each in counts[: model.FUNCTIONS])


def _function(counts: _Counts, now: float) -> FunctionStatus:
    tally = counts.tally
    quantiles = tally.quantiles(0.5, 0.95)
    median, p95 = (None, None) if quantiles is None else quantiles
    return FunctionStatus(
        session=key_as_text(counts.session.key),
        name=tally.name,
        waiting=counts.waiting,
        running=counts.running,
        done=tally.ended - tally.failed,
        failed=tally.failed,
        rate_1min=tally.minute.rate(now),
        rate_5min=tally.minutes.rate(now),
        median_seconds=median,
        p95_seconds=p95,
        seconds_left=_seconds_left(counts, now),
    )


def _shapes(state: State, known: Known) -> tuple[ShapeStatus, ...]:
    """List the open jobs by what they need; none if all need one CPU."""
    if all(queue.is_plain for session in state.sessions.values() for queue in session.queues.values()):
        return ()
    found: dict[tuple[Python, tuple[Needs, ...]], list[ShapeDemand]] = {}
    for one in demand.shapes(state, known.clients):
        found.setdefault((one.python, one.needs), []).append(one)  # (they may differ in their min_time)
    if all(needs == PLAIN for _, needs in found):
        return ()
    rows = [
        ShapeStatus(
            needs=clean(needs_text.in_short(needs)),
            python="{}.{}".format(*python),
            waiting=sum(one.waiting for one in alike),
            running=sum(one.running for one in alike),
            clients=max(one.sessions for one in alike),
            median_seconds=max(alike, key=lambda one: one.waiting + one.running).median_seconds,
        )
        for (python, needs), alike in found.items()
    ]
    rows.sort(key=lambda row: row.waiting + row.running, reverse=True)
    return tuple(rows[: model.SHAPES])


def _seconds_left(counts: _Counts, now: float) -> float | None:
    """Estimate the time until the open jobs of a function have ended; None: there is nothing to judge by."""
    tally, waiting, running = counts.tally, counts.waiting, counts.running
    if not waiting + running:
        return 0.0
    for recent in (tally.minute, tally.minutes):
        if recent.number(now) >= FEW_ENDED:
            return (waiting + running) / recent.rate(now)
    if running and tally.runs:
        return tally.mean() * (waiting / running + 0.5)  # (those that run are half done)
    return None


def _clients(state: State, known: Known, counts: Sequence[_Counts]) -> tuple[ClientStatus, ...]:
    sums: dict[SessionKey, list[int]] = {key: [0, 0, 0, 0] for key in state.sessions if key in known.clients}
    for each in counts:
        if each.session.key in sums:
            done = each.tally.ended - each.tally.failed
            for place, count in enumerate((each.waiting, each.running, done, each.tally.failed)):
                sums[each.session.key][place] += count
    shown = heapq.nlargest(model.CLIENTS, sums.items(), key=lambda item: (sum(item[1][:2]), sum(item[1])))
    return tuple(_client(state.sessions[key], known, sums, state.tallies.now) for key, sums in shown)


def _client(session: Session, known: Known, sums: Sequence[int], now: float) -> ClientStatus:
    facts = known.clients[session.key].facts
    waiting, running, done, failed = sums
    return ClientStatus(
        session=key_as_text(session.key),
        label=clean(facts.label),
        host=facts.host,
        pid=facts.pid,
        program=facts.program,
        depth=session.depth,
        age=now - facts.joined_at,
        is_connected=not session.is_absent,
        waiting=waiting,
        running=running,
        done=done,
        failed=failed,
        why_waiting=clean(known.why_waiting(session.key)) if waiting else "",
    )


def _running(state: State, known: Known) -> tuple[RunningJob, ...]:
    """List the jobs that have run for longest. Those that are over are dropped from the noted starts."""
    found, over = [], []
    for dispatch, (key, since) in state.tallies.started.items():
        worker = state.workers.get(key)
        job = worker.held.get(dispatch) if worker is not None else None
        if job is None:
            over.append(dispatch)
        elif not job.cancelled:
            session = job.session.key
            found.append(
                RunningJob(
                    session=key_as_text(session),
                    number=job.number,
                    function=state.tallies.tally_of(session, job.function.estimate).name,
                    client=_label(known, session),
                    worker=key,
                    host=known.workers[key].facts.host,
                    slot=None,
                    seconds=state.tallies.now - since,
                )
            )
            if len(found) == model.RUNNING:
                break
    for dispatch in over:
        del state.tallies.started[dispatch]
    return tuple(found)


def _failure(state: State, known: Known, failure: Failure) -> FailedJob:
    peer = known.workers.get(failure.worker)
    return FailedJob(
        session=key_as_text(failure.session),
        number=failure.number,
        function=failure.function,
        client=failure.client or _label(known, failure.session),
        host=failure.host or ("" if peer is None else peer.facts.host),
        at=known.wall - (state.tallies.now - failure.at),
        first=clean(failure.first),
        last=clean(failure.last),
    )


def _label(known: Known, session: SessionKey) -> str:
    peer = known.clients.get(session)
    return "" if peer is None else clean(peer.facts.label)


# --- workers ----------------------------------------------------------------------------------


def _busy(worker: Worker) -> int:
    return min(count_running(worker), worker.capacity.slots)


def _workers(state: State, peers: Mapping[WorkerKey, WorkerPeer]) -> tuple[WorkerStatus, ...]:
    """List the workers by name, if they are not too many."""
    if len(state.workers) > model.WORKERS:
        return ()
    workers = [(worker, peers[key].facts) for key, worker in state.workers.items()]
    workers.sort(key=lambda each: each[1].name)
    return tuple(_worker(worker, facts, state.tallies.now) for worker, facts in workers)


def _worker(worker: Worker, facts: WorkerFacts, now: float) -> WorkerStatus:
    loss = f"{facts.loss} {now - facts.lost_at:.0f} s ago" if facts.loss else ""
    busy = _busy(worker)
    return WorkerStatus(
        key=worker.key,
        name=facts.name,
        host=facts.host,
        location=clean(facts.place),
        slots=worker.capacity.slots,
        busy=busy,
        ahead=len(worker.held) - busy,
        done=worker.recent.total,
        rate=worker.recent.rate(now),
        load=facts.load,
        memory=facts.memory,
        age=now - facts.joined_at,
        seconds_left=None if facts.ends_at == math.inf else max(0.0, facts.ends_at - now),
        is_draining=worker.is_draining,
        is_away=worker.is_away,
        last_loss=clean(loss),
        capacity=capacity_of([worker], worker.capacity.tags),
    )


def _hosts(
    by_host: Mapping[str, Sequence[Worker]], peers: Mapping[WorkerKey, WorkerPeer], totals: Totals, now: float
) -> tuple[HostStatus, ...]:
    """Sum the workers up by host. With many hosts, the last entry has the sums of those that are left out."""
    is_cut = len(by_host) > model.HOSTS
    names = heapq.nsmallest(model.HOSTS - 1, by_host) if is_cut else sorted(by_host)
    shown = [_host(name, by_host[name], peers, now) for name in names]
    if is_cut:
        rest = HostStatus(
            host=f"{len(by_host) - len(shown)} more hosts",
            workers=totals.workers - sum(host.workers for host in shown),
            slots=max(0, totals.slots - sum(host.slots for host in shown)),
            busy=max(0, totals.busy - sum(host.busy for host in shown)),
            done=max(0, totals.done + totals.failed - sum(host.done for host in shown)),
            rate=max(0.0, totals.rate - sum(host.rate for host in shown)),
            load=None,
            memory=None,
            capacity=capacity_of(worker for name in by_host.keys() - names for worker in by_host[name]),
        )
        shown.append(rest)
    return tuple(shown)


def _host(
    host: str, workers: Sequence[Worker], peers: Mapping[WorkerKey, WorkerPeer], now: float
) -> HostStatus:
    facts = [peers[worker.key].facts for worker in workers]
    memories = [each.memory for each in facts if each.memory is not None]
    return HostStatus(
        host=host,
        workers=len(workers),
        slots=sum(worker.capacity.slots for worker in workers if not worker.is_draining),
        busy=sum(_busy(worker) for worker in workers),
        done=sum(worker.recent.total for worker in workers),
        rate=sum(worker.recent.rate(now) for worker in workers),
        load=next((each.load for each in reversed(facts) if each.load is not None), None),
        memory=sum(memories) if memories else None,
        capacity=capacity_of(worker for worker in workers if not worker.is_draining),
    )
