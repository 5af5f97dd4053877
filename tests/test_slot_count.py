"""The number of the cluster's slots: the master is asked, not often, and nobody waits for it for long."""

import signal
import threading
import time

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT, Master, Worker

import cw
from cw.client import slot_count
from cw.client.slot_count import SlotCount
from cw.launch import status_client


@pytest.fixture
def kept_for_no_time(monkeypatch):
    monkeypatch.setattr(slot_count, "KEPT_SECONDS", 0.0)


def test_the_slots_of_all_workers_are_counted_as_they_come_and_go(kept_for_no_time):
    with Master() as master, cw.ClusterExecutor(f"localhost:{master.port}") as executor:
        assert (executor.slots(), executor._max_workers) == (0, 1)  # (a pool has one worker at least)
        with Worker(f"localhost:{master.port}", "-n", "3"), Worker(f"localhost:{master.port}") as second:
            assert executor.slots() == executor._max_workers == 4
            second.end()
            wait_until(lambda: executor.slots() == 3, LIMIT)


def test_a_callback_may_ask_and_the_last_answer_outlives_the_master(kept_for_no_time):
    seen = []
    with cw.mp.allocate(2):
        executor = cw.ClusterExecutor()
        done = executor.submit(jobs.square, 1)
        done.add_done_callback(lambda future: seen.append(executor.slots()))
        wait_until(lambda: seen == [2], LIMIT)
        executor.shutdown()
        assert executor.slots() == 2
    assert executor.slots() == 2


def test_a_master_that_does_not_answer_holds_nobody_up_for_long(monkeypatch):
    monkeypatch.setattr(slot_count, "ANSWER_SECONDS", 0.2)
    with Master() as master, Worker(f"localhost:{master.port}", "-n", "3"):
        count = SlotCount(lambda: f"localhost:{master.port}")
        assert count.get() == 3
        master.send_signal(signal.SIGSTOP)
        count._kept_until = 0.0
        began = time.monotonic()
        assert count.get() == count.get() == 3  # the second does not ask again
        assert time.monotonic() - began < LIMIT / 2
        master.send_signal(signal.SIGCONT)
    wait_until(lambda: "cw-slots" not in [thread.name for thread in threading.enumerate()], LIMIT)


def test_before_an_answer_what_is_known_otherwise_counts():
    assert SlotCount(lambda: "127.0.0.1:1", 7).get() == 7
    assert SlotCount(lambda: "127.0.0.1:1").get() == 0


def test_an_answer_is_kept(monkeypatch):
    asked = []
    monkeypatch.setattr(status_client, "ask", lambda candidates, seconds: asked.append(candidates))
    count = SlotCount(lambda: "[::1]:5")
    assert [count.get() for _ in range(100)] == [0] * 100
    assert [[(c.host, c.port) for c in candidates] for candidates in asked] == [[("::1", 5)]]
