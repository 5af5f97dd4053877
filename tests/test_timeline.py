"""The timeline: calls of a host in as few rows as it had busy slots, in bounded memory."""

import heapq
import random

import pytest

from cw.report import timeline as module
from cw.report.timeline import MOST_DRAWN, SEVERAL, SLACK, Timeline


def scheduled(rng, slots, calls, mean=1.0, functions="f"):
    """Calls of a host with so many slots, as (start, end, function) in order of their ends."""
    free = [0.0] * slots
    found = []
    for _ in range(calls):
        start = heapq.heappop(free) + rng.expovariate(50)
        end = start + rng.lognormvariate(0, 1) * mean
        found.append((start, end, rng.choice(functions)))
        heapq.heappush(free, end)
    return sorted(found, key=lambda call: call[1])


def bars(timeline):
    return [[(bar.start, bar.end, bar.function) for bar in row.bars] for row in timeline.rows(MOST_DRAWN)]


@pytest.mark.parametrize("slots", [1, 2, 7, 40])
def test_calls_take_as_many_rows_as_there_were_slots(slots, monkeypatch):
    monkeypatch.setattr(module, "SLACK", 0)
    monkeypatch.setattr(module, "SLACK_SHARE", 0)
    timeline = Timeline()
    calls = scheduled(random.Random(slots), slots, 900)
    for start, end, function in calls:
        assert timeline.add("node1", start, end, function) == (start, end)
    timeline.check_invariants()
    assert timeline.count == timeline.rows_of("node1") == slots
    assert sorted(bar for row in bars(timeline) for bar in row) == sorted(calls)


def test_a_long_call_that_ends_last_does_not_need_a_third_row():
    # Two slots. A short call takes the row whose last call ended latest, so that the long one finds the other.
    timeline = Timeline()
    for start, end in [(0, 1), (0, 2), (2.5, 3), (1.5, 4)]:
        timeline.add("node1", start, end, "f")
    assert bars(timeline) == [[(0, 1, "f"), (1.5, 4, "f")], [(0, 2, "f"), (2.5, 3, "f")]]


def test_results_that_arrive_a_little_late_need_no_more_rows():
    rng = random.Random(4)
    timeline, late = Timeline(), []
    for start, end, function in scheduled(rng, 8, 2000):
        delay = rng.uniform(0, SLACK / 3)
        late.append((start + delay, end + delay, function))
    for start, end, function in sorted(late, key=lambda call: call[1]):
        assert timeline.add("node1", start, end, function)[0] <= start + max(SLACK, end * module.SLACK_SHARE)
    timeline.check_invariants()
    assert timeline.count <= 9  # (10 or 11 if each call must fit exactly)


def test_calls_whose_results_arrive_together_are_drawn_one_after_the_other():
    timeline = Timeline()
    step = SLACK / 8
    for _ in range(4):  # all of them seem to have begun at 10
        timeline.add("node1", 10, 10 + step, "f")
    ((*starts,),) = [[bar.start for bar in row.bars] for row in timeline.rows(9)]
    assert starts == pytest.approx([10, 10 + step, 10 + 2 * step, 10 + 3 * step])


def test_rows_are_bounded_and_the_first_of_each_host_come_first():
    timeline = Timeline()
    hosts = [f"node{number}" for number in range(30)]
    for slot in range(20):
        for host in hosts:
            timeline.add(host, slot / 1000 - 10, slot / 1000, "f")
    timeline.check_invariants()
    assert timeline.count == 600
    shown = timeline.rows(MOST_DRAWN)
    assert {row.host for row in shown} == set(hosts) and max(row.number for row in shown) == 1
    assert [row.host for row in timeline.rows(11)] == [*hosts[:1], *hosts[1:2], *hosts[10:19]]
    assert [row.host for row in shown[:4]] == ["node0", "node0", "node1", "node1"]


def test_neighbours_become_one_bar_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(module, "MOST_BARS", 100)
    timeline = Timeline()
    rng = random.Random(3)
    calls = scheduled(rng, 4, 5000, functions=["f", "g"])
    for start, end, function in calls:
        timeline.add("node1", start, end, function)
        if rng.random() < 0.02:
            timeline.check_invariants()
    assert timeline.count == 4 and timeline.width > 0 and timeline.has_mixed_bars
    drawn = [bar for row in timeline.rows(9) for bar in row.bars]
    assert {bar.function for bar in drawn} <= {"f", "g", SEVERAL}
    # What is drawn covers all that ran, and not much more.
    ran, shown = sum(end - start for start, end, _ in calls), sum(bar.end - bar.start for bar in drawn)
    assert ran <= shown + 1e-6 and shown <= ran + timeline.width * 5000 * 0.05


def test_calls_beyond_the_last_row_are_counted(monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 3)
    timeline = Timeline()
    for _ in range(5):
        timeline.add("node1", 0, 10, "f", calls=2)
    assert timeline.count == 3 and timeline.left_out == 4
    timeline.check_invariants()


def test_any_order_of_calls_keeps_the_invariants(monkeypatch):
    monkeypatch.setattr(module, "MOST_BARS", 60)
    rng = random.Random(9)
    for _ in range(30):
        timeline = Timeline()
        for _ in range(300):
            end = rng.uniform(0, 100)
            timeline.add(
                f"node{rng.randrange(5)}",
                end - 10 ** rng.uniform(-3, 2),
                end,
                rng.choice("fgh"),
                1,
                rng.random() < 0.1,
            )
        timeline.check_invariants()
