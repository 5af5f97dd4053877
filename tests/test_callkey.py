"""The key of a call: the same for the same call, in another process and after harmless edits; another for any other."""

import dataclasses
import decimal
import functools
import json
import math
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
import typing
from collections import Counter, OrderedDict, deque

import numpy
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pickles import dump_call
from programs import ROOT

from cw import UnstableKey
from cw.client.functions.functions import FunctionTable
from cw.payloads import byvalue
from cw.store import callkey


def function(*args, **kwargs):
    pass


def key_of(*args, **kwargs):
    return callkey.of_call(function, callkey.of_function(function), args, kwargs)[0]


def function_key(source, name="f", first_line=1):
    """The key of a function of a script with this text."""
    names = {"__name__": "__main__"}
    exec(compile("\n" * (first_line - 1) + textwrap.dedent(source), f"script{first_line}.py", "exec"), names)
    key = callkey.of_function(names[name])
    assert key.refusal is None
    return key.digest


# --- functions: what counts, and what does not ------------------------------------------------

SCRIPT = """\
import math
import typing

FACTOR = 3
T = typing.TypeVar("T")
UNUSED = 1

class Point:
    scale = 2
    def __init__(self, x):
        self.x = x
    @property
    def double(self):
        return 2 * self.x
    @staticmethod
    def zero():
        return 0

def helper(x: T):
    def note():
        "Notes."
    return Point(x).double * FACTOR

def other(x):
    return x

def outer(captured):
    def inner(x):
        return x + captured
    return inner

add = outer(10)

def named(x: int, captured=0, amount=0):
    "Counts."
    return captured, amount

def f(x, shift=1):
    # a comment
    assert x < 1000
    return [helper(x) for _ in range(2)], math.sqrt(x), shift, add(x), named(x, captured=10)
"""

NO_CHANGE = [
    ("# a comment", "# another comment, which is longer"),
    ("    # a comment\n", ""),
    ("UNUSED = 1", "UNUSED = 2"),
    ("def other(x):\n    return x", "def other(x):\n    return x + 1"),
    ("import math\n", "import math\nimport os\n\n\n"),
    ("def f(x, shift=1):", "def f(x,\n      shift=1):"),
]
CHANGE = [
    ("math.sqrt(x)", "math.sqrt(x + 1)"),
    ("shift=1", "shift=2"),
    ("shift=1", "*, shift=1"),
    ("FACTOR = 3", "FACTOR = 4"),
    ("FACTOR = 3", "FACTOR = 3.0"),
    ("Point(x).double *", "Point(x).double +"),
    ("outer(10)", "outer(11)"),
    ("x + captured", "x - captured"),
    ("scale = 2", "scale = 3"),
    ("return 2 * self.x", "return 3 * self.x"),
    ("return 0", "return 1"),
    ("class Point:", "class Point(dict):"),
    ("@staticmethod\n    def zero():", "@classmethod\n    def zero(cls):"),
    ("x < 1000", "x < 1001"),
    ("range(2)", "range(3)"),
    ('"Notes."', '"Other notes."'),
    ("class Point:", "class Point(typing.Generic[T]):"),
    *(
        [('TypeVar("T")', 'TypeVar("T", bound=int)')] if sys.version_info < (3, 14) else []
    ),  # else nobody looks it up
    ("named(x, captured=10)", "named(x, amount=10)"),
    ("Counts.", "Says."),
    ("x: int", "x: float"),
]


@pytest.mark.parametrize("old,new", NO_CHANGE)
def test_what_does_not_matter_does_not_change_the_key(old, new):
    assert SCRIPT.count(old) == 1
    assert function_key(SCRIPT.replace(old, new), first_line=50) == function_key(SCRIPT)


@pytest.mark.parametrize("old,new", CHANGE)
def test_what_matters_changes_the_key(old, new):
    assert old in SCRIPT
    assert function_key(SCRIPT.replace(old, new)) != function_key(SCRIPT)


def test_a_class_inside_a_function_may_move():
    source = (
        "def f():\n    class Inner:\n        number = {}\n        def m(self): return 5\n    return Inner\n"
    )
    for number in range(1, 8):  # one of the constants is the line's number in one of them
        keys = {function_key(source.format(number), first_line=line) for line in range(1, 8)}
        assert len(keys) == 1
    assert function_key(source.format(1)) != function_key(source.format(2))


