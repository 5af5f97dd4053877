"""A worker's policy: which runner gets which job; facts in, actions out, no I/O, time as an argument.

      on_jobs              SendJobs               (token taken)          on_results
     ---------> BACKLOG ------------> SENT AHEAD ---------------> RUNNING ---------> forgotten
                 ^  |                     |                          |
                 |  | Recalled,           | Retract, on_retracted    | on_runner_exited: TellDied;
                 |  | Return              |                          | where it was stopped Return, at its
                 '--+---------------------'                          | time limit TellExpired, cut short
                                                                     | as the worker ends TellCutShort

One slot runs one job at a time, in the runner of the job's *context* on that slot: its session, and the number of the
environment that its function needs. (A client that asks for fresh runners names a new environment.) Beside it may be
others that wait for jobs of their own: `cw.worker.lending`. A runner is sent
the jobs after its current one ahead, as many as it will need for AHEAD_SECONDS. Who owns a job that was sent ahead
is decided by the kernel: for each job a token is put in an eventfd, which the runner takes before it starts
the job, and the worker (`Retract`) to own the last of those sent. So a runner that is stuck in a long job, or
in C code that lets no line of Python run, loses its tail to an idle slot. It also shows when a job has started, from
when on its time limit counts.

A job that must end, ends with its runner (StopRunner): first all behind it is taken back, and a runner
that was signalled is never used again; its slot is free when its process is gone.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from cw.net.objects import Object

AHEAD_SECONDS = 0.03
"""Work sent ahead to a runner. Larger: more to retract. Smaller: it waits for the worker's next turn."""

AHEAD_JOBS = 256
"""Jobs sent ahead to a runner, however short."""

AHEAD_BYTES = 4 * 1024**2
"""Bytes sent ahead to a runner."""

STUCK_SECONDS = 0.01
"""A job that runs for longer makes what waits behind it available to idle slots."""

TOLD_SECONDS = 0.05
"""A job that runs for longer is reported as started. Shorter ones end before anybody could care."""

AVOID_SECONDS = 1.0
"""A job waits so long for another slot than the one where its runner died: the others may never be free."""

IDLE_RUNNERS = 4
"""Runners kept on one slot for sessions that may come back. Each is a process."""

CROWD = 32
"""Runners on one slot while as many sessions take turns on it. Fewer: with one session more than that, nearly every
turn waits for a new process, which takes as long as hundreds of short jobs."""

CROWD_SECONDS = 5.0
"""How long one of more than IDLE_RUNNERS is kept without work."""

IDLE_SECONDS = 300.0
"""How long such a runner is kept."""

RESTART_SECONDS = 1.0, 8.0
"""A slot whose runner ended before it started any job starts no other one for so long: at first, and at most."""

SMOOTHING = 0.2
"""Share of a new duration in a function's estimate."""


Context = tuple[int, int]
"""Session and environment."""


class Job:
    """A dispatch that this worker holds."""

    __slots__ = (
        "dispatch", "session", "number", "function", "context", "avoid", "attempt", "payload", "timeout",
        "stopped", "spared", "told", "expired", "is_cut", "keeps",
    )  # fmt: skip

    def __init__(
        self,
        dispatch: int,
        session: int,
        number: int,
        function: Object,
        avoid: int,
        attempt: int,
        payload: Any,
        timeout: float = 0.0,
    ) -> None:
        self.dispatch = dispatch
        self.session = session
        self.number = number  # within the session
        self.function = function
        self.context = session, function.runs_in
        self.avoid = avoid - 1  # the slot where it died before, or -1
        self.attempt = attempt  # the first, second, ... time that it is tried
        self.payload = payload
        self.stopped = False  # nobody waits for it any more
        self.spared = False  # nor is it to start; but if it has, it goes on
        self.told = False  # reported as started
        self.timeout = timeout  # seconds that it may run, or 0
        self.expired = False  # it has run for longer
        self.is_cut = False  # it ends with this worker, and runs again elsewhere
        self.keeps = False  # what it returns when its time is up is its result

    @property
    def must_end(self) -> bool:
        return self.stopped or self.expired or self.is_cut


