"""What a worker does with its policy's decisions, with runners that are stand-ins."""

from types import SimpleNamespace
from typing import get_args
from unittest import mock

import pytest

from cw.net import messages as m
from cw.net.objects import Object
from cw.requirements import WorkerCapacity
from cw.worker.outcomes import HOLD_BACK_SECONDS
from cw.worker.policy import actions as a
from cw.worker.policy.departure import Departure
from cw.worker.policy.jobs import WorkerJob
from cw.worker.policy.slots import Slots
from cw.worker.runners import execution
from cw.worker.runners.execution import Execution
from cw.worker.runners.ticks import PERIOD


@pytest.fixture
def worker():
    """One with two slots, what it was told to send, its timers but that of its looks, and the calls of its runners."""
    found = SimpleNamespace(
        sent=[], timers=[], runners=mock.Mock(), slots=Slots(WorkerCapacity(2)), departure=Departure(20.0)
    )
    found.runners.place.return_value = {"host": "node1"}
    found.runners.take_tokens.side_effect = lambda runner, limit: min(limit, len(runner.sent) - 1)
    loop = SimpleNamespace(
        call_later=lambda seconds, call: seconds == PERIOD or found.timers.append((seconds, call))
    )
    found.execution = Execution(loop, found.slots, found.runners, found.departure, found.sent.append)
    return found


def give(worker, *dispatches, seconds=1e-3):
    function = Object(1, b"")
    function.estimate.seconds = seconds
    jobs = [WorkerJob(dispatch, 1, dispatch, function, None, 1, b"payload") for dispatch in dispatches]
    worker.execution.perform(worker.slots.on_jobs(jobs, execution.time.monotonic()))
    return [runner for runner in worker.slots.pool.runners.values() if runner.sent]


def test_there_is_a_handler_for_each_action(worker):
    assert set(worker.execution._handlers) == set(get_args(a.Action))


def test_a_message_of_the_policys_goes_to_the_master_as_it_is(worker):
    message = m.Recalled([3])
    worker.execution.perform([a.Send(message)])
    assert worker.sent == [message]


def test_what_comes_of_a_retraction_is_done_before_the_actions_that_follow(worker):
    runner = give(worker, *range(1, 20))[0]  # (all at one moment)
    unstarted = [job.dispatch for job in list(runner.sent)[1:]]
    assert unstarted
    for job in runner.sent:
        job.withdrawn = True
    worker.execution.perform([a.Retract(runner, 100), a.Send(m.Recalled([]))])
    assert worker.runners.send_drop.mock_calls == [mock.call(runner)]
    assert worker.sent == [m.Returned(unstarted[::-1]), m.Recalled([])]


def test_an_error_after_a_sigterm_is_reported_when_nothing_else_ends_here(worker):
    (runner,) = give(worker, 1)
    worker.runners.on_results(runner, [1], [m.INTERRUPTED], [0.5], [b"error"])
    assert worker.sent == [] and worker.execution.count_running() == 0
    ((seconds, clear),) = worker.timers
    clear()
    assert seconds == HOLD_BACK_SECONDS and worker.sent == [m.Results([1], [m.ERROR], [0.5], [b"error"])]


def test_a_slot_is_lent_only_while_what_its_job_waits_for_is_at_this_master(worker):
    (runner,) = give(worker, 1)
    worker.execution.master = "this one"
    worker.runners.on_waits(runner, m.Waits(1, 1, "another"))
    assert worker.sent == []
    worker.execution.master = "another"
    worker.execution.lend_again()
    assert worker.sent == [m.Lent(0, [0])]
