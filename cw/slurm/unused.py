"""End of a cluster that nobody uses: its workers have ended as they had nothing to do, and no program is connected.

    master: clients, jobs, workers --.
    batch system: pieces ------------|--> Quiet.is_over() --> end(): jobs that wait are cancelled, the master ends,
    time -----------------------------'                       a note stays, which `status` shows

Runs beside the master (`cw.slurm.sidecar`). Only clusters whose workers end by themselves (`--idle`) end in this way.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import NamedTuple

from cw import userdir
from cw.events import EventLogger
from cw.launch import status_client
from cw.net import address
from cw.net import messages as m
from cw.slurm import finding, hosting, submitted, used
from cw.slurm.submitted import State, directory_name

logger = EventLogger("cw.slurm.sidecar")

FIRST_SECONDS = 600.0
"""Least time from the start of a cluster to such an end (seconds). Longer: a forgotten one holds its master's job.
Shorter: it is gone before the program that it was started for."""

RETURN_SECONDS = 60.0
"""Time for programs and workers to find a master that took the place of another one (seconds)."""

OWN_SECONDS = 5.0
"""Most time for the end of workers in the master's own job (seconds). Shorter: the note of the end lacks their use."""

LOOK_SECONDS = 2.0
"""Least time between looks (seconds)."""


class Facts(NamedTuple):
    """What is known of a cluster at one moment."""

    clients: int
    jobs: int
    workers: int
    pieces: int
    """Jobs of workers that wait, start or run."""
    is_hosted: bool = False
    """The master's job has workers, too: these are not among the others, since they do not end when they are idle."""

    @property
    def is_used(self) -> bool:
        """True if a program is connected, or jobs are there."""
        return bool(self.clients or self.jobs)


class Quiet:
    """Time for which a cluster has been without any use. `seconds`: those of `--idle`; `began`, `now`: times of the
    cluster's start and of this moment."""

    def __init__(self, seconds: float, began: float, now: float) -> None:
        self._seconds = seconds
        self._began = began
        self._since = self._used_at = now
        self._had_workers = False

    def is_over(self, facts: Facts, now: float) -> bool:
        """True if nobody has used the cluster for long enough. Workers that were there have waited for `seconds` before
        they ended, but a program may have been connected since then."""
        if facts.is_used:
            self._used_at = now
        if facts.is_used or facts.workers or facts.pieces:
            self._since = now
            # (Workers of the master's job do not end by themselves: the first program has found some.)
            has_worked = facts.workers > 0 or (facts.is_hosted and facts.is_used)
            self._had_workers = self._had_workers or has_worked
            return False
        if self._had_workers:
            return now - self._since >= LOOK_SECONDS and now - self._used_at >= self._seconds
        # Perhaps the master is new, and those that know it are yet to find it.
        return now - self._since >= max(self._seconds, RETURN_SECONDS) and now - self._began >= FIRST_SECONDS


class Watch:
    """Looks at the cluster `name` with this token from time to time, and ends it when nobody uses it."""

    def __init__(self, name: str, token: str) -> None:
        self._name = name
        self._token = token
        self._quiet: Quiet | None = None

    def look(self, now: float) -> bool:
        """Look once. True if the cluster was ended. Raises LaunchError if the batch system does not answer."""
        state = State.load(self._name)
        plans = [plan for role, plan in state.plans.items() if role != "master"]
        if (
            state.token != self._token
            or state.is_stopping
            or not plans
            or not all(plan.idle for plan in plans)
        ):
            self._quiet = None
            return False
        seconds = min(plan.idle for plan in plans)
        self._quiet = self._quiet or Quiet(seconds, state.since, now)
        status = status_client.ask(address.find_cluster(self._name))
        if status is None:
            self._quiet = None
            return False
        rows = state.rows() if state.jobs else {}
        own = hosting.begun_as_masters(state)
        pieces = [
            job for job in state.of_role("workers") if job not in own
            and (rows[job.ident].is_active if job.ident in rows else now - job.at < State.system.list_seconds)
        ]  # fmt: skip
        others = len(status.workers) - len(finding.workers_of(status, own))
        facts = Facts(status.clients, status.waiting + status.running, others, len(pieces), bool(own))
        if not self._quiet.is_over(facts, now):
            return False
        why = f"nothing was left to do for {seconds:g} s, and no program was connected"
        return end(self._name, self._token, why)


def end(name: str, token: str, why: str) -> bool:
    """End the cluster with this token, from within its master's job: first all else. False: it is another one's."""
    own = State.system.current_job()
    _end_own_workers(State.load(name), token)
    with submitted.locked(name) as state:
        if state.token != token or state.is_stopping:
            return False
        state.cancel([job for job in state.jobs if job.ident != own])
        state.cancel_all(["workers"])
        use = used.in_words(used.of_logs(state.logs))
        noted = {"at": time.time(), "why": why, "used": use, "logs": state.logs}
        userdir.write_private(_note(name), json.dumps(noted).encode())
        state.forget()
    logger.info("sidecar.unused", "the cluster ends: %s", why)
    status_client.ask(address.find_cluster(name), m.End(f"the cluster ended: {why}"))
    return True


def _end_own_workers(state: State, token: str) -> None:
    """Let the workers in the master's job end by themselves, so that they say how much of their time was used."""
    jobs = hosting.begun_as_masters(state) if state.token == token else []
    deadline = time.monotonic() + OWN_SECONDS
    while jobs and time.monotonic() < deadline:
        status = finding.ask(state)
        there = finding.workers_of(status, jobs) if status else []
        if not there:
            return
        finding.ask(state, m.Drain([worker["ident"] for worker in there]))
        time.sleep(LOOK_SECONDS / 10)


def last_end(name: str) -> str:
    """Describe how the last cluster of this name ended by itself; '' if it did not, or another one came after it."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        noted = json.loads(userdir.read_private(_note(name)) or b"{}")
        if noted:
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(noted["at"]))
            use = f"; {noted['used']}" if noted["used"] else ""
            return f"it ended by itself at {at}: {noted['why']}{use} (logs: {noted['logs']})"
    return ""


def forget_last_end(name: str) -> None:
    """Remove the note: another cluster of this name begins."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(userdir.home_directory(), _note(name)))


def _note(name: str) -> str:
    return f"{directory_name(name)}/ended.json"
