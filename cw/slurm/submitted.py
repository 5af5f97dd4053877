"""Jobs submitted to Slurm for a cluster: noted as soon as they exist, so that they can be ended whatever happens.

    ~/.cw/slurm-NAME/state.json     the jobs' ids, the plan, under a lock for which other processes wait
    ~/.cw/slurm-NAME/logs-DATE/     a file for each job and node

An id and a name together identify our jobs: other users' jobs may have the same names, and a controller that has lost
its memory assigns the same ids again.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

from cw import userdir
from cw.elastic.notes import KindNotes
from cw.events import EventLogger
from cw.launch import launcher
from cw.launch.batch_system import BatchSystem, ListedJob, Listing, Script
from cw.launch.launcher import LaunchError, Process
from cw.launch.plan import Plan, ScriptRequest, job_name, load_plan
from cw.net import address
from cw.slurm.systems import find_system

logger = EventLogger("cw.slurm")

LOGS_KEPT = 10
"""Number of clusters of one name whose logs are kept."""


class BatchJob(NamedTuple):
    """A job that was submitted. One of workers is a *piece* of the cluster: it begins and ends by itself."""

    role: str
    """'master' or 'workers'."""
    ident: int
    cluster: str
    """One of several clusters that the batch system serves; '' if there is only one."""
    name: str
    slots: int
    """Number of its slots. A master's job has some where nodes are given whole (cw.slurm.hosting)."""
    at: float
    """Time of its submission (seconds since 1970)."""
    follows: int = 0
    """Id of the job whose successor it is, or 0."""
    kind: str = ""
    """Name of the plan of its workers, if it is not the one of the role."""
    stays: bool = False
    """Its workers do not end when they have had nothing to do for the plan's time."""
    joined: float = 0.0
    """Time at which a worker of an elastic cluster's piece was seen first, or 0 (seconds since 1970)."""

    def __str__(self) -> str:
        return f"{State.system.title} job {self.ident}" + (f" of {self.cluster}" if self.cluster else "")


