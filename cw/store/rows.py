"""Rows of a table of results: their fields as values, as texts for a list or CSV, and as JSON has them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from cw.payloads.job_usage import Usage
from cw.store.result import Result

LINE = 200
"""Maximum number of characters of arguments, and of a result, in a list."""

COLUMNS = [
    "key", "jobid", "function", "failed", "args", "kwargs", "value", "error", "when", "seconds", "host",
    "cpu_seconds", "peak_memory",
]  # fmt: skip


def row(
    result: Result,
    tried: Callable[[Callable[[], Any]], Any],
    form: Callable[[Any], Any] = lambda value: value,
    error_form: Callable[[Any], Any] = lambda error: error,
    nothing: Any = None,
) -> dict[str, Any]:
    """Return a result's values by column, in these forms. `tried`: loads a value, or returns a substitute if that
    fails. `nothing`: the value of a call that failed, and the error of one that did not."""
    return {
        "key": result.key,
        "jobid": result.jobid,
        "function": result.function,
        "failed": result.failed,
        "args": tried(lambda: form(result.args)),
        "kwargs": tried(lambda: form(result.kwargs)),
        "value": nothing if result.failed else tried(lambda: form(result.value)),
        "error": tried(lambda: error_form(result.error)) if result.failed else nothing,
        "when": result.when,
        "seconds": result.seconds,
        "host": result.host,
        **of_usage(result.usage),
    }


def of_usage(usage: Usage | None) -> dict[str, Any]:
    """Return what a call has used, by column."""
    return {"cpu_seconds": usage and usage.cpu_seconds, "peak_memory": usage and usage.peak_memory}


def line(result: Result) -> str:
    """Return a line about a result for a list."""
    shown = texts(result, text, "")
    outcome = _in_line(shown["error"] if result.failed else shown["value"])
    state = "failed" if result.failed else "done"
    call = f"{result.function}({_in_line(tried(lambda: arguments(result)))})"
    return (
        f"{shown['when'][:19]}  {state:6}  {result.seconds:9.3f} s  {result.host or '?'}  {call} -> {outcome}"
    )


def arguments(result: Result) -> str:
    """Return a call's arguments as they stand in a line of code. Raises what unpickling them raises."""
    return ", ".join(
        [*map(repr, result.args), *(f"{name}={value!r}" for name, value in result.kwargs.items())]
    )


def _in_line(text: str) -> str:
    """Shorten a text for a line with others."""
    text = text.replace("\n", "\\n").replace("\r", "\\r")
    return text if len(text) <= LINE else f"{text[: LINE // 2]} ... {text[-LINE // 2 :]}"


def texts(result: Result, form: Callable[[Any], Any], nothing: Any) -> dict[str, Any]:
    """Return a row with each value as text; a value that cannot be loaded here says why."""
    found = row(result, tried, form, error_text, nothing)
    return found | {"when": result.when.isoformat(), "seconds": round(result.seconds, 6)}


def tried(load: Callable[[], Any]) -> Any:
    """Return a loaded value, or a text that says why it cannot be loaded."""
    try:
        return load()
    except Exception as error:
        return f"({type(error).__name__}: {error})"


def error_text(error: BaseException | None) -> str:
    """Return an error as a text for one line."""
    return f"{type(error).__name__}: {error}"


def text(value: Any) -> str:
    """Return a value as a text for a list or CSV."""
    value = _without_numpy(value)
    return value if isinstance(value, str) else repr(value)


def plain(value: Any) -> Any:
    """Return a value that JSON can represent (tuples become lists); otherwise a text."""
    try:
        found = _jsonable(value)
        json.dumps(found)
    except (TypeError, ValueError, RecursionError):
        return repr(value)
    return found


def _jsonable(value: Any) -> Any:
    """Return a value in JSON's types. Raises TypeError."""
    value = _without_numpy(value)
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: _jsonable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if (
        value is None
        or isinstance(value, (bool, int, str))
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    raise TypeError


def _without_numpy(value: Any) -> Any:
    """Return a numpy scalar as Python's own, a time as text."""
    names = {cls.__name__ for cls in type(value).__mro__ if cls.__module__ == "numpy"}
    if "generic" not in names:
        return value
    if names & {"datetime64", "timedelta64"}:
        return str(value)
    return (
        float(str(value)) if "floating" in names else value.item()
    )  # (float32: only the digits that it has)
