"""The master's scheduling policy: named facts, then random events against a model of the workers."""

import math
from collections import deque
from itertools import count
from random import Random

import pytest
from asked import asked
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cw.master.policy.actions import Assign, Deliver, GiveUp, SendToClient, SendToWorker, attempt_counts
from cw.master.policy.dispatch import Dispatcher
from cw.master.policy.jobs import AHEAD_BYTES, AHEAD_JOBS, AHEAD_SECONDS, CRASHES, WORKER_LOSSES, Job
from cw.master.policy.room import QUANTUM_SECONDS, RECALL_BACKOFF_TICKS, TURN_JOBS
from cw.master.policy.scheduler import EXCLUDED_TICKS
from cw.master.policy.state import LOOK_PAST
from cw.master.policy.why import Cause, Survey
from cw.net import messages as m
from cw.net.objects import Object as Function
from cw.requirements import WorkerCapacity

PY = (3, 11)
OTHER_PY = (3, 12)
NOTE = {"how": "killed by SIGSEGV", "slot": 0}
LOST = {"how": "the worker was lost"}


def dispatcher(*sessions, **workers):
    """A dispatcher with these sessions and workers (name=slots)."""
    d = Dispatcher()
    for key in sessions:
        d.on_session_opened(key, PY)
    for key, slots in workers.items():
        assert d.on_worker_joined(key, WorkerCapacity(slots), PY) == []
    return d


def jobs(*numbers, f=None, **options):
    f = f or Function(1)
    return [Job(number, f, asked(**options), b"payload") for number in numbers]


def known(seconds):
    """A function whose jobs are known to take so long."""
    f = Function(1)
    f.estimate.seconds = seconds
    return f


def assigned(actions):
    """[(worker, [numbers])] of the Assigns."""
    return [(a.worker, [job.number for job in a.jobs]) for a in actions if type(a) is Assign]


def delivered(actions):
    return [(a.session, a.numbers) for a in actions if type(a) is Deliver]


def kind(action):
    """The type of the action, or of the message that it sends."""
    return type(action.message if type(action) in (SendToClient, SendToWorker) else action)


def result(d, worker, *dispatches, seconds=1.0):
    """The actions but for the Release of what is dropped."""
    count = len(dispatches)
    actions = d.on_results(worker, dispatches, [0] * count, [seconds] * count, [b"value"] * count)
    d.check_invariants()
    return [action for action in actions if kind(action) is not m.Release]


def uncharged(actions):
    """The actions but for what client and worker are told of charges."""
    return [action for action in actions if kind(action) not in (m.AttemptCounts, m.Release)]


# --- first come first served, to whoever idles ------------------------------------------------


def test_a_job_goes_to_an_idle_slot_at_once_and_its_result_to_its_client():
    d = dispatcher("s", w=1)
    (job,) = jobs(7)
    assert d.on_submitted("s", [job]) == [Assign("w", [job])]
    assert job.dispatch == 1
    assert d.on_started("w", [1]) == [SendToClient("s", m.JobsStarted([7]))]
    assert d.on_results("w", [1], [0], [0.5], [b"value"]) == [
        Deliver("s", "w", [1], [7], [0], [0.5], [b"value"])
    ]
    assert len(d.state.open_jobs("s")) == d.state.held("w") == 0


def test_a_job_waits_for_a_worker_and_a_worker_for_a_job():
    d = dispatcher("s")
    assert d.on_submitted("s", jobs(1, 2, 3)) == []
    assert assigned(d.on_worker_joined("w", WorkerCapacity(2), PY)) == [("w", [1, 2])]
    assert assigned(result(d, "w", 1)) == [("w", [3])]


def test_every_idle_slot_gets_a_job_before_anything_is_sent_ahead():
    d = dispatcher("s", v=1, w=2)
    short = known(AHEAD_SECONDS / 10)
    actions = d.on_submitted("s", jobs(*range(1, 6), f=short))
    assert assigned(actions) == [("v", [1, 4, 5]), ("w", [2, 3])]


def test_of_idle_workers_the_one_that_was_busy_last_is_the_next_and_new_ones_come_as_they_joined():
    d = dispatcher("s", u=1, v=1, w=1, x=1)
    assert assigned(d.on_submitted("s", jobs(1, 2))) == [("u", [1]), ("v", [2])]
    result(d, "u", 1)
    result(d, "v", 2)
    actions = d.on_submitted("s", jobs(3, 4, 5, 6))
    assert assigned(actions) == [("v", [3]), ("u", [4]), ("w", [5]), ("x", [6])]


