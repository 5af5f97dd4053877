"""The initializer of a session, which runs once in each runner before its first job. Small, as runners import it.

client   Initialization(function, reader): the function of one more call, which all functions name as theirs
runner   before its first job: that call is prepared as others are, then `Once.run`
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

from cw.errors import InitializerFailed
from cw.payloads.code_names import stored_names


class Initialization:
    """An initializer as it travels. `reader`: see `reader_of`; it is here only so that it travels."""

    def __init__(self, function: Callable[..., Any], reader: Callable[[], Any] | None) -> None:
        self.__qualname__ = str(getattr(function, "__qualname__", type(function).__qualname__))
        self._function = function
        self._reader = reader

    def __call__(self, *args: Any) -> None:
        self._function(*args)


def reader_of(initializer: Callable[..., Any]) -> Callable[[], Any] | None:
    """Return a function that reads the global names which the initializer stores, or None.

    It travels with the initializer, so that this program's values of these names arrive before the initializer runs.
    With the first function that reads them, they would come later, and replace what it has stored."""
    while isinstance(initializer, partial):
        initializer = initializer.func
    stored = stored_names(initializer) if type(initializer) is FunctionType else set()
    if not stored:
        return None
    code = f"lambda: ({', '.join(sorted(stored))},)"
    reader: Callable[[], Any] = eval(code, initializer.__globals__)  # noqa: S307
    return reader


class Once:
    """Runs the initializer of a runner."""

    def __init__(self) -> None:
        self.has_run = False
        self._failure: tuple[str, BaseException] | None = None

    def run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Run it; `check` raises if it fails."""
        self.has_run = True
        try:
            function(*args)
        except (Exception, SystemExit) as error:
            name = getattr(function, "__qualname__", type(function).__qualname__)
            where = f"on host {os.uname().nodename}, in process {os.getpid()}"
            self._failure = f"the initializer {name} failed {where}: {error!r}", error

    def check(self) -> None:
        """Raise InitializerFailed, which says where, if it has failed."""
        if self._failure is not None:
            text, error = self._failure
            raise InitializerFailed(text) from error
