"""How a worker leaves, with a runner that is a stand-in. (When it does: test_departure.)"""

import time
from types import SimpleNamespace
from unittest import mock

import pytest

from cw.net import messages as m
from cw.net.objects import Object
from cw.requirements import WorkerCapacity
from cw.worker.leaving import Leaving
from cw.worker.policy.departure import Departure
from cw.worker.policy.jobs import WorkerJob
from cw.worker.policy.slots import Slots
from cw.worker.runners.execution import Execution

GRACE = 20.0


@pytest.fixture
def worker():
    """One with a slot, and all that it does in order."""
    did = mock.Mock()
    did.runners.take_tokens.return_value = 0
    did.link.is_lost = False
    did.link.is_all_sent.return_value = True
    slots, departure = Slots(WorkerCapacity(1)), Departure(GRACE)
    execution = Execution(did.loop, slots, did.runners, departure, did.link.send)
    return SimpleNamespace(
        did=did, slots=slots, execution=execution, leaving=Leaving(did.loop, departure, execution, did.link)
    )


def give(worker, *dispatches):
    function = Object(1, b"")
    jobs = [WorkerJob(dispatch, 1, dispatch, function, None, 1, b"payload") for dispatch in dispatches]
    worker.execution.perform(worker.slots.on_jobs(jobs, time.monotonic()))


def sent(worker):
    return [call.args[0] for call in worker.did.link.send.call_args_list]


def test_an_idle_worker_leaves_at_once_and_ends_its_runners_before_the_goodbye(worker):
    worker.leaving.on_drain(m.Drain([]))
    assert sent(worker) == [m.Draining()]
    names = [name for name, _, _ in worker.did.mock_calls]
    assert names.index("runners.close") < names.index("link.leave")


def test_a_draining_worker_returns_what_waits_and_leaves_when_the_running_job_has_ended(worker):
    give(worker, 1, 2)
    worker.leaving.on_sigterm()
    assert sent(worker) == [m.Draining(), m.Returned([2])]
    assert not worker.did.link.leave.called
    (runner,) = worker.slots.pool.runners.values()
    worker.execution.perform(worker.slots.on_results(runner, [1], [0.1], time.monotonic()))
    worker.execution.perform(worker.slots.on_runner_exited(runner, 0, {"how": "exited"}, time.monotonic()))
    look = worker.did.loop.call_later.call_args.args[1]
    look()
    assert worker.did.link.leave.called


def test_a_second_ctrl_c_stops_what_runs(worker):
    give(worker, 1)
    worker.leaving.on_sigint()
    assert not worker.did.runners.close.called
    worker.leaving.on_sigint()
    assert worker.did.runners.close.called and worker.did.link.leave.called