def test_recursion_ends():
    source = "def f(n): return g(n - 1)\ndef g(n): return f(n) if n else {}\n"
    assert function_key(source.format(0)) == function_key(source.format(0), first_line=9)
    assert function_key(source.format(0)) != function_key(source.format(1))
    loop = (
        "class A:\n    def m(self): return B\nclass B:\n    def m(self): return A, {}\ndef f(): return A()\n"
    )
    assert function_key(loop.format(1)) == function_key(loop.format(1), first_line=3)
    assert function_key(loop.format(1)) != function_key(loop.format(2))


def test_enums_dataclasses_and_named_tuples_count_by_what_they_are():
    source = textwrap.dedent("""\
        import dataclasses, enum, functools, typing
        class Color(enum.Enum):
            RED = 1
            def shade(self): return 1
        @dataclasses.dataclass
        class Data:
            x: int = 5
            @property
            def y(self): return self.x
        class Named(typing.NamedTuple):
            z: int = 6
        @functools.lru_cache
        def cached(x): return x
        def f(): return Color.RED, Data(), Named(), cached(1), functools.partial(cached, 2)
    """)
    assert function_key(source) == function_key(source, first_line=7)
    edits = [("RED = 1", "RED = 2"), ("shade(self): return 1", "shade(self): return 2"), ("int = 5", "int = 4"),
             ("self.x", "self.x + 1"), ("int = 6", "int = 7"), ("cached(x): return x", "cached(x): return 0"),
             ("partial(cached, 2)", "partial(cached, 3)")]  # fmt: skip
    assert len({function_key(source), *(function_key(source.replace(*edit)) for edit in edits)}) == 1 + len(
        edits
    )


ENUM = """\
import enum
class Number(int):
    unit = 1
class Color(enum.Enum):
    RED = 1
    BLUE = 1
    def __init__(self, value): self.shade = value + 5
    @classmethod
    def _missing_(cls, value): return cls.RED
    def _generate_next_value_(name, start, count, last): return 7
    OTHER = enum.auto()
class Flags(enum.Flag):
    A = 1
    B = 2
def f(): return Color, Flags
"""
ENUM_EDITS = [
    ("cls.RED", "cls.OTHER"), ("value + 5", "value + 6"), ("count, last): return 7", "count, last): return count"),
    ("BLUE = 1", "BLUE = 2"), ("BLUE", "GREEN"), ("    RED = 1\n    BLUE = 1\n", "    BLUE = 1\n    RED = 1\n"),
]  # fmt: skip
if sys.version_info >= (3, 11):
    ENUM_EDITS.append(("enum.Flag)", "enum.Flag, boundary=enum.KEEP)"))


def test_all_that_the_script_says_of_an_enum_counts():
    assert function_key(ENUM) == function_key(ENUM, first_line=5)
    assert all(old in ENUM for old, _ in ENUM_EDITS)
    assert len({function_key(ENUM), *(function_key(ENUM.replace(*edit)) for edit in ENUM_EDITS)}) == 1 + len(
        ENUM_EDITS
    )


def test_to_whom_an_attribute_belongs_counts():
    source = "def g(): pass\ndef f(): return getattr(g, 'n', 0)\n"
    assert len({function_key(source + more) for more in ("", "g.n = 3", "f.n = 3")}) == 3


def test_whether_a_class_shares_a_value_with_a_function_counts():
    source = "class C:\n    numbers = [1]\nNUMBERS = C.numbers{}\ndef f(): return C, NUMBERS\n"
    assert function_key(source.format("")) != function_key(source.format("[:]"))


def test_what_was_registered_with_a_class_counts():
    source = "import abc\nclass C(abc.ABC): pass\nC.register({})\nC.register(list)\ndef f(x): return isinstance(x, C)\n"
    assert len({function_key(source.format(name)) for name in ("int", "str", "list")}) == 3


def test_a_class_by_another_name_is_another():
    def named(name):
        cls = type("A", (), {"f": lambda self: type(self).__name__})
        cls.__name__ = name
        return lambda: cls().f()

    assert FunctionTable().key_of(named("A")).digest != FunctionTable().key_of(named("B")).digest


