"""One segment made of several: its bytes.

    inventories of the segments --> header, what it replaces, names, classes, definitions, results by time, end mark

Results are in the order in which they were stored. A number of a function belongs to one program, so that it is known
which jobs with one number are one job. Nothing in here unpickles anything.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

from cw.store import directory
from cw.store import format as form
from cw.store.direct import Ways
from cw.store.format import Replaced
from cw.store.inventory import Found, Inventory
from cw.version import VERSION

MOST_HOSTS = 1 << 16

ReadSegment = Callable[[str, int, int], bytes]
"""Type of what reads any segment: `read(name, size, position)`."""


class Merging:
    """What is written in place of these segments.

    `kept`: for each, which of its results stay. `still_there`: names of segments that an earlier merging could not
    remove.
    """

    def __init__(
        self,
        path: str,
        sources: Sequence[Inventory],
        kept: Sequence[Sequence[Found]],
        still_there: Collection[str],
        read: ReadSegment,
    ) -> None:
        self._path = path
        self._sources = sources
        self._kept = kept
        self._read = read
        self._now = time.time()
        self._ways = Ways()
        self.replaced = [Replaced(each.name, each.size, each.is_ended) for each in sources] + [
            former
            for each in sources
            for former in each.replaced
            if not former.is_ended or former.name in still_there
        ]
        self._functions: dict[tuple[int, int], int] = {}  # by number of the source, and in it
        self._hosts: dict[str, int] = {"": 0}

    def parts(self) -> Iterator[bytes]:
        """Yield the bytes of the segment. Raises StoreError, and one of format.DAMAGE if a source has changed."""
        yield self._header()
        for each in self.replaced:
            yield form.replaced_record(each, self._now)
        yield from self._names()
        yield from self._definitions()
        yield from self._results()
        yield form.record(form.END, b"", self._now)

    def _header(self) -> bytes:
        first = self._sources[0].header
        header = {
            "format": form.FORMAT,
            "store": first["store"],
            "keys": first["keys"],
            "cw": VERSION,
            "merged": len(self._sources),
        }
        return form.record(form.HEADER, json.dumps(header).encode(), self._now)

    def _names(self) -> Iterator[bytes]:
        programs: dict[tuple[int, int], int] = {}
        for place, source in enumerate(self._sources):
            for number, (name, program) in sorted(source.functions.items()):
                function = self._functions[place, number] = len(self._functions)
                run = programs.setdefault((place, program), len(programs))
                yield form.record(form.FUNCTION, name.encode(), self._now, (0, function), number=run)
            for name in source.hosts.values():
                if name not in self._hosts and len(self._hosts) < MOST_HOSTS:
                    host = self._hosts[name] = len(self._hosts)
                    yield form.record(form.HOST, name.encode(), self._now, (host, 0))

    def _definitions(self) -> Iterator[bytes]:
        classes: set[tuple[bytes, bytes]] = set()
        definitions: set[bytes] = set()
        for source in self._sources:
            for known, number in source.classes.items():
                if known not in classes:
                    classes.add(known)
                    yield form.record(form.CLASS, known[1], self._now, key=known[0], number=number)
            for digest, position in source.definitions.items():
                if digest not in definitions:
                    definitions.add(digest)
                    _, definition = form.read_record(partial(self._read, source.name), position)
                    yield form.record(form.DEFINITION, definition, self._now, key=digest)

    def _results(self) -> Iterator[bytes]:
        order = []
        for place, kept in enumerate(self._kept):
            latest = 0.0  # the order within a segment stays, also where its clock went back
            for found in kept:
                latest = max(latest, found.when)
                order.append((latest, place, found.position, found.size))
        order.sort()
        for _, place, position, size in order:
            yield self._result(place, position, size)

    def _result(self, place: int, position: int, size: int) -> bytes:
        source = self._sources[place]
        read: Any = partial(self._read, source.name)
        head, body = form.read_record(read, position)
        end = form.SIZE + head.size
        output = read(size - end, position + end) if size > end else b""
        if head.kind == form.PACKED_RESULT:
            _, sample = form.read_record(read, source.packed[position])
            sample_head = form.Head._make(form.RECORD.unpack(read(form.SIZE, source.packed[position])))
            payload = form.unpack(body[head.args_size :], sample[sample_head.args_size :])
            head = head._replace(kind=form.RESULT)
            if len(payload) > form.LARGE:
                payload = directory.write_large(self._path, head.key, payload, True, self._ways)
                head = head._replace(kind=form.LARGE_RESULT)
            body = body[: head.args_size] + payload
        host = self._hosts.get(source.hosts.get(head.host, ""), 0)
        return form.result_again(head, body, host, self._function(place, head.function)) + output

    def _function(self, place: int, number: int) -> int:
        return self._functions.get((place, number), len(self._functions))  # (one without a name)
