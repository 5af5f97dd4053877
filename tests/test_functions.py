"""What is sent for calls: each part once, and anew when it has changed."""

import functools
import json
import math
import operator
import sys
import types

import cloudpickle
import pytest
from programs import name_of

from cw.client.functions import functions
from cw.client.functions.functions import FunctionTable
from cw.client.session.objects import ObjectTable
from cw.errors import NotPicklable
from cw.net import messages as m
from cw.payloads.pickling_errors import function_name


@pytest.fixture
def objects():
    return ObjectTable()


@pytest.fixture
def table(objects):
    return FunctionTable(objects)


def number_of(table, function, *args):
    return table.call(function, args, {})[0]


# --- numbers ---


def test_a_call_with_an_instance_of_a_class_of_the_script_does_not_bring_the_class_along(table, script):
    names = script("""
        import dataclasses

        @dataclasses.dataclass
        class Point:
            x: int
            y: float = 0.0

        def noop(point):
            pass
        """)
    point = names["Point"](1)
    number, payload = table.call(names["noop"], (point,), {})
    assert len(payload) < 100
    assert table.dump_if_known(names["noop"], (point,), {}) == (payload, ("Point",))
    assert table.known_number(names["noop"], ("Point",)) == number
    names["Point"].y = 1.0
    assert table.known_number(names["noop"], ("Point",)) == 0
    again, same = table.call(names["noop"], (point,), {})
    assert again != number and same == payload


def test_a_map_looks_at_the_names_of_the_script_without_a_call_for_each(table, script):
    names = script("def noop(x): pass")

    def cost():
        table.refresh()  # as each map does
        number_of(table, names["noop"])  # takes note of what is new
        entered = []
        table.refresh()
        sys.setprofile(lambda frame, event, _: entered.append(frame) if event == "call" else None)
        try:
            number_of(table, names["noop"])
        finally:
            sys.setprofile(None)
        return len(entered)

    before = cost()
    names.update({f"number_{n}": n for n in range(50)} | {f"function_{n}": names["noop"] for n in range(50)})
    assert cost() < before + 50  # (100 names more; garbage collection may call some functions)


def test_a_function_is_a_function_object_that_needs_its_parts_and_the_environment(table, objects):
    function = objects.get(number_of(table, json.dumps))
    assert function.kind == m.FUNCTION
    kinds = [need.kind for need in function.needs]
    assert kinds.count(m.ENVIRONMENT) == 1 and set(kinds) == {m.ENVIRONMENT, m.VALUE}
    assert function.runs_in == objects.environment
    count = len(objects)
    assert number_of(table, json.dumps) == function.number
    assert len(objects) == count
    assert number_of(table, json.loads) != function.number


def test_the_same_content_has_the_same_number(table, script):
    make = script("def make():\n    return lambda x: x + 1")["make"]
    first, second = make(), make()
    assert first is not second
    assert number_of(table, first, 1) == number_of(table, second, 1)


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (len, ("ab",)),
        (math.sqrt, (4,)),
        (json.dumps, ([1],)),
        (dict, ([(1, 2)],)),
        (dict.fromkeys, ("ab",)),
        (str.upper, ("a",)),
        (int.__add__, (1, 2)),
        (operator.add, (1, 2)),
        (operator.itemgetter(1), ("ab",)),
        ("ab".join, ("xy",)),
    ],
    ids=name_of,
)
def test_what_can_be_imported_is_sent_once(runner, function, args):
    assert runner.call(function, *args) == function(*args)
    assert runner.bytes_of(function, *args) == 0


def test_a_numpy_ufunc_can_be_sent(runner):
    numpy = pytest.importorskip("numpy")
    assert runner.call(numpy.add, 1, 2) == 3
    assert runner.bytes_of(numpy.add, 1, 2) == 0


def test_what_cannot_be_called_is_refused(table):
    with pytest.raises(TypeError, match="'int' object is not callable"):
        table.call(3, (), {})


def test_a_function_that_cannot_be_pickled_is_refused_each_time_and_leaves_no_object(table, objects):
    lock = __import__("threading").Lock()

    def function():
        return lock

    for _ in range(2):
        with pytest.raises(NotPicklable, match=r"function function: .* found at function.__closure__\['lo"):
            table.call(function, (), {})
    assert all(objects.get(number).kind != m.FUNCTION for number in range(1, objects._last_number + 1))


# --- what is bound anew is noticed ---


