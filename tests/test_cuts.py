"""Jobs that are cut short as their worker's time is over: counted, told, and given up if the user wants that."""

import logging

import jobs as work
import pytest
from conftest import wait_until
from programs import LIMIT, Master, Worker
from test_dispatch import PY, assigned, dispatcher, jobs

import cw
from cw.master.policy import cuts
from cw.master.policy.actions import GiveUp, SendToClient
from cw.net import messages as m
from cw.requirements import WorkerCapacity
from cw.waits.cut_jobs import CutJobs


def cut_short(d, job, left=0.0, seconds=50.0):
    """The worker of this job, which it had run for `seconds`, reports that it was cut short with `left` seconds left;
    then it leaves, and another one comes. Returns what the report leads to."""
    worker = job.worker.key
    d.on_started(worker, [job.dispatch])
    d.state.tallies.now += seconds
    d.on_time_left(worker, left)
    d.on_worker_draining(worker)
    actions = d.on_cut_short(worker, [job.dispatch])
    d.on_worker_departed(worker)
    d.check_invariants()
    if job.number in d.state.sessions["c"].jobs:
        assert assigned(d.on_worker_joined(worker + "w", WorkerCapacity(1), PY)) == [
            (worker + "w", [job.number])
        ]
    return actions


def notes_of(actions):
    return [
        a.message.notes for a in actions if type(a) is SendToClient and type(a.message) is m.AttemptCounts
    ]


def test_the_notes_of_a_job_say_how_often_it_was_cut_short_and_when():
    d = dispatcher("c", w=1)
    (job,) = jobs(1)
    d.on_submitted("c", [job])
    for count in range(1, 9):
        actions = cut_short(d, job, seconds=50.0 + count)
        assert (job.crashes, job.worker_losses) == (0, 0)
        (notes,) = notes_of(actions)
        kept = range(max(1, count - cuts.NOTES + 1), count + 1)
        assert [(note["cuts"], note["seconds"]) for note in notes] == [(n, 50.0 + n) for n in kept]


def test_a_worker_that_ends_before_its_time_leaves_no_note():
    d = dispatcher("c", w=1)
    (job,) = jobs(1, attempts_by_limit=1)
    d.on_submitted("c", [job])
    actions = cut_short(d, job, left=100.0)
    assert notes_of(actions) == [] and job.worker is not None


def test_a_job_is_given_up_at_its_attempts_by_limit_and_its_notes_travel():
    d = dispatcher("c", w=1)
    (job,) = jobs(1, attempts_by_limit=3)
    d.on_submitted("c", [job])
    cut_short(d, job)
    cut_short(d, job)
    (given_up,) = [action for action in cut_short(d, job) if type(action) is GiveUp]
    assert given_up.reason == "its worker's time was over 3 times while it ran"
    assert [note["seconds"] for note in given_up.notes] == [50.0] * 3
    # Another master counts on from the notes that the client hands in.
    other = dispatcher("c", w=1)
    (again,) = jobs(1, attempts_by_limit=3)
    again.notes = given_up.notes[:2]
    other.on_submitted("c", [again])
    assert [type(action) for action in cut_short(other, again)].count(GiveUp) == 1


def test_a_function_is_told_once_when_a_job_of_it_was_cut_short_twice(caplog):
    told = CutJobs()
    note = {"how": cuts.HOW, "seconds": 50.0, "cuts": 1}
    told.on_attempt_counts("simulate", [note, {"how": "killed by SIGSEGV"}])
    assert caplog.text == ""
    for _ in range(2):
        told.on_attempt_counts("simulate", [note, {"how": "killed"}, note | {"seconds": 55.25, "cuts": 2}])
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "a job of simulate was cut short 2 times: it ran 50 s and 55.2 s; each time"
    )


@pytest.mark.timeout(60)
def test_an_endless_job_is_told_and_given_up(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "cw")
    with Master() as master, cw.ClusterExecutor(master.address) as executor:
        endless = executor.options(attempts_by_limit=3).submit(work.until, tmp_path / "go", 1)
        while not endless.done():  # on a busy machine, its time may be over before the job has begun
            with Worker(master.address, "--lifetime", "1.2", "--grace", "0.3") as worker:
                assert worker.wait() == 0
        error = endless.exception(LIMIT)
        assert isinstance(error, cw.WorkerLost) and [note["cuts"] for note in error.attempts] == [1, 2, 3]
        assert "was given up: its worker's time was over 3 times while it ran" in str(error)
        assert "was cut short as its worker's time was over after " in str(error)
        wait_until(lambda: "a job of until was cut short 2 times: it ran " in caplog.text, LIMIT)
