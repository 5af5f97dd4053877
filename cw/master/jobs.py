"""What the master's policy knows, and what it decides: jobs, sessions, workers; and its actions.

    Pool (a Shape) ---> Queues in turn, of Sessions ---> their Jobs, each of a Function
        '-------------> Workers ---> the Jobs that each one holds, by dispatch number

The vocabulary of `state`, `dispatch`, `turns`, `returns` and `asides`. No socket, no thread, no clock.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

from cw.net import messages as m
from cw.net.objects import Estimate, Object
from cw.requirements import JobOptions

AHEAD_SECONDS = 0.05
"""Work sent ahead to each slot. Larger: more to recall. Smaller: slots wait for the master when it is busy."""

AHEAD_JOBS = 1000
"""Jobs sent ahead to each slot, however short they are."""

FEW_JOBS = 8
"""Held by each slot: fewer are topped up one by one, more when half of them are done."""

AHEAD_BYTES = 32 * 1024**2
"""Bytes of payload sent ahead to one worker."""

SessionKey = int
WorkerKey = str
Python = tuple[int, int]
"""A version, such as (3, 11)."""

DEATHS = 3
"""Runners that a job may take down before it is given up; `options(attempts=N)`."""


class Job:
    """One call, from its submission until its result has been delivered."""

    __slots__ = (
        "session", "number", "function", "options", "payload", "dispatch", "worker", "cost",
        "started", "cancelled", "deaths", "losses", "notes", "avoid", "unfit",
    )  # fmt: skip

    def __init__(self, number: int, function: Object, options: JobOptions | None, payload: Any) -> None:
        self.session: Session = None  # type: ignore[assignment]  # set by on_submitted
        self.number = number
        self.function = function
        self.options = options
        self.payload = payload
        self.dispatch = 0  # its latest dispatch number
        self.worker: Worker | None = None  # who holds it
        self.cost = 0.0  # seconds, as estimated when it was sent
        self.started = False  # the worker said so
        self.cancelled = False
        self.deaths = 0
        self.losses = 0
        self.notes: tuple[dict[str, Any], ...] = ()
        self.avoid: tuple[Worker, int] | None = None  # where it died last: worker, slot
        self.unfit: tuple[Worker, ...] = ()  # where its call could not be entered

    def limit(self) -> int:
        return (self.options is not None and self.options.attempts) or DEATHS

    def timeout(self) -> float:
        """Seconds that it may run; 0: no limit."""
        return (self.options is not None and self.options.timeout) or 0.0

    def keeps(self) -> bool:
        """Is what it returns when its time is up its result?"""
        return self.options is not None and self.options.on_limit is not None

    def min_time(self) -> float:
        """Seconds that a worker must have left for it to start there."""
        return (self.options is not None and self.options.min_time) or 0.0


class Shape(NamedTuple):
    """What jobs need of a slot."""

    python: Python


class Pool:
    """The queues and workers of one shape."""

    __slots__ = ("shape", "workers", "rotation", "idle", "has_capacity", "ahead", "lending", "waited")

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.workers = 0
        self.rotation: deque[Queue] = deque()  # those with jobs waiting, next first
        # Ordered sets. Idle: a free slot; roomy: will take something ahead (a superset of idle);
        # ahead: holds more than it has slots (a superset; `on_tick` and `wants_tick` tidy up).
        self.idle: dict[Worker, None] = {}
        self.has_capacity: dict[Worker, None] = {}
        self.ahead: dict[Worker, None] = {}
        self.lending: dict[Worker, None] = {}  # a slot that is lent and free; those with `floors`
        self.waited = 0  # ticks in which a job waited while the slot that it avoids was idle


class Queue:
    """The jobs of one session and one shape that wait for a worker."""

    __slots__ = ("session", "pool", "backlog", "requeued", "is_waiting")

    def __init__(self, session: Session, pool: Pool) -> None:
        self.session = session
        self.pool = pool
        self.backlog: deque[Job] = deque()  # may hold cancelled ones, which are passed over
        self.requeued: deque[Job] = deque()  # goes before the backlog
        self.is_waiting = False  # in the pool's rotation

    def __bool__(self) -> bool:
        return bool(self.requeued or self.backlog)

    def head(self) -> Job | None:
        """The next job. Those that are cancelled are dropped on the way to it."""
        while jobs := self.requeued or self.backlog:
            if not jobs[0].cancelled:
                return jobs[0]
            jobs.popleft()
        return None

    def pop(self) -> Job:
        return (self.requeued or self.backlog).popleft()

    def put_back(self, jobs: list[Job]) -> None:
        """These were taken out, and go first."""
        self.requeued.extendleft(reversed(jobs))

    def drop_held(self) -> None:
        """Let go of jobs that a worker holds by now."""
        self.backlog = deque(job for job in self.backlog if job.worker is None)
        self.requeued = deque(job for job in self.requeued if job.worker is None)

    def drop_cancelled(self) -> None:
        """Let go of the payloads."""
        self.backlog = deque(job for job in self.backlog if not job.cancelled)


class Session:
    """One client's life: its open jobs and those of them that wait."""

    __slots__ = (
        "key", "queue", "jobs", "settling", "unconfirmed", "delivered", "unacknowledged",
        "is_blocked", "is_absent", "has_run", "setbacks", "depth", "parent",
    )  # fmt: skip

    def __init__(self, key: SessionKey, pool: Pool, depth: int = 0, parent: int = 0) -> None:
        self.key = key
        self.queue = Queue(self, pool)  # all its jobs are of one shape
        self.depth = depth  # of a client in a job: one more than that of the job's session
        self.parent = parent  # the dispatch number of that job, or 0
        self.jobs: dict[int, Job] = {}
        # Handed in again, held by nobody so far; None: it has settled.
        self.settling: dict[int, Job] | None = None
        # Jobs that were here when the client came back; not handed in again yet.
        self.unconfirmed: set[int] = set()
        self.delivered = 0  # results, since the client is there
        # Those that it has not acknowledged: up to which count, whose, dispatches, numbers.
        self.unacknowledged: deque[tuple[int, WorkerKey, list[int], list[int]]] = deque()
        self.is_blocked = False  # it does not take its results
        self.is_absent = False  # its client is gone, perhaps to come back
        self.has_run = False  # a call of it was entered somewhere
        self.setbacks: Setbacks | None = None  # calls of it that were not


