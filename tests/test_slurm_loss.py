"""What Slurm takes away costs nothing: time limits, preemption, scancel, node failures, a master that moves, a
controller that is down. On a real Slurm, whose shortest time limit is a minute: this is slow."""

import os
import re
import time
from pathlib import Path

import jobs
import pytest
import sandbox
from conftest import wait_until
from programs import LIMIT, events_in, lines_of, start_script
from test_slurm import mark_and_wait, nodes_of, run, slots, standing, used

import cw
from cw.slurm.submitted import State

if os.environ.get("CI") != "true":
    pytestmark = pytest.mark.skipif(not sandbox.is_installed(), reason=sandbox.HOW_TO_GET_IT)


@pytest.fixture
def slurm(monkeypatch):
    with sandbox.Sandbox(nodes=3, cpus=2) as slurm:
        yield from used(slurm, monkeypatch)


@pytest.fixture
def preempting(monkeypatch):
    settings = [
        "PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE",
        "PartitionName=low Nodes=ALL PriorityTier=1 GraceTime=2", "PartitionName=high Nodes=ALL PriorityTier=10",
    ]  # fmt: skip
    with sandbox.Sandbox(nodes=2, cpus=2, settings=settings) as slurm:
        yield from used(slurm, monkeypatch)


@pytest.fixture
def runs(tmp_path):
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def workers_job(slurm):
    """The id of the workers' job that runs."""
    found = [ident for ident, state, name in slurm.queue() if "workers" in name and state == "RUNNING"]
    return wait_until(lambda: found, LIMIT)[-1]


def logs(kind):
    home = Path(os.environ["CW_HOME"])
    return "\n".join(path.read_text() for path in sorted(home.glob(f"slurm-*/logs-*/{kind}*.log")))


def nothing_was_charged():
    found = standing()
    return found is not None and not found.lost


def numbers_of_runs(runs):
    """How often each job has run."""
    found = {}
    for path in runs.iterdir():
        number = int(path.name.split()[0])
        found[number] = found.get(number, 0) + 1
    return found


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("is_renewed", [True, False])
def test_a_batch_goes_through_allocations_that_are_shorter(slurm, runs, is_renewed):
    if is_renewed:  # the master's job too
        run("start", "-n", 2, "--time", "1", "--renew")
    else:
        run("start", "-W")
        run("start", "-M", "-n", 2, "--time", "1")
    first = workers_job(slurm)
    results = []
    with cw.ClusterExecutor() as executor:
        futures = [executor.submit(mark_and_wait, runs, number, 4) for number in range(24)]
        careful = [
            executor.options(min_time=20).submit(mark_and_wait, runs, number, 18)
            for number in range(100, 110)
        ]
        if not is_renewed:
            wait_until(lambda: first not in [job[0] for job in slurm.queue()], 130)
            assert not all(future.done() for future in futures + careful)
            assert wait_until(lambda: start_again(4, master=False), 60).connected > 0
        results = [future.result(300) for future in futures + careful]
    assert results == [*range(24), *range(100, 110)]
    assert nothing_was_charged() and "master.worker_lost" not in events_in(logs("master"))
    count = numbers_of_runs(runs)
    assert {count[number] for number in range(100, 110)} == {1}, "no job is started that does not fit"
    assert max(count.values()) <= 2
    if is_renewed:
        assert first not in [job[0] for job in slurm.queue()]
        assert len(list(Path(os.environ["CW_HOME"]).glob("slurm-default/logs-*/workers-*-n*.log"))) > 1
    reasons = " ".join(lines_of(logs("workers"), "worker.draining"))
    assert "its allocation ends soon" in reasons or "notice of the end" in reasons
    out, _ = run("stop")
    assert "stopped; 0 jobs were running" in out
    wait_until(lambda: not slurm.queue(), LIMIT, slurm.queue)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_what_is_preempted_runs_again_uncharged(preempting, runs, tmp_path):
    slurm = preempting
    run("start", "--local-master", "-n", 4, "--piece", 4, "--partition", "low")
    with cw.ClusterExecutor() as executor:
        future = [executor.submit(run_until, runs, number, tmp_path / "go") for number in range(4)]
        wait_until(lambda: len(numbers_of_runs(runs)) == 4, LIMIT)
        ident = workers_job(slurm)
        high = slurm.run(
            "sbatch", "--parsable", "-o", "/dev/null", "-p", "high", "-n", "4", "--wrap", "sleep 3"
        ).strip()
        wait_until(lambda: [high, "RUNNING", "wrap"] in slurm.queue(), 60, slurm.queue)
        wait_until(lambda: sum(numbers_of_runs(runs).values()) >= 8, 100, slurm.queue)
        (tmp_path / "go").touch()
        assert [f.result(LIMIT) for f in future] == list(range(4))
    assert ident == workers_job(slurm)  # the same id again
    wait_until(nothing_was_charged, 60, standing)
    run("stop")


