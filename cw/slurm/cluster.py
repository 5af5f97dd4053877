"""A cluster in Slurm: one job for the master, others for the workers.

    ./slurm.py start -n 32           python -m cw.slurm start -n 32        cw.slurm.start(32)
    ./slurm.py status                ...                                   cw.slurm.status()
    ./slurm.py stop                                                        cw.slurm.stop()

    with cw.slurm.allocate(32):      for the duration of a block

Clients find the master by the address file that it writes into the shared home directory. Submitted jobs are noted
there, too (`cw.slurm.submitted`), so that every machine of the cluster can show its status and end it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from cw import advice, guard, program
from cw.events import EventLogger
from cw.launch import launcher
from cw.launch.batch_system import ListedJob
from cw.launch.launcher import LaunchError, Lifeline
from cw.launch.options import ClusterOptions, takes
from cw.net import address
from cw.slurm import elastic, ending, finding, hosting, job_logs, kinds, pieces, scaling, submitted, used
from cw.slurm.elastic import KindStatus
from cw.slurm.starting import SlurmCluster, make_plan, start_plan
from cw.slurm.submitted import BatchJob, State

logger = EventLogger("cw.slurm")


class JobStatus(NamedTuple):
    """One Slurm job of a cluster."""

    ident: int
    role: str
    """'master' or 'workers'."""
    state: str
    """State in words, with the reason if there is one."""
    nodes: str
    time_left: float | None
    """Seconds until the end of its allocation, if it has begun and its end is known."""
    slots: int
    is_active: bool
    """True if it has not ended, as far as is known."""


class Status(NamedTuple):
    """Status of a cluster."""

    name: str
    jobs: list[JobStatus]
    master: str
    """The master's address, 'HOST:PORT', or '' if none answers."""
    local: str
    """The master's process, if it was started on a login node, or ''."""
    slots: int
    """Number of connected slots."""
    waiting: int
    running: int
    logs: str
    problem: str
    """Reason why Slurm does not report the jobs' states, or ''."""
    age: float = 0.0
    """Age of Slurm's answer (seconds): it is asked once in some seconds for all programs of the user."""
    problems: tuple[str, ...] = ()
    """What goes wrong now and is tried again."""
    kinds: list[KindStatus] = []
    """The kinds of pieces of an elastic cluster."""


@takes(ClusterOptions)
def start(options: ClusterOptions) -> SlurmCluster:
    """Submit a master and workers with `nworkers` slots; returns when the master answers.

    `master_options` and `worker_options` are sbatch's, except those that cw.master and cw.worker know. With
    `master=False` the workers are for a master that runs already; with `workers=False` only a master is started.
    `name`: a second cluster beside the first (default: CW_CLUSTER, or 'default'). Raises ValueError for invalid
    arguments, and LaunchError, with Slurm's own message, if the cluster cannot be started.
    """
    guard.check_start("cw.slurm.start()")
    return start_plan(make_plan(options), options.master, options.workers, _log)


def stop(
    master: bool | str | None = True,
    workers: bool = True,
    *,
    name: str | None = None,
    grace: float = ending.DRAIN_SECONDS,
) -> str:
    """End a cluster, or only its master or its workers; these finish running jobs, for up to `grace` seconds.

    `name` may also be the first argument. Returns a report in words; '' if there was nothing to end. Raises
    LaunchError.
    """
    if not isinstance(master, bool):
        name, master = master, True
    roles = [role for role, is_chosen in (("master", master), ("workers", workers)) if is_chosen]
    return ending.stop(name, grace, roles)


def status(name: str | None = None) -> Status | None:
    """Return the status of the cluster, or None if there is none of that name. Raises LaunchError for bad files."""
    name = name or address.cluster_name()
    state = State.load(name)
    if not state.token:
        return None
    answer = finding.ask(state)
    problem, rows, age = "", {}, 0.0
    problems = tuple(state.problems.values())
    try:
        rows, age = state.rows(), state.age()
    except LaunchError as error:
        problem = str(error)
    jobs = [_job_status(state, job, rows.get(job.ident), problem) for job in state.jobs]
    local = ""
    if state.local:
        local = f"process {state.local['processes'][0][0]} on {state.local['host']}"
    there = elastic.statuses(state, rows, finding.draining_by_job(answer)) if answer else []
    there = there or elastic.statuses(state, rows, {})
    if answer is None:
        return Status(name, jobs, "", local, 0, 0, 0, state.logs, problem, age, problems, there)
    return Status(
        name,
        jobs,
        answer.where,
        local,
        answer.slots,
        answer.waiting,
        answer.running,
        state.logs,
        problem,
        age,
        problems,
        there,
    )


