"""Part of the master's policy that says why the oldest job of a session waits, in one sentence: no clock, no socket.

    State ---> Survey: the workers, once for all sessions ---> why(session) ---> Reason: a cause, and a sentence
                                                                                    |
                              a client hears of it when it has lasted (`Wait`) <----'

The sentence speaks of "the program", so that a client and an observer can show it. It gives no advice: that depends
on where the reader is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence, Set
from enum import Enum
from functools import cached_property
from heapq import nlargest
from itertools import islice

from cw.master.observers.capacities import running_jobs
from cw.master.policy import shape_waits
from cw.master.policy.fit import NEVER, NOW, could_run, fit, serves, takes_some
from cw.master.policy.jobs import Pool, Queue, Session, SessionKey, Shape, Worker, WorkerKey
from cw.master.policy.stalls import stalled_by
from cw.master.policy.state import State
from cw.master.policy.to_come import NOTHING, ToCome
from cw.named_tuple import NamedTuple
from cw.needs_text import in_words
from cw.net import messages as m
from cw.net.schema import TEXT

NOTICE_SECONDS = 3.0
"""Time after which a client is notified of the reason why its jobs wait (seconds). Longer: a user wonders. Shorter:
lines about what is over at once."""

SURE_SECONDS = 0.5
"""The same for causes that do not pass by themselves (`SURE`). Longer: a user waits for what never happens. Shorter:
lines about workers that are about to join."""

NAMED = 3
"""Most clients that are named as the holders of slots."""


KEPT = "what is free is reserved for a job that needs more than one CPU"
STARTS = "the cluster starts workers as jobs need them"

LOOKED_AT = 16
"""Most jobs of a session that are looked at to see if it goes on. More: more time each second. Fewer: where the oldest
jobs wait for something special, those of all slots are counted."""


class Cause(Enum):
    """Kind of the reason why a job waits. The value travels to the client."""

    CLIENT_GONE = "client-gone"
    CLIENT_SLOW = "client-slow"
    SETTLING = "settling"
    NO_WORKER = "no-worker"
    TO_COME = "to-come"
    """No worker is there that could run it, and the cluster's tender could start one."""
    PAUSED = "paused"
    """The same, and the tender says why it does not."""
    TOO_LARGE = "too-large"
    """No worker could run it, and none is expected that could."""
    SEVERAL_NODES = "several-nodes"
    """The same, as it needs several nodes."""
    OTHER_PYTHON = "other-python"
    DRAINING = "draining"
    AWAY = "away"
    UNUSABLE = "unusable"
    ASIDE = "aside"
    TIME_LEFT = "time-left"
    STALLED = "stalled"
    LENT = "lent"
    RESERVED = "reserved"
    """A worker keeps room for it."""
    BUSY = "busy"
    """Jobs of other clients hold all slots."""
    OWN_JOBS = "own-jobs"
    """The program's own jobs run, on as many slots as it gets."""
    SOON = "soon"
    """A slot is free: the job is about to start."""


UNTOLD = {Cause.CLIENT_GONE, Cause.OWN_JOBS, Cause.SOON}
"""Causes of which a client does not hear: its jobs go on, or it is not there."""


PASSING = {Cause.CLIENT_SLOW, Cause.SETTLING, Cause.LENT, Cause.RESERVED, Cause.BUSY}
"""Causes that are no wait while results come."""


SURE = {Cause.TOO_LARGE, Cause.SEVERAL_NODES}
"""Causes that do not pass by themselves."""


class Reason(NamedTuple):
    """The reason why a session's oldest job waits."""

    cause: Cause
    text: str
    """One sentence without a full stop."""
    detail: Hashable = None
    """The reason is another one if this changes; numbers in the text may change without that."""