class State:
    """Notes on the cluster `name`. Changed only under the lock (`locked`)."""

    system: ClassVar[BatchSystem] = find_system()
    """Batch system of the jobs."""

    def __init__(self, name: str) -> None:
        self.name = address.check_cluster_name(name)
        self.token = ""
        """Token of this cluster, different from those of others of that name before and after it."""
        self.jobs: list[BatchJob] = []
        self.plans: dict[str, Plan] = {}
        """Plans by role: these may have been started one after the other, with different options."""
        self.logs = ""
        self.since = 0.0
        self.is_stopping = False
        self.kill_wait = 30.0
        self.local: dict[str, Any] = {}
        """The master on a login node, if there is one: its machine (boot id, host) and processes."""
        self.problems: dict[str, str] = {}
        """What goes wrong now and is tried again, by subject, for `status`."""
        self.kinds: dict[str, KindNotes] = {}
        """Notes on the kinds of pieces of an elastic cluster, by their names. The kind of the role has the name ''."""

    @classmethod
    def load(cls, name: str) -> State:
        """Load the notes; empty if there are none."""
        state = cls(name)
        try:
            noted = json.loads(userdir.read_private(f"{directory_name(name)}/state.json") or b"{}")
            if noted:
                noted["jobs"] = [BatchJob(*job) for job in noted["jobs"]]
                noted["plans"] = {role: load_plan(plan) for role, plan in noted["plans"].items()}
                noted["kinds"] = {kind: KindNotes.from_json(notes) for kind, notes in noted["kinds"].items()}
                assert noted.keys() == vars(state).keys()
                vars(state).update(noted)
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            logger.warning(
                "slurm.state_invalid",
                "%s is passed over: it is not of this version of cw (%r)",
                state.file(),
                error,
            )
            return cls(name)
        return state

    def file(self) -> str:
        return os.path.join(userdir.home_directory(), directory_name(self.name), "state.json")

    def sought(self) -> str:
        """Return the name of the cluster whose master the workers are for."""
        return self.plans["workers"].sought_cluster if "workers" in self.plans else self.name

    def begin(self) -> None:
        """Begin a new cluster."""
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
        noted["kinds"] = {kind: notes.to_json() for kind, notes in self.kinds.items()}
        userdir.write_private(f"{directory_name(self.name)}/state.json", json.dumps(noted, indent=1).encode())

    def forget(self) -> None:
        """Remove the notes: nothing of the cluster is left. The logs stay."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.file())

    def submit(
        self, role: str, follows: int = 0, delay: int = 0, is_parallel: bool = False, **piece: Any
    ) -> BatchJob:
        """Submit the job of a role, and note it. It begins when the job that it `follows` has ended (`is_parallel`:
        perhaps earlier), and no earlier than in `delay` seconds. `piece`: the fields `slots` (by default the plan's),
        `kind` and `stays` of a BatchJob. Raises LaunchError with the system's own message."""
        job = BatchJob(role, 0, "", job_name(self.name, role, self.token), 0, 0.0, follows)._replace(**piece)
        if role == "workers" and not job.slots:
            job = job._replace(slots=self.plans[job.kind or role].slots)
        ident, cluster = State.system.submit(
            self.script(job._replace(follows=0) if is_parallel else job, delay)
        )
        job = job._replace(ident=ident, cluster=cluster, at=time.time())
        self.jobs.append(job)
        self.save()
        return job

    def script(self, job: BatchJob, delay: int = 0) -> Script:
        """Return the script of a job that is about to be submitted."""
        has_workers = job.role == "master" and job.slots > 0
        plan = self.plans[job.kind or ("workers" if has_workers else job.role)]
        plan = plan._replace(slots=job.slots or plan.slots, idle=0.0 if job.stays else plan.idle)
        if job.role == "workers" and plan.is_elastic:  # its tender replaces it, if it is still wanted
            plan = plan._replace(is_renewed=False)
        request = ScriptRequest(
            job.role, plan, self.token, self.logs, self.kill_wait, job.follows, delay, has_workers
        )
        return State.system.script(request)

    def note_problem(self, subject: str, text: str) -> None:
        """Note what goes wrong with a subject; '': nothing any more."""
        before = dict(self.problems)
        self.problems.pop(subject, None)
        if text:
            self.problems[subject] = text
        if self.problems != before:
            self.save()

    def cancel(self, jobs: Sequence[BatchJob]) -> None:
        """End these jobs at once, and forget them."""
        State.system.cancel(jobs)
        self.jobs = [job for job in self.jobs if job not in jobs]
        self.save()

    def cancel_all(self, roles: Sequence[str] = ("master", "workers")) -> None:
        """End all jobs of these roles at once, and forget them; also one that was submitted but not noted, because the
        program was killed at that moment."""
        clusters = {"", *(job.cluster for job in self.jobs)}
        for role in roles:
            self.cancel(self.of_role(role))
        for role in roles:
            name = job_name(self.name, role, self.token)
            if any(job.name == name for job in self.jobs):
                continue  # it is a job of workers by now (cw.slurm.hosting)
            for cluster in clusters:
                State.system.cancel_named(name, cluster)

    def is_being_submitted(self) -> bool:
        """True if a program on this machine is submitting a job of this cluster."""
        program = State.system.submit_program.encode()
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if entry.isdigit():
                    with open(f"/proc/{entry}/cmdline", "rb") as file:
                        words = file.read().split(b"\0")
                    # (It may be a script of the site.)
                    is_program = any(word.endswith(program) for word in words[:3])
                    if is_program and any(self.token.encode() in word for word in words):
                        return True
        return False

    def rows(self) -> dict[int, ListedJob]:
        """Return the batch system's rows of our jobs, by id. Raises LaunchError if it has not answered lately."""
        rows: dict[int, ListedJob] = {}
        for cluster in {job.cluster for job in self.jobs}:
            found = State.system.list_jobs(cluster)
            if found.failure:
                raise LaunchError(found.failure)
            rows |= self.ours(found)
        return rows

    def age(self) -> float:
        """Return the age of the oldest answer that `rows` has now (seconds)."""
        answers = [State.system.list_jobs(cluster).asked_at for cluster in {job.cluster for job in self.jobs}]
        return max(0.0, time.time() - min(answers, default=time.time()))

    def ours(self, found: Listing) -> dict[int, ListedJob]:
        """Return the rows of a listing that are our jobs, by id and name."""
        name_by_ident = {job.ident: job.name for job in self.jobs}
        return {row.ident: row for row in found.rows.values() if name_by_ident.get(row.ident) == row.name}

    def of_role(self, role: str) -> list[BatchJob]:
        return [job for job in self.jobs if job.role == role]

    def with_workers(self) -> list[BatchJob]:
        """Return the jobs that have workers: those of the role, and a master's that has some beside it."""
        return [job for job in self.jobs if job.role == "workers" or job.slots]

    def local_processes(self) -> list[Process]:
        """Return the processes of a master on a login node, if it is this one."""
        if self.local.get("boot_id") != launcher.boot_id():
            return []
        return [Process(*numbers) for numbers in self.local["processes"]]


def directory_name(cluster: str) -> str:
    """Return the name of the directory of a cluster's notes, in the user's own."""
    return f"{State.system.name}-{cluster}"


def name_for_block() -> str:
    """Make a name for a cluster that lasts for a block. Keeps only the logs of the latest such clusters."""
    base = userdir.make_home()
    prefix = directory_name("block-")
    before = [entry for entry in os.scandir(base) if entry.name.startswith(prefix)]
    ended = [entry for entry in before if not os.path.exists(os.path.join(entry.path, "state.json"))]
    for old in sorted(ended, key=lambda entry: entry.stat().st_mtime)[:-LOGS_KEPT]:
        if time.time() - old.stat().st_mtime > 3600:  # a newer one may be about to begin
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
