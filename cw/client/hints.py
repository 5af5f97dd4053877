"""Hints to the user, in the log: once in a session.

a large argument, again and again the same object --> "cw.share(...) sends it once to each machine"
"""

from __future__ import annotations

import weakref
from typing import Any

from cw.events import EventLogger
from cw.payloads.pickling_errors import argument_name, function_name

logger = EventLogger("cw.client")

LARGE_ARGUMENT = 1024 * 1024
"""Bytes of a call's arguments from which they are looked at."""

TIMES = 3
"""Number of calls with one argument after which the hint comes. Larger: it comes late. Smaller: it comes where it gains
little."""

REMEMBERED = 16
"""Number of arguments that are remembered."""


class LargeArguments:
    """Large arguments that calls have had lately. Only those that can be referred to weakly: nothing is kept alive, and
    none is taken for another."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._has_hinted = False

    def look(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at the arguments of a call whose payload is large."""
        if self._has_hinted:
            return
        for place, value in [*enumerate(args), *kwargs.items()]:
            size = getattr(value, "nbytes", 0)
            if type(size) is int and size >= LARGE_ARGUMENT and self._count(value) >= TIMES:
                name = argument_name(function, place) if isinstance(place, int) else f"argument {place!r}"
                self._hint(f"{name} of {function_name(function)}()", size)
                return

    def _count(self, value: Any) -> int:
        """Count the calls that had this very object."""
        reference, count = self._known.pop(id(value), (None, 0))
        try:
            if reference is None or reference() is not value:
                reference, count = weakref.ref(value), 0
        except TypeError:
            return 0
        self._known[id(value)] = reference, count + 1
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return count + 1

    def _hint(self, what: str, size: int) -> None:
        self._has_hinted = True
        self._known.clear()
        logger.warning(
            "client.large_argument",
            "%s, %.3g MB, is sent again with each call: data = cw.share(...), given in its place, is sent once to each "
            "machine, and its jobs read the same memory",
            what,
            size / 1e6,
        )
