"""A cluster in Slurm: one job for the master, others for the workers.

    ./slurm.py start -n 32           python -m cw.slurm start -n 32        cw.slurm.start(32)
    ./slurm.py status                ...                                   cw.slurm.status()
    ./slurm.py stop                                                        cw.slurm.stop()

    with cw.slurm.allocate(32):      for the length of a block

Clients find the master by the address file that it writes into the shared home directory. What was submitted is noted
there too (`cw.slurm.submitted`), so that every machine of the cluster can say how it stands, and end it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from cw import credential, program
from cw.launch import inquiry, launcher
from cw.launch.launcher import Cluster, LaunchError, Lifeline, Process
from cw.net import address, network
from cw.net import messages as m
from cw.slurm import batch, squeue, submitted
from cw.slurm.submitted import Job, State

logger = logging.getLogger("cw.slurm")

SLOTS_SECONDS = 10.0
"""For workers to join when the master is there, before `start` says how many have."""

FIRST_LOOK_SECONDS = 2.0
"""After a submission, before Slurm is asked what has become of it. Most jobs that run at all run by then, and are seen
without asking."""

LOOK_SECONDS = 0.1
"""Between two looks for a master's address file."""

DRAIN_SECONDS = 20.0
"""For which `stop` lets running jobs go on."""

ENDLESS_SECONDS = 300 * 24 * 3600.0
"""Where there is no time limit, Slurm says that a job ends in a year."""

LOG_TAIL = 1500
"""Bytes of a log that go into an error's text."""


class JobStatus(NamedTuple):
    """One Slurm job of a cluster."""

    ident: int
    role: str
    """'master' or 'workers'."""
    state: str
    """In words, with the reason where there is one."""
    nodes: str
    time_left: float | None
    """Seconds until the end of its allocation, if it has begun and has one that is known."""
    slots: int
    is_active: bool
    """It has not ended, as far as is known."""


class Status(NamedTuple):
    """How a cluster stands."""

    name: str
    jobs: list[JobStatus]
    master: str
    """The master's address, 'HOST:PORT', or '' if none answers."""
    local: str
    """Which process the master is, if it was started on a login node, or ''."""
    slots: int
    """Slots connected."""
    waiting: int
    running: int
    logs: str
    problem: str
    """Why Slurm does not say how the jobs are, or ''."""


class SlurmCluster(Cluster):
    """A cluster in Slurm. `slots` is what was asked for; `connected` is how many were there when it was started."""

    name: str
    connected: int
    pending: str
    """What Slurm says of the workers' job, if they were not all there."""


def start(
    nworkers: int,
    master: bool = True,
    workers: bool = True,
    master_options: Sequence[str] = (),
    worker_options: Sequence[str] = (),
    docker_image: str | None = None,
    docker_args: Sequence[str] = (),
    *,
    isolated: bool = False,
    time: str | None = None,
    partition: str | None = None,
    mem_per_cpu: str | None = None,
    name: str | None = None,
    local_master: bool = False,
    renew: bool = False,
    apptainer_image: str | None = None,
    apptainer_args: Sequence[str] = (),
) -> SlurmCluster:
    """Submit a master and workers with `nworkers` slots; returns when the master answers.

    The options are sbatch's, but for those that cw.master and cw.worker know. With `master=False` the workers are for
    the master that is there already; with `workers=False` only a master is started. `name`: a second cluster
    beside the first (default: CW_CLUSTER, or 'default'). Raises ValueError for arguments that make no sense, and
    LaunchError, with Slurm's own message, if it cannot be started.
    """
    plan = make_plan(
        nworkers, master, workers, master_options, worker_options, docker_image, docker_args, isolated, time,
        partition, mem_per_cpu, name, local_master, renew, apptainer_image, apptainer_args,
    )  # fmt: skip
    return start_plan(plan, master, workers, _log)


