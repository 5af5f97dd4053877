"""A cluster's jobs in a batch system, with one that is nothing but a table: what is submitted, cancelled, kept."""

import os
import time
from types import SimpleNamespace
from typing import NamedTuple

import pytest

import cw
from cw.launch.batch_system import BatchSystem
from cw.launch.launcher import LaunchError
from cw.slurm import ending, finding, submitted
from cw.slurm.batch import Plan
from cw.slurm.submitted import State
from cw.slurm.system import Slurm


class Row(NamedTuple):
    """One job in the table."""

    ident: int
    name: str
    state: str = "waiting"
    start: float = 0.0
    nodes: str = ""

    @property
    def is_waiting(self):
        return self.state == "waiting"

    @property
    def is_running(self):
        return self.state == "running"

    @property
    def is_active(self):
        return self.state != "ended"

    def describe(self):
        return f"is {self.state}"

    def time_left(self, now):
        return None


class Table:
    """A batch system whose jobs run when the test says so."""

    list_seconds = 0.0

    def __init__(self):
        self.rows = {}
        self.scripts = []
        self.failure = ""

    def is_present(self):
        return True

    def check_present(self):
        if self.failure:
            raise LaunchError(self.failure)

    check_answers = check_present

    def submit(self, script, extra=()):
        self.check_present()
        ident = 1 + len(self.scripts)
        (name,) = [a.removeprefix("--job-name=") for a in script.arguments if a.startswith("--job-name=")]
        self.scripts.append(script)
        self.rows[ident] = Row(ident, name)
        return ident, ""

    def list_jobs(self, cluster=""):
        return SimpleNamespace(asked_at=time.time(), rows=dict(self.rows), failure=self.failure)

    def first_host(self, row):
        return row.nodes

    def notify(self, jobs):
        self.cancel([job for job in jobs if self.rows[job.ident].is_waiting])

    def cancel(self, jobs):
        for job in jobs:
            assert self.rows[job.ident].name == job.name
            self.set_state(job.ident, "ended")

    def cancel_named(self, name, cluster):
        for row in self.rows.values():
            if row.name == name:
                self.set_state(row.ident, "ended")

    def set_state(self, ident, state, nodes=""):
        self.rows[ident] = self.rows[ident]._replace(state=state, nodes=nodes)

    def states(self):
        return [row.state for row in self.rows.values()]


@pytest.fixture
def table(monkeypatch):
    table = Table()
    monkeypatch.setattr(State, "system", table)
    monkeypatch.setattr(submitted, "kill_wait", lambda: 30.0)
    return table


@pytest.fixture
def state(table):
    """A cluster of a master and 4 slots, both jobs waiting."""
    with submitted.locked("default") as state:
        state.begin()
        state.plans = dict.fromkeys(("master", "workers"), Plan("default", 4))
        state.submit("master")
        state.submit("workers")
    return state


def test_slurm_is_a_batch_system():
    slurm: BatchSystem = Slurm()
    methods = {name for name in vars(BatchSystem) if not name.startswith("_")} | {"list_seconds"}
    assert all(hasattr(slurm, name) for name in methods)
    assert all(hasattr(Table(), name) for name in methods)


def test_what_is_submitted_is_noted_with_its_id_and_name(state, table):
    noted = State.load("default")
    assert [(job.role, job.ident, job.slots) for job in noted.jobs] == [("master", 1, 0), ("workers", 2, 4)]
    assert [job.name for job in noted.jobs] == [row.name for row in table.rows.values()]
    assert [row.describe() for row in noted.rows().values()] == ["is waiting", "is waiting"]


def test_another_job_with_our_id_is_none_of_ours(state, table):
    table.rows[2] = Row(2, "cw-other-workers-abc")
    assert sorted(state.rows()) == [1]


def test_more_slots_are_another_job_and_fewer_take_back_what_waits(state, table):
    assert cw.slurm.scale(6) == "Slurm job 3 for 2 more slots"
    assert "--ntasks=2" in table.scripts[-1].arguments
    assert cw.slurm.scale(4) == "Slurm job 3 taken back"
    assert table.states() == ["waiting", "waiting", "ended"]
    assert cw.slurm.scale(4) == "it has 4 slots already"


def test_the_end_of_a_cluster_takes_all_its_jobs_out_and_forgets_it(state, table):
    assert ending.stop() == "stopped; its master had not answered"
    assert table.states() == ["ended", "ended"]
    assert not os.path.exists(state.file())
    assert ending.stop() == ""


def test_a_batch_system_that_does_not_answer_leaves_the_cluster_as_it_is(state, table):
    table.failure = "it is down"
    with pytest.raises(LaunchError, match="it is down"):
        ending.stop()
    assert not State.load("default").is_stopping
    assert table.states() == ["waiting", "waiting"]


def test_clients_find_the_node_of_a_master_that_runs_and_are_told_why_there_is_none(state, table):
    with pytest.raises(LaunchError, match=r"does not answer: Slurm job 1 \(master\) is waiting"):
        finding.master_host()
    table.set_state(1, "running", "n7")
    assert finding.master_host() == "n7:5494"
