"""Pickling by value of what `functools.singledispatch` makes: it holds weak references, which cannot be pickled."""

from __future__ import annotations

import functools
from types import FunctionType
from typing import Any

_DISPATCHER_CODE = functools.singledispatch(len).__code__  # type: ignore[attr-defined]


def is_dispatcher(function: FunctionType) -> bool:
    """True for what `functools.singledispatch` makes."""
    return function.__code__ is _DISPATCHER_CODE


def parts_of_dispatcher(function: FunctionType) -> tuple[dict[type, Any], dict[str, Any]]:
    """Return its implementations by type, and the attributes that the user has given it."""
    made = ("register", "dispatch", "registry", "_clear_cache", "__wrapped__")
    attributes = {name: value for name, value in vars(function).items() if name not in made}
    return dict(function.registry), attributes  # type: ignore[attr-defined]


def reduce_dispatcher(function: FunctionType) -> Any:
    """Reduce a dispatcher for pickle."""
    return make_dispatcher, (function.__name__,), parts_of_dispatcher(function), None, None, fill_dispatcher


def make_dispatcher(name: str) -> Any:
    """Make, in a pickle, a dispatcher without its implementations."""

    def function(*args: Any) -> Any: ...

    function.__name__ = name
    return functools.singledispatch(function)


def fill_dispatcher(dispatcher: Any, state: tuple[dict[type, Any], dict[str, Any]]) -> None:
    """Give a dispatcher, in a pickle, what `parts_of_dispatcher` returned."""
    registry, attributes = state
    for cls, implementation in registry.items():
        dispatcher.register(cls, implementation)
    functools.update_wrapper(dispatcher, registry[object])
    vars(dispatcher).update(attributes)


def make_dispatching_method(dispatcher: Any) -> Any:
    """Make, in a pickle, a `singledispatchmethod`."""
    method = functools.singledispatchmethod(dispatcher.registry[object])
    method.dispatcher = dispatcher
    return method
