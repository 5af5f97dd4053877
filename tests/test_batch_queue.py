"""What the batch system says of workers that are not there yet. (With a real Slurm: test_slurm.)"""

import os
import time

import pytest

from cw import advice
from cw.launch.launcher import LaunchError
from cw.launch.plan import Plan
from cw.net import address
from cw.slurm import squeue, submitted
from cw.slurm.squeue import Listing, Row
from cw.slurm.submitted import BatchJob, State
from cw.slurm.system import Slurm
from cw.waits import batch_queue


class Answers(Slurm):
    """Slurm with these rows in its queue."""

    def __init__(self):
        self.rows = {}
        self.failure = ""

    def is_installed(self):
        return True

    def list_jobs(self, cluster=""):
        return Listing(time.time(), self.rows, self.failure)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A cluster `default` with jobs 1 and 2 of workers, submitted a minute ago; its master answers at HOST:5494."""
    monkeypatch.setenv("CW_HOME", str(tmp_path))
    monkeypatch.setattr(State, "system", Answers())
    with submitted.locked("default") as state:
        state.token, state.logs = "abc", "/logs"
        state.plans["workers"] = Plan(name="default", slots=4)
        state.jobs = [BatchJob("workers", n, "", f"cw-{n}", 2, time.time() - 60) for n in (1, 2)]
        state.save()
    address.write_address("127.0.0.1", 5494)
    return State.system


def put(slurm, ident, state, reason="None", start=0.0):
    slurm.rows[ident] = Row(ident, state, reason, start, 0.0, "", f"cw-{ident}")


def look():
    return batch_queue.look("127.0.0.1:5494")


def test_the_reason_and_the_expected_start_of_the_job_that_is_nearest(slurm):
    now = time.time()
    put(slurm, 1, "PENDING", "Priority")
    put(slurm, 2, "PENDING", "Resources", now + 725)
    found = look()
    clock = time.strftime("%H:%M", time.localtime(now + 725))
    assert found.text == (
        "Slurm job 2 of the workers, and 1 other waits in the queue: no nodes are free for it (Resources); "
        f"expected start: {clock} (in 12 min)"
    )
    put(slurm, 2, "PENDING", "Resources", now + 900)
    assert look().key == found.key  # the same reason
    put(slurm, 2, "PENDING", "JobHeldUser")
    put(slurm, 1, "COMPLETED")
    assert (
        look().text
        == "Slurm job 2 of the workers waits in the queue: you hold it: scontrol release 2 (JobHeldUser)"
    )


def test_a_job_that_runs_without_its_workers_and_jobs_that_have_ended(slurm):
    put(slurm, 1, "PENDING", "Priority")
    put(slurm, 2, "RUNNING", start=time.time() - 9)
    assert (
        "Slurm job 2 of the workers, and 1 other runs, and none of them has joined yet (their logs: /logs)"
        in (look().text)
    )
    slurm.rows.clear()
    put(slurm, 2, "TIMEOUT")
    scale = advice.command("slurm", "scale", "-n", "1")
    assert f"no job of the workers is in Slurm's queue any more: `{scale}` submits one" in look().text


def test_clusters_of_other_masters_are_passed_over_and_systems_that_do_not_answer_are_told(
    slurm, monkeypatch
):
    assert batch_queue.look("127.0.0.1:7777") is None
    slurm.failure = "squeue: no answer"
    assert look().text == "Slurm does not say what became of its jobs (squeue: no answer)"
    monkeypatch.setattr(Answers, "is_installed", lambda self: False)
    assert look() is None


def test_a_line_of_setup_that_failed_is_told(slurm, tmp_path):
    with submitted.locked("default") as state:
        state.plans["workers"] = state.plans["workers"]._replace(setup=["module load gcc"])
        state.logs = str(tmp_path)
        state.save()
    put(slurm, 2, "FAILED")
    (tmp_path / "workers-2.log").write_text(
        "module: not found\ncw: a line of --setup failed (exit status 1): module\n"
    )
    assert "in Slurm's queue any more (a line of --setup failed (exit status 1): module): `" in look().text


def test_how_a_cluster_gets_more_slots_is_known_of_its_own_launcher(slurm):
    assert batch_queue.more_slots("127.0.0.1:5494") == advice.command("slurm", "scale", "-n", "8")
    assert batch_queue.more_slots("127.0.0.1:7777") == ""
    more = advice.command("slurm", "add", "--help")
    assert batch_queue.other_pieces("127.0.0.1:5494") == more and not batch_queue.other_pieces(
        "127.0.0.1:7777"
    )
    more = advice.command("slurm", "add", "--kind", "2-nodes", "--nodes", "2", "--max", "1")
    assert batch_queue.other_pieces("127.0.0.1:5494", 2) == more


def test_an_elastic_cluster_stays_elastic_by_the_advice_and_its_pieces_that_have_joined_are_not_waited_for(
    slurm,
):
    with submitted.locked("default") as state:
        state.plans["workers"] = Plan(name="default", slots=0, most=8, piece=4)
        state.jobs[0] = state.jobs[0]._replace(joined=time.time())
        state.save()
    assert batch_queue.more_slots("127.0.0.1:5494") == advice.command("slurm", "scale", "--max", "16")
    put(slurm, 1, "RUNNING", start=time.time() - 9)
    put(slurm, 2, "PENDING", "Priority")
    assert look().text.startswith("Slurm job 2 of the workers waits in the queue: ")
    with submitted.locked("default") as state:
        del state.jobs[1]
        state.save()
    assert look().text == "the cluster is elastic, and is about to submit pieces for these jobs"


def test_without_notes_nothing_is_asked(tmp_path, monkeypatch):
    def fail(*_):
        raise LaunchError("it was asked")

    monkeypatch.setenv("CW_HOME", str(tmp_path))
    monkeypatch.setattr(squeue, "call", fail)
    monkeypatch.setattr(State, "system", Answers())
    assert look() is None and not os.listdir(tmp_path)
