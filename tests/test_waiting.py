"""Threads that wait until something is true."""

import threading

from conftest import wait_until
from programs import LIMIT

from cw.client.session.waiting import Waiting


def test_what_is_true_is_not_waited_for():
    assert Waiting().until(lambda: True, None)


def test_the_wait_ends_when_the_time_is_up():
    assert not Waiting().until(lambda: False, 0.01)


def test_all_that_wait_look_again_when_they_are_notified():
    waiting, facts, ended = Waiting(), set(), []
    waiting.notify()  # nobody waits

    def wait(fact):
        waiting.until(lambda: fact in facts, None)
        ended.append(fact)

    threads = [threading.Thread(target=wait, args=(fact,), daemon=True) for fact in (1, 2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: waiting._count == 2, LIMIT)
    for fact in (2, 1):
        facts.add(fact)
        waiting.notify()
        wait_until(lambda fact=fact: ended[-1:] == [fact], LIMIT)
    for thread in threads:
        thread.join(LIMIT)
    assert ended == [2, 1] and not waiting._count


def test_a_forked_child_waits_though_the_lock_was_held():
    waiting = Waiting()
    waiting._condition.acquire()  # by a thread that is not there any more
    waiting.drop_after_fork()
    assert waiting.until(lambda: True, 1.0)