def stop(name: str | None = None, grace: float = DRAIN_SECONDS) -> str:
    """End a cluster: workers finish what runs, for up to `grace` seconds; then all its jobs are cancelled.

    Returns what there is to report, in words; '' if there was nothing to end. Raises LaunchError.
    """
    name = name or address.cluster_name()
    if not State.load(name).token:
        return ""
    with submitted.locked(name) as state:
        if not state.token:
            return ""
        state.is_stopping = True  # from now on no job is followed by another
        state.save()
    before = _ask(state)
    try:
        squeue.check_answers()
        left = _drain(state, grace)
    except LaunchError:  # Slurm does not answer: it goes on as before
        with submitted.locked(name) as state:
            state.is_stopping = False
            state.save()
        raise
    if before is not None and state.sought() == name:
        with contextlib.suppress(OSError):
            _ask(state, m.End("the cluster was stopped"))
    with submitted.locked(name) as state:
        for process in state.local_processes():
            process.send_signal(signal.SIGTERM)
        if _is_local_elsewhere(state):
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


def status(name: str | None = None) -> Status | None:
    """How the cluster stands, or None if there is none of that name. Raises LaunchError for bad files."""
    name = name or address.cluster_name()
    state = State.load(name)
    if not state.token:
        return None
    standing = _ask(state)
    problem, rows = "", {}
    try:
        rows = state.rows()
    except LaunchError as error:
        problem = str(error)
    jobs = [_job_status(job, rows.get(job.ident), problem) for job in state.jobs]
    local = ""
    if state.local:
        local = f"process {state.local['processes'][0][0]} on {state.local['host']}"
    if standing is None:
        return Status(name, jobs, "", local, 0, 0, 0, state.logs, problem)
    return Status(
        name,
        jobs,
        standing.where,
        local,
        standing.slots,
        standing.waiting,
        standing.running,
        state.logs,
        problem,
    )


def scale(nworkers: int, name: str | None = None) -> str:
    """Have `nworkers` slots from now on; returns what is done about it, in words. Raises LaunchError, ValueError.

    For more, another job is submitted. For fewer, jobs that wait are taken back first; then the newest are drained,
    and what they had too much is submitted anew as a smaller job.
    """
    nworkers = launcher.check_nworkers(nworkers)
    name = name or address.cluster_name()
    if not State.load(name).token:
        raise LaunchError(f"there is no cluster {name!r} to scale: start one first")
    with submitted.locked(name) as state:
        if not state.token:
            raise LaunchError(f"the cluster {name!r} was stopped just now")
        rows = state.rows()
        own = [
            job for job in state.of_role("workers") if (row := rows.get(job.ident)) is None or row.is_active
        ]
        # One that follows another is no addition to it.
        own = [job for job in own if not any(job.follows == other.ident for other in own)]
        have = sum(job.slots for job in own)
        waiting = [job for job in own if job.ident in rows and rows[job.ident].state == "PENDING"]
        ended: list[Job] = []
        for job in [*reversed(waiting), *reversed([job for job in own if job not in waiting])]:
            if have > nworkers and job.slots:  # (none: it drains already)
                have -= job.slots
                ended.append(job)
        followers = [job for job in state.jobs if any(job.follows == other.ident for other in ended)]
        gone = [job for job in ended if job in waiting]
        state.cancel([*gone, *followers])
        _tell_to_drain(state, [job for job in ended if job not in waiting])
        # Those that drain end by themselves; nobody needs to know of them but `stop`, should that come first.
        state.jobs = [job._replace(slots=0) if job in ended else job for job in state.jobs]
        state.save()
        told = [f"{job} taken back" if job in gone else f"{job} drains" for job in ended]
        if nworkers > have:
            state.plans.setdefault("workers", state.plans["master"])  # if none were started yet
            job = state.submit("workers", slots=nworkers - have)
            told.append(f"{job} for {program.count(nworkers - have, 'more slot')}")
    return "; ".join(told) if told else f"it has {program.count(have, 'slot')} already"


