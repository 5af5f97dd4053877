"""What of the client's surroundings its jobs find in the runner: working directory, `sys.path`, variables it has set.

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
installation is not on this machine. The script itself is not run, and `sys.argv` stays behind.

Of `os.environ` travels what the program has set or deleted itself since it was started, as a pool's workers inherit it.
What it was started with describes its own machine and stays behind.

Nothing is pickled: any process may read an environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

from cw.errors import EnvironmentMismatch, Error, PayloadError
from cw.payloads import modules


@dataclass(frozen=True)
class Environment:
    """A client's surroundings. In `path`, None stands for the standard library."""

    directory: str
    path: tuple[str | None, ...]
    python: str  # '3.11.7'
    cloudpickle: str
    script: str  # for messages; '' where there is none
    variables: dict[str, str | None] = field(default_factory=dict)  # that the program has set; None: deleted
    files: dict[str, list[Any]] = field(default_factory=dict)  # see modules.files_of_modules


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
    return json.dumps([*fields, {"variables": variables_set(), "files": modules.files_of_modules()}]).encode()


def load_environment(payload: bytes | bytearray | memoryview) -> Environment:
    """The environment of a payload. Raises `PayloadError`."""
    try:
        directory, path, python, cloudpickle_version, script, more = json.loads(bytes(payload))
        variables, files = dict(more["variables"]), dict(more["files"])
        return Environment(directory, tuple(path), python, cloudpickle_version, script, variables, files)
    except (ValueError, TypeError, KeyError) as error:
        raise PayloadError(f"the payload is not that of an environment: {error}") from None


def apply_environment(environment: Environment) -> None:
    """Make this process work where the client does. Not thread-safe.

    All that cw needs must be imported by now: from here on, `import signal` may find a file of the user's.
    Raises `EnvironmentMismatch`, naming directory and machine; `sys.path` is set nevertheless.
    """
    apply_variables(environment.variables)
    modules.expect_files(environment.files)
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


# --- variables ---

_NOT_TAKEN = {
    # On which devices a process runs is said by its worker. Here it is the client's place.
    "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK",
    # Read when an interpreter starts: a runner's has started.
    "PYTHONHASHSEED",
    # A shell's own affairs.
    "_", "PWD", "OLDPWD", "SHLVL",
}  # fmt: skip
_NOT_TAKEN_PREFIXES = (
    # cw's own: addresses, the credential, how deep in clusters a process is.
    "CW_",
    # Where a process runs, as its batch system says it.
    "SLURM", "SBATCH_", "SRUN_", "PMI_", "PMIX_", "OMPI_", "FLUX_",
    # A notebook kernel's own: it ends when the process named there is not its parent.
    "JPY_",
)  # fmt: skip
"""Variables, by name and by how their names begin, that are never taken along."""


def _is_taken(name: str, value: str | None) -> bool:
    # What a notebook draws with is the notebook itself.
    is_notebooks = name == "MPLBACKEND" and (value or "").startswith("module://")
    is_pythons = name == "LC_CTYPE" and value in (
        "C.UTF-8",
        "C.utf8",
        "UTF-8",
    )  # set where there is no locale
    return not (name in _NOT_TAKEN or name.startswith(_NOT_TAKEN_PREFIXES) or is_notebooks or is_pythons)


def variables_set() -> dict[str, str | None]:
    """The environment variables that this program has set (or deleted: None) itself since its start."""
    try:
        with open("/proc/self/environ", "rb") as file:
            text = file.read()
    except OSError:
        return {}
    entries = [entry.partition(b"=") for entry in text.split(b"\0") if b"=" in entry[1:]]
    initial = {os.fsdecode(name): os.fsdecode(value) for name, _, value in entries}
    now = dict(os.environ)
    # Some programs write their title over it (setproctitle): then nobody knows what was there.
    if text and not any(now.get(name) == value for name, value in initial.items()):
        return {}
    changed: dict[str, str | None] = {
        name: value for name, value in now.items() if initial.get(name) != value
    }
    changed |= dict.fromkeys(initial.keys() - now.keys())
    return {name: value for name, value in changed.items() if _is_taken(name, value)}


def apply_variables(variables: dict[str, str | None]) -> None:
    """Set and delete these environment variables."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if "TZ" in variables:
        time.tzset()


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
