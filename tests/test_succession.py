"""Which job follows a master's, and when; and what becomes of workers without a master: with a batch system that is a
table, and in a real Slurm."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jobs
import pytest
import sandbox
from conftest import wait_until
from programs import LIMIT
from test_batch_system import Table
from test_slurm import run, standing, used

import cw
from cw import userdir
from cw.launch import status_client
from cw.launch.launcher import LaunchError
from cw.launch.plan import Plan
from cw.net import messages as m
from cw.slurm import sidecar, submitted, succession
from cw.slurm.submitted import State

HOUR = 3600.0


@pytest.fixture
def table(monkeypatch):
    table = Table()
    monkeypatch.setattr(State, "system", table)
    return table


@pytest.fixture
def master(monkeypatch):
    """What the master answers, and what it was sent; `answer` is None while there is none."""
    master = SimpleNamespace(answer=None, sent=[])

    def ask(candidates, *messages):
        master.sent += messages
        return master.answer

    monkeypatch.setattr(status_client, "ask", ask)
    return master


def answer_of(job, *workers):
    return SimpleNamespace(location=f"table//{job}", workers=list(workers))


def begin(table, now, **options):
    """A master's job that runs for two hours from now, and one of workers that waits."""
    with submitted.locked("default") as state:
        state.begin()
        state.plans = dict.fromkeys(("master", "workers"), Plan("default", 4, **options))
        state.submit("master")
        state.submit("workers")
    table.own_job = 1
    table.set_state(1, "running", start=now, end=now + 2 * HOUR)
    return succession.Succession("default", state.token)


def followers():
    return [(job.ident, job.follows) for job in State.load("default").of_role("master")[1:]]


def test_while_workers_wait_the_master_is_followed_in_time_and_once(table, master):
    now = time.time()
    watched = begin(table, now)
    watched.look(now)
    assert followers() == [] and watched.wait_seconds(now) == pytest.approx(HOUR)
    later = now + HOUR + 1
    watched.look(later)
    assert followers() == [(3, 1)]
    assert (table.requests[-1].role, table.requests[-1].follows) == ("master", 0)  # it may begin at once
    watched.look(later + 100)
    assert followers() == [(3, 1)]
    table.set_state(3, "ended")  # someone has cancelled it
    watched.look(later + 200)
    assert followers() == [(3, 1), (4, 1)]


def test_a_master_whose_workers_end_before_it_is_not_followed(table, master):
    now = time.time()
    watched = begin(table, now)
    table.set_state(2, "running", start=now, end=now + 2 * HOUR)
    watched.look(now + 1.5 * HOUR)
    assert followers() == []
    table.set_state(2, "running", start=now, end=now + 2 * HOUR + 1)
    watched.look(now + 1.6 * HOUR)
    assert followers() == [(3, 1)]


def test_a_master_with_workers_of_another_clusters_jobs_is_followed(table, master):
    now = time.time()
    watched = begin(table, now)
    table.set_state(2, "ended")
    by_hand = {"location": "", "left": None}
    soon_over = {"location": "table//77//n1", "left": 60.0}
    master.answer = answer_of(1, by_hand, soon_over)
    watched.look(now + 1.5 * HOUR)
    assert followers() == []
    master.answer = answer_of(1, by_hand, soon_over | {"left": None})
    watched.look(now + 1.6 * HOUR)
    assert followers() == [(3, 1)]


def test_a_follower_that_waits_for_the_masters_end_need_not_wait_any_more(table, master):
    now = time.time()
    watched = begin(table, now, is_renewed=True)
    succession.renew("default", State.load("default").token, "master")
    assert table.requests[-1].follows == 1
    watched.look(now)
    assert table.released == []
    watched.look(now + HOUR + 1)
    assert table.released == [3] and followers() == [(3, 1)]


