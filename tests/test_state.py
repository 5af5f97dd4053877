"""Sessions with jobs of two shapes: no part of the policy takes a session for one queue.

Here the shape of a job follows from its options: `attempts=2` asks for another Python than that of its session.
"""

from random import Random

import pytest
from asked import asked
from test_asides import not_entered_in_directory
from test_dispatch import OTHER_PY, PY, Events, assigned, delivered, dispatcher, jobs, known, result, some

from cw.master.policy import state
from cw.master.policy.actions import SendToWorker
from cw.master.policy.jobs import Shape
from cw.master.policy.why import Cause, Survey
from cw.net import messages as m
from cw.net.messages import FINISHED, RUNNING
from cw.requirements import WorkerCapacity

OTHER = {"attempts": 2}


@pytest.fixture(autouse=True)
def other_shape(monkeypatch):
    def shape_of(session, options):
        return Shape(OTHER_PY if options is not None and options.attempts == 2 else PY)

    monkeypatch.setattr(state, "shape_of", shape_of)


def both(d):
    """Workers for both shapes join."""
    actions = d.on_worker_joined("plain", WorkerCapacity(1), PY)
    actions += d.on_worker_joined("other", WorkerCapacity(1), OTHER_PY)
    d.check_invariants()
    return actions


def queued(d):
    """Numbers of the jobs that wait, by Python."""
    return {
        shape.python: [job.number for job in (*queue.requeued, *queue.backlog) if not job.cancelled]
        for shape, queue in d.state.sessions["s"].queues.items()
    }


def test_each_job_waits_in_the_queue_of_its_shape_and_goes_to_a_worker_of_it():
    d = dispatcher("s")
    plain, other = asked(attempts=3), asked(**OTHER)
    submitted = jobs(1, 2, 3, 4, 5)
    for job, options in zip(submitted, (None, other, plain, other, None), strict=True):
        job.options = None if options is None else options.options
    assert d.on_submitted("s", submitted) == []
    assert queued(d) == {PY: [1, 3, 5], OTHER_PY: [2, 4]}
    assert assigned(both(d)) == [("plain", [1]), ("other", [2])]
    assert assigned(result(d, "other", 2)) == [("other", [4])]


def test_jobs_that_come_back_wait_in_their_own_queues():
    d = dispatcher("s")
    both(d)
    d.on_submitted("s", jobs(1, 2, 3, f=known(1e-3)))
    d.on_submitted("s", jobs(4, 5, 6, f=known(1e-3), **OTHER))
    assert queued(d) == {PY: [], OTHER_PY: []}
    d.on_worker_departed("plain")
    d.on_worker_departed("other")
    d.check_invariants()
    assert queued(d) == {PY: [1, 2, 3], OTHER_PY: [4, 5, 6]}
    assert assigned(both(d)) == [("plain", [1, 2, 3]), ("other", [4, 5, 6])]


def test_a_client_that_does_not_take_its_results_or_is_gone_holds_up_all_its_queues():
    d = dispatcher("s")
    d.on_submitted("s", [*jobs(1), *jobs(2, **OTHER)])
    d.on_blocked("s", True)
    assert both(d) == []
    assert assigned(d.on_blocked("s", False)) == [("plain", [1]), ("other", [2])]
    d.on_submitted("s", [*jobs(3), *jobs(4, **OTHER)])
    d.on_session_absent("s")
    assert assigned(d.on_results("plain", [1], [0], [1.0], [b""])) == []
    assert assigned(d.on_results("other", [2], [0], [1.0], [b""])) == []
    d.check_invariants()
    assert assigned(d.on_session_resumed("s")) == [("plain", [3]), ("other", [4])]


def test_cancelled_jobs_are_dropped_from_every_queue():
    d = dispatcher("s")
    for number in range(0, 3000, 2):
        d.on_submitted("s", [*jobs(number), *jobs(number + 1, **OTHER)])
        d.on_cancelled("s", [number, number + 1])
    d.check_invariants()
    assert all(len(queue.backlog) < 10 for queue in d.state.sessions["s"].queues.values())
    d.on_submitted("s", [*jobs(3000), *jobs(3001, **OTHER)])
    d.on_session_closed("s")
    d.check_invariants()
    assert both(d) == []


