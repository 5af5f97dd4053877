"""Levels of the client's loggers, in force in its jobs, too; and which of its loggers have handlers.

    client:  Watch.look() --- {logger: [level, propagate, disabled, lowest handler]} --->  runner:  apply()

A record below a level is not even made in a job. Where a job, or a module that it imports, sets a level itself, that
one counts; but a line of a module that runs while it is imported does not undo what the client set after its own
import of that module.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from time import monotonic
from typing import Any

SHARE = 0.01
"""Share of time for looking at all loggers between submits. More: a changed handler is seen sooner. Less: more
jobs/s. (A level that was set is seen at the next look at the user's modules.)"""

_ROOT = [logging.WARNING, True, False, None]
_OTHER = [logging.NOTSET, True, False, None]
"""Settings of a logger that nobody has changed: its level, whether it propagates, whether it is disabled, and the
lowest level of its handlers (None: it has none)."""

Levels = dict[str, list[Any]]
"""Settings of loggers that are not as they were made, by name; '' is the root. DISABLED: the level of
`logging.disable`."""

DISABLED = "\n"


def default_of(name: str) -> list[Any]:
    """Return the settings of a logger that nobody has changed."""
    return _OTHER if name else _ROOT


def lowest_of(logger: logging.Logger) -> int | None:
    """Return the lowest level of a logger's handlers; None if it has none that does something."""
    levels = [each.level for each in list(logger.handlers) if type(each) is not logging.NullHandler]
    return min(levels, default=None)


def take() -> Levels:
    """Return the settings of this process's loggers. In a runner, handlers of its client count, too."""
    manager = logging.Logger.manager
    found: Levels = {}
    for name, logger in [("", logging.getLogger()), *list(manager.loggerDict.items())]:
        if isinstance(logger, logging.Logger):  # (otherwise a place in the tree, without a logger)
            lowest = lowest_of(logger) if logger.handlers else None
            if lowest is None and in_force:
                lowest = lowest_at_home(name)
            now = [int(logger.level), bool(logger.propagate), bool(logger.disabled), lowest]
            if now != default_of(name):
                found[name] = now
    if manager.disable > 0:
        found[DISABLED] = [int(manager.disable)]
    return found


class Watch:
    """The client's levels when a session last looked. Its owner holds a lock around every call."""

    def __init__(self) -> None:
        self.levels: Levels = {}
        self._due = 0.0
        self._seen: Any = None  # numbers of loggers and of handlers, and the root's handlers

    def look(self) -> bool:
        """Look for changes; returns whether there are some. Looks at little if they are not likely."""
        began = monotonic()
        root, loggers = logging.getLogger(), logging.Logger.manager.loggerDict
        # Loggers remember what is enabled, until a level is set somewhere.
        is_set = logging.CRITICAL not in getattr(root, "_cache", ())
        seen = len(loggers), len(getattr(logging, "_handlerList", ())), root.handlers[:]
        if not is_set and seen == self._seen and began < self._due:
            return False
        root.isEnabledFor(logging.CRITICAL)
        self._seen = seen
        before, self.levels = self.levels, take()
        ended = monotonic()
        self._due = ended + (ended - began) / SHARE
        return before != self.levels


# --- the runner ---

in_force: Levels = {}
"""What the client has sent to this process, a runner."""


def lowest_at_home(name: str) -> int | None:
    """Return the lowest level of the handlers that the client has for this logger; None if it has none."""
    lowest: int | None = in_force.get(name, _OTHER)[3]
    return lowest


def apply(levels: Levels) -> None:
    """Set the levels of the client, except where a job has set another."""
    global in_force
    before, in_force = in_force, {}  # (none is in force while they are set: see `_set_level`)
    for name in before.keys() | levels.keys():
        if name == DISABLED:
            _disable(before, levels)
            continue
        logger = logging.getLogger(name)
        was, is_now = before.get(name, default_of(name)), levels.get(name, default_of(name))
        for attribute, old, new in zip(("level", "propagate", "disabled"), was, is_now, strict=False):
            if new != old and getattr(logger, attribute) == old:
                if attribute == "level":
                    logger.setLevel(new)
                else:
                    setattr(logger, attribute, new)
    in_force = levels


def _disable(before: Levels, levels: Levels) -> None:
    (old,), (new,) = before.get(DISABLED, [0]), levels.get(DISABLED, [0])
    if logging.Logger.manager.disable == old:
        logging.disable(new)


def keep_while_importing() -> None:
    """Keep the client's levels, in a runner, when a module that is being imported sets its own: the client has
    imported it, too, and what it set after that counts."""
    set_level: Callable[[logging.Logger, Any], None] = logging.Logger.setLevel

    @functools.wraps(set_level)
    def set_unless_importing(logger: logging.Logger, level: Any) -> None:
        name = "" if logger is logging.root else logger.name
        if name in in_force and in_force[name][0] != default_of(name)[0] and _is_importing():
            return
        set_level(logger, level)

    logging.Logger.setLevel = set_unless_importing  # type: ignore[method-assign, assignment]


def _is_importing() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
