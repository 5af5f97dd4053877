"""Calls of a detached run that wait for others: each goes on once, when all that it waits for has ended."""

import random

from cw.detached.awaited import Waiting
from cw.runs.calls import Awaited, CallRecord


def call(number, *keys):
    return CallRecord(number, 1, 0, b"", (), waits_for=tuple(Awaited(key) for key in keys))


def test_a_call_goes_on_when_the_last_of_its_results_is_there():
    waiting = Waiting(lambda key: False)
    both = call(3, b"a", b"b")
    assert waiting.add(both) and len(waiting) == 1
    assert waiting.on_ended(b"a") == [] and waiting.on_ended(b"a") == []
    assert waiting.on_ended(b"b") == [both] and not len(waiting)


def test_what_has_ended_before_or_came_with_the_call_is_not_waited_for():
    waiting = Waiting(lambda key: key == b"a")
    assert not waiting.add(call(3, b"a"))
    assert not waiting.add(CallRecord(4, 1, 0, b"", (), waits_for=(Awaited(b"", b"value"), Awaited(b"a"))))
    assert waiting.add(call(5, b"a", b"b"))
    assert [each.number for each in waiting.on_ended(b"b")] == [5]


def test_in_random_orders_each_call_goes_on_once():
    for seed in range(50):
        chance = random.Random(seed)
        keys = [bytes([n]) for n in range(12)]
        over = set(chance.sample(keys, 3))
        waiting = Waiting(over.__contains__)
        calls = [call(n, *chance.choices(keys, k=chance.randrange(1, 4))) for n in range(30)]
        released = [each.number for each in calls if not waiting.add(each)]
        rest = [key for key in keys if key not in over]
        chance.shuffle(rest)
        for key in rest:
            over.add(key)
            ready = waiting.on_ended(key)
            assert all({each.key for each in one.waits_for} <= over for one in ready)
            released += [one.number for one in ready]
        assert sorted(released) == list(range(30)) and not len(waiting)
