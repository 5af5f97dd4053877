"""What jobs came to, on its way to the master: reported, held back, kept."""

import json

import pytest
from asked import asked

from cw.net import messages as m
from cw.net.objects import Object
from cw.worker.outcomes import Outcome, Outcomes
from cw.worker.policy.jobs import WorkerJob

PLACE = {"host": "node1", "slot": 0}


def job(dispatch=1, options=None, **flags):
    made = WorkerJob(dispatch, 7, 100 + dispatch, Object(1, b""), options, 1, b"payload")
    for name, value in flags.items():
        setattr(made, name, value)
    return made


def classify(outcomes, *found, is_ending=True, is_draining=False):
    return outcomes.classify([Outcome(*each) for each in found], is_ending, is_draining, PLACE)


def test_what_a_job_came_to_is_reported_and_kept_until_it_is_released():
    outcomes = Outcomes()
    messages, held_back_errors = classify(outcomes, (job(), m.DONE, 0.5, b"result"))
    assert messages == [m.Results([1], [m.DONE], [0.5], [b"result"])] and not held_back_errors
    assert outcomes.inventories() == [(1, 7, 101, m.FINISHED)]
    assert outcomes.on_claim([1, 2]) == [*messages, m.Returned([2])]
    outcomes.outbox.forget([1])
    assert outcomes.on_claim([1]) == [m.Returned([1])]


def test_what_was_not_allowed_to_end_is_cut_short_unless_its_result_is_wanted():
    keeps = asked(on_limit="keep")
    for options in None, keeps:
        outcomes = Outcomes()
        messages, _ = classify(outcomes, (job(options=options, is_cut=True), m.DONE, 0.5, b"result"))
        assert messages == [m.Results([1], [m.DONE], [0.5], [b"result"]) if options else m.CutShort([1])]
    messages, _ = classify(Outcomes(), (job(options=keeps, is_cut=True), m.ERROR, 0.5, b"error"))
    assert messages == [m.CutShort([1])]


def test_a_job_that_ran_into_its_time_limit_says_where_and_for_how_long():
    outcomes = Outcomes()
    slow, in_time = (job(n, asked(timeout=2.0), expired=True) for n in (1, 2))
    messages, _ = classify(outcomes, (slow, m.DONE, 2.5, b""), (in_time, m.DONE, 1.5, b"result"))
    (text,) = messages[0].payloads
    assert messages[0].statuses == [m.TIMEOUT] and messages[1].payloads == [b"result"]
    assert json.loads(text) == {**PLACE, "seconds": 2.5, "limit": 2.0, "attempt": 1}


@pytest.mark.parametrize("status", [m.STOPPED_VALUE, m.STOPPED_ERROR, m.INTERRUPTED])
def test_what_a_sigint_at_the_time_limit_has_made_is_no_outcome_though_the_runner_counts_less(status):
    limited = job(options=asked(timeout=2.0), expired=True)
    messages, _ = classify(Outcomes(), (limited, status, 1.999, b""))
    assert messages[0].statuses == [m.TIMEOUT]


@pytest.mark.parametrize(("status", "own"), [(m.STOPPED_VALUE, m.DONE), (m.STOPPED_ERROR, m.ERROR)])
def test_a_sigint_of_the_jobs_own_leaves_it_its_outcome(status, own):
    messages, _ = classify(Outcomes(), (job(), status, 0.5, b"outcome"), is_ending=False)
    assert messages == [m.Results([1], [own], [0.5], [b"outcome"])]
    best = job(options=asked(timeout=2.0, on_limit="keep"), expired=True)
    messages, _ = classify(Outcomes(), (best, m.STOPPED_VALUE, 2.5, b"best"))
    assert messages == [m.Results([1], [m.DONE], [2.5], [b"best"])]


@pytest.mark.parametrize("is_wanted", [True, False])
def test_a_call_that_was_not_entered_goes_to_the_master_if_it_is_wanted(is_wanted):
    said = m.NotEntered([1], [0], [1], [b"x"])
    messages, _ = classify(
        Outcomes(), (job(stopped=not is_wanted), m.NOT_ENTERED, 0.0, said), is_ending=False
    )
    assert messages == [said if is_wanted else m.Returned([1])]


def test_an_error_after_a_sigterm_is_the_jobs_own_unless_the_worker_is_told_to_end_too():
    interrupted = (job(), m.INTERRUPTED, 0.5, b"error")
    result = m.Results([1], [m.ERROR], [0.5], [b"error"])
    outcomes = Outcomes()
    messages, held_back_errors = classify(outcomes, interrupted)
    assert not messages and outcomes.inventories() == [(1, 7, 101, m.RUNNING)]
    assert outcomes.on_cleared(held_back_errors) == [result]
    assert outcomes.on_cleared(held_back_errors) == outcomes.on_drain() == []
    outcomes = Outcomes()
    _, held_back_errors = classify(outcomes, interrupted)
    assert outcomes.on_drain() == [m.CutShort([1])]
    assert outcomes.on_cleared(held_back_errors) == []
    assert classify(Outcomes(), interrupted, is_draining=True) == ([m.CutShort([1])], [])


def test_a_death_is_kept_too():
    outcomes = Outcomes()
    note = {"how": "killed by SIGSEGV"}
    died = outcomes.died(job(), note)
    assert died == m.RunnerDied(1, note) and outcomes.on_claim([1]) == [died]


def test_what_a_new_master_was_told_of_is_unclaimed_until_it_asks_or_releases():
    outcomes = Outcomes()
    for dispatch in 1, 2:
        outcomes.died(job(dispatch), {"how": "?"})
    assert not outcomes.has_unclaimed
    outcomes.inventories()
    outcomes.on_claim([1])
    assert outcomes.has_unclaimed
    outcomes.outbox.forget([2])
    assert not outcomes.has_unclaimed
