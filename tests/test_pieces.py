"""Pieces of a cluster: submitted one by one, and told in words by the batch system's answer and the master's."""

import time

import pytest
from test_batch_system import state, table  # noqa: F401  (fixtures)

from cw.launch.launcher import LaunchError
from cw.launch.plan import Plan
from cw.slurm import pieces, submitted
from cw.slurm.pieces import Use
from cw.slurm.submitted import State


def test_each_piece_is_noted_before_the_next_and_has_its_size_and_kind(state, table, monkeypatch):  # noqa: F811
    monkeypatch.setattr(pieces, "PAUSE_SECONDS", 0.0)
    with submitted.locked("default") as locked:
        locked.plans["big"] = Plan("default", 8, idle=60.0)
        locked.save()
    jobs = pieces.submit_pieces("default", state.token, [4, 4, 1], kind="big", stays=True)
    assert [(job.slots, job.kind, job.stays) for job in jobs] == [(4, "big", True)] * 2 + [(1, "big", True)]
    assert State.load("default").jobs[-3:] == jobs
    assert [request.plan.slots for request in table.requests[-3:]] == [4, 4, 1]
    assert [request.plan.idle for request in table.requests[-3:]] == [0.0] * 3
    pieces.submit_pieces("default", state.token, [2], kind="big")
    assert table.requests[-1].plan.idle == 60.0


def test_of_a_cluster_that_was_stopped_meanwhile_nothing_more_is_submitted(state, table):  # noqa: F811
    with pytest.raises(LaunchError, match="the cluster 'default' was stopped meanwhile"):
        pieces.submit_pieces("default", "another", [1])
    with submitted.locked("default") as locked:
        locked.is_stopping = True
        locked.save()
    with pytest.raises(LaunchError, match="was stopped meanwhile"):
        pieces.submit_pieces("default", state.token, [1])
    assert len(table.rows) == 2


def test_pieces_are_told_by_their_numbers_and_one_alone_by_itself(state, table):  # noqa: F811
    (first,) = state.of_role("workers")
    assert pieces.look_at(state, [first]).text == "Table job 2 (workers) is waiting"
    more = [state.submit("workers", slots=1) for _ in range(4)]
    for job, became in zip(more, ("running", "running", "ended", "waiting"), strict=True):
        table.set_state(job.ident, became)
    found = pieces.look_at(state, [first, *more])
    assert (found.running, found.waiting, found.ended) == (more[:2], [first, more[3]], [more[2]])
    assert found.text == (
        "2 of 5 pieces run; 2 wait: Table job 2 (workers) is waiting; 1 ended: Table job 5 (workers) is ended"
    )
    table.rows[2] = table.rows[2]._replace(start=time.time() + 3600)
    clock = time.strftime("%H:%M", time.localtime(table.rows[2].start))
    assert (
        f"Table job 2 (workers) is waiting; expected start: {clock};"
        in pieces.look_at(state, [first, *more]).text
    )


def test_what_the_batch_system_does_not_say_is_not_known(state, table):  # noqa: F811
    jobs = state.of_role("workers")
    table.failure = "it is down"
    assert pieces.look_at(state, jobs) == pieces.Found([], [], [], [], jobs, "it is down")
    with pytest.raises(LaunchError, match="it is down"):
        pieces.look_at(state, jobs, must_answer=True)


def test_slots_are_lost_that_should_be_there_for_long(state, table):  # noqa: F811
    jobs = [state.submit("workers", slots=4) for _ in range(3)]
    now = time.time()
    for job, age in zip(jobs, (900, 900, 1), strict=True):
        table.set_state(job.ident, "running")
        table.rows[job.ident] = table.rows[job.ident]._replace(start=now - age)
    found = pieces.look_at(state, jobs)
    there = {jobs[0].ident: Use(4, 0), jobs[1].ident: Use(1, 1), jobs[2].ident: Use(0, 0)}
    assert pieces.lost_slots(found, there) == {jobs[1].ident: 3}
    assert pieces.use_of(None, jobs) == dict.fromkeys(there, Use(0, 0))
