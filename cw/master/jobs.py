"""What the master's policy knows, and what it decides: jobs, sessions, workers; and its actions.

    Pool (a Python version) ---> Sessions in turn ---> their Jobs, each of a Function
        '------------------> Workers ---> the Jobs that each one holds, by dispatch number

The state and the vocabulary of `dispatch`, `turns` and `returns`, where all that moves a job is. No socket, no thread,
no clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from typing import Any, NamedTuple

from cw.net.objects import Estimate, Object

AHEAD_SECONDS = 0.05
"""Work sent ahead to each slot. Larger: more to recall. Smaller: slots wait for the master when it is busy."""

AHEAD_JOBS = 1000
"""Jobs sent ahead to each slot, however short they are."""

FEW_JOBS = 8
"""Held by each slot: fewer are topped up one by one, more when half of them are done."""

AHEAD_BYTES = 32 * 1024**2
"""Bytes of payload sent ahead to one worker."""

DEATHS = 3
"""Runners that a job may take down before it is given up; `options(attempts=N)`."""


class Job:
    """One call, from its submission until its result has been delivered."""

    __slots__ = (
        "session", "number", "function", "options", "payload", "dispatch", "worker", "cost",
        "started", "cancelled", "deaths", "losses", "notes", "avoid", "unfit",
    )  # fmt: skip

    def __init__(self, number: int, function: Object, options: dict[str, Any] | None, payload: Any) -> None:
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
        return DEATHS if self.options is None else int(self.options.get("attempts", DEATHS))

    def timeout(self) -> float:
        """Seconds that it may run; 0: no limit."""
        return 0.0 if self.options is None else float(self.options.get("timeout", 0.0))

    def keeps(self) -> bool:
        """Is what it returns when its time is up its result?"""
        return self.options is not None and "on_limit" in self.options

    def min_time(self) -> float:
        """Seconds that a worker must have left for it to start there."""
        return 0.0 if self.options is None else float(self.options.get("min_time", 0.0))


class Pool:
    """The sessions and workers of one Python version."""

    __slots__ = ("python", "workers", "rotation", "idle", "roomy", "ahead", "lending", "waited")

    def __init__(self, python: Any) -> None:
        self.python = python
        self.workers = 0
        self.rotation: deque[Session] = deque()  # those with jobs waiting, next first
        # Ordered sets. Idle: a free slot; roomy: will take something ahead (a superset of idle);
        # ahead: holds more than it has slots (a superset; `on_tick` and `wants_tick` tidy up).
        self.idle: dict[Worker, None] = {}
        self.roomy: dict[Worker, None] = {}
        self.ahead: dict[Worker, None] = {}
        self.lending: dict[Worker, None] = {}  # a slot that is lent and free; those with `floors`
        self.waited = 0  # ticks in which a job waited while the slot that it avoids was idle


class Session:
    """One client's life: its open jobs and those of them that wait."""

    __slots__ = (
        "key", "pool", "jobs", "backlog", "requeued", "settling", "unconfirmed", "delivered", "unacknowledged",
        "is_blocked", "is_absent", "is_waiting", "has_run", "setbacks", "depth", "parent",
    )  # fmt: skip

    def __init__(self, key: Hashable, pool: Pool, depth: int = 0, parent: int = 0) -> None:
        self.key = key
        self.pool = pool
        self.depth = depth  # of a client in a job: one more than that of the job's session
        self.parent = parent  # the dispatch number of that job, or 0
        self.jobs: dict[int, Job] = {}
        self.backlog: deque[Job] = deque()  # may hold cancelled ones, which are passed over
        self.requeued: deque[Job] = deque()  # goes before the backlog
        # Handed in again, held by nobody so far; None: it has settled.
        self.settling: dict[int, Job] | None = None
        # Jobs that were here when the client came back; not handed in again yet.
        self.unconfirmed: set[int] = set()
        self.delivered = 0  # results, since the client is there
        # Those that it has not acknowledged: up to which count, whose, dispatches, numbers.
        self.unacknowledged: deque[tuple[int, Hashable, list[int], list[int]]] = deque()
        self.is_blocked = False  # it does not take its results
        self.is_absent = False  # its client is gone, perhaps to come back
        self.is_waiting = False  # in the rotation
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
        self.told: set[tuple[Hashable, str]] = set()


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
        "key", "slots", "usable", "extra", "floors", "offered", "not_for", "left", "pool", "held", "load", "size",
        "ended", "recalling", "barren", "is_stuck", "is_draining", "is_away",
    )  # fmt: skip

    def __init__(self, key: Hashable, slots: int, pool: Pool) -> None:
        self.key = key
        self.slots = slots  # how many jobs run there at a time: usable + extra
        self.usable = slots  # slots that can be used now
        self.extra = 0  # jobs beyond one for each slot that is taken: those that wait for jobs of their own
        # Of slots that are lent and free: what the depth of a session must exceed.
        self.floors: list[int] = []
        self.offered = slots
        self.not_for: frozenset[Hashable] = frozenset()  # sessions for which none of them can
        self.pool = pool
        self.held: dict[int, Job] = {}  # by dispatch number, in order
        self.load = 0.0  # seconds: the costs of what is held
        self.size = 0  # bytes of payload held
        self.ended = 0  # jobs since the last tick
        self.recalling = False  # a Recall is not answered yet
        self.barren = 0  # the last Recall gave nothing: ticks until the next
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


