"""The vocabulary: one small class per message, which declares all that is fixed about it (see `cw.net.schema`).

The number is the kind of its frames (one number may stand for two messages, on different legs), the legs say who sends
it to whom, the types how it travels and what its values may be. The wire's tables, what a role accepts and most of what
the master demands follow from that; docs/protocol.md is made of it (`python -m cw.net.protocol`). A new message is a
class here, a sender and a handler.

The sender keeps the books of what the receiver holds of a session's objects (`cw.net.objects`): it sends
what is missing before it is needed and says `Forget`, so no receiver ever has to ask.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# isort: off
from cw.net.peer_messages import (
    PROTOCOL as PROTOCOL, Census as Census, Drain as Drain, Draining as Draining, End as End, Excuse as Excuse,
    Goodbye as Goodbye, Heartbeat as Heartbeat, Hello as Hello, Lent as Lent, Notice as Notice, Refused as Refused,
    InventoryEnd as InventoryEnd, Roster as Roster, Stay as Stay, Capacity as Capacity, Welcome as Welcome,
)  # fmt: skip
from cw.net.schema import (
    Count, Durations, F32s, Leg as Leg, Line, Payloads, U8s, U16s, U32Lists, U32s, U64s, batch, record,
    sent_on as sent_on,
)  # fmt: skip
# isort: on

# What a result is: the `statuses` of Results and JobResults.
DONE = 0  # the payload is the pickled value
ERROR = 1  # the payload is the pickled exception
TIMEOUT = 2  # it ran into its time limit: the payload is JSON, what JobTimeout says
INTERRUPTED = 3  # from a runner only: as ERROR, but SIGTERM came while the job ran
NOT_ENTERED = 4  # to a client only: as ERROR, but no worker could enter the call (see NotEntered)

# What an object is: the `kinds` of Objects.
FUNCTION = 0  # what a job names
VALUE = 1  # anything else that a function needs
ENVIRONMENT = 2  # where a session's jobs run: working directory, sys.path, versions

# In which state a worker holds a dispatch: the `states` of Holding.
UNSTARTED = 0
RUNNING = 1
FINISHED = 2  # what it came to is kept

_TO_RUNNER = Leg.CLIENT_MASTER, Leg.MASTER_WORKER, Leg.WORKER_RUNNER

# --- sessions ---------------------------------------------------------------------------------


@record(7, Leg.MASTER_CLIENT)
class Window(NamedTuple):
    """What a client may have at the master at one time. One job is always allowed, however large."""

    jobs: int
    size: int  # bytes of payload


@record(17, Leg.CLIENT_MASTER, is_ordered=True)
class ResubmitEnd(NamedTuple):
    """After the last Submit of them: all is handed in again that was at a master before."""


@record(23, Leg.MASTER_CLIENT, is_ordered=True)
class ResultHost(NamedTuple):
    """The JobResults after this come from this host. Only to a client that wants it."""

    host: str


@record(23, Leg.CLIENT_MASTER, is_ordered=True)
class WantsResultHost(NamedTuple):
    """This client records its results: it wants each Origin."""

    host: str = ""  # of the client, as it does not matter: empty


@record(11, Leg.CLIENT_MASTER, is_ordered=True)
class OptionSets(NamedTuple):
    """Options of jobs, named by number within the session, as objects are."""

    session: int
    number: int
    options: dict[str, Any]


@record(101, Leg.MASTER_WORKER, Leg.WORKER_RUNNER, is_ordered=True)
class Depth(NamedTuple):
    """How deep the session is, if not 0: to a worker, before the session's environment, and to a runner."""

    session: int
    depth: int


@record(10, Leg.MASTER_WORKER)
class CloseSession(NamedTuple):
    """A session is over: drop its jobs, end its runners."""

    session: int


@record(21, Leg.MASTER_WORKER, is_ordered=True)
class ForgetSession(NamedTuple):
    """Nothing more comes of this session, which is closed. Behind all that was sent of it."""

    session: int


