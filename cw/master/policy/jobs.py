"""The values of the master's policy: jobs, sessions, workers, and the actions that it decides on.

    Pool (Python, nodes) -> Queues in turn, of Sessions and Shapes ---> their Jobs, each of a Function
        '-------------> Workers ---> the Jobs that each one holds, by dispatch number

The vocabulary of `state`, `dispatch`, `scheduler`, `reconcile` and `asides`. No socket, no thread, no clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from cw.master.policy.ranked import Ranked
from cw.master.policy.taken import Place, Reservation, ShapedJobs
from cw.master.policy.tallies import MINUTE, Recent
from cw.named_tuple import NamedTuple
from cw.needs import ONE_CPU, Needs
from cw.net.objects import Estimate, Object
from cw.requirements import JobOptions, WorkerCapacity

AHEAD_SECONDS = 0.05
"""Work sent ahead to each slot (seconds). Larger: more to recall. Smaller: slots wait when the master is busy."""

AHEAD_JOBS = 1000
"""Most jobs sent ahead to each slot, even if they are very short."""

FEW_JOBS = 8
"""Jobs for each slot below which a worker is topped up one by one; above, when half of them are done."""

AHEAD_BYTES = 32 * 1024**2
"""Most bytes of payload sent ahead to one worker."""

SessionKey = int
WorkerKey = str
Python = tuple[int, int]
"""A Python version, such as (3, 11)."""

CRASHES = 3
"""Default of `options(attempts=N)`: a job is given up when this many of its runners have died."""

WORKER_LOSSES = 5
"""Limit of workers lost while they ran a job; at it the job is given up, since it may be what takes them down."""


class Job:
    """One call, from its submission until its result has been delivered."""

    __slots__ = (
        "session", "queue", "number", "function", "options_object", "options", "payload", "dispatch", "worker", "cost",
        "started", "cancelled", "crashes", "worker_losses", "notes", "tries", "excluded_worker", "excluded_slot",
        "unfit", "place",
    )  # fmt: skip

    def __init__(self, number: int, function: Object, options: Object | None, payload: Any) -> None:
        # Both are set when it is submitted.
        self.session: Session = None  # type: ignore[assignment]
        self.queue: Queue = None  # type: ignore[assignment]  # where it waits when no worker holds it
        self.number = number
        self.function = function
        self.options_object = options  # what travels
        self.options: JobOptions | None = None if options is None else options.options
        self.payload = payload
        self.dispatch = 0  # its latest dispatch number
        self.worker: Worker | None = None  # the one that holds it
        self.cost = 0.0  # seconds, as estimated when it was sent
        self.started = False  # reported by the worker
        self.cancelled = False
        self.crashes = 0
        self.worker_losses = 0
        self.notes: tuple[dict[str, Any], ...] = ()
        self.tries = 0  # tries that raised, before this one
        # Worker where its runner died last, or where it raised, until it need not go elsewhere any more; and the slot
        # there, if known.
        self.excluded_worker: Worker | None = None
        self.excluded_slot: int | None = None
        self.unfit: tuple[Worker, ...] = ()  # workers where its call could not be entered
        self.place: Place | None = None  # at its worker, if it has needs of its own

    def attempts(self) -> int:
        """Number of its runners that may die; with 1, it is never sent again once it may have started."""
        return (self.options is not None and self.options.attempts) or CRASHES

    def attempt(self) -> int:
        """Number of its next start, from 1."""
        return min(self.crashes + self.worker_losses + self.tries + 1, 255)

    def priority(self) -> int:
        """Jobs of its session with a larger one go first."""
        return (self.options is not None and self.options.priority) or 0

    def min_time(self) -> float:
        """Time that a worker must have left for the job to start there (seconds)."""
        return (self.options is not None and self.options.min_time) or 0.0


PLAIN = (ONE_CPU,)


class Shape(NamedTuple):
    """Requirements of jobs on a worker."""

    python: Python
    choices: tuple[Needs, ...] = (ONE_CPU,)
    """What a job takes while it runs, the preferred alternative first."""

    @property
    def is_plain(self) -> bool:
        """True for jobs that need one CPU and nothing else."""
        return self.choices == PLAIN


class Openings:
    """The workers where jobs with these needs can start now, kept while such jobs wait."""

    __slots__ = ("able", "free", "kept", "needs", "toppable")

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.able: dict[Worker, None] = {}  # could run one, if nothing else ran there
        # Ordered sets of these. free: one can start now; kept: there is room for one, but kept for another job;
        # toppable: takes more ahead.
        self.free: dict[Worker, None] = {}
        self.kept: dict[Worker, None] = {}
        self.toppable: dict[Worker, None] = {}

    def add(self, worker: Worker, is_able: bool) -> None:
        """Add a worker. Whether it has room is noted later."""
        if is_able:
            self.able[worker] = None

    def remove(self, worker: Worker) -> None:
        """Remove a worker that is gone."""
        for places in (self.able, self.free, self.kept, self.toppable):
            places.pop(worker, None)


class Reserved(NamedTuple):
    """A worker keeps room for a job, the oldest of its session that found none."""

    worker: Worker
    job: Job

    @property
    def is_void(self) -> bool:
        """True if the job does not wait any more."""
        return self.job.worker is not None or self.job.cancelled or not self.job.queue.is_waiting


class Pool:
    """The queues and workers of one version of Python, and one number of machines for each job."""

    __slots__ = (
        "python", "workers", "slots", "rotation", "idle", "has_capacity", "ahead", "lending", "waited", "ending",
        "shaped", "openings", "changed", "waiting", "reserved", "patient",
    )  # fmt: skip

    def __init__(self, python: Python) -> None:
        self.python = python
        self.workers = 0
        self.slots = 0  # of these workers, including those that cannot be used now
        self.rotation: deque[Queue] = deque()  # queues with waiting jobs, next first
        # Ordered sets of workers, for jobs that need one CPU. idle: one can start now, the last busy one first, since
        # it has the functions and runners; has_capacity: will take more ahead (a superset of idle); ahead: with more
        # jobs than can run (a superset; `on_tick` and `wants_tick` tidy up).
        self.idle: OrderedDict[Worker, None] = OrderedDict()
        self.has_capacity: dict[Worker, None] = {}
        self.ahead: dict[Worker, None] = {}
        self.lending: dict[Worker, None] = {}  # workers with a slot that is lent and free (with `floors`)
        self.waited = 0  # ticks in which a job waited while a worker was idle
        self.ending = 0  # workers that end when they are idle
        # Jobs with needs of their own. shaped: their number at workers, and that of their queues in the rotation;
        # openings: for what the waiting ones need, and some did before; changed: workers that they do not know yet;
        # waiting: the rotation's queues by session; reserved: for which job of a session a worker keeps room;
        # patient: short jobs that do not reserve yet, and the ticks for which they have waited.
        self.shaped = 0
        self.openings: dict[Needs, Openings] = {}
        self.changed: dict[Worker, None] = {}
        self.waiting: dict[Session, list[Queue]] = {}
        self.reserved: dict[Session, Reserved] = {}
        self.patient: dict[Session, tuple[Job, int]] = {}

    @property
    def has_shapes(self) -> bool:
        """False if all its jobs need one CPU."""
        return self.shaped > 0 or bool(self.reserved)

    def remove(self, worker: Worker) -> None:
        """Remove a worker that is gone."""
        self.workers -= 1
        self.slots -= worker.capacity.slots
        self.ending -= worker.capacity.ends_idle
        for places in (self.idle, self.has_capacity, self.ahead, self.lending, self.changed):
            places.pop(worker, None)
        if worker.reservation is not None:
            self.reserved = {
                session: kept for session, kept in self.reserved.items() if kept.worker is not worker
            }
        for openings in self.openings.values():
            openings.remove(worker)


class Queue:
    """The jobs of one session and one shape that wait for a worker."""

    __slots__ = ("session", "pool", "shape", "is_plain", "backlog", "requeued", "ranked", "is_waiting")

    def __init__(self, session: Session, pool: Pool, shape: Shape) -> None:
        self.session = session
        self.pool = pool
        self.shape = shape
        self.is_plain = shape.is_plain
        self.backlog: deque[Job] = deque()  # may hold cancelled jobs, which are skipped
        self.requeued: deque[Job] = deque()  # dispatched before the backlog
        self.ranked: Ranked[Job] = Ranked()  # jobs with a priority of their own: before or after all of these
        self.is_waiting = False  # it is in the pool's rotation

    def __bool__(self) -> bool:
        return bool(self.requeued or self.backlog or self.ranked)

    def __len__(self) -> int:
        return len(self.requeued) + len(self.backlog) + len(self.ranked)

    def front(self) -> deque[Job] | Ranked[Job]:
        """The jobs of which the first is the next one."""
        jobs, ranked = self.requeued or self.backlog, self.ranked
        if not ranked.heap:
            return jobs
        return ranked if ranked and (not jobs or ranked[0].priority() > 0) else jobs

    def head(self) -> Job | None:
        """The next job, or None. Cancelled jobs before it are dropped."""
        while jobs := self.front():
            if not jobs[0].cancelled:
                return jobs[0]
            jobs.popleft()
        return None

    def pop(self) -> Job:
        return self.front().popleft()

    def first(self, is_wanted: Callable[[Job], bool], most: int) -> Job | None:
        """Return the first job that is wanted, if it is one of the first `most`."""
        passed: list[Job] = []
        found = None
        while len(passed) < most and (job := self.head()) is not None:
            if is_wanted(job):
                found = job
                break
            passed.append(self.pop())
        self.put_back(passed)
        return found

    def take_out(self, job: Job) -> None:
        """Take out a job that is near the front."""
        passed: list[Job] = []
        while (popped := self.pop()) is not job:
            passed.append(popped)
        self.put_back(passed)

    def add(self, job: Job) -> None:
        """Add a new job, in the place that its priority gives it."""
        if job.priority():
            self.ranked.add(job, is_again=False)
        else:
            self.backlog.append(job)

    def requeue(self, jobs: list[Job]) -> None:
        """Put jobs back, before those that were never dispatched."""
        plain = self._rank(jobs)
        if plain:
            self.requeued = deque(sorted([*self.requeued, *plain], key=lambda job: job.number))

    def put_back(self, jobs: list[Job]) -> None:
        """Put jobs that were taken out at the front again."""
        self.requeued.extendleft(reversed(self._rank(jobs)))

    def _rank(self, jobs: list[Job]) -> list[Job]:
        """Put back those with a priority of their own, and return the others."""
        for job in jobs:
            if job.priority():
                self.ranked.add(job, is_again=True)
        return [job for job in jobs if not job.priority()]

    def dispatched(self) -> list[Job]:
        """Return those that may have been dispatched before."""
        return [*self.requeued, *self.ranked.jobs()]

    def drop_held(self) -> None:
        """Remove jobs that a worker holds by now."""
        self.backlog = deque(job for job in self.backlog if job.worker is None)
        self.requeued = deque(job for job in self.requeued if job.worker is None)
        self.ranked.keep(lambda job: job.worker is None)

    def clear(self) -> None:
        self.backlog.clear()
        self.requeued.clear()
        self.ranked = Ranked()

    def drop_cancelled(self) -> None:
        """Remove cancelled jobs, to free their payloads."""
        self.backlog = deque(job for job in self.backlog if not job.cancelled)
        self.ranked.keep(lambda job: not job.cancelled)


class Session:
    """One client's life, over reconnects: its open jobs, and the queues of those that wait."""

    __slots__ = (
        "key", "python", "queues", "jobs", "settling", "unconfirmed", "delivered", "unacknowledged",
        "raised", "is_blocked", "is_absent", "has_run", "setbacks", "depth", "parent", "load",
    )  # fmt: skip

    def __init__(self, key: SessionKey, python: Python, depth: int = 0, parent: int = 0) -> None:
        self.key = key
        self.python = python
        self.queues: dict[Shape, Queue] = {}
        self.depth = depth  # if the client is in a job: one more than the depth of the job's session
        self.parent = parent  # the dispatch number of that job, or 0
        self.jobs: dict[int, Job] = {}
        # Jobs that were resubmitted and that no worker is known to hold; None: the session has settled.
        self.settling: dict[int, Job] | None = None
        # Jobs that were here when the client came back, and have not been resubmitted yet.
        self.unconfirmed: set[int] = set()
        self.delivered = 0  # results sent since the client connected
        # Results that the client has not acknowledged: `delivered` after them, worker, dispatches, numbers.
        self.unacknowledged: deque[tuple[int, WorkerKey, list[int], list[int]]] = deque()
        self.raised: dict[int, Worker] = {}  # jobs with retries that raised: where, oldest first
        self.is_blocked = False  # the client does not take its results
        self.is_absent = False  # the client is gone and may come back
        self.has_run = False  # one of its calls was entered on some worker
        self.setbacks: Setbacks | None = None  # its calls that could not be entered
        # CPU-seconds that its jobs at workers will take, as far as they are counted: AHEAD_SECONDS for each CPU that is
        # held for long.
        self.load = 0.0


