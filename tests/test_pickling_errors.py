"""Finding an object inside another, for a message."""

import collections
import functools

import pytest

from cw.payloads import pickling_errors


class Target:
    pass


class Holder:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def method(self):
        pass


target = Target()


def closure():
    inside = target
    return lambda: inside


@pytest.mark.parametrize(
    ("thing", "path"),
    [
        (target, "x"),
        ([1, (target,)], "x[1][0]"),
        ({"a": {2: target}}, "x['a'][2]"),
        (Holder(a=Holder(b=[target])), "x.a.b[0]"),
        (Holder(a=target).method, "x.__self__.a"),
        (functools.partial(len, target), "x.args[0]"),
        (functools.partial(len, k=target), "x.keywords['k']"),
        (collections.deque([target]), "x[0]"),
        (collections.OrderedDict(a=target), "x['a']"),
        (ValueError(target), "x.args[0]"),
        (closure(), "x.__closure__['inside']"),
        (lambda: target, "x.__globals__['target']"),
        (lambda a=target: a, "x.__defaults__[0]"),
        (lambda *, a=target: a, "x.__kwdefaults__['a']"),
        (type("Local", (), {"a": [target]}), "x.a[0]"),
        (type("Local", (), {"m": lambda self: target})(), "x.__class__.m.__globals__['target']"),
        ([[target], target], "x[1]"),
    ],
)
def test_an_object_is_found_by_the_shortest_path(thing, path):
    assert pickling_errors.find_path(target, [("x", thing)]) == path


def test_an_object_in_a_set_or_a_key_is_found():
    assert "element" in pickling_errors.find_path(target, [("x", {target})])
    assert "key" in pickling_errors.find_path(target, [("x", {target: 1})])


def test_what_is_not_there_is_not_found():
    assert pickling_errors.find_path(target, [("x", [1, "a", Holder()]), ("y", None)]) is None


def test_cycles_and_hostile_objects_do_not_stop_the_search():
    class Hostile:
        @property
        def __dict__(self):
            raise RuntimeError

        def __repr__(self):
            raise RuntimeError

    cycle = []
    cycle += [cycle, Hostile(), {Hostile(): 1}, target]
    assert pickling_errors.find_path(target, [("x", cycle)]) == "x[3]"


def test_the_search_is_bounded(monkeypatch):
    monkeypatch.setattr(pickling_errors, "_OBJECTS", 100)
    assert pickling_errors.find_path(target, [("x", [[i] for i in range(1000)] + [target])]) is None
    deep = target
    for _ in range(1000):
        deep = [deep]
    assert pickling_errors.find_path(target, [("x", deep)]) is None


def test_an_argument_is_named_as_in_the_signature_where_there_is_one():
    def function(a, /, b, *rest, c):
        pass

    assert [pickling_errors.argument_name(function, i) for i in range(5)] == [
        "argument 'a'", "argument 'b'", "argument 3", "argument 4", "argument 5",
    ]  # fmt: skip
    assert pickling_errors.argument_name(Holder().method, 0) == "argument 1"
    assert pickling_errors.argument_name(None, 1) == "argument 2"