class Setbacks:
    """What a session's calls met with before they were entered (see `asides`)."""

    __slots__ = ("aside", "failed", "told", "untold")

    def __init__(self) -> None:
        self.aside: dict[Worker, Aside] = {}  # workers that get no more of it for now
        # What has failed where, by function (None: any of the session) and text.
        self.failed: dict[tuple[Estimate | None, str], dict[Worker, None]] = {}
        self.untold: dict[Worker, str] = {}  # set aside, and why; the client is to be told
        self.told: set[tuple[WorkerKey, str]] = set()


class Aside:
    """A worker that is set aside: for which failure, the dispatch that tries it again, if there is one, and whether
    the next job is to try it."""

    __slots__ = ("is_due", "kind", "trial")

    def __init__(self, kind: tuple[Estimate | None, str]) -> None:
        self.kind = kind
        self.trial = 0
        self.is_due = False


class Worker:
    """What one worker holds."""

    __slots__ = (
        "key", "slots", "usable", "extra", "floors", "offered", "blocked_sessions", "left", "pool", "held", "load",
        "size", "ended", "recalling", "recall_backoff", "is_stuck", "is_draining", "is_away",
    )  # fmt: skip

    def __init__(self, key: WorkerKey, slots: int, pool: Pool) -> None:
        self.key = key
        self.slots = slots  # how many jobs run there at a time: usable + extra
        self.usable = slots  # slots that can be used now
        self.extra = 0  # jobs beyond one for each slot that is taken: those that wait for jobs of their own
        # Of slots that are lent and free: what the depth of a session must exceed.
        self.floors: list[int] = []
        self.offered = slots
        self.blocked_sessions: frozenset[SessionKey] = frozenset()  # sessions for which none of them can
        self.pool = pool
        self.held: dict[int, Job] = {}  # by dispatch number, in order
        self.load = 0.0  # seconds: the costs of what is held
        self.size = 0  # bytes of payload held
        self.ended = 0  # jobs since the last tick
        self.recalling = False  # a Recall is not answered yet
        self.recall_backoff = 0  # the last Recall gave nothing: ticks until the next
        self.is_stuck = False  # no result since it was asked to give back all: nothing goes there ahead
        self.is_draining = False  # it finishes what runs, and takes nothing more
        self.is_away = False  # its connection broke a moment ago
        self.left = math.inf  # seconds until what runs there is stopped, when last told

    @property
    def is_idle(self) -> bool:
        return len(self.held) < self.slots and not (self.is_draining or self.is_away)

    @property
    def is_roomy(self) -> bool:
        """Should more be sent ahead? With many short jobs here, not before half of them are done:
        a full frame now and then costs less than a few jobs at each wakeup."""
        count, full = len(self.held), self.slots * AHEAD_SECONDS
        if self.is_draining or self.is_away:
            return False
        if count < FEW_JOBS * self.slots:
            return self.load < full
        return self.load < full / 2 and count < self.slots * AHEAD_JOBS // 2 and self.size < AHEAD_BYTES // 2


