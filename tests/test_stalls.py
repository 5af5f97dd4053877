"""What keeps a client's jobs, in words, and when it is told. (Which jobs stall all slots: test_lending.)"""

from asked import asked
from test_dispatch import OTHER_PY, PY, dispatcher, jobs

from cw.master.jobs import Job
from cw.master.stalls import NOTICE_SECONDS, STALLED, Obstacle, Wait, why_it_waits
from cw.net.objects import Object
from cw.requirements import WorkerCapacity

NOBODY = Obstacle(frozenset(), 0.0, frozenset())


def test_nothing_keeps_a_session_without_jobs_nor_one_whose_jobs_run():
    d = dispatcher("s")
    assert d.state.obstacle("s") is None
    d.on_worker_joined("w", WorkerCapacity(1), PY)
    d.on_submitted("s", jobs(1))
    assert d.state.obstacle("s") is None


def test_each_obstacle_is_told_in_its_own_words():
    d = dispatcher("s")
    d.on_submitted("s", [Job(1, Object(1), asked(min_time=60), b"")])
    assert "no worker is connected" in why_it_waits(d.state.obstacle("s"), PY, "")
    d.on_worker_joined("other", WorkerCapacity(1), OTHER_PY)
    assert "run Python 3.12: its jobs wait for workers with Python 3.11" in why_it_waits(
        d.state.obstacle("s"), PY, ""
    )
    d.on_worker_joined("w", WorkerCapacity(1), PY, left=5)
    assert "the next job needs 60 s (min_time)" in why_it_waits(d.state.obstacle("s"), PY, "")
    d.on_submitted("s", jobs(2))
    d.on_cancelled("s", [1])
    d.on_worker_capacity("w", 0, [])
    assert "process for this program's jobs (w: it cannot)" in why_it_waits(
        d.state.obstacle("s"), PY, "w: it cannot"
    )
    assert why_it_waits(Obstacle(frozenset({PY}), 0.0, {1}), PY, "") == STALLED


def test_a_client_is_told_once_after_a_while_and_again_when_its_jobs_wait_again():
    wait = Wait()
    assert not wait.on_second(10.0, NOBODY)
    assert not wait.on_second(10.0 + NOTICE_SECONDS - 0.1, NOBODY)
    assert wait.on_second(10.0 + NOTICE_SECONDS, NOBODY)
    assert not wait.on_second(100.0, NOBODY)
    assert not wait.on_second(101.0, None)
    assert not wait.on_second(102.0, NOBODY)
    assert wait.on_second(102.0 + NOTICE_SECONDS, NOBODY)


def test_while_other_jobs_hold_the_slots_each_time_something_goes_on():
    wait = Wait()
    for second in range(20):
        assert not wait.on_second(second + 1.0, Obstacle(frozenset({PY}), 0.0, {second}))