def master_host(name: str | None = None) -> str:
    """Where the master of the user's Slurm cluster is: 'HOST:PORT'. Raises LaunchError, which says why there is none.

    It is the address that the master has reported, if it answers there; else that of its node.
    """
    name = name or address.cluster_name()
    standing = inquiry.ask(address.find_cluster(name))
    if standing is not None:
        return standing.where
    state = State.load(name)
    jobs = state.of_role("master")
    if not jobs:
        raise LaunchError(
            f"there is no master of the cluster {name!r} in Slurm: start one with `slurm.py start`"
            + ("" if name == address.DEFAULT_CLUSTER else ", or check the name in CW_CLUSTER")
        )
    rows = state.rows()
    for job in jobs:
        row = rows.get(job.ident)
        if row is not None and row.state == "RUNNING":
            return address.join(squeue.address_of(squeue.expand(row.nodes)[0]), _port_of(state))
    raise LaunchError(f"the master of the cluster {name!r} does not answer: {_look_at(state, jobs[-1])[0]}")


slurm_master_host = master_host
"""`cw.slurm_master_host`, as the original library has it."""


@contextlib.contextmanager
def allocate(
    nworkers: int,
    master: bool = True,
    workers: bool = True,
    master_options: Sequence[str] = (),
    worker_options: Sequence[str] = (),
    docker_image: str | None = None,
    docker_args: Sequence[str] = (),
    **more: Any,
) -> Iterator[SlurmCluster]:
    """A cluster in Slurm for a `with` block. Its jobs are cancelled when the block ends, however it ends.

    Arguments and errors are those of `start`. Other clusters, that of `start` too, are not touched. Clients in this
    program use it if told no other.
    """
    if "name" not in more:
        more["name"] = submitted.name_for_block()
    plan = make_plan(
        nworkers, master, workers, master_options, worker_options, docker_image, docker_args, **more
    )
    if not master:
        plan = plan._replace(of_cluster=address.sought_cluster())
    with _guarded(plan.name) as guard:
        cluster = start_plan(plan, master, workers, _log, guard)
        if master:
            address.bind_cluster(plan.name)
        yield cluster


# --- starting ---------------------------------------------------------------------------------


def make_plan(
    nworkers: int,
    master: bool,
    workers: bool,
    master_options: Sequence[str],
    worker_options: Sequence[str],
    docker_image: str | None = None,
    docker_args: Sequence[str] = (),
    isolated: bool = False,
    time: str | None = None,
    partition: str | None = None,
    mem_per_cpu: str | None = None,
    name: str | None = None,
    local_master: bool = False,
    renew: bool = False,
    apptainer_image: str | None = None,
    apptainer_args: Sequence[str] = (),
    verbose: bool = False,
) -> batch.Plan:
    if not master and not workers:
        raise ValueError("master=False and workers=False leave nothing to start")
    if local_master and not master:
        raise ValueError("a local master and no master: give one of them")
    texts = {"master_options": master_options, "worker_options": worker_options, "docker_args": docker_args,
             "apptainer_args": apptainer_args}  # fmt: skip
    for what, options in texts.items():
        if isinstance(options, str):  # A sequence too, of letters.
            raise TypeError(f"{what} is a list of arguments: [{options!r}], not {options!r}")
    lists = {what: [str(option) for option in options] for what, options in texts.items()}
    return batch.check(
        batch.Plan(
            name or address.cluster_name(),
            launcher.check_nworkers(nworkers),
            isolated,
            str(time or ""),
            partition or "",
            str(mem_per_cpu or ""),
            docker_image=docker_image or "",
            apptainer_image=apptainer_image or "",
            is_renewed=renew,
            has_local_master=local_master,
            verbose=verbose,
            of_cluster="",
            **lists,
        )  # fmt: skip
    )


class _Guard(NamedTuple):
    """Ends a cluster when this program is gone."""

    lifeline: Lifeline


@contextlib.contextmanager
def _guarded(name: str) -> Iterator[_Guard]:
    """For a block: what was started for the cluster is ended after it."""
    lifeline = Lifeline()
    try:
        yield _Guard(lifeline)
    finally:
        try:
            address.unbind_cluster(name)
            # Who leaves by an exception does not want to wait for what runs.
            stop(name, DRAIN_SECONDS if sys.exc_info()[0] is None else 0.0)
        finally:
            lifeline.cut()


