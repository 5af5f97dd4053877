"""Succession of a cluster's jobs in a batch system: which job follows, and when there is nothing left to follow.

                 workers' jobs wait, or end later     lead_of() before its end
    the master's job --------------------------------> a follower waits in the queue, while the master goes on
          ^                                                       | it begins, and its master answers
          '----------- is cancelled: clients and workers change --'

    a follower ends when no workers' job is left; workers' jobs without a master end after ORPHAN_SECONDS
    --renew: each job has a follower from its beginning, that begins after its end; the master's may begin earlier

`Succession` is a part of `sidecar watch`, beside the master. What cannot be done now (the batch system does not answer,
a limit on jobs) is noted in the cluster's state for `status`, and tried again until RETRY_MARGIN before the end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from cw.events import EventLogger
from cw.launch import status_client
from cw.launch.batch_system import ListedJob
from cw.launch.launcher import LaunchError
from cw.launch.plan import job_name
from cw.location import Location
from cw.net import address
from cw.net import messages as m
from cw.slurm import finding, hosting, submitted
from cw.slurm.submitted import BatchJob, State

logger = EventLogger("cw.slurm.sidecar")

LEAD = 3600.0
"""Time before the end of the master's job at which its follower is submitted (seconds), at most half of the job's time.
Longer: masters change more often. Shorter: more followers still wait in the queue when the master has ended."""

RETRY_SECONDS = 15.0
"""Time between attempts to submit a follower (seconds)."""

RETRY_MARGIN = 30.0
"""Time before the end of a job until which this is tried (seconds); less for a short one."""

LOOK_SECONDS = 60.0
"""Time between two looks of a follower for workers' jobs, and least time for which there are none before it ends
(seconds). Longer: it lives in vain. Shorter: it ends before a `scale` of this moment is seen."""

TAKE_OVER_SECONDS = 1.0
"""Time between two looks for the follower's own master (seconds)."""

ORPHAN_SECONDS = 300.0
"""Time for which workers wait for a master of which there is no job in the queue (seconds). Longer: they hold nodes in
vain. Shorter: they end before a master that a user starts again is there."""

SHORT_SECONDS = 60
"""Delay between jobs that fail at once (seconds): if a job begins less than this after its predecessor began, the next
one begins this much later. Shorter: a failing program is restarted more often."""


def lead_of(seconds: float) -> float:
    """Return how long before the end of a master's job of this time limit its follower is submitted (seconds)."""
    return min(LEAD, seconds / 2)


# --- followers from the beginning: --renew ------------------------------------------------------


def is_impossible() -> bool:
    """True if no job can be submitted from this machine."""
    return not State.system.is_installed()


def check_program() -> None:
    """Raise LaunchError if no job can be submitted from this machine."""
    submit = State.system.submit_program
    if is_impossible():
        raise LaunchError(
            f"there is no {submit} on this node, so no job can follow this one: start the cluster without --renew, "
            "or with a longer --time"
        )


def renew(name: str, token: str, role: str) -> None:
    """Submit the successor of the job in which this runs; only once, however often that job is requeued. Raises
    LaunchError."""
    ident = State.system.current_job()
    with submitted.locked(name) as state:
        own = _own_job(state, token, ident)
        if own is None or any(job.follows == ident for job in state.jobs):
            return
        # Its predecessor has ended: this job has waited for that. (That of a master's job may go on for a moment.)
        if role != "master":
            state.jobs = [job for job in state.jobs if job.ident != own.follows]
        is_short = own.follows and time.time() - own.at < SHORT_SECONDS
        _submit(state, own, follows=ident, delay=SHORT_SECONDS if is_short else 0)


