"""What is in a segment, read whole: its results, what they refer to, and what is damaged.

    bytes of a segment --> Scan --> Inventory

Nothing in here unpickles anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from cw.store import format as form
from cw.store.format import Replaced

MOST_SEARCHED = 64 * 1024**2
"""Most damaged bytes that are searched for what was in them. Larger: more memory. Smaller: fewer lost results are
counted."""

Read = Callable[[int, int], bytes]
"""Type of what reads a segment: `read(size, position)`."""


class Found(NamedTuple):
    """A result: where it is in its segment, and how many bytes it has, with what its call has printed."""

    when: float
    position: int
    size: int
    key: bytes
    status: int


class Damage(NamedTuple):
    """Bytes of a file that cannot be read, and an estimate of the results that were in them."""

    file: str
    position: int
    size: int
    lost: int


class Inventory:
    """What a segment has. Results before `start` do not count: another segment has them, too."""

    def __init__(self, name: str, start: int = 0) -> None:
        self.name = name
        self.start = start
        self.size = 0
        self.header: dict[str, Any] = {}
        self.is_ended = False  # it has an end mark: nothing will be appended
        self.results: list[Found] = []
        self.functions: dict[int, tuple[str, int]] = {}  # by number: the name, and the program's number
        self.hosts: dict[int, str] = {}
        self.classes: dict[tuple[bytes, bytes], int] = {}  # see `format.ClassRecord`
        self.definitions: dict[bytes, int] = {}  # by digest: position
        self.large: dict[int, bytes] = {}  # by position: the reference to the result's own file
        self.packed: dict[int, int] = {}  # by position: that of its sample
        self.replaced: list[Replaced] = []
        self.damages: list[Damage] = []
        self.unfinished = 0  # bytes at its end that a killed program has left, or that are being written

    @property
    def scheme(self) -> str | None:
        """The scheme of its keys; None: its header is damaged."""
        scheme = self.header.get("keys")
        return scheme if isinstance(scheme, str) else None

    def read(self, read: Read) -> None:
        """Read the segment. Raises what `read` raises."""
        scan, end = form.Scan(read, 0), 0
        for position, head, body in scan:
            if position > end:
                self._note_damage(read, end, position)
            end = position + form.SIZE + head[2]
            self.is_ended = head[3] == form.END
            if head[3] in form.RESULTS or head[3] == form.OUTPUT:
                self._note_result(position, head, body)
            else:
                self._note_name(position, head, body)
        self.size = scan.end
        if scan.end > end:
            rest = read(min(scan.end - end, MOST_SEARCHED), end)
            if not self.is_ended and form.is_unfinished(rest):
                self.unfinished = scan.end - end
            else:
                self.is_ended = False
                self._note_damage(read, end, scan.end)

    def _note_result(self, position: int, head: tuple[Any, ...], body: memoryview) -> None:
        _, _, size, kind, status, _, _, args_size, _, when, _, key = head
        if position < self.start:
            return
        if kind == form.OUTPUT:
            last = self.results[-1] if self.results else None
            if last is not None and last.position + last.size == position and last.key == key:
                self.results[-1] = last._replace(size=last.size + form.SIZE + size)
            return
        self.results.append(Found(when, position, form.SIZE + size, key, status))
        if kind == form.LARGE_RESULT:
            self.large[position] = bytes(body[args_size:])
        elif kind == form.PACKED_RESULT:
            self.packed[position] = form.sample_position(bytes(body[args_size : args_size + 8]))

    def _note_name(self, position: int, head: tuple[Any, ...], body: memoryview) -> None:
        _, _, _, kind, _, host, function, _, number, _, _, key = head
        if kind == form.FUNCTION:
            self.functions[function] = bytes(body).decode(errors="replace"), number
        elif kind == form.HOST:
            self.hosts[host] = bytes(body).decode(errors="replace")
        elif kind == form.CLASS:
            self.classes.setdefault((key, bytes(body)), number)
        elif kind == form.DEFINITION:
            self.definitions.setdefault(key, position)
        elif kind == form.HEADER:
            self.header = json.loads(bytes(body))
        elif kind == form.REPLACED:
            self.replaced.append(Replaced(*json.loads(bytes(body))))

    def _note_damage(self, read: Read, begin: int, end: int) -> None:
        lost = form.lost_results(read(min(end - begin, MOST_SEARCHED), begin))
        self.damages.append(Damage(self.name, begin, end - begin, lost))
