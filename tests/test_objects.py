"""The books of what a peer has been sent: after any events it has what its jobs need, within the bounds."""

import math
import random
from typing import NamedTuple

import pytest

from cw.client.session import objects as client_objects
from cw.client.session.objects import ObjectTable
from cw.errors import Error, ProtocolError
from cw.net import messages as m
from cw.net.objects import NEED_BYTES, Object, ObjectCache, ObjectSet, SessionObjects, closure, named_by
from cw.requirements import NO_OPTIONS, JobOptions


def value(number, *needs, size=1):
    return Object(number, bytes(size), m.VALUE, needs)


def function(number, *needs, size=1):
    return Object(number, bytes(size), m.FUNCTION, needs)


def sent(messages):
    """The numbers that messages tell: those to forget, and those that come."""
    forgotten = [n for message in messages if type(message) is m.Forget for n in message.numbers]
    return sorted(forgotten), [
        n for message in messages if type(message) is m.Objects for n in message.numbers
    ]


def options(number, **given):
    return Object(number, JobOptions(**given).to_wire(), m.OPTIONS)


class Job(NamedTuple):
    function: Object
    options_object: Object | None = None


def test_what_an_object_needs_is_sent_before_it_and_each_once():
    base = value(1)
    middle = value(2, base)
    f, g = function(3, middle, base), function(4, base)
    cache = ObjectCache()
    (message,) = cache.prepare([f, g])
    assert message == m.Objects([0] * 4, [1, 2, 3, 4], [1, 1, 0, 0], [[], [1], [2, 1], [1]], [b"\0"] * 4)
    assert cache.prepare([f, g]) == []
    assert sent(cache.prepare([function(5, middle)])) == ([], [5])


def test_of_too_many_bytes_the_oldest_give_way_but_nothing_that_is_in_use():
    cache = ObjectCache(most_bytes=800)
    shared = value(1, size=100)
    functions = [function(n, shared, size=100 - NEED_BYTES) for n in range(2, 12)]
    assert sent(cache.prepare(functions[:7])) == ([], [1, 2, 3, 4, 5, 6, 7, 8])
    assert sent(cache.prepare([functions[7]])) == (
        [2, 3],
        [9],
    )  # and an eighth more; the shared one is in use
    assert shared in cache and cache.size == 700
    assert sent(cache.prepare([functions[0]]))[1] == [2]  # which comes again when a job calls it again
    # One that is needed by what is being sent stays, however old it is.
    assert sent(cache.prepare([functions[8], functions[2]])) == ([5, 6], [10])


def test_jobs_name_their_functions_and_their_options_each_once():
    f, g, careful = function(1), function(2), options(3, attempts=1)
    assert list(named_by([Job(f), Job(g, careful), Job(f, careful), Job(g)])) == [f, g, careful]


def test_options_are_sent_once_and_give_way_as_other_objects_do():
    cache, f = ObjectCache(most_objects=8), function(1)
    sets = [options(2 + n, timeout=1 + n) for n in range(8)]
    (message,) = cache.prepare(named_by([Job(f, sets[0])]))
    assert (message.numbers, message.kinds) == ([1, 2], [m.FUNCTION, m.OPTIONS])
    assert message.payloads[1] == b'{"timeout":1.0}'
    assert cache.prepare(named_by([Job(f, sets[0])])) == []
    for each in sets[1:]:
        cache.prepare(named_by([Job(f, each)]))
    assert f in cache and sets[7] in cache and sets[0] not in cache and len(cache) <= 8


def test_options_are_opened_when_they_come():
    here = SessionObjects(7)
    came = here.add(2, m.OPTIONS, (), b'{"attempts":5,"timeout":2}')
    assert came.options == JobOptions(attempts=5, timeout=2.0)
    assert here.add(3, m.VALUE, (), b'{"attempts":5}').options is None
    back = SessionObjects(7, here.by_number)  # its owner was away, and sends them again
    assert back.add(2, m.OPTIONS, (), memoryview(b'{"attempts":5,"timeout":2}')) is came
    for payload in b"", b'{"attempts":0}', b'{"colour":1}', b" " * 5000:
        with pytest.raises(ProtocolError, match="option"):
            here.add(4, m.OPTIONS, (), payload)


def test_an_object_larger_than_the_bound_is_kept_alone():
    cache = ObjectCache(most_bytes=800)
    cache.prepare([function(1, value(2, size=100))])
    large = function(3, value(4, size=900))
    assert sent(cache.prepare([large])) == ([1, 2], [4, 3])
    assert sent(cache.prepare([function(5)])) == ([3, 4], [5])


