"""The policy about machines on which calls cannot be entered: named facts. (Random events: test_dispatch.)"""

from test_dispatch import PY, assigned, delivered, dispatcher, jobs, known, result

from cw.master.policy import asides
from cw.master.policy.actions import (
    Assign,
    Deliver,
    GiveUp,
    ReportAside,
    SendToWorker,
    SetAside,
    WatchSetbacks,
)
from cw.net import messages as m
from cw.net.messages import NOT_ENTERED
from cw.net.objects import Object
from cw.requirements import WorkerCapacity

REASON = "ModuleNotFoundError: No module named 'absent'"


def not_entered(d, worker, job, reason=REASON, is_general=False):
    """The worker says that this job's call could not be entered there."""
    actions = d.on_not_entered(worker, job.dispatch, is_general, reason, b"error")
    d.check_invariants()
    return actions


def not_entered_in_directory(d, worker, job):
    return not_entered(d, worker, job, "working directory: gone", is_general=True)


def errors(actions):
    """Numbers of the jobs that end because their calls cannot be entered."""
    return [n for a in actions if type(a) is Deliver and a.statuses == [NOT_ENTERED] for n in a.numbers]


def kinds(actions):
    return [type(action) for action in actions]


def test_where_there_is_one_machine_the_error_comes_at_once():
    d = dispatcher("s", w=2)
    first, second, third = submitted = jobs(1, 2, 3)
    d.on_submitted("s", submitted)
    assert not_entered(d, "w", first) == [
        WatchSetbacks("s"),
        Deliver("s", "w", [1], [1], [NOT_ENTERED], [0.0], [b"error"]),
        Assign("w", [third]),
    ]
    assert errors(not_entered(d, "w", second)) == [2]
    assert d.on_aside_reported("s") == []


def test_the_job_goes_to_another_machine_uncharged_and_nothing_more_of_the_session_to_this_one():
    d = dispatcher("s", "other", bad=1, good=1)
    first, *_ = submitted = jobs(1, 2, 3)
    assert assigned(d.on_submitted("s", submitted)) == [("bad", [1]), ("good", [2])]
    assert kinds(not_entered_in_directory(d, "bad", first)) == [WatchSetbacks, SetAside]
    assert (first.crashes, first.worker_losses, first.notes) == (0, 0, ())
    assert assigned(result(d, "good", 2)) == [("good", [1])]  # it goes before the others
    assert assigned(result(d, "good", first.dispatch)) == [("good", [3])]
    assert assigned(d.on_submitted("other", jobs(4))) == [("bad", [4])]


def test_nor_to_a_slot_that_is_lent_there():
    d = dispatcher("outer", bad=1, good=1)
    d.on_session_opened("inner", PY, 1)
    d.on_submitted("outer", jobs(1, 2))
    assert d.on_lent("bad", 0, [0]) == []
    (job,) = submitted = jobs(1)
    assert assigned(d.on_submitted("inner", submitted)) == [("bad", [1])]
    assert assigned(not_entered(d, "bad", job)) == []
    assert assigned(d.on_lent("bad", 0, [0])) == []
    assert assigned(d.on_lent("good", 0, [0])) == [("good", [1])]
    d.check_invariants()


def test_what_was_sent_ahead_of_the_session_is_taken_back():
    d = dispatcher("s", bad=1)
    submitted = jobs(1, 2, 3, f=known(1e-3))
    d.on_submitted("s", submitted)
    d.on_worker_joined("good", WorkerCapacity(1), PY)
    actions = not_entered(d, "bad", submitted[0])
    assert SendToWorker("bad", m.TakeBack([2, 3])) in actions
    assert assigned(actions) == [("good", [1])]
    assert assigned(d.on_returned("bad", [2, 3])) == [("good", [2, 3])]


def test_the_same_on_two_machines_without_any_success_is_the_error_of_every_job_at_once():
    d = dispatcher("s", "other", u=1, v=1, w=1)
    d.on_submitted("other", jobs(9))  # keeps one of them busy
    first, second, third = submitted = jobs(1, 2, 3)
    assert assigned(d.on_submitted("s", submitted)) == [("v", [1]), ("w", [2])]
    assert errors(not_entered(d, "v", first)) == []
    actions = not_entered(d, "w", second)
    assert errors(actions) == [2]
    assert sorted(assigned(actions)) == [("v", [1]), ("w", [3])]  # nobody is set aside for it
    assert errors(not_entered(d, "v", first)) == [1]
    assert errors(not_entered(d, "w", third)) == [3]
    assert d.on_aside_reported("s") == []  # so there is nothing to say