class PoolView:
    """The workers of one pool, at one moment."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self.busy: Reason | None = None
        """What is said of the holders to a session that holds no slot, once it was asked for."""
        self._able: dict[Shape, list[Worker]] = {}
        self.best: dict[Shape, shape_waits.Best] = {}
        """The worker that lacks least, of shapes that none could run, once it was asked for."""

    def able(self, shape: Shape) -> list[Worker]:
        """Return the workers that could run jobs of this shape. Looked for once for each shape."""
        if shape.is_plain:
            return self.workers
        if shape not in self._able:
            able = [w for w in self.workers if any(could_run(w, needs) for needs in shape.choices)]
            self._able[shape] = able
        return self._able[shape]

    @cached_property
    def holders(self) -> dict[SessionKey, int]:
        """Numbers of slots with a job, by session. Counted with a walk over all slots, once."""
        holders: defaultdict[SessionKey, int] = defaultdict(int)
        for worker in self.workers:
            for job in running_jobs(worker):
                holders[job.session.key] += 1
        return holders

    @cached_property
    def slots(self) -> int:
        """Number of slots."""
        slots = sum(worker.available + worker.extra for worker in self.workers)
        return max(slots, sum(self.holders.values()))

    @cached_property
    def has_shapes(self) -> bool:
        """True if some jobs take more than one CPU, so that slots do not say what is taken."""
        return any(worker.shaped is not None and worker.shaped.count for worker in self.workers)


class Survey:
    """The cluster at one moment, for `why` of any number of sessions.

    `name_of`: name of a session's client; `why_unusable()`: a worker's reason why it cannot use its slots, or '';
    `host_of`: host of a worker; `to_come`: the workers that a tender could start.
    """

    def __init__(
        self,
        state: State,
        name_of: Callable[[SessionKey], str] = str,
        why_unusable: Callable[[], str] = str,
        host_of: Callable[[WorkerKey], str] = str,
        to_come: ToCome = NOTHING,
    ) -> None:
        self.to_come = to_come
        self._state = state
        self._name_of = name_of
        self._why_unusable = why_unusable
        self._host_of = host_of
        self._views: dict[Pool, PoolView] | None = None
        self._stalled_by: dict[Pool, Set[int]] = {}

    def why(self, key: SessionKey, is_going_on: bool = False) -> Reason | None:
        """Return why this session's oldest job waits. None: none waits, at this master.

        `is_going_on`: the session's jobs run, as the caller knows, so it does not matter who holds the slots.
        """
        session = self._state.sessions[key]
        queues = [queue for queue in session.queues.values() if queue.head() is not None]
        if not queues and not session.settling:
            # (Those that run may wait for others, which find no slot.)
            return next(filter(None, map(self._stalled, self._pools_in_use(session))), None)
        if session.is_absent:
            return Reason(Cause.CLIENT_GONE, "its connection is lost: its jobs wait until it is back")
        if session.is_blocked:
            return Reason(
                Cause.CLIENT_SLOW,
                "the program does not take its results, so no more of its jobs start (a callback that takes long?)",
            )
        if not queues:
            return Reason(
                Cause.SETTLING,
                "the master has not heard yet from all workers that may hold the jobs which the program has handed in "
                "again: it waits for them for some seconds",
            )
        # (one for each shape: there are few)
        reasons = [(self._why_queue(queue, is_going_on), queue.shape) for queue in queues]
        reason = min((reason for reason, _ in reasons), key=_urgency)
        too_large = [shape for reason, shape in reasons if reason.cause in SURE]
        if len(too_large) < 2:
            return reason
        others = shape_waits.others(too_large[1:])
        return reason._replace(text=reason.text + others, detail=(reason.detail, others))

    def _pools_in_use(self, session: Session) -> list[Pool]:
        return [queue.pool for queue in session.queues.values()] if session.jobs else []

    def _view(self, pool: Pool) -> PoolView:
        views = self._views
        if views is None:
            views = self._views = {pool: PoolView() for pool in self._state.pools.values()}
            for worker in self._state.workers.values():
                views[worker.pool].workers.append(worker)
        return views.get(pool) or PoolView()

    def _why_queue(self, queue: Queue, is_going_on: bool) -> Reason:
        view = self._view(queue.pool)
        able = view.able(queue.shape)
        if not able:
            return self._nobody(queue, view)
        return (
            self._no_slot(queue, able)
            or self._no_time(queue, able)
            or self._stalled(queue.pool)
            or (Reason(Cause.OWN_JOBS, "its own jobs run") if is_going_on else self._taken(queue, view))
        )

    def _nobody(self, queue: Queue, view: PoolView) -> Reason:
        """Say that no worker is there that could run the queue's jobs."""
        job, shape, to_come = queue.head(), queue.shape, self.to_come
        if shape_waits.could_come(shape, 0.0 if job is None else job.min_time(), to_come):
            such = "" if shape.is_plain else f" with {in_words(shape.choices)}"
            return self._to_come(f"no worker{such} is connected yet")
        workers = view.workers or self._on_other_nodes(queue.pool)
        if not workers and not any(kind.python == shape.python for kind in to_come.kinds):
            return self._no_worker(queue)
        if shape_waits.could_come(shape, 0.0, to_come):
            assert job is not None
            return Reason(Cause.TIME_LEFT, _too_short(job.min_time()), job.min_time())
        best = view.best.get(shape)
        if best is None:
            best = view.best[shape] = shape_waits.best_of(shape, workers, to_come, self._host_of)
        has_several = best.needs.nodes > 1 and "nodes" in best.lacks
        return Reason(
            Cause.SEVERAL_NODES if has_several else Cause.TOO_LARGE,
            shape_waits.never(shape, best, len(workers)),
            (shape, best.where, best.has()),
        )

    def _on_other_nodes(self, pool: Pool) -> list[Worker]:
        """Return the workers of the same Python for jobs on any other number of nodes."""
        views = (self._view(other) for other in self._state.pools.values() if other.python == pool.python)
        return [worker for view in views for worker in view.workers]

    def _to_come(self, what: str) -> Reason:
        notice = self.to_come.notice
        return Reason(Cause.PAUSED if notice else Cause.TO_COME, f"{what}: {notice or STARTS}", what + notice)

    def _no_worker(self, queue: Queue) -> Reason:
        """Say that there is no worker of the queue's Python."""
        pythons = {pool.python for pool in self._state.pools.values() if pool.workers}
        nodes = queue.shape.choices[0].nodes
        if not pythons and nodes > 1:
            text = f"no worker is connected to the master, and the next job needs {nodes} nodes"
            return Reason(Cause.SEVERAL_NODES, text, nodes)
        if not pythons:
            return Reason(Cause.NO_WORKER, "no worker is connected to the master")
        own = "{}.{}".format(*queue.pool.python)
        names = ", ".join("{}.{}".format(*other) for other in sorted(pythons))
        return Reason(
            Cause.OTHER_PYTHON,
            f"the program runs Python {own}, but the connected workers run Python {names}: its jobs wait for workers "
            f"with Python {own}",
            names,
        )

    def _no_slot(self, queue: Queue, workers: Sequence[Worker]) -> Reason | None:
        """Say why none of these workers, which could run the queue's jobs, takes one, if that is so."""
        if any(worker.slots and not worker.is_away and takes_some(worker, queue) for worker in workers):
            return None
        if all(worker.is_draining for worker in workers):
            such = "" if queue.is_plain else f" with {in_words(queue.shape.choices)}"
            them = (
                f"the only worker{such} drains"
                if len(workers) == 1
                else f"all {len(workers)} workers{such} drain"
            )
            return Reason(Cause.DRAINING, f"{them}: no job starts there any more")
        open_here = [worker for worker in workers if worker.slots and serves(worker, queue)]
        if any(worker.is_away for worker in open_here):
            return Reason(
                Cause.AWAY, "the connection to its workers is lost: the master waits for them to come back"
            )
        if open_here:
            return Reason(
                Cause.ASIDE,
                "all workers are set aside for the program, since its calls could not be entered there; they are tried "
                "again in some minutes",
            )
        reason = self._why_unusable()
        return Reason(
            Cause.UNUSABLE,
            "no worker can start a process for the program's jobs" + (f" ({reason})" if reason else ""),
        )

    def _stalled(self, pool: Pool) -> Reason | None:
        """Say that jobs which wait for their own jobs hold all slots, if that is so. Looked for once in each pool."""
        if pool not in self._stalled_by:
            self._stalled_by[pool] = stalled_by(
                pool, self._state.sessions.values(), self._state.workers.values()
            )
        stalled = self._stalled_by[pool]
        if not stalled:
            return None
        return Reason(
            Cause.STALLED,
            "all slots are held by jobs that wait for jobs of their own, and these wait for a slot: nothing goes on. A "
            "job lends its slot while its main thread waits in result(), wait(), map or at the end of the block of its "
            "client, unless that has lend=False; otherwise there must be more slots than such jobs",
            frozenset(stalled),
        )

    def _taken(self, queue: Queue, view: PoolView) -> Reason:
        """Say who holds the slots."""
        head = queue.head()
        if not queue.is_plain:
            return self._shape_taken(queue, view)
        idle = [] if head is None else [w for w in queue.pool.idle if fit(head, w) is not NEVER]
        if any(worker.reservation is None for worker in idle):
            return Reason(Cause.SOON, "a slot is free: its next job is about to start")
        if idle:
            return Reason(Cause.RESERVED, KEPT)
        if own := view.holders.get(queue.session.key):
            if view.has_shapes:
                return Reason(Cause.OWN_JOBS, f"its own jobs run ({own}), and no CPU is free for more")
            held = _slots(own) if own == view.slots else f"{own} of {view.slots} slots"
            return Reason(Cause.OWN_JOBS, f"its own jobs hold {held}")
        if queue.pool.lending:
            return Reason(
                Cause.LENT,
                "no slot is free but those that jobs lend to jobs of their own, while they wait for these",
            )
        if view.busy is None:  # the same for all sessions
            what = "all slots or CPUs" if view.has_shapes else _slots(view.slots)
            view.busy = Reason(Cause.BUSY, f"jobs of other programs hold {what}: {self._who(view)}")
        return view.busy

    def _shape_taken(self, queue: Queue, view: PoolView) -> Reason:
        """Say who holds what the next job needs."""
        session, now = queue.session, self._state.tallies.now
        if text := shape_waits.reserved(queue, now, self._host_of):
            return Reason(Cause.RESERVED, text, queue.shape)
        openings = [opening for needs in queue.shape.choices if (opening := queue.pool.openings.get(needs))]
        head = queue.head()
        if head is not None and any(
            fit(head, worker) is NOW for opening in openings for worker in opening.free
        ):
            return Reason(Cause.SOON, "what its next job needs is free: it is about to start")
        if any(opening.kept for opening in openings):
            return Reason(Cause.RESERVED, KEPT)
        wanted = in_words(queue.shape.choices)
        if session.key in view.holders:
            return Reason(Cause.OWN_JOBS, f"its own jobs hold what the next one needs: {wanted}")
        return Reason(
            Cause.BUSY, f"the next job needs {wanted}, and jobs of other programs hold it: {self._who(view)}"
        )

    def _who(self, view: PoolView) -> str:
        """Name the programs whose jobs run, with the numbers of these."""
        largest = nlargest(NAMED, view.holders.items(), key=lambda item: item[1])
        who = ", ".join(f"{self._name_of(other)} ({count})" for other, count in largest)
        rest = len(view.holders) - NAMED
        return who + (f" and {rest} more" if rest > 0 else "")

    def _no_time(self, queue: Queue, workers: Sequence[Worker]) -> Reason | None:
        """Say that none of these workers has the time that the queue's next job needs, if that is so."""
        job = queue.head()
        if job is None or not job.min_time():
            return None
        if any(fit(job, worker, despite_setbacks=True) is not NEVER for worker in workers):
            return None
        if shape_waits.could_come(queue.shape, job.min_time(), self.to_come):
            return self._to_come(f"{_too_short(job.min_time())} yet")
        return Reason(Cause.TIME_LEFT, _too_short(job.min_time()), job.min_time())