def renew_again(name: str, token: str, role: str) -> None:
    """Try to submit it again and again, until the job in which this runs is about to end, or is over."""
    ident = State.system.current_job()
    while _own_job(State.load(name), token, ident) is not None:
        time.sleep(RETRY_SECONDS)
        try:
            row = State.system.list_jobs().rows.get(ident)
            left = row.time_left(time.time()) if row is not None else None
            if left is not None and left < RETRY_MARGIN:
                logger.error(
                    "sidecar.follower_missing", "no job follows this one, which ends in %.0f s", left
                )
                return
            renew(name, token, role)
            return
        except LaunchError as error:
            log_failure(error)


def log_failure(error: LaunchError) -> None:
    """Log that a follower could not be submitted. Its job goes on, and its log is where a user looks for the reason."""
    logger.warning("sidecar.follower_failed", "no job follows this one yet: %s", error)


def _submit(state: State, own: BatchJob, follows: int, delay: int = 0, is_parallel: bool = False) -> None:
    """Submit the follower of this job, and note whether that works. Raises LaunchError."""
    try:
        check_program()
        piece = {"slots": own.slots, "kind": own.kind, "stays": own.stays}
        following = state.submit(own.role, follows, delay, is_parallel, **piece)
    except LaunchError as error:
        state.note_problem(f"follower of {own.ident}", f"no job follows {own} ({own.role}) yet: {error}")
        raise
    state.note_problem(f"follower of {own.ident}", "")
    logger.info("sidecar.follower_submitted", "%s is submitted and follows this job", following)


def _own_job(state: State, token: str, ident: int) -> BatchJob | None:
    """Return the job in which this runs, unless the cluster was stopped meanwhile."""
    if state.token != token or state.is_stopping:
        return None
    return next((job for job in state.jobs if job.ident == ident), None)


# --- the master's job -----------------------------------------------------------------------------


class Succession:
    """The part of a master's sidecar that looks for its follower, and after its predecessor."""

    def __init__(self, name: str, token: str) -> None:
        self._name, self._token = name, token
        self._ident = State.system.current_job()  # 0: the master is a process on a login node
        self._due = 0.0  # when to look again
        self._is_in_place = False  # it has taken over from its predecessor
        self._alone_since = 0.0  # since when there is no workers' job; 0: there is one

    def wait_seconds(self, now: float) -> float:
        """Return for how long there is nothing to do."""
        return max(0.0, self._due - now) if self._ident else math.inf

    def look(self, now: float) -> None:
        """Do what is due. Raises LaunchError."""
        if not self._ident or now < self._due:
            return
        self._due = now + RETRY_SECONDS
        state = State.load(self._name)
        own = _own_job(state, self._token, self._ident)
        if own is None:
            self._due = now + LOOK_SECONDS
            return
        if own.follows and not self._is_in_place:
            self._take_over(own, now)
            return
        rows = state.rows()
        if own.follows and not goes_on(state) and self._is_over(state, own, rows, now):
            logger.info("sidecar.cluster_over", "no job of the workers is left: the master ends")
            status_client.ask(address.find_cluster(self._name), m.End("no job of its workers is left"))
            return
        self._follow(state, own, rows, now)

    def _take_over(self, own: BatchJob, now: float) -> None:
        """End the predecessor as soon as this master answers, so that clients and workers change over at once."""
        self._due = now + TAKE_OVER_SECONDS
        status = status_client.ask(address.find_cluster(self._name))
        if status is None or not finding.is_in(Location.parse(status.location), [own]):
            return
        rows = State.load(self._name).rows()
        with submitted.locked(self._name) as state:
            if _own_job(state, self._token, self._ident) is not None:
                hosting.hand_over(state, own.follows, rows)
                logger.info("sidecar.master_follows", "this master has taken the place of the one before it")
        self._is_in_place = True

    def _is_over(self, state: State, own: BatchJob, rows: Mapping[int, ListedJob], now: float) -> bool:
        """True if there has been no workers' job for a while; with workers beside the master, if jobs are over, too."""
        if active_jobs(state, "workers", rows, now):
            self._alone_since = 0.0
        elif not self._alone_since:
            self._alone_since = now
        elif now - self._alone_since >= LOOK_SECONDS:
            status = status_client.ask(address.find_cluster(self._name))
            if status is None or (own.slots and status.waiting + status.running):
                return False
            return len(status.workers) == len(finding.workers_of(status, [own]))  # (Others may have joined.)
        return False

    def _follow(self, state: State, own: BatchJob, rows: Mapping[int, ListedJob], now: float) -> None:
        """See to it that another master is there in time, if one is needed."""
        row = rows.get(own.ident)
        left = row.time_left(now) if row is not None else None
        if row is None:
            return
        lead = LEAD if left is None else lead_of(now + left - row.start)
        if left is None or left > lead:  # (without an end: it may get one)
            far = LEAD if left is None else left - lead
            self._due = now + min(far, LOOK_SECONDS if own.follows else LEAD)
            return
        if left < min(RETRY_MARGIN, lead / 4) or not is_needed(state, rows, now, left):
            return
        with submitted.locked(self._name) as state:
            followers = [job for job in state.jobs if job.follows == own.ident and job.role == "master"]
            there = [job for job in followers if job.ident not in rows or rows[job.ident].is_active]
            if _own_job(state, self._token, self._ident) is None:
                return
            if not there:
                _submit(state, own, follows=own.ident, is_parallel=True)
            elif state.plans["master"].is_renewed:
                State.system.release(there)
        self._due = now + LOOK_SECONDS


