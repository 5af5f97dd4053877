"""A function with an initializer, which runs once in each runner before its first call. Small, as runners import it.

    client   Initialized(token, function, initializer, initargs)      runner   initialize, once --> function(*args)

The arguments of the initializer are pickled once, and each runner unpickles them once: they may be large.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

from cw.errors import InitializerFailed
from cw.payloads import serialize

_failures: dict[str, str | None] = {}
"""How each initializer that has run in this process failed, or None; by token."""


class Arguments:
    """Pickled arguments. (They travel as a buffer, which a runner maps and does not copy for each call.)"""

    __slots__ = ("_payload",)

    def __init__(self, payload: Any) -> None:
        self._payload = payload

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Arguments, (pickle.PickleBuffer(self._payload),)

    def load(self) -> tuple[Any, ...]:
        """Unpickle them."""
        args: tuple[Any, ...] = serialize.load_call(self._payload)[0]
        return args


class Initialized:
    """A function before whose first call in a runner `initializer(*initargs)` runs. `token`: the same for all functions
    with this initializer. `initargs`: from `prepare_arguments`. `reader`: a function that reads the global names which
    the initializer stores, if any."""

    def __init__(
        self,
        token: str,
        function: Callable[..., Any],
        initializer: Callable[..., Any],
        initargs: Any,
        reader: Callable[[], Any] | None,
    ) -> None:
        self.__qualname__ = str(
            getattr(function, "__qualname__", type(function).__qualname__)
        )  # for messages
        self._token = token
        self._function = function
        self._initializer = initializer
        self._initargs = initargs
        self._reader = reader  # only so that it travels

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        token = self._token
        if token not in _failures:
            try:
                self._initialize()
            except Exception as error:
                name = getattr(self._initializer, "__qualname__", type(self._initializer).__qualname__)
                where = f"on host {os.uname().nodename}, in process {os.getpid()}"
                _failures[token] = text = f"the initializer {name} failed {where}: {error!r}"
                raise InitializerFailed(text) from error
            _failures[token] = None
        failure = _failures[token]
        if failure is not None:
            raise InitializerFailed(failure)
        return self._function(*args, **kwargs)

    def _initialize(self) -> None:
        initargs = self._initargs
        self._initializer(*(initargs.load() if type(initargs) is Arguments else initargs))


def prepare_arguments(initargs: tuple[Any, ...]) -> Any:
    """Return the arguments of an initializer as they travel. Raises NotPicklable."""
    pickled = serialize.pickle_call(initargs, {})
    # (Some need definitions of the script, which travel with the function.)
    return initargs if pickled.names or pickled.codes else Arguments(pickled.payload())