def test_too_many_objects_give_way_too_and_environments_stay():
    cache = ObjectCache(most_objects=16)
    environment = Object(1, b"", m.ENVIRONMENT)
    for number in range(2, 100):
        cache.prepare([function(number, environment)])
        assert len(cache) <= 16 and environment in cache
    assert sent(cache.prepare([function(100, environment)]))[1] == [100]


def test_what_needs_a_forgotten_object_is_forgotten_with_it_and_both_are_sent_again():
    cache = ObjectCache()
    base = value(1)
    middle = value(2, base)
    f, other = function(3, middle), function(4)
    cache.prepare([f, other])
    assert sent(cache.forget([base.key, (0, 99)])) == ([1, 2, 3], [])
    assert other in cache and cache.forget([base.key]) == []
    assert sent(cache.prepare([f])) == ([], [1, 2, 3])
    assert sent(cache.forget([f.key, middle.key])) == ([2, 3], [])
    assert base in cache


def test_a_session_that_is_over_leaves_nothing():
    cache = ObjectCache()
    for session in (1, 2):
        need = Object(1, b"x", m.VALUE, (), session)
        cache.prepare([Object(2, b"y", m.FUNCTION, [need], session)])
    cache.forget_session(1)
    assert len(cache) == 2 and cache.size == 2 + NEED_BYTES
    cache.check_invariants()


def test_a_chain_of_needs_may_be_long():
    item = value(0)
    for number in range(1, 5000):
        item = value(number, item)
    assert [found.number for found in closure([item])] == list(range(5000))


def test_functions_with_the_same_code_share_their_estimate():
    environment = Object(1, b"", m.ENVIRONMENT)
    code = value(2)
    first = function(4, code, value(3), environment)
    second = function(6, environment, code, value(5))  # a global that it reads has changed
    assert first.estimate is second.estimate and first.estimate.seconds == math.inf
    assert function(7, environment).estimate is not function(8, environment).estimate
    assert first.environment is second.environment is environment and code.environment is None
    assert (first.runs_in, second.runs_in, code.runs_in) == (1, 1, 0)


def test_what_comes_again_is_the_same_object_unless_it_differs():
    objects = SessionObjects(7)
    need = objects.add(1, m.VALUE, [], b"need")
    known = objects.add(2, m.FUNCTION, [1], b"f")
    assert known.key == (7, 2) and known.needs == (need,) and objects.size == 5 + NEED_BYTES
    assert objects.add(2, m.FUNCTION, [1], b"f") is known and objects.size == 5 + NEED_BYTES
    again = SessionObjects(7, objects.by_number)
    assert again.add(1, m.VALUE, [], b"other") is not need
    assert again.add(2, m.FUNCTION, [1], b"f") is known
    again.forget_former()
    assert objects.forget([1, 1, 9]) == [need] and objects.size == 1 + NEED_BYTES


def test_an_object_whose_need_is_not_here_is_refused():
    objects = SessionObjects()
    with pytest.raises(ProtocolError, match="object 2 needs object 1"):
        objects.add(2, m.FUNCTION, [1], b"f")
    assert not objects.by_number and not objects.size


@pytest.mark.parametrize("seed", range(20))
def test_after_random_events_a_peer_has_what_its_jobs_need(seed):
    chance = random.Random(seed)
    cache, peer = ObjectCache(most_bytes=4000, most_objects=60), SessionObjects()
    environment = Object(1, b"e", m.ENVIRONMENT)
    objects = [environment]
    for number in range(2, 150):
        needs = [environment, *chance.sample(objects, min(len(objects), chance.randrange(4)))]
        kind = chance.choice([m.FUNCTION, m.VALUE])
        objects.append(Object(number, bytes(chance.choice([1, 10, 100, 1000])), kind, needs))
    for _ in range(300):
        wanted = chance.sample(objects, chance.randrange(1, 4))
        if chance.random() < 0.3:
            messages = cache.forget([item.key for item in wanted])
        else:
            messages = cache.prepare(wanted)
        for message in messages:
            if type(message) is m.Forget:
                assert len(peer.forget(message.numbers)) == len(message.numbers)
            else:
                for entry in zip(*message[1:], strict=True):
                    peer.add(*entry)  # raises if a need is not there
        cache.check_invariants()
        assert {item.number for item in cache._objects.values()} == set(peer.by_number)
        assert cache.size == peer.size
        if messages and type(messages[-1]) is m.Objects:
            needed = closure(wanted)
            assert all(item in cache for item in needed)
            assert cache.size <= max(4000, sum(item.size for item in needed))


