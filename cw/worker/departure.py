"""How a worker leaves: when it drains, when it stops what runs, when it is gone. Facts in, actions out, no I/O.

                 a signal, an alarm,            the grace, or the time, is over
                 or the master's word                with jobs that run
      AT WORK ----------------------> DRAINING -----------------------> STOPPING --> gone, whatever has not ended
         |                              | ^                                |
         |                              | '- told again: the grace is over |
         |  told once more              v                                  v
         '------------------------->  GONE: no job, no thread of one, and all results with their clients

A worker that drains takes nothing more and returns what has not started; that is the policy's part
(`Slots.on_drain`). Of a worker that knows when its allocation ends, what runs is stopped so early before that that
what came of it is still reported.
"""

from __future__ import annotations

import math
from typing import NamedTuple

REPEATED_SECONDS = 2.0
"""A SIGTERM within that time of the first is the same one: Slurm sends it twice within 50 ms."""

END_MARGIN = 5.0
"""Seconds before the end of its allocation by which a worker has stopped what runs and is gone. Of a short allocation,
a quarter at most: what runs is stopped step by step in that time, and what came of it is reported."""

END_DRAIN = 60.0
"""Seconds before that from when on it starts nothing. Longer: slots idle. Shorter: more jobs are begun in vain. Of a
short allocation, a tenth at most."""

NOTICE_SECONDS = 130.0
"""A notice that comes when the end is known to be nearer is that of this end. It may be a minute early, so the worker
goes by what it knows itself."""

STOP_SECONDS = 2.0
"""How long the steps take in which a running job is stopped, where there is time for all of them."""

STOP_RESERVE = 1.0
"""Seconds beside those of the steps in which what runs is stopped, until the worker has reported what came of it."""

END_SECONDS = 5.0
"""For a runner that was told to end, at least, before it is killed: it waits for threads that jobs have left."""

TAKEN_SECONDS = 2.0
"""For which a worker that has nothing more to do waits until its results are known to be with their clients. Shorter:
more runs again should the master end now. Longer: it stays for clients that are gone without a word."""


# --- actions ----------------------------------------------------------------------------------


class Drain(NamedTuple):
    """Take nothing more, return what has not started; then call `on_tick` at once, and every some 10 ms."""

    why: str
    grace: float


class StopJobs(NamedTuple):
    """Stop what runs, step by step, so that it may clean up; then call `on_tick` at once."""


class Leave(NamedTuple):
    """End the runners at once, say goodbye, and end."""

    is_sudden: bool
    """Nothing was stopped before: what runs is to be named."""
    has_threads: bool
    """Nothing is left in runners but threads of jobs that have ended."""


Action = Drain | StopJobs | Leave


class Alarm(NamedTuple):
    """In how many seconds a worker drains by itself, and why."""

    seconds: float
    why: str
    until_the_end: bool
    """Jobs may go on until its time is over, not only for its grace."""


class Here(NamedTuple):
    """What there is in a worker that drains."""

    is_empty: bool  # no job
    has_runners: bool  # whose process is not gone
    has_results: bool  # of which it is not known that their clients have them
    has_unclaimed: bool  # among these, such that the present master has not asked for
    is_lost: bool  # the master is looked for
    is_all_sent: bool  # the master's socket has taken everything


