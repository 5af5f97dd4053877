"""Generator of docs/protocol.md from the declarations of the messages:  python -m cw.net.protocol [FILE]"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator

from cw.net import messages as m
from cw.net import wire
from cw.net.batches import FRAME
from cw.net.memory import LARGE
from cw.net.schema import LISTS, PAYLOADS, SPECS, Field, Leg, Spec

_FIELD = re.compile(r"^    (?P<name>\w+): [^#]*?(?:# (?!type:)(?P<says>.*))?$", re.MULTILINE)
_NAMES = {
    "B": "u8", "H": "u16", "I": "u32", "Q": "u64", "f": "f32", LISTS: "lists of u32", PAYLOADS: "bytes",
    str: "string", int: "integer", bool: "boolean", (int, float): "number", list: "array", dict: "object",
    object: "any",
}  # fmt: skip

_INTRODUCTION = f"""\
# The protocol

*Made by `python -m cw.net.protocol` of `cw/net/messages.py`: change it there. A test compares the two.*

Peers speak protocol {m.PROTOCOL} over TCP and TLS (on one machine also over a Unix socket), a worker and its runner
over a socket and a pipe. They send *frames*; one or more frames are a *message*. All numbers are little-endian.

| word | meaning |
|---|---|
| session | one client's life, over reconnects: half of its random ident, as a number (0 from the client itself) |
| number | of a job or an object, as the client counts them within its session |
| dispatch | one sending of a job to a worker, numbered by the master |
| ident | 32 hexadecimal digits, random: who a session, a worker or a master is |
| note | where and how an attempt of a job was lost |

## Handshake

The side that dials says **Hello** first; before it the master accepts nothing else. It answers **Welcome**, or
**Refused** with a reason, and closes. A peer with another protocol number is refused. After the Welcome each side sends
what the tables below have for its leg; any other message, a frame that cannot be read and a value out of its bounds end
the connection. Any byte is a sign of life; a worker sends a **Heartbeat** now and then, and the master answers it.

A client or worker that comes back says the same `ident` again (a client also its `secret`) and keeps its session, at
the same master or at another one. A client then resubmits all that is not delivered, and ends that with
**ResubmitEnd**; a worker says what it holds in **Inventory**, and ends that with **InventoryEnd**.

## Frames

    | size u32 | kind u8 | flags u8 | 0 u16 |  body of `size` bytes  |

| form | body |
|---|---|
| record | a JSON array of the message's values, in the order of the tables |
| batch | count u32, then each column, then (if it has payloads) their sizes as u64, then the payloads |
| large payload | flag 1: a batch of one, all but the payload, which follows in frames of kind {wire.PIECE_KIND} |
| abort mark | kind {wire.ABORT_KIND}, empty: the large payload that has begun ends here, and its message is dropped |
| memory file | flag 2: the same on one machine; the payload is a file (memfd) whose descriptor comes with the frame |

A batch is one entry for each job; a column is `count` numbers of one type as they lie in memory. A column of lists is
`count` lengths as u32, then the numbers of all lists as u32.

| bound | bytes |
|---|---:|
| payloads in one batch frame | {FRAME:,} |
| a payload is large from here on | {LARGE:,} |
| one piece of a large payload | {wire.PIECE:,} |
| any frame | {wire.MAX_BODY:,} |
| a payload | {wire.MAX_PAYLOAD:,} |

## Lanes

A connection has two lanes. Frames of the *data* lane keep their order. Those of the *control* lane go ahead of what
waits in the data lane, also between two pieces of a large payload.

Before a sender cancels jobs (**Cancel**, **Stop**, **TakeBack**) or closes a session (**CloseSession**), it takes back
what its socket has not taken of them: entries of batches that wait are left out, and a large payload that has begun is
ended by an abort mark. What is cancelled has then arrived before, or never comes: receivers need not remember it.
"""


def document() -> str:
    """The text of docs/protocol.md."""
    parts = [_INTRODUCTION]
    for leg in Leg:
        parts.append(f"\n## {leg.value.capitalize()}\n\n" + "".join(_summary(leg)))
    parts.append("\n## Messages\n")
    parts += [_entry(spec) for spec in sorted(SPECS.values(), key=lambda spec: str(spec.cls.__name__))]
    return "".join(parts)


def _summary(leg: Leg) -> Iterator[str]:
    yield "| message | kind | lane | meaning |\n|---|---:|---|---|\n"
    for spec in SPECS.values():
        if leg in spec.legs:
            name = spec.cls.__name__
            first_sentence = re.split(r"(?<=\.)\s", _prose(spec))[0]
            yield f"| [{name}](#{name.lower()}) | {spec.kind} | {_lane(spec)} | {first_sentence} |\n"


def _entry(spec: Spec) -> str:
    form = "batch" if spec.is_batch else "record"
    legs = ", ".join(leg.value for leg in Leg if leg in spec.legs)
    text = f"\n### {spec.cls.__name__}\n\n{_prose(spec)}\n\nKind {spec.kind}, a {form}, {_lane(spec)} lane; {legs}.\n"
    if not spec.fields:
        return text
    says = dict(_FIELD.findall(inspect.getsource(spec.cls)))
    rows = [f"| `{field.name}` | {_type(field)} | {_meaning(field, says)} |\n" for field in spec.fields]
    return text + "\n| field | type | meaning |\n|---|---|---|\n" + "".join(rows)


def _prose(spec: Spec) -> str:
    return " ".join(inspect.cleandoc(spec.cls.__doc__).split())


def _lane(spec: Spec) -> str:
    return "control" if spec.is_control else "data"


def _type(field: Field) -> str:
    return _NAMES[field.code or field.types]


def _meaning(field: Field, says: dict[str, str]) -> str:
    bound = "" if field.bound is None else f"must be {field.bound.what}"
    return "; ".join(filter(None, [says.get(field.name, ""), bound])).replace("|", "\\|")


def main(arguments: list[str]) -> None:
    if arguments:
        with open(arguments[0], "w") as file:
            file.write(document())
    else:
        print(document(), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
