"""How a message is declared, and what follows from that: the table that wire, roles and documentation read.

    @batch(66, Leg.CLIENT_MASTER)            the kind of its frames, and the legs on which it is sent
    class Submit(NamedTuple):
        '''Jobs from a client.'''
        numbers: U64s                        the types are how a value travels, and what it must be
        payloads: Payloads

    SPECS[Submit]                            all that with names
    sent_on(Leg.CLIENT_MASTER)               who may send what

A *record* holds a few plain values (what JSON has), and is rare. A *batch* holds columns, lists of equal length: one
entry for each job. Batches with `payloads` go in the data lane of a connection, in order, and so does what is declared
`is_ordered`; all else is in the control lane and overtakes them.

The table is made once, when the classes are defined.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar, get_origin, get_type_hints

from cw.errors import ProtocolError

Message = TypeVar("Message", bound=type[tuple[Any, ...]])


class Leg(enum.Enum):
    """From whom to whom."""

    CLIENT_MASTER = "client to master"
    MASTER_CLIENT = "master to client"
    WORKER_MASTER = "worker to master"
    MASTER_WORKER = "master to worker"
    RUNNER_WORKER = "runner to worker"
    WORKER_RUNNER = "worker to runner"
    OBSERVER_MASTER = "observer to master"
    MASTER_OBSERVER = "master to observer"


# --- what a value may be ----------------------------------------------------------------------

TEXT = 1000
"""Characters of a text that goes into logs or messages."""

ATTEMPTS = 1_000_000
"""Attempts and losses that a job may have behind it."""

LISTED = 1_000_000
"""Sessions, or workers, that one message may name."""

MOST_DEPTH = 1000
"""Of sessions of clients in jobs in jobs."""

MOST_SECONDS = 1e9
"""Of a time limit: 30 years."""

_HEX = frozenset("0123456789abcdef")


def is_text(text: Any) -> bool:
    """Is it a text that may stand in a line of the log?"""
    return isinstance(text, str) and len(text) <= TEXT and text.isprintable()


def is_ident(text: Any) -> bool:
    """Is it a random name, as clients and workers give themselves?"""
    return isinstance(text, str) and len(text) == 32 and _HEX.issuperset(text)


def are_durations(seconds: Iterable[float]) -> bool:
    """Are these finite and not negative? (A NaN would go on into every estimate.)"""
    seconds = list(seconds)
    # Neither is enough: min() may pass over a NaN, and a sum over a negative number.
    return not seconds or (min(seconds) >= 0 and sum(seconds) < math.inf)


def _are_idents(values: list[Any]) -> bool:
    return len(values) <= LISTED and all(map(is_ident, values))


def _are_sessions(values: list[Any]) -> bool:
    return len(values) <= LISTED and all(type(value) is int and 0 <= value < 2**64 for value in values)


def _are_depths(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value <= MOST_DEPTH for value in values)


class Bound(NamedTuple):
    """What a value must be besides its type; `what` says it in words."""

    holds: Callable[[Any], bool]
    what: str


class Column(NamedTuple):
    """A column of a batch, and how its entries travel: an `array` typecode, or one of those below."""

    code: str


LISTS = "N"
"""Any number of 32-bit numbers for each entry."""

PAYLOADS = "P"
"""Bytes, which only the two ends look into."""

Payload = Any  # a bytes-like object; opaque outside client and runner

U8s = Annotated[Sequence[int], Column("B")]
U16s = Annotated[Sequence[int], Column("H")]
U32s = Annotated[Sequence[int], Column("I")]
U64s = Annotated[Sequence[int], Column("Q")]
F32s = Annotated[Sequence[float], Column("f")]
Durations = Annotated[Sequence[float], Column("f"), Bound(are_durations, "finite and not negative")]
U32Lists = Annotated[Sequence[Sequence[int]], Column(LISTS)]
Payloads = Annotated[Sequence[Payload], Column(PAYLOADS)]

Line = Annotated[str, Bound(is_text, f"a line of text, of at most {TEXT} characters")]
Idents = Annotated[list[Any], Bound(_are_idents, "a list of idents")]
Sessions = Annotated[list[Any], Bound(_are_sessions, "a list of sessions")]
Depths = Annotated[list[Any], Bound(_are_depths, f"a list of numbers from 0 to {MOST_DEPTH}")]
Count = Annotated[int, Bound(lambda value: value <= ATTEMPTS, f"at most {ATTEMPTS}")]
TimeLeft = Annotated[
    float, Bound(lambda value: -1 <= value <= MOST_SECONDS, f"from -1 to {MOST_SECONDS:.0f}")
]


# --- the table --------------------------------------------------------------------------------


class Field(NamedTuple):
    name: str
    types: Any  # of a record's value: what isinstance() is asked
    code: str  # of a batch's column
    bound: Bound | None


class Spec:
    """All that is declared of one message, and what follows from that."""

    __slots__ = ("bounds", "cls", "codes", "fields", "has_payloads", "is_batch", "is_control", "is_handshake", "kind",
                 "legs")  # fmt: skip

    def __init__(self, cls: Any, kind: int, legs: Iterable[Leg], is_batch: bool, is_ordered: bool) -> None:
        hints = get_type_hints(cls, include_extras=True)
        self.cls = cls  # the NamedTuple
        self.kind = kind
        self.legs = frozenset(legs)
        self.is_batch = is_batch
        self.is_handshake = False
        self.fields = tuple(_field(name, hint) for name, hint in hints.items())
        codes = "".join(field.code for field in self.fields)
        self.has_payloads = codes.endswith(PAYLOADS)
        self.codes = codes.removesuffix(PAYLOADS)
        """Typecodes of a batch's columns; LISTS is the last one, if there is one."""
        self.is_control = not self.has_payloads and not is_ordered
        self.bounds = [
            (index, field.name, field.bound) for index, field in enumerate(self.fields) if field.bound
        ]
        assert all(bool(field.code) == is_batch for field in self.fields), cls
        assert not {LISTS, PAYLOADS} & {*self.codes[:-1]}, cls


