"""The messages: one small class for each, which declares all that is fixed about it (see `cw.net.schema`).

The number is the kind of its frames (one number may stand for two messages, on different legs); the legs name the
senders and receivers; the types define how it travels and which values are valid. The tables of `cw.net.wire`, the
messages that a role accepts and most of the master's checks follow from that, and docs/protocol.md is generated from it
(`python -m cw.net.protocol`). A new message is a class here, a sender and a handler.

The sender tracks which of a session's objects the receiver holds (`cw.net.objects`): it sends missing ones before they
are needed, and `Forget`, so no receiver ever has to ask.
"""

from typing import Any

# isort: off
from cw.named_tuple import NamedTuple
from cw.net.peer_messages import (
    PROTOCOL as PROTOCOL, Capacity as Capacity, Drain as Drain, Draining as Draining, End as End, Forgive as Forgive,
    Goodbye as Goodbye, Heartbeat as Heartbeat, Hello as Hello, InventoryEnd as InventoryEnd, Lent as Lent,
    Notice as Notice, Refused as Refused, Roster as Roster, StatusReport as StatusReport, TakenOver as TakenOver,
    Waiting as Waiting, Welcome as Welcome, WorkerInfo as WorkerInfo,
)  # fmt: skip
from cw.net.passing_messages import (
    Digest as Digest, Fetch as Fetch, Held as Held, NotFetched as NotFetched, OpenPort as OpenPort,
    PortOpened as PortOpened, Promise as Promise, Want as Want, WantDigest as WantDigest,
)  # fmt: skip
from cw.net.observer_messages import (
    Backlog as Backlog, DemandReport as DemandReport, FunctionName as FunctionName, JobFailed as JobFailed,
    Look as Look, SnapshotReport as SnapshotReport, StopJob as StopJob, WantDemand as WantDemand,
    WantStatus as WantStatus, Watched as Watched, WorkersToCome as WorkersToCome,
)  # fmt: skip
from cw.net.output_messages import (
    STDERR as STDERR, STDOUT as STDOUT, RECORDS as RECORDS, JobKept as JobKept, JobOutput as JobOutput, Kept as Kept,
    Output as Output, OutputHost as OutputHost, OutputShare as OutputShare, Printed as Printed,
)  # fmt: skip
from cw.net.schema import (
    Count, Durations, F32s, Leg as Leg, Line, Payloads, U8s, U16s, U32Lists, U32s, U64s, batch, record,
    sent_on as sent_on,
)  # fmt: skip
# isort: on

# The kind of a result: the `statuses` of Results and JobResults.
DONE = 0  # the payload is the pickled value
ERROR = 1  # the payload is the pickled exception
TIMEOUT = 2  # it ran into its limit of time or memory: the payload is JSON, the content of the error
INTERRUPTED = 3  # from a runner only: as ERROR, but SIGTERM came while the job ran
NOT_ENTERED = 4  # to a client only: as ERROR, but no worker could enter the call (see NotEntered)
STOPPED_VALUE = 5  # from a runner only: as DONE, but SIGINT came while the job ran
STOPPED_ERROR = 6  # from a runner only: as ERROR, but SIGINT came while the job ran

# The kind of an object: the `kinds` of Objects.
FUNCTION = 0  # named by jobs
VALUE = 1  # anything else that a function needs
ENVIRONMENT = 2  # working directory, sys.path and versions of a session's jobs
OPTIONS = 3  # named by jobs: JSON of what the user asks for them (cw.requirements), which each role may open
SHARED = 4  # a value of cw.share, which functions need: it may be large, so it has bounds of its own

# The state of a dispatch at a worker: the `states` of Inventory.
UNSTARTED = 0
RUNNING = 1
FINISHED = 2  # its outcome is kept

_TO_RUNNER = Leg.CLIENT_MASTER, Leg.MASTER_WORKER, Leg.WORKER_RUNNER

# --- sessions ---------------------------------------------------------------------------------


@record(7, Leg.MASTER_CLIENT)
class Window(NamedTuple):
    """The limit of a client's open jobs at the master. One job is always allowed, of any size."""

    jobs: int
    size: int  # bytes of payload


@record(17, Leg.CLIENT_MASTER, is_ordered=True)
class ResubmitEnd(NamedTuple):
    """All open jobs that were at a master before have been resubmitted. Follows the last Submit of these."""


@record(23, Leg.MASTER_CLIENT, is_ordered=True)
class ResultHost(NamedTuple):
    """The JobResults after this come from this host. Sent only to a client that wants it."""

    host: str


@record(23, Leg.CLIENT_MASTER, is_ordered=True)
class WantsResultHost(NamedTuple):
    """This client stores its results: it wants each ResultHost."""

    host: str = ""  # always empty


