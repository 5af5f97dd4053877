"""The client's settings of `logging` and `warnings` that its jobs run under: levels, handlers, filters.

    client:  Watch.look(), Watch.taken --- with the settings of modules --->  runner:  apply(taken)

`taken` is empty while a program has configured nothing, and so nothing travels for it.
"""

from __future__ import annotations

from typing import Any

from cw.payloads import log_levels, warning_filters

is_forwarding = True
"""True if what a job of this process, a runner, logs and warns of goes to its client."""


class Watch:
    """The client's settings when a session last looked. Its owner holds a lock around every call.

    `is_forwarding`: false if jobs keep their records and warnings, and run under settings of their own.
    """

    def __init__(self, is_forwarding: bool = True) -> None:
        self.taken: dict[str, Any] = {}
        """What travels."""
        self._is_forwarding = is_forwarding
        self._levels = log_levels.Watch()
        self._filters = warning_filters.Watch()

    def look(self) -> bool:
        """Look for changes; returns whether there are some."""
        if not self._is_forwarding:
            before, self.taken = self.taken, {"is_forwarding": False}
            return before != self.taken
        has_levels, has_filters = self._levels.look(), self._filters.look()
        if not has_levels and not has_filters:
            return False
        self.taken = {}
        if self._levels.levels:
            self.taken["levels"] = self._levels.levels
        if self._filters.filters is not None:
            self.taken["filters"] = self._filters.filters
        return True


def apply(taken: dict[str, Any]) -> None:
    """Put a client's settings in force in this process, a runner."""
    global is_forwarding
    is_forwarding = taken.get("is_forwarding", True)
    log_levels.apply(taken.get("levels", {}))
    warning_filters.apply(taken.get("filters"))