def start_plan(
    plan: batch.Plan, master: bool, workers: bool, tell: Callable[[str], None], guard: _Guard | None = None
) -> SlurmCluster:
    squeue.check_is_there()
    credential.load_or_make()
    if not (master or os.environ.get("CW_MASTER") or State.load(plan.name).of_role("master")):
        _check_master_answers(plan.of_cluster or plan.name)
    roles = [role for role, is_chosen in (("master", master), ("workers", workers)) if is_chosen]
    with submitted.locked(plan.name) as state:
        _check_room(state, roles)
        is_new = not state.token or (master and not state.jobs)
        if is_new:
            state.begin()
        before = _Before(roles, dict(state.plans), is_new, plan.has_local_master)
        state.plans |= dict.fromkeys(roles, plan)
        foreign = os.environ.get("CW_MASTER", "") if not master and not state.of_role("master") else ""
        try:
            state.save()
            if guard is not None:
                _spawn_tender(state, "guard", lifeline=guard.lifeline)
            if master and plan.has_local_master:
                _start_local_master(state, plan)
            elif master:
                state.submit("master")
            if workers:
                state.submit("workers", master=foreign)
        except BaseException:
            _undo(state, before)
            raise
    try:
        standing = _wait_for_master(state, tell) if master or not foreign else None
        connected, pending = _wait_for_slots(state, standing, tell) if workers and standing else (0, "")
    except LaunchError:
        token = state.token
        with submitted.locked(plan.name) as state:
            if state.token == token:
                _undo(state, before)
        raise
    slots = plan.slots if workers else 0
    cluster = SlurmCluster(
        standing.where if standing else foreign, slots, state.logs, lambda: stop(plan.name)
    )
    cluster.name, cluster.connected, cluster.pending = plan.name, connected, pending
    return cluster


class _Before(NamedTuple):
    """What there was of a cluster before something was started."""

    started: list[str]
    """The roles that were not there."""
    plans: dict[str, batch.Plan]
    is_nothing: bool
    is_local_new: bool
    """Is the master on this machine, if there is one, among what was started?"""


def _undo(state: State, before: _Before) -> None:
    """End what was started, and nothing that was there before."""
    try:
        state.cancel_all(before.started)
    except LaunchError as error:
        if any(job.role in before.started for job in state.jobs):
            logger.warning("%s; what was submitted stays: `stop` ends it", error)
            return
    finally:
        if before.is_local_new:
            _end_local(state)
    if before.is_nothing:
        state.forget()
    else:
        state.plans = before.plans
        state.save()


def _check_room(state: State, roles: Sequence[str]) -> None:
    """Raises LaunchError if the cluster runs already. Forgets what has ended."""
    if not state.token:
        return
    rows = state.rows() if state.jobs else {}
    # One that squeue does not list yet, or any more, may have been submitted after it was asked.
    state.jobs = [
        job for job in state.jobs
        if (rows[job.ident].is_active if job.ident in rows else time.time() - job.at < squeue.QUEUE_SECONDS)
    ]  # fmt: skip
    present = {job.role for job in state.jobs} | (
        {"master"}
        if any(map(Process.is_alive, state.local_processes())) or _is_local_elsewhere(state)
        else set()
    )
    for role in roles:
        if role in present:
            jobs = ", ".join(map(str, state.of_role(role))) or f"a process on {state.local['host']}"
            advice = "use it, change its size with `scale`, `stop` it first, or start another with --name"
            if role == "workers" and "master" in roles:  # else it would have been told of the master
                advice = "its master is gone: start only a master (-W), or `stop` it first"
            raise LaunchError(f"the cluster {state.name!r} has its {role} already ({jobs}): {advice}")


def _is_local_elsewhere(state: State) -> bool:
    """Is its master a process on another login node, and answers?"""
    if not state.local or state.local.get("boot_id") == launcher.boot_id():
        return False
    standing = _ask(state)
    return standing is not None and standing.place == _local_place(state)


def _local_place(state: State) -> str:
    return f"cluster {state.token}"


