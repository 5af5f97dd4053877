"""Values that can change are compared with what was sent; those that share an object go together."""

import warnings

import numpy
import pytest

import cw
from cw.client.functions import components, records
from cw.client.functions.functions import FunctionTable


def parts(table, function):
    """The labels of the components that a call reads, and their bytes."""
    prepared = table.prepare(function)
    table.number_of(function, prepared)
    return sorted(sorted(place.label for place in each.places) for each in prepared.record.components)


@pytest.fixture
def table():
    return FunctionTable()


def test_names_whose_values_share_an_object_are_one_component(table, script):
    names = script("one = [1]\nA, B, C = one, {'x': (one,)}, [1]\ndef f(): return A, B, C")
    assert parts(table, names["f"]) == [["A", "B", "one"], ["C"]]


@pytest.mark.parametrize("shared", ["(1, 2)", "'text'", "len", "b'bytes'", "re", "frozenset({1})", "f", "K"])
def test_a_shared_constant_makes_no_component_of_two(table, script, shared):
    names = script(f"import re\ndef f(): return A, B\nclass K: pass\nA, B = [{shared}], [{shared}]")
    assert parts(table, names["f"]) == [["A"], ["B"]]


def test_components_come_apart_and_together_as_values_change(runner, script):
    names = script("one = [1]\nA, B = [one], [one]\ndef f():\n    A[0].append(5)\n    return B[0]")
    f = names["f"]
    assert runner.call(f) == [1, 5]
    script("B[0] = [2]")
    assert runner.call(f) == [2]
    script("A[0] = B[0] = [3]")
    assert runner.call(f) == [3, 5]
    script("A = B")
    assert runner.call(f) == [3, 5]
    script("A, B = [[4]], [[4]]")
    assert runner.call(f) == [4]


def test_defaults_cells_and_class_attributes_share_with_globals(runner, script):
    names = script(
        """
        one = [1]
        class C:
            held = one
        def make():
            cell = one
            def g(): return cell
            return g
        g = make()
        g.__qualname__ = "g"
        def f(default=one, *, keyword=one):
            one.append(2)
            return default, keyword, C.held, g(), all(x is one for x in (default, keyword, C.held, g()))
        """
    )
    assert runner.call(names["f"]) == (*[[1, 2]] * 4, True)
    names["one"].append(7)
    assert runner.call(names["f"]) == (*[[1, 7, 2]] * 4, True)


@pytest.mark.filterwarnings("ignore::cw.UnseenChanges")
def test_nothing_is_sent_that_has_not_changed(runner, script):
    names = script(
        """
        import numpy
        BIG, OTHER = numpy.zeros(100_000), list(range(20_000))
        class Model:
            table = numpy.zeros(50_000)
            def run(self): return float(Model.table[0])
        def f(n): return float(BIG[0]), OTHER[0], n
        def g(n): return f(n), float(BIG[1])
        """
    )
    f, g, model = names["f"], names["g"], names["Model"]()
    assert runner.bytes_of(f, 1) > 800_000
    assert runner.bytes_of(f, 2) == 0
    assert runner.bytes_of(g, 1) < 20_000  # another function that reads the same
    assert 400_000 < runner.bytes_of(model.run) < 450_000
    script("OTHER[0] = 5")
    runner.functions.refresh()  # as `map` does: on a busy machine, a look may be too long for each submit
    assert 0 < runner.bytes_of(f, 1) < 200_000  # not BIG
    script("Model.table[0] = 3")
    runner.functions.refresh()
    assert runner.call(model.run) == 3
    assert runner.bytes_of(f, 1) == 0
    script("BIG[0] = 4")
    runner.functions.refresh()
    assert 800_000 < runner.bytes_of(f, 1) < 900_000
    assert runner.call(g, 1) == ((4, 5, 1), 0)


def test_what_did_not_change_is_not_touched_in_the_runner(runner, script):
    names = script(
        "A, B, C = [], 0, [[]]\n"
        "def f(): A.append(1); return len(A), B, len(C)\n"
        "def g():\n    global B\n    B += 1\n    return B\n"
        "def h(): return B"
    )
    assert [runner.call(names["f"])[0] for _ in range(3)] == [1, 2, 3]
    script("C.append(1)")
    assert runner.call(names["f"]) == (4, 0, 2)
    assert [runner.call(names["g"]) for _ in range(2)] == [1, 2]
    assert runner.call(names["h"]) == 2
    assert runner.call(names["f"]) == (5, 2, 2)
    script("B = 10")
    assert [runner.call(names["g"]), runner.call(names["h"])] == [11, 11]
    script("A.append(0)")
    assert runner.call(names["f"]) == (2, 11, 2)


def test_a_value_that_cannot_be_pickled_any_more_is_refused_and_comes_back(runner, script):
    names = script("import threading\nA = [1]\ndef f(): return A[0]")
    assert runner.call(names["f"]) == 1
    script("A.append(threading.Lock())")
    with pytest.raises(TypeError, match="lock"):
        runner.call(names["f"])
    script("A.pop(); A[0] = 2")
    assert runner.call(names["f"]) == 2


@pytest.mark.parametrize("dtype", ["f8", "i2", "S3", "O", "M8[s]", "f4"])
def test_arrays_are_compared_by_what_they_hold(runner, script, dtype):
    names = script("def f(): return A.tolist(), A.dtype.str, A.shape, A.flags.writeable")
    for value in numpy.zeros((2, 3), dtype), numpy.ones((3, 2), dtype).T, numpy.arange(4).astype(dtype)[::2]:
        names["A"] = value
        value.flags.writeable = True
        assert runner.call(names["f"]) == (value.tolist(), value.dtype.str, value.shape, True)
        value[...] = value.flat[-1]
        assert runner.call(names["f"]) == (value.tolist(), value.dtype.str, value.shape, True)
        assert runner.bytes_of(names["f"]) == 0


def test_a_look_that_costs_too_much_is_left_out_and_the_ways_out_work(runner, script, monkeypatch):
    monkeypatch.setattr(records, "LOOK_SECONDS", 0)  # every look costs too much
    monkeypatch.setattr(records, "LOOK_SHARE", 1e-9)
    monkeypatch.setattr(records, "LARGE", 100)
    names = script(
        "TABLE = {n: n for n in range(1000)}\n"
        "def f(): return TABLE[0]\ndef g(table): return table[0]\ndef h(_): return f()"
    )
    f = names["f"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert runner.call(f) == 0
        for _ in range(200):
            runner.call(f)
        script("TABLE[0] = 1")
        late = runner.call(f)
        assert runner.call(names["g"], names["TABLE"]) == 1  # an argument
        runner.functions.refresh()
        assert runner.call(f) == 1
        script("TABLE[0] = 2")
        assert runner.map(names["h"], [0, 1]) == ([2, 2], None)
        script("TABLE = {0: 3}")
        assert runner.call(f) == 3  # a new binding
    assert late == 0
    (warning,) = [each for each in caught if each.category is cw.UnseenChanges]
    for text in "TABLE", "MB", "ms", "argument", "bind the name anew", "executor.refresh()":
        assert text in str(warning.message)


def test_grouping_is_by_shared_objects_that_can_change():
    assert components.group([], []) == []
