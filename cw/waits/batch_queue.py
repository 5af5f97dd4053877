"""What the batch system says of the workers of a cluster that has none yet: their jobs wait, start, or have ended.

Looks at the notes that launchers have made in the user's own directory, on a machine where the batch system's programs
are. Asking takes up to a minute if the batch system is down.
"""

from __future__ import annotations

import glob
import os
import time
from typing import NamedTuple

from cw import advice, program, userdir
from cw.errors import Error
from cw.launch.batch_system import ListedJob
from cw.launch.launcher import LaunchError
from cw.net import address
from cw.slurm import job_logs, kinds
from cw.slurm.submitted import BatchJob, State, directory_name
from cw.waits.sentences import in_words

NOTHING = "none"
"""The key of the answer that there is no job of the workers."""


class Found(NamedTuple):
    """The batch system's answer. `key`: it says the same while this is equal, though times may differ."""

    text: str
    key: str


def look(where: str) -> Found | None:
    """Ask about the workers of the cluster whose master is at `where`, 'HOST:PORT'. None: it is in no batch system, or
    that does not answer."""
    if not State.system.is_installed():
        return None
    try:
        states = _clusters_of(where)
        if not states:
            return None
        for state in states:  # its jobs come and go by themselves
            if problem := kinds.notice(state, time.time()):
                return Found(problem, problem)
        # (Of pieces, those that have joined are known: it is others that are waited for.)
        jobs = [(state, job) for state in states for job in state.with_workers() if not job.joined]
        return _in_words(jobs, time.time()) if jobs else _nothing(states[0])
    except LaunchError as error:
        return Found(f"{State.system.title} does not say what became of its jobs ({error})", "no answer")
    except (Error, OSError):
        return None


def more_slots(where: str) -> str:
    """Return the command with which the cluster of that master gets more slots; '' if it is in no batch system."""
    try:
        states = _clusters_of(where)
    except (Error, OSError):
        return ""
    if not states:
        return ""
    state = states[0]
    if kinds.has_elastic_workers(state):
        most = state.plans["workers"].most or 0
        return advice.command("slurm", "scale", "--max", str(2 * most or 1), name=state.name)
    slots = sum(job.slots for job in state.with_workers())
    return advice.command("slurm", "scale", "-n", str(2 * slots or 1), name=state.name)


def other_pieces(where: str, nodes: int = 1) -> str:
    """Return the command by which the cluster of that master gets workers on this many nodes, or (1) that says how it
    gets some that have more; '' if it is in no batch system."""
    try:
        states = _clusters_of(where)
    except (Error, OSError):
        return ""
    if not states:
        return ""
    name = states[0].name
    if nodes == 1:
        return advice.command("slurm", "add", "--help", name=name)
    kind = f"{nodes}-nodes"
    return advice.command("slurm", "add", "--kind", kind, "--nodes", str(nodes), "--max", "1", name=name)


def _clusters_of(where: str) -> list[State]:
    return [state for state in map(State.load, _notes()) if _is_master_of(state, where)]


def _notes() -> list[str]:
    """Return the names of the noted clusters."""
    prefix = directory_name("")
    pattern = os.path.join(glob.escape(userdir.home_directory()), f"{glob.escape(prefix)}*", "state.json")
    return [os.path.basename(os.path.dirname(path)).removeprefix(prefix) for path in glob.glob(pattern)]


def _is_master_of(state: State, where: str) -> bool:
    entry = address.read_address(state.sought())
    if entry is None:
        return False
    hosts = [entry["host"], *entry["addresses"], *entry["loopback"]]
    return where in [address.join(host, entry["port"]) for host in hosts]


def _in_words(jobs: list[tuple[State, BatchJob]], now: float) -> Found | None:
    rows: dict[BatchJob, ListedJob | None] = {}
    for state, job in jobs:
        found = state.rows()
        rows[job] = found.get(job.ident)
        if rows[job] is None and now - job.at < State.system.list_seconds:
            return Found(f"{job} of the workers was submitted", f"{job.ident} new")
    active = [(row, job) for job, row in rows.items() if row is not None and row.is_active]
    if not active:
        return _nothing(jobs[-1][0])
    # One that runs is nearest; then the one that is expected to start first.
    row, job = min(active, key=lambda pair: (not pair[0].is_running, pair[0].start or float("inf")))
    others = f", and {program.count(len(active) - 1, 'other')}" if len(active) > 1 else ""
    text = f"{job} of the workers{others} {row.describe()}"
    if row.is_waiting and row.start > now:
        text += f"; expected start: {_clock(row.start, now)}"
    if row.is_running:
        logs = next(state.logs for state, other in jobs if other is job)
        text += f", and none of them has joined yet (their logs: {logs})"
    return Found(text, f"{job.ident} {row.describe()}")


def _nothing(state: State) -> Found:
    if kinds.elastic(state):
        return Found("the cluster is elastic, and is about to submit pieces for these jobs", "elastic")
    scale = advice.command("slurm", "scale", "-n", "1", name=state.name)
    failures = [job_logs.setup_failure(state, job) for job in state.with_workers()[-1:]]
    why = "".join(f" ({failure})" for failure in failures if failure)
    problems = "".join(f"; {text}" for text in state.problems.values())
    return Found(
        f"no job of the workers is in {State.system.title}'s queue any more{why}: `{scale}` submits one for one slot "
        f"(the logs of the last ones: {state.logs}){problems}",
        NOTHING + problems,
    )


def _clock(at: float, now: float) -> str:
    """Return the local time of day, with the date if it is far away."""
    form = "%H:%M" if at - now < 18 * 3600 else "%Y-%m-%d %H:%M"
    return f"{time.strftime(form, time.localtime(at))} (in {in_words(at - now)})"
