"""The jobs that a worker holds: which wait, which are with a runner, which nobody wants. (With runners: test_slots.)"""

from random import Random

import pytest

from cw.net.objects import Object
from cw.worker.policy.jobs import EXCLUDED_SECONDS, HeldJobs, WorkerJob

FUNCTION = Object(1, b"")


def job(dispatch, session=1):
    return WorkerJob(dispatch, session, dispatch, FUNCTION, None, 1, b"payload")


def test_what_is_stopped_or_withdrawn_while_it_waits_is_returned_and_what_is_not_here_has_ended():
    held = HeldJobs()
    assert held.take([job(1), job(2), job(3)], 0.0) == []
    assert held.stop([1, 9]) == [1] and held.withdraw([3, 8]) == [3]
    assert [each.dispatch for each in held.backlog] == [2]
    held.check_invariants([])


def test_what_is_stopped_with_a_runner_is_marked_and_does_not_wait_again():
    held = HeldJobs()
    held.take([job(1), job(2)], 0.0)
    sent = [held.backlog.popleft(), held.backlog.popleft()]
    assert held.stop([1]) == [] and sent[0].stopped
    assert held.put_back(reversed(sent)) == [1]
    assert [each.dispatch for each in held.backlog] == [2]
    held.check_invariants([])


def test_blocked_sessions_are_refused_until_they_are_there_again():
    held = HeldJobs()
    held.take([job(1, session=1), job(2, session=2)], 0.0)
    assert held.close_session(1) == [1]
    assert held.block(frozenset({2})) == [2]
    assert held.take([job(4, session=2), job(5, session=3)], 0.0) == [4]
    held.block(frozenset())
    held.open_session(1)
    assert held.take([job(6, session=1), job(7, session=2)], 0.0) == []
    assert not held.closed


def test_a_closed_session_is_forgotten_when_its_runners_are_gone():
    held = HeldJobs()
    for session in 1, 2:
        held.close_session(session)
    assert held.forget_sessions_without({1}) == {2} and held.closed == {1}
    assert held.forget_sessions_without(set()) == {1} and not held.closed


def test_a_job_avoids_a_slot_for_a_while():
    held = HeldJobs()
    picky = job(1)
    held.exclude_slots([1, 9], [0, 0])
    held.take([picky, other := job(2)], 5.0)
    assert (picky.excluded_slot, other.excluded_slot) == (0, None)
    held.allow_all_slots(5.0 + EXCLUDED_SECONDS - 0.1)
    assert picky.excluded_slot == 0
    held.allow_all_slots(5.0 + EXCLUDED_SECONDS)
    assert picky.excluded_slot is None


def test_what_is_said_of_jobs_to_come_holds_for_these_alone():
    held = HeldJobs()
    held.exclude_slots([2, 4], [0, 1])
    held.take([first := job(1)], 0.0)  # a Dispatch may come in parts
    held.take([second := job(2), fifth := job(5)], 0.0)  # the fourth was withdrawn
    assert [each.excluded_slot for each in (first, second, fifth)] == [None, 0, None]
    held.exclude_slots([6], [0])
    held.begin_anew()  # another master, with dispatches of its own
    held.take([other := job(6)], 0.0)
    assert other.excluded_slot is None


def test_who_drains_takes_nothing():
    held = HeldJobs()
    held.take([job(1), job(2)], 0.0)
    sent = held.backlog.popleft()
    assert held.drain() == [2]
    assert held.take([job(3)], 0.0) == [3] and held.put_back([sent]) == [1]


@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_each_job_is_taken_back_once_and_the_books_agree(seed):
    random = Random(seed)
    held, sent, last, gone, wanted = HeldJobs(), [], 0, [], set()
    for _ in range(2000):
        event = random.choice(
            ["take", "take", "send", "send", "finish", "back", "stop", "withdraw", "give", "close"]
        )
        some = [random.randint(max(1, last - 20), max(1, last)) for _ in range(random.randint(1, 4))]
        if event == "take":
            new = [job(last + i, random.randint(1, 3)) for i in range(1, random.randint(2, 6))]
            last = new[-1].dispatch
            wanted.update(each.dispatch for each in new)
            gone += held.take(new, 0.0)
        elif event == "send" and held.backlog:
            sent.append(held.backlog.popleft())
        elif event == "finish" and sent:
            done = sent.pop(0)
            held.forget([done.dispatch])
            gone.append(done.dispatch)
        elif event == "back" and sent:
            gone += held.put_back([sent.pop() for _ in range(random.randint(1, len(sent)))])
        elif event == "stop":
            gone += held.stop(some)
        elif event == "withdraw":
            gone += held.withdraw(some)
        elif event == "give":
            gone += held.give_back(random.randint(1, 3))
        elif event == "close" and random.random() < 0.05:
            gone += held.stop(held.close_session(random.randint(1, 3)))
        held.check_invariants(sent)
        assert len(gone) == len(set(gone)) and wanted == set(gone) | set(held.by_dispatch)