class Assign(NamedTuple):
    """Send these jobs to the worker."""

    worker: Hashable
    jobs: list[Job]


class Recall(NamedTuple):
    """Ask the worker for up to `count` unstarted jobs."""

    worker: Hashable
    count: int


class StopJobs(NamedTuple):
    """Tell the worker that these dispatches are not wanted any more."""

    worker: Hashable
    dispatches: list[int]


class TakeBack(NamedTuple):
    """Tell the worker to return these dispatches, but for those that have started."""

    worker: Hashable
    dispatches: list[int]


class Claim(NamedTuple):
    """Ask the worker for what it kept of these dispatches: a result, or how the runner died."""

    worker: Hashable
    dispatches: list[int]


class Release(NamedTuple):
    """Tell the worker that it need not keep what these dispatches came to."""

    worker: Hashable
    dispatches: list[int]


class Deliver(NamedTuple):
    """Send these results, of that worker's dispatches, to the session's client."""

    session: Hashable
    worker: Hashable
    dispatches: list[int]
    numbers: list[int]
    statuses: list[int]
    seconds: list[float]
    payloads: list[Any]


class GiveUp(NamedTuple):
    """Tell the client that the job was lost too often."""

    session: Hashable
    number: int
    reason: str
    notes: tuple[dict[str, Any], ...]


class TellCharges(NamedTuple):
    """Tell the client what has been charged to the job so far."""

    session: Hashable
    job: Job


class TellStarted(NamedTuple):
    """Tell the client that these jobs run."""

    session: Hashable
    numbers: list[int]


class SetAside(NamedTuple):
    """Log that the worker gets no more of this session for now, and call `on_aside_told` in some seconds."""

    session: Hashable
    worker: Hashable
    reason: str


class WatchSetbacks(NamedTuple):
    """Call `on_aside_retry` every some minutes while the session `has_setbacks`."""

    session: Hashable


class TellAside(NamedTuple):
    """Tell the client which workers are set aside, and why."""

    session: Hashable
    workers: list[tuple[Hashable, str]]


Action = (
    Assign | Recall | StopJobs | TakeBack | Claim | Release | Deliver | GiveUp | TellCharges | TellStarted
    | SetAside | WatchSetbacks | TellAside
)  # fmt: skip

Holding = tuple[int, Hashable, int, int]
"""What a worker says it holds: dispatch, session, number, state."""


def merged(actions: list[Action]) -> list[Action]:
    """The same with one Claim, Release and StopJobs for each worker, instead of one for each dispatch."""
    merged: dict[Any, Any] = {}
    rest: list[Action] = []
    for action in actions:
        if isinstance(action, (Claim, Release, StopJobs)):
            merged.setdefault(
                (type(action), action.worker), type(action)(action.worker, [])
            ).dispatches.extend(action.dispatches)
        else:
            rest.append(action)
    return rest + list(merged.values())
