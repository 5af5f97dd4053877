"""A worker's departure: when it drains, when it stops running jobs, when it is gone. Facts in, actions out, no I/O.

                 a signal, an alarm,            the grace, or the time, is over
                 or the master's order               with running jobs
      AT WORK ----------------------> DRAINING -----------------------> STOPPING --> gone, whatever has not ended
         |                              | ^                                |
         |                              | '- asked again: the grace is over |
         |  asked a third time          v                                  v
         '------------------------->  GONE: no job, no thread of one, and all results with their clients

A worker that drains takes no more jobs and returns those that have not started; that is the policy's part
(`Slots.on_drain`). A worker that knows when its allocation ends stops running jobs early enough
to report their outcomes.
"""

from __future__ import annotations

import math

from cw.named_tuple import NamedTuple

REPEATED_SECONDS = 2.0
"""Time after a SIGTERM in which another one counts as the same (seconds): Slurm sends it twice within 50 ms."""

END_MARGIN = 15.0
"""Time before the end of its allocation at which a worker begins to stop its jobs (seconds), at most a quarter of the
allocation. Longer: slots idle. Shorter: a job has less time to save its state after the first signal."""

STEPS_MARGIN = 5.0
"""Part of this time from which on the steps need not be shorter than usual (seconds): jobs are stopped step by step,
and their outcomes reported. With all of END_MARGIN, the steps take as much longer."""

END_DRAIN = 60.0
"""Time before END_MARGIN during which a worker starts nothing (seconds), at most a tenth of the allocation. Longer:
slots idle. Shorter: more jobs are started in vain."""

NOTICE_SECONDS = 130.0
"""A notice that comes when the known end is nearer than this (seconds) is taken for the notice of that end. It may be a
minute early, so the worker goes by what it knows itself."""

STOP_SECONDS = 2.0
"""Time for the steps in which a running job is stopped (seconds), where there is time for all of them."""

STOP_RESERVE = 1.0
"""Time beside STOP_SECONDS (seconds): the worker reports the outcomes of the jobs that it stopped."""

END_SECONDS = 5.0
"""Least time for a runner to end by itself before it is killed (seconds): it waits for threads that jobs have left."""

TAKEN_SECONDS = 2.0
"""Time that a worker without work waits for confirmation that its clients have their results (seconds). Shorter: more
jobs run again if the master ends now. Longer: it stays for clients that are gone without goodbye."""


# --- actions ----------------------------------------------------------------------------------


class Drain(NamedTuple):
    """Take no more jobs, return those that have not started; then call `on_tick` at once, and at `next_tick`."""

    why: str
    grace: float


class StopJobs(NamedTuple):
    """Stop running jobs step by step, so that they may clean up; then call `on_tick` at once."""


class Leave(NamedTuple):
    """End the runners at once, say goodbye, and end."""

    is_sudden: bool
    """Nothing was stopped before: log how many jobs are running."""
    has_threads: bool
    """The runners hold nothing but threads of jobs that have ended."""


Action = Drain | StopJobs | Leave


class Alarm(NamedTuple):
    """Drain that a worker starts by itself: after how many seconds, and why."""

    seconds: float
    why: str
    until_the_end: bool
    """Jobs may go on until the worker's time is over, not only for its grace."""


class Here(NamedTuple):
    """State of a worker that drains."""

    is_empty: bool  # no jobs
    has_runners: bool  # some process of a runner is not gone
    has_results: bool  # some results are not confirmed to be with their clients
    has_unclaimed: bool  # among these, some that the present master has not asked for
    is_lost: bool  # we look for the master
    is_all_sent: bool  # the master's socket has taken everything


