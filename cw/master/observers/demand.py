"""What jobs ask of the cluster, and the workers that it has, for its tender. Pure: no socket, no clock.

State: queues, by session and shape ---> ShapeDemand, by shape --.
State, facts of the peers: workers  ---> WorkerSupply -----------'--> demand() ---> Demand

The time that it takes grows with the numbers of queues and workers, not with that of jobs: of these it looks at a
sample.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

from cw.master.observers.capacities import count_running, running_jobs
from cw.master.observers.facts import ClientPeer, WorkerFacts, WorkerPeer
from cw.master.policy.jobs import Job, SessionKey, Worker, WorkerKey
from cw.master.policy.ranked import Ranked
from cw.master.policy.state import State
from cw.master.policy.tallies import Tally
from cw.needs import Needs
from cw.observer.demand import Demand, Python, ShapeDemand, WorkerSupply

SAMPLED = 2000
"""Jobs that are looked at, of those that wait and of those that run, to find out what all need and how long they take.
Larger: more of the master's time. Smaller: rougher numbers, where a client has jobs of several kinds."""

LEAST_SAMPLED = 5
"""The same for one queue, with very many of these."""


FULL = 8 * 1024
"""Open jobs of a client here from which on it is taken to hold others back, since it may not send more. Larger: these
are not seen. Smaller: calls that wait for other calls are taken for them."""


class _Kind(NamedTuple):
    """What is common to jobs of one shape."""

    python: Python
    needs: tuple[Needs, ...]
    min_time: float


class _Jobs:
    """The open jobs of one shape."""

    def __init__(self) -> None:
        self.waiting = self.running = 0.0
        self.sessions: set[object] = set()
        self.tallies: dict[Tally | None, float] = {}
        """The same jobs by the tally of their function; None: it has none yet."""

    def durations(self) -> tuple[float | None, float | None]:
        """Median and mean of the durations of such jobs; None, where most are of functions of which none has ended."""
        known = {tally: count for tally, count in self.tallies.items() if tally is not None and tally.runs}
        total = sum(known.values())
        if 2 * total <= sum(self.tallies.values()):
            return None, None
        mean = sum(tally.mean() * count for tally, count in known.items()) / total
        passed = 0.0
        medians = sorted(((tally.quantiles(0.5) or [0.0])[0], count) for tally, count in known.items())
        for median, count in medians:
            passed += count
            if 2 * passed >= total:
                return median, mean
        raise AssertionError("no median")


def demand(
    state: State,
    clients: Mapping[SessionKey, ClientPeer],
    workers: Mapping[WorkerKey, WorkerPeer],
    ident: str,
    now: float,
) -> Demand:
    """Return the demand of this moment at the master with this start id."""
    return Demand(
        ident,
        len(state.sessions),
        sum(len(session.settling or ()) for session in state.sessions.values()),
        tuple(shapes(state, clients)),
        tuple(_worker(worker, workers[key].facts, now) for key, worker in state.workers.items()),
    )


def shapes(state: State, clients: Mapping[SessionKey, ClientPeer]) -> list[ShapeDemand]:
    """Return the open jobs by what they need."""
    kinds: dict[_Kind, _Jobs] = {}
    _count_waiting(kinds, state)
    _count_held(kinds, state)
    _count_held_back(kinds, state, clients)
    return [
        ShapeDemand(*kind, round(jobs.waiting), round(jobs.running), len(jobs.sessions), *jobs.durations())
        for kind, jobs in sorted(kinds.items(), key=itemgetter(0))
    ]


def _worker(worker: Worker, facts: WorkerFacts, now: float) -> WorkerSupply:
    return WorkerSupply(
        worker.key,
        facts.host,
        facts.location,
        worker.pool.python,
        worker.capacity,
        count_running(worker),
        now - facts.joined_at,
        0.0 if worker.held else max(0.0, now - facts.idle_since),
        None if facts.ends_at == math.inf else max(0.0, facts.ends_at - now),
        worker.is_draining,
    )


# --- jobs -------------------------------------------------------------------------------------


def _kind_of(job: Job) -> _Kind:
    return _Kind(*job.queue.shape, job.min_time())


def _count_waiting(kinds: dict[_Kind, _Jobs], state: State) -> None:
    """Count the jobs in the queues."""
    queues = [queue for session in state.sessions.values() for queue in session.queues.values() if queue]
    most = max(LEAST_SAMPLED, SAMPLED // max(1, len(queues)))
    for queue in queues:
        for jobs in (queue.requeued, queue.backlog, queue.ranked):
            sample = _sample(jobs, most)
            for job in sample:
                if not job.cancelled:
                    count = len(jobs) / len(sample)
                    _note(kinds, job, count).waiting += count


def _sample(jobs: deque[Job] | Ranked[Job], most: int) -> list[Job]:
    """Return at most this many of the jobs, from all places of their order."""
    step = max(1, math.ceil(len(jobs) / most))
    return jobs.some(step) if isinstance(jobs, Ranked) else [jobs[at] for at in range(0, len(jobs), step)]


def _count_held(kinds: dict[_Kind, _Jobs], state: State) -> None:
    """Count the jobs that workers hold: those that run, and the others, which wait there and are like the last one."""
    step = 1 + sum(map(count_running, state.workers.values())) // SAMPLED
    for worker in islice(state.workers.values(), 0, None, step):
        for job in running_jobs(worker):
            if not job.cancelled:
                _note(kinds, job, step).running += step
        ahead = len(worker.held) - count_running(worker)
        if ahead > 0:
            count = step * ahead
            _note(kinds, next(reversed(worker.held.values())), count).waiting += count


def _count_held_back(
    kinds: dict[_Kind, _Jobs], state: State, clients: Mapping[SessionKey, ClientPeer]
) -> None:
    """Count the jobs that clients hold back, as jobs of what others of the same functions need."""
    for key, session in state.sessions.items():
        backlog = clients[key].facts.backlog if key in clients and len(session.jobs) >= FULL else {}
        tallies = state.tallies.by_session.get(key, {})
        for name, count in backlog.items():
            tally = tallies.get(name)
            alike = [(jobs, jobs.tallies[tally]) for jobs in kinds.values() if tally in jobs.tallies]
            total = sum(part for _, part in alike)
            for jobs, part in alike:
                jobs.waiting += count * part / total
                jobs.tallies[tally] += count * part / total


def _note(kinds: dict[_Kind, _Jobs], job: Job, count: float) -> _Jobs:
    """Note that this job stands for so many, and return those of its shape."""
    kind = _kind_of(job)
    jobs = kinds.get(kind)
    if jobs is None:
        jobs = kinds[kind] = _Jobs()
    jobs.sessions.add(job.session.key)
    tally = job.function.estimate.tally
    jobs.tallies[tally] = jobs.tallies.get(tally, 0.0) + count
    return jobs