def test_a_global_bound_anew_is_noticed_and_an_unused_one_is_not(runner, script):
    f = script("A, B, C = 1, 2, 3\ndef f(): return A, (lambda: B)()")["f"]
    assert runner.call(f) == (1, 2)
    assert runner.bytes_of(f) == 0
    for name, value, result in ("A", 10, (10, 2)), ("B", 20, (10, 20)):
        script(f"{name} = {value}")
        assert runner.call(f) == result
    script("C = 30")
    assert runner.bytes_of(f) == 0


def test_a_global_that_comes_or_goes_is_noticed(runner, script):
    f = script("def f(): return len([1]) + extra()")["f"]
    with pytest.raises(NameError):
        runner.call(f)
    script("def extra(): return 5")
    assert runner.call(f) == 6
    script("def len(_): return 100")
    assert runner.call(f) == 105


@pytest.mark.parametrize(("was", "result"), [("def len(_): return 100", 1), ("len = str", 1)])
def test_a_global_that_hid_a_builtin_is_gone_when_the_script_deletes_it(runner, script, was, result):
    f = script(f"{was}\ndef f(): return len([1])")["f"]
    assert runner.call(f) != result
    script("del len")
    assert runner.call(f) == result


def test_a_value_that_comes_back_is_seen_again(runner, script):
    f = script("A = 'a'\ndef f(): return A")["f"]
    for value in "ab", "a", "b":
        for each in value:
            script(f"A = {each!r}")
            assert runner.call(f) == each


def test_an_equal_value_of_another_type_is_noticed(runner, script):
    f = script("A = 1\ndef f(): return A")["f"]
    runner.call(f)
    script("A = True")
    assert runner.call(f) is True
    script("A = 1.0")
    assert type(runner.call(f)) is float


def test_the_sign_of_a_zero_is_noticed(runner, script):
    f = script("A = -0.0\ndef f(): return A")["f"]
    assert math.copysign(1, runner.call(f)) == -1
    script("A = 0.0")
    assert math.copysign(1, runner.call(f)) == 1


@pytest.mark.parametrize("place", ["global", "local"])
@pytest.mark.parametrize(
    ("change", "result"),
    [
        ("f.__defaults__ = (7,)", (7, 2, 3, 4)),
        ("f.__kwdefaults__ = {'b': 7}", (1, 7, 3, 4)),
        ("f.__kwdefaults__['b'] = 7", (1, 7, 3, 4)),
        ("f.extra = 7", (1, 2, 7, 4)),
        ("f.__code__ = other.__code__", (4, 3, 2, 1)),
        ("change(7)", (1, 2, 3, 7)),
    ],
)
def test_defaults_attributes_closure_and_code_bound_anew_are_noticed(runner, script, change, result, place):
    names = script(
        "def make(c):\n"
        "    def f(a=1, *, b=2): return a, b, f.extra, c\n"
        "    def other(a=1, *, b=2): return c, f.extra, b, a\n"
        "    def change(value):\n"
        "        nonlocal c\n"
        "        c = value\n"
        "    f.extra = 3\n"
        "    return f, other, change\n"
        "f, other, change = make(4)\n"
        "del make"
    )
    if place == "global":
        names["f"].__qualname__ = "f"
    assert runner.call(names["f"]) == (1, 2, 3, 4)
    runner.call(names["f"])
    assert runner.bytes_of(names["f"]) == 0
    script(change)
    assert runner.call(names["f"]) == result


def test_a_closure_variable_bound_later_is_noticed(runner, script):
    f = script(
        "def make():\n"
        "    def f(): return later\n"
        "    yield f\n"
        "    later = 5\n"
        "    yield f\n"
        "steps = make()\n"
        "f = next(steps)"
    )["f"]
    with pytest.raises(NameError):
        runner.call(f)
    script("next(steps)")
    assert runner.call(f) == 5


def test_what_a_used_function_uses_is_noticed(runner, script):
    f = script(
        "A = 1\n"
        "def inner(): return A\n"
        "def middle(): return inner()\n"
        "helpers = {'m': [middle]}\n"
        "def f(): return helpers['m'][0]()"
    )["f"]
    assert runner.call(f) == 1
    assert runner.bytes_of(f) == 0
    script("A = 2")
    assert runner.call(f) == 2
    script("def inner(): return 3")
    assert runner.call(f) == 3