def _job_status(state: State, job: BatchJob, row: ListedJob | None, problem: str) -> JobStatus:
    if row is None:
        is_new = time.time() - job.at < State.system.list_seconds
        words = "was submitted" if is_new else "is not known" if problem else "is not in the queue any more"
        words = job_logs.with_failure(state, job, words, not is_new)
        return JobStatus(job.ident, job.role, words, "", None, job.slots, is_new or bool(problem))
    left = row.time_left(time.time())
    words = job_logs.with_failure(state, job, row.describe(), not row.is_active)
    return JobStatus(job.ident, job.role, words, row.nodes, left, job.slots, row.is_active)


def scale(
    nworkers: int | None = None,
    name: str | None = None,
    *,
    min: int | None = None,
    max: int | None = None,
    kind: str | None = None,
) -> str:
    """Change the number of slots to `nworkers`; returns a description of what is done. Raises LaunchError, ValueError.

    More slots come with more jobs, also in place of slots that were lost. For fewer, waiting jobs are cancelled first;
    then whole running ones drain, as long as `nworkers` slots stay. With `max`, and with a `kind`, it is the limits of
    an elastic cluster that change; `nworkers` is both then.
    """
    guard.check_start("cw.slurm.scale()")
    name = name or address.cluster_name()
    state = State.load(name)
    if nworkers is not None and nworkers != 0:
        nworkers = launcher.check_nworkers(nworkers)
    if not state.token:
        start = advice.command("slurm", "start", "-n", str(nworkers or 1), name=name)
        raise LaunchError(f"there is no cluster {name!r} to scale: start one with `{start}`")
    if nworkers == 0:
        raise ValueError(f"no slots at all? {_without_slots(state, name, kind)}")
    if max is not None or min is not None or kind is not None or kinds.elastic(state):
        return elastic.resize(name, kind, *elastic.limits(state, kind, nworkers, min, max))
    nworkers = launcher.check_nworkers(nworkers)
    with submitted.locked(name) as state:
        if not state.token:
            raise LaunchError(f"the cluster {name!r} was stopped just now")
        change, lost = _change_size(state, nworkers)
        state.plans.setdefault("workers", state.plans["master"])  # if none were started yet
        state.plans["workers"] = state.plans["workers"]._replace(slots=nworkers)
        state.save()
        plan = state.plans["workers"]
    more = pieces.submit_pieces(name, state.token, plan.pieces(change.slots)) if change.slots else []
    hosted = sum(job.slots for job in hosting.hosts(state)[:1])
    return _describe(change, more, lost, nworkers, hosted)


def _without_slots(state: State, name: str, kind: str | None) -> str:
    """Return what a user can type who wants no slots."""
    stop = f"`{advice.command('slurm', 'stop', name=name)}` ends the cluster"
    if kind is None and not kinds.elastic(state):
        return stop
    kind = kind or kinds.title("")
    scale = advice.command("slurm", "scale", "--kind", kind, "--min", "0", "--max", "0", name=name)
    return f"`{scale}` lets these pieces finish their jobs, and starts no others; {stop}"


def _change_size(state: State, wanted: int) -> tuple[scaling.Change[BatchJob], int]:
    """Plan the change to `wanted` slots, and end the jobs that are too many. Returns the number of lost slots, too."""
    found = pieces.look_at(state, state.with_workers(), must_answer=True)
    status = finding.ask(state)
    state.jobs = [job for job in state.jobs if job not in found.ended or job.role == "master"]
    jobs = state.with_workers()
    there = pieces.use_of(status, jobs)
    # Of those that were submitted just now, none has begun whose workers are not there.
    waiting = [*found.waiting, *(job for job in found.unknown if status and not there[job.ident].slots)]
    masters = state.of_role("master")
    has_settled = status is not None and (not masters or bool(pieces.look_at(state, masters).joined))
    lost = pieces.lost_slots(found, there) if has_settled else {}
    held = {ident: use.held for ident, use in there.items()}
    hosted = hosting.slots(state, found) - sum(lost.pop(job.ident, 0) for job in hosting.hosts(state))
    jobs = state.of_role("workers")
    change = scaling.plan(jobs, set(waiting).intersection(jobs), max(0, wanted - hosted), lost, held)
    change = replace(change, left=change.left + hosted)
    cancelled = [job for job in change.cancelled if job not in found.unknown]
    drained = [job for job in [*change.drained, *change.cancelled] if job not in cancelled]
    state.cancel(cancelled)
    ending.order_drain(state, drained)
    # Jobs that drain end by themselves; only `stop` needs to know of them, if it comes first.
    state.jobs = [job._replace(slots=0) if job in drained else job for job in state.jobs]
    return change, sum(lost.values())


