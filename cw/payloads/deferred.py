"""Deferred results: those that come while a module is being imported must not wait for an import that waits for them.

    main thread                                     client's thread
      import study
        executor.submit(f)  ------------------------> ...
        future.result()     blocks for the result --> unpickles it: needs `study.Point`, and so waits for the lock
                                                      of the module `study`, which the main thread holds

While any module is being imported in this process, a future's result stays a payload (`Deferred`). The thread that
reads it unpickles it, and can use what exists so far of a module that this very thread imports. What must be
unpickled in the client's thread (results for callbacks, exceptions) is unpickled in a thread of its own, which is given
up when it waits for the import of a thread that waits in its turn (`apart`).
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from cw import guard

PATIENCE = 1.0
"""Time that an importing thread must wait before we assume that it waits for us (seconds). Longer: a program that would
never go on is stopped later. Shorter: one that waits for something else, which comes, loses a result."""

MOST_THREADS = 64
"""Most threads that may hang in such an import. More: more memory. Fewer: results that need no import fail with the
others."""

LOOK_SECONDS = 0.02
"""Time between two checks of the threads (seconds). The end of the unpickling itself is noticed at once."""

module_locks: dict[str, Any] = getattr(importlib._bootstrap, "_module_locks", {})
"""The import system's table of modules that are being imported now, by any thread. (Its name has been the same since
Python 3.3. Without it, nothing would be deferred.)"""

# Innermost frame of a thread that waits for another. (A lock's own `acquire` has no frame.)
_MODULE_LOCK = ("<frozen importlib._bootstrap>", "acquire")
_WAITING_PLACES = (threading.__file__, "/concurrent/futures/", "/queue.py", "/selectors.py", "/cw/client/")
_WAITING_NAMES = ("wait", "_wait", "join", "_wait_for_tstate_lock", "get", "select", "as_completed")


class ImportDeadlock(Exception):
    """Raised when unpickling needs a module whose import waits for it."""


class Deferred:
    """A result that has not been unpickled; `load` does it."""

    __slots__ = ("_load", "describe", "payload")

    def __init__(self, payload: Any, load: Callable[[Any], Any], describe: str) -> None:
        self.payload = payload
        self._load = load
        self.describe = describe  # describes the job, for messages

    def load(self) -> Any:
        """Unpickle the value. Raises whatever unpickling raises, and ImportDeadlock."""
        return apart(self._load, self.payload)


def is_importing() -> bool:
    """True if a module is being imported in this process. (Some locks stay in the table after that.)"""
    locks = [reference() for reference in list(module_locks.values())]
    return any(lock is not None and lock.owner is not None for lock in locks)


def may_wait(payload: Any) -> bool:
    """True if unpickling could wait for an import: a module is being imported, and the pickle contains a name."""
    has_name = type(payload) is not bytes or payload[:1] != b"\x80" or b"\x93" in payload
    return has_name and is_importing()


def apart(function: Callable[[Any], Any], argument: Any) -> Any:
    """Return `function(argument)`, which unpickles. Raises ImportDeadlock if that would wait for ever."""
    if not module_locks or not is_importing() or guard.is_importing(sys._getframe()):
        return function(argument)  # this thread can use what it imports itself
    _given_up[:] = [thread for thread in _given_up if thread.is_alive()]
    if len(_given_up) >= MOST_THREADS:
        raise ImportDeadlock("it may need a module whose import waits for it, as others before it do")
    outcome: list[Any] = []
    is_done = threading.Event()

    def work() -> None:
        try:
            outcome.append((function(argument), None))
        except BaseException as error:
            outcome.append((None, error))
        is_done.set()

    thread = threading.Thread(target=work, name="cw-unpickling", daemon=True)
    thread.start()
    _wait(is_done, thread)
    if not outcome:
        _given_up.append(thread)
        raise ImportDeadlock("it needs a module whose import waits for it")
    value, error = outcome.pop()
    if error is not None:
        raise error
    return value


_stuck: tuple[int, ...] = ()
"""Importing threads assumed to wait for us: the next result need not wait as long."""


_given_up: list[threading.Thread] = []
"""Threads that go on when the import does."""


def _wait(is_done: threading.Event, thread: threading.Thread) -> None:
    """Wait until the thread is done, or has waited for an import by a thread that was waiting all the time."""
    global _stuck
    since, before = time.monotonic(), None
    while not is_done.wait(LOOK_SECONDS):
        now = _waiting_imports(thread)
        if now is None or now != before:
            since, before = time.monotonic(), now
        elif now == _stuck or time.monotonic() - since > PATIENCE:
            _stuck = now
            return


def _waiting_imports(thread: threading.Thread) -> tuple[int, ...] | None:
    """Return the threads that import something; None unless `thread` waits for an import and they all wait."""
    frames = sys._current_frames()
    own = frames.pop(thread.ident or 0, None)
    if own is None or not _is_at_lock(own):
        return None
    importing = [
        ident for ident, frame in frames.items() if not _is_at_lock(frame) and guard.is_importing(frame)
    ]
    if not importing or not all(_is_waiting(frames[ident]) for ident in importing):
        return None
    return tuple(sorted(importing))


def _is_at_lock(frame: FrameType) -> bool:
    return (frame.f_code.co_filename, frame.f_code.co_name) == _MODULE_LOCK


def _is_waiting(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_name in _WAITING_NAMES and any(place in code.co_filename for place in _WAITING_PLACES)
