"""A job's error as the original library has it: a `RemoteException`, whose `error` is the text of the traceback.

The error's own type is what most programs catch, so the exception that `wait()` raises is both.
"""

from __future__ import annotations

from typing import Any

from cw.errors import RemoteException, RemoteTraceback


def traceback_of(error: BaseException) -> str:
    """Return the text of the remote traceback; without one, the error's type and text, after its last output."""
    cause, line = error.__cause__, f"{type(error).__name__}: {error}"
    if not isinstance(cause, RemoteTraceback):
        return line
    return str(cause.args[0]) if cause.where else f"{cause.args[0]}{line}"


def as_remote(error: BaseException) -> RemoteException:
    """Return the error as a RemoteException: of its own type, too, where such a type can be made."""
    found = with_both_types(error)
    if not isinstance(found, RemoteException):
        found = RemoteException(str(error), type(error).__qualname__, traceback_of(error))
        found.__cause__ = error
    return found


def with_both_types(error: BaseException) -> BaseException:
    """Return an equal error whose type is the error's own and RemoteException; the error itself if none can be made."""
    if isinstance(error, RemoteException) or not isinstance(error, Exception):
        return error
    kind = type(error)
    try:
        reduced: Any = error.__reduce_ex__(2)
        constructor, args, *state = reduced
        both: Any = type(kind.__name__, (kind, RemoteException), _names(error))(*args)
        both.args = error.args  # a constructor may have passed RemoteException's others
        if state and state[0]:
            both.__setstate__(state[0])
        if constructor is not kind or str(both) != str(error):
            return error
    except Exception:  # such as a type that cannot be subclassed: it was made for other purposes
        return error
    both.__cause__, both.__context__ = error.__cause__, error.__context__
    both.__suppress_context__ = error.__suppress_context__
    found: BaseException = both
    return found.with_traceback(error.__traceback__)


def _names(error: BaseException) -> dict[str, Any]:
    """Return the names of the class with both types: the error's own go before those of RemoteException."""
    kind = type(error)
    text = traceback_of(error)
    own = {
        name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__", "__init__", "__str__")
    }
    of_remote = {"error": text, "traceback": text, "type_name": kind.__qualname__}
    return {
        **own,
        **{name: value for name, value in of_remote.items() if not hasattr(kind, name)},
        "__reduce_ex__": lambda self, protocol: error.__reduce_ex__(
            protocol
        ),  # it travels as the error itself
    }