def _describe(
    change: scaling.Change[BatchJob], more: Sequence[BatchJob], lost: int, wanted: int, hosted: int
) -> str:
    """Describe a change of size. `lost`: number of slots that were there and are not; `hosted`: those of the master's
    job."""
    reported = [f"{job} drains" if job in change.drained else f"{job} taken back" for job in change.ended]
    if lost:
        reported.append(f"{program.count(lost, 'slot is', 'slots are')} lost")
    if more:
        others = f" and {program.count(len(more) - 1, 'other')}" if len(more) > 1 else ""
        reported.append(f"{more[0]}{others} for {program.count(change.slots, 'more slot')}")
    if change.left == hosted > wanted:
        reported.append(f"{program.count(hosted, 'slot stays', 'slots stay')}, as the master is in their job")
    elif change.left > wanted:
        reported.append(
            f"{change.left} slots stay, as no running job has as few as {change.left - wanted} (--piece makes smaller "
            "ones)"
        )
    return "; ".join(reported) if reported else f"it has {program.count(change.left, 'slot')} already"


@takes(ClusterOptions)
def add(options: ClusterOptions) -> str:
    """Add a `kind` of pieces to a cluster, for jobs that others cannot run. They come, up to `max` slots, when jobs
    need them. Returns a description.

    The other arguments are those of `start`, for these pieces, but `nodes`: with it, each slot is that many nodes, for
    jobs with as many in their options. Raises ValueError for invalid ones, and LaunchError.
    """
    guard.check_start("cw.slurm.add()")
    kind = kinds.check_name(options.kind or "")
    if options.max is None:
        raise ValueError("a kind needs a number of slots up to which its pieces may come: give max")
    kinds.check_size(
        options
    )  # not after the user's settings have been added: they may name a piece for other kinds
    return elastic.add(make_plan(options, is_kind=True), kind)


def resume(name: str | None = None, kind: str | None = None) -> str:
    """Let an elastic cluster go on that is paused, because pieces of it failed; returns a description. Raises
    LaunchError."""
    return elastic.resume(name or address.cluster_name(), kind)


@takes(ClusterOptions)
def allocate(options: ClusterOptions) -> SlurmCluster:
    """Start a cluster in Slurm for a `with` block, or until its `close()` or the end of the program.

    Its jobs are cancelled then, however the block or the program ends. Arguments and errors are those of `start`. Other
    clusters, including that of `start`, are not affected. Clients in this program use it by default.
    """
    guard.check_start("cw.slurm.allocate()")
    plan = make_plan(options._replace(name=options.name or submitted.name_for_block()))
    if not options.master:
        plan = plan._replace(of_cluster=address.sought_cluster())
    lifeline = Lifeline()

    def end() -> None:
        try:
            address.unbind_cluster(plan.name)
            # After an exception, nobody wants to wait for running jobs.
            report = ending.stop(plan.name, ending.DRAIN_SECONDS if sys.exc_info()[0] is None else 0.0)
            if report:
                _say_ended(report)
        finally:
            lifeline.cut()

    try:
        cluster = start_plan(plan, options.master, options.workers, _log, lifeline)
    except BaseException:
        end()
        raise
    cluster.end_with_program(end)
    if options.master:
        address.bind_cluster(plan.name)
    return cluster


def _say_ended(report: str) -> None:
    say = logger.warning if used.ADVICE in report else logger.info
    say("slurm.block_ended", "the cluster is %s", report)


def _log(text: str) -> None:
    logger.warning("slurm.start_progress", "%s", text)
