"""Errors as IPython, and so a notebook, shows them: without cw's own frames, a job's frames after the user's.

    ZeroDivisionError                         Traceback (most recent call last)
    Cell In[3], line 1
    ----> 1 executor.submit(bad, 0).result()

    job 1 (host node7, pid 28385, attempt 1)
      Cell In[2], line 2, in bad
        return 1 / x

    ZeroDivisionError: division by zero

IPython itself would show the remote traceback as an exception of its own, before this one. The exceptions are not
changed: `%debug` and `%tb` after `%xmode Verbose` find all frames.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

from cw.errors import Error, RemoteTraceback
from cw.payloads.environment import ipython_shell

_OWN = tuple(
    os.path.dirname(getattr(sys.modules[name], "__file__", None) or __file__) + os.sep
    for name in ("cw", "cloudpickle")
)
"""Directories of the frames that are cw's own: all of cw, and what pickles for it."""

_INSTALLED = "cw's tracebacks"
"""Attribute of a formatter of IPython's that shows errors as described above."""


def install() -> None:
    """Let IPython show errors so, if the program runs in it. May be called again."""
    formatter: Any = getattr(ipython_shell(), "InteractiveTB", None)
    if formatter is None or _INSTALLED in vars(formatter):
        return
    formatter.structured_traceback = _shown_by(formatter.structured_traceback)
    vars(formatter)[_INSTALLED] = True


def _shown_by(show: Callable[..., Any]) -> Callable[..., Any]:
    """Return IPython's own method `show` with errors prepared for it, and the remote traceback added."""

    @functools.wraps(show)
    def structured_traceback(*args: Any, **more: Any) -> Any:
        etype, error, frames, *rest = args if len(args) >= 3 else (None, None, None)
        if not isinstance(error, BaseException) or not _concerns_us(error, frames):
            return show(*args, **more)
        remote = error.__cause__ if isinstance(error.__cause__, RemoteTraceback) else None
        with _prepared(error, remote):
            lines = show(etype, error, _of_user(frames, isinstance(error, KeyboardInterrupt)), *rest, **more)
        if remote is not None and isinstance(lines, list) and lines:
            lines.insert(-1, _text_of(remote, error))
        return lines

    return structured_traceback


def _concerns_us(error: BaseException, frames: types.TracebackType | None) -> bool:
    """True for an error of a job, one of cw's own, and one that came through cw: of an input, an interrupted wait."""
    return (
        isinstance(error, Error)
        or isinstance(error.__cause__, RemoteTraceback)
        or _of_user(frames) is not frames
    )


@contextlib.contextmanager
def _prepared(error: BaseException, remote: RemoteTraceback | None) -> Iterator[None]:
    """Take the remote traceback, and cw's frames of other causes, away from the error for the `with` block."""
    undo = contextlib.ExitStack()
    if remote is not None:
        undo.callback(BaseException.__setattr__, error, "__cause__", remote)
        BaseException.__setattr__(error, "__cause__", None)
    one, seen = _cause_of(error), {id(error)}
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        undo.callback(BaseException.with_traceback, one, one.__traceback__)
        BaseException.with_traceback(one, _of_user(one.__traceback__))
        one = _cause_of(one)
    with undo:
        yield


def _cause_of(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None or error.__suppress_context__:
        return error.__cause__
    return error.__context__


def _of_user(frames: types.TracebackType | None, is_interrupt: bool = False) -> types.TracebackType | None:
    """Return a traceback without cw's own frames; the same if it has none. After an interrupt, without those that cw
    has called, too."""
    kept, place, has_own = [], frames, False
    while place is not None and not (has_own and is_interrupt):
        if place.tb_frame.f_code.co_filename.startswith(_OWN):
            has_own = True
        else:
            kept.append(place)
        place = place.tb_next
    if not has_own:
        return frames
    shown = None
    for place in reversed(kept):
        shown = types.TracebackType(shown, place.tb_frame, place.tb_lasti, place.tb_lineno)
    return shown


def _text_of(remote: RemoteTraceback, error: BaseException) -> str:
    """Return the remote traceback for the place between the user's frames and the error's own line."""
    text, header = str(remote.args[0]).rstrip(), "Traceback (most recent call last):\n"
    if text.count(header) <= 1:  # otherwise there are more errors, with their own lines
        own_line = traceback.format_exception_only(type(error), error)[0].rstrip()  # without notes
        text = text.replace(header, "").removesuffix(own_line).rstrip()
    return text + "\n"
