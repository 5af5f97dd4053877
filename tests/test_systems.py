"""Another batch system than Slurm: `Processes` is all that it takes, and all of a cluster's life works with it.

(Slurm itself is in test_slurm.)
"""

import contextlib
import os
import signal
import subprocess
import time
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from conftest import wait_until
from programs import LIMIT

import cw
from cw.launch import shell_lines
from cw.launch.batch_system import BatchSystem, Script
from cw.launch.launcher import LaunchError
from cw.location import VARIABLE, Location
from cw.slurm import finding, sidecar
from cw.slurm.submitted import State

NOTICE = int(signal.SIGWINCH)


class Row(NamedTuple):
    """A job: a process of this machine."""

    ident: int
    name: str
    start: float
    process: subprocess.Popen

    nodes = "here"
    is_waiting = can_never_start = False

    @property
    def is_running(self):
        return self.process.poll() is None

    is_active = is_running

    @property
    def has_failed(self):
        return self.process.poll() not in (None, 0, -signal.SIGKILL)

    @property
    def end(self):
        return 0.0

    @property
    def has_lost_allocation(self):
        return self.process.poll() == -signal.SIGKILL

    def is_called(self, ident):
        return ident == str(self.ident)

    def describe(self):
        return "runs" if self.is_running else f"has ended ({self.process.returncode})"

    def time_left(self, now):
        return None


class Processes:
    """A batch system of one machine."""

    name = "processes"
    title = "Process"
    submit_program = "bash"
    cancel_program = "kill"
    list_seconds = 0.0
    call_seconds = 1.0

    def __init__(self):
        self.rows = {}

    def is_installed(self):
        return True

    is_present = is_installed

    def check_present(self):
        pass

    check_answers = check_present

    def check_options(self, options):
        if options:
            raise ValueError(f"a process takes no options: {options}")

    def look_at_nodes(self, plan):
        return None

    def kill_wait(self):
        return 10.0

    def current_job(self):
        return int(os.environ.get("OWN_JOB", 0))

    def script(self, request):
        worker = f"{shell_lines.worker_command(request)} -n {request.plan.slots} --notice {NOTICE}"
        lines = [
            *shell_lines.head(request.plan, f"{request.role} in a process"),
            f'export {VARIABLE}="processes//$OWN_JOB/0/here"',
            "exec " + (shell_lines.master_command(request.plan) if request.role == "master" else worker),
        ]
        return Script("bash", [request.job_name, f"{request.logs}/{request.role}.log"], "\n".join(lines))

    def submit(self, script):
        name, log = script.arguments
        ident = len(self.rows) + 1
        with open(log, "ab") as output:
            process = subprocess.Popen(
                ["bash", "-c", script.text],
                env={**os.environ, "OWN_JOB": str(ident)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.rows[ident] = Row(ident, name, time.time(), process)
        return ident, ""

    def list_jobs(self, cluster=""):
        return SimpleNamespace(asked_at=time.time(), rows=dict(self.rows), failure="")

    def node_names(self, row):
        return [row.nodes]

    def first_host(self, row):
        return "127.0.0.1"

    def notify(self, jobs):
        self.send(NOTICE, [self.rows[job.ident] for job in jobs])

    def cancel(self, jobs):
        self.send(signal.SIGTERM, [self.rows[job.ident] for job in jobs])

    def cancel_named(self, name, cluster):
        self.send(signal.SIGTERM, [row for row in self.rows.values() if row.name == name])

    def send(self, number, rows):
        for row in rows:
            if row.is_running:
                with contextlib.suppress(ProcessLookupError):
                    row.process.send_signal(number)


@pytest.fixture
def system(monkeypatch):
    """The batch system of this machine, for this test."""
    system = Processes()
    monkeypatch.setattr(State, "system", system)
    monkeypatch.delenv("CW_MASTER", raising=False)
    yield system
    system.send(signal.SIGKILL, system.rows.values())
    for row in system.rows.values():
        row.process.wait()


def test_a_cluster_lives_in_a_batch_system_of_one_file(system):
    known: BatchSystem = system
    cluster = cw.slurm.start(2, master_options=["--port", "0"])
    assert (cluster.slots, cluster.connected) == (2, 2)
    with cw.ClusterExecutor() as executor:
        assert executor.submit(os.getpid).result(LIMIT) != os.getpid()

    assert cw.slurm.scale(3) == "Process job 3 for 1 more slot"
    wait_until(lambda: cw.slurm.status().slots == 3, LIMIT, cw.slurm.status)
    assert cw.slurm.scale(2) == "Process job 3 drains"
    wait_until(lambda: not system.rows[3].is_running, LIMIT, cw.slurm.status)
    assert [(job.role, job.state, job.nodes) for job in cw.slurm.status().jobs][:2] == [
        ("master", "runs", "here"),
        ("workers", "runs", "here"),
    ]

    (worker,) = finding.ask(State.load("default")).workers
    assert Location.parse(worker["location"]) == Location("processes", "", "2", "0", "here")
    system.send(signal.SIGKILL, [system.rows[2]])  # as if its allocation were gone
    wait_until(lambda: finding.ask(State.load("default")).lost, LIMIT)
    (lost,) = finding.ask(State.load("default")).lost
    wait_until(lambda: not system.rows[2].is_running, LIMIT)
    assert sidecar.is_forgivable(lost, known.list_jobs())

    assert cw.slurm.stop().startswith("stopped; 0 jobs were running")
    wait_until(lambda: not any(row.is_running for row in system.rows.values()), LIMIT)
    assert cw.slurm.status() is None


def test_what_it_refuses_is_refused_before_anything_is_submitted(system):
    with pytest.raises(ValueError, match="a process takes no options"):
        cw.slurm.start(1, worker_options=["--qos=long"])
    assert system.rows == {}


def test_a_master_that_cannot_start_is_told_with_the_words_of_the_batch_system(system):
    with pytest.raises(LaunchError, match=r"Process job 1 \(master\) has ended \(2\)"):
        cw.slurm.start(1, workers=False, master_options=["--silence=x"])
    assert cw.slurm.status() is None