@batch(64, *_TO_RUNNER)
class Objects(NamedTuple):
    """Objects, named by their number within the session, which never stands for another content."""

    sessions: U64s
    numbers: U32s
    kinds: U8s  # FUNCTION, VALUE or ENVIRONMENT
    needs: U32Lists  # numbers of those that must be there before it can be used, in order; they were sent before it
    payloads: Payloads


@batch(70, *_TO_RUNNER, is_ordered=True)
class Forget(NamedTuple):
    """These objects are not used again before they are sent again. What was sent before this may still use them."""

    sessions: U64s
    numbers: U32s


# --- jobs, on their way to a runner -----------------------------------------------------------


@batch(66, Leg.CLIENT_MASTER)
class Submit(NamedTuple):
    """Jobs from a client."""

    numbers: U64s  # the session's own
    functions: U32s  # objects
    options: U32s  # numbers of OptionSets; 0: none
    payloads: Payloads


@batch(32, Leg.CLIENT_MASTER)
class Cancel(NamedTuple):
    """These jobs are not wanted any more. Unstarted: never start; running: stop."""

    numbers: U64s


@batch(67, Leg.MASTER_WORKER)
class Dispatch(NamedTuple):
    """Jobs to a worker."""

    dispatches: U64s
    sessions: U64s
    numbers: U64s  # the session's
    functions: U32s  # objects
    avoid: U16s  # 1 + the slot on which it died before, or 0
    attempts: U8s  # attempt number, from 1
    timeouts: F32s  # seconds that it may run, or 0. (The one option that workers need: others stay with the master.)
    payloads: Payloads


@batch(121, Leg.MASTER_WORKER)
class Keep(NamedTuple):
    """Before a worker is sent these dispatches: what they return when their time is up is their result."""

    dispatches: U64s


@record(12, Leg.MASTER_WORKER)
class Recall(NamedTuple):
    """Give back up to `count` unstarted jobs. Answered by one Recalled."""

    count: int  # type: ignore[assignment]  # a tuple's method, which nobody calls


@batch(37, Leg.MASTER_WORKER)
class TakeBack(NamedTuple):
    """Return those of these dispatches that have not started."""

    dispatches: U64s


@batch(33, Leg.MASTER_WORKER)
class Stop(NamedTuple):
    """Drop these dispatches, unstarted or running; nobody waits for their results."""

    dispatches: U64s


@batch(38, Leg.MASTER_WORKER)
class Claim(NamedTuple):
    """Send what you kept of these dispatches, Results or RunnerDied (or return them)."""

    dispatches: U64s


@batch(39, Leg.MASTER_WORKER)
class Release(NamedTuple):
    """Nobody will ask for what these dispatches came to."""

    dispatches: U64s


@batch(68, Leg.WORKER_RUNNER)
class Run(NamedTuple):
    """Jobs to a runner. (`current.running` is one of them.)"""

    dispatches: U64s
    functions: U32s  # objects
    attempts: U8s  # attempt number, from 1
    timeouts: F32s  # seconds that it may run, or 0
    numbers: U64s  # the session's
    payloads: Payloads


@record(13, Leg.WORKER_RUNNER, is_ordered=True)
class Drop(NamedTuple):
    """What was sent before this and is not started, is not the runner's any more."""


# --- what jobs come to ------------------------------------------------------------------------


@batch(34, Leg.WORKER_MASTER)
class Started(NamedTuple):
    """These jobs run (told for jobs that take long, never one by one for short ones)."""

    numbers: U64s  # dispatch numbers


@batch(34, Leg.MASTER_CLIENT)
class JobsStarted(NamedTuple):
    """The same to their client."""

    numbers: U64s  # the session's


@batch(69, Leg.RUNNER_WORKER, Leg.WORKER_MASTER)
class Results(NamedTuple):
    """What jobs came to."""

    numbers: U64s  # dispatch numbers
    statuses: U8s  # DONE, ERROR or TIMEOUT; from a runner also INTERRUPTED
    seconds: Durations
    payloads: Payloads