def test_a_shape_without_a_worker_is_an_obstacle_though_the_others_run():
    d = dispatcher("s")
    d.on_worker_joined("plain", WorkerCapacity(1), PY)
    d.on_submitted("s", jobs(1))
    assert Survey(d.state).why("s") is None and d.state.can_run("s")
    d.on_submitted("s", jobs(2, **OTHER))
    assert Survey(d.state).why("s").cause is Cause.OTHER_PYTHON and not d.state.can_run("s")
    d.on_cancelled("s", [2])
    assert Survey(d.state).why("s") is None and d.state.can_run("s")


def test_the_time_that_a_job_needs_is_looked_for_among_the_workers_of_its_shape():
    d = dispatcher("s")
    d.on_worker_joined("plain", WorkerCapacity(1), PY)
    d.on_worker_joined("other", WorkerCapacity(1), OTHER_PY, left=5)
    d.on_submitted("s", [*jobs(1), *jobs(2, min_time=60, **OTHER)])
    d.check_invariants()
    reason = Survey(d.state).why("s")
    assert reason.cause is Cause.TIME_LEFT and "needs 60 s (min_time)" in reason.text


def test_jobs_of_both_shapes_that_workers_hold_are_adopted():
    d = dispatcher()
    d.on_worker_joined("plain", WorkerCapacity(1), PY, [(11, "s", 1, RUNNING)])
    d.on_session_opened("s", PY)
    d.on_session_resumed("s")
    d.on_resubmitted("s", [*jobs(1, 2), *jobs(3, 4, **OTHER)], False)
    d.check_invariants()
    actions = d.on_worker_joined("other", WorkerCapacity(1), OTHER_PY, [(12, "s", 3, FINISHED)])
    assert SendToWorker("other", m.Claim([12])) in actions
    d.check_invariants()
    d.on_settled("s")
    d.check_invariants()
    assert queued(d) == {PY: [2], OTHER_PY: [4]}
    assert assigned(result(d, "other", 12)) == [("other", [4])]
    assert delivered(result(d, "plain", 11)) == [("s", [1])]


def test_an_adopted_job_leaves_the_queue_in_which_it_waited():
    d = dispatcher("s")
    d.on_submitted("s", [*jobs(1), *jobs(2, 3, **OTHER)])
    d.on_worker_joined("other", WorkerCapacity(1), OTHER_PY, [(12, "s", 2, RUNNING)])
    d.check_invariants()
    assert queued(d) == {PY: [1], OTHER_PY: [3]}


def test_the_last_worker_of_a_shape_is_not_kept_aside_for_the_others():
    d = dispatcher("s")
    both(d)
    d.on_worker_joined("other2", WorkerCapacity(1), OTHER_PY)
    (job,) = jobs(1, **OTHER)
    d.on_submitted("s", [job])
    assert assigned(not_entered_in_directory(d, "other", job)) == [("other2", [1])]
    d.on_submitted("s", jobs(2, **OTHER))
    assert assigned(d.on_worker_draining("other2")) == [("other", [2])]


class TwoShapes(Events):
    def python_for(self, job):
        return OTHER_PY if job.options is not None and job.options.attempts == 2 else PY

    def client_goes_and_comes(self, random):
        if session := some(random, set(self.python_of) - self.blocked):
            self.disturbed.add(session)
            self.perform(self.d.on_session_absent(session))
            self.perform(self.d.on_session_resumed(session))
            self.d.state.sessions[session].unconfirmed = set()
            self.perform(self.d.on_settled(session))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_random_events(seed):
    random = Random(seed)
    events = TwoShapes(random)
    for _ in range(400):
        random.choice(Events.EVENTS)(events, random)
        if random.random() < 0.02:
            events.client_goes_and_comes(random)
        events.check()
    events.check_end(random)
