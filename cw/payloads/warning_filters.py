"""Filters of the client's warnings, in force in its jobs, too: what is an error there is one in a job.

    client:  take() --- [action, message, category, module, line], ... --->  runner:  apply()

Filters that a job, or a module that it imports, adds stay in front of them. A category is known by its name, and is
left out while its module is not loaded: nothing is imported for a filter.
"""

from __future__ import annotations

import contextlib
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any

Filter = list[Any]
"""Action, regular expressions of message and module or None, category, and line or 0: as `warnings` has it."""

_DEFAULT: list[Filter] = [
    ["default", None, "builtins:DeprecationWarning", r"__main__\Z", 0],
    ["ignore", None, "builtins:DeprecationWarning", None, 0],
    ["ignore", None, "builtins:PendingDeprecationWarning", None, 0],
    ["ignore", None, "builtins:ImportWarning", None, 0],
    ["ignore", None, "builtins:ResourceWarning", None, 0],
]
"""Filters of Python itself."""


def name_of(category: type) -> str:
    """Return the name by which a category travels."""
    return f"{category.__module__}:{category.__qualname__}"


def category_of(name: str) -> type[Warning] | None:
    """Find a category by its name, if its module is loaded here."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        with contextlib.suppress(Exception):  # a module may make its attributes when they are read
            found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, Warning) else None


def take() -> list[Filter] | None:
    """Return the filters of this process; None if they are those of Python itself."""
    found = [
        [action, _pattern(message), name_of(category), _pattern(module), line]
        for action, message, category, module, line in list(warnings.filters)
        if isinstance(category, type)
    ]
    return None if found == _DEFAULT else found


def _pattern(expression: Any) -> str | None:
    if isinstance(expression, str):  # Python's own filters, which compare
        return re.escape(expression) + r"\Z"
    return None if expression is None else str(expression.pattern)


class Watch:
    """The client's filters when a session last looked. Its owner holds a lock around every call."""

    def __init__(self) -> None:
        self.filters: list[Filter] | None = None
        self._seen: list[Any] = []

    def look(self) -> bool:
        """Look for changes; returns whether there are some."""
        if warnings.filters == self._seen:
            return False
        self._seen = list(warnings.filters)
        before, self.filters = self.filters, take()
        return before != self.filters


# --- the runner ---

_original: list[Any] | None = None  # what was there before a client's
_applied: list[Any] = []
_filters: Sequence[Filter] | None = None
_unknown: list[str] = []  # categories that were not known when these were applied


def apply(filters: Sequence[Filter] | None) -> None:
    """Put the client's filters in force, behind those that this process has added itself. None: Python's own."""
    global _original, _applied, _filters
    _filters = filters
    _unknown.clear()
    if _original is None:
        _original = _applied = list(warnings.filters)
    own = [each for each in warnings.filters if each not in _applied]
    warnings.resetwarnings()
    if filters is None:
        warnings.filters[:] = _original  # type: ignore[index]
    else:
        for action, message, name, module, line in reversed(filters):
            category = category_of(name)
            if category is None:
                _unknown.append(name)
            else:
                with contextlib.suppress(
                    AssertionError, ValueError, TypeError, re.error
                ):  # of a newer Python
                    warnings.filterwarnings(action, message or "", category, module or "", line)
    _applied = list(warnings.filters)
    warnings.filters[:0] = own  # type: ignore[index]


def apply_rest() -> None:
    """Put in force what could not be before: modules may have been loaded since."""
    if any(category_of(name) is not None for name in _unknown):
        apply(_filters)