class Runner:
    """A child process on one slot, for one session and environment."""

    __slots__ = (
        "key", "slot", "context", "session", "sent", "since", "began", "ended", "idle_since",
        "is_dropping", "is_ending", "is_stopping", "is_outdated",
    )  # fmt: skip

    def __init__(self, key: int, slot: Slot, context: Context) -> None:
        self.key = key
        self.slot = slot
        self.context = context
        self.session = context[0]
        self.sent: deque[Job] = deque()  # without result; the first one runs, or is about to
        self.since = 0.0  # when the first of them began, or was sent
        self.began = 0.0  # when it was seen to have begun; looked at only if it has a time limit
        self.ended = 0  # jobs so far
        self.idle_since = 0.0
        self.is_dropping = False  # something was retracted, and it has not read the Drop yet
        self.is_ending = False  # was told to end, was signalled, or is gone: never used again
        self.is_stopping = False  # was signalled, since its job is to end, and is not known to be gone
        # No function needs its environment any more: it ends when it has nothing to do.
        self.is_outdated = False


class Slot:
    """Where one job runs at a time."""

    __slots__ = ("index", "runners", "busy", "rests_until", "rest")

    def __init__(self, index: int) -> None:
        self.index = index
        self.runners: dict[Context, Runner] = {}  # least recently used first
        self.busy: Runner | None = None  # the one with jobs; or an ending one whose process is not gone
        self.rests_until = 0.0  # it starts no runner before
        self.rest = 0.0  # for how long it rested the last time, if no runner has worked here since


# --- actions ----------------------------------------------------------------------------------


class StartRunner(NamedTuple):
    """Start its process, in this environment."""

    runner: Runner
    environment: Object | None


class SendJobs(NamedTuple):
    """Put a token for each job, then send them."""

    runner: Runner
    jobs: list[Job]


class Retract(NamedTuple):
    """Take up to `count` tokens and report them with `on_retracted`, before the actions after this one."""

    runner: Runner
    count: int


class SendDrop(NamedTuple):
    """Tell the runner to pass over what it was sent and will find no token for."""

    runner: Runner


class EndRunner(NamedTuple):
    """Let an idle runner end by itself."""

    runner: Runner


class StopRunner(NamedTuple):
    """End it with what it runs, step by step: a job may clean up."""

    runner: Runner


class LookAtTokens(NamedTuple):
    """Call `on_tokens_seen` with the number that is left."""

    runner: Runner


class Return(NamedTuple):
    """Tell the master that these dispatches are not here any more."""

    dispatches: list[int]


class GiveBack(NamedTuple):
    """When the actions before this are done, call `on_give_back`."""

    count: int


class Recalled(NamedTuple):
    """Answer the master's recall."""

    dispatches: list[int]


class TellStarted(NamedTuple):
    """Tell the master that these run."""

    dispatches: list[int]


class TellDied(NamedTuple):
    """Tell the master that the runner died in the middle of this job."""

    job: Job
    note: dict[str, Any]


class TellExpired(NamedTuple):
    """Tell the master that the job ran into its time limit."""

    job: Job
    note: dict[str, Any]


class TellCutShort(NamedTuple):
    """Tell the master that these had started, and ended for no fault of theirs."""

    dispatches: list[int]


class TellLent(NamedTuple):
    """Tell the master how many jobs are here beyond one for each slot that is taken, and which depth a session must
    exceed to use each of the slots that are lent and free."""

    extra: int
    floors: list[int]


class Resume(NamedTuple):
    """Let the job that has waited for jobs of its own go on."""

    runner: Runner
    serial: int


class TellUsable(NamedTuple):
    """Tell the master how many slots can be used, and for which sessions none can."""

    slots: int
    not_for: list[int]


Action = (
    StartRunner | SendJobs | Retract | SendDrop | EndRunner | StopRunner | LookAtTokens
    | Return | GiveBack | Recalled | TellStarted | TellDied | TellExpired | TellCutShort | TellUsable
    | TellLent | Resume
)  # fmt: skip


