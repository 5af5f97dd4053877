"""Jobs on several nodes, in a real Slurm: pieces of their own, and what such a job starts by srun and mpirun."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import sandbox
from conftest import wait_until
from programs import LIMIT
from test_inside import output_of
from test_slurm import run, used

import cw

if os.environ.get("CI") != "true":
    pytestmark = pytest.mark.skipif(not sandbox.is_installed(), reason=sandbox.HOW_TO_GET_IT)

NODE = "printenv", "SLURMD_NODENAME"


@pytest.fixture(scope="module")
def shared():
    with sandbox.Sandbox(nodes=4, cpus=2) as shared:
        yield shared


@pytest.fixture
def slurm(shared, monkeypatch):
    yield from used(shared, monkeypatch)


@pytest.fixture
def executor(slurm):
    """A client of an elastic cluster with pieces of two nodes; others have one."""
    run("start", "--max", 1, "--piece", 1, "--local-master", "--time", 60)
    said, _ = run("add", "--kind", "mpi", "--nodes", 2, "--max", 1, "--idle", 2)
    assert said == "pieces of the kind 'mpi' come when jobs need them: 0 to 1 slot of 2 nodes each\n"
    with cw.ClusterExecutor() as executor:
        yield executor
    run("stop", "--grace", 0)


def mpirun():
    return ["mpirun", *(["--allow-run-as-root"] if os.geteuid() == 0 else [])]


def look():
    """What a job on two nodes finds there, and what it starts."""
    job = cw.current_job()
    found = SimpleNamespace(nodes=job.nodes, cpus=job.cpus, threads=os.environ["OMP_NUM_THREADS"])
    found.hosts = Path(job.hostfile).read_text().split()
    found.steps = output_of("srun", *NODE)
    found.ranks = found.places = None
    if shutil.which("mpirun"):
        found.ranks = output_of(*mpirun(), "printenv", "OMPI_COMM_WORLD_RANK")
        found.places = output_of(*mpirun(), "--hostfile", job.hostfile, "--map-by", "node", "-n", "2", *NODE)
    return found


def look_alone():
    return cw.current_job().nodes, cw.current_job().hostfile, os.uname().nodename


def die_beside(*command):
    """End as by a crash, while what this has started runs."""
    with subprocess.Popen(command):
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)


def processes_of(mark):
    found = subprocess.run(["pgrep", "-f", f"^(/usr)?(/bin/)?sleep {mark}"], capture_output=True, text=True)
    return found.stdout.split()


def test_a_job_on_two_nodes_has_a_piece_of_its_own_and_starts_processes_on_both(executor, slurm):
    two = executor.options(nodes=2)
    found, alone = two.submit(look), executor.submit(look_alone)
    nodes, hostfile, host = alone.result(LIMIT)
    assert (nodes, hostfile) == ((host,), None)
    found = found.result(LIMIT)
    assert len(set(found.nodes)) == 2 and (found.cpus, found.threads) == (1, "1")
    assert found.hosts == sorted(2 * found.nodes) == found.steps  # each node has two CPUs, and so two tasks
    if found.ranks is not None:
        assert found.ranks == ["0", "1", "2", "3"] and found.places == sorted(found.nodes)
    # What srun has started on the other node ends with a job that crashes, too.
    mark = str(90000 + os.getpid() % 10000)
    lost = executor.options(nodes=2, attempts=1).submit(die_beside, "srun", "sleep", mark)
    with pytest.raises(cw.WorkerLost, match="its runner died"):
        lost.result(LIMIT)
    assert not processes_of(mark)
    three = executor.options(nodes=3).submit(abs, -1)
    refused = (
        "jobs that no pieces can run: a piece: the job needs 3 nodes, and it has 1; a piece of the kind 'mpi'"
    )
    wait_until(lambda: refused in run("status")[0], LIMIT, lambda: run("status")[0])
    three.cancel()
    wait_until(lambda: not [job for job in slurm.queue() if job[0] == "2"], LIMIT, slurm.queue)  # idle


@pytest.mark.slow
def test_a_piece_of_which_one_node_fails_ends_and_its_job_runs_again(executor, slurm, tmp_path):
    future = executor.options(nodes=2).submit(stay, tmp_path)
    wait_until(lambda: (tmp_path / "nodes").exists() and (tmp_path / "nodes").read_text(), LIMIT)
    lost = (tmp_path / "nodes").read_text().split()[1]
    slurm.run("scontrol", "update", f"NodeName={lost}", "State=DOWN", "Reason=test")
    assert future.result(LIMIT) == 2


def stay(directory):
    """Wait for the end, the first time. Returns the number of starts."""
    with (directory / "starts").open("a") as file:
        file.write("x")
    count = len((directory / "starts").read_text())
    if count == 1:
        (directory / "nodes").write_text(" ".join(cw.current_job().nodes))
        time.sleep(LIMIT)
    return count