def _start_local_master(state: State, plan: batch.Plan) -> None:
    _, own = batch.split_options("master", plan.master_options)
    environment = {name: value for name, value in os.environ.items() if name != "CW_MASTER"}
    environment |= {"CW_CLUSTER": plan.name, "CW_PLACE": _local_place(state)}
    child = launcher.spawn("master", own, state.logs, environment=environment)
    state.local = {
        "boot_id": launcher.boot_id(),
        "host": os.uname().nodename,
        "processes": [list(child.process)],
    }
    state.save()
    launcher.wait_until_ready([child])
    tender = _spawn_tender(state, "tend", "--parent", str(child.process.pid))
    state.local["processes"].append(list(tender))
    state.save()


def _spawn_tender(state: State, verb: str, *more: str, lifeline: Lifeline | None = None) -> Process:
    child = launcher.spawn(
        "slurm.tender", [verb, state.name, state.token, *more], state.logs, lifeline=lifeline
    )
    os.close(child.ready)
    return child.process


def _end_local(state: State) -> None:
    launcher.end_processes(state.local_processes())


def _wait_for_master(state: State, tell: Callable[[str], None]) -> inquiry.Standing:
    """Until it answers. Raises LaunchError if it cannot come any more."""
    told = ""
    began = time.monotonic()
    while True:
        standing = _ask(state)
        if standing is not None and _is_ours(state, standing):
            return standing
        jobs = state.of_role("master")
        if jobs and time.monotonic() - began > FIRST_LOOK_SECONDS:
            text, has_failed = _look_at(state, jobs[-1])
            if has_failed:
                raise LaunchError(text + _tail(state, jobs[-1]))
            if text != told and not text.endswith((" runs", "was submitted")):
                told = text
                tell(text)
        if not jobs and not state.local and time.monotonic() - began > network.SILENCE:
            _check_master_answers(state.sought())
        _check_is_wanted(state)
        time.sleep(LOOK_SECONDS)


def _check_master_answers(name: str) -> None:
    if inquiry.ask(address.find_cluster(name)) is None:
        raise LaunchError(
            f"no master of the cluster {name!r} answers: start one with the workers (without -M, or with master=True)"
        )


def _ask(state: State, *messages: m.Drain | m.End) -> inquiry.Standing | None:
    return inquiry.ask(address.find_cluster(state.sought()), *messages)


def _check_is_wanted(state: State) -> None:
    if State.load(state.name).token != state.token:
        raise LaunchError(f"the cluster {state.name!r} was stopped meanwhile")


def _is_ours(state: State, standing: inquiry.Standing) -> bool:
    """Not a master of before, or one that somebody has started by hand, if one of ours is to come."""
    places = [f"Slurm job {job.ident}" for job in state.of_role("master")]
    return standing.place in places if places else True


def _wait_for_slots(
    state: State, standing: inquiry.Standing | None, tell: Callable[[str], None]
) -> tuple[int, str]:
    """(slots connected, what Slurm says of the workers' job if they are not all there)."""
    (job,) = state.of_role("workers")[-1:]
    jobs = state.of_role("workers")
    wanted = sum(other.slots for other in jobs)
    began = time.monotonic()
    text = ""
    while True:
        standing = _ask(state) or standing
        assert standing is not None
        seconds = time.monotonic() - began
        connected = sum(worker["slots"] for worker in _workers_of(standing, jobs) if not worker["draining"])
        if connected >= wanted:
            return connected, ""
        if seconds > FIRST_LOOK_SECONDS:
            text, has_failed = _look_at(state, job)
            if has_failed:
                raise LaunchError(text + _tail(state, job))
            is_known = not text.endswith("was submitted") or seconds > SLOTS_SECONDS + squeue.QUEUE_SECONDS
            if (seconds > SLOTS_SECONDS and is_known) or "waits in the queue" in text:
                return connected, text
        _check_is_wanted(state)
        time.sleep(LOOK_SECONDS)


def _look_at(state: State, job: Job) -> tuple[str, bool]:
    """(what Slurm says of this job, whether it has ended)."""
    found = squeue.listing(job.cluster)
    if found.failure:
        return found.failure, False
    row = state.ours(found).get(job.ident)
    if found.asked_at < job.at:
        return f"{job} ({job.role}) was submitted", False
    if row is None:
        is_new = found.asked_at - job.at < squeue.QUEUE_SECONDS
        return (
            f"{job} ({job.role}) {'was submitted' if is_new else 'is not in the queue any more'}",
            not is_new,
        )
    return f"{job} ({job.role}) {row.describe()}", not row.is_active