def run_until(directory, number, path):
    jobs.mark_and_return(directory, number)
    return jobs.until(path, number)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_when_the_workers_job_is_cancelled_another_follows_and_nothing_is_charged(slurm, runs, tmp_path):
    run("start", "-n", 2, "--renew")
    assert len([job for job in slurm.queue() if job[1] == "PENDING"]) == 2  # those that will follow
    with cw.ClusterExecutor() as executor:
        future = [executor.submit(run_until, runs, number, tmp_path / "go") for number in range(2)]
        wait_until(lambda: len(numbers_of_runs(runs)) == 2, LIMIT)
        slurm.run("scancel", workers_job(slurm))
        wait_until(lambda: sum(numbers_of_runs(runs).values()) == 4, 60, slurm.queue)
        (tmp_path / "go").touch()
        assert [f.result(LIMIT) for f in future] == [0, 1]
    wait_until(nothing_was_charged, 60, standing)
    run("stop")
    wait_until(lambda: not slurm.queue(), LIMIT, slurm.queue)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_what_was_lost_with_a_node_runs_elsewhere_and_the_charge_is_taken_back(slurm, runs, tmp_path):
    run("start", "-n", 4, "--Xworkers=--nodes=2", "--Xworkers=--ntasks-per-node=2")
    found = standing()
    batch_node = slurm.run("squeue", "-h", "-j", workers_job(slurm), "-o", "%B").strip()
    (victim,) = [node for node in nodes_of(found) if node != batch_node]
    with cw.ClusterExecutor() as executor:
        future = [executor.submit(run_until, runs, number, tmp_path / "go") for number in range(4)]
        wait_until(lambda: len(numbers_of_runs(runs)) == 4, LIMIT)
        slurm.crash(victim)
        wait_until(lambda: standing() and standing().lost, LIMIT, standing)
        (tmp_path / "go").touch()
        assert sorted(f.result(LIMIT) for f in future) == list(range(4))
        assert slots() == 2  # the other node was left alone
    wait_until(nothing_was_charged, 90, lambda: (standing(), slurm.states()))
    assert "master.loss_forgiven" in events_in(logs("master"))
    slurm.boot(victim)
    run("stop")


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_master_that_is_cancelled_and_started_again_is_found(slurm, runs, tmp_path):
    run("start", "-n", 2)
    with cw.ClusterExecutor() as executor:
        future = [executor.submit(run_until, runs, number, tmp_path / "go") for number in range(6)]
        wait_until(lambda: len(numbers_of_runs(runs)) == 2, LIMIT)
        slurm.run("scancel", next(ident for ident, _, name in slurm.queue() if "master" in name))
        wait_until(lambda: standing() is None, LIMIT)
        wait_until(lambda: "master" not in str(slurm.queue()), LIMIT, slurm.queue)
        assert "does not answer" in run("status", status=1)[0]
        wait_until(lambda: start_again(1, workers=False), 60)
        (tmp_path / "go").touch()
        assert [f.result(60) for f in future] == list(range(6))
    assert set(numbers_of_runs(runs).values()) == {1}
    assert nothing_was_charged()
    run("stop")


def start_again(count, **without):
    """Start a part of the cluster again, as soon as squeue's answer is not the one of before any more."""
    try:
        return cw.slurm.start(count, **without)
    except RuntimeError as error:
        assert re.search("has its (master|workers) already", str(error))
        time.sleep(1)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_controller_that_is_down_is_told_and_the_cluster_goes_on(slurm):
    run("start", "-n", 2)
    wait_until_saved(slurm)
    slurm.crash("slurmctld")
    with cw.ClusterExecutor() as executor:
        assert executor.submit(jobs.square, 3).result(LIMIT) == 9
    wait_until(lambda: "Slurm does not answer: squeue: " in run("status")[0], 60)
    error = run("scale", "-n", 9, status=1)[1]
    assert "Unable to contact slurm controller" in error and "try again later" in error
    assert "Slurm's controller is down: try again later" in run("stop", status=1)[1]
    assert not State.load("default").is_stopping and slots() == 2
    error = run("start", "--local-master", "-n", 1, "--name", "other", status=1)[1]
    assert "Unable to contact slurm controller" in error
    assert standing("other") is None and cw.slurm.status("other") is None  # nothing is left of that
    slurm.boot("slurmctld")
    wait_until(
        lambda: re.search(r"workers \(2 slots\): Slurm job \d+ runs on", run("status")[0]), 60, slurm.queue
    )
    assert "stopped" in run("stop")[0]


def wait_until_saved(slurm):
    """What is not in that file would be forgotten by a controller that is started again."""
    saved = slurm.directory / "state/job_state"
    wait_until(lambda: saved.exists() and b"-workers-" in saved.read_bytes(), LIMIT)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_block_that_ends_while_the_controller_is_down_is_ended_when_it_is_back(slurm, tmp_path):
    source = "import cw, time\nwith cw.slurm.allocate(2): print('in', flush=True); time.sleep(1000)"
    with start_script(tmp_path, source) as script:
        script.wait_for("in\n", in_out=True)
        wait_until_saved(slurm)
        slurm.crash("slurmctld")
        script.end(9)
    (log,) = Path(os.environ["CW_HOME"]).glob("slurm-block-*/logs-*/sidecar.log")
    wait_until(lambda: "sidecar.ending_failed" in events_in(log.read_text()), 60, log.read_text)
    slurm.boot("slurmctld")
    wait_until(lambda: not [job for job in slurm.queue() if job[1] != "COMPLETING"], 60, slurm.queue)
    wait_until(lambda: not list(Path(os.environ["CW_HOME"]).glob("slurm-block-*/state.json")), LIMIT)
