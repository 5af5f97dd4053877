"""What of the client's surroundings its jobs find in the runner: working directory and `sys.path`.

      client's sys.path                       runner's sys.path
    +---------------------+                 +---------------------+
    | the script's folder | --------------> | the script's folder |
    | PYTHONPATH ...      | --------------> | PYTHONPATH ...      |
    | standard library    |                 | standard library    | <-- the runner's own
    | site-packages       | --------------> | site-packages       |
    +---------------------+                 | whatever else the   |
                                            | runner itself has   | <-- cw, the runner's site-packages
                                            +---------------------+

The order is the client's, so that the same module is found as at home. The standard library is the runner's
own, since it must fit the interpreter; and what the runner has stays at the end, for a client whose
installation is not on this machine. The script itself is not run, and `os.environ`, `sys.argv` and modules'
global state stay behind.

Nothing is pickled: any process may read an environment.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import Any

import cloudpickle

from cw.errors import EnvironmentMismatch, Error, PayloadError


@dataclass(frozen=True)
class Environment:
    """A client's surroundings. In `path`, None stands for the standard library."""

    directory: str
    path: tuple[str | None, ...]
    python: str  # '3.11.7'
    cloudpickle: str
    script: str  # for messages; '' where there is none


def dump_environment() -> bytes:
    """This process's environment, as it is now. Raises `Error` if the working directory has been deleted."""
    try:
        directory = os.getcwd()
    except OSError as error:
        raise Error(f"the working directory is gone ({error.strerror}); change to one that exists") from error
    path: list[str | None] = []
    for entry in sys.path:
        if not isinstance(entry, str):  # the import system passes over it too
            continue
        # ('' is the directory in which Python looks at the time.)
        place = None if _is_standard_library(entry) else os.path.join(directory, entry).rstrip("/") or "/"
        if place not in path:
            path.append(place)
    script = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    fields = [directory, path, ".".join(map(str, sys.version_info[:3])), cloudpickle.__version__, script]
    return json.dumps(fields).encode()


def load_environment(payload: bytes | bytearray | memoryview) -> Environment:
    """The environment of a payload. Raises `PayloadError`."""
    try:
        directory, path, python, cloudpickle_version, script = json.loads(bytes(payload))
        return Environment(directory, tuple(path), python, cloudpickle_version, script)
    except (ValueError, TypeError) as error:
        raise PayloadError(f"the payload is not that of an environment: {error}") from None


def apply_environment(environment: Environment) -> None:
    """Make this process work where the client does. Not thread-safe.

    All that cw needs must be imported by now: from here on, `import signal` may find a file of the user's.
    Raises `EnvironmentMismatch`, naming directory and machine; `sys.path` is set nevertheless.
    """
    own = list(sys.path)
    path: list[str] = []
    for entry in environment.path:
        path += [entry] if entry is not None else filter(_is_standard_library, own)
    path += own
    sys.path[:] = dict.fromkeys(path)
    # What importlib.invalidate_caches() is for, which in Python 3.13 imports `email` and others on the way:
    # 30 ms, and perhaps the user's own `email.py`.
    sys.path_importer_cache.clear()
    try:
        os.chdir(environment.directory)
    except OSError as error:
        raise EnvironmentMismatch(
            f"the working directory {environment.directory!r} of the client's program cannot be entered on "
            f"{os.uname().nodename}: {error.strerror}"
        ) from error


jobs_begun = 0
"""Of this process, if it is a runner."""


def ipython_shell() -> Any:
    """IPython's shell (a notebook's kernel has one, too) in which what this process runs is typed, or None."""
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()


_STANDARD_LIBRARY = os.path.dirname(os.__file__)


def _is_standard_library(entry: str) -> bool:
    name = os.path.basename(entry)
    is_zip = name.startswith("python") and name.endswith(".zip")
    return entry == _STANDARD_LIBRARY or name == "lib-dynload" or is_zip
