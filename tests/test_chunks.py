"""Calls that travel together: each has a fresh function and fresh arguments."""

import gc
import pickle
import sys
import weakref

import pytest

from cw.errors import JobTimeout, NotPicklable
from cw.payloads import chunks, current, serialize, shared
from cw.payloads.chunks import Chunk, Same
from cw.runner import leftovers, runner


def chunk_of(calls, function=None, state=None):
    chunk = Chunk(function, state)
    for args in calls:
        chunk.add(args)
    return chunk


def run(make, calls, function=None, state=None):
    return chunks.run(make, chunk_of(calls, function, state).payload())


def append(acc, item=1):
    acc.append(item)
    return list(acc)


def test_plain_calls_travel_as_one_pickle():
    payload = chunk_of([(1, "a"), (2, "b")]).payload()
    assert len(payload) < len(pickle.dumps([(1, "a"), (2, "b")])) + 20
    assert chunks.run(lambda state: lambda n, text: text * n, payload) == (["a", "bb"], None)


def echo(value):
    return value


def columns_of(*columns, **settings):
    chunk = Chunk(**settings)
    if chunks.are_plain(columns):
        chunk.add_columns(columns)
    else:
        chunk.add_all(zip(*columns, strict=True))
    return chunk


@pytest.fixture(params=["made for each call", "the same for all"])
def maker(request):
    """Return what makes the function of a chunk's calls."""
    return Same if request.param == "the same for all" else lambda function: lambda state: function


def test_calls_that_were_read_ahead_travel_in_columns(maker):
    columns = [1, 2] * 50, ["a", "b"] * 50
    chunk = columns_of(*columns)
    payload = chunk.payload()
    assert len(chunk) == 100 and len(payload) < len(chunk_of(zip(*columns, strict=True)).payload()) * 3 / 4
    for run in chunks.run, lambda *args: ([serialize.load(each[2]) for each in chunks.run_each(*args)], None):
        assert run(maker(lambda n, text: text * n), payload) == (["a", "bb"] * 50, None)


def test_columns_with_arguments_that_can_change_are_pickled_call_by_call(maker):
    small = [0]
    results, error = chunks.run(maker(append), columns_of([small, small], [1, 2]).payload())
    assert error is None and results == [[0, 1], [0, 2]]


def test_columns_without_calls(maker):
    assert chunks.run(maker(echo), columns_of([]).payload()) == ([], None)


def test_an_error_in_columns_ends_the_chunk_after_the_results_before_it(maker):
    def fail(number):
        if number == 2:
            raise StopIteration("the call's own")
        return number

    results, error = chunks.run(maker(fail), columns_of([0, 1, 2, 3]).payload())
    assert results == [0, 1]
    assert type(chunks.load_error(error, 5, 3)) is StopIteration


def test_an_exception_that_a_call_returns_is_freed_with_the_results(maker):
    class Kept(Exception):
        pass

    def fail(number):
        try:
            raise Kept(number)
        except Kept as error:
            return error

    payload = columns_of([0, 1]).payload()
    gc.disable()
    try:
        results, _ = chunks.run(maker(fail), payload)
        references = list(map(weakref.ref, results))
        del results
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()


def test_between_calls_of_columns_all_is_as_between_jobs(maker, monkeypatch):
    cleared = []

    def look(number):
        seen = dict(shared.values), current.chunk[0][:]
        shared.values["left"] = number
        if number == 1:
            monkeypatch.setattr(current, "clear_timers", lambda: cleared.append(number))
        if number == 2:
            monkeypatch.setattr(current, "clear_timers", None)
        if number == 3:
            monkeypatch.setattr(current, "is_interrupted", True)
        current.due.add("something")
        return seen

    monkeypatch.setattr(shared, "values", {})
    monkeypatch.setattr(current, "is_interrupted", False)
    results, error = chunks.run(maker(look), columns_of([0, 1, 2, 3, 4]).payload())
    assert [values for values, _ in results] == [{}] * 4
    assert [len(before) for _, before in results] == [0, 1, 2, 3]
    assert cleared == [1]
    assert type(chunks.load_error(error, 5, 5)) is JobTimeout


def share_one():
    shared.take("cw-shared-one", 1, pickle.dumps(1))
    return shared.value_of("cw-shared-one")


def interrupt():
    with pytest.raises(KeyboardInterrupt):
        runner.on_sigint(2, None)


@pytest.mark.parametrize("act", [share_one, interrupt, leftovers._noting(lambda: None)])
def test_what_must_be_looked_at_before_the_next_call_of_columns_is_marked(act, monkeypatch):
    for name in "is_interrupted", "clear_timers":
        monkeypatch.setattr(current, name, getattr(current, name))
    current.due.clear()
    act()
    assert current.due


def test_a_range_travels_as_its_ends(maker):
    payloads = [columns_of(range(0, 3 * count, 3), [1] * count).payload() for count in (1000, 100_000)]
    assert len(payloads[0]) - len(columns_of([1] * 1000).payload()) < 100
    results, error = chunks.run(maker(lambda a, b: a + b), payloads[1])
    assert error is None and results == list(range(1, 300_001, 3))


