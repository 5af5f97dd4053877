"""The vocabulary: one small class per message.

    client              master              worker              runner
      | Hello              | Welcome            | Objects            |
      | Objects, Forget    | Objects, Forget    | Forget             |
      | OptionSets         | Dispatch           | Run                |
      | Submit             | Recall, TakeBack   | Drop               |
      | Cancel             |                    | Slot               |
      | Received           | Stop               |                    |
      | Charged, Roster    | Keep, Claim        |                    |
      |                    | Release            |                    |
      | HandedIn, Origin   | CloseSession       |                    |
      | Goodbye            | ForgetSession      | Depth, Resume      |
      |                    | Drain, Depth       |                    |
      | -----------------> | -----------------> | -----------------> |
      |                    |                    |                    |
      | Welcome, Window    | Hello              | Results            |
      | Notice, Roster     | Holding, Reported  | BigResult          |
      | Started            | Started            | Dropped            |
      | Origin, Results    | Results            |                    |
      | Charged, Lost      | Returned, Recalled |                    |
      |                    | RunnerDied         |                    |
      |                    | CutShort           | NotEntered         |
      |                    | NotEntered         |                    |
      |                    | Usable             | Remark, Loading    |
      |                    | Draining, Goodbye  |                    |
      |                    | Stay, Remark, Lent | Waits, WaitOver    |
      | <----------------- | <----------------- | <----------------- |

An observer (`cw.launch.inquiry`) says Hello and gets a Census; it may send Excuse, Drain and End.

Three shapes, and `wire` knows how each one travels:

* A *batch* holds columns, lists of equal length: one entry for each job. Batches with a column
  `payloads` go in the data lane of a connection, in order; those without overtake them.
* A *record* holds a few plain values (what JSON has), and is rare. It overtakes the payloads.

The sender keeps the books of what the receiver holds of a session's objects (`cw.net.objects`): it sends
what is missing before it is needed and says `Forget`, so no receiver ever has to ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

PROTOCOL = 2
"""Raised by one whenever two versions could no longer talk to each other."""

# What a result is: the `statuses` of Results.
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

Payload = Any  # a bytes-like object; opaque outside client and runner


# --- records, both ways ---------------------------------------------------------------------


class Hello(NamedTuple):
    """The first message of a peer. Nothing else is accepted before it."""

    role: str  # 'client', 'worker' or 'observer'
    ident: str  # of the session or the worker: 32 hexadecimal digits, random
    secret: str  # only who knows it may resume this session; '' for a worker
    protocol: int
    python: list[Any]  # [major, minor]
    version: str  # cw's own
    host: str
    pid: int
    slots: int  # 0 for others than workers
    handed: int = 0  # a client that was connected before: the highest number of a job that it has handed in
    takes_files: bool = True  # else it has no descriptors left: large payloads go to it as on a network
    depth: int = 0  # a client in a job: of its session (see cw.nested)
    parent: int = 0  # and the dispatch number of that job


class Welcome(NamedTuple):
    """The master accepts a peer."""

    ident: str  # the master's start id
    version: str
    silence: float  # seconds without a sign of life after which it takes a worker for lost
    takes_files: bool = True  # as in Hello


class Refused(NamedTuple):
    """The master turns a peer down, and closes."""

    reason: str


class Goodbye(NamedTuple):
    """The sender leaves on purpose: nothing that it holds is to be waited for.

    From a master, `is_final` means that no other one will take its place.
    """

    reason: str
    is_final: bool = True


class Heartbeat(NamedTuple):
    """A sign of life; any other byte is one too."""


class Notice(NamedTuple):
    """A sentence from the master that the client's user should read."""

    text: str


class Window(NamedTuple):
    """What a client may have at the master at one time: jobs, and bytes of payload.

    One job is always allowed, however large.
    """

    jobs: int
    size: int  # bytes


class Lost(NamedTuple):
    """A job is given up: it was lost too often. One note for each attempt."""

    number: int
    reason: str
    notes: list[Any]


class Charged(NamedTuple):
    """What has been charged to a job so far. The client keeps it, and hands it in again before the job."""

    number: int
    deaths: int
    losses: int
    notes: list[Any]


class HandedIn(NamedTuple):
    """From a client, after the last Submit of them: all is handed in again that was at a master before."""