class Slots:
    """The policy of one worker. `max_jobs`: a runner is replaced after so many; 0: never."""

    def __init__(self, count: int, max_jobs: int = 0) -> None:
        self.slots = [Slot(index) for index in range(count)]
        self._idle: dict[int, Slot] = {slot.index: slot for slot in self.slots}
        # Of cw.worker.lending: slots that waiting jobs have lent, and that are free; those to which a job comes back.
        self._lent: dict[int, Slot] = {}
        self._wanted: set[int] = set()
        self._backlog: deque[Job] = deque()
        self._runners: dict[int, Runner] = {}
        self._job_by_dispatch: dict[int, Job] = {}
        self._last_dispatch = 0  # they come in order
        self._stopped_early: set[int] = set()  # stops that overtook their dispatch
        self._spared_early: set[int] = set()  # and take-backs
        self._avoiding: deque[tuple[float, Job]] = deque()  # until when
        # Sessions whose CloseSession may have overtaken their jobs, or with runners; those whose jobs have all come.
        self._closed: set[int] = set()
        self._forgotten: set[int] = set()
        self._keys = 0
        self._resting: list[Slot] = []
        self._not_for: frozenset[int] = frozenset()  # sessions for which no slot can be used, as told
        self._usable = count  # slots, as told
        self._max_jobs = max_jobs
        self.is_draining = False

    # --- from the master ---

    def on_jobs(self, jobs: Sequence[Job], now: float) -> list[Action]:
        actions: list[Action] = []
        unwanted = []
        early = self._stopped_early | self._spared_early
        refused = self._closed | self._not_for if self._not_for else self._closed
        is_choosy = early or refused or self.is_draining
        held, append = self._job_by_dispatch, self._backlog.append
        for job in jobs:
            if is_choosy and (job.session in refused or job.dispatch in early or self.is_draining):
                unwanted.append(job.dispatch)
                continue
            if job.avoid >= 0:
                self._avoiding.append((now + AVOID_SECONDS, job))
            held[job.dispatch] = job
            append(job)
        if jobs:
            self._last_dispatch = jobs[-1].dispatch
            if early:
                for numbers in (self._stopped_early, self._spared_early):
                    numbers.difference_update(
                        [dispatch for dispatch in numbers if dispatch <= self._last_dispatch]
                    )
        if unwanted:
            actions.append(Return(unwanted))
        return actions + self._assign(now)

    def on_recall(self, count: int, now: float) -> list[Action]:
        """Give back unstarted jobs: the last of the backlog first, then what waits behind long jobs."""
        actions: list[Action] = []
        if count > len(self._backlog):
            for runner in self._runners.values():
                if self._is_stuck(runner, now):
                    actions += self._retract_tail(runner)
        return [*actions, GiveBack(count)]

    def on_give_back(self, count: int) -> list[Action]:
        """The second half of a recall, when what could be retracted is in the backlog."""
        found = [self._backlog.pop().dispatch for _ in range(min(count, len(self._backlog)))]
        self._forget(found)
        return [Recalled(found)]

    def on_stop(self, dispatches: Iterable[int], now: float) -> list[Action]:
        """Nobody waits for these any more, started or not."""
        gone: list[int] = []
        for dispatch in dispatches:
            job = self._job_by_dispatch.get(dispatch)
            if job is not None:
                job.stopped = True
            elif dispatch > self._last_dispatch:  # else it has ended
                self._stopped_early.add(dispatch)
        if any(job.stopped for job in self._backlog):
            gone = [job.dispatch for job in self._backlog if job.stopped]
            self._backlog = deque(job for job in self._backlog if not job.stopped)
        # Take back everything first: the next job must not be hit by what ends this one.
        actions: list[Action] = [
            Retract(runner, AHEAD_JOBS)
            for runner in self._runners.values()
            if not runner.is_ending and any(job.stopped for job in runner.sent)
        ]
        hit = bool(actions)
        self._forget(gone)
        if gone:
            actions.append(Return(gone))
        return actions if hit else actions + self._assign(now)  # nothing is sent before all is taken back

    def on_take_back(self, dispatches: Iterable[int], now: float) -> list[Action]:
        """These are not to start; those that have, go on."""
        for dispatch in dispatches:
            job = self._job_by_dispatch.get(dispatch)
            if job is not None:
                job.spared = True
            elif dispatch > self._last_dispatch:
                self._spared_early.add(dispatch)
        gone = [job.dispatch for job in self._backlog if job.spared]
        if gone:
            self._backlog = deque(job for job in self._backlog if not job.spared)
            self._forget(gone)
        actions: list[Action] = [Return(gone)] if gone else []
        actions += [
            Retract(runner, AHEAD_JOBS)
            for runner in self._runners.values()
            if not runner.is_ending and any(job.spared for job in runner.sent)
        ]
        return actions if len(actions) > bool(gone) else actions + self._assign(now)

    def on_drain(self) -> list[Action]:
        """From now on nothing starts here: what has not started is returned, also what still comes. Runners end that
        have nothing to do: threads that jobs have left there get the time that there is."""
        self.is_draining = True
        gone = [job.dispatch for job in self._backlog]
        self._backlog.clear()
        self._forget(gone)
        actions: list[Action] = [Return(gone)] if gone else []
        return (
            actions
            + [
                Retract(runner, AHEAD_JOBS)
                for runner in self._runners.values()
                if runner.sent and not runner.is_ending
            ]
            + [action for runner in self._idle_runners() for action in self._end(runner)]
        )

    def on_time_up(self) -> list[Action]:
        """This worker, which drains, ends in a moment: stop what runs, step by step."""
        actions: list[Action] = []
        for runner in self._runners.values():
            if runner.sent and not runner.is_ending:
                for job in runner.sent:
                    job.is_cut = True
                actions.append(Retract(runner, AHEAD_JOBS))  # then it is stopped
        return actions

    def is_empty(self) -> bool:
        """Is there no job here?"""
        return not self._job_by_dispatch

    def has_runners(self) -> bool:
        """Is there a runner whose process is not gone?"""
        return bool(self._runners)

    def holdings(self) -> list[tuple[Job, bool]]:
        """All jobs that are wanted here, and whether each may have started."""
        running = {runner.sent[0].dispatch for runner in self._runners.values() if runner.sent}
        return [(job, job.dispatch in running) for job in self._job_by_dispatch.values() if not job.stopped]

    def jobs(self, dispatches: Iterable[int]) -> list[Job]:
        """The jobs of these dispatches, which are here."""
        return [self._job_by_dispatch[dispatch] for dispatch in dispatches]

    def on_joined(self) -> list[Action]:
        """A master is there, perhaps another: what the one before said has all arrived."""
        self._last_dispatch = 0
        self._stopped_early.clear()
        self._spared_early.clear()
        self._usable, self._not_for = len(self.slots), frozenset()
        return self._tell_usable()

    def on_session_opened(self, session: int) -> None:
        """It is there (again): its jobs are welcome."""
        self._closed.discard(session)
        self._forgotten.discard(session)

    def on_session_forgotten(self, session: int) -> None:
        """It is closed, and no job of it comes any more."""
        self._forgotten.add(session)

    def on_session_closed(self, session: int, now: float) -> list[Action]:
        self._closed.add(session)
        dispatches = [d for d, job in self._job_by_dispatch.items() if job.session == session]
        actions = self.on_stop(dispatches, now)
        for runner in list(self._runners.values()):
            if runner.session == session:
                if not runner.sent and not runner.is_ending:
                    actions += self._end(runner)
        return actions

    def on_environment_forgotten(self, session: int, environment: int, now: float) -> list[Action]:
        """No function needs this environment any more: its runners end when they have nothing to do."""
        actions: list[Action] = []
        for runner in list(self._runners.values()):
            if runner.context == (session, environment):
                runner.is_outdated = True
                if not runner.sent and not runner.is_ending:
                    actions += self._end(runner)
        return actions + self._assign(now) if actions else []

    # --- from the runners ---

    def on_results(
        self, runner: Runner, dispatches: Sequence[int], seconds: Sequence[float], now: float
    ) -> list[Action]:
        """The runner's first jobs have ended, in the order in which they were sent."""
        sent = runner.sent
        for dispatch, lasted in zip(dispatches, seconds, strict=True):
            job = sent.popleft()
            assert job.dispatch == dispatch, "a runner answers in order"
            estimate = job.function.estimate
            known = estimate.seconds
            estimate.seconds = lasted if known == math.inf else known + (lasted - known) * SMOOTHING
            del self._job_by_dispatch[dispatch]
        runner.since = now
        runner.began = 0.0
        runner.slot.rest = 0.0
        runner.ended += len(dispatches)
        if sent:
            if sent[-1].stopped or sent[-1].is_cut:
                return self._stop_if_running(runner)
            return self._top_up(runner, now)
        if (
            runner.is_stopping
        ):  # what was to end has ended; the process follows by itself, or by the next step
            return [EndRunner(runner), *self._assign(now)]
        if runner.is_ending:
            return self._assign(now)
        return self._free(runner, now) + self._assign(now)

    def on_retracted(self, runner: Runner, count: int, now: float) -> list[Action]:
        """The last `count` of the jobs sent are the worker's again; the runner will not start them."""
        back = [runner.sent.pop() for _ in range(count)]
        actions: list[Action] = []
        if count and not runner.is_dropping:  # one Drop will do: nothing was sent behind it
            runner.is_dropping = True
            actions.append(SendDrop(runner))
        actions += self._put_back(back)
        if runner.sent:
            actions += self._stop_if_running(runner)
        elif runner.slot.busy is runner and not runner.is_ending:
            actions += self._free(runner, now)
        return actions + self._assign(now)

    def on_dropped(self, runner: Runner, now: float) -> list[Action]:
        """The runner has read the Drop: it may be sent jobs again."""
        runner.is_dropping = False
        return self._assign(now)

    def on_tokens_seen(self, runner: Runner, count: int, now: float) -> None:
        """So many of the jobs sent to it have not started."""
        if count < len(runner.sent) and not runner.began:
            runner.began = now

    def on_runner_gone(self, runner: Runner) -> None:
        """Its process is gone; its last results are yet to be reported, then `on_runner_exited`."""
        self._retire(runner)
        runner.is_stopping = False

    def on_runner_exited(
        self, runner: Runner, unstarted: int, note: dict[str, Any], now: float, was_told_to: bool = False
    ) -> list[Action]:
        """Its process is gone, its last results are reported, and `unstarted` tokens were left.

        `was_told_to`: it ended in a way in which processes are told to.
        """
        actions: list[Action] = []
        slot, sent = runner.slot, runner.sent
        had_work = bool(sent)
        back = [sent.pop() for _ in range(min(unstarted, len(sent)))]
        gone = [job.dispatch for job in sent if job.stopped]
        for job in sent:
            if job.stopped:
                continue
            if job.expired:
                actions.append(TellExpired(job, note))
            elif job.is_cut or (was_told_to and self.is_draining):
                actions.append(TellCutShort([job.dispatch]))
            else:
                actions.append(TellDied(job, note))
        is_unfit = had_work and not sent and not runner.ended  # (one that has worked is replaced at once)
        if is_unfit and not any(job.stopped or job.spared for job in back):
            slot.rest = min(max(2 * slot.rest, RESTART_SECONDS[0]), RESTART_SECONDS[1])
            slot.rests_until = now + slot.rest
            if slot not in self._resting:
                self._resting.append(slot)
        self._forget([job.dispatch for job in sent])
        if gone:
            actions.append(Return(gone))
        actions += self._put_back(back)
        del self._runners[runner.key]
        if slot.runners.get(runner.context) is runner:
            del slot.runners[runner.context]
        actions += self._vacate(runner)
        if self._resting:
            actions += self._tell_usable()
        return actions + self._assign(now)

    # --- time ---

    def wants_tick(self) -> bool:
        return len(self._idle) < len(self.slots) or bool(self._backlog) or bool(self._resting)

    def on_tick(self, now: float) -> list[Action]:
        """Called every some 10 ms while `wants_tick`."""
        actions: list[Action] = []
        expired: list[Action] = []
        started = []
        for runner in self._at_work():
            job = runner.sent[0]
            if not job.told and now - runner.since > TOLD_SECONDS:
                job.told = True
                started.append(job.dispatch)
            if job.timeout and not job.expired and not runner.is_ending:
                if not runner.began:
                    actions.append(LookAtTokens(runner))
                elif now - runner.began >= job.timeout:
                    job.expired = True
                    expired.append(Retract(runner, AHEAD_JOBS))  # then it is stopped
        if started:
            actions.append(TellStarted(started))
        while self._avoiding and self._avoiding[0][0] <= now:
            self._avoiding.popleft()[1].avoid = -1
        if self._resting:
            self._resting = [slot for slot in self._resting if slot.rests_until > now]
            actions += self._tell_usable()
        if self._backlog:
            actions += self._assign(now)
        actions += expired  # last: what they give back may go to a runner that is started just now
        if any(slot.rests_until <= now for slot in self._idle.values()):
            for runner in self._runners.values():
                if self._is_stuck(runner, now):
                    actions += self._retract_tail(runner)
        return actions

    def on_second(self, now: float) -> list[Action]:
        """Called every second: runners that nobody has used for long are ended."""
        actions: list[Action] = []
        for runner in list(self._runners.values()):
            if not runner.sent and not runner.is_ending:
                is_extra = len(runner.slot.runners) > IDLE_RUNNERS
                if now - runner.idle_since > (CROWD_SECONDS if is_extra else IDLE_SECONDS):
                    actions += self._end(runner)
        if self._forgotten:
            gone = self._forgotten - {runner.session for runner in self._runners.values()}
            self._forgotten -= gone
            self._closed -= gone
        return actions

    # --- inside ---

    def _tell_usable(self) -> list[Action]:
        """Where runners cannot be started: tell, and return what would wait for one."""
        can_start = len(self.slots) - len(self._resting)
        usable = can_start + sum(bool(slot.runners) for slot in self._resting)
        not_for: frozenset[int] = frozenset()
        if not can_start:
            contexts = {context for slot in self.slots for context in slot.runners}
            sessions = {session for session, _ in contexts}
            not_for = frozenset(job.session for job in self._backlog if job.context not in contexts)
            not_for |= self._not_for - sessions
        actions: list[Action] = []
        if (usable, not_for) != (self._usable, self._not_for):
            self._usable, self._not_for = usable, not_for
            actions.append(TellUsable(usable, sorted(not_for)))
        gone = [job.dispatch for job in self._backlog if job.session in not_for]
        if gone:
            self._backlog = deque(job for job in self._backlog if job.session not in not_for)
            self._forget(gone)
            actions.append(Return(gone))
        return actions

    def _assign(self, now: float) -> list[Action]:
        """Give waiting jobs to idle slots; then send ahead."""
        actions: list[Action] = []
        while self._backlog and self._idle:
            found = self._next_pair(now)
            if found is None:
                break
            position, slot = found
            actions += self._give(position, slot, now)
        if self._lent and self._backlog:
            actions += self._assign_lent(now)
        if self._backlog and not self._idle:
            for slot in self.slots:
                if slot.busy is not None:
                    actions += self._top_up(slot.busy, now)
                    if not self._backlog:
                        break
        return actions

    def _give(self, position: int, slot: Slot, now: float) -> list[Action]:
        """Give the job that waits at this position to a slot that runs none."""
        actions: list[Action] = []
        job = self._backlog[position]
        del self._backlog[position]
        runner = slot.runners.pop(job.context, None)
        if runner is None:
            actions += self._make_room(slot, job.context)
            self._keys += 1
            runner = self._runners[self._keys] = Runner(self._keys, slot, job.context)
            actions.append(StartRunner(runner, job.function.environment))
        slot.runners[job.context] = runner
        slot.busy = runner
        self._idle.pop(slot.index, None)
        self._lent.pop(slot.index, None)
        runner.since = now
        runner.sent.append(job)
        actions.append(SendJobs(runner, [job]))
        return actions

    def _assign_lent(self, now: float) -> list[Action]:
        return []

    def _at_work(self) -> list[Runner]:
        """The runners with a job that may run."""
        return [slot.busy for slot in self.slots if slot.busy is not None and slot.busy.sent]

    def _next_pair(self, now: float) -> tuple[int, Slot] | None:
        """The first waiting job for which there is a slot, and the slot: one with a runner, if possible."""
        hopeless: set[Context] = set()  # for which no slot can be used now
        for position, job in enumerate(self._backlog):
            if job.context in hopeless:
                continue
            best = None
            for slot in self._idle.values():
                if slot.index == job.avoid and len(self.slots) > 1:
                    continue
                runner = slot.runners.get(job.context)
                if runner is None:
                    best = best or (slot if slot.rests_until <= now else None)
                elif not runner.is_dropping:
                    return position, slot
            if best is not None:
                return position, best
            if job.avoid < 0:
                hopeless.add(job.context)
        return None

    def _top_up(self, runner: Runner, now: float) -> list[Action]:
        """Send ahead what the runner will need soon."""
        backlog, sent = self._backlog, runner.sent
        if not backlog or runner.is_ending or runner.is_dropping or not sent or self._idle:
            return []
        if runner.slot.index in self._wanted:
            return []
        if now - runner.since > STUCK_SECONDS or sent[-1].stopped or sent[0].expired:
            return []  # its job is longer than was thought, or is to be ended
        job = backlog[0]
        seconds = job.function.estimate.seconds
        if job.context != runner.context or seconds > AHEAD_SECONDS or job.avoid >= 0:
            return []
        full = min(AHEAD_JOBS, int(AHEAD_SECONDS / (seconds + 1e-9)) + 1)
        if len(sent) > max(2, full // 2):
            return []  # a full frame later costs less than a few jobs now
        if self._max_jobs:
            full = min(full, self._max_jobs - runner.ended)
        share = -(-len(backlog) // len(self.slots))
        jobs: list[Job] = []
        size = 0
        for _ in range(min(full - len(sent), share)):
            job = backlog[0]
            size += len(job.payload)
            if job.context != runner.context or job.avoid >= 0 or size > AHEAD_BYTES:
                break
            if job.function.estimate.seconds > AHEAD_SECONDS:
                break
            jobs.append(backlog.popleft())
        sent.extend(jobs)
        return [SendJobs(runner, jobs)] if jobs else []

    def _is_stuck(self, runner: Runner, now: float) -> bool:
        return (
            len(runner.sent) > 1
            and not runner.is_dropping
            and not runner.is_ending
            and now - runner.since > STUCK_SECONDS
        )

    def _retract_tail(self, runner: Runner) -> list[Action]:
        return [Retract(runner, len(runner.sent) - 1)]

    def _stop_if_running(self, runner: Runner) -> list[Action]:
        """End the runner if what it runs is to end. All behind that has been taken back; where there is
        something before it, that has ended and its result is on its way: then it is seen to when it is here."""
        sent = runner.sent
        if runner.is_ending or len(sent) != 1 or not sent[0].must_end:
            return []
        self._retire(runner)
        runner.is_stopping = True
        return [StopRunner(runner)]

    def _free(self, runner: Runner, now: float) -> list[Action]:
        """The runner has nothing to do: its slot is idle."""
        if self._max_jobs and runner.ended >= self._max_jobs:
            self._retire(runner)  # and the slot is free when its process is gone
            return [EndRunner(runner)]
        runner.idle_since = now
        actions = self._vacate(runner)
        is_over = runner.is_outdated or runner.session in self._closed or self.is_draining
        return actions + self._end(runner) if is_over else actions

    def _vacate(self, runner: Runner) -> list[Action]:
        """The runner has no job any more, or is gone: its slot is free."""
        slot = runner.slot
        if slot.busy is runner:
            slot.busy = None
            self._idle[slot.index] = slot
        return []

    def _put_back(self, jobs: list[Job]) -> list[Action]:
        """What was sent ahead, the last one first, is the worker's again."""
        gone = [job.dispatch for job in jobs if job.stopped or job.spared or self.is_draining]
        if not gone:
            self._backlog.extendleft(jobs)
            return []
        self._forget(gone)
        self._backlog.extendleft(job for job in jobs if job.dispatch in self._job_by_dispatch)
        return [Return(gone)]

    def _idle_runners(self) -> list[Runner]:
        return [runner for runner in self._runners.values() if not runner.sent and not runner.is_ending]

    def _make_room(self, slot: Slot, context: Context) -> list[Action]:
        """A runner of this context is about to start there: those of older environments of its session give way."""
        session, environment = context
        actions: list[Action] = []
        for other in list(slot.runners.values()):
            if other.session == session and other.context[1] < environment and not other.sent:
                actions += self._end(other)
        while len(slot.runners) >= CROWD:
            idle = next((runner for runner in slot.runners.values() if not runner.sent), None)
            if idle is None:
                break
            actions += self._end(idle)
        return actions

    def _end(self, runner: Runner) -> list[Action]:
        self._retire(runner)
        return [EndRunner(runner)]

    def _retire(self, runner: Runner) -> None:
        """It is never used again."""
        runner.is_ending = True
        if runner.slot.runners.get(runner.context) is runner:
            del runner.slot.runners[runner.context]

    def _forget(self, dispatches: Iterable[int]) -> None:
        for dispatch in dispatches:
            self._job_by_dispatch.pop(dispatch, None)

    def _is_lender(self, runner: Runner) -> bool:
        return False

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself. For tests."""
        places: list[Job] = [*self._backlog]
        for runner in self._runners.values():
            places += runner.sent
            if runner.sent:
                assert runner.slot.busy is runner or self._is_lender(runner)
            assert len({job.context for job in runner.sent} - {runner.context}) == 0
        assert len(places) == len({job.dispatch for job in places})
        assert {job.dispatch for job in places} == set(self._job_by_dispatch)
        for slot in self.slots:
            assert (slot.busy is None) == (slot.index in self._idle or slot.index in self._lent)
            assert all(runner.slot is slot and not runner.is_ending for runner in slot.runners.values())
