"""Ending a cluster in Slurm: workers finish what runs, the master says goodbye, what is left is cancelled."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Sequence

from cw import program
from cw.launch.launcher import LaunchError
from cw.net import address
from cw.net import messages as m
from cw.slurm import finding, submitted
from cw.slurm.submitted import Job, State

logger = logging.getLogger("cw.slurm")

DRAIN_SECONDS = 20.0
"""For which `stop` lets running jobs go on."""

LOOK_SECONDS = 0.1
"""Between two looks whether workers have left."""


def stop(name: str | None = None, grace: float = DRAIN_SECONDS) -> str:
    """End a cluster: workers finish what runs, for up to `grace` seconds; then all its jobs are cancelled.

    Returns what there is to report, in words; '' if there was nothing to end. Raises LaunchError.
    """
    name = name or address.cluster_name()
    if not State.load(name).token:  # (the lock would leave a directory for it)
        return ""
    with submitted.locked(name) as state:
        if not state.token:
            return ""
        state.is_stopping = True  # from now on no job is followed by another
        state.save()
    before = finding.ask(state)
    try:
        State.system.check_answers()
        left = _drain(state, grace)
    except LaunchError:  # the batch system does not answer: the cluster goes on as before
        with submitted.locked(name) as state:
            state.is_stopping = False
            state.save()
        raise
    if before is not None and state.sought() == name:
        with contextlib.suppress(OSError):
            finding.ask(state, m.End("the cluster was stopped"))
    with submitted.locked(name) as state:
        for process in state.local_processes():
            process.send_signal(signal.SIGTERM)
        if finding.is_local_elsewhere(state):
            logger.warning("the master runs on %s: end it there", state.local["host"])
        state.cancel_all()
        address.unbind_cluster(name)
        state.forget()
    if before is None:
        return "stopped; its master had not answered"
    finished = max(0, before.running - left)
    return (
        f"stopped; {program.count(before.running, 'job was', 'jobs were')} running ({finished} of them finished, "
        f"{program.count(left, 'was', 'were')} stopped), {program.count(before.waiting, 'was', 'were')} waiting"
    )


def _drain(state: State, grace: float) -> int:
    """Let running jobs end; how many have not. (Of those that wait, no more is started.)"""
    jobs = state.of_role("workers")
    if not jobs:
        return 0
    tell_to_drain(state, jobs)
    deadline = time.monotonic() + grace
    left = 0
    while True:
        standing = finding.ask(state)
        if standing is None:
            return left
        ours = finding.workers_of(standing, jobs)
        left = sum(min(worker["held"], worker["slots"]) for worker in ours)
        if not ours or time.monotonic() > deadline:
            return left
        time.sleep(LOOK_SECONDS)


def tell_to_drain(state: State, jobs: Sequence[Job]) -> None:
    """Make the workers of these jobs drain: by the master those that are there; by the batch system those that are
    about to be, or have no master now. Jobs that still wait in the queue are cancelled."""
    State.system.notify(jobs)
    standing = finding.ask(state)
    there = finding.workers_of(standing, jobs) if standing else []
    if there:
        finding.ask(state, m.Drain([worker["ident"] for worker in there]))
