"""A function is pickled once, and anew when what it uses is bound anew."""

import functools
import json
import math
import operator
import sys
import types

import cloudpickle
import pytest

from cw.client import functions
from cw.client.functions import FunctionTable
from cw.client.objects import ObjectTable
from cw.errors import NotPicklable
from cw.net import messages as m
from cw.payloads.naming import function_name
from cw.payloads.serialize import load_function

SCALE = 2


@pytest.fixture
def objects():
    return ObjectTable()


@pytest.fixture
def table(objects):
    return FunctionTable(objects)


@pytest.fixture
def script():
    """Runs code as that of a user's script, whose functions travel by value."""
    namespace = {"__name__": "__main__"}

    def run(code):
        exec(code, namespace)
        return namespace

    return run


def sent(table, function):
    """What would arrive in a runner if the function were submitted now."""
    number, _ = table.number_of(function)
    return load_function(table._objects.get(number).payload)


def is_pickled_again(table, function):
    pickled = []
    original = functions.dump_function
    functions.dump_function = lambda *args: pickled.append(1) or original(*args)
    try:
        table.number_of(function)
    finally:
        functions.dump_function = original
    return bool(pickled)


# --- numbers ---


def test_a_new_function_comes_with_its_payload_and_a_known_one_without(table, objects):
    number, payload = table.number_of(json.dumps)
    assert load_function(payload) is json.dumps
    assert table.number_of(json.dumps) == (number, None)
    assert table.number_of(json.loads)[0] != number
    function = objects.get(number)
    assert function.payload is payload
    assert (function.kind, function.runs_in) == (m.FUNCTION, table.environment)


def test_the_same_content_has_the_same_number(table, script):
    scripts = script("def make():\n    return lambda x: x + 1")
    first, second = scripts["make"](), scripts["make"]()
    assert first is not second
    number, payload = table.number_of(first)
    assert payload is not None
    assert table.number_of(second) == (number, None)


def test_each_table_has_its_own_numbers(table):
    assert FunctionTable().number_of(json.loads)[0] == table.number_of(json.dumps)[0]


@pytest.mark.parametrize(
    "function",
    [len, math.sqrt, json.dumps, dict, dict.fromkeys, str.upper, int.__add__, operator.add, types.ModuleType],
    ids=repr,
)
def test_what_can_be_imported_is_pickled_once(table, function):
    assert sent(table, function) is function or sent(table, function) == function
    assert not is_pickled_again(table, function)


def test_a_numpy_ufunc_can_be_sent(table):
    numpy = pytest.importorskip("numpy")
    assert sent(table, numpy.add) is numpy.add
    assert table.number_of(numpy.add)[1] is None


def test_what_cannot_be_called_is_refused(table):
    with pytest.raises(TypeError, match="'int' object is not callable"):
        table.number_of(3)


def test_a_function_that_cannot_be_pickled_is_refused_each_time_and_leaves_no_number(table):
    lock = __import__("threading").Lock()

    def function():
        return lock

    for _ in range(2):
        with pytest.raises(NotPicklable, match=r"function function: .* found at function.__closure__\['lo"):
            table.number_of(function)
    assert table.number_of(len)[0] == table.environment + 1


# --- what is bound anew is noticed ---


def test_a_global_bound_anew_is_noticed_and_an_unused_one_is_not(table, script):
    names = script("A, B, C = 1, 2, 3\ndef f(): return A, (lambda: B)()")
    assert sent(table, names["f"])() == (1, 2)
    assert not is_pickled_again(table, names["f"])
    for name, value, result in ("A", 10, (10, 2)), ("B", 20, (10, 20)):
        script(f"{name} = {value}")
        assert sent(table, names["f"])() == result
    script("C = 30")
    assert not is_pickled_again(table, names["f"])


def test_a_global_that_comes_or_goes_is_noticed(table, script):
    names = script("def f(): return len([1]) + extra()")
    with pytest.raises(NameError):
        sent(table, names["f"])()
    script("def extra(): return 5")
    assert sent(table, names["f"])() == 6
    script("def len(_): return 100")
    assert sent(table, names["f"])() == 105
    script("del len")
    assert sent(table, names["f"])() == 6


def test_a_number_comes_back_with_the_old_content(table, script):
    names = script("A = 'a'\ndef f(): return A")
    number, _ = table.number_of(names["f"])
    script("A = 'b'")
    other, payload = table.number_of(names["f"])
    assert other != number and payload is not None
    script("A = 'a'")
    assert table.number_of(names["f"]) == (number, None)


