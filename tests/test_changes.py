"""What happened between two snapshots."""

from dataclasses import replace

import pytest
from snapshots import NOW, sample

from cw.top.changes import EVENTS, Event, History, changes


def said(before, after):
    return [event.text for event in changes(before, after)]


def test_nothing_happened():
    assert said(sample(), replace(sample(), at=NOW + 1)) == []


def test_workers_join_and_leave_and_drain():
    all_three = sample()
    two = replace(all_three, workers=all_three.workers[:2])
    assert said(two, all_three) == ["worker joined: node8:100 (4 slots)"]
    assert said(all_three, two) == ["worker left: node8:100"]
    first, *others = all_three.workers
    draining = replace(all_three, workers=(replace(first, is_draining=True), *others))
    assert said(all_three, draining) == ["worker drains: node7:100"]


def test_many_workers_are_one_event():
    workers = [replace(sample().workers[0], key=f"{n:032x}") for n in range(20)]
    assert said(replace(sample(), workers=()), replace(sample(), workers=tuple(workers))) == []
    nobody = replace(sample(), workers=(), totals=replace(sample().totals, workers=0))
    assert said(nobody, replace(sample(), workers=tuple(workers))) == ["20 workers joined"]


def test_workers_that_are_not_listed_are_counted():
    def of(count):
        return replace(sample(), workers=(), totals=replace(sample().totals, workers=count))

    assert said(of(900), of(1000)) == ["900 workers are now 1000"]


def test_losses_and_failures_are_told_once_the_oldest_first():
    now = sample()
    later = tuple(replace(job, at=job.at + 0.01) for job in now.failures)  # a clock that was read anew
    assert said(now, replace(now, failures=later)) == []
    before = replace(now, failures=now.failures[2:], losses=())
    assert said(before, now) == [
        "worker lost: node9:100: silent for 30 s",
        "Model.analyse #9 failed on node8: ZeroDivisionError: division by zero",
        "simulate #16 failed on node7: ValueError: no convergence",
    ]


def test_a_function_that_has_no_open_job_any_more():
    simulate, *others = sample().functions
    done = replace(simulate, waiting=0, running=0, done=3007)
    after = replace(sample(), functions=(done, *others))
    assert list(changes(sample(), after)) == [Event("simulate: no job is open; 3007 done, 3 failed", "bad")]


def test_clients_come_and_go():
    one = replace(sample(), clients=sample().clients[:1])
    assert said(one, sample()) == ["client joined: fit.py on login1, pid 4712"]
    assert said(sample(), one) == ["client left: fit.py on login1, pid 4712"]


def test_another_master():
    after = replace(sample(), master=replace(sample().master, ident="0" * 32, pid=5))
    assert said(sample(), after) == ["another master: process 5 on login1"]


@pytest.mark.parametrize("text", ["a\x1b[2Jb", "a\nb"])
def test_events_do_not_steer_a_terminal(text):
    now = sample()
    after = replace(
        now,
        functions=(replace(now.functions[0], waiting=0, running=0, name=text),),
        failures=(replace(now.failures[0], number=99, function=text, first=text, host=text),),
        losses=(replace(now.losses[0], name=text, how=text),),
        clients=(replace(now.clients[0], session="1" * 16, label=text),),
        workers=(replace(now.workers[0], key="9" * 32, name=text),),
    )
    before = replace(now, functions=(replace(now.functions[0], name=text),))
    events = said(before, after)
    assert len(events) > 6 and all(event.isprintable() for event in events)


def test_the_history_is_bounded_and_its_newest_event_is_first():
    history = History()
    history.add(sample(), "12:00:00")
    for number in range(2 * EVENTS):
        history.note(Event(f"event {number}"), "12:00:01")
    rows = history.log().rows
    assert len(rows) == EVENTS
    assert rows[0].cells[1].text == f"event {2 * EVENTS - 1}"
    assert len({row.key for row in rows}) == EVENTS


def test_the_history_has_the_busy_slots_over_time():
    history = History()
    assert history.busy(10) == ""
    for busy in (0, 6, 12):
        history.add(replace(sample(), totals=replace(sample().totals, busy=busy)), "12:00:00")
    assert history.busy(10) == "▁▅█"
    assert history.log().rows[-1].cells[1].text == "connected to login1:5494"
