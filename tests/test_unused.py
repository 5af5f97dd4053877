"""When a cluster that nobody uses ends: not before its workers have, nor before a program could have come."""

import random

import pytest
from test_batch_system import state, table  # noqa: F401  (fixtures)

import cw
from cw.slurm import cli, sidecar, unused
from cw.slurm.submitted import State
from cw.slurm.unused import FIRST_SECONDS, LOOK_SECONDS, Facts, Quiet

NOTHING = Facts(0, 0, 0, 0)
WORKERS = Facts(0, 0, 2, 1)


def test_a_cluster_whose_workers_have_gone_is_over_at_the_next_look():
    quiet = Quiet(120.0, 0.0, 0.0)
    assert not quiet.is_over(WORKERS, 1000.0)
    assert not quiet.is_over(NOTHING, 1000.0 + LOOK_SECONDS / 2)
    assert quiet.is_over(NOTHING, 1000.0 + LOOK_SECONDS)


@pytest.mark.parametrize("use", [Facts(1, 0, 0, 0), Facts(0, 1, 0, 0), WORKERS, Facts(0, 0, 0, 1)])
def test_with_any_use_it_is_not_over(use):
    quiet = Quiet(2.0, 0.0, 0.0)
    assert not any(quiet.is_over(use, now) for now in (0.0, 1e3, 1e6))


def test_a_program_that_leaves_after_the_workers_may_be_followed_by_another_one():
    quiet = Quiet(120.0, 0.0, 0.0)
    quiet.is_over(WORKERS, 100.0)
    quiet.is_over(Facts(1, 0, 0, 0), 5000.0)
    assert not quiet.is_over(NOTHING, 5119.0)
    assert quiet.is_over(NOTHING, 5120.0)


def test_one_without_workers_so_far_waits_for_its_first_program():
    quiet = Quiet(120.0, 0.0, 0.0)
    assert not quiet.is_over(NOTHING, FIRST_SECONDS - 1)
    assert quiet.is_over(NOTHING, FIRST_SECONDS)
    late = Quiet(120.0, 0.0, 0.0)
    assert not late.is_over(Facts(1, 0, 0, 0), FIRST_SECONDS - 1)
    assert not late.is_over(NOTHING, FIRST_SECONDS + 118)  # 119 s after that program
    assert late.is_over(NOTHING, FIRST_SECONDS + 120)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_never_over_while_it_is_used(seed):
    chance = random.Random(seed)
    quiet, now, used_at = Quiet(5.0, 0.0, 0.0), 0.0, 0.0
    for _ in range(200):
        now += chance.random() * 4
        facts = NOTHING if chance.random() < 0.7 else Facts(*(chance.randrange(2) for _ in range(4)))
        is_over = quiet.is_over(facts, now)
        assert not (is_over and any(facts))
        assert not is_over or now - used_at >= LOOK_SECONDS
        used_at = now if any(facts) else used_at


def test_the_end_takes_all_else_out_of_the_queue_and_is_told_until_the_next_start(state, table, capsys):  # noqa: F811
    state.submit("master", follows=1)
    table.own_job = 1  # in which the master runs that ends last, by itself
    assert not unused.end("default", "another", "why")
    assert unused.end("default", state.token, "nobody used it")
    assert table.states() == ["waiting", "ended", "ended"]
    assert cw.slurm.status() is None and not State.load("default").token
    assert cli.print_status("default") == 1
    told = capsys.readouterr().out
    assert (
        "no cluster 'default' is in Slurm; it ended by itself at " in told
        and ": nobody used it (logs: " in told
    )
    unused.forget_last_end("default")
    assert unused.last_end("default") == ""


def test_a_cluster_whose_workers_stay_is_not_looked_after(state, table):  # noqa: F811
    assert not unused.Watch("default", state.token).look(1e12)
    assert State.load("default").token


def test_no_job_follows_one_whose_workers_had_nothing_to_do(state, table):  # noqa: F811
    following = state.submit("workers", follows=2, slots=4)
    other = state.submit("workers", slots=1)
    table.own_job = 2
    sidecar.retire("default", "another")
    assert table.states()[following.ident - 1] == "waiting"
    sidecar.retire("default", state.token)
    assert [job.ident for job in State.load("default").jobs] == [1, 2, other.ident]
    assert table.states()[following.ident - 1] == "ended"