def test_what_prevents_a_follower_is_told_and_tried_again_until_shortly_before_the_end(
    table, master, monkeypatch
):
    now = time.time()
    watched = begin(table, now)
    submit = table.submit
    refusals = []

    def refuse(script):
        refusals.append(script)
        raise LaunchError("sbatch: too many jobs")

    monkeypatch.setattr(table, "submit", refuse)
    for seconds in (1, 20, 40):
        with pytest.raises(LaunchError):
            watched.look(now + HOUR + seconds)
    assert len(refusals) == 3
    (problem,) = cw.slurm.status().problems
    assert problem == "no job follows Table job 1 (master) yet: sbatch: too many jobs"
    watched.look(now + 2 * HOUR - 20)
    assert len(refusals) == 3
    monkeypatch.setattr(table, "submit", submit)
    watched = succession.Succession("default", State.load("default").token)
    watched.look(now + 2 * HOUR - 31)
    assert followers() == [(3, 1)] and cw.slurm.status().problems == ()


def test_a_renewal_that_fails_is_tried_again_until_it_works(table, master, monkeypatch):
    begin(table, time.time(), is_renewed=True)
    token = State.load("default").token
    monkeypatch.setattr(succession, "RETRY_SECONDS", 0.05)
    table.own_job = 2
    table.set_state(2, "running", start=1.0, end=time.time() + 1000)
    submit, refusals = table.submit, []

    def refuse_twice(script):
        if len(refusals) < 2:
            refusals.append(script)
            raise LaunchError("sbatch: Resource temporarily unavailable")
        assert "temporarily unavailable" in str(cw.slurm.status().problems)
        return submit(script)

    monkeypatch.setattr(table, "submit", refuse_twice)
    assert sidecar.renew("default", token, "workers") == 1
    assert sidecar.renew("default", token, "workers", is_again=True) == 0
    assert [job.follows for job in State.load("default").of_role("workers")] == [0, 2]
    assert cw.slurm.status().problems == ()


def test_a_renewal_is_not_tried_again_when_the_job_is_about_to_end(table, master, monkeypatch):
    begin(table, time.time(), is_renewed=True)
    monkeypatch.setattr(succession, "RETRY_SECONDS", 0.05)
    table.own_job = 2
    table.set_state(2, "running", start=1.0, end=time.time() + succession.RETRY_MARGIN - 1)
    succession.renew_again("default", State.load("default").token, "workers")
    assert len(State.load("default").of_role("workers")) == 1


def test_a_follower_takes_over_when_its_own_master_answers(table, master):
    now = time.time()
    begin(table, now).look(now + HOUR + 1)
    table.own_job = 3
    table.set_state(3, "running", start=now + HOUR + 5, end=now + 3 * HOUR)
    follower = succession.Succession("default", State.load("default").token)
    master.answer = answer_of(1)
    follower.look(now + HOUR + 5)
    assert table.states() == ["running", "waiting", "running"]
    master.answer = answer_of(3)
    follower.look(now + HOUR + 7)
    assert table.states() == ["ended", "waiting", "running"]
    assert [job.ident for job in State.load("default").of_role("master")] == [3]


def test_a_follower_ends_some_time_after_the_last_job_of_workers(table, master):
    now = time.time()
    begin(table, now).look(now + HOUR + 1)
    table.own_job = 3
    table.set_state(3, "running", start=now + HOUR + 5, end=now + 3 * HOUR)
    follower = succession.Succession("default", State.load("default").token)
    master.answer = answer_of(3)
    clock = now + HOUR + 5
    for workers in ("waiting", "ended"):
        table.set_state(2, workers)
        began = clock
        while clock < began + 3 * succession.LOOK_SECONDS and not master.sent:
            clock += 5
            follower.look(clock)
        assert bool(master.sent) == (workers == "ended")
    assert clock - began >= succession.LOOK_SECONDS
    (message,) = master.sent
    assert isinstance(message, m.End) and "no job of its workers is left" in message.reason


def test_a_cluster_that_is_stopped_is_not_followed(table, master):
    now = time.time()
    watched = begin(table, now)
    with submitted.locked("default") as state:
        state.is_stopping = True
        state.save()
    watched.look(now + HOUR + 1)
    assert followers() == []