def test_what_typing_notes_in_a_protocol_when_it_is_used_does_not_count():
    @typing.runtime_checkable
    class P(typing.Protocol):
        def m(self): ...

    class Q(P):
        def m(self):
            return 1

    def f():
        return Q().m()

    before = FunctionTable().key_of(f).digest
    assert f() and isinstance(Q(), P)
    assert FunctionTable().key_of(f).digest == before


def test_a_function_with_one_implementation_for_each_type_counts_with_all_of_them():
    def dispatcher(result):
        @functools.singledispatch
        def text(value):
            return repr(value)

        @text.register
        def of_list(value: list):
            return [text(item) for item in value], result

        return text

    one, same, other = [FunctionTable().key_of(dispatcher(result)) for result in (1, 1, 2)]
    assert one.digest == same.digest != other.digest and not one.refusal

    class Dispatching:
        @functools.singledispatchmethod
        def d(self, x):
            return x

    def method():
        return Dispatching().d(1)

    before = FunctionTable().key_of(method)
    assert method() == 1 and not before.refusal
    assert FunctionTable().key_of(method).digest == before.digest
    used = dispatcher(1)
    assert used([1]) == (["1"], 1)
    assert FunctionTable().key_of(used).digest == one.digest


def test_a_cached_function_counts_with_its_settings():
    source = "import functools\n@functools.lru_cache({})\ndef g(x): return x\ndef f(x): return g(x)\n"
    assert len({function_key(source.format(size)) for size in ("None", "5", "5, True")}) == 3


def test_what_is_random_in_a_module_counts_by_its_name():
    import random

    random.seed(1)
    for source in (
        "from random import random, gauss as g\ndef f(): return random(), g(0, 1)",
        "from numpy.random import rand\ndef f(): return rand()",
    ):
        before = function_key(source)
        random.random()
        numpy.random.rand()
        assert function_key(source) == before
    assert callkey.of_function(random.random).digest != callkey.of_function(random.gauss).digest
    own = random.Random(3)
    before = callkey.of_function(own.random).digest
    own.random()
    assert callkey.of_function(own.random).digest != before


def test_a_class_changed_in_place_counts_as_it_is_now():
    names = {"__name__": "__main__"}
    source = """
class D:
    numbers = [1]
class C:
    settings = {"a": 1}
    part = D
def f(x): return C.settings
def g(x): return C.settings, 1
"""
    exec(source, names)
    table, seen = FunctionTable(), set()
    for change in ("", "C.settings['a'] = 2", "D.numbers.append(2)"):
        exec(change, names)
        key = FunctionTable().key_of(names["g"])
        seen.add((key.digest, callkey.of_call(names["g"], key, (names["C"](),), {})[0]))
        table.key_of(names["f"])
    assert len({digest for digest, _ in seen}) == len({call for _, call in seen}) == 3
    instance = names["C"]()
    keys = [key_of(instance)]
    names["C"].settings["a"] = 3
    FunctionTable().key_of(names["f"])  # which is when it is noticed
    keys.append(key_of(instance))
    names["D"].numbers.append(3)
    FunctionTable().key_of(names["f"])
    assert len({*keys, key_of(instance)}) == 3


class Tabled:
    table = {"k": 1}


Tabled.__module__ = "__main__"  # so that it travels by value


def test_a_key_and_what_travels_are_made_from_the_same_class():
    """Pickled without a store, changed in place, and only then with one."""
    before = byvalue.version_of(Tabled)
    Tabled.table["k"] = 2
    assert byvalue.version_of(Tabled) == before  # what travels is still what it was
    key_of(Tabled())
    assert byvalue.version_of(Tabled) != before


def test_functions_of_modules_count_by_name():
    assert callkey.of_function(math.sqrt).digest != callkey.of_function(math.sin).digest
    assert callkey.of_function(len).name == "len"
    assert callkey.of_function([1].append).digest != callkey.of_function([2].append).digest


def test_the_key_goes_with_the_pickle_that_travels():
    """A change in place is seen by both."""
    captured = [1]

    def f():
        return captured

    table = FunctionTable()
    seen = set()
    for value in range(3):
        captured.append(value)
        number, payload = table.call(f, (), {})
        key = table.key_of(f).digest
        assert key == callkey.of_function(f).digest
        assert table.key_of(f).digest == key
        assert table.call(f, (), {}) == (number, payload)
        seen.add(key)
    assert len(seen) == 3


