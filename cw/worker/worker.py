"""`python -m cw.worker HOST`: slots, and what the master and the runners have to say to each other.

    master <==> Uplink --> _on_<message> ---> Slots.on_*() ---> actions ---> Runners <==> runners
                  ^                                ^                           |
                  '----- Results, ...  <-----------'--- _on_results, exited <--'

It holds one connection to the master, whatever its number of slots. It runs no user code and opens no payload:
nothing that a job does stops it from answering, or from ending a job that must end. All in here runs in the
loop's thread.

Told to end, it *drains*: it returns what has not started, finishes what runs within its grace, stops the rest step by
step, waits for what jobs have left in their runners, and says goodbye.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cw import location, program
from cw.net import address
from cw.net import messages as m
from cw.net.loop import Loop
from cw.net.objects import Object, SessionObjects, closure
from cw.version import VERSION
from cw.worker import keeper, lending, slots
from cw.worker.kept import Kept
from cw.worker.runners import END_SECONDS, STOP_SECONDS, Runners
from cw.worker.uplink import Uplink

logger = logging.getLogger("cw.worker")
_lines = program.RateLimited(logger)

TICK_SECONDS = 0.02

REPEATED_SECONDS = 2.0
"""A SIGTERM within that time of the first is the same one: Slurm sends it twice within 50 ms."""

MOST_SECONDS = 1e9
"""An end that is farther away is none."""

END_MARGIN = 5.0
"""Seconds before the end of its allocation by which a worker has stopped what runs and is gone. Of a short allocation,
a quarter at most: what runs is stopped step by step in that time, and what came of it is reported."""

STOP_RESERVE = 1.0
"""Seconds beside those of the steps in which what runs is stopped, until the worker has reported what came of it."""

END_DRAIN = 60.0
"""Seconds before that from when on it starts nothing. Longer: slots idle. Shorter: more jobs are begun in vain. Of a
short allocation, a tenth at most."""

NOTICE_SECONDS = 130.0
"""A notice that comes when the end is known to be nearer is that of this end. It may be a minute early, so the worker
goes by what it knows itself."""

TAKEN_SECONDS = 2.0
"""For which a worker that has nothing more to do waits until its results are known to be with their clients. Shorter:
more runs again should the master end now. Longer: it stays for clients that are gone without a word."""

SUSPECT_SECONDS = 0.5
"""A job that fails just after its runner got SIGTERM is held back for so long: if this worker is told to end too, as
on a node that goes, the job was cut short."""

TOLD_TO_END = frozenset({"killed by SIGTERM", "killed by SIGINT", "killed by SIGHUP"})
"""How a runner may end because its machine is being cleared."""


Outcome = tuple[slots.Job, int, float, Any]
"""What a job came to: status, seconds, payload."""


class Settings(NamedTuple):
    """Limits, in seconds, as the options of `cw.worker` say."""

    silence: float = 30.0
    """Without a sign of life for so long, the master is taken for gone."""
    reconnect_timeout: float = 300.0
    """For which it looks for a lost master while its runners go on; then it ends them, and waits on."""
    grace: float = 20.0
    """For which running jobs may go on when it was told to end. Slurm kills 30 s after its SIGTERM."""
    lifetime: float = math.inf
    """After which it leaves as if told to end."""
    until: float = math.inf
    """When its allocation ends (seconds since 1970): what runs is stopped END_MARGIN before that."""
    max_jobs: int = 0
    """Jobs after which a runner is replaced by a new one; 0: never."""


class Worker:
    """One worker process. `ident` is random: the master tells it by that from all others."""

    def __init__(
        self,
        loop: Loop,
        count: int,
        find: Callable[[], list[address.Candidate]],
        settings: Settings = Settings(),  # noqa: B008  (it is immutable)
        descriptors: tuple[int, int] | None = None,
    ) -> None:
        """`descriptors`: how many the jobs' processes may have (soft and hard limit); None: as many as this one."""
        self.ident = secrets.token_hex(16)
        self.on_joined: Callable[[], None] = lambda: None
        self.failure: str = ""
        """Why it ended, if it could not go on."""
        self._loop = loop
        self._count = count
        self._settings = settings
        self._slots = lending.Slots(count, settings.max_jobs)
        hello = m.Hello("worker", self.ident, "", m.PROTOCOL, list(sys.version_info[:2]), VERSION,
                        os.uname().nodename, os.getpid(), count)  # fmt: skip
        self._uplink = Uplink(loop, hello, find, settings.silence, settings.reconnect_timeout)
        self._uplink.on_welcome = self._on_welcome
        self._uplink.on_message = lambda message: self._handlers[type(message)](message)
        self._uplink.on_forsaken = self._start_afresh
        self._uplink.on_failure = self._give_up
        self._send = self._uplink.send
        self.connect = self._uplink.connect
        threads = max(1, len(os.sched_getaffinity(0)) // count)
        self._runners = Runners(loop, threads, descriptors, max(settings.grace, END_SECONDS))
        self._runners.on_results = self._on_results
        self._runners.on_dropped = lambda runner: self._perform(
            self._slots.on_dropped(runner, time.monotonic())
        )
        self._runners.on_remark = lambda runner, remark: self._send(remark._replace(session=runner.session))
        self._runners.on_waits = self._on_waits
        self._runners.on_gone = lambda runner: self._slots.on_runner_gone(runner)
        self._runners.on_exited = self._on_exited
        self._runners.on_failure = self._give_up
        self._sessions: dict[int, SessionObjects] = {}
        # Of runners whose job waits for jobs of its own: that job, and the master that it gave them to.
        self._waits: dict[slots.Runner, tuple[int, str]] = {}
        self._kept = Kept()
        self._keeping: set[int] = set()  # dispatches that come: what they return when their time is up counts
        # Of these, those that the present master was told of when it was joined.
        self._unclaimed: set[int] = set()
        self._why_unusable = ""  # how the last runner ended
        self._suspects: list[list[Outcome]] = []  # errors after a SIGTERM, held back
        self._is_ticking = False
        self._is_leaving = False
        self._drains_from = self._drains_until = 0.0  # if it was told to end
        self._done_at = math.inf  # when nothing was left to run
        self._gone_at = math.inf  # when it leaves whatever has not ended: then the steps are over
        self._pace = 1.0  # of the steps, where the end is nearer than they take
        keeper.set_subreaper()
        loop.call_every(1.0, self._on_second)
        self._ends_at = math.inf  # when what runs is stopped, as far as is known from the start
        if settings.lifetime < math.inf:
            self._ends_at = time.monotonic() + settings.lifetime + settings.grace
            loop.call_later(settings.lifetime, lambda: self._drain("its lifetime is over"))
        if settings.until < math.inf:
            left = settings.until - time.time()
            margin = max(0.0, min(END_MARGIN, left / 4))
            self._pace = margin / END_MARGIN
            ends_in = left - margin
            self._ends_at = min(self._ends_at, time.monotonic() + ends_in)
            loop.call_later(
                max(0.0, ends_in - min(END_DRAIN, left / 10)),
                lambda: self._drain("its allocation ends soon", self._ends_at - time.monotonic()),
            )
        if self._ends_at < math.inf:
            self._runners.ends = self._ends_at
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.Dispatch: self._on_dispatch,
            m.Objects: self._on_objects,
            m.Keep: lambda message: self._keeping.update(message.dispatches),
            m.Depth: lambda message: self._slots.on_depth(message.session, message.depth),
            m.Forget: self._on_forget,
            m.Recall: lambda message: self._perform(self._slots.on_recall(message.count, time.monotonic())),
            m.Stop: lambda message: self._perform(self._slots.on_stop(message.dispatches, time.monotonic())),
            m.TakeBack: lambda message: self._perform(
                self._slots.on_take_back(message.dispatches, time.monotonic())
            ),
            m.Claim: self._on_claim,
            m.Release: lambda message: self._kept.forget(message.dispatches),
            m.CloseSession: self._on_close_session,
            m.ForgetSession: self._on_forget_session,
            m.Drain: lambda message: self._drain_until_the_end("told to drain"),
            m.Goodbye: self._uplink.on_goodbye,
            m.Heartbeat: lambda message: None,
        }

    # --- the end ---

    def on_sigterm(self) -> None:
        """Told to end: finish what runs; told again: stop it; told once more: at once."""
        now = time.monotonic()
        if not self._drains_from:
            self._drain("told to end")
        elif now - max(self._drains_from, self._drains_until) > REPEATED_SECONDS:
            self.leave()
        elif now - self._drains_from > REPEATED_SECONDS:
            self._drains_until = min(self._drains_until, now)

    def on_notice(self) -> None:
        """Notice that the end is near, long before SIGTERM: drain. Who gave it sends SIGTERM when the time is up."""
        if self._settings.until - time.time() > NOTICE_SECONDS:
            self._drain_until_the_end("notice of the end")

    def on_sigint(self) -> None:
        """Ctrl-C: as on_sigterm, but nobody sends it twice without meaning it."""
        if not self._drains_from:
            self._drain("Ctrl-C")
        else:
            self.leave()

    def on_launcher_gone(self) -> None:
        """Who started this worker is gone, or wants it gone."""
        if self._drains_from:
            self.leave()
        else:
            self._drain("the program that started it is gone", 0.0)

    def leave(self) -> None:
        """End the runners at once, say goodbye, stop the loop."""
        if self._is_leaving:
            return
        self._is_leaving = True
        if self._gone_at == math.inf:
            self._tell_stopped()
        self.close()  # first: what the master gets back runs nowhere any more
        self._uplink.leave(self._loop.stop)

    def close(self) -> None:
        """End the runners, and wait until they are gone."""
        self._runners.close()

    def _drain(self, why: str, grace: float | None = None) -> None:
        """Take nothing more, return what has not started, finish what runs, leave."""
        if self._drains_from or self._is_leaving:
            return
        grace = self._settings.grace if grace is None else max(0.0, grace)
        self._drains_from = time.monotonic()
        self._drains_until = min(self._drains_from + grace, self._ends_at)
        self._send(m.Draining())
        self._perform(self._slots.on_drain())
        cut_short = [job.dispatch for batch in self._suspects for job, _, _, _ in batch]
        self._suspects.clear()
        if cut_short:
            self._send(m.CutShort(cut_short))
        if not self._on_drain_tick(self._drains_from):
            return
        if self._gone_at == math.inf and not (
            self._slots.is_empty() and self._is_all_told(self._drains_from)
        ):
            running, kept = self._count_running(), program.count(len(self._kept), "result")
            limit = f" for up to {grace:.3g} s" if grace < 1e6 else ""
            doing = f"finishing {program.count(running, 'running job')}"
            if self._uplink.is_lost and len(self._kept):
                doing += f", and looking for the master to hand in {kept},"
            elif not running:
                doing, limit = f"handing in {kept}", ""
            logger.info("%s: %s%s; Ctrl-C ends it at once", why, doing, limit)
        self._loop.call_every(TICK_SECONDS, self._on_drain_tick)

    def _drain_until_the_end(self, why: str) -> None:
        self._drain(why, self._ends_at - time.monotonic())

    def _on_drain_tick(self, now: float) -> bool:
        if self._is_leaving:
            return False
        is_late = now >= self._drains_until
        if is_late and self._gone_at == math.inf and not self._slots.is_empty():
            self._stop_what_runs(now)
        is_empty = self._slots.is_empty()
        if is_empty:
            self._done_at = min(self._done_at, now)
        # What is left in runners without a job: threads. Who wants the worker gone at once has some seconds still.
        threads_until = min(max(self._drains_until, self._drains_from + END_SECONDS), self._ends_at)
        is_done = is_empty and (not self._slots.has_runners() or now >= threads_until)
        if now >= self._gone_at or (is_done and (is_late or self._is_all_told(now))):
            if is_empty and self._slots.has_runners():
                logger.warning("threads that jobs have left have not ended in time: they are stopped")
            self.leave()
        return not self._is_leaving

    def _stop_what_runs(self, now: float) -> None:
        """The grace is over: stop what runs, so that it may clean up. What comes of that runs again elsewhere."""
        self._tell_stopped()
        self._gone_at = now + (STOP_SECONDS + STOP_RESERVE) * self._pace
        self._runners.take_in()
        self._perform(self._slots.on_time_up())

    def _tell_stopped(self) -> None:
        if running := self._count_running():
            doing = program.count(
                running, "running job is stopped, and runs again", "running jobs are stopped, and run again"
            )
            logger.info("leaving; %s elsewhere", doing)

    def _is_all_told(self, now: float) -> bool:
        """Are all results with their clients, or with a master whose clients are slow to say so?"""
        if not len(self._kept):
            return self._uplink.is_lost or self._uplink.is_all_sent()
        return (
            not self._uplink.is_lost
            and now - self._done_at > TAKEN_SECONDS
            and self._uplink.is_all_sent()
            and not any(dispatch in self._kept for dispatch in self._unclaimed)
        )

    def _count_running(self) -> int:
        return sum(is_running for _, is_running in self._slots.holdings())

    def _give_up(self, reason: str) -> None:
        self.failure = reason
        self._loop.stop()

    # --- the master ---

    def _on_welcome(self) -> None:
        self._keeping.clear()
        self._report()
        if self._drains_from:
            self._send(m.Draining())
        cpus = len(os.sched_getaffinity(0))
        logger.info("joined the master at %s with %s (this machine has %s)", self._uplink.peer,
                    program.count(self._count, "slot"), program.count(cpus, "usable CPU"))  # fmt: skip
        self.on_joined()

    def _start_afresh(self) -> None:
        """End all runners and forget all jobs: no master knows of them."""
        for session in list(self._sessions):
            self._on_close_session(m.CloseSession(session))
            self._on_forget_session(m.ForgetSession(session))
        self._kept = Kept()
        self._suspects.clear()
        self._waits.clear()
        self._drains_until = 0.0  # nobody waits for what runs, should it drain

    def _on_dispatch(self, message: m.Dispatch) -> None:
        jobs, unknown = [], []
        objects: dict[int, Object] = {}
        latest = None
        for dispatch, session, number, function_number, avoid, attempt, timeout, payload in zip(
            *message, strict=True
        ):
            if session != latest:
                latest = session
                objects = self._sessions[session].by_number if session in self._sessions else {}
            function = objects.get(function_number)
            if function is None:  # its session was closed while this was on its way
                unknown.append(dispatch)
            else:
                jobs.append(slots.Job(dispatch, session, number, function, avoid, attempt, payload, timeout))
        if self._keeping:
            for job in jobs:
                job.keeps = job.dispatch in self._keeping
            self._keeping.difference_update(message.dispatches)
        if unknown:
            self._send(m.Returned(unknown))
        self._perform(self._slots.on_jobs(jobs, time.monotonic()))

    def _on_objects(self, message: m.Objects) -> None:
        for session, number, kind, needs, payload in zip(*message, strict=True):
            if session not in self._sessions:
                self._sessions[session] = SessionObjects(session)
                self._slots.on_session_opened(session)
            self._sessions[session].add(number, kind, needs, payload)

    def _on_forget(self, message: m.Forget) -> None:
        gone = [
            item
            for session, number in zip(*message, strict=True)
            if session in self._sessions
            for item in self._sessions[session].forget([number])
        ]
        self._runners.forget([item.key for item in gone])
        for session, number in [item.key for item in gone if item.kind == m.ENVIRONMENT]:
            self._perform(self._slots.on_environment_forgotten(session, number, time.monotonic()))

    def _on_close_session(self, message: m.CloseSession) -> None:
        self._perform(self._slots.on_session_closed(message.session, time.monotonic()))
        self._kept.forget_session(message.session)

    def _on_forget_session(self, message: m.ForgetSession) -> None:
        self._slots.on_session_forgotten(message.session)
        self._sessions.pop(message.session, None)

    def _report(self) -> None:
        """Tell a master that was just joined what is here. It knows nothing of what we remember."""
        usable = self._slots.on_joined()
        # But for the environments: their runners stay.
        in_use = {item.key for item in closure({job.function for job, _ in self._slots.holdings()})}
        forgotten = [
            item.key
            for objects in self._sessions.values()
            for item in objects.by_number.values()
            if item.key not in in_use and item.kind != m.ENVIRONMENT
        ]
        if forgotten:
            self._on_forget(m.Forget(*map(list, zip(*forgotten, strict=True))))
        holdings = [
            (job.dispatch, job.session, job.number, m.RUNNING if is_running else m.UNSTARTED)
            for job, is_running in self._slots.holdings()
        ]
        holdings += [
            (job.dispatch, job.session, job.number, m.RUNNING)
            for batch in self._suspects
            for job, _, _, _ in batch
        ]
        kept = self._kept.holdings()
        self._unclaimed = {dispatch for dispatch, _, _, _ in kept}
        holdings += kept
        if holdings:
            self._send(m.Holding(*map(list, zip(*holdings, strict=True))))
        left = self._ends_at - time.monotonic()
        place = location.of_this_process().as_text()
        self._send(m.Stay(round(max(left, 0.0), 3) if left < MOST_SECONDS else -1, place))
        self._send(m.Reported(list(self._sessions)))
        self._perform(usable)
        for runner in list(self._waits):  # the client may have found this master first
            self._lend(runner)

    def _on_claim(self, message: m.Claim) -> None:
        """Send again what was kept."""
        results, deaths, gone = self._kept.find(message.dispatches)
        if results:
            self._send(m.Results(*map(list, zip(*results, strict=True))))
        for dispatch, note in deaths:
            self._send(m.RunnerDied(dispatch, note))
        if gone:
            self._send(m.Returned(gone))
        self._unclaimed.difference_update(message.dispatches)

    # --- the policy's actions ---

    def _perform(self, actions: Sequence[slots.Action]) -> None:
        runners, todo = self._runners, deque(actions)
        while todo:
            action = todo.popleft()
            kind = type(action)
            if kind is slots.SendJobs:
                runners.send_jobs(action.runner, action.jobs)
            elif kind is slots.StartRunner:
                runners.start(action.runner, action.environment)
                if depth := self._slots.depth(action.runner.session):
                    runners.send(action.runner, m.Depth(action.runner.session, depth))
            elif kind is slots.Retract:
                taken = runners.take_tokens(action.runner, action.count)
                todo.extendleft(reversed(self._slots.on_retracted(action.runner, taken, time.monotonic())))
            elif kind is slots.SendDrop:
                runners.send_drop(action.runner)
            elif kind is slots.GiveBack:
                todo.extendleft(reversed(self._slots.on_give_back(action.count)))
            elif kind is slots.EndRunner:
                runners.end(action.runner)
            elif kind is slots.StopRunner:
                runners.stop(action.runner, self._pace if self._drains_from else 1.0)
            elif kind is slots.LookAtTokens:
                left = runners.tokens_left(action.runner)
                self._slots.on_tokens_seen(action.runner, left, time.monotonic())
            elif kind is slots.TellExpired:
                self._tell_expired(action.job, action.note)
            elif kind is slots.TellCutShort:
                self._send(m.CutShort(action.dispatches))
            elif kind is slots.Return:
                self._send(m.Returned(action.dispatches))
            elif kind is slots.Recalled:
                self._send(m.Recalled(action.dispatches))
            elif kind is slots.Resume:
                runners.send(action.runner, m.Resume(action.serial))
            elif kind is slots.TellLent:
                self._send(m.Lent(action.extra, action.floors))
            elif kind is slots.TellUsable:
                self._tell_usable(action.slots, action.not_for)
            elif kind is slots.TellStarted:
                self._send(m.Started(action.dispatches))
            elif kind is slots.TellDied:
                self._kept.add_death(action.job, action.note)
                self._send(m.RunnerDied(action.job.dispatch, action.note))
        if not self._is_ticking and self._slots.wants_tick():
            self._is_ticking = True
            self._loop.call_every(TICK_SECONDS, self._on_tick)

    # --- the runners ---

    def _on_results(
        self,
        runner: slots.Runner,
        numbers: list[int],
        statuses: list[int],
        seconds: list[float],
        payloads: list[Any],
    ) -> None:
        jobs = self._slots.jobs(numbers)
        if runner.is_ending or m.INTERRUPTED in statuses or m.NOT_ENTERED in statuses:
            self._judge(runner, list(zip(jobs, statuses, seconds, payloads, strict=True)))
        else:
            self._kept.add_results(jobs, statuses, seconds, payloads)
            self._send(m.Results(numbers, statuses, seconds, payloads))
        self._perform(self._slots.on_results(runner, numbers, seconds, time.monotonic()))

    def _on_waits(self, runner: slots.Runner, message: m.Waits | m.WaitOver) -> None:
        """A job begins, or ends, to wait for jobs of its own. Only with those of this cluster it has to do here."""
        if type(message) is m.Waits:
            self._waits[runner] = message.number, message.master
            self._lend(runner)
        elif type(message) is m.WaitOver:
            self._waits.pop(runner, None)
            self._perform(
                self._slots.on_wait_over(runner, message.serial, message.is_patient, time.monotonic())
            )

    def _lend(self, runner: slots.Runner) -> None:
        dispatch, master = self._waits[runner]
        if master == self._uplink.master:
            self._perform(self._slots.on_waits(runner, dispatch, time.monotonic()))

    def _judge(self, runner: slots.Runner, outcomes: list[Outcome]) -> None:
        """Report results, some of which may not be what the job itself came to."""
        suspects: list[Outcome] = []
        cut: list[int] = []
        for job, status, lasted, payload in outcomes:
            is_kept = job.keeps and status == m.DONE
            if job.is_cut and runner.is_ending and not job.stopped and not is_kept:
                cut.append(job.dispatch)  # whatever it came to: it was not allowed to end
            elif job.expired and not is_kept and runner.is_ending and lasted > job.timeout * 0.999999:
                self._tell_expired(job, {**self._runners.place(runner), "seconds": lasted})
            elif status == m.NOT_ENTERED:
                is_wanted = not (job.stopped or job.spared or self._drains_from)
                self._send(payload if is_wanted else m.Returned([job.dispatch]))
            elif status == m.INTERRUPTED and not job.stopped:
                suspects.append((job, m.ERROR, lasted, payload))
            else:
                self._report_outcome((job, min(status, m.ERROR), lasted, payload))
        if suspects and self._drains_from:
            cut += [job.dispatch for job, _, _, _ in suspects]
        elif suspects:
            self._suspects.append(suspects)
            self._loop.call_later(SUSPECT_SECONDS, lambda: self._clear(suspects))
        if cut:
            self._send(m.CutShort(cut))

    def _tell_usable(self, count: int, not_for: list[int]) -> None:
        if count < self._count or not_for:
            _lines.warning("no runner can be started on some slots: jobs that need one go to other workers, and it is "
                           "tried again in some seconds")  # fmt: skip
        self._send(m.Usable(count, not_for, self._why_unusable))

    def _clear(self, suspects: list[Outcome]) -> None:
        """It was not this machine's end: the jobs failed by themselves."""
        if suspects in self._suspects:
            self._suspects.remove(suspects)
            for outcome in suspects:
                self._report_outcome(outcome)

    def _report_outcome(self, outcome: Outcome) -> None:
        job, status, lasted, payload = outcome
        self._kept.add_results([job], [status], [lasted], [payload])
        self._send(m.Results([job.dispatch], [status], [lasted], [payload]))

    def _tell_expired(self, job: slots.Job, note: dict[str, Any]) -> None:
        text = json.dumps({**note, "limit": job.timeout, "attempt": job.attempt}).encode()
        self._report_outcome((job, m.TIMEOUT, note["seconds"], text))

    def _on_exited(self, runner: slots.Runner, unstarted: int, note: dict[str, Any]) -> None:
        was_told_to = note["how"] in TOLD_TO_END
        self._why_unusable = note["how"]
        self._waits.pop(runner, None)
        self._perform(self._slots.on_runner_exited(runner, unstarted, note, time.monotonic(), was_told_to))

    # --- time ---

    def _on_tick(self, now: float) -> bool:
        if self._is_leaving:
            return False
        self._perform(self._slots.on_tick(now))
        self._is_ticking = self._slots.wants_tick()
        return self._is_ticking

    def _on_second(self, now: float) -> bool:
        if self._is_leaving:
            return False
        self._perform(self._slots.on_second(now))
        program.flush_repeated()
        return True