def test_workers_without_a_master_end_unless_one_is_to_come(table, master, monkeypatch):
    monkeypatch.setattr(succession, "RETRY_SECONDS", 0.02)
    begin(table, time.time())
    token = State.load("default").token
    table.own_job = 2
    table.set_state(2, "running")
    for state_of_master in ("waiting", "running"):
        table.set_state(1, state_of_master)
        assert not succession.end_orphan("default", token, 0.1)
    table.set_state(1, "ended")
    master.answer = answer_of(1)
    assert not succession.end_orphan("default", token, 0.1)
    master.answer = None
    table.failure = "it is down"
    assert not succession.end_orphan("default", token, 0.1)
    table.failure = ""
    assert succession.end_orphan("default", token, 0.1)
    assert table.states() == ["ended", "ended"]


# --- in a real Slurm --------------------------------------------------------------------------------

real = pytest.mark.skipif(
    not sandbox.is_installed() and os.environ.get("CI") != "true", reason=sandbox.HOW_TO_GET_IT
)


@pytest.fixture
def slurm(monkeypatch):
    with sandbox.Sandbox(nodes=2, cpus=2) as slurm:
        yield from used(slurm, monkeypatch)


@real
def test_workers_whose_master_was_stopped_end_and_so_do_their_jobs(slurm):
    run("start", "-n", 2)
    run("stop", "-W")
    state = State.load("default")
    (workers,) = state.of_role("workers")
    command = [sys.executable, "-m", "cw.slurm.sidecar", "orphan", "default", state.token, "--seconds", "1"]
    process = subprocess.run(
        command, env={**os.environ, "SLURM_JOB_ID": str(workers.ident)}, capture_output=True, text=True
    )
    assert process.returncode == 0 and "this job of workers ends" in process.stderr, process.stderr
    wait_until(lambda: not slurm.queue(), LIMIT, slurm.queue)
    run("stop")


@real
def test_slurm_lets_a_follower_begin_before_the_job_that_it_follows_has_ended(slurm):
    userdir.make_home()

    def submit(*options):
        return int(slurm.run("sbatch", "--parsable", "-o", "/dev/null", *options, "--wrap", "sleep 60"))

    first = submit("--hold")
    follower = submit("-J", "cw-x", f"--dependency=afterany:{first}")
    job = submitted.BatchJob("master", follower, "", "cw-x", 0, time.time(), first)
    State.system.release([job])
    wait_until(lambda: [str(follower), "RUNNING", "cw-x"] in slurm.queue(), LIMIT, slurm.queue)
    slurm.run("scancel", str(first), str(follower))
    wait_until(lambda: not [row for row in slurm.queue() if row[1] != "COMPLETING"], LIMIT, slurm.queue)


@real
@pytest.mark.slow
def test_where_nodes_have_no_sbatch_renewal_is_refused_at_the_start(slurm, tmp_path):
    (tmp_path / "bin").mkdir()
    for directory in ("/usr/bin", "/bin"):
        for path in Path(directory).iterdir():
            link = tmp_path / "bin" / path.name
            if path.name != "sbatch" and not os.path.lexists(link):
                link.symlink_to(path)
    _, error = run("start", "-n", 1, "--renew", f"--Xmaster=--export=ALL,PATH={tmp_path}/bin", status=1)
    assert "there is no sbatch on this node, so no job can follow this one" in error
    assert "without --renew" in error and cw.slurm.status() is None


@real
@pytest.mark.slow
@pytest.mark.timeout(150)
def test_a_master_is_followed_while_its_workers_go_on(slurm, tmp_path):
    run("start", "-n", 2, "--Xmaster", "--time=1", "--Xworkers", "--time=5")
    first = standing().location
    with cw.ClusterExecutor() as executor:
        future = executor.submit(jobs.until, tmp_path / "go", "finished")
        wait_until(lambda: (standing() or SimpleNamespace(location=first)).location != first, 60, slurm.queue)
        wait_until(lambda: len(slurm.queue()) == 2, LIMIT, slurm.queue)  # the first master's job has ended
        (tmp_path / "go").touch()
        assert future.result(LIMIT) == "finished"
        assert executor.submit(abs, -7).result(LIMIT) == 7
    assert not standing().lost
    assert len(re.findall("^master: Slurm job", run("status")[0], re.MULTILINE)) == 1
    run("stop")
