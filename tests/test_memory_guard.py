"""Jobs that grow beyond the memory that they asked for, on a worker that enforces it."""

import os
import signal
import subprocess
import sys
import time

import jobs
import numpy
import pytest
from conftest import wait_until
from programs import LIMIT, Master, Worker

import cw

MIB = 2**20


@pytest.fixture(scope="module")
def worker():
    with (
        Master() as master,
        Worker(master.address, "-n", "2", "--memory=100GB", "--enforce-memory") as worker,
    ):
        worker.master = master.address
        yield worker


@pytest.fixture
def executor(worker):
    with cw.ClusterExecutor(worker.master) as executor:
        yield executor


def hold(mib, seconds=60.0):
    held = bytearray(os.urandom(MIB)) * mib
    time.sleep(seconds)
    return len(held)


def test_a_job_that_grows_beyond_its_memory_fails_and_its_neighbour_lives(executor, worker, tmp_path):
    neighbour = executor.options(memory="1GB").submit(jobs.until, tmp_path / "end", None, tmp_path / "mark")
    wait_until((tmp_path / "mark").exists, LIMIT)
    greedy = executor.options(memory="100MB")
    error = greedy.submit(hold, 300).exception(LIMIT)
    assert type(error) is cw.MemoryExceeded and error.limit == 100_000_000
    assert error.limit < error.peak < 500 * MIB
    assert os.uname().nodename in str(error) and "more than the 100MB" in str(error)
    assert "worker.memory_exceeded" in worker.events
    assert greedy.submit(hold, 40, 0.3).result(LIMIT) == 40 * MIB
    (tmp_path / "end").touch()
    neighbour.result(LIMIT)


def test_processes_that_a_job_starts_count(executor):
    def start(seconds):
        code = f"held = bytearray({300 * MIB}); import time; time.sleep({seconds})"
        subprocess.run([sys.executable, "-c", code], check=True)

    assert isinstance(executor.options(memory="100MB").submit(start, 60).exception(LIMIT), cw.MemoryExceeded)


def test_a_job_that_goes_on_growing_is_killed_at_once(executor):
    def grow():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        held = []
        for _ in range(2000):
            held.append(bytearray(os.urandom(1024)) * (10 * 1024))
            time.sleep(0.03)

    error = executor.options(memory="100MB").submit(grow).exception(LIMIT)
    assert isinstance(error, cw.MemoryExceeded) and error.peak < 500 * MIB


def test_what_jobs_before_it_have_left_is_not_its_own(executor):
    def leave(mib):
        sys.left = bytearray(os.urandom(MIB)) * mib  # survives the job, as a cache does
        time.sleep(0.3)

    def end(_):
        time.sleep(0.5)
        return hasattr(sys, "left")

    one = executor.options(memory="1GB")
    for future in [one.submit(leave, 300) for _ in range(2)]:
        future.result(LIMIT)
    assert any(executor.options(memory="100MB").map(end, range(4)))


def test_shared_values_are_not_a_jobs_own(executor):
    values = numpy.zeros(300 * MIB // 8)
    values[::512] = 1.0

    def total(shared):
        found = shared.sum()
        time.sleep(0.4)
        return found

    with cw.share(values) as shared:
        assert executor.options(memory="150MB").submit(total, shared).result(LIMIT) == values.sum()
