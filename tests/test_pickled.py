"""Values that pickle by name, and the script's names in them."""

import datetime
import decimal
import io
import pickle
import random

import pytest

from cw.payloads import script as the_script
from cw.payloads.pickled import dump_by_name, load_parts

CLASSES = """
    class A:
        def __init__(self, x=None): self.x = x
    class Bee(A):
        class Inner(A): pass
    def f(): pass
    """


def true_names(value):
    """As a pickler finds them that asks about each thing."""
    found = set()

    class Asking(pickle._Pickler):
        def save_global(self, obj, name=None):
            if the_script.name_of(obj) is not None:
                found.add(the_script.name_of(obj))
            super().save_global(obj, name)

        dispatch = {**pickle._Pickler.dispatch, type: save_global, type(true_names): save_global}

    Asking(io.BytesIO(), 5).dump(value)
    return found


def values(names):
    a, bee, inner, f = names["A"], names["Bee"], names["Bee"].Inner, names["f"]
    return [
        lambda: 147, lambda: b"\x93", lambda: "\x93", lambda: "__main__", lambda: "A", lambda: "Bee", lambda: 2.5,
        lambda: b"\x94\x93", lambda: a(1), lambda: a("A"), lambda: bee(147), lambda: inner(None), lambda: f,
        lambda: a, lambda: bee, lambda: decimal.Decimal(1), lambda: datetime.date(2026, 1, 1), lambda: [a(b"\x93")],
        lambda: a(bee()), lambda: "x" * 300,
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(30))
def test_no_name_of_the_script_is_missed(script, seed):
    makers = values(script(CLASSES))
    choice = random.Random(seed).choice
    for _ in range(100):
        value = tuple(choice(makers)() for _ in range(choice([1, 1, 2, 3])))
        data, _, names = dump_by_name(value)
        assert true_names(value) <= set(names), value
        if len(value) == 1 and type(value[0]).__module__ != "__main__":
            assert set(names) <= {"A", "Bee", "f"}
        load_parts(data, 1)


def test_what_does_not_pickle_by_name_is_left_to_others(script):
    names = script(CLASSES + "\n    own = lambda: None")
    assert dump_by_name((names["own"],)) is None
    assert dump_by_name((random.Random(1),)) is None
    assert dump_by_name((names["A"](random.Random(1)),)) is None


def test_large_buffers_are_beside_the_pickle():
    data, buffers, names = dump_by_name((pickle.PickleBuffer(bytearray(100_000)),))
    assert len(data) < 100 and [buffer.nbytes for buffer in buffers] == [100_000] and names == ()
