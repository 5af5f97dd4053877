"""Every exception that a user of cw may catch.

    Exception
     '- Error                          all of cw's own
         |- ConnectionError            no way to the master               (also the built-in one, an OSError)
         |- ProtocolError              a peer violates the protocol
         |- WorkerLost                 a job took its runner or worker down too often (also BrokenExecutor)
         |- InitializerFailed          an initializer failed                          (also BrokenExecutor)
         |- DependencyFailed           a call was not run: one that it depends on failed
         |- JobTimeout                 a job ran longer than its limit      (also TimeoutError)
         |- MemoryExceeded             a job used more memory than its limit  (also MemoryError)
         |- NotPicklable               an argument, function or result cannot travel  (also PicklingError, TypeError)
         |- PayloadError               bytes that cw has not packed                   (also ValueError)
         |- EnvironmentMismatch        a machine lacks, say, the client's working directory
         |- UnstableKey                a call cannot be recognised in a later run     (also TypeError)
         |- StartRefused               an import would start a cluster or a client    (also RuntimeError)
         |- StoreError                 a store cannot be opened, read or written      (also OSError)
         |- DetachError                a run cannot be handed over, or its folder is damaged (also RuntimeError)
         |- Detached                   a call was handed over: its result is to be had later
         |- RemoteException            stands for a job's exception that does not survive pickling
         '- RemoteTraceback            `__cause__` of a job's exception: the traceback in the runner

Warnings are not errors: `UnseenChanges` and `SharedRandomState` are a `UserWarning`. Errors of one subject are with it:
`cw.credential`, `cw.net.address`, `cw.userdir`, `cw.launch.launcher`; `cw` has all their names.

They travel between processes, so each one survives pickling: `args` holds the constructor's arguments.
This is the ground floor: it imports no module of cw.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from concurrent.futures import BrokenExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pickle import PicklingError


class Error(Exception):
    """Base class of all exceptions that cw itself raises."""


class ConnectionError(Error, builtins.ConnectionError):
    """The client cannot reach the master, or has lost it for good. An `OSError` too."""


class ProtocolError(Error):
    """A peer sent a message that the protocol does not allow; its connection is closed."""


class _NotPicklable(Error, TypeError):
    """A function, an argument or a result cannot be pickled.

    The text names the object at fault and its place, as far as these were found. A `TypeError` too, and a
    `pickle.PicklingError`.
    """


if TYPE_CHECKING:

    class NotPicklable(_NotPicklable, PicklingError):
        """A function, an argument or a result cannot be pickled."""


def __getattr__(name: str) -> Any:
    """Make `NotPicklable` when it is first used: its base is in `pickle`, which a master must not load."""
    if name != "NotPicklable":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pickle import PicklingError

    about = {"__module__": __name__, "__doc__": _NotPicklable.__doc__}
    return globals().setdefault(name, type(name, (_NotPicklable, PicklingError), about))


class UnseenChanges(UserWarning):
    """A value that calls read is too large to be checked before each `submit`: changes in place may be seen late."""


class PayloadError(Error, ValueError):
    """A payload that cw has not packed so: it is cut short, or its sizes contradict each other."""


class EnvironmentMismatch(Error):
    """A machine lacks a part of the client's environment, such as its working directory."""


class UnstableKey(Error, TypeError):
    """A call's result should be stored, but the call has no form by which a later run could recognise it.

    The text names the argument. `options(key=...)` gives the call your own key. A `TypeError` too.
    """


class SharedValueReleased(Error, ValueError):
    """A value of `cw.share` is used after its `release()`, or after its `with` block. A `ValueError` too."""


class StartRefused(Error, RuntimeError):
    """A cluster or a client would be started while a job's process imports a module, which would go on without end.

    The text shows how to protect the module. A `RuntimeError` too, like multiprocessing's in the same case.
    """


class StoreError(Error, OSError):
    """A store cannot be opened, read or written; its results are unchanged. An `OSError` too."""


class DetachError(Error, RuntimeError):
    """A run cannot go on without its script, or its folder is damaged. What was computed is in the store.

    If a script cannot hand its run over, it keeps it. A `RuntimeError` too.
    """


class Detached(Error):
    """A call whose result is asked for goes on without this program; the text says how to come back to it."""


class JobTimeout(Error, TimeoutError):
    """A job ran longer than its time limit and was stopped. A `TimeoutError` too."""


class MemoryExceeded(Error, MemoryError):
    """A job used more memory than its options name, on a worker with `--enforce-memory`, and was stopped. It is not
    tried again. A `MemoryError` too.

    `limit` and `peak`: what the options name, and what the job had when it was stopped (bytes).
    """

    def __init__(self, message: str = "", limit: int = 0, peak: int = 0) -> None:
        super().__init__(message, limit, peak)

    @property
    def limit(self) -> int:
        return int(self.args[1])

    @property
    def peak(self) -> int:
        return int(self.args[2])

    def __str__(self) -> str:
        return str(self.args[0])


