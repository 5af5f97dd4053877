"""Classes without a name in the script: one definition, sent once; one identity in both processes."""

import pickle
import random

import pytest

from cw.payloads import classes, serialize

POINT = """
    import dataclasses

    RATE = 1

    def make():
        @dataclasses.dataclass
        class Point:
            x: int
            y: float = 0.0

            def scaled(self):
                return Point(self.x * RATE, self.y)

        return Point

    Point = None
    Own = make()

    def noop(point):
        pass

    def same(value):
        return value

    def scaled(point):
        return point.scaled()
    """


def test_a_call_does_not_bring_the_definition_along_and_the_object_is_sent_once(runner, script):
    names = script(POINT)
    make, same = names["make"], names["same"]
    own = make()
    number, payload = runner.functions.call(names["noop"], (own(1),), {})
    assert len(payload) < 200
    assert runner.functions.call(names["noop"], (own(2),), {})[0] == number
    assert runner.bytes_of(same, own(1)) > 0
    assert runner.bytes_of(same, own(2)) == 0
    assert runner.call(same, own(3)) == own(3) and type(runner.call(same, own(3))) is own


def test_a_result_of_a_class_that_the_client_has_does_not_bring_it_along(script):
    own = script(POINT)["make"]()
    whole = serialize.dump_result(own(1))
    classes.at_home.add(classes.identity_of(own))  # as if this were a runner
    try:
        result = serialize.dump_result(own(1))
    finally:
        classes.at_home.clear()
    assert len(result) < 200 < len(whole)
    assert serialize.load_result(result) == own(1)
    assert len(serialize.alone(result)) > 200  # in a store it stands by itself


def test_classes_that_refer_to_each_other(runner, script):
    names = script("""
        def make():
            class A:
                def other(self): return B()
            class B:
                rates = [1]
                def other(self): return A()
            class C:
                def other(self): return D()
            class D:
                def other(self): return C()
            return A, B, C, D
        def other(thing): return thing.other().other()
        """)
    for cls in names["make"]():
        assert type(runner.call(names["other"], cls())) is cls


def test_what_methods_read_and_edits_of_them_are_seen(runner, script):
    names = script(POINT)
    own = names["make"]()
    scaled = names["scaled"]
    assert runner.call(scaled, own(2)) == own(2)
    script("RATE = 5")
    assert runner.call(scaled, own(2)) == own(10)
    own.scaled = script("def edited(self): return 'edited'")["edited"]
    assert runner.call(scaled, own(2)) == "edited"
    own.rates = [1]
    own.scaled = script("def rate(self): return self.rates[0]")["rate"]
    assert runner.call(scaled, own(2)) == 1
    own.rates[0] = 2  # in place
    assert runner.call(scaled, own(2)) == 2
    del own.rates
    own.scaled = script("def last(self): return hasattr(self, 'rates')")["last"]
    assert runner.call(scaled, own(2)) is False


def test_an_edit_of_a_class_that_another_one_refers_to_is_seen(runner, script):
    names = script("""
        def make():
            class Part:
                def value(self): return 1
            class Whole:
                def value(self): return Part().value()
            return Part, Whole
        def value(thing): return thing.value()
        """)
    part, whole = names["make"]()
    assert runner.call(names["value"], whole()) == 1
    part.value = script("def two(self): return 2")["two"]
    assert runner.call(names["value"], whole()) == 2
    part.values = [3]
    part.value = script("def listed(self): return self.values[0]")["listed"]
    assert runner.call(names["value"], whole()) == 3
    part.values[0] = 4
    assert runner.call(names["value"], whole()) == 4


def test_a_class_that_a_function_of_the_script_holds_is_there_for_jobs_that_do_not_reach_it(runner, script):
    names = script("""
        def make():
            class Inner:
                def value(self): return 1
            class Held(Inner):
                pass
            def holder(): return Held().value()
            holder.__qualname__ = "holder"
            return holder
        holder = make()
        def f(): return getattr(__import__("__main__"), "hold" + "er")()
        """)
    assert runner.call(names["f"]) == 1


def test_classes_in_maps_closures_and_global_values(runner, script):
    names = script("""
        def make():
            class Own:
                def __init__(self, x): self.x = x
            return Own
        Own = make()
        TABLE = {"own": Own(3)}
        def x(value): return value.x
        def table(): return TABLE["own"].x, type(TABLE["own"]) is Own
        """)
    own = names["Own"]
    assert runner.map(names["x"], [own(1), own(2)])[0] == [1, 2]
    assert runner.call(lambda: own(7).x) == 7
    assert runner.call(names["table"]) == (3, True)


def test_a_class_that_nobody_has_is_an_error():
    with pytest.raises(pickle.UnpicklingError, match="not here"):
        classes.class_of(b"0123456789abcdef")


@pytest.mark.parametrize("seed", range(3))
def test_after_random_edits_instances_do_what_the_classes_say(runner, script, seed):
    names = script("""
        def make():
            class A:
                value = 0
                def get(self): return (self.value, B.value, B.values)
            class B:
                value = 0
                values = ()
                def get(self): return (A().get(), self.value)
            return A, B
        def get(thing): return thing.get()
        """)
    choice = random.Random(seed).choice
    pair = names["make"]()
    for step in range(12):
        cls = choice(pair)
        kind = choice(["value", "method", "list", "in place", "none"])
        if kind == "value":
            cls.value = step
        elif kind == "method":
            cls.get = script(f"def edited(self): return {step}, self.value")["edited"]
        elif kind == "list":
            cls.values = choice([(step,), [step]])
        elif kind == "in place" and type(getattr(cls, "values", None)) is list:
            cls.values.append(step)
        for each in pair:
            assert runner.call(names["get"], each()) == each().get(), (step, kind)