def test_evicting_keeps_what_others_need():
    items = ObjectSet()
    base, top = value(1, size=100), None
    items.add(base)
    top = value(2, base, size=100)
    items.add(top)
    assert items.evict([top], 0, 0) == [] and items.evict([base], 0, 0) == [top]
    assert items.evict([], 0, 0) == [base] and not items.size


# --- the client's own -------------------------------------------------------------------------


@pytest.fixture
def table():
    return ObjectTable(lambda: b"here")


def add_function(table, payload, *needs):
    return table.add(m.FUNCTION, [*needs, table.environment], payload)


def test_the_same_content_has_the_same_number_and_another_kind_or_need_another(table):
    value = table.add(m.VALUE, [], b"same")
    other = table.add(m.VALUE, [], b"other")
    numbers = [
        value, other, add_function(table, b"same"), add_function(table, b"same", value),
        add_function(table, b"same", other), table.add(m.VALUE, [other], b"same"),
    ]  # fmt: skip
    assert len(set(numbers)) == 6
    assert table.add(m.VALUE, [], b"same") == value and add_function(table, b"same", other) == numbers[4]
    assert table.add(m.VALUE, [], b"same", digest=b"") not in numbers  # it will not come again
    assert table.add(m.VALUE, [], b"x", digest=b"x") == table.add(m.VALUE, [], b"y", digest=b"x")


def test_the_environment_is_taken_when_first_asked_for_and_when_renewed():
    taken = []
    table = ObjectTable(lambda: taken.append(1) or b"here")
    table.renew_environment()
    assert not taken
    first = table.environment
    assert table.environment == first and len(taken) == 1
    table.renew_environment()
    assert table.environment != first and len(taken) == 2  # another number for the same bytes


def test_an_environment_that_cannot_be_taken_is_told_and_tried_again():
    failures = [Error("the working directory is gone")]

    def take():
        if failures:
            raise failures.pop()
        return b"here"

    table = ObjectTable(take)
    with pytest.raises(Error, match="gone"):
        table.environment  # noqa: B018
    assert table.get(table.environment).payload == b"here"


def test_what_is_dropped_goes_when_no_job_needs_it_with_all_that_needs_it(table):
    told, gone = [], []
    table.on_dropped = lambda: told.append(1)
    table.on_forgotten.append(gone.append)
    value = table.add(m.VALUE, [], bytes(1000))
    f, g, h = (add_function(table, name, *needs) for name, *needs in [(b"f", value), (b"g", value), (b"h",)])
    table.forget([value])
    table.forget([h])
    assert told == [1]
    assert table.forget_dropped([f, h]) == [] and table.dropped_size() > 1000
    assert {item.number for item in table.forget_dropped([h])} == {value, f, g} == gone[0]
    assert table.get(h).payload == b"h" and table.size < 100
    with pytest.raises(KeyError):
        table.get(value)
    assert add_function(table, b"f") > h  # a number is not given out again
    assert {item.number for item in table.forget_dropped([])} == {h} and not table.dropped_size()
    table.forget([h, value, 999])
    assert table.forget_dropped([]) == [] and len(told) == 2


def test_what_is_added_again_is_kept(table):
    value = table.add(m.VALUE, [], b"value")
    need = table.add(m.VALUE, [], b"need")
    table.forget([value, need])
    assert table.add(m.VALUE, [], b"value") == value
    add_function(table, b"f", need)
    assert table.forget_dropped([]) == []


def test_what_no_job_uses_is_forgotten_the_oldest_first_and_nothing_that_is_needed(monkeypatch):
    monkeypatch.setattr(client_objects, "KEPT_OBJECTS", 10)
    table = ObjectTable(lambda: b"here")
    environment = table.environment
    value = table.add(m.VALUE, [], b"value")
    functions = []
    while not table.is_full:
        functions.append(add_function(table, bytes([len(functions)]), value))
    gone = [item.number for item in table.forget_unused(functions[1:3])]
    assert not table.is_full and gone == [functions[0], *functions[3:8]]
    assert table.environment == environment and table.get(value).payload == b"value"
    assert add_function(table, bytes([1]), value) == functions[1]