def test_an_edited_method_of_a_used_class_is_noticed(runner, script):
    f = script("A = 1\nclass C:\n    def m(self): return A\ndef f(): return C().m(), hasattr(C, 'new')")["f"]
    assert runner.call(f) == (1, False)
    runner.call(f)
    assert runner.bytes_of(f) == 0
    script("A = 2")
    assert runner.call(f) == (2, False)
    script("C.m = lambda self: 3")
    assert runner.call(f) == (3, False)
    script("C.new = 1")
    assert runner.call(f) == (3, True)
    script("C.m = lambda self: A + 3")
    assert runner.call(f) == (5, True)
    script("class C:\n    def m(self): return 9")
    assert runner.call(f) == (9, False)


def test_an_attribute_that_a_class_loses_is_noticed(runner, script):
    f = script(
        "class C:\n    new = 1\n    def m(self): pass\ndef f(): return hasattr(C, 'new'), hasattr(C, 'm')"
    )["f"]
    assert runner.call(f) == (True, True)
    script("del C.new")
    assert runner.call(f) == (False, True)
    script("del C.m")
    assert runner.call(f) == (False, False)


@pytest.mark.parametrize(
    ("start", "change", "result"),
    [
        ("A = [1]", "A.append(2)", [1, 2]),
        ("A = {1: [2]}", "A[1].append(3)", {1: [2, 3]}),
        ("A = {1}", "A.add(2)", {1, 2}),
        ("A = bytearray(b'a')", "A += b'b'", bytearray(b"ab")),
        ("import types; A = types.SimpleNamespace(x=1)", "A.x = 2", types.SimpleNamespace(x=2)),
        (
            "import collections; A = collections.deque([1])",
            "A.append(2)",
            __import__("collections").deque([1, 2]),
        ),
        ("A = ([1],)", "A[0].append(2)", ([1, 2],)),
        ("import array; A = array.array('i', [1])", "A[0] = 5", __import__("array").array("i", [5])),
    ],
)
def test_a_change_in_place_is_noticed(runner, script, start, change, result):
    f = script(f"{start}\ndef f(): return A")["f"]
    runner.call(f)
    assert runner.bytes_of(f) == 0
    script(change)
    assert runner.call(f) == result
    assert runner.bytes_of(f) == 0


def test_what_an_importable_function_uses_is_not_watched(table, monkeypatch):
    number = number_of(table, importable)
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 3)
    assert number_of(table, importable) == number


SCALE = 2


def importable():
    return SCALE


def test_a_module_registered_to_travel_by_value_is_watched(runner):
    module = types.ModuleType("registered_module")
    exec("A = 1\ndef f(): return A", vars(module))
    sys.modules["registered_module"] = module
    cloudpickle.register_pickle_by_value(module)
    try:
        assert runner.call(module.f) == 1
        module.A = 2
        assert runner.call(module.f) == 2
        caller = eval("lambda: module.f()", {"module": module, "__name__": "__main__"})
        assert runner.call(caller) == 2
        module.f = lambda: 3
        assert runner.call(caller) == 3
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules["registered_module"]


# --- callables that are not functions ---

COUNTER = """
class Counter:
    def __init__(self, start): self.start = start
    def add(self, x): return self.start + x
    def __call__(self, x): return -self.start - x
    @classmethod
    def make(cls, x): return cls(x)
    @staticmethod
    def double(x): return 2 * x
class Slots:
    __slots__ = ("start",)
    def __call__(self, x): return self.start + x
class ListOfIts(list):
    def __call__(self): return list(self)
"""


@pytest.mark.parametrize(("pick", "sign"), [(lambda c: c.add, 1), (lambda c: c, -1)])
def test_what_an_object_holds_is_taken_at_each_submit(runner, script, pick, sign):
    counter = script(COUNTER)["Counter"](1)
    assert runner.call(pick(counter), 2) == sign * 3
    assert runner.bytes_of(pick(counter), 2) == 0
    counter.start = 5
    assert runner.call(pick(counter), 2) == sign * 7
    assert runner.bytes_of(pick(counter), 2) == 0  # it is in the call's own pickle


def test_classes_class_methods_and_static_methods_can_be_sent(runner, script):
    counter = script(COUNTER)["Counter"]
    for function in counter, counter.make:
        assert runner.call(function, 3).start == 3
        assert type(runner.call(function, 3)) is counter
        assert runner.bytes_of(function, 3) == 0
    assert runner.call(counter.double, 3) == 6


def test_objects_whose_state_is_not_in_their_attributes_are_taken_as_they_are(runner, script):
    names = script(COUNTER)
    slots, growing = names["Slots"](), names["ListOfIts"]()
    slots.start = 1
    assert runner.call(slots, 1) == 2
    slots.start = 2
    assert runner.call(slots, 1) == 3
    assert runner.call(growing) == []
    growing.append(1)
    assert runner.call(growing) == [1]
    values = [1]
    assert runner.call(values.count, 2) == 0
    values.append(2)
    assert runner.call(values.count, 2) == 1


