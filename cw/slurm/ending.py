"""End of a cluster in Slurm: workers finish running jobs, the master says goodbye, the remaining Slurm jobs are
cancelled."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Sequence

from cw import advice, program
from cw.events import EventLogger
from cw.launch import status_client
from cw.launch.launcher import LaunchError
from cw.net import address
from cw.net import messages as m
from cw.slurm import finding, hosting, submitted, used
from cw.slurm.submitted import BatchJob, State

logger = EventLogger("cw.slurm")

DRAIN_SECONDS = 20.0
"""Time that `stop` lets running jobs go on (seconds). Longer: it blocks. Shorter: more work is lost."""

MASTER_SECONDS = 15.0
"""Most time to wait for the end of a master whose job goes on with its workers (seconds). Shorter: it may still answer
afterwards."""

ROLES = ("master", "workers")
"""Parts of a cluster."""

LOOK_SECONDS = 0.1
"""Time between checks that workers have left (seconds)."""


def stop(name: str | None = None, grace: float = DRAIN_SECONDS, roles: Sequence[str] = ROLES) -> str:
    """End a cluster: workers finish running jobs, for up to `grace` seconds; then all its Slurm jobs are cancelled.

    With one of the `roles` only that part ends, unless it is all that there is. Returns a report in words; '' if there
    was nothing to end. Raises LaunchError.
    """
    name = name or address.cluster_name()
    state = State.load(name)
    if not state.token or not roles:  # (the lock would leave a directory behind)
        return ""
    is_part = any(_has(state, role) for role in ROLES if role not in roles)
    if is_part and not _has(state, roles[0]):
        return ""
    if is_part and "workers" not in roles:
        return _stop_master(name)
    with submitted.locked(name) as state:
        if not state.token:
            return ""
        state.is_stopping = True  # from now on no job is followed by another
        state.save()
    before = finding.ask(state)
    try:
        State.system.check_answers()
        if is_part:
            _check_begun(state, before)
        left = _drain(state, grace)
    except LaunchError:  # the batch system does not answer: the cluster goes on as before
        with submitted.locked(name) as state:
            state.is_stopping = False
            state.save()
        raise
    if is_part:
        with submitted.locked(name) as state:
            state.is_stopping = False
            hosting.end_workers(state)
            state.cancel_all(roles)
        return _report(before, left, "the workers are stopped; their master goes on")
    if before is not None and state.sought() == name and "master" in roles:
        with contextlib.suppress(OSError):
            finding.ask(state, m.End("the cluster was stopped"))
    use = used.in_words(used.of_logs(state.logs))
    with submitted.locked(name) as state:
        _end_local_master(state)
        state.cancel_all()
        address.unbind_cluster(name)
        state.forget()
    return "; ".join(filter(None, [_report(before, left, "stopped"), use]))


def _has(state: State, role: str) -> bool:
    """True if jobs of this role were submitted, or if its master is a process on a login node."""
    jobs = state.with_workers() if role == "workers" else state.of_role(role)
    return bool(jobs) or (role == "master" and bool(state.local))


def _check_begun(state: State, status: status_client.ClusterStatus | None) -> None:
    """Raise LaunchError if the workers' jobs cannot be ended without the master's. `status`: its answer."""
    rows = state.rows()
    for job in hosting.hosts(state):
        has_begun = job.ident in rows and not rows[job.ident].is_waiting
        if not (job.follows or has_begun or hosting.answers_in(status, job)):
            stop = advice.command("slurm", "stop", name=state.name)
            raise LaunchError(f"{job} has the master and workers, and has not begun: end both (`{stop}`)")


def _stop_master(name: str) -> str:
    """End only the master; its workers keep their jobs for the next one."""
    State.system.check_answers()
    with submitted.locked(name) as state:
        before = finding.ask(state)
        _end_local_master(state)
        hosted = hosting.hosts(state)
        for job in hosted:
            hosting.hand_over(state, job.ident, state.rows(), before)
        state.cancel_all(["master"])
    deadline = time.monotonic() + MASTER_SECONDS
    while hosted and before is not None and time.monotonic() < deadline:
        status = finding.ask(state)
        if status is None or status.ident != before.ident:
            break
        time.sleep(LOOK_SECONDS)
    start = advice.command("slurm", "start", "-W", name=name)
    return f"the master is stopped; its workers look for another: `{start}` starts one"


def _end_local_master(state: State) -> None:
    for process in state.local_processes():
        process.send_signal(signal.SIGTERM)
    if finding.is_local_elsewhere(state):
        logger.warning("slurm.master_elsewhere", "the master runs on %s: end it there", state.local["host"])
    state.local = {}


def _report(before: status_client.ClusterStatus | None, left: int, what: str) -> str:
    """Describe an end. `before`: the status before it; `left`: number of jobs that were stopped."""
    if before is None:
        return f"{what}; its master had not answered"
    finished = max(0, before.running - left)
    return (
        f"{what}; {program.count(before.running, 'job was', 'jobs were')} running ({finished} of them finished, "
        f"{program.count(left, 'was', 'were')} stopped), {program.count(before.waiting, 'was', 'were')} waiting"
    )


def _drain(state: State, grace: float) -> int:
    """Let running jobs end; returns the number of those that have not. (No waiting job starts any more.)"""
    jobs = state.with_workers()
    if not jobs:
        return 0
    order_drain(state, jobs)
    deadline = time.monotonic() + grace
    left = 0
    while True:
        status = finding.ask(state)
        if status is None:
            return left
        ours = finding.workers_of(status, jobs)
        left = sum(min(worker["held"], worker["slots"]) for worker in ours)
        if not ours or time.monotonic() > deadline:
            return left
        time.sleep(LOOK_SECONDS)


def order_drain(state: State, jobs: Sequence[BatchJob]) -> None:
    """Drain the workers of these jobs: through the master if they are connected; through the batch system if they will
    be, or have no master now. Jobs that still wait in the queue are cancelled."""
    State.system.notify(jobs)
    status = finding.ask(state)
    there = finding.workers_of(status, jobs) if status else []
    if there:
        finding.ask(state, m.Drain([worker["ident"] for worker in there]))