class Departure:
    """Decides when one worker leaves.

    `grace`: seconds for which running jobs may go on. `lifetime`: seconds after which it leaves by itself. `until`:
    when its allocation ends, by the wall clock. `now`, `wall`: the clocks' times at its start.
    """

    def __init__(
        self,
        grace: float,
        lifetime: float = math.inf,
        until: float = math.inf,
        now: float = 0.0,
        wall: float = 0.0,
    ) -> None:
        self.alarms: list[Alarm] = []
        self.ends_at = math.inf
        """Time at which running jobs are stopped, as far as known from the start."""
        self.is_draining = False
        self.is_leaving = False
        self._grace = grace
        self._until = until
        self._pace = 1.0  # of the steps, if the end is nearer than they take
        self._end_pace, self._end_at = (
            1.0,
            math.inf,
        )  # of the steps at the end of the allocation, and when they begin
        self._drains_from = self._drains_until = 0.0
        self._done_at = math.inf  # when nothing was left to run
        self._gone_at = math.inf  # when it leaves, whether or not all has ended: then the steps are over
        if lifetime < math.inf:
            self.ends_at = now + lifetime + grace
            self.alarms.append(Alarm(lifetime, "its lifetime is over", False))
        if until < math.inf:
            left = until - wall
            margin = max(0.0, min(END_MARGIN, left / 4))
            self._end_pace = margin / STEPS_MARGIN
            self._pace = min(1.0, self._end_pace)
            ends_in = left - margin
            self._end_at = now + ends_in
            self.ends_at = min(self.ends_at, self._end_at)
            alarm = Alarm(max(0.0, ends_in - min(END_DRAIN, left / 10)), "its allocation ends soon", True)
            self.alarms.append(alarm)

    @property
    def stop_pace(self) -> float:
        """Share of STOP_SECONDS in which a job must be stopped now; above 1 at the end of an allocation."""
        return self._pace if self.is_draining else 1.0

    # --- requests to end ---

    def on_sigterm(self, now: float) -> list[Action]:
        """Handle a request to end. First: finish running jobs; second: stop them; third: leave at once."""
        if not self.is_draining:
            return self.on_drain("it was asked to end", now)
        if now - max(self._drains_from, self._drains_until) > REPEATED_SECONDS:
            return self.on_leave()
        if now - self._drains_from > REPEATED_SECONDS:
            self._drains_until = min(self._drains_until, now)
        return []

    def on_sigint(self, now: float) -> list[Action]:
        """Handle Ctrl-C like `on_sigterm`, but never take a second one for a repetition of the first."""
        return self.on_leave() if self.is_draining else self.on_drain("Ctrl-C", now)

    def on_sighup(self, now: float) -> list[Action]:
        """Drain when the terminal is gone. It may come several times: the kernel and a shell send it."""
        return self.on_drain("SIGHUP: its terminal is gone", now)

    def on_notice(self, now: float, wall: float) -> list[Action]:
        """Drain after a notice that the end is near, long before SIGTERM. Its sender sends SIGTERM when the time is
        up."""
        if self._until - wall > NOTICE_SECONDS:
            return self.on_drain_until_the_end("notice of the end", now)
        return []

    def on_launcher_gone(self, now: float) -> list[Action]:
        """Handle the loss of the launcher, or its request to be rid of this worker."""
        if self.is_draining:
            return self.on_leave()
        return self.on_drain("the program that started it is gone", now, 0.0)

    def on_alarm(self, alarm: Alarm, now: float) -> list[Action]:
        """Handle an alarm whose time has come."""
        if alarm.until_the_end:
            return self.on_drain_until_the_end(alarm.why, now)
        return self.on_drain(alarm.why, now)

    def on_drain_until_the_end(self, why: str, now: float) -> list[Action]:
        """Drain, and let running jobs go on as long as there is time."""
        return self.on_drain(why, now, self.ends_at - now)

    def on_drain(self, why: str, now: float, grace: float | None = None) -> list[Action]:
        """Take no more jobs, return those that have not started, finish running ones, leave. `grace`: seconds for
        running jobs; None: the usual ones."""
        if self.is_draining or self.is_leaving:
            return []
        grace = self._grace if grace is None else max(0.0, grace)
        self.is_draining = True
        self._drains_from = now
        self._drains_until = min(now + grace, self.ends_at)
        return [Drain(why, grace)]

    def on_leave(self, has_threads: bool = False) -> list[Action]:
        """Leave at once."""
        if self.is_leaving:
            return []
        self.is_leaving = True
        return [Leave(self._gone_at == math.inf, has_threads)]

    def on_forsaken(self) -> None:
        """Note that no master knows of the jobs here, so that a drain need not wait for them."""
        self._drains_until = 0.0

    # --- it drains ---

    def on_tick(self, now: float, here: Here) -> list[Action]:
        """Check a draining worker after some time has passed, or its state has changed."""
        if self.is_leaving:
            return []
        is_late = now >= self._drains_until
        if is_late and self._gone_at == math.inf and not here.is_empty:
            if now >= self._end_at:
                self._pace = self._end_pace
            self._gone_at = now + (STOP_SECONDS + STOP_RESERVE) * self._pace
            return [StopJobs()]
        if here.is_empty:
            self._done_at = min(self._done_at, now)
        # Only threads are left in runners without a job. Even when the worker must go at once, a few seconds remain.
        threads_until = min(max(self._drains_until, self._drains_from + END_SECONDS), self.ends_at)
        is_done = here.is_empty and (not here.has_runners or now >= threads_until)
        if now >= self._gone_at or (is_done and (is_late or self._is_all_reported(now, here))):
            return self.on_leave(has_threads=here.is_empty and here.has_runners)
        return []

    def next_tick(self, now: float, here: Here) -> float:
        """Time before which `on_tick` has nothing to do, if nothing else happens; infinity: it never has."""
        if self.is_leaving:
            return math.inf
        if here.is_empty:
            return now
        return self._drains_until if self._gone_at == math.inf else self._gone_at

    def is_waiting(self, now: float, here: Here) -> bool:
        """True if the worker waits for something that may take long: jobs, or clients that fetch their results."""
        return self._gone_at == math.inf and not (here.is_empty and self._is_all_reported(now, here))

    def _is_all_reported(self, now: float, here: Here) -> bool:
        """True if all results are with their clients, or with a master whose clients are slow to confirm."""
        if not here.has_results:
            return here.is_lost or here.is_all_sent
        is_patient = now - self._done_at <= TAKEN_SECONDS
        return not (here.is_lost or is_patient or here.has_unclaimed) and here.is_all_sent

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself. For tests."""
        assert self._drains_until <= max(self.ends_at, self._drains_from)
        assert self._gone_at == math.inf or self.is_draining
        assert 0.0 <= self._pace <= END_MARGIN / STEPS_MARGIN
