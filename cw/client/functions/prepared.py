"""A function as it is submitted, and the pickles of a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cw.client.functions.records import Record
from cw.named_tuple import NamedTuple
from cw.payloads import named, serialize
from cw.payloads.pickled import Pickled
from cw.payloads.templates import NAMED, Template
from cw.payloads.watch import Watch


class Prepared:
    """A function, ready to be submitted. `state`: its pickled state, for `map`, which takes it once."""

    __slots__ = (
        "mode",
        "named_as",
        "needs",
        "quick",
        "record",
        "references",
        "state",
        "state_object",
        "template",
        "watch",
    )

    def __init__(self, template: Template, mode: int) -> None:
        self.template = template
        self.mode = mode
        self.named_as: tuple[str, Any] | None = None  # the script's name, and what it was bound to
        self.record: Record | None = None  # for calls whose arguments refer to nothing
        # What to watch for such calls, the epoch, and the number of the FUNCTION object while nothing has changed.
        self.quick: tuple[Watch, Watch | None, int, int] | None = None
        self.state: Pickled | None = None
        self.references: dict[Any, Any] = {}  # objects of such a state, by the references in their place
        self.needs: tuple[int, ...] = ()  # components that a state taken for `map` refers to
        self.state_object = 0  # number of a state that is large, or cannot change
        self.watch: Watch | None = None  # the state cannot change while this is current

    @property
    def is_bare(self) -> bool:
        """True if only the arguments travel with a call."""
        return self.template.form == NAMED or self.watch is not None or bool(self.state_object)

    @property
    def inline_state(self) -> Pickled | None:
        """The state that travels with each call of a `map`."""
        return None if self.is_bare else self.state

    @property
    def takes_state(self) -> bool:
        """True if its state must be pickled at each submit."""
        return self.template.form != NAMED and self.watch is None and self.state is None


class Packed(NamedTuple):
    """A call's pickles, and what they refer to."""

    data: bytes
    buffers: list[memoryview]
    names: Sequence[str]
    codes: Sequence[named.Code] = ()
    state: Pickled | None = None
    """A large state, which travels as an object."""
    memo: Any = None
    """The pickler's memo, if the state is in the same pickle and the pickle is not large."""
    met: Sequence[Any] = ()
    """Futures among the arguments, by place (`cw.payloads.futures`)."""

    def payload(self, store: serialize.StoreBuffer | None = None, label: int = 0) -> serialize.Payload:
        return serialize.join(self.data, self.buffers, store, label)

    def is_same(self, other: Packed) -> bool:
        """True if these are pickles of equal values."""
        states = self.state and self.state.digest(), other.state and other.state.digest()
        return self.data == other.data and self.buffers == other.buffers and states[0] == states[1]


def pack(pickled: Pickled, state: Pickled | None, is_inline: bool = False) -> Packed:
    if state is None:
        return Packed(pickled.data, pickled.buffers, pickled.names, pickled.codes)
    names = sorted({*state.names, *pickled.names})
    codes = list({id(code[1]): code for code in (*state.codes, *pickled.codes)}.values())
    if is_inline:
        return Packed(state.data + pickled.data, [*state.buffers, *pickled.buffers], names, codes)
    return Packed(pickled.data, pickled.buffers, names, codes)
