"""A cluster's jobs in a batch system, with one that is nothing but a table: what is submitted, cancelled, kept."""

import os
import re
import time
from types import SimpleNamespace
from typing import NamedTuple

import pytest

import cw
from cw.launch.batch_system import Asked, BatchSystem, Script
from cw.launch.launcher import LaunchError
from cw.launch.plan import Plan
from cw.location import Location
from cw.net import address
from cw.slurm import ending, finding, sidecar, submitted, succession, systems
from cw.slurm.submitted import State
from cw.slurm.system import Slurm


class Row(NamedTuple):
    """One job in the table."""

    ident: int
    name: str
    state: str = "waiting"
    start: float = 0.0
    nodes: str = ""
    end: float = 0.0

    @property
    def is_waiting(self):
        return self.state == "waiting"

    @property
    def is_running(self):
        return self.state == "running"

    @property
    def is_active(self):
        return self.state not in ("ended", "taken away", "failed")

    @property
    def has_failed(self):
        return self.state == "failed"

    @property
    def has_lost_allocation(self):
        return self.state == "taken away"

    @property
    def can_never_start(self):
        return self.state == "waiting for ever"

    def is_called(self, ident):
        return ident == str(self.ident)

    def describe(self):
        return f"is {self.state}"

    def time_left(self, now):
        return self.end - now if self.end and self.is_running else None


class Table:
    """A batch system whose jobs run when the test says so."""

    name = "table"
    title = "Table"
    submit_program = "submit-to-the-table"
    cancel_program = "cancel-in-the-table"
    list_seconds = 0.0
    call_seconds = 1.0

    def __init__(self):
        self.rows = {}
        self.requests = []
        self.released = []
        self.signals = []
        self.without_workers = []
        self.own_job = 0
        self.failure = ""

    def is_present(self):
        return True

    def check_present(self):
        if self.failure:
            raise LaunchError(self.failure)

    check_answers = check_present

    def is_installed(self):
        return True

    def check_options(self, options):
        if "--forbidden" in options:
            raise ValueError("--forbidden")

    def look_at_nodes(self, plan):
        return None

    def asked(self, plan):
        return Asked(1, 0, 0, plan.gpus, None)

    def kill_wait(self):
        return 30.0

    def current_job(self):
        return self.own_job

    def script(self, request):
        self.requests.append(request)
        return Script(self.submit_program, [request.job_name], "")

    def program_script(self, request):
        self.requests.append(request)
        return Script(self.submit_program, [request.job_name], "")

    def submit(self, script):
        self.check_present()
        ident = len(self.rows) + 1
        self.rows[ident] = Row(ident, *script.arguments)
        return ident, ""

    def list_jobs(self, cluster=""):
        return SimpleNamespace(asked_at=time.time(), rows=dict(self.rows), failure=self.failure)

    def node_names(self, row):
        return row.nodes.split()

    def first_host(self, row):
        return row.nodes.split()[0]

    def notify(self, jobs):
        self.cancel([job for job in jobs if self.rows[job.ident].is_waiting])

    def end_workers(self, jobs):
        self.without_workers += [job.ident for job in jobs]

    def release(self, jobs):
        self.released += [job.ident for job in jobs]

    def signal_program(self, jobs, number):
        self.signals += [(job.ident, number) for job in jobs]

    def cancel(self, jobs):
        for job in jobs:
            assert self.rows[job.ident].name == job.name
            self.set_state(job.ident, "ended")

    def cancel_named(self, name, cluster):
        for row in self.rows.values():
            if row.name == name:
                self.set_state(row.ident, "ended")

    def set_state(self, ident, state, nodes="", **times):
        self.rows[ident] = self.rows[ident]._replace(state=state, nodes=nodes, **times)

    def states(self):
        return [row.state for row in self.rows.values()]


@pytest.fixture
def table(monkeypatch):
    table = Table()
    monkeypatch.setattr(State, "system", table)
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
    methods = {
        name for name in {**vars(BatchSystem), **BatchSystem.__annotations__} if not name.startswith("_")
    }
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
    assert cw.slurm.scale(6) == "Table job 3 for 2 more slots"
    assert (table.requests[-1].role, table.requests[-1].plan.slots) == ("workers", 2)
    assert cw.slurm.scale(4) == "Table job 3 taken back"
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
    with pytest.raises(LaunchError, match=r"does not answer: Table job 1 \(master\) is waiting"):
        finding.master_host()
    table.set_state(1, "running", "n7")
    assert finding.master_host() == "n7:5494"


