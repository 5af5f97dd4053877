"""Error messages of `submit` about something that cannot be pickled."""

from __future__ import annotations

import pickle
from typing import Any

from cw.errors import NotPicklable
from cw.payloads import byvalue, pickling_errors


def refusal_of_function(function: Any, failure: byvalue.Unpicklable) -> NotPicklable:
    """Return the error for a function that cannot be pickled."""
    name = pickling_errors.function_name(function)
    text = refusal_of(f"function {name}", failure, [(name, function)])
    refusal = NotPicklable(f"{text}. Make it in the job, or give what is needed of it as an argument")
    refusal.__cause__ = failure.__cause__
    return refusal


def refusal_of(what: str, failure: byvalue.Unpicklable, roots: list[tuple[str, Any]]) -> str:
    return _refusal_text(what, failure, roots, pickling_errors.find_path(failure.offender, roots))


def _refusal_text(
    what: str, failure: byvalue.Unpicklable, roots: list[tuple[str, Any]], path: str | None
) -> str:
    cause = failure.__cause__
    text = str(cause)
    if isinstance(cause, MemoryError):
        return f"{what}: not enough memory to pickle it"
    if isinstance(cause.__cause__ if cause else None, RecursionError):
        return f"{what}: nested too deeply to be pickled"
    if not isinstance(cause, (TypeError, pickle.PicklingError)) or not text:
        text = f"{type(cause).__name__}: {text}"
    if path is None or path in [name for name, _ in roots]:
        return f"{what}: {text}"
    return f"{what}: {text}, found at {path}"


def refusal_of_call(
    failure: byvalue.Unpicklable, args: tuple[Any, ...], kwargs: dict[str, Any], function: Any
) -> str:
    roots = [(f"args[{i}]", value) for i, value in enumerate(args)]
    roots += [(f"kwargs[{name!r}]", value) for name, value in kwargs.items()]
    path = pickling_errors.find_path(failure.offender, roots)
    what = "an argument"
    for i, (root, _) in enumerate(roots):
        if path is not None and root in path:
            is_positional = i < len(args)
            what = pickling_errors.argument_name(function, i) if is_positional else f"argument {root[7:-1]}"
            break
    if function is not None:
        what += f" of {pickling_errors.function_name(function)}()"
    return _refusal_text(what, failure, roots, path)
