"""Results as a table, with a column for each argument, and for each field of a result that has fields.

simulate(0.5, seed=3) -> {"steps": 7}     key jobid function failed | density seed | value.steps | error when ...
"""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from cw.store import rows
from cw.store.result import Result

MOST_FIELDS = 100
"""Number of entries up to which a dict is taken for a record with fields. Larger: a dict of data becomes thousands of
columns. Smaller: records stay in one column."""

_BEFORE = ("key", "jobid", "function", "failed")
_AFTER = ("error", "when", "seconds", "host", "cpu_seconds", "peak_memory")

Load = Callable[[Callable[[], Any]], Any]
"""Type of what loads a value, or returns None if that fails."""


def of_results(results: Iterable[Result], tried: Load) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the columns, and the rows: values by column."""
    arguments: dict[str, None] = {}  # columns, in the order in which they come up
    values: dict[str, None] = {}
    signatures: dict[str, inspect.Signature | None] = {}
    found = []
    for result in results:
        row = {name: getattr(result, name) for name in (*_BEFORE, "when", "seconds", "host")}
        row |= rows.of_usage(result.usage)
        if (args := tried(partial(getattr, result, "args"))) is not None:
            if result.function not in signatures:
                signatures[result.function] = _signature_of(result.function)
            own = _columns_of(_named(signatures[result.function], args, result.kwargs))
            arguments |= dict.fromkeys(own)
            row |= own
        if result.failed:
            row["error"] = tried(partial(getattr, result, "error"))
        else:
            own = _fields("value", tried(partial(getattr, result, "value")))
            values |= dict.fromkeys(own)
            row |= own
        found.append(row)
    return [*_BEFORE, *arguments, *(values or ("value",)), *_AFTER], found


def text(value: Any) -> str:
    """Return a value of a row as a text for CSV."""
    if value is None:
        return ""
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return str(
        rows.tried(lambda: rows.error_text(value) if isinstance(value, BaseException) else rows.text(value))
    )


def _signature_of(function: str) -> inspect.Signature | None:
    """Return the signature of the program's function of this name, or None. (Of a method, the object is unknown.)"""
    try:
        return inspect.signature(getattr(sys.modules["__main__"], function))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _named(
    signature: inspect.Signature | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return a call's arguments by name."""
    try:
        bound = None if signature is None else signature.bind(*args, **kwargs).arguments
    except TypeError:  # another function, or an earlier form of it
        bound = None
    if signature is None or bound is None:
        return {f"arg{number}": value for number, value in enumerate(args)} | kwargs
    named: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named |= {f"{name}{number}": item for number, item in enumerate(value)}
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return named


def _columns_of(named: dict[str, Any]) -> dict[str, Any]:
    """Return the values by column. A name that another column has is put behind 'args.'."""
    columns: dict[str, Any] = {}
    for name, value in named.items():
        is_taken = name in (*_BEFORE, "value", *_AFTER)
        columns |= _fields(f"args.{name}" if is_taken else name, value)
    return columns


def _fields(name: str, value: Any) -> dict[str, Any]:
    """Return the fields of a value by column, if it has some; otherwise the value."""
    fields: dict[str, Any] = {}
    if isinstance(value, dict) and all(type(each) is str for each in value):
        fields = value
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        fields = value._asdict()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if not 0 < len(fields) <= MOST_FIELDS:
        return {name: value}
    return {f"{name}.{each}": item for each, item in fields.items()}