@batch(69, Leg.MASTER_CLIENT)
class JobResults(NamedTuple):
    """What jobs came to, to their client."""

    numbers: U64s  # the session's
    statuses: U8s  # DONE, ERROR, TIMEOUT or NOT_ENTERED
    seconds: F32s
    payloads: Payloads


@record(15, Leg.RUNNER_WORKER)
class BigResult(NamedTuple):
    """A result whose payload comes as a memory file over the socket."""

    number: int
    status: int
    seconds: float
    size: int  # bytes


@batch(71, Leg.RUNNER_WORKER, Leg.WORKER_MASTER)
class NotEntered(NamedTuple):
    """The call was not entered, for a reason that may be the machine's."""

    dispatches: U64s
    general: U8s  # 1 if that holds for all calls of the session
    sizes: U16s  # bytes of the reason in words, with which the payload begins
    payloads: (
        Payloads  # then the pickled exception: the job's result, if the reason turns out to be the program's
    )


@record(9, Leg.WORKER_MASTER)
class RunnerDied(NamedTuple):
    """A runner died in the middle of a job."""

    dispatch: int
    note: dict[str, Any]  # where and how; with `loading` if the call had not been entered


@batch(35, Leg.WORKER_MASTER)
class Returned(NamedTuple):
    """These dispatches are not here any more. Not started; or stopped, as told."""

    dispatches: U64s


@batch(36, Leg.WORKER_MASTER)
class Recalled(NamedTuple):
    """Once for each Recall: these dispatches were not started and are not here any more."""

    dispatches: U64s


@batch(42, Leg.WORKER_MASTER)
class CutShort(NamedTuple):
    """From a worker that drains: these dispatches had started, and ended for no fault of theirs."""

    dispatches: U64s


@batch(40, Leg.WORKER_MASTER)
class Inventory(NamedTuple):
    """What a worker that joins holds."""

    dispatches: U64s
    sessions: U64s
    numbers: U64s  # the session's
    states: U8s  # UNSTARTED, RUNNING or FINISHED


@record(16, Leg.MASTER_CLIENT, Leg.CLIENT_MASTER)
class AttemptCounts(NamedTuple):
    """What has been charged to a job so far. The client keeps it, and hands it in again before the job."""

    number: int
    deaths: Count
    losses: Count
    notes: list[Any]


@record(8, Leg.MASTER_CLIENT)
class Lost(NamedTuple):
    """A job is given up: it was lost too often."""

    number: int
    reason: str
    notes: list[Any]  # one for each attempt


@batch(41, Leg.CLIENT_MASTER)
class Received(NamedTuple):
    """So many results have been delivered, of all that came over this connection."""

    counts: U64s


# --- between a worker and a runner ------------------------------------------------------------


@record(29, Leg.WORKER_RUNNER)
class Slot(NamedTuple):
    """The slot that a runner is on."""

    index: int  # type: ignore[assignment]  # the same
    cpus: int
    ends: float  # when what runs there is stopped (by time.monotonic()); -1: no end is known


@record(14, Leg.RUNNER_WORKER)
class Dropped(NamedTuple):
    """The Drop was read. Before it, nothing more is sent to the runner."""


@record(30, Leg.RUNNER_WORKER)
class Loading(NamedTuple):
    """A runner begins to load its first function, or has done so. It may die of what that imports."""

    is_loading: int  # 1: it begins


@record(120, Leg.RUNNER_WORKER, Leg.WORKER_MASTER)
class Remark(NamedTuple):
    """What the session's user should read, once of each kind."""

    session: int  # 0 from a runner, which has one
    kind: Line
    text: str


@record(102, Leg.RUNNER_WORKER)
class Waits(NamedTuple):
    """The job's main thread waits for jobs of its own."""

    number: int
    serial: int  # of this wait: 1, 2, ...
    master: str  # the start id of that at which it waits: the job's own


@record(103, Leg.RUNNER_WORKER)
class WaitOver(NamedTuple):
    """The wait is over."""

    serial: int
    is_patient: bool  # it waits for a Resume; else it goes on at once


@record(104, Leg.WORKER_RUNNER)
class Resume(NamedTuple):
    """Its job has its slot again, after the wait of this serial."""

    serial: int