def test_a_key_is_found_by_the_functions_number_while_that_is_known():
    names = {"__name__": "__main__", "N": 1}
    exec("def f(x):\n    return N * x", names)
    f, table, seen = names["f"], FunctionTable(), set()
    for value in range(3):
        names["N"] = value
        assert not table.known_number(f)
        number, _ = table.call(f, (1,), {})
        assert table.known_number(f) == number and table.keys.known(number) is None
        key = table.key_of(f)
        assert table.keys.known(number) is key
        seen.add(key.digest)
    assert len(seen) == 3


def test_no_key_is_found_by_the_number_of_a_function_whose_state_travels_with_each_call():
    captured = [1]
    table = FunctionTable()
    number, _ = table.call(lambda: captured, (), {})
    table.key_of(lambda: captured)
    assert table.keys.known(number) is None


def test_the_key_of_a_frozen_function_is_of_the_state_that_was_taken():
    captured = [1]

    def f():
        return captured

    table = FunctionTable()
    frozen = table.freeze(f, 0)
    before = callkey.of_function(f).digest
    captured.append(2)
    assert table.key_of(f, frozen).digest == before != table.key_of(f).digest


# --- arguments --------------------------------------------------------------------------------


@dataclasses.dataclass
class Data:
    x: object
    y: float = 2.0


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


class Tree(list):
    pass


def in_a_set_of_its_own(number):
    slotted = Slotted(number)
    slotted.a = {slotted, number}
    return slotted


class Words(set):
    pass


def looked_at(value):
    assert repr(value) and value.max() is not None
    if isinstance(value, pandas.DataFrame):
        assert value.index.max() and len(value.loc["2020-01-01":]) == 2
    return value


def read_only(array):
    array.flags.writeable = False
    return array


def fields(**layout):
    return numpy.zeros(2, {"names": ["a", "b"], "formats": ["i4", "i4"], **layout})


