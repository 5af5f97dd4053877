"""Pieces of an elastic cluster by their stages, and how those that are gone have ended."""

import pytest
from test_batch_system import Row, Table

from cw.elastic.plan import Piece, Stage
from cw.slurm.submitted import BatchJob, State
from cw.slurm.supply import Outcome, look

WAITING, STARTING, RUNNING, ENDING = Stage
NOW = 1000.0


@pytest.fixture
def state(monkeypatch):
    monkeypatch.setattr(State, "system", Table())
    return State("default")


def piece(ident, at=0.0, **more):
    return BatchJob("workers", ident, "", f"cw-{ident}", 2, at)._replace(**more)


def row(ident, state="running", **more):
    return Row(ident, f"cw-{ident}", state)._replace(**more)


def rows(*rows):
    return {each.ident: each for each in rows}


def stages(found):
    return {each.ident: each.stage for those in found.pieces.values() for each in those}


def test_each_piece_has_a_stage(state):
    state.jobs = [
        BatchJob("master", 1, "", "cw-1", 0, 0.0), piece(2), piece(3), piece(4), piece(5), piece(6, joined=900.0),
        piece(7, NOW, kind="gpu", stays=True),
    ]  # fmt: skip
    found = look(
        state,
        rows(row(1), row(2, "waiting"), row(3), row(4), row(5), row(6)),
        {4: [False], 5: [True], 99: [False]},
        NOW,
    )
    # 6: its worker has left; 7: submitted after the answer
    assert stages(found) == {2: WAITING, 3: STARTING, 4: RUNNING, 5: ENDING, 6: ENDING, 7: WAITING}
    assert found.pieces["gpu"] == [Piece(7, 2, WAITING, True)]
    assert [job.ident for job in found.joined] == [4] and found.ended == []
    assert {job.ident: job.joined for job in found.jobs if job.joined} == {4: NOW, 6: 900.0}


def test_a_worker_is_known_before_the_batch_system_says_that_its_piece_runs(state):
    state.jobs = [piece(1, NOW - 1), piece(2)]
    found = look(state, rows(row(2, "waiting")), {1: [False], 2: [False]}, NOW)
    assert stages(found) == {1: RUNNING, 2: RUNNING}


def test_what_follows_a_piece_is_none_while_that_is_there(state):
    state.jobs = [piece(1), piece(2, follows=1)]
    assert stages(look(state, rows(row(1), row(2, "waiting")), {}, NOW)) == {1: STARTING}
    found = look(state, rows(row(1, "ended"), row(2, "waiting")), {}, NOW)
    assert [job.ident for job in found.jobs] == [2]
    state.jobs = found.jobs
    assert stages(look(state, rows(row(2, "waiting")), {}, NOW)) == {2: WAITING}


def test_a_piece_that_waits_again_has_not_joined(state):
    state.jobs = [piece(1, joined=900.0)]
    found = look(state, rows(row(1, "waiting")), {}, NOW)
    assert stages(found) == {1: WAITING} and found.jobs[0].joined == 0.0


@pytest.mark.parametrize(
    ("joined", "last", "outcome"),
    [
        (0.0, row(1, "failed", start=900.0, end=903.0), Outcome.DIED),
        (901.0, row(1, "failed", start=900.0, end=903.0), Outcome.DIED),
        (0.0, row(1, "failed", start=300.0, end=903.0), Outcome.FAILED),
        (301.0, row(1, "failed", start=300.0, end=903.0), Outcome.WORKED),
        (901.0, row(1, "ended", start=900.0, end=903.0), Outcome.WORKED),
        (0.0, row(1, "ended", start=900.0, end=903.0), Outcome.TAKEN),
        (901.0, row(1, "taken away", start=900.0, end=903.0), Outcome.TAKEN),
        (0.0, None, Outcome.DIED),
        (901.0, None, Outcome.WORKED),
    ],
)
def test_how_a_piece_has_ended(state, joined, last, outcome):
    state.jobs = [piece(1, joined=joined)]
    found = look(state, rows(last) if last else {}, {}, NOW)
    assert [(ended.job.ident, ended.outcome) for ended in found.ended] == [(1, outcome)]
    assert found.jobs == [] and found.pieces == {}


def test_a_piece_whose_worker_is_connected_has_not_ended(state):
    """The batch system's answer may be old, or about an earlier run of it."""
    state.jobs = [piece(1)]
    assert stages(look(state, rows(row(1, "failed")), {1: [False]}, NOW)) == {1: RUNNING}
