"""The return of a client, to this master or to another one: a pure state machine for each session.

       on_connected          on_disconnected                    on_connected: True
      -------------> THERE -----------------> AWAY -----------------------------------> SETTLING
                      ^                        '---> should_end: its session is dropped    |
                      |                                                                    |
                      '--------------------------------------------------------------------'
                        settle: all is handed in again, and the workers that may hold some of it
                        have reported, or had their time

A client that is back sends its open jobs again, with what was charged to them, and names the workers that were at the
master before. Its jobs up to the highest number that was ever handed in count as handed in *again*: a worker may hold
them, so they wait until the session has settled. Jobs with higher numbers are new and wait for nothing.

No socket, no thread, no clock. The caller has checked the messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import NamedTuple

from cw.master.jobs import Job
from cw.master.settings import AWAY
from cw.net import messages as m

GRACE_IF_WANTED = 5.0
"""Seconds for which the session of a client that is gone is kept, at most, if its connection was closed or reset (its
program has ended, likely) and others want the slots."""

SETTLE = 5.0
"""Seconds after the return of a client to a new master for which workers that were there before are waited for. Jobs
that were handed in again are not dispatched until these have named what they hold, or the time is over."""


class Settled(NamedTuple):
    """The session has settled. `missing`: workers that did not come back in time."""

    missing: list[str]
    is_complete: bool
    """All workers that were at the master before are here, and none of them has gone again."""


class Resumption:
    """Knows what the client of one session has handed in over all its connections, and whether it is here."""

    def __init__(self, grace: float, most_jobs: int) -> None:
        """`grace`: the seconds for which the session is kept without its client; `most_jobs`: how many it may hand in
        again, or cancel before it has."""
        self.handed = 0
        """The client had handed in jobs up to this number before it came back."""
        self.were_here = False
        """It had handed them in to this master."""
        self._grace = grace
        self._most_jobs = most_jobs
        self._highest = 0  # number of a job that was handed in, here or before
        self._submitted = 0  # the same, over this connection
        self._cancelled: set[int] = set()  # jobs whose Cancel overtook their Submit
        self._charges: dict[int, m.AttemptCounts] = {}  # to jobs that are about to be handed in again
        self._is_settling = False
        self._is_handed_in = False  # all that it has
        self._missing: set[str] = set()  # workers that were there before, and have not come back yet
        self._is_complete = True  # none of those that came back is gone again
        self._settles_at = 0.0  # however many are missing
        self._gone_at: float | None = None
        self._is_reset = False  # its connection was closed or reset: its program has ended, likely

    # --- it comes and goes ---

    def on_connected(self, now: float, is_new: bool, handed: int) -> bool:
        """The client is here; `is_new`: it has not been at this master before; `handed`: what it says of the others.
        Returns whether it is back, and hands in its open jobs again."""
        self._submitted = 0
        self._cancelled.clear()
        self._charges.clear()
        self._gone_at = None
        if is_new:
            self._highest = handed
        self.handed = self._highest
        if is_new and not handed:
            return False
        self.were_here = not is_new
        if not self._is_settling:  # otherwise workers may be missing from before
            self._is_settling = self._is_complete = True
            self._missing.clear()
        self._is_handed_in = False
        self._settles_at = now + SETTLE
        return True

    def on_disconnected(self, now: float, is_reset: bool) -> None:
        self._gone_at = now
        self._is_reset = is_reset

    def should_end(self, now: float, has_lost_parent: bool, is_in_the_way: bool) -> bool:
        """Has the client been away for too long? `has_lost_parent`: it ran in a job that no worker holds any more;
        `is_in_the_way`: others want the slots."""
        if self._gone_at is None:
            return False
        away = now - self._gone_at
        if away >= self._grace:
            return True
        return self._is_reset and (
            (has_lost_parent and away >= AWAY) or (is_in_the_way and away >= GRACE_IF_WANTED)
        )

    # --- what it hands in ---

    def on_submitted(self, jobs: list[Job]) -> tuple[list[Job], list[Job]]:
        """Jobs have come, in the order of their numbers. Returns those that are handed in again, with what was charged
        to them before, and the new ones; without those that were cancelled before they came."""
        self._submitted = jobs[-1].number
        self._highest = max(self._highest, self._submitted)
        if self._cancelled:
            jobs = [job for job in jobs if job.number not in self._cancelled]
            self._cancelled = {number for number in self._cancelled if number > self._submitted}
        if not jobs or jobs[0].number > self.handed:
            return [], jobs
        again = [job for job in jobs if job.number <= self.handed]
        for job in again:
            charges = self._charges.pop(job.number, None)
            if charges is not None:
                job.deaths, job.losses, job.notes = charges.deaths, charges.losses, tuple(charges.notes)
        return again, jobs[len(again) :]

    def on_cancelled(self, numbers: Iterable[int]) -> None:
        """The client cancels jobs, perhaps before they have come."""
        early = [number for number in numbers if number > self._submitted]
        if len(self._cancelled) + len(early) <= self._most_jobs:
            self._cancelled.update(early)

    def on_charged(self, message: m.AttemptCounts) -> None:
        """This was charged to a job that is about to be handed in again."""
        if len(self._charges) < self._most_jobs:
            self._charges[message.number] = message

    def on_handed_in(self) -> None:
        """All its open jobs have come again."""
        self._is_handed_in = True

    # --- the workers that may hold them ---

    def on_former_workers(self, former: Iterable[str], joined: Set[str]) -> None:
        """The client names the workers that it knew at the master before; `joined`: those that are here."""
        if self._is_settling and not self.were_here:
            self._missing = set(former) - joined

    def on_workers_changed(self, joined: Iterable[str], gone: Iterable[str]) -> None:
        self._missing.difference_update(joined)
        self._is_complete = self._is_complete and not gone

    def settle(self, now: float) -> Settled | None:
        """Settle, if it is time: then jobs that were handed in again and that nobody holds may be queued."""
        if not self._is_settling or not self._is_handed_in or self._gone_at is not None:
            return None
        if self._missing and now < self._settles_at:
            return None
        missing = sorted(self._missing)
        self._is_settling = False
        self._missing.clear()
        return Settled(missing, self._is_complete and not missing)

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        assert self.handed <= self._highest and self._submitted <= self._highest
        assert all(number > self._submitted for number in self._cancelled)
        assert len(self._cancelled) <= self._most_jobs and len(self._charges) <= self._most_jobs
        assert self._is_settling or not self._missing
