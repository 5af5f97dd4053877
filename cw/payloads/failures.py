"""Errors that jobs raise, and their payloads, with the traceback as text.

exception -- dump_error --> load_error --> the exception, of its own type, the text as its `__cause__`
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from pickle import dumps, loads
from types import MethodDescriptorType, WrapperDescriptorType
from typing import Any

from cw.errors import RemoteException, RemoteTraceback
from cw.payloads import byvalue, classes, deferred, shared
from cw.payloads.layout import Payload
from cw.payloads.pickled import PLAIN, dump_value, load
from cw.payloads.refusals import refusal_of
from cw.payloads.sources import with_sources

# Longer tracebacks lose their middle: an exception may carry its data in its text.
TRACEBACK_CHARACTERS = 256 * 1024

_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep  # all of cw


def dump_error(exception: BaseException, where: dict[str, Any]) -> bytes:
    """Pickle what a job raised, for `load_error`: with its traceback, without cw's own frames.

    `where` describes the place ('host', 'pid', ...). Never raises, and keeps nothing of the exception alive.
    """
    type_name = _type_name(type(exception))
    if shared.is_in_job:
        shared.explain(exception)
    try:
        text = _traceback_text(exception)
    except Exception as error:
        text = f"{type_name}: {_text(exception)}\n(its traceback cannot be shown: {_text(error)})\n"
    if isinstance(exception, ModuleNotFoundError):
        text += (
            f"({os.uname().nodename} has no such module for {sys.executable}: install it there, or have it in a "
            "directory of your program's sys.path that both machines see)\n"
        )
    pickled, reason = _dump_exception(exception)
    places = {str(key): value if type(value) in PLAIN else _text(value) for key, value in where.items()}
    return dumps((type_name, _text(exception), text, places, pickled, reason), 5)


def unreadable(describe: str, failure: BaseException) -> BaseException:
    """Return the error of a job whose result does not unpickle here."""
    error = RemoteException(
        f"the result of {describe} cannot be unpickled here: {type(failure).__name__}: {failure}"
    )
    error.__cause__ = failure
    return error


def forget_tracebacks(exception: BaseException) -> None:
    """Remove the tracebacks of an exception that has been pickled, and of its causes and contexts.

    Frames hold their functions' variables, often also the exception: such a circle, with all its data, would stay until
    the garbage collector runs.
    """
    waiting, seen = [exception], set()
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            BaseException.with_traceback(one, None)
            waiting += [other for other in (one.__cause__, one.__context__) if other is not None]
            with contextlib.suppress(Exception):  # the members of a group; or a user's attribute of that name
                waiting += [other for other in one.exceptions if isinstance(other, BaseException)]  # type: ignore[attr-defined]


def load_error(payload: Payload, describe: str) -> BaseException:
    """Return the exception, of its own type. The text of its `__cause__` is `describe` and the remote traceback.

    An exception that does not unpickle here becomes a `RemoteException`. Never raises.
    """
    try:
        type_name, message, text, where, pickled, reason = loads(payload)
        places = ", ".join(f"{key} {value}" for key, value in where.items())
        text = with_sources(f"{describe} ({places})\n{text}" if places else f"{describe}\n{text}")
    except Exception as error:
        return RemoteException(f"{describe}: its error cannot be read: {_text(error)}")
    exception = None
    if pickled:
        try:
            exception = deferred.apart(_load_exception, pickled)
        except BaseException as error:  # user code may also raise SystemExit
            reason = f"{_type_name(type(error))}: {_text(error)}"
    if exception is None:
        name_and_text = f"{type_name}: {message}" if message else type_name
        message = f"{name_and_text}  (the exception itself is not here: {reason})"
        exception = RemoteException(message, type_name, text)
    # Plain assignment does not work for exception classes that forbid it, such as frozen dataclasses.
    BaseException.__setattr__(exception, "__cause__", RemoteTraceback(text, where))
    return exception


def load_what_errors_take() -> None:
    """Import all that `traceback` needs to show errors: later, `sys.path` is the user's, and may contain a `codeop.py`.

    These modules differ between versions of Python and between errors, so one error of each kind is shown here.
    """
    for text in "1 +", "whlie True:", "import no_such_module", "from os import pathh", "os.pathh", "oss":
        try:
            exec(text, {"os": os})  # noqa: S102
        except Exception as error:
            dump_error(error, {})
            traceback.format_exc()  # (the other leaves out frames of ours, and may show none)


def _dump_exception(exception: BaseException) -> tuple[bytes, str]:
    """Return the exception's pickle, in the form that restores it with the same text; or b"" and the reason.

    Pickle makes an exception by calling its class with `args`. Many classes have a constructor that takes other
    arguments: the call fails, or produces another text. So we try it here, and send the parts if it goes wrong.
    """
    usable, reason = b"", ""
    for form in (lambda: exception, lambda: _built_in(type(exception), "__reduce__")(exception)):
        try:
            pickled = bytes(dump_value(form(), refer=classes.refer_home))
            again = _load_exception(pickled)
            if type(again) is type(exception) and str(again) == str(exception):
                return pickled, ""
            usable = usable or pickled
        except byvalue.Unpicklable as failure:
            reason = reason or refusal_of("the exception", failure, [("exception", exception)])
        except BaseException as error:  # user code may also raise SystemExit
            reason = reason or f"{_type_name(type(error))}: {_text(error)}"
    return usable, reason


def _load_exception(pickled: bytes) -> BaseException:
    found = load(pickled)
    exception = _from_parts(*found) if type(found) is tuple else found
    if not isinstance(exception, BaseException):
        raise TypeError(f"it unpickles as a {type(exception).__name__}")
    return exception


def _from_parts(cls: type[BaseException], args: tuple[Any, ...], attributes: Any = None) -> BaseException:
    """Make an exception as if only the built-in part of its constructor had run, then set its attributes."""
    exception = cls.__new__(cls, *args)
    _built_in(cls, "__init__")(exception, *args)
    for name, value in (attributes or {}).items():
        BaseException.__setattr__(exception, name, value)
    return exception


def _built_in(cls: type, name: str) -> Callable[..., Any]:
    """Find the first method of this name, along the class's bases, that is not written in Python."""
    kinds = WrapperDescriptorType, MethodDescriptorType
    return next(method for c in cls.__mro__ if isinstance(method := vars(c).get(name), kinds))


def _traceback_text(exception: BaseException) -> str:
    shown = traceback.TracebackException(type(exception), exception, exception.__traceback__, compact=True)
    waiting: list[traceback.TracebackException | None] = [shown]
    while waiting:
        if (one := waiting.pop()) is not None:
            one.stack[:] = [frame for frame in one.stack if not frame.filename.startswith(_PACKAGE)]
            waiting += [one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ())]
    text = "".join(shown.format())
    if len(text) > TRACEBACK_CHARACTERS:
        half = TRACEBACK_CHARACTERS // 2
        text = f"{text[:half]}\n  [{len(text) - 2 * half} characters left out]\n{text[-half:]}"
    return text


def _type_name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _text(thing: Any) -> str:
    """Return `str(thing)`, also if that raises or is very long."""
    try:
        return str(thing)[:TRACEBACK_CHARACTERS]
    except Exception:
        return f"<{type(thing).__name__} whose str() fails>"