class Roster(NamedTuple):
    """To a client: workers that joined, and that are gone. From a client that is back: those that were there before."""

    joined: list[Any]
    gone: list[Any]


class Origin(NamedTuple):
    """To a client that records its results: the Results after this come from this host. From a client, with no host:
    it wants to be told."""

    host: str


class Reported(NamedTuple):
    """From a worker that joins: all that it holds was named before this. It knows these sessions."""

    sessions: list[Any]


class Stay(NamedTuple):
    """From a worker that joins: how long it will be there, and where that is in words, if a launcher said so."""

    seconds: float  # until what runs there is stopped; -1: no end is known
    place: str


class Census(NamedTuple):
    """To an observer: how the cluster stands. `cw.launch.inquiry` says what is in it."""

    state: dict[str, Any]


class Excuse(NamedTuple):
    """From an observer: these workers (their idents) were lost with their machine or allocation. What was charged to
    the jobs there is taken back."""

    workers: list[Any]


class Drain(NamedTuple):
    """From an observer: these workers (their idents) are to finish what runs, and leave. To the worker: it is."""

    workers: list[Any]


class End(NamedTuple):
    """From an observer: the master is to end, and no other one will take its place."""

    reason: str


class Draining(NamedTuple):
    """From a worker: it finishes what runs, takes nothing more, and will leave."""


class Usable(NamedTuple):
    """From a worker: how many of its slots can be used now, where runners cannot be started; and the sessions for which
    none can. Until the next Usable; at the beginning all can."""

    slots: int
    not_for: list[Any]
    reason: str


class Remark(NamedTuple):
    """From a runner, and on to the master: what the session's user should read, once of each kind. (A runner has one
    session, and says 0.)"""

    session: int
    kind: str
    text: str


class Loading(NamedTuple):
    """From a runner: it begins to load its first function (1), or has done so (0). It may die of what that imports."""

    is_loading: int


class Lent(NamedTuple):
    """From a worker some of whose jobs wait for jobs of their own (see cw.nested), whenever it changes: how many jobs
    it holds beyond one for each slot that is taken; and for each slot that is lent and free, the depth that a session
    must exceed to use it. From a worker that joins nothing is lent until it says so."""

    extra: int
    floors: list[Any]


class RunnerDied(NamedTuple):
    """A runner died in the middle of a job, `dispatch`. Its note has `loading` if the call had not been entered."""

    dispatch: int
    note: dict[str, Any]


class ForgetSession(NamedTuple):
    """To a worker: nothing more comes of this session, which is closed. Behind all that was sent of it."""

    session: int


class CloseSession(NamedTuple):
    """A session is over: drop its jobs, end its runners."""

    session: int


class OptionSets(NamedTuple):
    """Options of jobs, named by number within the session, as objects are."""

    session: int
    number: int
    options: dict[str, Any]


class Recall(NamedTuple):
    """Give back up to `count` unstarted jobs. Answered by one Recalled."""

    count: int


class Slot(NamedTuple):
    """To a runner: the slot that it is on, and when what runs there is stopped (by time.monotonic(); -1: no end is
    known)."""

    index: int
    cpus: int
    ends: float


class Depth(NamedTuple):
    """To a worker, before a session's environment, and to a runner: how deep the session is, if not 0."""

    session: int
    depth: int


class Waits(NamedTuple):
    """From a runner: the job's main thread waits for jobs of its own at this master (its start id)."""

    number: int
    serial: int  # of this wait: 1, 2, ...
    master: str


class WaitOver(NamedTuple):
    """From a runner: the wait is over. It goes on at once, or (`is_patient`) waits for a Resume."""

    serial: int
    is_patient: bool


class Resume(NamedTuple):
    """To a runner: its job has its slot again, after the wait of this serial."""

    serial: int


class Drop(NamedTuple):
    """To a runner: what was sent before this and is not started, is not yours any more."""


class Dropped(NamedTuple):
    """From a runner: the Drop was read. Before it, nothing more is sent to the runner."""


# --- batches without payloads ----------------------------------------------------------------


class Cancel(NamedTuple):
    """From a client: these jobs are not wanted any more. Unstarted: never start; running: stop."""

    numbers: Sequence[int]


