"""What cannot have changed costs nothing; all else is looked at."""

import array
import collections
import datetime
import decimal
import enum
import functools
import json
import logging
import math
import operator
import pathlib
import re
import types
import typing
import uuid

import numpy
import pytest
from programs import name_of

from cw.payloads import constants


class Sub(int):
    pass


class Colour(enum.Enum):
    RED = 1
    LIST = [1]


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "value",
    [
        None, True, 1, 1.5, 2j, "text", b"bytes", ..., NotImplemented, range(3), slice(1, 2), (1, ("a", b"b")),
        frozenset({(2, "c")}), len, math.sqrt, dict.fromkeys, str.upper, json, json.dumps, json.JSONDecoder, dict,
        operator.add, re.compile("a"), datetime.date(2020, 1, 1), datetime.timedelta(1), decimal.Decimal("1"),
        pathlib.Path("/"), uuid.UUID(int=1), list[int], typing.Callable[[int], str], typing.TypeVar("T"), int | str,
        functools.partial(json.dumps, indent=1), logging.getLogger("a"), numpy.float64(1), numpy.dtype("f8"), numpy.add,
        numpy.frombuffer(bytes(16)), numpy.frombuffer(bytes(16)).reshape(2, 1)[1:], collections.OrderedDict,
        Colour.RED,
    ],
    ids=name_of,
)  # fmt: skip
def test_what_cannot_change_is_a_constant(value):
    assert constants.is_constant(value)


@pytest.mark.parametrize(
    "value",
    [
        [], {}, set(), bytearray(b"a"), (1, []), ([],), array.array("b"), collections.deque(), types.SimpleNamespace(),
        object(), Sub(3), [].append, {}.get, numpy.zeros(2), numpy.frombuffer(bytearray(16)), numpy.array([object()]),
        functools.partial(json.dumps, indent=[]), Point(1, []), memoryview(bytearray(1)), Exception("a"), iter([1]),
        logging.Formatter(), Colour.LIST, types.MappingProxyType({}),
    ],
    ids=name_of,
)  # fmt: skip
def test_what_can_change_is_looked_at(value):
    assert not constants.is_constant(value)


def test_a_tuple_of_a_users_kind_is_looked_at():
    class Kind(tuple):
        pass

    made = Kind((1, 2))
    made.extra = []
    assert not constants.is_constant(made)


@pytest.mark.parametrize(
    ("code", "is_constant"),
    [
        ("def f(a=1, *, b='x'): pass", True),
        ("def f(a=[]): pass", False),
        ("def f(*, a={}): pass", False),
        ("def f(): pass\nf.seen = []", False),
        ("def f(): pass\nf.seen = 1", True),
        ("def make():\n    x = []\n    def g(): return x\n    return g\nf = make()", False),
        ("def make():\n    x = 1\n    def g(): return x\n    return g\nf = make()", True),
        ("class f:\n    rates = [0]", False),
        ("class f:\n    rate = 1\n    def m(self, x=1): pass\n    @property\n    def p(self): pass", True),
        ("class f:\n    def m(self, x=[]): pass", False),
        ("class f:\n    @staticmethod\n    def m(x=[]): pass", False),
        ("class f:\n    class Inner:\n        seen = []", False),
        ("class Base:\n    seen = []\nclass f(Base): pass", False),
        ("import enum\nclass f(enum.Enum):\n    A = 1", True),
    ],
)
def test_functions_and_classes_of_the_script_count_as_what_they_hold(script, code, is_constant):
    assert constants.is_constant(script(code)["f"]) is is_constant


def test_what_refers_to_itself_is_judged(script):
    names = script("def f(): pass\nf.me = f\nclass C: pass\nC.me = C\nC.f = f")
    assert constants.is_constant(names["f"]) and constants.is_constant(names["C"])
    deep = ()
    for _ in range(100):
        deep = (deep,)
    assert not constants.is_constant(deep)  # who knows