@record(101, Leg.MASTER_WORKER, Leg.WORKER_RUNNER, is_ordered=True)
class Depth(NamedTuple):
    """The session's depth, if not 0. Sent to a worker before the session's environment, and to a runner."""

    session: int
    depth: int


@record(10, Leg.MASTER_WORKER)
class CloseSession(NamedTuple):
    """A session is over: drop its jobs, end its runners. Nothing more comes of it."""

    session: int


@batch(64, *_TO_RUNNER, Leg.WORKER_FETCHER)
class Objects(NamedTuple):
    """Objects, numbered within the session. A number never stands for a different content."""

    sessions: U64s
    numbers: U32s
    kinds: U8s  # FUNCTION, VALUE, ENVIRONMENT, OPTIONS or SHARED
    needs: U32Lists  # numbers of the objects that it needs, in order; they were sent before it
    payloads: Payloads


@batch(70, *_TO_RUNNER, is_ordered=True)
class Forget(NamedTuple):
    """These objects are not used again before they are sent again. Earlier jobs may still use them."""

    sessions: U64s
    numbers: U32s


@record(124, Leg.MASTER_CLIENT, Leg.WORKER_MASTER)
class SharedRoom(NamedTuple):
    """The sender has memory for this many bytes of shared values."""

    size: int


# --- jobs, on their way to a runner -----------------------------------------------------------


@batch(66, Leg.CLIENT_MASTER)
class Submit(NamedTuple):
    """Jobs from a client."""

    numbers: U64s  # within the session
    functions: U32s  # objects
    options: U32s  # objects; 0: none
    payloads: Payloads


@batch(72, Leg.CLIENT_MASTER)
class SubmitApart(NamedTuple):
    """Jobs apart from the order of numbers: they have a priority of their own, or raised an exception and are tried
    again. Those that were at a master before come before the ResubmitEnd."""

    numbers: U64s  # within the session
    functions: U32s  # objects
    options: U32s  # objects; 0: none
    tries: U8s  # tries before this one, at most 255
    payloads: Payloads


@batch(32, Leg.CLIENT_MASTER)
class Cancel(NamedTuple):
    """These jobs are not wanted any more. Unstarted ones never start; running ones are stopped."""

    numbers: U64s


@batch(67, Leg.MASTER_WORKER)
class Dispatch(NamedTuple):
    """Jobs to a worker."""

    dispatches: U64s
    sessions: U64s
    numbers: U64s  # within the session
    functions: U32s  # objects
    options: U32s  # objects; 0: none
    attempts: U8s  # attempt number, from 1
    payloads: Payloads


@batch(65, Leg.MASTER_WORKER, is_ordered=True)
class Avoid(NamedTuple):
    """The next Dispatch has jobs whose runner died on one of the worker's slots. They should run on another one."""

    dispatches: U64s
    slots: U16s


@batch(76, Leg.MASTER_WORKER, Leg.WORKER_RUNNER, is_ordered=True)
class Alternatives(NamedTuple):
    """The jobs that come next run as another of their alternatives than the first."""

    dispatches: U64s
    choices: U8s  # index of the alternative


@record(12, Leg.MASTER_WORKER)
class Recall(NamedTuple):
    """Give back up to `count` unstarted jobs. Answered by one Recalled."""

    count: int  # type: ignore[assignment]  # hides a method of tuple, which is never called


@batch(37, Leg.MASTER_WORKER)
class TakeBack(NamedTuple):
    """Return those of these dispatches that have not started."""

    dispatches: U64s


@batch(33, Leg.MASTER_WORKER)
class Stop(NamedTuple):
    """Drop these dispatches, unstarted or running: their results are not wanted."""

    dispatches: U64s


@batch(38, Leg.MASTER_WORKER)
class Claim(NamedTuple):
    """Send the kept outcome of these dispatches, Results or RunnerDied (or return them)."""

    dispatches: U64s


@batch(39, Leg.MASTER_WORKER)
class Release(NamedTuple):
    """The outcome of these dispatches will not be asked for any more."""

    dispatches: U64s


@batch(68, Leg.WORKER_RUNNER)
class Run(NamedTuple):
    """Jobs to a runner. (`current.running` is one of them.)"""

    dispatches: U64s
    functions: U32s  # objects
    options: U32s  # objects; 0: none
    attempts: U8s  # attempt number, from 1
    numbers: U64s  # within the session
    payloads: Payloads


@record(13, Leg.WORKER_RUNNER, is_ordered=True)
class Drop(NamedTuple):
    """Jobs that were sent before this and have not started are no longer the runner's."""


# --- outcomes of jobs -------------------------------------------------------------------------


@batch(34, Leg.WORKER_MASTER)
class Started(NamedTuple):
    """These jobs run. Reported for long jobs, never one by one for short ones."""

    numbers: U64s  # dispatch numbers


@batch(34, Leg.MASTER_CLIENT)
class JobsStarted(NamedTuple):
    """These jobs run. Reported to their client, as in Started."""

    numbers: U64s  # within the session