class Stop(NamedTuple):
    """To a worker: drop these dispatches, unstarted or running; nobody waits for their results."""

    dispatches: Sequence[int]


class Started(NamedTuple):
    """These jobs run (told for jobs that take long, never one by one for short ones).

    From worker to master the numbers are dispatch numbers, from master to client the session's.
    """

    numbers: Sequence[int]


class Returned(NamedTuple):
    """From a worker: these dispatches are not here any more. Not started; or stopped, as told."""

    dispatches: Sequence[int]


class CutShort(NamedTuple):
    """From a worker that drains: these dispatches had started, and ended for no fault of theirs."""

    dispatches: Sequence[int]


class Recalled(NamedTuple):
    """From a worker, once for each Recall: these dispatches were not started and are not here any more."""

    dispatches: Sequence[int]


class TakeBack(NamedTuple):
    """To a worker: return those of these dispatches that have not started."""

    dispatches: Sequence[int]


class Claim(NamedTuple):
    """To a worker: send what you kept of these dispatches, Results or RunnerDied (or return them)."""

    dispatches: Sequence[int]


class Keep(NamedTuple):
    """To a worker, before it is sent these dispatches: what they return when their time is up is their result."""

    dispatches: Sequence[int]


class Release(NamedTuple):
    """To a worker: nobody will ask for what these dispatches came to."""

    dispatches: Sequence[int]


class Holding(NamedTuple):
    """From a worker: a dispatch that it holds, of which job, and in which state."""

    dispatches: Sequence[int]
    sessions: Sequence[int]
    numbers: Sequence[int]
    states: Sequence[int]


class Received(NamedTuple):
    """From a client: so many results have been delivered, of all that came over this connection."""

    counts: Sequence[int]


class Forget(NamedTuple):
    """These objects are not used again before they are sent again. What was sent before this may still use them."""

    sessions: Sequence[int]
    numbers: Sequence[int]


# --- batches with payloads -------------------------------------------------------------------


class Objects(NamedTuple):
    """Objects, named by their number within the session, which never stands for another content. `needs`: the numbers
    of those that must be there before it can be used, in order; they were sent before it."""

    sessions: Sequence[int]
    numbers: Sequence[int]
    kinds: Sequence[int]
    needs: Sequence[Sequence[int]]
    payloads: Sequence[Payload]


class Submit(NamedTuple):
    """Jobs from a client; `numbers` are the session's own, `options` 0 means none."""

    numbers: Sequence[int]
    functions: Sequence[int]
    options: Sequence[int]
    payloads: Sequence[Payload]


class Dispatch(NamedTuple):
    """Jobs to a worker. `avoid`: 1 + the slot on which it died before, or 0; `attempts`: this is the how-manieth;
    `timeouts`: seconds that it may run, or 0. (The one option that workers need: the others stay with the master.)"""

    dispatches: Sequence[int]
    sessions: Sequence[int]
    numbers: Sequence[int]
    functions: Sequence[int]
    avoid: Sequence[int]
    attempts: Sequence[int]
    timeouts: Sequence[float]
    payloads: Sequence[Payload]


class Run(NamedTuple):
    """Jobs to a runner. (`current.running` is one of them.)"""

    dispatches: Sequence[int]
    functions: Sequence[int]
    attempts: Sequence[int]
    timeouts: Sequence[float]
    numbers: Sequence[int]
    payloads: Sequence[Payload]


class Results(NamedTuple):
    """What jobs came to: by dispatch number up to the master, by the session's after it."""

    numbers: Sequence[int]
    statuses: Sequence[int]
    seconds: Sequence[float]
    payloads: Sequence[Payload]


class NotEntered(NamedTuple):
    """From a runner, and on to the master: the call was not entered, for a reason that may be the machine's. `general`:
    1 if that holds for all calls of the session. A payload is the reason in words, `size` bytes, and the pickled
    exception: the job's result, if the reason turns out to be the program's."""

    dispatches: Sequence[int]
    general: Sequence[int]
    sizes: Sequence[int]
    payloads: Sequence[Payload]


class BigResult(NamedTuple):
    """From a runner: a result whose payload comes as a memory file over the socket."""

    number: int
    status: int
    seconds: float
    size: int  # bytes
