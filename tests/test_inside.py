"""Programs that a job starts by srun and mpirun in a real Slurm, and the devices that it gives to a worker."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import sandbox
from conftest import wait_until
from programs import LIMIT
from test_slurm import used

import cw

if os.environ.get("CI") != "true":
    pytestmark = pytest.mark.skipif(not sandbox.is_installed(), reason=sandbox.HOW_TO_GET_IT)

GPUS = 2 if sandbox.can_make_devices() else 0


@pytest.fixture(scope="module")
def shared():
    # As many tasks as GPUs fit on one node. Memory is shared out, too: a second step must not wait for it.
    settings = ["SelectTypeParameters=CR_CPU_Memory", "DefMemPerCPU=100"]
    with sandbox.Sandbox(nodes=2, cpus=2, gpus=GPUS, settings=settings) as shared:
        yield shared


@pytest.fixture
def slurm(shared, monkeypatch):
    yield from used(shared, monkeypatch)


def output_of(*command):
    """What a program prints that must not wait for ever."""
    process = subprocess.run(["timeout", "20", *command], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return sorted(process.stdout.split())


def variables():
    return {name: value for name, value in os.environ.items() if name.startswith(("SLURM_", "PMI", "CW_"))}


def environment_of_the_worker():
    return Path(f"/proc/{os.getppid()}/environ").read_text().split("\0")


def test_what_a_job_starts_by_srun_and_mpirun_has_the_whole_allocation(slurm):
    with (
        cw.slurm.allocate(3, piece=3, worker_options=["--mem-per-cpu=500"]),
        cw.ClusterExecutor() as executor,
    ):
        found = executor.submit(variables).result(LIMIT)
        assert (found["SLURM_NTASKS"], sorted(found["SLURM_TASKS_PER_NODE"])) == ("3", [",", "1", "2"])
        assert not [name for name in found if name.startswith(("SLURM_STEP", "PMI")) or "ALLOCATION" in name]
        jobs = [executor.submit(output_of, "srun", "printenv", "SLURM_PROCID") for _ in range(3)]  # at once
        assert [job.result(LIMIT) for job in jobs] == 3 * [["0", "1", "2"]]
        one = executor.submit(output_of, "srun", "-n", "1", "printenv", "SLURM_NTASKS")
        assert one.result(LIMIT) == ["1"]
        if shutil.which("mpirun"):
            root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
            job = executor.submit(output_of, "mpirun", *root, "printenv", "OMPI_COMM_WORLD_RANK")
            assert job.result(LIMIT) == ["0", "1", "2"]


def device_beside_another(directory, number):
    """The device of one of two jobs that run at the same time."""
    (directory / str(number)).touch()
    wait_until(lambda: len(list(directory.iterdir())) == 2, LIMIT)
    return os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.skipif(not GPUS, reason="devices are made by root")
@pytest.mark.parametrize("asked", ["--gpus-per-task=1", pytest.param("--gres=gpu:2", marks=pytest.mark.slow)])
def test_a_worker_has_all_devices_of_its_job_on_its_node_and_each_slot_one(slurm, asked, tmp_path):
    with cw.slurm.allocate(2, worker_options=[asked]), cw.ClusterExecutor() as executor:
        assert "CUDA_VISIBLE_DEVICES=0,1" in executor.submit(environment_of_the_worker).result(LIMIT)
        two = [
            executor.options(gpus=1).submit(device_beside_another, tmp_path, number) for number in range(2)
        ]
        assert sorted(job.result(LIMIT) for job in two) == ["0", "1"]
