"""What a runner is bound to before a line of the user's runs: devices, threads, CPUs."""

import os
import sys
from types import SimpleNamespace

import pytest
from conftest import wait_until
from programs import LIMIT, Master, Worker

import cw
from cw.cpus import usable_cpus
from cw.worker.runners.binding import CUDA, HIDDEN, ROCR, THREADS, Binder

# --- variables ----------------------------------------------------------------------------------


def test_a_runner_of_devices_gets_their_names_and_one_without_gets_none():
    binder = Binder(2, ("0", "1"), CUDA, {})
    assert binder.bind(0, ("1",), ()).variables == {CUDA: "1"}
    assert binder.bind(0, (), ()).variables == HIDDEN
    assert (binder.bind(0, ("1",), ()).gpus, binder.bind(0, (), ()).gpus) == (["1"], [])


def test_a_worker_without_devices_leaves_the_variables_as_they_are():
    assert Binder(2, (), CUDA, {CUDA: "3"}).bind(0, (), ()) == ({}, None, [], "")


def test_devices_are_named_by_one_variable_as_numbers_count_among_those_that_another_leaves():
    found = Binder(2, ("2", "3"), ROCR, {ROCR: "2,3", CUDA: "0,1"}).bind(0, ("3",), ())
    assert found.variables == {ROCR: "3", CUDA: None}


def test_libraries_use_as_many_threads_as_the_job_names_cpus_unless_the_worker_says_otherwise():
    binder = Binder(2, environ={"OMP_NUM_THREADS": "1"})
    others = [name for name in THREADS if name != "OMP_NUM_THREADS"]
    assert binder.of_worker == dict.fromkeys(others, "2")
    assert binder.bind(8, (), ()).variables == dict.fromkeys(others, "8")
    assert binder.bind(0, (), ()).variables == {}


# --- real runners -------------------------------------------------------------------------------


def look(meeting=None, count=0):
    """What a job finds, when this many are here at a time."""
    if meeting is not None:
        (meeting / str(os.getpid())).touch()
        wait_until(lambda: len(list(meeting.iterdir())) >= count, LIMIT)
    job = cw.current_job()
    return SimpleNamespace(
        cpus=job.cpus, gpus=job.gpus, memory=job.memory, resources=job.resources, pid=os.getpid(),
        variable=os.environ.get(CUDA), threads={name: os.environ.get(name) for name in THREADS},
        cpu_count=os.cpu_count(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def executor():
    options = ["-n", "4", "--cpus", "8", "--gpus", "0,GPU-1", "--memory", "1GB", "--resources", "licence=2"]
    with Master() as master, Worker(master.address, *options):
        with cw.ClusterExecutor(master.address) as executor:
            yield executor


def test_jobs_at_the_same_time_have_different_devices_and_one_without_sees_none(executor, tmp_path):
    whole = [executor.options(gpus=1).submit(look, tmp_path, 3) for _ in range(2)]
    plain = executor.submit(look, tmp_path, 3)
    found = {job.result(LIMIT).variable: job.result(LIMIT).gpus for job in whole}
    assert found == {"0": (0,), "GPU-1": ("GPU-1",)}
    assert (plain.result(LIMIT).gpus, plain.result(LIMIT).variable) == ((), "")


def test_four_halves_share_two_devices(executor, tmp_path):
    halves = [executor.options(gpus=0.5).submit(look, tmp_path, 4) for _ in range(4)]
    assert sorted(job.result(LIMIT).variable for job in halves) == ["0", "0", "GPU-1", "GPU-1"]


def test_a_job_knows_what_it_named_and_its_libraries_use_as_many_threads(executor):
    plain = executor.submit(look).result(LIMIT)
    asked = {"cpus": 3, "memory": "10MB", "resources": {"licence": 2}}
    found = executor.options(**asked).submit(look).result(LIMIT)
    assert (found.cpus, found.memory, found.resources) == (3, 10**7, {"licence": 2})
    assert found.threads == {name: os.environ.get(name, "3") for name in THREADS}
    each = max(1, usable_cpus() // 4)
    assert (plain.cpus, plain.memory, plain.resources) == (each, None, {})
    assert plain.threads == {name: os.environ.get(name, str(each)) for name in THREADS}
    if sys.version_info >= (3, 13) and "PYTHON_CPU_COUNT" not in os.environ:
        assert (found.cpu_count, plain.cpu_count) == (3, each)


def test_jobs_of_other_needs_that_fit_the_same_binding_use_the_same_process(executor):
    first, second, other = [
        executor.options(**needs).submit(look).result(LIMIT).pid
        for needs in ({"cpus": 5}, {"cpus": 5, "memory": "1MB"}, {"cpus": 6})
    ]
    assert first == second != other


def test_a_job_knows_as_which_of_its_alternatives_it_runs(executor, tmp_path):
    alternatives = [{"gpus": 2, "memory": "1MB"}, {"cpus": 2, "resources": {"licence": 1}}]
    first, second = [executor.options(alternatives=alternatives).submit(look, tmp_path, 2) for _ in range(2)]
    first, second = first.result(LIMIT), second.result(LIMIT)
    assert (first.gpus, first.memory, first.resources) == ((0, "GPU-1"), 10**6, {})
    assert (second.gpus, second.memory, second.resources) == ((), None, {"licence": 1})
    assert second.cpus == 2 and second.threads["OMP_NUM_THREADS"] == os.environ.get("OMP_NUM_THREADS", "2")