@batch(69, Leg.RUNNER_WORKER, Leg.WORKER_MASTER)
class Results(NamedTuple):
    """Results of jobs."""

    numbers: U64s  # dispatch numbers
    statuses: U8s  # DONE, ERROR or TIMEOUT; from a runner also INTERRUPTED, STOPPED_VALUE or STOPPED_ERROR
    seconds: Durations
    payloads: Payloads


@batch(69, Leg.MASTER_CLIENT)
class JobResults(NamedTuple):
    """Results of jobs, to their client."""

    numbers: U64s  # within the session
    statuses: U8s  # DONE, ERROR, TIMEOUT or NOT_ENTERED
    seconds: F32s
    payloads: Payloads


@record(15, Leg.RUNNER_WORKER)
class BigResult(NamedTuple):
    """A result with a payload that comes as a memory file over the socket."""

    number: int
    status: int
    seconds: float
    size: int  # bytes


@batch(71, Leg.RUNNER_WORKER, Leg.WORKER_MASTER)
class NotEntered(NamedTuple):
    """The call was not entered, for a reason that may lie in the machine."""

    dispatches: U64s
    general: U8s  # 1 if that holds for all calls of the session
    sizes: U16s  # bytes of the reason in words, with which the payload begins
    payloads: (
        Payloads  # then the pickled exception: the job's result, if the program turns out to be at fault
    )


@record(9, Leg.WORKER_MASTER)
class RunnerDied(NamedTuple):
    """A runner died while it ran a job."""

    dispatch: int
    note: dict[str, Any]  # where and how it died; with `loading` if the call had not been entered


@batch(35, Leg.WORKER_MASTER)
class Returned(NamedTuple):
    """These dispatches are not here any more: they had not started, or were stopped as ordered."""

    dispatches: U64s


@batch(36, Leg.WORKER_MASTER)
class Recalled(NamedTuple):
    """These dispatches had not started and are not here any more. Sent once for each Recall."""

    dispatches: U64s


@batch(42, Leg.WORKER_MASTER)
class CutShort(NamedTuple):
    """These dispatches had started, and were ended since their worker drains, which is not charged to them."""

    dispatches: U64s


@batch(40, Leg.WORKER_MASTER)
class Inventory(NamedTuple):
    """The dispatches that a worker that joins holds."""

    dispatches: U64s
    sessions: U64s
    numbers: U64s  # within the session
    states: U8s  # UNSTARTED, RUNNING or FINISHED


@record(16, Leg.MASTER_CLIENT, Leg.CLIENT_MASTER)
class AttemptCounts(NamedTuple):
    """The lost attempts charged to a job so far. The client keeps them, and sends them before it resubmits the job."""

    number: int
    crashes: Count
    worker_losses: Count
    notes: list[Any]


@record(8, Leg.MASTER_CLIENT)
class Lost(NamedTuple):
    """A job is given up: it was lost too often."""

    number: int
    reason: str
    notes: list[Any]  # one for each attempt
    is_stopped: bool = False  # it was stopped by an observer instead


@batch(41, Leg.CLIENT_MASTER)
class Received(NamedTuple):
    """The number of results that the client has received over this connection."""

    counts: U64s


# --- between a worker and a runner ------------------------------------------------------------


@record(29, Leg.WORKER_RUNNER)
class Slot(NamedTuple):
    """The slot of a runner."""

    index: int  # type: ignore[assignment]  # hides a method of tuple, which is never called
    cpus: int
    ends: float  # when its jobs are stopped (by time.monotonic()); -1: no end is known


@record(14, Leg.RUNNER_WORKER)
class Dropped(NamedTuple):
    """The Drop was read. Until this comes, nothing more is sent to the runner."""


@record(30, Leg.RUNNER_WORKER)
class Loading(NamedTuple):
    """A runner begins to load its first function, or has loaded it. The imports may kill it."""

    is_loading: int  # 1: it begins


@record(120, Leg.RUNNER_WORKER, Leg.WORKER_MASTER)
class Remark(NamedTuple):
    """A text that the session's user should read, once for each kind."""

    session: int  # 0 from a runner, which has only one
    kind: Line
    text: str


@record(102, Leg.RUNNER_WORKER)
class Waits(NamedTuple):
    """The job's main thread waits for jobs of its own."""

    number: int
    serial: int  # number of this wait: 1, 2, ...
    master: str  # start id of the master at which it waits: the job's own


@record(103, Leg.RUNNER_WORKER)
class WaitOver(NamedTuple):
    """The wait is over."""

    serial: int
    is_patient: bool  # if true, it waits for a Resume; otherwise it goes on at once


@record(104, Leg.WORKER_RUNNER)
class Resume(NamedTuple):
    """The job has its slot again, after the wait of this serial."""

    serial: int
