"""Ctrl-C, the end of the terminal and SIGTERM in a program that can hand its calls over.

    SIGINT            cw.runs.presses: a question, then KeyboardInterrupt
    SIGHUP, SIGTERM   KeyboardInterrupt at once, if calls are outstanding

The KeyboardInterrupt unwinds the program as usual. Where it leaves a client's block or a map's loop, or at last at the
end of the interpreter, what is outstanding is handed over. Handlers are set while there are clients that detach, and
only where the program has not set its own. They run in the main thread, as all handlers of Python's do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Protocol

from cw.runs.presses import Presses

ENDS = signal.SIGHUP, signal.SIGTERM


class Leaver(Protocol):
    """A client that detaches, as it is needed here."""

    is_leaving: bool
    """True while its calls are being handed over."""
    is_interrupted: bool
    """Set to True if Ctrl-C comes meanwhile."""

    def outstanding(self) -> int:
        """Return the number of calls that would be handed over."""


_leavers: weakref.WeakSet[Any] = weakref.WeakSet()
_presses = Presses()
_before: dict[int, Any] = {}  # handlers that ours have replaced
_terminals: list[int] = []  # descriptors that were terminals
_is_echoed = False  # the terminal has shown ^C, without an end of the line


def register(leaver: Leaver) -> None:
    """Let Ctrl-C ask, and the end of the terminal hand over, while this client lives. Any thread; the first one in
    another than the main thread does nothing."""
    _leavers.add(leaver)
    if _before or threading.current_thread() is not threading.main_thread():
        return
    _terminals[:] = [number for number in (0, 1, 2) if os.isatty(number)]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        _before[signal.SIGINT] = signal.signal(signal.SIGINT, _on_interrupt)
    for number in ENDS:
        if signal.getsignal(number) is signal.SIG_DFL:
            _before[number] = signal.signal(number, _on_end)


def unregister(leaver: Leaver) -> None:
    """Undo `register`. Handlers go with the last one, if this is the main thread."""
    _leavers.discard(leaver)
    if _leavers or threading.current_thread() is not threading.main_thread():
        return
    for number, handler in _before.items():
        if signal.getsignal(number) in (_on_interrupt, _on_end, _ignore):
            signal.signal(number, handler)
    _before.clear()


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Hold a KeyboardInterrupt back during the block, which reads an input."""
    _presses.shield()
    try:
        yield
    finally:
        is_due = _presses.unshield()
    if is_due:
        raise KeyboardInterrupt


def end_quietly(*kinds: type[BaseException]) -> None:
    """Let the program end without a traceback if one of these ends it: a line has said why."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not issubclass(kind, kinds):
            before(kind, error, traceback)

    sys.excepthook = hook


def write(text: str) -> None:
    """Write a line to stderr, if that is possible: its terminal may be gone."""
    global _is_echoed
    text, _is_echoed = "\n" * _is_echoed + text, False
    with contextlib.suppress(OSError, ValueError, AttributeError):
        try:
            print(text, file=sys.stderr, flush=True)
        except RuntimeError:  # a handler that has come while the stream was being written
            os.write(2, text.encode() + b"\n")


def _outstanding() -> int:
    return sum(leaver.outstanding() for leaver in list(_leavers))


def _is_leaving() -> bool:
    return any(leaver.is_leaving for leaver in list(_leavers))


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    global _is_echoed
    _is_echoed = bool(_terminals)
    for leaver in list(_leavers):
        leaver.is_interrupted = leaver.is_leaving
    text = _presses.on_press(_outstanding(), _is_leaving(), time.monotonic())
    if text:
        write(text)
    elif not _presses.interrupts_later(_is_leaving()):
        raise KeyboardInterrupt


def _on_end(number: int, frame: FrameType | None) -> None:
    if not _outstanding():
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    # A shell sends it, and the terminal once more. (What this program starts would inherit SIG_IGN.)
    signal.signal(number, _ignore)
    _leave_dead_terminals()
    if not (_is_leaving() or _presses.interrupts_later(False)):
        raise KeyboardInterrupt


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing."""


def _leave_dead_terminals() -> None:
    """Read and write nothing there any more: each attempt would be an error."""
    for number in _terminals:
        if not os.isatty(number):
            with contextlib.suppress(OSError):
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, number)
                os.close(null)
    _terminals[:] = [number for number in _terminals if os.isatty(number)]
