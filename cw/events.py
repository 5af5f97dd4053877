"""Log of cw: each line is an event with an id that stays, and a text that may be reworded.

    logger = EventLogger("cw.worker")
    logger.info("worker.joined", "the worker joined the master at %s with %s", peer, slots)

The id is `event` of the log record: handlers, filters and tests select by it. Its first word is the last one of the
logger's name. The rest is as usual with `logging`: names, levels and handlers are the user's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any


class EventLogger:
    """The logger of that name, for lines with an event's id."""

    _frames = 3
    """Frames between the standard library's logger and the line that logs, for `%(lineno)d`."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def log(self, level: int, event: str, message: str, *args: object, exc_info: Any = None) -> None:
        """Log a line of this event. `exc_info` as in `logging`."""
        self._logger.log(
            level, message, *args, exc_info=exc_info, extra={"event": event}, stacklevel=self._frames
        )

    def debug(self, event: str, message: str, *args: object) -> None:
        """Log what only a developer of cw wants to see."""
        self.log(logging.DEBUG, event, message, *args)

    def info(self, event: str, message: str, *args: object) -> None:
        """Log what happens in a run without trouble."""
        self.log(logging.INFO, event, message, *args)

    def warning(self, event: str, message: str, *args: object) -> None:
        """Log what the user should look at."""
        self.log(logging.WARNING, event, message, *args)

    def error(self, event: str, message: str, *args: object, exc_info: Any = None) -> None:
        """Log what has failed."""
        self.log(logging.ERROR, event, message, *args, exc_info=exc_info)

    def critical(self, event: str, message: str, *args: object, exc_info: Any = None) -> None:
        """Log a bug of ours that ends the program, or a part of it."""
        self.log(logging.CRITICAL, event, message, *args, exc_info=exc_info)


class RateLimited(EventLogger):
    """A logger for what may repeat, such as refused pending peers: each event at most once per interval, but for the
    first `burst` of them.

    The next line counts what was left out; where none follows, `flush_repeated` does, which every program calls once a
    second. With -v nothing is left out. A lost count between threads does no harm, so there is no lock.
    """

    # Longer: a change of what happens is seen later. Shorter: a flood fills the log.
    INTERVAL = 1.0

    _frames = 4

    def __init__(
        self,
        name: str,
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.monotonic,
        burst: int = 1,
    ) -> None:
        super().__init__(name)
        self._interval = interval
        self._clock = clock
        self._burst = burst
        # Since when, how many were logged since, how many were left out, and the last of these: its level, text and
        # arguments. There are few events.
        self._state_by_event: dict[str, tuple[float, int, int, int, str, tuple[object, ...]]] = {}
        _all_limited.append(self)

    def log(self, level: int, event: str, message: str, *args: object, exc_info: Any = None) -> None:
        """Log, unless this event was logged often enough within an interval. The next line counts what was left out."""
        now = self._clock()
        since, logged, left_out, *_ = self._state_by_event.get(event, (-self._interval, 0, 0))
        if now - since >= self._interval:
            text, fields = _with_count(message, args, left_out)
            super().log(level, event, text, *fields, exc_info=exc_info)
            since, logged, left_out = now, self._burst if left_out else 1, 0
        elif logged < self._burst:
            super().log(level, event, message, *args, exc_info=exc_info)
            logged += 1
        else:
            super().log(logging.DEBUG, event, message, *args, exc_info=exc_info)
            left_out += 1
        self._state_by_event[event] = since, logged, left_out, level, message, args

    def flush(self, is_end: bool = False) -> None:
        """Log the last one of those that were left out, and how many there were, where an interval is over."""
        now = self._clock()
        for event, (since, _, left_out, level, message, args) in list(self._state_by_event.items()):
            if left_out and (is_end or now - since >= self._interval):
                self._state_by_event[event] = now, self._burst, 0, level, message, ()
                text, fields = _with_count(message, args, left_out - 1)
                super().log(level, event, text, *fields)


def _with_count(message: str, args: tuple[object, ...], left_out: int) -> tuple[str, tuple[object, ...]]:
    return (f"{message} (and %d more like it)", (*args, left_out)) if left_out else (message, args)


_all_limited: list[RateLimited] = []  # few, and made once


def flush_repeated(is_end: bool = False) -> None:
    """Log how often what was repeated was left out. At the end of the program: all of it."""
    for limited in _all_limited:
        limited.flush(is_end)


def handlers_on(stream: object) -> list[logging.StreamHandler[Any]]:
    """Return the handlers of the program's loggers that write to this stream."""
    loggers = [logging.root, *list(logging.root.manager.loggerDict.values())]
    handlers = [handler for logger in loggers for handler in getattr(logger, "handlers", ())]
    return [
        handler
        for handler in handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is stream
    ]
