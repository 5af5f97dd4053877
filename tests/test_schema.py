"""What a message declares of itself, and what follows from that. No socket."""

import math
from typing import Annotated, Any, NamedTuple

import pytest

from cw.errors import ProtocolError
from cw.net import schema
from cw.net.schema import Bound, Leg, Spec

IDENT = "0123456789abcdef" * 2


class Report(NamedTuple):
    name: schema.Line
    seconds: float
    is_last: bool
    notes: list[Any]
    level: Annotated[int, Bound(lambda value: value < 3, "below 3")] = 0


class Numbers(NamedTuple):
    numbers: schema.U64s
    needs: schema.U32Lists


class Jobs(NamedTuple):
    numbers: schema.U64s
    seconds: schema.Durations
    payloads: schema.Payloads


@pytest.fixture
def declared(monkeypatch):
    """The classes above in a table of their own."""
    monkeypatch.setattr(schema, "SPECS", {})
    schema.record(1, Leg.WORKER_MASTER, Leg.MASTER_WORKER)(Report)
    schema.batch(2, Leg.WORKER_MASTER, is_ordered=True)(Numbers)
    schema.batch(3, Leg.CLIENT_MASTER)(Jobs)
    return schema.SPECS


def test_a_record_says_what_its_values_are(declared):
    spec = declared[Report]
    assert [(field.name, field.types) for field in spec.fields] == [
        ("name", str), ("seconds", (int, float)), ("is_last", bool), ("notes", list), ("level", int),
    ]  # fmt: skip
    assert not spec.is_batch and not spec.codes and not spec.has_payloads


def test_a_batch_says_how_its_columns_travel(declared):
    assert [declared[cls].codes for cls in (Numbers, Jobs)] == ["Q" + schema.LISTS, "Qf"]
    assert [declared[cls].has_payloads for cls in (Numbers, Jobs)] == [False, True]


def test_payloads_and_what_is_ordered_stay_in_order_and_all_else_overtakes(declared):
    assert [declared[cls].is_control for cls in (Report, Numbers, Jobs)] == [True, False, False]


def test_who_may_send_what_is_what_the_messages_say(declared):
    assert schema.sent_on(Leg.WORKER_MASTER) == {Report, Numbers}
    assert schema.sent_on(Leg.MASTER_WORKER) == {Report}
    assert schema.sent_on(Leg.WORKER_RUNNER) == frozenset()
    schema.record(4, Leg.WORKER_MASTER, is_handshake=True)(Report)
    assert schema.sent_on(Leg.WORKER_MASTER) == {Numbers}


def test_a_value_out_of_its_bounds_is_named_with_them(declared):
    good = Report("a line", 0.5, True, [])
    schema.check_bounds(good)
    for wrong, why in (
        (good._replace(name="a\nb"), "Report.name: not a line of text, of at most 1000 characters"),
        (good._replace(level=3), "Report.level: not below 3"),
        (Jobs([1], [math.nan], [b""]), "Jobs.seconds: not finite and not negative"),
    ):
        with pytest.raises(ProtocolError, match=f"^{why}$"):
            schema.check_bounds(wrong)


@pytest.mark.parametrize(
    "fields",
    [
        {"numbers": schema.U64s, "name": str},
        {"needs": schema.U32Lists, "numbers": schema.U64s},
        {"payloads": schema.Payloads, "numbers": schema.U64s},
    ],
    ids=["a value among columns", "lists before a column", "payloads before a column"],
)
def test_a_batch_that_cannot_travel_cannot_be_declared(fields):
    with pytest.raises(AssertionError):
        Spec(NamedTuple("Wrong", fields.items()), 9, [], is_batch=True, is_ordered=False)


def test_a_column_in_a_record_cannot_be_declared():
    with pytest.raises(AssertionError):
        Spec(Numbers, 9, [], is_batch=False, is_ordered=False)


# --- what a value may be ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "good", "wrong"),
    [
        (schema.Line, ["", "node7", "ü" * 1000], ["a\nb", "x" * 1001, "\ud800", "\x1b[2J"]),
        (schema.Idents, [[], [IDENT]], [[IDENT, None], ["x"], [7], [IDENT.upper()]]),
        (schema.Sessions, [[], [0, 2**64 - 1]], [["x"], [-1], [2**64], [True], [1.0]]),
        (schema.Depths, [[], [0, 1000]], [[1001], [-1], [True], ["1"]]),
        (schema.Count, [0, 10**6], [10**6 + 1]),
        (schema.TimeLeft, [-1, 0.5, 1e9], [-2, math.nan, math.inf, 1e10]),
        (schema.Durations, [[], [0.0], [1.5, 2]], [[math.nan, 1.0], [1.0, math.nan], [-0.1], [math.inf]]),
    ],
)
def test_bounds(hint, good, wrong):
    (bound,) = [mark for mark in hint.__metadata__ if isinstance(mark, Bound)]
    assert [bound.holds(value) for value in good] == [True] * len(good)
    assert [bound.holds(value) for value in wrong] == [False] * len(wrong)


def test_so_many_may_be_listed(monkeypatch):
    monkeypatch.setattr(schema, "LISTED", 2)
    for hint, value in ((schema.Idents, IDENT), (schema.Sessions, 7)):
        (bound,) = hint.__metadata__
        assert bound.holds([value] * 2) and not bound.holds([value] * 3)