def test_what_a_partial_holds_is_taken_at_each_submit(runner, script):
    names = script(COUNTER + "A = 1\ndef f(x, *, y): return A, x, y")
    partial = functools.partial(names["f"], 2, y=3)
    assert runner.call(partial) == (1, 2, 3)
    assert runner.bytes_of(partial) == 0
    script("A = 4")
    assert runner.call(partial) == (4, 2, 3)
    partial.keywords["y"] = 5
    assert runner.call(partial) == (4, 2, 5)
    counter = names["Counter"](1)
    partial = functools.partial(counter.add, 1)
    assert runner.call(partial) == 2
    counter.start = 10
    assert runner.call(partial) == 11


def test_a_coroutine_function_can_be_sent(runner, script):
    names = script(
        "import asyncio\nasync def function(): return 1\ndef run(f): return asyncio.run(f())\n"
        "def local():\n    async def function(): return 2\n    return function"
    )
    assert runner.call(names["run"], names["function"]) == 1
    assert runner.call(names["run"], names["local"]()) == 2


def test_large_arrays_in_a_closure_travel_once_and_anew_when_they_have_changed(runner):
    numpy = pytest.importorskip("numpy")
    data = numpy.ones(100_000)
    function = lambda: float(data.sum())  # noqa: E731
    assert runner.call(function) == 100_000
    assert runner.bytes_of(function) == 0
    data[0] = 5
    assert runner.call(function) == 100_004


# --- bounds ---


def test_only_so_many_function_objects_are_kept(table, monkeypatch):
    monkeypatch.setattr(functions, "KNOWN", 10)
    made = [eval("lambda: 1") for _ in range(30)]
    assert len({number_of(table, function) for function in made}) == 1
    assert len(table._known) <= 10
    other = [eval(f"lambda: {n}") for n in range(30)]
    assert len({number_of(table, function) for function in other}) == 30
    assert len(table._templates) <= 10 and len(table._records) <= 10


def test_a_function_whose_objects_are_forgotten_gets_a_new_number(table, objects):
    made = [eval(f"lambda: {n}") for n in range(5)]
    numbers = [number_of(table, function) for function in made]
    objects.forget(numbers[:2])
    assert {item.number for item in objects.forget_dropped(numbers[1:3])} == {numbers[0]}
    assert number_of(table, made[0]) > max(numbers)
    assert number_of(table, made[1]) == numbers[1]


def test_a_function_any_of_whose_parts_is_forgotten_is_made_anew(table, objects, script):
    names = script("A = [1]\nclass C: pass\ndef f(x): return A, C, x")
    first = number_of(table, names["f"], 1)
    for need in objects.get(first).needs:
        if need.kind != m.ENVIRONMENT and need.number in objects._by_number:
            before = number_of(table, names["f"], 1)
            objects.forget([need.number])
            gone = {item.number for item in objects.forget_dropped([])}
            after = number_of(table, names["f"], 1)
            assert need.number in gone and (after != before) == (before in gone)
            assert all(item.number in objects._by_number for item in objects.get(after).needs)


def test_a_new_environment_gives_functions_new_numbers(table, objects):
    former = objects.environment
    first = number_of(table, json.dumps)
    table.renew_environment()
    second = number_of(table, json.dumps)
    assert second != first
    assert objects.get(second).runs_in == objects.environment != former == objects.get(first).runs_in
    gone = {item.number for item in objects.forget_dropped([second])}
    assert {first, former} <= gone


# --- names ---


class Counter:
    def __init__(self, start):
        self.start = start

    def add(self, x):
        return self.start + x


def test_function_names_are_short_and_readable():
    def local():
        pass

    name = function_name(lambda: 1)
    assert name.startswith("<lambda> (test_functions.py:") and name.endswith(")")
    assert function_name(local) == "local"
    assert function_name(json.dumps) == "dumps"
    assert function_name(Counter.add) == "Counter.add"
    assert function_name(Counter(1).add) == "Counter.add"
    assert function_name(Counter(1)) == "Counter"
    assert function_name(Counter) == "Counter"
    assert function_name(len) == "len"
    assert function_name(functools.partial(functools.partial(local, 1))) in ("partial(local)",)
    assert function_name(None) == "NoneType"


def test_a_function_name_never_raises():
    class Odd:
        def __getattr__(self, name):
            raise RuntimeError

    assert function_name(Odd()).endswith("Odd")