SAME = [
    (lambda: {"a", "b", "c", "d"}, lambda: {"d", "c", "b", "a"}),
    (lambda: frozenset(range(100)), lambda: frozenset(reversed(range(100)))),
    (lambda: {"a": {1, 2}, "b": [2]}, lambda: {**{"a": {2, 1}}, "b": [2]}),
    (lambda: float("nan"), lambda: -float("nan")),
    (lambda: [math.nan] * 10, lambda: [float("inf") - float("inf")] * 10),
    (lambda: numpy.arange(10), lambda: numpy.arange(20)[:10]),
    (lambda: numpy.arange(10)[::2], lambda: numpy.array([0, 2, 4, 6, 8])),
    (lambda: numpy.array([1.0, numpy.nan]), lambda: numpy.array([1.0, -numpy.nan])),
    (lambda: numpy.array([{1, 2}, "x"], dtype=object), lambda: numpy.array([{2, 1}, "x"], dtype=object)),
    (lambda: Data({"p", "q"}), lambda: Data({"q", "p"})),
    (lambda: Slotted([1]), lambda: Slotted([1])),
    (lambda: Counter("abca"), lambda: Counter(["a", "b", "c", "a"])),
    (lambda: numpy.random.default_rng(3), lambda: numpy.random.default_rng(3)),
    (lambda: pathlib.Path("a/b"), lambda: pathlib.Path("a", "b")),
    (lambda: {1: {2, 3}, (4, frozenset("xy")): 5}, lambda: {1: {3, 2}, (4, frozenset("yx")): 5}),
    (lambda: numpy.array([math.nan + 1j, 2]), lambda: numpy.array([complex(-math.nan, 1), 2])),
    (lambda: numpy.ones(3, "g"), lambda: numpy.array([1, 1, 1], "i8").astype("g")),
    (lambda: [-(10**5000)] * 10, lambda: [-(10**5000)] * 10),
    (lambda: in_a_set_of_its_own(3), lambda: in_a_set_of_its_own(3)),
    (lambda: Words("abcdef"), lambda: Words("fedcba")),
    (lambda: pandas.date_range("2020", periods=3), lambda: looked_at(pandas.date_range("2020", periods=3))),
    (
        lambda: pandas.DataFrame({"a": [1, 2]}, pandas.date_range("2020", periods=2)),
        lambda: looked_at(pandas.DataFrame({"a": [1, 2]}, pandas.date_range("2020", periods=2))),
    ),
    (
        lambda: numpy.ma.array([1, 2], mask=[0, 1]),
        lambda: looked_at(numpy.ma.array([1, 2], mask=[0, 1])),
    ),
]
DIFFERENT = [
    (1, 1.0, True, "1", b"1", 1j, decimal.Decimal(1), numpy.int64(1), numpy.float64(1), numpy.array(1)),
    ((1, 2), [1, 2], {1, 2}, frozenset({1, 2}), {1: 2}, bytearray(b"\1\2"), b"\1\2", numpy.array([1, 2])),
    ([[1], [2]], [[1, 2]], [1, [2]], [[1, 2], []]),
    ("ab", ("a", "b"), ["ab", ""]),
    (0.0, -0.0, 1e-300, math.inf, -math.inf, math.nan, None),
    (
        numpy.zeros((2, 3)),
        numpy.zeros((3, 2)),
        numpy.zeros(6),
        numpy.zeros((2, 3), "f4"),
        numpy.zeros((2, 3), int),
    ),
    (numpy.array([1, 2], "<i4"), numpy.array([1, 2], ">i4"), numpy.array([1, 2], "u4")),
    (OrderedDict(a=1, b=2), OrderedDict([("b", 2), ("a", 1)]), {"a": 1, "b": 2}, {"b": 2, "a": 1}),
    (Counter("ab"), Counter("ba"), Counter("aab")),
    (Tree([Tree([1]), 2]), Tree([Tree([1, 2])]), Tree([1, Tree([2])])),
    (deque([deque([1]), 2]), deque([deque([1, 2])]), deque([1, 2], 5), deque([1, 2])),
    ({frozenset({1}), 2}, {frozenset({1, 2})}, {frozenset(), 1, 2}),
    (
        numpy.array([complex(math.nan, 1)]),
        numpy.array([complex(math.nan, 2)]),
        numpy.array([complex(1, math.nan)]),
    ),
    (numpy.complex128(complex(math.nan, 1)), numpy.complex128(complex(math.nan, 2))),
    (typing.NewType("T", int), typing.NewType("T", str)),
    (Data(1), Data(2), Data(1, 3.0), Slotted(1), Slotted(2)),
    (math.sin, math.cos, int, float, lambda: 1, lambda: 2),
    (10**5000, 10**5000 + 1),
    (numpy.zeros(2), read_only(numpy.zeros(2))),
    (
        fields(),
        fields(itemsize=16),
        fields(offsets=[0, 8]),
        fields(offsets=[8, 0]),
        fields(titles=["x", "y"]),
    ),
    (numpy.ma.array([1, 2], mask=[0, 1]), numpy.ma.array([1, 2], mask=[1, 0]), numpy.ma.array([1, 2])),
    (Words("ab"), Words("abc"), set("ab"), frozenset("ab")),
    (typing.TypeVar("T"), typing.TypeVar("U"), typing.TypeVar("T", bound=int), typing.TypeVar("T", int, str)),
]


@pytest.mark.parametrize("first,second", SAME)
def test_equal_arguments_have_one_key(first, second):
    assert key_of(first()) == key_of(second())
    assert key_of([first()]) == key_of([second()]) != key_of(first())


@pytest.mark.parametrize("values", DIFFERENT)
def test_different_arguments_have_different_keys(values):
    assert len({key_of(value) for value in values}) == len(values)
    assert len({key_of([value]) for value in values}) == len(values)


def test_whether_arguments_share_something_counts():
    one, other, array = [1], Slotted(1), numpy.zeros(3)
    assert key_of(one, one) != key_of(one, [1]) != key_of([1], [[1]])
    assert key_of(one, x=one) != key_of(one, x=[1])
    assert key_of(array, array) != key_of(array, array.copy())
    assert key_of({other}, other) != key_of({Slotted(1)}, other)
    assert key_of(shared := {1}, shared) != key_of({1}, {1})
    assert key_of((1, 2), (1, 2)) == key_of((1, 2), (1, int("2")))
    assert key_of(one, one) == key_of(two := [1], two)