# --- actions ----------------------------------------------------------------------------------

WorkerMessage = m.Recall | m.Stop | m.TakeBack | m.Claim | m.Release
"""Orders to a worker: to name unstarted jobs as returned, to end jobs that nobody wants any more, to return those that
have not started; to send what it kept of jobs that have ended, and to forget that."""


class Assign(NamedTuple):
    """Send these jobs to the worker."""

    worker: WorkerKey
    jobs: list[Job]


class SendToWorker(NamedTuple):
    worker: WorkerKey
    message: WorkerMessage


class SendToClient(NamedTuple):
    session: SessionKey
    message: m.JobsStarted | m.AttemptCounts


class Deliver(NamedTuple):
    """Send these results, of that worker's dispatches, to the session's client."""

    session: SessionKey
    worker: WorkerKey
    dispatches: list[int]
    numbers: list[int]
    statuses: list[int]
    seconds: list[float]
    payloads: list[Any]


class GiveUp(NamedTuple):
    """Tell the client that the job was lost too often."""

    session: SessionKey
    number: int
    reason: str
    notes: tuple[dict[str, Any], ...]


class SetAside(NamedTuple):
    """Log that the worker gets no more of this session for now, and call `on_aside_told` in some seconds."""

    session: SessionKey
    worker: WorkerKey
    reason: str


class WatchSetbacks(NamedTuple):
    """Call `on_aside_retry` every some minutes while the session `has_setbacks`."""

    session: SessionKey


class TellAside(NamedTuple):
    """Tell the client which workers are set aside, and why."""

    session: SessionKey
    workers: list[tuple[WorkerKey, str]]


Action = Assign | SendToWorker | SendToClient | Deliver | GiveUp | SetAside | WatchSetbacks | TellAside

Inventory = tuple[int, SessionKey, int, int]
"""What a worker says it holds: dispatch, session, number, state."""


def merged(actions: list[Action]) -> list[Action]:
    """The same with one Claim, Release and Stop for each worker, instead of one for each dispatch."""
    merged: dict[tuple[type, WorkerKey], list[int]] = {}
    rest: list[Action] = []
    for action in actions:
        if isinstance(action, SendToWorker) and isinstance(action.message, (m.Claim, m.Release, m.Stop)):
            merged.setdefault((type(action.message), action.worker), []).extend(action.message.dispatches)
        else:
            rest.append(action)
    return rest + [SendToWorker(worker, kind(dispatches)) for (kind, worker), dispatches in merged.items()]


def charged(job: Job) -> m.AttemptCounts:
    """What a client is told of what has been charged to its job so far."""
    return m.AttemptCounts(job.number, job.deaths, job.losses, list(job.notes))
