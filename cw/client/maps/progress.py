"""A progress bar: done, failed, running, rate, time left. It is tqdm's, an optional extra: `pip install '.[progress]'`.

A thread of its own reads the counts a few times a second: jobs do not wait for a terminal. Results from a store count
as done, but not in the rate, nor in the time left. In a notebook with ipywidgets the bar is a widget.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from cw import events
from cw.named_tuple import NamedTuple
from cw.output import streams
from cw.output.streams import is_terminal
from cw.payloads.environment import ipython_shell

INTERVAL = 0.2
"""Time between updates of the bar (seconds)."""


class Counts(NamedTuple):
    """Numbers of jobs. `total` is None if unknown. `stored`: those of the done ones that did not run."""

    total: int | None
    done: int
    failed: int
    running: int
    stored: int = 0


class Progress:
    """A bar, for a `with` block. `wanted`: True (if stderr is a terminal, or in a notebook), or 'always'.

    Raises ValueError for another `wanted`, ModuleNotFoundError if a bar is wanted and tqdm is missing.
    """

    def __init__(self, counts: Callable[[], Counts], wanted: bool | str) -> None:
        if wanted is not True and wanted != "always":
            raise ValueError(f"progress must be True, False or 'always', not {wanted!r}")
        self._counts = counts
        self._is_shown = wanted == "always" or is_terminal(sys.stderr) or _is_notebook()
        if self._is_shown:
            self._tqdm = _kind_of_bar()
        self._closed = threading.Event()
        self._bar: Any = None
        self._stored = 0  # of those that the bar shows
        self._prints: list[Print] = []
        self._thread = threading.Thread(target=self._run, name="cw-progress", daemon=True)

    def __enter__(self) -> Progress:
        if self._is_shown:
            # A bar that is being made is not taken off for a line above it.
            with streams.writing, self._tqdm.get_lock():
                self._bar = self._tqdm(total=self._counts().total, unit="job", dynamic_ncols=True)
                self._redirect()
            self._thread.start()
            shown.add(self)
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Show the last counts, and leave the bar as it is. May be called again."""
        if self._bar is None or self._closed.is_set():
            return
        shown.discard(self)
        self._closed.set()
        self._thread.join()
        for redirected in self._prints:
            redirected.end()
        self._show()
        self._bar.close()

    def _redirect(self) -> None:
        """Let what the program prints on the terminal appear above the bar."""
        if not hasattr(self._bar, "container"):  # a widget has a place of its own
            self._prints = [
                Print(name, self._bar) for name in ("stdout", "stderr") if is_terminal(getattr(sys, name))
            ]

    def _run(self) -> None:
        while not self._closed.wait(INTERVAL):
            self._show()

    def _show(self) -> None:
        total, done, failed, running, stored = self._counts()
        bar = self._bar
        with bar.get_lock():
            if any(redirected.is_in_line for redirected in self._prints):
                return  # there is no place for the bar
            if total != bar.total:
                bar.total = total
                if hasattr(bar, "container"):
                    bar.container.children[1].max = total
            if stored > self._stored:  # no part of the rate
                for name in ("n", "initial", "last_print_n"):
                    setattr(bar, name, getattr(bar, name) + stored - self._stored)
                self._stored = stored
            postfix = {"stored": stored, "failed": failed, "running": running}
            bar.set_postfix({name: number for name, number in postfix.items() if number}, refresh=False)
            bar.update(done - bar.n)
            bar.refresh()


shown: weakref.WeakSet[Progress] = weakref.WeakSet()
"""The bars that are shown now."""


class Print:
    """Stands for `sys.stdout` or `sys.stderr` while a bar is on the terminal: what is printed appears above it."""

    def __init__(self, name: str, bar: Any) -> None:
        self.is_in_line = False
        """True if the last line that was printed has no end yet."""
        self._name = name
        self._bar = bar
        self._stream = getattr(sys, name)
        setattr(sys, name, self)
        self._handlers = events.handlers_on(self._stream)  # of the program's log
        for handler in self._handlers:
            handler.setStream(self)

    @property
    def stands_for(self) -> Any:
        """The stream that this one stands for (see `cw.output.streams`)."""
        return self._stream

    def write(self, text: str) -> int:
        """Write above the bar."""
        if self._bar is None or not text:
            return int(self._stream.write(text))
        with self._bar.get_lock():
            if not self.is_in_line:
                self._bar.clear(nolock=True)
            written = self._stream.write(text)
            self._stream.flush()
            self.is_in_line = not text.endswith("\n")
            if not self.is_in_line:
                self._bar.refresh(nolock=True)
        return int(written)

    def end(self) -> None:
        """Print as before."""
        if self.is_in_line:
            self.write("\n")
        self.is_in_line = False
        self._bar = None
        for handler in self._handlers:
            if handler.stream is self:
                handler.setStream(self._stream)
        if getattr(sys, self._name) is self:  # otherwise something else redirects it by now
            setattr(sys, self._name, self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _kind_of_bar() -> Any:
    """Return tqdm's class of bars for this program. Raises ModuleNotFoundError."""
    try:
        if _is_notebook() and importlib.util.find_spec("ipywidgets") is not None:
            from tqdm.notebook import tqdm  # type: ignore[import-untyped,unused-ignore]
        else:  # (`tqdm.auto` would warn of missing widgets)
            from tqdm import tqdm
    except ModuleNotFoundError:
        raise ModuleNotFoundError("progress needs tqdm, which is not installed: pip install tqdm") from None
    return tqdm


def _is_notebook() -> bool:
    return type(ipython_shell()).__name__ == "ZMQInteractiveShell"