def test_clients_are_told_that_only_the_address_file_knows_the_port(state, table):
    state.plans["master"] = state.plans["master"]._replace(master_options=["--port", "0"])
    state.save()
    table.set_state(1, "running", "n7")
    told = r"Table job 1 \(master\) runs, but it listens on any port that is free \(--port 0\).*--Xmaster=--port=5494"
    with pytest.raises(LaunchError, match=told):
        finding.master_host()
    assert address.find_master() == []
    assert re.search(told, address.why_not_found())


def test_a_job_that_can_never_start_is_told_with_the_reason(state, table):
    finding.check_may_start(state)
    table.set_state(2, "waiting for ever")
    with pytest.raises(
        LaunchError, match=r"^Table job 2 \(workers\) can never start: it is waiting for ever$"
    ):
        finding.check_may_start(state)


def test_options_that_are_not_the_users_to_give_are_refused_before_anything_is_submitted(table):
    with pytest.raises(ValueError, match="--forbidden"):
        cw.slurm.start(2, worker_options=["--forbidden"])
    with pytest.raises(ValueError, match="'http' is no port"):
        cw.slurm.start(2, master_options=["--port=http"])
    assert table.rows == {}


def test_a_successor_is_submitted_once_however_often_its_job_is_requeued(state, table):
    table.own_job = 2
    for _ in range(2):
        sidecar.renew("default", state.token, "workers")
    assert [(job.ident, job.follows, job.slots) for job in State.load("default").of_role("workers")] == [
        (2, 0, 4),
        (3, 2, 4),
    ]
    assert (table.requests[-1].follows, table.requests[-1].delay) == (2, 0)
    table.own_job = 3  # it has begun at once: what fails does not do so again and again
    sidecar.renew("default", state.token, "workers")
    assert (table.requests[-1].follows, table.requests[-1].delay) == (3, succession.SHORT_SECONDS)
    assert [job.ident for job in State.load("default").of_role("workers")] == [3, 4]


@pytest.mark.parametrize("verb", ["watch", "tend"])
def test_the_masters_sidecar_knows_its_verb_of_scripts_submitted_earlier(monkeypatch, verb):
    watched = []
    monkeypatch.setattr(sidecar, "watch", lambda *arguments: watched.append(arguments))
    monkeypatch.setattr(sidecar.program, "set_up_logging", lambda level: None)
    monkeypatch.setattr("sys.argv", ["sidecar", verb, "default", "token", "--parent", "7"])
    assert sidecar.main() == 0 and watched == [("default", "token", 7)]


@pytest.mark.parametrize(
    ("system", "state_of_it", "nodes", "start", "is_forgivable"),
    [
        ("table", "taken away", "n1 n2", 1.0, True),
        ("table", "running", "n1 n2", 1.0, False),
        ("table", "running", "n1", 1.0, True),  # it goes on without that node
        ("table", "running", "n1 n2", 60.0, True),  # begun anew
        ("table", "ended", "", 1.0, False),
        ("another", "taken away", "n1 n2", 1.0, False),
    ],
)
def test_a_worker_that_was_lost_with_its_allocation_is_excused(
    state, table, system, state_of_it, nodes, start, is_forgivable
):
    lost = {"location": Location(system, "", "2", "0", "n2").as_text(), "at": 50.0}
    table.set_state(2, state_of_it, nodes)
    table.rows[2] = table.rows[2]._replace(start=start)
    assert sidecar.is_forgivable(lost, table.list_jobs()) == is_forgivable


def test_a_machine_without_any_batch_system_has_the_first_which_says_that_it_is_not_there(monkeypatch):
    present, absent = SimpleNamespace(is_installed=lambda: True), SimpleNamespace(is_installed=lambda: False)
    monkeypatch.setattr(systems, "SYSTEMS", (absent, present))
    assert systems.find_system() is present
    monkeypatch.setattr(systems, "SYSTEMS", (absent, absent))
    assert systems.find_system() is absent
