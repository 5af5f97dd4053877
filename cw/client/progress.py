"""A progress bar: done, failed, running, rate, time left. It is tqdm's, an optional extra: `pip install '.[progress]'`.

A thread of its own reads the counts a few times a second: jobs do not wait for a terminal.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from cw.payloads.environment import ipython_shell

INTERVAL = 0.2
"""Time between updates of the bar (seconds)."""


class Counts(NamedTuple):
    """Numbers of jobs. `total` is None if unknown."""

    total: int | None
    done: int
    failed: int
    running: int


class Progress:
    """A bar, for a `with` block. `wanted`: True (if stderr is a terminal, or in a notebook), or 'always'.

    Raises ValueError for another `wanted`, ModuleNotFoundError if a bar is wanted and tqdm is missing.
    """

    def __init__(self, counts: Callable[[], Counts], wanted: bool | str) -> None:
        if wanted is not True and wanted != "always":
            raise ValueError(f"progress must be True, False or 'always', not {wanted!r}")
        self._counts = counts
        self._is_shown = wanted == "always" or _is_terminal() or _is_notebook()
        if self._is_shown:
            try:
                from tqdm.auto import tqdm  # type: ignore[import-untyped,unused-ignore]
            except ModuleNotFoundError:
                raise ModuleNotFoundError(
                    "progress needs tqdm, which is not installed: pip install tqdm"
                ) from None
            self._tqdm = tqdm
        self._closed = threading.Event()
        self._bar: Any = None
        self._thread = threading.Thread(target=self._run, name="cw-progress", daemon=True)

    def __enter__(self) -> Progress:
        if self._is_shown:
            self._bar = self._tqdm(total=self._counts().total, unit="job", dynamic_ncols=True)
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._is_shown:
            self._closed.set()
            self._thread.join()
            self._show()
            self._bar.close()

    def _run(self) -> None:
        while not self._closed.wait(INTERVAL):
            self._show()

    def _show(self) -> None:
        total, done, failed, running = self._counts()
        if total != self._bar.total:
            self._bar.total = total
        postfix = {"failed": failed} if failed else {}
        if running:
            postfix["running"] = running
        self._bar.set_postfix(postfix, refresh=False)
        self._bar.update(done - self._bar.n)
        self._bar.refresh()


def _is_terminal() -> bool:
    return sys.stderr is not None and getattr(sys.stderr, "isatty", lambda: False)()


def _is_notebook() -> bool:
    return type(ipython_shell()).__name__ == "ZMQInteractiveShell"
