"""Calls that wait for futures: their numbers, and their share of what the client holds."""

from test_client_jobs import make

from cw.client.session.held import HeldCalls
from cw.client.session.job import Dependent
from cw.client.session.jobs import objects_of


def dependent(payload=b"x" * 10):
    return Dependent(None, 1, 0, payload, None, None)


def test_their_numbers_are_no_jobs_and_are_not_used_again():
    held = HeldCalls((None, None))
    calls = [dependent() for _ in range(3)]
    for call in calls:
        held.add(call)
    assert [call.number for call in calls] == [-1, -2, -3]
    held.remove(calls[1])
    held.add(calls[1])
    assert held.all() == [calls[0], calls[2], calls[1]] and calls[1].number == -4
    held.check_invariants()


def test_a_held_call_is_outstanding_until_its_job_is_delivered():
    jobs = make()
    call = dependent()
    jobs.held.add(call)
    assert jobs.outstanding == 1 and objects_of(jobs) == {1}
    number = jobs.release(call, 2, b"y" * 30, is_sent=True)
    jobs.check_invariants()
    assert (number, jobs.outstanding, len(jobs.held), objects_of(jobs)) == (1, 1, 0, {2})
    (job,) = jobs.next_batch()
    assert (job.number, job.payload) == (1, b"y" * 30)
    jobs.on_delivered(jobs.take(1), False)
    assert not jobs.outstanding


def test_a_call_that_cannot_run_is_never_sent():
    jobs = make()
    call = dependent()
    jobs.held.add(call)
    number = jobs.release(call, 1, call.payload, is_sent=False)
    jobs.check_invariants()
    jobs.on_master_lost()
    jobs.on_window(1000, 10**6)
    jobs.on_master_joined()
    assert jobs.next_resubmitted() == jobs.next_batch() == []
    assert jobs.cancel(number, True) and jobs.take_cancelled()[1] == []


def test_held_calls_count_towards_the_limits_unless_all_calls_are_held():
    jobs = make(limits=(3, 100))
    for _ in range(5):
        jobs.held.add(dependent())
    assert not jobs.is_full(1000)  # the caller may be the one who sets their futures
    jobs.add(1, 0, b"x", None)
    assert jobs.is_full(1)
    jobs.on_delivered(jobs.take(1), False)
    assert not jobs.is_full(1)


def test_a_forked_child_holds_none():
    jobs = make()
    jobs.held.add(dependent())
    jobs.drop_after_fork()
    assert not jobs.outstanding and not jobs.held.all()
    jobs.check_invariants()
