"""A cluster in pieces, on a real Slurm: each piece begins, ends and is replaced by itself."""

import os
import re
import time

import jobs
import pytest
import sandbox
from conftest import wait_until
from programs import LIMIT
from test_slurm import run, slots, standing, used

import cw
from cw.location import Location
from cw.slurm import pieces, squeue

if os.environ.get("CI") != "true":
    pytestmark = pytest.mark.skipif(not sandbox.is_installed(), reason=sandbox.HOW_TO_GET_IT)

WHOLE = "PartitionName=whole Nodes=n1,n2 OverSubscribe=EXCLUSIVE"


@pytest.fixture
def slurm(monkeypatch):
    with sandbox.Sandbox(nodes=4, cpus=2, settings=[WHOLE]) as slurm:
        yield from used(slurm, monkeypatch)


def workers(slurm):
    return [job for job in slurm.queue() if "workers" in job[2] and job[1] != "COMPLETING"]


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_what_has_begun_works_while_the_rest_waits_and_lost_slots_are_replaced(slurm, monkeypatch):
    out, _ = run("start", "-n", 12)  # the master has a CPU of one of the 4 nodes of 2
    assert re.search(
        r"^6 of 12 slots are up; 3 of 6 pieces run; 3 wait: Slurm job \d+ \(workers\) waits in the queue: .*\)$",
        out,
        re.MULTILINE,
    ), out
    with cw.ClusterExecutor() as executor:
        assert executor.submit(jobs.square, 3).result(LIMIT) == 9
    out, _ = run("scale", "-n", 5)
    assert out.count("taken back") == 3 and "6 slots stay, as no running job has as few as 1" in out
    assert len(workers(slurm)) == 3
    assert "1 more slot" in run("scale", "-n", 7)[0]

    lost = Location.parse(standing().workers[0]["location"])
    slurm.crash(lost.node)
    wait_until(lambda: slots() == 5, LIMIT, standing)
    monkeypatch.setattr(pieces, "JOIN_SECONDS", 0.0)
    assert re.fullmatch(r"2 slots are lost; Slurm job \d+ for 2 more slots", cw.slurm.scale(7))
    slurm.boot(lost.node)
    slurm.run("scancel", lost.job)  # which Slurm would start again when it notices
    wait_until(lambda: slots() == 7, 40, slurm.queue)
    assert re.search(r"; used \d+ of \d+ slot-seconds \(\d+ %\) in 4 of 5 workers$", run("stop")[0].strip())


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_workers_with_nothing_to_do_end_and_the_cluster_with_the_last_of_them(slurm, monkeypatch):
    run("start", "-n", 2, "--piece", 1, "--idle", 2, "--renew")
    with cw.ClusterExecutor() as executor:
        future = executor.submit(time.sleep, 4)
        wait_until(lambda: slots() == 1, LIMIT, standing)  # the other worker had nothing to do
        # It is not followed by another one, and the one that works is.
        wait_until(lambda: len(workers(slurm)) == 2, LIMIT, slurm.queue)
        future.result(LIMIT)
        wait_until(lambda: slots() == 0 and not workers(slurm), LIMIT, slurm.queue)
        time.sleep(3)
        assert standing() is not None  # a program is connected
        monkeypatch.setattr(squeue, "QUEUE_SECONDS", 0.0)
        assert re.fullmatch(r"Slurm job \d+ for 1 more slot", cw.slurm.scale(1))
        assert executor.submit(jobs.square, 3).result(LIMIT) == 9
    wait_until(lambda: not slurm.queue(), 60, slurm.queue)
    out, _ = run("status", status=1)
    assert re.search(
        r"no cluster 'default' is in Slurm; it ended by itself at [-\d]+ [:\d]+: nothing was left to do for 2 s, and "
        r"no program was connected; used [4-9] of \d+ slot-seconds",
        out,
    ), out
    assert cw.slurm.status() is None


def test_all_cpus_of_some_nodes_and_whole_nodes(slurm):
    out, _ = run("start", "--dry-run", "--nodes", 3)
    assert out.count("for piece in {1..3}; do\nsbatch ") == 1 and out.count("--ntasks=2 --nodes=1 ") == 1
    out, _ = run("start", "--dry-run", "-n", 5, "--piece", 4)
    assert "--ntasks=4 --signal" in out and "--ntasks=1 --nodes=1 " in out  # 4 slots are no piece of one node
    _, told = run("start", "-n", 1, "--piece", 1, "--partition", "whole")
    assert "Slurm gives whole nodes here: a piece that is no multiple of 2 slots leaves CPUs unused" in told
    run("stop")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"nworkers": 2, "nodes": 2}, "a number of slots and a number of nodes: give one of them"),
        ({"nworkers": 2, "piece": 0}, "piece must be 1 or more, not 0"),
        ({"nodes": -1}, "nodes must be 1 or more, not -1"),
        ({"nworkers": 2, "idle": -1}, r"idle must be 0 \(never\) or a number of seconds, not -1"),
        ({"nworkers": 2, "idle": float("nan")}, "idle must be 0"),
        ({"nworkers": 2, "piece": 1, "isolated": True}, "isolated slots are one job"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        cw.slurm.start(**arguments)


def test_sizes_of_another_type_are_refused():
    for arguments in ({"piece": "2"}, {"nodes": 1.5}, {"piece": True}, {"idle": "60"}):
        with pytest.raises(TypeError, match=f"^{next(iter(arguments))} must be"):
            cw.slurm.start(**{"nworkers": 2, **arguments})