def test_two_bad_machines_wait_for_the_third_while_it_may_be_good():
    d = dispatcher("s", u=1, v=1, good=1)
    first, second, third = submitted = jobs(1, 2, 3)
    d.on_submitted("s", submitted)
    assert errors(not_entered(d, "u", first) + not_entered(d, "v", second)) == []
    assert assigned(result(d, "good", third.dispatch)) == [("good", [1])]


def test_two_bad_machines_are_set_aside_while_others_have_had_success():
    d = dispatcher("s", u=1, v=1, good=1)
    d.on_submitted("s", jobs(1, 2, 3))
    result(d, "good", 3)
    first, second = d.state.open_jobs("s")[1], d.state.open_jobs("s")[2]
    assert errors(not_entered(d, "u", first) + not_entered(d, "v", second)) == []
    assert d.state.open_jobs("s")[1].worker.key == "good"


def test_another_function_is_no_proof_for_a_module_but_it_is_for_the_directory():
    for is_general, expected in ((False, [2]), (True, [])):
        d = dispatcher("s", good=1)
        d.on_submitted("s", jobs(9, f=Object(9)))
        result(d, "good", 1)
        d.on_submitted("s", jobs(8, f=Object(8)))  # keeps the good one busy
        d.on_worker_joined("v", WorkerCapacity(1), PY)
        d.on_worker_joined("w", WorkerCapacity(1), PY)
        first, second = submitted = jobs(1, 2)
        d.on_submitted("s", submitted)
        d.on_cancelled("s", [8])  # else it might be about to prove it
        not_entered(d, "v", first, is_general=is_general)
        assert errors(not_entered(d, "w", second, is_general=is_general)) == expected


def test_a_job_that_can_be_entered_nowhere_sets_nobody_aside_though_others_of_its_function_run():
    d = dispatcher("s", v=1, w=1)
    f = known(1.0)
    poison, *_ = submitted = jobs(1, 2, 3, f=f)
    d.on_submitted("s", submitted)
    actions = not_entered(d, "v", poison)  # v idles now, and w is busy
    assert not assigned(actions)
    assert assigned(result(d, "w", 2)) == [("w", [1])]
    actions = not_entered(d, "w", poison)
    assert errors(actions) == [1]
    assert [worker for worker, _ in assigned(actions)] == ["v"]


def test_when_the_good_machines_are_gone_those_set_aside_are_tried_at_once_and_the_error_is_the_jobs():
    d = dispatcher("s", bad=1, good=1)
    first, second = submitted = jobs(1, 2)
    d.on_submitted("s", submitted)
    assert not assigned(not_entered_in_directory(d, "bad", first))
    assert assigned(d.on_worker_departed("good")) == [("bad", [1])]
    actions = not_entered_in_directory(d, "bad", first)
    assert errors(actions) == [1]
    assert assigned(actions) == [("bad", [2])]
    assert errors(not_entered_in_directory(d, "bad", second)) == [2]


def test_when_the_good_machine_drains_those_set_aside_are_tried_at_once():
    d = dispatcher("s", bad=1, good=1)
    first, _ = submitted = jobs(1, 2)
    d.on_submitted("s", submitted)
    not_entered(d, "bad", first)
    assert assigned(d.on_worker_draining("good")) == [("bad", [1])]


def test_machines_that_lack_different_things_run_what_they_can():
    d = dispatcher("s", v=1, w=1)
    f, g = Object(1), Object(2)
    (of_f,), (of_g,) = jobs(1, f=f), jobs(2, f=g)
    d.on_submitted("s", [of_f, of_g])
    assert not assigned(not_entered(d, "v", of_f, "no module for f"))
    actions = not_entered(d, "w", of_g, "no module for g")  # v is set aside, but of_g has not been there
    assert sorted(assigned(actions)) == [("v", [1])] or sorted(assigned(actions)) == [("v", [2]), ("w", [1])]
    assert errors(actions) == []


def test_after_minutes_one_job_tries_and_its_success_ends_it():
    d = dispatcher("s", bad=2, good=1)
    first, second, third = jobs(1, 2, 3)
    d.on_submitted("s", [first, second, third])
    not_entered_in_directory(d, "bad", first)
    d.on_returned("bad", [second.dispatch])
    d.on_submitted("s", jobs(4, 5, 6))
    result(d, "good", third.dispatch)
    assert assigned(d.on_aside_retry("s")) == [("bad", [2])]
    assert d.on_aside_retry("s") == []  # it is still under way
    d.check_invariants()
    assert assigned(result(d, "bad", second.dispatch)) == [("bad", [4, 5])]
    assert d.state.has_setbacks("s")
    assert d.on_aside_retry("s") == [] and not d.state.has_setbacks("s")


