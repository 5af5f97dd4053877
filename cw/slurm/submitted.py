"""What was submitted to Slurm for a cluster: noted as soon as it is there, so that it can be ended whatever happens.

    ~/.cw/slurm-NAME/state.json     the jobs' ids, the plan, under a lock for which other processes wait
    ~/.cw/slurm-NAME/logs-DATE/     a file for each job and node

An id and a name together tell our jobs: other users' jobs may have the same names, and a controller that has lost its
memory gives the same ids again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

from cw import userdir
from cw.launch import launcher
from cw.launch.batch_system import BatchSystem, ListedJob, Listing, Script
from cw.launch.launcher import LaunchError, Process
from cw.launch.plan import Plan, ScriptRequest, job_name, load_plan
from cw.net import address
from cw.slurm.systems import find_system

logger = logging.getLogger("cw.slurm")

LOGS_KEPT = 10
"""Clusters of one name whose logs are kept."""


class Job(NamedTuple):
    """A job that was submitted."""

    role: str
    """'master' or 'workers'."""
    ident: int
    cluster: str
    """Of several that the batch system serves; '' where there is one."""
    name: str
    slots: int
    at: float
    """When it was submitted, seconds since 1970."""
    follows: int = 0
    """The job whose successor it is, or 0."""

    def __str__(self) -> str:
        return f"{State.system.title} job {self.ident}" + (f" of {self.cluster}" if self.cluster else "")


class State:
    """What is noted of the cluster `name`. Read and written only by who holds the lock (`locked`)."""

    system: ClassVar[BatchSystem] = find_system()
    """Where the jobs are."""

    def __init__(self, name: str) -> None:
        self.name = address.check_cluster_name(name)
        self.token = ""
        """Of this cluster, and of no other of that name before or after it."""
        self.jobs: list[Job] = []
        self.plans: dict[str, Plan] = {}
        """By role: they may have been started one after the other, with other options."""
        self.logs = ""
        self.since = 0.0
        self.is_stopping = False
        self.kill_wait = 30.0
        self.local: dict[str, Any] = {}
        """The master on a login node, if there is one: its machine (boot id, host) and processes."""

    @classmethod
    def load(cls, name: str) -> State:
        """What is noted, or an empty one."""
        state = cls(name)
        try:
            noted = json.loads(userdir.read_private(f"{directory_name(name)}/state.json") or b"{}")
            if noted:
                noted["jobs"] = [Job(*job) for job in noted["jobs"]]
                noted["plans"] = {role: load_plan(plan) for role, plan in noted["plans"].items()}
                assert noted.keys() == vars(state).keys()
                vars(state).update(noted)
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            logger.warning("%s is not of this version of cw: passed over (%r)", state.file(), error)
            return cls(name)
        return state

    def file(self) -> str:
        return os.path.join(userdir.home_directory(), directory_name(self.name), "state.json")

    def sought(self) -> str:
        """The name of the cluster whose master the workers are for."""
        return self.plans["workers"].sought_cluster if "workers" in self.plans else self.name

    def begin(self) -> None:
        """A new cluster."""
        vars(self).update(vars(State(self.name)))
        self.token, self.since = secrets.token_hex(3), time.time()
        self.kill_wait = State.system.kill_wait()
        directory = os.path.dirname(self.file())
        self.logs = os.path.join(directory, f"logs-{time.strftime('%Y%m%d-%H%M%S')}-{self.token}")
        os.mkdir(self.logs, 0o700)
        for old in sorted(entry for entry in os.listdir(directory) if entry.startswith("logs-"))[:-LOGS_KEPT]:
            shutil.rmtree(os.path.join(directory, old), ignore_errors=True)

    def save(self) -> None:
        noted = vars(self) | {"plans": {role: plan._asdict() for role, plan in self.plans.items()}}
        userdir.write_private(f"{directory_name(self.name)}/state.json", json.dumps(noted, indent=1).encode())

    def forget(self) -> None:
        """Nothing of it is left. The logs stay."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.file())

    def submit(self, role: str, follows: int = 0, delay: int = 0, slots: int = 0) -> Job:
        """Submit the job of a role, and note it; with other `slots` than its plan has. It begins when the job that it
        `follows` has ended, and no earlier than in `delay` seconds. Raises LaunchError with the system's own message.
        """
        if role == "workers":
            slots = slots or self.plans[role].slots
            self.plans[role] = self.plans[role]._replace(slots=slots)
        ident, cluster = State.system.submit(self.script(role, follows, delay))
        name = job_name(self.name, role, self.token)
        job = Job(role, ident, cluster, name, slots, time.time(), follows)
        self.jobs.append(job)
        self.save()
        return job

    def script(self, role: str, follows: int = 0, delay: int = 0) -> Script:
        plan = self.plans[role]
        request = ScriptRequest(role, plan, self.token, self.logs, self.kill_wait, follows, delay)
        return State.system.script(request)

    def cancel(self, jobs: Sequence[Job]) -> None:
        """End these jobs at once, and forget them."""
        State.system.cancel(jobs)
        self.jobs = [job for job in self.jobs if job not in jobs]
        self.save()

    def cancel_all(self, roles: Sequence[str] = ("master", "workers")) -> None:
        """End all jobs of these roles at once, and forget them; also one that was submitted and could not be noted,
        since the program was ended in that moment."""
        clusters = {"", *(job.cluster for job in self.jobs)}
        for role in roles:
            self.cancel(self.of_role(role))
            name = job_name(self.name, role, self.token)
            for cluster in clusters:
                State.system.cancel_named(name, cluster)

    def is_being_submitted(self) -> bool:
        """Does a program run on this machine that submits a job of this cluster?"""
        program = State.system.submit_program.encode()
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if entry.isdigit():
                    with open(f"/proc/{entry}/cmdline", "rb") as file:
                        words = file.read().split(b"\0")
                    # (It may be a script of the site's.)
                    is_program = any(word.endswith(program) for word in words[:3])
                    if is_program and any(self.token.encode() in word for word in words):
                        return True
        return False

    def rows(self) -> dict[int, ListedJob]:
        """What the batch system says of our jobs, by id. Raises LaunchError if it has not answered lately."""
        rows: dict[int, ListedJob] = {}
        for cluster in {job.cluster for job in self.jobs}:
            found = State.system.list_jobs(cluster)
            if found.failure:
                raise LaunchError(found.failure)
            rows |= self.ours(found)
        return rows

    def ours(self, found: Listing) -> dict[int, ListedJob]:
        """Of a listing, the rows that are about our jobs: known by id and name."""
        name_by_ident = {job.ident: job.name for job in self.jobs}
        return {row.ident: row for row in found.rows.values() if name_by_ident.get(row.ident) == row.name}

    def of_role(self, role: str) -> list[Job]:
        return [job for job in self.jobs if job.role == role]

    def local_processes(self) -> list[Process]:
        """The processes of the master on this login node, if they run here."""
        if self.local.get("boot_id") != launcher.boot_id():
            return []
        return [Process(*numbers) for numbers in self.local["processes"]]


