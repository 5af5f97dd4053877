"""What is behind a row of `cw top`."""

from dataclasses import replace

import pytest
from snapshots import SESSIONS, WORKERS, sample, shaped

from cw.top.details import detail


def keys(table):
    return [row.key for row in table.rows]


def test_a_function_has_its_jobs():
    found = detail(sample(), "functions", f"{SESSIONS[0]}/simulate")
    lines = dict(found.lines)
    assert lines["jobs"] == "7 run, 1000 wait, 2000 done, 3 failed"
    assert lines["duration"] == "median 2.2 s, 95 % within 4.5 s"
    assert lines["rate"] == "3.0/s over 1 min, 2.8/s over 5 min"
    assert lines["waits"] == "all 12 slots are busy"
    assert keys(found.running) == [f"{SESSIONS[0]}/17"]
    assert keys(found.failures) == [f"{SESSIONS[0]}/16"]


def test_a_worker_has_its_jobs():
    found = detail(sample(), "workers", WORKERS[2])
    lines = dict(found.lines)
    assert lines["place"] == "Slurm job 4711, step 0, node node8"
    assert lines["state"] == "away: its connection broke"
    assert "memory" not in lines  # not reported yet
    assert keys(found.running) == [f"{SESSIONS[1]}/3"]


def test_a_worker_has_what_its_jobs_take_of_it():
    lines = dict(detail(shaped(), "workers", WORKERS[0]).lines)
    assert (lines["cpus"], lines["gpus"], lines["asked"]) == ("10/16", "1.5/2", "8GB/64GB")
    assert (lines["licence"], lines["tags"]) == ("1 of 2", "avx512 v100")


def test_a_host_stands_for_its_workers_where_these_are_many():
    found = detail(replace(sample(), workers=()), "workers", "node8")
    assert dict(found.lines) == {"host": "node8", "workers": "1"}
    assert keys(found.running) == [f"{SESSIONS[1]}/3"]


def test_a_client_a_running_job_and_a_failure():
    assert keys(detail(sample(), "clients", SESSIONS[1]).running) == [f"{SESSIONS[1]}/3"]
    running = dict(detail(sample(), "running", f"{SESSIONS[0]}/17").lines)
    assert running["host"] == "node7, slot 2" and running["its median"] == "2.2 s"
    failed = detail(sample(), "failures", f"{SESSIONS[0]}/16")
    assert dict(failed.lines)["last line"] == "after 100 steps" and failed.running is None


@pytest.mark.parametrize("view", ["functions", "workers", "clients", "running", "failures", "cluster", "log"])
def test_what_has_gone_has_no_details(view):
    assert detail(sample(), view, "gone") is None
