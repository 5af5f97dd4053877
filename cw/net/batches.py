"""Batches cut into those that travel whole, and entries left out of them. The format of frames is not known here.

message --> split --> parts: each is one frame, or one large payload in pieces
part --> without(numbers) --> the part with fewer entries, or none
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from cw.net.memory import LARGE
from cw.net.schema import LISTS, SPECS

FRAME = 256 * 1024
"""Bytes of payload in one batch frame. Larger: fewer frames. Smaller: a control message
waits less, and a cut-short frame costs less copying."""

Message = tuple[Any, ...]


def split(message: Message) -> Iterable[Message]:
    """Cut a message into those that travel whole, in order. Most are not cut."""
    spec = SPECS[type(message)]
    if not spec.is_batch or (count := len(message[0])) <= 1:
        return (message,)
    if LISTS in spec.codes:  # objects, which may have any size
        cuts: Any = [(index, index + 1) for index in range(count)]
    elif spec.has_payloads:
        sizes = list(map(len, message[-1]))
        if sum(sizes) <= FRAME and count <= FRAME // 32:
            return (message,)
        cuts = _cuts(sizes)
    elif count <= FRAME // 8:
        return (message,)
    else:
        cuts = [(start, start + FRAME // 8) for start in range(0, count, FRAME // 8)]
    return (type(message)(*[column[start:stop] for column in message]) for start, stop in cuts)


def _cuts(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Cut payloads of these sizes into parts of at most FRAME bytes; a large one stands alone."""
    start, weight = 0, 0
    for index, size in enumerate(sizes):
        if index > start and (size > LARGE or weight + size > FRAME or index - start >= FRAME // 32):
            yield start, index
            start, weight = index, 0
        weight += size
        if size > LARGE:
            yield start, index + 1
            start, weight = index + 1, 0
    if start < len(sizes):
        yield start, len(sizes)


def without(message: Message, numbers: Collection[int]) -> tuple[Message | None, list[int]]:
    """Leave out the entries with these numbers in the first column. Returns the rest, and the numbers left out."""
    if not SPECS[type(message)].is_batch:
        return (None, [message[0]]) if message[0] in numbers else (message, [])
    kept = [index for index, number in enumerate(message[0]) if number not in numbers]
    if len(kept) == len(message[0]):
        return message, []
    gone = [number for number in message[0] if number in numbers]
    rest = type(message)(*[[column[index] for index in kept] for column in message]) if kept else None
    return rest, gone