def directory_name(cluster: str) -> str:
    """The directory of what is noted of a cluster, in the user's own."""
    return f"{State.system.name}-{cluster}"


def name_for_block() -> str:
    """A name for a cluster that lasts for a block. Of those before it, only the logs of the latest are kept."""
    base = userdir.make_home()
    prefix = directory_name("block-")
    before = [entry for entry in os.scandir(base) if entry.name.startswith(prefix)]
    ended = [entry for entry in before if not os.path.exists(os.path.join(entry.path, "state.json"))]
    for old in sorted(ended, key=lambda entry: entry.stat().st_mtime)[:-LOGS_KEPT]:
        if time.time() - old.stat().st_mtime > 3600:  # else one that is about to begin
            shutil.rmtree(old.path, ignore_errors=True)
            with contextlib.suppress(OSError):
                os.unlink(
                    os.path.join(base, f"address-{old.name.removeprefix(directory_name(''))}.json.lock")
                )
    return f"block-{os.uname().nodename.partition('.')[0][:30]}-{os.getpid()}-{os.urandom(2).hex()}"


@contextlib.contextmanager
def locked(name: str) -> Iterator[State]:
    """Hold the lock of the cluster `name`."""
    address.check_cluster_name(name)  # it becomes part of a path
    directory = directory_name(name)
    os.makedirs(os.path.join(userdir.make_home(), directory), 0o700, exist_ok=True)
    with userdir.locked(f"{directory}/lock"):
        yield State.load(name)