class JobStopped(Error):
    """Somebody who looks at the cluster has stopped the job, as with `cw top`. It is not tried again."""


class InitializerFailed(Error, BrokenExecutor):
    """An initializer failed in the process in which a job should run. A `BrokenExecutor` too."""


class WorkerLost(Error, BrokenExecutor):
    """A job was started as often as allowed and took its runner or worker down each time. A `BrokenExecutor` too.

    `attempts` is a list of dicts, oldest first. Their keys, as far as known: 'host', 'worker', 'slot', 'pid', 'how'
    (how it ended), 'seconds' (time that it ran) and 'stderr' (the end of its stderr).
    """

    def __init__(self, message: str, attempts: Iterable[dict[str, Any]] = ()) -> None:
        super().__init__(message, list(attempts))

    @property
    def attempts(self) -> list[dict[str, Any]]:
        attempts: list[dict[str, Any]] = self.args[1]
        return attempts

    def __str__(self) -> str:
        lines = [str(self.args[0])]
        lines += [f"  attempt {n}: {_attempt_text(note)}" for n, note in enumerate(self.attempts, 1)]
        return "\n".join(lines)


class DependencyFailed(Error):
    """A call was not run: a future among its arguments failed. Its `__cause__` is that error; in a chain of calls, the
    error with which it began.

    `origin` names the call that failed.
    """

    def __init__(self, message: str, origin: str = "") -> None:
        super().__init__(message, origin)

    @property
    def origin(self) -> str:
        return str(self.args[1])

    def __str__(self) -> str:
        return str(self.args[0])


class RemoteException(Error):
    """Stands for a job's exception that could not be pickled, or not unpickled here.

    `type_name` is the name of the exception's own type, `traceback` (and `error`) the text of the remote traceback.
    """

    def __init__(self, message: str = "", type_name: str = "", traceback: str = "") -> None:
        super().__init__(message, type_name, traceback)

    @property
    def type_name(self) -> str:
        return str(self.args[1])

    @property
    def traceback(self) -> str:
        return str(self.args[2])

    @property
    def error(self) -> str:
        """The text of the traceback, under its name in the original library."""
        return self.traceback or str(self)

    def __str__(self) -> str:
        return str(self.args[0])


class RemoteTraceback(Error):
    """The `__cause__` of a job's exception: its text is the traceback in the runner.

    `where` is a dict that describes the place, as far as known ('host', 'pid', ...).
    """

    def __init__(self, text: str, where: dict[str, Any] | None = None) -> None:
        super().__init__(text, where or {})

    @property
    def where(self) -> dict[str, Any]:
        where: dict[str, Any] = self.args[1]
        return where

    def __str__(self) -> str:
        # The form of concurrent.futures: Python prints this above "The above exception was the direct cause".
        return f'\n"""\n{self.args[0]}"""'


class SharedRandomState(UserWarning):
    """A random generator travels with a function: all its jobs, or all runners, would draw the same numbers.

    The text names the variable. `cw.current_job().seed` is a different seed for each call.
    """


# Characters of stderr for each attempt, which has one line of a message: more would bury the other attempts.
_STDERR_CHARACTERS = 200


def _attempt_text(note: dict[str, Any]) -> str:
    """Describe one attempt of a `WorkerLost` on one line; any of its keys may be missing."""
    known = [key for key in ("host", "worker", "slot", "pid") if note.get(key) is not None]
    place = ", ".join(f"{key} {note[key]}" for key in known)
    text = f"{place or 'place unknown'}: {note.get('how') or 'lost'}"
    if note.get("seconds") is not None:
        text += f" after {note['seconds']:.3g} s"
    last_words = _last_words(str(note.get("stderr") or ""))
    if last_words:
        text += f"; its stderr ends with {last_words!r}"
    return text


def _last_words(stderr: str) -> str:
    """Return the last line; for a trace by faulthandler, the error and its place."""
    lines = [line.strip() for line in stderr.split("\n") if line.strip()]
    fatal = [number for number, line in enumerate(lines) if line.startswith("Fatal Python error")]
    if fatal:
        lines = lines[fatal[-1] :]
        places = [line for line in lines if line.startswith("File ")]
        return f"{lines[0]}, in {places[0]}"[:_STDERR_CHARACTERS] if places else lines[0][:_STDERR_CHARACTERS]
    return lines[-1][-_STDERR_CHARACTERS:] if lines else ""