SPECS: dict[type, Spec] = {}
"""Of all messages, in the order in which they are declared."""


def record(
    kind: int, *legs: Leg, is_ordered: bool = False, is_handshake: bool = False
) -> Callable[[Message], Message]:
    """Declare a message of a few plain values. `is_ordered`: it must not overtake payloads."""

    def declare(cls: Message) -> Message:
        SPECS[cls] = spec = Spec(cls, kind, legs, False, is_ordered)
        spec.is_handshake = is_handshake
        return cls

    return declare


def batch(kind: int, *legs: Leg, is_ordered: bool = False) -> Callable[[Message], Message]:
    """Declare a message of columns. `is_ordered`: it must not overtake payloads, though it has none."""

    def declare(cls: Message) -> Message:
        SPECS[cls] = Spec(cls, kind, legs, True, is_ordered)
        return cls

    return declare


def _field(name: str, hint: Any) -> Field:
    marks = getattr(hint, "__metadata__", ())
    plain = hint.__origin__ if marks else hint
    code = next((mark.code for mark in marks if isinstance(mark, Column)), "")
    bound = next((mark for mark in marks if isinstance(mark, Bound)), None)
    return Field(name, (int, float) if plain is float else get_origin(plain) or plain, code, bound)


def sent_on(leg: Leg) -> frozenset[type]:
    """What may be sent there, once the handshake is over."""
    return frozenset(cls for cls, spec in SPECS.items() if leg in spec.legs and not spec.is_handshake)


def check_bounds(message: tuple[Any, ...]) -> None:
    """Raise ProtocolError if a value is not what it must be."""
    for index, name, bound in SPECS[type(message)].bounds:
        if not bound.holds(message[index]):
            raise ProtocolError(f"{type(message).__name__}.{name}: not {bound.what}")
