"""cw.named_tuple makes the classes that typing.NamedTuple makes, without compiling anything for each."""

import pickle
import typing
from inspect import signature
from unittest import mock

import pytest

from cw.named_tuple import NamedTuple
from cw.net.schema import SPECS


class Point(NamedTuple):
    """A point."""

    x: int
    y: int = 2
    label: str = ""

    def norm(self) -> int:
        return self.x * self.x + self.y * self.y

    @property
    def flipped(self) -> "Point":
        return self._replace(x=self.y, y=self.x)


class Likewise(typing.NamedTuple):
    """A point."""

    x: int
    y: int = 2
    label: str = ""


class Nothing(NamedTuple):
    """No fields."""


def test_it_has_what_the_class_of_typing_has():
    assert signature(Point) == signature(Likewise)
    assert str(signature(Point.__new__)) == str(signature(Likewise.__new__))
    for name in ("_fields", "_field_defaults", "__match_args__", "__annotations__", "__doc__", "__slots__"):
        assert getattr(Point, name) == getattr(Likewise, name), name
    ours, theirs = Point(1, label="a"), Likewise(1, label="a")
    assert ours == theirs == (1, 2, "a") and hash(ours) == hash(theirs)
    assert repr(ours) == repr(theirs).replace("Likewise", "Point")
    assert ours._asdict() == theirs._asdict() == {"x": 1, "y": 2, "label": "a"}
    assert ours._replace(y=5) == theirs._replace(y=5) == (1, 5, "a")
    assert type(ours._replace(y=5)) is type(Point._make([7])) is Point
    assert Point._make(iter((7, 8, "b"))) == Point(7, 8, "b")
    assert not hasattr(ours, "__dict__") and type(Point) is type


def test_it_is_an_ordinary_class():
    point = Point(3, 4)
    assert (point.x, point.y, point.norm(), point.flipped) == (3, 4, 25, (4, 3, ""))
    match point:
        case Point(x, y, label=""):
            assert (x, y) == (3, 4)
        case _:
            pytest.fail("no match")
    copy = pickle.loads(pickle.dumps(point))
    assert type(copy) is Point and copy == point
    with pytest.raises(AttributeError):
        point.x = 1  # type: ignore[misc]
    assert Nothing() == () and repr(Nothing()) == "Nothing()"


@pytest.mark.parametrize(
    "wrong",
    [lambda cls: cls(), lambda cls: cls(1, 2, "", 4), lambda cls: cls(1, z=3), lambda cls: cls(1, x=1)],
)
def test_a_wrong_call_raises_the_same_error(wrong):
    with pytest.raises(TypeError) as theirs:
        wrong(Likewise)
    with pytest.raises(TypeError) as ours:
        wrong(Point)
    assert str(ours.value) == str(theirs.value).replace("Likewise", "Point")


def test_a_wrong_declaration_raises():
    with pytest.raises(TypeError, match="without a default"):

        class _Gap(NamedTuple):
            a: int = 1
            b: int  # type: ignore[misc]

    with pytest.raises(TypeError, match="no other bases"):

        class _Two(NamedTuple, dict):  # type: ignore[misc]
            a: int

    with pytest.raises(TypeError, match="no field z"):
        Point(1)._replace(z=1)  # type: ignore[call-arg]


def test_nothing_is_compiled_for_a_class_of_as_many_fields():
    def declare(base):
        class _Made(base):
            a: int
            b: int
            c: int

        return _Made(1, 2, 3)

    declare(NamedTuple)
    with mock.patch("builtins.eval", side_effect=AssertionError) as evaluate:
        assert declare(NamedTuple) == (1, 2, 3)
        with pytest.raises(AssertionError):
            declare(typing.NamedTuple)  # or this test would not notice
    assert evaluate.called


def test_all_messages_are_made_of_their_fields_in_order():
    for cls, spec in SPECS.items():
        names = [field.name for field in spec.fields]
        assert list(signature(cls).parameters) == names == list(cls._fields)
        message = cls(*names)
        assert [getattr(message, name) for name in names] == names == list(message)
