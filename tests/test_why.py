"""Why the oldest job of a session waits, in words, and when its client hears of it.

What stalls all slots is in test_lending, random events are in test_dispatch.
"""

import time

from asked import asked
from test_dispatch import OTHER_PY, PY, dispatcher, jobs, result

from cw.master.policy.jobs import Job
from cw.master.policy.why import NOTICE_SECONDS, Cause, Reason, Survey, Wait, is_going_on
from cw.net import messages as m
from cw.net.objects import Object
from cw.requirements import WorkerCapacity

NO_WORKER = Reason(Cause.NO_WORKER, "no worker")
BUSY = Reason(Cause.BUSY, "all are busy")


def why(d, key="s", **arguments):
    return Survey(d.state, **arguments).why(key)


def cause(d, key="s"):
    reason = why(d, key)
    return reason and reason.cause


def test_nothing_keeps_a_session_without_jobs_nor_one_whose_jobs_run():
    d = dispatcher("s")
    assert why(d) is None
    d.on_worker_joined("w", WorkerCapacity(1), PY)
    d.on_submitted("s", jobs(1))
    assert why(d) is None


def test_no_worker_then_another_python_then_too_little_time():
    d = dispatcher("s")
    d.on_submitted("s", [Job(1, Object(1), asked(min_time=60), b"")])
    assert why(d)[:2] == (Cause.NO_WORKER, "no worker is connected to the master")
    d.on_worker_joined("other", WorkerCapacity(1), OTHER_PY)
    reason = why(d)
    assert reason.cause is Cause.OTHER_PYTHON
    assert (
        "Python 3.11, but the connected workers run Python 3.12: its jobs wait for workers with Python 3.11"
        in (reason.text)
    )
    d.on_worker_joined("w", WorkerCapacity(1), PY, left=5)
    reason = why(d)
    assert reason.cause is Cause.TIME_LEFT and "the next job needs 60 s (min_time)" in reason.text
    d.on_time_left("w", 60)
    assert cause(d) is Cause.SOON  # (the policy would have assigned it with the fact of a new worker)


def test_workers_that_cannot_start_its_processes_are_named_with_their_reason():
    d = dispatcher("s", "t", w=1)
    d.on_worker_capacity("w", 1, ["s"])
    d.on_submitted("s", jobs(1))
    assert "process for the program's jobs (w: it cannot)" in why(d, why_unusable=lambda: "w: it cannot").text
    assert cause(d) is Cause.UNUSABLE
    d.on_worker_capacity("w", 0, [])
    assert cause(d) is Cause.UNUSABLE
    d.on_submitted("t", jobs(1))
    assert cause(d, "t") is Cause.UNUSABLE


def test_all_workers_drain_or_their_connections_are_lost():
    d = dispatcher("s", v=1, w=1)
    d.on_worker_draining("v")
    d.on_worker_away("w")
    d.on_submitted("s", jobs(1))
    assert cause(d) is Cause.AWAY
    d.on_worker_departed("w")
    assert why(d)[:2] == (Cause.DRAINING, "the only worker drains: no job starts there any more")


def test_other_programs_hold_all_slots():
    d = dispatcher("a", "b", "s", v=2, w=1)
    d.on_submitted("a", jobs(1, 2))
    d.on_submitted("b", jobs(1))
    d.on_submitted("s", jobs(1))
    reason = why(d, name_of={"a": "client n1:17", "b": "client n2:4"}.get)
    assert reason.cause is Cause.BUSY
    assert reason.text == "jobs of other programs hold all 3 slots: client n1:17 (2), client n2:4 (1)"
    d.on_submitted("b", jobs(2))
    assert why(d, "b")[:2] == (Cause.OWN_JOBS, "its own jobs hold 1 of 3 slots")
    d.on_submitted("a", jobs(3))
    result(d, "w", 1)  # the scheduler's turn: the slot goes to the next
    assert cause(d, "a") is Cause.OWN_JOBS


def test_only_some_of_many_programs_are_named():
    d = dispatcher(*range(9), w=8)
    for key in range(9):
        d.on_submitted(key, jobs(1))
    text = why(d, 8, name_of=lambda key: f"client {key}").text
    assert text.endswith("client 0 (1), client 1 (1), client 2 (1) and 5 more")


