"""Size of the chunks of a map, judged by how long the function's last calls took: no thread, no clock.

    note(function, seconds, count) --> seconds of a call --> are_tiny, size(function, count, processes)

Chunks are chosen as multiprocessing does, but for short calls, where the messages of a chunk cost more than its calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

PER_PROCESS = 4
"""Chunks of a map for each process, as in multiprocessing. More: short calls cost more. Fewer: if calls differ, the
last process works alone for longer."""

SHORT_SECONDS = 0.005
"""Duration of all calls of a map below which each process has one chunk (seconds). Longer: calls that differ are spread
badly. Shorter: a map of short calls waits for four chunks in a row."""

TINY_SECONDS = 0.0005
"""Duration of all calls of a map below which they are one chunk (seconds): about what the messages of a chunk cost all
programs on its way. Longer: the other processes idle. Shorter: short maps cost messages."""

ALLOWED_SECONDS = 0.005
"""Time after which a chunk with all calls of a map begins no further one (seconds); what is left is spread. Longer: the
other processes idle if the calls take longer than the last ones. Shorter: chunks are given up for a hiccup."""


class Sizes:
    """Chooses the size of the chunks of one pool's maps. Remembers one function, the last that was mapped."""

    def __init__(self) -> None:
        self._key: Any = None
        self._seconds = 0.0  # of a call

    def note(self, function: Callable[..., Any], seconds: float, count: int) -> None:
        """Note how long calls of the function took in all."""
        if count:
            self._key, self._seconds = _key_of(function), seconds / count

    def are_tiny(self, function: Callable[..., Any], count: int, processes: int) -> bool:
        """True if one process should have all `count` calls of a map. False if each process can have one call: then the
        calls may be meant to meet."""
        return count > processes and self._seconds_of(function, count) < TINY_SECONDS

    def size(self, function: Callable[..., Any], count: int, processes: int) -> int:
        """Return the number of calls in a chunk of a map with `count` calls."""
        each = 1 if self._seconds_of(function, count) < SHORT_SECONDS else PER_PROCESS
        return max(1, -(-count // (each * processes)))

    def _seconds_of(self, function: Callable[..., Any], count: int) -> float:
        return self._seconds * count if self._key == _key_of(function) else math.inf


def _key_of(function: Callable[..., Any]) -> Any:
    """Identify a function; also one that is made anew for each map, such as a method or a partial."""
    while isinstance(function, partial):
        function = function.func
    called = getattr(function, "__func__", function)
    return id(getattr(called, "__code__", called))