def test_an_equal_value_of_another_type_is_noticed(table, script):
    names = script("A = 1\ndef f(): return A")
    sent(table, names["f"])
    script("A = True")
    assert sent(table, names["f"])() is True


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ("f.__defaults__ = (7,)", (7, 2, 3, 4)),
        ("f.__kwdefaults__ = {'b': 7}", (1, 7, 3, 4)),
        ("f.__kwdefaults__['b'] = 7", (1, 7, 3, 4)),
        ("f.extra = 7", (1, 2, 7, 4)),
        ("change(7)", (1, 2, 3, 7)),
        ("f.__code__ = f.__code__.replace(co_consts=f.__code__.co_consts)", (1, 2, 3, 4)),
    ],
)
def test_defaults_attributes_closure_and_code_bound_anew_are_noticed(table, script, change, result):
    names = script(
        "def make(c):\n"
        "    def f(a=1, *, b=2): return a, b, f.extra, c\n"
        "    def change(value):\n"
        "        nonlocal c\n"
        "        c = value\n"
        "    f.extra = 3\n"
        "    return f, change\n"
        "f, change = make(4)"
    )
    assert sent(table, names["f"])() == (1, 2, 3, 4)
    assert not is_pickled_again(table, names["f"])
    script(change)
    assert is_pickled_again(table, names["f"])
    assert sent(table, names["f"])() == result


def test_a_closure_variable_bound_later_is_noticed(table, script):
    names = script(
        "def make():\n"
        "    def f(): return later\n"
        "    yield f\n"
        "    later = 5\n"
        "    yield f\n"
        "steps = make()\n"
        "f = next(steps)"
    )
    with pytest.raises(NameError):
        sent(table, names["f"])()
    script("next(steps)")
    assert sent(table, names["f"])() == 5


def test_what_a_used_function_uses_is_noticed(table, script):
    names = script(
        "A = 1\n"
        "def inner(): return A\n"
        "def middle(): return inner()\n"
        "helpers = {'m': [middle]}\n"
        "def f(): return helpers['m'][0]()"
    )
    assert sent(table, names["f"])() == 1
    assert not is_pickled_again(table, names["f"])
    script("A = 2")
    assert sent(table, names["f"])() == 2
    script("def inner(): return 3")
    assert sent(table, names["f"])() == 3


def test_an_edited_method_of_a_used_class_is_noticed(table, script):
    names = script("A = 1\nclass C:\n    def m(self): return A\ndef f(): return C().m()")
    table.number_of(names["f"])
    assert not is_pickled_again(table, names["f"])
    script("A = 2")
    assert is_pickled_again(table, names["f"])
    assert not is_pickled_again(table, names["f"])
    script("C.m = lambda self: 3")
    assert is_pickled_again(table, names["f"])
    script("C.new = 1")
    assert is_pickled_again(table, names["f"])
    script("del C.new")
    assert is_pickled_again(table, names["f"])
    script("class C:\n    pass")
    assert is_pickled_again(table, names["f"])


def test_a_mutation_in_place_is_not_noticed(table, script):
    names = script("A = [1]\ndef f(): return A")
    assert sent(table, names["f"])() == [1]
    script("A.append(2)")
    assert sent(table, names["f"])() == [1]


def test_what_an_importable_function_uses_is_not_watched(table, monkeypatch):
    assert sent(table, importable) is importable
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 3)
    assert not is_pickled_again(table, importable)


def importable(x):
    return SCALE * x


def test_a_module_registered_to_travel_by_value_is_watched(table):
    module = types.ModuleType("registered_module")
    exec("A = 1\ndef f(): return A", vars(module))
    sys.modules["registered_module"] = module
    cloudpickle.register_pickle_by_value(module)
    try:
        assert sent(table, module.f) is not module.f
        assert sent(table, module.f)() == 1
        module.A = 2
        assert sent(table, module.f)() == 2
        caller = eval("lambda: module.f()", {"module": module, "__name__": "__main__"})
        assert sent(table, caller)() == 2
        module.f = lambda: 3
        assert sent(table, caller)() == 3
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules["registered_module"]


# --- callables that are not functions ---


class Counter:
    def __init__(self, start):
        self.start = start

    def add(self, x):
        return self.start + x

    def __call__(self, x):
        return -self.start - x

    @classmethod
    def make(cls, x):
        return cls(x)

    @staticmethod
    def double(x):
        return 2 * x


