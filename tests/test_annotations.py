"""Annotations of a script's functions and classes: they never drag values along, and can be asked for in the runner."""

import sys

import pytest
from test_byvalue import run_script  # noqa: F401  (a fixture)

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="before Python 3.14 they are evaluated at once"
)

HINTS = """
    import __main__, dataclasses, enum, math, threading, typing
    from fractions import Fraction
    LOCK = threading.Lock()  # cannot be pickled
    BIG = bytes(3_000_000)
    Vector = list[float]
    @dataclasses.dataclass
    class Node:
        value: int
        next: Node | None = None
        others: list[Later] = dataclasses.field(default_factory=list)
        def add(self, other: Node, unknown: Never_defined | None = None) -> LOCK: return self.value + other.value
    @dataclasses.dataclass(slots=True)
    class Slots:
        value: Fraction
        next: Slots | None = None
        def me(self): return super().__class__.__name__
    class Point(typing.NamedTuple):
        x: float
        y: Nowhere = 1
        def norm(self) -> Vector: return math.hypot(self.x, self.y)
    class Options(typing.TypedDict):
        a: int
        b: Later
    class Colour(enum.Enum):
        label: str
        RED = 1
    class Marked:
        a: typing.Annotated[int, BIG, LOCK]
    class Later: pass
    def hinted(x: Vector, y: Fraction | None, *, z: typing.Annotated[str, "unit"]) -> math.nan.__class__: return x
    def unknown(x: Never_defined, y: typing.Annotated[int, LOCK, BIG]) -> BIG: return x
"""


def test_annotations_drag_no_values_along(run_script):  # noqa: F811
    run_script(
        HINTS
        + """
    from pickles import dump_call
    def local():
        class Mine:
            lock: LOCK
            def again(self, other: Mine | Never_defined): return type(self) is type(other)
        return Mine
    with PipeRunner() as runner:
        assert runner.call(lambda x: x.add(x), Node(1)) == 2
        assert runner.call(lambda: Node(2, Node(1)).next.value) == 1
        assert runner.call(Node, 3) == Node(3)
        assert runner.call(lambda: Slots(1).value) == 1
        assert runner.call(lambda s: s, Slots(1)) == Slots(1)
        assert runner.call(Point.norm, Point(3, 4)) == 5
        assert runner.call(lambda p: p, Point(3)) == Point(3)
        assert runner.call(lambda: Options(a=1, b=2)) == {"a": 1, "b": 2}
        assert runner.call(lambda: Colour.RED) is Colour.RED
        assert runner.call(Marked).__class__ is Marked
        assert runner.call(unknown, 7, 1) == 7
        assert runner.call(local()().again, None) is False
        for thing in (unknown, Node, Slots, Point, Options, Colour, Marked, local()):
            assert runner.bytes_of(lambda thing=thing: thing) < 100_000, thing  # (BIG is 3 MB)
            assert len(dump_call((thing,), {})) < 20_000
    """
    )


def test_annotations_can_be_asked_for_where_the_names_are(run_script):  # noqa: F811
    run_script(
        HINTS
        + """
    from annotationlib import Format, get_annotations
    def hints(thing): return typing.get_type_hints(thing, include_extras=True)
    def partly(thing): return get_annotations(thing, format=Format.STRING)
    with PipeRunner() as runner:
        assert runner.call(hints, hinted) == runner.call(lambda: hints(hinted)) == hints(hinted)
        assert runner.call(lambda: hinted([1], None, z="a")) == [1]
        assert runner.call(hints, Colour) == hints(Colour)
        assert runner.call(hints, Slots) == hints(Slots) == {"value": Fraction, "next": Slots | None}
        assert runner.call(lambda: hints(Slots.__init__)) == hints(Slots.__init__)
        for thing in Node, Node.add, Point, Options, Marked, unknown, Node.__init__:
            assert runner.call(partly, thing) == partly(thing), (thing, runner.call(partly, thing))
        assert runner.call(lambda: [(f.name, str(f.type)) for f in dataclasses.fields(Node)]) == [
            (f.name, str(f.type)) for f in dataclasses.fields(Node)]
        # What the runner's `__main__` has is found when somebody asks.
        def asked():
            import sys
            vars(sys.modules["__main__"]).update(Later=Later, Node=Node)
            return typing.get_type_hints(Node)
        assert runner.call(asked) == typing.get_type_hints(Node)
    """
    )


def test_looking_at_annotations_is_no_change(run_script):  # noqa: F811
    run_script(
        """
    import dataclasses
    @dataclasses.dataclass
    class C:
        a: int
        def m(self, x: C) -> int: return x
    class Bare: pass
    def f(x: int) -> C: return C(1), Bare()
    with PipeRunner() as runner:
        runner.call(f, 1)
        assert f.__annotations__ and C.__annotations__ and C.m.__annotations__ and Bare.__annotations__ == {}
        assert runner.bytes_of(f, 1) == 0
        f.__annotations__ = {"x": float}
        runner.call(f, 1)
        assert runner.bytes_of(f, 1) == 0
    """
    )


def test_annotations_that_are_text_or_were_set_travel_as_they_are(run_script):  # noqa: F811
    run_script(
        """
    import typing
    lines = ["from __future__ import annotations", "def text(x: Unknown, y: int): ...", "class Text:", "    a: Unknown"]
    exec(compile(chr(10).join(lines), "<text>", "exec", dont_inherit=True), globals())
    def given(): ...
    given.__annotations__ = {"x": int}
    def lazily(): ...
    lazily.__annotate__ = lambda format: {"y": float}
    class Given: ...
    Given.__annotations__ = {"z": str}
    with PipeRunner() as runner:
        assert runner.call(lambda: [t.__annotations__ for t in (text, Text, given, lazily, Given)]) == [
            {"x": "Unknown", "y": "int"}, {"a": "Unknown"}, {"x": int}, {"y": float}, {"z": str}]
    """
    )


def test_keys_are_made_of_what_annotations_say_not_of_what_it_stands_for(run_script):  # noqa: F811
    run_script(
        HINTS
        + """
    from cw.client.functions.functions import FunctionTable
    def key(thing):
        found = FunctionTable().key_of(thing)
        assert found.refusal is None, found.refusal
        return found.digest
    things = hinted, unknown, Node.add, Slots, Point, Options, Colour, Marked, Node, (lambda: Node(1))
    before = [key(thing) for thing in things]
    BIG, LOCK = b"other", None
    annotations = hinted.__annotations__, Slots.__annotations__, Node.__init__.__annotate__(3)
    assert [key(thing) for thing in things] == before
    class A:
        x: int
    class B:
        x: float
    B.__qualname__ = B.__name__ = "A"
    assert key(A) != key(B)
    """
    )