def _parse_slots(text: str) -> int:
    if text == "auto":
        return len(os.sched_getaffinity(0))
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 65535):
        raise ValueError(f"{text!r} is no number of slots: give 1 or more, or 'auto' for the usable CPUs")
    return int(text)


def _parse_count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError(f"{text!r} is no number of jobs: give 1 or more")
    return int(text)


def _parse_time(text: str) -> float:
    if not (text.isascii() and text.isdigit() and time.time() - 1e6 < int(text) < 1e10):
        raise ValueError(f"{text!r} is no time: give seconds since 1970 (date +%s -d 18:00)")
    return float(text)


def _add_limits(parser: Any) -> None:
    """The options of `Settings`."""
    defaults = Settings()
    seconds = program.converted_by(program.parse_seconds)
    positive = program.converted_by(program.parse_positive_seconds)
    group = parser.add_argument_group("limits")
    group.add_argument("--grace", metavar="SECONDS", type=seconds, default=defaults.grace,
                       help="told to end (Ctrl-C, SIGTERM), let running jobs go on for so long; then stop them, within "
                       "3 s; the rest goes to other workers at once (default: %(default)g; a second Ctrl-C ends it at "
                       "once)")  # fmt: skip
    group.add_argument("--lifetime", metavar="SECONDS", type=positive, default=defaults.lifetime,
                       help="after so long, end as if told to (default: never)")  # fmt: skip
    group.add_argument("--until", metavar="TIME", type=program.converted_by(_parse_time), default=defaults.until,
                       help="when the machine is taken away, in seconds since 1970: a minute before that it takes "
                       "nothing more, and 5 seconds before it jobs are stopped (default: never)")  # fmt: skip
    group.add_argument("--max-jobs", metavar="N", type=program.converted_by(_parse_count), default=defaults.max_jobs,
                       help="replace each runner process by a new one after N jobs (default: never)")  # fmt: skip
    group.add_argument("--silence", metavar="SECONDS", type=positive, default=defaults.silence,
                       help="take a master that says nothing for so long for gone (default: %(default)g)")  # fmt: skip
    group.add_argument("--reconnect-timeout", metavar="SECONDS", type=seconds, default=defaults.reconnect_timeout,
                       help="look for a lost master for so long before its jobs are given up; the worker itself waits "
                       "on (default: %(default)g)")  # fmt: skip


