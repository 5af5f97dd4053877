"""Elastic clusters in a real Slurm: they come with the jobs, bear losses, pause after failures, and leave nothing."""

import os
import time

import jobs
import pytest
import sandbox
from conftest import wait_until
from programs import LIMIT
from test_slurm import run, shared, slurm, standing  # noqa: F401 (fixtures)
from test_slurm_loss import preempting  # noqa: F401

import cw
from cw.location import Location

pytestmark = [pytest.mark.slow]
if os.environ.get("CI") != "true":
    pytestmark.append(pytest.mark.skipif(not sandbox.is_installed(), reason=sandbox.HOW_TO_GET_IT))


def place(seconds):
    """Wait for so long. Returns the Slurm job and the node where this runs."""
    time.sleep(seconds)
    return os.environ["SLURM_JOB_ID"], os.environ["SLURMD_NODENAME"]


def workers_in(slurm):  # noqa: F811
    return {job[0] for job in slurm.queue() if "workers" in job[2] and job[1] != "COMPLETING"}


def test_pieces_come_with_the_jobs_are_replaced_when_lost_and_end_when_idle(slurm):  # noqa: F811
    out, _ = run("start", "--max", 4, "--piece", 1, "--idle", 3, "--time", 60, "--local-master")
    assert "elastic: 0 to 4 slots in pieces of 1, as jobs come and go" in out
    assert workers_in(slurm) == set()
    assert "elastic, workers: 0 slots wanted of 0 to 4" in run("status")[0]
    with cw.ClusterExecutor() as executor:
        futures = [executor.submit(place, 0.7) for _ in range(16)]
        wait_until(lambda: len(standing().workers) >= 2, LIMIT, standing)
        lost = Location.parse(standing().workers[0]["location"])
        slurm.run("scontrol", "update", f"NodeName={lost.node}", "State=DOWN", "Reason=test")
        results = [future.result(LIMIT) for future in futures]
        assert 3 <= len({job for job, _ in results}) and len(workers_in(slurm)) <= 4
        wait_until(lambda: not workers_in(slurm), LIMIT, slurm.queue)  # idle, though a client is connected
        assert standing() is not None
        assert executor.submit(place, 0.0).result(LIMIT)  # and they come again
    assert "stopped" in run("stop")[0]
    assert not workers_in(slurm)


@pytest.mark.timeout(150)
def test_pieces_that_are_preempted_come_again_and_are_no_failures(preempting):  # noqa: F811
    run("start", "--max", 4, "--piece", 1, "--partition", "low", "--time", 60, "--local-master")
    with cw.ClusterExecutor() as executor:
        futures = [executor.submit(place, 1.5) for _ in range(24)]
        wait_until(lambda: len(standing().workers) >= 3, LIMIT, standing)
        high = preempting.run(
            "sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 4"
        )
        wait_until(lambda: [high.strip(), "RUNNING", "wrap"] in preempting.queue(), LIMIT, preempting.queue)
        assert {result[1] for result in [future.result(60) for future in futures]} == {"n1", "n2"}
        (kind,) = cw.slurm.status().kinds
        assert kind.problem == "" and not standing().lost
        assert len(workers_in(preempting)) <= 4
    run("stop")
    assert not workers_in(preempting)


@pytest.mark.timeout(150)
def test_a_master_that_is_renewed_goes_on_with_its_elastic_pieces(slurm, tmp_path):  # noqa: F811
    run(
        "start",
        "--max",
        3,
        "--piece",
        1,
        "--idle",
        4,
        "--renew",
        "--Xmaster",
        "--time=1",
        "--Xworkers",
        "--time=5",
    )
    first = standing().location
    with cw.ClusterExecutor() as executor:
        held = executor.submit(jobs.until, tmp_path / "go", os.getpid())
        others = [executor.submit(place, 1.0) for _ in range(6)]
        wait_until(lambda: (found := standing()) and found.location != first, 70, slurm.queue)
        wait_until(
            lambda: len(standing().workers) == 1, LIMIT, standing
        )  # it works for the second master, too
        (before,) = workers_in(slurm)
        assert not standing().lost
        (tmp_path / "go").touch()
        assert held.result(LIMIT) == os.getpid() and all(other.result(LIMIT) for other in others)
        wait_until(lambda: not workers_in(slurm), LIMIT, slurm.queue)
        assert int(executor.submit(place, 0.0).result(LIMIT)[0]) > int(before)  # its tender starts some
    run("stop")
    assert not workers_in(slurm)


def test_pieces_that_fail_pause_the_cluster_which_is_told_and_can_be_resumed(slurm, caplog):  # noqa: F811
    run("start", "--max", 3, "--piece", 1, "-d", "no-such-image", "--local-master")
    assert "3 to 3 slots in pieces of 1" in run("scale", "-n", 3)[0]
    with cw.ClusterExecutor() as executor:
        future = executor.submit(abs, -1)
        wait_until(lambda: "died soon after" in cw.slurm.status().kinds[0].problem, LIMIT, run_status)
        out, _ = run("status")
        assert "no more pieces of workers are submitted, as 3 died soon after their start" in out
        assert " slurm resume` goes on\n  | " in out
        wait_until(lambda: " slurm resume`" in caplog.text, LIMIT, run_status)
        assert caplog.text.count("no more pieces of workers are submitted") == 1
        assert not workers_in(slurm)
        assert "are submitted again" in run("resume")[0]
        wait_until(lambda: workers_in(slurm), LIMIT, slurm.queue)
        future.cancel()
    error = run("scale", "-n", 0, status=2)[1]
    assert "scale --kind workers --min 0 --max 0` lets" in error and " stop` ends the cluster" in error
    assert "0 to 0 slots in pieces of 1" in run("scale", "--kind", "workers", "--min", 0, "--max", 0)[0]
    run("stop")


def run_status():
    return run("status")[0]