def test_a_client_that_takes_no_results_and_one_that_is_gone():
    d = dispatcher("s")
    d.on_submitted("s", jobs(1))
    d.on_blocked("s", True)
    assert cause(d) is Cause.CLIENT_SLOW
    d.on_session_absent("s")
    assert cause(d) is Cause.CLIENT_GONE


def test_after_a_restart_of_the_master_jobs_settle():
    d = dispatcher("s", w=1)
    d.on_session_resumed("s")
    d.on_resubmitted("s", jobs(1), False)
    assert cause(d) is Cause.SETTLING
    d.on_settled("s")
    assert why(d) is None


def test_lent_slots_are_for_jobs_of_the_jobs_that_lend_them():
    d = dispatcher("outer", "s", w=1)
    d.on_submitted("outer", jobs(1))
    d.on_session_opened("inner", PY, 1, 1)
    d.on_lent("w", 0, [0])
    d.on_submitted("s", jobs(1))
    assert cause(d) is Cause.LENT


def test_all_workers_that_are_set_aside_take_nothing():
    d = dispatcher("s", v=1, w=1)
    d.on_submitted("s", jobs(1))
    d.on_not_entered("v", 1, True, "no such directory", b"")
    assert why(d) is None  # it runs on the other one
    d.on_worker_departed("w")
    assert cause(d) in (None, Cause.ASIDE)


# --- when it is told --------------------------------------------------------------------------


def test_a_client_hears_of_a_wait_once_after_a_while_and_when_it_is_over():
    wait = Wait()
    assert wait.on_second(10.0, NO_WORKER, 0) is None
    assert wait.on_second(10.0 + NOTICE_SECONDS - 0.1, NO_WORKER, 0) is None
    assert wait.on_second(10.0 + NOTICE_SECONDS, NO_WORKER, 0) == m.Waiting("no-worker", "no worker")
    assert wait.on_second(100.0, NO_WORKER, 0) is None
    assert wait.on_second(101.0, None, 0) == m.Waiting("", "")
    assert wait.on_second(102.0, NO_WORKER, 0) is None
    assert wait.on_second(102.0 + NOTICE_SECONDS, NO_WORKER, 0) is not None


def test_a_short_wait_is_never_told():
    wait = Wait()
    for second in range(20):
        assert wait.on_second(2.0 * second, NO_WORKER, 0) is None
        assert wait.on_second(2.0 * second + 1, None, 0) is None


def test_another_reason_is_told_when_it_has_lasted_and_other_numbers_are_not():
    wait = Wait()
    told = [wait.on_second(float(now), NO_WORKER, 0) for now in range(4)]
    assert [message is not None for message in told] == [False, False, False, True]
    told = [wait.on_second(4.0 + now, BUSY._replace(text=f"{now} jobs"), 0) for now in range(10)]
    assert told == [None, None, None, m.Waiting("busy", "3 jobs")] + [None] * 6
    told = [wait.on_second(20.0 + now, NO_WORKER, 0) for now in range(2)] + [wait.on_second(22.0, BUSY, 0)]
    assert told == [None] * 3


def test_while_results_come_busy_slots_are_no_wait_but_a_missing_worker_is():
    wait = Wait()
    assert [wait.on_second(float(now), BUSY, now) for now in range(10)] == [None] * 10
    told = [wait.on_second(10.0 + now, NO_WORKER, 10 + now) for now in range(10)]
    assert [message for message in told if message] == [m.Waiting("no-worker", "no worker")]


def test_while_other_jobs_hold_the_slots_each_time_something_goes_on():
    wait = Wait()
    for second in range(20):
        assert wait.on_second(second + 1.0, Reason(Cause.STALLED, "stalled", frozenset({second})), 0) is None


def test_a_look_at_a_thousand_waiting_clients_and_ten_thousand_workers_is_cheap():
    clients = [f"c{number}" for number in range(1000)]
    d = dispatcher("first", *clients, **{f"w{number}": 1 for number in range(10_000)})
    d.on_submitted("first", jobs(*range(1, 10_001)))
    for key in clients:
        d.on_submitted(key, jobs(*range(20)))
    assert is_going_on(d.state.sessions["first"]) and not is_going_on(d.state.sessions["c0"])
    began = time.process_time()
    survey = Survey(d.state)
    assert all(survey.why(key).cause is Cause.BUSY for key in clients)
    assert (
        time.process_time() - began < 0.5
    )  # 15 ms on a quiet machine; walks of all workers for each take 3 s
