"""Start of a cluster in a batch system: submits jobs, and waits until the master answers and slots are connected.

A failed start is undone; jobs that existed before are not affected.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cw import advice, credential, location
from cw.events import EventLogger
from cw.launch import launcher, spawning, status_client
from cw.launch.launcher import Cluster, LaunchError, Lifeline, Process
from cw.launch.options import ClusterOptions
from cw.launch.plan import Plan
from cw.net import address
from cw.net.sockets import SILENCE
from cw.slurm import ending, finding, hosting, job_logs, kinds, pieces, profiles, submitted, unused
from cw.slurm.submitted import State

logger = EventLogger("cw.slurm")

SLOTS_SECONDS = 10.0
"""Time for workers to join after the master answers, before `start` reports their number (seconds)."""

FIRST_LOOK_SECONDS = 2.0
"""Time after a submission before the batch system is asked about the job (seconds). Shorter: more load on it, since
most jobs that run at all have joined by then."""

IDLE_SECONDS_RENEWED = 600.0
"""Time after which a worker with nothing to do ends, if its job would be followed by another one for ever (seconds),
unless the user says otherwise. Longer: a forgotten cluster holds its nodes. Shorter: it is gone after a pause."""

LOOK_SECONDS = 0.1
"""Time between looks for a master's address file (seconds)."""


class SlurmCluster(Cluster):
    """A cluster in Slurm. `slots`: number of slots requested; `connected`: number connected at its start."""

    name: str
    connected: int
    pending: str
    """State of the workers' jobs in words, if not all were connected."""


def make_plan(options: ClusterOptions, is_kind: bool = False) -> Plan:
    """Make the plan of `cw.slurm.start`, or (`is_kind`) of `cw.slurm.add`, with these options and the user's settings.
    Raises TypeError, ValueError."""
    options.check_roles()
    if options.local_master and not options.master:
        raise ValueError("a local master and no master: give one of them")
    if options.kind is not None and not is_kind:
        raise ValueError("kind is for cw.slurm.add, which adds more pieces of another kind to a cluster")
    options = profiles.fill(options)
    limits = kinds.limits_given(options, is_kind)
    piece, nodes = (_check_count(name, getattr(options, name)) for name in ("piece", "nodes"))
    if nodes and options.nworkers is not None:
        raise ValueError("a number of slots and a number of nodes: give one of them")
    if (piece or nodes) and options.isolated:
        raise ValueError("isolated slots are one job of the batch system: leave out piece and nodes")
    plan = Plan(
        name=options.name or address.cluster_name(),
        slots=0 if nodes or options.max is not None else launcher.check_nworkers(options.nworkers),
        is_isolated=bool(options.isolated),
        time=str(options.time or ""),
        partition=options.partition or "",
        mem_per_cpu=str(options.mem_per_cpu or ""),
        master_options=options.list_of("master_options"),
        worker_options=options.list_of("worker_options"),
        docker_image=options.docker_image or "",
        docker_args=options.list_of("docker_args"),
        apptainer_image=options.apptainer_image or "",
        apptainer_args=options.list_of("apptainer_args"),
        is_renewed=bool(options.renew),
        has_local_master=bool(options.local_master and options.master),
        verbose=options.verbose,
        piece=piece,
        nodes=0 if is_kind else nodes,
        idle=_idle_seconds(options),
        account=options.account or "",
        qos=options.qos or "",
        constraint=options.constraint or "",
        reservation=options.reservation or "",
        exclude=options.exclude or "",
        batch_options=options.list_of("batch_options"),
        setup=options.list_of("setup"),
        profile=options.profile or "",
        **limits,
    )
    plan.check()
    if plan.is_elastic:
        kinds.offer_of(plan)  # what the tender could not read there is a mistake here
    State.system.check_options([*plan.system_options("master"), *plan.system_options("worker")])
    return plan