def active_jobs(state: State, role: str, rows: Mapping[int, ListedJob], now: float) -> list[BatchJob]:
    """Return the jobs of a role that have not ended, as far as is known."""
    return [
        job
        for job in state.of_role(role)
        if (rows[job.ident].is_active if job.ident in rows else now - job.at < State.system.list_seconds)
    ]


def goes_on(state: State) -> bool:
    """True if the master is needed also without a job of workers: until `stop`, or until nobody uses the cluster
    (cw.slurm.unused)."""
    return state.plans["master"].is_renewed or any(plan.idle for plan in state.plans.values())


def is_needed(state: State, rows: Mapping[int, ListedJob], now: float, left: float) -> bool:
    """True if a master is needed after `left` seconds: workers' jobs wait, or end later."""
    if goes_on(state):
        return True
    for job in active_jobs(state, "workers", rows, now):
        row = rows.get(job.ident)
        others = row.time_left(now) if row is not None else None
        if others is None or others > left:
            return True
    status = status_client.ask(address.find_cluster(state.name))  # workers of other clusters' jobs
    return status is not None and any(_outlasts(worker, state, left) for worker in status.workers)


def _outlasts(worker: dict[str, Any], state: State, left: float) -> bool:
    place = Location.parse(worker["location"])
    is_foreign = place.system == State.system.name and not finding.is_in(place, state.jobs)
    return is_foreign and (worker["left"] is None or worker["left"] > left)


# --- workers without a master -----------------------------------------------------------------------


def end_orphan(name: str, token: str, seconds: float = ORPHAN_SECONDS) -> bool:
    """End the job of workers in which this runs if for `seconds` no master answers, and none is in the queue. Returns
    whether it has; at once if a master answers."""
    ident = State.system.current_job()
    since = time.monotonic()
    while time.monotonic() - since < seconds:
        state = State.load(name)
        if status_client.ask(address.find_cluster(state.sought())) is not None or _is_master_to_come(state):
            return False
        time.sleep(min(RETRY_SECONDS, seconds))
    name_of_job = job_name(name, "workers", token)
    logger.warning(
        "sidecar.orphan_ended",
        "no master has answered for %.0f s, and none is in the queue: this job of workers ends",
        seconds,
    )
    State.system.cancel([BatchJob("workers", ident, "", name_of_job, 0, 0.0)])
    return True


def _is_master_to_come(state: State) -> bool:
    """True if the master's job waits or runs, as far as is known."""
    sought = State.load(state.sought())
    try:
        rows = sought.rows()
    except LaunchError:
        return True
    return bool(active_jobs(sought, "master", rows, time.time()))
