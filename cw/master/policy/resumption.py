"""The return of a client, to this master or to another one: a pure state machine for each session.

       on_connected          on_disconnected                    on_connected: True
      -------------> THERE -----------------> AWAY -----------------------------------> SETTLING
                      ^                        '---> should_end: its session is dropped    |
                      |                                                                    |
                      '--------------------------------------------------------------------'
                        settle: all is resubmitted, and the workers that may hold some of it
                        have reported, or had their time

A client that is back submits its open jobs again, with what was charged to them, and names the workers that were at the
previous master. Its jobs up to the highest number that was ever submitted count as *resubmitted*: a worker may hold
them, so they wait until the session has settled. Jobs with higher numbers are new and wait for nothing.

No socket, no thread, no clock. The caller has checked the messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from cw.master.policy.jobs import Job
from cw.master.settings import AWAY
from cw.named_tuple import NamedTuple
from cw.net import messages as m

GRACE_IF_WANTED = 5.0
"""Longest time for which the session of an absent client is kept (seconds), if its connection was closed or reset (so
its program has probably ended) and other sessions want the slots."""

SETTLE = 5.0
"""Time after a client's return in which workers of the previous master may come back (seconds). Resubmitted jobs are
not dispatched until these have named what they hold, or the time is over. It begins anew with each that comes."""

MOST_SETTLE = 300.0
"""Longest time for that, however many come (seconds): thousands take a while, and what they run must not run twice."""


class Settled(NamedTuple):
    """The session has settled. `missing`: workers that did not come back in time."""

    missing: list[str]
    is_complete: bool
    """All workers that were at the previous master are here, and none of them has gone again."""


class Resumption:
    """Knows what the client of one session has submitted over all its connections, and whether it is connected."""

    def __init__(self, grace: float, most_jobs: int) -> None:
        """Begin with no client. `grace`: seconds for which the session is kept without its client; `most_jobs`: limit
        of the jobs that it may resubmit."""
        self.resubmitted_up_to = 0
        """Highest number of a job that the client had submitted before it came back."""
        self.were_here = False
        """It had submitted these jobs to this master."""
        self._grace = grace
        self._most_jobs = most_jobs
        self._highest = 0  # highest number of a job that was submitted, here or before
        self._submitted = 0  # highest number of a job that was submitted over this connection
        self._charges: dict[int, m.AttemptCounts] = {}  # charges to jobs that are about to be resubmitted
        self._is_settling = False
        self._is_resubmitted = False  # all open jobs were resubmitted
        self._missing: set[str] = set()  # workers of the previous master that have not come back yet
        self._is_complete = True  # none of those that came back is gone again
        self._began_at = 0.0  # when it connected
        self._settles_at = 0.0  # when it settles even if workers are missing
        self._gone_at: float | None = None
        self._is_reset = False  # its connection was closed or reset: its program has probably ended

    # --- it comes and goes ---

    def on_connected(self, now: float, is_new: bool, resubmitted_up_to: int) -> bool:
        """The client has connected. `is_new`: it has not been at this master before; `resubmitted_up_to`: highest
        number of a job that it submitted to other masters. Returns True if the client is back, and resubmits its open
        jobs."""
        self._submitted = 0
        self._charges.clear()
        self._gone_at = None
        if is_new:
            self._highest = resubmitted_up_to
        self.resubmitted_up_to = self._highest
        if is_new and not resubmitted_up_to:
            return False
        self.were_here = not is_new
        if not self._is_settling:  # otherwise workers may be missing from before
            self._is_settling = self._is_complete = True
            self._missing.clear()
        self._is_resubmitted = False
        self._began_at = now
        self._settles_at = now + SETTLE
        return True

    def on_disconnected(self, now: float, is_reset: bool) -> None:
        self._gone_at = now
        self._is_reset = is_reset

    def should_end(self, now: float, has_lost_parent: bool, is_in_the_way: bool) -> bool:
        """True if the client has been away for too long. `has_lost_parent`: it ran in a job that no worker holds any
        more; `is_in_the_way`: other sessions want the slots."""
        if self._gone_at is None:
            return False
        away = now - self._gone_at
        if away >= self._grace:
            return True
        return self._is_reset and (
            (has_lost_parent and away >= AWAY) or (is_in_the_way and away >= GRACE_IF_WANTED)
        )

    # --- what it submits ---

    def on_submitted(self, jobs: list[Job]) -> tuple[list[Job], list[Job]]:
        """Jobs have come, in the order of their numbers. Returns the resubmitted ones, with what was charged to them
        before, and the new ones."""
        self._submitted = jobs[-1].number
        self._highest = max(self._highest, self._submitted)
        if jobs[0].number > self.resubmitted_up_to:
            return [], jobs
        again = [job for job in jobs if job.number <= self.resubmitted_up_to]
        self._charge(again)
        return again, jobs[len(again) :]

    def on_submitted_apart(self, jobs: list[Job]) -> bool:
        """Jobs have come apart from the order of numbers. True: they are resubmitted, and charged as before."""
        if not self._is_settling or self._is_resubmitted:
            return False
        self._charge(jobs)
        return True

    def _charge(self, jobs: list[Job]) -> None:
        for job in jobs:
            charges = self._charges.pop(job.number, None)
            if charges is not None:
                job.crashes, job.worker_losses = charges.crashes, charges.worker_losses
                job.notes = tuple(charges.notes)

    def on_attempt_counts(self, message: m.AttemptCounts) -> None:
        """Attempts were charged to a job that is about to be resubmitted."""
        if len(self._charges) < self._most_jobs:
            self._charges[message.number] = message

    def on_resubmitted(self) -> None:
        """All its open jobs have been resubmitted."""
        self._is_resubmitted = True

    # --- the workers that may hold them ---

    def on_former_workers(self, former: Iterable[str], joined: Set[str]) -> None:
        """The client names the workers that it knew at the previous master; `joined`: those that are here."""
        if self._is_settling and not self.were_here:
            self._missing = set(former) - joined

    def on_workers_changed(self, now: float, joined: Iterable[str], gone: Iterable[str]) -> None:
        """Workers have come or gone. While those come that are missing, the others have more time: thousands take a
        while."""
        before = len(self._missing)
        self._missing.difference_update(joined)
        if len(self._missing) < before:
            self._settles_at = max(self._settles_at, min(now + SETTLE, self._began_at + MOST_SETTLE))
        self._is_complete = self._is_complete and not gone

    def settle(self, now: float) -> Settled | None:
        """Settle, if it is time: then resubmitted jobs that no worker holds may be queued. None: not yet."""
        if not self._is_settling or not self._is_resubmitted or self._gone_at is not None:
            return None
        if self._missing and now < self._settles_at:
            return None
        missing = sorted(self._missing)
        self._is_settling = False
        self._missing.clear()
        return Settled(missing, self._is_complete and not missing)

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        assert self.resubmitted_up_to <= self._highest and self._submitted <= self._highest
        assert len(self._charges) <= self._most_jobs
        assert self._is_settling or not self._missing