class Departure:
    """When one worker leaves.

    `grace`: seconds for which running jobs may go on. `lifetime`: seconds after which it leaves by itself. `until`:
    when its allocation ends, by the wall clock; `now`, `wall`: what the clocks show at its start.
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
        """When what runs is stopped, as far as is known from the start."""
        self.is_draining = False
        self.is_leaving = False
        self._grace = grace
        self._until = until
        self._pace = 1.0  # of the steps, where the end is nearer than they take
        self._drains_from = self._drains_until = 0.0
        self._done_at = math.inf  # when nothing was left to run
        self._gone_at = math.inf  # when it leaves whatever has not ended: then the steps are over
        if lifetime < math.inf:
            self.ends_at = now + lifetime + grace
            self.alarms.append(Alarm(lifetime, "its lifetime is over", False))
        if until < math.inf:
            left = until - wall
            margin = max(0.0, min(END_MARGIN, left / 4))
            self._pace = margin / END_MARGIN
            ends_in = left - margin
            self.ends_at = min(self.ends_at, now + ends_in)
            alarm = Alarm(max(0.0, ends_in - min(END_DRAIN, left / 10)), "its allocation ends soon", True)
            self.alarms.append(alarm)

    @property
    def stop_pace(self) -> float:
        """The share of the steps' time in which a job must be stopped now."""
        return self._pace if self.is_draining else 1.0

    # --- it is told to end ---

    def on_sigterm(self, now: float) -> list[Action]:
        """Told to end: finish what runs; told again: stop it; told once more: at once."""
        if not self.is_draining:
            return self.on_drain("told to end", now)
        if now - max(self._drains_from, self._drains_until) > REPEATED_SECONDS:
            return self.on_leave()
        if now - self._drains_from > REPEATED_SECONDS:
            self._drains_until = min(self._drains_until, now)
        return []

    def on_sigint(self, now: float) -> list[Action]:
        """Ctrl-C: as on_sigterm, but nobody sends it twice without meaning it."""
        return self.on_leave() if self.is_draining else self.on_drain("Ctrl-C", now)

    def on_notice(self, now: float, wall: float) -> list[Action]:
        """Notice that the end is near, long before SIGTERM: drain. Who gave it sends SIGTERM when the time is up."""
        if self._until - wall > NOTICE_SECONDS:
            return self.on_drain_until_the_end("notice of the end", now)
        return []

    def on_launcher_gone(self, now: float) -> list[Action]:
        """Who started this worker is gone, or wants it gone."""
        if self.is_draining:
            return self.on_leave()
        return self.on_drain("the program that started it is gone", now, 0.0)

    def on_alarm(self, alarm: Alarm, now: float) -> list[Action]:
        """Its time has come."""
        if alarm.until_the_end:
            return self.on_drain_until_the_end(alarm.why, now)
        return self.on_drain(alarm.why, now)

    def on_drain_until_the_end(self, why: str, now: float) -> list[Action]:
        """It must drain, and what runs may go on as long as there is time."""
        return self.on_drain(why, now, self.ends_at - now)

    def on_drain(self, why: str, now: float, grace: float | None = None) -> list[Action]:
        """It must take nothing more, return what has not started, finish what runs, leave. `grace`: seconds for what
        runs; None: as many as usual."""
        if self.is_draining or self.is_leaving:
            return []
        grace = self._grace if grace is None else max(0.0, grace)
        self.is_draining = True
        self._drains_from = now
        self._drains_until = min(now + grace, self.ends_at)
        return [Drain(why, grace)]

    def on_leave(self, has_threads: bool = False) -> list[Action]:
        """It must end at once."""
        if self.is_leaving:
            return []
        self.is_leaving = True
        return [Leave(self._gone_at == math.inf, has_threads)]

    def on_forsaken(self) -> None:
        """No master knows of the jobs here: nobody waits for what runs, should it drain."""
        self._drains_until = 0.0

    # --- it drains ---

    def on_tick(self, now: float, here: Here) -> list[Action]:
        """Some time has passed in a worker that drains, or what is there has changed."""
        if self.is_leaving:
            return []
        is_late = now >= self._drains_until
        if is_late and self._gone_at == math.inf and not here.is_empty:
            self._gone_at = now + (STOP_SECONDS + STOP_RESERVE) * self._pace
            return [StopJobs()]
        if here.is_empty:
            self._done_at = min(self._done_at, now)
        # What is left in runners without a job: threads. Who wants the worker gone at once has some seconds still.
        threads_until = min(max(self._drains_until, self._drains_from + END_SECONDS), self.ends_at)
        is_done = here.is_empty and (not here.has_runners or now >= threads_until)
        if now >= self._gone_at or (is_done and (is_late or self._is_all_told(now, here))):
            return self.on_leave(has_threads=here.is_empty and here.has_runners)
        return []

    def is_waiting(self, now: float, here: Here) -> bool:
        """Does it wait for something that may take long: for jobs, or for clients to have their results?"""
        return self._gone_at == math.inf and not (here.is_empty and self._is_all_told(now, here))

    def _is_all_told(self, now: float, here: Here) -> bool:
        """Are all results with their clients, or with a master whose clients are slow to say so?"""
        if not here.has_results:
            return here.is_lost or here.is_all_sent
        is_patient = now - self._done_at <= TAKEN_SECONDS
        return not (here.is_lost or is_patient or here.has_unclaimed) and here.is_all_sent

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself. For tests."""
        assert self._drains_until <= max(self.ends_at, self._drains_from)
        assert self._gone_at == math.inf or self.is_draining
        assert 0.0 <= self._pace <= 1.0