@pytest.mark.parametrize("waiting, places", [(64, 1), (512, 8), (800, 8), (1600, 8), (16_000, 64)])
def test_a_long_queue_of_the_shortest_jobs_goes_to_a_few_of_many_idle_workers(waiting, places):
    d = dispatcher("s", **{f"w{n}": 1 for n in range(100)})
    found = assigned(d.on_submitted("s", jobs(*range(waiting), f=known(1e-7))))
    assert [len(numbers) for _, numbers in found] == [waiting // places] * places


def test_a_long_queue_of_short_jobs_goes_to_all_idle_workers_if_they_take_longer_than_it_does():
    d = dispatcher("s", **{f"w{n}": 1 for n in range(100)})
    found = assigned(d.on_submitted("s", jobs(*range(900), f=known(QUANTUM_SECONDS / 9.5))))
    assert [len(numbers) for _, numbers in found] == [9] * 100


def test_a_jobs_start_is_told_once_and_not_for_what_is_not_held():
    d = dispatcher("s", w=1)
    d.on_submitted("s", jobs(1))
    assert d.on_started("w", [1, 99]) == [SendToClient("s", m.JobsStarted([1]))]
    assert d.on_started("w", [1]) == []
    d.on_runner_died("w", 1, NOTE)
    assert d.on_started("w", [2]) == [SendToClient("s", m.JobsStarted([1]))]  # once for each attempt


def test_a_result_that_comes_twice_or_late_is_dropped():
    d = dispatcher("s", v=1, w=1)
    d.on_submitted("s", jobs(1))
    d.on_worker_lost("v", LOST)
    assert result(d, "w", 1) == []  # the dispatch that was lost
    assert delivered(result(d, "w", 2, 2)) == [("s", [1])]
    assert result(d, "w", 2) == []


def test_the_numbers_of_open_jobs_are_known():
    d = dispatcher("s", w=1)
    d.on_submitted("s", jobs(1, 2, 3))
    d.on_cancelled("s", [3])
    result(d, "w", 1)


# --- ahead ------------------------------------------------------------------------------------


def test_of_a_function_never_seen_nothing_is_sent_ahead():
    d = dispatcher("s", w=1)
    assert assigned(d.on_submitted("s", jobs(1, 2, 3))) == [("w", [1])]


def test_of_long_jobs_none_is_sent_ahead_and_of_short_ones_enough_for_some_milliseconds():
    d = dispatcher("s", w=1)
    assert assigned(d.on_submitted("s", jobs(1, 2, 3, f=known(1.0)))) == [("w", [1])]
    d = dispatcher("s", w=1)
    ((worker, numbers),) = assigned(d.on_submitted("s", jobs(*range(100), f=known(AHEAD_SECONDS / 10))))
    assert 9 <= len(numbers) <= 10
    d = dispatcher("s", w=2)
    ((worker, numbers),) = assigned(d.on_submitted("s", jobs(*range(9000), f=known(1e-7))))
    assert len(numbers) == 2 * AHEAD_JOBS


def test_the_duration_is_learned_from_the_results():
    d = dispatcher("s", w=1)
    f = Function(1)
    d.on_submitted("s", jobs(*range(1, 100), f=f))
    ((_, numbers),) = assigned(result(d, "w", 1, seconds=AHEAD_SECONDS / 5))
    assert numbers == [2, 3, 4, 5, 6]
    assert f.estimate.seconds == AHEAD_SECONDS / 5
    result(d, "w", 2, seconds=1.0)
    assert f.estimate.seconds > AHEAD_SECONDS / 5


def test_no_more_bytes_are_sent_ahead_than_a_worker_should_hold():
    d = dispatcher("s", w=1)
    big = bytes(AHEAD_BYTES // 4)
    f = known(1e-5)
    actions = d.on_submitted("s", [Job(n, f, None, big) for n in range(20)])
    assert assigned(actions) == [("w", [0, 1, 2, 3, 4])]
    assert [len(assigned(result(d, "w", n, seconds=1e-5))) for n in range(1, 6)] == [1, 1, 1, 1, 1]
    assert d.state.held("w") == 5


# --- sessions take turns ----------------------------------------------------------------------


def answer(d, holding, worker, how_many=None, seconds=1e-5):
    """The worker finishes the first jobs that it holds; returns the actions."""
    done = [holding[worker].popleft() for _ in range(min(how_many or 1, len(holding[worker])))]
    actions = d.on_results(
        worker, [job.dispatch for job in done], [0] * len(done), [seconds] * len(done), [b""] * len(done)
    )
    take(holding, actions)
    return actions


def take(holding, actions):
    for action in actions:
        if type(action) is Assign:
            holding.setdefault(action.worker, deque()).extend(action.jobs)


def delivered_before(d, holding, session, numbers, steps=10_000, how_many=None):
    """Let all workers answer in turn until these jobs of the session are delivered: how many of others were?"""
    wanted, others = set(numbers), 0
    for _ in range(steps):
        for worker in list(holding):
            for key, done in delivered(answer(d, holding, worker, how_many)):
                if key == session:
                    wanted.difference_update(done)
                else:
                    others += len(done)
        if not wanted:
            return others
    pytest.fail(f"{wanted} not delivered")


@pytest.mark.parametrize("slots", [1, 2, 8])
@pytest.mark.parametrize("seconds", [None, 1e-6, 1e-3, 0.1])
def test_ten_jobs_are_not_behind_anothers_million(slots, seconds):
    d = dispatcher("many", "few", w=slots)
    holding = {}
    take(holding, d.on_submitted("many", jobs(*range(20_000), f=known(1e-5))))
    ahead = len(holding["w"])
    f = Function(1) if seconds is None else known(seconds)
    take(holding, d.on_submitted("few", jobs(*range(10), f=f)))
    assert delivered_before(d, holding, "few", range(10)) <= ahead + 11 * 3 * TURN_JOBS


def test_sessions_with_equal_jobs_get_equal_shares():
    d = dispatcher("a", "b", "c", w=1)
    holding, shares = {}, {"a": 0, "b": 0, "c": 0}
    for key in shares:
        take(holding, d.on_submitted(key, jobs(*range(100), f=known(1.0))))
    for _ in range(150):
        for key, done in delivered(answer(d, holding, "w", seconds=1.0)):
            shares[key] += len(done)
    assert set(shares.values()) <= {49, 50, 51}


def test_sessions_of_another_python_do_not_change_whose_turn_it_is():
    d = dispatcher("a", "b")
    d.on_session_opened("other", OTHER_PY)
    d.on_worker_joined("w", WorkerCapacity(1), PY)
    d.on_worker_joined("x", WorkerCapacity(1), OTHER_PY)
    holding, shares = {}, {"a": 0, "b": 0, "other": 0}
    for key in shares:
        take(holding, d.on_submitted(key, jobs(*range(100))))
    for _ in range(40):
        for worker in ("x", "w"):
            for key, done in delivered(answer(d, holding, worker, seconds=1.0)):
                shares[key] += len(done)
    assert shares["other"] == 40 and abs(shares["a"] - shares["b"]) <= 2


def test_a_worker_of_another_python_is_not_given_the_job():
    d = dispatcher("s")
    d.on_worker_joined("x", WorkerCapacity(4), OTHER_PY)
    assert d.on_submitted("s", jobs(1)) == []
    assert not d.wants_tick()
    assert (d.state.slots(), d.state.slots(PY), d.state.slots(OTHER_PY)) == (4, 0, 4)
    assert assigned(d.on_worker_joined("w", WorkerCapacity(1), PY)) == [("w", [1])]


def test_a_session_of_which_all_is_cancelled_does_not_hide_the_next():
    d = dispatcher("a", "b", w=2)
    d.on_submitted("a", jobs(1, 2))
    d.on_worker_departed("w")
    d.on_submitted("b", jobs(1))
    d.on_cancelled("a", [1, 2])
    d.check_invariants()
    assert [a.jobs[0].session.key for a in d.on_worker_joined("w", WorkerCapacity(1), PY)] == ["b"]


def test_a_cancelled_job_before_anothers_does_not_hide_it():
    d = dispatcher("a", "b", w=1)
    d.on_submitted("a", jobs(1, 2, 3, 4))
    d.on_submitted("b", jobs(1))
    d.on_cancelled("a", [3])
    d.on_cancelled("a", [2])
    assert [a.jobs[0].session.key for a in result(d, "w", 1) if type(a) is Assign] in (["a"], ["b"])
    d.check_invariants()


# --- blocked, cancelled, closed ---------------------------------------------------------------


def test_a_client_that_does_not_take_its_results_is_not_served_meanwhile():
    d = dispatcher("s", w=1)
    d.on_submitted("s", jobs(1, 2, 3))
    assert d.on_blocked("s", True) == []
    assert assigned(result(d, "w", 1)) == []
    assert d.on_submitted("s", jobs(4)) == []
    assert assigned(d.on_blocked("s", False)) == [("w", [2])]


def test_what_comes_back_of_a_blocked_session_waits_and_others_go_on():
    d = dispatcher("s", "t", v=1, w=1)
    d.on_submitted("s", jobs(1, 2))
    d.on_blocked("s", True)
    assert uncharged(d.on_worker_lost("v", LOST)) == []
    assert d.on_returned("w", [2]) == []
    d.check_invariants()
    assert assigned(d.on_submitted("t", jobs(5))) == [("w", [5])]
    result(d, "w", 3)
    assert assigned(d.on_blocked("s", False)) == [("w", [1])]


def test_a_cancelled_job_is_neither_dispatched_nor_delivered():
    d = dispatcher("s", w=1)
    d.on_submitted("s", jobs(1, 2))
    assert d.on_cancelled("s", [2, 77]) == []
    assert d.on_cancelled("s", [1]) == [SendToWorker("w", m.Stop([1]))]
    assert d.on_cancelled("s", [1]) == []
    assert len(d.state.open_jobs("s")) == 0
    assert d.state.held("w") == 1  # it still takes the slot
    assert d.on_started("w", [1]) == []
    assert result(d, "w", 1) == []


def test_a_slot_is_free_when_the_worker_says_that_the_cancelled_job_is_gone():
    d = dispatcher("s", w=1)
    d.on_submitted("s", jobs(1, 2))
    d.on_cancelled("s", [1])
    assert assigned(d.on_returned("w", [1])) == [("w", [2])]


def test_what_dies_with_its_runner_after_its_cancellation_is_not_charged():
    d = dispatcher("s", w=1)
    d.on_submitted("s", jobs(1, 2))
    d.on_cancelled("s", [1])
    assert assigned(d.on_runner_died("w", 1, NOTE)) == [("w", [2])]
    assert d.state.open_jobs("s")[2].crashes == 0


def test_a_closed_session_is_stopped_everywhere_and_forgotten():
    d = dispatcher("s", "t", v=1, w=1)
    d.on_submitted("s", jobs(1, 2, 3))
    d.on_submitted("t", jobs(9))
    assert d.on_session_closed("s") == [SendToWorker("v", m.Stop([1])), SendToWorker("w", m.Stop([2]))]
    d.check_invariants()
    assert assigned(d.on_returned("v", [1])) == [("v", [9])]
    assert result(d, "w", 2) == []
    assert d.on_worker_lost("w", LOST) == []


def test_cancelled_jobs_that_never_went_anywhere_are_not_kept():
    d = dispatcher("s")
    for number in range(5000):
        d.on_submitted("s", jobs(number))
        d.on_cancelled("s", [number])
        d.check_invariants()
    (queue,) = d.state.sessions["s"].queues.values()
    assert len(queue.backlog) < 10
    assert d.state.pool(PY).rotation == deque() or queue.backlog


# --- counting ---------------------------------------------------------------------------------


def test_a_job_that_takes_its_runner_down_is_tried_three_times_on_different_slots():
    d = dispatcher("s", v=1, w=1)
    notes = [{**NOTE, "pid": pid} for pid in range(3)]
    d.on_submitted("s", jobs(7))
    assert assigned(d.on_runner_died("v", 1, notes[0])) == [("w", [7])]
    assert assigned(d.on_runner_died("w", 2, notes[1])) == [("v", [7])]
    assert d.state.open_jobs("s")[7].crashes == 2
    (given_up,) = uncharged(d.on_runner_died("v", 3, notes[2]))
    assert given_up == GiveUp("s", 7, given_up.reason, tuple(notes))
    assert len(d.state.open_jobs("s")) == 0
    d.check_invariants()


def test_attempts_1_is_never_sent_again_once_it_may_have_started():
    for end in ("died", "lost", "left"):
        d = dispatcher("s", v=1, w=1)
        d.on_submitted("s", jobs(1, attempts=1))
        if end == "died":
            actions = d.on_runner_died("v", 1, NOTE)
        elif end == "lost":
            actions = d.on_worker_lost("v", LOST)
        else:
            actions = d.on_worker_departed("v")
        assert [(type(a), a.number) for a in uncharged(actions)] == [(GiveUp, 1)], end
    d = dispatcher("s", v=1, w=1)
    d.on_submitted("s", jobs(1, attempts=1))
    assert assigned(d.on_returned("v", [1])) == [("v", [1])] or d.state.held("w")  # it never started


def test_a_worker_that_leaves_costs_nothing_and_one_that_is_lost_a_loss():
    d = dispatcher("s", v=1)
    d.on_submitted("s", jobs(1))
    d.on_worker_departed("v")
    job = d.state.open_jobs("s")[1]
    assert (job.crashes, job.worker_losses, job.notes) == (0, 0, ())
    for n in range(1, WORKER_LOSSES):
        d.on_worker_joined(n, WorkerCapacity(1), PY)
        assert uncharged(d.on_worker_lost(n, LOST)) == []
        assert (job.crashes, job.worker_losses) == (0, n)
    d.on_worker_joined("last", WorkerCapacity(1), PY)
    (given_up,) = d.on_worker_lost("last", LOST)
    assert (given_up.number, given_up.notes) == (1, (LOST,) * WORKER_LOSSES)


def test_a_worker_that_drains_and_is_lost_costs_nothing():
    d = dispatcher("s", v=1)
    d.on_submitted("s", jobs(1))
    d.on_worker_draining("v")
    assert uncharged(d.on_worker_lost("v", LOST)) == []
    assert (d.state.open_jobs("s")[1].worker_losses, d.state.open_jobs("s")[1].notes) == (0, ())


def test_a_loss_is_taken_back_when_it_was_no_jobs_fault():
    d = dispatcher("s", v=1, w=1)
    d.on_submitted("s", jobs(1, 2))
    d.on_worker_lost("v", {**LOST, "worker_ident": "v"})
    d.on_worker_lost("w", {**LOST, "worker_ident": "w"})
    (told,) = d.on_forgiven("v")
    assert (
        told == SendToClient("s", attempt_counts(d.state.open_jobs("s")[1]))
        and d.state.open_jobs("s")[1].worker_losses == 0
    )
    assert d.state.open_jobs("s")[2].worker_losses == 1 and d.on_forgiven("v") == []


# --- time that workers have left --------------------------------------------------------------


def test_a_job_starts_where_there_is_time_enough_for_it():
    d = dispatcher("s")
    d.on_worker_joined("short", WorkerCapacity(1), PY, left=50)
    assert assigned(d.on_submitted("s", jobs(1, min_time=60))) == []
    d.check_invariants()
    assert assigned(d.on_worker_joined("long", WorkerCapacity(1), PY, left=60)) == [("long", [1])]


def test_it_is_known_that_nobody_has_the_time():
    d = dispatcher("s", w=1)
    d.on_submitted("s", jobs(1, 2, min_time=60))
    assert Survey(d.state).why("s").cause is Cause.OWN_JOBS
    d.on_time_left("w", 59)
    assert Survey(d.state).why("s").cause is Cause.TIME_LEFT
    d.on_worker_joined("fresh", WorkerCapacity(1), PY)
    assert Survey(d.state).why("s") is None


def test_time_runs_out():
    d = dispatcher("s", w=1)
    d.on_time_left("w", 60)
    assert assigned(d.on_submitted("s", jobs(1, 2, min_time=60))) == [("w", [1])]
    d.on_time_left("w", 59)
    assert assigned(result(d, "w", 1)) == []
    assert assigned(d.on_worker_joined("fresh", WorkerCapacity(1), PY)) == [("fresh", [2])]


def test_what_has_the_time_goes_past_what_has_not():
    d = dispatcher("s")
    d.on_worker_joined("w", WorkerCapacity(1), PY, left=50)
    d.on_submitted("s", jobs(1, 2, 3, min_time=60))
    assert assigned(d.on_submitted("s", jobs(4))) == [("w", [4])]
    assert assigned(d.on_worker_joined("fresh", WorkerCapacity(4), PY)) == [("fresh", [1, 2, 3])]


def test_what_needs_time_is_not_sent_ahead():
    d = dispatcher("s", w=1)
    assert assigned(d.on_submitted("s", jobs(1, 2, f=known(1e-4), min_time=60))) == [("w", [1])]
    assert assigned(result(d, "w", 1, seconds=1e-4)) == [("w", [2])]


def test_a_long_row_of_jobs_without_time_is_not_looked_through_each_time():
    d = dispatcher("s")
    d.on_worker_joined("w", WorkerCapacity(1), PY, left=50)
    d.on_submitted("s", jobs(*range(1, LOOK_PAST + 1), min_time=60))
    assert assigned(d.on_submitted("s", jobs(1000))) == []  # it is too far behind
    assert (
        sum(len(n) for _, n in assigned(d.on_worker_joined("fresh", WorkerCapacity(200), PY)))
        == LOOK_PAST + 1
    )


def test_a_runners_death_is_charged_to_the_job_that_it_ran_and_to_no_other():
    d = dispatcher("s", w=1)
    d.on_submitted("s", jobs(1, 2, 3, f=known(1e-3)))
    assert d.state.held("w") == 3
    d.on_runner_died("w", 1, NOTE)
    assert [d.state.open_jobs("s")[n].crashes for n in (1, 2, 3)] == [1, 0, 0]


def test_being_sent_ahead_and_recalled_costs_nothing():
    d = dispatcher("s", w=1)
    d.on_submitted("s", jobs(*range(1, 50), f=known(1e-3)))
    d.on_recalled("w", [10, 11, 12])
    assert all(
        (d.state.open_jobs("s")[n].crashes, d.state.open_jobs("s")[n].worker_losses) == (0, 0)
        for n in range(1, 50)
    )


def test_a_death_that_nobody_reported_right_is_still_counted():
    for slot in ("three", None, -7, 10**9, 1.5):
        d = dispatcher("s", v=2, w=1)
        d.on_submitted("s", jobs(1))
        d.on_runner_died("v", 1, {"slot": slot})
        job = d.state.open_jobs("s")[1]
        assert job.crashes == 1 and job.excluded_slot is None


# --- avoiding the slot where it died ----------------------------------------------------------


def test_a_job_waits_for_another_worker_than_the_one_where_it_died_but_not_for_ever():
    d = dispatcher("s", v=1, w=1)
    d.on_submitted("s", jobs(1, 2))  # 1 to v, 2 to w: that one never ends
    assert uncharged(d.on_runner_died("v", 1, NOTE)) == []
    d.check_invariants()
    assert d.wants_tick()
    for _ in range(EXCLUDED_TICKS - 1):
        assert d.on_tick() == []
    assert assigned(d.on_tick()) == [("v", [1])]


def test_what_waits_behind_a_job_that_avoids_the_worker_does_not_wait():
    d = dispatcher("s", v=1, w=1, x=1)
    d.on_submitted("s", jobs(1, 2, 3))
    d.on_runner_died("v", 1, NOTE)
    assert assigned(d.on_submitted("s", jobs(4))) == [("v", [4])]
    # Nor what was put back behind it.
    d.on_worker_lost("x", LOST)
    assert assigned(result(d, "v", 4)) == [("v", [3])]
    assert assigned(result(d, "w", 2)) == [("w", [1])]


def test_a_job_goes_back_to_the_slot_where_it_died_if_there_is_no_other():
    d = dispatcher("s", v=1)
    d.on_submitted("s", jobs(1))
    assert assigned(d.on_runner_died("v", 1, NOTE)) == [("v", [1])]
    d = dispatcher("s", v=1, w=1)
    d.on_submitted("s", jobs(1, 2))
    d.on_runner_died("v", 1, NOTE)
    assert assigned(d.on_worker_departed("w")) == [("v", [1])]


def test_a_worker_with_more_slots_finds_another_one_itself():
    d = dispatcher("s", v=2)
    d.on_submitted("s", jobs(1))
    (action,) = uncharged(d.on_runner_died("v", 1, {"slot": 1}))
    assert action.worker == "v" and action.jobs[0].excluded_slot == 1


def test_a_job_that_comes_back_from_where_it_should_go_instead_takes_what_it_gets():
    d = dispatcher("s", v=1, w=1)
    f = known(1e-4)
    d.on_submitted("s", jobs(1, 2, f=f))
    assert assigned(d.on_runner_died("v", 1, NOTE)) == [("w", [1])]  # ahead, behind 2
    d.on_tick()
    assert assigned(d.on_recalled("w", [3])) == [("v", [1])]


# --- recall -----------------------------------------------------------------------------------


def ticks(d, n):
    found = []
    for _ in range(n):
        if d.wants_tick():
            found += d.on_tick()
            d.check_invariants()
    return found


def test_work_that_waits_behind_a_long_job_is_recalled_for_an_idle_worker():
    d = dispatcher("s", w=1)
    d.on_submitted("s", jobs(*range(1, 8), f=known(1e-3)))
    assert not d.wants_tick()
    d.on_worker_joined("x", WorkerCapacity(1), PY)
    assert ticks(d, 2) == [SendToWorker("w", m.Recall(6))]
    assert ticks(d, 100) == []  # until it is answered
    assert d.state.held("x") == 0  # and nothing of it goes elsewhere
    assert assigned(d.on_recalled("w", [7, 6, 5])) == [("x", [5, 6, 7])]
    assert not d.wants_tick()


@pytest.mark.parametrize("seconds", [1e-3, 1e-6])
def test_nothing_goes_ahead_to_a_stuck_worker_until_it_answers(seconds):
    d = dispatcher("s", w=1)
    f = known(seconds)
    d.on_submitted("s", jobs(*range(1, 8), f=f))
    d.on_worker_joined("x", WorkerCapacity(1), PY)
    assert ticks(d, 2) == [SendToWorker("w", m.Recall(6))]
    assert assigned(d.on_recalled("w", [7, 6, 5, 4, 3])) == [("x", [3, 4, 5, 6, 7])]
    d.on_submitted("s", jobs(*range(10, 5000), f=f))
    assert (
        d.state.held("w") == 2 and d.state.held("x") > 5
    )  # 1, which runs, and 2, which it could not give back
    d.on_runner_died("w", 1, NOTE)
    assert d.state.held("w") == 1
    d.check_invariants()
    assert assigned(result(d, "w", 2, seconds=seconds)) != []
    assert d.state.held("w") > 1


def test_what_was_sent_since_the_last_tick_is_not_recalled():
    d = dispatcher("s", w=1)
    d.on_worker_joined("x", WorkerCapacity(1), PY)
    d.on_submitted("s", jobs(*range(1, 8), f=known(1e-5)))
    assert d.state.held("w") == 7
    assert ticks(d, 1) == []
    result(d, "w", *range(1, 8), seconds=1e-5)
    d.on_submitted("s", jobs(*range(8, 16), f=known(1e-5)))
    assert d.state.held("w") == 8
    assert ticks(d, 1) == []
    assert ticks(d, 1) == [SendToWorker("w", m.Recall(7))]


def test_a_worker_that_keeps_up_is_left_alone():
    d = dispatcher("s", w=1)
    d.on_submitted("s", jobs(*range(1, 101), f=known(1e-4)))
    d.on_worker_joined("x", WorkerCapacity(1), PY)
    result(d, "w", *range(1, 35), seconds=1e-4)
    assert ticks(d, 1) == []


def test_one_result_now_and_then_does_not_hide_how_much_waits():
    # 32 slots that turned out to take a second a job: there is a result in each tick or two, and hours of work.
    d = dispatcher("s", w=32)
    d.on_submitted("s", jobs(*range(1, 641), f=known(1e-3)))
    d.on_worker_joined("x", WorkerCapacity(32), PY)
    held = d.state.held("w")
    assert held > 600
    recalls = []
    for number in range(1, 6):
        result(d, "w", number)
        recalls += ticks(d, 1)
    assert recalls == [SendToWorker("w", m.Recall((held - 2 - 32 + 1) // 2))]


def test_a_worker_that_had_nothing_to_give_back_is_asked_again():
    d = dispatcher("s", w=1)
    d.on_submitted("s", jobs(*range(1, 8), f=known(1e-3)))
    d.on_worker_joined("x", WorkerCapacity(1), PY)
    assert ticks(d, 2) == [SendToWorker("w", m.Recall(6))]
    assert d.on_recalled("w", []) == []
    assert ticks(d, RECALL_BACKOFF_TICKS) == []
    assert ticks(d, 1) == [SendToWorker("w", m.Recall(6))]


def test_nothing_is_recalled_while_nobody_idles_or_for_another_python():
    d = dispatcher("s", w=1)
    d.on_submitted("s", jobs(*range(1, 8), f=known(1e-3)))
    d.on_worker_joined("x", WorkerCapacity(1), OTHER_PY)
    assert not d.wants_tick() and d.on_tick() == []


def test_recalled_jobs_go_before_what_came_after_them():
    d = dispatcher("s", w=1)
    d.on_submitted("s", jobs(1, 2, 3, f=known(1e-3)))
    d.on_worker_joined("x", WorkerCapacity(1), PY)
    assert ticks(d, 2) == [SendToWorker("w", m.Recall(2))]
    assert assigned(d.on_submitted("s", jobs(4, 5))) == [("x", [4])]
    assert assigned(d.on_recalled("w", [3, 2])) == []
    assert assigned(result(d, "x", 4)) == [("x", [2, 3])]


def test_a_worker_that_cannot_start_runners_gets_no_jobs_that_need_one():
    d = dispatcher("a", "b", w=2)
    assert d.on_worker_capacity("w", 1, ["b"]) == []
    assert not d.state.can_run("b") and d.state.can_run("a")
    assert d.on_submitted("b", jobs(1)) == []
    assert assigned(d.on_submitted("a", jobs(1, 2))) == [("w", [1])]
    d.check_invariants()
    assert assigned(d.on_worker_joined("v", WorkerCapacity(1), PY)) == [("v", [1])]  # b's
    assert assigned(d.on_worker_capacity("w", 2, [])) == [("w", [2])]
    assert d.state.can_run("b")
    d.check_invariants()


def test_what_a_worker_cannot_start_goes_to_others_and_comes_back_when_it_can():
    d = dispatcher("a", w=1)
    ((_, [job]),) = [(a.worker, a.jobs) for a in d.on_submitted("a", jobs(1))]
    assert d.on_worker_capacity("w", 0, ["a"]) == []
    assert d.on_returned("w", [job.dispatch]) == []
    d.check_invariants()
    assert d.on_tick() == []
    assert d.on_worker_away("w") == []
    assert assigned(d.on_worker_back("w", [])) == [("w", [1])]  # all of it, until it says otherwise again
    d.check_invariants()


# --- random events ----------------------------------------------------------------------------


class ModelWorker:
    """What a worker would do: it gets messages in two lanes, and answers as told."""

    def __init__(self, key, slots, python, left=math.inf):
        self.key, self.slots, self.python = key, slots, python
        self.data = deque()  # Assigns that have not arrived
        self.control = deque()  # Recalls and Stops; they may overtake, and then take back what they name
        self.backlog = deque()
        self.running = {}
        self.latest = 0  # dispatch number
        self.recall_backoff = 0  # so many recalls find nothing yet
        self.hangs = False  # its running jobs never end
        self.left = left  # seconds
        self.is_draining = False

    def held(self):
        return {*self.backlog, *self.running, *(d for batch in self.data for d in batch)}

    def start(self):
        while self.backlog and len(self.running) < self.slots:
            dispatch = self.backlog.popleft()
            self.running[dispatch] = None


# --- priorities -------------------------------------------------------------------------------


def test_jobs_of_a_larger_priority_go_first_and_those_of_a_negative_one_last():
    d = dispatcher("s")
    d.on_submitted("s", jobs(1, 2))
    for number, priority in ((3, -1), (4, 5), (5, 9), (6, 5)):
        assert d.on_submitted_apart("s", jobs(number, priority=priority)) == []
    order = [job for _ in range(6) for _, [job] in assigned(one_more(d))]
    assert order == [5, 4, 6, 1, 2, 3]


def one_more(d):
    """Let a worker join that takes one job and never ends."""
    actions = d.on_worker_joined(f"w{d.state.workers.__len__()}", WorkerCapacity(1), PY)
    d.check_invariants()
    return actions


def test_a_job_that_comes_back_goes_before_others_of_its_priority_only():
    d = dispatcher("s", w=1)
    assert assigned(d.on_submitted_apart("s", jobs(1, priority=5))) == [("w", [1])]
    d.on_submitted_apart("s", jobs(2, priority=5))
    d.on_submitted_apart("s", jobs(3, priority=6))
    assert assigned(d.on_runner_died("w", 1, NOTE)) == [("w", [3])]
    assert assigned(result(d, "w", 2)) == [("w", [1])]
    assert assigned(result(d, "w", 3)) == [("w", [2])]


def test_priorities_count_within_a_session_only():
    d = dispatcher("s", "t")
    d.on_submitted("s", jobs(1, 2))
    d.on_submitted_apart("t", jobs(1, 2, priority=5))
    assert [job for _ in range(4) for _, [job] in assigned(one_more(d))] == [1, 1, 2, 2]
    assert all(len(d.state.open_jobs(key)) == 2 for key in "st")


def test_cancelled_jobs_with_a_priority_leave_no_payloads():
    d = dispatcher("s")
    d.on_submitted_apart("s", jobs(*range(1, 101), priority=5))
    d.on_cancelled("s", range(1, 90))
    (queue,) = d.state.sessions["s"].queues.values()
    assert len(queue) < 40
    assert assigned(one_more(d)) == [("w0", [90])]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_no_job_starts_before_one_of_a_larger_priority_that_waits(seed):
    random, numbers = Random(seed), count(1)
    d = dispatcher("s", v=1, w=2)
    waiting, held = {}, {}  # priority by number; worker and number by dispatch
    for _ in range(300):
        event = random.choice(["submit", "submit", "result", "result", "result", "die", "cancel"])
        actions = []
        if event == "submit":
            priority = random.choice([0, 0, 3, 3, -2, random.randint(-99, 99)])
            new = [next(numbers) for _ in range(random.randint(1, 4))]
            waiting |= dict.fromkeys(new, priority)
            submit = d.on_submitted_apart if priority else d.on_submitted
            actions = submit("s", jobs(*new, attempts=100, priority=priority) if priority else jobs(*new))
        elif event == "cancel" and waiting:
            number = random.choice(list(waiting))
            del waiting[number]
            actions = d.on_cancelled("s", [number])
        elif held:
            dispatch = random.choice(list(held))
            worker, number, priority = held.pop(dispatch)
            if event == "result":
                actions = d.on_results(worker, [dispatch], [0], [1.0], [b""])
            elif priority:
                waiting[number] = priority
                actions = d.on_runner_died(worker, dispatch, {"how": "killed"})
            else:
                held[dispatch] = worker, number, priority
        for job in sorted(
            (j for a in actions if type(a) is Assign for j in a.jobs), key=lambda j: j.dispatch
        ):
            priority = waiting.pop(job.number)
            assert all(priority >= other or is_excluded(d, n, job) for n, other in waiting.items())
            held[job.dispatch] = job.worker.key, job.number, priority
        d.check_invariants()


def is_excluded(d, number, job):
    """True if this job must not run where the other one was sent: its runner died there."""
    return d.state.open_jobs("s")[number].excluded_worker is job.worker


# --- jobs that raise and are tried again --------------------------------------------------------


def raised(d, worker, dispatch):
    d.on_results(worker, [dispatch], [m.ERROR], [1.0], [b"error"])
    d.check_invariants()


def test_a_worker_that_died_with_the_master_is_charged_for_what_may_have_started():
    d = dispatcher("s")
    d.on_session_resumed("s")
    submitted = [*jobs(1), *jobs(2, attempts=1), *jobs(3), *jobs(4, attempts=1)]
    submitted[2].worker_losses = WORKER_LOSSES - 1
    d.on_resubmitted("s", submitted, False)
    note = {"host": "h", "how": "it died"}
    told, given_up, also = d.on_lost_before("s", {1, 2, 3, 5}.intersection, note)
    assert told == SendToClient("s", m.AttemptCounts(1, 0, 1, [note]))
    assert [type(action) for action in (given_up, also)] == [GiveUp, GiveUp]
    assert (given_up.number, given_up.notes, also.number) == (2, (note,), 3)
    d.check_invariants()
    assert d.on_settled("s", is_complete=True) == []
    d.check_invariants()
    assert assigned(d.on_worker_joined("w", WorkerCapacity(2), PY)) == [("w", [1, 4])]


def again(number, tries=1):
    (job,) = jobs(number, retries=3)
    job.tries = tries
    return [job]


def test_a_job_that_is_tried_again_goes_elsewhere_and_before_new_ones():
    d = dispatcher("s", v=2, w=1)
    assert assigned(d.on_submitted("s", jobs(1, 2, 3, 4, 5, retries=3))) == [("v", [1, 2]), ("w", [3])]
    raised(d, "v", 1)  # job 4 takes its slot
    assert assigned(d.on_submitted_apart("s", again(1))) == []
    assert assigned(result(d, "v", 2)) == [("v", [5])]  # it was raised there
    assert assigned(result(d, "w", 3)) == [("w", [1])]
    assert d.state.open_jobs("s")[1].attempt() == 2


def test_a_job_is_tried_again_at_once_where_it_raised_if_there_is_no_other_worker():
    d = dispatcher("s", v=2)
    d.on_submitted("s", jobs(1, retries=3))
    raised(d, "v", 1)
    assert assigned(d.on_submitted_apart("s", again(1))) == [("v", [1])]


def test_a_job_is_tried_again_where_it_raised_if_all_others_stay_busy():
    d = dispatcher("s", v=1, w=1)
    d.on_submitted("s", jobs(1, 2, retries=3))
    raised(d, "v", 1)
    assert assigned(d.on_submitted_apart("s", again(1))) == []
    for _ in range(EXCLUDED_TICKS - 1):
        assert assigned(d.on_tick()) == []
    assert assigned(d.on_tick()) == [("v", [1])]


def test_the_error_of_a_try_that_its_client_has_answered_is_not_kept_for_it():
    d = dispatcher("s", v=1)
    d.on_submitted("s", jobs(1, retries=3))
    raised(d, "v", 1)
    d.on_submitted_apart("s", again(1))
    raised(d, "v", 2)
    d.on_submitted_apart("s", again(1, tries=2))
    actions = d.on_session_absent("s")
    d.check_invariants()
    assert SendToWorker("v", m.Release([1, 2])) in actions
    raised(d, "v", 3)  # while the client is away: of this try it does not know
    d.on_session_resumed("s")
    assert SendToWorker("v", m.Claim([3])) in d.on_resubmitted("s", again(1, tries=2), True)
    d.check_invariants()


def test_places_where_jobs_raised_are_forgotten_with_the_worker_and_beyond_a_bound(monkeypatch):
    monkeypatch.setattr("cw.master.policy.tries.PLACES", 2)
    d = dispatcher("s", v=5, w=1)
    d.on_submitted("s", jobs(1, 2, 3, 4, retries=3))
    for dispatch in 1, 2, 3:
        raised(d, "v", dispatch)
    places = d.state.sessions["s"].raised
    assert list(places) == [2, 3]
    d.on_worker_departed("v")
    assert not d.state.sessions["s"].raised
    assert assigned(d.on_submitted_apart("s", again(2))) == []  # w has job 4 by now
    assert assigned(result(d, "w", 5)) == [("w", [2])]


class Events:
    """Sessions, workers and faults at random. The model knows of each dispatch where it is and whether it started."""

    def __init__(self, random):
        self.d = Dispatcher()
        self.model = {}  # by worker
        self.keys = count(1)
        self.numbers = count(1)
        self.python_of = {}  # by session that is open
        self.blocked = set()
        self.state = {}  # (session, number): 'open', 'delivered', 'given up' or 'cancelled'
        self.job_by_dispatch = {}  # (session, number)
        self.holder = {}  # by dispatch: the worker, until it answered
        self.place = {}  # by open job: its dispatch, while one is held
        self.limit = {}
        self.charges = {}  # [crashes, worker losses]
        self.min_time = {}  # of jobs that have one
        self.lost_with = {}  # by worker that was lost: the jobs charged for it
        self.started = set()  # jobs
        self.disturbed = set()  # sessions of which something came back
        self.last_number = {}  # dispatched, by session and Python
        self.functions = {}
        self.usable = {}  # by worker that has said so: slots, the sessions for which there is none
        self.join(random.choice([1, 1, 2, 5]), PY)
        self.open(PY)

    def python_for(self, job):
        """The Python version that the job asks for."""
        return self.python_of[job.session.key]

    # --- what the dispatcher decides ---

    def perform(self, actions):
        self.failed = True  # until it is seen not to be so
        for job in sorted(
            (job for a in actions if type(a) is Assign for job in a.jobs), key=lambda job: job.dispatch
        ):
            session = job.session.key
            if session not in self.disturbed:
                queue = session, self.python_for(job)
                assert job.number > self.last_number.get(queue, 0), "first come first served"
                self.last_number[queue] = job.number
        for action in actions:
            handle = getattr(self, "_" + kind(action).__name__)
            if type(action) in (SendToClient, SendToWorker):
                handle(*action)
            else:
                handle(action)
        self.d.check_invariants()
        self.check_reasons()
        self.failed = False

    def check_reasons(self):
        """There is a reason why a job waits exactly where one does, and it is true."""
        state = self.d.state
        survey = Survey(state)
        for key, session in state.sessions.items():
            held = {job.number for worker in state.workers.values() for job in worker.held.values()
                    if job.session is session and not job.cancelled}  # fmt: skip
            reason = survey.why(key)
            assert (reason is not None) == (session.jobs.keys() != held)
            if reason is None or session.is_absent or session.is_blocked or reason.cause is Cause.SETTLING:
                continue
            pools = [queue.pool for queue in session.queues.values() if queue.head() is not None]
            assert (reason.cause is Cause.NO_WORKER) == (not state.workers)
            if reason.cause is Cause.OTHER_PYTHON:
                assert not all(pool.workers for pool in pools)
            if reason.cause is Cause.DRAINING:
                assert any(
                    all(w.is_draining for w in state.workers.values() if w.pool is pool) for pool in pools
                )
            if reason.cause is Cause.OWN_JOBS:
                assert any(job.session is session for w in state.workers.values() for job in w.held.values())

    def _Assign(self, action):
        worker = self.model[action.worker]
        assert action.jobs
        slots, blocked_sessions = self.usable.get(action.worker, (1, ()))
        assert slots
        for job in action.jobs:
            session = job.session.key
            assert session not in blocked_sessions
            name = session, job.number
            assert self.state[name] == "open" and session not in self.blocked
            assert self.python_for(job) == worker.python
            assert name not in self.place, "it is held already"
            assert not (self.limit[name] == 1 and name in self.started), "attempts=1"
            assert self.min_time.get(name, 0) <= worker.left and not worker.is_draining
            assert job.dispatch not in self.job_by_dispatch
            assert job.dispatch > worker.latest, "a worker gets them in order"
            worker.latest = job.dispatch
            self.job_by_dispatch[job.dispatch] = name
            self.holder[job.dispatch] = worker
            self.place[name] = job.dispatch
        worker.data.append([job.dispatch for job in action.jobs])

    def _Recall(self, key, message):
        worker = self.model[key]
        assert message.count > 0 and not any(kind == "recall" for kind, _ in worker.control)
        worker.control.append(("recall", message.count))

    def _Stop(self, key, message):
        worker = self.model[key]
        for dispatch in message.dispatches:
            assert self.holder[dispatch] is worker
            assert self.state[self.job_by_dispatch[dispatch]] == "cancelled"
        worker.control.append(("stop", message.dispatches))

    def _TakeBack(self, key, message):
        assert all(self.holder[dispatch].key == key for dispatch in message.dispatches)
        self.model[key].control.append(("take back", message.dispatches))

    def _SetAside(self, action):
        assert action.worker in self.model and action.session in self.python_of

    def _WatchSetbacks(self, action):
        assert self.d.state.has_setbacks(action.session)

    def _ReportAside(self, action):
        assert {worker for worker, _ in action.workers} <= self.model.keys()

    def _Deliver(self, action):
        for number in action.numbers:
            assert self.state[action.session, number] == "open"
            self.state[action.session, number] = "delivered"

    def _GiveUp(self, action):
        name = action.session, action.number
        assert self.state[name] == "open"
        crashes, worker_losses = self.charges[name]
        assert len(action.notes) == crashes + worker_losses
        assert (
            crashes >= self.limit[name]
            or worker_losses >= WORKER_LOSSES
            or (self.limit[name] == 1 and name not in self.place)
        )
        self.state[name] = "given up"

    def _AttemptCounts(self, session, message):
        assert [message.crashes, message.worker_losses] == self.charges[session, message.number]

    def _Release(self, key, message):
        for dispatch in message.dispatches:
            assert self.holder.get(dispatch) is not self.model[key]

    def _JobsStarted(self, session, message):
        assert all(self.state[session, number] == "open" for number in message.numbers)

    # --- what workers report ---

    def release(self, dispatch):
        """The worker does not hold it any more. Returns its job."""
        del self.holder[dispatch]
        name = self.job_by_dispatch[dispatch]
        if self.place.get(name) == dispatch:
            del self.place[name]
        return name

    def report_results(self, worker, dispatches, seconds):
        for dispatch in dispatches:
            if dispatch in self.holder:
                self.release(dispatch)
        n = len(dispatches)
        self.perform(self.d.on_results(worker.key, dispatches, [0] * n, [seconds] * n, [b""] * n))

    def give_back(self, worker, dispatches):
        for dispatch in dispatches:
            self.disturbed.add(self.release(dispatch)[0])

    def receive_control(self, worker):
        kind, value = worker.control.popleft()
        if kind == "recall":
            found = []
            if worker.recall_backoff:
                worker.recall_backoff -= 1
            else:
                found = [worker.backlog.pop() for _ in range(min(value, len(worker.backlog)))]
            self.give_back(worker, found)
            self.perform(self.d.on_recalled(worker.key, found))
            return
        if kind == "take back":
            gone = [dispatch for dispatch in value if dispatch in worker.backlog]
            for dispatch in gone:
                worker.backlog.remove(dispatch)
            gone += self.withdraw(worker, value)
            self.give_back(worker, gone)
            if gone:
                self.perform(self.d.on_returned(worker.key, gone))
            return
        gone = []
        for dispatch in value:
            if dispatch in worker.backlog:
                worker.backlog.remove(dispatch)
                gone.append(dispatch)
            elif dispatch in worker.running:
                del worker.running[dispatch]
                gone.append(dispatch)
        gone += self.withdraw(worker, value)
        self.give_back(worker, gone)
        worker.start()
        if gone:
            self.perform(self.d.on_returned(worker.key, gone))

    def receive_data(self, worker):
        worker.backlog.extend(worker.data.popleft())
        worker.start()
        self.started.update(self.job_by_dispatch[dispatch] for dispatch in worker.running)

    def withdraw(self, worker, dispatches):
        """Those of these that are still on their way: they never come."""
        gone = [dispatch for batch in worker.data for dispatch in batch if dispatch in dispatches]
        worker.data = deque([d for d in batch if d not in gone] for batch in worker.data)
        return gone

    def finish(self, worker, dispatches, seconds):
        for dispatch in dispatches:
            del worker.running[dispatch]
        worker.start()
        self.started.update(self.job_by_dispatch[dispatch] for dispatch in worker.running)
        self.report_results(worker, dispatches, seconds)

    def join(self, slots, python, left=math.inf):
        key = f"w{next(self.keys)}"
        self.model[key] = ModelWorker(key, slots, python, left)
        self.perform(self.d.on_worker_joined(key, WorkerCapacity(slots), python, left=left))

    def open(self, python):
        key = f"s{next(self.keys)}"
        self.python_of[key] = python
        self.functions[key] = [Function(n) for n in range(3)]
        self.d.on_session_opened(key, python)

    def tell_usable(self, key, slots, blocked_sessions):
        self.usable[key] = slots, blocked_sessions
        self.perform(self.d.on_worker_capacity(key, slots, blocked_sessions))

    def remove(self, key, charge):
        for dispatch in self.model.pop(key).held():
            name = self.release(dispatch)
            self.disturbed.add(name[0])
            if self.state[name] == "open" and charge:
                self.charges[name][1] += 1
                self.lost_with.setdefault(key, []).append(name)

    # --- events: each a method, in its turn as often as it stands in EVENTS ---

    def worker_can_use_some_slots(self, random):
        if key := some(random, self.model):
            blocked_sessions = {session for session in self.python_of if random.random() < 0.3}
            self.tell_usable(key, random.randint(0, self.model[key].slots), blocked_sessions)

    def worker_can_use_all_slots(self, random):
        if key := some(random, self.model):
            self.tell_usable(key, self.model[key].slots, set())

    def worker_joins(self, random):
        if len(self.model) < 5:
            left = random.choice([math.inf, math.inf, 20, 5])
            self.join(random.choice([1, 1, 2, 5]), random.choice([PY, PY, OTHER_PY]), left)

    def worker_is_lost(self, random):
        if key := some(random, self.model):
            self.remove(key, not self.model[key].is_draining)
            self.perform(self.d.on_worker_lost(key, {**LOST, "worker_ident": key}))

    def loss_is_excused(self, random):
        if key := some(random, self.lost_with):
            for name in self.lost_with.pop(key):
                if self.state[name] == "open":
                    self.charges[name][1] -= 1
            self.perform(self.d.on_forgiven(key))

    def worker_drains(self, random):
        if key := some(random, self.model):
            self.model[key].is_draining = True
            self.perform(self.d.on_worker_draining(key))

    def time_is_running_out(self, random):
        if key := some(random, self.model):
            self.model[key].left /= random.choice([1, 2, 10])
            self.d.on_time_left(key, self.model[key].left)

    def worker_leaves(self, random):
        if key := some(random, self.model):
            self.remove(key, 0)
            self.perform(self.d.on_worker_departed(key))

    def session_opens(self, random):
        if len(self.python_of) < 4:
            self.open(random.choice([PY, PY, OTHER_PY]))

    def session_closes(self, random):
        if session := some(random, self.python_of):
            for name, state in self.state.items():
                if name[0] == session and state == "open":
                    self.state[name] = "cancelled"
            del self.python_of[session]
            self.blocked.discard(session)
            self.perform(self.d.on_session_closed(session))

    def client_blocks(self, random):
        if session := some(random, self.python_of):
            is_blocked = session not in self.blocked and random.random() < 0.3
            (self.blocked.add if is_blocked else self.blocked.discard)(session)
            self.perform(self.d.on_blocked(session, is_blocked))

    def submit(self, random):
        if session := some(random, self.python_of):
            new = []
            attempts = random.choice([None, None, None, 1, 2])
            size = random.choice([0, 10, 10, 10, 10, AHEAD_BYTES])
            function = random.choice(self.functions[session])
            min_time = random.choice([None, None, None, 3, 10])
            priority = random.choice([None, None, None, -1, 7])
            if min_time or priority:
                self.disturbed.add(session)  # what has the time goes before what has not
            for number in [next(self.numbers) for _ in range(random.randint(1, 12))]:
                given = {"attempts": attempts, "min_time": min_time, "priority": priority}
                options = asked(**{name: value for name, value in given.items() if value})
                if min_time:
                    self.min_time[session, number] = min_time
                new.append(Job(number, function, options, memoryview(_PAYLOAD)[:size]))
                self.state[session, number] = "open"
                self.limit[session, number] = attempts or CRASHES
                self.charges[session, number] = [0, 0]
            submit = self.d.on_submitted_apart if priority else self.d.on_submitted
            self.perform(submit(session, new))

    def cancel(self, random):
        session = some(random, self.python_of)
        known = [number for key, number in self.state if key == session]
        if known:
            numbers = random.sample(known, min(len(known), random.randint(1, 8)))
            for number in numbers:
                if self.state[session, number] == "open":
                    self.state[session, number] = "cancelled"
            self.perform(self.d.on_cancelled(session, numbers))

    def message_arrives(self, random):
        if key := some(random, self.model):
            worker = self.model[key]
            if worker.control and (random.random() < 0.5 or not worker.data):
                self.receive_control(worker)
            elif worker.data:
                self.receive_data(worker)

    def jobs_end(self, random):
        if key := some(random, self.model):
            worker = self.model[key]
            if worker.running and not worker.hangs:
                ended = random.sample(sorted(worker.running), random.randint(1, len(worker.running)))
                self.finish(worker, ended, random.choice([1e-5, 1e-4, 1e-3, 1e-3, 5e-3, 1.0]))

    def jobs_are_told_started(self, random):
        if key := some(random, self.model):
            self.perform(self.d.on_started(key, list(self.model[key].running)))

    def late_results_come(self, random):
        if key := some(random, self.model):
            others = [d for d in self.job_by_dispatch if self.holder.get(d) is not self.model[key]]
            late = random.sample(others, min(len(others), random.randint(0, 4)))
            actions = self.d.on_results(key, late, [0] * len(late), [0.1] * len(late), [b""] * len(late))
            assert not delivered(actions)
            self.perform(actions)

    def runner_dies(self, random):
        if (key := some(random, self.model)) and (running := self.model[key].running):
            worker, dispatch = self.model[key], random.choice(sorted(running))
            del running[dispatch]
            name = self.release(dispatch)
            self.disturbed.add(name[0])
            if self.state[name] == "open":
                self.charges[name][0] += 1
            worker.start()
            self.started.update(self.job_by_dispatch[d] for d in running)
            self.perform(self.d.on_runner_died(key, dispatch, {"slot": random.randrange(worker.slots)}))

    def call_is_not_entered(self, random):
        if (key := some(random, self.model)) and (running := self.model[key].running):
            worker, dispatch = self.model[key], random.choice(sorted(running))
            del running[dispatch]
            name = self.release(dispatch)
            self.disturbed.add(name[0])
            self.started.discard(name)
            worker.start()
            self.started.update(self.job_by_dispatch[d] for d in running)
            reason = random.choice(["no such module", "no such library"])
            self.perform(self.d.on_not_entered(key, dispatch, random.random() < 0.3, reason, b""))

    def minutes_pass(self, random):
        for session in self.python_of:
            self.perform(self.d.on_aside_retry(session))

    def clients_are_told(self, random):
        for session in self.python_of:
            self.perform(self.d.on_aside_reported(session))

    def nothing_can_be_given_back_for_a_while(self, random):
        if key := some(random, self.model):
            self.model[key].recall_backoff = random.randint(1, 3)

    def jobs_hang(self, random):
        if key := some(random, self.model):
            self.model[key].hangs = not self.model[key].hangs and random.random() < 0.5

    def job_raises_and_is_tried_again(self, random):
        worker = self.model.get(some(random, self.model))
        if worker is None or worker.hangs or not worker.running:
            return
        dispatch = some(random, worker.running)
        session, number = name = self.job_by_dispatch[dispatch]
        if self.state[name] != "open" or self.place.get(name) != dispatch or session not in self.python_of:
            return
        del worker.running[dispatch]
        worker.start()
        self.started.update(self.job_by_dispatch[dispatch] for dispatch in worker.running)
        self.release(dispatch)
        self.perform(self.d.on_results(worker.key, [dispatch], [m.ERROR], [1e-3], [b""]))
        assert self.state[name] == "delivered"
        self.state[name], self.charges[name], self.limit[name] = "open", [0, 0], CRASHES
        self.min_time.pop(name, None)
        self.started.discard(name)
        self.disturbed.add(session)
        for lost in self.lost_with.values():
            lost[:] = [each for each in lost if each != name]
        job = Job(number, random.choice(self.functions[session]), asked(retries=2), b"")
        job.tries = 1
        self.perform(self.d.on_submitted_apart(session, [job]))

    def time_passes(self, random):
        for _ in range(random.randint(1, 5)):
            if self.d.wants_tick():
                self.perform(self.d.on_tick())

    EVENTS = (
        [message_arrives] * 40 + [jobs_end] * 30 + [time_passes] * 10 + [submit] * 8 + [worker_joins, runner_dies] * 4
        + [worker_can_use_some_slots, worker_can_use_all_slots] + [call_is_not_entered] * 8
        + [minutes_pass, clients_are_told] + [job_raises_and_is_tried_again] * 3
        + [cancel, client_blocks, late_results_come, jobs_are_told_started, session_opens] * 2
        + [worker_is_lost, worker_is_lost, loss_is_excused, worker_drains, time_is_running_out]
        + [worker_leaves, session_closes, nothing_can_be_given_back_for_a_while, jobs_hang]
    )  # fmt: skip

    # --- properties ---

    def check(self):
        for name, state in self.state.items():
            if state == "open":
                job = self.d.state.open_jobs(name[0])[name[1]]
                assert [job.crashes, job.worker_losses] == self.charges[name]
        for key, worker in self.model.items():
            assert self.d.state.held(key) == sum(holder is worker for holder in self.holder.values())

    def check_end(self, random):
        """Workers go on answering: every job comes to its end, but those that hang."""
        for worker in self.model.values():
            worker.hangs = random.random() < 0.5
            worker.recall_backoff = random.randint(0, 3)
            self.tell_usable(worker.key, worker.slots, set())
        for session in list(self.blocked):
            self.blocked.discard(session)
            self.perform(self.d.on_blocked(session, False))
        for python in (PY, OTHER_PY):  # one at least does not hang
            workers = [worker for worker in self.model.values() if worker.python == python]
            if all(worker.hangs or worker.is_draining or worker.left < math.inf for worker in workers):
                self.join(1, python)
        for turn in range(4 * EXCLUDED_TICKS + len(self.state)):
            if turn < 4:
                self.runner_dies(random)
                self.call_is_not_entered(random)
            self.minutes_pass(random)
            for worker in list(self.model.values()):
                while worker.control:
                    self.receive_control(worker)
                while worker.data:
                    self.receive_data(worker)
                if worker.running and not worker.hangs:
                    self.finish(worker, list(worker.running), 1e-3)
            if self.d.wants_tick():
                self.perform(self.d.on_tick())
            elif not any(w.data or w.control or (w.running and not w.hangs) for w in self.model.values()):
                break
        hanging = {self.job_by_dispatch[d] for w in self.model.values() if w.hangs for d in w.running}
        assert {name for name, state in self.state.items() if state == "open"} <= hanging
        assert all(not worker.data and not worker.control for worker in self.model.values())


def some(random, among):
    return random.choice(sorted(among)) if among else None


_PAYLOAD = bytes(AHEAD_BYTES)


class Machine(RuleBasedStateMachine):
    """Events one by one, which shrink well to what matters, and in bursts, which get far."""

    @initialize(seed=st.integers(0, 9))
    def begin(self, seed):
        self.events, self.seed = Events(Random(seed)), seed

    @rule(
        event=st.sampled_from(sorted(set(Events.EVENTS), key=lambda event: event.__name__)),
        seed=st.integers(0, 9),
    )
    def one(self, event, seed):
        event(self.events, Random(seed))

    @rule(seed=st.integers(0, 2**32), length=st.integers(1, 60))
    def many(self, seed, length):
        random = Random(seed)
        for _ in range(length):
            random.choice(Events.EVENTS)(self.events, random)

    @invariant()
    def check(self):
        if hasattr(self, "events"):
            self.events.check()

    def teardown(self):
        if hasattr(self, "events") and not self.events.failed:
            self.events.check_end(Random(self.seed))


class TestRandomEvents(Machine.TestCase):
    settings = settings(
        max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestMoreRandomEvents(Machine.TestCase):
    settings = settings(TestRandomEvents.settings, max_examples=150)