def main() -> int:
    """The program. Returns its exit status."""
    parser = program.argument_parser(
        "cw.worker",
        "Runs the jobs that clients submit to a master. Waits for the master if it is not there yet.",
        epilog="Without HOST: CW_MASTER, else the running master's address file in ~/.cw, else this machine.",
    )
    parser.add_argument("host", nargs="?", metavar="HOST[:PORT]", help="where the master runs")
    parser.add_argument(
        "--port", type=program.converted_by(address.check_port), help="its port (default: 5494)"
    )
    parser.add_argument("-n", dest="slots", metavar="SLOTS", type=program.converted_by(_parse_slots), default=1,
                        help="jobs to run at a time, or 'auto': one for each usable CPU (default: 1)")  # fmt: skip
    _add_limits(parser)
    program.add_launcher_options(parser, "--lifeline-fd", "--ready-fd", "--notice")
    options = parser.parse_args()
    program.set_up_logging(options.verbose)
    address.find_master(options.host, options.port)  # mistakes end the program here
    if options.host:
        address.bind_jobs(options.host, options.port)
    settings = Settings(
        options.silence,
        options.reconnect_timeout,
        options.grace,
        options.lifetime,
        options.until,
        options.max_jobs,
    )
    descriptors = program.allow_many_descriptors()  # each runner takes some
    loop = Loop()

    def find() -> list[address.Candidate]:
        if options.notice is None or os.environ.get("CW_MASTER"):
            return address.find_master(options.host, options.port)
        # In Slurm: of this cluster's own. On this machine there may be another one's.
        return address.find_cluster(address.cluster_name())

    # First: whoever ends it while it starts its keeper shall find both gone.
    loop.on_signal(signal.SIGINT, lambda: worker.on_sigint())
    loop.on_signal(signal.SIGTERM, lambda: worker.on_sigterm())
    if options.notice is not None:
        loop.on_signal(options.notice, lambda: worker.on_notice())
    worker = Worker(loop, options.slots, find, settings, descriptors)
    program.watch_lifeline(loop, options.lifeline_fd, worker.on_launcher_gone)
    if options.ready_fd is not None:
        worker.on_joined = lambda: program.say_ready(options.ready_fd)
    worker.connect()
    try:
        loop.run()
    finally:
        worker.close()
    if worker.failure:
        raise program.Mistake(worker.failure)
    return 0