def _tail(state: State, job: Job) -> str:
    """The ends of its logs, for an error's text."""
    found = ""
    for entry in sorted(os.listdir(state.logs)):
        if str(job.ident) in entry:
            with open(os.path.join(state.logs, entry), "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL))
                found += f"\n{file.name} ends with:\n{file.read().decode(errors='replace').strip()}"
    return found or f"; it has left no log in {state.logs} (do the nodes see that directory?)"


def _port_of(state: State) -> int:
    _, own = batch.split_options(
        "master", state.plans["master"].master_options if "master" in state.plans else []
    )
    for number, option in enumerate(own):
        name, _, value = option.partition("=")
        if name == "--port":
            return address.check_port(value or own[number + 1])
    return address.PORT


def _log(text: str) -> None:
    logger.warning("%s", text)


# --- stopping, looking ------------------------------------------------------------------------


def _drain(state: State, grace: float) -> int:
    """Let running jobs end; how many have not. (Of those that wait, no more is started.)"""
    jobs = state.of_role("workers")
    if not jobs:
        return 0
    _tell_to_drain(state, jobs)
    deadline = time.monotonic() + grace
    left = 0
    while True:
        standing = _ask(state)
        if standing is None:
            return left
        ours = _workers_of(standing, jobs)
        left = sum(min(worker["held"], worker["slots"]) for worker in ours)
        if not ours or time.monotonic() > deadline:
            return left
        time.sleep(LOOK_SECONDS)


def _tell_to_drain(state: State, jobs: Sequence[Job]) -> None:
    """By the master those workers that are there; by Slurm those that are about to be, or have no master now. Jobs that
    still wait in the queue are cancelled."""
    state.signal(jobs, "--state=PENDING")
    # (Sent to one that waits, or has just begun to, scancel would try for minutes.)
    state.signal(jobs, "--state=RUNNING", f"--signal={batch.NOTICE}")
    standing = _ask(state)
    there = _workers_of(standing, jobs) if standing else []
    if there:
        _ask(state, m.Drain([worker["ident"] for worker in there]))


def _workers_of(standing: inquiry.Standing, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Those of the master's workers that are in these Slurm jobs."""
    places = tuple(f"Slurm job {job.ident}," for job in jobs)
    return [worker for worker in standing.workers if worker["place"].startswith(places)]


def _job_status(job: Job, row: squeue.Row | None, problem: str) -> JobStatus:
    if row is None:
        is_new = time.time() - job.at < squeue.QUEUE_SECONDS
        words = "was submitted" if is_new else "is not known" if problem else "is not in the queue any more"
        return JobStatus(job.ident, job.role, words, "", None, job.slots, is_new or bool(problem))
    left = row.end - time.time() if row.state == "RUNNING" and row.end else None
    if left is not None and left > ENDLESS_SECONDS:
        left = None
    return JobStatus(job.ident, job.role, row.describe(), row.nodes, left, job.slots, row.is_active)


# --- finding ----------------------------------------------------------------------------------

_told_pending = ""


def _find() -> list[address.Candidate]:
    """For clients: the node of the master's job, where there is no address file (yet). Raises NotThere while it is on
    no node."""
    global _told_pending
    name = address.cluster_name()
    if address.read_address(name) is not None:
        return []
    state = State.load(name)
    jobs = state.of_role("master")
    if not jobs:
        return []
    try:
        rows = state.rows()
        for job in jobs:
            row = rows.get(job.ident)
            if row is not None and row.state == "RUNNING":
                node = squeue.expand(row.nodes)[0]
                return [address.Candidate(squeue.address_of(node), _port_of(state), f"the node of {job}")]
        text, has_ended = _look_at(state, jobs[-1])
        text += "; `slurm.py start -W` starts another master" if has_ended else ""
    except LaunchError as error:
        text = str(error)
    if text != _told_pending:
        _told_pending = text
        logger.warning("%s", text)
    raise address.NotThere(f"the master of the cluster {name!r} does not answer: {text}")


address.FINDERS.insert(-1, _find)
