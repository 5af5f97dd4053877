"""Declarations of messages, and the table made from them, which wire, roles and documentation read.

    @batch(66, Leg.CLIENT_MASTER)            the kind of its frames, and the legs on which it is sent
    class Submit(NamedTuple):
        '''Jobs from a client.'''
        numbers: U64s                        the types define how a value travels, and which values are valid
        payloads: Payloads

    SPECS[Submit]                            all that, with names
    sent_on(Leg.CLIENT_MASTER)               the messages that may be sent there

A *record* holds a few plain values (as JSON has), and is rare. A *batch* holds columns, lists of equal length: one
entry for each job. Batches with `payloads` go in the data lane of a connection, in order, and so do messages that are
declared `is_ordered`; all others go in the control lane and overtake them.

The table is made once, when the classes are defined.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, TypeVar, get_origin

from cw.errors import ProtocolError
from cw.named_tuple import NamedTuple

Message = TypeVar("Message", bound=type[tuple[Any, ...]])


class Leg(enum.Enum):
    """Sender and receiver of a message."""

    CLIENT_MASTER = "client to master"
    MASTER_CLIENT = "master to client"
    WORKER_MASTER = "worker to master"
    MASTER_WORKER = "master to worker"
    RUNNER_WORKER = "runner to worker"
    WORKER_RUNNER = "worker to runner"
    OBSERVER_MASTER = "observer to master"
    MASTER_OBSERVER = "master to observer"
    FETCHER_WORKER = "fetching worker to worker"
    WORKER_FETCHER = "worker to fetching worker"


# --- valid values -----------------------------------------------------------------------------

TEXT = 1000
"""Most characters of a text that goes into logs or messages."""

ATTEMPTS = 1_000_000
"""Most attempts that may be counted for a job."""

LISTED = 1_000_000
"""Most sessions, or workers, that one message may name."""

HOSTS = 64
"""Most addresses that a worker may name as its own."""

MOST_DEPTH = 1000
"""Largest depth of a session (of a client in a job in a job ...)."""

MOST_SECONDS = 1e9
"""Largest time limit (seconds): 30 years."""

_HEX = frozenset("0123456789abcdef")


def is_text(text: Any) -> bool:
    """True if it is a text that is safe for a line of the log."""
    return isinstance(text, str) and len(text) <= TEXT and text.isprintable()


def is_ident(text: Any) -> bool:
    """True if it is a random name, as clients and workers choose for themselves."""
    return isinstance(text, str) and len(text) == 32 and _HEX.issuperset(text)


def are_durations(seconds: Iterable[float]) -> bool:
    """True if these are finite and not negative. (A NaN would spread into every estimate.)"""
    seconds = list(seconds)
    # Neither test is enough alone: min() may miss a NaN, and a sum may hide a negative number.
    return not seconds or (min(seconds) >= 0 and sum(seconds) < math.inf)


def _are_idents(values: list[Any]) -> bool:
    return len(values) <= LISTED and all(map(is_ident, values))


def _are_sessions(values: list[Any]) -> bool:
    return len(values) <= LISTED and all(type(value) is int and 0 <= value < 2**64 for value in values)


def _are_depths(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value <= MOST_DEPTH for value in values)


def is_digest(text: Any) -> bool:
    """True if it is a digest of 32 bytes in hexadecimal digits."""
    return isinstance(text, str) and len(text) == 64 and _HEX.issuperset(text)


def _are_hosts(values: list[Any]) -> bool:
    return len(values) <= HOSTS and all(is_text(value) and 0 < len(value) < 256 for value in values)


class Bound(NamedTuple):
    """A condition on a value besides its type; `what` gives it in words."""

    holds: Callable[[Any], bool]
    what: str


class Column(NamedTuple):
    """A column of a batch. `code`: the form in which its entries travel, an `array` typecode or one of those below."""

    code: str


LISTS = "N"
"""Any number of 32-bit numbers for each entry."""

PAYLOADS = "P"
"""Bytes, which only client and runner inspect."""

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
Hosts = Annotated[list[Any], Bound(_are_hosts, f"a list of at most {HOSTS} addresses")]
Digest = Annotated[str, Bound(is_digest, "a digest: 64 hexadecimal digits")]
Port = Annotated[int, Bound(lambda value: 0 <= value < 2**16, "a port")]
Count = Annotated[int, Bound(lambda value: value <= ATTEMPTS, f"at most {ATTEMPTS}")]
TimeLeft = Annotated[
    float, Bound(lambda value: -1 <= value <= MOST_SECONDS, f"from -1 to {MOST_SECONDS:.0f}")
]


# --- the table --------------------------------------------------------------------------------


class Field(NamedTuple):
    name: str
    types: Any  # of a record's value, for isinstance()
    code: str  # of a batch's column
    bound: Bound | None


class Spec:
    """The declaration of one message, and values derived from it."""

    __slots__ = ("bounds", "cls", "codes", "fields", "has_payloads", "is_batch", "is_control", "is_handshake", "kind",
                 "legs")  # fmt: skip

    def __init__(self, cls: Any, kind: int, legs: Iterable[Leg], is_batch: bool, is_ordered: bool) -> None:
        hints = cls.__annotations__
        self.cls = cls  # the NamedTuple
        self.kind = kind
        self.legs = frozenset(legs)
        self.is_batch = is_batch
        self.is_handshake = False
        self.fields = tuple(_field(name, hint) for name, hint in hints.items())
        codes = "".join(field.code for field in self.fields)
        self.has_payloads = codes.endswith(PAYLOADS)
        self.codes = codes.removesuffix(PAYLOADS)
        """Typecodes of a batch's columns; LISTS can only be the last one."""
        self.is_control = not self.has_payloads and not is_ordered
        self.bounds = [
            (index, field.name, field.bound) for index, field in enumerate(self.fields) if field.bound
        ]
        assert all(bool(field.code) == is_batch for field in self.fields), cls
        assert not {LISTS, PAYLOADS} & {*self.codes[:-1]}, cls


SPECS: dict[type, Spec] = {}
"""Declarations of all messages, in order."""


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
    """Declare a message of columns. `is_ordered`: it must not overtake payloads, although it has none."""

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
    """The messages that may be sent on this leg after the handshake."""
    return frozenset(cls for cls, spec in SPECS.items() if leg in spec.legs and not spec.is_handshake)


def check_bounds(message: tuple[Any, ...]) -> None:
    """Raise ProtocolError if a value violates its bound."""
    for index, name, bound in SPECS[type(message)].bounds:
        if not bound.holds(message[index]):
            raise ProtocolError(f"{type(message).__name__}.{name}: not {bound.what}")