def test_the_same_options_have_the_same_number_while_a_job_needs_them(monkeypatch):
    monkeypatch.setattr(client_objects, "KEPT_OBJECTS", 10)
    table = ObjectTable(lambda: b"here")
    assert table.options_number(NO_OPTIONS) == 0 and not len(table)
    careful = table.options_number(JobOptions(attempts=1))
    assert table.options_number(JobOptions(attempts=1)) == careful == 1
    assert table.get(careful).options == JobOptions(attempts=1)
    timeouts = []
    while not table.is_full:
        timeouts.append(table.options_number(JobOptions(timeout=1 + len(timeouts))))
    gone = [item.number for item in table.forget_unused([careful, timeouts[1]])]
    assert gone == [timeouts[0], *timeouts[2:7]]
    assert table.options_number(JobOptions(attempts=1)) == careful
    assert table.options_number(JobOptions(timeout=2)) == timeouts[1]
    assert (
        table.options_number(JobOptions(timeout=1)) == timeouts[-1] + 1
    )  # its former number is not given out again


def test_where_all_are_in_use_the_table_grows_and_asks_less_often(monkeypatch):
    monkeypatch.setattr(client_objects, "KEPT_OBJECTS", 10)
    table, asked = ObjectTable(lambda: b"here"), 0
    for i in range(1000):
        add_function(table, str(i).encode())
        if table.is_full:
            asked += 1
            assert table.forget_unused(range(10_000)) == []
    assert asked < 10


def test_the_bound_counts_bytes_too(monkeypatch):
    monkeypatch.setattr(client_objects, "KEPT_BYTES", 100_000)
    table = ObjectTable(lambda: b"here")
    for i in range(10):
        add_function(table, bytes([i]) * 20_000)
        if table.is_full:
            table.forget_unused(())
        assert table.size <= 120_000


# --- shared values ----------------------------------------------------------------------------


def shared(number, size=100):
    return Object(number, bytes(size), m.SHARED)


def test_shared_values_have_a_bound_of_their_own_and_the_least_recently_used_goes():
    cache = ObjectCache(most_bytes=800)
    cache.most_shared = 250
    first, second, third = shared(1), shared(2), shared(3)
    f, g, h = function(4, first), function(5, second), function(6, third)
    cache.prepare([f])
    cache.prepare([g])
    assert (cache.shared_size, cache.size) == (200, 2 * (NEED_BYTES + 1))
    cache.prepare([f])  # used again
    assert sent(cache.prepare([h])) == ([2, 5], [3, 6])
    assert sent(cache.prepare([g])) == ([1, 4], [2, 5])  # it comes again, and what is needed less goes
    cache.check_invariants()


def test_a_shared_value_above_the_bound_is_kept_alone_and_what_is_needed_stays():
    cache = ObjectCache()
    cache.most_shared = 250
    cache.prepare([function(3, shared(1)), function(4, shared(2))])
    assert sent(cache.prepare([function(6, shared(5, size=1000))])) == ([1, 2, 3, 4], [5, 6])
    both = function(9, shared(7, size=200), shared(8, size=200))
    assert sent(cache.prepare([both])) == ([5, 6], [7, 8, 9])
    assert cache.shared_size == 400


def test_a_shared_value_that_comes_again_is_not_compared_byte_by_byte():
    here = SessionObjects(7)
    came = here.add(1, m.SHARED, (), bytes(100))
    assert (here.size, here.shared_size) == (0, 100)
    back = SessionObjects(7, here.by_number)
    assert back.add(1, m.SHARED, (), bytearray(100)) is came
    assert back.add(2, m.SHARED, (), b"x") is not came
    assert back.forget([1, 2])[0] is came and back.shared_size == 0


def test_at_random_the_books_of_shared_values_are_right():
    rng = random.Random(4)
    for _ in range(30):
        cache = ObjectCache(most_bytes=2000, most_objects=40)
        cache.most_shared = 500
        there: set[int] = set()
        values = [shared(n, size=rng.randrange(1, 300)) for n in range(1, 12)]
        functions = [function(n, *rng.sample(values, rng.randrange(3))) for n in range(20, 50)]
        for _ in range(100):
            wanted = rng.sample(functions, rng.randrange(1, 3))
            messages = (
                cache.prepare(wanted) if rng.random() < 0.9 else cache.forget([(0, rng.randrange(1, 50))])
            )
            for message in messages:
                if type(message) is m.Forget:
                    assert there.issuperset(message.numbers)
                    there.difference_update(message.numbers)
                else:
                    for number, needs in zip(message.numbers, message.needs, strict=True):
                        assert there.issuperset(needs) and number not in there
                        there.add(number)
            cache.check_invariants()
            needed = {need.key: need.shared_size for each in wanted for need in each.needs}
            came = [kind for message in messages if type(message) is m.Objects for kind in message.kinds]
            assert m.SHARED not in came or cache.shared_size <= max(500, sum(needed.values()))