def test_a_machine_whose_turn_has_come_gets_the_next_job_that_waits():
    d = dispatcher("s", bad=1, good=1)
    first, second = jobs(1, 2)
    d.on_submitted("s", [first, second])
    not_entered(d, "bad", first)
    result(d, "good", second.dispatch)
    result(d, "good", first.dispatch)
    assert d.on_aside_second("s") == d.on_aside_retry("s") == []  # nothing waits
    d.on_submitted("s", jobs(3, 4))
    assert assigned(d.on_aside_second("s")) == [("bad", [4])]
    assert d.on_aside_second("s") == []


def test_after_a_trial_that_fails_the_machine_stays_aside_and_the_client_is_told_no_more():
    d = dispatcher("s", bad=1, good=1)
    first, second = jobs(1, 2)
    d.on_submitted("s", [first, second])
    not_entered(d, "bad", first)
    assert [type(a) for a in result(d, "good", second.dispatch)] == [Deliver, ReportAside, Assign]
    (third,) = jobs(3)
    d.on_submitted("s", [third])
    assert assigned(d.on_aside_retry("s")) == [("bad", [3])]
    assert kinds(not_entered(d, "bad", third)) == []
    assert d.on_aside_reported("s") == []
    assert assigned(result(d, "good", first.dispatch)) == [("good", [3])]


def test_the_client_is_told_with_the_first_success_or_after_some_seconds():
    d = dispatcher("s", bad=1, good=1)
    first, _ = submitted = jobs(1, 2)
    d.on_submitted("s", submitted)
    assert ReportAside not in kinds(not_entered(d, "bad", first))
    assert d.on_aside_reported("s") == [ReportAside("s", [("bad", REASON)])]
    assert d.on_aside_reported("s") == []
    assert ReportAside not in kinds(result(d, "good", 2))


def test_a_cancelled_job_is_forgotten_and_one_of_an_absent_client_waits_for_it():
    d = dispatcher("s", v=1, w=1)
    first, second = submitted = jobs(1, 2)
    d.on_submitted("s", submitted)
    d.on_cancelled("s", [1])
    assert not_entered(d, "v", first) == []
    d.on_session_absent("s")
    assert not_entered(d, "w", second) == []
    assert len(d.state.open_jobs("s")) == 1 and not d.state.has_setbacks("s")


def test_a_job_whose_attempts_are_one_goes_elsewhere_too_since_it_was_not_entered():
    d = dispatcher("s", bad=1)
    (job,) = jobs(1, attempts=1)
    d.on_submitted("s", [job])
    d.on_started("bad", [job.dispatch])
    d.on_worker_joined("good", WorkerCapacity(1), PY)
    assert assigned(not_entered(d, "bad", job)) == [("good", [1])]
    assert delivered(result(d, "good", job.dispatch)) == [("s", [1])]


def test_a_job_is_not_kept_for_a_machine_that_has_not_the_time_it_needs():
    d = dispatcher("s", bad=1)
    (job,) = jobs(1, min_time=100)
    d.on_submitted("s", [job])
    d.on_worker_joined("short", WorkerCapacity(1), PY, left=10)
    assert errors(not_entered(d, "bad", job)) == [1]


def died_loading(d, worker, job):
    actions = d.on_runner_died(
        worker, job.dispatch, {"how": "was killed by SIGILL", "slot": 0, "loading": True}
    )
    d.check_invariants()
    return actions


def test_a_death_while_the_function_is_loaded_may_be_the_machines_too():
    d = dispatcher("s", bad=1, good=1)
    first, _ = submitted = jobs(1, 2)
    d.on_submitted("s", submitted)
    assert GiveUp not in kinds(died_loading(d, "bad", first))
    assert (first.crashes, first.notes) == (0, ())
    assert d.on_aside_reported("s") == [
        ReportAside("s", [("bad", "the process that loads its functions was killed by SIGILL")])
    ]
    assert assigned(result(d, "good", 2)) == [("good", [1])]


def test_a_function_that_takes_down_all_that_load_it_is_given_up_as_ever():
    d = dispatcher("s", v=1, w=1)
    (job,) = jobs(1)
    d.on_submitted("s", [job])
    crashes = []
    while len(d.state.open_jobs("s")):
        actions = died_loading(d, job.worker.key, job)
        crashes.append(job.crashes)
    assert crashes == [0, 1, 2, 3] and GiveUp in kinds(actions)


def test_workers_with_one_reason_share_a_sentence():
    named = [(f"worker n{i}:1", "no 'x'") for i in range(5)] + [("worker m:2", "no 'y'")]
    first, second = asides.sentences(named)
    assert first.startswith(
        "worker n0:1, worker n1:1, worker n2:1 and 2 more are set aside for this program: no 'x'. "
    )
    assert second == (
        "worker m:2 is set aside for this program: no 'y'. Its jobs go to other workers, and in 3 minutes one is "
        "tried there again"
    )