def test_tuples_that_share_tuples_do_not_take_for_ever():
    for innermost in ("x",), ([],):
        value = innermost
        for _ in range(100):
            value = (value, value)
        key = key_of(value)
        assert key == key_of((value[0], value[1])) != key_of(value[0])


def test_arguments_are_told_apart_by_place_and_name():
    keys = [
        key_of(1, 2),
        key_of(2, 1),
        key_of(1, b=2),
        key_of(a=1, b=2),
        key_of(a=2, b=1),
        key_of((1, 2)),
        key_of(),
    ]
    keys += [key_of([1], [2]), key_of([1], b=[2]), key_of([1, [2]])]
    assert len(set(keys)) == len(keys)


def test_the_order_of_keywords_counts_where_the_function_can_see_it():
    def names_them(a, b):
        pass

    calls = [{"a": 1, "b": [2]}, {"b": [2], "a": 1}]
    for called, count in (function, 2), (names_them, 1), (dict, 2):
        key = callkey.of_function(called)
        assert len({callkey.of_call(called, key, (), kwargs)[0] for kwargs in calls}) == count


def test_a_frame_of_pandas_has_a_key():

    def frame(last):
        return pandas.DataFrame(
            {"a": [1.0, float("nan")], "b": ["x", last], "c": pandas.Categorical(["u", "v"])}
        )

    assert key_of(frame("y")) == key_of(frame("y"))
    others = [frame("z"), frame("y").set_index("a"), frame("y")["a"], frame("y")[["b", "a", "c"]]]
    assert len({key_of(frame("y")), *map(key_of, others)}) == 5
    # How it keeps its columns changes when it is only looked at.
    grown = pandas.DataFrame({"a": [1.0, 2.0]})
    for name in "bcd":
        grown[name] = [3.0, 4.0]
    before = key_of(grown)
    assert grown.values.shape == (2, 4) and grown._mgr.consolidate() is not None
    grown._mgr = grown._mgr.consolidate()
    assert key_of(grown) == before


class Addressed:
    def __init__(self):
        self.address = id(self)


@pytest.mark.parametrize(
    "value",
    [
        object.__repr__(object()),
        iter({1, 2}),
        Addressed(),
        [Addressed()],
        {"x": repr(threading.Lock())},
        threading.Lock(),
    ],
    ids=["address", "iterator", "instance", "list", "text", "lock"],
)
def test_what_has_no_stable_form_is_refused_with_what_to_do(value):
    with pytest.raises(UnstableKey, match=r"argument .* of function\(\).*options\(key=\.\.\.\)"):
        key_of(value)
    assert issubclass(UnstableKey, TypeError)


def test_it_is_told_where_it_was_found():
    text = object.__repr__(object())
    state = {"model": [1, text]}
    with pytest.raises(UnstableKey, match=r"an address in it.*, found at args\[0\]\['model'\]\[1\]\. Give"):
        key_of(state)
    with pytest.raises(UnstableKey, match=r"cannot be taken apart .*lock.*, found at args\[0\]\[1\]\. Give"):
        key_of([1, threading.Lock()])

    def f():
        return state

    refusal = FunctionTable().key_of(f).refusal
    assert "f.__closure__['state']['model'][1]. Give" in refusal


def test_a_list_in_itself_and_deep_nesting_end():
    loop = [1]
    loop.append(loop)
    again = [1]
    again.append(again)
    assert key_of(loop) == key_of(again) != key_of([1, [1]])
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UnstableKey, match="nested too deeply"):
        key_of(deep)


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
HASHABLE = st.recursive(
    PLAIN, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4), max_leaves=5
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=10) | st.dictionaries(HASHABLE, inner, max_size=4) | st.builds(Data, inner)
    ),
    max_leaves=12,
)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_the_key_survives_the_way_through_pickle(value):
    from cw.payloads import serialize

    args, _ = serialize.load_call(dump_call((value,), {}))
    assert key_of(args[0]) == key_of(value)