class Setbacks:
    """Failures of a session's calls before they were entered (see `asides`)."""

    __slots__ = ("aside", "failed", "reported", "unreported")

    def __init__(self) -> None:
        self.aside: dict[Worker, Aside] = {}  # workers that get no more of the session's jobs for now
        # Workers on which a failure occurred, by function (None: any of the session) and error text.
        self.failed: dict[tuple[Estimate | None, str], dict[Worker, None]] = {}
        # Workers that are set aside, with the reason, and of which the client must be notified.
        self.unreported: dict[Worker, str] = {}
        self.reported: set[tuple[WorkerKey, str]] = set()


class Aside:
    """A worker that is set aside: for which failure (`kind`), the dispatch that tries it again (`trial`; 0: none), and
    whether the next job should try it (`is_due`)."""

    __slots__ = ("is_due", "kind", "trial")

    def __init__(self, kind: tuple[Estimate | None, str]) -> None:
        self.kind = kind
        self.trial = 0
        self.is_due = False


class Worker:
    """One worker: what it has, and the jobs that it holds."""

    __slots__ = (
        "key", "slots", "available", "extra", "floors", "capacity", "blocked_sessions", "left", "pool", "held", "load",
        "size", "ended", "recalling", "recall_backoff", "is_stuck", "is_draining", "is_away", "recent", "shaped",
    )  # fmt: skip

    def __init__(self, key: WorkerKey, capacity: WorkerCapacity, pool: Pool) -> None:
        self.key = key
        self.capacity = capacity
        self.slots = capacity.slots  # jobs that it can hold without one of one CPU that waits (see `resize`)
        self.available = capacity.slots  # slots that can be used now
        self.extra = 0  # running jobs beyond one for each taken slot: those that wait for jobs of their own
        # One for each slot that is lent and free: a session must be deeper than this to use it.
        self.floors: list[int] = []
        self.blocked_sessions: frozenset[SessionKey] = frozenset()  # they cannot use any of its slots
        self.pool = pool
        self.held: dict[int, Job] = {}  # by dispatch number, in order
        self.load = 0.0  # sum of the held jobs' costs (seconds)
        self.size = 0  # bytes of payload held
        self.ended = 0  # jobs that ended since the last tick
        self.recalling = False  # a Recall is not answered yet
        self.recall_backoff = 0  # ticks until the next Recall, since the last one gave nothing
        self.is_stuck = False  # no result since it was asked to give back all: nothing is sent ahead
        self.is_draining = False  # it finishes what runs, and accepts no more
        self.is_away = False  # its connection broke a moment ago
        self.left = math.inf  # seconds until its jobs are stopped, as last reported
        self.recent = Recent(MINUTE, 0.0)  # jobs that have ended there
        # Jobs with needs of their own, and a reservation; None: there is neither.
        self.shaped: ShapedJobs[Job] | None = None

    def resize(self) -> None:
        """Set `slots` after a change of what they follow from. Jobs with needs of their own count among those held, so
        here, too; the others each take one of the slots and CPUs that are left."""
        self.slots = self.available + self.extra
        if self.shaped is not None:
            use = self.shaped.use
            left = max(0, min(self.available - use.slots, self.capacity.cpus - use.cpus))
            self.slots = left + self.extra + self.shaped.count

    def free(self) -> tuple[int, int]:
        """Numbers of free slots and CPUs."""
        slots, cpus, running = (
            self.available,
            self.capacity.cpus,
            min(len(self.held), self.slots) - self.extra,
        )
        if self.shaped is not None:
            running -= self.shaped.count
            slots -= self.shaped.use.slots
            cpus -= self.shaped.use.cpus
        running = max(0, running)
        return slots - running, cpus - running

    @property
    def running(self) -> int:
        """Number of jobs that seem to run there: the others were sent ahead."""
        ahead = 0 if self.shaped is None else self.shaped.ahead
        return max(0, min(len(self.held), self.slots) - ahead)

    @property
    def done(self) -> int:
        """Number of jobs that have ended there."""
        return self.recent.total

    @property
    def reservation(self) -> Reservation | None:
        """For whom it keeps room."""
        return None if self.shaped is None else self.shaped.reservation

    @property
    def is_idle(self) -> bool:
        return len(self.held) < self.slots and not (self.is_draining or self.is_away)

    @property
    def has_capacity(self) -> bool:
        """True if more should be sent ahead. With many short jobs held, not before half of them are done:
        a full frame now and then costs less than a few jobs at each wakeup."""
        count, full = len(self.held), self.slots * AHEAD_SECONDS
        if self.is_draining or self.is_away or self.reservation is not None:
            return False
        if count < FEW_JOBS * self.slots:
            return self.load < full
        return self.load < full / 2 and count < self.slots * AHEAD_JOBS // 2 and self.size < AHEAD_BYTES // 2