def test_a_bound_method_is_recognised_though_it_is_a_new_object_each_time(table):
    counter = Counter(1)
    assert sent(table, counter.add)(2) == 3
    assert not is_pickled_again(table, counter.add)
    assert is_pickled_again(table, Counter(1).add)


@pytest.mark.parametrize(("pick", "sign"), [(lambda c: c.add, 1), (lambda c: c, -1)])
def test_an_attribute_bound_anew_is_noticed(table, pick, sign):
    counter = Counter(1)
    assert sent(table, pick(counter))(2) == sign * 3
    assert not is_pickled_again(table, pick(counter))
    counter.start = 5
    assert sent(table, pick(counter))(2) == sign * 7
    counter.more = 1
    assert is_pickled_again(table, pick(counter))
    assert not is_pickled_again(table, pick(counter))


def test_classes_class_methods_and_static_methods_can_be_sent(table):
    for function in Counter, Counter.make:
        assert sent(table, function)(3).start == 3
        assert not is_pickled_again(table, function)
    assert sent(table, Counter.double)(3) == 6


class Slots:
    __slots__ = ("start",)

    def __call__(self, x):
        return self.start + x


class ListOfIts(list):
    def __call__(self):
        return list(self)


def test_objects_whose_state_is_not_in_their_attributes_are_pickled_each_time(table):
    slots, growing = Slots(), ListOfIts()
    slots.start = 1
    assert sent(table, slots)(1) == 2
    slots.start = 2
    assert sent(table, slots)(1) == 3
    assert sent(table, growing)() == []
    growing.append(1)
    assert sent(table, growing)() == [1]
    values = [1]
    assert sent(table, values.count)(2) == 0
    values.append(2)
    assert sent(table, values.count)(2) == 1
    assert sent(table, operator.itemgetter(1))("ab") == "b"
    assert table.number_of(operator.itemgetter(1))[1] is None


def test_a_partial_is_pickled_once_and_its_function_is_watched(table, script):
    names = script("A = 1\ndef f(x, *, y): return A, x, y")
    partial = functools.partial(names["f"], 2, y=3)
    assert sent(table, partial)() == (1, 2, 3)
    assert not is_pickled_again(table, partial)
    script("A = 4")
    assert sent(table, partial)() == (4, 2, 3)
    partial.keywords["y"] = 5
    assert sent(table, partial)() == (4, 2, 5)
    counter = Counter(1)
    partial = functools.partial(counter.add, 1)
    assert sent(table, partial)() == 2
    counter.start = 10
    assert sent(table, partial)() == 11


def test_a_coroutine_function_can_be_sent(table):
    async def function():
        return 1

    sent(table, function)().close()


def test_large_arrays_in_a_closure_travel_with_the_function_once(table):
    numpy = pytest.importorskip("numpy")
    data = numpy.ones(1_000_000)
    function = lambda: data.sum()  # noqa: E731
    assert sent(table, function)() == 1_000_000
    assert not is_pickled_again(table, function)


# --- bounds ---


def test_only_so_many_function_objects_are_kept(table, monkeypatch):
    monkeypatch.setattr(functions, "KNOWN", 10)
    made = [eval("lambda: 1") for _ in range(30)]
    for function in made:
        assert table.number_of(function)[0] == table.environment + 1
    assert len(table._known) == 10
    assert not is_pickled_again(table, made[-1])
    assert is_pickled_again(table, made[0])


def test_a_function_that_the_objects_have_forgotten_gets_a_new_number(table, objects):
    made = [eval(f"lambda: {n}") for n in range(5)]
    numbers = [table.number_of(function)[0] for function in made]
    objects.forget(numbers[:2])
    assert {item.number for item in objects.forget_dropped(numbers[1:3])} == {numbers[0]}
    number, payload = table.number_of(made[0])
    assert number > max(numbers) and load_function(payload)() == 0
    assert table.number_of(made[1]) == (numbers[1], None)


def test_a_new_environment_gives_functions_new_numbers(table, objects):
    first, _ = table.number_of(json.dumps)
    former = table.environment
    table.renew_environment("a test")
    second, payload = table.number_of(json.dumps)
    assert second != first and payload is not None
    assert objects.get(second).runs_in == table.environment != former == objects.get(first).runs_in
    assert {item.number for item in objects.forget_dropped([second])} == {first, former}


# --- names ---


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