@settings(max_examples=50, deadline=None)
@given(VALUES, VALUES)
def test_two_values_have_one_key_only_if_their_texts_agree(first, second):
    def text(value):
        """Canonical, by other means."""
        if isinstance(value, dict):
            return ["d", [[text(k), text(v)] for k, v in value.items()]]
        if isinstance(value, (set, frozenset)):
            return ["s", sorted(map(text, value), key=json.dumps)]
        if isinstance(value, (list, tuple)):
            return [type(value).__name__, *map(text, value)]
        if isinstance(value, Data):
            return ["D", text(value.x), text(value.y)]
        return [type(value).__name__, "nan" if value != value else repr(value)]

    assert (key_of(first) == key_of(second)) == (text(first) == text(second))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(max_size=8), max_size=20, unique=True), st.randoms())
def test_the_order_counts_in_which_a_dict_was_filled_and_not_that_of_a_set(texts, random):
    shuffled = list(texts)
    random.shuffle(shuffled)
    assert key_of(set(texts)) == key_of(set(shuffled))
    is_same = key_of(dict.fromkeys(texts, 1)) == key_of(dict.fromkeys(shuffled, 1))
    assert is_same == (texts == shuffled)


# --- processes --------------------------------------------------------------------------------

PROGRAM = (
    SCRIPT
    + """
import dataclasses, enum, sys, typing
sys.path.insert(0, %r)
from cw.store import callkey

T = typing.TypeVar("T")

@dataclasses.dataclass
class D(typing.Generic[T]):
    names: set

class Words(set):
    pass

class E(enum.Flag):
    A = 1
    B = 2

words = {"one", "two", "three", "four"}
key = callkey.of_function(f)
calls = [(1,), (words,), ({w: {w} for w in sorted(words)},), (D(words), E.A, E.A | E.B), (f, D), (float("nan"), [2.5]),
         (Words(words), T)]
for arguments in calls:
    print(callkey.of_call(f, key, arguments, {}, callkey.of_version("v1"))[0].hex())
print(callkey.of_own(f, ("mine", 3)).hex())
"""
)


def test_the_keys_are_the_same_in_every_process_whatever_the_hash_seed(tmp_path):
    printed = set()
    for seed in "0", "1", "random":
        script = tmp_path / f"script{seed}.py"  # another file, and another line
        script.write_text("\n" * len(printed) + PROGRAM % str(ROOT))
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        printed.add(subprocess.check_output([sys.executable, script], env=environment, text=True))
    assert len(printed) == 1 and len(set(printed.pop().split())) == 8


def test_a_key_and_a_version_of_ones_own():
    versions = [callkey.of_version(version) for version in (None, 1, 2, "1")]
    own = callkey.of_own(function, "run 1")
    assert own == callkey.of_own(function, "run 1")
    others = [(function, "run 2"), (math.sin, "run 1"), (function, "run 1", versions[2]), (function, 1)]
    assert len({own, *(callkey.of_own(*other) for other in others)}) == 5
    unstable = object.__repr__(object())
    with pytest.raises(UnstableKey, match="give a str"):
        callkey.of_own(function, unstable)
    with pytest.raises(UnstableKey, match="give a str"):
        callkey.of_version(unstable)
    key = callkey.of_function(function)
    assert len({callkey.of_call(function, key, (1,), {}, version) for version in versions}) == 4


def named_arguments(a=0, b=0):
    pass


_plain = st.one_of(
    st.integers(), st.floats(), st.text(max_size=9), st.booleans(), st.none(), st.complex_numbers()
)


@given(st.sampled_from([function, named_arguments]), st.lists(_plain), st.dictionaries(st.text("ab"), _plain))
def test_plain_arguments_have_the_same_key_by_the_short_way(called, args, kwargs):
    key = callkey.of_function(called)
    slowly, _ = callkey.of_call(called, key, tuple(args), kwargs, b"v")
    assert callkey.of_plain_call(key, tuple(args), kwargs, b"v") == slowly


def test_plain_arguments_that_need_a_closer_look_have_no_key_by_the_short_way():
    assert callkey.of_plain_call(callkey.of_function(function), ("f at 0x7f",), {}) is None
    unstable = object.__repr__(object())
    refused = callkey.of_function(lambda: unstable)
    assert refused.refusal and callkey.of_plain_call(refused, (1,), {}) is None


def test_the_nth_call_has_a_key_of_its_own():
    key = key_of(1)
    assert callkey.nth(key, 0) == key
    assert len({callkey.nth(key, number) for number in range(1000)}) == 1000