def test_a_plain_call_costs_no_other_call_in_python():
    def cost(count):
        payload = columns_of(list(range(count))).payload()
        entered = []
        sys.setprofile(lambda frame, event, _: event == "call" and entered.append(frame.f_back))
        try:
            chunks.run(Same(echo), payload)
        finally:
            sys.setprofile(None)
        return sum(frame.f_code.co_filename == chunks.__file__ for frame in entered)  # (not what gc calls)

    assert cost(200) - cost(100) == 100


def test_a_chunk_whose_time_is_over_begins_no_further_call(maker):
    for calls in [[(n,) for n in range(5)], [([n],) for n in range(5)]]:
        for seconds, count in (None, 5), (1000.0, 5), (-1.0, 1):
            chunk = Chunk(seconds=seconds)
            chunk.add_all(calls)
            columns = columns_of(*zip(*calls, strict=True), seconds=seconds)
            for each in chunk, columns:
                results, error = chunks.run(maker(echo), each.payload())
                assert error is None and results == [n for (n,) in calls][:count]


def test_each_call_has_its_own_copy_of_an_argument_that_several_have():
    small, large = [0], list(range(5000))
    for common in small, large:
        results, error = run(lambda state: append, [(common, n) for n in range(3)])
        assert error is None and results == [[*common, n] for n in range(3)]


def test_a_large_argument_of_many_calls_is_pickled_once():
    large = list(range(5000))
    one = len(chunk_of([(large, 0)]).payload())
    assert len(chunk_of([(large, n) for n in range(100)]).payload()) < one + 20_000


def test_within_a_call_a_shared_argument_is_one_object():
    for common in [0], list(range(5000)):
        results, _ = run(lambda state: lambda a, b: a is b, [(common, common)] * 2)
        assert results == [True, True]


def test_a_large_argument_that_is_part_of_another_in_the_same_call_is_one_object():
    inner = list(range(5000))
    results, _ = run(lambda state: lambda a, b: b["inner"] is a, [(inner, {"inner": inner})] * 2)
    assert results == [True, True]


def test_each_call_gets_its_own_large_arguments_in_their_order():
    large = [[n] * 5000 for n in range(8)]
    calls = [tuple(large), tuple(reversed(large)), tuple(large[2:] + large[:2])]
    results, _ = run(lambda state: lambda *args: [arg[0] for arg in args], calls)
    assert results == [[arg[0] for arg in args] for args in calls]


def test_equal_arguments_of_a_call_stay_two_objects():
    for size in 1, 5000:
        results, _ = run(lambda state: lambda a, b: a is b, [([0] * size, [0] * size)] * 2)
        assert results == [False, False]


def test_a_state_is_fresh_for_each_call_and_shares_with_its_arguments():
    held = [0]
    state = serialize.Pickled((held,))
    results, error = run(lambda held: lambda a: (append(held), a is held), [(held,), (held,)], None, state)
    assert error is None and results == [([0, 1], True)] * 2


def test_arrays_are_fresh_and_writable_in_each_call():
    numpy = pytest.importorskip("numpy")
    shared = numpy.zeros(50_000)

    def add(array):
        array += 1
        return float(array.sum())

    assert run(lambda state: add, [(shared,)] * 3)[0] == [50_000.0] * 3
    assert shared.sum() == 0


def test_the_first_error_ends_a_chunk_and_the_others_come_with_it():
    results, error = run(lambda state: lambda n: 1 // n, [(2,), (0,), (1,)])
    assert results == [0]
    assert type(chunks.load_error(error, 5, 2)) is ZeroDivisionError


def test_each_call_has_an_outcome_of_its_own():
    outcomes = chunks.run_each(lambda state: lambda n: 1 // n, chunk_of([(2,), (0,), (1,)]).payload())
    assert [status for status, _, _ in outcomes] == [outcomes[0][0], outcomes[1][0], outcomes[0][0]]
    assert serialize.load_result(outcomes[2][2]) == 1
    assert "call 2" in str(chunks.load_error(outcomes[1][2], 7, 2).__cause__)


def test_an_argument_that_cannot_be_pickled_refuses_the_chunk():
    with pytest.raises(NotPicklable, match="lock"):
        chunk_of([([1],), ([__import__("threading").Lock()],)])


def test_names_that_arguments_refer_to_are_noted(script):
    names = script("class C: pass\nclass D: pass")
    chunk = chunk_of([(names["C"](),), (names["D"],), ([names["C"]()],)])
    assert set(chunk.names) == {"C", "D"}


@pytest.mark.parametrize("mode", [1, 2])
def test_calls_of_a_chunk_are_apart_in_a_runner(runner, script, mode):
    names = script(
        "class Walk:\n    def __init__(self): self.seen = []\n"
        "    def step(self, n): self.seen.append(n); return self.seen"
    )
    found = runner.map(names["Walk"]().step, [1, 2, 3], mode)
    if mode == 1:
        assert found == ([[1], [2], [3]], None)
    else:
        assert [serialize.load_result(payload) for _, _, payload in found] == [[1], [2], [3]]