def _urgency(reason: Reason) -> int:
    """Number of a reason; that with the least one is reported."""
    return 0 if reason.cause in SURE else 2 if reason.cause in UNTOLD else 1


def _too_short(seconds: float) -> str:
    return f"the next job needs {seconds:g} s (min_time), and no worker is there that long"


def _slots(number: int) -> str:
    return "the only slot" if number == 1 else f"all {number} slots"


def is_going_on(session: Session) -> bool:
    """True if one of the session's oldest jobs is at a worker."""
    return any(job.worker is not None for job in islice(session.jobs.values(), LOOKED_AT))


class Wait:
    """Decides when a client hears why its jobs wait, that the reason is another one, and that the wait is over."""

    def __init__(self) -> None:
        self._told: Reason | None = None
        self._seen: Reason | None = None
        self._since = 0.0  # when `_seen` was seen first
        self.delivered = 0
        """Number of the session's results at the last look."""

    def on_connected(self) -> None:
        """Begin anew: the client has forgotten what it was told over another connection."""
        self._told = self._seen = None

    def on_second(self, now: float, reason: Reason | None, delivered: int) -> m.Waiting | None:
        """Return the message to the client, if it is time for one. `delivered`: number of the session's results."""
        goes_on, self.delivered = delivered != self.delivered, delivered
        if reason is None or reason.cause in UNTOLD or (goes_on and reason.cause in PASSING):
            was_told, self._told, self._seen = self._told, None, None
            return m.Waiting("", "") if was_told else None
        if not _is_same(reason, self._seen):
            self._seen, self._since = reason, now
        after = SURE_SECONDS if reason.cause in SURE else NOTICE_SECONDS
        if _is_same(reason, self._told) or now - self._since < after:
            return None
        self._told = reason
        return m.Waiting(reason.cause.value, reason.text[:TEXT])


def _is_same(reason: Reason, other: Reason | None) -> bool:
    return other is not None and (reason.cause, reason.detail) == (other.cause, other.detail)
