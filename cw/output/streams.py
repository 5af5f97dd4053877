"""The program's own stdout and stderr, as they are now: what they are, and how jobs' output is written there.

    a terminal, a notebook's cell    text, line by line, past tqdm's bars; the lines have labels
    a file, a pipe                   the bytes as they are
    any other object (io.StringIO)   text

Nothing in here blocks with a lock of the stream's held, so that a terminal that stands still does no harm at the end
of the interpreter: it is asked before each write whether it takes one.
"""

from __future__ import annotations

import contextlib
import select
import sys
import threading
from contextvars import ContextVar
from typing import Any

PIECE = 4096
"""Bytes written at a time: a pipe that takes some takes as many. Larger: a write might block. Smaller: it is slower."""

NAMES = {1: "stdout", 2: "stderr"}

writing = threading.Lock()
"""Held for each write to a terminal. Who makes a bar holds it, too: no line comes between its look for bars and the
first sight of this one."""


def current(number: int) -> Any:
    """Return what is `sys.stdout` (1) or `sys.stderr` (2) now; None: the program has none."""
    return getattr(sys, NAMES[number], None)


def is_terminal(stream: Any) -> bool:
    """True if what is written there appears on a terminal."""
    try:
        return stream is not None and bool(getattr(stream, "isatty", lambda: False)())
    except ValueError:  # it is closed
        return False


def is_of_notebook(stream: Any) -> bool:
    """True if what is written there appears under a cell."""
    return type(stream).__name__ == "OutStream"


def is_labelled(stream: Any) -> bool:
    """True if a reader looks at it, to whom each line must say where it comes from."""
    return is_of_notebook(stream) or is_terminal(stream)


def cell_of(stream: Any) -> Any:
    """Return under which cell of a notebook the stream appears now; None if it is not of a notebook."""
    return getattr(stream, "parent_header", None) if is_of_notebook(stream) else None


def write(stream: Any, data: bytes) -> None:
    """Write bytes as they are, if the stream is a file or a pipe; otherwise as text. Raises what the stream raises."""
    descriptor = _descriptor(stream)
    buffer = None if descriptor is None or is_terminal(stream) else getattr(stream, "buffer", None)
    if buffer is None:
        write_text(stream, data.decode("utf-8", "replace"))
        return
    _wait_for(descriptor)
    stream.flush()  # what the program itself has printed comes before
    for start in range(0, len(data), PIECE):
        _wait_for(descriptor)
        buffer.write(data[start : start + PIECE])
        buffer.flush()


def write_text(stream: Any, text: str, cell: Any = None) -> None:
    """Write text, past tqdm's bars, and under this cell of a notebook. Raises what the stream raises."""
    if cell is not None:
        _turn_to(stream, cell)
    encoding = getattr(stream, "encoding", None)
    if isinstance(encoding, str):
        with contextlib.suppress(LookupError):
            text = text.encode(encoding, "replace").decode(encoding)
    descriptor, start = _descriptor(stream), 0
    while start < len(text):
        end = text.rfind("\n", start, start + PIECE) + 1 or text.find("\n", start) + 1 or len(text)
        _wait_for(descriptor)
        with writing:
            place = _place_of(stream)
            with _past_bars(place):  # whole lines, so that a bar has a line of its own
                place.write(text[start:end])
                place.flush()
        start = end


def turn_to(cell: Any) -> None:
    """Let what this thread prints from now on appear under this cell of a notebook, if there is one."""
    for stream in map(current, NAMES):
        if cell is not None and is_of_notebook(stream):
            _turn_to(stream, cell)


def _descriptor(stream: Any) -> int | None:
    if is_of_notebook(stream):
        return None  # (it has one, where output of C code is read)
    try:
        return int(stream.fileno())
    except Exception:  # io.UnsupportedOperation, AttributeError, or whatever a user's object raises
        return None


def _wait_for(descriptor: int | None) -> None:
    """Block until the stream takes bytes, or will say why not."""
    if descriptor is None:
        return
    waiting = select.poll()
    waiting.register(descriptor, select.POLLOUT)
    waiting.poll()


def _place_of(stream: Any) -> Any:
    """Return what stands for the stream by now: lines appear above a bar that has come since. Otherwise itself."""
    for number in NAMES:
        place = other = current(number)
        while other is not None and other is not stream:
            other = (
                other.stands_for if isinstance(getattr(type(other), "stands_for", None), property) else None
            )
        if other is not None:
            return place
    return stream


def _past_bars(stream: Any) -> contextlib.AbstractContextManager[Any]:
    """Take the bars of tqdm off the terminal for a `with` block, if the program has some there."""
    tqdm: Any = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if tqdm is None or not is_terminal(stream) or not getattr(tqdm, "_instances", None):
        return contextlib.nullcontext()
    bars: contextlib.AbstractContextManager[Any] = tqdm.external_write_mode(file=stream)
    return bars


def _turn_to(stream: Any, cell: Any) -> None:
    """Let what this thread writes from now on appear under a cell. (Other threads stay at theirs.)"""
    if hasattr(stream, "set_thread_parent"):
        stream.set_thread_parent(cell)
    elif isinstance(variable := getattr(stream, "_parent_header", None), ContextVar):  # ipykernel before 7.3
        variable.set(cell)
    else:  # before 6.29: one cell for all threads
        stream.flush()
        stream.parent_header = cell