def _check_count(name: str, value: int | None) -> int:
    """Return this option as a number; 0: it was not given. Raises TypeError, ValueError."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int from 1 on, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value}")
    return value


def _idle_seconds(options: ClusterOptions) -> float:
    """Return the time after which a worker with nothing to do ends; 0: never. Raises TypeError, ValueError."""
    if options.idle is None and options.max is not None:
        return kinds.IDLE_SECONDS
    if options.idle is None:
        return IDLE_SECONDS_RENEWED if options.renew else 0.0
    if isinstance(options.idle, bool) or not isinstance(options.idle, (int, float)):
        raise TypeError(f"idle must be a number of seconds, not {options.idle!r}")
    if not 0 <= options.idle < math.inf:
        raise ValueError(f"idle must be 0 (never) or a number of seconds, not {options.idle!r}")
    return float(options.idle)


def start_plan(
    plan: Plan, master: bool, workers: bool, report: Callable[[str], None], guard: Lifeline | None = None
) -> SlurmCluster:
    """Start the master, the workers, or both. `report` is called with reports meanwhile. `guard`: a program's lifeline,
    with which the cluster ends. Raises LaunchError."""
    State.system.check_present()
    plan = with_nodes(plan, report if workers else None)
    credential.load_or_make()
    if not (master or os.environ.get("CW_MASTER") or State.load(plan.name).of_role("master")):
        _check_master_answers(plan.sought_cluster)
    roles = [role for role, is_chosen in (("master", master), ("workers", workers)) if is_chosen]
    slots = hosting.slots_of_master(plan, master, workers)
    sizes = hosting.sizes_beside(plan, slots) if workers else []
    with submitted.locked(plan.name) as state:
        _check_room(state, roles, plan)
        is_new = not state.token or (master and not state.jobs)
        if is_new:
            state.begin()
            unused.forget_last_end(plan.name)
        before = _Before(roles, dict(state.plans), is_new, plan.has_local_master)
        foreign = os.environ.get("CW_MASTER", "") if not master and not state.of_role("master") else ""
        state.plans |= dict.fromkeys(roles, plan._replace(foreign_master=foreign))
        try:
            state.save()
            if guard is not None:
                _spawn_sidecar(state, "guard", lifeline=guard)
            if master and plan.has_local_master:
                _start_local_master(state, plan)
            elif master:
                state.submit("master", slots=slots, stays=slots > 0)
        except BaseException:
            _undo(state, before)
            raise
    token = state.token
    try:
        if workers:
            state = _submit_workers(state, plan, sizes, report)
        status = _wait_for_master(state, report) if master or not foreign else None
        connected, pending = _wait_for_slots(state, status, report) if workers and status else (0, "")
    except LaunchError:
        with submitted.locked(plan.name) as state:
            if state.token == token:
                _undo(state, before)
        raise
    where = status.where if status else foreign
    cluster = SlurmCluster(where, slots + sum(sizes), state.logs, lambda: ending.stop(plan.name))
    cluster.name, cluster.connected, cluster.pending = plan.name, connected, pending
    return cluster


def _submit_workers(state: State, plan: Plan, sizes: Sequence[int], report: Callable[[str], None]) -> State:
    """Submit pieces of these sizes; returns the state with them."""
    if (seconds := pieces.PAUSE_SECONDS * (len(sizes) - pieces.BURST)) > 5.0:
        report(f"{len(sizes)} pieces are submitted one after the other, which takes {seconds:.0f} s or more")
    pieces.submit_pieces(plan.name, state.token, sizes, stays=plan.is_elastic)
    _check_is_wanted(state)
    return State.load(plan.name)


def with_nodes(plan: Plan, report: Callable[[str], None] | None = None) -> Plan:
    """Return the plan with what the batch system says of the nodes. Raises LaunchError."""
    found = State.system.look_at_nodes(plan)
    plan = plan.on_nodes(found)
    if report and found and found.is_whole and any(size % found.slots for size in kinds.first_sizes(plan)):
        report(
            f"{State.system.title} gives whole nodes here: a piece that is no multiple of {found.slots} slots leaves "
            "CPUs unused"
        )
    return plan


class _Before(NamedTuple):
    """State of a cluster before a start, to undo it."""

    started: list[str]
    """Roles that are being started."""
    plans: dict[str, Plan]
    is_nothing: bool
    is_local_new: bool
    """True if a master on this machine, if any, is among those being started."""


def _undo(state: State, before: _Before) -> None:
    """End the jobs and processes of this start, and none from before."""
    try:
        state.cancel_all(before.started)
    except LaunchError as error:
        if any(job.role in before.started for job in state.jobs):
            stop = advice.command("slurm", "stop", name=state.name)
            logger.warning("slurm.undo_failed", "%s; the submitted jobs stay: `%s` ends them", error, stop)
            return
    finally:
        if before.is_local_new:
            _end_local(state)
    if before.is_nothing:
        state.forget()
    else:
        state.plans = before.plans
        state.save()


def _check_room(state: State, roles: Sequence[str], plan: Plan) -> None:
    """Raise LaunchError if the cluster runs already, or would be elastic without a master. Forgets jobs that ended."""
    if "workers" in roles and plan.is_elastic:
        kinds.check_master(state, "master" in roles)
    if not state.token:
        return
    rows = state.rows() if state.jobs else {}
    # A job that is not listed may have been submitted after the answer.
    state.jobs = [
        job for job in state.jobs
        if (rows[job.ident].is_active if job.ident in rows else time.time() - job.at < State.system.list_seconds)
    ]  # fmt: skip
    present = {job.role for job in state.jobs} | (
        {"master"}
        if any(map(Process.is_alive, state.local_processes())) or finding.is_local_elsewhere(state)
        else set()
    )
    if "master" in present and (kinds.has_elastic_workers(state) or hosting.hosts(state)):
        present.add("workers")
    for role in roles:
        if role in present:
            place = f"a process on {state.local['host']}" if state.local else "elastic, and none is there now"
            there = state.with_workers() if role == "workers" else state.of_role(role)
            jobs = ", ".join(map(str, there)) or place
            stop = advice.command("slurm", "stop", name=state.name)
            size = advice.command("slurm", "scale", "-n", "8", name=state.name)
            what = (
                f"use it, change its size (`{size}`), end it first (`{stop}`), or start another with --name"
            )
            if role == "workers" and "master" in roles:  # otherwise the error above names the master
                start = advice.command("slurm", "start", "-W", name=state.name)
                what = f"its master is gone: start only a master (`{start}`), or end it first (`{stop}`)"
            raise LaunchError(f"the cluster {state.name!r} has its {role} already ({jobs}): {what}")


def _start_local_master(state: State, plan: Plan) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CW_MASTER"}
    environment |= {"CW_CLUSTER": plan.name, location.VARIABLE: finding.local_place(state).as_text()}
    child = spawning.spawn("master", plan.program_options("master"), state.logs, environment=environment)
    state.local = {
        "boot_id": launcher.boot_id(),
        "host": os.uname().nodename,
        "processes": [list(child.process)],
    }
    state.save()
    launcher.wait_until_ready([child])
    sidecar = _spawn_sidecar(state, "watch", "--parent", str(child.process.pid))
    state.local["processes"].append(list(sidecar))
    state.save()


def _spawn_sidecar(state: State, verb: str, *more: str, lifeline: Lifeline | None = None) -> Process:
    child = spawning.spawn(
        "slurm.sidecar", [verb, state.name, state.token, *more], state.logs, lifeline=lifeline
    )
    os.close(child.ready)
    return child.process


def _end_local(state: State) -> None:
    launcher.end_processes(state.local_processes())


def _wait_for_master(state: State, report: Callable[[str], None]) -> status_client.ClusterStatus:
    """Wait until the master answers. Raises LaunchError if it can no longer come."""
    reported = ""
    began = time.monotonic()
    while True:
        status = finding.ask(state)
        if status is not None and _is_ours(state, status):
            return status
        jobs = state.of_role("master")
        if jobs and time.monotonic() - began > FIRST_LOOK_SECONDS:
            finding.check_may_start(state)
            text, has_failed = finding.look_at(state, jobs[-1])
            if has_failed:
                raise LaunchError(text + job_logs.tail(state, jobs[-1]))
            if text != reported and not text.endswith((" runs", "was submitted")):
                reported = text
                report(text)
        if not jobs and not state.local and time.monotonic() - began > SILENCE:
            _check_master_answers(state.sought())
        _check_is_wanted(state)
        time.sleep(LOOK_SECONDS)


def _check_master_answers(name: str) -> None:
    if status_client.ask(address.find_cluster(name)) is None:
        raise LaunchError(
            f"no master of the cluster {name!r} answers: start one with the workers (without -M, or with master=True)"
        )


def _check_is_wanted(state: State) -> None:
    if State.load(state.name).token != state.token:
        raise LaunchError(f"the cluster {state.name!r} was stopped meanwhile")


def _is_ours(state: State, status: status_client.ClusterStatus) -> bool:
    """True unless it is an earlier master, or one started by hand, while ours is yet to come."""
    jobs = state.of_role("master")
    return finding.is_in(location.Location.parse(status.location), jobs) if jobs else True


def _wait_for_slots(
    state: State, status: status_client.ClusterStatus | None, report: Callable[[str], None]
) -> tuple[int, str]:
    """Wait for the slots. Returns (slots connected, the batch system's words on the workers' job if not all are)."""
    jobs = state.with_workers()
    wanted = sum(other.slots for other in jobs)
    began = time.monotonic()
    while True:
        status = finding.ask(state) or status
        assert status is not None
        seconds = time.monotonic() - began
        workers = finding.workers_of(status, jobs)
        connected = sum(worker["slots"] for worker in workers if not worker["draining"])
        if connected >= wanted:
            return connected, ""
        if seconds > FIRST_LOOK_SECONDS:
            finding.check_may_start(state)
            found = pieces.look_at(state, jobs)
            if len(found.ended) == len(jobs):
                raise LaunchError(found.text + job_logs.tail(state, jobs[-1]))
            is_known = not found.unknown or seconds > SLOTS_SECONDS + State.system.list_seconds
            is_all_that_may_come = connected >= sum(job.slots for job in found.running + found.unknown)
            if is_known and (seconds > SLOTS_SECONDS or is_all_that_may_come):
                return connected, found.text
        _check_is_wanted(state)
        time.sleep(LOOK_SECONDS)
